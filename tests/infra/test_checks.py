"""What is refused before anything is made: settings that contradict each other, and what the account lacks."""

from __future__ import annotations

import json
from typing import Any

import pulumi
import pytest

from infra.reading import ConfigurationProblems
from infra.stack import read_stack
from tests.infra.account import VPC, AccountMocks, FakeAccount, FakeSubnet
from tests.infra.harness import as_engine, main_program, run_program

NEW: dict[str, Any] = {"aws:region": "eu-west-1", "alarmEmail": "none"}
PRIVATE = ["subnet-0aaaaaaaaaaaaaaa1", "subnet-0aaaaaaaaaaaaaaa2"]
GIVEN: dict[str, Any] = {**NEW, "vpcId": VPC, "privateSubnetIds": PRIVATE}
CERTIFICATE = "arn:aws:acm:eu-west-1:123456789012:certificate/1"
SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:tls-a1b2c3"
MUTUAL = {"certificateSecretArn": SECRET, "keySecretArn": SECRET, "caSecretArn": SECRET}


def refused(settings: dict[str, Any], account: FakeAccount | None = None) -> tuple[str, ...]:
    """Return the problems of a stack, and see that nothing was made."""
    made: list[str] = []

    class Watching(AccountMocks):
        def answer(self, typ: str, name: str, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
            made.append(typ)
            return super().answer(typ, name, inputs)

    with pytest.raises(ConfigurationProblems) as raised:
        run_program(main_program, Watching(account), as_engine(settings), stack="clinic")
    assert made == []
    assert isinstance(raised.value, pulumi.RunError)
    return raised.value.problems


def accepted(settings: dict[str, Any], account: FakeAccount | None = None) -> None:
    """See that a stack has no problem; what is made of it is the business of other tests."""
    run_program(read_stack, AccountMocks(account), as_engine(settings), stack="clinic")


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"privateSubnetIds": PRIVATE}, ["privateSubnetIds: set without vpcId"]),
        ({"securityGroupId": "sg-0123abcd"}, ["securityGroupId: set without vpcId"]),
        ({"vpcCidr": "10.0.0.0/28"}, ["vpcCidr: 10.0.0.0/28 cannot be divided"]),
        ({"availabilityZones": ["eu-west-1a"]}, ["availabilityZones: at least two"]),
        ({"availabilityZones": ["eu-west-1a", "us-east-1a"]}, ["availabilityZones: us-east-1a not in eu-west-1"]),
        ({"natGateways": "None"}, ["natGateways: without one"]),
        ({"taskDesiredCount": 4}, ["taskDesiredCount: 4 is more than autoscaleMaxCapacity 3"]),
        ({"taskMemoryLimit": 1024}, ["taskMemoryLimit: AWS Fargate has no 1024 MiB with taskCpu 1024"]),
        ({"taskCpu": 256, "taskMemoryLimit": 1536}, ["pulumi config set taskMemoryLimit 2048"]),
        (
            {"maximumAssociations": 5000},
            ["taskMemoryLimit: 2048 MiB are too little for maximumAssociations 5000; raise taskMemoryLimit to 4096 or"],
        ),
        (
            {"taskCpu": 256, "taskMemoryLimit": 512},
            ["raise taskMemoryLimit to 1024 or lower maximumAssociations to 55"],
        ),
        (
            {"taskCpu": 256, "taskMemoryLimit": 512, "maximumAssociations": 10000},
            ["raise taskCpu and taskMemoryLimit or lower maximumAssociations to 55"],
        ),
        (
            {"tlsCertificateArn": CERTIFICATE.replace("eu-west-1", "us-east-1")},
            ["tlsCertificateArn: it is in us-east-1, the stack in eu-west-1"],
        ),
        (
            {"tlsCertificateArn": CERTIFICATE, "networkTimeout": 351},
            ["networkTimeout: the load balancer forgets a TLS connection after 350 seconds"],
        ),
        ({"kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1"}, ["kmsKeyArn: it is in us-east-1"]),
        ({"mutualTls": MUTUAL, "tlsCertificateArn": CERTIFICATE}, ["mutualTls: TLS ends in the receiver or at"]),
        (
            {"internetFacing": True, "tlsCertificateArn": CERTIFICATE},
            ["peerCidrs: the load balancer is internet-facing"],
        ),
        ({"internetFacing": True, "peerCidr1": "203.0.113.0/24"}, ["internetFacing: images of patients would cross"]),
        (
            {"vpcEndpoints": "all", "storageCommitmentPeers": ["CT1=8.8.8.8:104"]},
            ["storageCommitmentPeers: CT1=8.8.8.8:104 is on the internet"],
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], words: list[str]) -> None:
    found = refused({**NEW, **settings})
    assert len(words) == len(found)
    for word, problem in zip(words, found, strict=True):
        assert word in problem


