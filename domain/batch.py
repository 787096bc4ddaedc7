"""
Batches: what may join an open one, when it closes, and how its record moves through the states.

A batch is a prefix of the staging area that one import job takes.
It belongs to one receiver process; that process alone writes to it, and a closed batch never changes.

Laws:
- An instance joins when it is complete and every limit still holds with it; else the batch closes first.
- One SOP Instance UID stands in a batch once: the same bytes again are a repeat, other bytes go to the next batch.
- A batch with a lease takes nothing once the lease has run out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import attrs

from domain.identifiers import BatchId, Digest, ImportJobId, Uid
from domain.instance import SopInstance
from domain.lifecycle import STARTED, BatchState, check_batch_transition


class CloseReason(StrEnum):
    """Why a batch was closed."""

    QUIET = "quiet"
    AGE = "age"
    FILES = "files"
    BYTES = "bytes"
    OTHER_BYTES = "other bytes for a UID it holds"
    SUSPECT = "the stage could not confirm its folder"
    STOPPING = "stopping"
    RECOVERED = "recovered"
    REHOUSED = "rehoused"


@attrs.frozen(kw_only=True)
class BatchPolicy:
    """
    When an open batch closes: at the first of these limits.

    The defaults stay below what one import job takes (5,000 files, 10 GB of 10^9 bytes).
    """

    quiet_seconds: float = 15.0
    max_age_seconds: float = 60.0
    max_files: int = 4_500
    max_bytes: int = 9_000_000_000


@attrs.frozen(kw_only=True)
class LeasePolicy:
    """
    How long an owner may write to its batch without renewing, and how long recovery waits beyond that.

    Attributes:
        seconds: length of a lease, counted from before it was asked for.
        renew_every_seconds: how often the owner renews.
        recovery_margin_seconds: more than the clocks of two machines may differ.

    """

    seconds: float = 600.0
    renew_every_seconds: float = 30.0
    recovery_margin_seconds: float = 150.0

    def expiry(self, now: datetime) -> datetime:
        """Return until when a lease asked for at `now` holds."""
        return now + timedelta(seconds=self.seconds)

    def is_abandoned(self, batch: Batch, now: datetime) -> bool:
        """Tell whether the owner of an open batch can no longer be writing to it, whatever its clock says."""
        if batch.lease_expires_at is None:
            return False
        return now > batch.lease_expires_at + timedelta(seconds=self.recovery_margin_seconds)


@attrs.frozen(kw_only=True)
class Batch:
    """
    The record of a batch.

    Attributes:
        owner: the receiver process that writes to it.
        lease_expires_at: until when the owner may write; None where the owner holds a lock instead.
        attempt: raised by retry only; names the import job together with the id.
        run: raised by recovery only; names the workflow execution together with id and attempt.
        is_cleared: its objects are entered for this attempt, and batches with newer copies wait for it.
        files: objects that the import takes, 0 until that is decided; then the import may start at any moment.
        size: their bytes.
        job_id: the import job of this attempt.
        previous_job_id: the job of the attempt before, when its results were never recorded.
        server_retries: how often this batch was retried by itself after errors of the service.
        reason: why it FAILED.
        is_told: people were told that it FAILED.
        revision: raised by every change; a change is made only to the revision that was read.

    """

    id: BatchId
    owner: str
    opened_at: datetime
    state: BatchState = BatchState.OPEN
    lease_expires_at: datetime | None = None
    closed_at: datetime | None = None
    close_reason: CloseReason | None = None
    attempt: int = 1
    run: int = 1
    is_cleared: bool = False
    files: int = 0
    size: int = 0
    job_id: ImportJobId | None = None
    previous_job_id: ImportJobId | None = None
    submitted_at: datetime | None = None
    settled_at: datetime | None = None
    server_retries: int = 0
    reason: str | None = None
    is_told: bool = False
    revision: int = 1

    @property
    def is_started(self) -> bool:
        """Whether an import job may be reading the prefix, now or at any moment."""
        return self.state in STARTED or (self.state is BatchState.CLOSED and self.is_cleared)

    @property
    def is_unlisted(self) -> bool:
        """Whether it is not decided yet what the import takes, so that only its listing tells what is in it."""
        if self.state is BatchState.FAILED:
            return not self.files
        return self.state is BatchState.OPEN or (self.state is BatchState.CLOSED and not self.is_cleared)

    @property
    def job_name(self) -> str:
        """Client token and name of the import job of this attempt: at most 64 of [A-Za-z0-9_-]."""
        return f"{self.id}-{self.attempt}"

    @property
    def execution_name(self) -> str:
        """Name of the workflow execution of this run."""
        return f"{self.id}-{self.attempt}-{self.run}"

    def renewed(self, lease_expires_at: datetime) -> Batch:
        """Return it with a longer lease."""
        return self._next(lease_expires_at=lease_expires_at)

    def closed(self, now: datetime, reason: CloseReason) -> Batch:
        """Return it closed."""
        return self._to(BatchState.CLOSED, closed_at=now, close_reason=reason, lease_expires_at=None)

    @property
    def is_measured(self) -> bool:
        """Whether it is decided, for this attempt, what the import takes."""
        return self.is_cleared and self.files > 0

    def cleared(self, *, files: int = 0, size: int = 0) -> Batch:
        """Return it with its objects entered: whatever else lists now sees that it may be started."""
        return self._next(is_cleared=True, files=files, size=size)

    def measured(self, *, files: int, size: int) -> Batch:
        """Return it with what is to be imported after newer copies elsewhere were preferred."""
        return self._next(files=files, size=size)

    def submitted(self, job_id: ImportJobId, now: datetime) -> Batch:
        """Return it with its accepted import job."""
        return self._to(BatchState.SUBMITTED, job_id=job_id, submitted_at=now)

    def importing(self) -> Batch:
        """Return it as seen in progress."""
        return self._to(BatchState.IMPORTING)

    def settled(self, now: datetime) -> Batch:
        """Return it with every instance accounted for."""
        return self._to(BatchState.SETTLED, settled_at=now, is_cleared=False, reason=None, previous_job_id=None)

    def failed(self, reason: str) -> Batch:
        """Return it failed as a whole."""
        return self._to(BatchState.FAILED, reason=reason, is_cleared=False)

    def told(self) -> Batch:
        """Return it FAILED as before, and people know."""
        return self._next(is_told=True)

    def retried(self, *, by_itself: bool) -> Batch:
        """
        Return it closed again for another attempt.

        The job of a FAILED attempt is remembered: its results are read again before anything is imported twice.
        """
        return self._to(
            BatchState.CLOSED,
            attempt=self.attempt + 1,
            run=1,
            is_cleared=False,
            previous_job_id=self.job_id or self.previous_job_id if self.state is BatchState.FAILED else None,
            job_id=None,
            submitted_at=None,
            settled_at=None,
            reason=None,
            is_told=False,
            server_retries=self.server_retries + 1 if by_itself else 0,
        )

    def rerun(self) -> Batch:
        """Return it for another run of the workflow: the same attempt goes on from its record."""
        return self._next(run=self.run + 1)

    def read_again(self) -> Batch:
        """Return it with the results of its previous attempt recorded."""
        return self._next(previous_job_id=None)

    def _to(self, state: BatchState, **changes: object) -> Batch:
        check_batch_transition(self.state, state)
        return self._next(state=state, **changes)

    def _next(self, **changes: object) -> Batch:
        return attrs.evolve(self, revision=self.revision + 1, **changes)  # type: ignore[arg-type]  # fields are named above


class Join(StrEnum):
    """What an open batch answers to a complete instance."""

    JOINS = "joins"
    REPEAT = "repeat"  # the same bytes are already durable here
    WAIT = "wait"  # the same UID is being written just now
    NEXT_BATCH = "next batch"  # this one has to close first


@attrs.define
class _Entry:
    digest: Digest
    is_durable: bool = False
    is_uncertain: bool = False


@attrs.define
class OpenBatch:
    """
    What the owner knows of the batch it is writing to; not shared between threads without a lock.

    Attributes:
        joined_at: when the last store joined or ended, on the monotonic clock in seconds.
        opened_at: when it was opened, on the same clock.

    """

    batch: Batch
    policy: BatchPolicy
    opened_at: float
    joined_at: float
    close_reason: CloseReason | None = None
    files: int = 0
    size: int = 0
    in_flight: int = 0
    _entries: dict[Uid, _Entry] = attrs.field(factory=dict)

    def answer(self, instance: SopInstance) -> Join:
        """
        Tell what happens to `instance` here; changes nothing but the reason to close.

        A UID whose write ended in an error may have left an object behind: the same bytes may be written again,
        other bytes may not, since a late answer of the stage could put the old ones on top.
        """
        entry = self._entries.get(instance.sop_instance)
        if entry is not None:
            if entry.is_durable and entry.digest == instance.digest:
                return Join.REPEAT
            if not entry.is_durable and not entry.is_uncertain:
                return Join.WAIT
            if entry.digest != instance.digest:
                return self._closes(CloseReason.OTHER_BYTES)
        if self.close_reason is not None:
            return Join.NEXT_BATCH
        if entry is not None:
            return Join.JOINS
        if self.files + 1 > self.policy.max_files:
            return self._closes(CloseReason.FILES)
        if self.files and self.size + instance.size > self.policy.max_bytes:
            return self._closes(CloseReason.BYTES)
        return Join.JOINS

    def begin(self, instance: SopInstance, now: float) -> None:
        """Count `instance` in; its write to the stage starts."""
        if instance.sop_instance not in self._entries:
            self.files += 1
            self.size += instance.size
        self._entries[instance.sop_instance] = _Entry(instance.digest)
        self.in_flight += 1
        self.joined_at = now

    def confirm(self, instance: SopInstance, now: float) -> None:
        """Note that `instance` is durable."""
        self._entries[instance.sop_instance].is_durable = True
        self.in_flight -= 1
        self.joined_at = now

    def doubt(self, instance: SopInstance, now: float, *, suspect: bool) -> None:
        """
        Note that the write of `instance` ended in an error: an object may or may not be there.

        Args:
            instance: what was being written.
            now: the monotonic clock, in seconds.
            suspect: nothing further may be staged here.

        """
        self._entries[instance.sop_instance].is_uncertain = True
        self.in_flight -= 1
        self.joined_at = now
        if suspect:
            self._closes(CloseReason.SUSPECT)

    def due(self, now: float) -> CloseReason | None:
        """Return why it should close at `now` (monotonic, seconds), or None."""
        if self.close_reason is not None:
            return self.close_reason
        if now - self.opened_at >= self.policy.max_age_seconds:
            return CloseReason.AGE
        if not self.in_flight and now - self.joined_at >= self.policy.quiet_seconds:
            return CloseReason.QUIET
        return None

    def close(self, reason: CloseReason) -> None:
        """Take nothing further."""
        self._closes(reason)

    def _closes(self, reason: CloseReason) -> Join:
        if self.close_reason is None:
            self.close_reason = reason
        return Join.NEXT_BATCH
