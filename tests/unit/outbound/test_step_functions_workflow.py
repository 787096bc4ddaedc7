"""StepFunctionsWorkflow and SnsNotifier over real HTTP."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import attrs
import pytest
from botocore.config import Config

from adapters.outbound.sns_notifier import SnsNotifier
from adapters.outbound.step_functions_workflow import StepFunctionsWorkflow
from domain.errors import FinalServiceError, TemporaryServiceError
from tests.builders import a_batch
from tests.moto_server import MotoServer, moto_server
from tests.s3 import ACCOUNT, a_session
from tests.scripted_server import Answer, ScriptedServer, json_answer, scripted_server

pytestmark = pytest.mark.aws

BATCH = a_batch(1, attempt=2, run=3)
MACHINE = f"arn:aws:states:eu-central-1:{ACCOUNT}:stateMachine:import"
TOPIC = f"arn:aws:sns:eu-central-1:{ACCOUNT}:failures"


@pytest.fixture(scope="module")
def aws() -> Iterator[MotoServer]:
    with moto_server() as server:
        yield server


@pytest.fixture
def workflow(aws: MotoServer, request: pytest.FixtureRequest) -> Iterator[StepFunctionsWorkflow]:
    with closing(aws.client("stepfunctions")) as client:
        definition = {"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}
        machine = client.create_state_machine(
            name=request.node.name[:80],
            definition=json.dumps(definition),
            roleArn=f"arn:aws:iam::{ACCOUNT}:role/workflow",
        )
        yield StepFunctionsWorkflow(client=client, state_machine_arn=machine["stateMachineArn"])


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


def _client(server: ScriptedServer, service: Any) -> Any:
    config = Config(read_timeout=1, retries={"mode": "standard", "total_max_attempts": 1})
    return a_session().client(service, endpoint_url=server.url, config=config)


def test_a_run_is_started_once_under_its_name(workflow: StepFunctionsWorkflow) -> None:
    assert workflow.is_running(BATCH) is None

    workflow.start(BATCH)
    workflow.start(BATCH)

    assert workflow.is_running(BATCH) is not None
    executions = workflow.client.list_executions(stateMachineArn=workflow.state_machine_arn)["executions"]
    assert [execution["name"] for execution in executions] == [BATCH.execution_name]
    execution = workflow.client.describe_execution(executionArn=executions[0]["executionArn"])
    assert json.loads(execution["input"]) == {"batch_id": BATCH.id.value, "attempt": 2, "run": 3}
    assert workflow.is_running(BATCH.rerun()) is None


def test_a_run_that_was_ended_does_not_go_on_and_is_not_started_again(workflow: StepFunctionsWorkflow) -> None:
    workflow.start(BATCH)
    (execution,) = workflow.client.list_executions(stateMachineArn=workflow.state_machine_arn)["executions"]
    workflow.client.stop_execution(executionArn=execution["executionArn"])

    workflow.start(BATCH)

    assert workflow.is_running(BATCH) is False


@pytest.mark.parametrize(
    "status, is_running",
    [
        ("RUNNING", True),
        ("PENDING_REDRIVE", True),
        ("SUCCEEDED", False),
        ("FAILED", False),
        ("TIMED_OUT", False),
        ("ABORTED", False),
    ],
)
def test_an_execution_goes_on_until_it_ended_in_any_way(server: ScriptedServer, status: str, is_running: bool) -> None:
    server.script(json_answer({"status": status}))
    with closing(_client(server, "stepfunctions")) as client:
        workflow = StepFunctionsWorkflow(client=client, state_machine_arn=f"{MACHINE}:live")

        assert workflow.is_running(BATCH) is is_running

    asked = f"arn:aws:states:eu-central-1:{ACCOUNT}:execution:import:{BATCH.execution_name}"
    assert server.requests[0].json == {"executionArn": asked}


@pytest.mark.parametrize(
    "code, status, words",
    [
        ("ThrottlingException", 400, "StartExecution was answered with ThrottlingException"),
        ("ExecutionLimitExceeded", 400, "ExecutionLimitExceeded"),
        ("InternalError", 500, "InternalError"),
        ("StateMachineDoesNotExist", 400, "check --state-machine-arn"),
        ("AccessDeniedException", 400, "check --state-machine-arn and that this role may start"),
    ],
)
def test_whatever_keeps_a_run_from_starting_is_left_to_recovery(
    server: ScriptedServer, code: str, status: int, words: str
) -> None:
    server.script(json_answer({"__type": code, "message": "no"}, status))
    with closing(_client(server, "stepfunctions")) as client:
        workflow = StepFunctionsWorkflow(client=client, state_machine_arn=MACHINE)
        with pytest.raises(TemporaryServiceError, match=words):
            workflow.start(BATCH)
        with pytest.raises(TemporaryServiceError):
            workflow.is_running(attrs.evolve(BATCH, run=4))


def test_a_message_is_published_with_a_short_subject(aws: MotoServer) -> None:
    with closing(aws.client("sns")) as client, closing(aws.client("sqs")) as queues:
        topic = client.create_topic(Name="failures")["TopicArn"]
        queue = queues.create_queue(QueueName="mail")["QueueUrl"]
        arn = queues.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        client.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)

        SnsNotifier(client=client, topic_arn=topic)("s" * 200, "text")

        (message,) = queues.receive_message(QueueUrl=queue)["Messages"]
        body = json.loads(message["Body"])
        assert (body["Subject"], body["Message"]) == ("s" * 100, "text")


@pytest.mark.parametrize(
    "code, status, error",
    [
        ("Throttling", 400, TemporaryServiceError),
        ("InternalError", 500, TemporaryServiceError),
        ("NotFound", 404, FinalServiceError),
        ("AuthorizationError", 403, FinalServiceError),
    ],
)
def test_a_message_that_cannot_be_published_says_whether_waiting_helps(
    server: ScriptedServer, code: str, status: int, error: type[Exception]
) -> None:
    body = f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
    server.script(Answer(status=status, body=body.encode()))
    with closing(_client(server, "sns")) as client, pytest.raises(error, match=f"Publish was answered with {code}"):
        SnsNotifier(client=client, topic_arn=TOPIC)("subject", "text")
