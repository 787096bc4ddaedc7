"""The stand-in for HealthImaging, asked by the real SDK over HTTP."""

from __future__ import annotations

import gzip
import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from adapters.entrypoints.medical_imaging import Behaviour, HealthImagingStandIn, Rate, Results
from adapters.entrypoints.medical_imaging.behaviour import RATES
from adapters.entrypoints.medical_imaging.service_model import problems_of, routes, service_model
from adapters.memory.clock import FakeClock
from adapters.outbound.local.data_store import FileInputObjects, FileOutputObjects
from domain.identifiers import DataStoreId
from tests.serving import a_data_set

pytestmark = pytest.mark.usefixtures("no_threads_left")

STORE = "d" * 32
ROLE = "arn:aws:iam::123456789012:role/data-access"
PATIENCE_SECONDS = 20.0


class Inputs(FileInputObjects):
    def uri(self, prefix: str) -> str:
        return f"s3://in-bucket/{prefix}"


class Outputs(FileOutputObjects):
    def uri(self, prefix: str) -> str:
        return f"s3://out-bucket/{prefix}"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def behaviour(clock: FakeClock) -> Behaviour:
    return Behaviour(clock=clock)


@pytest.fixture
def stand_in(tmp_path: Path, behaviour: Behaviour) -> Iterator[HealthImagingStandIn]:
    (tmp_path / "in").mkdir()
    inputs, outputs = Inputs(tmp_path / "in"), Outputs(tmp_path / "out")
    with HealthImagingStandIn(tmp_path / "store", DataStoreId(STORE), inputs, outputs, behaviour) as running:
        yield running


@pytest.fixture
def client(stand_in: HealthImagingStandIn) -> Iterator[Any]:
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    config = Config(inject_host_prefix=False, retries={"total_max_attempts": 1})
    with closing(session.client("medical-imaging", endpoint_url=stand_in.url, config=config)) as client:
        yield client


@pytest.fixture
def images(tmp_path: Path, stand_in: HealthImagingStandIn) -> Path:
    """Give a prefix `batch/` with two images and a file that is none."""
    folder = tmp_path / "in" / "batch"
    folder.mkdir()
    for number in (1, 2):
        a_data_set(number, size=128).save_as(folder / f"{number}.dcm", enforce_file_format=True)
    (folder / "3.dcm").write_bytes(b"no image")
    return folder


