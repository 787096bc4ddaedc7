"""
What the person who runs `pulumi up` must be allowed to do.

For each kind of resource: to make, read, change and remove it; and what the look-ups before ask.

`docs/deploy.md` holds the same as a policy to attach; tests compare it with this table, and this table with the
resources that the program makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def _actions(service: str, names: str) -> tuple[str, ...]:
    return tuple(f"{service}:{name}" for name in names.split())


_BUCKET = _actions(
    "s3",
    "CreateBucket DeleteBucket ListBucket GetBucketLocation GetBucketTagging PutBucketTagging GetBucketAcl "
    "GetBucketCORS GetBucketWebsite GetBucketVersioning GetAccelerateConfiguration GetBucketRequestPayment "
    "GetBucketLogging GetLifecycleConfiguration GetReplicationConfiguration GetEncryptionConfiguration "
    "GetBucketObjectLockConfiguration GetBucketPolicy",
)
_LISTENER_TAGS = _actions("elasticloadbalancing", "AddTags RemoveTags DescribeTags")
_EC2_TAGS = _actions("ec2", "CreateTags DeleteTags")
_RULE = (*_actions("ec2", "DescribeSecurityGroupRules ModifySecurityGroupRules"), *_EC2_TAGS)
_SERVICE_ROLE = _actions("iam", "CreateServiceLinkedRole")

RESOURCE_ACTIONS: Mapping[str, tuple[str, ...]] = {
    "aws:appautoscaling/policy:Policy": _actions(
        "application-autoscaling", "PutScalingPolicy DeleteScalingPolicy DescribeScalingPolicies"
    ),
    "aws:appautoscaling/target:Target": _actions(
        "application-autoscaling",
        "RegisterScalableTarget DeregisterScalableTarget DescribeScalableTargets TagResource UntagResource "
        "ListTagsForResource",
    )
    + _SERVICE_ROLE,
    "aws:cloudcontrol/resource:Resource": _actions(
        "cloudformation",
        "CreateResource GetResource UpdateResource DeleteResource GetResourceRequestStatus DescribeType",
    )
    + _actions(
        "medical-imaging", "CreateDatastore GetDatastore DeleteDatastore TagResource UntagResource ListTagsForResource"
    ),
    "aws:cloudwatch/dashboard:Dashboard": _actions("cloudwatch", "PutDashboard GetDashboard DeleteDashboards"),
    "aws:cloudwatch/logGroup:LogGroup": _actions(
        "logs",
        "CreateLogGroup DeleteLogGroup DescribeLogGroups PutRetentionPolicy DeleteRetentionPolicy AssociateKmsKey "
        "DisassociateKmsKey TagResource UntagResource ListTagsForResource",
    ),
    "aws:cloudwatch/metricAlarm:MetricAlarm": _actions(
        "cloudwatch", "PutMetricAlarm DeleteAlarms DescribeAlarms TagResource UntagResource ListTagsForResource"
    ),
    "aws:dynamodb/table:Table": _actions(
        "dynamodb",
        "CreateTable DeleteTable DescribeTable UpdateTable DescribeContinuousBackups UpdateContinuousBackups "
        "DescribeTimeToLive TagResource UntagResource ListTagsOfResource",
    ),
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": _actions(
        "ec2", "DescribeSecurityGroups RevokeSecurityGroupIngress RevokeSecurityGroupEgress"
    )
    + _EC2_TAGS,
    "aws:ec2/eip:Eip": _actions("ec2", "AllocateAddress ReleaseAddress DescribeAddresses DescribeAddressesAttribute")
    + _EC2_TAGS,
    "aws:ec2/flowLog:FlowLog": _actions("ec2", "CreateFlowLogs DeleteFlowLogs DescribeFlowLogs") + _EC2_TAGS,
    "aws:ec2/internetGateway:InternetGateway": _actions(
        "ec2",
        "CreateInternetGateway DeleteInternetGateway DescribeInternetGateways AttachInternetGateway "
        "DetachInternetGateway",
    )
    + _EC2_TAGS,
    "aws:ec2/natGateway:NatGateway": _actions("ec2", "CreateNatGateway DeleteNatGateway DescribeNatGateways")
    + _EC2_TAGS,
    "aws:ec2/routeTable:RouteTable": _actions(
        "ec2", "CreateRouteTable DeleteRouteTable DescribeRouteTables CreateRoute ReplaceRoute DeleteRoute"
    )
    + _EC2_TAGS,
    "aws:ec2/routeTableAssociation:RouteTableAssociation": _actions(
        "ec2", "AssociateRouteTable DisassociateRouteTable ReplaceRouteTableAssociation"
    ),
    "aws:ec2/securityGroup:SecurityGroup": _actions(
        "ec2",
        "CreateSecurityGroup DeleteSecurityGroup DescribeSecurityGroups RevokeSecurityGroupEgress "
        "DescribeNetworkInterfaces",
    )
    + _EC2_TAGS,
    "aws:ec2/subnet:Subnet": _actions("ec2", "CreateSubnet DeleteSubnet DescribeSubnets ModifySubnetAttribute")
    + _EC2_TAGS,
    "aws:ec2/vpc:Vpc": _actions(
        "ec2",
        "CreateVpc DeleteVpc DescribeVpcs DescribeVpcAttribute ModifyVpcAttribute DescribeNetworkAcls",
    )
    + _EC2_TAGS,
    "aws:ec2/vpcEndpoint:VpcEndpoint": _actions(
        "ec2",
        "CreateVpcEndpoint DeleteVpcEndpoints DescribeVpcEndpoints ModifyVpcEndpoint DescribePrefixLists",
    )
    + _EC2_TAGS,
    "aws:ecr/lifecyclePolicy:LifecyclePolicy": _actions(
        "ecr", "PutLifecyclePolicy GetLifecyclePolicy DeleteLifecyclePolicy"
    ),
    "aws:ecr/repository:Repository": _actions(
        "ecr",
        "CreateRepository DeleteRepository DescribeRepositories PutImageScanningConfiguration PutImageTagMutability "
        "TagResource UntagResource ListTagsForResource",
    ),
    "aws:ecr/repositoryPolicy:RepositoryPolicy": _actions(
        "ecr", "SetRepositoryPolicy GetRepositoryPolicy DeleteRepositoryPolicy"
    ),
    "aws:ecs/cluster:Cluster": _actions("ecs", "CreateCluster DeleteCluster DescribeClusters TagResource UntagResource")
    + _SERVICE_ROLE,
    "aws:ecs/service:Service": _actions(
        "ecs", "CreateService DeleteService DescribeServices UpdateService DescribeServiceDeployments"
    ),
    "aws:ecs/taskDefinition:TaskDefinition": (
        *_actions("ecs", "RegisterTaskDefinition DeregisterTaskDefinition DescribeTaskDefinition"),
        "iam:PassRole",
    ),
    "aws:iam/role:Role": _actions(
        "iam",
        "CreateRole DeleteRole GetRole UpdateRole UpdateRoleDescription UpdateAssumeRolePolicy TagRole UntagRole "
        "ListRolePolicies ListAttachedRolePolicies ListInstanceProfilesForRole",
    ),
    "aws:iam/rolePolicy:RolePolicy": _actions("iam", "PutRolePolicy GetRolePolicy DeleteRolePolicy"),
    "aws:kms/key:Key": _actions(
        "kms",
        "CreateKey DescribeKey ScheduleKeyDeletion GetKeyPolicy PutKeyPolicy EnableKeyRotation GetKeyRotationStatus "
        "ListResourceTags TagResource UntagResource UpdateKeyDescription",
    ),
    "aws:lambda/function:Function": (
        *_actions(
            "lambda",
            "CreateFunction DeleteFunction GetFunction GetFunctionConfiguration UpdateFunctionCode "
            "UpdateFunctionConfiguration GetFunctionCodeSigningConfig ListVersionsByFunction TagResource "
            "UntagResource ListTags",
        ),
        "iam:PassRole",
    ),
    "aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig": _actions(
        "lambda",
        "PutFunctionEventInvokeConfig GetFunctionEventInvokeConfig UpdateFunctionEventInvokeConfig "
        "DeleteFunctionEventInvokeConfig",
    ),
    "aws:lb/listener:Listener": _actions(
        "elasticloadbalancing",
        "CreateListener DeleteListener DescribeListeners ModifyListener DescribeListenerAttributes "
        "ModifyListenerAttributes",
    )
    + _LISTENER_TAGS,
    "aws:lb/loadBalancer:LoadBalancer": _actions(
        "elasticloadbalancing",
        "CreateLoadBalancer DeleteLoadBalancer DescribeLoadBalancers DescribeLoadBalancerAttributes "
        "ModifyLoadBalancerAttributes SetSecurityGroups SetSubnets DescribeCapacityReservation",
    )
    + _LISTENER_TAGS
    + _SERVICE_ROLE,
    "aws:lb/targetGroup:TargetGroup": _actions(
        "elasticloadbalancing",
        "CreateTargetGroup DeleteTargetGroup DescribeTargetGroups ModifyTargetGroup DescribeTargetGroupAttributes "
        "ModifyTargetGroupAttributes DescribeTargetHealth",
    )
    + _LISTENER_TAGS,
    "aws:s3/bucket:Bucket": _BUCKET,
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": _actions(
        "s3", "PutLifecycleConfiguration GetLifecycleConfiguration"
    ),
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": _actions(
        "s3", "PutBucketOwnershipControls GetBucketOwnershipControls"
    ),
    "aws:s3/bucketPolicy:BucketPolicy": _actions("s3", "PutBucketPolicy GetBucketPolicy DeleteBucketPolicy"),
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": _actions(
        "s3", "PutBucketPublicAccessBlock GetBucketPublicAccessBlock"
    ),
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": _actions(
        "s3", "PutEncryptionConfiguration GetEncryptionConfiguration"
    ),
    "aws:s3/bucketVersioning:BucketVersioning": _actions("s3", "PutBucketVersioning GetBucketVersioning"),
    "aws:scheduler/schedule:Schedule": (
        *_actions("scheduler", "CreateSchedule DeleteSchedule GetSchedule UpdateSchedule"),
        "iam:PassRole",
    ),
    "aws:sfn/stateMachine:StateMachine": (
        *_actions(
            "states",
            "CreateStateMachine DeleteStateMachine DescribeStateMachine UpdateStateMachine ListStateMachineVersions "
            "ValidateStateMachineDefinition TagResource UntagResource ListTagsForResource",
        ),
        "iam:PassRole",
    ),
    "aws:sns/topic:Topic": _actions(
        "sns",
        "CreateTopic DeleteTopic GetTopicAttributes SetTopicAttributes TagResource UntagResource ListTagsForResource",
    ),
    "aws:sns/topicPolicy:TopicPolicy": _actions("sns", "GetTopicAttributes SetTopicAttributes"),
    "aws:sns/topicSubscription:TopicSubscription": _actions("sns", "Subscribe Unsubscribe GetSubscriptionAttributes"),
    "aws:sqs/queue:Queue": _actions(
        "sqs", "CreateQueue DeleteQueue GetQueueAttributes SetQueueAttributes TagQueue UntagQueue ListQueueTags"
    ),
    "aws:sqs/queuePolicy:QueuePolicy": _actions("sqs", "GetQueueAttributes SetQueueAttributes"),
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": _actions(
        "ec2", "AuthorizeSecurityGroupEgress RevokeSecurityGroupEgress"
    )
    + _RULE,
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": _actions(
        "ec2", "AuthorizeSecurityGroupIngress RevokeSecurityGroupIngress"
    )
    + _RULE,
    "awsx:ecr:Image": _actions(
        "ecr",
        "GetAuthorizationToken BatchCheckLayerAvailability BatchGetImage GetDownloadUrlForLayer InitiateLayerUpload "
        "UploadLayerPart CompleteLayerUpload PutImage",
    ),
}
"""For each kind of resource, what its life asks of the deployer."""

LOOK_UP_ACTIONS = (
    *_actions(
        "ec2",
        "DescribeAvailabilityZones DescribeVpcs DescribeSubnets DescribeRouteTables DescribeVpcEndpoints "
        "DescribeAddresses",
    ),
    *_actions("iam", "GetRole SimulatePrincipalPolicy"),
    *_actions("servicequotas", "GetServiceQuota GetAWSDefaultServiceQuota"),
    "sts:GetCallerIdentity",
)
"""What the checks before a deployment ask."""

KEY_ACTIONS = _actions("kms", "DescribeKey CreateGrant RetireGrant GenerateDataKey Decrypt")
"""What a key of the hospital's own (kmsKeyArn) asks beside."""


NEW_VPC_TYPES = frozenset(
    f"aws:ec2/{name[0].lower()}{name[1:]}:{name}"
    for name in (
        "DefaultSecurityGroup",
        "Eip",
        "FlowLog",
        "InternetGateway",
        "NatGateway",
        "RouteTable",
        "RouteTableAssociation",
        "Subnet",
        "Vpc",
    )
)
"""What is made only where no VPC is given."""

DATA_STORE_TYPE = "aws:cloudcontrol/resource:Resource"
"""What is made only where no data store is given."""


def deployer_actions(types: Iterable[str] = RESOURCE_ACTIONS, *, with_key: bool = True) -> tuple[str, ...]:
    """
    Return every action that making resources of these types, and the checks before, ask; sorted, each once.

    Args:
        types: kinds of resources.
        with_key: a key of the hospital's own is used.

    """
    made = {action for resource_type in types for action in RESOURCE_ACTIONS[resource_type]}
    return tuple(sorted(made | set(LOOK_UP_ACTIONS) | (set(KEY_ACTIONS) if with_key else set())))
