from contextlib import suppress
from datetime import timedelta

import attrs
import pytest

from adapters.memory.importer import Rejection
from domain.batch import CloseReason
from domain.errors import MetadataUnavailable, ResultsNotReady
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState
from services.reconcile import Reconciled
from tests.builders import a_uid
from tests.world import Interruption, World

STUDY = a_uid(0, root="2.25.7")


@pytest.fixture
def world() -> World:
    return World()


def a_settled_batch(world: World, *numbers: int, version: int = 0) -> BatchId:
    owner = world.new_owner()
    for number in numbers:
        world.store(owner, number, version)
    owner.batches.drain()
    batch = max(world.batch_ids(BatchState.CLOSED))
    for _ in range(4):
        world.carry(batch)
        world.work()
    return batch


def counts(world: World) -> tuple[int, int, int]:
    status, _ = world.report.study(STUDY)
    return status.received, status.imported, status.failed


def test_what_is_in_order_is_left_alone(world: World) -> None:
    seen: list[BatchId] = []
    batch = a_settled_batch(world, 1)
    assert Reconciled(batches=1) == world.reconcile(seen.append)
    assert [batch] == seen


def test_an_open_batch_is_its_owners(world: World) -> None:
    world.store(world.new_owner(), 1)
    assert Reconciled(batches=1) == world.reconcile()


def test_orphans_of_settled_batches_find_a_new_one(world: World) -> None:
    batch = a_settled_batch(world, 1)
    held = world.staging.trash.popitem()[1]
    key = attrs.evolve(held.facts.key, sop_instance=a_uid(2))
    facts = attrs.evolve(held.facts, key=key, instance=attrs.evolve(held.facts.instance, sop_instance=a_uid(2)))
    world.staging.objects[key] = attrs.evolve(held, facts=facts)
    assert Reconciled(batches=1, rehoused=1) == world.reconcile()
    assert batch not in {key.batch for key in world.staging.objects}


def test_a_lost_table_is_rebuilt_from_results(world: World) -> None:
    world.importer.rejections[a_uid(2)] = Rejection(reason="ValidationException: bad")
    batch = a_settled_batch(world, 1, 2)
    before = {entry.key: (entry.state, entry.image_set, entry.reason) for entry in world.metadata.entries(batch)}
    world.lose_the_table()
    assert Reconciled(batches=1, rebuilt=1) == world.reconcile()
    after = {entry.key: (entry.state, entry.image_set, entry.reason) for entry in world.metadata.entries(batch)}
    assert before == after
    assert counts(world) == (2, 1, 1)
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert (stored.state, stored.attempt) == (BatchState.SETTLED, 1)
    assert stored.job_id is not None
    assert Reconciled(batches=1) == world.reconcile()


def test_every_job_of_a_batch_was_an_attempt(world: World) -> None:
    world.importer.rejections[a_uid(1)] = Rejection()
    batch = a_settled_batch(world, 1)
    world.importer.rejections.clear()
    world.retry(batch)
    world.run()
    world.lose_the_table()
    world.reconcile()
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert stored.attempt == 2
    assert counts(world) == (1, 1, 0)


def test_objects_of_a_rebuilt_batch_that_its_results_do_not_name_are_imported_again(world: World) -> None:
    world.importer.unmentioned.add(a_uid(2))
    a_settled_batch(world, 1, 2)
    world.importer.unmentioned.clear()
    world.lose_the_table()
    world.run()
    assert counts(world) == (2, 2, 0)


def test_a_batch_without_results_is_carried_on_once_its_owner_cannot_be_writing(world: World) -> None:
    world.store(world.new_owner(), 1)
    world.lose_the_table()
    assert Reconciled(batches=1) == world.reconcile()
    world.clock.advance(2_000)
    assert Reconciled(batches=1, rebuilt=1) == world.reconcile()
    (batch,) = world.metadata.batches([BatchState.CLOSED])
    assert (batch.close_reason, batch.owner) == (CloseReason.RECOVERED, "reconcile")
    assert [batch] == world.workflow.started