def _asked(token: str = "batch-1", **changes: Any) -> dict[str, Any]:
    usual = {
        "datastoreId": STORE,
        "dataAccessRoleArn": ROLE,
        "clientToken": token,
        "jobName": token,
        "inputS3Uri": "s3://in-bucket/batch/",
        "outputS3Uri": "s3://out-bucket/results/",
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def _ended(client: Any, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.get_dicom_import_job(datastoreId=STORE, jobId=job_id)["jobProperties"]
        if job["jobStatus"] in {"COMPLETED", "FAILED"}:
            return job
        time.sleep(0.02)
    raise AssertionError("the job does not end")


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _refused(call: Callable[..., Any], **parameters: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    response = caught.value.response
    assert response["ResponseMetadata"]["RequestId"]
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


@pytest.fixture
def imported(client: Any, images: Path, behaviour: Behaviour) -> dict[str, Any]:
    behaviour.rates.clear()
    return _ended(client, client.start_dicom_import_job(**_asked())["jobId"])


def _manifest(tmp_path: Path, job_id: str) -> Path:
    return tmp_path / "out" / "results" / f"{STORE}-DicomImport-{job_id}" / "job-output-manifest.json"


# jobs


def test_a_job_is_submitted_runs_and_leaves_results(
    client: Any, images: Path, clock: FakeClock, tmp_path: Path
) -> None:
    started = client.start_dicom_import_job(**_asked())

    assert (STORE, "SUBMITTED", clock.now()) == (started["datastoreId"], started["jobStatus"], started["submittedAt"])
    job = _ended(client, started["jobId"])
    assert job["jobStatus"] == "COMPLETED"
    assert (job["jobName"], job["dataAccessRoleArn"], job["datastoreId"]) == ("batch-1", ROLE, STORE)
    assert job["inputS3Uri"] == "s3://in-bucket/batch/"
    assert f"s3://out-bucket/results/{STORE}-DicomImport-{started['jobId']}/" == job["outputS3Uri"]
    assert clock.now() == job["endedAt"]
    summary = json.loads(_manifest(tmp_path, started["jobId"]).read_bytes())["jobSummary"]
    assert (
        summary["numberOfScannedFiles"],
        summary["numberOfImportedFiles"],
        summary["numberOfFilesWithCustomerError"],
    ) == (3, 2, 1)


def test_the_same_token_is_the_same_job(client: Any, images: Path) -> None:
    first = client.start_dicom_import_job(**_asked())
    again = client.start_dicom_import_job(**_asked())

    assert first["jobId"] == again["jobId"]


def test_the_same_token_with_another_body_is_a_conflict(client: Any, images: Path) -> None:
    client.start_dicom_import_job(**_asked())

    code, status, _ = _refused(client.start_dicom_import_job, **_asked(outputS3Uri="s3://out-bucket/elsewhere/"))

    assert (code, status) == ("ConflictException", 409)


def test_a_job_without_a_name_is_called_by_its_id(client: Any, images: Path) -> None:
    started = client.start_dicom_import_job(**_asked(jobName=None))

    assert started["jobId"] == _ended(client, started["jobId"])["jobName"]


def test_jobs_are_listed_newest_first_page_by_page_and_by_status(
    client: Any, images: Path, behaviour: Behaviour
) -> None:
    behaviour.rates.clear()
    for number in range(7):
        started = client.start_dicom_import_job(**_asked(f"batch-{number}"))
        _ended(client, started["jobId"])

    pages = list(
        client.get_paginator("list_dicom_import_jobs").paginate(datastoreId=STORE, PaginationConfig={"PageSize": 3})
    )

    assert [len(page["jobSummaries"]) for page in pages] == [3, 3, 1]
    names = [job["jobName"] for page in pages for job in page["jobSummaries"]]
    assert [f"batch-{number}" for number in reversed(range(7))] == names
    listed = client.list_dicom_import_jobs(datastoreId=STORE, jobStatus="FAILED")
    assert listed["jobSummaries"] == []


def test_a_job_takes_as_long_as_it_shall(client: Any, images: Path, behaviour: Behaviour, clock: FakeClock) -> None:
    behaviour.job_seconds = 100
    started = client.start_dicom_import_job(**_asked())
    clock.advance(99)
    describe = client.get_dicom_import_job

    time.sleep(0.3)
    assert describe(datastoreId=STORE, jobId=started["jobId"])["jobProperties"]["jobStatus"] == "IN_PROGRESS"
    assert "endedAt" not in describe(datastoreId=STORE, jobId=started["jobId"])["jobProperties"]
    clock.advance(1)
    job = _ended(client, started["jobId"])
    assert timedelta(seconds=100) == job["endedAt"] - job["submittedAt"]


def test_more_jobs_than_allowed_are_refused_with_402_but_not_a_repeat(
    client: Any, images: Path, stand_in: HealthImagingStandIn, behaviour: Behaviour, clock: FakeClock
) -> None:
    behaviour.rates.clear()
    behaviour.job_seconds, behaviour.concurrency = 100, 2
    first, _ = (client.start_dicom_import_job(**_asked(f"batch-{number}")) for number in range(2))

    code, status, _ = _refused(client.start_dicom_import_job, **_asked("batch-2"))

    assert (code, status) == ("ServiceQuotaExceededException", 402)
    assert first["jobId"] == client.start_dicom_import_job(**_asked("batch-0"))["jobId"]
    _wait(lambda: all(job.status.has_ended for job in stand_in.store.list_jobs()))
    clock.advance(100)
    assert client.start_dicom_import_job(**_asked("batch-2"))["jobId"]


# rates


def test_starts_are_throttled_at_the_real_rate(client: Any, images: Path, clock: FakeClock) -> None:
    for number in range(2):
        client.start_dicom_import_job(**_asked(f"batch-{number}"))

    assert _refused(client.start_dicom_import_job, **_asked("batch-2")) == ("ThrottlingException", 429, "Rate exceeded")
    clock.advance(1)
    client.start_dicom_import_job(**_asked("batch-2"))
    assert _refused(client.start_dicom_import_job, **_asked("batch-3"))[0] == "ThrottlingException"


@pytest.mark.parametrize("operation, burst", [("GetDICOMImportJob", 50), ("ListDICOMImportJobs", 20)])
def test_the_other_operations_have_their_own_rates(client: Any, operation: str, burst: int) -> None:
    calls = {
        "GetDICOMImportJob": lambda: client.get_dicom_import_job(datastoreId=STORE, jobId="0" * 32),
        "ListDICOMImportJobs": lambda: client.list_dicom_import_jobs(datastoreId=STORE),
    }
    codes = []
    for _ in range(burst + 1):
        try:
            calls[operation]()
            codes.append("answered")
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])

    assert "ThrottlingException" not in codes[:burst]
    assert codes[-1] == "ThrottlingException"


def test_the_rates_are_those_of_the_service_and_can_be_changed(client: Any, images: Path, behaviour: Behaviour) -> None:
    assert (Rate(1, 2), Rate(25, 50), Rate(10, 20)) == tuple(
        RATES[name] for name in ("StartDICOMImportJob", "GetDICOMImportJob", "ListDICOMImportJobs")
    )
    behaviour.rates["StartDICOMImportJob"] = Rate(0.25, 1)
    client.start_dicom_import_job(**_asked())

    assert _refused(client.start_dicom_import_job, **_asked("batch-2"))[0] == "ThrottlingException"


# requests that are wrong


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"clientToken": "with space"}, "clientToken"),
        ({"clientToken": "x" * 65}, "clientToken"),
        ({"jobName": "ä"}, "jobName"),
        ({"jobName": "x" * 65}, "jobName"),
        ({"inputS3Uri": "in-bucket/batch/"}, "inputS3Uri"),
        ({"inputS3Uri": "s3://in-bucket/" + "x" * 1024}, "inputS3Uri"),
        ({"outputS3Uri": "https://out-bucket/"}, "outputS3Uri"),
        ({"dataAccessRoleArn": "arn:aws:iam::1:role/too-short"}, "dataAccessRoleArn"),
        ({"inputOwnerAccountId": "12345678901x"}, "inputOwnerAccountId"),
        ({"datastoreId": "D" * 32}, "datastoreId"),
        ({"inputS3Uri": "s3://someone-elses/batch/"}, "inputS3Uri"),
        ({"inputS3Uri": "s3://in-bucket/../batch/"}, "prefix"),
    ],
)
def test_what_breaks_the_service_model_is_a_validation_exception(
    client: Any, images: Path, wrong: dict[str, str], told: str
) -> None:
    code, status, message = _refused(client.start_dicom_import_job, **_asked(**wrong))

    assert (code, status) == ("ValidationException", 400)
    assert told in message
    assert not any(value in message for value in wrong.values())


