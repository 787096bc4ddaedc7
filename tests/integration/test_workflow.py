"""
The state machine as it is deployed, run by moto's interpreter with the real handlers, from C-STORE to `status`.

Wait states take no real time: the clock of everything goes on by what they would have taken.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest

from adapters.entrypoints.medical_imaging import Results
from domain.lifecycle import BatchState
from services.report_status import StudyState
from tests.serving import a_data_set
from tests.simulated_cloud import Cloud, Workshop, open_cloud, open_workshop

pytestmark = [pytest.mark.aws, pytest.mark.slow]


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as monkeypatch, open_workshop(monkeypatch) as workshop:
        yield workshop


@pytest.fixture
def cloud(workshop: Workshop, tmp_path: Path) -> Iterator[Cloud]:
    with open_cloud(workshop, tmp_path) as cloud:
        yield cloud


def _received(cloud: Cloud, count: int = 3, **texts: str) -> None:
    """Receive a batch and close it; its first execution begins."""
    with cloud.receiver() as port:
        assert len(cloud.send(port, range(count), **texts)) == count
        cloud.close_batch()


def _totals(cloud: Cloud) -> tuple[int, int, int, int]:
    status = cloud.overview()
    return status.received, status.imported, status.failed, status.pending


def _answers(cloud: Cloud, name: str) -> list[str]:
    return [answer["next"] for called, _, answer in cloud.calls if called == name]


# the flow


@pytest.mark.dcmtk
def test_images_of_dcmtk_go_all_the_way(cloud: Cloud, require_tool: Callable[[str], str], tmp_path: Path) -> None:
    storescu = require_tool("storescu")
    for number in range(5):
        a_data_set(number, size=128).save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    files = sorted(map(str, tmp_path.glob("*.dcm")))
    with cloud.receiver() as port:
        sent = subprocess.run(
            [storescu, "-aec", "STORESCP", "127.0.0.1", str(port), *files], check=False, capture_output=True, timeout=60
        )
        assert sent.returncode == 0, sent.stderr
        assert _totals(cloud) == (5, 0, 0, 5)
        assert cloud.overview().studies[0].state is StudyState.RECEIVING
        cloud.close_batch()
    cloud.settle()

    (study,) = cloud.overview().studies
    assert (study.study.value, study.state) == ("2.25.7000", StudyState.IMPORTED)
    assert _totals(cloud) == (5, 5, 0, 0)
    assert cloud.objects() == set()
    assert len(cloud.executions("SUCCEEDED")) == 1
    stored = pydicom.dcmread(cloud.stand_in.store.find("2.25.7100.3")[0].path)
    assert stored.SOPInstanceUID == "2.25.7100.3"


def test_the_execution_is_named_by_batch_attempt_and_run_and_passes_ids_only(cloud: Cloud) -> None:
    _received(cloud)
    cloud.settle()

    (batch,) = cloud.batches()
    assert cloud.executions() == [f"{batch.id}-1-1"]
    assert {tuple(event) for _, event, _ in cloud.calls} == {("batch_id", "attempt", "run")}


def test_a_state_machine_without_an_open_batch_settles_a_batch_of_none(cloud: Cloud) -> None:
    _received(cloud)
    (batch,) = cloud.batches()
    cloud.settle()
    calls = len(cloud.calls)

    cloud.call("list_batch", {"batch_id": batch.id.value, "attempt": 1, "run": 1})

    assert cloud.calls[calls][2]["next"] == "stale"


def test_a_start_that_comes_twice_is_one_execution_and_one_job(cloud: Cloud) -> None:
    _received(cloud)
    (batch,) = cloud.batches()
    workflow = cloud.use_cases.ports.workflow
    workflow.start(batch)
    cloud.settle()
    workflow.start(batch)
    cloud.run_executions()

    assert len(cloud.executions()) == 1
    assert len(list(cloud.stand_in.store.list_jobs())) == 1
    assert _totals(cloud) == (3, 3, 0, 0)


def test_every_function_may_be_called_twice_at_any_time(cloud: Cloud) -> None:
    def twice(name: str, event: Mapping[str, Any]) -> None:
        if name != "notify":
            getattr(cloud.handlers, name)(event)

    cloud.before_call = twice
    _received(cloud)
    cloud.settle()

    assert _totals(cloud) == (3, 3, 0, 0)
    assert len(list(cloud.stand_in.store.list_jobs())) == 1


# what goes wrong


@pytest.mark.parametrize("name", ["list_batch", "start_import", "follow_import", "record_results"])
def test_an_error_in_a_function_ends_the_run_and_recovery_begins_the_next(cloud: Cloud, name: str) -> None:
    dying = [name]

    def die(called: str, _event: Mapping[str, Any]) -> None:
        if called in dying:
            dying.remove(called)
            raise RuntimeError("a bug")

    cloud.before_call = die
    _received(cloud)
    cloud.run_executions()
    (batch,) = cloud.batches()
    assert batch.state not in {BatchState.FAILED, BatchState.SETTLED}
    assert cloud.executions("FAILED") == [f"{batch.id}-1-1"]

    cloud.settle()

    assert _totals(cloud) == (3, 3, 0, 0)
    assert cloud.executions("SUCCEEDED") == [f"{batch.id}-1-2"]
    assert len(list(cloud.stand_in.store.list_jobs())) == 1


@pytest.mark.parametrize("name", ["list_batch", "start_import", "follow_import", "record_results"])
def test_a_function_that_dies_after_its_work_costs_nothing(cloud: Cloud, name: str) -> None:
    dying = [name]

    def die(called: str, event: Mapping[str, Any]) -> None:
        if called in dying:
            dying.remove(called)
            getattr(cloud.handlers, name)(event)
            raise RuntimeError("out of memory")

    cloud.before_call = die
    _received(cloud)
    cloud.settle()

    assert _totals(cloud) == (3, 3, 0, 0)
    assert len(list(cloud.stand_in.store.list_jobs())) == 1


def test_errors_of_the_lambda_service_are_tried_again_in_the_same_run(cloud: Cloud) -> None:
    failing = ["list_batch", "record_results", "record_results"]

    class ServiceException(Exception):  # as the service names it
        pass

    ServiceException.__name__ = "Lambda.ServiceException"

    def fail(called: str, _event: Mapping[str, Any]) -> None:
        if called in failing:
            failing.remove(called)
            raise ServiceException

    cloud.before_call = fail
    _received(cloud)
    cloud.settle()

    assert _totals(cloud) == (3, 3, 0, 0)
    assert len(cloud.executions("SUCCEEDED")) == 1
    assert len(cloud.executions()) == 1


def test_a_final_error_of_ours_fails_the_batch_with_its_cause_and_tells_people(cloud: Cloud) -> None:
    class ImportRefused(Exception):  # as ours
        pass

    def refuse(called: str, _event: Mapping[str, Any]) -> None:
        if called == "follow_import":
            raise ImportRefused("the service is closed for good")

    cloud.before_call = refuse
    _received(cloud)
    cloud.settle()

    (batch,) = cloud.batches()
    assert batch.state is BatchState.FAILED
    assert "closed for good" in (batch.reason or "")
    assert len(cloud.notices()) == 1
    assert batch.id.value in cloud.notices()[0]
    cloud.assert_nothing_is_lost()


def test_a_job_that_failed_fails_the_batch_and_retry_imports_it(cloud: Cloud) -> None:
    cloud.stand_in.behaviour.faults.fail_jobs = 1
    _received(cloud)
    cloud.settle()
    (batch,) = cloud.batches()
    (failure, *_) = cloud.failures()
    assert (batch.state, failure.batch) == (BatchState.FAILED, batch.id)
    assert "AccessDenied" in failure.reason
    assert cloud.objects() == set(cloud.acknowledged)
    assert len(cloud.notices()) == 1
    assert _totals(cloud) == (3, 0, 3, 0)

    cloud.use_cases.retry(batch.id)
    cloud.settle()

    assert _totals(cloud) == (3, 3, 0, 0)
    assert f"{batch.id}-2-1" in cloud.executions("SUCCEEDED")
    assert cloud.failures() == []


def test_a_file_that_is_refused_fails_alone_and_is_kept(cloud: Cloud) -> None:
    # The service takes a patient's name of at most 256 characters.
    with cloud.receiver() as port:
        cloud.send(port, range(2))
        broken = a_data_set(7)
        broken.add(pydicom.DataElement("PatientName", "PN", "x" * 300, validation_mode=pydicom.config.IGNORE))
        cloud.store(port, broken)
        cloud.close_batch()
    cloud.settle()

    (failure,) = cloud.failures()
    assert _totals(cloud) == (3, 2, 1, 0)
    assert failure.key is not None
    assert failure.key.sop_instance.value == broken.SOPInstanceUID
    assert "ValidationException" in failure.reason
    assert cloud.objects() == {broken.SOPInstanceUID}
    (batch,) = cloud.batches()

    cloud.use_cases.retry(batch.id)
    cloud.settle()

    assert _totals(cloud) == (3, 2, 1, 0)
    assert cloud.objects() == {broken.SOPInstanceUID}
    jobs = [job.job_name for job in cloud.stand_in.store.list_jobs()]
    assert jobs == [f"{batch.id}-2", f"{batch.id}-1"]


def test_images_that_conflict_with_the_patient_are_reported(cloud: Cloud) -> None:
    _received(cloud, 1)
    cloud.settle()
    other = a_data_set(9)
    other.PatientID = "SOMEONE ELSE"
    with cloud.receiver() as port:
        cloud.store(port, other)
        cloud.close_batch()
    cloud.settle()

    (conflict,) = cloud.use_cases.report.conflicts()
    assert conflict.key is not None
    assert conflict.key.sop_instance.value == other.SOPInstanceUID
    assert cloud.overview().studies[0].state is StudyState.CONFLICT


def test_a_manifest_that_comes_late_is_waited_for(cloud: Cloud) -> None:
    cloud.stand_in.behaviour.faults.manifest_delay_seconds = 120.0
    _received(cloud)
    cloud.settle()

    assert _totals(cloud) == (3, 3, 0, 0)
    assert "wait" in _answers(cloud, "record_results")


@pytest.mark.parametrize("results", [Results.MISSING, Results.NO_MANIFEST, Results.TRUNCATED, Results.TORN_MANIFEST])
def test_results_that_never_come_fail_the_batch_and_a_retry_does_not_import_twice(
    cloud: Cloud, results: Results
) -> None:
    cloud.stand_in.behaviour.faults.results = results
    _received(cloud)
    cloud.settle()
    (batch,) = cloud.batches()
    assert batch.state is BatchState.FAILED
    assert "the results of import job" in (batch.reason or "")
    assert "never came" in (batch.reason or "")
    assert "wait" in _answers(cloud, "record_results")
    assert len(cloud.notices()) == 1
    cloud.assert_nothing_is_lost()

    cloud.stand_in.behaviour.clear()
    cloud.use_cases.retry(batch.id)
    cloud.settle()

    assert _totals(cloud) == (3, 3, 0, 0)
    cloud.assert_nothing_is_lost()


def test_the_output_named_bare_is_found_too(cloud: Cloud) -> None:
    cloud.stand_in.behaviour.faults.bare_output_uri = True
    _received(cloud)
    cloud.settle()

    assert _totals(cloud) == (3, 3, 0, 0)


def test_a_job_that_lasts_longer_than_an_execution_is_followed_by_several_runs(cloud: Cloud) -> None:
    """An execution ends after twelve hours with its batch unchanged; here it is stopped, as moto has no such clock."""
    cloud.stand_in.behaviour.job_seconds = 4 * 3600
    _received(cloud)
    cloud.wait(lambda: len(_answers(cloud, "follow_import")) > 5)
    client = cloud.workshop.aws.client("stepfunctions")
    listed = client.list_executions(stateMachineArn=cloud.created.state_machine_arn, statusFilter="RUNNING")
    for execution in listed["executions"]:
        client.stop_execution(executionArn=execution["executionArn"])
    cloud.run_executions()
    (batch,) = cloud.batches()
    assert batch.state in {BatchState.SUBMITTED, BatchState.IMPORTING}

    cloud.settle()

    (batch,) = cloud.batches()
    assert (batch.state, batch.attempt) == (BatchState.SETTLED, 1)
    assert batch.run > 1
    assert batch.settled_at is not None
    assert batch.settled_at - batch.opened_at > timedelta(hours=4)
    assert _totals(cloud) == (3, 3, 0, 0)


def test_polling_becomes_rarer(cloud: Cloud) -> None:
    cloud.stand_in.behaviour.job_seconds = 2 * 3600
    _received(cloud)
    cloud.settle()

    waits = [answer["wait_seconds"] for name, _, answer in cloud.calls if name == "follow_import"]
    assert waits[0] == 15
    assert max(waits) == 300
    assert len(waits) < 100


def test_the_definition_is_what_the_interpreter_takes_and_names_every_function(cloud: Cloud) -> None:
    client = cloud.workshop.aws.client("stepfunctions")
    described = client.describe_state_machine(stateMachineArn=cloud.created.state_machine_arn)
    states = json.loads(described["definition"])["States"]

    named = {state["Parameters"]["FunctionName"] for state in states.values() if state["Type"] == "Task"}
    known = {function["FunctionArn"] for function in cloud.workshop.aws.client("lambda").list_functions()["Functions"]}
    assert named <= known
