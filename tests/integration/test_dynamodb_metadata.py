"""What only the DynamoDB table promises: faults of the service, lost answers, a lagging index, and its cost."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import attrs
import pytest
from botocore.exceptions import ClientError

from adapters.outbound.dynamodb_items import entry_item, newest_item
from adapters.outbound.dynamodb_metadata import TABLE_DEFINITION, DynamoDbMetadataStore, Patience
from domain.errors import MetadataUnavailable
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState
from tests.builders import a_batch, a_batch_id, a_holding, a_job_id, a_key, a_moment, a_record, a_study
from tests.moto_server import moto_server

pytestmark = pytest.mark.aws

Fault = Callable[[Callable[..., Any], dict[str, Any]], Any]


class FaultyClient:
    """A DynamoDB client that counts its calls and lets a test come between: `faults` by method, each used once."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, list[Fault]] = {}

    def __getattr__(self, method: str) -> Any:
        call = getattr(self.client, method)

        def counted(**parameters: Any) -> Any:
            self.calls[method] += 1
            faults = self.faults.get(method)
            return faults.pop(0)(call, parameters) if faults else call(**parameters)

        return counted


def refused(code: str, status: int = 400, **more: Any) -> Fault:
    """Return the fault of an error that the service answers with, nothing done."""

    def answer(_call: Callable[..., Any], _parameters: dict[str, Any]) -> Any:
        response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}, **more}
        raise ClientError(response, "Some")

    return answer


