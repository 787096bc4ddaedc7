import attrs
import pytest

from domain.batch import CloseReason
from domain.errors import MetadataUnavailable, StageFailed
from domain.identifiers import BatchId
from domain.lifecycle import BatchState
from domain.record import InstanceRecord
from tests.builders import a_batch_id, a_uid
from tests.world import Interruption, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def settled(world: World) -> BatchId:
    owner = world.new_owner()
    world.store(owner, 1)
    owner.batches.drain()
    (batch,) = world.batch_ids()
    for _ in range(4):
        world.carry(batch)
        world.work()
    assert [batch] == world.batch_ids(BatchState.SETTLED)
    return batch


def leave(world: World, batch: BatchId, *numbers: int) -> None:
    """Let objects arrive in `batch` after everything."""
    held = next(iter(world.staging.trash.values()))
    for number in numbers:
        uid = a_uid(number)
        key = attrs.evolve(held.facts.key, batch=batch, sop_instance=uid)
        facts = attrs.evolve(held.facts, key=key, instance=attrs.evolve(held.facts.instance, sop_instance=uid))
        world.staging.objects[key] = attrs.evolve(held, facts=facts)


def where(world: World) -> dict[int, BatchId]:
    return {int(key.sop_instance.value[-2:]): key.batch for key in world.staging.objects}


def test_a_batch_without_orphans_needs_nothing(world: World, settled: BatchId) -> None:
    assert world.rehouse(settled) == 0
    assert [settled] == world.batch_ids()


