"""
Import jobs: what is asked of the import service for a batch, and what it says of a job.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import attrs

from domain.batch import Batch
from domain.identifiers import ImportJobId
from domain.staging import batch_prefix, results_prefix


class ImportJobStatus(StrEnum):
    """The service's own words (GetDICOMImportJob)."""

    SUBMITTED = "SUBMITTED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@attrs.frozen(kw_only=True)
class ImportRequest:
    """
    One import job to start.

    Attributes:
        name: client token and job name: the second start with the same name is the first.
        input_prefix: what the job reads, below the staging area, ending in a slash.
        output_prefix: where it writes a folder of its own, below the results area, ending in a slash.

    """

    name: str
    input_prefix: str
    output_prefix: str

    @classmethod
    def of(cls, batch: Batch) -> ImportRequest:
        """Return what to ask for the present attempt of `batch`."""
        return cls(name=batch.job_name, input_prefix=batch_prefix(batch.id), output_prefix=results_prefix(batch.id))


@attrs.frozen(kw_only=True)
class ImportJob:
    """
    What the service says of a job.

    Attributes:
        output_prefix: the job's own results folder below the results area, ending in a slash.
        message: the service's words on a FAILED job; may quote anything, so it never reaches a log.

    """

    id: ImportJobId
    name: str
    status: ImportJobStatus
    output_prefix: str
    message: str | None = None
    submitted_at: datetime | None = None
    ended_at: datetime | None = None


@attrs.frozen(kw_only=True)
class PollPolicy:
    """
    How often a running job is asked for: steadily at first, then ever more rarely.

    Attributes:
        seconds: the first interval.
        steady_seconds: how long it stays.
        max_seconds: the longest interval.
        results_patience_seconds: how long results of an ended job may be missing before that is a failure.

    """

    seconds: float = 15.0
    steady_seconds: float = 600.0
    max_seconds: float = 300.0
    results_patience_seconds: float = 600.0

    def delay(self, waited_seconds: float) -> float:
        """Return the seconds to wait before asking again, `waited_seconds` after the job was accepted."""
        if waited_seconds < self.steady_seconds:
            return self.seconds
        return min(self.max_seconds, max(self.seconds, waited_seconds / 20))
