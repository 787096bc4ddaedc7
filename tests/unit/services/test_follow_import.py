import attrs
import pytest

from domain.errors import ImporterBusy
from domain.identifiers import BatchId
from domain.lifecycle import BatchState
from services.follow_import import Progress
from tests.builders import a_batch_id, a_job_id
from tests.world import Interruption, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def batch(world: World) -> BatchId:
    """Return a batch whose job was started."""
    owner = world.new_owner()
    world.store(owner, 1)
    owner.batches.drain()
    (batch_id,) = world.batch_ids()
    world.list_batch(batch_id)
    world.start_import(batch_id)
    return batch_id


def test_a_job_is_followed_to_its_end(world: World, batch: BatchId) -> None:
    assert Progress.RUNNING is world.follow_import(batch)
    assert [batch] == world.batch_ids(BatchState.SUBMITTED)
    world.work()
    for _ in range(2):
        assert Progress.RUNNING is world.follow_import(batch)
        assert [batch] == world.batch_ids(BatchState.IMPORTING)
    world.work()
    assert Progress.ENDED is world.follow_import(batch)


@pytest.mark.parametrize("message, reason", [("no room", "no room"), ("", "the service gives no reason")])
def test_a_failed_job_fails_its_batch(world: World, batch: BatchId, message: str, reason: str) -> None:
    world.importer.job_failures[batch] = message
    world.work()
    world.work()
    assert Progress.FAILED is world.follow_import(batch)
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert f"import job {stored.job_id} failed: {reason}" == stored.reason
    assert Progress.FAILED is world.follow_import(batch)
    assert world.telemetry.total("ImportFailures") == 1


def test_a_job_that_the_service_does_not_know_fails_its_batch(world: World, batch: BatchId) -> None:
    stored = world.metadata.batch(batch)
    assert stored is not None
    world.metadata.replace_batch(stored, attrs.evolve(stored, job_id=a_job_id(99)))
    assert Progress.FAILED is world.follow_import(batch)


def test_a_busy_service_is_asked_again(world: World, batch: BatchId) -> None:
    world.importer.busy = 1
    with pytest.raises(ImporterBusy):
        world.follow_import(batch)
    assert [batch] == world.batch_ids(BatchState.SUBMITTED)


def test_a_batch_without_a_job_is_not_followed(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    assert Progress.STALE is world.follow_import(world.batch_ids()[0])
    assert Progress.STALE is world.follow_import(a_batch_id(99))


def test_a_failure_that_others_recorded_is_theirs(world: World, batch: BatchId) -> None:
    world.importer.job_failures[batch] = "no room"
    world.work()
    world.work()
    with world.interrupted(Interruption(1, False, lambda _: world.follow_import(batch), "replace_batch")):
        assert Progress.STALE is world.follow_import(batch)