def test_plaintext_over_the_internet_must_be_said() -> None:
    accepted({**NEW, "internetFacing": True, "peerCidr1": "203.0.113.0/24", "allowPlaintextInternet": True})


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"vpcId": "vpc-0ffffffff"}, "vpcId: there is no vpc-0ffffffff in eu-west-1"),
        ({"vpcCidr": "10.99.0.0/16"}, f"vpcCidr: {VPC} has 10.20.0.0/16, 10.21.0.0/16 and not 10.99.0.0/16"),
        ({"privateSubnetIds": [PRIVATE[0], "subnet-0eeeeeeeeeeeeeee1"]}, "subnet-0eeeeeeeeeeeeeee1 do not exist"),
        ({"privateSubnetIds": [PRIVATE[1], "subnet-0ccccccccccccccc1"]}, f"subnet-0ccccccccccccccc1 are not in {VPC}"),
        ({"privateSubnetIds": [PRIVATE[0]]}, "privateSubnetIds: at least two are needed"),
        (
            {"privateSubnetIds": ["subnet-0bbbbbbbbbbbbbbb1", "subnet-0bbbbbbbbbbbbbbb2"]},
            "lead straight to the internet",
        ),
        (
            {"privateSubnetIds": ["subnet-0ddddddddddddddd1", "subnet-0ddddddddddddddd2"]},
            "no endpoints for s3, dynamodb, ecr.api, ecr.dkr, logs, states",
        ),
        ({"availabilityZones": ["eu-west-1a", "eu-west-1c"]}, "availabilityZones: eu-west-1b of privateSubnetIds"),
        ({"internetFacing": True, "allowPlaintextInternet": True, "peerCidr1": "203.0.113.0/24"}, "publicSubnetIds: "),
        ({"natGateways": "Single"}, "natGateways: the NAT gateways of a given VPC"),
        ({"flowLogs": True}, "flowLogs: the flow logs of a given VPC"),
    ],
)
def test_a_given_vpc_is_looked_at_first(settings: dict[str, Any], words: str) -> None:
    (problem,) = refused({**GIVEN, **settings})
    assert words in problem


def test_subnets_in_one_zone_are_refused() -> None:
    account = FakeAccount()
    account.subnets[PRIVATE[1]] = FakeSubnet("eu-west-1a")
    (problem,) = refused(GIVEN, account)
    assert "more than one is in eu-west-1a" in problem


def test_subnets_without_a_route_are_fine_where_endpoints_are() -> None:
    shut = {**GIVEN, "privateSubnetIds": ["subnet-0ddddddddddddddd1", "subnet-0ddddddddddddddd2"]}
    accepted(shut, FakeAccount(endpoints=frozenset({"s3", "dynamodb", "ecr.api", "ecr.dkr", "logs", "states"})))
    accepted({**shut, "vpcEndpoints": "all"})


