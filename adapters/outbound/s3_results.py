"""
The results of import jobs, read from the bucket that HealthImaging writes them to (results_records.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
import obstore

from adapters.outbound.aws_errors import bucket_errors
from adapters.outbound.results_records import MANIFEST, MAX_LINE_BYTES, jobs_of, read_outcomes
from adapters.outbound.s3_bucket import S3Bucket
from domain.errors import ResultsNotReady, ResultsUnreadable
from domain.identifiers import BatchId
from domain.import_job import ImportJob
from domain.results import ImportOutcome
from domain.staging import results_prefix

if TYPE_CHECKING:
    from obstore import GetResult

_CHUNK_BYTES = 256 << 10
_MAX_MANIFEST_BYTES = 64 << 20


@attrs.frozen
class S3ResultsReader:
    """
    A ResultsReader (domain/ports.py) in an S3 bucket, safe to share between threads.

    Lists are streamed; of all their files only 8 bytes each are held, and a line of more than 1 MiB is no record.
    """

    bucket: S3Bucket

    def outcomes(self, job: ImportJob) -> Iterator[ImportOutcome]:
        """Yield failures, then what was imported, then the same with warnings where there are any."""
        return read_outcomes(_Folder(self.bucket, job.output_prefix))

    def jobs(self, batch_id: BatchId) -> Sequence[ImportJob]:
        """Return the jobs that left a manifest for a batch, oldest first."""
        return jobs_of(batch_id, self._folders(results_prefix(batch_id)))

    def batches(self) -> Iterator[BatchId]:
        """Yield every batch that has results, in the order of their ids."""
        return self.bucket.batches("", ResultsNotReady)

    def _folders(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        for found in self.bucket.objects(prefix, ResultsNotReady):
            folder, _, name = found["Key"].removeprefix(prefix).rpartition("/")
            if name == MANIFEST:
                yield folder, found["LastModified"].astimezone(UTC)


@attrs.frozen
class _Folder:
    """One job's folder."""

    _bucket: S3Bucket
    _prefix: str

    def manifest(self) -> bytes | None:
        found = self._open(MANIFEST)
        if found is None:
            return None
        content = bytearray()
        for piece in self._pieces(found):
            content += piece
            if len(content) > _MAX_MANIFEST_BYTES:
                raise ResultsUnreadable(f"{MANIFEST} has more than {_MAX_MANIFEST_BYTES} bytes")
        return bytes(content)

    def lines(self, name: str) -> Iterator[bytes]:
        found = self._open(name)
        rest = b""
        for piece in self._pieces(found) if found is not None else ():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line + b"\n"
            if len(rest) > MAX_LINE_BYTES:
                raise ResultsUnreadable(f"a line of {name} has more than {MAX_LINE_BYTES} bytes")
        if rest:
            yield rest

    def _open(self, name: str) -> GetResult | None:
        with bucket_errors(self._bucket.name, "s3:GetObject", ResultsNotReady):
            try:
                return obstore.get(self._bucket.store, f"{self._prefix}{name}")
            except FileNotFoundError:
                return None

    def _pieces(self, found: GetResult) -> Iterator[bytes]:
        with bucket_errors(self._bucket.name, "s3:GetObject", ResultsNotReady):
            for piece in found.stream(_CHUNK_BYTES):
                yield bytes(piece)
