"""
The receiver as a service: load balancer, tasks, scaling, and what they may do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import pulumi
import pulumi_aws as aws

from infra.application import GRACE_SECONDS, HEALTH_PORT, WORK_DIR, Environment
from infra.policies import Grant, all_streams, document, trust

TLS_POLICY = "ELBSecurityPolicy-TLS13-1-2-2021-06"
"""TLS 1.2 and 1.3 only."""
_STOP_SECONDS = 120
_DEREGISTRATION_SECONDS = 120
_MIN_IDLE_SECONDS, _MAX_IDLE_SECONDS = 350, 6000
_CPU_TARGET_PERCENT = 50
_COOLDOWN_SECONDS = 60
_OPEN_FILES = 65536
USER = "10001:10001"
_CONTAINER = "receiver"
_VOLUME = "work"


@attrs.frozen(kw_only=True)
class ReceiverArgs:
    """
    What a Receiver is made of.

    Attributes:
        listener_port: where modalities connect.
        receiver_port: where the container listens.
        certificate_arn: TLS at the load balancer; None is TCP.
        network_timeout: seconds that an association may be silent.
        environment: variables of the container.
        secrets: variables and the secrets they are filled from.
        grants: what our code may do, but for what ECS itself asks.

    """

    account_id: str
    region: str
    vpc_id: pulumi.Input[str]
    load_balancer_subnet_ids: Sequence[pulumi.Input[str]]
    task_subnet_ids: Sequence[pulumi.Input[str]]
    load_balancer_security_group_id: pulumi.Input[str]
    task_security_group_id: pulumi.Input[str]
    internet_facing: bool
    listener_port: int
    receiver_port: int
    certificate_arn: str | None
    network_timeout: int
    access_log_bucket: pulumi.Input[str] | None
    access_logs_ready: Sequence[pulumi.Resource]
    image_uri: pulumi.Input[str]
    repository_arn: pulumi.Input[str]
    cpu_architecture: str
    cpu: int
    memory: int
    ephemeral_storage: int
    desired_count: int
    max_count: int
    environment: Environment
    secrets: Mapping[str, str]
    grants: Sequence[Grant]
    log_retention_days: int
    kms_key_arn: str | None
    protect: bool
    tags: Mapping[str, str]


class Receiver(pulumi.ComponentResource):
    """The load balancer that modalities connect to, and the tasks behind it."""

    dns_name: pulumi.Output[str]
    load_balancer: aws.lb.LoadBalancer
    target_group: aws.lb.TargetGroup
    cluster: aws.ecs.Cluster
    service: aws.ecs.Service
    log_group: aws.cloudwatch.LogGroup

    def __init__(self, name: str, args: ReceiverArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("dicom-ahi:infra:Receiver", name, None, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        listener = self._load_balancer()
        self.log_group = aws.cloudwatch.LogGroup(
            f"{name}-receiver",
            name=f"/storescp/{name}/receiver",
            retention_in_days=args.log_retention_days,
            kms_key_id=args.kms_key_arn,
            tags=args.tags,
            opts=self._child,
        )
        self.cluster = aws.ecs.Cluster(f"{name}-receiver", tags=args.tags, opts=self._child)
        self._service(self._task(), listener)
        self._scaling()
        self.dns_name = self.load_balancer.dns_name
        self.register_outputs({"dns_name": self.dns_name, "log_group": self.log_group.name})

    def _load_balancer(self) -> aws.lb.Listener:
        args = self._args
        logs = None
        if args.access_log_bucket is not None:
            logs = aws.lb.LoadBalancerAccessLogsArgs(bucket=args.access_log_bucket, enabled=True)
        self.load_balancer = aws.lb.LoadBalancer(
            f"{self._name}-dicom",
            load_balancer_type="network",
            internal=not args.internet_facing,
            subnets=list(args.load_balancer_subnet_ids),
            # none could be added later without a new load balancer and a new name to type into every modality
            security_groups=[args.load_balancer_security_group_id],
            enforce_security_group_inbound_rules_on_private_link_traffic="on",
            enable_cross_zone_load_balancing=True,
            enable_deletion_protection=args.protect,
            access_logs=logs,
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect, depends_on=list(args.access_logs_ready)),
        )
        self.target_group = aws.lb.TargetGroup(
            f"{self._name}-dicom",
            vpc_id=args.vpc_id,
            target_type="ip",
            protocol="TCP",
            port=args.receiver_port,
            # admission rules of the receiver and security groups need to see who really calls
            preserve_client_ip="true",
            # associations that are open when a task is told to stop go on until they end or its grace does
            deregistration_delay=_DEREGISTRATION_SECONDS,
            connection_termination=False,
            health_check=aws.lb.TargetGroupHealthCheckArgs(
                enabled=True,
                protocol="HTTP",
                port=str(HEALTH_PORT),
                path="/livez",
                matcher="200",
                interval=10,
                timeout=6,
                healthy_threshold=2,
                unhealthy_threshold=3,
            ),
            tags=args.tags,
            opts=self._child,
        )
        forward = aws.lb.ListenerDefaultActionArgs(type="forward", target_group_arn=self.target_group.arn)
        inside = pulumi.ResourceOptions(parent=self.load_balancer)
        if args.certificate_arn is None:
            return aws.lb.Listener(
                f"{self._name}-dicom",
                load_balancer_arn=self.load_balancer.arn,
                port=args.listener_port,
                protocol="TCP",
                tcp_idle_timeout_seconds=idle_seconds(args.network_timeout),
                default_actions=[forward],
                tags=args.tags,
                opts=inside,
            )
        return aws.lb.Listener(
            f"{self._name}-dicom",
            load_balancer_arn=self.load_balancer.arn,
            port=args.listener_port,
            protocol="TLS",
            certificate_arn=args.certificate_arn,
            ssl_policy=TLS_POLICY,
            default_actions=[forward],
            tags=args.tags,
            opts=inside,
        )

    def _task(self) -> aws.ecs.TaskDefinition:
        args = self._args
        return aws.ecs.TaskDefinition(
            f"{self._name}-receiver",
            family=f"{self._name}-receiver",
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu=str(args.cpu),
            memory=str(args.memory),
            runtime_platform=aws.ecs.TaskDefinitionRuntimePlatformArgs(
                operating_system_family="LINUX", cpu_architecture=args.cpu_architecture
            ),
            ephemeral_storage=aws.ecs.TaskDefinitionEphemeralStorageArgs(size_in_gib=args.ephemeral_storage),
            volumes=[aws.ecs.TaskDefinitionVolumeArgs(name=_VOLUME)],
            task_role_arn=self._task_role().arn,
            execution_role_arn=self._execution_role().arn,
            container_definitions=pulumi.Output.json_dumps([self._container()]),
            tags=args.tags,
            opts=self._child,
        )

    def _container(self) -> dict[str, object]:
        args = self._args
        return {
            "name": _CONTAINER,
            "image": args.image_uri,
            "essential": True,
            "command": ["serve"],
            "user": USER,
            "readonlyRootFilesystem": True,
            "stopTimeout": _STOP_SECONDS,
            "linuxParameters": {"initProcessEnabled": True, "capabilities": {"drop": ["ALL"]}},
            "ulimits": [{"name": "nofile", "softLimit": _OPEN_FILES, "hardLimit": _OPEN_FILES}],
            "portMappings": [{"containerPort": port, "protocol": "tcp"} for port in (args.receiver_port, HEALTH_PORT)],
            "mountPoints": [{"sourceVolume": _VOLUME, "containerPath": WORK_DIR, "readOnly": False}],
            "environment": [{"name": name, "value": value} for name, value in sorted(args.environment.items())],
            "secrets": [{"name": name, "valueFrom": arn} for name, arn in sorted(args.secrets.items())],
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": self.log_group.name,
                    "awslogs-region": args.region,
                    "awslogs-stream-prefix": _CONTAINER,
                    # receiving does not stop when logs cannot be written
                    "mode": "non-blocking",
                    "max-buffer-size": "25m",
                },
            },
        }

    def _task_role(self) -> aws.iam.Role:
        args = self._args
        tasks = pulumi.Output.format("arn:aws:ecs:{0}:{1}:task/{2}/*", args.region, args.account_id, self.cluster.name)
        protection = Grant(actions=("ecs:GetTaskProtection", "ecs:UpdateTaskProtection"), resources=(tasks,))
        return self._role("receiver", "What the receiver's own code may do", [*args.grants, protection])

    def _execution_role(self) -> aws.iam.Role:
        args = self._args
        grants = [
            Grant(
                actions=("ecr:GetAuthorizationToken",),
                resources=("*",),
                reason="a token is for the whole registry; the action knows no resource",
            ),
            Grant(
                actions=("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
                resources=(args.repository_arn,),
            ),
            Grant(
                actions=("logs:CreateLogStream", "logs:PutLogEvents"),
                resources=(self.log_group.arn.apply(all_streams),),
            ),
        ]
        if args.secrets:
            grants.append(
                Grant(actions=("secretsmanager:GetSecretValue",), resources=tuple(sorted(args.secrets.values())))
            )
            if args.kms_key_arn:
                grants.append(
                    Grant(
                        actions=("kms:Decrypt",),
                        resources=(args.kms_key_arn,),
                        conditions={"StringLike": {"kms:ViaService": "secretsmanager.*.amazonaws.com"}},
                    )
                )
        return self._role("execution", "Lets ECS fetch the image and the secrets and write the receiver's log", grants)

    def _role(self, what: str, description: str, grants: Sequence[Grant]) -> aws.iam.Role:
        role = aws.iam.Role(
            f"{self._name}-{what}",
            description=description,
            assume_role_policy=trust(
                "ecs-tasks.amazonaws.com", StringEquals={"aws:SourceAccount": self._args.account_id}
            ),
            tags=self._args.tags,
            opts=self._child,
        )
        aws.iam.RolePolicy(
            f"{self._name}-{what}",
            role=role.id,
            policy=document(grants),
            opts=pulumi.ResourceOptions(parent=role),
        )
        return role

    def _service(self, task: aws.ecs.TaskDefinition, listener: aws.lb.Listener) -> None:
        args = self._args
        self.service = aws.ecs.Service(
            f"{self._name}-receiver",
            cluster=self.cluster.arn,
            task_definition=task.arn,
            launch_type="FARGATE",
            platform_version="LATEST",
            desired_count=args.desired_count,
            deployment_minimum_healthy_percent=100,
            deployment_maximum_percent=200,
            deployment_circuit_breaker=aws.ecs.ServiceDeploymentCircuitBreakerArgs(enable=True, rollback=True),
            health_check_grace_period_seconds=60,
            enable_execute_command=False,
            network_configuration=aws.ecs.ServiceNetworkConfigurationArgs(
                subnets=list(args.task_subnet_ids),
                security_groups=[args.task_security_group_id],
                assign_public_ip=False,
            ),
            load_balancers=[
                aws.ecs.ServiceLoadBalancerArgs(
                    target_group_arn=self.target_group.arn,
                    container_name=_CONTAINER,
                    container_port=args.receiver_port,
                )
            ],
            propagate_tags="SERVICE",
            # the values to type into the modality are printed once somebody answers there
            wait_for_steady_state=True,
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[listener], ignore_changes=["desiredCount"]),
        )

    def _scaling(self) -> None:
        args = self._args
        target = aws.appautoscaling.Target(
            f"{self._name}-receiver",
            service_namespace="ecs",
            scalable_dimension="ecs:service:DesiredCount",
            resource_id=pulumi.Output.format("service/{0}/{1}", self.cluster.name, self.service.name),
            min_capacity=args.desired_count,
            max_capacity=args.max_count,
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self.service),
        )
        aws.appautoscaling.Policy(
            f"{self._name}-receiver-cpu",
            policy_type="TargetTrackingScaling",
            service_namespace=target.service_namespace,
            scalable_dimension=target.scalable_dimension,
            resource_id=target.resource_id,
            target_tracking_scaling_policy_configuration=(
                aws.appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationArgs(
                    target_value=_CPU_TARGET_PERCENT,
                    scale_in_cooldown=_COOLDOWN_SECONDS,
                    scale_out_cooldown=_COOLDOWN_SECONDS,
                    predefined_metric_specification=aws.appautoscaling.PolicyTargetTrackingScalingPolicyConfigurationPredefinedMetricSpecificationArgs(
                        predefined_metric_type="ECSServiceAverageCPUUtilization"
                    ),
                )
            ),
            opts=pulumi.ResourceOptions(parent=target),
        )


def idle_seconds(network_timeout: int) -> int:
    """Return after how long the load balancer forgets a silent connection: never before the receiver does."""
    return min(_MAX_IDLE_SECONDS, max(_MIN_IDLE_SECONDS, network_timeout + GRACE_SECONDS))
