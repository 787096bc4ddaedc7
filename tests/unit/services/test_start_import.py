import pytest

from domain.errors import ImporterBusy
from domain.identifiers import BatchId
from domain.lifecycle import BatchState
from services.start_import import Start
from tests.builders import a_batch_id
from tests.world import Interruption, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def batch(world: World) -> BatchId:
    """Return a batch that is ready for its import."""
    owner = world.new_owner()
    world.store(owner, 1)
    owner.batches.drain()
    (batch_id,) = world.batch_ids()
    world.list_batch(batch_id)
    return batch_id


def test_one_job_is_started_however_often_it_is_asked(world: World, batch: BatchId) -> None:
    assert Start.SUBMITTED is world.start_import(batch)
    assert Start.STALE is world.start_import(batch)
    (job,) = world.importer.running()
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert (BatchState.SUBMITTED, job.id, world.handlers_clock.now()) == (
        stored.state,
        stored.job_id,
        stored.submitted_at,
    )
    assert f"{batch}-1" == job.name
    assert world.telemetry.total("ImportJobsStarted") == 1


def test_a_start_whose_answer_was_lost_finds_its_job(world: World, batch: BatchId) -> None:
    world.importer.lost_answers = 1
    with pytest.raises(ImporterBusy):
        world.start_import(batch)
    assert Start.SUBMITTED is world.start_import(batch)
    assert len(world.importer.running()) == 1


def test_a_later_run_looks_for_the_job_first(world: World, batch: BatchId) -> None:
    world.importer.lost_answers = 1
    with pytest.raises(ImporterBusy):
        world.start_import(batch)
    stored = world.metadata.batch(batch)
    assert stored is not None
    world.metadata.replace_batch(stored, stored.rerun())
    world.importer.refusals[f"{batch}-1"] = "must not be asked"
    assert Start.SUBMITTED is world.start_import(batch)


def test_a_later_run_starts_the_job_that_no_earlier_one_started(world: World, batch: BatchId) -> None:
    stored = world.metadata.batch(batch)
    assert stored is not None
    world.metadata.replace_batch(stored, stored.rerun())
    assert Start.SUBMITTED is world.start_import(batch)


def test_a_refusal_fails_the_batch_with_the_services_words(world: World, batch: BatchId) -> None:
    world.importer.refusals[f"{batch}-1"] = "the role cannot be assumed"
    assert Start.REFUSED is world.start_import(batch)
    stored = world.metadata.batch(batch)
    assert stored is not None
    assert (stored.state, stored.reason) == (BatchState.FAILED, "the role cannot be assumed")
    assert Start.REFUSED is world.start_import(batch)
    assert world.telemetry.total("ImportFailures") == 1


def test_a_refusal_after_a_lost_answer_does_not_lose_the_job_that_runs(world: World, batch: BatchId) -> None:
    world.importer.lost_answers = 1
    with pytest.raises(ImporterBusy):
        world.start_import(batch)
    world.importer.refusals[f"{batch}-1"] = "the role was taken away"
    assert Start.SUBMITTED is world.start_import(batch)


def test_a_batch_that_is_not_decided_yet_is_not_started(world: World) -> None:
    owner = world.new_owner()
    world.store(owner, 1)
    owner.batches.drain()
    (batch,) = world.batch_ids()
    assert Start.STALE is world.start_import(batch)
    stored = world.metadata.batch(batch)
    assert stored is not None
    world.metadata.replace_batch(stored, stored.cleared())
    assert Start.STALE is world.start_import(batch)
    assert Start.STALE is world.start_import(a_batch_id(99))
    assert world.importer.running() == []


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_batch_that_went_on_meanwhile_is_left_alone(world: World, batch: BatchId, is_refused: bool) -> None:
    if is_refused:
        world.importer.refusals[f"{batch}-1"] = "no"
    with world.interrupted(Interruption(1, False, lambda _: world.start_import(batch), "replace_batch")):
        assert Start.STALE is world.start_import(batch)
