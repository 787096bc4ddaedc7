"""The numbers as tables for people and as JSON for programs, with what issue and docs promise beside them."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

from tests.benchmarks.throughput import (
    CELLS,
    DCMTK,
    DCMTK_TUNED,
    IMPORTING,
    ORTHANC,
    ORTHANC_TUNED,
    OURS,
    PYNETDICOM,
    Throughput,
)

_TITLES = {
    "ct-1": "1 association, 525 KB",
    "small-1": "1 association, 9 KB",
    "ct-8": "8 associations, 525 KB",
    "small-8": "8 associations, 9 KB",
    "ct-long": "1 association, 630 MB",
}


@attrs.frozen(kw_only=True)
class Goal:
    """A ratio to reach; None is reported only."""

    cell: str
    against: str
    at_least: float | None = None


GOALS = (
    Goal(cell="ct-1", against=DCMTK_TUNED, at_least=0.75),
    Goal(cell="small-1", against=DCMTK_TUNED, at_least=0.4),
    Goal(cell="ct-1", against=ORTHANC_TUNED, at_least=1.5),
    Goal(cell="small-1", against=ORTHANC_TUNED, at_least=1.3),
    Goal(cell="small-1", against=DCMTK, at_least=60),
    Goal(cell="small-1", against=ORTHANC, at_least=60),
    Goal(cell="ct-8", against=PYNETDICOM, at_least=4),
    Goal(cell="ct-8", against=DCMTK_TUNED),
    Goal(cell="ct-8", against=ORTHANC_TUNED),
    Goal(cell="small-8", against=DCMTK_TUNED),
    Goal(cell="small-8", against=ORTHANC_TUNED),
    Goal(cell="ct-long", against=DCMTK_TUNED),
    Goal(cell="ct-long", against=ORTHANC_TUNED),
    Goal(cell="ct-1", against=IMPORTING),
    Goal(cell="ct-8", against=IMPORTING),
)


def goals(throughput: Throughput) -> list[dict[str, Any]]:
    """Compare what was measured with the goals."""
    rows = []
    for goal in GOALS:
        ratio = throughput.ratio(goal.cell, OURS, goal.against)
        if ratio is not None:
            is_met = None if goal.at_least is None else ratio >= goal.at_least
            rows.append({**attrs.asdict(goal), "ratio": ratio, "is_met": is_met})
    return rows


def rates(throughput: Throughput) -> list[dict[str, Any]]:
    """Return every median rate."""
    rows = []
    for (cell, contestant), measured in throughput.rates.items():
        kind = next(each.kind for each in CELLS if each.name == cell)
        median = throughput.median(cell, contestant) or 0.0
        rows.append(
            {
                "cell": cell,
                "receiver": contestant,
                "per_second": median,
                "mb_per_second": median * kind.pixel_bytes / 1e6,
                "cpu_ms": statistics.median(throughput.costs[cell, contestant]),
                "ours_against_it": throughput.ratio(cell, OURS, contestant),
                "rounds": measured,
            }
        )
    return rows


def print_throughput(console: Console, throughput: Throughput) -> None:
    """Print the rates, then the goals."""
    table = Table(title="Instances a second (median of the rounds)", title_justify="left")
    for heading in ("", "receiver", "instances/s", "MB/s", "lowest to highest", "CPU ms", "we are"):
        table.add_column(heading, justify="left" if heading in {"", "receiver"} else "right", no_wrap=True)
    before = ""
    for row in sorted(rates(throughput), key=lambda row: [cell.name for cell in CELLS].index(row["cell"])):
        ratio = row["ours_against_it"]
        table.add_row(
            _TITLES[row["cell"]] if row["cell"] != before else "",
            row["receiver"],
            f"{row['per_second']:,.0f}",
            f"{row['mb_per_second']:,.1f}",
            f"{min(row['rounds']):,.0f} to {max(row['rounds']):,.0f}",
            f"{row['cpu_ms']:.2f}",
            "" if row["receiver"] == OURS or ratio is None else f"{ratio:.2f}x",
        )
        before = row["cell"]
    console.print(table)
    console.print(_goal_table(throughput))


def print_checks(console: Console, title: str, facts: dict[str, float], checks: Sequence[Check]) -> None:
    """Print one of the other scenarios."""
    console.print(title, style="italic")
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}")
    for check in checks:
        table.add_row(check.text, _verdict(is_met=check.is_met(facts)))
    console.print(table)


@attrs.frozen(kw_only=True)
class Check:
    """A number of a scenario and its limit."""

    text: str
    field: str
    limit: float
    holds: Callable[[float, float], bool] = operator.lt

    def is_met(self, facts: dict[str, float]) -> bool:
        return self.holds(facts[self.field], self.limit)


def _goal_table(throughput: Throughput) -> Table:
    table = Table(title="Against the goals (medians of the ratios within each round)", title_justify="left")
    for heading in ("", "against", "ratio", "goal", "met"):
        table.add_column(heading, justify="right" if heading in {"ratio", "goal"} else "left", no_wrap=True)
    for row in goals(throughput):
        goal = row["at_least"]
        table.add_row(
            _TITLES[row["cell"]],
            row["against"],
            f"{row['ratio']:.2f}x",
            "reported" if goal is None else f"{goal:g}x",
            "" if goal is None else _verdict(is_met=row["is_met"]),
        )
    return table


def _verdict(*, is_met: bool) -> str:
    return "[green]yes[/]" if is_met else "[red]no[/]"
