"""
What each actor may do: narrow grants, one role an actor, and the words that AWS wants them in.

An actor is a process of ours or a service that acts for us.
What it may do follows from the use cases it runs and the ports they call; nothing is granted in advance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import attrs
import pulumi

from domain.staging import BATCHES, SUPERSEDED

_VERSION = "2012-10-17"


@attrs.frozen(kw_only=True)
class Grant:
    """
    Actions on resources.

    Attributes:
        reason: why a resource is `*`, and so required where one is.

    """

    actions: Sequence[str]
    resources: Sequence[pulumi.Input[str]]
    conditions: Mapping[str, Any] = attrs.field(factory=dict)
    reason: str = ""

    def __attrs_post_init__(self) -> None:
        """Refuse a grant on everything that does not say why."""
        if "*" in [resource for resource in self.resources if isinstance(resource, str)] and not self.reason:
            raise ValueError(f"{', '.join(self.actions)} on * needs a reason")
        if any("*" in action for action in self.actions):
            raise ValueError(f"{', '.join(self.actions)}: name each action")

    def statement(self) -> dict[str, Any]:
        """Return it as IAM writes it."""
        statement: dict[str, Any] = {
            "Effect": "Allow",
            "Action": list(self.actions),
            "Resource": list(self.resources),
        }
        return {**statement, "Condition": dict(self.conditions)} if self.conditions else statement


def document(grants: Iterable[Grant]) -> pulumi.Output[str]:
    """Return the policy document of some grants."""
    return pulumi.Output.json_dumps({"Version": _VERSION, "Statement": [grant.statement() for grant in grants]})


def trust(service: str, **conditions: Mapping[str, str]) -> str:
    """Return the document that lets a service take on a role, under conditions by their operator."""
    statement: dict[str, Any] = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    if conditions:
        statement["Condition"] = conditions
    return json.dumps({"Version": _VERSION, "Statement": [statement]})


def trust_principals(arns: Sequence[str]) -> str:
    """Return the document that lets people take on a role."""
    statement = {"Effect": "Allow", "Principal": {"AWS": list(arns)}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": _VERSION, "Statement": [statement]})


def all_streams(log_group_arn: str) -> str:
    """Return the resource that stands for the streams of a log group."""
    return f"{log_group_arn}:*"


class May(StrEnum):
    """Something an actor may need to do, in the words of the ports (domain/ports.py)."""

    READ_RECORDS = "read the record of a batch or study"
    READ_ENTRIES = "read what a batch or study has"
    READ_NEWEST = "read the newest records of instances"
    SEARCH_RECORDS = "find records by state and time"
    WRITE_RECORDS = "write the record of a batch, if nobody else has"
    CLEAR_BATCH = "write it, if no other batch has started meanwhile"
    WRITE_ENTRIES = "write what a batch or study has"
    FORGET_COMMITMENTS = "delete storage commitment requests that were answered long ago"
    STAGE = "put objects under a batch"
    LIST_STAGE = "list the staging bucket"
    READ_STAGE = "read staged objects and their facts"
    DISCARD_STAGED = "give imported objects up"
    PUT_ASIDE = "move objects that a newer copy was taken instead of"
    REHOUSE = "move objects to another batch"
    READ_RESULTS = "list and read the results of import jobs"
    START_IMPORT = "start an import job under the data access role"
    DESCRIBE_IMPORT = "look at an import job"
    START_WORKFLOW = "start the run of a batch"
    WATCH_WORKFLOW = "look at the run of a batch"
    TELL_OPERATOR = "publish a notification"


@attrs.frozen(kw_only=True)
class Places:
    """Where everything is, as ARNs; the key only where the hospital brings its own."""

    staging_bucket: pulumi.Input[str]
    results_bucket: pulumi.Input[str]
    table: pulumi.Input[str]
    data_store: pulumi.Input[str]
    data_access_role: pulumi.Input[str]
    state_machine: pulumi.Input[str]
    topic: pulumi.Input[str]
    topic_key: pulumi.Input[str]
    kms_key: str


def grants_for(abilities: Iterable[May], places: Places) -> list[Grant]:
    """Return the grants that stand for some abilities, the use of the hospital's key included."""
    wanted = set(abilities)
    grants = [grant for ability in May if ability in wanted for grant in _GRANTS[ability](places)]
    if places.kms_key and wanted & _USES_KEY:
        grants.append(
            Grant(
                actions=("kms:Decrypt", "kms:GenerateDataKey"),
                resources=(places.kms_key,),
                conditions={"StringLike": {"kms:ViaService": ["s3.*.amazonaws.com", "dynamodb.*.amazonaws.com"]}},
            )
        )
    return grants


