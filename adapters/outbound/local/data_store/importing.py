"""
One job's run: list and count, read and judge, decide and record at once, move into place, write results.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from adapters.outbound.local.data_store.catalogue import Catalogue
from adapters.outbound.local.data_store.durable import FolderSyncFailed, exclusive, make_folder, sync_folder
from adapters.outbound.local.data_store.image_sets import ImageSets
from adapters.outbound.local.data_store.jobs import Job, JobRegister, JobStatus, Phase
from adapters.outbound.local.data_store.limits import Limits
from adapters.outbound.local.data_store.objects import InputObjects, UnsafeKey, copy_object
from adapters.outbound.local.data_store.reading import RefusedFile
from adapters.outbound.local.data_store.remarks import Remark
from adapters.outbound.local.data_store.results import SERVER_ERROR, ResultsWriter, key_bytes
from adapters.outbound.local.data_store.validation import Accepted, examine

_CUSTOMER_ERROR: Final = "ValidationException"
_NOT_DURABLE: Final = "The data store could not make the files durable, check its disk"
_ROWS_AT_ONCE: Final = 200
_ATTEMPTS_TO_WRITE_RESULTS: Final = 5


class Interrupted(Exception):
    """The runner is closing; the job is run again by the next one."""


class Postponed(Exception):
    """The job cannot go on now and keeps what is done; it is run again later."""


class _JobFailed(Exception):
    """The job as a whole fails; the text is its message."""


@attrs.frozen(kw_only=True)
class _FileRow:
    """The outcome of reading one object."""

    number: int
    key: str
    accepted: Accepted | None = None
    exception_type: str | None = None
    message: str | None = None


@attrs.frozen(kw_only=True)
class Importer:
    """
    Runs jobs, each once at a time; several may run in threads.

    Until everything a job decides is in the catalogue it has changed nothing and begins anew; from then on it goes on
    where it was.
    """

    catalogue: Catalogue
    register: JobRegister
    image_sets: ImageSets
    inputs: InputObjects
    results: ResultsWriter
    limits: Limits
    folder: Path
    should_stop: Callable[[], bool] = lambda: False

    def run(self, job: Job, phase: Phase) -> None:
        """
        Run a job to its end.

        Raises:
            Interrupted: if the runner is closing.
            Postponed: if what was decided could not be carried out yet.

        """
        incoming = self._incoming(job.job_id)
        if phase is Phase.NEW:
            self.register.begin(job.job_id)
            try:
                self._gather(job, incoming)
            except _JobFailed as failure:
                self._remove(incoming)
                self.register.end(job.job_id, JobStatus.FAILED, str(failure))
                return
            self._decide(job)
        if phase is not Phase.PLACED:
            with exclusive(self.folder / "changes.lock"):
                self._place_applied()
        self._remove(incoming)
        if self.register.describe(job.job_id).status.has_ended:
            return
        try:
            self.results.write(job)
        except OSError as error:
            if self.register.count_attempt(job.job_id) < _ATTEMPTS_TO_WRITE_RESULTS:
                raise Postponed("results could not be written") from error
            # The instances are in the data store all the same; importing them again does no harm.
            message = f"Results could not be written: {_reason(error)}"
            self.register.end(job.job_id, JobStatus.FAILED, message)
            return
        self.register.end(job.job_id, JobStatus.COMPLETED)

    def _gather(self, job: Job, incoming: Path) -> None:
        """Bring the objects into the job's own folder and record what each of them is."""
        try:
            objects = self._listed(job.input_prefix)
        except OSError as error:
            raise _JobFailed(f"Input objects could not be listed: {_reason(error)}") from error
        except UnsafeKey as error:
            raise _JobFailed("Input objects could not be listed: the prefix is not usable") from error
        try:
            self._remove(incoming)
            make_folder(incoming, within=self.folder)
            with self.catalogue.transaction() as connection:
                connection.execute("DELETE FROM job_files WHERE job_id = ?", (job.job_id,))
            rows: list[_FileRow] = []
            for number, key in enumerate(objects):
                if self.should_stop():
                    raise Interrupted
                rows.append(self._examined(number, key, incoming / str(number)))
                if len(rows) == _ROWS_AT_ONCE:
                    self._record(job.job_id, rows)
                    rows.clear()
            self._record(job.job_id, rows)
            sync_folder(incoming)
        except FolderSyncFailed as error:
            raise _JobFailed(_NOT_DURABLE) from error
        except (OSError, sqlite3.Error) as error:
            raise Postponed("the data store's folder cannot be written") from error

    def _listed(self, prefix: str) -> list[str]:
        """
        List the keys of a job's objects.

        All objects are counted; as many keys as a job may have are kept.
        Zero-byte folder markers are no objects here (not documented).
        """
        keys: list[str] = []
        files = total_bytes = folders = 0
        for key, size, new_folders in _counted(self.inputs.list(prefix), len(prefix)):
            files += 1
            total_bytes += size
            folders += new_folders
            if files <= self.limits.max_files:
                keys.append(key)
        for what, number, limit in (
            ("Number of files", files, self.limits.max_files),
            ("Number of bytes of all files", total_bytes, self.limits.max_bytes),
            ("Number of nested folders", folders, self.limits.max_folders),
        ):
            if number > limit:
                raise _JobFailed(f"{what} is {number}, an import job may have {limit}")
        return keys

    def _examined(self, number: int, key: str, target: Path) -> _FileRow:
        try:
            copy_object(self.inputs, key, target)
            with target.open("rb") as stream:
                accepted = examine(stream, limits=self.limits)
        except RefusedFile as refusal:
            target.unlink(missing_ok=True)
            return _FileRow(number=number, key=key, exception_type=_CUSTOMER_ERROR, message=refusal.message)
        except (OSError, UnsafeKey) as error:
            with suppress(OSError):
                target.unlink(missing_ok=True)
            message = f"The object could not be read: {_reason(error)}"
            return _FileRow(number=number, key=key, exception_type=SERVER_ERROR, message=message)
        except Exception as error:  # noqa: BLE001  # one file we cannot cope with must not cost the others
            target.unlink(missing_ok=True)
            message = f"The object could not be imported: {type(error).__name__}"
            return _FileRow(number=number, key=key, exception_type=SERVER_ERROR, message=message)
        return _FileRow(number=number, key=key, accepted=accepted)

    def _record(self, job_id: str, rows: list[_FileRow]) -> None:
        with self.catalogue.transaction() as connection:
            connection.executemany(
                "INSERT INTO job_files (job_id, number, key, exception_type, message, remarks, study, series,"
                " sop_instance, sop_class, deciding, levels, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (_columns(job_id, row) for row in rows),
            )

    def _decide(self, job: Job) -> None:
        """Record where everything goes, behind what earlier jobs and deletions still have to move."""
        with exclusive(self.folder / "changes.lock"):
            self._place_applied()
            try:
                self.image_sets.finish_deletions()
                self.image_sets.apply(job.job_id)
            except (OSError, sqlite3.Error) as error:
                raise Postponed("the catalogue cannot be written") from error

    def _place_applied(self) -> None:
        """Move the files of applied jobs in the order in which they were applied: the newest bytes must win."""
        for job, phase in self.register.unended():
            if phase is Phase.APPLIED:
                try:
                    self.image_sets.place(job.job_id, self._incoming(job.job_id))
                except FolderSyncFailed:
                    # Importing it again writes everything anew; syncing again could only hide the loss.
                    self.register.end(job.job_id, JobStatus.FAILED, _NOT_DURABLE)
                except (OSError, sqlite3.Error) as error:
                    raise Postponed("the data store's folder cannot be written") from error

    def _incoming(self, job_id: str) -> Path:
        return self.folder / ".incoming" / job_id

    def _remove(self, incoming: Path) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(incoming)


