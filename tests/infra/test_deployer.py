"""What the person who deploys must be allowed to do, in the documentation and in the program."""

from __future__ import annotations

import json
import re
from typing import Any

from infra.deployer import DATA_STORE_TYPE, NEW_VPC_TYPES, RESOURCE_ACTIONS, deployer_actions
from tests.infra.conftest import deploy_stack
from tests.infra.harness import ROOT, stack_files

_POLICY_CHARACTERS = 6144


def documented() -> list[dict[str, Any]]:
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.*?)\n```", text, flags=re.DOTALL)
    return [policy for policy in map(json.loads, blocks) if isinstance(policy, dict)]


def test_the_documented_policies_allow_exactly_what_the_program_asks() -> None:
    actions = [action for policy in documented() for s in policy["Statement"] for action in s["Action"]]
    assert sorted(actions) == list(deployer_actions())


def test_each_documented_policy_fits_into_a_managed_policy() -> None:
    sizes = [len(json.dumps(policy, separators=(",", ":"))) for policy in documented()]
    assert len(sizes) == 2
    assert max(sizes) <= _POLICY_CHARACTERS


def test_every_type_that_any_stack_makes_has_its_actions_and_no_other_has() -> None:
    made = {item.type for stack in stack_files() for item in deploy_stack(stack).resources}
    assert {name for name in made if not name.startswith("dicom-ahi:")} == set(RESOURCE_ACTIONS)


def test_what_is_made_only_sometimes_is_named_right() -> None:
    assert NEW_VPC_TYPES | {DATA_STORE_TYPE} <= set(RESOURCE_ACTIONS)