def _below(arn: pulumi.Input[str], path: str) -> pulumi.Output[str]:
    return pulumi.Output.format("{0}/{1}", arn, path)


def _staged(places: Places) -> pulumi.Output[str]:
    return _below(places.staging_bucket, f"{BATCHES}*")


def _moved(places: Places, target: str) -> list[Grant]:
    return [
        Grant(actions=("s3:DeleteObject", "s3:GetObject"), resources=(_staged(places),)),
        # a copy of more than 5 GB is made in parts
        Grant(
            actions=("s3:AbortMultipartUpload", "s3:PutObject"),
            resources=(_below(places.staging_bucket, f"{target}*"),),
        ),
    ]


def _executions(places: Places) -> pulumi.Output[str]:
    arn = pulumi.Output.from_input(places.state_machine)
    return arn.apply(lambda machine: machine.replace(":stateMachine:", ":execution:") + ":*")


_USES_KEY = {
    May.READ_RECORDS,
    May.READ_ENTRIES,
    May.READ_NEWEST,
    May.SEARCH_RECORDS,
    May.WRITE_RECORDS,
    May.CLEAR_BATCH,
    May.WRITE_ENTRIES,
    May.FORGET_COMMITMENTS,
    May.STAGE,
    May.READ_STAGE,
    May.PUT_ASIDE,
    May.REHOUSE,
    May.READ_RESULTS,
}

_GRANTS: Mapping[May, Callable[[Places], Sequence[Grant]]] = {
    May.READ_RECORDS: lambda at: [Grant(actions=("dynamodb:GetItem",), resources=(at.table,))],
    May.READ_ENTRIES: lambda at: [Grant(actions=("dynamodb:Query",), resources=(at.table,))],
    May.READ_NEWEST: lambda at: [Grant(actions=("dynamodb:BatchGetItem",), resources=(at.table,))],
    # the index has keys only: what it names is read in the table
    May.SEARCH_RECORDS: lambda at: [
        Grant(actions=("dynamodb:Query",), resources=(_below(at.table, "index/*"),)),
        Grant(actions=("dynamodb:BatchGetItem",), resources=(at.table,)),
    ],
    May.WRITE_RECORDS: lambda at: [Grant(actions=("dynamodb:PutItem",), resources=(at.table,))],
    May.CLEAR_BATCH: lambda at: [
        Grant(actions=("dynamodb:ConditionCheckItem", "dynamodb:PutItem"), resources=(at.table,))
    ],
    May.WRITE_ENTRIES: lambda at: [
        Grant(
            actions=("dynamodb:BatchWriteItem", "dynamodb:PutItem", "dynamodb:UpdateItem"),
            resources=(at.table,),
        )
    ],
    May.FORGET_COMMITMENTS: lambda at: [Grant(actions=("dynamodb:BatchWriteItem",), resources=(at.table,))],
    May.STAGE: lambda at: [
        Grant(
            actions=("s3:AbortMultipartUpload", "s3:PutObject"),
            resources=(_staged(at),),
        )
    ],
    May.LIST_STAGE: lambda at: [Grant(actions=("s3:ListBucket",), resources=(at.staging_bucket,))],
    May.READ_STAGE: lambda at: [Grant(actions=("s3:GetObject",), resources=(_staged(at),))],
    May.DISCARD_STAGED: lambda at: [Grant(actions=("s3:DeleteObject",), resources=(_staged(at),))],
    May.PUT_ASIDE: lambda at: _moved(at, SUPERSEDED),
    May.REHOUSE: lambda at: _moved(at, BATCHES),
    May.READ_RESULTS: lambda at: [
        Grant(actions=("s3:ListBucket",), resources=(at.results_bucket,)),
        Grant(actions=("s3:GetObject",), resources=(_below(at.results_bucket, "*"),)),
    ],
    May.START_IMPORT: lambda at: [
        Grant(
            actions=("medical-imaging:ListDICOMImportJobs", "medical-imaging:StartDICOMImportJob"),
            resources=(at.data_store,),
        ),
        Grant(
            actions=("iam:PassRole",),
            resources=(at.data_access_role,),
            conditions={"StringEquals": {"iam:PassedToService": "medical-imaging.amazonaws.com"}},
        ),
    ],
    May.DESCRIBE_IMPORT: lambda at: [Grant(actions=("medical-imaging:GetDICOMImportJob",), resources=(at.data_store,))],
    May.START_WORKFLOW: lambda at: [Grant(actions=("states:StartExecution",), resources=(at.state_machine,))],
    May.WATCH_WORKFLOW: lambda at: [Grant(actions=("states:DescribeExecution",), resources=(_executions(at),))],
    May.TELL_OPERATOR: lambda at: [
        Grant(actions=("sns:Publish",), resources=(at.topic,)),
        Grant(actions=("kms:Decrypt", "kms:GenerateDataKey"), resources=(at.topic_key,)),
    ],
}

