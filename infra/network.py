"""
Where the receiver stands in the network: subnets, ways out, and who may connect.

A VPC is made here unless one is given; of a given one nothing is changed but what its settings ask for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network

import attrs
import pulumi
import pulumi_aws as aws

from infra.policies import Grant, all_streams, document, trust

_ANYWHERE = "0.0.0.0/0"
_HTTPS = 443
_SUBNETS = 4
INTERFACE_SERVICES = ("ecr.api", "ecr.dkr", "logs", "states", "medical-imaging", "secretsmanager")
"""What the receiver calls beside S3 and DynamoDB, and HealthImaging for tools that run in the VPC."""


@attrs.frozen(kw_only=True)
class ExistingVpc:
    """A VPC that is the hospital's own."""

    vpc_id: str
    cidr: IPv4Network
    public_subnet_ids: Sequence[str]
    private_subnet_ids: Sequence[str]
    private_route_table_ids: Sequence[str]
    security_group_id: str


@attrs.frozen(kw_only=True)
class NewVpc:
    """
    A VPC to be made.

    Attributes:
        nat_gateways: OnePerAz, Single or None.

    """

    cidr: IPv4Network
    zones: Sequence[str]
    nat_gateways: str
    flow_logs: bool


@attrs.frozen(kw_only=True)
class NetworkArgs:
    """
    What a Network is made of.

    Attributes:
        endpoints: none, gateways or all.
        peers: networks outside the VPC that may connect.
        listener_port: where modalities connect.
        receiver_port: where the receiver listens.
        health_port: where the load balancer asks whether it lives.
        commitment_peers: addresses and ports that the receiver connects to.

    """

    vpc: ExistingVpc | NewVpc
    region: str
    endpoints: str
    peers: Sequence[IPv4Network]
    listener_port: int
    receiver_port: int
    health_port: int
    commitment_peers: Sequence[tuple[str, int]]
    log_retention_days: int
    kms_key_arn: str | None
    tags: Mapping[str, str]


