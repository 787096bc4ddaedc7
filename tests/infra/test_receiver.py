"""The load balancer, the tasks behind it, and how they scale and stop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.application import GRACE_SECONDS
from infra.receiver import idle_seconds
from tests.infra.account import AccountMocks, FakeAccount
from tests.infra.harness import Deployed, as_engine, main_program, run_program, stack_config

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:{}-a1b2c3"
MUTUAL = {
    "certificateSecretArn": SECRET.format("certificate"),
    "keySecretArn": SECRET.format("key"),
    "caSecretArn": SECRET.format("ca"),
}


def deploy(**settings: Any) -> Deployed:
    given = as_engine({"aws:region": "eu-west-1", "alarmEmail": "none", **settings})
    return run_program(main_program, AccountMocks(FakeAccount()), given, stack="test")


def container(deployed: Deployed) -> dict[str, Any]:
    (only,) = json.loads(deployed.one("TaskDefinition").inputs["containerDefinitions"])
    found: dict[str, Any] = only
    return found


def test_without_a_certificate_the_listener_speaks_tcp(clinic: Deployed) -> None:
    listener = clinic.one("lb/listener:Listener").inputs
    assert (listener["protocol"], listener["port"]) == ("TCP", 104)
    assert "certificateArn" not in listener
    assert listener["tcpIdleTimeoutSeconds"] == 350


def test_with_a_certificate_the_listener_speaks_tls_1_2_and_1_3(hospital: Deployed) -> None:
    listener = hospital.one("lb/listener:Listener").inputs
    assert (listener["protocol"], listener["port"]) == ("TLS", 2762)
    assert listener["sslPolicy"] == "ELBSecurityPolicy-TLS13-1-2-2021-06"
    assert listener["certificateArn"].startswith("arn:aws:acm:us-east-1:")
    assert "tcpIdleTimeoutSeconds" not in listener


@pytest.mark.parametrize("network_timeout,seconds", [(90, 350), (600, 700), (5400, 5500)])
def test_the_load_balancer_never_forgets_a_connection_before_the_receiver_does(
    network_timeout: int, seconds: int
) -> None:
    assert idle_seconds(network_timeout) == seconds


def test_a_longer_time_out_of_the_receiver_reaches_the_load_balancer() -> None:
    listener = deploy(networkTimeout=600).one("lb/listener:Listener")
    assert listener.inputs["tcpIdleTimeoutSeconds"] == 700


def test_access_is_logged_where_the_load_balancer_speaks_tls(hospital: Deployed, clinic: Deployed) -> None:
    logs = hospital.one("lb/loadBalancer:LoadBalancer").inputs["accessLogs"]
    assert logs["enabled"] is True
    assert logs["bucket"].startswith("central-hospital-access-logs")
    assert "accessLogs" not in clinic.one("lb/loadBalancer:LoadBalancer").inputs
    assert len(clinic.of("s3/bucket:Bucket")) == 2


def test_the_load_balancer_is_a_network_one_with_security_groups_over_all_zones(deployed: Deployed) -> None:
    balancer = deployed.one("lb/loadBalancer:LoadBalancer").inputs
    assert balancer["loadBalancerType"] == "network"
    assert len(balancer["securityGroups"]) == 1
    assert balancer["enableCrossZoneLoadBalancing"] is True
    assert len(balancer["subnets"]) >= 2


def test_targets_see_the_callers_address_and_are_asked_over_http(deployed: Deployed) -> None:
    group = deployed.one("TargetGroup").inputs
    assert group["preserveClientIp"] == "true"
    assert (group["targetType"], group["protocol"], group["port"]) == ("ip", "TCP", 11112)
    check = group["healthCheck"]
    assert (check["protocol"], check["port"], check["path"]) == ("HTTP", "8080", "/livez")


def test_stopping_leaves_associations_the_time_they_were_promised(deployed: Deployed) -> None:
    group, task = deployed.one("TargetGroup").inputs, container(deployed)
    grace = int({pair["name"]: pair["value"] for pair in task["environment"]}["STORESCP_GRACE_SECONDS"])
    assert grace == GRACE_SECONDS == 100
    assert task["stopTimeout"] == 120 >= grace + 10
    assert group["deregistrationDelay"] >= grace
    assert group["connectionTermination"] is False


def test_the_container_is_no_root_and_writes_to_its_volume_only(deployed: Deployed) -> None:
    task = container(deployed)
    assert task["user"] == "10001:10001"
    assert task["readonlyRootFilesystem"] is True
    assert task["linuxParameters"] == {"initProcessEnabled": True, "capabilities": {"drop": ["ALL"]}}
    assert task["mountPoints"] == [{"sourceVolume": "work", "containerPath": "/var/lib/storescp", "readOnly": False}]
    assert task["image"].partition("@")[2].startswith("sha256:")
    assert task["command"] == ["serve"]


def test_the_task_has_the_size_of_the_stack_file(deployed: Deployed, stack: str) -> None:
    config = {key.partition(":")[2]: value for key, value in stack_config(stack).items()}
    task = deployed.one("TaskDefinition").inputs
    assert (task["cpu"], task["memory"]) == (config["taskCpu"], config["taskMemoryLimit"])
    assert task["ephemeralStorage"] == {"sizeInGib": int(config["taskEphemeralStorage"])}
    assert task["runtimePlatform"] == {"operatingSystemFamily": "LINUX", "cpuArchitecture": "X86_64"}
    assert (task["networkMode"], task["requiresCompatibilities"]) == ("awsvpc", ["FARGATE"])


def test_one_architecture_for_tasks_functions_and_image() -> None:
    deployed = deploy(cpuArchitecture="ARM64")
    assert deployed.one("TaskDefinition").inputs["runtimePlatform"]["cpuArchitecture"] == "ARM64"
    assert {tuple(item.inputs["architectures"]) for item in deployed.of("function:Function")} == {("arm64",)}
    assert deployed.one("awsx:ecr:Image").inputs["platform"] == "linux/arm64"


def test_the_service_scales_by_processor_use(deployed: Deployed, stack: str) -> None:
    config = {key.partition(":")[2]: value for key, value in stack_config(stack).items()}
    target = deployed.one("appautoscaling/target:Target").inputs
    assert (str(target["minCapacity"]), str(target["maxCapacity"])) == (
        config["taskDesiredCount"],
        config["autoscaleMaxCapacity"],
    )
    assert target["resourceId"] == f"service/{stack}-receiver-1a2b3c4/{stack}-receiver-1a2b3c4"
    policy = deployed.one("appautoscaling/policy:Policy").inputs
    assert policy["targetTrackingScalingPolicyConfiguration"] == {
        "targetValue": 50,
        "scaleInCooldown": 60,
        "scaleOutCooldown": 60,
        "predefinedMetricSpecification": {"predefinedMetricType": "ECSServiceAverageCPUUtilization"},
    }


def test_the_service_starts_behind_its_listener_and_rolls_back(deployed: Deployed) -> None:
    service = deployed.one("ecs/service:Service")
    listener = deployed.one("lb/listener:Listener")
    assert listener.urn in service.request.dependencies
    assert list(service.request.ignoreChanges) == ["desiredCount"]
    assert service.inputs["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    assert service.inputs["deploymentMinimumHealthyPercent"] == 100
    assert service.inputs["launchType"] == "FARGATE"
    assert len(service.inputs["networkConfiguration"]["subnets"]) >= 2
    (balancer,) = service.inputs["loadBalancers"]
    assert (balancer["containerName"], balancer["containerPort"]) == ("receiver", 11112)


def test_mutual_tls_passes_the_load_balancer_and_takes_its_secrets_from_secrets_manager() -> None:
    deployed = deploy(mutualTls=MUTUAL)
    assert deployed.one("lb/listener:Listener").inputs["protocol"] == "TCP"
    assert deployed.one("TargetGroup").inputs["port"] == 2762
    task = container(deployed)
    assert {pair["name"]: pair["valueFrom"] for pair in task["secrets"]} == {
        "STORESCP_TLS_CERTIFICATE": MUTUAL["certificateSecretArn"],
        "STORESCP_TLS_KEY": MUTUAL["keySecretArn"],
        "STORESCP_TLS_CA": MUTUAL["caSecretArn"],
    }
    assert {mapping["containerPort"] for mapping in task["portMappings"]} == {2762, 8080}
    execution = deployed.one("iam/rolePolicy:RolePolicy", "test-execution").document()
    assert sorted(MUTUAL.values()) in [statement["Resource"] for statement in execution["Statement"]]


def test_the_echo_line_speaks_what_the_listener_speaks(hospital: Deployed, clinic: Deployed) -> None:
    assert "+tla" in hospital.outputs["echoCommand"]
    assert "+tla" not in clinic.outputs["echoCommand"]
    assert "+tls client-key.pem" in deploy(mutualTls=MUTUAL).outputs["echoCommand"]
    assert clinic.outputs["echoCommand"].endswith(f"{clinic.outputs['NetworkLoadBalancerDNS']} 104")


def test_the_image_is_scanned_and_old_ones_go(deployed: Deployed) -> None:
    repository = deployed.one("ecr/repository:Repository").inputs
    assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    (rule,) = deployed.one("LifecyclePolicy").document()["rules"]
    assert (rule["selection"]["countNumber"], rule["action"]["type"]) == (10, "expire")
    image = deployed.one("awsx:ecr:Image").inputs
    assert (image["context"], image["dockerfile"], image["platform"]) == (".", "Dockerfile", "linux/amd64")
