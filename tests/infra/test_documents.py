"""The IAM documents and the state machine as a linter of AWS templates sees them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.config import REGIONS
from tests.infra.conftest import deploy_stack
from tests.infra.harness import ROOT, Deployed, stack_files

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


def test_cfn_lint_has_nothing_to_say_but_of_an_action_that_does_not_exist(tmp_path: Path) -> None:
    templates = {stack: template(deploy_stack(stack)) for stack in stack_files()}
    damaged = templates["damaged"] = copy.deepcopy(templates["hillside-clinic"])
    statements = damaged["Resources"]["hillsideclinicreceiver"]["Properties"]["Policies"][0]["PolicyDocument"]
    statements["Statement"][0]["Action"] = ["dynamodb:FetchItem"]
    for name, content in templates.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    program = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run(
        [program, "--regions", *REGIONS, "--format", "parseable", "--", *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith(str(tmp_path / "damaged.json"))
    assert "fetchitem" in line.lower()


def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