def _counted(objects: Iterator[tuple[str, int]], skip: int) -> Iterator[tuple[str, int, int]]:
    """Add to each object how many folders below the prefix show for the first time; keys come in order."""
    before: list[str] = []
    for key, size in objects:
        if key.endswith("/") and size == 0:
            continue
        folders = key[skip:].split("/")[:-1]
        shared = 0
        for old, new in zip(before, folders, strict=False):
            if old != new:
                break
            shared += 1
        yield key, size, len(folders) - shared
        before = folders


def _columns(job_id: str, row: _FileRow) -> tuple[object, ...]:
    start = (job_id, row.number, key_bytes(row.key), row.exception_type, row.message)
    accepted = row.accepted
    if accepted is None:
        return (*start, "[]", None, None, None, None, None, None, None)
    return (
        *start,
        json.dumps([_remark(remark) for remark in accepted.remarks]),
        accepted.study,
        accepted.series,
        accepted.sop_instance,
        accepted.sop_class,
        json.dumps(attrs.asdict(accepted.deciding), sort_keys=True),
        accepted.levels,
        accepted.metadata,
    )


def _remark(remark: Remark) -> dict[str, object]:
    return {"warning_reason_code": remark.code, "type": remark.kind, "message": remark.message}


def _reason(error: Exception) -> str:
    """Name a cause without its path: the words of the operating system."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
