"""What every actor may do: all of it is listed here, so that a wider policy has to change this file too."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.policies import Grant
from tests.infra.harness import Deployed

ENTRIES = {"dynamodb:BatchGetItem", "dynamodb:BatchWriteItem", "dynamodb:Query", "dynamodb:UpdateItem"}
RECORDS = {"dynamodb:GetItem", "dynamodb:PutItem"}
TABLE = RECORDS | ENTRIES
LOG = {"logs:CreateLogStream", "logs:PutLogEvents"}
TRACE = {"xray:PutTelemetryRecords", "xray:PutTraceSegments"}
FUNCTION = LOG | TRACE
KEY = {"kms:Decrypt", "kms:GenerateDataKey"}
UPLOAD = {"s3:AbortMultipartUpload", "s3:PutObject"}
EXPECTED = {
    "receiver": RECORDS
    | UPLOAD
    | {"dynamodb:BatchGetItem", "dynamodb:BatchWriteItem", "dynamodb:Query"}
    | {"s3:GetObject", "s3:ListBucket", "states:StartExecution"}
    | {"ecs:GetTaskProtection", "ecs:UpdateTaskProtection"},
    "execution": LOG
    | {"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetAuthorizationToken"}
    | {"ecr:GetDownloadUrlForLayer"},
    "list-batch": FUNCTION
    | TABLE
    | UPLOAD
    | {"dynamodb:ConditionCheckItem"}
    | {"s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "medical-imaging:GetDICOMImportJob"},
    "start-import": FUNCTION
    | RECORDS
    | {"iam:PassRole", "medical-imaging:ListDICOMImportJobs", "medical-imaging:StartDICOMImportJob"},
    "follow-import": FUNCTION | RECORDS | {"medical-imaging:GetDICOMImportJob"},
    "record-results": FUNCTION
    | TABLE
    | UPLOAD
    | {"s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "medical-imaging:GetDICOMImportJob"}
    | {"states:StartExecution"},
    "fail-batch": FUNCTION | RECORDS,
    "notify": FUNCTION | KEY | {"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "sns:Publish"},
    "recover": FUNCTION
    | {"dynamodb:BatchGetItem", "dynamodb:PutItem", "dynamodb:Query"}
    | {"sqs:SendMessage", "states:DescribeExecution", "states:StartExecution"},
    "reconcile": FUNCTION
    | TABLE
    | UPLOAD
    | {"s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "sqs:SendMessage", "states:StartExecution"},
    "import": TRACE
    | {"lambda:InvokeFunction", "logs:CreateLogDelivery", "logs:DeleteLogDelivery", "logs:DescribeLogGroups"}
    | {"logs:DescribeResourcePolicies", "logs:GetLogDelivery", "logs:ListLogDeliveries", "logs:PutResourcePolicy"}
    | {"logs:UpdateLogDelivery"},
    "schedule": {"lambda:InvokeFunction", "sqs:SendMessage"},
    "data-access": {"s3:GetObject", "s3:ListBucket", "s3:PutObject"},
    "operator": TABLE
    | UPLOAD
    | {"s3:DeleteObject", "s3:GetObject", "s3:ListBucket"}
    | {"states:DescribeExecution", "states:StartExecution"},
}
ON_EVERYTHING = {
    "ecr:GetAuthorizationToken",
    *TRACE,
    *(action for action in EXPECTED["import"] if action.startswith("logs:")),
}


def policies(deployed: Deployed) -> dict[str, list[dict[str, Any]]]:
    """Return the statements of each role's policy by the actor's name."""
    found = {}
    for item in deployed.of("iam/rolePolicy:RolePolicy"):
        name = item.name
        for stack in ("hillside-clinic-", "central-hospital-", "dev-"):
            name = name.removeprefix(stack)
        found[name] = item.document()["Statement"]
    return found


def test_each_actor_may_do_exactly_this(clinic: Deployed) -> None:
    actual = {
        name: {action for statement in statements for action in statement["Action"]}
        for name, statements in policies(clinic).items()
    }
    assert actual == EXPECTED


def test_the_hospitals_key_adds_its_use_and_nothing_else(hospital: Deployed) -> None:
    for name, statements in policies(hospital).items():
        actions = {action for statement in statements for action in statement["Action"]}
        assert actions - EXPECTED.get(name, LOG) <= KEY, name


def test_nothing_is_allowed_on_everything_but_what_knows_no_resource(deployed: Deployed) -> None:
    for statements in policies(deployed).values():
        for statement in statements:
            assert statement["Effect"] == "Allow"
            if "*" in statement["Resource"]:
                assert set(statement["Action"]) <= ON_EVERYTHING


def test_resources_are_those_of_this_stack(deployed: Deployed, stack: str) -> None:
    for statements in policies(deployed).values():
        for resource in (text for statement in statements for text in statement["Resource"]):
            ours = stack in resource or "datastore/0123456789abcdef" in resource or ":key/" in resource
            assert ours or resource == "*", resource


def test_a_role_is_taken_on_by_one_service_or_by_operators(hospital: Deployed) -> None:
    expected = {
        "receiver": "ecs-tasks.amazonaws.com",
        "execution": "ecs-tasks.amazonaws.com",
        "import": "states.amazonaws.com",
        "schedule": "scheduler.amazonaws.com",
        "data-access": "medical-imaging.amazonaws.com",
        "flows": "vpc-flow-logs.amazonaws.com",
        "operator": ["arn:aws:iam::123456789012:role/radiology-it"],
    }
    for item in hospital.of("iam/role:Role"):
        (statement,) = item.document("assumeRolePolicy")["Statement"]
        (principal,) = statement["Principal"].values()
        assert principal == expected.get(item.name.removeprefix("central-hospital-"), "lambda.amazonaws.com")
        assert item.inputs["description"]


def test_services_act_for_this_account_only(clinic: Deployed) -> None:
    for name in ("receiver", "execution", "import", "schedule", "data-access"):
        (statement,) = clinic.one("iam/role:Role", f"clinic-{name}").document("assumeRolePolicy")["Statement"]
        assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "123456789012"}


def test_the_data_access_role_is_passed_to_healthimaging_only(clinic: Deployed) -> None:
    statements = policies(clinic)["start-import"]
    (passing,) = [statement for statement in statements if statement["Action"] == ["iam:PassRole"]]
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "medical-imaging.amazonaws.com"}}
    assert [resource.rpartition("/")[2] for resource in passing["Resource"]] == ["hillside-clinic-data-access-1a2b3c4"]


def test_healthimaging_reads_batches_only_and_writes_results_only(clinic: Deployed) -> None:
    by_action = {statement["Action"][0]: statement["Resource"] for statement in policies(clinic)["data-access"]}
    assert by_action["s3:GetObject"] == ["arn:aws:s3:::hillside-clinic-staging-1a2b3c4/batches/*"]
    assert by_action["s3:PutObject"] == ["arn:aws:s3:::hillside-clinic-results-1a2b3c4/*"]


def test_a_role_has_one_policy_and_none_of_awss_broad_ones(deployed: Deployed) -> None:
    assert len(deployed.of("iam/role:Role")) == len(deployed.of("iam/rolePolicy:RolePolicy"))
    assert [item for item in deployed.resources if "ttachment" in item.type] == []
    assert "managedPolicyArns" not in json.dumps([item.inputs for item in deployed.of("iam/role:Role")])


def test_a_grant_on_everything_needs_a_reason_and_every_action_a_name() -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        Grant(actions=("s3:GetObject",), resources=("*",))
    with pytest.raises(ValueError, match="name each action"):
        Grant(actions=("s3:*",), resources=("arn:aws:s3:::x",))
