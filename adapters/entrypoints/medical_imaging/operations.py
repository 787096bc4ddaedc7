"""
Each operation of the API, on the embedded data store.

A job is read from its objects and imported at once; how long it *seems* to take is the stand-in's doing, and so is
whether it seems to end.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO, Final, TypeVar

import attrs

from adapters.entrypoints.medical_imaging.behaviour import Behaviour, Results
from adapters.entrypoints.medical_imaging.service_model import Parameters
from adapters.outbound.local.data_store import (
    DataStoreError,
    EmbeddedDataStore,
    ImageSet,
    InputObjects,
    Job,
    JobStatus,
    OutputObjects,
    ResourceNotFoundException,
    ServiceQuotaExceededException,
    ValidationException,
)

_PAGE: Final = 50
_MANIFEST: Final = "job-output-manifest.json"
_NO_ACCESS: Final = 13
_LATE_SECONDS: Final = 0.01
_KEPT: Final = ("dataAccessRoleArn", "inputS3Uri", "outputS3Uri")

_Item = TypeVar("_Item")


@attrs.frozen
class Blob:
    """An answer that is not JSON."""

    content: bytes
    headers: Mapping[str, str]


Answer = Mapping[str, Any] | Blob


@attrs.frozen
class FaultyInputs:
    """The input objects, which cannot be listed when a job shall fail."""

    _inputs: InputObjects
    _behaviour: Behaviour

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and size of each object."""
        if self._behaviour.takes_failure():
            raise OSError(_NO_ACCESS, "the data access role was refused (AccessDenied)")
        yield from self._inputs.list(prefix)

    def open(self, key: str) -> BinaryIO:
        """Open an object."""
        return self._inputs.open(key)

    def uri(self, prefix: str) -> str:
        """Name a prefix."""
        return self._inputs.uri(prefix)


