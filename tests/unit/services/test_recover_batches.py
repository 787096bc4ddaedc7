import pytest

from domain.batch import CloseReason
from domain.errors import StageFailed
from domain.lifecycle import BatchState
from services.recover_batches import Recovered
from tests.builders import a_batch, a_batch_id
from tests.world import Interruption, World


@pytest.fixture
def world() -> World:
    return World()


def test_an_abandoned_batch_is_closed_and_carried_on(world: World) -> None:
    world.store(world.new_owner(), 1)
    assert Recovered() == world.recover()
    world.clock.advance(900)
    assert Recovered(closed=1, started=1) == world.recover()
    (batch,) = world.metadata.batches([BatchState.CLOSED])
    assert CloseReason.RECOVERED is batch.close_reason
    assert Recovered() == world.recover()


def test_a_batch_whose_owner_died_with_its_lock_is_closed_at_once() -> None:
    world = World(lease=None)
    owner = world.new_owner()
    world.store(owner, 1)
    world.kill(owner)
    assert Recovered(closed=1, started=1) == world.recover()


def test_a_batch_that_cannot_be_sealed_is_left_to_the_next_recovery(world: World) -> None:
    def away(_port: str) -> None:
        raise StageFailed("the disk is full")

    world.store(world.new_owner(), 1)
    world.clock.advance(900)
    with world.interrupted(Interruption(1, False, away, "seal")):
        assert Recovered() == world.recover()
    assert [event.fields["detail"] for event in world.telemetry.named("batch.seal_failed")] == ["the disk is full"]
    assert Recovered(closed=1, started=1) == world.recover()


def test_an_owner_that_renews_at_the_same_moment_keeps_its_batch(world: World) -> None:
    world.metadata.add_batch(a_batch(lease_expires_at=world.clock.now()))
    world.clock.advance(900)

    def renew(_port: str) -> None:
        batch = world.metadata.batch(a_batch_id())
        assert batch is not None
        world.metadata.replace_batch(batch, batch.renewed(world.clock.now()))

    with world.interrupted(Interruption(1, False, renew, "replace_batch")):
        assert Recovered() == world.recover()
    assert [a_batch_id()] == world.batch_ids(BatchState.OPEN)


@pytest.mark.parametrize("state", [BatchState.CLOSED, BatchState.SUBMITTED, BatchState.IMPORTING])
def test_a_batch_whose_run_ended_on_the_way_gets_the_next_run(world: World, state: BatchState) -> None:
    world.metadata.add_batch(a_batch(state=state))
    assert Recovered(started=1) == world.recover()
    assert Recovered() == world.recover()
    world.end_runs()
    assert Recovered(restarted=1) == world.recover()
    stored = world.metadata.batch(a_batch_id())
    assert stored is not None
    assert (stored.attempt, stored.run) == (1, 2)


def test_what_has_ended_is_left_alone(world: World) -> None:
    world.metadata.add_batch(a_batch(1, state=BatchState.SETTLED))
    world.metadata.add_batch(a_batch(2, state=BatchState.FAILED))
    assert Recovered() == world.recover()


def test_a_batch_that_failed_gets_runs_until_people_were_told() -> None:
    world = World(runs_tell=True)
    world.metadata.add_batch(a_batch(state=BatchState.FAILED))
    assert Recovered(started=1) == world.recover()
    assert Recovered() == world.recover()
    world.end_runs()
    assert Recovered(restarted=1) == world.recover()
    failed = world.metadata.batch(a_batch_id())
    assert failed is not None
    assert (failed.state, failed.run) == (BatchState.FAILED, 2)
    world.metadata.replace_batch(failed, failed.told())
    world.end_runs()
    assert Recovered() == world.recover()


def test_one_run_that_cannot_be_started_does_not_hold_up_the_others(world: World) -> None:
    for number in (1, 2):
        world.metadata.add_batch(a_batch(number, state=BatchState.CLOSED))
    with world.interrupted(Interruption(1, False, world.away, "start")):
        assert Recovered(started=1) == world.recover()
    assert len(world.telemetry.named("workflow.start_failed")) == 1
    assert Recovered(started=1) == world.recover()


def test_one_run_that_cannot_be_asked_for_does_not_hold_up_the_others(world: World) -> None:
    for number in (1, 2):
        world.metadata.add_batch(a_batch(number, state=BatchState.CLOSED))
    with world.interrupted(Interruption(1, False, world.away, "is_running")):
        assert Recovered(started=1) == world.recover()


def test_two_recoveries_at_once_start_one_run(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.CLOSED))
    world.recover()
    world.end_runs()
    with world.interrupted(Interruption(1, False, lambda _: world.recover(), "replace_batch")):
        assert Recovered() == world.recover()
    assert len(world.workflow.started) == 2


def test_a_run_that_cannot_be_started_again_is_not_counted(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.CLOSED))
    world.recover()
    world.end_runs()
    with world.interrupted(Interruption(1, False, world.away, "start")):
        assert Recovered() == world.recover()
    assert Recovered(started=1) == world.recover()
