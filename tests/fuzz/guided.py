"""
Fuzz one target guided by coverage: `python -m tests.fuzz.guided TARGET CORPUS [libFuzzer options]`.

A process of its own for each target, since libFuzzer ends the process when its time is up.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # an extra of `make fuzz`, not of every developer

with atheris.instrument_imports(include=["adapters", "domain"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run until the time that the options give is over, or a promise is broken."""
    target = TARGETS[sys.argv[1]]

    def one_input(data: bytes) -> None:
        target(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