def test_credentials_that_aws_does_not_accept_are_told() -> None:
    (problem,) = refused(NEW, FakeAccount(has_credentials=False))
    assert "credentials: AWS does not accept them" in problem


def test_missing_permissions_are_named_with_what_to_ask_for() -> None:
    (problem,) = refused(NEW, FakeAccount(denied=frozenset({"ecs:CreateService", "iam:PassRole"})))
    assert "may not ecs:CreateService, iam:PassRole; ask the account's administrator" in problem
    assert "docs/deploy.md" in problem


def test_many_missing_permissions_are_counted() -> None:
    account = FakeAccount()
    actions = [args["actionNames"] for token, args in asked(NEW, account) if token.endswith("Simulation")]
    account.denied = frozenset(name for names in actions for name in names)
    (problem,) = refused(NEW, account)
    assert "more; ask" in problem


def asked(settings: dict[str, Any], account: FakeAccount) -> list[tuple[str, dict[str, Any]]]:
    accepted(settings, account)
    return account.asked


def test_permissions_are_asked_for_what_the_stack_makes_only() -> None:
    def names(settings: dict[str, Any]) -> set[str]:
        calls = asked(settings, FakeAccount())
        return {name for token, args in calls if token.endswith("Simulation") for name in args["actionNames"]}

    given = names({**GIVEN, "dataStoreId": "0123456789abcdef0123456789abcdef"})
    assert {"ec2:CreateVpc", "medical-imaging:CreateDatastore"} <= names(NEW) - given
    assert "kms:CreateGrant" not in given


@pytest.mark.parametrize(
    "account",
    [FakeAccount(may_simulate=False), FakeAccount(quotas={}), FakeAccount(caller="arn:aws:iam::123456789012:root")],
    ids=["no simulation", "no quotas", "root"],
)
def test_checks_that_may_not_be_made_are_left_out(account: FakeAccount) -> None:
    accepted(NEW, account)


def test_the_account_is_not_checked_where_the_stack_says_so() -> None:
    calls = asked({**NEW, "checkAccount": False}, FakeAccount(denied=frozenset({"iam:PassRole"})))
    assert not [token for token, _ in calls if token.endswith(("Simulation", "ServiceQuota"))]


@pytest.mark.parametrize(
    "account,words",
    [
        (
            FakeAccount(vpcs=tuple(f"vpc-{n}" for n in range(5))),
            "VPCs per region is 5, others use 5, the stack needs 1",
        ),
        (FakeAccount(addresses=tuple("abcd")), "Elastic IP addresses for NAT gateways is 5, others use 4"),
        (
            FakeAccount(quotas={"L-3032A538": 2}),
            "processors of AWS Fargate at once is 2, others use 0, the stack needs 3",
        ),
    ],
)
def test_a_full_quota_is_told_with_what_to_ask_for(account: FakeAccount, words: str) -> None:
    (problem,) = refused(NEW, account)
    assert words in problem
    assert "in Service Quotas (" in problem


def test_what_the_stack_itself_uses_of_a_quota_does_not_count() -> None:
    accepted(NEW, FakeAccount(vpcs=tuple(f"vpc-{n}" for n in range(4)), own_vpcs=("vpc-ours",)))


def test_everything_wrong_is_told_at_once_with_look_ups() -> None:
    settings = {
        **GIVEN,
        "scpPort": 0,
        "taskDesiredCount": 9,
        "privateSubnetIds": [PRIVATE[0], "subnet-0eeeeeeeeeeeeeee1"],
        "unheardOf": "x",
    }
    found = refused(settings, FakeAccount(denied=frozenset({"iam:PassRole"})))
    assert len(found) == 5, json.dumps(found, indent=1)


def test_a_wrong_region_is_not_looked_up_in() -> None:
    account = FakeAccount()
    (problem,) = refused({**NEW, "aws:region": "eu-central-1"}, account)
    assert "eu-central-1" in problem
    assert account.asked == []
