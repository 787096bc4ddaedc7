"""
S3 buckets for the tests of adapters, on a simulated or scripted server.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import attrs
import boto3
from botocore.config import Config

from adapters.outbound.s3_bucket import S3Bucket, open_store
from tests.moto_server import REGION, moto_server
from tests.service_models import watched

ACCOUNT = "123456789012"
"""The account that a simulated server takes every caller for."""


@cache
def a_session() -> boto3.Session:
    """Return the session of all tests: reading the services' models takes a second."""
    return boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)


@attrs.frozen(kw_only=True)
class Storage:
    """A server that speaks S3, and the buckets on it."""

    url: str
    session: boto3.Session
    bucket: S3Bucket

    def named(self, name: str) -> S3Bucket:
        """Return a bucket of that name, whether it is there or not."""
        store = open_store(self.session, name, endpoint_url=self.url, owner=ACCOUNT)
        return attrs.evolve(self.bucket, name=name, store=store)

    def make_bucket(self, *, versioned: bool = False) -> S3Bucket:
        """
        Make a bucket and return it.

        The deployment makes versioned ones; a simulated server lists folders there in which everything is deleted.
        """
        bucket = self.named(f"bucket-{uuid.uuid4()}")
        bucket.client.create_bucket(
            Bucket=bucket.name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        if versioned:
            bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
        return bucket


@contextmanager
def storage_at(url: str) -> Iterator[Storage]:
    """Give the storage of the server at `url`; no request is repeated by boto3."""
    session = a_session()
    config = Config(
        connect_timeout=5,
        read_timeout=5,
        max_pool_connections=32,
        retries={"mode": "standard", "total_max_attempts": 1},
        s3={"addressing_style": "path"},
    )
    client = watched(session.client("s3", endpoint_url=url, config=config))
    try:
        store = open_store(session, "staging", endpoint_url=url, owner=ACCOUNT)
        yield Storage(
            url=url, session=session, bucket=S3Bucket(name="staging", client=client, store=store, owner=ACCOUNT)
        )
    finally:
        client.close()


@contextmanager
def simulated_storage() -> Iterator[Storage]:
    """Run a simulated S3 while the context lasts."""
    with moto_server() as server, storage_at(server.url) as storage:
        yield storage
