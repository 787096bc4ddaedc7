"""
What one object costs on its way to S3: obstore and boto3 side by side, against a sink on this machine.

    python -m tests.benchmarks.s3_put

CPU is that of this process, the sink is another one; without TLS.
The last rows are the whole of what the receiver does for an object after its bytes arrived: digest, draft, stage.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from blake3 import blake3
from botocore.config import Config
from obstore.store import S3Store

from adapters.memory.clock import FakeClock
from adapters.outbound.s3_bucket import S3Bucket, credentials_of, open_store
from adapters.outbound.s3_staging import S3StagingArea
from adapters.outbound.spooled_draft import DraftSpace
from domain.instance import digest_of
from tests.benchmarks.sink import sink
from tests.builders import EXPLICIT_VR_LITTLE_ENDIAN, a_batch_id, an_instance
from tests.s3 import a_session

if TYPE_CHECKING:
    from obstore.store import S3Config

SIZES = (9_000, 525_000)
SECONDS = 1.0
ROUNDS = 3
LATENCY_SECONDS = 0.030
THREADS = 16
_METADATA = {
    "digest": "f" * 64,
    "sop-class": "1.2.840.10008.5.1.4.1.1.2",
    "transfer-syntax": "1.2.840.10008.1.2.1",
    "calling-ae": "MODALITY",
    "received-at": "2025-03-14T09:30:01.000000+00:00",
}

Put = Callable[[str, bytes], object]


@attrs.frozen(kw_only=True)
class Cost:
    """Milliseconds for one object."""

    cpu: float
    wall: float


def measure(put: Put, content: bytes) -> Cost:
    """Return what one object costs, the best of some rounds."""
    best = Cost(cpu=float("inf"), wall=float("inf"))
    for _ in range(ROUNDS):
        put("warm/up", content)
        count, began, cpu = 0, time.perf_counter(), time.process_time()
        while (elapsed := time.perf_counter() - began) < SECONDS:
            put(f"batches/b/1.2.3/4.5.6/7.8.{count}.dcm", content)
            count += 1
        cost = Cost(cpu=(time.process_time() - cpu) / count * 1000, wall=elapsed / count * 1000)
        best = min(best, cost, key=lambda each: each.cpu)
    return best


def main() -> None:
    """Measure and print."""
    with sink() as server, tempfile.TemporaryDirectory() as folder:
        print(f"{'bytes':>8}  {'how':40} {'CPU ms':>8} {'wall ms':>8}")
        for size in SIZES:
            content = os.urandom(size)
            for name, put in _ways(server.url, Path(folder)):
                cost = measure(put, content)
                print(f"{size:8}  {name:40} {cost.cpu:8.3f} {cost.wall:8.3f}", flush=True)
    with sink(LATENCY_SECONDS) as server, tempfile.TemporaryDirectory() as folder:
        rate = _rate(_area(server.url, Path(folder)), os.urandom(SIZES[0]))
        print(
            f"{THREADS} threads, {SIZES[0]} bytes, {LATENCY_SECONDS * 1000:.0f} ms latency: {rate:.0f} objects/s,",
            end=" ",
        )
        print(f"{rate / (THREADS / LATENCY_SECONDS):.0%} of what the latency allows")


def _ways(url: str, folder: Path) -> Iterator[tuple[str, Put]]:
    def with_obstore(**config: Any) -> Put:
        options: S3Config = {"endpoint": url, "region": "eu-central-1", **config}  # type: ignore[typeddict-item]
        store = S3Store(
            "staging",
            config=options,
            client_options={"allow_http": True},
            credential_provider=credentials_of(a_session()),
        )
        attributes = {"Content-Type": "application/dicom", **_METADATA}
        return lambda path, content: store.put(path, content, attributes=attributes, use_multipart=False)

    config = Config(s3={"addressing_style": "path"})
    with closing(a_session().client("s3", endpoint_url=url, config=config)) as client:

        def with_boto3(**options: Any) -> Put:
            usual = {"Bucket": "staging", "ContentType": "application/dicom", "Metadata": _METADATA, **options}
            return lambda path, content: client.put_object(Key=path, Body=content, **usual)

        yield "SHA-256 alone", lambda _path, content: hashlib.sha256(content).digest()
        yield "obstore, signed SHA-256 checksum (ours)", with_obstore(checksum_algorithm="SHA256")
        yield "obstore, unsigned CRC-64 checksum", with_obstore(checksum_algorithm="CRC64NVME", unsigned_payload=True)
        yield "boto3, CRC-32 checksum (its default)", with_boto3()
        yield "boto3, SHA-256 checksum", with_boto3(ChecksumAlgorithm="SHA256")
        yield "digest + draft + stage (the receiver)", _staging(_area(url, folder))


def _area(url: str, folder: Path) -> S3StagingArea:
    client = a_session().client("s3", endpoint_url=url)  # staging makes no call of its
    store = open_store(a_session(), "staging", endpoint_url=url)
    return S3StagingArea(S3Bucket(name="staging", client=client, store=store), DraftSpace(folder), FakeClock())


def _rate(area: S3StagingArea, content: bytes) -> float:
    """Return how many objects a second several threads stage together."""
    put, until = _staging(area), time.perf_counter() + 3 * SECONDS

    def work(_number: int) -> int:
        count = 0
        while time.perf_counter() < until:
            put("", content)
            count += 1
        return count

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(work, range(THREADS))) / (3 * SECONDS)


def _staging(area: S3StagingArea) -> Put:
    batch = a_batch_id()

    def put(_path: str, content: bytes) -> None:
        draft = area.draft()
        data_set = blake3()
        view = memoryview(content)
        for at in range(0, len(content), 131_072):
            data_set.update(view[at : at + 131_072])
            draft.write(view[at : at + 131_072])
        digest = digest_of(data_set, EXPLICIT_VR_LITTLE_ENDIAN)
        area.stage(draft, batch, an_instance(size=len(content), digest=digest))
        draft.discard()

    return put


if __name__ == "__main__":
    main()
