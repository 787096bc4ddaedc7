"""
MemoryImporter and MemoryResultsReader: an import service whose every answer a test can decide.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence

import attrs

from adapters.memory.staging import MemoryStagingArea
from domain.errors import ImporterBusy, ImportRefused, ResultsNotReady, ResultsUnreadable
from domain.identifiers import BatchId, DataStoreId, Digest, ImageSetId, ImportJobId, Uid
from domain.import_job import ImportJob, ImportJobStatus, ImportRequest
from domain.instance import InstanceKey
from domain.ports import Clock
from domain.results import ImportOutcome
from domain.staging import StagingKey, batch_prefix, results_prefix

_ENDED = frozenset({ImportJobStatus.COMPLETED, ImportJobStatus.FAILED})


@attrs.frozen(kw_only=True)
class MemoryCopy:
    """
    What the data store holds of one instance.

    Attributes:
        digest: as the facts of the staged object said.
        version: 1, and one more with every import of the instance.

    """

    content: bytes
    digest: Digest
    batch: BatchId
    image_set: ImageSetId
    version: int


@attrs.frozen(kw_only=True)
class Rejection:
    """How the import of one instance fails."""

    reason: str = "ValidationException: refused by the test"
    is_server_error: bool = False


@attrs.define
class _Job:
    job: ImportJob
    batch: BatchId
    listed: tuple[StagingKey, ...] = ()
    outcomes: list[ImportOutcome] = attrs.field(factory=list)


@attrs.define
class MemoryImporter:
    """
    An Importer (domain/ports.py) over a MemoryStagingArea, safe to share between threads.

    A job is SUBMITTED; `step` lists its prefix and makes it IN_PROGRESS; the next imports what was listed, as it is
    by then, and makes it COMPLETED.

    Attributes:
        busy: so many of the next calls of `start`, `find` and `describe` raise ImporterBusy before any effect.
        lost_answers: so many of the next starts have their effect and raise ImporterBusy all the same.
        refusals: job name to message: such a start raises ImportRefused.
        job_failures: batch to message: its jobs end FAILED, nothing imported; removed when used.
        rejections: instance to how its import fails, for as long as it stands here.
        unmentioned: instances that are neither imported nor mentioned in the results.
        non_primary: instances that go to a non-primary image set.
        unready: so many of the next readings raise ResultsNotReady.
        unreadable: jobs whose results make no sense.
        data: what the data store holds.
        imports: every import of an instance, in order.

    """

    staging: MemoryStagingArea
    clock: Clock
    data_store: DataStoreId = attrs.field(default=DataStoreId("d" * 32))
    busy: int = 0
    lost_answers: int = 0
    refusals: dict[str, str] = attrs.field(factory=dict)
    job_failures: dict[BatchId, str] = attrs.field(factory=dict)
    rejections: dict[Uid, Rejection] = attrs.field(factory=dict)
    unmentioned: set[Uid] = attrs.field(factory=set)
    non_primary: set[Uid] = attrs.field(factory=set)
    unready: int = 0
    unreadable: set[ImportJobId] = attrs.field(factory=set)
    data: dict[InstanceKey, MemoryCopy] = attrs.field(factory=dict, init=False)
    imports: list[tuple[StagingKey, Digest]] = attrs.field(factory=list, init=False)
    _jobs: dict[str, _Job] = attrs.field(factory=dict, init=False, repr=False)
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False, repr=False)

    def start(self, request: ImportRequest) -> ImportJob:
        """Accept a job; a second request of the same name is the first job."""
        with self._lock:
            self._may_be_busy()
            if request.name in self.refusals:
                raise ImportRefused(self.refusals[request.name])
            found = self._jobs.get(request.name)
            if found is None:
                found = self._jobs[request.name] = self._accept(request)
            if self.lost_answers:
                self.lost_answers -= 1
                raise ImporterBusy("the answer was lost")
            return found.job

    def find(self, name: str) -> ImportJob | None:
        """Look a job up by its name."""
        with self._lock:
            self._may_be_busy()
            found = self._jobs.get(name)
            return None if found is None else found.job

    def describe(self, job_id: ImportJobId) -> ImportJob:
        """Return the job as it is now."""
        with self._lock:
            self._may_be_busy()
            held = self._with_id(job_id)
            if held is None:
                raise ImportRefused("the service does not know this job")
            return held.job

    def step(self, name: str | None = None) -> None:
        """Advance the job of that name, or every job, by one status."""
        with self._lock:
            for held in list(self._jobs.values()):
                if name in (None, held.job.name):
                    self._advance(held)

    def running(self) -> list[ImportJob]:
        """Return the jobs that have not ended."""
        with self._lock:
            return [held.job for held in self._jobs.values() if held.job.status not in _ENDED]

    def results_of(self, job: ImportJob) -> list[ImportOutcome]:
        """Return the outcomes of a COMPLETED job (errors as a ResultsReader raises them)."""
        with self._lock:
            if self.unready:
                self.unready -= 1
                raise ResultsNotReady("the results are not there yet")
            if job.id in self.unreadable:
                raise ResultsUnreadable("the results make no sense")
            held = self._with_id(job.id)
            if held is None or held.job.status is not ImportJobStatus.COMPLETED:
                raise ResultsNotReady("the job has left no results")
            return list(held.outcomes)

    def jobs_of(self, batch: BatchId) -> list[ImportJob]:
        """Return the jobs of a batch that left results, oldest first."""
        with self._lock:
            return [
                held.job
                for held in self._jobs.values()
                if held.batch == batch and held.job.status is ImportJobStatus.COMPLETED
            ]

    def batches_with_results(self) -> list[BatchId]:
        """Return the batches of which a job left results, in the order of their ids."""
        with self._lock:
            return sorted({held.batch for held in self._jobs.values() if held.job.status is ImportJobStatus.COMPLETED})

    def _may_be_busy(self) -> None:
        if self.busy:
            self.busy -= 1
            raise ImporterBusy("throttled by the test")

    def _with_id(self, job_id: ImportJobId) -> _Job | None:
        return next((held for held in self._jobs.values() if held.job.id == job_id), None)

    def _accept(self, request: ImportRequest) -> _Job:
        batch = BatchId(request.input_prefix.rstrip("/").rpartition("/")[2])
        if request.input_prefix != batch_prefix(batch) or request.output_prefix != results_prefix(batch):
            raise ImportRefused("the prefixes are not those of a batch")
        job_id = ImportJobId(f"{len(self._jobs) + 1:032d}")
        job = ImportJob(
            id=job_id,
            name=request.name,
            status=ImportJobStatus.SUBMITTED,
            output_prefix=f"{request.output_prefix}{self.data_store}-DicomImport-{job_id}/",
            submitted_at=self.clock.now(),
        )
        return _Job(job, batch)

    def _advance(self, held: _Job) -> None:
        if held.job.status is ImportJobStatus.SUBMITTED:
            held.listed = tuple(staged.key for staged in self.staging.list(held.batch))
            held.job = attrs.evolve(held.job, status=ImportJobStatus.IN_PROGRESS)
        elif held.job.status is ImportJobStatus.IN_PROGRESS:
            message = self.job_failures.pop(held.batch, None)
            if message is None:
                held.outcomes = [outcome for key in held.listed for outcome in self._import(key)]
            held.job = attrs.evolve(
                held.job,
                status=ImportJobStatus.COMPLETED if message is None else ImportJobStatus.FAILED,
                message=message,
                ended_at=self.clock.now(),
            )

    def _import(self, key: StagingKey) -> Iterator[ImportOutcome]:
        if key.sop_instance in self.unmentioned:
            return
        held = self.staging.objects.get(key)
        rejection = self.rejections.get(key.sop_instance)
        if rejection is not None or held is None:
            rejection = rejection or Rejection(reason="NoSuchKey: the object was gone")
            yield ImportOutcome(key=key, reason=rejection.reason, is_server_error=rejection.is_server_error)
            return
        before = self.data.get(key.instance_key)
        is_primary = key.sop_instance not in self.non_primary
        copy = MemoryCopy(
            content=held.content,
            digest=held.facts.instance.digest,
            batch=key.batch,
            image_set=_image_set(key, is_primary=is_primary),
            version=1 if before is None else before.version + 1,
        )
        self.data[key.instance_key] = copy
        self.imports.append((key, copy.digest))
        yield ImportOutcome(key=key, image_set=copy.image_set, image_set_version=copy.version, is_primary=is_primary)


def _image_set(key: StagingKey, *, is_primary: bool) -> ImageSetId:
    text = f"{key.study}/{key.series}/{is_primary}"
    return ImageSetId(hashlib.sha256(text.encode("ascii")).hexdigest()[:32])


@attrs.define
class MemoryResultsReader:
    """A ResultsReader (domain/ports.py) of what a MemoryImporter did."""

    importer: MemoryImporter

    def outcomes(self, job: ImportJob) -> Iterator[ImportOutcome]:
        """Yield the outcome of each file."""
        yield from self.importer.results_of(job)

    def jobs(self, batch_id: BatchId) -> Sequence[ImportJob]:
        """Return the jobs that left results for a batch, oldest first."""
        return self.importer.jobs_of(batch_id)

    def batches(self) -> Iterator[BatchId]:
        """Yield every batch that has results, in the order of their ids."""
        yield from self.importer.batches_with_results()
