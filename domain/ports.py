"""
Every port: what the use cases need of the outside, in the domain's own words.

Every method may raise the error its docstring names and no other on purpose.
Adapters are named technology + port: `S3StagingArea`, `SqliteMetadataStore`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Protocol

from domain.batch import Batch
from domain.commitment import CommitmentPeer, CommitmentRequest, CommitmentResult
from domain.identifiers import BatchId, DataStoreId, ImportJobId, Uid
from domain.import_job import ImportJob, ImportRequest
from domain.instance import InstanceKey, SopInstance
from domain.lifecycle import BatchState
from domain.record import InstanceRecord, StudyDescription, StudyHolding, StudyRecord
from domain.results import ImportOutcome
from domain.staging import StagedInstance, StagedObject


class Draft(Protocol):
    """
    The bytes of one object on their way in, outside every batch: in memory or in a temporary file.

    Used by one thread at a time.
    """

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """
        Append `data`; what is kept is copied, so the caller may reuse its buffer.

        Raises:
            StageFailed: if there is no room.

        """
        ...

    def discard(self) -> None:
        """Give the bytes up; harmless after staging, may be repeated, never raises."""
        ...


class StagingArea(Protocol):
    """
    Where objects are durable until they are imported: one prefix per batch (domain/staging.py).

    Every method raises StageFailed when the area cannot be reached; an effect may have happened all the same.
    """

    def draft(self) -> Draft:
        """
        Begin a new object.

        Raises:
            StageFailed: if there is no room.

        """
        ...

    def stage(self, draft: Draft, batch: BatchId, instance: SopInstance) -> datetime:
        """
        Make the drafted object durable under `batch` with the facts of `instance`, and return when (aware UTC).

        The time that decides between two copies is the one that `facts` tells, of the area's own clock.
        When this returns, the object survives a loss of power, and `list` names it.
        A draft may be staged again, into another batch, until it is discarded.
        The same object staged twice in one batch stands there once.

        Raises:
            StageFailed: if that is not certain; an object may exist all the same.

        """
        ...

    def seal(self, batch: BatchId) -> None:
        """
        Make every object of `batch` as durable under its own key as `stage` promised it to be somehow.

        Comes after the last `stage` and before the batch is closed, by its owner or who recovers it; may be repeated.
        """
        ...

    def list(self, batch: BatchId) -> Iterator[StagedObject]:
        """Yield the objects of `batch` in the order of their keys, never holding all of them in memory."""
        ...

    def facts(self, objects: Iterable[StagedObject]) -> Iterator[StagedInstance]:
        """Yield what travelled with each object, in any order; objects that are gone are left out."""
        ...

    def read_head(self, staged: StagedObject, max_bytes: int) -> bytes:
        """Return the first bytes of an object; b"" if it is gone."""
        ...

    def supersede(self, staged: StagedObject) -> None:
        """Move an object to where it never expires; harmless if it is gone already."""
        ...

    def rehouse(self, staged: StagedObject, batch: BatchId) -> None:
        """Move an object into another batch with its facts, the time it was staged included; harmless if gone."""
        ...

    def discard(self, objects: Iterable[StagedObject]) -> None:
        """Give imported objects up; they can be brought back until the retention ends; harmless if gone."""
        ...

    def batches(self) -> Iterator[BatchId]:
        """Yield every batch that has an object, in the order of their ids."""
        ...

    def superseded(self, batch: BatchId) -> Iterator[StagedObject]:
        """Yield the objects of `batch` that `supersede` moved away, in the order of their keys."""
        ...


class MetadataStore(Protocol):
    """
    The projection of objects and results that questions are answered from.

    All methods raise MetadataUnavailable when the store cannot be reached; a write that raised may have happened.
    A lost condition is an answer, not an error.
    """

    def add_batch(self, batch: Batch) -> bool:
        """Write the record of a new batch; False if there is one already."""
        ...

    def batch(self, batch_id: BatchId) -> Batch | None:
        """Return the record of a batch as it is now."""
        ...

    def replace_batch(self, old: Batch, new: Batch) -> bool:
        """Write `new` if the stored revision is that of `old`; False, changing nothing, if it is not."""
        ...

    def clear_batch(self, old: Batch, new: Batch, unless_started: frozenset[BatchId]) -> bool:
        """As `replace_batch`, and False too if one of `unless_started` is started (`Batch.is_started`) at that time."""
        ...

    def batches(self, states: Iterable[BatchState], *, opened_since: datetime | None = None) -> Iterator[Batch]:
        """Yield the batches in any of `states`, oldest first."""
        ...

    def newest(self, keys: Sequence[InstanceKey]) -> Mapping[InstanceKey, InstanceRecord]:
        """Return the newest record of each instance that has one."""
        ...

    def claim(self, claims: Sequence[tuple[InstanceRecord, InstanceRecord | None]]) -> frozenset[InstanceKey]:
        """
        Write newest records, each only if the stored one is still the second of the pair (None: absent).

        The stored one is still the same if batch, attempt, state and `earlier` are.

        Returns:
            The instances whose record has changed meanwhile and was left as it is.

        """
        ...

    def put_entries(self, entries: Sequence[InstanceRecord]) -> None:
        """
        Write entries of batches, each only where it may replace the stored one (`InstanceRecord.may_replace`).

        The newest record of an instance follows if it is of the same batch, keeping its `earlier`.
        """
        ...

    def entries(self, batch_id: BatchId) -> Iterator[InstanceRecord]:
        """Yield the entries of a batch in the order of study, then SOP Instance UID."""
        ...

    def pick_entries(self, batch_id: BatchId, keys: Sequence[InstanceKey]) -> Mapping[InstanceKey, InstanceRecord]:
        """Return the entries of a batch for those of `keys` that it has."""
        ...

    def put_holdings(self, holdings: Iterable[StudyHolding]) -> None:
        """Write what batches hold of studies, replacing what the same batch held of the same study."""
        ...

    def holdings(self, study: Uid) -> Sequence[StudyHolding]:
        """Return what each batch holds of a study."""
        ...

    def put_study(self, record: StudyRecord) -> None:
        """Write what a study is recognised by, merged into what is there (`StudyRecord.merged`)."""
        ...

    def study(self, study: Uid) -> StudyRecord | None:
        """Return what a study is recognised by."""
        ...

    def studies(self, *, received_since: datetime | None = None) -> Iterator[StudyRecord]:
        """Yield the studies of which something was received since then, latest first."""
        ...

    def instances(self, study: Uid) -> Iterator[InstanceRecord]:
        """Yield the newest records of a study's instances, in the order of their UIDs."""
        ...

    def find_instance(self, sop_instance: Uid) -> Sequence[InstanceRecord]:
        """Return the newest record of that SOP Instance UID, one for each study that has it."""
        ...

    def failures(self) -> Iterator[InstanceRecord]:
        """Yield the newest records that are FAILED, by batch."""
        ...

    def conflicts(self) -> Iterator[InstanceRecord]:
        """Yield the entries with a conflict, by batch."""
        ...


