"""
AWS on this machine: moto's server on loopback, whose state machines run, and whose functions are Python calls.

Only `make cloud` and tests use it; moto is a development dependency.
What the application needs is created as the deployment does it: from the table's definition, and from the state
machine's file.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import boto3
from botocore.config import Config
from moto import mock_aws
from moto.awslambda_simple.models import LambdaSimpleBackend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from adapters.outbound.dynamodb_items import TABLE_DEFINITION

ACCOUNT: Final = "123456789012"
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
DEFINITION_FILE: Final = Path(__file__).parents[2] / "infra" / "import_workflow.asl.json"
"""The state machine as it is deployed; read as a file, since nothing at run time imports the deployment."""

_STEPS: Final = ("list_batch", "start_import", "follow_import", "record_results", "fail_batch", "notify")
NAME: Final = "storescp-cloud"
_STOP_SECONDS: Final = 5.0

Function = Callable[[str, Mapping[str, Any]], Any]
"""Carries out a function by its name, given its event, and returns its answer."""


@attrs.frozen(kw_only=True)
class Created:
    """The names of what was created, as settings of ours by field name."""

    settings: Mapping[str, str]
    state_machine_arn: str
    topic_arn: str
    staging_bucket: str
    results_bucket: str
    table: str


class SimulatedAws:
    """
    moto's server, which answers one request after the other: its conditional writes are not atomic otherwise.

    Args:
        port: 0 takes a free one.
        region: of everything.
        lambda_function: carries out the functions of the state machine, in the threads of its executions.

    """

    def __init__(self, *, port: int = 0, region: str = "us-east-1", lambda_function: Function | None = None) -> None:
        self.region = region
        self.lambda_function: Function = lambda_function or _no_function
        self._stack = ExitStack()
        self._port = port
        self._server: BaseWSGIServer | None = None
        self._request = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._making_clients = threading.Lock()
        self._application = DomainDispatcherApplication(create_backend_app)

    @property
    def url(self) -> str:
        """Where it listens."""
        if self._server is None:
            raise RuntimeError("it is not running")
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        """
        Answer requests from now on.

        Raises:
            OSError: the port is taken.

        """
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        with ExitStack() as stack:
            # Inside this context the state machine's calls of functions stay in this process.
            mocked = mock_aws(
                config={"stepfunctions": {"execute_state_machine": True}, "lambda": {"use_docker": False}}
            )
            mocked.start()
            stack.callback(mocked.stop)
            stack.enter_context(_functions(self._invoke))
            self._server = make_server(
                "127.0.0.1", self._port, self._one_at_a_time, threaded=True, request_handler=MotoRequestHandler
            )
            stack.callback(self._server.server_close)
            thread = threading.Thread(target=self._server.serve_forever, name="simulated-aws", daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._server.shutdown)
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """End all executions and close; everything in it is gone."""
        if self._server is not None:
            self.stop_executions()
            for client in self._clients.values():
                client.close()
            self._clients.clear()
            self._stack.close()
            self._server = None

    def client(self, service: str) -> Any:  # noqa: ANN401  # its type depends on the text
        """Return the client of a service; it is closed when this stops."""
        with self._making_clients:
            if service not in self._clients:
                session = boto3.Session(
                    aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
                    aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
                    region_name=self.region,
                )
                config = Config(retries={"mode": "standard", "total_max_attempts": 3}, s3={"addressing_style": "path"})
                self._clients[service] = session.client(service, endpoint_url=self.url, config=config)  # type: ignore[call-overload]
            return self._clients[service]

    def create(self, name: str = NAME, *, state_machine_arn: str | None = None) -> Created:
        """
        Create buckets, table, topic, functions and the state machine.

        Args:
            name: of the table, and what all other names begin with.
            state_machine_arn: one that was created before; a new one otherwise.

        """
        staging, results = f"{name}-staging", f"{name}-results"
        s3, dynamodb = self.client("s3"), self.client("dynamodb")
        place = {} if self.region == "us-east-1" else {"LocationConstraint": self.region}
        for bucket in (staging, results):
            s3.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": place} if place else {}))
        s3.put_bucket_versioning(Bucket=staging, VersioningConfiguration={"Status": "Enabled"})
        dynamodb.create_table(TableName=name, **TABLE_DEFINITION)
        topic = self.client("sns").create_topic(Name=name)["TopicArn"]
        machine = state_machine_arn or self._create_state_machine(name)
        role = f"arn:aws:iam::{ACCOUNT}:role/{name}-data-access"
        return Created(
            settings={
                "profile": "aws",
                "region": self.region,
                "staging_bucket": staging,
                "results_bucket": results,
                "bucket_owner": ACCOUNT,
                "table": name,
                "data_access_role_arn": role,
                "state_machine_arn": machine,
                "topic_arn": topic,
                "endpoint_url": self.url,
            },
            state_machine_arn=machine,
            topic_arn=topic,
            staging_bucket=staging,
            results_bucket=results,
            table=name,
        )

    def _create_state_machine(self, name: str) -> str:
        iam, functions = self.client("iam"), self.client("lambda")
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        arns = {}
        for step in _STEPS:
            made = functions.create_function(
                FunctionName=f"{name}-{step}",
                PackageType="Image",
                Code={"ImageUri": f"{ACCOUNT}.dkr.ecr.{self.region}.amazonaws.com/storescp:latest"},
                ImageConfig={"Command": [f"adapters.entrypoints.lambdas.{step}"]},
                Role=role,
            )
            arns[step] = made["FunctionArn"]
        definition = re.sub(r"\$\{(\w+)\}", lambda found: arns[found[1]], DEFINITION_FILE.read_text(encoding="utf-8"))
        machine = self.client("stepfunctions").create_state_machine(
            name=f"{name}-import", definition=definition, roleArn=role
        )
        return str(machine["stateMachineArn"])

    def _invoke(self, name: str, event: Mapping[str, Any]) -> Any:  # noqa: ANN401  # as the function has it
        return self.lambda_function(name.rpartition("-")[2], event)

    def _one_at_a_time(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._request:
            answer: Iterable[bytes] = self._application(environ, start_response)
            return answer

    def stop_executions(self) -> None:
        """End all executions that run, and wait for them."""
        from moto.stepfunctions.parser.utils import TMP_THREADS

        machines = self.client("stepfunctions")
        for machine in machines.list_state_machines()["stateMachines"]:
            running = machines.list_executions(stateMachineArn=machine["stateMachineArn"], statusFilter="RUNNING")
            for execution in running["executions"]:
                machines.stop_execution(executionArn=execution["executionArn"])
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in TMP_THREADS:
            thread.join(max(0.0, deadline - time.monotonic()))
        TMP_THREADS[:] = [thread for thread in TMP_THREADS if thread.is_alive()]


def _no_function(name: str, _event: Mapping[str, Any]) -> Any:  # noqa: ANN401  # it never answers
    raise RuntimeError(f"nobody carries out {name}")


@contextmanager
def _functions(invoke: Function) -> Iterator[None]:
    """Let moto's functions be calls of `invoke`, for as long as the context lasts."""
    original = LambdaSimpleBackend.invoke

    def call(
        _self: LambdaSimpleBackend,
        function_name: str,
        _qualifier: str | None,
        body: Any,  # noqa: ANN401  # text or bytes, as moto has it
        _headers: Any,  # noqa: ANN401  # the same
        response_headers: Any,  # noqa: ANN401  # the same
    ) -> bytes:
        name = function_name.rpartition(":")[2]
        try:
            answer = invoke(name, json.loads(body or "{}"))
        except Exception as error:  # noqa: BLE001  # as Lambda answers for a function that raises
            response_headers["x-amz-function-error"] = "Unhandled"
            answer = {"errorType": type(error).__name__, "errorMessage": str(error), "stackTrace": []}
        return json.dumps(answer).encode()

    # moto has no hook for it
    setattr(LambdaSimpleBackend, "invoke", call)  # noqa: B010  # assigned, it would have to have moto's own types
    try:
        yield
    finally:
        setattr(LambdaSimpleBackend, "invoke", original)  # noqa: B010  # the same
