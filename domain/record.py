"""
What the metadata table knows of instances, and which copy of an instance is the newest.

The objects of the staging area and the results are the truth; these records are a projection of them.
An instance has one entry in every batch that holds a copy of it, and one newest record.

Laws:
- Of two copies the one that its stage confirmed later is the newer; at the same moment the later batch's.
- An entry never goes back: only a higher attempt turns an outcome into "staged" again.
- A copy of which a newer one is staged or imported elsewhere is not imported; it is kept, and shown.
- A copy waits while an older one may be on its way into the data store, so that the newest bytes win.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import attrs

from domain.identifiers import AeTitle, BatchId, DataStoreId, Digest, ImageSetId, Uid
from domain.instance import InstanceKey
from domain.lifecycle import InstanceState
from domain.results import ImportOutcome
from domain.staging import StagedInstance, StagingKey

REMEMBERED = 20
"""How many of the last batches with older copies are remembered although they have ended."""

NO_OUTCOME = "no outcome: the import job's results do not mention this instance"


@attrs.frozen(kw_only=True)
class InstanceRecord:
    """
    One copy of an instance in one batch, and what became of it.

    Attributes:
        attempt: the attempt of the batch that this speaks of.
        staged_at: when its stage confirmed it, aware UTC.
        digest: None only where results name an object that nobody can find any more.
        conflict: why an operator should look: the data store, or we, hold other bytes or other study data for it.
        superseded_by: the batch whose copy was preferred.
        earlier: batches with older copies that may still be on their way into the data store, and the last of them;
            only the newest record has them.

    """

    key: InstanceKey
    series: Uid
    batch: BatchId
    staged_at: datetime
    attempt: int = 1
    sop_class: Uid | None = None
    digest: Digest | None = None
    size: int = 0
    received_at: datetime | None = None
    calling_ae_title: AeTitle | None = None
    state: InstanceState = InstanceState.STAGED
    reason: str | None = None
    is_server_error: bool = False
    data_store: DataStoreId | None = None
    image_set: ImageSetId | None = None
    image_set_version: int | None = None
    is_primary: bool | None = None
    warnings: tuple[str, ...] = ()
    conflict: str | None = None
    superseded_by: BatchId | None = None
    earlier: tuple[BatchId, ...] = ()

    @classmethod
    def of(cls, staged: StagedInstance, attempt: int) -> InstanceRecord:
        """Return the record of a staged object that was just listed."""
        instance = staged.instance
        return cls(
            key=instance.key,
            series=instance.series,
            batch=staged.key.batch,
            staged_at=staged.staged_at,
            attempt=attempt,
            sop_class=instance.sop_class,
            digest=instance.digest,
            size=instance.size,
            received_at=instance.received_at,
            calling_ae_title=instance.calling_ae_title,
        )

    @property
    def staging_key(self) -> StagingKey:
        """Where the copy is, or was, staged."""
        return StagingKey(
            batch=self.batch, study=self.key.study, series=self.series, sop_instance=self.key.sop_instance
        )

    @property
    def is_kept(self) -> bool:
        """Whether the bytes of this copy are, or will be, in the data store."""
        return self.state in {InstanceState.STAGED, InstanceState.IMPORTED}

    def is_newer_than(self, other: InstanceRecord) -> bool:
        """Tell whether this copy was confirmed after `other`."""
        return (self.staged_at, self.batch) > (other.staged_at, other.batch)

    def may_replace(self, stored: InstanceRecord) -> bool:
        """Tell whether this entry may be written over `stored`, an entry of the same batch and instance."""
        if self.attempt != stored.attempt:
            return self.attempt > stored.attempt and stored.state is not InstanceState.IMPORTED
        return self.state is not InstanceState.STAGED or stored.state is InstanceState.STAGED

    def settled(self, outcome: ImportOutcome, attempt: int, data_store: DataStoreId) -> InstanceRecord:
        """
        Return it with what the results of `attempt` say of it.

        A warning may leave out what an earlier record of the file said; where none says no, the image set is primary.
        """
        if outcome.is_imported:
            is_primary = self.is_primary is not False if outcome.is_primary is None else outcome.is_primary
            return attrs.evolve(
                self,
                attempt=attempt,
                state=InstanceState.IMPORTED,
                reason=None,
                is_server_error=False,
                data_store=data_store,
                image_set=outcome.image_set,
                image_set_version=outcome.image_set_version,
                is_primary=is_primary,
                warnings=outcome.warnings,
                conflict=None if is_primary else "imported into a non-primary image set",
            )
        return self.failed(outcome.reason or NO_OUTCOME, attempt, is_server_error=outcome.is_server_error)

    def failed(self, reason: str, attempt: int, *, is_server_error: bool = False) -> InstanceRecord:
        """Return it as not imported, with the reason."""
        return attrs.evolve(
            self,
            attempt=attempt,
            state=InstanceState.FAILED,
            reason=reason,
            is_server_error=is_server_error,
        )

    def superseded(self, newer: InstanceRecord) -> InstanceRecord:
        """Return it as not imported because `newer` is; only other bytes are a conflict."""
        same = self.digest is not None and self.digest == newer.digest
        return attrs.evolve(
            self,
            state=InstanceState.SUPERSEDED,
            superseded_by=newer.batch,
            reason=f"a newer copy is in batch {newer.batch}",
            conflict=None if same else f"a newer copy with other bytes is in batch {newer.batch}",
        )

    def forgetting(self, ended: frozenset[BatchId]) -> InstanceRecord:
        """
        Return it without the batches in `earlier` that have ended, all but the last few.

        Their next attempt is listed before it starts, and then sees this copy; an instance that is sent for ever would
        outgrow what a record may hold.
        """
        old, last = self.earlier[:-REMEMBERED], self.earlier[-REMEMBERED:]
        return attrs.evolve(self, earlier=(*(batch for batch in old if batch not in ended), *last))


def newest_of(candidate: InstanceRecord, stored: InstanceRecord | None) -> InstanceRecord | None:
    """
    Return what the newest record should become when `candidate` is listed, or None to leave `stored`.

    The batches that held the copies before are carried along: the new copy has to wait for them.
    So are batches whose older copy is listed later: it may be imported if the newer one fails, and a retry of the
    newer one has to wait for it.
    """
    if stored is None:
        return candidate
    if stored.batch == candidate.batch:
        updated = attrs.evolve(candidate, earlier=stored.earlier)
        return updated if candidate.may_replace(stored) and updated != stored else None
    if not candidate.is_newer_than(stored):
        if stored.state is InstanceState.IMPORTED or candidate.batch in stored.earlier:
            return None
        return attrs.evolve(stored, earlier=(candidate.batch, *stored.earlier))
    # A write that went astray and arrived late can make an older copy of the same batch the newest.
    before = (batch for batch in stored.earlier if batch != candidate.batch)
    return attrs.evolve(candidate, earlier=(*before, stored.batch))


def prefers(entry: InstanceRecord, newest: InstanceRecord | None) -> bool:
    """Tell whether `newest`, a copy in another batch, is to be imported instead of `entry`."""
    return newest is not None and newest.batch != entry.batch and newest.is_kept and newest.is_newer_than(entry)


@attrs.frozen(kw_only=True)
class StudyHolding:
    """
    What one batch holds of one study: counts of the instances whose newest copy is there.

    Readers add holdings up; writing one twice changes nothing.

    Attributes:
        failed: settled as failed; a batch that failed as a whole counts its pending ones as failed when read.
        conflicts: non-primary or superseded copies in this batch.
        size: bytes of the objects counted in `received`.

    """

    study: Uid
    batch: BatchId
    received: int = 0
    imported: int = 0
    failed: int = 0
    conflicts: int = 0
    size: int = 0
    first_received: datetime
    last_received: datetime

    @property
    def pending(self) -> int:
        """Neither imported nor failed yet."""
        return self.received - self.imported - self.failed


def holdings_of(
    entries: Iterable[InstanceRecord], newest: Mapping[InstanceKey, InstanceRecord]
) -> dict[Uid, StudyHolding]:
    """Count, per study, what the entries of one batch hold; what has a newer copy elsewhere counts there."""
    holdings: dict[Uid, StudyHolding] = {}
    for entry in entries:
        received = entry.received_at or entry.staged_at
        before = holdings.get(entry.key.study) or StudyHolding(
            study=entry.key.study, batch=entry.batch, first_received=received, last_received=received
        )
        record = newest.get(entry.key)
        is_here = record is None or record.batch == entry.batch
        counts = is_here and entry.state is not InstanceState.SUPERSEDED
        holdings[entry.key.study] = attrs.evolve(
            before,
            received=before.received + counts,
            imported=before.imported + (counts and entry.state is InstanceState.IMPORTED),
            failed=before.failed + (counts and entry.state is InstanceState.FAILED),
            conflicts=before.conflicts + (entry.conflict is not None),
            size=before.size + (entry.size if counts else 0),
            first_received=min(before.first_received, received),
            last_received=max(before.last_received, received),
        )
    return holdings


def add_holdings(first: StudyHolding, second: StudyHolding) -> StudyHolding:
    """Add up two holdings of one study (of different batches, or of parts of one batch)."""
    return attrs.evolve(
        first,
        received=first.received + second.received,
        imported=first.imported + second.imported,
        failed=first.failed + second.failed,
        conflicts=first.conflicts + second.conflicts,
        size=first.size + second.size,
        first_received=min(first.first_received, second.first_received),
        last_received=max(first.last_received, second.last_received),
    )


@attrs.frozen(kw_only=True)
class StudyRecord:
    """
    What a person recognises a study by; patient name and ID only where a setting allows it.

    Attributes:
        study_date: as in the data set (DA: YYYYMMDD), or None.
        modalities: of the series seen, sorted.
        first_received: the earliest instance of any batch, aware UTC.
        last_received: the latest instance of any batch, aware UTC.

    """

    study: Uid
    first_received: datetime
    last_received: datetime
    study_date: str | None = None
    modalities: tuple[str, ...] = ()
    accession_number: str | None = None
    description: str | None = None
    patient_name: str | None = None
    patient_id: str | None = None

    def merged(self, newer: StudyRecord) -> StudyRecord:
        """Return it with what `newer` adds: texts replace, times widen, modalities gather."""
        return attrs.evolve(
            self,
            first_received=min(self.first_received, newer.first_received),
            last_received=max(self.last_received, newer.last_received),
            study_date=newer.study_date or self.study_date,
            modalities=tuple(sorted({*self.modalities, *newer.modalities})),
            accession_number=newer.accession_number or self.accession_number,
            description=newer.description or self.description,
            patient_name=newer.patient_name or self.patient_name,
            patient_id=newer.patient_id or self.patient_id,
        )


@attrs.frozen(kw_only=True)
class StudyDescription:
    """What the head of one object says of its study, for people; None where it is silent."""

    study_date: str | None = None
    modality: str | None = None
    accession_number: str | None = None
    description: str | None = None
    patient_name: str | None = None
    patient_id: str | None = None