class CommitmentStore(Protocol):
    """
    The storage commitment requests, kept beside the metadata; every method raises MetadataUnavailable as that does.

    A request that was written survives whatever happens to this process.
    """

    def add_commitment(self, request: CommitmentRequest) -> bool:
        """Write a new request; False, changing nothing, if there is one of its Transaction UID already."""
        ...

    def commitment(self, transaction: Uid) -> CommitmentRequest | None:
        """Return the request of a Transaction UID as it is now."""
        ...

    def replace_commitment(self, old: CommitmentRequest, new: CommitmentRequest) -> bool:
        """Write `new` if the stored revision is that of `old`; False, changing nothing, if it is not."""
        ...

    def due_commitments(self, now: datetime) -> Iterator[CommitmentRequest]:
        """Yield the unfinished requests that are due at `now` or before, claimed ones too, the longest due first."""
        ...

    def forget_commitments(self, finished_before: datetime) -> None:
        """Delete the requests that were finished before then."""
        ...

    def find_instances(self, sop_instances: Sequence[Uid]) -> Sequence[InstanceRecord]:
        """Return the newest records of those SOP Instance UIDs in any order, one for each study that has one."""
        ...


class CommitmentSender(Protocol):
    """Delivers storage commitment results on associations of its own."""

    def deliver(self, result: CommitmentResult, to: CommitmentPeer) -> str | None:
        """
        Deliver a result; a repeat delivers it again.

        Returns:
            None once the peer has confirmed it, else what went wrong and what to look at; trying again may help.

        """
        ...


