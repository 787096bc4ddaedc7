"""The profile of AWS as it is composed from settings alone, on simulated services over real HTTP."""

import io
import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from adapters.entrypoints.aws import AwsProfile, open_aws
from adapters.entrypoints.lambdas import Handlers
from adapters.entrypoints.settings import read_settings
from adapters.outbound.dynamodb_metadata import TABLE_DEFINITION
from domain.batch import BatchPolicy
from domain.instance import IdentifyingAttributes, StoreRequest
from domain.lifecycle import BatchState, InstanceState
from tests.builders import DATA_STORE, a_job_id, a_uid, an_image_set, an_instance
from tests.moto_server import REGION, MotoServer, moto_server
from tests.s3 import ACCOUNT
from tests.scripted_server import Answer, Request, ScriptedServer, error_answer, json_answer, scripted_server

pytestmark = pytest.mark.aws

JOB = a_job_id(7)
ROLE = f"arn:aws:iam::{ACCOUNT}:role/import"


@attrs.define
class _HealthImaging:
    """Starts one job; it is COMPLETED once the test has written its results."""

    job: dict[str, Any] = attrs.field(factory=dict)
    throttled: int = 0
    is_done: bool = False

    def __call__(self, request: Request) -> Answer:
        if self.throttled:
            self.throttled -= 1
            return error_answer("ThrottlingException", 429)
        if request.path.startswith("/startDICOMImportJob/"):
            self.job = self.job or request.json
            return json_answer(
                {"datastoreId": DATA_STORE.value, "jobId": JOB.value, "jobStatus": "SUBMITTED", "submittedAt": 1.5}
            )
        assert request.path.endswith(JOB.value)
        status = "COMPLETED" if self.is_done else "IN_PROGRESS"
        properties = {"jobId": JOB.value, "jobStatus": status, "datastoreId": DATA_STORE.value, **self.job}
        return json_answer({"jobProperties": properties})


@pytest.fixture(scope="module")
def aws() -> Iterator[MotoServer]:
    with moto_server() as server:
        yield server


@pytest.fixture
def health_imaging() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def profile(
    aws: MotoServer,
    health_imaging: ScriptedServer,
    log: io.StringIO,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[AwsProfile]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    name = f"hospital-{uuid.uuid4()}"  # the simulated services of one process share their state
    with (
        closing(aws.client("s3")) as s3,
        closing(aws.client("dynamodb")) as dynamodb,
        closing(aws.client("stepfunctions")) as workflow,
        closing(aws.client("sns")) as sns,
    ):
        for kind in ("staging", "results"):
            s3.create_bucket(Bucket=f"{name}-{kind}", CreateBucketConfiguration={"LocationConstraint": REGION})
        dynamodb.create_table(TableName=name, **TABLE_DEFINITION)
        machine = workflow.create_state_machine(
            name=name,
            definition=json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}),
            roleArn=f"arn:aws:iam::{ACCOUNT}:role/workflow",
        )
        topic = sns.create_topic(Name=name)
    values = {
        "profile": "aws",
        "data_dir": str(tmp_path),
        "log_format": "json",
        "region": REGION,
        "staging_bucket": f"{name}-staging",
        "results_bucket": f"{name}-results",
        "bucket_owner": ACCOUNT,
        "table": name,
        "data_store_id": DATA_STORE.value,
        "data_access_role_arn": ROLE,
        "state_machine_arn": machine["stateMachineArn"],
        "topic_arn": topic["TopicArn"],
        "endpoint_url": aws.url,
        "health_imaging_endpoint_url": health_imaging.url,
    }
    with open_aws(
        read_settings({}, {f"STORESCP_{name.upper()}": value for name, value in values.items()}), log
    ) as opened:
        yield opened


