"""
What the account holds that a stack depends on, looked up before anything is created.

What cannot be looked up for want of permission is a warning where it is only a check, and a problem where the stack
cannot be made without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any, TypeVar

import attrs
import pulumi
import pulumi_aws as aws

from infra.config import StackConfig
from infra.deployer import DATA_STORE_TYPE, NEW_VPC_TYPES, RESOURCE_ACTIONS, deployer_actions
from infra.reading import Reading

ENDPOINT_SERVICES = ("s3", "dynamodb", "ecr.api", "ecr.dkr", "logs", "states")
"""What a receiver without a way to the internet must have endpoints for."""

_T = TypeVar("_T")
_ANYWHERE = "0.0.0.0/0"
_CPU_UNITS = 1024
_ACTIONS_A_CALL = 100


@attrs.frozen(kw_only=True)
class Subnet:
    """
    A subnet that a stack file names.

    Attributes:
        default_route: where traffic to the internet goes: "internet gateway", "NAT or other", or None.

    """

    id: str
    vpc_id: str
    zone: str
    route_table_id: str | None
    default_route: str | None


@attrs.frozen(kw_only=True)
class Quota:
    """
    A limit of the account.

    Attributes:
        used: by others than this stack.
        needed: what the stack needs of it.

    """

    title: str
    service: str
    code: str
    value: float
    used: float
    needed: Callable[[StackConfig], float]


@attrs.frozen(kw_only=True)
class AccountFacts:
    """
    What was found.

    Attributes:
        vpc_cidrs: address ranges of the given VPC; empty if there is no such VPC, None if it was not looked up.
        zones: those that can be used, in order.
        missing_endpoints: services for which the given VPC has no endpoint; looked up only where no route leads out.
        problems: what had to be found and could not.

    """

    account_id: str
    caller_arn: str
    zones: tuple[str, ...] = ()
    vpc_cidrs: tuple[IPv4Network, ...] | None = None
    subnets: Mapping[str, Subnet] = attrs.field(factory=dict)
    missing_endpoints: tuple[str, ...] = ()
    denied_actions: tuple[str, ...] = ()
    quotas: tuple[Quota, ...] = ()
    problems: tuple[str, ...] = ()


def look_up(reading: Reading) -> AccountFacts:
    """Look at everything in the account that the stack depends on."""
    config = reading.config
    identity = _found(aws.get_caller_identity)
    if identity is None:
        return AccountFacts(
            account_id="",
            caller_arn="",
            problems=(
                (
                    "credentials: AWS does not accept them; sign in (aws sso login), or set AWS_PROFILE, and check "
                    "with: aws sts get-caller-identity"
                ),
            ),
        )
    vpc_cidrs, subnets, missing_endpoints = None, {}, ()
    if not config.is_new_vpc and "vpcId" not in reading.wrong:
        vpc_cidrs = _vpc_cidrs(config)
        subnets = {subnet.id: subnet for subnet in _subnets(config)} if vpc_cidrs else {}
        if any(subnets[i].default_route is None for i in config.private_subnet_ids if i in subnets):
            missing_endpoints = tuple(_missing_endpoints(config))
    return AccountFacts(
        account_id=identity.account_id,
        caller_arn=identity.arn,
        zones=_zones(config),
        vpc_cidrs=vpc_cidrs,
        subnets=subnets,
        missing_endpoints=missing_endpoints,
        denied_actions=_denied_actions(config, identity.arn) if config.check_account else (),
        quotas=tuple(_quotas(config)) if config.check_account else (),
    )


def _found(look: Callable[..., _T], **arguments: Any) -> _T | None:  # noqa: ANN401  # whatever the provider takes
    """Return what the provider finds; None if it finds nothing or may not look."""
    try:
        return look(**arguments)
    except Exception as error:  # noqa: BLE001  # the provider raises nothing more precise
        pulumi.log.debug(f"look-up failed: {error}")
        return None


def _zones(config: StackConfig) -> tuple[str, ...]:
    if config.availability_zones:
        return config.availability_zones
    found = _found(
        aws.get_availability_zones,
        state="available",
        filters=[{"name": "opt-in-status", "values": ["opt-in-not-required"]}],
    )
    return tuple(found.names) if found is not None else tuple(f"{config.region}{letter}" for letter in "ab")


def _vpc_cidrs(config: StackConfig) -> tuple[IPv4Network, ...]:
    vpc = _found(aws.ec2.get_vpc, id=config.vpc_id)
    if vpc is None:
        return ()
    further = [association.cidr_block for association in vpc.cidr_block_associations or ()]
    return tuple(dict.fromkeys(IPv4Network(cidr) for cidr in [vpc.cidr_block, *further]))


def _subnets(config: StackConfig) -> Iterator[Subnet]:
    wanted = (*config.private_subnet_ids, *config.public_subnet_ids)
    if not wanted:
        return
    existing = _found(aws.ec2.get_subnets, filters=[{"name": "subnet-id", "values": list(wanted)}])
    for subnet_id in existing.ids if existing is not None else ():
        subnet = _found(aws.ec2.get_subnet, id=subnet_id)
        if subnet is not None:
            table = _route_table(config, subnet_id)
            yield Subnet(
                id=subnet_id,
                vpc_id=subnet.vpc_id,
                zone=subnet.availability_zone,
                route_table_id=table.route_table_id if table is not None else None,
                default_route=_default_route(table.routes if table is not None else ()),
            )


def _route_table(config: StackConfig, subnet_id: str) -> aws.ec2.AwaitableGetRouteTableResult | None:
    """Return the table of a subnet: its own, else the main one of its VPC."""
    for name, value in (("association.subnet-id", subnet_id), ("association.main", "true")):
        tables = _found(aws.ec2.get_route_tables, vpc_id=config.vpc_id, filters=[{"name": name, "values": [value]}])
        if tables is not None and tables.ids:
            return _found(aws.ec2.get_route_table, route_table_id=tables.ids[0])
    return None


def _default_route(routes: Sequence[Any]) -> str | None:
    for route in routes:
        if route.cidr_block == _ANYWHERE:
            return "internet gateway" if (route.gateway_id or "").startswith("igw-") else "NAT or other"
    return None


def _missing_endpoints(config: StackConfig) -> Iterator[str]:
    for service in ENDPOINT_SERVICES:
        if config.wanted_endpoints == "gateways" and service in {"s3", "dynamodb"}:
            continue
        name = f"com.amazonaws.{config.region}.{service}"
        if _found(aws.ec2.get_vpc_endpoint, vpc_id=config.vpc_id, service_name=name) is None:
            yield service


def _denied_actions(config: StackConfig, caller_arn: str) -> tuple[str, ...]:
    """Ask IAM which actions the deployer lacks; the root user lacks none and cannot be asked about."""
    if caller_arn.endswith(":root"):
        return ()
    session = _found(aws.iam.get_session_context, arn=caller_arn)
    denied: list[str] = []
    spared = set() if config.is_new_vpc else set(NEW_VPC_TYPES)
    if config.data_store_id is not None:
        spared.add(DATA_STORE_TYPE)
    actions = deployer_actions(set(RESOURCE_ACTIONS) - spared, with_key=bool(config.kms_key_arn))
    for start in range(0, len(actions), _ACTIONS_A_CALL):
        answer = _found(
            aws.iam.get_principal_policy_simulation,
            policy_source_arn=session.issuer_arn if session is not None else caller_arn,
            action_names=list(actions[start : start + _ACTIONS_A_CALL]),
            contexts=[{"key": "iam:PassedToService", "type": "string", "values": ["ecs-tasks.amazonaws.com"]}],
        )
        if answer is None:
            pulumi.log.warn("your own permissions could not be checked: iam:SimulatePrincipalPolicy is not allowed")
            return ()
        denied += [result.action_name for result in answer.results if not result.allowed]
    return tuple(denied)


def _one_if_new_vpc(config: StackConfig) -> float:
    return 1 if config.is_new_vpc else 0


def _nat_gateways(config: StackConfig) -> float:
    return {"None": 0, "Single": 1, "OnePerAz": len(config.availability_zones) or 2}[config.wanted_nat_gateways]


def _processors(config: StackConfig) -> float:
    return config.autoscale_max_capacity * config.task_cpu / _CPU_UNITS


def _count_vpcs(config: StackConfig) -> float | None:
    """Count the VPCs that are not this stack's own."""
    found = _found(aws.ec2.get_vpcs)
    ours = _found(aws.ec2.get_vpcs, tags=dict(config.own_tags))
    return len(set(found.ids) - set(ours.ids)) if found is not None and ours is not None else None