@pytest.mark.parametrize(
    "call, parameters, expected",
    [
        ("get_dicom_import_job", {"datastoreId": "e" * 32, "jobId": "0" * 32}, ("ResourceNotFoundException", 404)),
        ("get_dicom_import_job", {"datastoreId": STORE, "jobId": "0" * 32}, ("ResourceNotFoundException", 404)),
        ("get_dicom_import_job", {"datastoreId": STORE, "jobId": "X"}, ("ValidationException", 400)),
        ("list_dicom_import_jobs", {"datastoreId": STORE, "maxResults": 51}, ("ValidationException", 400)),
        ("list_dicom_import_jobs", {"datastoreId": STORE, "jobStatus": "DONE"}, ("ValidationException", 400)),
        ("list_dicom_import_jobs", {"datastoreId": STORE, "nextToken": "ü"}, ("ValidationException", 400)),
        ("get_image_set", {"datastoreId": STORE, "imageSetId": "0" * 32}, ("ResourceNotFoundException", 404)),
        ("list_datastores", {}, ("NotImplementedOperation", 501)),
    ],
)
def test_other_requests_are_checked_too(
    client: Any, call: str, parameters: dict[str, Any], expected: tuple[str, int]
) -> None:
    assert expected == _refused(getattr(client, call), **parameters)[:2]


