import attrs
import pytest

from adapters.memory.importer import Rejection
from domain.errors import NotFound
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState
from services.report_status import StudyState, StudyStatus
from tests.builders import a_batch, a_batch_id, a_moment, a_uid
from tests.world import Interruption, Owner, World

STUDY, OTHER = a_uid(0, root="2.25.7"), a_uid(1, root="2.25.7")
SINCE = a_moment(-60)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def owner(world: World) -> Owner:
    return world.new_owner()


def counts(status: StudyStatus) -> tuple[int, int, int, int]:
    return status.received, status.imported, status.failed, status.pending


def both(world: World) -> list[tuple[int, int, int, int]]:
    """Return the counts of the study as the study and as the overview have them."""
    one, _ = world.report.study(STUDY)
    (other,) = world.report.overview(SINCE).studies
    assert (one.state, one.size) == (other.state, other.size)
    return [counts(one), counts(other)]


def close(world: World, owner: Owner) -> BatchId:
    owner.batches.drain()
    world.owners.remove(owner)
    return max(world.batch_ids(BatchState.CLOSED))


def carry(world: World, batch: BatchId) -> None:
    for _ in range(4):
        world.carry(batch)
        world.work()


def test_a_study_shows_the_moment_its_first_image_is_safe(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    status, instances = world.report.study(STUDY)
    assert StudyState.RECEIVING is status.state
    assert [(a_uid(1), InstanceState.STAGED)] == [(each.key.sop_instance, each.state) for each in instances]
    assert both(world) == [(1, 0, 0, 1)] * 2


def test_a_study_goes_from_receiving_to_imported(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    batch = close(world, owner)
    assert StudyState.PENDING is world.report.study(STUDY)[0].state
    world.carry(batch)
    assert both(world) == [(1, 0, 0, 1)] * 2
    assert StudyState.PENDING is world.report.study(STUDY)[0].state
    carry(world, batch)
    assert both(world) == [(1, 1, 0, 0)] * 2
    status, _ = world.report.study(STUDY)
    assert StudyState.IMPORTED is status.state
    assert status.record is not None
    assert status.first_received == status.last_received == a_moment(0.001)


def test_a_failed_instance_makes_a_failed_study(world: World, owner: Owner) -> None:
    world.importer.rejections[a_uid(1)] = Rejection(reason="ValidationException: bad")
    world.store(owner, 1)
    world.store(owner, 2)
    carry(world, close(world, owner))
    assert both(world) == [(2, 1, 1, 0)] * 2
    assert StudyState.FAILED is world.report.study(STUDY)[0].state
    assert [("ValidationException: bad", a_uid(1))] == [
        (failure.reason, failure.key.sop_instance) for failure in world.report.failures() if failure.key
    ]


def test_a_non_primary_image_set_makes_a_conflict(world: World, owner: Owner) -> None:
    world.importer.non_primary.add(a_uid(1))
    world.store(owner, 1)
    batch = close(world, owner)
    carry(world, batch)
    assert StudyState.CONFLICT is world.report.study(STUDY)[0].state
    assert [(batch, "imported into a non-primary image set")] == [
        (conflict.batch, conflict.reason) for conflict in world.report.conflicts()
    ]


def test_a_batch_that_failed_as_a_whole_fails_its_instances(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    batch = close(world, owner)
    world.importer.job_failures[batch] = "no room"
    carry(world, batch)
    assert both(world) == [(1, 0, 1, 0)] * 2
    (failure,) = world.report.failures()
    assert (batch, None) == (failure.batch, failure.key)
    (instance,) = world.report.instance(a_uid(1))
    assert (InstanceState.FAILED, failure.reason) == (instance.state, instance.reason)
    _, (in_batch,) = world.report.batch(batch)
    assert InstanceState.FAILED is in_batch.state


def fail(world: World, batch_id: BatchId) -> None:
    batch = world.metadata.batch(batch_id)
    assert batch is not None
    assert world.metadata.replace_batch(batch, batch.failed("an error of ours"))


def test_a_batch_that_failed_before_it_was_listed_shows_what_is_in_it(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    batch = close(world, owner)
    fail(world, batch)
    assert both(world) == [(1, 0, 1, 0)] * 2
    (instance,) = world.report.instance(a_uid(1))
    _, (in_batch,) = world.report.batch(batch)
    expected = (InstanceState.FAILED, "an error of ours")
    assert expected == (instance.state, instance.reason) == (in_batch.state, in_batch.reason)
    world.retry(batch)
    carry(world, batch)
    assert both(world) == [(1, 1, 0, 0)] * 2


def test_a_batch_that_failed_while_it_was_listed_counts_what_is_in_it_once(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.store(owner, 2)
    batch = close(world, owner)
    with world.interrupted(Interruption(1, False, lambda _: fail(world, batch), "clear_batch")):
        world.carry(batch)
    assert [batch] == world.batch_ids(BatchState.FAILED)
    assert both(world) == [(2, 0, 2, 0)] * 2


def test_a_newer_copy_counts_instead_of_that_in_a_batch_that_failed_before_it_was_listed(world: World) -> None:
    for version in range(3):
        world.store(other := world.new_owner(), 1, version)
        batch = close(world, other)
        if version == 1:
            fail(world, batch)
            assert both(world) == [(1, 0, 1, 0)] * 2
        else:
            carry(world, batch)
            assert both(world) == [(1, 1, 0, 0)] * 2
    (instance,) = world.report.instance(a_uid(1))
    assert InstanceState.IMPORTED is instance.state


def test_what_is_imported_and_not_given_up_yet_is_imported_for_who_asks_for_the_instance(
    world: World, owner: Owner
) -> None:
    world.importer.rejections[a_uid(1)] = Rejection()
    world.store(owner, 1)
    world.store(owner, 2)
    batch = close(world, owner)
    objects = dict(world.staging.objects)
    carry(world, batch)
    world.staging.objects.update(objects)
    world.retry(batch)
    states = [world.report.instance(a_uid(number))[0].state for number in (1, 2)]
    assert states == [InstanceState.STAGED, InstanceState.IMPORTED]


def test_a_failed_batch_always_has_a_reason(world: World) -> None:
    world.metadata.add_batch(a_batch(state=BatchState.FAILED))
    assert [failure.reason for failure in world.report.failures()] == ["no reason was recorded"]


def test_a_newer_copy_in_an_open_batch_counts_instead_of_the_imported_one(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    carry(world, close(world, owner))
    world.store(world.new_owner(), 1, 1)
    assert both(world) == [(1, 0, 0, 1)] * 2
    assert StudyState.RECEIVING is world.report.study(STUDY)[0].state


def test_a_newer_copy_in_an_open_batch_counts_instead_of_the_failed_one(world: World, owner: Owner) -> None:
    world.importer.rejections[a_uid(1)] = Rejection()
    world.store(owner, 1)
    carry(world, close(world, owner))
    world.store(world.new_owner(), 1, 1)
    assert both(world) == [(1, 0, 0, 1)] * 2


def test_an_instance_in_two_unlisted_batches_counts_once(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.store(world.new_owner(), 1, 1)
    assert both(world) == [(1, 0, 0, 1)] * 2
    (instance,) = world.report.instance(a_uid(1))
    assert max(world.batch_ids()) == instance.batch


def test_a_batch_that_waits_counts_its_copies_once(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    older = close(world, owner)
    other = world.new_owner()
    world.store(other, 1, 1)
    newer = close(world, other)
    world.carry(older)
    world.carry(newer)
    assert both(world) == [(1, 0, 0, 1)] * 2


def test_a_failed_instance_that_is_retried_is_pending(world: World, owner: Owner) -> None:
    world.importer.rejections[a_uid(1)] = Rejection()
    world.store(owner, 1)
    world.store(owner, 2)
    batch = close(world, owner)
    carry(world, batch)
    world.retry(batch)
    assert both(world) == [(2, 1, 0, 1)] * 2


def test_what_is_imported_and_not_given_up_yet_stays_imported(world: World, owner: Owner) -> None:
    world.importer.rejections[a_uid(1)] = Rejection()
    world.store(owner, 1)
    world.store(owner, 2)
    batch = close(world, owner)
    objects = dict(world.staging.objects)
    carry(world, batch)
    world.staging.objects.update(objects)
    world.retry(batch)
    assert both(world) == [(2, 1, 0, 1)] * 2


def test_a_listing_that_was_broken_off_still_shows_every_instance(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    batch = close(world, owner)
    with world.interrupted(Interruption(1, False, world.away, "put_holdings")):
        world.carry(batch)
    assert counts(world.report.study(STUDY)[0]) == (1, 0, 0, 1)


def test_nothing_is_known_of_what_was_never_received(world: World) -> None:
    with pytest.raises(NotFound, match="no study"):
        world.report.study(STUDY)
    with pytest.raises(NotFound, match="no instance"):
        world.report.instance(a_uid(1))
    with pytest.raises(NotFound, match="no batch"):
        world.report.batch(a_batch_id())


def test_an_instance_is_found_once_for_each_study_that_has_it(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    carry(world, close(world, owner))
    other = world.new_owner()
    world.store(other, 1, study=1)
    world.store(other, 2, study=1)
    assert {(STUDY, InstanceState.IMPORTED), (OTHER, InstanceState.STAGED)} == {
        (each.key.study, each.state) for each in world.report.instance(a_uid(1))
    }


def test_the_overview_adds_up_and_has_the_latest_first(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    carry(world, close(world, owner))
    world.store(world.new_owner(), 2, study=1)
    overview = world.report.overview(SINCE)
    assert [study.study for study in overview.studies] == [OTHER, STUDY]
    assert (
        overview.received,
        overview.imported,
        overview.failed,
        overview.pending,
        overview.size,
    ) == (2, 1, 0, 1, 10)
    expected = {**dict.fromkeys(BatchState, 0), BatchState.OPEN: 1, BatchState.SETTLED: 1}
    assert expected == overview.batches


def test_the_overview_leaves_out_what_is_older(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    carry(world, close(world, owner))
    world.store(world.new_owner(), 2, study=1)
    world.clock.advance(1_000)
    assert world.report.overview(a_moment(900)).studies == ()
    world.store(world.owners[-1], 3)
    (study,) = world.report.overview(a_moment(900)).studies
    assert (study.study, study.received, study.imported) == (STUDY, 2, 1)


def test_batches_are_listed_latest_first(world: World) -> None:
    world.metadata.add_batch(a_batch(1, state=BatchState.SETTLED))
    world.metadata.add_batch(a_batch(2, state=BatchState.FAILED))
    world.metadata.add_batch(a_batch(3, state=BatchState.SETTLED))
    assert [a_batch_id(3), a_batch_id(2)] == [batch.id for batch in world.report.batches(a_moment(3))]


def test_a_batch_shows_what_is_in_it(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.store(owner, 2)
    (batch_id,) = world.batch_ids()
    batch, instances = world.report.batch(batch_id)
    assert (batch.state, [each.state for each in instances]) == (BatchState.OPEN, [InstanceState.STAGED] * 2)
    carry(world, close(world, owner))
    batch, instances = world.report.batch(batch_id)
    assert (batch.state, [each.state for each in instances]) == (BatchState.SETTLED, [InstanceState.IMPORTED] * 2)


def test_a_study_without_times_sorts_last() -> None:
    nothing = StudyStatus(study=STUDY)
    assert (nothing.pending, nothing.state) == (0, StudyState.IMPORTED)
    assert StudyState.PENDING is attrs.evolve(nothing, received=1).state
