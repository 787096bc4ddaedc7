"""HealthImagingImporter over real HTTP: what it asks, what it makes of every answer."""

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import botocore.session
import pytest
from botocore.config import Config

from adapters.outbound.healthimaging_importer import HealthImagingImporter
from domain.errors import ImporterBusy, ImportRefused
from domain.identifiers import ImportJobId
from domain.import_job import ImportJobStatus, ImportRequest
from tests.builders import DATA_STORE, a_batch, a_job_id, a_moment
from tests.s3 import a_session
from tests.scripted_server import Answer, Request, ScriptedServer, error_answer, json_answer, scripted_server

pytestmark = pytest.mark.aws

ROLE = "arn:aws:iam::123456789012:role/import"
BATCH = a_batch(1)
REQUEST = ImportRequest.of(BATCH)
JOB = a_job_id(7)
FOLDER = f"{BATCH.id}/{DATA_STORE}-DicomImport-{JOB}/"
STARTED = json_answer(
    {"datastoreId": DATA_STORE.value, "jobId": JOB.value, "jobStatus": "SUBMITTED", "submittedAt": 1741944660.25}
)
BUSY = [
    pytest.param(error_answer("ThrottlingException", 429), id="throttled"),
    pytest.param(error_answer("ServiceQuotaExceededException", 402), id="no free job slot"),
    pytest.param(error_answer("InternalServerException", 500), id="server error"),
    pytest.param(Answer(status=503), id="unavailable"),
    pytest.param(Answer(status=502, body=b"<html>"), id="bad gateway"),
    pytest.param(Answer(is_lost=True), id="connection lost"),
    pytest.param(error_answer("ExpiredTokenException", 403), id="expired credentials"),
]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def importer(server: ScriptedServer) -> Iterator[HealthImagingImporter]:
    yield from _importer(server)


def _importer(server: ScriptedServer, **overrides: Any) -> Iterator[HealthImagingImporter]:
    config = Config(inject_host_prefix=False, read_timeout=1, retries={"mode": "standard", "total_max_attempts": 1})
    client = a_session().client("medical-imaging", endpoint_url=server.url, config=config)
    with closing(client):
        yield HealthImagingImporter(
            **{
                "client": client,
                "data_store": DATA_STORE,
                "data_access_role_arn": ROLE,
                "staging_bucket": "staging",
                "results_bucket": "results",
                "bucket_owner": "123456789012",
                **overrides,
            }
        )


def _properties(**overrides: Any) -> Answer:
    usual = {
        "jobId": JOB.value,
        "jobName": BATCH.job_name,
        "jobStatus": "COMPLETED",
        "datastoreId": DATA_STORE.value,
        "dataAccessRoleArn": ROLE,
        "inputS3Uri": "s3://staging/batches/x/",
        "outputS3Uri": f"s3://results/{FOLDER}",
        "submittedAt": a_moment(60).timestamp(),
        "endedAt": a_moment(160).timestamp(),
    }
    return json_answer({"jobProperties": {**usual, **overrides}})


def _summary(name: str, job_id: ImportJobId, submitted_at: datetime) -> dict[str, Any]:
    return {
        "jobId": job_id.value,
        "jobName": name,
        "jobStatus": "IN_PROGRESS",
        "datastoreId": DATA_STORE.value,
        "submittedAt": submitted_at.timestamp(),
    }


def _fits_the_service_model(operation: str, given: dict[str, Any]) -> None:
    """Compare with the patterns and lengths of the service's own model, which the SDK does not check."""
    model = botocore.session.get_session().get_service_model("medical-imaging").operation_model(operation)
    assert model.input_shape is not None
    assert set(model.input_shape.required_members) <= given.keys() <= model.input_shape.members.keys()
    for name, value in given.items():
        rules = model.input_shape.members[name].metadata
        assert rules.get("min", 1) <= len(value) <= rules.get("max", 10_000)
        assert re.fullmatch(rules.get("pattern", ".*"), value), name


