"""
The results of import jobs, read from a folder (adapters/outbound/results_records.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import attrs

from adapters.outbound.results_records import MANIFEST, MAX_LINE_BYTES, jobs_of, read_outcomes
from domain.errors import InvalidIdentifier, ResultsNotReady, ResultsUnreadable
from domain.identifiers import BatchId
from domain.import_job import ImportJob
from domain.results import ImportOutcome
from domain.staging import results_prefix


class FileResultsReader:
    """
    A ResultsReader (domain/ports.py) on local files.

    Args:
        root: the results area.

    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def outcomes(self, job: ImportJob) -> Iterator[ImportOutcome]:
        """Yield failures, then what was imported, then the same with warnings where there are any."""
        relative = PurePosixPath(job.output_prefix)
        if relative.is_absolute() or ".." in relative.parts:
            raise ResultsUnreadable("the job's results folder lies outside the results area")
        return read_outcomes(_Folder(self._root / relative))

    def jobs(self, batch_id: BatchId) -> Sequence[ImportJob]:
        """Return the jobs that left a manifest for a batch, oldest first."""
        return jobs_of(batch_id, self._manifests(batch_id))

    def batches(self) -> Iterator[BatchId]:
        """Yield every batch that has results, in the order of their ids."""
        try:
            names = sorted(path.name for path in self._root.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise ResultsNotReady(f"the results area cannot be read now: {error.strerror}") from error
        for name in names:
            with suppress(InvalidIdentifier):
                yield BatchId(name)

    def _manifests(self, batch_id: BatchId) -> Iterator[tuple[str, datetime]]:
        for manifest in self._root.joinpath(results_prefix(batch_id)).glob(f"*/{MANIFEST}"):
            with suppress(FileNotFoundError):
                yield manifest.parent.name, datetime.fromtimestamp(manifest.stat().st_mtime, UTC)


@attrs.frozen
class _Folder:
    """One job's folder."""

    _path: Path

    def manifest(self) -> bytes | None:
        try:
            return self._path.joinpath(MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResultsNotReady(f"{MANIFEST} cannot be read now: {error.strerror}") from error

    def lines(self, name: str) -> Iterator[bytes]:
        try:
            with self._path.joinpath(name).open("rb") as file:
                while line := file.readline(MAX_LINE_BYTES):
                    yield line
        except FileNotFoundError:
            return
        except OSError as error:
            raise ResultsNotReady(f"{name} cannot be read now: {error.strerror}") from error
