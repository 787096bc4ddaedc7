"""
DynamoDbTable: reads, writes and conditions on one table, in the shape the metadata store asks for them.

Laws:
- Items that a batch call left over, and writes that met a transaction, are tried again with growing, random waits;
  in the end that is MetadataUnavailable.
- A condition that failed because our own write had succeeded and its answer was lost is no failure: the item that
  is there names its writer.
- Reads of the table are consistent; the index is only asked for keys.
"""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from botocore.exceptions import ClientError

from adapters.outbound.aws_errors import error_code, metadata_errors
from adapters.outbound.dynamodb_items import INDEX, Item, Key, key_item, key_of, text_value
from domain.errors import MetadataUnavailable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# What the service takes in one call.
_READ_ITEMS = 100
_WRITE_ITEMS = 25
TRANSACTION_ITEMS = 100

_IN_THE_WAY = frozenset({"TransactionConflictException", "TransactionInProgressException"})
_CANCELLED_FOR_NOW = frozenset({"None", "ProvisionedThroughputExceeded", "ThrottlingError", "TransactionConflict"})

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Patience:
    """How often a call is tried that took no effect, or only some; beside the SDK's own retries."""

    attempts: int = 8
    seconds: float = 0.05
    max_seconds: float = 2.0

    def delay(self, attempt: int) -> float:
        """Return how long to wait after that attempt (from 0): random, up to twice as long each time."""
        limit = min(self.max_seconds, self.seconds * 2.0**attempt)
        return random.uniform(limit / 2, limit)  # noqa: S311  # it spreads calls, it keeps no secret


