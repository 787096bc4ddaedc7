import attrs
import pytest

from adapters.memory.importer import Rejection
from domain.errors import MetadataUnavailable, StageFailed
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState
from domain.record import REMEMBERED, StudyDescription
from services.list_batch import Listing
from tests.builders import a_batch_id, a_uid
from tests.world import Interruption, World

CLOSED = BatchState.CLOSED
REJECTED = Rejection(reason="ValidationException: no")


@pytest.fixture
def world() -> World:
    return World()


def a_closed_batch(world: World, *stores: tuple[int, int]) -> BatchId:
    """Let a receiver of its own store (instance, version)s and close its batch."""
    owner = world.new_owner()
    for number, version in stores:
        assert world.store(owner, number, version)
    owner.batches.drain()
    return max(world.batch_ids(CLOSED))


def states(world: World, batch: BatchId) -> list[InstanceState]:
    return [entry.state for entry in world.metadata.entries(batch)]


def test_a_batch_is_entered_and_cleared(world: World) -> None:
    batch = a_closed_batch(world, (1, 0), (2, 0))
    assert Listing.READY is world.list_batch(batch)
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert (stored.is_measured, stored.files, stored.size) == (True, 2, 10)
    assert states(world, batch) == [InstanceState.STAGED] * 2


def test_listing_may_be_repeated(world: World) -> None:
    batch = a_closed_batch(world, (1, 0))
    assert Listing.READY is world.list_batch(batch)
    before = world.metadata.batch(batch)
    assert Listing.READY is world.list_batch(batch)
    assert before == world.metadata.batch(batch)


