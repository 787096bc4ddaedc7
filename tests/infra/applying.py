"""
What the program registers is made in a simulated AWS, and every request to it is judged by the program's policies.

Each actor signs with a key that is the name of its role, so one judge in front of the simulated servers sees every
call, whatever client made it: the receiver's process, obstore, the functions, an operator's commands, HealthImaging.
The test's own key may do anything.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree as ET

import attrs
import pytest
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.wait_function import WaitFunction

from adapters.entrypoints import lambdas
from adapters.entrypoints.aws import build_aws
from adapters.entrypoints.medical_imaging import Behaviour, HealthImagingStandIn
from adapters.entrypoints.medical_imaging.service_model import route
from adapters.entrypoints.simulated_aws import ACCOUNT, CREDENTIALS, SimulatedAws
from adapters.outbound.clock import SystemClock
from adapters.outbound.local.data_store import DataStoreError
from adapters.outbound.s3_objects import S3InputObjects, S3OutputObjects
from domain.identifiers import DataStoreId
from tests.infra.account import DATA_STORE, AccountMocks, FakeAccount
from tests.infra.harness import Deployed, main_program, run_program, stack_config

ECS_AGENT = "/ecs-agent"
_WAIT_SECONDS = 0.1
_SUFFIX = "-1a2b3c4"  # of physical names, as the made-up account gives them
_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/\d{8}/[^/]+/([^/]+)/aws4_request")
_ENDED = {"SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"}


# who may do what


class Denied(Exception):
    """A policy does not allow a call."""


@attrs.frozen
class Call:
    """
    One action on one resource.

    Attributes:
        facts: what conditions may ask for.

    """

    action: str
    resource: str
    facts: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Role:
    name: str
    trust: Mapping[str, Any]
    statements: list[Mapping[str, Any]] = attrs.field(factory=list)


@attrs.define
class Judge:
    """
    Evaluates the recorded policies as IAM does: allowed by the role's own, and denied by no resource's.

    Attributes:
        roles: by name.
        of_resources: statements of bucket, topic and queue policies.
        keys: which key encrypts a bucket, table or topic, by ARN.
        used: which action on which resource of its policy each role has needed.
        denied: what was refused, in words.
        outages: actions that no role can have for now, though its policy allows them.

    """

    region: str
    roles: dict[str, Role] = attrs.field(factory=dict)
    of_resources: list[Mapping[str, Any]] = attrs.field(factory=list)
    keys: dict[str, str] = attrs.field(factory=dict)
    used: set[tuple[str, str, str]] = attrs.field(factory=set)
    denied: list[str] = attrs.field(factory=list)
    outages: set[str] = attrs.field(factory=set)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def assume(self, arn: str, principal: str, **facts: str) -> str:
        """
        Take a role on and return its name, which is its access key.

        Raises:
            Denied: the role's trust policy does not let this principal.

        """
        role = self.roles[arn.rpartition("/")[2]]
        context = {"aws:SourceAccount": ACCOUNT, **{name.replace("_", ":"): value for name, value in facts.items()}}
        for statement in role.trust["Statement"]:
            principals = [one for some in statement["Principal"].values() for one in _listed(some)]
            if principal in principals and _holds(statement.get("Condition", {}), context):
                return role.name
        raise self._refusal(f"{principal} may not take on role {role.name}")

    def check(self, role_name: str, calls: Iterable[Call]) -> None:
        """
        Let calls pass.

        Raises:
            Denied: naming the action, the resource and the role.

        """
        if role_name == CREDENTIALS["AWS_ACCESS_KEY_ID"]:
            return
        for call in calls:
            for needed in (call, *self._uses_of_key(call)):
                self._check(self.roles[role_name], needed)

    def _check(self, role: Role, call: Call) -> None:
        if call.action in self.outages:
            raise Denied(f"{call.action} is out of order")
        facts = {"aws:SecureTransport": "true", "s3:TlsVersion": "1.3", **call.facts}
        words = f"role {role.name} may not {call.action} on {call.resource} {dict(call.facts) or ''}".rstrip()
        for statement in self.of_resources:
            if statement["Effect"] == "Deny" and self._applies(statement, call, facts) is not None:
                raise self._refusal(f"{words}: the resource's policy denies it")
        found = [place for statement in role.statements if (place := self._applies(statement, call, facts)) is not None]
        if not found:
            raise self._refusal(words)
        with self._lock:
            self.used.update((role.name, call.action, place) for place in found)

    def _refusal(self, words: str) -> Denied:
        with self._lock:
            self.denied.append(words)
        return Denied(f"AccessDenied: {words}")

    def _applies(self, statement: Mapping[str, Any], call: Call, facts: Mapping[str, str]) -> str | None:
        """Return the resource of a statement that a call falls under."""
        if not any(fnmatchcase(call.action, action) for action in _listed(statement["Action"])):
            return None
        if not _holds(statement.get("Condition", {}), facts):
            return None
        places = _listed(statement["Resource"])
        return next((place for place in places if fnmatchcase(call.resource, place)), None)

    def _uses_of_key(self, call: Call) -> Iterator[Call]:
        """Say what a service asks of the key that encrypts a resource, in the caller's name."""
        service, _, operation = call.action.partition(":")
        arn = call.resource if service == "sns" else call.resource.split("/index/")[0]
        key = self.keys.get(arn.split("/")[0] if service == "s3" else arn)
        if key is None or operation in {"ListBucket", "DeleteObject", "AbortMultipartUpload"}:
            return
        actions = {
            "PutObject": ["GenerateDataKey"],
            "GetObject": ["Decrypt"],
            "Publish": ["Decrypt", "GenerateDataKey"],
        }
        for action in actions.get(operation, ["Decrypt"]):
            yield Call(f"kms:{action}", key, {"kms:ViaService": f"{service}.{self.region}.amazonaws.com"})

    def granted(self) -> set[tuple[str, str, str]]:
        """Return every action on every resource of every role's policy."""
        return {
            (role.name, action, place)
            for role in self.roles.values()
            for statement in role.statements
            for action in _listed(statement["Action"])
            for place in _listed(statement["Resource"])
        }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _holds(conditions: Mapping[str, Mapping[str, Any]], facts: Mapping[str, str]) -> bool:
    """Evaluate a condition block; an operator that nobody has thought about is an error."""
    operators: dict[str, Callable[[str, str], bool]] = {
        "ArnLike": fnmatchcase,
        "Bool": lambda actual, wanted: actual == wanted,
        "NumericLessThan": lambda actual, wanted: float(actual) < float(wanted),
        "StringEquals": lambda actual, wanted: actual == wanted,
        "StringLike": fnmatchcase,
    }
    return all(
        name in facts and any(operators[operator](facts[name], wanted) for wanted in _listed(values))
        for operator, keys in conditions.items()
        for name, values in keys.items()
    )


