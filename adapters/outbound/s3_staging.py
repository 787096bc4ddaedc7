"""
The staging area in S3.

    batches/<batch>/<study>/<series>/<sop>.dcm       with its facts as object metadata
    superseded/<batch>/<study>/<series>/<sop>.dcm    what a newer copy was taken instead of

When an object was staged is told by S3 alone, its Last-Modified: the clocks of receivers may be minutes apart, and a
correction may reach another receiver than the original.
Of an object that was uploaded in parts it is the beginning of the upload; that is later than the answer to any store
that the sender waited for, so the order of two copies of one instance is right there too.
It has whole seconds; of two copies of one second, the one in the batch with the later id counts as the newer.
A copy made by S3 has a new Last-Modified, so `rehouse` and `supersede` write the old one into the metadata, where it
comes first.

Every body is sent with its SHA-256, and S3 confirms nothing that differs (`open_store`).
Large objects are sent in parts, each checked so.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypedDict
from urllib.parse import quote, unquote

import attrs
import obstore
from botocore.exceptions import ClientError

from adapters.outbound.aws_errors import bucket_errors, error_code, s3_code
from adapters.outbound.local.file_index import rebuild
from adapters.outbound.s3_bucket import S3Bucket
from adapters.outbound.spooled_draft import DraftSpace, SpooledDraft
from domain.errors import InvalidIdentifier, StageFailed
from domain.identifiers import AeTitle, BatchId, Digest, Uid
from domain.instance import SopInstance
from domain.ports import Clock, Draft
from domain.staging import BATCHES, SUPERSEDED, StagedInstance, StagedObject, StagingKey, batch_prefix

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef, ObjectIdentifierTypeDef

_CONTENT_TYPE = "application/dicom"
_STAGED_AT = "staged-at"
_PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 4
_LARGE_AT_ONCE = 8
_FACTS_AT_ONCE = 32
_DELETED_AT_ONCE = 1_000
_COPIED_AT_ONCE_BYTES = 5 << 30
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_NO_SUCH_RANGE = frozenset({"416", "InvalidRange"})


class S3StagingArea:
    """
    A StagingArea (domain/ports.py) in an S3 bucket, safe to share between threads.

    Memory, beside the drafts' (`DraftSpace`): 32 MiB for each of up to 8 large objects that are sent at once; the
    ninth waits.

    Args:
        bucket: where objects go.
        drafts: where their bytes are until then.
        clock: tells what `stage` returns; S3 tells what `facts` returns.
        copied_at_once_bytes: S3 copies larger objects in parts only.

    """

    def __init__(
        self, bucket: S3Bucket, drafts: DraftSpace, clock: Clock, *, copied_at_once_bytes: int = _COPIED_AT_ONCE_BYTES
    ) -> None:
        self._bucket = bucket
        self._drafts = drafts
        self._clock = clock
        self._copied_at_once_bytes = copied_at_once_bytes
        self._large = threading.BoundedSemaphore(_LARGE_AT_ONCE)

    def draft(self) -> SpooledDraft:
        """Begin a new object."""
        return SpooledDraft(self._drafts)

    def stage(self, draft: Draft, batch: BatchId, instance: SopInstance) -> datetime:
        """
        Put the drafted object into `batch` and return when, by this machine's clock.

        `facts` tells the time by S3's clock instead; no second request is made to learn it here.
        """
        if not isinstance(draft, SpooledDraft):
            raise TypeError("a draft of another staging area")
        path = StagingKey.of(batch, instance).path
        attributes = {"Content-Type": _CONTENT_TYPE, **_metadata(instance)}
        with draft.content() as content, bucket_errors(self._bucket.name, "s3:PutObject", StageFailed):
            if isinstance(content, memoryview):
                self._bucket.store.put(path, content, attributes=attributes, use_multipart=False)
            else:
                with self._large:
                    try:
                        self._bucket.store.put(
                            path,
                            content,
                            attributes=attributes,
                            use_multipart=True,
                            chunk_size=_PART_BYTES,
                            max_concurrency=_PARTS_AT_ONCE,
                        )
                    except FileNotFoundError:
                        raise
                    except OSError as error:
                        raise StageFailed(f"a temporary file could not be read: {error.strerror}") from error
        return self._clock.now()

    def seal(self, batch: BatchId) -> None:
        """Do nothing: an object is where it belongs once it is staged."""

    def list(self, batch: BatchId) -> Iterator[StagedObject]:
        """Yield the objects of `batch` in the order of their keys, from pages of 1,000."""
        return self._list(batch_prefix(batch), BATCHES)

    def superseded(self, batch: BatchId) -> Iterator[StagedObject]:
        """Yield what `supersede` moved away, in the order of the keys."""
        return self._list(batch_prefix(batch).replace(BATCHES, SUPERSEDED), SUPERSEDED)

    def facts(self, objects: Iterable[StagedObject]) -> Iterator[StagedInstance]:
        """Yield what travelled with each object, in the order asked for; 32 are asked for at a time."""
        waiting: deque[Future[StagedInstance | None]] = deque()
        pool = ThreadPoolExecutor(_FACTS_AT_ONCE, thread_name_prefix="facts")
        try:
            for staged in objects:
                waiting.append(pool.submit(self._facts, staged.key))
                if len(waiting) > 2 * _FACTS_AT_ONCE and (found := waiting.popleft().result()) is not None:
                    yield found
            while waiting:
                if (found := waiting.popleft().result()) is not None:
                    yield found
        finally:
            pool.shutdown(cancel_futures=True)

    def read_head(self, staged: StagedObject, max_bytes: int) -> bytes:
        """Return the first bytes of an object; b"" if it is gone or empty."""
        return self._read(staged.key.path, 0, max_bytes)

    def supersede(self, staged: StagedObject) -> None:
        """Copy an object to `superseded/`, then delete it."""
        self._move(staged.key.path, staged.key.superseded_path)

    def rehouse(self, staged: StagedObject, batch: BatchId) -> None:
        """Copy an object with its facts, the time it was staged among them, into another batch, then delete it."""
        self._move(staged.key.path, attrs.evolve(staged.key, batch=batch).path)

    def discard(self, objects: Iterable[StagedObject]) -> None:
        """Delete objects, a thousand a request; where the bucket keeps versions they stay until these expire."""
        remaining = iter(objects)
        while keys := [staged.key.path for staged in islice(remaining, _DELETED_AT_ONCE)]:
            self._delete(keys)

    def batches(self) -> Iterator[BatchId]:
        """Yield every batch that has an object, in the order of their ids."""
        return self._bucket.batches(BATCHES, StageFailed)

    def _list(self, prefix: str, root: str) -> Iterator[StagedObject]:
        for found in self._bucket.objects(prefix, StageFailed):
            with suppress(InvalidIdentifier):  # nothing of ours
                yield StagedObject(
                    key=StagingKey.parse(BATCHES + found["Key"].removeprefix(root)),
                    size=found["Size"],
                    modified_at=found["LastModified"].astimezone(UTC),
                )

    def _facts(self, key: StagingKey) -> StagedInstance | None:
        with bucket_errors(self._bucket.name, "s3:GetObject", StageFailed):
            try:
                found = obstore.get(self._bucket.store, key.path, options={"head": True})
            except FileNotFoundError:
                return None
        metadata = {name: unquote(value) for name, value in found.attributes.items()}
        modified_at = found.meta["last_modified"].astimezone(UTC)
        try:
            return _told(key, metadata, found.meta["size"], modified_at)
        except (KeyError, ValueError, InvalidIdentifier):
            return self._rebuilt(key, found.meta["size"], modified_at)

    def _rebuilt(self, key: StagingKey, size: int, modified_at: datetime) -> StagedInstance | None:
        """Tell the facts of an object that was put there by other means than ours, from its bytes."""
        with tempfile.NamedTemporaryFile(dir=self._made_folder(), prefix="object-") as copy:
            for start in range(0, size, _PART_BYTES):
                piece = self._read(key.path, start, _PART_BYTES)
                if not piece:
                    return None
                copy.write(piece)
            copy.flush()
            facts = rebuild(key, copy.name)
        instance = attrs.evolve(facts.instance, received_at=modified_at)
        return attrs.evolve(facts, instance=instance, staged_at=modified_at)

    def _made_folder(self) -> str:
        self._drafts.folder.mkdir(parents=True, exist_ok=True)
        return str(self._drafts.folder)

    def _read(self, path: str, start: int, max_bytes: int) -> bytes:
        with bucket_errors(self._bucket.name, "s3:GetObject", StageFailed):
            try:
                found = obstore.get(self._bucket.store, path, options={"range": (start, start + max_bytes)})
                return bytes(found.bytes())
            except FileNotFoundError:
                return b""
            except obstore.exceptions.GenericError as error:
                if s3_code(error) in _NO_SUCH_RANGE:
                    return b""  # an empty object has no first byte
                raise

    def _move(self, source: str, target: str) -> None:
        with bucket_errors(self._bucket.name, "s3:GetObject, s3:PutObject and s3:DeleteObject", StageFailed):
            try:
                head = self._bucket.client.head_object(Bucket=self._bucket.name, Key=source, **self._bucket.owned)
            except ClientError as error:
                if error_code(error) in _GONE:
                    return  # moved already
                raise
            self._copy(source, target, head)
            self._bucket.client.delete_object(Bucket=self._bucket.name, Key=source, **self._bucket.owned)

    def _copy(self, source: str, target: str, head: HeadObjectOutputTypeDef) -> None:
        staged_at = head["LastModified"].astimezone(UTC).isoformat(timespec="seconds")
        changes: _Copied = {
            "ContentType": head.get("ContentType", _CONTENT_TYPE),
            "Metadata": {_STAGED_AT: staged_at, **head["Metadata"]},
            "MetadataDirective": "REPLACE",
            "CopySourceIfMatch": head["ETag"],  # what was looked at, and nothing else
        }
        if self._bucket.owner:
            changes["ExpectedBucketOwner"] = self._bucket.owner
        if self._bucket.kms_key:
            changes["ServerSideEncryption"] = "aws:kms"
            changes["SSEKMSKeyId"] = self._bucket.kms_key
        if head["ContentLength"] <= self._copied_at_once_bytes:
            self._bucket.client.copy_object(
                Bucket=self._bucket.name,
                Key=target,
                CopySource={"Bucket": self._bucket.name, "Key": source},
                **changes,
            )
        else:
            self._bucket.client.copy(
                {"Bucket": self._bucket.name, "Key": source}, self._bucket.name, target, ExtraArgs=dict(changes)
            )

    def _delete(self, keys: Sequence[str]) -> None:
        objects: Sequence[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys]
        with bucket_errors(self._bucket.name, "s3:DeleteObject", StageFailed):
            answer = self._bucket.client.delete_objects(
                Bucket=self._bucket.name, Delete={"Objects": objects, "Quiet": True}, **self._bucket.owned
            )
        errors = answer.get("Errors")
        if errors:
            raise StageFailed(
                f"bucket {self._bucket.name}: {len(errors)} of {len(keys)} objects could not be deleted"
                f" ({errors[0].get('Code', 'unknown')}); s3:DeleteObject is needed"
            )


class _Copied(TypedDict, total=False):
    ContentType: str
    Metadata: dict[str, str]
    MetadataDirective: Literal["REPLACE"]
    CopySourceIfMatch: str
    ExpectedBucketOwner: str
    ServerSideEncryption: Literal["aws:kms"]
    SSEKMSKeyId: str


def _metadata(instance: SopInstance) -> dict[str, str]:
    """Return the facts of an instance as object metadata: plain ASCII, percent-encoded where it is not."""
    facts = {
        "digest": instance.digest.value,
        "sop-class": instance.sop_class.value,
        "transfer-syntax": instance.transfer_syntax.value,
        "calling-ae": instance.calling_ae_title.value,
        "received-at": instance.received_at.astimezone(UTC).isoformat(timespec="microseconds"),
    }
    return {name: quote(value, safe=":+") for name, value in facts.items()}


def _told(key: StagingKey, metadata: Mapping[str, str], size: int, modified_at: datetime) -> StagedInstance:
    """Return what object metadata tells (KeyError, ValueError or InvalidIdentifier if that is not enough)."""
    instance = SopInstance(
        study=key.study,
        series=key.series,
        sop_instance=key.sop_instance,
        sop_class=Uid(metadata["sop-class"]),
        transfer_syntax=Uid(metadata["transfer-syntax"]),
        size=size,
        digest=Digest(metadata["digest"]),
        calling_ae_title=AeTitle(metadata["calling-ae"]),
        received_at=datetime.fromisoformat(metadata["received-at"]).astimezone(UTC),
    )
    kept = metadata.get(_STAGED_AT)
    staged_at = datetime.fromisoformat(kept).astimezone(UTC) if kept else modified_at
    return StagedInstance(key=key, instance=instance, staged_at=staged_at)
