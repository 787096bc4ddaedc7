"""What S3StagingArea does beyond its contract: what goes over the line, faults of S3, whose clock counts."""

import base64
import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import boto3
import pytest

from adapters.memory.clock import FakeClock
from adapters.outbound.s3_bucket import S3Bucket, open_store
from adapters.outbound.s3_staging import S3StagingArea
from adapters.outbound.spooled_draft import DraftSpace
from domain.errors import StageFailed
from domain.identifiers import AeTitle, BatchId
from domain.instance import SopInstance
from domain.staging import StagedObject, StagingKey
from tests.builders import a_batch_id, a_moment, a_staged_object, an_instance
from tests.moto_server import REGION
from tests.s3 import ACCOUNT, Storage, a_session, simulated_storage, storage_at
from tests.scripted_server import Answer, Request, ScriptedServer, s3_error, scripted_server

pytestmark = pytest.mark.aws

BATCH = a_batch_id(1)
OTHER = a_batch_id(2)
CONTENT = b"content" * 1000
DONE = Answer(headers={"ETag": '"etag"'})


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    with simulated_storage() as storage:
        yield storage


@pytest.fixture
def bucket(storage: Storage) -> S3Bucket:
    return storage.make_bucket()


def _area(bucket: S3Bucket, folder: Path, kept_bytes: int = 8 << 20) -> S3StagingArea:
    return S3StagingArea(bucket, DraftSpace(folder, kept_bytes=kept_bytes), FakeClock())


@pytest.fixture
def area(bucket: S3Bucket, tmp_path: Path) -> S3StagingArea:
    return _area(bucket, tmp_path)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def scripted(server: ScriptedServer, tmp_path: Path) -> Iterator[S3StagingArea]:
    with storage_at(server.url) as storage:
        yield _area(storage.bucket, tmp_path)


def _stage(
    area: S3StagingArea, content: bytes = CONTENT, batch: BatchId = BATCH, instance: SopInstance | None = None
) -> StagedObject:
    instance = attrs.evolve(instance or an_instance(), size=len(content))
    draft = area.draft()
    draft.write(content)
    try:
        area.stage(draft, batch, instance)
    finally:
        draft.discard()
    return StagedObject(key=StagingKey.of(batch, instance), size=len(content))


# What goes over the line.


def test_a_put_carries_facts_checksum_and_owner_all_signed(server: ScriptedServer, scripted: S3StagingArea) -> None:
    server.script(DONE)
    instance = an_instance(calling_ae_title=AeTitle("CT 100%+=ROOM~1"))

    _stage(scripted, instance=instance)

    (request,) = server.requests
    assert (request.method, request.path) == ("PUT", f"/staging/{StagingKey.of(BATCH, instance).path}")
    assert request.body == CONTENT
    headers = {name.lower(): value for name, value in request.headers.items()}
    sent = {
        "content-type": "application/dicom",
        "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(CONTENT).digest()).decode(),
        "x-amz-expected-bucket-owner": ACCOUNT,
        "x-amz-meta-calling-ae": "CT%20100%25+%3DROOM~1",
        "x-amz-meta-digest": instance.digest.value,
        "x-amz-meta-received-at": "2025-03-14T09:30:01.000000+00:00",
        "x-amz-meta-sop-class": instance.sop_class.value,
        "x-amz-meta-transfer-syntax": instance.transfer_syntax.value,
    }
    assert sent == {name: headers[name] for name in sent}
    signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert sent.keys() <= set(signed)


def test_a_key_of_ours_encrypts_when_one_is_set(server: ScriptedServer, tmp_path: Path) -> None:
    server.script(DONE)
    store = open_store(a_session(), "staging", endpoint_url=server.url, kms_key="key-1")
    with storage_at(server.url) as storage:
        _stage(_area(attrs.evolve(storage.bucket, store=store, kms_key="key-1"), tmp_path))

    headers = {name.lower(): value for name, value in server.requests[0].headers.items()}
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"


def test_credentials_serve_for_many_objects(server: ScriptedServer) -> None:
    class CountingSession(boto3.Session):
        asked = 0

        def get_credentials(self) -> Any:
            self.asked += 1
            return super().get_credentials()

    session = CountingSession(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)
    server.script(DONE)
    store = open_store(session, "staging", endpoint_url=server.url)

    for number in range(4):
        store.put(f"object-{number}", CONTENT, use_multipart=False)
        time.sleep(0.15)  # obstore never asks twice within a tenth of a second

    assert session.asked == 1


def test_a_large_object_is_sent_in_parts_from_its_file(storage: Storage, tmp_path: Path) -> None:
    area = _area(storage.make_bucket(), tmp_path, kept_bytes=1 << 20)
    content = hashlib.shake_128(b"large").digest(20 << 20)

    staged = _stage(area, content)

    assert area.read_head(staged, len(content)) == content
    (facts,) = area.facts([staged])
    assert (facts.instance.digest, facts.instance.size) == (an_instance().digest, len(content))
    assert list(tmp_path.iterdir()) == []