@attrs.frozen(eq=False)
class DynamoDbTable:
    """
    One table with the keys and the index of dynamodb_items.py; every method may raise MetadataUnavailable.

    Attributes:
        client: a DynamoDB client, safe to share between threads.
        name: the table's name.
        page_size: items asked for in one query; None leaves it to the service (1 MB).

    """

    client: DynamoDBClient
    name: str
    page_size: int | None = None
    patience: Patience = attrs.field(factory=Patience)
    sleep: Callable[[float], None] = time.sleep

    def get(self, key: Key) -> Item | None:
        """Return one item."""
        with self._errors():
            answer = self.client.get_item(TableName=self.name, Key=key_item(key), ConsistentRead=True)
        return answer.get("Item")

    def get_many(self, keys: Sequence[Key]) -> list[Item]:
        """Return the items of those keys that exist, in the order of the keys, which are all different."""
        found: dict[Key, Item] = {}
        for chunk in _chunks(keys, _READ_ITEMS):
            left: Any = [key_item(key) for key in chunk]
            for _ in self._tries(f"the metadata table {self.name} left items unread"):
                with self._errors():
                    answer = self.client.batch_get_item(
                        RequestItems={self.name: {"Keys": left, "ConsistentRead": True}}
                    )
                found.update((key_of(item), item) for item in answer["Responses"].get(self.name, []))
                unprocessed: Any = answer.get("UnprocessedKeys", {})
                left = unprocessed.get(self.name, {}).get("Keys")
                if not left:
                    break
        return [found[key] for key in keys if key in found]

    def put_many(self, items: Iterable[Item]) -> None:
        """Put items without a condition; of two with one key the last."""
        unique = {key_of(item): item for item in items}.values()
        self._write_many([{"PutRequest": {"Item": item}} for item in unique])

    def delete_many(self, keys: Iterable[Key]) -> None:
        """Delete items without a condition; what is not there is no matter."""
        self._write_many([{"DeleteRequest": {"Key": key_item(key)}} for key in dict.fromkeys(keys)])

    def _write_many(self, requests: Sequence[Any]) -> None:
        for chunk in _chunks(requests, _WRITE_ITEMS):
            left: Any = chunk
            for _ in self._tries(f"the metadata table {self.name} left items unwritten"):
                with self._errors():
                    answer = self.client.batch_write_item(RequestItems={self.name: left})
                left = answer.get("UnprocessedItems", {}).get(self.name)
                if not left:
                    break

    def put_if(self, item: Item, condition: str, values: Mapping[str, Any] | None = None) -> bool:
        """Put an item if the one that is there meets the condition; False if it does not."""
        writer = text_value(uuid.uuid4().hex)
        parameters: Any = {
            "TableName": self.name,
            "Item": {**item, "written_by": writer},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            **conditional(condition, values),
        }

        def put() -> bool:
            try:
                self.client.put_item(**parameters)
            except ClientError as error:
                if not _is_refused(error):
                    raise
                stored: Any = error.response.get("Item", {})
                return bool(stored.get("written_by") == writer)
            return True

        return self._undisturbed(put)

    def update_if(self, key: Key, update: str, condition: str, values: Mapping[str, Any]) -> bool:
        """Update an item if it is there and meets the condition; False if it does not."""
        parameters: Any = {
            "TableName": self.name,
            "Key": key_item(key),
            "UpdateExpression": update,
            **conditional(condition, values, update),
        }

        def change() -> bool:
            try:
                self.client.update_item(**parameters)
            except ClientError as error:
                if not _is_refused(error):
                    raise
                return False
            return True

        return self._undisturbed(change)

    def transact(self, actions: Sequence[Any]) -> bool:
        """Do all of these actions of TransactWriteItems or none; False if a condition does not hold."""
        # One token for all tries: a transaction whose answer was lost is not done again, but answered again.
        token = uuid.uuid4().hex
        for action in actions:
            for parameters in action.values():
                parameters["TableName"] = self.name

        def write() -> bool | None:
            try:
                self.client.transact_write_items(TransactItems=actions, ClientRequestToken=token)
            except ClientError as error:
                if error_code(error) != "TransactionCanceledException":
                    raise
                reasons = _cancellation_reasons(error)
                if "ConditionalCheckFailed" in reasons:
                    return False
                if not reasons <= _CANCELLED_FOR_NOW:
                    raise
                return None
            return True

        return self._undisturbed(write)

    def query(self, pk: str, first: str, last: str, *, is_backwards: bool = False) -> Iterator[Item]:
        """Yield the items of a partition from `first` to `last`, page by page."""
        yield from self._pages(
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":pk": text_value(pk),
                ":first": text_value(first),
                ":last": text_value(last),
            },
            ConsistentRead=True,
            ScanIndexForward=not is_backwards,
        )

    def indexed(self, index_pk: str, start: str = "", *, is_backwards: bool = False) -> Iterator[tuple[str, Key]]:
        """Yield what stands in the index from `start` on: its place there, and its key in the table."""
        items = self._pages(
            IndexName=INDEX,
            KeyConditionExpression="index_pk = :pk AND index_sk >= :start",
            # An empty text cannot be part of a key; a space sorts before all of ours.
            ExpressionAttributeValues={":pk": text_value(index_pk), ":start": text_value(start or " ")},
            ScanIndexForward=not is_backwards,
        )
        for item in items:
            yield item["index_sk"]["S"], key_of(item)

    def read_found(self, found: Iterable[tuple[str, Key]]) -> Iterator[Item]:
        """Yield what the index found as it is in the table now; what it names twice in a row comes once."""
        keys = (key for key, _ in groupby(key for _, key in found))
        while chunk := list(islice(keys, _READ_ITEMS)):
            yield from self.get_many(list(dict.fromkeys(chunk)))

    def _pages(self, **query: Any) -> Iterator[Item]:  # noqa: ANN401  # parameters of the SDK's query
        if self.page_size is not None:
            query["Limit"] = self.page_size
        while True:
            with self._errors():
                page = self.client.query(TableName=self.name, **query)
            yield from page["Items"]
            if not page.get("LastEvaluatedKey"):
                return
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _undisturbed(self, write: Callable[[], bool | None]) -> bool:
        """Call until no transaction is in the way: until it neither answers None nor raises the SDK's conflict."""
        for _ in self._tries(f"a write to the metadata table {self.name} met others"):
            with self._errors():
                try:
                    answer = write()
                except ClientError as error:
                    if error_code(error) not in _IN_THE_WAY:
                        raise
                    continue
            if answer is not None:
                return answer
        raise AssertionError("the tries end in an answer or an error")

    def _tries(self, problem: str) -> Iterator[int]:
        """Yield the number of each try, waiting before the next one; the caller leaves when one succeeded."""
        for attempt in range(self.patience.attempts):
            if attempt:
                self.sleep(self.patience.delay(attempt - 1))
            yield attempt
        raise MetadataUnavailable(f"{problem} {self.patience.attempts} times")

    def _errors(self) -> AbstractContextManager[None]:
        return metadata_errors(self.name)


def conditional(condition: str, values: Mapping[str, Any] | None = None, update: str = "") -> dict[str, Any]:
    """Return the parameters of a condition; attributes stand in it as #name, since many plain names are reserved."""
    names = {name: name[1:] for name in re.findall(r"#\w+", f"{condition} {update}")}
    return {
        "ConditionExpression": condition,
        **({"ExpressionAttributeNames": names} if names else {}),
        **({"ExpressionAttributeValues": dict(values)} if values else {}),
    }


def _is_refused(error: ClientError) -> bool:
    return error_code(error) == "ConditionalCheckFailedException"


def _cancellation_reasons(error: ClientError) -> set[str]:
    reasons: Any = error.response.get("CancellationReasons", [])
    return {str(reason.get("Code")) for reason in reasons}


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
