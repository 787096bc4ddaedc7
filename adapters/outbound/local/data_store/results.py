"""
The results of a job: one record a file, and the manifest that says they are complete.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

import attrs

from adapters.outbound.local.data_store.catalogue import Catalogue
from adapters.outbound.local.data_store.jobs import Job
from adapters.outbound.local.data_store.limits import ResultOptions
from adapters.outbound.local.data_store.objects import InputObjects, OutputObjects

SERVER_ERROR: Final = "InternalServerException"

_PAGE: Final = 500

Record = dict[str, object]


@attrs.frozen(kw_only=True)
class ResultsWriter:
    """
    Writes results from the outcomes in the catalogue; writing them again gives the same bytes.

    A warned file stands in warning.ndjson alone unless the options say otherwise: its record there is complete, and
    the documented success rule asks for each key in success.ndjson *or* warning.ndjson.
    It counts as imported, since scanned = imported + errors.
    """

    catalogue: Catalogue
    inputs: InputObjects
    outputs: OutputObjects
    data_store_id: str
    options: ResultOptions

    def write(self, job: Job) -> None:
        """
        Write SUCCESS/, FAILURE/ and WARNING/ records in key order, then the manifest.

        Raises:
            OSError: if a file could not be written.

        """
        folder = job.output_prefix
        options = self.options
        self._records(
            job,
            f"{folder}SUCCESS/success.ndjson",
            lambda row: row["exception_type"] is None and (options.warned_also_in_success or row["remarks"] == "[]"),
            self._success,
        )
        self._records(job, f"{folder}FAILURE/failure.ndjson", lambda row: row["exception_type"] is not None, _failure)
        self._records(
            job,
            f"{folder}WARNING/warning.ndjson",
            lambda row: row["exception_type"] is None and row["remarks"] != "[]",
            _warning,
        )
        with self.outputs.writer(f"{folder}job-output-manifest.json") as stream:
            stream.write(json.dumps({"jobSummary": self._summary(job)}, indent=2).encode() + b"\n")

    def _records(
        self, job: Job, key: str, takes: Callable[[sqlite3.Row], bool], record: Callable[[sqlite3.Row], Record]
    ) -> None:
        rows = filter(takes, self._rows(job))
        first = next(rows, None)
        if first is None and not self.options.write_empty:
            return
        with self.outputs.writer(key) as stream:
            if first is not None:
                _write_line(stream, record(first))
            for row in rows:
                _write_line(stream, record(row))

    def _rows(self, job: Job) -> Iterator[sqlite3.Row]:
        after = -1
        while True:
            # Page by page: writing to a far storage must not keep a read open in the catalogue.
            rows = (
                self.catalogue.reader()
                .execute(
                    "SELECT number, key, exception_type, message, remarks, image_set_id, version, is_primary"
                    " FROM job_files WHERE job_id = ? AND number > ? ORDER BY number LIMIT ?",
                    (job.job_id, after, _PAGE),
                )
                .fetchall()
            )
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1]["number"]

    def _success(self, row: sqlite3.Row) -> Record:
        response: Record = {"imageSetId": row["image_set_id"]}
        if self.options.version_in_success:
            response["imageSetVersion"] = row["version"]
        response["isPrimary"] = bool(row["is_primary"])
        return {"inputFile": key_text(row["key"]), "importResponse": response}

    def _summary(self, job: Job) -> Record:
        reader = self.catalogue.reader()
        counts = reader.execute(
            "SELECT count(*) AS scanned, count(*) - count(exception_type) AS imported,"
            " coalesce(sum(exception_type = ?), 0) AS server FROM job_files WHERE job_id = ?",
            (SERVER_ERROR, job.job_id),
        ).fetchone()
        image_sets = reader.execute(
            "SELECT image_set_id, max(version) AS version, max(is_primary) AS is_primary,"
            " count(DISTINCT sop_instance) AS instances FROM job_files"
            " WHERE job_id = ? AND exception_type IS NULL GROUP BY image_set_id ORDER BY min(number)",
            (job.job_id,),
        ).fetchall()
        folder = job.output_prefix
        return {
            "jobId": job.job_id,
            "datastoreId": self.data_store_id,
            "inputS3Uri": self.inputs.uri(job.input_prefix),
            "outputS3Uri": self.outputs.uri(folder),
            "successOutputS3Uri": self.outputs.uri(f"{folder}SUCCESS/"),
            "failureOutputS3Uri": self.outputs.uri(f"{folder}FAILURE/"),
            "warningsOutputS3Uri": self.outputs.uri(f"{folder}WARNING/"),
            "numberOfScannedFiles": counts["scanned"],
            "numberOfImportedFiles": counts["imported"],
            "numberOfFilesWithCustomerError": counts["scanned"] - counts["imported"] - counts["server"],
            "numberOfFilesWithServerError": counts["server"],
            # Whether one that only got a new version counts is not documented; here the number is that of the list.
            "numberOfGeneratedImageSets": len(image_sets),
            "imageSetsSummary": [
                {
                    "imageSetId": row["image_set_id"],
                    "imageSetVersion": row["version"],
                    "isPrimary": bool(row["is_primary"]),
                    "numberOfMatchedSOPInstances": row["instances"],
                }
                for row in image_sets
            ],
        }


def key_bytes(key: str) -> bytes:
    """Return a key as the catalogue keeps it: file names need not be text."""
    return key.encode("utf-8", "surrogateescape")


def key_text(raw: bytes) -> str:
    """Return a key of the catalogue as it was listed."""
    return raw.decode("utf-8", "surrogateescape")


def _failure(row: sqlite3.Row) -> Record:
    return {
        "inputFile": key_text(row["key"]),
        "exception": {"exceptionType": row["exception_type"], "message": row["message"]},
    }


def _warning(row: sqlite3.Row) -> Record:
    return {
        "inputFile": key_text(row["key"]),
        "importResponse": {
            "imageSetId": row["image_set_id"],
            "imageSetVersion": row["version"],
            "isPrimary": bool(row["is_primary"]),
            "warnings": json.loads(row["remarks"]),
        },
    }


def _write_line(stream: BinaryIO, record: Record) -> None:
    stream.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