# Whose clock counts.


def test_when_an_object_was_staged_is_told_by_s3_and_stays_with_it_when_it_moves(
    area: S3StagingArea, bucket: S3Bucket
) -> None:
    long_ago = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    staged = _stage(area)
    (facts,) = area.facts([staged])
    assert datetime.now(UTC) - facts.staged_at < timedelta(minutes=1)
    head = bucket.client.head_object(Bucket=bucket.name, Key=staged.key.path)
    assert head["LastModified"] == facts.staged_at
    bucket.client.put_object(
        Bucket=bucket.name,
        Key=staged.key.path,
        Body=CONTENT,
        Metadata={**head["Metadata"], "staged-at": long_ago.isoformat()},
    )

    area.rehouse(staged, OTHER)
    (moved,) = area.list(OTHER)
    assert [facts.staged_at for facts in area.facts([moved])] == [long_ago]
    area.rehouse(moved, BATCH)
    assert [facts.staged_at for facts in area.facts(area.list(BATCH))] == [long_ago]


def test_a_first_move_writes_down_when_the_object_was_staged(area: S3StagingArea, bucket: S3Bucket) -> None:
    staged = _stage(area)
    (before,) = area.facts([staged])

    area.supersede(staged)

    (superseded,) = area.superseded(BATCH)
    assert superseded.key == staged.key
    head = bucket.client.head_object(Bucket=bucket.name, Key=staged.key.superseded_path)
    assert datetime.fromisoformat(head["Metadata"]["staged-at"]) == before.staged_at
    assert head["ContentType"] == "application/dicom"


def test_a_very_large_object_moves_in_parts_with_its_facts(bucket: S3Bucket, tmp_path: Path) -> None:
    area = S3StagingArea(bucket, DraftSpace(tmp_path), FakeClock(), copied_at_once_bytes=0)
    content = hashlib.shake_128(b"large").digest(9 << 20)
    staged = _stage(area, content)
    (before,) = area.facts([staged])

    area.rehouse(staged, OTHER)

    (moved,) = area.list(OTHER)
    assert list(area.facts([moved])) == [attrs.evolve(before, key=moved.key)]
    assert area.read_head(moved, len(content)) == content
    assert list(area.list(BATCH)) == []


def test_a_discarded_object_can_be_brought_back_from_a_versioned_bucket(storage: Storage, tmp_path: Path) -> None:
    bucket = storage.make_bucket(versioned=True)
    area = _area(bucket, tmp_path)
    staged = _stage(area)
    (before,) = area.facts([staged])
    area.discard([staged])
    assert list(area.facts([staged])) == []

    versions = bucket.client.list_object_versions(Bucket=bucket.name, Prefix=staged.key.path)
    (marker,) = versions["DeleteMarkers"]
    bucket.client.delete_object(Bucket=bucket.name, Key=staged.key.path, VersionId=marker["VersionId"])

    assert list(area.facts([staged])) == [before]


# Objects and keys that are not ours.


def test_an_object_without_facts_tells_them_by_its_bytes(area: S3StagingArea, bucket: S3Bucket) -> None:
    key = a_staged_object(1).key
    bucket.client.put_object(Bucket=bucket.name, Key=key.path, Body=CONTENT)

    (facts,) = area.facts(area.list(BATCH))

    assert (facts.key, facts.instance.size) == (key, len(CONTENT))
    assert facts.staged_at == facts.instance.received_at
    assert datetime.now(UTC) - facts.staged_at < timedelta(minutes=1)


def test_foreign_keys_are_left_out(area: S3StagingArea, bucket: S3Bucket) -> None:
    staged = _stage(area)
    for key in (f"batches/{BATCH}/", f"batches/{BATCH}/a//b", f"batches/{BATCH}/x.txt", "batches/no batch/x", "other"):
        bucket.client.put_object(Bucket=bucket.name, Key=key)

    assert [found.key for found in area.list(BATCH)] == [staged.key]
    assert list(area.batches()) == [BATCH]


def test_batches_come_in_the_order_of_ids_where_s3_sorts_otherwise(area: S3StagingArea) -> None:
    ids = [BatchId(text) for text in ("a", "a-1", "a-2", "ab", "b")]
    for batch in reversed(ids):
        _stage(area, batch=batch)

    assert list(area.batches()) == ids


