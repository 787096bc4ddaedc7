"""
The settings that the application finds in its environment: one place for the container, the functions and operators.

The names are those of `adapters/entrypoints/settings.py`; a test lets that loader read what is made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs
import pulumi

from infra.capacity import memory_budget_mib, temporary_space_bytes
from infra.config import StackConfig

RECEIVER_PORT = 11112
"""Where the receiver listens, whatever port modalities use: ports below 1024 would need a privileged container."""
TLS_PORT = 2762
HEALTH_PORT = 8080
GRACE_SECONDS = 100
WORK_DIR = "/var/lib/storescp"
METRICS_NAMESPACE = "DicomStoreScp"
"""As in `adapters/outbound/cloudwatch_telemetry.py`; a test compares the two."""
METRICS_DIMENSION = "service"

Environment = Mapping[str, pulumi.Input[str]]


@attrs.frozen(kw_only=True)
class Deployed:
    """What the application works on, as names and ARNs."""

    account_id: str
    staging_bucket: pulumi.Input[str]
    results_bucket: pulumi.Input[str]
    table: pulumi.Input[str]
    data_store_id: pulumi.Input[str]
    data_access_role_arn: pulumi.Input[str]
    state_machine_arn: pulumi.Input[str]
    topic_arn: pulumi.Input[str]


def common_environment(config: StackConfig, deployed: Deployed) -> Environment:
    """Return what every process of ours, and every command of an operator, needs to know."""
    return {
        "STORESCP_PROFILE": "aws",
        "STORESCP_REGION": config.region,
        "STORESCP_STAGING_BUCKET": deployed.staging_bucket,
        "STORESCP_RESULTS_BUCKET": deployed.results_bucket,
        "STORESCP_BUCKET_OWNER": deployed.account_id,
        "STORESCP_TABLE": deployed.table,
        "STORESCP_DATA_STORE_ID": deployed.data_store_id,
        "STORESCP_DATA_ACCESS_ROLE_ARN": deployed.data_access_role_arn,
        "STORESCP_STATE_MACHINE_ARN": deployed.state_machine_arn,
        "STORESCP_TOPIC_ARN": deployed.topic_arn,
        "STORESCP_AE_TITLE": str(config.scp_ae_title),
        "STORESCP_RETENTION_DAYS": str(config.retention_days),
        "STORESCP_STORE_PATIENT_IDENTITY": _truth(config.store_patient_identity),
    }


def process_environment(config: StackConfig, deployed: Deployed, *, work_dir: str) -> Environment:
    """Return what a process of ours needs in the cloud: where it may write, and how it speaks of itself."""
    return {
        **common_environment(config, deployed),
        "STORESCP_DATA_DIR": work_dir,
        "STORESCP_LOG_FORMAT": "json",
        # the dimension of every metric: two stacks in one account stay apart
        "POWERTOOLS_SERVICE_NAME": config.name,
        "TMPDIR": work_dir,
    }


def receiver_environment(config: StackConfig, deployed: Deployed) -> Environment:
    """Return the environment of the receiver's container; secrets are not in it."""
    optional = {
        "STORESCP_REQUIRE_CALLING_AE_TITLES": _joined(config.require_calling_ae_title),
        "STORESCP_SUPPORTED_SOP_CLASS_UIDS": _joined(config.supported_sop_class_uids),
        "STORESCP_COMMITMENT_PEERS": _joined(config.storage_commitment_peers),
    }
    tls = {"STORESCP_TLS": "mutual", "STORESCP_TLS_PORT": str(TLS_PORT), "STORESCP_PLAIN": "false"}
    return {
        **process_environment(config, deployed, work_dir=WORK_DIR),
        "STORESCP_HOST": "0.0.0.0",  # noqa: S104  # the load balancer is elsewhere; security groups guard the task
        "STORESCP_PORT": str(RECEIVER_PORT),
        "STORESCP_HEALTH_PORT": str(HEALTH_PORT),
        "STORESCP_REQUIRE_CALLED_AE_TITLE": _truth(config.require_called_ae_title),
        "STORESCP_DIMSE_TIMEOUT": str(config.dimse_timeout),
        "STORESCP_NETWORK_TIMEOUT": str(config.network_timeout),
        "STORESCP_MAXIMUM_ASSOCIATIONS": str(config.maximum_associations),
        "STORESCP_MEMORY_BUDGET": f"{memory_budget_mib(config.task_memory_limit, config.maximum_associations)} MiB",
        "STORESCP_TEMPORARY_SPACE": str(temporary_space_bytes(config.task_ephemeral_storage)),
        "STORESCP_BATCH_QUIET_SECONDS": str(config.batch_quiet_seconds),
        "STORESCP_BATCH_MAX_AGE_SECONDS": str(config.batch_max_age_seconds),
        "STORESCP_BATCH_MAX_FILES": str(config.batch_max_files),
        "STORESCP_BATCH_MAX_BYTES": str(config.batch_max_bytes),
        "STORESCP_GRACE_SECONDS": str(GRACE_SECONDS),
        **(tls if config.mutual_tls is not None else {}),
        **{name: value for name, value in optional.items() if value},
    }


def receiver_secrets(config: StackConfig) -> Mapping[str, str]:
    """Return which secret each variable of the receiver's container is filled from, by name."""
    if config.mutual_tls is None:
        return {}
    return {
        "STORESCP_TLS_CERTIFICATE": config.mutual_tls.certificate_secret_arn,
        "STORESCP_TLS_KEY": config.mutual_tls.key_secret_arn,
        "STORESCP_TLS_CA": config.mutual_tls.ca_secret_arn,
    }


def settings_file(config: StackConfig, deployed: Deployed) -> pulumi.Output[str]:
    """Return a shell file with which every `ahi-storescp` command works against the stack."""
    return pulumi.Output.all(**common_environment(config, deployed)).apply(
        lambda values: "".join(f"export {name}='{_quoted(value)}'\n" for name, value in values.items())
    )


def _quoted(value: str) -> str:
    return value.replace("'", "'\\''")


def _truth(value: bool) -> str:  # noqa: FBT001  # the value itself
    return "true" if value else "false"


def _joined(values: Iterable[object]) -> str:
    return ",".join(map(str, values))