@attrs.define
class FaultyOutputs:
    """The output objects, some of which never come, come late or come in part."""

    _outputs: OutputObjects
    _behaviour: Behaviour
    _late: list[threading.Thread] = attrs.field(factory=list, init=False)
    _is_closing: threading.Event = attrs.field(factory=threading.Event, init=False)

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        """Gather what is written, then write it as far as the faults let it."""
        content = BytesIO()
        yield content
        faults = self._behaviour.faults
        is_manifest = key.endswith(f"/{_MANIFEST}")
        if faults.results is Results.MISSING or (faults.results is Results.NO_MANIFEST and is_manifest):
            return
        kept = content.getvalue()
        if faults.results is Results.TRUNCATED and not is_manifest:
            kept = kept[: kept.rfind(b"\n", 0, -1) + 1 + 20] if kept.count(b"\n") > 1 else kept[:20]
        if faults.results is Results.TORN_MANIFEST and is_manifest:
            kept = kept[: len(kept) // 2]
        if is_manifest and faults.manifest_delay_seconds:
            due = self._behaviour.clock.now() + timedelta(seconds=faults.manifest_delay_seconds)
            thread = threading.Thread(target=self._write_at, args=(due, key, kept), name="late-manifest", daemon=True)
            self._late.append(thread)
            thread.start()
        else:
            self._write(key, kept)

    def uri(self, prefix: str) -> str:
        """Name a prefix."""
        return self._outputs.uri(prefix)

    def close(self) -> None:
        """Write nothing further."""
        self._is_closing.set()
        for thread in self._late:
            thread.join()

    def _write_at(self, due: datetime, key: str, content: bytes) -> None:
        # Looked at often instead of slept for: the clock may be one that a test advances.
        while not self._is_closing.wait(_LATE_SECONDS):
            if self._behaviour.clock.now() >= due:
                self._write(key, content)
                return

    def _write(self, key: str, content: bytes) -> None:
        with self._outputs.writer(key) as stream:
            stream.write(content)


@attrs.define(kw_only=True)
class Operations:
    """
    The operations of one data store.

    Attributes:
        inputs: name the bucket that jobs read; a job that reads another is refused.
        outputs: name the bucket that jobs write to; the same.
        region: of the ARNs.

    """

    store: EmbeddedDataStore
    data_store_id: str
    inputs: InputObjects
    outputs: OutputObjects
    behaviour: Behaviour
    region: str
    account: str
    _ends_at: dict[str, datetime] = attrs.field(factory=dict, init=False)
    _created_at: datetime = attrs.field(init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._created_at = self.behaviour.clock.now()

    def __call__(self, operation: str, asked: Parameters) -> Answer:
        """
        Carry out a request that was checked.

        Raises:
            DataStoreError: it is refused.

        """
        does: dict[str, Callable[[Parameters], Answer]] = {
            "StartDICOMImportJob": self._start,
            "GetDICOMImportJob": self._describe,
            "ListDICOMImportJobs": self._list,
            "GetDatastore": self._data_store,
            "SearchImageSets": self._search,
            "GetImageSet": self._image_set,
            "GetImageSetMetadata": self._metadata,
            "DeleteImageSet": self._delete,
        }
        if operation not in does:
            raise NotImplementedOperation(f"the stand-in does not offer {operation}")
        if asked["datastoreId"] != self.data_store_id:
            raise ResourceNotFoundException("data store not found")
        return does[operation](asked)

    # jobs

    def _start(self, asked: Parameters) -> Answer:
        if "importConfiguration" in asked:
            raise ValidationException("importConfiguration is not offered by the stand-in")
        with self._lock:
            self._check_quota(asked["clientToken"])
            job = self.store.start_import_job(
                asked["clientToken"],
                asked.get("jobName"),
                _prefix(asked["inputS3Uri"], self.inputs.uri(""), "inputS3Uri"),
                _prefix(asked["outputS3Uri"], self.outputs.uri(""), "outputS3Uri"),
                attributes={name: asked[name] for name in (*_KEPT, "inputOwnerAccountId") if name in asked},
            )
            if job.job_id not in self._ends_at:
                self._ends_at[job.job_id] = self._end_of(job)
        return {
            "datastoreId": self.data_store_id,
            "jobId": job.job_id,
            "jobStatus": self._status(job).value,
            "submittedAt": job.submitted_at,
        }

    def _end_of(self, job: Job) -> datetime:
        if self.behaviour.faults.jobs_never_end:
            return _NEVER
        return job.submitted_at + timedelta(seconds=self.behaviour.job_seconds)

    def _check_quota(self, client_token: str) -> None:
        unended = {
            job.job_id
            for status in (JobStatus.SUBMITTED, JobStatus.IN_PROGRESS)
            for job in self.store.list_jobs(status)
        }
        now = self.behaviour.clock.now()
        unended.update(job_id for job_id, end in self._ends_at.items() if self._goes_on(end, now))
        if len(unended) < self.behaviour.concurrency:
            return
        if any(job.client_token == client_token for job in self.store.list_jobs()):
            return  # not a new job
        raise ServiceQuotaExceededException(
            f"{len(unended)} import jobs have not ended, {self.behaviour.concurrency} are allowed"
        )

    def _goes_on(self, end: datetime, now: datetime) -> bool:
        if end == _NEVER:
            return self.behaviour.faults.jobs_never_end
        return now < end

    def _status(self, job: Job) -> JobStatus:
        end = self._ends_at.get(job.job_id)
        if job.status.has_ended and end is not None and self._goes_on(end, self.behaviour.clock.now()):
            return JobStatus.IN_PROGRESS
        return job.status

    def _describe(self, asked: Parameters) -> Answer:
        job = self.store.describe(asked["jobId"])
        output = self.outputs.uri(job.output_prefix)
        if self.behaviour.faults.bare_output_uri:
            output = job.attributes["outputS3Uri"]
        kept = {name: job.attributes[name] for name in _KEPT}
        return {"jobProperties": {**self._summary(job), **kept, "outputS3Uri": output}}

    def _summary(self, job: Job) -> dict[str, Any]:
        status = self._status(job)
        ended_at = job.ended_at if status.has_ended else None
        seems_to_end = self._ends_at.get(job.job_id)
        if ended_at is not None and seems_to_end is not None and seems_to_end != _NEVER:
            ended_at = max(ended_at, seems_to_end)
        return {
            "jobId": job.job_id,
            "jobName": job.job_name,
            "jobStatus": status.value,
            "datastoreId": self.data_store_id,
            "dataAccessRoleArn": job.attributes["dataAccessRoleArn"],
            "submittedAt": job.submitted_at,
            "endedAt": ended_at,
            "message": job.message if status.has_ended else None,
        }

    def _list(self, asked: Parameters) -> Answer:
        wanted = asked.get("jobStatus")
        jobs = (job for job in self.store.list_jobs() if wanted is None or self._status(job).value == wanted)
        page, token = _page(jobs, asked, lambda job: job.job_id)
        return {"jobSummaries": [self._summary(job) for job in page], "nextToken": token}

    # the data store and its image sets

    def _data_store(self, _asked: Parameters) -> Answer:
        return {
            "datastoreProperties": {
                "datastoreId": self.data_store_id,
                "datastoreName": "stand-in",
                "datastoreStatus": "ACTIVE",
                "losslessStorageFormat": "HTJ2K",
                "datastoreArn": self._arn,
                "createdAt": self._created_at,
                "updatedAt": self._created_at,
            }
        }

    def _search(self, asked: Parameters) -> Answer:
        criteria = asked.get("searchCriteria", {})
        order = criteria.get("sort", {"sortOrder": "DESC", "sortField": "updatedAt"})
        found = (_Described(image_set) for image_set in self.store.image_sets(series=_equal_series(criteria)))
        matching = [each for each in found if all(each.meets(test) for test in criteria.get("filters", ()))]
        matching.sort(key=lambda each: each.sortable(order["sortField"]), reverse=order["sortOrder"] == "DESC")
        page, token = _page(matching, asked, lambda each: each.image_set.image_set_id)
        return {
            "imageSetsMetadataSummaries": [
                {
                    "imageSetId": each.image_set.image_set_id,
                    "version": each.image_set.version,
                    "createdAt": each.image_set.created_at,
                    "updatedAt": each.image_set.updated_at,
                    "isPrimary": each.image_set.is_primary,
                    "storageTier": "FREQUENT_ACCESS",
                    "DICOMTags": each.tags(),
                }
                for each in page
            ],
            "sort": order,
            "nextToken": token,
        }

    def _image_set(self, asked: Parameters) -> Answer:
        image_set = self._version(asked)
        return {
            "datastoreId": self.data_store_id,
            "imageSetId": image_set.image_set_id,
            "versionId": str(image_set.version),
            "imageSetState": "ACTIVE",
            "imageSetWorkflowStatus": "CREATED" if image_set.version == 1 else "UPDATED",
            "createdAt": image_set.created_at,
            "updatedAt": image_set.updated_at,
            "imageSetArn": f"{self._arn}/imageset/{image_set.image_set_id}",
            "isPrimary": image_set.is_primary,
        }

    def _metadata(self, asked: Parameters) -> Answer:
        image_set = self._version(asked)
        content = gzip.compress(image_set.metadata.read_bytes(), mtime=0)
        return Blob(content, {"Content-Type": "application/json", "Content-Encoding": "gzip"})

    def _delete(self, asked: Parameters) -> Answer:
        self.store.delete_image_set(asked["imageSetId"])
        return {
            "datastoreId": self.data_store_id,
            "imageSetId": asked["imageSetId"],
            "imageSetState": "LOCKED",
            "imageSetWorkflowStatus": "DELETING",
        }

    def _version(self, asked: Parameters) -> ImageSet:
        image_set = self.store.image_set(asked["imageSetId"])
        if asked.get("versionId", str(image_set.version)) != str(image_set.version):
            raise ResourceNotFoundException("the stand-in keeps the latest version of an image set only")
        return image_set

    @property
    def _arn(self) -> str:
        return f"arn:aws:medical-imaging:{self.region}:{self.account}:datastore/{self.data_store_id}"


class NotImplementedOperation(DataStoreError):
    """An operation of the service that the stand-in does not offer."""

    http_status = 501


@attrs.frozen
class _Described:
    """An image set with its metadata document at hand."""

    image_set: ImageSet
    _document: list[dict[str, Any]] = attrs.field(factory=list, init=False)

    def meets(self, test: Mapping[str, Any]) -> bool:
        """Tell whether one filter of a search holds."""
        ((name, _), *_) = test["values"][0].items()
        values = [_comparable(each[name]) for each in test["values"]]
        own = self._value(name)
        if own is None:
            return False
        if test["operator"] == "BETWEEN":
            if len(values) != 2:  # noqa: PLR2004  # a beginning and an end
                raise ValidationException("BETWEEN takes two values")
            return bool(values[0] <= own <= values[1])
        return bool(own == values[0])

    def sortable(self, field: str) -> Any:  # noqa: ANN401  # a time or a text, the same for all image sets of a search
        """Return what a search is sorted by."""
        return self._value(field) or ""

    def tags(self) -> dict[str, str]:
        """Return the DICOM tags of a search result."""
        texts = {tag: self._text(*place) for tag, place in _TAGS.items()}
        return {tag: text for tag, text in texts.items() if text}

    def _value(self, name: str) -> Any:  # noqa: ANN401  # as the criterion's: a truth, a time or a text
        match name:
            case "isPrimary":
                return self.image_set.is_primary
            case "createdAt":
                return self.image_set.created_at.timestamp()
            case "updatedAt":
                return self.image_set.updated_at.timestamp()
            case "DICOMStudyDateAndTime":
                return (self._text("Study", "StudyDate") or "") + (self._text("Study", "StudyTime") or "")
        return self._text(*_TAGS[name])

    def _text(self, level: str, keyword: str) -> str | None:
        if not self._document:
            self._document.append(json.loads(self.image_set.metadata.read_bytes()))
        study = self._document[0]["Study"]
        levels = {
            "Patient": self._document[0]["Patient"],
            "Study": study,
            "Series": study["Series"][self.image_set.series],
        }
        value = levels[level]["DICOM"].get(keyword)
        return None if value is None else str(value)


_TAGS: Final = {
    "DICOMPatientId": ("Patient", "PatientID"),
    "DICOMPatientName": ("Patient", "PatientName"),
    "DICOMStudyInstanceUID": ("Study", "StudyInstanceUID"),
    "DICOMStudyId": ("Study", "StudyID"),
    "DICOMStudyDate": ("Study", "StudyDate"),
    "DICOMStudyTime": ("Study", "StudyTime"),
    "DICOMStudyDescription": ("Study", "StudyDescription"),
    "DICOMAccessionNumber": ("Study", "AccessionNumber"),
    "DICOMSeriesInstanceUID": ("Series", "SeriesInstanceUID"),
    "DICOMSeriesModality": ("Series", "Modality"),
}
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


def _comparable(value: Any) -> Any:  # noqa: ANN401  # a criterion's value, as JSON has it
    if isinstance(value, Mapping):
        return f"{value['DICOMStudyDate']}{value.get('DICOMStudyTime', '')}"
    return value


def _equal_series(criteria: Mapping[str, Any]) -> str | None:
    """Return the series that a search is for, so that not every image set has to be read."""
    for test in criteria.get("filters", ()):
        if test["operator"] == "EQUAL" and "DICOMSeriesInstanceUID" in test["values"][0]:
            return str(test["values"][0]["DICOMSeriesInstanceUID"])
    return None


def _prefix(uri: str, bucket: str, name: str) -> str:
    if not f"{uri}/".startswith(bucket):
        raise ValidationException(f"{name}: the data access role may not use this bucket")
    return uri.removeprefix(bucket) if uri.startswith(bucket) else ""


def _page(
    items: Iterable[_Item], asked: Parameters, identity: Callable[[_Item], str]
) -> tuple[list[_Item], str | None]:
    """Return the items after those of the page before, and the token of the next page."""
    remaining = iter(items)
    if "nextToken" in asked:
        try:
            last = base64.urlsafe_b64decode(asked["nextToken"]).decode("ascii")
        except (binascii.Error, ValueError):
            raise ValidationException("nextToken is none of ours") from None
        for each in remaining:
            if identity(each) == last:
                break
    size = asked.get("maxResults", _PAGE)
    page = list(islice(remaining, size + 1))
    if len(page) <= size:
        return page, None
    return page[:size], base64.urlsafe_b64encode(identity(page[size - 1]).encode()).decode()
