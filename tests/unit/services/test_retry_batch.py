import pytest

from domain.errors import NotFound, NotPossible
from domain.lifecycle import BatchState, InstanceState
from tests.builders import a_batch, a_batch_id, a_job_id, a_record
from tests.world import Interruption, World


@pytest.fixture
def world() -> World:
    return World()


def test_a_failed_batch_gets_another_attempt(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.FAILED, job_id=a_job_id(), server_retries=2))
    retried = world.retry(a_batch_id())
    assert (BatchState.CLOSED, 2, a_job_id(), 0) == (
        retried.state,
        retried.attempt,
        retried.previous_job_id,
        retried.server_retries,
    )
    assert retried == world.metadata.batch(a_batch_id())
    assert [retried] == world.workflow.started


def test_a_settled_batch_is_retried_for_what_failed_in_it(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.SETTLED))
    world.metadata.put_entries([a_record(1, state=InstanceState.IMPORTED), a_record(2, state=InstanceState.FAILED)])
    assert world.retry(a_batch_id()).attempt == 2


def test_a_settled_batch_without_failures_has_nothing_to_retry(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.SETTLED))
    world.metadata.put_entries([a_record(1, state=InstanceState.IMPORTED)])
    with pytest.raises(NotPossible, match="no failed instance"):
        world.retry(a_batch_id())


def test_a_batch_that_is_on_its_way_is_not_retried(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.SUBMITTED))
    with pytest.raises(NotPossible, match="is submitted; only failed work can be retried"):
        world.retry(a_batch_id())


def test_nobody_knows_a_batch_that_was_never_opened(world: World) -> None:
    with pytest.raises(NotFound):
        world.retry(a_batch_id())


def test_two_retries_at_once_are_one(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.FAILED))
    with world.interrupted(Interruption(1, False, lambda _: world.retry(a_batch_id()), "replace_batch")):
        with pytest.raises(NotPossible, match="being changed by someone else"):
            world.retry(a_batch_id())
    stored = world.metadata.batch(a_batch_id())
    assert stored is not None
    assert stored.attempt == 2


def test_a_workflow_that_cannot_be_started_is_left_to_recovery(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.FAILED))
    world.is_workflow_away = True
    assert BatchState.CLOSED is world.retry(a_batch_id()).state
    world.is_workflow_away = False
    assert world.recover().started == 1


def test_a_retry_whose_objects_are_gone_leaves_the_failure_on_record(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.SETTLED))
    world.settle.enter([a_record(1)])
    world.metadata.put_entries([a_record(1, state=InstanceState.FAILED)])
    world.retry(a_batch_id())
    world.run()
    assert [a_record(1).key] == [failure.key for failure in world.report.failures()]
    assert [a_batch_id()] == world.batch_ids(BatchState.SETTLED)