# what a request asks for


def calls_of(environ: Mapping[str, Any], service: str, body: bytes, region: str) -> list[Call]:
    """Return the actions that a request needs; one that is not known is an error."""
    if service == "s3":
        return _s3_calls(environ, body)
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    operation = target.rpartition(".")[2]
    if target:
        asked = json.loads(body or b"{}")
    else:
        asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        operation = asked["Action"]
    match service, operation:
        case "dynamodb", _:
            return _dynamodb_calls(operation, asked, f"arn:aws:dynamodb:{region}:{ACCOUNT}:table/")
        case "states", "StartExecution":
            return [Call("states:StartExecution", asked["stateMachineArn"])]
        case "states", "DescribeExecution":
            return [Call("states:DescribeExecution", asked["executionArn"])]
        case "sns", "Publish":
            return [Call("sns:Publish", asked["TopicArn"])]
    raise NotImplementedError(f"{service} {operation}: which permission does it need?")


def _s3_calls(environ: Mapping[str, Any], body: bytes) -> list[Call]:
    method, query = environ["REQUEST_METHOD"], parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    bucket, _, key = unquote(environ["PATH_INFO"]).lstrip("/").partition("/")
    here = f"arn:aws:s3:::{bucket}/{key}"
    if "versionId" in query or "HTTP_X_AMZ_TAGGING" in environ or "HTTP_X_AMZ_ACL" in environ:
        raise NotImplementedError(
            f"S3 {method} {sorted(query)}: versions, tags and access lists need actions of their own"
        )
    if not key:
        if method == "POST" and "delete" in query:
            found = ET.fromstring(body).iterfind(".//{*}Object/{*}Key")
            return [Call("s3:DeleteObject", f"arn:aws:s3:::{bucket}/{one.text}") for one in found]
        if method in {"GET", "HEAD"} and set(query) <= _LISTING:
            return [Call("s3:ListBucket", f"arn:aws:s3:::{bucket}")]
        raise NotImplementedError(f"S3 {method} of a bucket with {sorted(query)}")
    match method:
        case "GET" | "HEAD" if "uploadId" not in query:
            return [Call("s3:GetObject", here)]
        case "PUT" | "POST":
            copied = unquote(environ.get("HTTP_X_AMZ_COPY_SOURCE", "")).lstrip("/")
            source = [Call("s3:GetObject", f"arn:aws:s3:::{copied}")] if copied else []
            return [*source, Call("s3:PutObject", here)]
        case "DELETE":
            return [Call("s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", here)]
    raise NotImplementedError(f"S3 {method} of an object with {sorted(query)}")