SIGNED = {
    "Authorization": (
        "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/medical-imaging/aws4_request,"
        f" SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    ),
    "X-Amz-Date": "20261123T000000Z",
}


def _raw(
    stand_in: HealthImagingStandIn, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    with closing(http.client.HTTPConnection(urlsplit(stand_in.url).netloc, timeout=10)) as connection:
        connection.request(method, path, body, headers=SIGNED if headers is None else headers)
        response = connection.getresponse()
        content = response.read()
        return response.status, dict(response.getheaders()), json.loads(content)


@pytest.mark.parametrize(
    "headers, kind",
    [
        ({}, "MissingAuthenticationTokenException"),
        ({**SIGNED, "Authorization": "Basic dGVzdA=="}, "MissingAuthenticationTokenException"),
        ({"Authorization": SIGNED["Authorization"]}, "MissingAuthenticationTokenException"),
        (
            {**SIGNED, "Authorization": SIGNED["Authorization"].replace("medical-imaging", "s3")},
            "InvalidSignatureException",
        ),
    ],
)
def test_a_request_that_is_not_signed_for_the_service_is_refused(
    stand_in: HealthImagingStandIn, headers: dict[str, str], kind: str
) -> None:
    status, answered, content = _raw(stand_in, "GET", f"/datastore/{STORE}", headers=headers)

    assert (403, kind) == (status, answered["x-amzn-ErrorType"])
    assert answered["x-amzn-RequestId"]
    assert content["message"]


def test_missing_parameters_and_bodies_that_are_no_json_are_refused(stand_in: HealthImagingStandIn) -> None:
    path = f"/startDICOMImportJob/datastore/{STORE}"

    status, headers, content = _raw(stand_in, "POST", path, b"{}")
    assert (status, headers["x-amzn-ErrorType"]) == (400, "ValidationException")
    assert all(name in content["message"] for name in ("clientToken", "dataAccessRoleArn", "inputS3Uri", "outputS3Uri"))
    assert _raw(stand_in, "POST", path, b"{")[0] == 400
    assert _raw(stand_in, "GET", "/nowhere")[0] == 404
    assert _raw(stand_in, "POST", path, b"", {**SIGNED, "Content-Length": str(1 << 30)})[0] == 413


def test_every_operation_of_the_service_model_has_its_route() -> None:
    paths = [(route.method, route.pattern.pattern) for route in routes()]

    assert len(set(service_model().operation_names)) == len(set(paths))


# the data store and its image sets


def test_image_sets_can_be_searched_read_and_deleted(client: Any, imported: dict[str, Any]) -> None:
    search = client.search_image_sets
    (found,) = search(datastoreId=STORE)["imageSetsMetadataSummaries"]
    image_set = client.get_image_set(datastoreId=STORE, imageSetId=found["imageSetId"])
    answer = client.get_image_set_metadata(datastoreId=STORE, imageSetId=found["imageSetId"])
    metadata = json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))

    assert (found["version"], found["isPrimary"], found["DICOMTags"]["DICOMStudyInstanceUID"]) == (1, True, "2.25.7000")
    assert (image_set["versionId"], image_set["imageSetState"]) == ("1", "ACTIVE")
    assert (answer["contentEncoding"], answer["contentType"]) == ("gzip", "application/json")
    assert {"2.25.7100.1", "2.25.7100.2"} == set(metadata["Study"]["Series"]["2.25.7001"]["Instances"])
    code, status, _ = _refused(client.get_image_set, datastoreId=STORE, imageSetId=found["imageSetId"], versionId="9")
    assert (code, status) == ("ResourceNotFoundException", 404)

    deleted = client.delete_image_set(datastoreId=STORE, imageSetId=found["imageSetId"])

    assert deleted["imageSetWorkflowStatus"] == "DELETING"
    assert search(datastoreId=STORE)["imageSetsMetadataSummaries"] == []


@pytest.mark.parametrize(
    "values, operator, is_found",
    [
        ([{"DICOMStudyInstanceUID": "2.25.7000"}], "EQUAL", True),
        ([{"DICOMStudyInstanceUID": "2.25.1"}], "EQUAL", False),
        ([{"DICOMSeriesInstanceUID": "2.25.7001"}], "EQUAL", True),
        ([{"DICOMSeriesInstanceUID": "2.25.1"}], "EQUAL", False),
        ([{"DICOMPatientId": "PATIENT"}], "EQUAL", True),
        ([{"DICOMAccessionNumber": "A"}], "EQUAL", False),
        ([{"isPrimary": True}], "EQUAL", True),
        ([{"isPrimary": False}], "EQUAL", False),
    ],
)
def test_a_search_takes_criteria(
    client: Any, imported: dict[str, Any], values: list[dict[str, Any]], operator: str, is_found: bool
) -> None:
    criteria = {"filters": [{"values": values, "operator": operator}]}

    found = client.search_image_sets(datastoreId=STORE, searchCriteria=criteria)["imageSetsMetadataSummaries"]

    assert is_found == bool(found)