def test_listing_reads_page_by_page_and_deleting_takes_a_thousand_at_a_time(
    server: ScriptedServer, scripted: S3StagingArea
) -> None:
    def page(request: Request) -> Answer:
        number = int(request.path.partition("continuation-token=")[2].partition("&")[0] or 0)
        key = a_staged_object(number).key.path
        return Answer(
            body=(
                "<ListBucketResult>"
                f"<IsTruncated>true</IsTruncated><NextContinuationToken>{number + 1}</NextContinuationToken>"
                f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2025-03-14T09:30:00Z</LastModified></Contents>"
                "</ListBucketResult>"
            ).encode()
        )

    server.answer = page
    listing = scripted.list(BATCH)
    assert [next(listing).key for _ in range(3)] == [a_staged_object(number).key for number in range(3)]
    assert len(server.requests) == 3
    assert all(request.headers["x-amz-expected-bucket-owner"] == ACCOUNT for request in server.requests)

    server.requests.clear()
    server.script(Answer(body=b"<DeleteResult/>"))
    scripted.discard(a_staged_object(number) for number in range(2500))
    assert [request.body.count(b"<Key>") for request in server.requests] == [1000, 1000, 500]


# Faults.


def test_a_slow_down_and_a_lost_answer_are_overcome(server: ScriptedServer, scripted: S3StagingArea) -> None:
    server.script(s3_error("SlowDown", 503), Answer(is_lost=True), DONE)

    _stage(scripted)

    assert [request.body for request in server.requests] == [CONTENT] * 3


@pytest.mark.parametrize(
    "answer, words",
    [
        (s3_error("AccessDenied", 403), "bucket staging refuses access .AccessDenied.: allow s3:PutObject"),
        (s3_error("NoSuchBucket", 404), "there is no bucket staging .NoSuchBucket.: check its name"),
        (s3_error("BadDigest", 400), "s3:PutObject ended with BadDigest"),
        (Answer(status=400), "s3:PutObject ended with 400"),
        (s3_error("PermanentRedirect", 301), "not in this region .PermanentRedirect.: check --region"),
    ],
)
def test_a_put_that_is_refused_fails_at_once_and_says_what_to_do(
    server: ScriptedServer, scripted: S3StagingArea, answer: Answer, words: str
) -> None:
    server.script(answer)

    with pytest.raises(StageFailed, match=words) as caught:
        _stage(scripted)

    assert not caught.value.suspect_prefix
    assert len(server.requests) == 1


def test_a_server_that_keeps_failing_fails_the_store(server: ScriptedServer, scripted: S3StagingArea) -> None:
    server.script(s3_error("InternalError", 500))

    with pytest.raises(StageFailed, match="s3:PutObject ended with InternalError"):
        _stage(scripted)

    assert len(server.requests) == 6


def test_control_calls_say_what_to_do(server: ScriptedServer, scripted: S3StagingArea) -> None:
    server.script(s3_error("AccessDenied", 403))
    with pytest.raises(StageFailed, match="allow s3:ListBucket"):
        list(scripted.list(BATCH))
    with pytest.raises(StageFailed, match="allow s3:ListBucket"):
        list(scripted.batches())
    with pytest.raises(StageFailed, match="allow s3:GetObject on it"):
        list(scripted.facts([a_staged_object(1)]))
    with pytest.raises(StageFailed, match="allow s3:GetObject on it"):
        scripted.read_head(a_staged_object(1), 10)
    with pytest.raises(StageFailed, match="allow s3:GetObject, s3:PutObject and s3:DeleteObject"):
        scripted.supersede(a_staged_object(1))
    with pytest.raises(StageFailed, match="allow s3:DeleteObject"):
        scripted.discard([a_staged_object(1)])


def test_an_object_that_cannot_be_deleted_is_told_of(server: ScriptedServer, scripted: S3StagingArea) -> None:
    server.script(Answer(body=b"<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code></Error></DeleteResult>"))

    with pytest.raises(StageFailed, match=r"1 of 2 objects could not be deleted \(AccessDenied\)"):
        scripted.discard([a_staged_object(1), a_staged_object(2)])


def test_a_server_that_is_not_there_fails_the_store(server: ScriptedServer, scripted: S3StagingArea) -> None:
    server.close()

    with pytest.raises(StageFailed, match="s3:ListBucket ended with EndpointConnectionError"):
        list(scripted.list(BATCH))
    with pytest.raises(StageFailed, match="s3:PutObject ended with no answer"):
        _stage(scripted)


def test_a_move_takes_only_what_it_looked_at(server: ScriptedServer, scripted: S3StagingArea) -> None:
    head = Answer(
        headers={"ETag": '"one"', "Last-Modified": f"{a_moment():%a, %d %b %Y %H:%M:%S GMT}", "x-amz-meta-digest": "d"}
    )
    server.script(head, Answer(body=b"<CopyObjectResult/>"), Answer(status=204))

    scripted.supersede(a_staged_object(1))

    looked, copied, deleted = server.requests
    assert (looked.method, copied.method, deleted.method) == ("HEAD", "PUT", "DELETE")
    assert copied.headers["x-amz-copy-source-if-match"] == '"one"'
    assert copied.headers["x-amz-metadata-directive"] == "REPLACE"
    assert copied.headers["x-amz-meta-staged-at"] == "2025-03-14T09:30:00+00:00"
    assert all(request.headers["x-amz-expected-bucket-owner"] == ACCOUNT for request in server.requests)
