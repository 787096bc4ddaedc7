"""Instances a second, receivers taking turns within each round so that they meet the same weather."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from tests.benchmarks.images import CT_SLICE, SMALL, Image, Kind, write_files
from tests.benchmarks.machine import cpu_seconds
from tests.benchmarks.receivers import Dcmtk, Orthanc, Ours, Pynetdicom, Receiver, missing
from tests.benchmarks.sender import storescu_seconds

OURS = "ahi-storescp"
DCMTK, DCMTK_TUNED = "DCMTK storescp", "DCMTK storescp, TCP_NODELAY"
ORTHANC, ORTHANC_TUNED = "Orthanc", "Orthanc, TCP_NODELAY"
PYNETDICOM = "pynetdicom storescp"
IMPORTING = "ahi-storescp, imports meanwhile"
_LEAST_SHARE = 0.2  # of the time that must be storing, or the start was measured badly


@attrs.frozen(kw_only=True)
class Cell:
    """
    One way to send.

    Attributes:
        instances: by an association, to a receiver that is not slowed down by delayed acknowledgements.
        few: by an association, to one that is.

    """

    name: str
    kind: Kind
    associations: int
    instances: int
    few: int


CELLS = (
    Cell(name="ct-1", kind=CT_SLICE, associations=1, instances=240, few=40),
    Cell(name="small-1", kind=SMALL, associations=1, instances=1600, few=14),
    Cell(name="ct-8", kind=CT_SLICE, associations=8, instances=50, few=25),
    Cell(name="small-8", kind=SMALL, associations=8, instances=300, few=10),
    # more than twice what the journal holds
    Cell(name="ct-long", kind=CT_SLICE, associations=1, instances=1200, few=40),
)


@attrs.frozen(kw_only=True)
class Contestant:
    """A receiver as it is started for each round."""

    name: str
    start: Callable[[Path], Receiver]
    is_slow: bool = False


def contestants() -> tuple[list[Contestant], Mapping[str, str]]:
    """Return who takes part, and who cannot and why."""
    everyone = [
        Contestant(name=OURS, start=lambda folder: Ours(OURS, folder)),
        Contestant(name=DCMTK_TUNED, start=lambda folder: Dcmtk(DCMTK_TUNED, folder, is_tuned=True)),
        Contestant(name=ORTHANC_TUNED, start=lambda folder: Orthanc(ORTHANC_TUNED, folder, is_tuned=True)),
        Contestant(name=PYNETDICOM, start=lambda folder: Pynetdicom(PYNETDICOM, folder), is_slow=True),
        Contestant(name=DCMTK, start=lambda folder: Dcmtk(DCMTK, folder), is_slow=True),
        Contestant(name=ORTHANC, start=lambda folder: Orthanc(ORTHANC, folder), is_slow=True),
        Contestant(
            name=IMPORTING,
            start=lambda folder: Ours(
                IMPORTING, folder, settings={"batch-max-age-seconds": "1", "batch-quiet-seconds": "1"}
            ),
        ),
    ]
    lacks = missing()
    return [one for one in everyone if not any(one.name.startswith(peer) for peer in lacks)], lacks


@attrs.define
class Throughput:
    """
    Rates by cell and contestant, and processor time of an instance in ms, one for each round.

    Attributes:
        folder: where images and receivers live.
        scale: multiplies how many instances are sent.

    """

    folder: Path
    cells: Sequence[Cell]
    scale: float = 1.0
    rates: dict[tuple[str, str], list[float]] = attrs.field(factory=dict)
    costs: dict[tuple[str, str], list[float]] = attrs.field(factory=dict)
    _turns: int = 0
    _shares: dict[str, list[list[str]]] = attrs.field(factory=dict)

    def prepare(self) -> None:
        """Write the images, which also puts them into the page cache."""
        for cell in self.cells:
            count = max(cell.few, int(cell.instances * self.scale)) + 1
            self._shares[cell.name] = [
                write_files(
                    self.folder / cell.name / str(client),
                    (Image(cell.kind, number, _study(cell, client)) for number in range(count)),
                )
                for client in range(cell.associations)
            ]

    def round(self, contestant: Contestant) -> None:
        """Start a contestant and measure every cell once."""
        self._turns += 1
        with contestant.start(self.folder / f"turn-{self._turns}") as receiver:
            for cell in self.cells:
                rate = self._measure(receiver, cell, is_slow=contestant.is_slow)
                self.rates.setdefault((cell.name, contestant.name), []).append(rate)
        os.sync()  # what a receiver left to the system to write is written before the next one's turn

    def _measure(self, receiver: Receiver, cell: Cell, *, is_slow: bool) -> float:
        """
        Time the whole of storescu, less what it takes with a single instance: its start and the association.

        That is the best of three, of which the first also warms up what a receiver does once: folders, batches.
        """
        folder = self.folder / cell.name
        shares = [[f"{client}/{name}" for name in names] for client, names in enumerate(self._shares[cell.name])]
        alone = min(storescu_seconds(receiver, folder, [share[:1] for share in shares]) for _ in range(3))
        rest = [share[1 : 1 + cell.few] if is_slow else share[1:] for share in shares]
        sent = sum(len(share) for share in rest)
        before = cpu_seconds(receiver.pids())
        seconds = storescu_seconds(receiver, folder, rest)
        cost = (cpu_seconds(receiver.pids()) - before) / sent * 1e3
        self.costs.setdefault((cell.name, receiver.name), []).append(cost)
        return (sent - len(rest)) / max(seconds - alone, seconds * _LEAST_SHARE)

    def median(self, cell: str, contestant: str) -> float | None:
        """Return the median rate; None if it was not measured."""
        rates = self.rates.get((cell, contestant))
        return statistics.median(rates) if rates else None

    def ratio(self, cell: str, contestant: str, against: str) -> float | None:
        """Return the median of the ratios within each round."""
        ours, theirs = self.rates.get((cell, contestant)), self.rates.get((cell, against))
        if not ours or not theirs:
            return None
        return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=False))


def _study(cell: Cell, client: int) -> int:
    return 100 * (1 + CELLS.index(cell)) + client