def test_a_search_takes_times(client: Any, imported: dict[str, Any], clock: FakeClock) -> None:
    day = timedelta(days=1)
    times = [{"createdAt": clock.now() - day}, {"createdAt": clock.now() + day}]
    criteria = {"filters": [{"values": times, "operator": "BETWEEN"}]}

    assert client.search_image_sets(datastoreId=STORE, searchCriteria=criteria)["imageSetsMetadataSummaries"]


def test_the_data_store_is_active(client: Any) -> None:
    properties = client.get_datastore(datastoreId=STORE)["datastoreProperties"]

    assert (properties["datastoreId"], properties["datastoreStatus"]) == (STORE, "ACTIVE")
    assert f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{STORE}" == properties["datastoreArn"]


def test_answers_fit_the_service_model(client: Any, stand_in: HealthImagingStandIn, imported: dict[str, Any]) -> None:
    (found,) = client.search_image_sets(datastoreId=STORE)["imageSetsMetadataSummaries"]
    asked = {
        "GetDatastore": ("GET", f"/datastore/{STORE}"),
        "GetDICOMImportJob": ("GET", f"/getDICOMImportJob/datastore/{STORE}/job/{imported['jobId']}"),
        "ListDICOMImportJobs": ("GET", f"/listDICOMImportJobs/datastore/{STORE}"),
        "SearchImageSets": ("POST", f"/datastore/{STORE}/searchImageSets"),
        "GetImageSet": ("POST", f"/datastore/{STORE}/imageSet/{found['imageSetId']}/getImageSet"),
        "DeleteImageSet": ("POST", f"/datastore/{STORE}/imageSet/{found['imageSetId']}/deleteImageSet"),
    }
    for operation, (method, path) in asked.items():
        status, _, content = _raw(stand_in, method, path)
        shape = service_model().operation_model(operation).output_shape
        assert shape is not None
        assert (status, list(problems_of(shape, content))) == (200, [])


# faults


@pytest.mark.usefixtures("no_threads_left", "images")
@pytest.mark.parametrize(
    "error, status",
    [
        ("ThrottlingException", 429),
        ("ServiceQuotaExceededException", 402),
        ("ConflictException", 409),
        ("InternalServerException", 500),
        ("AccessDeniedException", 403),
    ],
)
def test_requests_can_be_refused_so_many_times_or_so_long(
    client: Any, behaviour: Behaviour, clock: FakeClock, error: str, status: int
) -> None:
    behaviour.rates.clear()
    behaviour.refuse(error, "StartDICOMImportJob", requests=2)
    codes = [_refused(client.start_dicom_import_job, **_asked())[:2] for _ in range(2)]
    assert [(error, status)] * 2 == codes
    client.start_dicom_import_job(**_asked())

    behaviour.refuse(error, seconds=3600)
    clock.advance(3599)
    assert (error, status) == _refused(client.list_dicom_import_jobs, datastoreId=STORE)[:2]
    clock.advance(1)
    assert len(client.list_dicom_import_jobs(datastoreId=STORE)["jobSummaries"]) == 1


def test_an_answer_can_be_lost_before_and_after_the_deed(client: Any, images: Path, behaviour: Behaviour) -> None:
    lost = (ConnectionClosedError, EndpointConnectionError)
    behaviour.refuse("cut", "StartDICOMImportJob", requests=1)
    with pytest.raises(lost):
        client.start_dicom_import_job(**_asked())
    assert client.list_dicom_import_jobs(datastoreId=STORE)["jobSummaries"] == []

    behaviour.refuse("lost answer", "StartDICOMImportJob", requests=1)
    with pytest.raises(lost):
        client.start_dicom_import_job(**_asked())
    assert len(client.list_dicom_import_jobs(datastoreId=STORE)["jobSummaries"]) == 1


