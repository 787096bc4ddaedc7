"""What a stack file may say, and how wrong ones are refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from infra.config import REGIONS, StackConfig, rules
from infra.reading import ConfigurationProblems, read_config
from tests.infra.harness import ROOT, project_schema, stack_config, stack_files

TYPES = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}


def read(**values: str) -> StackConfig:
    reading = read_config({"alarmEmail": "none", **values}, stack="clinic", region="eu-west-1")
    assert reading.problems == ()
    return reading.config


def problems(region: str = "eu-west-1", stack: str = "clinic", **values: str) -> tuple[str, ...]:
    return read_config({"alarmEmail": "none", **values}, stack=stack, region=region).problems


def test_the_defaults_are_those_of_the_original_product() -> None:
    config = read()
    expected = {
        "scp_ae_title": "STORESCP",
        "scp_port": 11112,
        "require_called_ae_title": False,
        "require_calling_ae_title": (),
        "dimse_timeout": 60,
        "network_timeout": 90,
        "maximum_associations": 300,
        "supported_sop_class_uids": (),
        "task_cpu": 1024,
        "task_memory_limit": 2048,
        "task_desired_count": 1,
        "autoscale_max_capacity": 3,
        "tls_certificate_arn": "",
        "cpu_architecture": "X86_64",
        "internet_facing": False,
        "protect": True,
    }
    actual = {name: getattr(config, name) for name in expected}
    assert expected == {**actual, "scp_ae_title": str(actual["scp_ae_title"])}


def test_pulumi_yaml_says_what_the_code_says() -> None:
    expected = {
        key: {"default": rule.default, "description": rule.help, "type": type(rule.default)}
        for key, rule in rules().items()
    }
    actual = {
        key: {"default": rule["default"], "description": rule["description"], "type": TYPES[rule["type"]]}
        for key, rule in project_schema().items()
    }
    assert expected == actual


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, flags=re.MULTILINE))
    expected = {key: f"`{rule.text}`" if rule.default not in ("", [], {}) else "" for key, rule in rules().items()}
    assert expected == rows


def test_every_parameter_of_the_original_product_is_mapped() -> None:
    text = (ROOT / "docs/parameters.md").read_text(encoding="utf-8")
    table = text[text.index("## Coming from the original product") :]
    mapped = dict(re.findall(r"^\| (\w+) \| `(\w+)`", table, flags=re.MULTILINE))
    assert set(mapped.values()) <= set(rules())
    assert set(mapped) == {
        *("VpcID", "PublicSubnetIDs", "PrivateSubnetIDs", "AvailabilityZones", "SecurityGroupID", "VpcCIDR"),
        *("SCPAETitle", "SCPPort", "PeerCIDR1", "PeerCIDR2", "PeerCIDR3"),
        *("RequireCalledAETitle", "RequireCallingAETitle", "SupportedSOPClassUIDs"),
        *("DIMSETimeout", "NetworkTimeout", "MaximumAssociations"),
        *("TaskCPU", "TaskMemoryLimit", "TaskDesiredCount", "AutoscaleMaxCapacity", "TLSCertificateARN"),
    }


@pytest.mark.parametrize("stack", stack_files())
def test_committed_stacks_have_no_problem(stack: str) -> None:
    config = stack_config(stack)
    values = {key.partition(":")[2]: value for key, value in config.items() if not key.startswith("aws:")}
    assert read_config(values, stack=stack, region=config["aws:region"]).problems == ()


@pytest.mark.parametrize(
    "key,text,field,value",
    [
        ("peerCidr1", "203.0.113.0/24", "peers", ["203.0.113.0/24"]),
        ("peerCidrs", '["203.0.113.0/24", "203.0.113.0/24"]', "peers", ["203.0.113.0/24"]),
        ("peerCidrs", '["203.0.113.0/24", "198.51.100.7"]', "peers", ["203.0.113.0/24", "198.51.100.7/32"]),
        ("batchMaxBytes", "9e+09", "batch_max_bytes", "9000000000"),
        ("storageCommitmentPeers", '["CT 1=10.0.0.7:104"]', "storage_commitment_peers", ["CT 1=10.0.0.7:104"]),
        (
            "supportedSopClassUids",
            '["1.2.840.10008.5.1.4.1.1.2"]',
            "supported_sop_class_uids",
            ["1.2.840.10008.5.1.4.1.1.2"],
        ),
        ("requireCallingAeTitle", '["CT1", "MR2@10.0.0.0/24"]', "require_calling_ae_title", ["CT1", "MR2@10.0.0.0/24"]),
    ],
)
def test_values_are_read_as_the_command_line_hands_them_over(
    key: str, text: str, field: str, value: list[str] | str
) -> None:
    found = getattr(read(**{key: text}), field)
    assert value == (str(found) if isinstance(value, str) else [str(item) for item in found])


@pytest.mark.parametrize(
    "key,text,words",
    [
        ("scpAeTitle", "SEVENTEEN_LETTERS", "1 to 16 printable ASCII characters"),
        ("scpAeTitle", "BACK\\SLASH", "without backslash"),
        ("scpPort", "0", "from 1 to 65535"),
        ("scpPort", "many", "from 1 to 65535"),
        ("peerCidr1", "10.0.0.5/24", "did you mean 10.0.0.0/24, or 10.0.0.5/32"),
        ("peerCidr2", "0.0.0.0/0", "the whole internet"),
        ("peerCidr3", "2001:db8::/32", "IPv6 is not supported"),
        ("vpcCidr", "10.0.0.0/99", "the length of its prefix"),
        ("vpcId", "my-vpc", "vpc-0123abcd"),
        ("privateSubnetIds", '["subnet-0123abcd", "x"]', "'x' is wrong"),
        ("privateSubnetIds", '"subnet-0123abcd"', "it is no list"),
        ("peerCidrs", "203.0.113.0/24", "a list, each a network"),
        ("scpPort", "11112.5", "from 1 to 65535"),
        ("requireCalledAeTitle", "yes", "true or false"),
        ("requireCallingAeTitle", '["CT1@10.0.0.5/24"]', "each with a network"),
        ("storageCommitmentPeers", '["CT1=ct1.example:104"]', "no IPv4 address"),
        ("storageCommitmentPeers", '["CT1=10.0.0.7"]', "is wrong"),
        ("supportedSopClassUids", '["CT"]', "SOP Class UIDs"),
        ("taskCpu", "1000", "256, 512, 1024"),
        ("cpuArchitecture", "arm", "X86_64 or ARM64"),
        ("tlsCertificateArn", "my-certificate", "ARN of a certificate"),
        ("kmsKeyArn", "alias/mine", "ARN of a symmetric KMS key"),
        ("mutualTls", '{"keySecretArn": "x"}', "certificateSecretArn is missing"),
        ("mutualTls", "[]", "it is no object"),
        ("dataStoreId", "mine", "32 lower-case"),
        ("alarmEmail", "nobody", "an e-mail address"),
        ("logRetentionDays", "100", "90, 120"),
        ("hospitalName", "St Jude", "lower-case letters"),
        ("tags", '{"aws:x": "y"}', "reserved"),
        ("tags", '{"x": true}', "no text"),
        ("tags", "{", "an object of texts"),
        ("batchMaxFiles", "5001", "from 1 to 5000"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_allowed(key: str, text: str, words: str) -> None:
    (problem,) = problems(**{key: text})
    assert problem.startswith(f"{key}: ")
    assert words in problem


@pytest.mark.parametrize("region", REGIONS)
def test_regions_with_healthimaging_are_allowed(region: str) -> None:
    assert problems(region=region) == ()


@pytest.mark.parametrize("region,said", [("eu-central-1", "does not offer AWS HealthImaging"), ("", "not set")])
def test_another_region_is_refused_with_those_that_have_it(region: str, said: str) -> None:
    (problem,) = problems(region=region)
    assert said in problem
    assert "us-east-1 or us-west-2 or eu-west-1 or eu-west-2 or ap-southeast-2" in problem


@pytest.mark.parametrize(
    "key,meant", [("VpcID", "vpcId"), ("scp_port", "scpPort"), ("scpAeTitel", "scpAeTitle"), ("peerCidr", "peerCidrs")]
)
def test_an_unknown_key_is_refused_with_its_likely_meaning(key: str, meant: str) -> None:
    (problem,) = problems(**{key: "x"})
    assert problem == f"{key}: unknown setting; did you mean {meant}? To remove it run: pulumi config rm {key}"


def test_a_key_like_no_other_is_refused_with_where_all_are_listed() -> None:
    (problem,) = problems(colour="blue")
    assert "docs/parameters.md lists all settings" in problem


def test_an_alarm_address_or_none_is_required() -> None:
    reading = read_config({}, stack="clinic", region="eu-west-1")
    (problem,) = reading.problems
    assert problem.startswith("alarmEmail: not set; run: pulumi config set alarmEmail")


def test_a_stack_whose_name_cannot_begin_resource_names_needs_a_hospital_name() -> None:
    (problem,) = problems(stack="St_Jude")
    assert "pulumi config set hospitalName" in problem
    assert problems(stack="St_Jude", hospitalName="st-jude") == ()


def test_all_problems_are_told_in_one_message() -> None:
    found = problems(region="mars-1", scpPort="0", peerCidr1="x", lisener="y")
    text = str(ConfigurationProblems("clinic", found))
    assert text.startswith("4 problem(s) in the configuration of stack clinic:\n  - ")
    for key in ("aws:region", "scpPort", "peerCidr1", "lisener"):
        assert f"\n  - {key}: " in text


def test_a_long_wrong_value_is_cut_in_the_message() -> None:
    (problem,) = problems(vpcId="x" * 500)
    assert len(problem) < 300


def test_tags_name_hospital_and_stack_and_cannot_be_overridden() -> None:
    config = read(tags=json.dumps({"Hospital": "other", "costCentre": 7}))
    expected: dict[str, Any] = {
        "Application": "dicom-store-scp",
        "Hospital": "clinic",
        "Stack": "clinic",
        "costCentre": "7",
    }
    assert expected == config.all_tags
