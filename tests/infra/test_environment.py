"""What the program writes into environments is what the application's own loader reads."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from adapters.entrypoints.settings import read_settings, rules, variable_name
from tests.infra.account import AccountMocks, FakeAccount
from tests.infra.harness import Deployed, as_engine, main_program, run_program

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tls-a1b2c3"
FULL: dict[str, Any] = {
    "aws:region": "eu-west-1",
    "alarmEmail": "none",
    "mutualTls": {"certificateSecretArn": SECRET, "keySecretArn": SECRET, "caSecretArn": SECRET},
    "requireCallingAeTitle": ["CT1", "MR2@10.0.0.0/24"],
    "supportedSopClassUids": ["1.2.840.10008.5.1.4.1.1.2"],
    "storageCommitmentPeers": ["CT1=10.0.0.7:104"],
    "storePatientIdentity": True,
    "scpAeTitle": "IT'S OURS",
}


def known(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables that are the application's own."""
    return {name: value for name, value in environment.items() if name.startswith("STORESCP_")}


def container_environment(deployed: Deployed) -> dict[str, str]:
    (container,) = json.loads(deployed.one("TaskDefinition").inputs["containerDefinitions"])
    plain = {pair["name"]: pair["value"] for pair in container["environment"]}
    return {**plain, **{pair["name"]: pair["valueFrom"] for pair in container["secrets"]}}


def function_environments(deployed: Deployed) -> list[dict[str, str]]:
    return [item.inputs["environment"]["variables"] for item in deployed.of("function:Function")]


def settings_file(deployed: Deployed) -> dict[str, str]:
    lines = deployed.outputs["settings"].splitlines()
    assert all(line.startswith("export ") for line in lines)
    words = [shlex.split(line.removeprefix("export ")) for line in lines]
    assert all(len(word) == 1 for word in words)
    return dict(word[0].split("=", 1) for word in words)


@pytest.fixture(scope="module")
def full() -> Deployed:
    return run_program(main_program, AccountMocks(FakeAccount()), as_engine(FULL), stack="test")


def test_the_containers_settings_are_read_as_meant(deployed: Deployed) -> None:
    settings = read_settings({}, known(container_environment(deployed)))
    assert settings.profile == "aws"
    assert settings.port == 11112
    assert settings.staging_bucket == deployed.outputs["stagingBucket"]
    assert settings.state_machine_arn == deployed.outputs["stateMachineArn"]
    assert str(settings.ae_title) == deployed.outputs["DICOMAETitle"]


def test_what_arriving_instances_may_take_fits_into_the_task(deployed: Deployed) -> None:
    task = deployed.one("TaskDefinition").inputs
    settings = read_settings({}, known(container_environment(deployed)))
    # docs/operations.md, "Limits and what they cost"
    needed = 150e6 + 0.5e6 * settings.maximum_associations + 2.2 * settings.memory_budget + 256 * 2**20
    assert 0.85 < needed / (int(task["memory"]) * 2**20) < 0.91
    disk = task["ephemeralStorage"]["sizeInGib"] * 2**30
    assert settings.temporary_space >= settings.maximum_object_bytes
    assert settings.temporary_space + settings.minimum_free_space < disk - 3e9


def test_every_setting_of_a_stack_file_reaches_the_container(full: Deployed) -> None:
    settings = read_settings({}, known(container_environment(full)))
    assert str(settings.ae_title) == "IT'S OURS"
    assert [str(caller) for caller in settings.require_calling_ae_titles] == ["CT1", "MR2@10.0.0.0/24"]
    assert [str(uid) for uid in settings.supported_sop_class_uids] == ["1.2.840.10008.5.1.4.1.1.2"]
    assert settings.store_patient_identity is True
    assert (settings.tls, settings.plain) == ("mutual", False)
    assert (settings.dimse_timeout, settings.network_timeout, settings.maximum_associations) == (60, 90, 300)
    assert (settings.batch_quiet_seconds, settings.batch_max_age_seconds) == (15, 60)
    assert (settings.batch_max_files, settings.batch_max_bytes) == (4500, 9_000_000_000)
    assert container_environment(full)["STORESCP_COMMITMENT_PEERS"] == "CT1=10.0.0.7:104"


def test_the_functions_settings_are_read_as_meant(deployed: Deployed) -> None:
    environments = function_environments(deployed)
    assert len(environments) == 8
    for environment in environments:
        settings = read_settings({}, known(environment))
        assert settings.data_store_id is not None
        assert str(settings.data_dir).startswith("/tmp/")


def test_operators_settings_are_a_shell_file_that_every_command_reads(full: Deployed, deployed: Deployed) -> None:
    assert read_settings({}, settings_file(deployed)).topic_arn
    assert str(read_settings({}, settings_file(full)).ae_title) == "IT'S OURS"


def test_environments_hold_no_secret(full: Deployed) -> None:
    (container,) = json.loads(full.one("TaskDefinition").inputs["containerDefinitions"])
    names = {pair["name"] for pair in container["secrets"]}
    assert names == {"STORESCP_TLS_CERTIFICATE", "STORESCP_TLS_KEY", "STORESCP_TLS_CA"}
    assert "TLS_KEY" not in json.dumps(container["environment"])


def test_metrics_of_two_stacks_stay_apart(deployed: Deployed, stack: str) -> None:
    for environment in [container_environment(deployed), *function_environments(deployed)]:
        assert environment["POWERTOOLS_SERVICE_NAME"] == stack


def test_the_application_knows_every_variable(full: Deployed) -> None:
    names = {variable_name(name) for name in rules()}
    ours = {name for name in container_environment(full) if name.startswith("STORESCP_")}
    assert ours - names == set()
