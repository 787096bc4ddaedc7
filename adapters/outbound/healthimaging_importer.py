"""
The import service: AWS HealthImaging, by its job API.

The name of a request is its client token and its job name, so a repeated start is the first job as long as the
service remembers the token, and `find` tells of it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypedDict

import attrs
from botocore.exceptions import ClientError

from adapters.outbound.aws_errors import error_code, importer_errors
from adapters.outbound.results_records import job_folder
from domain.errors import ImporterBusy, ImportRefused
from domain.identifiers import BatchId, DataStoreId, ImportJobId
from domain.import_job import ImportJob, ImportJobStatus, ImportRequest
from domain.staging import results_prefix

if TYPE_CHECKING:
    from mypy_boto3_medical_imaging import HealthImagingClient
    from mypy_boto3_medical_imaging.type_defs import (
        DICOMImportJobSummaryTypeDef,
        StartDICOMImportJobResponseTypeDef,
    )

_START = "medical-imaging:StartDICOMImportJob"
_GET = "medical-imaging:GetDICOMImportJob"
_LIST = "medical-imaging:ListDICOMImportJobs"
_PAGE = 50
_CLOCK_MARGIN = timedelta(hours=1)


@attrs.frozen(kw_only=True)
class HealthImagingImporter:
    """
    An Importer (domain/ports.py) of one data store, safe to share between threads.

    Attributes:
        data_access_role_arn: what HealthImaging reads objects and writes results with.
        bucket_owner: the account of the staging bucket; told to HealthImaging if it is not that of the role, since
            naming an owner asks for the rules of another account's bucket.

    """

    client: HealthImagingClient
    data_store: DataStoreId
    data_access_role_arn: str
    staging_bucket: str
    results_bucket: str
    bucket_owner: str | None = None

    def start(self, request: ImportRequest) -> ImportJob:
        """
        Ask for a job.

        A conflict (409) is a data store that is not active, or a token that was used with other parameters: a start
        whose answer was lost, and settings that changed since.
        In the second case the job is there under its name, and it is the one asked for; in the first, waiting helps.
        """
        try:
            answer = self._start(request)
        except _Conflict as error:
            job = self.find(request.name)
            if job is None:
                raise ImporterBusy(str(error)) from error
            return job
        return ImportJob(
            id=ImportJobId(answer["jobId"]),
            name=request.name,
            status=_status(answer["jobStatus"]),
            output_prefix=self._results(request.output_prefix, ImportJobId(answer["jobId"])),
            submitted_at=_utc(answer.get("submittedAt")),
        )

    def find(self, name: str) -> ImportJob | None:
        """
        Look a job up among those listed, which the service keeps for 90 days.

        The order of the list is not documented; once it has shown itself to be newest first, what is older than the
        batch is not read.
        """
        batch = BatchId(name.rpartition("-")[0])
        for summary in self._recent(batch.opened_at):
            if summary["jobName"] == name:
                job_id = ImportJobId(summary["jobId"])
                return ImportJob(
                    id=job_id,
                    name=name,
                    status=_status(summary["jobStatus"]),
                    output_prefix=self._results(results_prefix(batch), job_id),
                    message=summary.get("message"),
                    submitted_at=_utc(summary.get("submittedAt")),
                    ended_at=_utc(summary.get("endedAt")),
                )
        return None

    def describe(self, job_id: ImportJobId) -> ImportJob:
        """Return the job as it is now."""
        with self._errors(_GET):
            answer = self.client.get_dicom_import_job(datastoreId=self.data_store.value, jobId=job_id.value)
        job = answer["jobProperties"]
        bucket, _, prefix = job["outputS3Uri"].removeprefix("s3://").partition("/")
        if bucket != self.results_bucket:
            raise ImportRefused(
                f"import job {job_id} writes its results to bucket {bucket}, and results are read from"
                f" {self.results_bucket}: check --results-bucket"
            )
        return ImportJob(
            id=job_id,
            name=job["jobName"],
            status=_status(job["jobStatus"]),
            output_prefix=self._results(prefix, job_id),
            message=job.get("message"),
            submitted_at=_utc(job.get("submittedAt")),
            ended_at=_utc(job.get("endedAt")),
        )

    def _start(self, request: ImportRequest) -> StartDICOMImportJobResponseTypeDef:
        optional: _Optional = {}
        if self.bucket_owner and self.bucket_owner != self.data_access_role_arn.split(":")[4]:
            optional["inputOwnerAccountId"] = self.bucket_owner
        with self._errors(_START):
            try:
                return self.client.start_dicom_import_job(
                    datastoreId=self.data_store.value,
                    dataAccessRoleArn=self.data_access_role_arn,
                    clientToken=request.name,
                    jobName=request.name,
                    inputS3Uri=f"s3://{self.staging_bucket}/{request.input_prefix}",
                    outputS3Uri=f"s3://{self.results_bucket}/{request.output_prefix}",
                    **optional,
                )
            except ClientError as error:
                if error_code(error) == "ConflictException":
                    raise _Conflict(
                        f"HealthImaging tells of a conflict: data store {self.data_store} may not be active"
                    ) from error
                raise

    def _recent(self, since: datetime | None) -> Iterator[DICOMImportJobSummaryTypeDef]:
        pages = self.client.get_paginator("list_dicom_import_jobs").paginate(
            datastoreId=self.data_store.value, PaginationConfig={"PageSize": _PAGE}
        )
        is_newest_first = True
        latest = datetime.max.replace(tzinfo=UTC)
        with self._errors(_LIST):
            for page in pages:
                summaries = page["jobSummaries"]
                for summary in summaries:
                    submitted_at = _utc(summary.get("submittedAt")) or latest
                    is_newest_first = is_newest_first and submitted_at <= latest
                    latest = submitted_at
                    yield summary
                if len(summaries) > 1 and is_newest_first and since is not None and latest < since - _CLOCK_MARGIN:
                    return

    def _results(self, prefix: str, job_id: ImportJobId) -> str:
        """Return the job's own folder: the service gives it, or the bare prefix that was asked for."""
        folder = job_folder(self.data_store, job_id)
        prefix = prefix if prefix.endswith("/") else f"{prefix}/"
        return prefix if prefix.endswith(folder) else f"{prefix}{folder}"

    def _errors(self, action: str) -> AbstractContextManager[None]:
        return importer_errors(action, data_store=self.data_store.value, role=self.data_access_role_arn)


class _Conflict(Exception):
    """The service told of a conflict."""


class _Optional(TypedDict, total=False):
    inputOwnerAccountId: str


def _status(text: str) -> ImportJobStatus:
    try:
        return ImportJobStatus(text)
    except ValueError:
        return ImportJobStatus.IN_PROGRESS  # a word we do not know is not the end


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