def test_an_owner_whose_record_is_lost_writes_to_another_batch(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    world.lose_the_table()
    world.clock.advance(31)
    world.tick(owner)
    assert world.store(owner, 2)
    world.run()
    assert counts(world) == (2, 2, 0)


def test_superseded_copies_count_where_the_newer_one_is(world: World) -> None:
    older, newer = world.new_owner(), world.new_owner()
    world.store(older, 1, 0)
    world.store(older, 2, 0)
    world.store(newer, 1, 1)
    older.batches.drain()
    newer.batches.drain()
    first, second = world.batch_ids()
    world.list_batch(second)
    world.run()
    world.lose_the_table()
    world.run()
    assert counts(world) == (2, 2, 0)
    states = [entry.state for entry in world.metadata.entries(first)]
    assert states == [InstanceState.SUPERSEDED, InstanceState.IMPORTED]
    assert [first] == [conflict.batch for conflict in world.report.conflicts()]


def test_results_that_make_no_sense_leave_the_objects_to_be_imported_again(world: World) -> None:
    world.importer.rejections[a_uid(1)] = Rejection()
    batch = a_settled_batch(world, 1)
    (job,) = world.results.jobs(batch)
    world.importer.unreadable.add(job.id)
    world.importer.rejections.clear()
    world.lose_the_table()
    world.run()
    assert len(world.telemetry.named("results.unreadable")) == 1
    assert counts(world) == (1, 1, 0)


def test_a_record_that_appears_meanwhile_is_left_as_it_is(world: World) -> None:
    a_settled_batch(world, 1)
    world.lose_the_table()
    with world.interrupted(Interruption(1, False, lambda _: world.reconcile(), "add_batch")):
        assert Reconciled(batches=1) == world.reconcile()


def test_a_workflow_that_cannot_be_started_is_left_to_recovery(world: World) -> None:
    world.store(world.new_owner(), 1)
    world.lose_the_table()
    world.clock.advance(2_000)
    world.is_workflow_away = True
    assert Reconciled(batches=1, rebuilt=1) == world.reconcile()
    assert len(world.telemetry.named("workflow.start_failed")) == 1
    world.run()
    assert counts(world) == (1, 1, 0)


def test_results_that_are_not_there_are_told(world: World) -> None:
    a_settled_batch(world, 1)
    world.lose_the_table()
    world.importer.unready = 1
    with pytest.raises(ResultsNotReady):
        world.importer.results_of(world.importer.jobs_of(world.results.batches().__next__())[0])
    world.importer.unready = 1
    assert Reconciled(batches=1, rebuilt=1) == world.reconcile()
    assert len(world.telemetry.named("results.unreadable")) == 1


def test_a_lock_is_enough_to_know_that_an_owner_is_gone() -> None:
    world = World(lease=None)
    owner = world.new_owner()
    world.store(owner, 1)
    world.lose_the_table()
    unleased = attrs.evolve(world.reconcile, lease=None, is_abandoned=lambda batch: batch.lease_expires_at is None)
    assert Reconciled(batches=1, rebuilt=1) == unleased()


def test_a_rebuilt_study_is_in_the_overview_again(world: World) -> None:
    a_settled_batch(world, 1)
    world.lose_the_table()
    world.reconcile()
    (study,) = world.report.overview(world.clock.now() - timedelta(days=1)).studies
    assert (study.study, study.received, study.imported) == (STUDY, 1, 1)


def test_rebuilding_that_dies_before_its_end_is_done_again(world: World) -> None:
    a_settled_batch(world, 1)
    world.lose_the_table()
    for method in ("put_holdings", "put_study", "add_batch"):
        with suppress(MetadataUnavailable), world.interrupted(Interruption(1, False, world.away, method)):
            world.reconcile()
    assert Reconciled(batches=1, rebuilt=1) == world.reconcile()
    (study,) = world.report.overview(world.clock.now() - timedelta(days=1)).studies
    assert study.imported == 1


def test_a_copy_that_was_set_aside_after_two_attempts_is_rebuilt_as_such(world: World) -> None:
    world.importer.rejections[a_uid(1)] = Rejection()
    older = a_settled_batch(world, 1)
    world.retry(older)
    world.run()
    world.importer.rejections.clear()
    world.store(owner := world.new_owner(), 1, 1)
    owner.batches.drain()
    world.run()
    world.retry(older)
    world.run()
    before = [entry.state for entry in world.metadata.entries(older)]
    conflicts = [conflict.batch for conflict in world.report.conflicts()]
    world.lose_the_table()
    world.run()
    assert before == [entry.state for entry in world.metadata.entries(older)] == [InstanceState.SUPERSEDED]
    assert conflicts == [conflict.batch for conflict in world.report.conflicts()] == [older]
