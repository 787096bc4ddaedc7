"""The settings table of the README, made from the settings: `python -m tests.architecture.readme` writes it."""

from pathlib import Path

from adapters.entrypoints.settings import option_name, rules

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"


def settings_table() -> str:
    """Return the table of every setting."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for name, rule in rules().items():
        default = f"`{rule.shown}`" if rule.shown else ("required" if rule.required else "")
        meaning = f"{rule.help} Only for the profile aws." if rule.aws else rule.help
        rows.append(f"| `{option_name(name)}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def with_table(text: str) -> str:
    """Return the README's text with the present table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{settings_table()}{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
