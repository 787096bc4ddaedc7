"""What S3ResultsReader does beyond its contract: streaming, pieces that end anywhere, faults of S3."""

import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import boto3
import pytest

from adapters.outbound.s3_bucket import S3Bucket, open_store
from adapters.outbound.s3_results import S3ResultsReader, _Folder
from domain.errors import ResultsNotReady, ResultsUnreadable
from domain.identifiers import BatchId
from domain.import_job import ImportJob, ImportJobStatus
from tests.builders import DATA_STORE, a_batch_id, a_job_id, a_staging_key, an_image_set
from tests.s3 import Storage, simulated_storage, storage_at
from tests.scripted_server import Answer, Request, ScriptedServer, s3_error, scripted_server

pytestmark = pytest.mark.aws

FOLDER = f"{a_batch_id(1)}/{DATA_STORE}-DicomImport-{a_job_id()}/"
JOB = ImportJob(id=a_job_id(), name="job", status=ImportJobStatus.COMPLETED, output_prefix=FOLDER)


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    with simulated_storage() as storage:
        yield storage


@pytest.fixture
def bucket(storage: Storage) -> S3Bucket:
    return storage.make_bucket()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def scripted(server: ScriptedServer) -> Iterator[S3ResultsReader]:
    with storage_at(server.url) as storage:
        yield S3ResultsReader(storage.bucket)


def _success(number: int, **more: Any) -> str:
    response = {"imageSetId": str(an_image_set()), "imageSetVersion": 1, "isPrimary": True}
    return f"{json.dumps({'inputFile': a_staging_key(number).path, 'importResponse': response, **more})}\n"


def _put(bucket: S3Bucket, name: str, content: str) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key=f"{FOLDER}{name}", Body=content.encode())


def _manifest(imported: int) -> str:
    return json.dumps({"jobSummary": {"numberOfImportedFiles": imported, "numberOfFilesWithCustomerError": 0}})


def test_a_large_result_is_read_piece_by_piece(bucket: S3Bucket) -> None:
    lines = "".join(_success(number, padding="x" * 2000) for number in range(5000))
    _put(bucket, "job-output-manifest.json", _manifest(5000))
    _put(bucket, "SUCCESS/success.ndjson", lines)

    assert sum(outcome.is_imported for outcome in S3ResultsReader(bucket).outcomes(JOB)) == 5000

    folder = _Folder(bucket, FOLDER)
    found = folder._open("SUCCESS/success.ndjson")
    assert found is not None
    sizes = [len(piece) for piece in folder._pieces(found)]
    assert sum(sizes) == len(lines)
    assert max(sizes) < 1 << 20


def test_a_result_of_5000_lines_is_read_in_the_memory_of_a_few_pieces(bucket: S3Bucket) -> None:
    # the simulated server is in this process: only what the reader and what it calls hold counts
    ours = [
        tracemalloc.Filter(inclusive=True, filename_pattern=f"*/{name}/*") for name in ("outbound", "domain", "json")
    ]
    lines = "".join(_success(number, padding="x" * 2000) for number in range(5000))
    _put(bucket, "job-output-manifest.json", _manifest(5000))
    _put(bucket, "SUCCESS/success.ndjson", lines)
    held = []
    tracemalloc.start()
    for number, _ in enumerate(S3ResultsReader(bucket).outcomes(JOB)):
        if number % 1000 in {0, 999}:
            traces = tracemalloc.take_snapshot().filter_traces(ours)
            held.append(sum(trace.size for trace in traces.traces))
    tracemalloc.stop()

    assert len(held) == 10
    assert len(lines) > 10 << 20
    assert max(held) < 2 << 20


def test_a_line_without_end_is_no_record(bucket: S3Bucket) -> None:
    _put(bucket, "job-output-manifest.json", _manifest(1))
    _put(bucket, "SUCCESS/success.ndjson", "x" * (3 << 20))

    with pytest.raises(ResultsUnreadable, match="more than 1048576 bytes"):
        list(S3ResultsReader(bucket).outcomes(JOB))


def test_jobs_are_those_with_a_manifest_and_batches_those_with_a_folder(bucket: S3Bucket) -> None:
    _put(bucket, "job-output-manifest.json", _manifest(0))
    _put(bucket, "SUCCESS/success.ndjson", "")
    for key in (f"{a_batch_id(1)}/odd/job-output-manifest.json", f"{a_batch_id(1)}/job-output-manifest.json"):
        bucket.client.put_object(Bucket=bucket.name, Key=key)
    for key in ("a/x", "a-1/x", "odd name/x", "loose"):
        bucket.client.put_object(Bucket=bucket.name, Key=key)
    reader = S3ResultsReader(bucket)

    (job,) = reader.jobs(a_batch_id(1))

    assert (job.id, job.output_prefix, job.status) == (a_job_id(), FOLDER, ImportJobStatus.COMPLETED)
    assert job.ended_at is not None
    assert datetime.now(UTC) - job.ended_at < timedelta(minutes=1)
    assert list(reader.batches()) == [a_batch_id(1), BatchId("a"), BatchId("a-1")]


@pytest.mark.parametrize("answer", [s3_error("AccessDenied", 403), s3_error("NoSuchKey", 404), Answer(status=400)])
def test_results_that_cannot_be_read_now_are_not_ready(
    server: ScriptedServer, scripted: S3ResultsReader, answer: Answer
) -> None:
    server.script(answer)

    with pytest.raises(ResultsNotReady):
        list(scripted.outcomes(JOB))


def test_a_list_that_breaks_off_is_read_on_or_not_ready(server: ScriptedServer, scripted: S3ResultsReader) -> None:
    lines = "".join(_success(number) for number in range(100)).encode()
    stamp = {"ETag": '"one"', "Last-Modified": "Fri, 14 Mar 2025 09:30:00 GMT"}
    cuts = iter([1000])

    def answer(request: Request) -> Answer:
        if request.path.endswith("manifest.json"):
            return Answer(body=_manifest(100).encode(), headers=stamp)
        if not request.path.endswith("success.ndjson"):
            return s3_error("NoSuchKey", 404)
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {**stamp, "Content-Range": f"bytes {start}-{len(lines) - 1}/{len(lines)}"} if start else stamp
        return Answer(status=206 if start else 200, body=lines[start:], headers=headers, cut=next(cuts, None))

    server.answer = answer

    outcomes = {outcome.key for outcome in scripted.outcomes(JOB)}

    assert outcomes == {a_staging_key(number) for number in range(100)}


def test_without_credentials_nothing_is_ready_and_it_says_why(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    store = open_store(boto3.Session(region_name="eu-central-1"), "staging", endpoint_url=server.url)
    with storage_at(server.url) as storage:
        reader = S3ResultsReader(attrs.evolve(storage.bucket, store=store))
        with pytest.raises(ResultsNotReady, match="without AWS credentials: give this process a role"):
            list(reader.outcomes(JOB))
