import pytest

from domain.errors import MetadataUnavailable
from domain.lifecycle import InstanceState
from domain.results import ImportOutcome
from services.settle_instances import CHUNK, Entered, chunks
from tests.builders import (
    DATA_STORE,
    STUDY,
    a_batch_id,
    a_key,
    a_moment,
    a_record,
    a_staging_key,
    an_image_set,
)
from tests.world import Interruption, World

IMPORTED, FAILED = InstanceState.IMPORTED, InstanceState.FAILED
BATCH = a_batch_id(1)


@pytest.fixture
def world() -> World:
    return World()


def imported(number: int) -> ImportOutcome:
    return ImportOutcome(key=a_staging_key(number, batch=BATCH), image_set=an_image_set())


def failed(number: int) -> ImportOutcome:
    return ImportOutcome(key=a_staging_key(number, batch=BATCH), reason="bad")


def test_a_stream_is_split_into_lists() -> None:
    assert [len(chunk) for chunk in chunks(range(2 * CHUNK + 1))] == [CHUNK, CHUNK, 1]
    assert list(chunks([])) == []


def test_what_is_entered_first_is_the_newest(world: World) -> None:
    record = a_record(1, batch=BATCH)
    assert Entered() == world.settle.enter([record])
    assert {a_key(1): record} == world.metadata.newest([a_key(1)])
    assert [record] == list(world.metadata.entries(BATCH))


def test_entering_again_changes_nothing(world: World) -> None:
    world.settle.enter([a_record(1, batch=BATCH)])
    assert Entered() == world.settle.enter([a_record(1, batch=BATCH)])


def test_a_newer_copy_comes_upon_the_batches_before_it_however_often_it_is_entered(world: World) -> None:
    for number in (1, 2):
        world.settle.enter([a_record(1, batch=a_batch_id(number))])
    expected = Entered(others=frozenset({a_batch_id(1), a_batch_id(2)}), displaced=frozenset({a_batch_id(2)}))
    for _ in range(2):
        assert expected == world.settle.enter([a_record(1, batch=a_batch_id(3))])


def test_an_older_copy_is_entered_and_remembered_by_the_newest(world: World) -> None:
    world.settle.enter([a_record(1, batch=a_batch_id(2))])
    assert Entered() == world.settle.enter([a_record(1, batch=a_batch_id(1))])
    newest = world.metadata.newest([a_key(1)])[a_key(1)]
    assert (a_batch_id(2), (a_batch_id(1),)) == (newest.batch, newest.earlier)


def test_a_copy_that_was_overtaken_still_comes_upon_the_one_it_displaced(world: World) -> None:
    for number in (1, 2, 3):
        world.settle.enter([a_record(1, batch=a_batch_id(number))])
    assert frozenset({a_batch_id(1)}) == world.settle.enter([a_record(1, batch=a_batch_id(2))]).displaced


def test_a_late_object_displaces_a_copy_also_when_recording_dies_in_between(world: World) -> None:
    world.settle.enter([a_record(1, batch=a_batch_id(0), staged_at=a_moment(-9))])
    world.settle.refresh_holdings(a_batch_id(0))
    with pytest.raises(MetadataUnavailable), world.interrupted(Interruption(1, False, world.away, "put_holdings")):
        world.settle.record(BATCH, 1, [imported(1)], DATA_STORE)
    world.settle.record(BATCH, 1, [imported(1)], DATA_STORE)
    assert [held.received for held in world.metadata.holdings(STUDY)] == [0]
    assert world.metadata.study(STUDY) is not None


def test_a_claim_that_somebody_else_won_is_made_again(world: World) -> None:
    other = a_record(1, batch=a_batch_id(2))
    with world.interrupted(Interruption(1, False, lambda _: world.settle.enter([other]), "claim")):
        world.settle.enter([a_record(1, batch=a_batch_id(3))])
    newest = world.metadata.newest([a_key(1)])[a_key(1)]
    assert (a_batch_id(3), (a_batch_id(2),)) == (newest.batch, newest.earlier)


def test_claims_that_are_lost_for_ever_end_in_an_error(world: World) -> None:
    numbers = iter(range(2, 200))

    def enter_another(method: str) -> None:
        if method == "claim":
            world.metadata.before = lambda _method: None
            world.settle.enter([a_record(1, batch=a_batch_id(next(numbers)))])
            world.metadata.before = enter_another

    world.metadata.before = enter_another
    with pytest.raises(MetadataUnavailable, match="kept changing"):
        world.settle.enter([a_record(1, batch=a_batch_id(1))])


