"""
MemoryMetadataStore: the metadata table as dicts, for tests and for trying things out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import attrs

from domain.batch import Batch
from domain.commitment import CommitmentRequest
from domain.identifiers import BatchId, Uid
from domain.instance import InstanceKey
from domain.lifecycle import BatchState, InstanceState
from domain.record import InstanceRecord, StudyHolding, StudyRecord

Hook = Callable[[str], None]


def _no_hook(_method: str) -> None:
    """Do nothing."""


@attrs.define
class MemoryMetadataStore:
    """
    A MetadataStore and CommitmentStore (domain/ports.py) in memory, safe to share between threads.

    Each method is one step that no other call divides; what an iterator yields is of the moment it was begun.

    Attributes:
        before: called with the method's name before it has any effect; what it raises is what the caller gets.
        after: the same once the effect is there: the answer that was lost on its way.

    """

    before: Hook = _no_hook
    after: Hook = _no_hook
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)
    _batches: dict[BatchId, Batch] = attrs.field(factory=dict, init=False, repr=False)
    _newest: dict[InstanceKey, InstanceRecord] = attrs.field(factory=dict, init=False, repr=False)
    _entries: dict[BatchId, dict[InstanceKey, InstanceRecord]] = attrs.field(factory=dict, init=False, repr=False)
    _holdings: dict[Uid, dict[BatchId, StudyHolding]] = attrs.field(factory=dict, init=False, repr=False)
    _studies: dict[Uid, StudyRecord] = attrs.field(factory=dict, init=False, repr=False)
    _commitments: dict[Uid, CommitmentRequest] = attrs.field(factory=dict, init=False, repr=False)

    def add_batch(self, batch: Batch) -> bool:
        """Write the record of a new batch; False if there is one already."""
        self.before("add_batch")
        with self._lock:
            is_new = batch.id not in self._batches
            self._batches.setdefault(batch.id, batch)
        self.after("add_batch")
        return is_new

    def batch(self, batch_id: BatchId) -> Batch | None:
        """Return the record of a batch as it is now."""
        self.before("batch")
        with self._lock:
            found = self._batches.get(batch_id)
        self.after("batch")
        return found

    def replace_batch(self, old: Batch, new: Batch) -> bool:
        """Write `new` if the stored revision is that of `old`; False, changing nothing, if it is not."""
        self.before("replace_batch")
        with self._lock:
            is_replaced = self._replace(old, new)
        self.after("replace_batch")
        return is_replaced

    def clear_batch(self, old: Batch, new: Batch, unless_started: frozenset[BatchId]) -> bool:
        """As `replace_batch`, and False too if any of `unless_started` is started at that moment."""
        self.before("clear_batch")
        with self._lock:
            others = (self._batches.get(batch_id) for batch_id in unless_started)
            is_started = any(other is not None and other.is_started for other in others)
            is_replaced = not is_started and self._replace(old, new)
        self.after("clear_batch")
        return is_replaced

    def batches(self, states: Iterable[BatchState], *, opened_since: datetime | None = None) -> Iterator[Batch]:
        """Yield the batches in any of `states`, oldest first."""
        self.before("batches")
        wanted = frozenset(states)
        with self._lock:
            found = [
                batch
                for batch in self._batches.values()
                if batch.state in wanted and (opened_since is None or batch.opened_at >= opened_since)
            ]
        self.after("batches")
        yield from sorted(found, key=lambda batch: (batch.opened_at, batch.id))

    def newest(self, keys: Sequence[InstanceKey]) -> Mapping[InstanceKey, InstanceRecord]:
        """Return the newest record of each instance that has one."""
        self.before("newest")
        with self._lock:
            found = {key: self._newest[key] for key in keys if key in self._newest}
        self.after("newest")
        return found

    def claim(self, claims: Sequence[tuple[InstanceRecord, InstanceRecord | None]]) -> frozenset[InstanceKey]:
        """Write newest records, each only if the stored one is still the second of the pair."""
        self.before("claim")
        lost = set()
        with self._lock:
            for record, expected in claims:
                if _identity(self._newest.get(record.key)) == _identity(expected):
                    self._newest[record.key] = record
                else:
                    lost.add(record.key)
        self.after("claim")
        return frozenset(lost)

    def put_entries(self, entries: Sequence[InstanceRecord]) -> None:
        """Write entries of batches, each only where it may replace the stored one; newest records follow."""
        self.before("put_entries")
        with self._lock:
            for entry in entries:
                stored = self._entries.setdefault(entry.batch, {})
                before = stored.get(entry.key)
                if before is not None and not entry.may_replace(before):
                    continue
                stored[entry.key] = attrs.evolve(entry, earlier=())
                newest = self._newest.get(entry.key)
                if newest is not None and newest.batch == entry.batch and entry.may_replace(newest):
                    self._newest[entry.key] = attrs.evolve(entry, earlier=newest.earlier)
        self.after("put_entries")

    def entries(self, batch_id: BatchId) -> Iterator[InstanceRecord]:
        """Yield the entries of a batch in the order of study, then SOP Instance UID."""
        self.before("entries")
        with self._lock:
            found = list(self._entries.get(batch_id, {}).values())
        self.after("entries")
        yield from sorted(found, key=_by_batch)

    def pick_entries(self, batch_id: BatchId, keys: Sequence[InstanceKey]) -> Mapping[InstanceKey, InstanceRecord]:
        """Return the entries of a batch for those of `keys` that it has."""
        self.before("pick_entries")
        with self._lock:
            stored = self._entries.get(batch_id, {})
            found = {key: stored[key] for key in keys if key in stored}
        self.after("pick_entries")
        return found

    def put_holdings(self, holdings: Iterable[StudyHolding]) -> None:
        """Write what batches hold of studies, replacing what the same batch held of the same study."""
        self.before("put_holdings")
        written = list(holdings)
        with self._lock:
            for holding in written:
                self._holdings.setdefault(holding.study, {})[holding.batch] = holding
        self.after("put_holdings")

    def holdings(self, study: Uid) -> Sequence[StudyHolding]:
        """Return what each batch holds of a study, by batch."""
        self.before("holdings")
        with self._lock:
            found = list(self._holdings.get(study, {}).values())
        self.after("holdings")
        return sorted(found, key=lambda holding: holding.batch)

    def put_study(self, record: StudyRecord) -> None:
        """Write what a study is recognised by, merged into what is there."""
        self.before("put_study")
        with self._lock:
            stored = self._studies.get(record.study)
            self._studies[record.study] = record if stored is None else stored.merged(record)
        self.after("put_study")

    def study(self, study: Uid) -> StudyRecord | None:
        """Return what a study is recognised by."""
        self.before("study")
        with self._lock:
            found = self._studies.get(study)
        self.after("study")
        return found

    def studies(self, *, received_since: datetime | None = None) -> Iterator[StudyRecord]:
        """Yield the studies of which something was received since then, latest first."""
        self.before("studies")
        with self._lock:
            found = [
                study
                for study in self._studies.values()
                if received_since is None or study.last_received >= received_since
            ]
        self.after("studies")
        yield from sorted(found, key=lambda study: (study.last_received, study.study), reverse=True)

    def instances(self, study: Uid) -> Iterator[InstanceRecord]:
        """Yield the newest records of a study's instances, in the order of their UIDs."""
        self.before("instances")
        with self._lock:
            found = [record for record in self._newest.values() if record.key.study == study]
        self.after("instances")
        yield from sorted(found, key=lambda record: record.key.sop_instance)

    def find_instance(self, sop_instance: Uid) -> Sequence[InstanceRecord]:
        """Return the newest record of that SOP Instance UID, one for each study that has it."""
        self.before("find_instance")
        with self._lock:
            found = [record for record in self._newest.values() if record.key.sop_instance == sop_instance]
        self.after("find_instance")
        return sorted(found, key=lambda record: record.key.study)

    def failures(self) -> Iterator[InstanceRecord]:
        """Yield the newest records that are FAILED, by batch."""
        self.before("failures")
        with self._lock:
            found = [record for record in self._newest.values() if record.state is InstanceState.FAILED]
        self.after("failures")
        yield from sorted(found, key=_by_batch)

    def conflicts(self) -> Iterator[InstanceRecord]:
        """Yield the entries with a conflict, by batch."""
        self.before("conflicts")
        with self._lock:
            found = [
                entry for entries in self._entries.values() for entry in entries.values() if entry.conflict is not None
            ]
        self.after("conflicts")
        yield from sorted(found, key=_by_batch)

    def add_commitment(self, request: CommitmentRequest) -> bool:
        """Write a new request; False if there is one of its Transaction UID already."""
        self.before("add_commitment")
        with self._lock:
            is_new = request.transaction not in self._commitments
            self._commitments.setdefault(request.transaction, request)
        self.after("add_commitment")
        return is_new

    def commitment(self, transaction: Uid) -> CommitmentRequest | None:
        """Return the request of a Transaction UID as it is now."""
        self.before("commitment")
        with self._lock:
            found = self._commitments.get(transaction)
        self.after("commitment")
        return found

    def replace_commitment(self, old: CommitmentRequest, new: CommitmentRequest) -> bool:
        """Write `new` if the stored revision is that of `old`; False, changing nothing, if it is not."""
        self.before("replace_commitment")
        with self._lock:
            stored = self._commitments.get(old.transaction)
            is_replaced = stored is not None and stored.revision == old.revision
            if is_replaced:
                self._commitments[old.transaction] = new
        self.after("replace_commitment")
        return is_replaced

    def due_commitments(self, now: datetime) -> Iterator[CommitmentRequest]:
        """Yield the unfinished requests that are due at `now` or before, the longest due first."""
        self.before("due_commitments")
        with self._lock:
            found = [
                request for request in self._commitments.values() if not request.is_finished and request.due_at <= now
            ]
        self.after("due_commitments")
        yield from sorted(found, key=lambda request: (request.due_at, request.transaction))

    def forget_commitments(self, finished_before: datetime) -> None:
        """Delete the requests that were finished before then."""
        self.before("forget_commitments")
        with self._lock:
            for request in list(self._commitments.values()):
                if request.is_finished and request.due_at < finished_before:
                    del self._commitments[request.transaction]
        self.after("forget_commitments")

    def find_instances(self, sop_instances: Sequence[Uid]) -> Sequence[InstanceRecord]:
        """Return the newest records of those SOP Instance UIDs, one for each study that has one."""
        self.before("find_instances")
        wanted = frozenset(sop_instances)
        with self._lock:
            found = [record for record in self._newest.values() if record.key.sop_instance in wanted]
        self.after("find_instances")
        return found

    def _replace(self, old: Batch, new: Batch) -> bool:
        stored = self._batches.get(old.id)
        if stored is None or stored.revision != old.revision:
            return False
        self._batches[old.id] = new
        return True


def _identity(record: InstanceRecord | None) -> tuple[BatchId, int, InstanceState, tuple[BatchId, ...]] | None:
    return None if record is None else (record.batch, record.attempt, record.state, record.earlier)


def _by_batch(record: InstanceRecord) -> tuple[BatchId, Uid, Uid]:
    return record.batch, record.key.study, record.key.sop_instance
