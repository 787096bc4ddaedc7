"""
What is wrong with a stack that its single settings do not show: settings against each other, then the account.

Nothing is created here: the account is only looked at, first everything, then one decision after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

from infra.account import AccountFacts, Subnet
from infra.capacity import is_enough, most_associations
from infra.config import REGIONS, StackConfig
from infra.reading import Reading

_MIN_ZONES = 2
_TLS_IDLE_SECONDS = 350
"""After how long of silence a network load balancer forgets a TLS connection, which nothing can change."""
_LARGEST, _SMALLEST = 16, 24
_RIGHTS_SHOWN = 12

_FARGATE_MEMORY_MIB = {
    256: (512, 1024, 2048),
    512: tuple(range(1024, 4096 + 1, 1024)),
    1024: tuple(range(2048, 8192 + 1, 1024)),
    2048: tuple(range(4096, 16384 + 1, 1024)),
    4096: tuple(range(8192, 30720 + 1, 1024)),
    8192: tuple(range(16384, 61440 + 1, 4096)),
    16384: tuple(range(32768, 122880 + 1, 8192)),
}
"""What AWS Fargate offers: CPU units to MiB of memory."""

Rule = tuple[frozenset[str], Callable[[StackConfig], Iterator[str]]]


def configuration_problems(reading: Reading) -> list[str]:
    """Return what is wrong between settings; rules about a setting that is wrong by itself are left out."""
    return [problem for about, rule in _RULES if not about & reading.wrong for problem in rule(reading.config)]


def _network(config: StackConfig) -> Iterator[str]:
    if config.is_new_vpc:
        for key, value in (
            ("publicSubnetIds", config.public_subnet_ids),
            ("privateSubnetIds", config.private_subnet_ids),
            ("securityGroupId", config.security_group_id),
        ):
            if value:
                yield f"{key}: set without vpcId; set vpcId to the VPC they are in, or remove {key} to get a new VPC"
        return
    if len(config.private_subnet_ids) < _MIN_ZONES:
        yield (
            "privateSubnetIds: at least two are needed with vpcId; run: pulumi config set --path "
            "'privateSubnetIds[0]' subnet-..."
        )
    if config.internet_facing and len(config.public_subnet_ids) < _MIN_ZONES:
        yield "publicSubnetIds: an internet-facing load balancer needs two or more; or set internetFacing to false"
    if config.nat_gateways != "auto":
        yield "natGateways: the NAT gateways of a given VPC are its owner's; remove the setting, or vpcId"
    if config.flow_logs:
        yield "flowLogs: the flow logs of a given VPC are its owner's; remove the setting, or vpcId"


def _new_vpc(config: StackConfig) -> Iterator[str]:
    if config.is_new_vpc and config.vpc_cidr is not None and not _LARGEST <= config.vpc_cidr.prefixlen <= _SMALLEST:
        yield (
            f"vpcCidr: {config.vpc_cidr} cannot be divided into subnets; choose a prefix length from {_LARGEST} to "
            f"{_SMALLEST}"
        )
    zones = config.availability_zones
    if zones and len(set(zones)) < _MIN_ZONES:
        yield "availabilityZones: at least two different zones are needed, so that one may fail"
    strangers = [zone for zone in zones if zone[:-1] != config.region]
    if strangers and config.region in REGIONS:
        yield f"availabilityZones: {', '.join(strangers)} not in {config.region}; choose zones of that region"


def _nat(config: StackConfig) -> Iterator[str]:
    if not config.is_new_vpc:
        return
    if config.nat_gateways == "None" and config.wanted_endpoints != "all":
        yield "natGateways: without one the receiver reaches nothing; set vpcEndpoints to all, or natGateways to auto"


def _peers(config: StackConfig) -> Iterator[str]:
    if config.internet_facing and not config.peers:
        yield (
            "peerCidrs: the load balancer is internet-facing but nobody outside the VPC may connect; run: "
            "pulumi config set peerCidr1 NETWORK, with the public addresses of the hospital"
        )
    if config.internet_facing and not config.is_encrypted_in_transit and not config.allow_plaintext_internet:
        yield (
            "internetFacing: images of patients would cross the internet unencrypted; set tlsCertificateArn or "
            "mutualTls, or use a VPN and set internetFacing to false, or accept it with allowPlaintextInternet true"
        )


def _capacity(config: StackConfig) -> Iterator[str]:
    if config.task_desired_count > config.autoscale_max_capacity:
        yield (
            f"taskDesiredCount: {config.task_desired_count} is more than autoscaleMaxCapacity "
            f"{config.autoscale_max_capacity}; raise autoscaleMaxCapacity or lower taskDesiredCount"
        )


def _fargate(config: StackConfig) -> Iterator[str]:
    sizes = _FARGATE_MEMORY_MIB[config.task_cpu]
    if config.task_memory_limit not in sizes:
        nearest = min(sizes, key=lambda size: (size < config.task_memory_limit, abs(size - config.task_memory_limit)))
        yield (
            f"taskMemoryLimit: AWS Fargate has no {config.task_memory_limit} MiB with taskCpu {config.task_cpu}, only "
            f"{sizes[0]} to {sizes[-1]} in steps; run: pulumi config set taskMemoryLimit {nearest}"
        )


def _memory(config: StackConfig) -> Iterator[str]:
    limit, associations = config.task_memory_limit, config.maximum_associations
    if not is_enough(limit, associations):
        larger = [size for size in _FARGATE_MEMORY_MIB[config.task_cpu] if is_enough(size, associations)]
        fewer = most_associations(limit)
        remedies = [
            *([f"raise taskMemoryLimit to {larger[0]}"] if larger else ["raise taskCpu and taskMemoryLimit"]),
            *([f"lower maximumAssociations to {fewer}"] if fewer else []),
        ]
        yield (
            f"taskMemoryLimit: {limit} MiB are too little for maximumAssociations {associations}; "
            f"{' or '.join(remedies)}"
        )


def _certificates(config: StackConfig) -> Iterator[str]:
    for key, arn in (("tlsCertificateArn", config.tls_certificate_arn), ("kmsKeyArn", config.kms_key_arn)):
        if arn and arn.split(":")[3] != config.region:
            yield (
                f"{key}: it is in {arn.split(':')[3]}, the stack in {config.region}; "
                f"create or import it in {config.region} and give that ARN"
            )
    if config.mutual_tls is not None:
        for arn in config.mutual_tls.secret_arns:
            if arn.split(":")[3] != config.region:
                yield f"mutualTls: {arn} is not in {config.region}; create the secret in that region"
        if config.tls_certificate_arn:
            yield "mutualTls: TLS ends in the receiver or at the load balancer; remove tlsCertificateArn or mutualTls"


def _silence(config: StackConfig) -> Iterator[str]:
    if config.tls_certificate_arn and config.network_timeout > _TLS_IDLE_SECONDS:
        yield (
            f"networkTimeout: the load balancer forgets a TLS connection after {_TLS_IDLE_SECONDS} seconds of silence; "
            f"lower networkTimeout to {_TLS_IDLE_SECONDS}"
        )


def _endpoints_of_peers(config: StackConfig) -> Iterator[str]:
    if config.is_new_vpc and config.wanted_nat_gateways == "None":
        public = [peer for peer in config.storage_commitment_peers if IPv4Address(peer.host).is_global]
        if public:
            yield (
                f"storageCommitmentPeers: {public[0]} is on the internet, and without a NAT gateway the receiver "
                "does not get there; set natGateways to Single, or give the address behind the VPN"
            )


_RULES: tuple[Rule, ...] = (
    (frozenset({"vpcId", "privateSubnetIds", "publicSubnetIds", "securityGroupId", "internetFacing"}), _network),
    (frozenset({"vpcCidr", "availabilityZones"}), _new_vpc),
    (frozenset({"natGateways", "vpcEndpoints"}), _nat),
    (
        frozenset({"peerCidr1", "peerCidr2", "peerCidr3", "peerCidrs", "internetFacing", "allowPlaintextInternet"})
        | {"tlsCertificateArn", "mutualTls"},
        _peers,
    ),
    (frozenset({"taskDesiredCount", "autoscaleMaxCapacity"}), _capacity),
    (frozenset({"taskCpu", "taskMemoryLimit"}), _fargate),
    (frozenset({"taskCpu", "taskMemoryLimit", "maximumAssociations"}), _memory),
    (frozenset({"aws:region", "tlsCertificateArn", "kmsKeyArn", "mutualTls"}), _certificates),
    (frozenset({"tlsCertificateArn", "networkTimeout"}), _silence),
    (frozenset({"storageCommitmentPeers", "natGateways", "vpcEndpoints"}), _endpoints_of_peers),
)


def account_problems(reading: Reading, facts: AccountFacts) -> list[str]:
    """Return what the account lacks for the stack."""
    config = reading.config
    problems = list(facts.problems)
    if not config.is_new_vpc and not reading.wrong & {"vpcId", "privateSubnetIds", "publicSubnetIds"}:
        problems += _vpc_problems(config, facts)
    problems += _rights(facts)
    if not reading.wrong & {"taskCpu", "taskDesiredCount", "autoscaleMaxCapacity"}:
        problems += _quotas(config, facts)
    return problems


def _vpc_problems(config: StackConfig, facts: AccountFacts) -> Iterator[str]:
    if facts.vpc_cidrs is None:
        return
    if not facts.vpc_cidrs:
        yield (
            f"vpcId: there is no {config.vpc_id} in {config.region}, or you may not see it; choose one from: "
            "aws ec2 describe-vpcs"
        )
        return
    if config.vpc_cidr is not None and config.vpc_cidr not in facts.vpc_cidrs:
        yield (
            f"vpcCidr: {config.vpc_id} has {', '.join(map(str, facts.vpc_cidrs))} and not {config.vpc_cidr}; "
            f"remove vpcCidr, or set it to {facts.vpc_cidrs[0]}"
        )
    for key, ids in (("privateSubnetIds", config.private_subnet_ids), ("publicSubnetIds", config.public_subnet_ids)):
        found = [facts.subnets[subnet_id] for subnet_id in ids if subnet_id in facts.subnets]
        missing = [subnet_id for subnet_id in ids if subnet_id not in facts.subnets]
        listing = f"aws ec2 describe-subnets --filters Name=vpc-id,Values={config.vpc_id}"
        if missing:
            yield f"{key}: {', '.join(missing)} do not exist in {config.region}; choose from: {listing}"
        strangers = [subnet.id for subnet in found if subnet.vpc_id != config.vpc_id]
        if strangers:
            yield f"{key}: {', '.join(strangers)} are not in {config.vpc_id}; choose from: {listing}"
        yield from _zone_problems(key, found, config)
    yield from _route_problems(config, facts)


def _zone_problems(key: str, subnets: list[Subnet], config: StackConfig) -> Iterator[str]:
    zones = [subnet.zone for subnet in subnets]
    if len(subnets) >= _MIN_ZONES and len(set(zones)) < len(zones):
        twice = sorted({zone for zone in zones if zones.count(zone) > 1})
        yield f"{key}: more than one is in {', '.join(twice)}; give one subnet for each zone, in two zones or more"
    strangers = sorted({zone for zone in zones if zone not in config.availability_zones})
    if config.availability_zones and strangers:
        yield (
            f"availabilityZones: {', '.join(strangers)} of {key} not named; "
            "add them, or remove availabilityZones, since the subnets tell their zones"
        )


def _route_problems(config: StackConfig, facts: AccountFacts) -> Iterator[str]:
    if config.wanted_endpoints == "all":
        return
    private = [facts.subnets[subnet_id] for subnet_id in config.private_subnet_ids if subnet_id in facts.subnets]
    public = [subnet.id for subnet in private if subnet.default_route == "internet gateway"]
    if public:
        yield (
            f"privateSubnetIds: {', '.join(public)} lead straight to the internet, where a task without a public "
            "address reaches nothing; choose subnets whose default route is a NAT gateway"
        )
    shut = [subnet.id for subnet in private if subnet.default_route is None]
    if shut and facts.missing_endpoints:
        yield (
            f"privateSubnetIds: {', '.join(shut)} have no route to a NAT gateway, and the VPC has no endpoints for "
            f"{', '.join(facts.missing_endpoints)}; add a NAT gateway and a route to it, or set vpcEndpoints to all"
        )


def _rights(facts: AccountFacts) -> Iterator[str]:
    if facts.denied_actions:
        shown = ", ".join(facts.denied_actions[:_RIGHTS_SHOWN])
        more = len(facts.denied_actions) - _RIGHTS_SHOWN
        yield (
            f"permissions: {facts.caller_arn} may not {shown}{f' and {more} more' if more > 0 else ''}; ask the "
            "account's administrator to attach the policy in docs/deploy.md, or set checkAccount to false if a rule "
            "of your organisation is misread here"
        )


def _quotas(config: StackConfig, facts: AccountFacts) -> Iterator[str]:
    for quota in facts.quotas:
        needed = quota.needed(config)
        if needed and quota.used + needed > quota.value:
            yield (
                f"quota: {quota.title} is {quota.value:g}, others use {quota.used:g}, the stack needs {needed:g}; "
                f"ask in Service Quotas ({quota.service}, {quota.code}) in {config.region} for "
                f"{quota.used + needed:g} or more"
            )
