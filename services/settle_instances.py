"""
Write what listings and results say of the instances of a batch.

Shared by listing, recording and rebuilding, so that every path leaves the same records behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

import attrs

from domain.errors import MetadataUnavailable
from domain.identifiers import BatchId, DataStoreId, Uid
from domain.instance import InstanceKey
from domain.lifecycle import InstanceState
from domain.ports import MetadataStore, StagingArea
from domain.record import (
    REMEMBERED,
    InstanceRecord,
    StudyHolding,
    StudyRecord,
    add_holdings,
    holdings_of,
    newest_of,
)
from domain.results import ImportOutcome
from domain.staging import StagedObject

CHUNK = 500
_Item = TypeVar("_Item")
_CLAIM_ROUNDS = 20
_COUNT_ROUNDS = 20
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Split a stream into lists of at most CHUNK, holding one at a time."""
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


@attrs.frozen(kw_only=True)
class Entered:
    """
    What entering the copies of one batch came upon.

    Attributes:
        others: batches with other copies, which may be on their way into the data store.
        displaced: those of them whose copies counted as the newest just before these did.

    """

    others: frozenset[BatchId] = frozenset()
    displaced: frozenset[BatchId] = frozenset()


@attrs.frozen(kw_only=True)
class SettleInstances:
    """Keep entries, newest records and holdings of a batch in step."""

    staging: StagingArea
    metadata: MetadataStore

    def enter(self, records: Sequence[InstanceRecord]) -> Entered:
        """Write the entries of listed copies, all of one batch, and make each the newest record where it is."""
        entered = self._claim(records)
        self.metadata.put_entries(records)
        return entered

    def _claim(self, records: Sequence[InstanceRecord]) -> Entered:
        mine = {record.batch for record in records}
        pending = {record.key: record for record in records}
        others: set[BatchId] = set()
        displaced: set[BatchId] = set()
        for _ in range(_CLAIM_ROUNDS):
            stored = self.metadata.newest(list(pending))
            claims = []
            for key, record in pending.items():
                before = stored.get(key)
                claim = newest_of(record, before)
                if claim is not None:
                    claims.append((claim, before))
                newest = claim or before
                assert newest is not None  # noqa: S101  # without a stored one the record itself is claimed
                others.update(newest.earlier)
                displaced.update(_batch_before(record.batch, newest))
            lost = self.metadata.claim(claims)
            if not lost:
                return Entered(others=frozenset(others - mine), displaced=frozenset(displaced - mine))
            pending = {key: pending[key] for key in lost}
        raise MetadataUnavailable("the newest records of instances kept changing")

    def forget(self, batch_id: BatchId, ended: frozenset[BatchId]) -> None:
        """Forget batches that have ended, where a newest record of this batch remembers too many of them."""
        if len(ended) <= REMEMBERED:
            return
        for chunk in chunks(self.metadata.entries(batch_id)):
            newest = self.metadata.newest([entry.key for entry in chunk]).values()
            shorter = [(record.forgetting(ended), record) for record in newest if record.batch == batch_id]
            # A claim that is lost is made by the next batch with a copy.
            self.metadata.claim([(after, before) for after, before in shorter if after != before])

    def record(
        self, batch_id: BatchId, attempt: int, outcomes: Iterable[ImportOutcome], data_store: DataStoreId
    ) -> None:
        """Write the outcomes of one job and give the imported objects up; repeating it changes nothing."""
        for chunk in chunks(outcome for outcome in outcomes if outcome.key.batch == batch_id):
            keys = list(dict.fromkeys(outcome.key.instance_key for outcome in chunk))
            known = dict(self.metadata.pick_entries(batch_id, keys))
            known.update(self._enter_unlisted(chunk, known, attempt))
            settled: dict[InstanceKey, InstanceRecord] = {}
            for outcome in chunk:
                key = outcome.key.instance_key
                if known[key].state is InstanceState.SUPERSEDED or known[key].attempt > attempt:
                    # Set aside while the job was running: the newer copy is imported after it. Or on its way again.
                    continue
                settled[key] = settled.get(key, known[key]).settled(outcome, attempt, data_store)
            self.metadata.put_entries(list(settled.values()))
            self.staging.discard(
                StagedObject(key=record.staging_key, size=record.size)
                for record in settled.values()
                if record.state is InstanceState.IMPORTED
            )

    def refresh_holdings(self, batch_id: BatchId) -> Mapping[Uid, StudyHolding]:
        """
        Count again what a batch holds of each study, and return it; repeating it changes nothing.

        Two that count at once may write in the other order than they counted, so each looks again after it wrote.
        """
        written: dict[Uid, StudyHolding] | None = None
        for _ in range(_COUNT_ROUNDS):
            counted = self._count(batch_id)
            if counted == written:
                return counted
            self.metadata.put_holdings(counted.values())
            written = counted
        raise MetadataUnavailable(f"what batch {batch_id} holds kept changing")

    def _count(self, batch_id: BatchId) -> dict[Uid, StudyHolding]:
        totals: dict[Uid, StudyHolding] = {}
        for chunk in chunks(self.metadata.entries(batch_id)):
            newest = self.metadata.newest([entry.key for entry in chunk])
            for study, holding in holdings_of(chunk, newest).items():
                totals[study] = add_holdings(totals[study], holding) if study in totals else holding
        return totals

    def enter_studies(self, holdings: Iterable[StudyHolding]) -> None:
        """Let the studies of which nothing was described be known by their times at least."""
        for held in holdings:
            self.metadata.put_study(
                StudyRecord(study=held.study, first_received=held.first_received, last_received=held.last_received)
            )

    def _enter_unlisted(
        self, outcomes: Sequence[ImportOutcome], known: dict[InstanceKey, InstanceRecord], attempt: int
    ) -> dict[InstanceKey, InstanceRecord]:
        """Enter objects that the job found and no listing named: they arrived late."""
        unlisted = {outcome.key.instance_key: outcome for outcome in outcomes if outcome.key.instance_key not in known}
        if not unlisted:
            return {}
        objects = (StagedObject(key=outcome.key, size=0) for outcome in unlisted.values())
        found = {staged.key.instance_key: staged for staged in self.staging.facts(objects)}
        records = {
            key: InstanceRecord.of(found[key], attempt) if key in found else _without_facts(outcome, attempt)
            for key, outcome in unlisted.items()
        }
        # The entries come last: until they are there, a repeat does all of this again.
        for displaced in self._claim(list(records.values())).displaced:
            self.refresh_holdings(displaced)
        self.metadata.put_entries(list(records.values()))
        self.enter_studies(holdings_of(records.values(), {}).values())
        return records


def _batch_before(batch: BatchId, newest: InstanceRecord) -> tuple[BatchId, ...]:
    """Return the batch whose copy counted as the newest before that of `batch` did, if there is one."""
    chain = (*newest.earlier, newest.batch)
    place = chain.index(batch) if batch in chain else 0
    return chain[max(0, place - 1) : place]


def _without_facts(outcome: ImportOutcome, attempt: int) -> InstanceRecord:
    """Return what is known of an object that is gone: its key, and that its batch was open then."""
    return InstanceRecord(
        key=outcome.key.instance_key,
        series=outcome.key.series,
        batch=outcome.key.batch,
        staged_at=outcome.key.batch.opened_at or _LONG_AGO,
        attempt=attempt,
    )
