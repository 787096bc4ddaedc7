"""What every Workflow promises (domain/ports.py); another adapter joins by another parameter."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import attrs
import pytest

from adapters.memory.telemetry import RecordingTelemetry
from adapters.memory.workflow import MemoryWorkflow
from adapters.outbound.local.thread_workflow import ThreadWorkflow
from adapters.outbound.step_functions_workflow import StepFunctionsWorkflow
from domain.batch import CloseReason
from domain.identifiers import BatchId
from domain.ports import Workflow
from tests.builders import a_batch, a_moment
from tests.moto_server import MotoServer, moto_server
from tests.s3 import ACCOUNT

BATCH = a_batch(1).closed(a_moment(9), CloseReason.QUIET)
OTHER = a_batch(2).closed(a_moment(9), CloseReason.QUIET)


@attrs.frozen
class Running:
    """
    A workflow whose runs go on until they are ended.

    Attributes:
        runs: returns how many runs were begun.
        end: ends them all.

    """

    workflow: Workflow
    runs: Callable[[], int]
    end: Callable[[], object]


@contextmanager
def _memory(_request: pytest.FixtureRequest) -> Iterator[Running]:
    workflow = MemoryWorkflow()

    def end() -> None:
        for batch in workflow.running():
            workflow.end(batch)

    yield Running(workflow, lambda: len(workflow.started), end)


@contextmanager
def _thread(_request: pytest.FixtureRequest) -> Iterator[Running]:
    carried: list[BatchId] = []
    workflow = ThreadWorkflow(carry=carried.append, telemetry=RecordingTelemetry())

    def runs() -> int:
        workflow.finish()
        return len(carried)

    yield Running(workflow, runs, workflow.finish)


@contextmanager
def _step_functions(request: pytest.FixtureRequest) -> Iterator[Running]:
    aws: MotoServer = request.getfixturevalue("aws")
    with closing(aws.client("stepfunctions")) as client:
        arn = client.create_state_machine(
            name=f"import-{uuid.uuid4()}",
            definition=json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}),
            roleArn=f"arn:aws:iam::{ACCOUNT}:role/workflow",
        )["stateMachineArn"]

        def executions() -> list[str]:
            return [one["executionArn"] for one in client.list_executions(stateMachineArn=arn)["executions"]]

        def end() -> None:
            for execution in executions():
                client.stop_execution(executionArn=execution)

        workflow = StepFunctionsWorkflow(client=client, state_machine_arn=arn)
        yield Running(workflow, lambda: len(executions()), end)


@pytest.fixture(scope="module")
def aws() -> Iterator[MotoServer]:
    with moto_server() as server:  # it carries out nothing: an execution goes on until it is stopped
        yield server


@pytest.fixture(params=[_memory, _thread, pytest.param(_step_functions, marks=pytest.mark.aws)])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with request.param(request) as running:
        yield running


def test_a_run_goes_on_from_its_start_to_its_end(running: Running) -> None:
    assert running.workflow.is_running(BATCH) is None
    running.workflow.start(BATCH)
    assert running.workflow.is_running(BATCH) is True
    running.end()
    assert not running.workflow.is_running(BATCH)


def test_the_second_start_is_the_first(running: Running) -> None:
    running.workflow.start(BATCH)
    running.workflow.start(BATCH)
    assert running.runs() == 1


def test_batches_run_beside_each_other(running: Running) -> None:
    running.workflow.start(BATCH)
    assert running.workflow.is_running(OTHER) is None
    running.workflow.start(OTHER)
    assert running.workflow.is_running(OTHER) is True
    assert running.workflow.is_running(BATCH) is True
    assert running.runs() == 2
