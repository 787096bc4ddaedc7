"""
Soak a real `serve`: `python -m tests.soak --instances 100000`.

Several senders open association after association, each storing some small instances; now and then one of them breaks
off. Meanwhile memory, descriptors and threads of the receiver are measured: they must stay flat once it is warm, and
at the end every acknowledged instance must be imported.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import attrs

from tests.attacked import Peer
from tests.benchmarks.images import SMALL, Image
from tests.serving import Serving
from tests.unit.inbound import pdus

_ROWS = 20
_WARM = 0.3  # of the run; until then buffers, caches and pools may still grow
_MAY_GROW_MIB = 24.0
_MAY_GROW_DESCRIPTORS = 16
_BREAK_OFF_EVERY = 17


@attrs.frozen(kw_only=True)
class Sample:
    """The receiver at one moment."""

    seconds: float
    stored: int
    memory_mib: float
    descriptors: int
    threads: int


def look(pid: int, started: float, stored: int) -> Sample:
    """Measure a process (Linux)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return Sample(
        seconds=time.monotonic() - started,
        stored=stored,
        memory_mib=int(status["VmRSS"].split()[0]) / 1024,
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=int(status["Threads"]),
    )


class Senders:
    """Threads that store instances, each number once."""

    def __init__(self, port: int, instances: int, senders: int, per_association: int) -> None:
        self.stored = 0
        self.associations = 0
        self.problems: list[str] = []
        self._port = port
        self._numbers = iter(range(instances))
        self._per_association = per_association
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(senders)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def is_running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    numbers = list(itertools.islice(self._numbers, self._per_association))
                    self.associations += 1
                    is_broken_off = self.associations % _BREAK_OFF_EVERY == 0
                if not numbers:
                    return
                self._send(numbers)
                if is_broken_off:
                    self._break_off()
        except Exception as error:  # noqa: BLE001  # told at the end, whatever it was
            self.problems.append(f"{type(error).__name__}: {error}")

    def _send(self, numbers: list[int]) -> None:
        with Peer(self._port, timeout=120) as peer:
            peer.associate()
            for number in numbers:
                # a thousand a study: as many instances as a large examination has
                image = Image(SMALL, number, study=1 + number // 1000)
                status, comment = peer.store(image.sop_instance, image.data_set())
                if status:
                    self.problems.append(f"0x{status:04X} {comment}")
                    continue
                with self._lock:
                    self.stored += 1
            peer.release()

    def _break_off(self) -> None:
        with Peer(self._port) as peer:
            peer.associate()
            peer.send(pdus.p_data(pdus.pdv(3, 3, pdus.c_store())), pdus.p_data(pdus.pdv(3, 0, b"x" * 1000)))
            peer.reset()


def judge(samples: list[Sample], instances: int) -> list[str]:
    """Say what grew once the receiver was warm."""
    warm = [sample for sample in samples if sample.stored >= instances * _WARM]
    if len(warm) < 2:
        return ["too few samples: more instances are needed"]
    third = max(1, len(warm) // 3)

    def growth(name: str) -> float:
        first = max(getattr(sample, name) for sample in warm[:third])
        last = min(getattr(sample, name) for sample in warm[-third:])
        return float(last - first)

    problems = []
    if growth("memory_mib") > _MAY_GROW_MIB:
        problems.append(f"memory grew by {growth('memory_mib'):.0f} MiB")
    if growth("descriptors") > _MAY_GROW_DESCRIPTORS:
        problems.append(f"descriptors grew by {growth('descriptors'):.0f}")
    if growth("threads") > 0:
        problems.append(f"threads grew by {growth('threads'):.0f}")
    return problems


def main() -> int:
    """Soak; the exit code is 1 if anything grew or was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--instances", type=int, default=100_000, help="in all (default: %(default)s)")
    parser.add_argument("--senders", type=int, default=8, help="associations open at once (default: %(default)s)")
    parser.add_argument("--per-association", type=int, default=50, help="instances on each (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work, on a real disk; default: a temporary folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=options.folder))
    try:
        problems = soak(folder, options.instances, options.senders, options.per_association)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for problem in problems:
        print(f"PROBLEM {problem}")
    print("broken" if problems else "nothing grew, nothing was lost")
    return 1 if problems else 0


def soak(folder: Path, instances: int, senders: int, per_association: int) -> list[str]:
    """Run it and return what was wrong."""
    with Serving(folder / "data", {"batch_quiet_seconds": "2"}) as serving:
        load = Senders(serving.port, instances, senders, per_association)
        started = time.monotonic()
        samples = [look(serving.process.pid, started, 0)]
        print(f"{'seconds':>8} {'stored':>8} {'a second':>9} {'MiB':>7} {'files':>6} {'threads':>8}")
        load.start()
        while load.is_running:
            time.sleep(0.2)
            if load.stored - samples[-1].stored >= max(1, instances // _ROWS):
                samples.append(look(serving.process.pid, started, load.stored))
                show(samples[-1], samples[-2])
        took = time.monotonic() - started
        samples.append(look(serving.process.pid, started, load.stored))
        print(f"{load.stored} instances over {load.associations} associations in {took:.0f} s; importing the rest...")
        problems = [*judge(samples, instances), *sorted(set(load.problems))[:10]]
        totals = imported(serving, load.stored)
        after = look(serving.process.pid, started, load.stored)
        print(f"{'at rest':>8} {after.stored:8} {'':9} {after.memory_mib:7.0f} {after.descriptors:6} {after.threads:8}")
        if totals["imported"] != load.stored or totals["failed"]:
            problems.append(f"of {load.stored} acknowledged: {totals}")
        if serving.stop():
            problems.append("the receiver did not end well")
    return problems


def imported(serving: Serving, stored: int) -> dict[str, int]:
    """Wait until all is imported, or nothing has changed for a while."""
    totals: dict[str, int] = {}
    changed = time.monotonic()
    while time.monotonic() - changed < 60:
        now = serving.json("status")["totals"]
        if now != totals:
            totals, changed = now, time.monotonic()
        if totals["imported"] + totals["failed"] >= stored:
            break
        time.sleep(1)
    return totals


def show(sample: Sample, before: Sample) -> None:
    """Print one row."""
    rate = (sample.stored - before.stored) / max(0.001, sample.seconds - before.seconds)
    print(
        f"{sample.seconds:8.1f} {sample.stored:8} {rate:9.0f} {sample.memory_mib:7.0f}"
        f" {sample.descriptors:6} {sample.threads:8}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