def test_only_settled_batches_are_swept(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    assert world.rehouse(world.batch_ids()[0]) == 0
    assert world.rehouse(a_batch_id(99)) == 0


def test_orphans_move_into_a_batch_of_their_own_that_is_carried_on(world: World, settled: BatchId) -> None:
    leave(world, settled, 2, 3)
    staged_at = {key.sop_instance: held.facts.staged_at for key, held in world.staging.objects.items()}
    assert world.rehouse(settled) == 2
    (fresh,) = world.metadata.batches([BatchState.CLOSED])
    assert (fresh.close_reason, fresh.owner) == (CloseReason.REHOUSED, "sweeper")
    assert {2: fresh.id, 3: fresh.id} == where(world)
    assert staged_at == {key.sop_instance: held.facts.staged_at for key, held in world.staging.objects.items()}
    assert fresh.id in [batch.id for batch in world.workflow.started]
    world.run()
    assert len(world.importer.data) == 3


def test_what_is_imported_and_not_given_up_yet_is_given_up(world: World, settled: BatchId) -> None:
    leave(world, settled, 1)
    assert world.rehouse(settled) == 0
    assert where(world) == {}


def test_what_is_superseded_and_not_moved_yet_is_moved(world: World, settled: BatchId) -> None:
    leave(world, settled, 2)
    (staged,) = world.staging.facts(world.staging.list(settled))
    record = InstanceRecord.of(staged, 1)
    world.metadata.put_entries([record.superseded(attrs.evolve(record, batch=a_batch_id(9)))])
    assert world.rehouse(settled) == 0
    assert [a_uid(2)] == [key.sop_instance for key in world.staging.set_aside]


def test_what_failed_stays_for_a_retry(world: World, settled: BatchId) -> None:
    leave(world, settled, 2)
    (staged,) = world.staging.facts(world.staging.list(settled))
    world.metadata.put_entries([InstanceRecord.of(staged, 1).failed("bad", 1)])
    assert world.rehouse(settled) == 0
    assert {2: settled} == where(world)


@pytest.mark.parametrize("attempt, moved", [(1, 1), (2, 0)])
def test_what_a_late_listing_entered_is_an_orphan_too(world: World, settled: BatchId, attempt: int, moved: int) -> None:
    leave(world, settled, 2)
    (staged,) = world.staging.facts(world.staging.list(settled))
    world.metadata.put_entries([InstanceRecord.of(staged, attempt)])
    assert moved == world.rehouse(settled)


def test_what_was_moved_goes_on_when_the_stage_fails_in_between(world: World, settled: BatchId) -> None:
    leave(world, settled, 2, 3)
    with pytest.raises(StageFailed), world.interrupted(Interruption(2, False, world.away, "rehouse")):
        world.rehouse(settled)
    (fresh,) = world.batch_ids(BatchState.CLOSED)
    assert {2: fresh, 3: settled} == where(world)
    assert world.rehouse(settled) == 1


def test_moving_stops_when_the_lease_of_the_new_batch_ends(world: World, settled: BatchId) -> None:
    leave(world, settled, 2, 3)
    with world.interrupted(Interruption(1, True, lambda _: world.clock.advance(600), "rehouse")):
        assert world.rehouse(settled) == 1
    assert world.rehouse(settled) == 1


def test_without_a_lease_moving_takes_its_time(world: World, settled: BatchId) -> None:
    leave(world, settled, 2, 3)
    unleased = attrs.evolve(world.rehouse, lease=None)
    with world.interrupted(Interruption(1, True, lambda _: world.clock.advance(600), "rehouse")):
        assert unleased(settled) == 2


@pytest.mark.parametrize(
    "call, is_after, rehoused", [("add_batch", True, 0), ("replace_batch", False, 1), ("replace_batch", True, 1)]
)
def test_without_a_lease_the_next_sweep_closes_a_batch_that_could_not_be_closed(
    world: World, settled: BatchId, call: str, is_after: bool, rehoused: int
) -> None:
    leave(world, settled, 2)
    unleased = attrs.evolve(world.rehouse, lease=None)
    with pytest.raises(MetadataUnavailable), world.interrupted(Interruption(1, is_after, world.away, call)):
        unleased(settled)
    assert len(world.staging.objects) == 1
    assert rehoused == sum(batch != settled for batch in where(world).values())
    unleased(a_batch_id(99))
    assert world.batch_ids(BatchState.OPEN) == []
    (fresh,) = world.batch_ids(BatchState.CLOSED)
    assert (fresh in where(world).values()) is bool(rehoused)


def test_what_could_not_be_closed_again_is_closed_later(world: World, settled: BatchId) -> None:
    leave(world, settled, 2)
    unleased = attrs.evolve(world.rehouse, lease=None)
    with pytest.raises(MetadataUnavailable), world.interrupted(Interruption(1, False, world.away, "replace_batch")):
        unleased(settled)
    world.is_metadata_away = True
    with pytest.raises(MetadataUnavailable):
        unleased(settled)
    world.is_metadata_away = False
    unleased(settled)
    assert world.batch_ids(BatchState.OPEN) == []


def test_a_batch_that_recovery_closed_meanwhile_is_carried_on_by_it(world: World, settled: BatchId) -> None:
    leave(world, settled, 2)

    def recover(_port: str) -> None:
        world.clock.advance(900)
        world.recover()

    with world.interrupted(Interruption(1, True, recover, "rehouse")):
        assert world.rehouse(settled) == 1
    (fresh,) = world.metadata.batches([BatchState.CLOSED])
    assert CloseReason.RECOVERED is fresh.close_reason


def test_a_workflow_that_cannot_be_started_is_left_to_recovery(world: World, settled: BatchId) -> None:
    leave(world, settled, 2)
    world.is_workflow_away = True
    assert world.rehouse(settled) == 1
    assert len(world.telemetry.named("workflow.start_failed")) == 1


def test_nothing_is_moved_into_a_batch_of_somebody_else(world: World, settled: BatchId) -> None:
    leave(world, settled, 2)
    again = attrs.evolve(world.rehouse, entropy=lambda: "same")
    assert again(settled) == 1
    leave(world, settled, 3)
    with pytest.raises(MetadataUnavailable, match="exists already"):
        again(settled)
    assert settled == where(world)[3]
