"""
Answer for what was received: where is this study, this instance, this batch?

Listed batches are answered from the metadata table, the others from their listing, whose keys name study, series and
instance: a study shows the moment its first image is safe.
received = imported + failed + pending, counted by SOP instance.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import attrs

from domain.batch import Batch
from domain.errors import NotFound
from domain.identifiers import BatchId, Uid
from domain.instance import InstanceKey
from domain.lifecycle import MAYBE_UNLISTED, BatchState, InstanceState
from domain.ports import MetadataStore, StagingArea
from domain.record import InstanceRecord, StudyRecord
from domain.staging import StagedObject
from services.settle_instances import chunks


class StudyState(StrEnum):
    """How a study stands, the worst first."""

    FAILED = "failed"  # some instance failed
    CONFLICT = "conflict"  # some went to a non-primary image set, or were superseded
    RECEIVING = "receiving"  # in an open batch
    PENDING = "pending"  # safe, and on its way
    IMPORTED = "imported"


@attrs.frozen(kw_only=True)
class StudyStatus:
    """
    How one study stands.

    Attributes:
        size: bytes of the objects received.
        record: what a person recognises it by; None until its batch is listed.

    """

    study: Uid
    received: int = 0
    imported: int = 0
    failed: int = 0
    conflicts: int = 0
    size: int = 0
    is_receiving: bool = False
    first_received: datetime | None = None
    last_received: datetime | None = None
    record: StudyRecord | None = None

    @property
    def pending(self) -> int:
        """Neither imported nor failed yet."""
        return self.received - self.imported - self.failed

    @property
    def state(self) -> StudyState:
        """The worst that can be said of it."""
        if self.failed:
            return StudyState.FAILED
        if self.conflicts:
            return StudyState.CONFLICT
        if self.is_receiving:
            return StudyState.RECEIVING
        return StudyState.PENDING if self.pending else StudyState.IMPORTED


@attrs.frozen(kw_only=True)
class Overview:
    """Everything that was received since a moment, and every batch by state."""

    studies: tuple[StudyStatus, ...]
    batches: dict[BatchState, int]

    @property
    def received(self) -> int:
        """Instances received."""
        return sum(study.received for study in self.studies)

    @property
    def imported(self) -> int:
        """Instances in the data store."""
        return sum(study.imported for study in self.studies)

    @property
    def failed(self) -> int:
        """Instances that were not imported."""
        return sum(study.failed for study in self.studies)

    @property
    def pending(self) -> int:
        """Instances on their way."""
        return sum(study.pending for study in self.studies)

    @property
    def size(self) -> int:
        """Bytes received."""
        return sum(study.size for study in self.studies)


@attrs.frozen(kw_only=True)
class InstanceStatus:
    """
    How one instance stands.

    Attributes:
        state: as for its record, but failed when its batch failed as a whole.
        reason: why it failed, of the instance or of its batch.
        record: None until its batch is listed.

    """

    key: InstanceKey
    series: Uid
    batch: BatchId
    state: InstanceState
    reason: str | None = None
    size: int = 0
    record: InstanceRecord | None = None


@attrs.frozen(kw_only=True)
class Failure:
    """
    One instance that was not imported, or a batch that failed as a whole (`key` is None).

    Attributes:
        reason: what went wrong; may quote the data set, so it is for the operator's eyes and never for a log.

    """

    batch: BatchId
    reason: str
    key: InstanceKey | None = None
    record: InstanceRecord | None = None


class _Unlisted(NamedTuple):
    """An object of a batch that was not listed yet."""

    staged: StagedObject
    batch: Batch


@attrs.frozen(kw_only=True)
class ReportStatus:
    """
    Answer questions about what was received; changes nothing.

    Every method raises MetadataUnavailable or StageFailed when a store is away.
    """

    staging: StagingArea
    metadata: MetadataStore

    def overview(self, since: datetime) -> Overview:
        """Return the studies of which something was received since `since`, latest first, and all batches by state."""
        failed = self._failed_batches()
        studies = {
            record.study: self._from_holdings(record, failed) for record in self.metadata.studies(received_since=since)
        }
        for chunk in chunks(self._unlisted()):
            self._overlay(chunk, studies, failed, since)
        latest_first = sorted(
            studies.values(), key=lambda study: (study.last_received is not None, study.last_received), reverse=True
        )
        counts = dict.fromkeys(BatchState, 0)
        for batch in self.metadata.batches([state for state in BatchState if state is not BatchState.SETTLED]):
            counts[batch.state] += 1
        counts[BatchState.SETTLED] = sum(1 for _ in self.metadata.batches([BatchState.SETTLED], opened_since=since))
        return Overview(studies=tuple(latest_first), batches=counts)

    def study(self, study: Uid) -> tuple[StudyStatus, list[InstanceStatus]]:
        """
        Return how a study stands, with its instances by UID.

        Raises:
            NotFound: nothing of it was ever received.

        """
        failed = self._failed_batches()
        instances = {record.key: self._from_record(record, failed) for record in self.metadata.instances(study)}
        is_receiving = False
        times: list[datetime] = []
        for staged, batch in self._unlisted():
            key = staged.key.instance_key
            if key.study == study and _is_news(staged, batch, instances[key].record if key in instances else None):
                instances[key] = _from_listing(staged, batch)
                is_receiving = is_receiving or batch.state is BatchState.OPEN
                times.append(staged.modified_at or batch.opened_at)
        if not instances:
            raise NotFound("study", study.value)
        listed = [instances[key] for key in sorted(instances, key=lambda key: key.sop_instance)]
        return self._count(study, listed, times, is_receiving=is_receiving), listed

    def instance(self, sop_instance: Uid) -> list[InstanceStatus]:
        """
        Return how an instance stands, once for each study that has it.

        Raises:
            NotFound: it was never received.

        """
        failed = self._failed_batches()
        found = {record.key: self._from_record(record, failed) for record in self.metadata.find_instance(sop_instance)}
        for staged, batch in self._unlisted():
            key = staged.key.instance_key
            if key.sop_instance == sop_instance and _is_news(
                staged, batch, found[key].record if key in found else None
            ):
                found[key] = _from_listing(staged, batch)
        if not found:
            raise NotFound("instance", sop_instance.value)
        return list(found.values())

    def batches(self, since: datetime) -> list[Batch]:
        """Return every batch that has not settled and those opened since `since`, latest first."""
        unfinished = self.metadata.batches([state for state in BatchState if state is not BatchState.SETTLED])
        settled = self.metadata.batches([BatchState.SETTLED], opened_since=since)
        return sorted((*unfinished, *settled), key=lambda batch: batch.id, reverse=True)

    def batch(self, batch_id: BatchId) -> tuple[Batch, list[InstanceStatus]]:
        """
        Return a batch with the instances in it.

        Raises:
            NotFound: nobody knows it.

        """
        batch = self.metadata.batch(batch_id)
        if batch is None:
            raise NotFound("batch", batch_id.value)
        failed = {batch_id: batch.reason or ""} if batch.state is BatchState.FAILED else {}
        instances = {entry.key: self._from_record(entry, failed) for entry in self.metadata.entries(batch_id)}
        if batch.is_unlisted:
            for staged in self.staging.list(batch_id):
                instances.setdefault(staged.key.instance_key, _from_listing(staged, batch))
        return batch, list(instances.values())

    def failures(self) -> Iterator[Failure]:
        """Yield the batches that failed as a whole, then every instance that failed, by batch."""
        for batch in self.metadata.batches([BatchState.FAILED]):
            yield Failure(batch=batch.id, reason=batch.reason or "no reason was recorded")
        for record in self.metadata.failures():
            yield Failure(batch=record.batch, reason=record.reason or "", key=record.key, record=record)

    def conflicts(self) -> Iterator[Failure]:
        """Yield what went to a non-primary image set or was superseded by other bytes, by batch."""
        for record in self.metadata.conflicts():
            yield Failure(batch=record.batch, reason=record.conflict or "", key=record.key, record=record)

    def _failed_batches(self) -> dict[BatchId, str]:
        return {batch.id: batch.reason or "" for batch in self.metadata.batches([BatchState.FAILED])}

    def _unlisted(self) -> Iterator[_Unlisted]:
        """Yield the objects of batches that were not listed yet, of each instance only the newest."""
        seen: set[InstanceKey] = set()
        batches = [batch for batch in self.metadata.batches(MAYBE_UNLISTED) if batch.is_unlisted]
        for batch in reversed(batches):
            for staged in self.staging.list(batch.id):
                if staged.key.instance_key not in seen:
                    seen.add(staged.key.instance_key)
                    yield _Unlisted(staged, batch)

    def _from_holdings(self, record: StudyRecord, failed: dict[BatchId, str]) -> StudyStatus:
        holdings = self.metadata.holdings(record.study)
        return StudyStatus(
            study=record.study,
            received=sum(held.received for held in holdings),
            imported=sum(held.imported for held in holdings),
            failed=sum(held.failed + (held.pending if held.batch in failed else 0) for held in holdings),
            conflicts=sum(held.conflicts for held in holdings),
            size=sum(held.size for held in holdings),
            first_received=min((held.first_received for held in holdings), default=record.first_received),
            last_received=max((held.last_received for held in holdings), default=record.last_received),
            record=record,
        )

    def _count(
        self, study: Uid, instances: list[InstanceStatus], times: list[datetime], *, is_receiving: bool
    ) -> StudyStatus:
        """Count the instances of one study themselves: exact also while a batch is being listed."""
        record = self.metadata.study(study)
        if record is not None:
            times = [*times, record.first_received, record.last_received]
        return StudyStatus(
            study=study,
            received=len(instances),
            imported=sum(each.state is InstanceState.IMPORTED for each in instances),
            failed=sum(each.state is InstanceState.FAILED for each in instances),
            conflicts=sum(held.conflicts for held in self.metadata.holdings(study)),
            size=sum(each.size for each in instances),
            is_receiving=is_receiving,
            first_received=min(times, default=None),
            last_received=max(times, default=None),
            record=record,
        )

    def _overlay(
        self,
        unlisted: list[_Unlisted],
        studies: dict[Uid, StudyStatus],
        failed: dict[BatchId, str],
        since: datetime | None,
    ) -> None:
        """Count objects that were not listed yet: new ones, or newer copies of what the table knows."""
        newest = self.metadata.newest([staged.key.instance_key for staged, _ in unlisted])
        for staged, batch in unlisted:
            written_at = staged.modified_at or batch.opened_at
            status = studies.get(staged.key.study) or self._known(staged.key.study, failed)
            if since is not None and written_at < since and staged.key.study not in studies:
                continue
            stored = newest.get(staged.key.instance_key)
            if not _is_news(staged, batch, stored):
                continue
            before = None if stored is None else self._from_record(stored, failed).state
            is_failed = batch.state is BatchState.FAILED
            studies[staged.key.study] = attrs.evolve(
                status,
                received=status.received + (stored is None),
                imported=status.imported - (before is InstanceState.IMPORTED),
                failed=status.failed - (before is InstanceState.FAILED) + is_failed,
                size=status.size + staged.size - (0 if stored is None else stored.size),
                is_receiving=status.is_receiving or batch.state is BatchState.OPEN,
                first_received=min(status.first_received or written_at, written_at),
                last_received=max(status.last_received or written_at, written_at),
            )

    def _known(self, study: Uid, failed: dict[BatchId, str]) -> StudyStatus:
        record = self.metadata.study(study)
        return StudyStatus(study=study) if record is None else self._from_holdings(record, failed)

    def _from_record(self, record: InstanceRecord, failed: dict[BatchId, str]) -> InstanceStatus:
        state, reason = record.state, record.reason
        if state is InstanceState.STAGED and record.batch in failed:
            state, reason = InstanceState.FAILED, failed[record.batch]
        return InstanceStatus(
            key=record.key,
            series=record.series,
            batch=record.batch,
            state=state,
            reason=reason,
            size=record.size,
            record=record,
        )


def _is_news(staged: StagedObject, batch: Batch, stored: InstanceRecord | None) -> bool:
    """Tell whether an object of an unlisted batch says more than `stored`, the newest record of its instance."""
    if stored is None:
        return True
    if stored.batch != batch.id:
        # What waits is newer than what was listed; a failed batch may have been overtaken since.
        return batch.state is not BatchState.FAILED or (staged.modified_at or batch.opened_at) > stored.staged_at
    # A batch that is imported again: what is in the data store already is only not given up yet.
    return stored.state in {InstanceState.STAGED, InstanceState.FAILED}


def _from_listing(staged: StagedObject, batch: Batch) -> InstanceStatus:
    is_failed = batch.state is BatchState.FAILED
    return InstanceStatus(
        key=staged.key.instance_key,
        series=staged.key.series,
        batch=batch.id,
        state=InstanceState.FAILED if is_failed else InstanceState.STAGED,
        reason=batch.reason if is_failed else None,
        size=staged.size,
    )
