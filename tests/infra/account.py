"""
A made-up AWS account for the mocks: what look-ups find, and what each kind of resource answers once it is made.
"""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
from pulumi.runtime import mocks as pulumi_mocks

from tests.infra.harness import plain

ACCOUNT = "123456789012"
CALLER = f"arn:aws:sts::{ACCOUNT}:assumed-role/Deployer/somebody"
VPC = "vpc-0a1b2c3d4e5f60718"
DATA_STORE = "0123456789abcdef0123456789abcdef"


@attrs.frozen
class FakeSubnet:
    zone: str
    vpc: str = VPC
    routes: tuple[dict[str, str], ...] = ({"cidrBlock": "0.0.0.0/0", "natGatewayId": "nat-1", "gatewayId": ""},)


def _subnets(region: str) -> dict[str, FakeSubnet]:
    internet = ({"cidrBlock": "0.0.0.0/0", "gatewayId": "igw-1", "natGatewayId": ""},)
    return {
        "subnet-0aaaaaaaaaaaaaaa1": FakeSubnet(f"{region}a"),
        "subnet-0aaaaaaaaaaaaaaa2": FakeSubnet(f"{region}b"),
        "subnet-0bbbbbbbbbbbbbbb1": FakeSubnet(f"{region}a", routes=internet),
        "subnet-0bbbbbbbbbbbbbbb2": FakeSubnet(f"{region}b", routes=internet),
        "subnet-0ccccccccccccccc1": FakeSubnet(f"{region}a", vpc="vpc-0ffffffff"),
        "subnet-0ddddddddddddddd1": FakeSubnet(f"{region}a", routes=()),
        "subnet-0ddddddddddddddd2": FakeSubnet(f"{region}b", routes=()),
    }


@attrs.define
class FakeAccount:
    """What look-ups find; change a field to make a look-up find something else."""

    region: str = "eu-west-1"
    caller: str = CALLER
    has_credentials: bool = True
    subnets: dict[str, FakeSubnet] = attrs.Factory(lambda self: _subnets(self.region), takes_self=True)
    vpcs: tuple[str, ...] = (VPC,)
    addresses: tuple[str, ...] = ()
    own_vpcs: tuple[str, ...] = ()
    endpoints: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    may_simulate: bool = True
    quotas: dict[str, float] = attrs.Factory(
        lambda: {"L-F678F1CE": 5, "L-0263D0A3": 5, "L-3032A538": 100, "L-B99A9384": 1000, "L-23763099": 100}
    )
    asked: list[tuple[str, dict[str, Any]]] = attrs.Factory(list)

    def call(self, token: str, args: dict[str, Any]) -> dict[str, Any] | None:
        """Answer a look-up; None is what the provider calls an error."""
        self.asked.append((token, args))
        name = re.sub(r"(?=[A-Z])", "_", token.rpartition(":")[2]).lower()
        answer = getattr(self, f"_{name}")
        found: dict[str, Any] | None = answer(args)
        return found

    def _get_caller_identity(self, _: dict[str, Any]) -> dict[str, Any] | None:
        return {"accountId": ACCOUNT, "arn": self.caller, "userId": "x"} if self.has_credentials else None

    def _get_availability_zones(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"names": [f"{self.region}{letter}" for letter in "abc"]}

    def _get_vpc(self, args: dict[str, Any]) -> dict[str, Any] | None:
        if args["id"] not in self.vpcs:
            return None
        return {"id": args["id"], "cidrBlock": "10.20.0.0/16", "cidrBlockAssociations": [{"cidrBlock": "10.21.0.0/16"}]}

    def _get_vpcs(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"ids": list(self.own_vpcs if args.get("tags") else (*self.vpcs, *self.own_vpcs))}

    def _get_eips(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"allocationIds": [] if args.get("tags") else list(self.addresses), "publicIps": []}

    def _get_subnets(self, args: dict[str, Any]) -> dict[str, Any]:
        wanted = args["filters"][0]["values"]
        return {"ids": [subnet for subnet in wanted if subnet in self.subnets]}

    def _get_subnet(self, args: dict[str, Any]) -> dict[str, Any]:
        subnet = self.subnets[args["id"]]
        return {"id": args["id"], "vpcId": subnet.vpc, "availabilityZone": subnet.zone}

    def _get_route_tables(self, args: dict[str, Any]) -> dict[str, Any]:
        (wanted,) = args["filters"]
        return {"ids": [f"rtb-of-{wanted['values'][0]}"] if wanted["name"] == "association.subnet-id" else []}

    def _get_route_table(self, args: dict[str, Any]) -> dict[str, Any]:
        subnet = self.subnets[args["routeTableId"].removeprefix("rtb-of-")]
        return {"routeTableId": args["routeTableId"], "routes": list(subnet.routes)}

    def _get_vpc_endpoint(self, args: dict[str, Any]) -> dict[str, Any] | None:
        service = args["serviceName"].split(".", 3)[3]
        return {"id": "vpce-1"} if service in self.endpoints else None

    def _get_session_context(self, args: dict[str, Any]) -> dict[str, Any]:
        assert args["arn"] == self.caller
        return {"issuerArn": f"arn:aws:iam::{ACCOUNT}:role/Deployer"}

    def _get_principal_policy_simulation(self, args: dict[str, Any]) -> dict[str, Any] | None:
        if not self.may_simulate:
            return None
        results = [{"actionName": name, "allowed": name not in self.denied} for name in args["actionNames"]]
        return {"allAllowed": all(result["allowed"] for result in results), "results": results}

    def _get_service_quota(self, args: dict[str, Any]) -> dict[str, Any] | None:
        value = self.quotas.get(args["quotaCode"])
        return {"value": value} if value is not None else None


