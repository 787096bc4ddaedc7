"""The functions on memory adapters: what each answers in every situation of its batch."""

from datetime import timedelta
from typing import Any

import attrs
import pytest

from adapters.entrypoints.lambdas import Handlers
from adapters.entrypoints.use_cases import Ports, assemble
from adapters.memory.clock import FakeClock
from adapters.memory.importer import MemoryImporter, MemoryResultsReader, Rejection
from adapters.memory.metadata import MemoryMetadataStore
from adapters.memory.staging import MemoryStagingArea
from adapters.memory.telemetry import RecordingTelemetry
from adapters.memory.workflow import MemoryWorkflow
from domain.batch import Batch, CloseReason
from domain.errors import InvalidIdentifier, MetadataUnavailable, TemporaryServiceError
from domain.identifiers import BatchId
from domain.lifecycle import BatchState
from domain.record import StudyDescription
from tests.builders import a_batch, a_uid, an_instance


class _Metadata(MemoryMetadataStore):
    is_away = False

    def batch(self, batch_id: BatchId) -> Batch | None:
        if self.is_away:
            raise MetadataUnavailable("away")
        return super().batch(batch_id)


class _Cloud:
    """Everything in memory, and a closed batch of three instances."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.staging = MemoryStagingArea(self.clock)
        self.metadata = _Metadata()
        self.importer = MemoryImporter(self.staging, self.clock)
        self.workflow = MemoryWorkflow()
        self.telemetry = RecordingTelemetry()
        self.told: list[tuple[str, str]] = []
        ports = Ports(
            staging=self.staging,
            metadata=self.metadata,
            importer=self.importer,
            results=MemoryResultsReader(self.importer),
            workflow=self.workflow,
            describe_study=lambda _head: StudyDescription(),
            clock=self.clock,
            telemetry=self.telemetry,
            owner="receiver-1",
            is_abandoned=lambda _batch: False,
        )
        self.handlers = Handlers(use_cases=assemble(ports), tell=lambda *message: self.told.append(message))
        opened = a_batch(1, opened_at=self.clock.now())
        self.batch_id = opened.id
        for number in (1, 2, 3):
            draft = self.staging.draft()
            draft.write(b"x")
            self.staging.stage(draft, opened.id, an_instance(number))
        self.metadata.add_batch(opened.closed(self.clock.now(), CloseReason.QUIET))

    @property
    def batch(self) -> Batch:
        batch = self.metadata.batch(self.batch_id)
        assert batch is not None
        return batch

    def event(self, **overrides: Any) -> dict[str, Any]:
        return {"batch_id": self.batch_id.value, "attempt": 1, "run": 1, **overrides}


@pytest.fixture
def cloud() -> _Cloud:
    return _Cloud()


def test_a_batch_goes_from_listing_to_settled(cloud: _Cloud) -> None:
    handlers, event = cloud.handlers, cloud.event()

    assert handlers.list_batch(event) == {"next": "ready", "wait_seconds": 15}
    cloud.clock.advance(3600)
    assert handlers.start_import(event) == {"next": "submitted", "wait_seconds": 15}
    assert handlers.start_import(event)["next"] == "stale"
    assert handlers.follow_import(event) == {"next": "running", "wait_seconds": 15}
    cloud.clock.advance(3600)
    assert handlers.follow_import(event) == {"next": "running", "wait_seconds": 180}
    cloud.importer.step()
    cloud.importer.step()
    assert handlers.follow_import(event)["next"] == "ended"
    cloud.importer.unready = 1
    assert handlers.record_results(event)["next"] == "wait"
    assert handlers.record_results(event)["next"] == "settled"

    assert cloud.batch.state is BatchState.SETTLED
    assert handlers.record_results(event)["next"] == "stale"
    assert [event.fields["error"] for event in cloud.telemetry.named("step.delayed")] == ["ResultsNotReady"]


@pytest.mark.parametrize("other", [{"attempt": 2}, {"run": 2}, {"batch_id": a_batch(9).id.value}])
@pytest.mark.parametrize("step", ["list_batch", "start_import", "follow_import", "record_results", "fail_batch"])
def test_a_step_of_another_run_is_stale_and_changes_nothing(cloud: _Cloud, step: str, other: dict[str, Any]) -> None:
    before = cloud.batch

    assert getattr(cloud.handlers, step)(cloud.event(**other))["next"] == "stale"

    assert cloud.batch == before


def test_what_passes_by_itself_is_a_wait(cloud: _Cloud) -> None:
    cloud.metadata.is_away = True
    for step in (cloud.handlers.list_batch, cloud.handlers.start_import, cloud.handlers.record_results):
        assert step(cloud.event()) == {"next": "wait", "wait_seconds": 15}
    assert cloud.handlers.follow_import(cloud.event()) == {"next": "running", "wait_seconds": 15}
    cloud.metadata.is_away = False
    cloud.handlers.list_batch(cloud.event())
    cloud.importer.busy = 1
    assert cloud.handlers.start_import(cloud.event())["next"] == "wait"


def test_a_refused_start_fails_the_batch_and_is_told_without_its_reason(cloud: _Cloud) -> None:
    cloud.importer.refusals[cloud.batch.job_name] = "the patient DOE^JANE"
    cloud.handlers.list_batch(cloud.event())

    for _ in range(2):
        assert cloud.handlers.start_import(cloud.event())["next"] == "refused"
        assert cloud.handlers.notify(cloud.event()) == {"next": "done"}

    ((subject, text),) = cloud.told
    assert cloud.batch_id.value in subject
    assert "could not be imported" in text
    assert f"ahi-storescp retry {cloud.batch_id}" in text
    assert "3 instance(s) staged" in text
    assert an_instance().study.value in text
    assert "DOE" not in subject + text


def test_instances_that_failed_are_counted_in_what_is_told(cloud: _Cloud) -> None:
    cloud.importer.rejections[a_uid(2)] = Rejection()
    for step in (cloud.handlers.list_batch, cloud.handlers.start_import):
        step(cloud.event())
    cloud.importer.step()
    cloud.importer.step()
    cloud.handlers.record_results(cloud.event())

    cloud.handlers.notify(cloud.event())

    ((_, text),) = cloud.told
    assert "is settled" in text
    assert "1 instance(s) failed" in text
    assert "2 instance(s) imported" in text


def test_nobody_is_told_of_an_unknown_batch_or_without_a_topic(cloud: _Cloud) -> None:
    assert cloud.handlers.notify(cloud.event(batch_id="unknown")) == {"next": "done"}
    assert attrs.evolve(cloud.handlers, tell=None).notify(cloud.event()) == {"next": "done"}
    assert cloud.told == []


def test_people_who_could_not_be_told_are_told_again(cloud: _Cloud) -> None:
    def unreachable(_subject: str, text: str) -> None:
        raise TemporaryServiceError(f"the topic cannot be reached to say {text}")

    cloud.handlers.fail_batch(cloud.event())
    with pytest.raises(TemporaryServiceError):
        attrs.evolve(cloud.handlers, tell=unreachable).notify(cloud.event())
    failed = cloud.batch

    cloud.handlers.notify(cloud.event())

    assert (failed.is_told, cloud.batch.is_told) == (False, True)
    assert len(cloud.told) == 1


def test_a_final_error_fails_the_batch(cloud: _Cloud) -> None:
    event = cloud.event(error={"Error": "ImportRefused", "Cause": '{"errorMessage": "no role"}'})

    assert cloud.handlers.fail_batch(event) == {"next": "failed"}
    assert cloud.handlers.fail_batch(event) == {"next": "failed"}

    assert (cloud.batch.state, cloud.batch.reason) == (BatchState.FAILED, "ImportRefused: no role")


def test_recovery_counts_nothing_of_what_alarms_look_at(cloud: _Cloud) -> None:
    cloud.handlers.recover({})
    measured = {(each.name, each.value) for each in cloud.telemetry.measurements}
    assert {("ErrorEvents", 0), ("ImportFailures", 0), ("InstancesFailed", 0)} <= measured


def test_recovery_starts_what_has_no_run_and_reconciling_looks_at_every_batch(cloud: _Cloud) -> None:
    assert cloud.handlers.recover({}) == {"closed": 0, "started": 1, "restarted": 0}
    cloud.workflow.end(cloud.batch)
    cloud.clock.advance(timedelta(minutes=5).total_seconds())
    assert cloud.handlers.recover({}) == {"closed": 0, "started": 0, "restarted": 1}
    assert cloud.handlers.list_batch(cloud.event())["next"] == "stale"
    assert cloud.handlers.list_batch(cloud.event(run=2))["next"] == "ready"
    assert cloud.handlers.reconcile({})["batches"] == 1


def test_a_mistaken_payload_is_an_error(cloud: _Cloud) -> None:
    with pytest.raises(ValueError, match="batch_id"):
        cloud.handlers.list_batch({})
    with pytest.raises(InvalidIdentifier):
        cloud.handlers.list_batch(cloud.event(batch_id="/"))
