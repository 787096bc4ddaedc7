"""
What the import service wrote about each file of a job, and what that means for an instance.

The records are those of `SUCCESS/success.ndjson`, `WARNING/warning.ndjson` and `FAILURE/failure.ndjson`.
Unknown fields are ignored; a warned file counts as imported whether or not it stands in the success records too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from domain.errors import InvalidIdentifier, ResultsUnreadable
from domain.identifiers import ImageSetId
from domain.staging import StagingKey

# What the service answers when the fault is its own; everything else is about the file.
_SERVER_ERRORS = ("Internal", "Server", "Throttling", "ServiceUnavailable", "Timeout")


@attrs.frozen(kw_only=True)
class ImportOutcome:
    """
    What became of one file of an import job.

    Attributes:
        image_set: where it was imported; None if it was not.
        image_set_version: if the record says so.
        is_primary: False where the file conflicts with what the data store already holds of the study; None if the
            record does not say.
        reason: why it failed, in the service's words; may quote the data set, so it never reaches a log.
        is_server_error: the service's own fault: worth another attempt without anybody's doing.
        warnings: the service's reservations about an imported file.

    """

    key: StagingKey
    image_set: ImageSetId | None = None
    image_set_version: int | None = None
    is_primary: bool | None = True
    reason: str | None = None
    is_server_error: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def is_imported(self) -> bool:
        """Whether the data store holds it."""
        return self.image_set is not None


@attrs.frozen(kw_only=True)
class JobSummary:
    """The counts of `job-output-manifest.json`; None where the manifest does not say."""

    scanned: int | None
    imported: int | None
    customer_errors: int | None
    server_errors: int | None


def read_summary(manifest: object) -> JobSummary:
    """
    Read a decoded manifest.

    Raises:
        ResultsUnreadable: if it is not a manifest.

    """
    summary = manifest.get("jobSummary") if isinstance(manifest, Mapping) else None
    if not isinstance(summary, Mapping):
        raise ResultsUnreadable("job-output-manifest.json has no jobSummary")

    def number(name: str) -> int | None:
        value = summary.get(name)
        return value if isinstance(value, int) else None

    return JobSummary(
        scanned=number("numberOfScannedFiles"),
        imported=number("numberOfImportedFiles"),
        customer_errors=number("numberOfFilesWithCustomerError"),
        server_errors=number("numberOfFilesWithServerError"),
    )


def read_outcome(record: object) -> ImportOutcome | None:
    """
    Read one decoded result record; None if it names no object of ours or is of a kind we do not know.

    Raises:
        ResultsUnreadable: if it is not a record at all.

    """
    if not isinstance(record, Mapping):
        raise ResultsUnreadable("a result record is not a JSON object")
    path = record.get("inputFile")
    if not isinstance(path, str):
        return None
    try:
        key = StagingKey.parse(path)
    except InvalidIdentifier:
        return None
    response, exception = record.get("importResponse"), record.get("exception")
    if isinstance(response, Mapping):
        return _imported(key, response)
    if isinstance(exception, Mapping):
        return _failed(key, exception)
    return None


def _imported(key: StagingKey, response: Mapping[str, Any]) -> ImportOutcome | None:
    try:
        image_set = ImageSetId(str(response.get("imageSetId")))
    except InvalidIdentifier:
        return None
    is_primary = response.get("isPrimary")
    return ImportOutcome(
        key=key,
        image_set=image_set,
        image_set_version=_version(response.get("imageSetVersion")),
        is_primary=is_primary if isinstance(is_primary, bool) else None,
        warnings=tuple(_warning(warning) for warning in response.get("warnings") or ()),
    )


def _failed(key: StagingKey, exception: Mapping[str, Any]) -> ImportOutcome:
    kind = str(exception.get("exceptionType") or "unknown error")
    message = str(exception.get("message") or "").strip()
    return ImportOutcome(
        key=key,
        reason=f"{kind}: {message}" if message else kind,
        is_server_error=any(word in kind for word in _SERVER_ERRORS),
    )


def _version(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None


def _warning(warning: object) -> str:
    if not isinstance(warning, Mapping):
        return str(warning)
    code = warning.get("warning_reason_code")
    kind, message = warning.get("type"), warning.get("message")
    return f"{kind or 'warning'} ({code:#06x}): {message}" if isinstance(code, int) else f"{kind}: {message}"
