"""The fakes themselves: what tests rely on when they use them."""

from datetime import timedelta

import pytest

from adapters.memory.clock import FakeClock
from adapters.memory.importer import MemoryImporter, MemoryResultsReader, Rejection
from adapters.memory.staging import MemoryStagingArea
from adapters.memory.telemetry import Event, RecordingTelemetry
from adapters.memory.workflow import MemoryWorkflow
from domain.batch import Batch
from domain.errors import ImporterBusy, ImportRefused, ResultsNotReady, ResultsUnreadable, StageFailed
from domain.import_job import ImportJob, ImportJobStatus, ImportRequest
from domain.staging import StagingKey
from tests.builders import MOMENT, a_batch, a_key, a_uid, an_instance

BATCH = a_batch(1)
LATER = a_batch(2)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(MOMENT)


@pytest.fixture
def staging(clock: FakeClock) -> MemoryStagingArea:
    return MemoryStagingArea(clock)


@pytest.fixture
def importer(staging: MemoryStagingArea, clock: FakeClock) -> MemoryImporter:
    return MemoryImporter(staging, clock)


def _stage(staging: MemoryStagingArea, number: int, batch: Batch = BATCH, content: bytes = b"x") -> StagingKey:
    draft = staging.draft()
    draft.write(content)
    instance = an_instance(number, size=len(content))
    staging.stage(draft, batch.id, instance)
    return StagingKey.of(batch.id, instance)


def _run(importer: MemoryImporter, batch: Batch = BATCH) -> ImportJob:
    job = importer.start(ImportRequest.of(batch))
    importer.step(job.name)
    importer.step(job.name)
    return importer.describe(job.id)


# Clock.


def test_time_passes_only_when_advanced(clock: FakeClock) -> None:
    assert (clock.now(), clock.monotonic()) == (MOMENT, 0.0)
    assert MOMENT + timedelta(seconds=1.5) == clock.advance(1.5)
    assert clock.monotonic() == 1.5
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


def test_another_machine_has_another_wall_clock_and_the_same_seconds(clock: FakeClock) -> None:
    other = clock.skewed(-30)
    clock.advance(10)

    assert MOMENT - timedelta(seconds=20) == other.now()
    assert other.monotonic() == 10.0


# Staging area.


def test_hooks_make_a_stage_fail_before_or_after_its_effect(staging: MemoryStagingArea) -> None:
    def fail(method: str, key: StagingKey | None) -> None:
        if method == "stage" and key is not None:
            raise StageFailed("as the test wants")

    staging.before = fail
    with pytest.raises(StageFailed):
        _stage(staging, 1)
    assert staging.objects == {}

    staging.before, staging.after = lambda _method, _key: None, fail
    with pytest.raises(StageFailed):
        _stage(staging, 1)
    assert len(staging.objects) == 1


def test_trash_and_superseded_are_there_to_look_at(staging: MemoryStagingArea) -> None:
    first, second = _stage(staging, 1), _stage(staging, 2)
    one, two = staging.list(BATCH.id)

    staging.discard([one])
    staging.supersede(two)

    assert [first] == list(staging.trash)
    assert [second] == list(staging.set_aside)


def test_drafts_of_other_areas_are_a_mistake(staging: MemoryStagingArea, clock: FakeClock) -> None:
    class Foreign:
        size = 0

        def write(self, data: bytes | memoryview) -> None:
            pass

        def discard(self) -> None:
            pass

    with pytest.raises(TypeError):
        staging.stage(Foreign(), BATCH.id, an_instance())


def test_a_discarded_draft_takes_nothing_more(staging: MemoryStagingArea) -> None:
    draft = staging.draft()
    draft.discard()
    with pytest.raises(StageFailed):
        draft.write(b"x")


# Importer and results.


def test_a_job_goes_through_its_statuses_step_by_step(importer: MemoryImporter, staging: MemoryStagingArea) -> None:
    _stage(staging, 1)
    request = ImportRequest.of(BATCH)
    job = importer.start(request)

    assert ImportJobStatus.SUBMITTED is job.status
    assert job == importer.start(request) == importer.find(request.name)
    assert [job] == importer.running()
    assert None is importer.find("another")
    with pytest.raises(ResultsNotReady):
        importer.results_of(job)
    importer.step("another")
    importer.step()
    assert ImportJobStatus.IN_PROGRESS is importer.describe(job.id).status
    importer.step()
    importer.step()
    assert ImportJobStatus.COMPLETED is importer.describe(job.id).status
    assert importer.running() == []
    assert [importer.describe(job.id)] == importer.jobs_of(BATCH.id)


