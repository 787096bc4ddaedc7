"""What every ResultsReader promises (domain/ports.py); another adapter joins by another parameter."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapters.memory.clock import FakeClock
from adapters.memory.importer import MemoryImporter, MemoryResultsReader, Rejection
from adapters.memory.staging import MemoryStagingArea
from adapters.outbound.local.file_results import FileResultsReader
from domain.errors import ResultsNotReady, ResultsUnreadable
from domain.import_job import ImportJob, ImportJobStatus, ImportRequest
from domain.ports import ResultsReader
from domain.results import ImportOutcome
from domain.staging import StagingKey, results_prefix
from tests.builders import DATA_STORE, a_batch, a_job_id, a_staging_key, a_uid, an_image_set, an_instance

if TYPE_CHECKING:
    from tests.s3 import Storage

BATCH = a_batch(1)

Finished = Callable[[int, int], tuple[ResultsReader, ImportJob]]
"""Make a job that imported so many instances and rejected so many others; return its reader and the job."""


def _in_memory(imported: int, rejected: int) -> tuple[ResultsReader, ImportJob]:
    clock = FakeClock()
    staging = MemoryStagingArea(clock)
    importer = MemoryImporter(staging, clock)
    for number in range(imported + rejected):
        draft = staging.draft()
        draft.write(b"x")
        staging.stage(draft, BATCH.id, an_instance(number))
    for number in range(imported, imported + rejected):
        importer.rejections[a_uid(number)] = Rejection(reason="ValidationException: refused")
    job = importer.start(ImportRequest.of(BATCH))
    importer.step()
    importer.step()
    return MemoryResultsReader(importer), importer.describe(job.id)


def _job(number: int = 1) -> ImportJob:
    return ImportJob(
        id=a_job_id(number),
        name=BATCH.job_name,
        status=ImportJobStatus.COMPLETED,
        output_prefix=f"{results_prefix(BATCH.id)}{DATA_STORE}-DicomImport-{a_job_id(number)}/",
    )


def _success(number: int) -> dict[str, object]:
    response = {"imageSetId": str(an_image_set()), "imageSetVersion": 1, "isPrimary": True}
    return {"inputFile": a_staging_key(number).path, "importResponse": response}


def _failure(number: int) -> dict[str, object]:
    exception = {"exceptionType": "ValidationException", "message": "refused"}
    return {"inputFile": a_staging_key(number).path, "exception": exception}


def _lines(records: Sequence[object]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def _write(folder: Path, imported: int, rejected: int, files: dict[str, str]) -> None:
    summary = {
        "jobId": "ignored",
        "numberOfScannedFiles": imported + rejected,
        "numberOfImportedFiles": imported,
        "numberOfFilesWithCustomerError": rejected,
        "numberOfFilesWithServerError": 0,
    }
    for name, content in {"job-output-manifest.json": json.dumps({"jobSummary": summary}), **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


ON_FILES = ["local", pytest.param("s3", marks=pytest.mark.aws)]


@pytest.fixture(scope="session")
def storage() -> Iterator["Storage"]:
    """Give a simulated S3."""
    from tests.s3 import simulated_storage

    with simulated_storage() as storage:
        yield storage


ReaderOf = Callable[[Path], ResultsReader]
"""Read the results that lie in a folder."""


def _open_reader_of(kind: str, request: pytest.FixtureRequest) -> ReaderOf:
    if kind == "local":
        return FileResultsReader

    def uploaded(root: Path) -> ResultsReader:
        from adapters.outbound.s3_results import S3ResultsReader

        storage: Storage = request.getfixturevalue("storage")
        bucket = storage.make_bucket()
        for path in sorted(root.rglob("*")):
            if path.is_file():
                bucket.client.put_object(
                    Bucket=bucket.name, Key=path.relative_to(root).as_posix(), Body=path.read_bytes()
                )
        return S3ResultsReader(bucket)

    return uploaded


@pytest.fixture(params=ON_FILES)
def reader_of(request: pytest.FixtureRequest) -> ReaderOf:
    return _open_reader_of(request.param, request)


@pytest.fixture(params=["memory", *ON_FILES])
def finished(request: pytest.FixtureRequest, tmp_path: Path) -> Finished:
    if request.param == "memory":
        return _in_memory
    reader_of = _open_reader_of(request.param, request)

    def on_files(imported: int, rejected: int) -> tuple[ResultsReader, ImportJob]:
        numbers = range(imported + rejected)
        files = {
            "SUCCESS/success.ndjson": _lines([_success(number) for number in numbers[:imported]]),
            "FAILURE/failure.ndjson": _lines([_failure(number) for number in numbers[imported:]]),
        }
        _write(tmp_path / _job().output_prefix, imported, rejected, files)
        return reader_of(tmp_path), _job()

    return on_files


def _keys(outcomes: Sequence[ImportOutcome]) -> set[StagingKey]:
    return {outcome.key for outcome in outcomes}


def test_every_outcome_is_told(finished: Finished) -> None:
    reader, job = finished(3, 2)

    outcomes = list(reader.outcomes(job))

    imported = [outcome for outcome in outcomes if outcome.is_imported]
    failed = [outcome for outcome in outcomes if not outcome.is_imported]
    assert {a_staging_key(number) for number in range(3)} == _keys(imported)
    assert {a_staging_key(number) for number in (3, 4)} == _keys(failed)
    assert all(outcome.is_primary and outcome.image_set is not None for outcome in imported)
    assert {"ValidationException: refused"} == {outcome.reason for outcome in failed}


def test_a_job_of_nothing_has_no_outcomes(finished: Finished) -> None:
    reader, job = finished(0, 0)

    assert list(reader.outcomes(job)) == []


def test_a_job_without_results_is_not_ready(finished: Finished) -> None:
    reader, _ = finished(1, 0)

    with pytest.raises(ResultsNotReady):
        list(reader.outcomes(_job(77)))


def test_jobs_are_found_by_batch(finished: Finished) -> None:
    reader, job = finished(2, 1)

    (found,) = reader.jobs(BATCH.id)

    assert (job.id, job.status, job.output_prefix) == (found.id, found.status, found.output_prefix)
    assert list(reader.outcomes(job)) == list(reader.outcomes(found))
    assert list(reader.jobs(a_batch(2).id)) == []


# What only files can be.


def _outcomes(reader_of: ReaderOf, tmp_path: Path) -> list[ImportOutcome]:
    return list(reader_of(tmp_path).outcomes(_job()))


def _folder(tmp_path: Path) -> Path:
    return tmp_path / _job().output_prefix


def test_fewer_records_than_counted_are_not_ready(reader_of: ReaderOf, tmp_path: Path) -> None:
    _write(_folder(tmp_path), 2, 0, {"SUCCESS/success.ndjson": _lines([_success(1), _success(1)])})
    with pytest.raises(ResultsNotReady, match="2 imported files, 1"):
        _outcomes(reader_of, tmp_path)

    _write(_folder(tmp_path), 0, 1, {"SUCCESS/success.ndjson": _lines([_success(1)])})
    with pytest.raises(ResultsNotReady, match="1 failed files, 0"):
        _outcomes(reader_of, tmp_path)


def test_missing_and_empty_lists_are_fine(reader_of: ReaderOf, tmp_path: Path) -> None:
    _write(_folder(tmp_path), 0, 0, {"SUCCESS/success.ndjson": "", "WARNING/warning.ndjson": "\n"})

    assert _outcomes(reader_of, tmp_path) == []


def test_unknown_fields_and_records_are_fine(reader_of: ReaderOf, tmp_path: Path) -> None:
    records = [{**_success(1), "new": 1}, {"kind": "unknown"}, {"inputFile": "elsewhere/file.dcm"}]
    _write(_folder(tmp_path), 1, 0, {"SUCCESS/success.ndjson": _lines(records), "MORE/more.ndjson": "?"})

    (outcome,) = _outcomes(reader_of, tmp_path)

    assert a_staging_key(1) == outcome.key


def test_a_warned_file_counts_as_imported_and_its_warnings_come_last(reader_of: ReaderOf, tmp_path: Path) -> None:
    warned = _success(1)
    warned["importResponse"] = {"imageSetId": str(an_image_set()), "warnings": ["offsets"]}
    only_warned = {**warned, "inputFile": a_staging_key(2).path}
    _write(
        _folder(tmp_path),
        2,
        0,
        {"SUCCESS/success.ndjson": _lines([_success(1)]), "WARNING/warning.ndjson": _lines([warned, only_warned])},
    )

    held = {outcome.key: outcome for outcome in _outcomes(reader_of, tmp_path)}

    assert {("offsets",)} == {outcome.warnings for outcome in held.values()}
    assert len(held) == 2


def test_a_torn_last_line_is_not_ready_and_a_whole_one_without_its_end_is_fine(
    reader_of: ReaderOf, tmp_path: Path
) -> None:
    whole = _lines([_success(1)])
    _write(_folder(tmp_path), 1, 0, {"SUCCESS/success.ndjson": whole + whole[:20]})
    with pytest.raises(ResultsNotReady):
        _outcomes(reader_of, tmp_path)

    _write(_folder(tmp_path), 1, 0, {"SUCCESS/success.ndjson": whole.rstrip("\n")})
    assert len(_outcomes(reader_of, tmp_path)) == 1


@pytest.mark.parametrize(
    "line",
    [pytest.param("{oops}\n", id="no JSON"), pytest.param("[1]\n", id="no object")],
)
def test_lines_that_make_no_sense_are_unreadable_before_anything_is_told(
    reader_of: ReaderOf, tmp_path: Path, line: str
) -> None:
    _write(_folder(tmp_path), 1, 0, {"SUCCESS/success.ndjson": _lines([_success(1)]) + line})
    outcomes = reader_of(tmp_path).outcomes(_job())

    with pytest.raises(ResultsUnreadable):
        next(outcomes)


@pytest.mark.parametrize("manifest", ["", "{", '{"jobSummary": {"jobId": "1"'])
def test_a_manifest_that_is_cut_off_is_not_ready(reader_of: ReaderOf, tmp_path: Path, manifest: str) -> None:
    _write(_folder(tmp_path), 0, 0, {"job-output-manifest.json": manifest})

    with pytest.raises(ResultsNotReady, match="cut off"):
        _outcomes(reader_of, tmp_path)


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"jobSummary": 1}'])
def test_a_manifest_that_makes_no_sense_is_unreadable(reader_of: ReaderOf, tmp_path: Path, manifest: str) -> None:
    _write(_folder(tmp_path), 0, 0, {"job-output-manifest.json": manifest})

    with pytest.raises(ResultsUnreadable):
        _outcomes(reader_of, tmp_path)


def test_jobs_come_oldest_first_and_foreign_folders_are_left_out(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        folder = tmp_path / _job(number).output_prefix
        _write(folder, 0, 0, {})
        os.utime(folder / "job-output-manifest.json", (1000 - number, 1000 - number))
    _write(tmp_path / results_prefix(BATCH.id) / "SOMETHING ELSE", 0, 0, {})
    (tmp_path / _job(4).output_prefix).mkdir()

    jobs = FileResultsReader(tmp_path).jobs(BATCH.id)

    assert [a_job_id(3), a_job_id(2), a_job_id(1)] == [job.id for job in jobs]


def test_a_results_folder_outside_the_area_is_never_read(tmp_path: Path) -> None:
    reader = FileResultsReader(tmp_path)
    for prefix in ("../elsewhere/", "/etc/"):
        job = ImportJob(id=a_job_id(), name="job", status=ImportJobStatus.COMPLETED, output_prefix=prefix)
        with pytest.raises(ResultsUnreadable):
            list(reader.outcomes(job))
