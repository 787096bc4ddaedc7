"""
DynamoDbMetadataStore: the metadata table on DynamoDB; dynamodb_items.py shows its layout.

Laws:
- An entry is written with unconditional puts, many at a time, and yet never goes back: each attempt has an item for
  its listing and one for its outcome, so no put can hide another, and readers merge them in the order of attempts
  (`InstanceRecord.may_replace`). Two writers at the same moment leave the same entry in either order.
- Newest records, batches and studies are written one by one, each under a condition; only clearing a batch, which
  asks about others, is a transaction. Nothing counts.
- Whatever is decided is decided on consistent reads. The index only says where to look, and lags by a moment: what
  has just changed may be missing from an answer by state or time, never wrong in it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from adapters.outbound.dynamodb_items import (
    AFTER_ALL,
    DAYS,
    FINISHED_COMMITMENTS,
    TABLE_DEFINITION,
    WAITING_COMMITMENTS,
    Item,
    Key,
    batch_item,
    batch_key,
    commitment_item,
    commitment_key,
    day_item,
    day_of,
    entry_item,
    entry_prefix,
    holding_item,
    key_item,
    key_of,
    merged_entries,
    newest_item,
    newest_key,
    number_value,
    pointer_item,
    read_batch,
    read_commitment,
    read_newest,
    study_item,
    study_key,
    text_value,
)
from adapters.outbound.dynamodb_table import TRANSACTION_ITEMS, DynamoDbTable, Patience, conditional
from adapters.outbound.records import HOLDING, STUDY, time_text
from domain.batch import Batch
from domain.commitment import CommitmentRequest
from domain.errors import MetadataUnavailable
from domain.identifiers import BatchId, Uid
from domain.instance import InstanceKey
from domain.lifecycle import STARTED, BatchState, InstanceState
from domain.record import InstanceRecord, StudyHolding, StudyRecord

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

__all__ = ["TABLE_DEFINITION", "DynamoDbMetadataStore", "Patience"]

_ABSENT = "attribute_not_exists(pk)"

_T = TypeVar("_T")
_K = TypeVar("_K")


@attrs.frozen(eq=False)
class DynamoDbMetadataStore:
    """
    A MetadataStore and CommitmentStore (domain/ports.py) in a table made as TABLE_DEFINITION says.

    Attributes:
        client: a DynamoDB client; its pool should have at least `concurrency` connections.
        table_name: the table.
        concurrency: conditional writes of one call at the same time.
        page_size: items asked for in one query; None leaves it to the service (1 MB).

    """

    client: DynamoDBClient
    table_name: str
    concurrency: int = attrs.field(default=10, kw_only=True)
    page_size: int | None = attrs.field(default=None, kw_only=True)
    patience: Patience = attrs.field(factory=Patience, kw_only=True)
    sleep: Callable[[float], None] = attrs.field(default=time.sleep, kw_only=True)
    _table: DynamoDbTable = attrs.field(init=False, repr=False)
    _days: set[str] = attrs.field(factory=set, init=False, repr=False)

    @_table.default
    def _open_table(self) -> DynamoDbTable:
        return DynamoDbTable(self.client, self.table_name, self.page_size, self.patience, self.sleep)

    def add_batch(self, batch: Batch) -> bool:
        """Write the record of a new batch; False if there is one already."""
        return self._table.put_if(batch_item(batch), _ABSENT)

    def batch(self, batch_id: BatchId) -> Batch | None:
        """Return the record of a batch as it is now."""
        item = self._table.get(batch_key(batch_id))
        return None if item is None else read_batch(item)

    def replace_batch(self, old: Batch, new: Batch) -> bool:
        """Write `new` if the stored revision is that of `old`; False, changing nothing, if it is not."""
        return self._table.put_if(batch_item(new), "#revision = :revision", {":revision": number_value(old.revision)})

    def clear_batch(self, old: Batch, new: Batch, unless_started: frozenset[BatchId]) -> bool:
        """
        As `replace_batch`, and False too if any of `unless_started` is started at that moment.

        A transaction checks 99 others. Of more only those are checked that are CLOSED when it begins: what is open
        or has ended is listed (again) before it can start, and then sees what this batch has claimed. If even those
        are too many, the answer is False until some have gone on.
        """
        others = sorted(unless_started - {new.id})
        if len(others) >= TRANSACTION_ITEMS:
            found = [read_batch(item) for item in self._table.get_many([batch_key(other) for other in others])]
            if any(batch.is_started for batch in found):
                return False
            others = [batch.id for batch in found if batch.state is BatchState.CLOSED]
            if len(others) >= TRANSACTION_ITEMS:
                return False
        revision = {":revision": number_value(old.revision)}
        put = {"Put": {"Item": batch_item(new), **conditional("#revision = :revision", revision)}}
        return self._table.transact([put, *(_unless_started(other) for other in others)])

    def batches(self, states: Iterable[BatchState], *, opened_since: datetime | None = None) -> Iterator[Batch]:
        """
        Yield the batches in any of `states`, oldest first.

        A batch that changes its state while this runs may be left out; it never comes twice.
        """
        wanted = frozenset(states)
        start = "" if opened_since is None else time_text(opened_since)
        by_state = (self._table.indexed(f"BATCHES#{state.value}", start) for state in wanted)
        for item in self._table.read_found(heapq.merge(*by_state, key=_place)):
            batch = read_batch(item)
            if batch.state in wanted:
                yield batch

    def newest(self, keys: Sequence[InstanceKey]) -> Mapping[InstanceKey, InstanceRecord]:
        """Return the newest record of each instance that has one."""
        items = self._table.get_many([newest_key(key) for key in dict.fromkeys(keys)])
        return {record.key: record for record in map(read_newest, items)}

    def claim(self, claims: Sequence[tuple[InstanceRecord, InstanceRecord | None]]) -> frozenset[InstanceKey]:
        """Write newest records, each only if the stored one is still the second of the pair."""
        # First, so that no newest record is ever without its look-up; one without a record is harmless.
        self._table.put_many(pointer_item(record.key) for record, expected in claims if expected is None)

        def lost(of_one_instance: Sequence[tuple[InstanceRecord, InstanceRecord | None]]) -> set[InstanceKey]:
            return {record.key for record, expected in of_one_instance if not self._claim(record, expected)}

        by_instance = _grouped(claims, lambda pair: pair[0].key)
        return frozenset().union(*self._in_parallel(lost, list(by_instance.values())))

    def put_entries(self, entries: Sequence[InstanceRecord]) -> None:
        """Write entries of batches, each only where it may replace the stored one; newest records follow."""
        items: dict[Key, Item] = {}
        written: dict[tuple[BatchId, InstanceKey], InstanceRecord] = {}
        for batch_id, group in _grouped(entries, lambda entry: entry.batch).items():
            stored = dict(self.pick_entries(batch_id, [entry.key for entry in group]))
            for entry in group:
                before = stored.get(entry.key)
                if before is not None and not entry.may_replace(before):
                    continue
                stored[entry.key] = written[batch_id, entry.key] = attrs.evolve(entry, earlier=())
                if stored[entry.key] != before:
                    item = entry_item(stored[entry.key])
                    items[key_of(item)] = item
        self._table.put_many(items.values())
        # Also where the entry is there already: a call before this one may have come no further.
        self._follow(list(written.values()))

    def entries(self, batch_id: BatchId) -> Iterator[InstanceRecord]:
        """Yield the entries of a batch in the order of study, then SOP Instance UID."""
        yield from merged_entries(self._all(f"BATCH#{batch_id}", "INSTANCE#"))

    def pick_entries(self, batch_id: BatchId, keys: Sequence[InstanceKey]) -> Mapping[InstanceKey, InstanceRecord]:
        """Return the entries of a batch for those of `keys` that it has."""
        found = {}
        for group in _grouped(keys, lambda key: key.study).values():
            # One range for each study: the keys of a call are neighbours as a rule.
            first, last = (choose(group, key=lambda key: key.sop_instance) for choose in (min, max))
            items = self._table.query(f"BATCH#{batch_id}", entry_prefix(first), f"{entry_prefix(last)}{AFTER_ALL}")
            wanted = set(group)
            found.update({entry.key: entry for entry in merged_entries(items) if entry.key in wanted})
        return found

    def instances(self, study: Uid) -> Iterator[InstanceRecord]:
        """Yield the newest records of a study's instances, in the order of their UIDs."""
        yield from map(read_newest, self._all(f"STUDY#{study}", "INSTANCE#"))

    def find_instance(self, sop_instance: Uid) -> Sequence[InstanceRecord]:
        """Return the newest record of that SOP Instance UID, one for each study that has it."""
        return list(self.newest(self._keys_of(sop_instance)).values())

    def failures(self) -> Iterator[InstanceRecord]:
        """Yield the newest records that are FAILED, by batch."""
        for record in map(read_newest, self._table.read_found(self._table.indexed("FAILED"))):
            if record.state is InstanceState.FAILED:
                yield record

    def conflicts(self) -> Iterator[InstanceRecord]:
        """Yield the entries with a conflict, by batch."""
        # Several attempts of one entry stand at one place; what holds is what they merge into.
        for place, _ in groupby(self._table.indexed("CONFLICT"), key=_place):
            batch, study, sop_instance = place.split("#")
            key = InstanceKey(study=Uid(study), sop_instance=Uid(sop_instance))
            for entry in self.pick_entries(BatchId(batch), [key]).values():
                if entry.conflict is not None:
                    yield entry

    def put_holdings(self, holdings: Iterable[StudyHolding]) -> None:
        """Write what batches hold of studies, replacing what the same batch held of the same study."""
        self._table.put_many(map(holding_item, holdings))

    def holdings(self, study: Uid) -> Sequence[StudyHolding]:
        """Return what each batch holds of a study, by batch."""
        return [HOLDING.loads(item["document"]["S"]) for item in self._all(f"STUDY#{study}", "BATCH#")]

    def put_study(self, record: StudyRecord) -> None:
        """Write what a study is recognised by, merged into what is there."""
        for attempt in range(self.patience.attempts):
            item = self._table.get(study_key(record.study))
            stored = None if item is None else STUDY.loads(item["document"]["S"])
            merged = record if stored is None else stored.merged(record)
            if merged == stored:
                return
            self._note_day(merged)
            if item is None:
                is_written = self._table.put_if(study_item(merged), _ABSENT)
            else:
                unchanged = {":document": item["document"]}
                is_written = self._table.put_if(study_item(merged), "#document = :document", unchanged)
            if is_written:
                return
            self.sleep(self.patience.delay(attempt))
        raise MetadataUnavailable(f"the record of study {record.study} kept changing")

    def study(self, study: Uid) -> StudyRecord | None:
        """Return what a study is recognised by."""
        item = self._table.get(study_key(study))
        return None if item is None else STUDY.loads(item["document"]["S"])

    def studies(self, *, received_since: datetime | None = None) -> Iterator[StudyRecord]:
        """
        Yield the studies of which something was received since then, latest first.

        A study that receives something while this runs may be left out: it has become the latest.
        """
        since = "" if received_since is None else time_text(received_since)
        for item in self._table.query(DAYS, day_of(since) or " ", AFTER_ALL, is_backwards=True):
            _, day = key_of(item)
            found = self._table.indexed(f"STUDIES#{day}", since, is_backwards=True)
            for study in self._table.read_found(found):
                yield STUDY.loads(study["document"]["S"])

    def add_commitment(self, request: CommitmentRequest) -> bool:
        """Write a new request; False if there is one of its Transaction UID already."""
        return self._table.put_if(commitment_item(request), _ABSENT)

    def commitment(self, transaction: Uid) -> CommitmentRequest | None:
        """Return the request of a Transaction UID as it is now."""
        item = self._table.get(commitment_key(transaction))
        return None if item is None else read_commitment(item)

    def replace_commitment(self, old: CommitmentRequest, new: CommitmentRequest) -> bool:
        """Write `new` if the stored revision is that of `old`; False, changing nothing, if it is not."""
        revision = {":revision": number_value(old.revision)}
        return self._table.put_if(commitment_item(new), "#revision = :revision", revision)

    def due_commitments(self, now: datetime) -> Iterator[CommitmentRequest]:
        """Yield the unfinished requests that are due at `now` or before, the longest due first."""
        last = f"{time_text(now)}{AFTER_ALL}"
        places = takewhile(lambda found: _place(found) <= last, self._table.indexed(WAITING_COMMITMENTS))
        for request in map(read_commitment, self._table.read_found(places)):
            if not request.is_finished and request.due_at <= now:
                yield request

    def forget_commitments(self, finished_before: datetime) -> None:
        """Delete the requests that were finished before then."""
        last = time_text(finished_before)
        places = takewhile(lambda found: _place(found) < last, self._table.indexed(FINISHED_COMMITMENTS))
        found = map(read_commitment, self._table.read_found(places))
        # As they are now: one that was asked for again is at work.
        finished = (request for request in found if request.is_finished and request.due_at < finished_before)
        self._table.delete_many([commitment_key(request.transaction) for request in finished])

    def find_instances(self, sop_instances: Sequence[Uid]) -> Sequence[InstanceRecord]:
        """Return the newest records of those SOP Instance UIDs, one for each study that has one."""
        keys = self._in_parallel(self._keys_of, list(dict.fromkeys(sop_instances)))
        return list(self.newest([key for found in keys for key in found]).values())

    def _keys_of(self, sop_instance: Uid) -> list[InstanceKey]:
        pointers = self._all(f"INSTANCE#{sop_instance}", "STUDY#")
        studies = (Uid(key_of(item)[1].removeprefix("STUDY#")) for item in pointers)
        return [InstanceKey(study=study, sop_instance=sop_instance) for study in studies]

    def _all(self, pk: str, prefix: str) -> Iterator[Item]:
        return self._table.query(pk, prefix, f"{prefix}{AFTER_ALL}")

    def _note_day(self, study: StudyRecord) -> None:
        """Make sure that a day is found before anything stands under it."""
        day = day_of(time_text(study.last_received))
        if day not in self._days:
            self._table.put_many([day_item(day)])
            self._days.add(day)

    def _claim(self, record: InstanceRecord, expected: InstanceRecord | None) -> bool:
        if expected is None:
            return self._table.put_if(newest_item(record), _ABSENT)
        return self._table.put_if(
            newest_item(record),
            "#batch = :batch AND #attempt = :attempt AND #state = :state AND #earlier = :earlier",
            {f":{name}": newest_item(expected)[name] for name in ("batch", "attempt", "state", "earlier")},
        )

    def _follow(self, entries: Sequence[InstanceRecord]) -> None:
        """Bring the newest records of the same batch up to these entries, keeping their `earlier`."""
        stored = self.newest([entry.key for entry in entries])

        def is_behind(entry: InstanceRecord) -> bool:
            newest = stored.get(entry.key)
            return (
                newest is not None
                and newest.batch == entry.batch
                and entry.may_replace(newest)
                and entry != attrs.evolve(newest, earlier=())
            )

        self._in_parallel(self._follow_one, [entry for entry in entries if is_behind(entry)])

    def _follow_one(self, entry: InstanceRecord) -> None:
        item = newest_item(entry)
        index = [name for name in ("index_pk", "index_sk") if name in item]
        changed = ("attempt", "document", "state", *index)
        update = "SET " + ", ".join(f"#{name} = :{name}" for name in changed)
        if not index:
            update += " REMOVE #index_pk, #index_sk"
        # `InstanceRecord.may_replace`, as a condition on what is stored.
        in_one_attempt = "#attempt = :attempt"
        if entry.state is InstanceState.STAGED:
            in_one_attempt += " AND #state = :state"
        condition = f"#batch = :batch AND ((#attempt < :attempt AND #state <> :imported) OR ({in_one_attempt}))"
        values = {
            **{f":{name}": item[name] for name in changed},
            ":batch": item["batch"],
            ":imported": text_value(InstanceState.IMPORTED.value),
        }
        self._table.update_if(newest_key(entry.key), update, condition, values)

    def _in_parallel(self, call: Callable[[_T], _K], items: Sequence[_T]) -> list[_K]:
        if len(items) <= 1:
            return [call(item) for item in items]
        with ThreadPoolExecutor(min(self.concurrency, len(items)), "dynamodb") as pool:
            return list(pool.map(call, items))


def _place(found: tuple[str, Key]) -> str:
    return found[0]


def _unless_started(batch_id: BatchId) -> Any:  # noqa: ANN401  # an action of the SDK's transactions
    # `Batch.is_started`, as a condition on what is stored.
    started = {f":{state.value}": text_value(state.value) for state in sorted(STARTED)}
    condition = f"{_ABSENT} OR (NOT #state IN ({', '.join(started)}) AND NOT (#state = :closed AND #is_cleared = :yes))"
    values = {**started, ":closed": text_value(BatchState.CLOSED.value), ":yes": {"BOOL": True}}
    return {"ConditionCheck": {"Key": key_item(batch_key(batch_id)), **conditional(condition, values)}}


def _grouped(items: Iterable[_T], key: Callable[[_T], _K]) -> dict[_K, list[_T]]:
    groups: dict[_K, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
