import attrs
import pytest

from adapters.memory.importer import Rejection
from domain.batch import BatchPolicy
from domain.errors import ResultsNotReady
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState
from domain.record import NO_OUTCOME
from services.record_results import Recording
from tests.builders import a_batch_id, a_job_id, a_uid
from tests.world import Crash, Interruption, World

SERVER_ERROR = Rejection(reason="InternalServerException: sorry", is_server_error=True)


@pytest.fixture
def world() -> World:
    return World(policy=BatchPolicy(max_files=3))


@pytest.fixture
def batch(world: World) -> BatchId:
    """Return a batch of two instances whose job was started."""
    owner = world.new_owner()
    world.store(owner, 1)
    world.store(owner, 2)
    owner.batches.drain()
    (batch_id,) = world.batch_ids()
    world.list_batch(batch_id)
    world.start_import(batch_id)
    return batch_id


def work(world: World) -> None:
    world.work()
    world.work()


def states(world: World, batch: BatchId) -> list[InstanceState]:
    return [entry.state for entry in world.metadata.entries(batch)]


def test_every_instance_is_settled_and_given_up_when_it_is_imported(world: World, batch: BatchId) -> None:
    work(world)
    assert Recording.SETTLED is world.record_results(batch)
    assert states(world, batch) == [InstanceState.IMPORTED] * 2
    assert (world.staging.objects, len(world.staging.trash)) == ({}, 2)
    assert Recording.STALE is world.record_results(batch)
    assert world.telemetry.total("InstancesImported") == 2


def test_what_was_rejected_failed_with_its_reason_and_is_kept(world: World, batch: BatchId) -> None:
    world.importer.rejections[a_uid(1)] = Rejection(reason="ValidationException: bad")
    work(world)
    world.record_results(batch)
    assert [entry.reason for entry in world.metadata.entries(batch)] == ["ValidationException: bad", None]
    assert [a_uid(1)] == [key.sop_instance for key in world.staging.objects]
    assert world.telemetry.total("InstancesFailed") == 1


def test_what_was_listed_and_has_no_outcome_failed_and_is_kept(world: World, batch: BatchId) -> None:
    world.importer.unmentioned.add(a_uid(2))
    work(world)
    world.record_results(batch)
    assert [entry.reason for entry in world.metadata.entries(batch)] == [None, NO_OUTCOME]
    assert [a_uid(2)] == [key.sop_instance for key in world.staging.objects]


def test_results_are_waited_for(world: World, batch: BatchId) -> None:
    work(world)
    world.importer.unready = 1
    with pytest.raises(ResultsNotReady):
        world.record_results(batch)
    assert Recording.SETTLED is world.record_results(batch)


def test_results_that_never_come_fail_the_batch(world: World, batch: BatchId) -> None:
    work(world)
    world.importer.unready = 1
    world.clock.advance(700)
    assert Recording.FAILED is world.record_results(batch)
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert stored.reason is not None
    assert "never came" in stored.reason


def test_results_that_make_no_sense_fail_the_batch(world: World, batch: BatchId) -> None:
    work(world)
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert stored.job_id is not None
    world.importer.unreadable.add(stored.job_id)
    assert Recording.FAILED is world.record_results(batch)
    assert states(world, batch) == [InstanceState.STAGED] * 2
    assert len(world.staging.objects) == 2
    assert Recording.FAILED is world.record_results(batch)
    assert world.telemetry.total("ImportFailures") == 1


def test_a_job_that_the_service_does_not_know_fails_the_batch(world: World, batch: BatchId) -> None:
    stored = world.metadata.batch(batch)
    assert stored is not None
    world.metadata.replace_batch(stored, attrs.evolve(stored, job_id=a_job_id(99)))
    assert Recording.FAILED is world.record_results(batch)


def test_a_batch_without_a_job_has_nothing_to_record(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    assert Recording.STALE is world.record_results(world.batch_ids()[0])
    assert Recording.STALE is world.record_results(a_batch_id(99))


def test_what_others_recorded_meanwhile_is_theirs(world: World, batch: BatchId) -> None:
    work(world)
    with world.interrupted(Interruption(1, False, lambda _: world.record_results(batch), "replace_batch")):
        assert Recording.STALE is world.record_results(batch)
    assert len(world.telemetry.named("batch.settled")) == 1


def test_a_failure_that_others_recorded_meanwhile_is_theirs(world: World, batch: BatchId) -> None:
    work(world)
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert stored.job_id is not None
    world.importer.unreadable.add(stored.job_id)
    with world.interrupted(Interruption(1, False, lambda _: world.record_results(batch), "replace_batch")):
        assert Recording.STALE is world.record_results(batch)


def test_a_late_object_moves_to_a_batch_of_its_own(world: World, batch: BatchId) -> None:
    work(world)
    held = next(iter(world.staging.objects.values()))
    late = attrs.evolve(held.facts.key, sop_instance=a_uid(7))
    instance = attrs.evolve(held.facts.instance, sop_instance=a_uid(7))
    facts = attrs.evolve(held.facts, key=late, instance=instance)
    world.staging.objects[late] = attrs.evolve(held, facts=facts)
    world.record_results(batch)
    (fresh,) = world.batch_ids(BatchState.CLOSED)
    assert [(fresh, a_uid(7))] == [(key.batch, key.sop_instance) for key in world.staging.objects]


def test_errors_of_the_service_are_retried_three_times_by_themselves(world: World, batch: BatchId) -> None:
    world.importer.rejections[a_uid(1)] = SERVER_ERROR
    for attempt in range(1, 5):
        work(world)
        assert Recording.SETTLED is world.record_results(batch)
        stored = world.metadata.batch(batch)
        assert stored is not None
        if attempt == 4:
            assert (stored.state, stored.attempt, stored.server_retries) == (BatchState.SETTLED, 4, 3)
        else:
            assert (BatchState.CLOSED, attempt + 1) == (stored.state, stored.attempt)
            world.list_batch(batch)
            world.start_import(batch)
    assert states(world, batch) == [InstanceState.FAILED, InstanceState.IMPORTED]


def test_a_retry_by_itself_does_not_depend_on_whoever_recorded(world: World, batch: BatchId) -> None:
    world.importer.rejections[a_uid(1)] = SERVER_ERROR
    work(world)
    with pytest.raises(Crash), world.interrupted(Interruption(1, True, world.crash, "replace_batch")):
        world.record_results(batch)
    world.end_runs()
    assert world.recover().started == 1
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert (stored.state, stored.attempt) == (BatchState.CLOSED, 2)


def test_only_this_attempt_is_counted(world: World, batch: BatchId) -> None:
    world.importer.rejections[a_uid(1)] = Rejection()
    work(world)
    world.record_results(batch)
    world.importer.rejections.clear()
    world.retry(batch)
    world.list_batch(batch)
    world.start_import(batch)
    work(world)
    world.record_results(batch)
    assert [event.fields["imported"] for event in world.telemetry.named("batch.settled")] == [1, 1]
