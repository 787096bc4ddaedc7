"""
What every CommitmentStore promises (domain/ports.py), asked of each adapter.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol

import attrs
import pytest

from adapters.memory.metadata import MemoryMetadataStore
from adapters.outbound.dynamodb_metadata import TABLE_DEFINITION, DynamoDbMetadataStore
from adapters.outbound.local.sqlite_metadata import SqliteMetadataStore
from adapters.outbound.records import COMMITMENT
from domain.commitment import COMMITTED, CommitmentReference, CommitmentRequest, CommitmentState, FailureReason, Verdict
from domain.identifiers import Uid
from domain.ports import CommitmentStore, MetadataStore
from tests.builders import A_POLICY, CT_IMAGE_STORAGE, a_commitment, a_moment, a_record, a_uid

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PAGE = 7
MANY = 3 * PAGE + 2


class Store(CommitmentStore, MetadataStore, Protocol):
    """Requests are kept beside the metadata."""


Open = Callable[[], Store]


@contextmanager
def _memory(_folder: Path, _request: pytest.FixtureRequest) -> Iterator[Open]:
    store = MemoryMetadataStore()
    yield lambda: store


@contextmanager
def _sqlite(folder: Path, _request: pytest.FixtureRequest) -> Iterator[Open]:
    with ExitStack() as handles:
        yield lambda: handles.enter_context(closing(SqliteMetadataStore(folder / "metadata.sqlite3", page_size=PAGE)))


@contextmanager
def _dynamodb(_folder: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    client: DynamoDBClient = request.getfixturevalue("dynamodb")
    name = f"metadata-{uuid.uuid4()}"
    client.create_table(TableName=name, **TABLE_DEFINITION)
    yield lambda: DynamoDbMetadataStore(client, name, page_size=PAGE)
    client.delete_table(TableName=name)


_OPENERS = {"memory": _memory, "sqlite": _sqlite, "dynamodb": _dynamodb}


@pytest.fixture(scope="session")
def dynamodb() -> Iterator[DynamoDBClient]:
    """Give a client of a simulated DynamoDB."""
    from tests.moto_server import moto_server

    with moto_server() as server, closing(server.client("dynamodb")) as client:
        yield client


@pytest.fixture(params=["memory", "sqlite", pytest.param("dynamodb", marks=pytest.mark.aws)])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Give what opens the store: each call is a further handle on the same one."""
    with _OPENERS[request.param](tmp_path, request) as opener:
        yield opener


@pytest.fixture
def store(open_store: Open) -> Store:
    return open_store()


def a_full_commitment() -> CommitmentRequest:
    return a_commitment(
        state=CommitmentState.DECIDED,
        verdicts=(COMMITTED, Verdict(FailureReason.CLASS_INSTANCE_CONFLICT)),
        decided_at=a_moment(40.000001),
        attempts=3,
        claimed_by="receiver-1",
        claimed_until=a_moment(90),
        revision=7,
    )


def finished(number: int) -> CommitmentRequest:
    return a_commitment(number, state=CommitmentState.ANSWERED)


def test_a_request_that_nobody_made_is_none(store: Store) -> None:
    assert store.commitment(a_commitment().transaction) is None


@pytest.mark.parametrize("request_", [a_commitment(), a_full_commitment()], ids=["new", "full"])
def test_a_request_reads_back_as_it_was_written(open_store: Open, request_: CommitmentRequest) -> None:
    assert open_store().add_commitment(request_)
    assert open_store().commitment(request_.transaction) == request_


def test_a_second_request_of_a_transaction_is_refused(store: Store) -> None:
    assert store.add_commitment(a_commitment())
    assert not store.add_commitment(a_commitment(association="another"))
    assert store.commitment(a_commitment().transaction) == a_commitment()


def test_only_the_revision_that_was_read_is_replaced(store: Store) -> None:
    old = a_commitment()
    new = old.claimed("receiver-1", a_moment(), A_POLICY)
    assert not store.replace_commitment(old, new)
    store.add_commitment(old)
    assert store.replace_commitment(old, new)
    assert not store.replace_commitment(old, old.claimed("receiver-2", a_moment(), A_POLICY))
    assert store.commitment(old.transaction) == new


def test_of_many_claims_at_once_one_wins(open_store: Open) -> None:
    old = a_commitment()
    open_store().add_commitment(old)
    barrier = threading.Barrier(8)

    def claim(number: int) -> bool:
        store = open_store()
        barrier.wait()
        return store.replace_commitment(old, old.claimed(f"receiver-{number}", a_moment(), A_POLICY))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1


def test_due_requests_come_the_longest_due_first_over_all_pages(store: Store) -> None:
    requests = [a_commitment(number) for number in range(MANY)]
    for request in reversed(requests):
        store.add_commitment(request)
    store.add_commitment(finished(MANY))
    assert list(store.due_commitments(a_moment(MANY - 2))) == requests[:-1]
    assert list(store.due_commitments(a_moment(MANY + 9))) == requests
    assert list(store.due_commitments(a_moment(-1))) == []


def test_requests_of_one_moment_all_come(store: Store) -> None:
    requests = [a_commitment(number, due_at=a_moment()) for number in range(MANY)]
    for request in requests:
        store.add_commitment(request)
    assert list(store.due_commitments(a_moment())) == requests


def test_a_request_comes_when_it_is_due_now(store: Store) -> None:
    store.add_commitment(a_commitment(1))
    later = attrs.evolve(a_commitment(1), due_at=a_moment(60), revision=2)
    store.replace_commitment(a_commitment(1), later)
    assert list(store.due_commitments(a_moment(59))) == []
    assert list(store.due_commitments(a_moment(60))) == [later]
    store.replace_commitment(later, attrs.evolve(finished(1), revision=3))
    assert list(store.due_commitments(a_moment(60))) == []


def test_requests_that_were_finished_long_ago_are_forgotten(store: Store) -> None:
    for number in range(MANY):
        store.add_commitment(finished(number))
    waiting = a_commitment(MANY + 1, due_at=a_moment())
    store.add_commitment(waiting)
    store.forget_commitments(a_moment(MANY - 1))
    left = [number for number in range(MANY) if store.commitment(finished(number).transaction) is not None]
    assert left == [MANY - 1]
    assert store.commitment(waiting.transaction) == waiting


def test_instances_are_found_by_their_uids_in_every_study(store: Store) -> None:
    other = a_uid(7, root="2.25.8")
    records = [a_record(1), a_record(2), a_record(2, study=other), a_record(3)]
    store.claim([(record, None) for record in records])
    wanted = [a_uid(2), a_uid(3), a_uid(99), a_uid(2)]
    found = store.find_instances(wanted)
    assert sorted(found, key=lambda record: (record.key.sop_instance, record.key.study)) == sorted(
        records[1:], key=lambda record: (record.key.sop_instance, record.key.study)
    )
    assert list(store.find_instances([])) == []


def test_as_many_references_as_are_taken_fit_into_a_record(store: Store) -> None:
    random = Random(1)  # as long and as unlike each other as UIDs can be
    uids = ("".join(random.choices("0123456789", k=64)) for _ in range(A_POLICY.max_references))
    references = tuple(CommitmentReference(CT_IMAGE_STORAGE, Uid(uid)) for uid in uids)
    request = a_commitment(references=references)
    assert len(COMMITMENT.dumps(request)) < 400_000
    assert store.add_commitment(request)
    assert store.commitment(request.transaction) == request