def test_outcomes_settle_what_was_listed(world: World) -> None:
    world.settle.enter([a_record(number, batch=BATCH) for number in (1, 2)])
    for _ in range(2):
        world.settle.record(BATCH, 1, [imported(1), failed(2)], DATA_STORE)
    assert [entry.state for entry in world.metadata.entries(BATCH)] == [IMPORTED, FAILED]
    assert FAILED is world.metadata.newest([a_key(2)])[a_key(2)].state


def test_of_two_outcomes_of_one_file_the_later_holds(world: World) -> None:
    world.settle.enter([a_record(1, batch=BATCH)])
    world.settle.record(BATCH, 1, [failed(1), imported(1)], DATA_STORE)
    assert [entry.state for entry in world.metadata.entries(BATCH)] == [IMPORTED]


def test_outcomes_of_other_batches_are_passed_over(world: World) -> None:
    world.settle.record(a_batch_id(2), 1, [imported(1)], DATA_STORE)
    assert list(world.metadata.entries(a_batch_id(2))) == []


def test_a_superseded_copy_stays_superseded_whatever_the_job_made_of_it(world: World) -> None:
    record = a_record(1, batch=BATCH)
    superseded = record.superseded(a_record(1, batch=a_batch_id(2)))
    world.metadata.put_entries([superseded])
    for outcome in (failed(1), imported(1)):
        world.settle.record(BATCH, 1, [outcome], DATA_STORE)
        assert [superseded] == list(world.metadata.entries(BATCH))


def test_an_earlier_attempt_says_nothing_of_what_is_on_its_way_again(world: World) -> None:
    again = a_record(1, batch=BATCH, attempt=2)
    world.metadata.put_entries([again])
    world.settle.record(BATCH, 1, [imported(1)], DATA_STORE)
    assert [again] == list(world.metadata.entries(BATCH))


def test_a_late_object_that_the_job_found_is_entered_with_its_facts(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    (key,) = world.staging.objects
    world.settle.record(key.batch, 1, [ImportOutcome(key=key, image_set=an_image_set())], DATA_STORE)
    (entry,) = world.metadata.entries(key.batch)
    assert (IMPORTED, world.landed[0].staged_at) == (entry.state, entry.staged_at)
    assert world.staging.objects == {}


def test_an_object_that_is_gone_is_entered_with_what_its_key_says(world: World) -> None:
    world.settle.record(BATCH, 1, [imported(1)], DATA_STORE)
    (entry,) = world.metadata.entries(BATCH)
    assert (IMPORTED, a_moment(1), None) == (entry.state, entry.staged_at, entry.digest)


def test_a_late_object_that_displaces_a_copy_leaves_that_batchs_holding(world: World) -> None:
    world.settle.enter([a_record(1, batch=a_batch_id(0), staged_at=a_moment(-9))])
    world.settle.refresh_holdings(a_batch_id(0))
    world.settle.record(BATCH, 1, [imported(1)], DATA_STORE)
    assert [held.received for held in world.metadata.holdings(STUDY)] == [0]


def test_holdings_are_counted_over_all_of_a_batch(world: World) -> None:
    world.settle.enter([a_record(number, batch=BATCH) for number in range(1, CHUNK + 3)])
    world.settle.refresh_holdings(BATCH)
    assert [held.received for held in world.metadata.holdings(STUDY)] == [CHUNK + 2]


def test_of_two_that_count_at_once_the_one_that_counted_earlier_does_not_win(world: World) -> None:
    world.settle.enter([a_record(1, batch=BATCH)])

    def go_on(_port: str) -> None:
        world.settle.record(BATCH, 1, [imported(1)], DATA_STORE)
        world.settle.refresh_holdings(BATCH)

    with world.interrupted(Interruption(1, False, go_on, "put_holdings")):
        world.settle.refresh_holdings(BATCH)
    assert [(held.received, held.imported) for held in world.metadata.holdings(STUDY)] == [(1, 1)]


def test_counts_that_never_stand_still_end_in_an_error(world: World) -> None:
    numbers = iter(range(1, 200))

    def enter_another(method: str) -> None:
        if method == "put_holdings":
            world.settle.enter([a_record(next(numbers), batch=BATCH)])

    world.metadata.before = enter_another
    with pytest.raises(MetadataUnavailable, match="kept changing"):
        world.settle.refresh_holdings(BATCH)
