"""
The embedded data store: jobs are asked for from any process and run by one.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from adapters.outbound.local.data_store.catalogue import Catalogue
from adapters.outbound.local.data_store.contents import Contents, ImageSet, StoredInstance, Summary
from adapters.outbound.local.data_store.durable import exclusive, try_lock
from adapters.outbound.local.data_store.errors import InternalServerException
from adapters.outbound.local.data_store.image_sets import ImageSets
from adapters.outbound.local.data_store.importing import Importer, Interrupted, Postponed
from adapters.outbound.local.data_store.jobs import (
    Clock,
    ImportRequest,
    Job,
    JobRegister,
    JobStatus,
    Phase,
    Quotas,
)
from adapters.outbound.local.data_store.limits import Limits, ResultOptions
from adapters.outbound.local.data_store.objects import InputObjects, OutputObjects
from adapters.outbound.local.data_store.results import ResultsWriter
from domain.identifiers import DataStoreId

_POLL_SECONDS: Final = 0.5
"""How soon the runner sees a job that another process asked for, and tries a postponed one again."""


class EmbeddedDataStore:
    """
    Imports a prefix as the import service does, from the same inputs to the same outputs.

    Everything is under `folder`: `<study>/<series>/<sop instance>.dcm` for primary image sets,
    `<study>/<series>/<image set id>/<sop instance>.dcm` for the others, and `<study>/<series>/<image set id>.json`,
    the metadata document of each image set.

    One process at a time is the runner and runs jobs; every other method works from any process and thread.

    Args:
        folder: the data store's own folder; made if it lacks.
        data_store_id: its id.
        inputs: where jobs read.
        outputs: where jobs write results.
        clock: the time, also of the throttle.
        rate: import jobs that may be started a second; infinity for no limit.
        burst: import jobs that may be started at once.
        concurrency: import jobs that may be submitted or running.
        limits: of one job and one file.
        options: of the results.
        workers: threads that run jobs once this process is the runner; with 0 only `run_pending` does.
        new_id: makes ids of jobs and image sets, 32 hexadecimal digits.

    """

    def __init__(  # noqa: PLR0913  # one collaborator or setting each, all but five with the service's own value
        self,
        folder: Path,
        data_store_id: DataStoreId,
        inputs: InputObjects,
        outputs: OutputObjects,
        clock: Clock,
        *,
        rate: float = 1.0,
        burst: int = 2,
        concurrency: int = 100,
        limits: Limits | None = None,
        options: ResultOptions | None = None,
        workers: int = 1,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._folder = folder.absolute()
        self._workers = workers
        self._catalogue = Catalogue(self._folder)
        self._register = JobRegister(
            catalogue=self._catalogue,
            clock=clock,
            data_store_id=data_store_id.value,
            quotas=Quotas(rate=rate, burst=burst, concurrency=concurrency),
            new_id=new_id,
        )
        self._contents = Contents(catalogue=self._catalogue, folder=self._folder)
        self._image_sets = ImageSets(
            catalogue=self._catalogue,
            contents=self._contents,
            clock=clock,
            folder=self._folder,
            data_store_id=data_store_id.value,
            new_id=new_id,
        )
        self._importer = Importer(
            catalogue=self._catalogue,
            register=self._register,
            image_sets=self._image_sets,
            inputs=inputs,
            results=ResultsWriter(
                catalogue=self._catalogue,
                inputs=inputs,
                outputs=outputs,
                data_store_id=data_store_id.value,
                options=options or ResultOptions(),
            ),
            limits=limits or Limits(),
            folder=self._folder,
            should_stop=self._is_stopping,
        )
        self._condition = threading.Condition()
        self._stopping = False
        self._runner_lock: int | None = None
        self._threads: list[threading.Thread] = []
        self._running: set[str] = set()

    def start_import_job(
        self,
        client_token: str,
        job_name: str | None,
        input_prefix: str,
        output_prefix: str,
        *,
        attributes: Mapping[str, str] | None = None,
    ) -> Job:
        """
        Submit an import job, or find the one that the same call started before.

        Args:
            client_token: 1 to 64 of [A-Za-z0-9._-]; the same token with the same arguments gives the same job, forever.
            job_name: 1 to 64 of [A-Za-z0-9._/#-]; None names the job by its id.
            input_prefix: the objects below it are imported; a missing slash at its end is added.
            output_prefix: below it the job makes its folder; a missing slash at its end is added.
            attributes: kept with the job and compared with the request; they mean nothing here.

        Returns:
            The job, SUBMITTED if it is new.

        Raises:
            ThrottlingException: at more than `rate` calls a second; nothing was changed.
            ValidationException: if an argument breaks its pattern.
            ConflictException: if the client token belongs to a job with other arguments.
            ServiceQuotaExceededException: if `concurrency` jobs are submitted or running.
            InternalServerException: if the catalogue cannot be read or written now.

        """
        request = ImportRequest(
            client_token=client_token,
            job_name=job_name,
            input_prefix=input_prefix,
            output_prefix=output_prefix,
            attributes=attributes or {},
        )
        with _our_fault():
            job = self._register.start(request)
        with self._condition:
            self._condition.notify()
        return job

    def describe(self, job_id: str) -> Job:
        """
        Return a job as it is now.

        Raises:
            ResourceNotFoundException: if there is none of this id.
            InternalServerException: if the catalogue cannot be read now.

        """
        with _our_fault():
            return self._register.describe(job_id)

    def list_jobs(self, status: JobStatus | None = None) -> Iterator[Job]:
        """
        Yield the jobs submitted in the last 90 days, newest first, those in `status` if one is given.

        Raises:
            InternalServerException: if the catalogue cannot be read now.

        """
        with _our_fault():
            yield from self._register.listed(status)

    def become_runner(self) -> bool:
        """
        Run jobs in this process from now on, those first that another runner left unfinished.

        Returns:
            False if another data store object, here or in another process, is the runner.

        """
        with self._condition:
            if self._runner_lock is None:
                self._runner_lock = try_lock(self._folder / "runner.lock")
                if self._runner_lock is None:
                    return False
                self._stopping = False
                self._threads = [
                    threading.Thread(target=self._work, name=f"data-store-{number}", daemon=True)
                    for number in range(self._workers)
                ]
                for thread in self._threads:
                    thread.start()
            return True

    def run_pending(self) -> int:
        """
        Run every job that has not ended, in this thread; become the runner first if need be.

        A job that must be postponed is passed over.

        Returns:
            How many jobs ended; 0 too if another runner is at work.

        """
        if not self.become_runner():
            return 0
        ended = 0
        passed_over: set[str] = set()
        while (claimed := self._claim(passed_over)) is not None:
            ended += self._run(*claimed)
            passed_over.add(claimed[0].job_id)
        return ended

    def close(self) -> None:
        """
        Stop running jobs and close all files; returns when no job of this process runs.

        A job that is being read stops between two files and is run again by the next runner.
        """
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        with self._condition:
            self._threads = []
            if self._runner_lock is not None:
                os.close(self._runner_lock)
                self._runner_lock = None
        self._catalogue.close()

    def summary(self) -> Summary:
        """Count studies, series, instances and image sets."""
        return self._contents.summary()

    def find(self, sop_instance_uid: str) -> tuple[StoredInstance, ...]:
        """
        Return where an instance is stored, in the primary image set first.

        Returns:
            Empty if it is nowhere; several if it was imported with conflicting elements or into several series.

        """
        return self._contents.find(sop_instance_uid)

    def image_set(self, image_set_id: str) -> ImageSet:
        """
        Return an image set as it is now.

        Raises:
            ResourceNotFoundException: if there is none of this id.

        """
        return self._contents.get(image_set_id)

    def image_sets(self, *, series: str | None = None) -> Iterator[ImageSet]:
        """Yield all image sets, oldest first; those of one Series Instance UID if it is given."""
        return self._contents.list(series=series)

    def delete_image_set(self, image_set_id: str) -> None:
        """
        Delete an image set with its instances.

        The next import of its series founds a new primary image set; nothing else becomes primary by itself.

        Raises:
            ResourceNotFoundException: if there is none of this id.
            OSError: if a file could not be deleted; the deletion goes on with the next import.

        """
        with exclusive(self._folder / "changes.lock"):
            self._image_sets.delete(image_set_id)

    def __enter__(self) -> Self:
        """Return the data store; it is closed at the end of the context."""
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _is_stopping(self) -> bool:
        return self._stopping

    def _work(self) -> None:
        postponed: set[str] = set()
        while not self._stopping:
            try:
                claimed = self._claim(postponed)
            except sqlite3.Error:  # such as a full disk: the jobs wait for it
                claimed = None
            if claimed is None:
                with self._condition:
                    if not self._stopping:
                        self._condition.wait(_POLL_SECONDS)
                postponed.clear()
            elif not self._run(*claimed):
                postponed.add(claimed[0].job_id)

    def _claim(self, excluded: set[str]) -> tuple[Job, Phase] | None:
        """Take the next job that no thread of this process is running."""
        with self._condition:
            if self._stopping:
                return None
            for job, phase in self._register.unended():
                if job.job_id not in self._running and job.job_id not in excluded:
                    self._running.add(job.job_id)
                    return job, phase
        return None

    def _run(self, job: Job, phase: Phase) -> bool:
        try:
            self._importer.run(job, phase)
        except (Interrupted, Postponed, sqlite3.Error):
            return False
        except Exception as error:  # noqa: BLE001  # a bug must end its job, not the thread that runs all of them
            with suppress(sqlite3.Error):
                self._register.end(job.job_id, JobStatus.FAILED, f"The import ended in {type(error).__name__}")
        finally:
            with self._condition:
                self._running.discard(job.job_id)
        return True


@contextmanager
def _our_fault() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise InternalServerException("the catalogue of the data store cannot be used now") from error