_LISTING = {"list-type", "prefix", "delimiter", "continuation-token", "encoding-type", "max-keys", "start-after"}


def _dynamodb_calls(operation: str, asked: Mapping[str, Any], tables: str) -> list[Call]:
    if operation in {"BatchGetItem", "BatchWriteItem"}:
        return [Call(f"dynamodb:{operation}", tables + name) for name in asked["RequestItems"]]
    if operation == "TransactWriteItems":
        names = {
            "ConditionCheck": "ConditionCheckItem",
            "Put": "PutItem",
            "Update": "UpdateItem",
            "Delete": "DeleteItem",
        }
        return [
            Call(f"dynamodb:{names[kind]}", tables + item["TableName"])
            for one in asked["TransactItems"]
            for kind, item in one.items()
        ]
    if operation in {"GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "Scan"}:
        index = f"/index/{asked['IndexName']}" if "IndexName" in asked else ""
        return [Call(f"dynamodb:{operation}", f"{tables}{asked['TableName']}{index}")]
    raise NotImplementedError(f"dynamodb {operation}")


# the simulated AWS


class JudgedAws(SimulatedAws):
    """A simulated AWS in front of which a judge sits."""

    def __init__(self, region: str, judge: Judge) -> None:
        super().__init__(region=region)
        self._judge = judge
        self._unjudged = self._application
        self._application = self._judged  # type: ignore[assignment]  # any WSGI application will do
        self.protection: Callable[[bool], None] = lambda _: None

    def _invoke(self, name: str, event: Mapping[str, Any]) -> Any:
        return self.lambda_function(name, event)

    def _judged(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(ECS_AGENT):
            return self._protect(environ, start_response)
        signed = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
        assert signed is not None, environ["PATH_INFO"]
        role, service = signed.groups()
        if role == CREDENTIALS["AWS_ACCESS_KEY_ID"]:
            return self._unjudged(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        try:
            self._judge.check(role, calls_of(environ, service, body, self.region))
        except Denied as error:
            return _refuse(service, str(error), start_response)
        return self._unjudged(environ, start_response)

    def _protect(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer as the agent of ECS does, which asks ECS in the name of the task's role."""
        assert (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("PUT", f"{ECS_AGENT}/task-protection/v1/state")
        asked = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        try:
            self.protection(asked["ProtectionEnabled"])
        except Denied as error:
            start_response("400 Bad Request", [("Content-Type", "application/json")])
            return [json.dumps({"error": {"Code": "AccessDeniedException", "Message": str(error)}}).encode()]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"protection": asked}).encode()]


def _refuse(service: str, words: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
    headers = [("x-amzn-RequestId", "denied"), ("x-amz-request-id", "denied")]
    if service in {"s3", "sns"}:
        start_response("403 Forbidden", [*headers, ("Content-Type", "application/xml")])
        error = f"<Error><Code>AccessDenied</Code><Message>{words}</Message></Error>"
        return [(error if service == "s3" else f"<ErrorResponse>{error}</ErrorResponse>").encode()]
    start_response("400 Bad Request", [*headers, ("Content-Type", "application/x-amz-json-1.0")])
    return [json.dumps({"__type": "AccessDeniedException", "message": words}).encode()]


class AccessDeniedException(DataStoreError):
    """As the data store tells of it."""

    http_status = 403


def judge_data_store(stand_in: HealthImagingStandIn, judge: Judge, region: str) -> None:
    """Put the judge in front of the stand-in for HealthImaging."""
    base: Any = stand_in._server.RequestHandlerClass

    class Judged(base):
        def _operate(self, path: str, query: Mapping[str, str], body: bytes) -> Any:
            signed = _CREDENTIAL.search(self.headers["Authorization"])
            assert signed is not None
            operation, labels = route(self.command, path)
            arn = f"arn:aws:medical-imaging:{region}:{ACCOUNT}:datastore/{labels['datastoreId']}"
            calls = [Call(f"medical-imaging:{operation.name}", arn)]
            service = "medical-imaging.amazonaws.com"
            try:
                if operation.name == "StartDICOMImportJob":
                    role = json.loads(body)["dataAccessRoleArn"]
                    calls.append(Call("iam:PassRole", role, {"iam:PassedToService": service}))
                    judge.assume(role, service, aws_SourceArn=arn)
                judge.check(signed[1], calls)
            except Denied as error:
                raise AccessDeniedException(str(error)) from error
            return super()._operate(path, query, body)

    stand_in._server.RequestHandlerClass = Judged


# the mocks


class ApplyingMocks(AccountMocks):
    """Makes what the program registers, from its inputs alone; types without a maker are only recorded."""

    def __init__(self, account: FakeAccount, aws: SimulatedAws, judge: Judge) -> None:
        super().__init__(account)
        self._aws = aws
        self._judge = judge
        self.made: set[str] = set()
        self._lock = threading.Lock()

    def answer(self, typ: str, name: str, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        identity, told = super().answer(typ, name, inputs)
        make = _MAKERS.get(typ)
        if make is not None:
            with self._lock:
                self.made.add(typ)
                told = {**told, **(make(self, told, inputs) or {})}
        return identity, told

    def _client(self, service: str) -> Any:
        return self._aws.client(service)

    def _bucket(self, told: dict[str, Any], _inputs: dict[str, Any]) -> None:
        place = {"CreateBucketConfiguration": {"LocationConstraint": self._aws.region}}
        self._client("s3").create_bucket(Bucket=told["bucket"], **({} if self._aws.region == "us-east-1" else place))

    def _bucket_versioning(self, _told: dict[str, Any], inputs: dict[str, Any]) -> None:
        self._client("s3").put_bucket_versioning(
            Bucket=inputs["bucket"], VersioningConfiguration=_pascal(inputs["versioningConfiguration"])
        )

    def _bucket_encryption(self, _told: dict[str, Any], inputs: dict[str, Any]) -> None:
        (rule,) = inputs["rules"]
        default = rule["applyServerSideEncryptionByDefault"]
        key = default.get("kmsMasterKeyId")
        self._client("s3").put_bucket_encryption(
            Bucket=inputs["bucket"],
            ServerSideEncryptionConfiguration={
                "Rules": [
                    {
                        "ApplyServerSideEncryptionByDefault": {
                            "SSEAlgorithm": default["sseAlgorithm"],
                            **({"KMSMasterKeyID": key} if key else {}),
                        },
                        "BucketKeyEnabled": rule["bucketKeyEnabled"],
                    }
                ]
            },
        )
        if key:
            self._judge.keys[f"arn:aws:s3:::{inputs['bucket']}"] = key

    def _public_access(self, _told: dict[str, Any], inputs: dict[str, Any]) -> None:
        blocked = _pascal({name: value for name, value in inputs.items() if name != "bucket"})
        self._client("s3").put_public_access_block(Bucket=inputs["bucket"], PublicAccessBlockConfiguration=blocked)

    def _resource_policy(self, _told: dict[str, Any], inputs: dict[str, Any]) -> None:
        self._judge.of_resources += json.loads(inputs["policy"])["Statement"]

    def _table(self, told: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        dynamodb = self._client("dynamodb")
        encryption = inputs["serverSideEncryption"]
        key = encryption.get("kmsKeyArn")
        made = dynamodb.create_table(
            TableName=told["name"],
            AttributeDefinitions=[
                {"AttributeName": a["name"], "AttributeType": a["type"]} for a in inputs["attributes"]
            ],
            KeySchema=[
                {"AttributeName": inputs[attribute], "KeyType": kind}
                for attribute, kind in (("hashKey", "HASH"), ("rangeKey", "RANGE"))
            ],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": index["name"],
                    "KeySchema": [_pascal(part) for part in index["keySchemas"]],
                    "Projection": {"ProjectionType": index["projectionType"]},
                }
                for index in inputs["globalSecondaryIndexes"]
            ],
            BillingMode=inputs["billingMode"],
            DeletionProtectionEnabled=inputs["deletionProtectionEnabled"],
            SSESpecification={
                "Enabled": encryption["enabled"],
                **({"SSEType": "KMS", "KMSMasterKeyId": key} if key else {}),
            },
        )
        arn: str = made["TableDescription"]["TableArn"]
        dynamodb.update_continuous_backups(
            TableName=told["name"],
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": inputs["pointInTimeRecovery"]["enabled"]},
        )
        if key:
            self._judge.keys[arn] = key
        return {"arn": arn}

    def _key(self, _told: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        made = self._client("kms").create_key(Policy=inputs["policy"], Description=inputs["description"])
        return {"arn": made["KeyMetadata"]["Arn"]}

    def _topic(self, told: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        attributes = {"KmsMasterKeyId": inputs["kmsMasterKeyId"], "DisplayName": inputs["displayName"]}
        made = self._client("sns").create_topic(Name=told["arn"].rpartition(":")[2], Attributes=attributes)
        self._judge.keys[made["TopicArn"]] = inputs["kmsMasterKeyId"]
        return {"arn": made["TopicArn"]}

    def _queue(self, told: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        attributes = {"MessageRetentionPeriod": str(inputs["messageRetentionSeconds"])}
        return {"url": self._client("sqs").create_queue(QueueName=told["name"], Attributes=attributes)["QueueUrl"]}

    def _log_group(self, told: dict[str, Any], inputs: dict[str, Any]) -> None:
        self._client("logs").create_log_group(logGroupName=told["name"])
        self._client("logs").put_retention_policy(logGroupName=told["name"], retentionInDays=inputs["retentionInDays"])

    def _role(self, told: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        made = self._client("iam").create_role(
            RoleName=told["name"],
            AssumeRolePolicyDocument=inputs["assumeRolePolicy"],
            Description=inputs["description"],
        )
        self._judge.roles[told["name"]] = Role(told["name"], json.loads(inputs["assumeRolePolicy"]))
        return {"arn": made["Role"]["Arn"]}

    def _role_policy(self, _told: dict[str, Any], inputs: dict[str, Any]) -> None:
        role = inputs["role"]
        self._client("iam").put_role_policy(RoleName=role, PolicyName="own", PolicyDocument=inputs["policy"])
        self._judge.roles[role].statements.extend(json.loads(inputs["policy"])["Statement"])

    def _function(self, told: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        made = self._client("lambda").create_function(
            FunctionName=told["name"],
            Description=inputs["description"],
            PackageType=inputs["packageType"],
            Code={"ImageUri": inputs["imageUri"]},
            ImageConfig={
                "EntryPoint": inputs["imageConfig"]["entryPoints"],
                "Command": inputs["imageConfig"]["commands"],
            },
            Architectures=inputs["architectures"],
            Role=inputs["role"],
            Timeout=inputs["timeout"],
            MemorySize=inputs["memorySize"],
            Environment={"Variables": inputs["environment"]["variables"]},
        )
        return {"arn": made["FunctionArn"]}

    def _event_config(self, _told: dict[str, Any], inputs: dict[str, Any]) -> None:
        self._client("lambda").put_function_event_invoke_config(
            FunctionName=inputs["functionName"],
            MaximumRetryAttempts=inputs["maximumRetryAttempts"],
            MaximumEventAgeInSeconds=inputs["maximumEventAgeInSeconds"],
            DestinationConfig=_pascal(inputs["destinationConfig"]),
        )

    def _state_machine(self, told: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        made = self._client("stepfunctions").create_state_machine(
            name=inputs["name"], definition=inputs["definition"], roleArn=inputs["roleArn"], type=inputs["type"]
        )
        assert made["stateMachineArn"] == told["arn"], "the functions were told another ARN"
        return {"arn": made["stateMachineArn"]}

    def _schedule(self, told: dict[str, Any], inputs: dict[str, Any]) -> None:
        self._client("scheduler").create_schedule(
            Name=inputs.get("name", inputs["description"].replace(" ", "-")[:60].replace(",", "")),
            ScheduleExpression=inputs["scheduleExpression"],
            FlexibleTimeWindow=_pascal(inputs["flexibleTimeWindow"]),
            Target=_pascal(inputs["target"]),
        )


_MAKERS: Mapping[str, Callable[[ApplyingMocks, dict[str, Any], dict[str, Any]], dict[str, Any] | None]] = {
    "aws:cloudwatch/logGroup:LogGroup": ApplyingMocks._log_group,
    "aws:dynamodb/table:Table": ApplyingMocks._table,
    "aws:iam/role:Role": ApplyingMocks._role,
    "aws:iam/rolePolicy:RolePolicy": ApplyingMocks._role_policy,
    "aws:kms/key:Key": ApplyingMocks._key,
    "aws:lambda/function:Function": ApplyingMocks._function,
    "aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig": ApplyingMocks._event_config,
    "aws:s3/bucket:Bucket": ApplyingMocks._bucket,
    "aws:s3/bucketPolicy:BucketPolicy": ApplyingMocks._resource_policy,
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": ApplyingMocks._public_access,
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": (
        ApplyingMocks._bucket_encryption
    ),
    "aws:s3/bucketVersioning:BucketVersioning": ApplyingMocks._bucket_versioning,
    "aws:scheduler/schedule:Schedule": ApplyingMocks._schedule,
    "aws:sfn/stateMachine:StateMachine": ApplyingMocks._state_machine,
    "aws:sns/topic:Topic": ApplyingMocks._topic,
    "aws:sns/topicPolicy:TopicPolicy": ApplyingMocks._resource_policy,
    "aws:sqs/queue:Queue": ApplyingMocks._queue,
    "aws:sqs/queuePolicy:QueuePolicy": ApplyingMocks._resource_policy,
}


def _pascal(value: Any) -> Any:
    """Return the provider's words as the service has them."""
    if isinstance(value, dict):
        return {name[0].upper() + name[1:]: _pascal(item) for name, item in value.items()}
    return [_pascal(item) for item in value] if isinstance(value, list) else value


# the applied stack


_function_now: ContextVar[str] = ContextVar("function")
_build_handlers: Any = getattr(lambdas._handlers, "__wrapped__")  # noqa: B009  # beneath the cache


@attrs.define
class Applied:
    """
    A stack that the program has made, with HealthImaging's stand-in behind its data store.

    Attributes:
        deployed: what the program registered and told.
        called: the functions that were carried out.
        failures: what went wrong in them.
        instead: what is called the next time instead of a function.

    """

    stack: str
    region: str
    aws: JudgedAws
    judge: Judge
    mocks: ApplyingMocks
    deployed: Deployed
    stand_in: HealthImagingStandIn
    failures: list[str] = attrs.field(factory=list)
    called: list[str] = attrs.field(factory=list)
    instead: dict[str, Callable[..., Any]] = attrs.field(factory=dict)
    _handlers: dict[str, lambdas.Handlers] = attrs.field(factory=dict)
    _opening: threading.Lock = attrs.field(factory=threading.Lock)

    @property
    def container(self) -> dict[str, Any]:
        """The receiver's container as its task definition has it."""
        (container,) = json.loads(self.deployed.one("TaskDefinition").inputs["containerDefinitions"])
        assert container["secrets"] == []
        return dict(container)

    @property
    def endpoints(self) -> dict[str, str]:
        """What stands in for AWS's own addresses."""
        return {"STORESCP_ENDPOINT_URL": self.aws.url, "STORESCP_HEALTH_IMAGING_ENDPOINT_URL": self.stand_in.url}

    def receiver_environment(self) -> dict[str, str]:
        """Return the container's environment, with what ECS adds to it."""
        key = self.judge.assume(self.deployed.one("TaskDefinition").inputs["taskRoleArn"], "ecs-tasks.amazonaws.com")
        plain = {pair["name"]: pair["value"] for pair in self.container["environment"]}
        return {**plain, **self.endpoints, **signing(key), "ECS_AGENT_URI": f"{self.aws.url}{ECS_AGENT}"}

    def operator_environment(self) -> dict[str, str]:
        """Return what a person has beside the settings file."""
        role = self.deployed.one("iam/role:Role", "-operator")
        (statement,) = role.document("assumeRolePolicy")["Statement"]
        (person, *_) = statement["Principal"]["AWS"]
        return {**self.endpoints, **signing(self.judge.assume(self.deployed.outputs["operatorRoleArn"], person))}

    def function(self, name: str) -> dict[str, Any]:
        """Return a function by what it does, such as list_batch, or by its physical name."""
        logical = name.removesuffix(_SUFFIX).removeprefix(f"{self.stack}-").replace("_", "-")
        return self.deployed.one("function:Function", f"{self.stack}-{logical}").inputs

    def invoke(self, name: str, event: Mapping[str, Any]) -> Any:
        """Carry out a function as Lambda does: its entry point, its environment, its role."""
        made = self.function(name)
        (command,) = made["imageConfig"]["commands"]
        module, _, attribute = command.rpartition(".")
        with self._opening:
            if attribute not in self._handlers:
                key = self.judge.assume(made["role"], "lambda.amazonaws.com")
                environment = {**made["environment"]["variables"], **self.endpoints, **signing(key)}
                with mock.patch.dict(os.environ, environment, clear=True):
                    self._handlers[attribute] = _build_handlers()
        token = _function_now.set(attribute)
        self.called.append(attribute)
        try:
            function = getattr(importlib.import_module(module), attribute)
            return self.instead.pop(attribute, function)(dict(event), None)
        except Exception as error:
            self.failures.append(f"{attribute}: {type(error).__name__}: {error}")
            raise
        finally:
            _function_now.reset(token)

    def handlers(self) -> lambdas.Handlers:
        """Return what the function that is carried out in this thread was built with."""
        return self._handlers[_function_now.get()]

    def step(self, name: str, event: Mapping[str, Any]) -> Any:
        """Carry out a function for the state machine."""
        role = self.judge.assume(self.deployed.one("StateMachine").inputs["roleArn"], "states.amazonaws.com")
        arn = f"arn:aws:lambda:{self.region}:{ACCOUNT}:function:{name}"
        self.judge.check(role, [Call("lambda:InvokeFunction", arn)])
        return self.invoke(name, event)

    def wake(self, name: str) -> Any:
        """Do what the schedule of a function does."""
        target = self.deployed.one("Schedule", f"-{name}").inputs["target"]
        role = self.judge.assume(target["roleArn"], "scheduler.amazonaws.com")
        self.judge.check(role, [Call("lambda:InvokeFunction", target["arn"])])
        return self.invoke(target["arn"].rpartition(":")[2], json.loads(target["input"]))

    def protect(self, _is_enabled: bool) -> None:
        """Change the task's protection, as the agent of ECS does with the task's role."""
        task = self.deployed.one("TaskDefinition").inputs["taskRoleArn"].rpartition("/")[2]
        cluster = f"{self.deployed.one('ecs/cluster:Cluster').name}{_SUFFIX}"
        arn = f"arn:aws:ecs:{self.region}:{ACCOUNT}:task/{cluster}/0123456789abcdef"
        self.judge.check(task, [Call("ecs:UpdateTaskProtection", arn)])

    def executions(self) -> dict[str, str]:
        """Return the status of each execution by its name, once none runs."""
        machines, arn = self.aws.client("stepfunctions"), self.deployed.outputs["stateMachineArn"]
        deadline = time.monotonic() + 120.0
        while True:
            found = machines.list_executions(stateMachineArn=arn)["executions"]
            if all(execution["status"] in _ENDED for execution in found):
                return {execution["name"]: execution["status"] for execution in found}
            assert time.monotonic() < deadline, [found, self.called, self.failures, self.judge.denied]
            time.sleep(0.05)

    def place(self, resource: str) -> str:
        """Return a resource of a policy without what differs from stack to stack."""
        if ":key/" in resource:
            return "key"
        short = (
            resource.split(":", 5)[-1].replace(_SUFFIX, "").replace(f"{self.stack}-", "").replace(self.stack, "stack")
        )
        return short.replace(DATA_STORE, "ours")

    def actor(self, role: str) -> str:
        """Return whose role it is."""
        return role.removesuffix(_SUFFIX).removeprefix(f"{self.stack}-")


def signing(key: str) -> dict[str, str]:
    """Return the credentials of a role."""
    return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "testing"}


@contextmanager
def applied(stack: str, folder: Path) -> Iterator[Applied]:
    """Run the program of a committed stack with applying mocks, and keep what it made while the context lasts."""
    config = stack_config(stack)
    region = config["aws:region"]
    judge = Judge(region)
    aws = JudgedAws(region, judge)
    profiles: list[Any] = []

    def remembering(*arguments: Any) -> Any:
        profiles.append(build_aws(*arguments))
        return profiles[-1]

    with ExitStack() as exits, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(WaitFunction, "_wait_interval", lambda *_, **__: time.sleep(_WAIT_SECONDS))
        monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=lambda _seconds: None))
        aws.start()
        exits.callback(aws.stop)
        mocks = ApplyingMocks(FakeAccount(region=region), aws, judge)
        deployed = run_program(main_program, mocks, config, stack=stack)
        settings = deployed.one("function:Function", "-start-import").inputs["environment"]["variables"]
        role = judge.assume(
            settings["STORESCP_DATA_ACCESS_ROLE_ARN"],
            "medical-imaging.amazonaws.com",
            aws_SourceArn=f"arn:aws:medical-imaging:{region}:{ACCOUNT}:datastore/{DATA_STORE}",
        )
        s3 = _client_of(aws, role)
        exits.callback(s3.close)
        stand_in = HealthImagingStandIn(
            folder / "datastore",
            DataStoreId(DATA_STORE),
            S3InputObjects(client=s3, bucket=deployed.outputs["stagingBucket"]),
            S3OutputObjects(client=s3, bucket=deployed.outputs["resultsBucket"]),
            Behaviour(clock=SystemClock()),
            region=region,
        )
        judge_data_store(stand_in, judge, region)
        exits.enter_context(stand_in)
        made = Applied(stack, region, aws, judge, mocks, deployed, stand_in)
        monkeypatch.setattr(lambdas, "build_aws", remembering)
        monkeypatch.setattr(lambdas, "_handlers", made.handlers)
        aws.lambda_function = made.step
        aws.protection = made.protect
        exits.callback(lambda: [profile.clients.close() for profile in profiles])
        exits.callback(aws.stop_executions)
        yield made


def _client_of(aws: SimulatedAws, role: str) -> Any:
    import boto3
    from botocore.config import Config

    session = boto3.Session(aws_access_key_id=role, aws_secret_access_key="testing", region_name=aws.region)
    return session.client("s3", endpoint_url=aws.url, config=Config(s3={"addressing_style": "path"}))


def unused(made: Applied) -> set[tuple[str, str, str]]:
    """Return what each actor may do and has not done, without what differs from stack to stack."""
    left: Sequence[tuple[str, str, str]] = sorted(made.judge.granted() - made.judge.used)
    return {(made.actor(role), action, made.place(resource)) for role, action, resource in left}
