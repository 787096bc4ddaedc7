"""
How the metadata table on DynamoDB is laid out: its keys, its index and the items that records become.

    pk                  sk                                        what
    BATCH#<batch>       BATCH                                     the record of the batch
    BATCH#<batch>       INSTANCE#<study>#<sop>#<attempt>#LISTED   an entry as an attempt listed it
    BATCH#<batch>       INSTANCE#<study>#<sop>#<attempt>#OUTCOME  what became of it in that attempt
    STUDY#<study>       STUDY                                     what the study is recognised by
    STUDY#<study>       BATCH#<batch>                             what the batch holds of the study
    STUDY#<study>       INSTANCE#<sop>                            the newest record
    INSTANCE#<sop>      STUDY#<study>                             that the study has, or may have, this instance
    COMMIT#<transaction> COMMIT                                   a storage commitment request
    DAYS                <day>                                     that studies were last received on that day

The index finds keys by state and time; the table then answers with what is true now:

    index_pk            index_sk                        what
    BATCHES#<state>     <opened at>#<batch>             batches
    STUDIES#<day>       <last received>#<study>         studies
    FAILED              <batch>#<study>#<sop>           newest records that are FAILED
    CONFLICT            <batch>#<study>#<sop>           entries with a conflict
    COMMITS#waiting     <due at>#<transaction>          storage commitment requests that are not finished
    COMMITS#finished    <finished at>#<transaction>     those that are

Each item of a record has one `document` (adapters/outbound/records.py), which carries its version; the other
attributes are what conditions and the index need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from adapters.outbound.records import BATCH, COMMITMENT, HOLDING, INSTANCE, STUDY, time_text
from domain.batch import Batch
from domain.commitment import CommitmentRequest
from domain.identifiers import BatchId, Uid
from domain.instance import InstanceKey
from domain.lifecycle import InstanceState
from domain.record import InstanceRecord, StudyHolding, StudyRecord

INDEX = "by_state_and_time"

TABLE_DEFINITION: Mapping[str, Any] = {
    "AttributeDefinitions": [
        {"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk", "index_pk", "index_sk")
    ],
    "KeySchema": [
        {"AttributeName": "pk", "KeyType": "HASH"},
        {"AttributeName": "sk", "KeyType": "RANGE"},
    ],
    "GlobalSecondaryIndexes": [
        {
            "IndexName": INDEX,
            "KeySchema": [
                {"AttributeName": "index_pk", "KeyType": "HASH"},
                {"AttributeName": "index_sk", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        }
    ],
    "BillingMode": "PAY_PER_REQUEST",
}
"""What `create_table` takes beside the name, and what the deployment has to create."""

Item = Mapping[str, Any]
"""As the low-level client has it: {"pk": {"S": "..."}}."""

Key = tuple[str, str]
"""Partition and sort key."""

AFTER_ALL = "~"
"""Sorts after every character of our keys."""


DAYS = "DAYS"
"""The partition that has an item for each day on which a study was last received."""


def text_value(value: object) -> dict[str, str]:
    """Return a text attribute."""
    return {"S": str(value)}


def number_value(value: int) -> dict[str, str]:
    """Return a number attribute."""
    return {"N": str(value)}


def key_item(key: Key) -> dict[str, Any]:
    """Return the attributes of a key."""
    pk, sk = key
    return {"pk": text_value(pk), "sk": text_value(sk)}


def key_of(item: Item) -> Key:
    """Return the key of an item."""
    return item["pk"]["S"], item["sk"]["S"]


def day_of(moment: str) -> str:
    """Return the day of a time in text."""
    return moment.partition("T")[0]


def batch_key(batch_id: BatchId) -> Key:
    """Return where the record of a batch is."""
    return f"BATCH#{batch_id}", "BATCH"


def batch_item(batch: Batch) -> dict[str, Any]:
    """Return the item of a batch."""
    return {
        **key_item(batch_key(batch.id)),
        "state": text_value(batch.state.value),
        "is_cleared": {"BOOL": batch.is_cleared},
        "revision": number_value(batch.revision),
        "document": text_value(BATCH.dumps(batch)),
        "index_pk": text_value(f"BATCHES#{batch.state.value}"),
        "index_sk": text_value(f"{time_text(batch.opened_at)}#{batch.id}"),
    }


def read_batch(item: Item) -> Batch:
    """Return the batch of an item."""
    return BATCH.loads(item["document"]["S"])


def newest_key(key: InstanceKey) -> Key:
    """Return where the newest record of an instance is."""
    return f"STUDY#{key.study}", f"INSTANCE#{key.sop_instance}"


def newest_item(record: InstanceRecord) -> dict[str, Any]:
    """Return the item of a newest record; `earlier` stands apart, so that the rest can be updated without it."""
    item = {
        **key_item(newest_key(record.key)),
        "batch": text_value(record.batch),
        "attempt": number_value(record.attempt),
        "state": text_value(record.state.value),
        "document": text_value(INSTANCE.dumps(attrs.evolve(record, earlier=()))),
        "earlier": {"L": [text_value(batch) for batch in record.earlier]},
    }
    if record.state is InstanceState.FAILED:
        item["index_pk"] = text_value("FAILED")
        item["index_sk"] = text_value(_place(record))
    return item


def read_newest(item: Item) -> InstanceRecord:
    """Return the newest record of an item."""
    earlier = tuple(BatchId(batch["S"]) for batch in item["earlier"]["L"])
    return attrs.evolve(INSTANCE.loads(item["document"]["S"]), earlier=earlier)


def pointer_item(key: InstanceKey) -> dict[str, Any]:
    """Return the item by which an instance is found without its study."""
    return key_item((f"INSTANCE#{key.sop_instance}", f"STUDY#{key.study}"))


def entry_prefix(key: InstanceKey) -> str:
    """Return how the sort keys of all items of an entry begin."""
    return f"INSTANCE#{key.study}#{key.sop_instance}#"


def entry_item(entry: InstanceRecord) -> dict[str, Any]:
    """Return the item of an entry in its attempt."""
    kind = "LISTED" if entry.state is InstanceState.STAGED else "OUTCOME"  # sorts as it happens
    item = {
        **key_item((f"BATCH#{entry.batch}", f"{entry_prefix(entry.key)}{entry.attempt:09d}#{kind}")),
        "document": text_value(INSTANCE.dumps(entry)),
    }
    if entry.conflict is not None:
        item["index_pk"] = text_value("CONFLICT")
        item["index_sk"] = text_value(_place(entry))
    return item


def merged_entries(items: Iterable[Item]) -> Iterator[InstanceRecord]:
    """Merge the items of each entry, which come in the order of attempts, listing before outcome."""
    merged: InstanceRecord | None = None
    for item in items:
        entry = INSTANCE.loads(item["document"]["S"])
        if merged is not None and merged.key != entry.key:
            yield merged
            merged = None
        if merged is None or entry.may_replace(merged):
            merged = entry
    if merged is not None:
        yield merged


def _place(record: InstanceRecord) -> str:
    return f"{record.batch}#{record.key.study}#{record.key.sop_instance}"


def holding_item(holding: StudyHolding) -> dict[str, Any]:
    """Return the item of what a batch holds of a study."""
    return {
        **key_item((f"STUDY#{holding.study}", f"BATCH#{holding.batch}")),
        "document": text_value(HOLDING.dumps(holding)),
    }


def study_key(study: Uid) -> Key:
    """Return where the record of a study is."""
    return f"STUDY#{study}", "STUDY"


def day_item(day: str) -> dict[str, Any]:
    """Return the item by which a day is found."""
    return key_item((DAYS, day))


def study_item(record: StudyRecord) -> dict[str, Any]:
    """Return the item of a study."""
    last_received = time_text(record.last_received)
    return {
        **key_item(study_key(record.study)),
        "document": text_value(STUDY.dumps(record)),
        "index_pk": text_value(f"STUDIES#{day_of(last_received)}"),
        "index_sk": text_value(f"{last_received}#{record.study}"),
    }


WAITING_COMMITMENTS = "COMMITS#waiting"
"""Where the index has the storage commitment requests that are not finished, by the time they are due."""

FINISHED_COMMITMENTS = "COMMITS#finished"
"""Where it has the others, by the time they were finished."""


def commitment_key(transaction: Uid) -> Key:
    """Return where a storage commitment request is."""
    return f"COMMIT#{transaction}", "COMMIT"


def commitment_item(request: CommitmentRequest) -> dict[str, Any]:
    """Return the item of a storage commitment request."""
    return {
        **key_item(commitment_key(request.transaction)),
        "revision": number_value(request.revision),
        "document": text_value(COMMITMENT.dumps(request)),
        "index_pk": text_value(FINISHED_COMMITMENTS if request.is_finished else WAITING_COMMITMENTS),
        "index_sk": text_value(f"{time_text(request.due_at)}#{request.transaction}"),
    }


def read_commitment(item: Item) -> CommitmentRequest:
    """Return the storage commitment request of an item."""
    return COMMITMENT.loads(item["document"]["S"])
