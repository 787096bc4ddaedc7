"""
Measure the receiver, and other receivers in the same run: `python -m tests.benchmarks --help`.

Everything is on loopback, in a folder that is removed in the end.
"""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console

from tests.benchmarks import hospital_day, machine, report, s3_receive, scenarios
from tests.benchmarks.images import CT_SLICE, SMALL
from tests.benchmarks.throughput import CELLS, OURS, Throughput, contestants

_DISK_FOLDER = "/var/tmp"
_PAGE_COLUMNS = 120
_CALM_PERCENT = 90.0


@attrs.frozen(kw_only=True)
class Other:
    """A scenario beside the throughput."""

    title: str
    run: Callable[[Path], dict[str, float]]
    checks: tuple[report.Check, ...] = ()


OTHERS = {
    "latency": Other(
        title="C-STORE answer at 8 associations, 525 KB, from the last byte sent",
        run=lambda folder: scenarios.latency(folder, CT_SLICE),
    ),
    "latency-small": Other(
        title="C-STORE answer at 8 associations, 9 KB, from the last byte sent",
        run=lambda folder: scenarios.latency(folder, SMALL, 200),
    ),
    "many": Other(
        title="300 associations open at once, each storing 525 KB instances (memory: sum of PSS)",
        run=scenarios.many_associations,
        checks=(report.Check(text="below 400 MiB", field="highest_mib", limit=400),),
    ),
    "far": Other(
        title="1 association over a line of 60 ms each way, 525 KB, instances/s by asynchronous operations window",
        run=scenarios.long_line,
    ),
    "large": Other(
        title="One multi-frame instance of 2 GB (memory: resident)",
        run=scenarios.large_instance,
        checks=(report.Check(text="growth below 48 MiB", field="growth_mib", limit=48),),
    ),
    "s3": Other(title=s3_receive.TITLE, run=s3_receive.measure, checks=s3_receive.CHECKS),
    "day": Other(
        title="A simulated day of a large hospital: import jobs, seconds from received to imported",
        run=lambda _folder: hospital_day.figures(),
        checks=(
            report.Check(
                text="median at most 1 min and the job's 100 s",
                field="median_batches",
                limit=hospital_day.GOAL_SECONDS,
                holds=operator.le,
            ),
        ),
    ),
    "disk": Other(
        title="The disk alone: write, sync, rename, sync the folder, in ms",
        run=scenarios.disk_alone,
    ),
}
_NAMES = [*(cell.name for cell in CELLS), *OTHERS]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(_NAMES), metavar="[SCENARIO]...")
@click.option("--rounds", default=5, show_default=True, help="how often each receiver has its turn")
@click.option("--scale", default=1.0, show_default=True, help="multiplies how many instances are sent")
@click.option("--only", multiple=True, metavar="TEXT", help="receivers whose name holds TEXT, beside ours")
@click.option("--folder", default=_DISK_FOLDER, show_default=True, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def main(  # noqa: PLR0917 - click passes each by its name
    names: tuple[str, ...], rounds: int, scale: float, only: tuple[str, ...], folder: Path, as_json: bool
) -> None:
    """
    Measure SCENARIOs, all of them by default.

    They are: ct-1 small-1 ct-8 small-8 ct-long latency latency-small many far large s3 day disk.
    """
    started = time.monotonic()
    notes = Console(stderr=True)
    out = Console(width=None if sys.stdout.isatty() else _PAGE_COLUMNS)
    kind = machine.file_system(folder.resolve())
    if not machine.is_disk(kind):
        notes.print(f"{folder} is on {kind}: no disk, so a sync costs nothing; choose another --folder", style="red")
        sys.exit(2)
    result: dict[str, Any] = {"machine": machine.describe(), "file_system": kind, "load": os.getloadavg()[0]}
    notes.print(f"{result['machine']}; {kind}")
    with tempfile.TemporaryDirectory(prefix="ahi-bench-", dir=folder) as place:
        machine.spread_folders(Path(place))
        cells = [cell for cell in CELLS if not names or cell.name in names]
        throughput = Throughput(Path(place), cells, scale)
        if cells:
            _run_rounds(throughput, rounds, only, notes, result)
        for name, other in OTHERS.items():
            if names and name not in names:
                continue
            notes.print(f"{name}...", style="dim")
            try:
                result[name] = other.run(Path(place))
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                result[name] = {"failed": str(error)}
                notes.print(f"{name} failed: {error}", style="red", markup=False)
                continue
            if not as_json:
                report.print_checks(out, other.title, result[name], other.checks)
        if cells:
            result["throughput"] = report.rates(throughput)
            result["goals"] = report.goals(throughput)
            if not as_json:
                report.print_throughput(out, throughput)
        if as_json:
            print(json.dumps(result, indent=2), flush=True)
        notes.print("removing what was stored...", style="dim")
    notes.print(f"{time.monotonic() - started:.0f} s", style="dim")


def _run_rounds(
    throughput: Throughput, rounds: int, only: tuple[str, ...], notes: Console, result: dict[str, Any]
) -> None:
    here, lacks = contestants()
    for name, why in lacks.items():
        notes.print(f"{name} does not take part: {why}", style="yellow")
    result["missing"] = dict(lacks)
    if only:
        here = [one for one in here if one.name == OURS or any(text in one.name for text in only)]
    throughput.prepare()
    for number in range(rounds):
        # Each round begins with another receiver, so that none always follows the same one.
        for one in here[number % len(here) :] + here[: number % len(here)]:
            notes.print(f"round {number + 1} of {rounds}: {one.name}", style="dim")
            throughput.round(one)
        result.setdefault("cpu_pressure", []).append(machine.pressure())
    busiest = max((pressure or 0.0 for pressure in result.get("cpu_pressure", [])), default=0.0)
    if busiest > _CALM_PERCENT and os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        notes.print(
            f"others were using this machine (load {os.getloadavg()[0]:.0f}): rates are low and ratios doubtful,"
            " above all against receivers that never wait for the disk",
            style="yellow",
        )


if __name__ == "__main__":
    main()