class AccountMocks(pulumi_mocks.Mocks):
    """Answers the program; a resource type that nobody has thought about is an error."""

    def __init__(self, account: FakeAccount | None = None, *, preview: bool = False) -> None:
        self.account = account or FakeAccount()
        self.preview = preview

    def call(self, args: pulumi_mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        answer = self.account.call(args.token, plain(args.args))
        return (answer, []) if answer is not None else ({}, [("", "not found, or not allowed")])

    def new_resource(self, args: pulumi_mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        inputs = plain(args.inputs)
        if args.typ.startswith("dicom-ahi:infra:"):
            return None, {}
        made = self.answer(args.typ, args.name, inputs)
        return (None, inputs) if self.preview else (made[0], {**inputs, **made[1]})

    def answer(self, typ: str, name: str, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the id of a new resource and what it tells beside its inputs."""
        region, account = self.account.region, ACCOUNT
        physical = inputs.get("name") or inputs.get("bucket") or f"{name}-1a2b3c4"
        arn = f"arn:aws:{{}}:{region}:{account}:{{}}"
        known: dict[str, dict[str, Any]] = {
            "aws:appautoscaling/policy:Policy": {},
            "aws:appautoscaling/target:Target": {},
            "aws:cloudcontrol/resource:Resource": {
                "properties": json.dumps(
                    {
                        "DatastoreId": DATA_STORE,
                        "DatastoreArn": arn.format("medical-imaging", f"datastore/{DATA_STORE}"),
                    }
                )
            },
            "aws:cloudwatch/dashboard:Dashboard": {},
            "aws:cloudwatch/logGroup:LogGroup": {"arn": arn.format("logs", f"log-group:{physical}"), "name": physical},
            "aws:cloudwatch/metricAlarm:MetricAlarm": {"arn": arn.format("cloudwatch", f"alarm:{physical}")},
            "aws:dynamodb/table:Table": {"arn": arn.format("dynamodb", f"table/{physical}"), "name": physical},
            "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": {},
            "aws:ec2/eip:Eip": {"publicIp": "198.51.100.7"},
            "aws:ec2/flowLog:FlowLog": {},
            "aws:ec2/internetGateway:InternetGateway": {},
            "aws:ec2/natGateway:NatGateway": {},
            "aws:ec2/routeTable:RouteTable": {},
            "aws:ec2/routeTableAssociation:RouteTableAssociation": {},
            "aws:ec2/securityGroup:SecurityGroup": {},
            "aws:ec2/subnet:Subnet": {},
            "aws:ec2/vpc:Vpc": {},
            "aws:ec2/vpcEndpoint:VpcEndpoint": {"prefixListId": f"pl-{name}"},
            "aws:ecr/lifecyclePolicy:LifecyclePolicy": {},
            "aws:ecr/repository:Repository": {
                "arn": arn.format("ecr", f"repository/{physical}"),
                "name": physical,
                "repositoryUrl": f"{account}.dkr.ecr.{region}.example/{physical}",
            },
            "aws:ecr/repositoryPolicy:RepositoryPolicy": {},
            "aws:ecs/cluster:Cluster": {"arn": arn.format("ecs", f"cluster/{physical}"), "name": physical},
            "aws:ecs/service:Service": {"name": physical},
            "aws:ecs/taskDefinition:TaskDefinition": {"arn": arn.format("ecs", f"task-definition/{physical}:1")},
            "aws:iam/role:Role": {"arn": f"arn:aws:iam::{account}:role/{physical}", "name": physical},
            "aws:iam/rolePolicy:RolePolicy": {},
            "aws:kms/key:Key": {"arn": arn.format("kms", "key/1234")},
            "aws:lambda/function:Function": {"arn": arn.format("lambda", f"function:{physical}"), "name": physical},
            "aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig": {},
            "aws:lb/listener:Listener": {},
            "aws:lb/loadBalancer:LoadBalancer": {
                "arn": arn.format("elasticloadbalancing", f"loadbalancer/net/{physical}/1"),
                "arnSuffix": f"net/{physical}/1",
                "dnsName": f"{physical}.elb.{region}.example",
            },
            "aws:lb/targetGroup:TargetGroup": {
                "arn": arn.format("elasticloadbalancing", f"targetgroup/{physical}/1"),
                "arnSuffix": f"targetgroup/{physical}/1",
            },
            "aws:s3/bucket:Bucket": {"arn": f"arn:aws:s3:::{physical}", "bucket": physical},
            "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": {},
            "aws:s3/bucketOwnershipControls:BucketOwnershipControls": {},
            "aws:s3/bucketPolicy:BucketPolicy": {},
            "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": {},
            "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": {},
            "aws:s3/bucketVersioning:BucketVersioning": {},
            "aws:scheduler/schedule:Schedule": {},
            "aws:sfn/stateMachine:StateMachine": {"arn": arn.format("states", f"stateMachine:{physical}")},
            "aws:sns/topic:Topic": {"arn": arn.format("sns", physical)},
            "aws:sns/topicPolicy:TopicPolicy": {},
            "aws:sns/topicSubscription:TopicSubscription": {},
            "aws:sqs/queue:Queue": {
                "arn": arn.format("sqs", physical),
                "url": f"https://sqs.example/{physical}",
                "name": physical,
            },
            "aws:sqs/queuePolicy:QueuePolicy": {},
            "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": {},
            "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": {},
            "awsx:ecr:Image": {"imageUri": f"{inputs.get('repositoryUrl')}@sha256:{'0' * 64}"},
        }
        if typ not in known:
            raise AssertionError(f"{typ} is new: decide what it answers, what is asserted of it and who may make it")
        ids = {"aws:s3/bucket:Bucket": physical, "aws:iam/role:Role": physical}
        prefix = {
            "aws:ec2/vpc:Vpc": "vpc",
            "aws:ec2/subnet:Subnet": "subnet",
            "aws:ec2/securityGroup:SecurityGroup": "sg",
        }
        return ids.get(typ, f"{prefix.get(typ, 'id')}-{name}"), known[typ]
