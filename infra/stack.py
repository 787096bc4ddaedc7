"""
From a stack file to the components' arguments: what is read, checked and looked up before anything is created.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Network
from typing import Any

import pulumi
from pulumi.runtime import config as runtime_config

from infra.account import AccountFacts, look_up
from infra.checks import account_problems, configuration_problems
from infra.config import StackConfig
from infra.network import ExistingVpc, NewVpc
from infra.reading import ConfigurationProblems, read_config

_DEFAULT_VPC = IPv4Network("10.0.0.0/16")
_ZONES = 2


def read_stack() -> tuple[StackConfig, AccountFacts]:
    """
    Read the configuration of the stack that is being deployed, and look at the account it goes to.

    Raises:
        ConfigurationProblems: naming everything that stands in the way.

    """
    stack = pulumi.get_stack()
    prefix = f"{pulumi.get_project()}:"
    everything: dict[str, Any] = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    values = {key.removeprefix(prefix): str(value) for key, value in everything.items() if key.startswith(prefix)}
    region = pulumi.Config("aws").get("region") or os.environ.get("AWS_REGION", "")
    reading = read_config(values, stack=stack, region=region)
    problems = [*reading.problems, *configuration_problems(reading)]
    facts = None
    if "aws:region" not in reading.wrong:
        facts = look_up(reading)
        problems += account_problems(reading, facts)
    if problems or facts is None:
        raise ConfigurationProblems(stack, tuple(problems))
    return reading.config, facts


def wanted_vpc(config: StackConfig, facts: AccountFacts) -> ExistingVpc | NewVpc:
    """Return which VPC the receiver stands in."""
    if config.is_new_vpc:
        return NewVpc(
            cidr=config.vpc_cidr or _DEFAULT_VPC,
            zones=config.availability_zones or facts.zones[:_ZONES],
            nat_gateways=config.wanted_nat_gateways,
            flow_logs=config.flow_logs,
        )
    tables = [facts.subnets[subnet_id].route_table_id for subnet_id in config.private_subnet_ids]
    return ExistingVpc(
        vpc_id=config.vpc_id,
        cidr=config.vpc_cidr or (facts.vpc_cidrs or (_DEFAULT_VPC,))[0],
        public_subnet_ids=config.public_subnet_ids,
        private_subnet_ids=config.private_subnet_ids,
        private_route_table_ids=tuple(dict.fromkeys(table for table in tables if table is not None)),
        security_group_id=config.security_group_id,
    )


def echo_command(config: StackConfig, dns_name: str) -> str:
    """Return a line that asks the receiver whether it is there, as a modality would."""
    options = ["-v", "-aet", "TESTSCU", "-aec", f"'{config.scp_ae_title}'"]
    if config.mutual_tls is not None:
        options += ["+tls", "client-key.pem", "client-certificate.pem", "+cf", "ca.pem"]
    elif config.tls_certificate_arn:
        options += ["+tla", "-ic"]
    return " ".join(["echoscu", *options, dns_name, str(config.scp_port)])