# Start.


def test_a_start_names_job_and_token_after_the_batch_and_its_attempt(
    server: ScriptedServer, importer: HealthImagingImporter
) -> None:
    server.script(STARTED)

    job = importer.start(REQUEST)

    assert (job.id, job.name, job.status) == (JOB, BATCH.job_name, ImportJobStatus.SUBMITTED)
    assert job.output_prefix == FOLDER
    assert job.submitted_at == datetime.fromisoformat("2025-03-14T09:31:00.250+00:00")
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", f"/startDICOMImportJob/datastore/{DATA_STORE}")
    assert request.headers["Authorization"].startswith("AWS4-HMAC-SHA256")
    assert request.json == {
        "clientToken": BATCH.job_name,
        "dataAccessRoleArn": ROLE,
        "inputS3Uri": f"s3://staging/batches/{BATCH.id}/",
        "jobName": BATCH.job_name,
        "outputS3Uri": f"s3://results/{BATCH.id}/",
    }
    _fits_the_service_model("StartDICOMImportJob", {"datastoreId": DATA_STORE.value, **request.json})


def test_a_bucket_of_another_account_is_told_of(server: ScriptedServer) -> None:
    server.script(STARTED)
    for importer in _importer(server, bucket_owner="999999999999"):
        importer.start(REQUEST)

    assert server.requests[0].json["inputOwnerAccountId"] == "999999999999"
    _fits_the_service_model("StartDICOMImportJob", {"datastoreId": DATA_STORE.value, **server.requests[0].json})


@pytest.mark.parametrize("answer", BUSY)
def test_what_passes_by_itself_is_a_wait(
    server: ScriptedServer, importer: HealthImagingImporter, answer: Answer
) -> None:
    server.script(answer)

    with pytest.raises(ImporterBusy):
        importer.start(REQUEST)
    with pytest.raises(ImporterBusy):
        importer.find(BATCH.job_name)
    with pytest.raises(ImporterBusy):
        importer.describe(JOB)


def test_a_service_that_does_not_answer_is_a_wait(importer: HealthImagingImporter, server: ScriptedServer) -> None:
    server.close()

    with pytest.raises(ImporterBusy, match="EndpointConnectionError"):
        importer.start(REQUEST)


@pytest.mark.parametrize(
    "code, status, words",
    [
        (
            "AccessDeniedException",
            403,
            f"medical-imaging:StartDICOMImportJob on data store {DATA_STORE} and iam:PassRole",
        ),
        ("ResourceNotFoundException", 404, f"check --data-store-id {DATA_STORE} and --region"),
        ("ValidationException", 400, f"--data-access-role-arn {ROLE}, --staging-bucket and --results-bucket"),
    ],
)
def test_what_an_operator_has_to_fix_is_refused_with_what_that_is(
    server: ScriptedServer, importer: HealthImagingImporter, code: str, status: int, words: str
) -> None:
    server.script(error_answer(code, status, "the service's\nown sentence"))

    with pytest.raises(ImportRefused, match=re.escape(words)) as caught:
        importer.start(REQUEST)

    assert f"StartDICOMImportJob was answered with {code} (request R-1): the service'sown sentence" in str(caught.value)


def test_a_conflict_is_the_job_of_that_name_if_there_is_one(
    server: ScriptedServer, importer: HealthImagingImporter
) -> None:
    listed = json_answer({"jobSummaries": [_summary(BATCH.job_name, JOB, a_moment(60))]})
    server.script(error_answer("ConflictException", 409), listed)

    job = importer.start(REQUEST)

    assert (job.id, job.output_prefix) == (JOB, FOLDER)


def test_a_conflict_without_a_job_of_that_name_is_a_wait(
    server: ScriptedServer, importer: HealthImagingImporter
) -> None:
    server.script(error_answer("ConflictException", 409), json_answer({"jobSummaries": []}))

    with pytest.raises(ImporterBusy, match="may not be active"):
        importer.start(REQUEST)