def _store(profile: AwsProfile, numbers: range) -> None:
    batches, receive = profile.use_cases.receiving(BatchPolicy(), 10**9)
    for number in numbers:
        instance = an_instance(number)
        request = StoreRequest(
            sop_class_uid=instance.sop_class.value,
            sop_instance_uid=instance.sop_instance.value,
            transfer_syntax=instance.transfer_syntax,
            calling_ae_title=instance.calling_ae_title,
            called_ae_title=instance.calling_ae_title,
        )
        reception = receive.begin(request, b"\0" * 128 + b"DICM")
        reception.write(b"data set")
        reception.finish(
            IdentifyingAttributes(
                sop_class_uid=instance.sop_class.value,
                sop_instance_uid=instance.sop_instance.value,
                study_instance_uid=instance.study.value,
                series_instance_uid=instance.series.value,
            )
        )
    assert batches.drain()


def _write_results(aws: MotoServer, profile: AwsProfile, folder: str, imported: range, failed: range) -> None:
    ports = profile.use_cases.ports
    (batch,) = ports.metadata.batches([BatchState.IMPORTING])
    paths = {staged.key.sop_instance: staged.key.path for staged in ports.staging.list(batch.id)}
    summary = {"numberOfImportedFiles": len(imported), "numberOfFilesWithCustomerError": len(failed)}
    success = [
        {"inputFile": paths[a_uid(n)], "importResponse": {"imageSetId": str(an_image_set()), "isPrimary": True}}
        for n in imported
    ]
    failure = [
        {"inputFile": paths[a_uid(n)], "exception": {"exceptionType": "ValidationException", "message": "odd"}}
        for n in failed
    ]
    with closing(aws.client("s3")) as s3:
        for name, records in (
            ("job-output-manifest.json", [{"jobSummary": summary}]),
            ("SUCCESS/success.ndjson", success),
            ("FAILURE/failure.ndjson", failure),
        ):
            body = "".join(f"{json.dumps(record)}\n" for record in records)
            s3.put_object(Bucket=profile.settings.results_bucket, Key=f"{folder}{name}", Body=body.encode())


def test_instances_go_from_a_store_to_the_data_store_and_are_accounted_for(
    aws: MotoServer, health_imaging: ScriptedServer, profile: AwsProfile, log: io.StringIO
) -> None:
    health_imaging.answer = service = _HealthImaging(throttled=3)
    ports = profile.use_cases.ports
    _store(profile, range(1, 6))
    (batch,) = ports.metadata.batches([BatchState.CLOSED])
    assert ports.workflow.is_running(batch) is not None
    handlers = Handlers(use_cases=profile.use_cases, tell=profile.notifier, flush=profile.flush)
    event = {"batch_id": batch.id.value, "attempt": batch.attempt, "run": batch.run}

    assert handlers.list_batch(event)["next"] == "ready"
    assert handlers.start_import(event)["next"] == "wait"
    assert handlers.start_import(event)["next"] == "submitted"
    assert handlers.follow_import(event)["next"] == "running"
    service.is_done = True
    assert handlers.follow_import(event)["next"] == "ended"
    assert handlers.record_results(event)["next"] == "wait"
    folder = f"{batch.id}/{DATA_STORE}-DicomImport-{JOB}/"
    _write_results(aws, profile, folder, range(1, 5), range(5, 6))
    assert handlers.record_results(event)["next"] == "settled"
    assert handlers.notify(event) == {"next": "done"}

    assert service.job["inputS3Uri"] == f"s3://{profile.settings.staging_bucket}/batches/{batch.id}/"
    states = {record.key.sop_instance: record.state for record in ports.metadata.instances(an_instance().study)}
    assert states == {
        **{a_uid(number): InstanceState.IMPORTED for number in range(1, 5)},
        a_uid(5): InstanceState.FAILED,
    }
    assert [staged.key.sop_instance for staged in ports.staging.list(batch.id)] == [a_uid(5)]
    assert [job.id for job in ports.results.jobs(batch.id)] == [JOB]
    assert list(ports.results.batches()) == [batch.id]
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert "batch.settled" in {line.get("event") for line in lines}
    assert "odd" not in log.getvalue()
    assert profile.staging is ports.staging


def test_metrics_are_written_when_the_profile_closes(profile: AwsProfile, log: io.StringIO) -> None:
    profile.telemetry.measure("InstancesReceived", 2)
    profile.flush()

    (line,) = [json.loads(line) for line in log.getvalue().splitlines()]
    assert line["InstancesReceived"] == [2.0]
