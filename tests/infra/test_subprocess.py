"""The program as a process of its own, talking to an engine as under the Pulumi command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.infra.account import AccountMocks, FakeAccount
from tests.infra.conftest import deploy_stack
from tests.infra.engine import serve
from tests.infra.harness import ROOT, STACK_TYPE, stack_config, stack_files

pytestmark = pytest.mark.slow


def run(stack: str, config: dict[str, str], *, preview: bool = False) -> tuple[int, str, set[str]]:
    """Return exit status, what was said, and the resources that were asked for."""
    mocks = AccountMocks(FakeAccount(region=config.get("aws:region", "")), preview=preview)
    with serve(mocks) as (address, monitor, engine):
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.infra.engine"],
            cwd=ROOT,
            env={
                **os.environ,
                "PULUMI_CONFIG": json.dumps(config),
                "ENGINE_ADDRESS": address,
                "ENGINE_STACK": stack,
                "ENGINE_PREVIEW": "1" if preview else "0",
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        made = {item.name for item in monitor.registered.values() if item.type != STACK_TYPE}
        return done.returncode, done.stdout + done.stderr + "\n".join(engine.logged), made


@pytest.mark.parametrize("stack", stack_files())
def test_every_stack_runs_as_a_process(stack: str) -> None:
    # one of them as for `pulumi preview`
    status, said, made = run(stack, stack_config(stack), preview=stack == "dev")
    assert status == 0, said
    assert made == {item.name for item in deploy_stack(stack).resources}


def test_a_stack_with_problems_ends_with_their_list_and_no_traceback() -> None:
    status, said, made = run("dev", {"aws:region": "eu-central-1", "dicom-store-scp:scpPort": "0"})
    assert status != 0
    assert made == set()
    assert "3 problem(s) in the configuration of stack dev:" in said
    assert "Traceback" not in said
