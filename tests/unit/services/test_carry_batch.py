import pytest

from domain.lifecycle import BatchState
from tests.builders import a_batch_id
from tests.world import World


@pytest.fixture
def world() -> World:
    return World()


def test_a_batch_is_carried_step_by_step_to_its_end(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    (batch,) = world.batch_ids()
    assert world.carry(batch) is None
    owner.batches.drain()
    assert world.carry(batch) == 0.0
    assert [batch] == world.batch_ids(BatchState.SUBMITTED)
    assert world.carry(batch) == 15.0
    world.clock.advance(3_000)
    assert world.carry(batch) == 150.0
    world.work()
    world.work()
    assert world.carry(batch) == 0.0
    assert world.carry(batch) is None
    assert [batch] == world.batch_ids(BatchState.SETTLED)


def test_nothing_carries_a_batch_that_nobody_knows(world: World) -> None:
    assert world.carry(a_batch_id()) is None


def test_a_batch_that_has_to_wait_is_looked_at_later(world: World) -> None:
    batches = []
    for version in (0, 1):
        owner = world.new_owner()
        world.store(owner, 1, version)
        owner.batches.drain()
        batches.append(max(world.batch_ids(BatchState.CLOSED)))
    assert world.carry(batches[0]) == 0.0
    assert world.carry(batches[1]) == 15.0


def test_a_batch_with_nothing_to_import_settles_in_one_step(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    owner.batches.drain()
    world.staging.objects.clear()
    (batch,) = world.batch_ids()
    assert world.carry(batch) == 0.0
    assert world.carry(batch) is None


def test_a_service_that_is_busy_or_away_is_waited_for(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    owner.batches.drain()
    (batch,) = world.batch_ids()
    world.importer.busy = 1
    assert world.carry(batch) == 15.0
    world.is_metadata_away = True
    assert world.carry(batch) == 15.0