class Network(pulumi.ComponentResource):
    """The VPC's parts that the receiver needs, and the rules of who may connect to whom."""

    vpc_id: pulumi.Output[str]
    public_subnet_ids: Sequence[pulumi.Input[str]]
    private_subnet_ids: Sequence[pulumi.Input[str]]
    load_balancer_security_group_id: pulumi.Output[str]
    receiver_security_group_id: pulumi.Output[str]

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("dicom-ahi:infra:Network", name, None, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        if isinstance(args.vpc, NewVpc):
            route_table_ids = self._make_vpc(args.vpc)
        else:
            self.vpc_id = pulumi.Output.from_input(args.vpc.vpc_id)
            self.public_subnet_ids = list(args.vpc.public_subnet_ids)
            self.private_subnet_ids = list(args.vpc.private_subnet_ids)
            route_table_ids = list(args.vpc.private_route_table_ids)
        self._make_security_groups(args.vpc)
        self._make_endpoints(route_table_ids)
        self._allow_ways_out()
        self.register_outputs(
            {
                "vpc_id": self.vpc_id,
                "private_subnet_ids": self.private_subnet_ids,
                "receiver_security_group_id": self.receiver_security_group_id,
            }
        )

    def _tags(self, what: str) -> dict[str, str]:
        return {**self._args.tags, "Name": f"{self._name}-{what}"}

    def _make_vpc(self, wanted: NewVpc) -> list[pulumi.Input[str]]:
        """Make the VPC with a public and a private subnet in each zone; return the private route tables."""
        self._vpc = aws.ec2.Vpc(
            f"{self._name}-vpc",
            cidr_block=str(wanted.cidr),
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags=self._tags("vpc"),
            opts=self._child,
        )
        self.vpc_id = self._vpc.id
        inside = pulumi.ResourceOptions(parent=self._vpc)
        aws.ec2.DefaultSecurityGroup(
            f"{self._name}-default", vpc_id=self.vpc_id, tags=self._tags("default-closed"), opts=inside
        )
        gateway = aws.ec2.InternetGateway(
            f"{self._name}-internet", vpc_id=self.vpc_id, tags=self._tags("internet"), opts=inside
        )
        public_routes = aws.ec2.RouteTable(
            f"{self._name}-public",
            vpc_id=self.vpc_id,
            routes=[aws.ec2.RouteTableRouteArgs(cidr_block=_ANYWHERE, gateway_id=gateway.id)],
            tags=self._tags("public"),
            opts=inside,
        )
        depth = 3 if len(wanted.zones) > _SUBNETS // 2 else 2
        parts = list(wanted.cidr.subnets(prefixlen_diff=depth))
        half = len(parts) // 2
        public, private, tables = [], [], []
        nat: aws.ec2.NatGateway | None = None
        for index, zone in enumerate(wanted.zones):
            letter = zone[-1]
            public_subnet = self._subnet(f"public-{letter}", zone, parts[half + index], public_routes.id)
            if wanted.nat_gateways == "OnePerAz" or (wanted.nat_gateways == "Single" and nat is None):
                nat = self._nat_gateway(letter, public_subnet, gateway)
            table = aws.ec2.RouteTable(
                f"{self._name}-private-{letter}",
                vpc_id=self.vpc_id,
                routes=[aws.ec2.RouteTableRouteArgs(cidr_block=_ANYWHERE, nat_gateway_id=nat.id)] if nat else [],
                tags=self._tags(f"private-{letter}"),
                opts=inside,
            )
            private.append(self._subnet(f"private-{letter}", zone, parts[index], table.id).id)
            public.append(public_subnet.id)
            tables.append(table.id)
        self.public_subnet_ids, self.private_subnet_ids = public, private
        if wanted.flow_logs:
            self._record_flows()
        return tables

    def _subnet(self, what: str, zone: str, cidr: IPv4Network, table_id: pulumi.Input[str]) -> aws.ec2.Subnet:
        subnet = aws.ec2.Subnet(
            f"{self._name}-{what}",
            vpc_id=self.vpc_id,
            availability_zone=zone,
            cidr_block=str(cidr),
            map_public_ip_on_launch=False,
            tags=self._tags(what),
            opts=pulumi.ResourceOptions(parent=self._vpc),
        )
        aws.ec2.RouteTableAssociation(
            f"{self._name}-{what}",
            subnet_id=subnet.id,
            route_table_id=table_id,
            opts=pulumi.ResourceOptions(parent=subnet),
        )
        return subnet

    def _nat_gateway(self, letter: str, subnet: aws.ec2.Subnet, gateway: aws.ec2.InternetGateway) -> aws.ec2.NatGateway:
        address = aws.ec2.Eip(
            f"{self._name}-nat-{letter}",
            domain="vpc",
            tags=self._tags(f"nat-{letter}"),
            opts=pulumi.ResourceOptions(parent=self._vpc, depends_on=[gateway]),
        )
        return aws.ec2.NatGateway(
            f"{self._name}-nat-{letter}",
            allocation_id=address.id,
            subnet_id=subnet.id,
            tags=self._tags(f"nat-{letter}"),
            opts=pulumi.ResourceOptions(parent=self._vpc, depends_on=[gateway]),
        )

    def _record_flows(self) -> None:
        inside = pulumi.ResourceOptions(parent=self._vpc)
        logs = aws.cloudwatch.LogGroup(
            f"{self._name}-flows",
            name=f"/storescp/{self._name}/network-flows",
            retention_in_days=self._args.log_retention_days,
            kms_key_id=self._args.kms_key_arn,
            tags=self._args.tags,
            opts=inside,
        )
        role = aws.iam.Role(
            f"{self._name}-flows",
            description="Lets the VPC write its flow log",
            assume_role_policy=trust("vpc-flow-logs.amazonaws.com"),
            tags=self._args.tags,
            opts=inside,
        )
        aws.iam.RolePolicy(
            f"{self._name}-flows",
            role=role.id,
            policy=document(
                [Grant(actions=("logs:CreateLogStream", "logs:PutLogEvents"), resources=(logs.arn.apply(all_streams),))]
            ),
            opts=pulumi.ResourceOptions(parent=role),
        )
        aws.ec2.FlowLog(
            f"{self._name}-flows",
            vpc_id=self.vpc_id,
            traffic_type="ALL",
            log_destination=logs.arn,
            iam_role_arn=role.arn,
            tags=self._tags("flows"),
            opts=inside,
        )

    def _make_security_groups(self, vpc: ExistingVpc | NewVpc) -> None:
        args = self._args
        balancer = aws.ec2.SecurityGroup(
            f"{self._name}-load-balancer",
            vpc_id=self.vpc_id,
            description="DICOM modalities to the load balancer",
            tags=self._tags("load-balancer"),
            opts=self._child,
        )
        self.load_balancer_security_group_id = balancer.id
        if isinstance(vpc, ExistingVpc) and vpc.security_group_id:
            self.receiver_security_group_id = pulumi.Output.from_input(vpc.security_group_id)
        else:
            self.receiver_security_group_id = aws.ec2.SecurityGroup(
                f"{self._name}-receiver",
                vpc_id=self.vpc_id,
                description="Load balancer to the DICOM receiver",
                tags=self._tags("receiver"),
                opts=self._child,
            ).id
        for index, network in enumerate((vpc.cidr, *args.peers)):
            where = "the VPC" if index == 0 else f"peer {index}"
            aws.vpc.SecurityGroupIngressRule(
                f"{self._name}-from-{'vpc' if index == 0 else f'peer-{index}'}",
                security_group_id=balancer.id,
                description=f"DICOM from {where}",
                ip_protocol="tcp",
                from_port=args.listener_port,
                to_port=args.listener_port,
                cidr_ipv4=str(network),
                tags=self._tags(f"from {where}"),
                opts=self._child,
            )
        for what, port in (("dicom", args.receiver_port), ("health", args.health_port)):
            aws.vpc.SecurityGroupEgressRule(
                f"{self._name}-to-receiver-{what}",
                security_group_id=balancer.id,
                description=f"Load balancer to receiver: {what}",
                ip_protocol="tcp",
                from_port=port,
                to_port=port,
                referenced_security_group_id=self.receiver_security_group_id,
                tags=self._tags(f"to-receiver-{what}"),
                opts=self._child,
            )
            aws.vpc.SecurityGroupIngressRule(
                f"{self._name}-from-load-balancer-{what}",
                security_group_id=self.receiver_security_group_id,
                description=f"From the load balancer: {what}",
                ip_protocol="tcp",
                from_port=port,
                to_port=port,
                referenced_security_group_id=balancer.id,
                tags=self._tags(f"from-load-balancer-{what}"),
                opts=self._child,
            )

    def _make_endpoints(self, route_table_ids: Sequence[pulumi.Input[str]]) -> None:
        args = self._args
        self._gateway_prefix_lists: dict[str, pulumi.Output[str]] = {}
        self._endpoint_group_id: pulumi.Output[str] | None = None
        if args.endpoints == "none":
            return
        for service in ("s3", "dynamodb"):
            endpoint = aws.ec2.VpcEndpoint(
                f"{self._name}-{service}",
                vpc_id=self.vpc_id,
                service_name=f"com.amazonaws.{args.region}.{service}",
                vpc_endpoint_type="Gateway",
                route_table_ids=list(route_table_ids),
                tags=self._tags(service),
                opts=self._child,
            )
            self._gateway_prefix_lists[service] = endpoint.prefix_list_id
        if args.endpoints != "all":
            return
        group = aws.ec2.SecurityGroup(
            f"{self._name}-endpoints",
            vpc_id=self.vpc_id,
            description="Receiver to AWS services inside the VPC",
            tags=self._tags("endpoints"),
            opts=self._child,
        )
        self._endpoint_group_id = group.id
        aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-endpoints",
            security_group_id=group.id,
            description="AWS services, from the receiver",
            ip_protocol="tcp",
            from_port=_HTTPS,
            to_port=_HTTPS,
            referenced_security_group_id=self.receiver_security_group_id,
            tags=self._tags("endpoints"),
            opts=self._child,
        )
        for service in INTERFACE_SERVICES:
            aws.ec2.VpcEndpoint(
                f"{self._name}-{service.replace('.', '-')}",
                vpc_id=self.vpc_id,
                service_name=f"com.amazonaws.{args.region}.{service}",
                vpc_endpoint_type="Interface",
                private_dns_enabled=True,
                subnet_ids=list(self.private_subnet_ids),
                security_group_ids=[group.id],
                tags=self._tags(service),
                opts=self._child,
            )

    def _allow_ways_out(self) -> None:
        """Let the receiver reach the services it calls and the peers that wait for storage commitment, nothing else."""
        if self._endpoint_group_id is None:
            # The addresses of AWS services are many and change; the protocol is TLS and the callee proves its name.
            self._way_out("services", "AWS services", _HTTPS, cidr_ipv4=_ANYWHERE)
        else:
            self._way_out("services", "AWS services", _HTTPS, referenced_security_group_id=self._endpoint_group_id)
            for service, prefix_list in self._gateway_prefix_lists.items():
                self._way_out(service, f"Gateway of {service}", _HTTPS, prefix_list_id=prefix_list)
        for index, (address, port) in enumerate(dict.fromkeys(self._args.commitment_peers), start=1):
            self._way_out(f"commitment-{index}", "Storage commitment results", port, cidr_ipv4=f"{address}/32")

    def _way_out(self, what: str, description: str, port: int, **destination: pulumi.Input[str]) -> None:
        aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-to-{what}",
            aws.vpc.SecurityGroupEgressRuleArgs(
                security_group_id=self.receiver_security_group_id,
                description=description,
                ip_protocol="tcp",
                from_port=port,
                to_port=port,
                tags=self._tags(f"to-{what}"),
                **destination,
            ),
            opts=self._child,
        )