def _count_addresses(config: StackConfig) -> float | None:
    """Count the addresses that are not this stack's own."""
    found = _found(aws.ec2.get_eips, filters=[{"name": "domain", "values": ["vpc"]}])
    ours = _found(aws.ec2.get_eips, tags=dict(config.own_tags))
    if found is None or ours is None:
        return None
    return len(set(found.allocation_ids) - set(ours.allocation_ids))


def _nothing(_: StackConfig) -> float:
    return 0


_QUOTAS: tuple[tuple[str, str, str, Callable[[StackConfig], float | None], Callable[[StackConfig], float]], ...] = (
    ("VPCs per region", "vpc", "L-F678F1CE", _count_vpcs, _one_if_new_vpc),
    ("Elastic IP addresses for NAT gateways", "ec2", "L-0263D0A3", _count_addresses, _nat_gateways),
    ("processors of AWS Fargate at once", "fargate", "L-3032A538", _nothing, _processors),
    ("Lambda functions running at once", "lambda", "L-B99A9384", _nothing, lambda _: 10),
    ("import jobs at once in one data store", "medical-imaging", "L-23763099", _nothing, lambda _: 1),
)
"""Title, service, code, how much others use of it (None: cannot be told), how much the stack needs."""


def _quotas(config: StackConfig) -> Iterator[Quota]:
    for title, service, code, count, needed in _QUOTAS:
        if not needed(config):
            continue
        quota = _found(aws.servicequotas.get_service_quota, service_code=service, quota_code=code)
        used = count(config) if quota is not None else None
        if quota is None or used is None:
            pulumi.log.warn(f"the quota of {title} could not be read; if the stack fails on it, ask for more")
            continue
        yield Quota(title=title, service=service, code=code, value=quota.value, used=used, needed=needed)