# Find.


def _pages(server: ScriptedServer, jobs: list[dict[str, Any]], size: int = 50) -> None:
    def page(request: Request) -> Answer:
        at = int(request.path.partition("nextToken=")[2].partition("&")[0] or 0)
        more = {"nextToken": str(at + size)} if at + size < len(jobs) else {}
        return json_answer({"jobSummaries": jobs[at : at + size], **more})

    server.answer = page


def _others(count: int, step_seconds: float) -> list[dict[str, Any]]:
    return [
        _summary(f"other-{number}", a_job_id(100 + number), a_moment(7200) + number * timedelta(seconds=step_seconds))
        for number in range(count)
    ]


def test_a_job_is_found_by_its_name_on_any_page(server: ScriptedServer, importer: HealthImagingImporter) -> None:
    _pages(server, [*_others(120, 1), _summary(BATCH.job_name, JOB, a_moment(60)), *_others(10, 1)])

    job = importer.find(BATCH.job_name)

    assert job is not None
    assert (job.id, job.name, job.status) == (JOB, BATCH.job_name, ImportJobStatus.IN_PROGRESS)
    assert (job.output_prefix, job.submitted_at) == (FOLDER, a_moment(60))
    assert len(server.requests) == 3
    assert "maxResults=50" in server.requests[0].path


def test_a_list_that_is_newest_first_is_read_no_further_than_the_batch(
    server: ScriptedServer, importer: HealthImagingImporter
) -> None:
    _pages(server, _others(1000, -120))

    assert importer.find(BATCH.job_name) is None
    assert len(server.requests) < 5


def test_a_list_in_any_other_order_is_read_to_its_end(server: ScriptedServer, importer: HealthImagingImporter) -> None:
    old = _others(3, -36_000)
    _pages(server, [*old, *_others(100, 1), *old, _summary(BATCH.job_name, JOB, a_moment(60))])

    assert importer.find(BATCH.job_name) is not None


# Describe.


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://results/{FOLDER}",
        f"s3://results/{FOLDER.rstrip('/')}",
        f"s3://results/{BATCH.id}/",
        f"s3://results/{BATCH.id}",
    ],
)
def test_the_results_folder_is_the_jobs_own_however_the_service_spells_it(
    server: ScriptedServer, importer: HealthImagingImporter, uri: str
) -> None:
    server.script(_properties(outputS3Uri=uri))

    assert importer.describe(JOB).output_prefix == FOLDER


def test_a_job_is_described_with_its_times_and_message(server: ScriptedServer, importer: HealthImagingImporter) -> None:
    server.script(_properties(jobStatus="FAILED", message="no access"))

    job = importer.describe(JOB)

    assert (job.id, job.name, job.status, job.message) == (JOB, BATCH.job_name, ImportJobStatus.FAILED, "no access")
    assert (job.submitted_at, job.ended_at) == (a_moment(60), a_moment(160))
    assert server.requests[0].path == f"/getDICOMImportJob/datastore/{DATA_STORE}/job/{JOB}"


def test_a_status_that_nobody_knows_is_not_the_end(server: ScriptedServer, importer: HealthImagingImporter) -> None:
    server.script(_properties(jobStatus="RESTING"))

    assert importer.describe(JOB).status is ImportJobStatus.IN_PROGRESS


def test_results_in_another_bucket_are_refused(server: ScriptedServer, importer: HealthImagingImporter) -> None:
    server.script(_properties(outputS3Uri=f"s3://elsewhere/{FOLDER}"))

    with pytest.raises(ImportRefused, match=r"bucket elsewhere.*check --results-bucket"):
        importer.describe(JOB)


def test_a_job_that_nobody_knows_is_refused(server: ScriptedServer, importer: HealthImagingImporter) -> None:
    server.script(error_answer("ResourceNotFoundException", 404))

    with pytest.raises(ImportRefused, match="GetDICOMImportJob was answered with ResourceNotFoundException"):
        importer.describe(JOB)
