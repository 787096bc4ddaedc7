"""
A simulated day of a large hospital, against one import job for each instance.

    python -m tests.benchmarks.hospital_day [--scale 0.1] [--json]

250,000 instances of 500 studies go through the real use cases on memory adapters and a simulated clock; only the
import service is a model: its rate of StartDICOMImportJob, its concurrent jobs, and jobs of 100 s each.
With a scale there are fewer studies of the same size; limits and times stay those of the service.

One job for each instance is a queue with the same limits that polls for nothing: a job starts as soon as there are a
token and a free slot, and its instance is imported the second it ends.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import click
from rich.console import Console
from rich.table import Table

from adapters.entrypoints.medical_imaging.behaviour import RATES
from adapters.memory.clock import FakeClock
from adapters.memory.metadata import MemoryMetadataStore
from adapters.memory.staging import MemoryStagingArea
from adapters.memory.workflow import MemoryWorkflow
from adapters.outbound.local.data_store.throttle import Bucket
from domain.batch import Batch, LeasePolicy
from domain.errors import ImporterBusy
from domain.identifiers import BatchId, DataStoreId, Digest, ImageSetId, ImportJobId, Uid
from domain.import_job import ImportJob, ImportJobStatus, ImportRequest
from domain.instance import SopInstance
from domain.lifecycle import BatchState, InstanceState
from domain.record import StudyDescription
from domain.results import ImportOutcome
from domain.staging import StagingKey
from services.carry_batch import CarryBatch
from services.follow_import import FollowImport
from services.list_batch import ListBatch
from services.record_results import RecordResults
from services.rehouse_orphans import RehouseOrphans
from services.retry_batch import RetryBatch
from services.settle_instances import SettleInstances
from services.start_import import StartImport
from services.write_batches import WriteBatches
from tests.builders import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, MODALITY

INSTANCES = 250_000
STUDIES = 500
RECEIVERS = 3
ASSOCIATIONS = 24
JOB_SECONDS = 100.0
CONCURRENT_JOBS = 100
GOAL_SECONDS = 60.0 + JOB_SECONDS
_START = RATES["StartDICOMImportJob"]
_INSTANCE_BYTES = 525_000
_GAPS = (0.02, 0.05, 0.2, 0.5)  # seconds between two instances of one association, by modality
_SPREAD = 0.9  # of the logarithm of the size of a study
_BY_HOUR = (1, 1, 1, 1, 1, 2, 4, 9, 14, 16, 16, 15, 12, 14, 15, 14, 12, 9, 6, 4, 3, 2, 2, 1)
_MIDNIGHT = datetime(2026, 1, 12, tzinfo=UTC)
_SHOWN_SECONDS = 600.0


@attrs.frozen(kw_only=True)
class Imported:
    """How a day went; times in seconds from received to imported."""

    jobs: int
    instances: int
    median: float
    p99: float
    longest: float
    last_after_midnight: float

    @classmethod
    def of(cls, jobs: int, waits: list[float], last: float) -> Imported:
        """Sum a day up."""
        waits.sort()
        return cls(
            jobs=jobs,
            instances=len(waits),
            median=waits[len(waits) // 2],
            p99=waits[math.ceil(len(waits) * 0.99) - 1],
            longest=waits[-1],
            last_after_midnight=last,
        )


@attrs.frozen(kw_only=True)
class Study:
    """One study and how its modality sends it."""

    number: int
    starts_at: float
    instances: int
    gap: float
    receiver: int


def plan(scale: float = 1.0, seed: int = 4) -> list[Study]:
    """Plan a day: mean size and profile are those of the large hospital, the number of studies is scaled."""
    chance = random.Random(seed)
    count = max(1, round(STUDIES * scale))
    total = max(count, round(INSTANCES * scale))
    weights = [chance.lognormvariate(0, _SPREAD) for _ in range(count)]
    sizes = [max(1, int(weight / sum(weights) * total)) for weight in weights]
    sizes[0] = max(1, sizes[0] + total - sum(sizes))
    hours = chance.choices(range(24), _BY_HOUR, k=count)
    return [
        Study(
            number=number,
            starts_at=hour * 3600 + chance.uniform(0, 3600),
            instances=size,
            gap=chance.choice(_GAPS),
            receiver=chance.randrange(RECEIVERS),
        )
        for number, (hour, size) in enumerate(zip(hours, sizes, strict=True))
    ]


class Day:
    """Receivers, workflow and import service on one simulated clock."""

    def __init__(self) -> None:
        self.clock = FakeClock(_MIDNIGHT)
        self.staging = MemoryStagingArea(clock=self.clock)
        self.metadata = MemoryMetadataStore()
        self.workflow = MemoryWorkflow()
        self.importer = _ImportService(self.staging, self.clock)
        self.waits: list[float] = []
        self.arrivals: list[float] = []
        self._serial = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._carried = 0
        self._unfinished = 0
        self._sending = 0
        self._waiting: list[Study] = []
        self._left = 0
        self.receivers = [self._receiver(number) for number in range(RECEIVERS)]
        self.carry = self._carry()

    def run(self, studies: Sequence[Study]) -> Imported:
        """Let the day pass, until everything is imported."""
        self._left = sum(study.instances for study in studies)
        for study in studies:
            self._at(study.starts_at, lambda study=study: self._associate(study))  # type: ignore[misc]
        self._at(1.0, self._tick)
        while self._events:
            due, _, happens = heapq.heappop(self._events)
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            happens()
        return Imported.of(len(self.importer.started), self.waits, self.clock.monotonic())

    def _at(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._order), happens))

    def _associate(self, study: Study) -> None:
        """Begin to send, or wait for another association to end."""
        if self._sending >= ASSOCIATIONS:
            self._waiting.append(study)
            return
        self._sending += 1
        self._send(study, 0)

    def _send(self, study: Study, number: int) -> None:
        now = self.clock.monotonic()
        draft = self.staging.draft()
        draft.write(b"x")
        self.receivers[study.receiver].store(draft, _instance(study, number, self.clock.now()))
        draft.discard()
        self.arrivals.append(now)
        self._left -= 1
        if number + 1 < study.instances:
            self._at(now + study.gap, lambda: self._send(study, number + 1))
            return
        self._sending -= 1
        if self._waiting:
            self._associate(self._waiting.pop(0))

    def _tick(self) -> None:
        """Do what the receivers do each second, and begin the runs that they started."""
        for receiver in self.receivers:
            receiver.tick()
        while self._carried < len(self.workflow.started):
            batch = self.workflow.started[self._carried]
            self._carried += 1
            self._unfinished += 1
            self._step(batch.id)
        is_open = any(receiver.open_age_seconds() is not None for receiver in self.receivers)
        if self._left or is_open or self._unfinished:
            self._at(self.clock.monotonic() + 1.0, self._tick)

    def _step(self, batch_id: BatchId) -> None:
        seconds = self.carry(batch_id)
        if seconds is not None:
            self._at(self.clock.monotonic() + seconds, lambda: self._step(batch_id))
            return
        self._unfinished -= 1
        batch = self.metadata.batch(batch_id)
        if batch is None or batch.state is not BatchState.SETTLED:
            raise RuntimeError(f"batch {batch_id} is not settled: {batch}")
        self.waits += self._waits(batch)
        self.staging.trash.clear()

    def _waits(self, batch: Batch) -> Iterator[float]:
        now = self.clock.now()
        for entry in self.metadata.entries(batch.id):
            if entry.state is not InstanceState.IMPORTED or entry.received_at is None:
                raise RuntimeError(f"{entry.key} is not imported")
            yield (now - entry.received_at).total_seconds()

    def _receiver(self, number: int) -> WriteBatches:
        return WriteBatches(
            staging=self.staging,
            metadata=self.metadata,
            workflow=self.workflow,
            clock=self.clock,
            telemetry=_Silence(),
            owner=f"receiver-{number}",
            entropy=lambda: f"{next(self._serial):06d}",
            lease=LeasePolicy(),
        )

    def _carry(self) -> CarryBatch:
        staging, metadata, clock, telemetry, importer = (
            self.staging,
            self.metadata,
            self.clock,
            _Silence(),
            self.importer,
        )
        settle = SettleInstances(staging=staging, metadata=metadata)
        retry = RetryBatch(metadata=metadata, workflow=self.workflow, telemetry=telemetry)
        rehouse = RehouseOrphans(
            staging=staging,
            metadata=metadata,
            workflow=self.workflow,
            clock=clock,
            telemetry=telemetry,
            owner="sweeper",
            entropy=lambda: f"{next(self._serial):06d}",
            lease=LeasePolicy(),
        )
        return CarryBatch(
            metadata=metadata,
            list_batch=ListBatch(
                staging=staging,
                metadata=metadata,
                importer=importer,
                results=importer,
                settle=settle,
                describe_study=lambda _head: StudyDescription(),
                clock=clock,
                telemetry=telemetry,
            ),
            start_import=StartImport(metadata=metadata, importer=importer, clock=clock, telemetry=telemetry),
            follow_import=FollowImport(metadata=metadata, importer=importer, telemetry=telemetry),
            record_results=RecordResults(
                metadata=metadata,
                importer=importer,
                results=importer,
                settle=settle,
                rehouse=rehouse,
                retry=retry,
                clock=clock,
                telemetry=telemetry,
            ),
            clock=clock,
        )


def one_job_each(arrivals: Sequence[float]) -> Imported:
    """Import each instance by a job of its own, in the order they came."""
    waits = []
    slots = [0.0] * CONCURRENT_JOBS
    earliest, burst = 0.0, (_START.burst - 1) / _START.per_second
    finished = 0.0
    for arrived in sorted(arrivals):
        began = max(arrived, earliest - burst, heapq.heappop(slots))
        earliest = max(earliest, began) + 1 / _START.per_second
        finished = began + JOB_SECONDS
        heapq.heappush(slots, finished)
        waits.append(finished - arrived)
    return Imported.of(len(waits), waits, finished)


@attrs.define
class _Running:
    job: ImportJob
    ends_at: float
    keys: tuple[StagingKey, ...]


class _ImportService:
    """An Importer and ResultsReader (domain/ports.py): a job takes what its prefix holds, and 100 s."""

    data_store = DataStoreId("d" * 32)

    def __init__(self, staging: MemoryStagingArea, clock: FakeClock) -> None:
        self._staging = staging
        self._clock = clock
        self._tokens = Bucket.full(_START.burst, clock.now())
        self._by_id: dict[ImportJobId, _Running] = {}
        self._ends: list[float] = []
        self.started: dict[str, ImportJobId] = {}
        self.throttled = 0
        self.most_at_once = 0

    def start(self, request: ImportRequest) -> ImportJob:
        """Start a job where rate and concurrency allow it."""
        found = self.find(request.name)
        if found is not None:
            return found
        now = self._clock.monotonic()
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        after = self._tokens.take(self._clock.now(), rate=_START.per_second, burst=_START.burst)
        if after is None or len(self._ends) >= CONCURRENT_JOBS:
            self.throttled += 1
            raise ImporterBusy("throttled")
        self._tokens = after
        job_id = ImportJobId(f"{len(self.started) + 1:032x}")
        batch = BatchId(request.input_prefix.rstrip("/").rpartition("/")[2])
        job = ImportJob(
            id=job_id,
            name=request.name,
            status=ImportJobStatus.IN_PROGRESS,
            output_prefix=f"{request.output_prefix}{job_id}/",
            submitted_at=self._clock.now(),
        )
        keys = tuple(staged.key for staged in self._staging.list(batch))
        self._by_id[job_id] = _Running(job, now + JOB_SECONDS, keys)
        self.started[request.name] = job_id
        heapq.heappush(self._ends, now + JOB_SECONDS)
        self.most_at_once = max(self.most_at_once, len(self._ends))
        return job

    def find(self, name: str) -> ImportJob | None:
        """Look a job up by its name."""
        return self.describe(self.started[name]) if name in self.started else None

    def describe(self, job_id: ImportJobId) -> ImportJob:
        """Return the job as it is now."""
        running = self._by_id[job_id]
        if self._clock.monotonic() < running.ends_at:
            return running.job
        ended_at = _MIDNIGHT + timedelta(seconds=running.ends_at)
        return attrs.evolve(running.job, status=ImportJobStatus.COMPLETED, ended_at=ended_at)

    def outcomes(self, job: ImportJob) -> Iterator[ImportOutcome]:
        """Yield an import of each file."""
        for key in self._by_id[job.id].keys:
            yield ImportOutcome(key=key, image_set=ImageSetId("a" * 32), image_set_version=1, is_primary=True)

    def jobs(self, _batch_id: BatchId) -> Sequence[ImportJob]:
        """Return nothing: the table is never lost."""
        return ()

    def batches(self) -> Iterator[BatchId]:
        """Yield nothing, likewise."""
        return iter(())


class _Silence:
    """A Telemetry (domain/ports.py) that keeps nothing."""

    def event(self, name: str, /, **fields: str | float | None) -> None:
        """Forget an event."""

    def measure(self, name: str, value: float, unit: str = "Count") -> None:
        """Forget a measurement."""


def _instance(study: Study, number: int, now: datetime) -> SopInstance:
    return SopInstance(
        study=Uid(f"2.25.80.{study.number}"),
        series=Uid(f"2.25.81.{study.number}.{number // 200}"),
        sop_instance=Uid(f"2.25.82.{study.number}.{number}"),
        sop_class=CT_IMAGE_STORAGE,
        transfer_syntax=EXPLICIT_VR_LITTLE_ENDIAN,
        size=_INSTANCE_BYTES,
        digest=Digest(f"{study.number << 32 | number:064x}"),
        calling_ae_title=MODALITY,
        received_at=now,
    )


def measure(scale: float = 1.0) -> dict[str, Any]:
    """Simulate both and return what came out."""
    began = time.perf_counter()
    studies = plan(scale)
    day = Day()
    batched = day.run(studies)
    each = one_job_each(day.arrivals)
    return {
        "scale": scale,
        "studies": len(studies),
        "receivers": RECEIVERS,
        "associations": ASSOCIATIONS,
        "batches": attrs.asdict(batched),
        "one_job_each": attrs.asdict(each),
        "throttled_starts": day.importer.throttled,
        "most_jobs_at_once": day.importer.most_at_once,
        "goal_seconds": GOAL_SECONDS,
        "is_met": batched.median <= GOAL_SECONDS,
        "simulated_in": round(time.perf_counter() - began, 1),
    }


def figures() -> dict[str, float]:
    """Simulate both and return the numbers alone."""
    result = measure()
    return {
        f"{field}_{way}": float(result[way][field])
        for way in ("batches", "one_job_each")
        for field in ("jobs", "median", "p99")
    }


def print_table(console: Console, result: dict[str, Any]) -> None:
    """Print both days side by side."""
    table = Table(
        title=f"A hospital's day: {result['batches']['instances']:,} instances in {result['studies']} studies",
        title_justify="left",
    )
    for heading in ("", "batches", "one job each"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    rows = (
        ("import jobs started", "jobs", lambda value: f"{value:,}"),
        ("received to imported, median", "median", _duration),
        ("received to imported, p99", "p99", _duration),
        ("received to imported, longest", "longest", _duration),
        ("all imported, after midnight", "last_after_midnight", _duration),
    )
    for text, field, shown in rows:
        table.add_row(text, shown(result["batches"][field]), shown(result["one_job_each"][field]))
    verdict = "[green]yes[/]" if result["is_met"] else "[red]no[/]"
    table.add_row(f"median at most {result['goal_seconds']:.0f} s", verdict, "")
    console.print(table)
    console.print(
        f"most jobs at once {result['most_jobs_at_once']}, starts that were throttled {result['throttled_starts']};"
        f" simulated in {result['simulated_in']} s"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < _SHOWN_SECONDS else f"{seconds / 3600:,.1f} h"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--scale", default=1.0, show_default=True, help="multiplies how many studies there are")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def main(scale: float, as_json: bool) -> None:
    """Simulate a day of a large hospital."""
    result = measure(scale)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print_table(Console(width=None if sys.stdout.isatty() else 120), result)
    sys.exit(0 if result["is_met"] else 1)


if __name__ == "__main__":
    main()
