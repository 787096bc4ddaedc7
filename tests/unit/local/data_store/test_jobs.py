"""Jobs: idempotency, throttle, quota, limits, results, restart, one runner."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.outbound.local.data_store import (
    ConflictException,
    DataStoreError,
    EmbeddedDataStore,
    FileInputObjects,
    FileOutputObjects,
    InternalServerException,
    JobStatus,
    Limits,
    ResourceNotFoundException,
    ResultOptions,
    ServiceQuotaExceededException,
    ThrottlingException,
    ValidationException,
    durable,
)
from adapters.outbound.local.data_store.catalogue import Catalogue
from adapters.outbound.local.data_store.throttle import Bucket
from tests.unit.local.data_store.support import STORE, Site, an_object

# ------------------------------------------------------------------------------------------- asking


def test_a_new_job_is_submitted_and_names_its_own_output_folder(site: Site) -> None:
    job = site.store.start_import_job("t", "name", "in", "out/there")
    assert job.status is JobStatus.SUBMITTED
    assert len(job.job_id) == 32
    assert job.job_name == "name"
    assert job.input_prefix == "in/"
    assert job.output_prefix == f"out/there/{STORE}-DicomImport-{job.job_id}/"
    assert job.submitted_at == site.clock.now()
    assert job.ended_at is None
    assert site.store.describe(job.job_id) == job


def test_the_same_token_and_request_is_the_same_job_for_ever(site: Site) -> None:
    first = site.store.start_import_job("t", "name", "in/", "out/")
    site.store.run_pending()
    site.clock.forward(days=400)
    again = site.store.start_import_job("t", "name", "in", "out")
    assert again.job_id == first.job_id
    assert again.status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "other",
    [
        ("name2", "in/", "out/", {}),
        ("name", "in2/", "out/", {}),
        ("name", "in/", "o/", {}),
        ("name", "in/", "out/", {"role": "r"}),
    ],
)
def test_the_same_token_with_another_request_is_a_conflict(
    site: Site, other: tuple[str, str, str, dict[str, str]]
) -> None:
    site.store.start_import_job("t", "name", "in/", "out/")
    with pytest.raises(ConflictException):
        site.store.start_import_job("t", *other[:3], attributes=other[3])


@pytest.mark.parametrize(
    "arguments",
    [
        ("", "name", "in/", "out/"),
        ("t" * 65, "name", "in/", "out/"),
        ("t t", "name", "in/", "out/"),
        ("t", "", "in/", "out/"),
        ("t", "n" * 65, "in/", "out/"),
        ("t", "n n", "in/", "out/"),
        ("t", "name", "../in/", "out/"),
        ("t", "name", "/in/", "out/"),
        ("t", "name", "in//x/", "out/"),
        ("t", "name", "in/", "a/../../out/"),
        ("t", "name", "in/", "o" * 1025),
        ("t", "name", "in\0/", "out/"),
    ],
)
def test_what_breaks_its_pattern_is_refused(site: Site, arguments: tuple[str, str, str, str]) -> None:
    with pytest.raises(ValidationException):
        site.store.start_import_job(*arguments)
    assert list(site.store.list_jobs()) == []


def test_starts_are_throttled_across_processes(site: Site) -> None:
    store = site.reopen(rate=1.0, burst=2)
    with site.open(rate=1.0, burst=2) as other:
        store.start_import_job("a", None, "in/", "out/")
        other.start_import_job("b", None, "in/", "out/")
        with pytest.raises(ThrottlingException) as caught:
            store.start_import_job("c", None, "in/", "out/")
        assert caught.value.http_status == 429
        site.clock.forward(seconds=1)
        other.start_import_job("c", None, "in/", "out/")
        with pytest.raises(ThrottlingException):
            store.start_import_job("a", None, "in/", "out/")


def test_beyond_the_quota_of_jobs_a_start_is_refused_until_one_ends(site: Site) -> None:
    store = site.reopen(concurrency=2)
    first = store.start_import_job("a", None, "in/", "out/")
    store.start_import_job("b", None, "in/", "out/")
    with pytest.raises(ServiceQuotaExceededException) as caught:
        store.start_import_job("c", None, "in/", "out/")
    assert caught.value.http_status == 402
    assert store.start_import_job("a", None, "in/", "out/") == first
    store.run_pending()
    assert store.start_import_job("c", None, "in/", "out/").status is JobStatus.SUBMITTED


def test_an_unknown_job_is_not_found(site: Site) -> None:
    with pytest.raises(ResourceNotFoundException):
        site.store.describe("0" * 32)


def test_jobs_are_listed_newest_first_by_status_for_90_days(site: Site) -> None:
    old = site.store.start_import_job("old", "old", "in/", "out/")
    site.store.run_pending()
    site.clock.forward(days=91)
    names = [f"n{number}" for number in range(100)]
    for number, name in enumerate(names):
        site.store.start_import_job(f"t{number}", name, "in/", "out/")
    assert [job.job_name for job in site.store.list_jobs()] == names[::-1]
    assert [job.job_name for job in site.store.list_jobs(JobStatus.SUBMITTED)] == names[::-1]
    assert list(site.store.list_jobs(JobStatus.COMPLETED)) == []
    assert site.store.describe(old.job_id).job_name == "old"


def test_a_catalogue_that_cannot_be_used_is_the_services_fault(site: Site) -> None:
    site.store._catalogue.reader().execute("DROP TABLE jobs")
    for call in (lambda: site.store.describe("x"), lambda: list(site.store.list_jobs()), site.submit):
        with pytest.raises(InternalServerException):
            call()


def test_every_refusal_has_its_http_status() -> None:
    own = [error for error in DataStoreError.__subclasses__() if error.__module__ == DataStoreError.__module__]
    statuses = {error.__name__: error.http_status for error in own}
    assert statuses == {
        "ValidationException": 400,
        "ServiceQuotaExceededException": 402,
        "AccessDeniedException": 403,
        "ResourceNotFoundException": 404,
        "ConflictException": 409,
        "ThrottlingException": 429,
        "InternalServerException": 500,
    }


@given(st.lists(st.floats(0, 10), max_size=60), st.sampled_from([0.25, 1.0, 3.0]), st.integers(1, 10))
def test_a_bucket_never_lets_more_through_than_rate_and_burst(waits: list[float], rate: float, burst: int) -> None:
    now = start = datetime(2026, 1, 1, tzinfo=UTC)
    bucket, passed = Bucket.full(burst, now), 0
    for wait in waits:
        now += timedelta(seconds=wait)
        taken = bucket.take(now, rate=rate, burst=burst)
        if taken is not None:
            bucket, passed = taken, passed + 1
    assert passed <= burst + (now - start).total_seconds() * rate + 1e-3


def test_a_bucket_ignores_a_clock_that_goes_back() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    empty = Bucket.full(1, now).take(now, rate=1, burst=1)
    assert empty is not None
    assert empty.take(now - timedelta(hours=1), rate=1, burst=1) is None
    assert Bucket(tokens=0, at=now).take(now, rate=math.inf, burst=1) is not None


# ------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    "limits,message",
    [
        (Limits(max_files=3), "Number of files is 4, an import job may have 3"),
        (Limits(max_bytes=10), "Number of bytes of all files is {bytes}, an import job may have 10"),
        (Limits(max_folders=3), "Number of nested folders is 4, an import job may have 3"),
    ],
)
def test_a_job_beyond_a_limit_fails_and_imports_nothing(site: Site, limits: Limits, message: str) -> None:
    store = site.reopen(limits=limits)
    objects = {name: an_object(f"1.2.3.{n}") for n, name in enumerate(["a/b/1", "a/b/2", "a/c/1", "d/1"])}
    site.put("b", objects)
    job = site.submit()
    store.run_pending()
    job = store.describe(job.job_id)
    assert job.status is JobStatus.FAILED
    assert job.message == message.format(bytes=sum(map(len, objects.values())))
    assert job.ended_at is not None
    assert store.summary().instances == 0
    assert not (site.root / "out").exists()


def test_a_job_at_every_limit_completes(site: Site) -> None:
    objects = {name: an_object(f"1.2.3.{n}") for n, name in enumerate(["a/b/1", "a/b/2", "a/c/1", "d/1"])}
    site.reopen(limits=Limits(max_files=4, max_folders=4, max_bytes=sum(map(len, objects.values()))))
    assert site.run(objects).job.status is JobStatus.COMPLETED


def test_folder_markers_and_other_prefixes_are_no_objects(site: Site) -> None:
    (site.root / "in/b/empty").mkdir(parents=True)
    site.put("bb", [an_object()])
    job = site.submit("b")
    site.store.run_pending()
    results = site.results(job)
    assert results.job.status is JobStatus.COMPLETED
    assert results.manifest["numberOfScannedFiles"] == 0


# ------------------------------------------------------------------------------------------- results


def test_results_have_the_services_shape(site: Site) -> None:
    results = site.run({"a.dcm": an_object(), "b.txt": b"hello", "c.dcm": an_object("1.2.3.2", NumberOfFrames="9")})
    manifest = results.manifest
    folder = (site.root / "out" / results.job.output_prefix).as_uri() + "/"
    assert {key: value for key, value in manifest.items() if key != "imageSetsSummary"} == {
        "jobId": results.job.job_id,
        "datastoreId": STORE.value,
        "inputS3Uri": (site.root / "in/batch-1").as_uri() + "/",
        "outputS3Uri": folder,
        "successOutputS3Uri": folder + "SUCCESS/",
        "failureOutputS3Uri": folder + "FAILURE/",
        "warningsOutputS3Uri": folder + "WARNING/",
        "numberOfScannedFiles": 3,
        "numberOfImportedFiles": 2,
        "numberOfFilesWithCustomerError": 1,
        "numberOfFilesWithServerError": 0,
        "numberOfGeneratedImageSets": 1,
    }
    image_set_id = manifest["imageSetsSummary"][0]["imageSetId"]
    response = {"imageSetId": image_set_id, "imageSetVersion": 1, "isPrimary": True}
    assert results.success == [{"inputFile": "batch-1/a.dcm", "importResponse": response}]
    assert results.failure == [
        {
            "inputFile": "batch-1/b.txt",
            "exception": {"exceptionType": "ValidationException", "message": "DICOM attributes does not exist"},
        }
    ]
    (warned,) = results.warning
    (warning,) = warned["importResponse"].pop("warnings")
    assert warned == {"inputFile": "batch-1/c.dcm", "importResponse": response}
    assert (warning["warning_reason_code"], warning["type"]) == (0xB111, "FrameNumberMismatch")


def test_what_no_source_settles_can_be_written_the_other_way(site: Site) -> None:
    site.reopen(options=ResultOptions(version_in_success=False, warned_also_in_success=True, write_empty=False))
    results = site.run({"a.dcm": an_object(NumberOfFrames="9")})
    assert results.success[0]["importResponse"].keys() == {"imageSetId", "isPrimary"}
    assert len(results.warning) == 1
    assert not (site.root / "out" / results.job.output_prefix / "FAILURE").exists()


def test_a_job_whose_files_are_all_refused_is_completed(site: Site) -> None:
    results = site.run([b"x", b"y"])
    assert results.job.status is JobStatus.COMPLETED
    assert results.manifest["numberOfImportedFiles"] == 0
    assert results.manifest["imageSetsSummary"] == []


def test_an_object_that_cannot_be_read_is_a_server_error_without_its_path(site: Site) -> None:
    store = site.reopen(inputs=Failing(site.root / "in", at=1, error=OSError(errno.EIO, "Input/output error")))
    site.put("b", [an_object("1.2.3.1"), an_object("1.2.3.2")])
    job = site.submit()
    store.run_pending()
    results = site.results(job)
    assert results.manifest["numberOfFilesWithServerError"] == 1
    assert results.failure[0]["exception"] == {
        "exceptionType": "InternalServerException",
        "message": "The object could not be read: Input/output error",
    }


def test_no_value_of_a_data_set_is_in_any_message(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    secret = "SECRET^PATIENT"
    odd_characters = an_object("1.2.3.5", PatientName=secret, SpecificCharacterSet="ISO_IR 100", NumberOfFrames="9")
    results = site.run(
        [
            an_object(PatientName=secret * 30),
            an_object(PatientID=secret + "1" * 60, study=secret),
            an_object(PatientBirthDate=secret, SOPClassUID=None),
            odd_characters.replace(b"ISO_IR 100", b"SECRET_SET"),
        ]
    )
    assert results.messages
    assert results.warned
    assert "SECRET" not in json.dumps([results.failure, results.warning, results.success, results.manifest])
    assert "SECRET" not in caplog.text


# ------------------------------------------------------------------------------------------- restart


class Killed(BaseException):
    """The process dies here."""


class Steps:
    """Counts whatever changes the disk and dies before a given one."""

    def __init__(self, patch: pytest.MonkeyPatch, last: int | None = None) -> None:
        self.done = 0
        self._last = last
        for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))
        transaction = Catalogue.transaction

        @contextmanager
        def counted(catalogue: Catalogue) -> Iterator[sqlite3.Connection]:
            with transaction(catalogue) as connection:
                yield connection
                self._step()
            self._step()

        patch.setattr(Catalogue, "transaction", counted)

    def _step(self) -> None:
        if self.done == self._last:
            raise Killed
        self.done += 1

    def _counted(self, operation: Any) -> Any:
        def run(*arguments: Any, **settings: Any) -> Any:
            self._step()
            return operation(*arguments, **settings)

        return run


def two_jobs(root: Path, patch: pytest.MonkeyPatch, *, last: int | None) -> tuple[object, int]:
    """
    Import once, then again with a replacement, an addition, a conflict, a refusal and a warning, and die on the way.

    Returns:
        Everything the second job leaves, apart from ids that are random; how many steps it took.

    """
    site = Site(root=root)
    site.run([an_object("1.2.3.1"), an_object("1.2.3.2")])
    site.put(
        "b",
        [
            an_object("1.2.3.1", PixelData=b"\2\2\2\2"),
            an_object("1.2.3.3"),
            an_object("1.2.3.3", PatientID="PAT2"),
            b"nothing",
            an_object("1.2.3.4", NumberOfFrames="3"),
        ],
    )
    job = site.submit()
    with patch.context() as context:
        steps = Steps(context, last)
        with suppress(Killed):
            site.store.run_pending()
    site.reopen().run_pending()
    results = site.results(job)
    text = json.dumps([results.success, results.failure, results.warning, results.manifest["imageSetsSummary"]])
    files = {
        path.relative_to(site.folder).as_posix(): path.read_text("latin-1")
        for path in sorted((site.folder / "1.2").rglob("*"))
        if path.is_file()
    }
    text += json.dumps(sorted(files.items()))
    for number, image_set in enumerate(results.manifest["imageSetsSummary"]):
        text = text.replace(image_set["imageSetId"], f"image-set-{number}")
    summary = site.store.summary()
    assert results.job.status is JobStatus.COMPLETED
    assert not list(site.folder.glob(".incoming/*"))
    site.store.close()
    shutil.rmtree(root)
    return ("".join(sorted(text)), summary), steps.done


def test_a_job_cut_short_at_any_step_gives_the_same_results_when_it_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, count = two_jobs(tmp_path / "whole", monkeypatch, last=None)
    assert count > 30
    for last in range(count):
        assert two_jobs(tmp_path / "cut", monkeypatch, last=last)[0] == whole, f"cut before step {last}"


def test_results_that_cannot_be_written_are_tried_again_and_then_fail_the_job(site: Site) -> None:
    store = site.reopen(outputs=Unwritable())
    site.put("b", [an_object()])
    job = site.submit()
    for _ in range(4):
        assert store.run_pending() == 0
        assert store.describe(job.job_id).status is JobStatus.IN_PROGRESS
    assert store.run_pending() == 1
    failed = store.describe(job.job_id)
    assert (failed.status, failed.message) == (
        JobStatus.FAILED,
        "Results could not be written: No space left on device",
    )


def test_results_that_could_not_be_written_come_with_the_next_runner(site: Site) -> None:
    store = site.reopen(outputs=Unwritable())
    site.put("b", [an_object()])
    job = site.submit()
    store.run_pending()
    site.reopen().run_pending()
    assert site.results(job).responses[0]["imageSetVersion"] == 1


def test_a_folder_whose_sync_failed_fails_the_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("b", [an_object()])
    job = site.submit()

    def fail(folder: Path) -> None:
        raise durable.FolderSyncFailed(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "sync_folder", fail)
    site.store.run_pending()
    failed = site.store.describe(job.job_id)
    assert failed.status is JobStatus.FAILED
    assert failed.message == "The data store could not make the files durable, check its disk"


def test_a_full_disk_postpones_a_job_and_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("b", [an_object()])
    job = site.submit()

    def fail(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        assert site.store.run_pending() == 0
    assert site.store.describe(job.job_id).status is JobStatus.IN_PROGRESS
    other = site.submit("none/")
    site.store.run_pending()
    assert site.store.describe(other.job_id).status is JobStatus.COMPLETED
    assert len(site.results(job).success) == 1
    (stored,) = site.store.find("1.2.3.1")
    assert (stored.version, stored.path.is_file()) == (1, True)


def test_an_image_set_deleted_while_its_files_were_on_the_way_stays_deleted(site: Site) -> None:
    site.put("b", [an_object()])
    job = site.submit()
    importer = site.store._importer
    importer._gather(job, importer._incoming(job.job_id))
    importer._decide(job)
    (image_set,) = site.store.image_sets()
    site.store.delete_image_set(image_set.image_set_id)
    site.store.run_pending()
    assert site.store.find("1.2.3.1") == ()
    assert not (site.folder / "1.2").exists()


def test_input_that_cannot_be_listed_fails_the_job(site: Site) -> None:
    store = site.reopen(
        inputs=Failing(site.root / "in", at=0, error=PermissionError(errno.EACCES, "Permission denied"))
    )
    job = site.submit()
    store.run_pending()
    assert store.describe(job.job_id).message == "Input objects could not be listed: Permission denied"


# ------------------------------------------------------------------------------------------- runner


def test_one_process_at_a_time_is_the_runner(site: Site) -> None:
    assert site.store.become_runner()
    assert site.store.become_runner()
    with site.open() as other:
        assert not other.become_runner()
        site.put("b", [an_object()])
        job = other.start_import_job("t", None, "b/", "out/")
        assert other.run_pending() == 0
        assert site.store.run_pending() == 1
        assert other.describe(job.job_id).status is JobStatus.COMPLETED
        site.store.close()
        assert other.become_runner()


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_of_the_runner_take_jobs_from_any_process(site: Site, workers: int) -> None:
    ended = threading.Event()
    outputs = Announcing(site.root / "out", jobs=6, ended=ended)
    runner = site.reopen(workers=workers, outputs=outputs)
    assert runner.become_runner()
    with site.open() as other:
        jobs = []
        for number in range(6):
            site.put(f"b{number}", [an_object(f"1.2.3.{n}") for n in range(3)])
            jobs.append((other if number % 2 else runner).start_import_job(f"t{number}", None, f"b{number}/", "out/"))
        assert ended.wait(60)
    site.reopen().run_pending()
    assert [site.store.describe(job.job_id).status for job in jobs] == [JobStatus.COMPLETED] * 6
    (image_set,) = site.store.image_sets()
    assert image_set.version == 6
    assert site.store.summary().instances == 3


def test_closing_interrupts_a_job_between_two_files_and_the_next_runner_has_it(site: Site) -> None:
    site.put("b", [an_object(f"1.2.3.{n}") for n in range(5)])
    inputs = Closing(site.root / "in")
    store = site.reopen(inputs=inputs)
    inputs.store = store
    job = site.submit()
    assert store.run_pending() == 0
    site.reopen().run_pending()
    assert len(site.results(job).success) == 5


def test_a_bug_ends_its_job_only(site: Site) -> None:
    store = site.reopen(inputs=Failing(site.root / "in", at=0, error=ZeroDivisionError("x")))
    job = site.submit()
    store.run_pending()
    assert store.describe(job.job_id).message == "The import ended in ZeroDivisionError"


class Failing(FileInputObjects):
    """Fails at the listing (0) or at one of the objects, by number."""

    def __init__(self, root: Path, *, at: int, error: Exception) -> None:
        super().__init__(root)
        self._at = at
        self._error = error
        self._opened = 0

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        if self._at == 0:
            raise self._error
        return super().list(prefix)

    def open(self, key: str) -> BinaryIO:
        self._opened += 1
        if self._opened == self._at:
            raise self._error
        return super().open(key)


class Unwritable:
    """A full disk."""

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        if key:
            raise OSError(errno.ENOSPC, "No space left on device")
        yield io.BytesIO()

    def uri(self, prefix: str) -> str:
        return prefix


class Announcing(FileOutputObjects):
    """Tells when as many manifests as there are jobs were written."""

    def __init__(self, root: Path, *, jobs: int, ended: threading.Event) -> None:
        super().__init__(root)
        self._left = jobs
        self._ended = ended

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        with super().writer(key) as stream:
            yield stream
        if key.endswith("job-output-manifest.json"):
            self._left -= 1
            if not self._left:
                self._ended.set()


class Closing(FileInputObjects):
    """The data store is told to stop while the third object is read."""

    store: EmbeddedDataStore

    def open(self, key: str) -> BinaryIO:
        if key.endswith("0002.dcm"):
            self.store._stopping = True
        return super().open(key)
