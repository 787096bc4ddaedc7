"""
List a closed batch: enter every object, let the newest copies win, and clear the batch for its import.

Two batches may hold copies of one instance, on two receivers.
Each enters its copies first and is cleared second; clearing fails while an older copy may be on its way into the
data store.
After clearing, the records are read once more: whoever entered a newer copy before that sees this batch started, or
is seen here.
So of two copies either the older is not imported, or the newer waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

import attrs

from domain.batch import Batch
from domain.errors import ImportRefused, ResultsNotReady, ResultsUnreadable
from domain.identifiers import BatchId, ImportJobId, Uid
from domain.import_job import ImportJobStatus
from domain.instance import InstanceKey
from domain.lifecycle import BatchState, InstanceState
from domain.ports import Clock, Importer, MetadataStore, ResultsReader, StagingArea, StudyDescriber, Telemetry
from domain.record import InstanceRecord, StudyRecord, prefers
from domain.staging import StagedInstance, StagedObject
from services.settle_instances import Entered, SettleInstances, chunks

_HEAD_BYTES = 65_536
_RUNNING = frozenset({ImportJobStatus.SUBMITTED, ImportJobStatus.IN_PROGRESS})


class Listing(StrEnum):
    """What a listing came to."""

    READY = "ready"  # cleared: the import may start
    WAIT = "wait"  # an older copy of an instance may be on its way into the data store
    SETTLED = "settled"  # nothing is left to import
    STALE = "stale"  # the batch has gone on without us


@attrs.frozen(kw_only=True)
class ListBatch:
    """List a closed batch and clear it for its import; may be repeated at any point."""

    staging: StagingArea
    metadata: MetadataStore
    importer: Importer
    results: ResultsReader
    settle: SettleInstances
    describe_study: StudyDescriber
    clock: Clock
    telemetry: Telemetry

    def __call__(self, batch_id: BatchId) -> Listing:
        """
        Enter the objects of a CLOSED batch and decide which of them are imported.

        Raises:
            MetadataUnavailable: the metadata store is away; repeat later.

        """
        batch = self.metadata.batch(batch_id)
        if batch is None or batch.state is not BatchState.CLOSED:
            return Listing.STALE
        if batch.is_measured:
            # Decided once: an import job may be reading the prefix already.
            return Listing.READY
        if not batch.is_cleared:
            if batch.previous_job_id is not None:
                read = self._read_again(batch, batch.previous_job_id)
                if isinstance(read, Listing):
                    return read
                batch = read
            cleared = self._clear(batch)
            if isinstance(cleared, Listing):
                return cleared
            batch = cleared
        return self._prefer_newer(batch)

    def _read_again(self, batch: Batch, previous: ImportJobId) -> Batch | Listing:
        """Record what the attempt before imported after all, so that nothing is imported twice."""
        try:
            job = self.importer.describe(previous)
            if job.status in _RUNNING:
                return Listing.WAIT
            if job.status is ImportJobStatus.COMPLETED:
                outcomes = self.results.outcomes(job)
                self.settle.record(batch.id, batch.attempt - 1, outcomes, self.importer.data_store)
        except (ImportRefused, ResultsNotReady, ResultsUnreadable):
            self.telemetry.event("results.unreadable_again", batch=batch.id.value)
        read = batch.read_again()
        return read if self.metadata.replace_batch(batch, read) else Listing.STALE

    def _clear(self, batch: Batch) -> Batch | Listing:
        if self._is_held_up(batch):
            return Listing.WAIT
        entered = self._enter(batch)
        for batch_id in (batch.id, *entered.displaced):
            self.settle.refresh_holdings(batch_id)
        unfinished = self._unfinished(entered.others)
        self.settle.forget(batch.id, entered.others - unfinished)
        cleared = batch.cleared()
        if self.metadata.clear_batch(batch, cleared, unfinished):
            return cleared
        stored = self.metadata.batch(batch.id)
        if stored is None or stored.revision != batch.revision:
            return Listing.STALE
        return Listing.WAIT

    def _unfinished(self, batch_ids: frozenset[BatchId]) -> frozenset[BatchId]:
        """Leave out what has ended: its next attempt would see the newer copies that were entered before this."""
        ended = {BatchState.SETTLED, BatchState.FAILED}
        batches = (self.metadata.batch(batch_id) for batch_id in batch_ids)
        return frozenset(batch.id for batch in batches if batch is not None and batch.state not in ended)

    def _is_held_up(self, batch: Batch) -> bool:
        """Tell from what an earlier look entered whether this batch still has to wait, without listing it again."""
        earlier: set[BatchId] = set()
        for chunk in chunks(self._staged_entries(batch)):
            for newest in self.metadata.newest([entry.key for entry in chunk]).values():
                earlier.update(newest.earlier)
        others = (self.metadata.batch(batch_id) for batch_id in sorted(earlier))
        return any(other is not None and other.is_started for other in others)

    def _enter(self, batch: Batch) -> Entered:
        """Enter what the prefix holds, except what is imported already."""
        imported = {entry.key for entry in self.metadata.entries(batch.id) if entry.state is InstanceState.IMPORTED}
        others: set[BatchId] = set()
        displaced: set[BatchId] = set()
        described: set[tuple[Uid, Uid]] = set()
        for objects in chunks(self.staging.list(batch.id)):
            # Recorded as imported, and a failure kept it from being given up: not to be imported twice.
            self.staging.discard(staged for staged in objects if staged.key.instance_key in imported)
            wanted = [staged for staged in objects if staged.key.instance_key not in imported]
            found = list(self.staging.facts(wanted))
            entered = self.settle.enter([InstanceRecord.of(staged, batch.attempt) for staged in found])
            others |= entered.others
            displaced |= entered.displaced
            self._describe(wanted, found, described)
        return Entered(others=frozenset(others), displaced=frozenset(displaced))

    def _describe(
        self, objects: list[StagedObject], found: list[StagedInstance], described: set[tuple[Uid, Uid]]
    ) -> None:
        """Read what a person recognises a study by from the head of one object a series."""
        by_key = {staged.key: staged for staged in objects}
        for staged in found:
            series = (staged.key.study, staged.key.series)
            if series in described:
                continue
            described.add(series)
            head = self.staging.read_head(by_key[staged.key], _HEAD_BYTES)
            texts = self.describe_study(head)
            times = [other.instance.received_at for other in found if other.key.study == staged.key.study]
            self.metadata.put_study(
                StudyRecord(
                    study=staged.key.study,
                    first_received=min(times),
                    last_received=max(times),
                    study_date=texts.study_date,
                    modalities=(texts.modality,) if texts.modality else (),
                    accession_number=texts.accession_number,
                    description=texts.description,
                    patient_name=texts.patient_name,
                    patient_id=texts.patient_id,
                )
            )

    def _prefer_newer(self, batch: Batch) -> Listing:
        """Set aside every copy of which a newer one is staged or imported elsewhere."""
        files = size = 0
        for chunk in chunks(self._staged_entries(batch)):
            newest = self.metadata.newest([entry.key for entry in chunk])
            superseded = _superseded(chunk, newest)
            self.metadata.put_entries(superseded)
            for entry in superseded:
                self.telemetry.event(
                    "instance.superseded", batch=batch.id.value, sop_instance=entry.key.sop_instance.value
                )
            files += len(chunk) - len(superseded)
            size += sum(entry.size for entry in chunk) - sum(entry.size for entry in superseded)
        for entry in self.metadata.entries(batch.id):
            if entry.state is InstanceState.SUPERSEDED:
                # Also what an earlier look entered and a failure kept from being moved.
                self.staging.supersede(StagedObject(key=entry.staging_key, size=entry.size))
        self.settle.refresh_holdings(batch.id)
        if files:
            is_ours = self.metadata.replace_batch(batch, batch.measured(files=files, size=size))
            return Listing.READY if is_ours else Listing.STALE
        if not self.metadata.replace_batch(batch, batch.settled(self.clock.now())):
            return Listing.STALE
        self.telemetry.event("batch.settled", batch=batch.id.value, files=0)
        return Listing.SETTLED

    def _staged_entries(self, batch: Batch) -> Iterator[InstanceRecord]:
        for entry in self.metadata.entries(batch.id):
            if entry.state is InstanceState.STAGED and entry.attempt == batch.attempt:
                yield entry


def _superseded(
    entries: Sequence[InstanceRecord], newest: Mapping[InstanceKey, InstanceRecord]
) -> list[InstanceRecord]:
    superseded = []
    for entry in entries:
        other = newest.get(entry.key)
        if other is not None and prefers(entry, other):
            superseded.append(entry.superseded(other))
    return superseded
