"""The IAM documents and the state machine as a linter of AWS templates sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.infra.harness import ROOT, Deployed

pytestmark = pytest.mark.slow


def template(deployed: Deployed) -> dict[str, Any]:
    """Return the roles, policies and the state machine of a stack as a template."""
    resources: dict[str, Any] = {}
    policies = {item.name: item.document() for item in deployed.of("iam/rolePolicy:RolePolicy")}
    for item in deployed.of("iam/role:Role"):
        name = "".join(filter(str.isalnum, item.name))
        resources[name] = {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": item.document("assumeRolePolicy"),
                "Description": item.inputs["description"],
                "Policies": [{"PolicyName": item.name, "PolicyDocument": policies[item.name]}],
            },
        }
    machine = deployed.one("StateMachine").inputs
    resources["Machine"] = {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {"RoleArn": machine["roleArn"], "Definition": json.loads(machine["definition"])},
    }
    for bucket in deployed.of("BucketPolicy"):
        resources["Policy" + "".join(filter(str.isalnum, bucket.name))] = {
            "Type": "AWS::S3::BucketPolicy",
            "Properties": {"Bucket": bucket.inputs["bucket"], "PolicyDocument": bucket.document()},
        }
    for store in deployed.of("cloudcontrol/resource:Resource"):
        resources["Store"] = {
            "Type": store.inputs["typeName"],
            "Properties": json.loads(store.inputs["desiredState"]),
        }
    return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}


def lint(path: Path, region: str) -> str:
    program = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run(
        [program, "--regions", region, "--format", "parseable", "--", path], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_cfn_lint_has_nothing_to_say(deployed: Deployed, tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    path.write_text(json.dumps(template(deployed)), encoding="utf-8")
    region = deployed.outputs["stateMachineArn"].split(":")[3]
    assert lint(path, region) == ""


def test_the_linter_would_find_an_action_that_does_not_exist(clinic: Deployed, tmp_path: Path) -> None:
    damaged = template(clinic)
    statements = damaged["Resources"]["hillsideclinicreceiver"]["Properties"]["Policies"][0]["PolicyDocument"]
    statements["Statement"][0]["Action"] = ["dynamodb:FetchItem"]
    path = tmp_path / "stack.json"
    path.write_text(json.dumps(damaged), encoding="utf-8")
    assert "fetchitem" in lint(path, "eu-west-1").lower()


def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
