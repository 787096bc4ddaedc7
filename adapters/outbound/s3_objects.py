"""
Where the stand-in for HealthImaging reads its objects and writes its results: S3, as the service itself does.

Whatever S3 answers becomes an OSError, which is what the embedded data store knows of storage that fails.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

import attrs
from botocore.exceptions import ClientError

from adapters.outbound.aws_errors import SdkError, error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MEMORY_BYTES = 8 << 20
_REFUSED = frozenset({"403", "AccessDenied", "AllAccessDisabled"})
_GONE = frozenset({"404", "NoSuchKey", "NoSuchBucket"})


@attrs.frozen(kw_only=True)
class S3InputObjects:
    """The objects of one bucket, as `InputObjects` of the embedded data store."""

    client: S3Client
    bucket: str

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and size of each object, in the order of keys, a page of 1,000 at a time."""
        with _as_os_error("s3:ListBucket"):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for found in page.get("Contents", ()):
                    yield found["Key"], found["Size"]

    def open(self, key: str) -> BinaryIO:
        """Fetch the object; a large one goes to a temporary file."""
        copy = cast("BinaryIO", tempfile.SpooledTemporaryFile(_MEMORY_BYTES))  # noqa: SIM115  # the caller closes it
        try:
            with _as_os_error("s3:GetObject"):
                for piece in self.client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(1 << 20):
                    copy.write(piece)
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return copy

    def uri(self, prefix: str) -> str:
        """Name it as an S3 URI."""
        return f"s3://{self.bucket}/{prefix}"


@attrs.frozen(kw_only=True)
class S3OutputObjects:
    """Results in one bucket, as `OutputObjects` of the embedded data store."""

    client: S3Client
    bucket: str

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        """Gather what is written and put it as one object when the context ends without an error."""
        with tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as content:
            yield cast("BinaryIO", content)
            content.seek(0)
            with _as_os_error("s3:PutObject"):
                self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def uri(self, prefix: str) -> str:
        """Name it as an S3 URI."""
        return f"s3://{self.bucket}/{prefix}"


@contextmanager
def _as_os_error(action: str) -> Iterator[None]:
    try:
        yield
    except SdkError as error:
        code = error_code(error) if isinstance(error, ClientError) else type(error).__name__
        number = errno.EACCES if code in _REFUSED else errno.ENOENT if code in _GONE else errno.EIO
        raise OSError(number, f"{action} ended with {code}") from error
