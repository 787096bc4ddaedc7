"""Laws that hold for every committed stack, whatever it is made of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.deployer import RESOURCE_ACTIONS
from tests.infra.conftest import deploy_stack
from tests.infra.harness import Deployed, stack_config, stack_files

COMPONENTS = {
    f"dicom-ahi:infra:{name}"
    for name in (
        *("Network", "Storage", "DataStore", "Image", "Notifications", "ImportWorkflow", "Receiver", "OperatorRole"),
        "Observability",
    )
}
UNTAGGABLE = {
    "aws:appautoscaling/policy:Policy",
    "aws:cloudcontrol/resource:Resource",  # its tags are in the desired state
    "aws:cloudwatch/dashboard:Dashboard",
    "aws:ec2/routeTableAssociation:RouteTableAssociation",
    "aws:ecr/lifecyclePolicy:LifecyclePolicy",
    "aws:ecr/repositoryPolicy:RepositoryPolicy",
    "aws:iam/rolePolicy:RolePolicy",
    "aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig",
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls",
    "aws:s3/bucketPolicy:BucketPolicy",
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
    "aws:s3/bucketVersioning:BucketVersioning",
    "aws:scheduler/schedule:Schedule",
    "aws:sns/topicPolicy:TopicPolicy",
    "aws:sns/topicSubscription:TopicSubscription",
    "aws:sqs/queuePolicy:QueuePolicy",
    "awsx:ecr:Image",
}
LISTENS = [
    "NetworkLoadBalancerDNS",
    "DICOMPort",
    "DICOMAETitle",
    "echoCommand",
    "stagingBucket",
    "resultsBucket",
    "metadataTable",
    "dataStoreId",
    "stateMachineArn",
    "receiverLogGroup",
    "dashboardUrl",
    "operatorRoleArn",
    "settings",
]


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


def test_the_components_are_those_of_the_design(deployed: Deployed) -> None:
    assert {item.type for item in deployed.resources if item.type.startswith("dicom-ahi:")} == COMPONENTS


def test_every_type_of_resource_has_been_considered(deployed: Deployed) -> None:
    made = {item.type for item in deployed.resources} - COMPONENTS
    assert made - set(RESOURCE_ACTIONS) == set()


def test_everything_belongs_to_a_component(deployed: Deployed) -> None:
    known = {item.urn: item for item in deployed.resources}
    for item in deployed.resources:
        if item.type in COMPONENTS:
            continue
        while item.type not in COMPONENTS:
            assert item.parent in known, f"{item.name} stands alone"
            item = known[item.parent]  # noqa: PLW2901  # climbing to the component


def test_everything_carries_the_tags_of_the_stack(deployed: Deployed, stack: str) -> None:
    for item in deployed.resources:
        if item.type in COMPONENTS | UNTAGGABLE:
            continue
        tags = item.inputs.get("tags", {})
        assert tags.get("Hospital") == stack, item.urn
        assert tags.get("Application") == "dicom-store-scp", item.urn


def test_names_begin_with_the_hospital(deployed: Deployed, stack: str) -> None:
    assert [item.name for item in deployed.resources if not item.name.startswith(stack)] == []


def test_outputs_are_those_promised(deployed: Deployed) -> None:
    assert list(deployed.outputs) == LISTENS
    assert [name for name, value in deployed.outputs.items() if value in {None, "", "<unknown>"}] == []


def test_no_input_is_the_text_of_an_unknown_output(deployed: Deployed) -> None:
    for item in deployed.resources:
        assert [text for text in texts(item.inputs) if "Calling __str__" in text or text == "None"] == [], item.urn


@pytest.mark.parametrize("stack_name", stack_files())
def test_a_preview_asks_for_the_same_resources(stack_name: str) -> None:
    made, previewed = deploy_stack(stack_name), deploy_stack(stack_name, preview=True)
    assert {item.urn for item in made.resources} == {item.urn for item in previewed.resources}
    assert list(previewed.outputs) == LISTENS


def test_what_holds_data_cannot_be_deleted_by_mistake(deployed: Deployed, stack: str) -> None:
    is_protected = stack_config(stack)["dicom-store-scp:protect"] == "true"
    protected = {item.name.removeprefix(f"{stack}-") for item in deployed.resources if item.request.protect}
    assert protected == ({"staging", "results", "metadata", "data-store", "dicom"} if is_protected else set())
    for bucket in deployed.of("s3/bucket:Bucket"):
        assert bucket.inputs["forceDestroy"] is not bucket.request.protect
    assert deployed.one("dynamodb/table:Table").inputs["deletionProtectionEnabled"] is is_protected
    assert deployed.one("lb/loadBalancer:LoadBalancer").inputs["enableDeletionProtection"] is is_protected
    assert deployed.one("ecr/repository:Repository").inputs["forceDelete"] is not is_protected


def test_every_log_group_has_a_retention_and_the_hospitals_key(deployed: Deployed, stack: str) -> None:
    config = stack_config(stack)
    for group in deployed.of("cloudwatch/logGroup:LogGroup"):
        assert str(group.inputs["retentionInDays"]) == config["dicom-store-scp:logRetentionDays"]
        assert group.inputs.get("kmsKeyId", "") == config["dicom-store-scp:kmsKeyArn"]


def test_every_function_and_the_receiver_have_a_log_group_of_their_own(deployed: Deployed) -> None:
    names = [item.inputs["name"] for item in deployed.of("cloudwatch/logGroup:LogGroup")]
    used = [item.inputs["loggingConfig"]["logGroup"] for item in deployed.of("lambda/function:Function")]
    assert len(set(names)) == len(names)
    assert set(used) <= set(names)
    assert len(set(used)) == len(used) == 8


def test_nothing_is_public(deployed: Deployed) -> None:
    for block in deployed.of("BucketPublicAccessBlock"):
        flags = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
        assert [block.inputs[flag] for flag in flags] == [True] * 4
    for subnet in deployed.of("ec2/subnet:Subnet"):
        assert subnet.inputs["mapPublicIpOnLaunch"] is False
    service = deployed.one("ecs/service:Service").inputs
    assert service["networkConfiguration"]["assignPublicIp"] is False
    assert service["enableExecuteCommand"] is False


def test_everything_at_rest_is_encrypted_with_the_hospitals_key_where_there_is_one(
    deployed: Deployed, stack: str
) -> None:
    key = stack_config(stack)["dicom-store-scp:kmsKeyArn"]
    buckets = deployed.of("s3/bucket:Bucket")
    rules = {item.inputs["bucket"]: item.inputs["rules"] for item in deployed.of("EncryptionConfiguration")}
    assert len(rules) == len(buckets)
    for bucket, ((rule,),) in ((name, (rule,)) for name, rule in rules.items()):
        default = rule["applyServerSideEncryptionByDefault"]
        if key and "access-logs" not in bucket:
            assert (default["sseAlgorithm"], default["kmsMasterKeyId"]) == ("aws:kms", key)
        else:
            assert default["sseAlgorithm"] == "AES256"
    table = deployed.one("dynamodb/table:Table").inputs["serverSideEncryption"]
    assert (table["enabled"], table.get("kmsKeyArn", "")) == (True, key)
    repository = deployed.one("ecr/repository:Repository").inputs["encryptionConfigurations"][0]
    assert (repository["encryptionType"], repository.get("kmsKey", "")) == ("KMS" if key else "AES256", key)
    topic = deployed.one("sns/topic:Topic").inputs["kmsMasterKeyId"]
    assert topic == key if key else topic.startswith("arn:aws:kms:")
    assert deployed.one("sqs/queue:Queue").inputs["sqsManagedSseEnabled"] is True
    state = [json.loads(item.inputs["desiredState"]) for item in deployed.of("cloudcontrol/resource:Resource")]
    assert [item.get("KmsKeyArn", "") for item in state] == [key]


def test_a_topic_without_the_hospitals_key_has_one_that_alarms_may_use(clinic: Deployed) -> None:
    key = clinic.one("kms/key:Key")
    services = {s["Principal"].get("Service") for s in key.document()["Statement"]}
    assert "cloudwatch.amazonaws.com" in services
    assert key.inputs["enableKeyRotation"] is True


def test_queues_topics_and_buckets_are_reached_over_tls_only(deployed: Deployed) -> None:
    policies = [*deployed.of("BucketPolicy"), *deployed.of("TopicPolicy"), *deployed.of("QueuePolicy")]
    assert len(policies) == len(deployed.of("s3/bucket:Bucket")) + 2
    for policy in policies:
        denied = [s for s in policy.document()["Statement"] if s["Effect"] == "Deny"]
        assert {"Bool": {"aws:SecureTransport": "false"}} in [s["Condition"] for s in denied], policy.urn


def test_alarms_reach_the_address_of_the_stack_file(deployed: Deployed, stack: str) -> None:
    address = stack_config(stack)["dicom-store-scp:alarmEmail"]
    subscriptions = [(item.inputs["protocol"], item.inputs["endpoint"]) for item in deployed.of("TopicSubscription")]
    assert subscriptions == ([] if address == "none" else [("email", address)])