def repeated(call: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Do it twice: as the SDK does when the first answer is lost."""
    call(**parameters)
    return call(**parameters)


def cancelled(*codes: str) -> Fault:
    return refused("TransactionCanceledException", CancellationReasons=[{"Code": code} for code in codes])


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[Any]:
    with moto_server() as server, closing(server.client("dynamodb")) as client:
        yield client


@pytest.fixture
def table(dynamodb: Any) -> Iterator[str]:
    name = f"metadata-{uuid.uuid4()}"
    dynamodb.create_table(TableName=name, **TABLE_DEFINITION)
    yield name
    dynamodb.delete_table(TableName=name)


@pytest.fixture
def client(dynamodb: Any) -> Any:
    return FaultyClient(dynamodb)


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def store(client: Any, table: str, waits: list[float]) -> DynamoDbMetadataStore:
    return DynamoDbMetadataStore(client, table, patience=Patience(attempts=4), sleep=waits.append)


class TestFaults:
    def test_items_left_unwritten_are_written_again(
        self, store: DynamoDbMetadataStore, client: FaultyClient, table: str, waits: list[float]
    ) -> None:
        def half(call: Callable[..., Any], parameters: dict[str, Any]) -> Any:
            items = parameters["RequestItems"][table]
            call(RequestItems={table: items[::2]})
            return {"UnprocessedItems": {table: items[1::2]}}

        client.faults["batch_write_item"] = [half, half]
        entries = [a_record(number) for number in range(20)]
        store.put_entries(entries)
        assert entries == list(store.entries(a_batch_id()))
        assert len(waits) == 2

    def test_items_left_unread_are_read_again(
        self, store: DynamoDbMetadataStore, client: FaultyClient, table: str
    ) -> None:
        def half(call: Callable[..., Any], parameters: dict[str, Any]) -> Any:
            keys = parameters["RequestItems"][table]["Keys"]
            answer = call(RequestItems={table: {"Keys": keys[::2], "ConsistentRead": True}})
            return {**answer, "UnprocessedKeys": {table: {"Keys": keys[1::2]}}}

        store.claim([(a_record(number), None) for number in range(20)])
        client.faults["batch_get_item"] = [half, half]
        assert len(store.newest([a_key(number) for number in range(20)])) == 20

    @pytest.mark.parametrize("method", ["batch_get_item", "batch_write_item"])
    def test_what_is_left_over_again_and_again_is_unavailable(
        self, store: DynamoDbMetadataStore, client: FaultyClient, table: str, waits: list[float], method: str
    ) -> None:
        def nothing(_call: Callable[..., Any], parameters: dict[str, Any]) -> Any:
            left = parameters["RequestItems"]
            return {"Responses": {}, "UnprocessedKeys": left, "UnprocessedItems": left}

        client.faults[method] = [nothing] * 4
        with pytest.raises(MetadataUnavailable, match="4 times"):
            store.newest([a_key()]) if method == "batch_get_item" else store.put_holdings([a_holding()])
        assert len(waits) == 3
        assert waits == sorted(waits)

    def test_a_write_whose_answer_was_lost_has_won(self, store: DynamoDbMetadataStore, client: FaultyClient) -> None:
        client.faults["put_item"] = [repeated] * 4
        closed = a_batch(state=BatchState.CLOSED, revision=2)
        assert store.add_batch(a_batch())
        assert store.replace_batch(a_batch(), closed)
        assert store.claim([(a_record(), None)]) == frozenset()
        store.put_study(a_study())
        assert client.calls["put_item"] == 4
        assert not store.add_batch(a_batch())

    def test_a_write_that_meets_a_transaction_is_tried_again(
        self, store: DynamoDbMetadataStore, client: FaultyClient
    ) -> None:
        client.faults["put_item"] = [refused("TransactionConflictException")] * 3
        assert store.add_batch(a_batch())
        client.faults["transact_write_items"] = [
            cancelled("None", "TransactionConflict"),
            cancelled("ThrottlingError", "None"),
            refused("TransactionInProgressException"),
        ]
        assert store.clear_batch(a_batch(), a_batch().cleared(files=1, size=1), frozenset({a_batch_id(2)}))

    def test_a_write_that_keeps_meeting_others_is_unavailable(
        self, store: DynamoDbMetadataStore, client: FaultyClient
    ) -> None:
        client.faults["transact_write_items"] = [cancelled("TransactionConflict")] * 4
        with pytest.raises(MetadataUnavailable, match="met others 4 times"):
            store.clear_batch(a_batch(), a_batch().rerun(), frozenset())

    def test_a_transaction_that_makes_no_sense_is_a_bug(
        self, store: DynamoDbMetadataStore, client: FaultyClient
    ) -> None:
        client.faults["transact_write_items"] = [cancelled("ValidationError", "None")]
        with pytest.raises(ClientError):
            store.clear_batch(a_batch(), a_batch().rerun(), frozenset())

    @pytest.mark.parametrize(
        "method, call",
        [
            ("put_item", lambda store: store.add_batch(a_batch())),
            ("get_item", lambda store: store.batch(a_batch_id())),
            ("query", lambda store: list(store.batches(BatchState))),
            ("batch_get_item", lambda store: store.newest([a_key()])),
            ("batch_write_item", lambda store: store.claim([(a_record(), None)])),
            ("update_item", lambda store: store.put_entries([a_record(state=InstanceState.FAILED)])),
            ("transact_write_items", lambda store: store.clear_batch(a_batch(), a_batch(), frozenset())),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    @pytest.mark.parametrize("error", [("ThrottlingException", 400), ("InternalServerError", 500)], ids=str)
    def test_a_service_that_fails_is_unavailable(
        self,
        store: DynamoDbMetadataStore,
        client: FaultyClient,
        method: str,
        call: Callable[[DynamoDbMetadataStore], Any],
        error: tuple[str, int],
    ) -> None:
        if method == "update_item":
            store.claim([(a_record(), None)])
        client.faults[method] = [refused(*error)]
        with pytest.raises(MetadataUnavailable, match=error[0]):
            call(store)

    def test_a_table_that_is_gone_tells_the_operator(self, dynamodb: Any) -> None:
        with pytest.raises(MetadataUnavailable, match=r"table gone .*ResourceNotFound.*check that it exists"):
            DynamoDbMetadataStore(dynamodb, "gone").batch(a_batch_id())

    def test_a_call_that_broke_off_is_finished_by_its_repeat(
        self, store: DynamoDbMetadataStore, client: FaultyClient
    ) -> None:
        records = [a_record(number) for number in range(6)]
        failed = [attrs.evolve(record, state=InstanceState.FAILED, reason="no") for record in records]
        store.claim([(record, None) for record in records])
        client.faults["update_item"] = [refused("InternalServerError", 500)]
        with pytest.raises(MetadataUnavailable):
            store.put_entries(failed)
        store.put_entries(failed)
        assert failed == list(store.failures()) == list(store.entries(a_batch_id()))


class TestConditionsAreThoseOfTheDomain:
    @pytest.mark.parametrize("stored_state", InstanceState)
    @pytest.mark.parametrize("state", InstanceState)
    @pytest.mark.parametrize("attempts", [(1, 1), (1, 2), (2, 1)], ids=str)
    def test_a_newest_record_is_updated_where_an_entry_may_replace_it(
        self,
        store: DynamoDbMetadataStore,
        stored_state: InstanceState,
        state: InstanceState,
        attempts: tuple[int, int],
    ) -> None:
        stored = a_record(attempt=attempts[0], state=stored_state, earlier=(a_batch_id(9),))
        entry = a_record(attempt=attempts[1], state=state, size=7)
        store.claim([(stored, None)])
        store._follow_one(entry)
        replaced = attrs.evolve(entry, earlier=stored.earlier)
        assert store.newest([a_key()])[a_key()] == (replaced if entry.may_replace(stored) else stored)
        assert bool(list(store.failures())) is (store.newest([a_key()])[a_key()].state is InstanceState.FAILED)

    def test_a_newest_record_of_another_batch_is_not_updated(self, store: DynamoDbMetadataStore) -> None:
        stored = a_record(batch=a_batch_id(2))
        store.claim([(stored, None)])
        store._follow_one(a_record(state=InstanceState.FAILED))
        store._follow_one(a_record(2))
        assert store.newest([a_key(), a_key(2)]) == {a_key(): stored}

    @pytest.mark.parametrize("state", BatchState)
    @pytest.mark.parametrize("is_cleared", [True, False])
    def test_a_batch_hinders_exactly_when_it_is_started(
        self, store: DynamoDbMetadataStore, state: BatchState, is_cleared: bool
    ) -> None:
        other = a_batch(2, state=state, is_cleared=is_cleared)
        store.add_batch(a_batch())
        store.add_batch(other)
        assert store.clear_batch(a_batch(), a_batch().rerun(), frozenset({other.id})) is not other.is_started


class TestEntriesOfWritersAtTheSameMoment:
    """Both have read before either has written, so that only what is stored can decide."""

    @pytest.mark.parametrize(
        "written, kept",
        [
            ([(1, InstanceState.FAILED), (2, InstanceState.STAGED)], 1),
            ([(1, InstanceState.FAILED), (2, InstanceState.IMPORTED)], 1),
            ([(1, InstanceState.STAGED), (1, InstanceState.IMPORTED)], 1),
            ([(1, InstanceState.FAILED), (2, InstanceState.STAGED), (2, InstanceState.FAILED)], 2),
            ([(9, InstanceState.FAILED), (10, InstanceState.STAGED)], 1),
        ],
    )
    def test_any_order_leaves_the_same(
        self, store: DynamoDbMetadataStore, written: list[tuple[int, InstanceState]], kept: int
    ) -> None:
        entries = [a_record(attempt=attempt, state=state) for attempt, state in written]
        for number, order in enumerate(itertools.permutations(entries)):
            batch = a_batch_id(number)
            for entry in order:
                store._table.put_many([entry_item(attrs.evolve(entry, batch=batch))])
            assert list(store.entries(batch)) == [attrs.evolve(entries[kept], batch=batch)]


class TestAnIndexThatLags:
    """Items whose index attributes are of a state that they have left, as a reader of the index meets them."""

    def test_answers_are_true_all_the_same(self, store: DynamoDbMetadataStore) -> None:
        failed = newest_item(a_record(state=InstanceState.FAILED))
        imported = newest_item(a_record(state=InstanceState.IMPORTED))
        store._table.put_many([{**imported, "index_pk": failed["index_pk"], "index_sk": failed["index_sk"]}])
        assert list(store.failures()) == []


class TestCost:
    """Requests, which is what the table costs and how long a step takes."""

    def test_a_listed_chunk_costs_few_requests(self, store: DynamoDbMetadataStore, client: FaultyClient) -> None:
        records = [a_record(number) for number in range(100)]
        assert store.newest([record.key for record in records]) == {}
        store.claim([(record, None) for record in records])
        store.put_entries(records)
        # 100 conditional puts of newest records; 4 batches each of look-ups and of entries.
        assert client.calls == {"batch_get_item": 2, "put_item": 100, "batch_write_item": 8, "query": 1}

    def test_a_repeat_writes_nothing(self, store: DynamoDbMetadataStore, client: FaultyClient) -> None:
        records = [a_record(number) for number in range(50)]
        failed = [attrs.evolve(record, state=InstanceState.FAILED, reason="no") for record in records]
        store.claim([(record, None) for record in records])
        store.put_entries(failed)
        store.put_study(a_study())
        client.calls.clear()
        store.put_entries(failed)
        store.put_study(a_study())
        assert client.calls == {"query": 1, "batch_get_item": 1, "get_item": 1}

    def test_only_clearing_is_a_transaction(self, store: DynamoDbMetadataStore, client: FaultyClient) -> None:
        batch = a_batch()
        store.add_batch(batch)
        closed = attrs.evolve(batch, state=BatchState.CLOSED, revision=2)
        store.replace_batch(batch, closed)
        assert client.calls["transact_write_items"] == 0
        others: frozenset[BatchId] = frozenset({a_batch_id(2)})
        cleared = closed.cleared(files=1, size=1)
        assert store.clear_batch(closed, cleared, others)
        assert store.replace_batch(cleared, cleared.submitted(a_job_id(), a_moment()))
        assert client.calls["transact_write_items"] == 1