def test_a_job_can_fail_and_imports_nothing_then(client: Any, images: Path, behaviour: Behaviour) -> None:
    behaviour.faults.fail_jobs = 1
    failed = _ended(client, client.start_dicom_import_job(**_asked())["jobId"])
    ended = _ended(client, client.start_dicom_import_job(**_asked("batch-2"))["jobId"])

    assert (failed["jobStatus"], ended["jobStatus"]) == ("FAILED", "COMPLETED")
    assert "AccessDenied" in failed["message"]
    assert "message" not in ended


def test_a_job_can_never_end_until_the_faults_are_cleared(
    client: Any, images: Path, behaviour: Behaviour, clock: FakeClock
) -> None:
    behaviour.faults.jobs_never_end = True
    job_id = client.start_dicom_import_job(**_asked())["jobId"]
    clock.advance(86_400 * 30)
    time.sleep(0.3)

    job = client.get_dicom_import_job(datastoreId=STORE, jobId=job_id)["jobProperties"]

    assert job["jobStatus"] == "IN_PROGRESS"
    behaviour.clear()
    assert _ended(client, job_id)["jobStatus"] == "COMPLETED"


@pytest.mark.parametrize("results", [each for each in Results if each is not Results.COMPLETE])
def test_results_can_be_missing_or_truncated(
    client: Any, images: Path, behaviour: Behaviour, tmp_path: Path, results: Results
) -> None:
    behaviour.faults.results = results
    job_id = _ended(client, client.start_dicom_import_job(**_asked())["jobId"])["jobId"]

    manifest = _manifest(tmp_path, job_id)
    success = manifest.parent / "SUCCESS" / "success.ndjson"
    assert (results in {Results.TRUNCATED, Results.TORN_MANIFEST}) == manifest.exists()
    assert (results is not Results.MISSING) == success.exists()
    if results is Results.TRUNCATED:
        first, last = success.read_text().splitlines()
        json.loads(first)
        with pytest.raises(ValueError):  # noqa: PT011  # whatever json says of half a line
            json.loads(last)
    if results is Results.TORN_MANIFEST:
        with pytest.raises(ValueError):  # noqa: PT011  # whatever json says of half a document
            json.loads(manifest.read_text())


def test_the_manifest_can_come_late(
    client: Any, images: Path, behaviour: Behaviour, clock: FakeClock, tmp_path: Path
) -> None:
    behaviour.faults.manifest_delay_seconds = 60
    manifest = _manifest(tmp_path, _ended(client, client.start_dicom_import_job(**_asked())["jobId"])["jobId"])
    clock.advance(59)
    time.sleep(0.1)
    assert not manifest.exists()

    clock.advance(1)

    _wait(manifest.exists)


def test_the_output_can_be_named_bare(client: Any, imported: dict[str, Any], behaviour: Behaviour) -> None:
    behaviour.faults.bare_output_uri = True

    job = client.get_dicom_import_job(datastoreId=STORE, jobId=imported["jobId"])["jobProperties"]

    assert job["outputS3Uri"] == "s3://out-bucket/results/"


def test_faults_are_controlled_over_http_too(client: Any, images: Path, stand_in: HealthImagingStandIn) -> None:
    wanted = {
        "refuse": [{"error": "ThrottlingException", "operation": "StartDICOMImportJob", "requests": 1}],
        "job_seconds": 3,
        "rates": {"StartDICOMImportJob": [5, 9]},
        "results": "missing",
    }

    status, _, content = _raw(stand_in, "POST", "/_control", json.dumps(wanted).encode(), {})

    assert (
        status,
        content["job_seconds"],
        content["results"],
        content["rates"]["StartDICOMImportJob"],
    ) == (200, 3.0, "missing", [5.0, 9])
    assert _refused(client.start_dicom_import_job, **_asked())[0] == "ThrottlingException"
    client.start_dicom_import_job(**_asked())
    assert _raw(stand_in, "GET", "/_control", headers={})[2]["calls"] == {"StartDICOMImportJob": 2}
    assert _raw(stand_in, "POST", "/_control", b'{"nonsense": 1}', {})[0] == 400
    assert _raw(stand_in, "POST", "/_control", b"[", {})[0] == 400
    assert _raw(stand_in, "DELETE", "/_control", headers={})[2]["results"] == "complete"
