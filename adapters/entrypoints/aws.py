"""
The profile of AWS: S3, DynamoDB, HealthImaging, Step Functions and SNS, with the clients of one session.

Every client has time-outs and retries of its own: what waits for a modality gives up early, what only polls can wait.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import attrs
import boto3
from botocore.config import Config

from adapters.entrypoints.capacity import draft_room
from adapters.entrypoints.settings import Settings
from adapters.entrypoints.use_cases import Ports, UseCases, assemble
from adapters.outbound.clock import SystemClock
from adapters.outbound.cloudwatch_telemetry import NAMESPACE, CloudWatchTelemetry
from adapters.outbound.draft_room import DraftRoom
from adapters.outbound.dynamodb_metadata import DynamoDbMetadataStore
from adapters.outbound.healthimaging_importer import HealthImagingImporter
from adapters.outbound.s3_bucket import S3Bucket, open_store
from adapters.outbound.s3_results import S3ResultsReader
from adapters.outbound.s3_staging import S3StagingArea
from adapters.outbound.sns_notifier import SnsNotifier
from adapters.outbound.spooled_draft import DraftSpace
from adapters.outbound.step_functions_workflow import StepFunctionsWorkflow
from adapters.outbound.study_description import PydicomStudyDescriber
from adapters.outbound.telemetry import Level, LineTelemetry, telemetry
from domain.batch import LeasePolicy

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_medical_imaging import HealthImagingClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_stepfunctions import SFNClient

_NAME = "ahi-storescp"
_POOL = 50


@attrs.frozen(kw_only=True)
class Clients:
    """The clients of one session; each is safe to share between threads."""

    session: boto3.Session
    s3: S3Client
    dynamodb: DynamoDBClient
    medical_imaging: HealthImagingClient
    stepfunctions: SFNClient
    sns: SNSClient

    def close(self) -> None:
        """End every connection."""
        for client in (self.s3, self.dynamodb, self.medical_imaging, self.stepfunctions, self.sns):
            client.close()


@attrs.frozen(kw_only=True)
class AwsProfile:
    """
    What one process has open of AWS.

    Attributes:
        drafts: what arriving instances hold.
        use_cases: wired on the AWS adapters.
        notifier: tells people of failures; None where no topic is set.

    """

    settings: Settings
    clients: Clients
    staging: S3StagingArea
    drafts: DraftRoom
    use_cases: UseCases
    telemetry: LineTelemetry
    clock: SystemClock
    notifier: SnsNotifier | None = None

    def flush(self) -> None:
        """Write what was measured so far."""
        if isinstance(self.telemetry, CloudWatchTelemetry):
            self.telemetry.flush()


@contextmanager
def open_aws(settings: Settings, log: TextIO = sys.stderr) -> Iterator[AwsProfile]:
    """
    Open the profile for a process that lives long: metrics are written once a minute, and when it closes.

    Args:
        settings: those of the profile `aws`, all required ones set.
        log: where events and metrics go.

    """
    profile = build_aws(settings, log)
    lines = profile.telemetry
    if isinstance(lines, CloudWatchTelemetry):
        lines.run()
    try:
        yield profile
    finally:
        profile.clients.close()
        if isinstance(lines, CloudWatchTelemetry):
            lines.close()


def build_aws(settings: Settings, log: TextIO, clients: Clients | None = None) -> AwsProfile:
    """Build the profile, on clients of its own if none are given; nothing is asked yet, metrics wait for `flush`."""
    clock = SystemClock()
    return _profile(settings, clients or aws_clients(settings), _telemetry(settings, log, clock), clock)


def aws_clients(settings: Settings) -> Clients:
    """Return the clients of one new session; botocore finds the credentials."""
    session = boto3.Session(region_name=settings.region)
    url = settings.endpoint_url
    return Clients(
        session=session,
        # HEAD, LIST, COPY and DELETE; a copy of 5 GB is the slowest
        s3=session.client("s3", endpoint_url=url, config=_config(5, 60, 4, s3=_addressing(url))),
        # a store waits for the record of its batch; a lease has to be renewed in time
        dynamodb=session.client("dynamodb", endpoint_url=url, config=_config(2, 5, 5)),
        # throttling is waited for by the workflow, in minutes
        medical_imaging=session.client(
            "medical-imaging",
            endpoint_url=settings.health_imaging_endpoint_url,
            # a prefix before 127.0.0.1 is no host
            config=_config(5, 30, 3, inject_host_prefix=settings.health_imaging_endpoint_url is None),
        ),
        stepfunctions=session.client("stepfunctions", endpoint_url=url, config=_config(5, 15, 4)),
        sns=session.client("sns", endpoint_url=url, config=_config(5, 15, 4)),
    )


def _profile(settings: Settings, clients: Clients, lines: LineTelemetry, clock: SystemClock) -> AwsProfile:
    lease = LeasePolicy()
    drafts = DraftSpace(settings.data_dir / "incoming", room=draft_room(settings))
    staging = S3StagingArea(_bucket(settings, clients, settings.staging_bucket), drafts, clock)
    metadata = DynamoDbMetadataStore(clients.dynamodb, settings.table)
    ports = Ports(
        staging=staging,
        metadata=metadata,
        commitments=metadata,
        importer=HealthImagingImporter(
            client=clients.medical_imaging,
            data_store=settings.data_store_id,
            data_access_role_arn=settings.data_access_role_arn,
            staging_bucket=settings.staging_bucket,
            results_bucket=settings.results_bucket,
            bucket_owner=settings.bucket_owner or None,
        ),
        results=S3ResultsReader(_bucket(settings, clients, settings.results_bucket)),
        workflow=StepFunctionsWorkflow(client=clients.stepfunctions, state_machine_arn=settings.state_machine_arn),
        describe_study=PydicomStudyDescriber(with_patient=settings.store_patient_identity),
        clock=clock,
        telemetry=lines,
        owner=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        is_abandoned=lambda batch: lease.is_abandoned(batch, clock.now()),
        lease=lease,
        runs_tell=True,
    )
    return AwsProfile(
        settings=settings,
        clients=clients,
        staging=staging,
        drafts=drafts.room,
        use_cases=assemble(ports),
        telemetry=lines,
        clock=clock,
        notifier=SnsNotifier(client=clients.sns, topic_arn=settings.topic_arn) if settings.topic_arn else None,
    )


def _bucket(settings: Settings, clients: Clients, name: str) -> S3Bucket:
    owner = settings.bucket_owner or None
    store = open_store(clients.session, name, endpoint_url=settings.endpoint_url or None, owner=owner)
    return S3Bucket(name=name, client=clients.s3, store=store, owner=owner)


def _telemetry(settings: Settings, log: TextIO, clock: SystemClock) -> LineTelemetry:
    """Return lines for people on a terminal, else lines for CloudWatch."""
    level = Level[settings.log_level.upper()]
    if settings.log_format == "text" or (settings.log_format == "auto" and log.isatty()):
        return telemetry(settings.log_format, level, log, clock)
    return CloudWatchTelemetry(
        log,
        clock,
        level,
        # as everything that is made with Powertools is told of itself
        namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or NAMESPACE,
        service=os.environ.get("POWERTOOLS_SERVICE_NAME") or _NAME,
    )


def _config(connect_seconds: float, read_seconds: float, attempts: int, **others: Any) -> Config:  # noqa: ANN401
    return Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=_POOL,
        user_agent_extra=_NAME,
        **others,
    )


def _addressing(url: str | None) -> dict[str, str]:
    return {"addressing_style": "path"} if url else {}