def test_a_batch_that_is_not_closed_is_left_alone(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    assert Listing.STALE is world.list_batch(world.batch_ids()[0])
    assert Listing.STALE is world.list_batch(a_batch_id(99))


def test_a_batch_without_objects_settles(world: World) -> None:
    batch = a_closed_batch(world, (1, 0))
    world.staging.objects.clear()
    assert Listing.SETTLED is world.list_batch(batch)
    assert [batch] == world.batch_ids(BatchState.SETTLED)


def test_a_study_is_described_from_one_object_a_series(world: World) -> None:
    owner = world.new_owner()
    for number, study, series in ((1, 0, 0), (2, 0, 0), (3, 0, 1), (4, 1, 0)):
        world.store(owner, number, study=study, series=series)
    owner.batches.drain()
    heads: list[bytes] = []

    def describe(head: bytes) -> StudyDescription:
        heads.append(head)
        return world.list_batch.describe_study(head)

    described = attrs.evolve(world.list_batch, describe_study=describe)
    described(world.batch_ids()[0])
    assert len(heads) == 3
    record = world.metadata.study(a_uid(0, root="2.25.7"))
    assert record is not None
    assert (record.study_date, record.modalities, record.description) == ("20250314", ("CT",), "chest")
    assert world.metadata.study(a_uid(1, root="2.25.7")) is not None


def test_a_copy_of_which_a_newer_one_is_elsewhere_is_set_aside(world: World) -> None:
    older, newer = a_closed_batch(world, (1, 0), (2, 0)), a_closed_batch(world, (1, 1))
    assert Listing.READY is world.list_batch(newer)
    assert Listing.READY is world.list_batch(older)
    assert states(world, older) == [InstanceState.SUPERSEDED, InstanceState.STAGED]
    assert [older] == [key.batch for key in world.staging.set_aside]
    stored = world.metadata.batch(older)
    assert stored is not None
    assert stored.files == 1


def test_a_batch_of_superseded_copies_settles(world: World) -> None:
    older, newer = a_closed_batch(world, (1, 0)), a_closed_batch(world, (1, 1))
    world.list_batch(newer)
    assert Listing.SETTLED is world.list_batch(older)


def test_a_newer_copy_waits_while_an_older_one_may_be_on_its_way(world: World) -> None:
    older, newer = a_closed_batch(world, (1, 0)), a_closed_batch(world, (1, 1))
    world.list_batch(older)
    for _ in range(2):
        assert Listing.WAIT is world.list_batch(newer)
    for _ in range(4):
        world.carry(older)
        world.work()
    assert Listing.READY is world.list_batch(newer)


def test_waiting_does_not_list_and_write_everything_again(world: World) -> None:
    older, newer = a_closed_batch(world, (1, 0)), a_closed_batch(world, (1, 1))
    world.list_batch(older)
    world.list_batch(newer)

    def refuse(_port: str) -> None:
        pytest.fail("it was listed again")

    for method in ("list", "put_entries", "claim"):
        with world.interrupted(Interruption(1, False, refuse, method)):
            assert Listing.WAIT is world.list_batch(newer)


def test_a_newer_copy_that_failed_and_is_retried_waits_for_an_older_one_listed_after_it(world: World) -> None:
    older, newer = a_closed_batch(world, (1, 0)), a_closed_batch(world, (1, 1))
    world.list_batch(newer)
    world.importer.rejections[a_uid(1)] = REJECTED
    for _ in range(4):
        world.carry(newer)
        world.work()
    assert states(world, newer) == [InstanceState.FAILED]
    world.importer.rejections.clear()
    assert Listing.READY is world.list_batch(older)
    world.start_import(older)
    world.retry(newer)
    assert Listing.WAIT is world.list_batch(newer)
    world.run()
    assert newer == next(iter(world.importer.data.values())).batch


def test_an_older_copy_listed_while_a_retried_newer_one_is_entered_is_waited_for(world: World) -> None:
    older, newer = a_closed_batch(world, (1, 0)), a_closed_batch(world, (1, 1))
    world.importer.rejections[a_uid(1)] = REJECTED
    for _ in range(4):
        world.carry(newer)
        world.work()
    assert states(world, newer) == [InstanceState.FAILED]
    world.importer.rejections.clear()
    world.retry(newer)

    def import_the_older(_port: str) -> None:
        assert Listing.READY is world.list_batch(older)
        world.start_import(older)

    with world.interrupted(Interruption(1, False, import_the_older, "claim")):
        assert Listing.WAIT is world.list_batch(newer)
    world.run()
    assert newer == next(iter(world.importer.data.values())).batch


def test_of_an_instance_that_is_sent_for_ever_only_the_last_batches_are_remembered(world: World) -> None:
    for version in range(REMEMBERED + 10):
        a_closed_batch(world, (1, version))
        world.run()
    *_, newest = batches = world.batch_ids(BatchState.SETTLED)
    (record,) = world.metadata.instances(a_uid(0, root="2.25.7"))
    assert (newest, InstanceState.IMPORTED) == (record.batch, record.state)
    assert batches[-REMEMBERED - 1 : -1] == list(record.earlier)


def test_a_batch_that_others_changed_meanwhile_is_left_to_them(world: World) -> None:
    batch = a_closed_batch(world, (1, 0))
    with world.interrupted(Interruption(1, False, lambda _: world.list_batch(batch), "clear_batch")):
        assert Listing.STALE is world.list_batch(batch)
    with world.interrupted(Interruption(1, False, lambda _: None, "clear_batch")):
        assert Listing.READY is world.list_batch(batch)


@pytest.mark.parametrize("is_empty", [False, True])
def test_what_is_imported_is_decided_once(world: World, is_empty: bool) -> None:
    batch = a_closed_batch(world, (1, 0))
    if is_empty:
        world.staging.objects.clear()
    with world.interrupted(Interruption(1, False, lambda _: world.list_batch(batch), "replace_batch")):
        assert Listing.STALE is world.list_batch(batch)


def test_a_batch_that_vanished_while_it_was_listed_is_stale(world: World) -> None:
    batch = a_closed_batch(world, (1, 0))
    with world.interrupted(Interruption(1, False, lambda _: world.lose_the_table(), "clear_batch")):
        assert Listing.STALE is world.list_batch(batch)


def test_a_move_that_failed_is_made_up_for(world: World) -> None:
    older, newer = a_closed_batch(world, (1, 0)), a_closed_batch(world, (1, 1))
    world.list_batch(newer)
    with world.interrupted(Interruption(1, False, world.away, "supersede")):
        with pytest.raises(StageFailed):
            world.list_batch(older)
    assert Listing.SETTLED is world.list_batch(older)
    assert [older] == [key.batch for key in world.staging.set_aside]


def test_what_is_imported_and_only_not_given_up_is_not_imported_again(world: World) -> None:
    batch = a_closed_batch(world, (1, 0), (2, 0))
    world.importer.rejections[a_uid(2)] = REJECTED
    objects = dict(world.staging.objects)
    for _ in range(4):
        world.carry(batch)
        world.work()
    world.staging.objects.update(objects)
    world.retry(batch)
    world.list_batch(batch)
    assert states(world, batch) == [InstanceState.IMPORTED, InstanceState.STAGED]
    assert [a_uid(2)] == [key.sop_instance for key in world.staging.objects]


# ------------------------------------------------------------------- after results that were not recorded


def a_failed_batch(world: World) -> BatchId:
    """Return a batch whose job completed and whose results could not be read."""
    batch = a_closed_batch(world, (1, 0), (2, 0))
    world.importer.rejections[a_uid(2)] = REJECTED
    world.list_batch(batch)
    world.start_import(batch)
    (job,) = world.importer.running()
    world.importer.unreadable.add(job.id)
    for _ in range(3):
        world.carry(batch)
        world.work()
    assert [batch] == world.batch_ids(BatchState.FAILED)
    return batch


def test_results_of_the_attempt_before_are_recorded_before_anything_is_imported_twice(world: World) -> None:
    batch = a_failed_batch(world)
    world.importer.unreadable.clear()
    world.retry(batch)
    assert Listing.READY is world.list_batch(batch)
    assert states(world, batch) == [InstanceState.IMPORTED, InstanceState.STAGED]


def test_results_that_still_make_no_sense_do_not_hold_the_retry_up(world: World) -> None:
    batch = a_failed_batch(world)
    world.retry(batch)
    assert Listing.READY is world.list_batch(batch)
    assert states(world, batch) == [InstanceState.STAGED] * 2
    assert len(world.telemetry.named("results.unreadable_again")) == 1


def test_reading_again_is_done_once(world: World) -> None:
    batch = a_failed_batch(world)
    world.retry(batch)
    with world.interrupted(Interruption(1, False, lambda _: world.list_batch(batch), "replace_batch")):
        assert Listing.STALE is world.list_batch(batch)


def test_a_failed_job_left_nothing_to_read(world: World) -> None:
    batch = a_closed_batch(world, (1, 0))
    world.importer.job_failures[batch] = "gave up"
    for _ in range(4):
        world.carry(batch)
        world.work()
    world.retry(batch)
    assert Listing.READY is world.list_batch(batch)


def test_a_retry_that_failed_before_it_was_listed_does_not_forget_the_results(world: World) -> None:
    batch = a_failed_batch(world)
    world.retry(batch)
    retried = world.metadata.batch(batch)
    assert retried is not None
    world.metadata.replace_batch(retried, retried.failed("an error of ours"))
    world.importer.unreadable.clear()
    world.retry(batch)
    assert Listing.READY is world.list_batch(batch)
    assert states(world, batch) == [InstanceState.IMPORTED, InstanceState.STAGED]


def test_a_job_that_was_given_up_and_still_runs_is_waited_for(world: World) -> None:
    batch = a_closed_batch(world, (1, 0))
    world.list_batch(batch)
    world.start_import(batch)
    submitted = world.metadata.batch(batch)
    assert submitted is not None
    world.metadata.replace_batch(submitted, submitted.failed("given up by hand"))
    world.retry(batch)
    assert Listing.WAIT is world.list_batch(batch)
    world.work()
    world.work()
    assert Listing.SETTLED is world.list_batch(batch)
    assert states(world, batch) == [InstanceState.IMPORTED]


def test_without_its_records_nothing_is_decided(world: World) -> None:
    batch = a_closed_batch(world, (1, 0))
    with (
        pytest.raises(MetadataUnavailable),
        world.interrupted(Interruption(1, False, world.away, "clear_batch")),
    ):
        world.list_batch(batch)
    assert Listing.READY is world.list_batch(batch)
