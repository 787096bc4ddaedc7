"""
The embedded data store as an Importer: its jobs in the domain's words, its errors as ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from adapters.outbound.local.data_store import (
    ConflictException,
    DataStoreError,
    EmbeddedDataStore,
    InternalServerException,
    Job,
    ServiceQuotaExceededException,
    ThrottlingException,
)
from domain.errors import ImporterBusy, ImportRefused
from domain.identifiers import DataStoreId, ImportJobId
from domain.import_job import ImportJob, ImportJobStatus, ImportRequest

_WAITS = (ConflictException, InternalServerException, ServiceQuotaExceededException, ThrottlingException)


@attrs.frozen(kw_only=True)
class EmbeddedImporter:
    """
    An Importer (domain/ports.py) that imports into the embedded data store.

    Attributes:
        store: runs the jobs, here or in the process that is its runner.
        data_store: its id.

    """

    store: EmbeddedDataStore
    data_store: DataStoreId

    def start(self, request: ImportRequest) -> ImportJob:
        """Ask for a job; a second request of the same name is the first job."""
        with _translated():
            job = self.store.start_import_job(request.name, request.name, request.input_prefix, request.output_prefix)
        return _job(job)

    def find(self, name: str) -> ImportJob | None:
        """Look a job up by its name."""
        with _translated():
            return next((_job(job) for job in self.store.list_jobs() if job.job_name == name), None)

    def describe(self, job_id: ImportJobId) -> ImportJob:
        """Return the job as it is now."""
        with _translated():
            return _job(self.store.describe(job_id.value))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _WAITS as error:
        raise ImporterBusy(str(error)) from error
    except DataStoreError as error:
        raise ImportRefused(str(error)) from error


def _job(job: Job) -> ImportJob:
    return ImportJob(
        id=ImportJobId(job.job_id),
        name=job.job_name,
        status=ImportJobStatus(job.status.value),
        output_prefix=job.output_prefix,
        message=job.message,
        submitted_at=job.submitted_at,
        ended_at=job.ended_at,
    )
