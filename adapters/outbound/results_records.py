"""
What import jobs write, wherever it lies: one folder for each job.

    <batch>/<data store>-DicomImport-<job id>/job-output-manifest.json
    <batch>/<data store>-DicomImport-<job id>/{SUCCESS/success,WARNING/warning,FAILURE/failure}.ndjson

Everything is read twice: nothing is told of results that turn out to be incomplete at their end.
A list that is missing is an empty one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from domain.errors import InvalidIdentifier, ResultsNotReady, ResultsUnreadable
from domain.identifiers import BatchId, DataStoreId, ImportJobId
from domain.import_job import ImportJob, ImportJobStatus
from domain.results import ImportOutcome, JobSummary, read_outcome, read_summary
from domain.staging import results_prefix

MANIFEST = "job-output-manifest.json"
_FAILURE = "FAILURE/failure.ndjson"
_SUCCESS = "SUCCESS/success.ndjson"
_WARNING = "WARNING/warning.ndjson"
_FOLDER_WORD = "-DicomImport-"
MAX_LINE_BYTES = 1 << 20


class JobFolder(Protocol):
    """The files of one job; what keeps them from being read is ResultsNotReady."""

    def manifest(self) -> bytes | None:
        """Return the manifest; None if it is not there."""
        ...

    def lines(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a list, each but the last with its end; none if it is not there."""
        ...


def job_folder(data_store: DataStoreId, job_id: ImportJobId) -> str:
    """Return the name of the folder that a job writes, ending in a slash."""
    return f"{data_store}{_FOLDER_WORD}{job_id}/"


def read_outcomes(folder: JobFolder) -> Iterator[ImportOutcome]:
    """
    Yield failures, then what was imported, then the same with warnings where there are any.

    A file that stands among the failures and elsewhere was imported: its later outcome holds.

    Raises:
        ResultsNotReady, ResultsUnreadable: before the first outcome.

    """
    _check_complete(folder, _summary(folder))
    for name in (_FAILURE, _SUCCESS, _WARNING):
        for record in _records(folder, name):
            outcome = read_outcome(record)
            if outcome is not None:
                yield outcome


def jobs_of(batch_id: BatchId, folders: Iterable[tuple[str, datetime]]) -> Sequence[ImportJob]:
    """
    Return the jobs of a batch, oldest first, from the names of their folders and the times of their manifests.

    Manifests do not tell a job's name; the batch's id stands for it.
    """
    found = []
    for name, ended_at in folders:
        _, is_of_a_job, job_id = name.rpartition(_FOLDER_WORD)
        if not is_of_a_job:
            continue
        try:
            job = ImportJob(
                id=ImportJobId(job_id),
                name=str(batch_id),
                status=ImportJobStatus.COMPLETED,
                output_prefix=f"{results_prefix(batch_id)}{name}/",
                ended_at=ended_at,
            )
        except InvalidIdentifier:
            continue
        found.append((ended_at, job.id, job))
    return [job for _, _, job in sorted(found, key=lambda entry: entry[:2])]


def _summary(folder: JobFolder) -> JobSummary:
    content = folder.manifest()
    if content is None:
        raise ResultsNotReady(f"{MANIFEST} is not there yet")
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise ResultsNotReady(f"{MANIFEST} is cut off, or no JSON") from error
    return read_summary(manifest)


def _check_complete(folder: JobFolder, summary: JobSummary) -> None:
    failures = _files_named(folder, _FAILURE)
    imported = _files_named(folder, _SUCCESS) | _files_named(folder, _WARNING)
    expected_failures = (summary.customer_errors or 0) + (summary.server_errors or 0)
    for found, expected, what in (
        (len(imported), summary.imported or 0, "imported"),
        (len(failures), expected_failures, "failed"),
    ):
        if found < expected:
            raise ResultsNotReady(f"the manifest counts {expected} {what} files, {found} are recorded so far")


def _files_named(folder: JobFolder, name: str) -> set[int]:
    """Tell input files of a list apart, by 8 bytes each; a record that names none counts as one of its own."""
    found = set()
    for number, record in enumerate(_records(folder, name)):
        read_outcome(record)  # raises ResultsUnreadable before anything was told
        path = record.get("inputFile") if isinstance(record, dict) else None
        found.add(hash(path if isinstance(path, str) else f"record {number}"))
    return found


def _records(folder: JobFolder, name: str) -> Iterator[object]:
    for line in folder.lines(name):
        if line.strip():
            yield _record(line, name.rpartition("/")[2])


def _record(line: bytes, name: str) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
            raise ResultsNotReady(f"the last line of {name} is not complete") from error
        raise ResultsUnreadable(f"a line of {name} is not JSON") from error
