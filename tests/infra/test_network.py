"""Who may connect to whom, and how the receiver gets out."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from tests.infra.account import VPC, AccountMocks, FakeAccount
from tests.infra.harness import Deployed, as_engine, main_program, run_program

BASE: dict[str, Any] = {"aws:region": "eu-west-1", "alarmEmail": "none"}
GIVEN = {**BASE, "vpcId": VPC, "privateSubnetIds": ["subnet-0aaaaaaaaaaaaaaa1", "subnet-0aaaaaaaaaaaaaaa2"]}


def deploy(**settings: Any) -> Deployed:
    given = GIVEN if settings.pop("in_given_vpc", False) else BASE
    return run_program(main_program, AccountMocks(FakeAccount()), as_engine({**given, **settings}), stack="test")


def rules(deployed: Deployed, kind: str) -> set[tuple[str, int, str]]:
    """Return group, port and who is on the other side of every rule."""
    found = set()
    for item in deployed.of(f"SecurityGroup{kind}Rule"):
        others = ("cidrIpv4", "referencedSecurityGroupId", "prefixListId")
        (other,) = [item.inputs[key] for key in others if key in item.inputs]
        assert item.inputs["ipProtocol"] == "tcp"
        assert item.inputs["fromPort"] == item.inputs["toPort"]
        found.add((item.inputs["securityGroupId"].partition("-")[2], item.inputs["fromPort"], other))
    return found


def test_only_the_vpc_and_the_peers_may_connect(clinic: Deployed) -> None:
    expected = {
        ("hillside-clinic-load-balancer", 104, "10.20.0.0/16"),
        ("hillside-clinic-load-balancer", 104, "192.168.10.0/24"),
        ("hillside-clinic-receiver", 11112, "sg-hillside-clinic-load-balancer"),
        ("hillside-clinic-receiver", 8080, "sg-hillside-clinic-load-balancer"),
    }
    assert expected == rules(clinic, "Ingress")


def test_the_receiver_reaches_services_over_https_only(clinic: Deployed) -> None:
    expected = {
        ("hillside-clinic-load-balancer", 11112, "sg-hillside-clinic-receiver"),
        ("hillside-clinic-load-balancer", 8080, "sg-hillside-clinic-receiver"),
        ("hillside-clinic-receiver", 443, "0.0.0.0/0"),
    }
    assert expected == rules(clinic, "Egress")


def test_with_endpoints_and_commitment_peers_the_receiver_reaches_those_only(hospital: Deployed) -> None:
    receiver = {rule[1:] for rule in rules(hospital, "Egress") if rule[0] == "central-hospital-receiver"}
    expected = {
        (443, "sg-central-hospital-endpoints"),
        (443, "pl-central-hospital-s3"),
        (443, "pl-central-hospital-dynamodb"),
        (11112, "203.0.113.20/32"),
        (11112, "203.0.113.21/32"),
    }
    assert expected == receiver
    assert ("central-hospital-endpoints", 443, "sg-central-hospital-receiver") in rules(hospital, "Ingress")


def test_security_groups_have_no_rules_beside_those(deployed: Deployed) -> None:
    for group in deployed.of("ecurityGroup"):
        assert "ingress" not in group.inputs
        assert "egress" not in group.inputs


def test_every_rule_says_what_it_is_for(deployed: Deployed) -> None:
    assert [item.name for item in deployed.of("gressRule") if not item.inputs.get("description")] == []


def test_a_given_security_group_is_used_and_gets_the_rules() -> None:
    deployed = deploy(in_given_vpc=True, securityGroupId="sg-0123abcd")
    groups = deployed.one("ecs/service:Service").inputs["networkConfiguration"]["securityGroups"]
    assert groups == ["sg-0123abcd"]
    assert {rule[1] for rule in rules(deployed, "Ingress") if rule[0] == "0123abcd"} == {11112, 8080}


def test_of_a_given_vpc_nothing_is_made_but_security_groups(clinic: Deployed) -> None:
    made = {item.type.rpartition(":")[2] for item in clinic.resources if item.type.startswith("aws:ec2/")}
    assert made == {"SecurityGroup"}
    subnets = ["subnet-0aaaaaaaaaaaaaaa1", "subnet-0aaaaaaaaaaaaaaa2"]
    assert clinic.one("ecs/service:Service").inputs["networkConfiguration"]["subnets"] == subnets
    assert clinic.one("lb/loadBalancer:LoadBalancer").inputs["subnets"] == subnets


def test_endpoints_in_a_given_vpc_join_the_routes_of_its_private_subnets() -> None:
    deployed = deploy(in_given_vpc=True, vpcEndpoints="gateways")
    tables = [item.inputs["routeTableIds"] for item in deployed.of("VpcEndpoint")]
    assert tables == [["rtb-of-subnet-0aaaaaaaaaaaaaaa1", "rtb-of-subnet-0aaaaaaaaaaaaaaa2"]] * 2


@pytest.mark.parametrize("zones", [2, 3, 4])
def test_a_new_vpc_has_a_public_and_a_private_subnet_in_each_zone(zones: int) -> None:
    deployed = deploy(availabilityZones=[f"eu-west-1{letter}" for letter in "abcd"[:zones]], vpcCidr="10.7.0.0/20")
    subnets = deployed.of("ec2/subnet:Subnet")
    networks = [IPv4Network(item.inputs["cidrBlock"]) for item in subnets]
    assert len(subnets) == 2 * zones
    assert all(network.subnet_of(IPv4Network("10.7.0.0/20")) for network in networks)
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)
    assert len({item.inputs["availabilityZone"] for item in subnets}) == zones


@pytest.mark.parametrize(
    "settings,gateways,gateway_endpoints,interfaces",
    [
        ({}, 2, 2, 0),
        ({"natGateways": "Single"}, 1, 2, 0),
        ({"vpcEndpoints": "none"}, 2, 0, 0),
        ({"vpcEndpoints": "all"}, 0, 2, 6),
        ({"vpcEndpoints": "all", "natGateways": "Single"}, 1, 2, 6),
    ],
)
def test_ways_out_of_a_new_vpc(
    settings: dict[str, str], gateways: int, gateway_endpoints: int, interfaces: int
) -> None:
    deployed = deploy(**settings)
    kinds = [item.inputs["vpcEndpointType"] for item in deployed.of("VpcEndpoint")]
    assert len(deployed.of("NatGateway")) == gateways
    assert (kinds.count("Gateway"), kinds.count("Interface")) == (gateway_endpoints, interfaces)
    private = [item for item in deployed.of("ec2/routeTable:RouteTable") if "private" in item.name]
    assert all(bool(item.inputs.get("routes")) is bool(gateways) for item in private)


def test_interface_endpoints_answer_under_the_services_own_names(hospital: Deployed) -> None:
    interfaces = [item.inputs for item in hospital.of("VpcEndpoint") if item.inputs["vpcEndpointType"] == "Interface"]
    assert all(item["privateDnsEnabled"] for item in interfaces)
    assert {item["serviceName"].split(".", 3)[3] for item in interfaces} == {
        *("ecr.api", "ecr.dkr", "logs", "states", "medical-imaging", "secretsmanager"),
    }


def test_flows_are_recorded_where_the_stack_says_so(hospital: Deployed, clinic: Deployed) -> None:
    flows = hospital.one("FlowLog").inputs
    assert flows["trafficType"] == "ALL"
    assert flows["logDestination"].endswith("/network-flows")
    assert clinic.of("FlowLog") == []


def test_an_internal_load_balancer_stands_in_private_subnets_and_a_public_one_in_public(
    hospital: Deployed, clinic: Deployed
) -> None:
    public = hospital.one("lb/loadBalancer:LoadBalancer").inputs
    assert public["internal"] is False
    assert all("public" in subnet for subnet in public["subnets"])
    assert clinic.one("lb/loadBalancer:LoadBalancer").inputs["internal"] is True