class Reported(Enum):
    """What became of a result that was to go out on the association of its request."""

    DELIVERED = "delivered"
    REFUSED = "refused"  # the requestor answered with a failure, or not at all
    BUSY = "busy"  # nothing was sent: the requestor was sending
    GONE = "gone"  # the association is not, or no longer, open here


class OpenAssociations(Protocol):
    """The associations that are open on this receiver; safe to use from any thread."""

    def is_open(self, association: str) -> bool:
        """Tell whether an association is open here."""
        ...

    def report(self, association: str, result: CommitmentResult) -> Reported:
        """Report a result on the association of its request, and wait for the answer."""
        ...


class Importer(Protocol):
    """The service that imports a prefix into a data store."""

    @property
    def data_store(self) -> DataStoreId:
        """Where it imports to."""
        ...

    def start(self, request: ImportRequest) -> ImportJob:
        """
        Ask for a job; a second request of the same name is the first job.

        Raises:
            ImporterBusy: throttled, no free job slot or a service error: nothing was started that a later request
                of the same name would not find.
            ImportRefused: it will never start; the message says what to fix.

        """
        ...

    def find(self, name: str) -> ImportJob | None:
        """Look a job up by its name (ImporterBusy as for `start`)."""
        ...

    def describe(self, job_id: ImportJobId) -> ImportJob:
        """Return the job as it is now (errors as for `start`; ImportRefused if the service does not know it)."""
        ...


class ResultsReader(Protocol):
    """The outcomes that an ended job left behind."""

    def outcomes(self, job: ImportJob) -> Iterator[ImportOutcome]:
        """
        Yield the outcome of each file, streamed; a file may come twice, its later outcome then holds.

        Raises:
            ResultsNotReady: the manifest or records that it counts are missing; ask again later.
            ResultsUnreadable: what is there makes no sense.

        """
        ...

    def jobs(self, batch_id: BatchId) -> Sequence[ImportJob]:
        """Return the jobs that left a manifest for a batch, oldest first: what the table is rebuilt from."""
        ...

    def batches(self) -> Iterator[BatchId]:
        """Yield every batch that has results, in the order of their ids."""
        ...


class Workflow(Protocol):
    """What carries a closed batch through its import."""

    def start(self, batch: Batch) -> None:
        """
        Begin the present run of `batch` (`Batch.execution_name`); the second start is the first.

        Raises:
            TemporaryServiceError: it could not be started; recovery starts it later.

        """
        ...

    def is_running(self, batch: Batch) -> bool | None:
        """
        Tell whether the present run goes on; None if it was never started.

        Raises:
            TemporaryServiceError: it cannot be asked now.

        """
        ...


class StudyDescriber(Protocol):
    """Reads what a person recognises a study by from the head of an object."""

    def __call__(self, head: bytes) -> StudyDescription:
        """Return what the head says; nothing of it is an error."""
        ...


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """Return the wall clock, aware UTC; within one process it never goes back."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that only rises and runs on while the machine is suspended."""
        ...


class Telemetry(Protocol):
    """Where events and measurements go; never patient data, UIDs and AE titles may."""

    def event(self, name: str, /, **fields: str | int | float | None) -> None:
        """Tell of something that happened, such as `instance.staged`; names ending in `failed` or `lost` are errors."""
        ...

    def measure(self, name: str, value: float, unit: str = "Count") -> None:
        """Add a measurement; units are those of CloudWatch ("Count", "Bytes", "Seconds")."""
        ...