_RECONCILES = frozenset(
    {
        May.READ_RECORDS,
        May.READ_ENTRIES,
        May.READ_NEWEST,
        May.WRITE_RECORDS,
        May.WRITE_ENTRIES,
        May.LIST_STAGE,
        May.READ_STAGE,
        May.DISCARD_STAGED,
        May.PUT_ASIDE,
        May.REHOUSE,
        May.READ_RESULTS,
        May.START_WORKFLOW,
    }
)
_RECOVERS = frozenset({May.SEARCH_RECORDS, May.WRITE_RECORDS, May.START_WORKFLOW, May.WATCH_WORKFLOW})

ACTORS: Mapping[str, frozenset[May]] = {
    "receiver": frozenset(
        {
            May.READ_RECORDS,
            May.READ_ENTRIES,
            May.READ_NEWEST,
            May.SEARCH_RECORDS,
            May.WRITE_RECORDS,
            May.FORGET_COMMITMENTS,
            May.STAGE,
            May.LIST_STAGE,
            May.READ_STAGE,
            May.START_WORKFLOW,
        }
    ),
    "list_batch": frozenset(
        {
            May.READ_RECORDS,
            May.READ_ENTRIES,
            May.READ_NEWEST,
            May.WRITE_RECORDS,
            May.CLEAR_BATCH,
            May.WRITE_ENTRIES,
            May.LIST_STAGE,
            May.READ_STAGE,
            May.DISCARD_STAGED,
            May.PUT_ASIDE,
            May.DESCRIBE_IMPORT,
            May.READ_RESULTS,
        }
    ),
    "start_import": frozenset({May.READ_RECORDS, May.WRITE_RECORDS, May.START_IMPORT}),
    "follow_import": frozenset({May.READ_RECORDS, May.WRITE_RECORDS, May.DESCRIBE_IMPORT}),
    # rehouses and reads results as reconciling does
    "record_results": _RECONCILES | {May.DESCRIBE_IMPORT},
    "fail_batch": frozenset({May.READ_RECORDS, May.WRITE_RECORDS}),
    "recover": _RECOVERS,
    "reconcile": _RECONCILES,
    "notify": frozenset({May.READ_RECORDS, May.WRITE_RECORDS, May.READ_ENTRIES, May.TELL_OPERATOR}),
    # status, study, batch, failures; retry, recover and reconcile by hand
    "operator": _RECONCILES | _RECOVERS,
}
"""What each process of ours may do, and nothing else; a test lists the actions this comes to."""
