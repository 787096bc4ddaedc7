"""
The profile of one machine: files, SQLite and the embedded data store, all below the data folder.

    staging/  trash/        objects on their way, and imported ones until the retention ends
    results/                what import jobs wrote
    datastore/<id>/         the embedded data store
    metadata.sqlite3        the table that questions are answered from
    locks/, serve.lock      who is alive

One process at a time carries batches and runs imports: the receiver if there is one, else whichever command has work
to do.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import attrs

from adapters.entrypoints.capacity import draft_room
from adapters.entrypoints.import_runner import ImportRunner, Quotas, data_store
from adapters.entrypoints.receiver import Chore
from adapters.entrypoints.settings import Settings
from adapters.entrypoints.use_cases import Ports, UseCases, assemble
from adapters.outbound.clock import SystemClock
from adapters.outbound.draft_room import DraftRoom
from adapters.outbound.local.data_store import EmbeddedDataStore
from adapters.outbound.local.embedded_importer import EmbeddedImporter
from adapters.outbound.local.file_results import FileResultsReader
from adapters.outbound.local.file_staging import FileStagingArea
from adapters.outbound.local.files import FileOperations, words_for
from adapters.outbound.local.journal import JournalLimits
from adapters.outbound.local.owner_lock import HeldLock, OwnerLocks, hold_data_folder
from adapters.outbound.local.sqlite_metadata import SqliteMetadataStore
from adapters.outbound.local.thread_workflow import ThreadWorkflow
from adapters.outbound.study_description import PydicomStudyDescriber
from adapters.outbound.telemetry import Level, LineTelemetry, telemetry
from domain.errors import NotPossible
from domain.identifiers import DataStoreId
from domain.import_job import PollPolicy

_RECOVER_SECONDS = 5.0
_SWEEP_SECONDS = 3600.0
_EXPIRE_SECONDS = 60.0  # often, so that a receiver that seldom runs an hour expires too
_POLL = PollPolicy(seconds=0.5, steady_seconds=60.0, max_seconds=15.0)


@attrs.define(kw_only=True)
class LocalProfile:
    """
    What one process has open of a data folder.

    Attributes:
        use_cases: wired on the local adapters.
        workflow: carries batches in this process while it is the carrier.
        drafts: what arriving instances hold.

    """

    settings: Settings
    staging: FileStagingArea
    drafts: DraftRoom
    store: EmbeddedDataStore
    runner: ImportRunner
    workflow: ThreadWorkflow
    use_cases: UseCases
    telemetry: LineTelemetry
    clock: SystemClock
    carrier: Carrier

    def become_carrier(self) -> None:
        """
        Carry batches and run imports in this process from now on.

        Raises:
            NotPossible: another process does; the message names it.

        """
        self.carrier.take()
        self.store.become_runner()

    def become_receiver(self) -> None:
        """
        Carry batches in this process from now on, and run imports in another, beside receiving.

        Raises:
            NotPossible: another process does; the message names it.

        """
        self.carrier.take()
        self.runner.ensure()

    def chores(self) -> tuple[Chore, ...]:
        """Return what a receiver on this machine does now and then."""
        return (
            Chore(name="imports.runner_failed", every_seconds=_RECOVER_SECONDS, do=self.runner.ensure),
            Chore(name="batches.recovery_failed", every_seconds=_RECOVER_SECONDS, do=self.use_cases.recover),
            Chore(name="batches.sweep_failed", every_seconds=_SWEEP_SECONDS, do=self.use_cases.reconcile),
            Chore(name="trash.expiry_failed", every_seconds=_EXPIRE_SECONDS, do=self._expire, is_awaited=False),
        )

    def _expire(self) -> None:
        self.staging.expire((self.clock.now() - timedelta(days=self.settings.retention_days)).date())


@contextmanager
def open_local(settings: Settings, log: TextIO = sys.stderr) -> Iterator[LocalProfile]:
    """
    Open a data folder; it is made if it lacks.

    Raises:
        NotPossible: the folder cannot be used.

    """
    folder = settings.data_dir.absolute()
    clock = SystemClock()
    lines = telemetry(settings.log_format, Level[settings.log_level.upper()], log, clock)
    with ExitStack() as stack:
        with _usable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            data_store_id = _data_store_id(folder / "datastore")
            drafts = draft_room(settings)
            journal = JournalLimits.within(settings.journal_space)
            staging = FileStagingArea(folder / "staging", FileOperations(), clock, room=drafts, journal=journal)
            stack.callback(staging.close)
            metadata = SqliteMetadataStore(folder / "metadata.sqlite3")
            stack.callback(metadata.close)
            quotas = Quotas(
                rate=settings.import_rate, burst=settings.import_burst, concurrency=settings.import_concurrency
            )
            store = data_store(folder, data_store_id, quotas)
            stack.callback(store.close)
            runner = ImportRunner(folder, data_store_id)
            stack.callback(runner.stop)
            locks = OwnerLocks(folder / "locks")
            owner = f"{os.getpid()}-{secrets.token_hex(4)}"
            stack.enter_context(locks.hold(owner))
        carrier = Carrier(folder)
        stack.callback(carrier.release)
        workflow = ThreadWorkflow(
            carry=lambda batch_id: use_cases.carry(batch_id),  # noqa: PLW0108  # it is wired below
            telemetry=lines,
            is_carried_elsewhere=lambda: not carrier.is_ours(),
        )
        use_cases = assemble(
            Ports(
                staging=staging,
                metadata=metadata,
                importer=EmbeddedImporter(store=store, data_store=data_store_id),
                results=FileResultsReader(folder / "results"),
                workflow=workflow,
                describe_study=PydicomStudyDescriber(with_patient=settings.store_patient_identity),
                clock=clock,
                telemetry=lines,
                owner=owner,
                is_abandoned=lambda batch: not locks.is_held(batch.owner),
                commitments=metadata,
                poll=_POLL,
            )
        )
        yield LocalProfile(
            settings=settings,
            staging=staging,
            drafts=drafts,
            store=store,
            runner=runner,
            workflow=workflow,
            use_cases=use_cases,
            telemetry=lines,
            clock=clock,
            carrier=carrier,
        )


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Say what to do about a data folder that cannot be opened."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        why = words_for(error) if isinstance(error, OSError) else str(error)
        raise NotPossible(f"the data folder {folder} cannot be used: {why}; or choose another --data-dir") from error


def is_data_folder(folder: Path) -> bool:
    """Tell whether a receiver has used a folder, also where its table was lost."""
    return any(folder.joinpath(name).exists() for name in ("datastore", "staging", "metadata.sqlite3"))


@attrs.define
class Carrier:
    """Whether this process is the one that carries batches; one process of a data folder is."""

    _folder: Path
    _lock: HeldLock | None = None

    def take(self) -> None:
        """Become it; NotPossible, naming the process, if another is it."""
        if self._lock is None:
            self._lock = hold_data_folder(self._folder)

    def is_ours(self) -> bool:
        """Become it if nobody is, and tell whether we are it."""
        try:
            self.take()
        except NotPossible:
            return False
        return True

    def check(self) -> None:
        """
        Make sure that the data folder is still the one that this process has open.

        Raises:
            NotPossible: it was removed or replaced, so that another process may use what is there now.

        """
        if self._lock is not None and not self._lock.is_intact():
            raise NotPossible(
                f"the data folder {self._folder} was removed or replaced while in use, so nothing more can be kept in"
                " it; bring it back if that was a mistake, then start the receiver again"
            )

    def release(self) -> None:
        """Let another process become it."""
        if self._lock is not None:
            self._lock.release()


def _data_store_id(folder: Path) -> DataStoreId:
    """Return the id of the data store in `folder`, making one up the first time."""
    folder.mkdir(parents=True, exist_ok=True)
    for found in sorted(folder.iterdir()):
        if found.is_dir() and len(found.name) == len(secrets.token_hex(16)):
            return DataStoreId(found.name)
    fresh = DataStoreId(secrets.token_hex(16))
    (folder / fresh.value).mkdir()
    return fresh
