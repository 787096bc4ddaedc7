"""
One bucket with its two clients: obstore for bulk bytes, boto3 for control calls.

obstore spends a tenth of the SDK's CPU on a small object (tests/benchmarks/s3_put.py), and it signs its default
headers, so the bucket's owner is checked on its requests too.
Listing, copying and deleting go through boto3: a key that obstore cannot represent, put there by hand, would end a
listing of its.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

import attrs
from botocore.exceptions import NoCredentialsError
from obstore.store import S3Store

from adapters.outbound.aws_errors import BucketError, bucket_errors
from domain.errors import InvalidIdentifier
from domain.identifiers import BatchId

if TYPE_CHECKING:
    from boto3 import Session
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef
    from obstore.store import ClientConfig, S3Config, S3Credential

_CREDENTIAL_LIFE = timedelta(minutes=10)
_CONNECT_TIMEOUT = timedelta(seconds=5)
_REQUEST_TIMEOUT = timedelta(seconds=30)
_RETRY_TIMEOUT = timedelta(seconds=20)
_MAX_RETRIES = 5
_IDLE_TIMEOUT = timedelta(seconds=15)


class Owned(TypedDict, total=False):
    """The parameter by which S3 refuses a bucket of another account."""

    ExpectedBucketOwner: str


@attrs.frozen(kw_only=True)
class S3Bucket:
    """
    A bucket and how it is reached.

    Attributes:
        store: obstore's view of the same bucket (`open_store`).
        owner: the account that must own it; None does not check.
        kms_key: encrypts what is copied; None leaves it to the bucket's default.

    """

    name: str
    client: S3Client
    store: S3Store
    owner: str | None = None
    kms_key: str | None = None

    @property
    def owned(self) -> Owned:
        """Parameters that make S3 check the owner."""
        return {"ExpectedBucketOwner": self.owner} if self.owner else {}

    def objects(self, prefix: str, raising: BucketError) -> Iterator[ObjectTypeDef]:
        """Yield the objects below a prefix in the order of their keys, a page of 1,000 at a time."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, **self.owned)
        with bucket_errors(self.name, "s3:ListBucket", raising):
            for page in pages:
                yield from page.get("Contents", ())

    def batches(self, prefix: str, raising: BucketError) -> Iterator[BatchId]:
        """Yield the batches that have a folder directly below a prefix, in the order of their ids."""
        # S3 sorts "a-1/" before "a/", and ids the other way round; both have the same text before their first hyphen
        for _, alike in groupby(self._folders(prefix, raising), lambda batch: batch.value.partition("-")[0]):
            yield from sorted(alike)

    def _folders(self, prefix: str, raising: BucketError) -> Iterator[BatchId]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix, Delimiter="/", **self.owned
        )
        with bucket_errors(self.name, "s3:ListBucket", raising):
            for page in pages:
                for folder in page.get("CommonPrefixes", ()):
                    try:
                        yield BatchId(folder["Prefix"].removeprefix(prefix).rstrip("/"))
                    except InvalidIdentifier:
                        continue  # nothing of ours


def open_store(
    session: Session,
    bucket: str,
    *,
    endpoint_url: str | None = None,
    owner: str | None = None,
    kms_key: str | None = None,
) -> S3Store:
    """
    Open obstore on a bucket with the region and credentials of a boto3 session; nothing is sent yet.

    Every request carries the SHA-256 of its body, which S3 compares before it answers; the same digest signs the
    request, so it is computed once.
    A request takes at most 30 s and is begun again, for up to 20 s, after a 5xx or a lost connection.
    """
    config: S3Config = {
        "region": session.region_name,
        "checksum_algorithm": "SHA256",
        # a bucket name with dots does not fit the certificate of *.s3.<region>
        "virtual_hosted_style_request": endpoint_url is None and "." not in bucket,
    }
    options: ClientConfig = {
        "connect_timeout": _CONNECT_TIMEOUT,
        "timeout": _REQUEST_TIMEOUT,
        # S3 closes idle connections after some twenty seconds
        "pool_idle_timeout": _IDLE_TIMEOUT,
    }
    if endpoint_url is not None:
        config["endpoint"] = endpoint_url
        options["allow_http"] = urlsplit(endpoint_url).scheme == "http"
    if owner is not None:
        options["default_headers"] = {"x-amz-expected-bucket-owner": owner}
    if kms_key is not None:
        config["server_side_encryption"] = "aws:kms"
        config["sse_kms_key_id"] = kms_key
    return S3Store(
        bucket,
        config=config,
        client_options=options,
        retry_config={
            "max_retries": _MAX_RETRIES,
            "retry_timeout": _RETRY_TIMEOUT,
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
        },
        credential_provider=credentials_of(session),
    )


def credentials_of(session: Session) -> Callable[[], S3Credential]:
    """
    Return what obstore asks for credentials.

    boto3 renews temporary ones ten minutes before they end, so what it hands out is good for as long.
    obstore asks again when five minutes are left; were they fewer, it would ask ten times a second.
    """

    def provide() -> S3Credential:
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        frozen = credentials.get_frozen_credentials()
        if not frozen.access_key or not frozen.secret_key:
            raise NoCredentialsError
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIAL_LIFE,
        }

    return provide
