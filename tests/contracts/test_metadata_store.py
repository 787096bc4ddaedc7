"""
What every MetadataStore promises (domain/ports.py), asked of each adapter.

A further adapter joins with a factory in `_OPENERS`: it gives handles on one and the same store, as two
processes would have.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs
import pytest

from adapters.memory.metadata import MemoryMetadataStore
from adapters.outbound.dynamodb_metadata import TABLE_DEFINITION, DynamoDbMetadataStore
from adapters.outbound.local.sqlite_metadata import SqliteMetadataStore
from domain.batch import Batch, CloseReason
from domain.identifiers import AeTitle
from domain.lifecycle import BatchState, InstanceState
from domain.ports import MetadataStore
from domain.record import InstanceRecord
from tests.builders import (
    DATA_STORE,
    STUDY,
    a_batch,
    a_batch_id,
    a_digest,
    a_holding,
    a_job_id,
    a_key,
    a_moment,
    a_record,
    a_study,
    a_uid,
    an_image_set,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PAGE = 7
"""Rows that adapters read at a time here, so that a few records are several pages."""

MANY = 3 * PAGE + 2

STAGED, IMPORTED, FAILED, SUPERSEDED = InstanceState

Open = Callable[[], MetadataStore]
_T = TypeVar("_T")


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
def store(open_store: Open) -> MetadataStore:
    return open_store()


def at_once(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    """Call all of them at the same moment, each in its own thread."""
    barrier = threading.Barrier(len(calls))

    def call(one: Callable[[], _T]) -> _T:
        barrier.wait()
        return one()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def clearing(store: MetadataStore, mine: Batch, other: Batch) -> Callable[[], bool]:
    """Return the call that clears `mine` unless `other` is started."""
    return partial(store.clear_batch, mine, mine.cleared(files=1, size=1), frozenset({other.id}))


def a_full_batch() -> Batch:
    return a_batch(
        state=BatchState.FAILED,
        lease_expires_at=a_moment(600.000001),
        closed_at=a_moment(15),
        close_reason=CloseReason.QUIET,
        attempt=3,
        run=2,
        is_cleared=True,
        files=4_500,
        size=9_000_000_000,
        job_id=a_job_id(1),
        previous_job_id=a_job_id(2),
        submitted_at=a_moment(20),
        settled_at=a_moment(120),
        server_retries=2,
        reason="the job failed",
        revision=11,
    )


def a_full_record(number: int = 1) -> InstanceRecord:
    return a_record(
        number,
        attempt=2,
        state=IMPORTED,
        is_server_error=False,
        image_set_version=7,
        is_primary=False,
        warnings=("invalid offset table (0xb006)", "Zeile \u00fcber 64 \u2013 \u5c71\u7530"),
        conflict="imported into a non-primary image set",
        superseded_by=a_batch_id(4),
        calling_ae_title=AeTitle("CT 1"),
    )


def a_closed(number: int, *, is_cleared: bool = False) -> Batch:
    return a_batch(number, state=BatchState.CLOSED, is_cleared=is_cleared)


class TestBatches:
    def test_a_batch_that_nobody_added_is_none(self, store: MetadataStore) -> None:
        assert store.batch(a_batch_id()) is None

    @pytest.mark.parametrize("batch", [a_batch(), a_full_batch()], ids=["new", "full"])
    def test_a_batch_reads_back_as_it_was_added(self, store: MetadataStore, batch: Batch) -> None:
        assert store.add_batch(batch)
        assert batch == store.batch(batch.id)

    def test_a_second_batch_of_the_same_id_is_refused(self, store: MetadataStore) -> None:
        store.add_batch(a_batch(owner="first"))
        assert not store.add_batch(a_batch(owner="second"))
        assert store.batch(a_batch_id()) == a_batch(owner="first")

    def test_another_handle_sees_what_was_written(self, open_store: Open) -> None:
        open_store().add_batch(a_batch())
        assert open_store().batch(a_batch_id()) == a_batch()

    def test_replacing_the_revision_that_was_read_writes_the_new_one(self, store: MetadataStore) -> None:
        store.add_batch(a_batch())
        closed = a_batch().closed(a_moment(60), CloseReason.AGE)
        assert store.replace_batch(a_batch(), closed)
        assert closed == store.batch(a_batch_id())

    def test_replacing_another_revision_changes_nothing(self, store: MetadataStore) -> None:
        store.add_batch(a_batch())
        renewed = a_batch().renewed(a_moment(600))
        store.replace_batch(a_batch(), renewed)
        assert not store.replace_batch(a_batch(), a_batch().closed(a_moment(60), CloseReason.AGE))
        assert renewed == store.batch(a_batch_id())

    def test_replacing_what_is_not_there_changes_nothing(self, store: MetadataStore) -> None:
        assert not store.replace_batch(a_batch(), a_batch().renewed(a_moment(600)))
        assert store.batch(a_batch_id()) is None


class TestClearing:
    """clear_batch is where it is decided which of two batches imports first."""

    @pytest.mark.parametrize(
        "other",
        [
            a_batch(2),
            a_closed(2),
            a_batch(2, state=BatchState.SETTLED),
            a_batch(2, state=BatchState.FAILED),
        ],
        ids=lambda batch: batch.state.value,
    )
    def test_batches_that_are_not_started_do_not_hinder(self, store: MetadataStore, other: Batch) -> None:
        mine = a_closed(1)
        store.add_batch(mine)
        store.add_batch(other)
        assert store.clear_batch(mine, mine.cleared(files=3, size=9), frozenset({other.id}))
        assert store.batch(mine.id) == mine.cleared(files=3, size=9)
        assert store.batch(other.id) == other

    @pytest.mark.parametrize(
        "other",
        [
            a_closed(2, is_cleared=True),
            a_batch(2, state=BatchState.SUBMITTED),
            a_batch(2, state=BatchState.IMPORTING, is_cleared=True),
        ],
        ids=lambda batch: batch.state.value,
    )
    def test_one_batch_that_is_started_hinders(self, store: MetadataStore, other: Batch) -> None:
        mine = a_closed(1)
        for batch in (mine, a_closed(3), other):
            store.add_batch(batch)
        others = frozenset({a_batch_id(3), other.id})
        assert not store.clear_batch(mine, mine.cleared(files=3, size=9), others)
        assert mine == store.batch(mine.id)

    def test_batches_that_nobody_knows_do_not_hinder(self, store: MetadataStore) -> None:
        mine = a_closed(1)
        store.add_batch(mine)
        assert store.clear_batch(mine, mine.cleared(files=1, size=1), frozenset({a_batch_id(2)}))

    def test_without_others_it_is_a_replacement(self, store: MetadataStore) -> None:
        mine = a_closed(1)
        store.add_batch(mine)
        assert store.clear_batch(mine, mine.cleared(files=1, size=1), frozenset())
        assert not store.clear_batch(mine, mine.cleared(files=2, size=2), frozenset())
        assert store.batch(mine.id) == mine.cleared(files=1, size=1)

    def test_another_revision_is_not_cleared(self, store: MetadataStore) -> None:
        mine = a_closed(1)
        store.add_batch(mine)
        store.add_batch(a_closed(2))
        store.replace_batch(mine, mine.rerun())
        assert not store.clear_batch(mine, mine.cleared(files=1, size=1), frozenset({a_batch_id(2)}))
        assert store.batch(mine.id) == mine.rerun()

    @pytest.mark.parametrize("started", [None, 2, 130])
    def test_others_may_be_many(self, store: MetadataStore, started: int | None) -> None:
        mine = a_closed(1)
        store.add_batch(mine)
        for number in range(2, 132):
            state = BatchState.SETTLED if number % 2 else BatchState.CLOSED
            store.add_batch(a_batch(number, state=BatchState.SUBMITTED if number == started else state))
        others = frozenset(a_batch_id(number) for number in range(2, 132))
        assert store.clear_batch(mine, mine.cleared(files=1, size=1), others) is (started is None)


class TestBatchesByState:
    def test_nothing_is_there_at_first(self, store: MetadataStore) -> None:
        assert list(store.batches(BatchState)) == []

    def test_no_states_are_no_batches(self, store: MetadataStore) -> None:
        store.add_batch(a_batch())
        assert list(store.batches([])) == []

    def test_batches_of_the_states_come_oldest_first_over_all_pages(self, store: MetadataStore) -> None:
        states = (BatchState.OPEN, BatchState.CLOSED, BatchState.SETTLED)
        batches = [a_batch(number, state=states[number % 3]) for number in range(1, 4 * PAGE)]
        for batch in reversed(batches):
            store.add_batch(batch)
        assert batches == list(store.batches(BatchState))
        open_or_settled = [batch for batch in batches if batch.state is not BatchState.CLOSED]
        assert open_or_settled == list(store.batches(iter((BatchState.SETTLED, BatchState.OPEN))))

    def test_batches_of_one_moment_all_come_by_id(self, store: MetadataStore) -> None:
        batches = [a_batch(number, opened_at=a_moment()) for number in range(MANY)]
        for batch in reversed(batches):
            store.add_batch(batch)
        assert batches == list(store.batches([BatchState.OPEN]))

    def test_a_batch_comes_under_its_present_state_only(self, store: MetadataStore) -> None:
        store.add_batch(a_batch())
        closed = a_batch().closed(a_moment(9), CloseReason.FILES)
        store.replace_batch(a_batch(), closed)
        assert list(store.batches([BatchState.OPEN])) == []
        assert list(store.batches([BatchState.CLOSED])) == [closed]
        cleared = closed.cleared(files=1, size=1)
        store.clear_batch(closed, cleared, frozenset())
        assert list(store.batches([BatchState.CLOSED])) == [cleared]

    def test_since_names_the_first_moment(self, store: MetadataStore) -> None:
        for number in (1, 2, 3):
            store.add_batch(a_batch(number))
        assert list(store.batches(BatchState, opened_since=a_moment(2))) == [a_batch(2), a_batch(3)]

    def test_writes_between_two_steps_disturb_nobody(self, open_store: Open) -> None:
        store, other = open_store(), open_store()
        for number in range(MANY):
            store.add_batch(a_batch(number))
        steps = store.batches([BatchState.OPEN])
        seen = [next(steps)]
        other.replace_batch(a_batch(0), a_batch(0).renewed(a_moment(1)))
        other.add_batch(a_batch(MANY))
        seen.extend(steps)
        assert [a_batch_id(number) for number in range(MANY)] == [batch.id for batch in seen][:MANY]


class TestNewest:
    def test_what_nobody_claimed_is_left_out(self, store: MetadataStore) -> None:
        store.claim([(a_record(1), None)])
        assert store.newest([a_key(1), a_key(2)]) == {a_key(1): a_record(1)}
        assert store.newest([]) == {}

    def test_a_claimed_record_reads_back_as_it_was(self, store: MetadataStore) -> None:
        record = attrs.evolve(a_full_record(), earlier=(a_batch_id(7), a_batch_id(8)))
        assert store.claim([(record, None)]) == frozenset()
        assert store.newest([record.key]) == {record.key: record}

    def test_a_record_without_a_known_object_reads_back(self, store: MetadataStore) -> None:
        record = a_record(state=FAILED, digest=None, sop_class=None, received_at=None, calling_ae_title=None)
        store.claim([(record, None)])
        assert store.newest([record.key]) == {record.key: record}

    def test_a_claim_on_what_is_absent_is_lost_when_it_is_there(self, store: MetadataStore) -> None:
        store.claim([(a_record(batch=a_batch_id(1)), None)])
        assert store.claim([(a_record(batch=a_batch_id(2)), None)]) == {a_key()}
        assert store.newest([a_key()])[a_key()].batch == a_batch_id(1)

    def test_a_claim_on_what_is_there_is_lost_when_it_is_absent(self, store: MetadataStore) -> None:
        assert store.claim([(a_record(batch=a_batch_id(2)), a_record())]) == {a_key()}
        assert store.newest([a_key()]) == {}

    def test_a_claim_on_the_stored_record_wins(self, store: MetadataStore) -> None:
        store.claim([(a_record(), None)])
        newer = a_record(batch=a_batch_id(2), earlier=(a_batch_id(1),))
        assert store.claim([(newer, a_record())]) == frozenset()
        assert store.newest([a_key()]) == {a_key(): newer}

    @pytest.mark.parametrize(
        "stored",
        [
            a_record(batch=a_batch_id(3)),
            a_record(attempt=2),
            a_record(state=IMPORTED),
            a_record(earlier=(a_batch_id(8),)),
        ],
        ids=["batch", "attempt", "state", "earlier"],
    )
    def test_a_claim_on_what_has_changed_is_lost(self, store: MetadataStore, stored: InstanceRecord) -> None:
        store.claim([(stored, None)])
        assert store.claim([(a_record(batch=a_batch_id(2)), a_record())]) == {a_key()}
        assert store.newest([a_key()]) == {a_key(): stored}

    def test_other_changes_do_not_make_it_another_record(self, store: MetadataStore) -> None:
        store.claim([(a_record(size=8), None)])
        newer = a_record(batch=a_batch_id(2))
        assert store.claim([(newer, a_record())]) == frozenset()

    def test_claims_are_decided_one_by_one(self, store: MetadataStore) -> None:
        store.claim([(a_record(2, batch=a_batch_id(9)), None)])
        assert store.claim([(a_record(number), None) for number in (1, 2, 3)]) == {a_key(2)}
        assert set(store.newest([a_key(1), a_key(2), a_key(3)])) == {a_key(1), a_key(2), a_key(3)}

    def test_a_whole_batch_is_claimed_and_read_at_once(self, store: MetadataStore) -> None:
        records = {a_key(number): a_record(number) for number in range(230)}
        assert store.claim([(record, None) for record in records.values()]) == frozenset()
        assert records == store.newest(list(records))

    def test_one_instance_uid_in_two_studies_is_two_instances(self, store: MetadataStore) -> None:
        first, second = a_record(study=a_uid(1)), a_record(study=a_uid(2))
        assert store.claim([(first, None), (second, None)]) == frozenset()
        assert store.newest([second.key]) == {second.key: second}


class TestEntries:
    def test_an_entry_reads_back_as_it_was(self, store: MetadataStore) -> None:
        store.put_entries([a_full_record()])
        assert list(store.entries(a_batch_id())) == [a_full_record()]

    def test_entries_come_by_study_then_instance_over_all_pages(self, store: MetadataStore) -> None:
        entries = [a_record(number, study=a_uid(study)) for study in (1, 2, 3) for number in range(1, PAGE + 2)]
        store.put_entries([*entries[::-2], a_record(1, batch=a_batch_id(2)), *entries[-2::-2]])
        assert entries == list(store.entries(a_batch_id()))

    def test_uids_are_ordered_as_text(self, store: MetadataStore) -> None:
        uids = [a_uid(1).parse(text) for text in ("1.10", "1.2", "1.2.3", "1.20", "10", "2")]
        entries = [a_record(study=study) for study in uids]
        entries = [attrs.evolve(one, key=attrs.evolve(one.key, sop_instance=uid)) for one in entries for uid in uids]
        store.put_entries(entries[::-1])
        assert [entry.key for entry in entries] == [entry.key for entry in store.entries(a_batch_id())]

    def test_writing_nothing_is_allowed(self, store: MetadataStore) -> None:
        store.put_entries([])
        assert list(store.entries(a_batch_id())) == []

    def test_entries_carry_no_earlier_batches(self, store: MetadataStore) -> None:
        store.put_entries([a_record(earlier=(a_batch_id(7),))])
        assert list(store.entries(a_batch_id())) == [a_record()]

    def test_a_whole_batch_is_written_at_once(self, store: MetadataStore) -> None:
        entries = [a_record(number) for number in range(130)]
        store.put_entries(entries)
        settled = [attrs.evolve(entry, state=FAILED, reason="no outcome") for entry in entries]
        store.put_entries(settled)
        assert settled == list(store.entries(a_batch_id()))

    def test_entries_are_picked_by_their_keys(self, store: MetadataStore) -> None:
        entries = [a_record(number, study=a_uid(study)) for study in (1, 2) for number in range(MANY)]
        store.put_entries([*entries, a_record(99, batch=a_batch_id(2))])
        settled = [attrs.evolve(entry, state=FAILED, reason="no outcome") for entry in entries[::2]]
        store.put_entries(settled)
        wanted = [*settled[::3], entries[1], entries[-1]]
        keys = [*(entry.key for entry in wanted), a_key(99), a_key(1, study=a_uid(3))]
        assert store.pick_entries(a_batch_id(), keys) == {entry.key: entry for entry in wanted}
        assert store.pick_entries(a_batch_id(), []) == {}
        assert store.pick_entries(a_batch_id(7), keys) == {}

    @pytest.mark.parametrize(
        "written, kept",
        [
            ([(1, STAGED), (1, FAILED)], (1, FAILED)),
            ([(1, STAGED), (1, SUPERSEDED)], (1, SUPERSEDED)),
            ([(1, FAILED), (1, STAGED)], (1, FAILED)),
            ([(1, IMPORTED), (1, STAGED)], (1, IMPORTED)),
            ([(1, SUPERSEDED), (1, STAGED)], (1, SUPERSEDED)),
            ([(1, FAILED), (1, IMPORTED)], (1, IMPORTED)),
            ([(1, FAILED), (2, STAGED)], (2, STAGED)),
            ([(1, SUPERSEDED), (2, STAGED)], (2, STAGED)),
            ([(2, STAGED), (1, STAGED)], (2, STAGED)),
            ([(2, STAGED), (1, FAILED)], (2, STAGED)),
            ([(2, FAILED), (1, FAILED)], (2, FAILED)),
            ([(2, STAGED), (1, IMPORTED)], (2, STAGED)),
            ([(2, FAILED), (1, IMPORTED)], (2, FAILED)),
            ([(1, IMPORTED), (2, STAGED)], (1, IMPORTED)),
            ([(1, IMPORTED), (2, FAILED)], (1, IMPORTED)),
            ([(1, STAGED), (1, FAILED), (2, STAGED), (2, IMPORTED)], (2, IMPORTED)),
            ([(1, FAILED), (2, STAGED), (1, FAILED)], (2, STAGED)),
            ([(1, FAILED), (9, STAGED), (10, FAILED)], (10, FAILED)),
        ],
    )
    @pytest.mark.parametrize("is_one_call", [True, False], ids=["together", "apart"])
    def test_an_entry_never_goes_back(
        self,
        store: MetadataStore,
        written: Sequence[tuple[int, InstanceState]],
        kept: tuple[int, InstanceState],
        is_one_call: bool,
    ) -> None:
        store.claim([(a_record(attempt=written[0][0], earlier=(a_batch_id(7),)), None)])
        entries = [a_record(attempt=attempt, state=state) for attempt, state in written]
        for call in [entries] if is_one_call else [[entry] for entry in entries]:
            store.put_entries(call)
        expected = a_record(attempt=kept[0], state=kept[1])
        assert list(store.entries(a_batch_id())) == [expected]
        assert store.newest([a_key()]) == {a_key(): attrs.evolve(expected, earlier=(a_batch_id(7),))}

    def test_the_newest_record_follows_and_keeps_its_earlier_batches(self, store: MetadataStore) -> None:
        store.claim([(a_record(earlier=(a_batch_id(7),)), None)])
        store.put_entries([a_record(state=IMPORTED)])
        assert store.newest([a_key()])[a_key()] == a_record(state=IMPORTED, earlier=(a_batch_id(7),))

    def test_the_newest_record_of_another_batch_stays(self, store: MetadataStore) -> None:
        newest = a_record(batch=a_batch_id(2))
        store.claim([(newest, None)])
        store.put_entries([a_record(batch=a_batch_id(1), state=IMPORTED)])
        assert store.newest([a_key()]) == {a_key(): newest}

    def test_the_newest_record_never_goes_back(self, store: MetadataStore) -> None:
        store.claim([(a_record(attempt=2), None)])
        store.put_entries([a_record(attempt=1, state=FAILED)])
        assert store.newest([a_key()]) == {a_key(): a_record(attempt=2)}

    def test_an_entry_alone_is_no_newest_record(self, store: MetadataStore) -> None:
        store.put_entries([a_record(state=FAILED)])
        assert store.newest([a_key()]) == {}
        assert list(store.failures()) == []

    def test_a_repeat_catches_the_newest_record_up(self, store: MetadataStore) -> None:
        failed = a_record(state=FAILED)
        store.put_entries([failed])
        store.claim([(a_record(), None)])
        store.put_entries([failed])
        assert store.newest([a_key()]) == {a_key(): failed}


class TestHoldings:
    def test_a_study_that_nobody_knows_has_none(self, store: MetadataStore) -> None:
        assert list(store.holdings(STUDY)) == []

    def test_each_batch_has_one_and_the_last_one_written_holds(self, store: MetadataStore) -> None:
        settled = a_holding(1, received=5, imported=3, failed=1, conflicts=1, size=99, last_received=a_moment(9))
        other_study = a_holding(1, study=a_uid(8))
        store.put_holdings([a_holding(2), a_holding(1), other_study])
        store.put_holdings(iter([settled]))
        store.put_holdings([])
        assert list(store.holdings(STUDY)) == [settled, a_holding(2)]
        assert list(store.holdings(a_uid(8))) == [other_study]

    def test_a_batch_may_hold_many_studies_and_a_study_be_in_many_batches(self, store: MetadataStore) -> None:
        store.put_holdings(a_holding(1, study=a_uid(number)) for number in range(60))
        store.put_holdings([a_holding(number) for number in range(MANY)])
        assert [a_holding(number) for number in range(MANY)] == list(store.holdings(STUDY))
        assert list(store.holdings(a_uid(59))) == [a_holding(1, study=a_uid(59))]


class TestStudies:
    def test_a_study_that_nobody_knows_is_none(self, store: MetadataStore) -> None:
        assert store.study(STUDY) is None
        assert list(store.studies()) == []

    def test_a_study_reads_back_as_it_was(self, store: MetadataStore) -> None:
        study = a_study(
            modalities=("CT", "SR"), patient_name="Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", patient_id="\udce4\0 1"
        )
        store.put_study(study)
        assert study == store.study(STUDY)

    def test_what_is_known_gathers(self, store: MetadataStore) -> None:
        first = a_study(accession_number=None, patient_name="A^B")
        second = a_study(modalities=("SR",), description="CT head", last_received=a_moment(90))
        store.put_study(first)
        store.put_study(second)
        assert first.merged(second) == store.study(STUDY)

    def test_studies_come_latest_first_over_all_pages_and_days(self, store: MetadataStore) -> None:
        hour = 3600
        studies = [a_study(number, last_received=a_moment(5 * hour * number)) for number in range(1, MANY)]
        for study in studies:
            store.put_study(study)
        assert studies[::-1] == list(store.studies())
        assert studies[:3:-1] == list(store.studies(received_since=studies[4].last_received))

    def test_studies_of_one_moment_all_come(self, store: MetadataStore) -> None:
        studies = [a_study(number, last_received=a_moment()) for number in range(1, MANY)]
        for study in studies:
            store.put_study(study)
        assert {study.study for study in studies} == {study.study for study in store.studies()}
        assert len(studies) == len(list(store.studies(received_since=a_moment())))

    def test_a_study_comes_once_with_its_latest_time(self, store: MetadataStore) -> None:
        day = 86_400
        for days in (0, 3, 1):
            store.put_study(a_study(last_received=a_moment(days * day)))
        store.put_study(a_study(1, last_received=a_moment(2 * day)))
        assert [study.study for study in store.studies()] == [STUDY, a_study(1).study]
        assert list(store.studies(received_since=a_moment(3 * day + 1))) == []


class TestInstances:
    def test_the_newest_records_of_a_study_come_by_uid_over_all_pages(self, store: MetadataStore) -> None:
        records = [a_record(number) for number in range(MANY)]
        store.claim([(record, None) for record in [*records[::-1], a_record(1, study=a_uid(8))]])
        store.put_holdings([a_holding()])
        store.put_study(a_study())
        assert records == list(store.instances(STUDY))
        assert list(store.instances(a_uid(9))) == []

    def test_an_instance_is_found_in_every_study_that_has_it(self, store: MetadataStore) -> None:
        first, second = a_record(study=a_uid(1)), a_record(study=a_uid(2))
        store.claim([(second, None), (first, None), (a_record(2), None)])
        store.put_entries([attrs.evolve(second, state=FAILED, reason="no pixels")])
        assert list(store.find_instance(a_uid(1))) == [first, attrs.evolve(second, state=FAILED, reason="no pixels")]
        assert list(store.find_instance(a_uid(3))) == []


class TestFailures:
    def test_the_newest_records_that_failed_come_by_batch_over_all_pages(self, store: MetadataStore) -> None:
        failed = [
            a_record(number, batch=a_batch_id(batch), state=FAILED)
            for batch in (1, 2)
            for number in range(batch, 40, 2)
        ]
        store.claim([(attrs.evolve(record, state=STAGED, reason=None), None) for record in failed])
        store.claim([(a_record(number), None) for number in range(100, 103)])
        store.put_entries(failed[::-1])
        assert failed == list(store.failures())

    def test_what_did_not_stay_failed_is_left_out(self, store: MetadataStore) -> None:
        store.claim([(a_record(number), None) for number in (1, 2, 3)])
        store.put_entries([a_record(number, state=FAILED) for number in (1, 2, 3)])
        store.put_entries([a_record(1, attempt=2)])
        store.claim([(a_record(2, batch=a_batch_id(5)), a_record(2, state=FAILED))])
        assert list(store.failures()) == [a_record(3, state=FAILED)]


class TestConflicts:
    def test_entries_in_conflict_come_by_batch_over_all_pages(self, store: MetadataStore) -> None:
        entries = [
            a_record(number, batch=a_batch_id(batch), state=SUPERSEDED, conflict="other bytes")
            for batch in (1, 2)
            for number in range(MANY)
        ]
        store.put_entries([*entries[::-1], a_record(50, state=SUPERSEDED), a_record(51)])
        assert entries == list(store.conflicts())

    def test_what_did_not_stay_in_conflict_is_left_out(self, store: MetadataStore) -> None:
        superseded = [a_record(number, state=SUPERSEDED, conflict="other bytes") for number in (1, 2, 3)]
        store.put_entries(superseded)
        store.put_entries([a_record(1, attempt=2)])
        store.put_entries([a_record(2, attempt=2, state=SUPERSEDED, conflict="other bytes again")])
        assert list(store.conflicts()) == [
            a_record(2, attempt=2, state=SUPERSEDED, conflict="other bytes again"),
            superseded[2],
        ]


class TestAtOnce:
    """What holds when several owners act at the same moment."""

    ROUNDS = 8

    def test_one_of_several_adds_wins(self, open_store: Open) -> None:
        stores = [open_store() for _ in range(4)]
        for number in range(self.ROUNDS):
            batches = [a_batch(number, owner=f"receiver-{one}") for one in range(4)]
            won = at_once([partial(store.add_batch, batch) for store, batch in zip(stores, batches, strict=True)])
            assert won.count(True) == 1
            assert batches[won.index(True)] == stores[0].batch(a_batch_id(number))

    def test_one_of_several_replacements_wins(self, open_store: Open) -> None:
        stores = [open_store() for _ in range(4)]
        for number in range(self.ROUNDS):
            old = a_batch(number)
            stores[0].add_batch(old)
            news = [old.renewed(a_moment(one)) for one in range(4)]
            won = at_once([partial(store.replace_batch, old, new) for store, new in zip(stores, news, strict=True)])
            assert won.count(True) == 1
            assert news[won.index(True)] == stores[0].batch(old.id)

    def test_the_same_replacement_by_several_wins_once(self, open_store: Open) -> None:
        stores = [open_store() for _ in range(4)]
        stores[0].add_batch(a_batch())
        new = a_batch().closed(a_moment(60), CloseReason.RECOVERED)
        won = at_once([partial(store.replace_batch, a_batch(), new) for store in stores])
        assert won.count(True) == 1

    def test_of_two_batches_that_hinder_each_other_one_at_most_is_cleared(self, open_store: Open) -> None:
        one, two = open_store(), open_store()
        for number in range(0, 2 * self.ROUNDS, 2):
            first, second = a_closed(number), a_closed(number + 1)
            one.add_batch(first)
            one.add_batch(second)
            won = at_once([clearing(one, first, second), clearing(two, second, first)])
            assert won.count(True) <= 1
            # Nothing hangs: whoever asks again is cleared, unless one of them is already.
            assert clearing(one, first, second)() is not any(won)

    def test_a_batch_is_not_cleared_while_another_gets_started(self, open_store: Open) -> None:
        one, two = open_store(), open_store()
        for number in range(0, 2 * self.ROUNDS, 2):
            mine, other = a_closed(number), a_closed(number + 1)
            one.add_batch(mine)
            one.add_batch(other)
            submitted = other.submitted(a_job_id(), a_moment(9))
            calls: list[Callable[[], bool]] = [
                clearing(one, mine, other),
                partial(two.replace_batch, other, submitted),
            ]
            is_cleared, is_submitted = at_once(calls)
            assert is_submitted
            assert one.batch(mine.id) == (mine.cleared(files=1, size=1) if is_cleared else mine)
            assert one.batch(other.id) == submitted
            assert not clearing(one, mine, other)()

    def test_one_of_several_claims_wins(self, open_store: Open) -> None:
        stores = [open_store() for _ in range(3)]
        batches = [a_batch_id(number) for number in range(3)]
        claims = [[(a_record(number, batch=batch), None) for number in range(20)] for batch in batches]
        lost = at_once([partial(store.claim, claim) for store, claim in zip(stores, claims, strict=True)])
        for key, record in stores[0].newest([a_key(number) for number in range(20)]).items():
            winners = [batch for batch, keys in zip(batches, lost, strict=True) if key not in keys]
            assert winners == [record.batch]

    def test_what_several_know_of_a_study_all_gathers(self, open_store: Open) -> None:
        modalities = ("CT", "MR", "SR", "US")
        at_once([partial(open_store().put_study, a_study(modalities=(modality,))) for modality in modalities])
        study = open_store().study(STUDY)
        assert study is not None
        assert modalities == study.modalities

    def test_an_outcome_and_a_late_listing_leave_the_outcome(self, open_store: Open) -> None:
        one, two = open_store(), open_store()
        listed = [a_record(number) for number in range(20)]
        imported = [a_record(number, state=IMPORTED) for number in range(20)]
        one.claim([(record, None) for record in listed])
        at_once([partial(one.put_entries, listed), partial(two.put_entries, imported)])
        assert imported == list(one.entries(a_batch_id()))
        assert imported == list(one.instances(STUDY))


def test_one_instance_can_be_followed_through_the_store(store: MetadataStore) -> None:
    """The flow that the use cases take: listed, claimed, settled, corrected by a newer copy, seen in every view."""
    batch = a_batch(1)
    store.add_batch(batch)
    listed = a_record(digest=a_digest(1))
    store.claim([(listed, None)])
    store.put_entries([listed])
    store.put_entries([attrs.evolve(listed, state=IMPORTED, data_store=DATA_STORE, image_set=an_image_set())])
    (stored,) = store.find_instance(listed.key.sop_instance)
    correction = a_record(batch=a_batch_id(2), digest=a_digest(2), earlier=(batch.id,))
    assert store.claim([(correction, stored)]) == frozenset()
    store.put_entries([correction])
    assert [entry.state for entry in store.entries(batch.id)] == [IMPORTED]
    assert list(store.instances(STUDY)) == [correction]