def test_an_imported_instance_is_held_once_and_its_version_rises(
    importer: MemoryImporter, staging: MemoryStagingArea
) -> None:
    _stage(staging, 1, content=b"old")
    _stage(staging, 1, LATER, content=b"new")

    _run(importer)
    _run(importer, LATER)

    assert [a_key(1)] == list(importer.data)
    copy = importer.data[a_key(1)]
    assert (b"new", 2, LATER.id) == (copy.content, copy.version, copy.batch)
    assert [BATCH.id, LATER.id] == [key.batch for key, _ in importer.imports]


def test_instances_fail_vanish_or_go_unmentioned_as_scripted(
    importer: MemoryImporter, staging: MemoryStagingArea
) -> None:
    keys = {number: _stage(staging, number) for number in range(5)}
    importer.rejections[a_uid(1)] = Rejection(reason="Internal: sorry", is_server_error=True)
    importer.unmentioned.add(a_uid(2))
    importer.non_primary.add(a_uid(3))
    job = importer.start(ImportRequest.of(BATCH))
    importer.step()
    del staging.objects[keys[4]]
    importer.step()

    outcomes = {outcome.key: outcome for outcome in MemoryResultsReader(importer).outcomes(job)}

    assert {keys[0], keys[1], keys[3], keys[4]} == set(outcomes)
    assert outcomes[keys[0]].is_imported
    assert outcomes[keys[0]].is_primary
    assert (outcomes[keys[1]].reason, outcomes[keys[1]].is_server_error) == ("Internal: sorry", True)
    assert not outcomes[keys[3]].is_primary
    assert not outcomes[keys[4]].is_imported


def test_starts_are_busy_refused_or_answered_in_vain_as_scripted(importer: MemoryImporter) -> None:
    request = ImportRequest.of(BATCH)
    importer.busy = 2
    with pytest.raises(ImporterBusy):
        importer.start(request)
    with pytest.raises(ImporterBusy):
        importer.find(request.name)
    assert None is importer.find(request.name)

    importer.lost_answers = 1
    with pytest.raises(ImporterBusy):
        importer.start(request)
    assert importer.start(request) == importer.find(request.name)

    importer.refusals["other-1"] = "no such role"
    with pytest.raises(ImportRefused, match="no such role"):
        importer.start(ImportRequest(name="other-1", input_prefix="batches/x/", output_prefix="x/"))
    with pytest.raises(ImportRefused, match="prefixes"):
        importer.start(ImportRequest(name="other-2", input_prefix="elsewhere/x/", output_prefix="x/"))


def test_jobs_fail_and_results_are_late_or_unreadable_as_scripted(
    importer: MemoryImporter, staging: MemoryStagingArea
) -> None:
    _stage(staging, 1)
    importer.job_failures[BATCH.id] = "bucket unreadable"
    failed = _run(importer)
    assert (failed.status, failed.message) == (ImportJobStatus.FAILED, "bucket unreadable")
    assert importer.data == {}

    job = _run(importer, LATER)
    importer.unready = 1
    with pytest.raises(ResultsNotReady):
        importer.results_of(job)
    assert importer.results_of(job) == []
    importer.unreadable.add(job.id)
    with pytest.raises(ResultsUnreadable):
        importer.results_of(job)

    stranger = MemoryImporter(staging, FakeClock())
    with pytest.raises(ImportRefused):
        stranger.describe(job.id)


# Workflow.


def test_a_run_is_started_once_and_goes_on_until_it_is_ended() -> None:
    workflow = MemoryWorkflow()
    assert None is workflow.is_running(BATCH)

    workflow.start(BATCH)
    workflow.start(BATCH)
    workflow.start(BATCH.rerun())

    assert [BATCH, BATCH.rerun()] == workflow.started == workflow.running()
    workflow.end(BATCH)
    workflow.start(BATCH)
    assert False is workflow.is_running(BATCH)
    assert [BATCH.rerun()] == workflow.running()


# Telemetry.


def test_events_and_measurements_are_remembered() -> None:
    telemetry = RecordingTelemetry()
    telemetry.event("instance.staged", batch="b")
    telemetry.event("batch.closed")
    telemetry.measure("bytes", 2, "Bytes")
    telemetry.measure("bytes", 3, "Bytes")

    assert [Event("instance.staged", {"batch": "b"})] == telemetry.named("instance.staged")
    assert telemetry.names() == ["instance.staged", "batch.closed"]
    assert telemetry.total("bytes") == 5
