"""
The staging area as files and folders, below the data folder.

    staging/batches/<batch>/<study>/<series>/<sop>.dcm
    staging/superseded/<batch>/<study>/<series>/<sop>.dcm
    staging/index/<batch>.ndjson                            the facts of each object (file_index.py)
    staging/incoming/                                       temporary files (file_draft.py)
    staging/journal/                                        what has no file of its own yet (journal.py)
    trash/<YYYYMMDD>/<batch>/<study>/<series>/<sop>.dcm     what was imported, until the retention ends

An object is complete and durable before it gets its name, so whatever has a name in a batch is whole.
An open batch is what has a name and what is in the journal; a closed one has names only.
"""

# ruff: noqa: PTH110, PTH112, PTH116, PTH120, PTH123, PTH208
# Paths are text here: five Path objects for each instance would cost more than they tell.

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime
from heapq import merge
from pathlib import Path

import attrs

from adapters.outbound.draft_room import DraftRoom
from adapters.outbound.local.buffers import BLOCK_BYTES, Buffers
from adapters.outbound.local.file_draft import DraftLimits, FileDraft, Incoming
from adapters.outbound.local.file_index import FileIndex, rebuild
from adapters.outbound.local.files import (
    DurableFolders,
    FileOperations,
    from_nanoseconds,
    remove_empty,
    stage_failed,
    sync_folder,
)
from adapters.outbound.local.journal import Journal, JournalLimits, Pending
from adapters.outbound.local.object_files import BATCHES, ObjectFiles
from domain.errors import InvalidIdentifier
from domain.identifiers import BatchId
from domain.instance import SopInstance
from domain.ports import Clock, Draft
from domain.staging import StagedInstance, StagedObject, StagingKey

_SUPERSEDED = "superseded"
_TRASH = "trash"
_DAY = "%Y%m%d"


class FileStagingArea:
    """
    A staging area on local files.

    Nothing is made on disk before the first object arrives, or `prepare` is called.
    Several processes may use one area: each batch has one writer, everyone may list and read.

    Args:
        root: the area's own folder in the data folder; `trash` lies beside it, on the same file system.
        operations: how files are handled.
        clock: tells when an object was staged, and the day of the trash.
        limits: how drafts are held.
        room: what they may take together.
        journal: what the journal may take; without it every object is durable by itself.

    """

    def __init__(  # noqa: PLR0913, PLR0917  # collaborators
        self,
        root: Path,
        operations: FileOperations,
        clock: Clock,
        limits: DraftLimits | None = None,
        room: DraftRoom | None = None,
        journal: JournalLimits | None = None,
    ) -> None:
        self._root = root.absolute()
        self._trash = self._root.parent / _TRASH
        self._operations = operations
        self._clock = clock
        self._limits = limits or DraftLimits()
        journal = journal or JournalLimits(segments=0)
        # what the journal will take needs no file early
        early_bytes = max(self._limits.early_bytes, journal.object_bytes + 1)
        self._journaled_limits = attrs.evolve(self._limits, early_bytes=early_bytes)
        self._buffers = Buffers(BLOCK_BYTES + self._limits.memory_bytes)
        self._room = room or DraftRoom()
        self._folders = DurableFolders(self._root, operations)
        self._trash_folders = DurableFolders(self._trash, operations)
        self._incoming = Incoming(self._root, self._folders, operations)
        self._index = FileIndex(self._root / "index", operations)
        self._files = ObjectFiles(self._folders, operations, self._incoming, self._index)
        self._journal = Journal(self._root, self._folders, operations, journal, self._files.move_out)

    def prepare(self, wait_seconds: float = 0.0) -> None:
        """Make the journal before the first object comes, which would make it else; wait for that so long at most."""
        self._journal.prepare(wait_seconds)

    def draft(self) -> FileDraft:
        """Begin a new object, in memory."""
        early = self._journal.early()
        limits = self._limits if early is None else self._journaled_limits
        return FileDraft(self._incoming, self._operations, limits, self._room.claim(), self._buffers, early)

    def stage(self, draft: Draft, batch: BatchId, instance: SopInstance) -> datetime:
        """Make the drafted object durable under `batch`: the port's promise, on files."""
        if not isinstance(draft, FileDraft):
            raise TypeError("a draft of another staging area")
        self._files.check(batch)
        staged_at = self._clock.now()
        facts = StagedInstance(key=StagingKey.of(batch, instance), instance=instance, staged_at=staged_at)
        kept = draft.kept
        if kept is None or not self._journal.add(facts, kept, draft.size, draft.early):
            self._files.stage(draft, facts)
        return staged_at

    def seal(self, batch: BatchId) -> None:
        """Make every object of `batch` durable in a file of its own, also those that a dead process had journaled."""
        try:
            self._journal.seal(batch)
        except OSError as error:
            raise stage_failed(error, "what is in the journal could not be made files") from error

    def list(self, batch: BatchId) -> Iterator[StagedObject]:
        """Yield the objects of `batch` in the order of their paths; one folder's names are held at a time."""
        pending = self._pending(batch)  # before the files, so that what moves meanwhile is seen
        waiting = sorted((_waiting(each) for each in pending.values()), key=_path_of)
        last: StagingKey | None = None
        for staged in merge(self._listing(BATCHES, batch), waiting, key=_path_of):
            if staged.key != last:
                yield staged
            last = staged.key

    def facts(self, objects: Iterable[StagedObject]) -> Iterator[StagedInstance]:
        """Yield the facts of each object: from its batch's index, held one at a time, or from the object."""
        batch: BatchId | None = None
        lines: Mapping[StagingKey, StagedInstance] = {}
        pending: Mapping[StagingKey, Pending] = {}
        for staged in objects:
            if staged.key.batch != batch:
                batch = staged.key.batch
                pending = self._pending(batch)
                lines = self._index.read(batch)
            if staged.key in pending:
                yield pending[staged.key].record.facts
                continue
            path = self._path(staged.key.path)
            try:
                size = os.stat(path).st_size
                line = lines.get(staged.key)
                yield line if line is not None and line.instance.size == size else rebuild(staged.key, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise stage_failed(error, "a staged object could not be read") from error

    def read_head(self, staged: StagedObject, max_bytes: int) -> bytes:
        """Return the first bytes of an object; b"" if it is gone."""
        try:
            head = self._file_head(staged, max_bytes)
            if head is None:
                pending = self._journal.pending(staged.key.batch).get(staged.key)
                content = None if pending is None else self._journal.read(pending)
                # if it is not there, it may have got its file meanwhile
                head = self._file_head(staged, max_bytes) if content is None else content[:max_bytes]
        except OSError as error:
            raise stage_failed(error, "a staged object could not be read") from error
        return head or b""

    def supersede(self, staged: StagedObject) -> None:
        """Move an object to `superseded/`, durably."""
        self._move([staged.key], f"{_SUPERSEDED}/{staged.key.batch}", staged.key.batch, self._folders)

    def rehouse(self, staged: StagedObject, batch: BatchId) -> None:
        """Move an object into another batch, durably; its index line goes first, since a line too many does no harm."""
        for facts in self.facts([staged]):
            key = attrs.evolve(staged.key, batch=batch)
            self._index.append(attrs.evolve(facts, key=key))
        self._move([staged.key], f"{BATCHES}/{batch}", staged.key.batch, self._folders)

    def discard(self, objects: Iterable[StagedObject]) -> None:
        """Move imported objects to today's trash."""
        day = f"{self._clock.now():{_DAY}}"
        by_batch: dict[BatchId, list[StagingKey]] = {}
        for staged in objects:
            by_batch.setdefault(staged.key.batch, []).append(staged.key)
        for batch, keys in by_batch.items():
            self._move(keys, f"{day}/{batch}", batch, self._trash_folders)

    def batches(self) -> Iterator[BatchId]:
        """Yield every batch that has an object, in the order of their ids."""
        try:
            names = {batch.value for batch in self._journal.batches()}
        except OSError as error:
            raise stage_failed(error, "the journal could not be read") from error
        for name in sorted(names.union(_names(f"{self._root}/{BATCHES}"))):
            with suppress(InvalidIdentifier):
                batch = BatchId(name)
                if any(True for _ in self.list(batch)):
                    yield batch

    def superseded(self, batch: BatchId) -> Iterator[StagedObject]:
        """Yield the objects of `batch` in `superseded/`, in the order of their paths."""
        return self._listing(_SUPERSEDED, batch)

    def expire(self, before_day: date) -> int:
        """Remove the trash of all days before `before_day`; return how many days that were."""
        removed = 0
        for name in sorted(_names(str(self._trash))):
            with suppress(ValueError):
                if datetime.strptime(name, _DAY).date() < before_day:  # noqa: DTZ007  # a day, as written by discard
                    shutil.rmtree(self._trash / name, ignore_errors=True)
                    removed += 1
        return removed

    def clear_incoming(self) -> int:
        """Remove the temporary files of dead processes; return how many there were."""
        with suppress(OSError):  # whoever seals a batch tries again, and tells
            self._journal.take_over()
        return self._incoming.clear()

    def close(self) -> None:
        """Close what is open; the area may be used again."""
        self._journal.close()
        self._index.close()
        self._incoming.release()

    def _pending(self, batch: BatchId) -> Mapping[StagingKey, Pending]:
        try:
            return self._journal.pending(batch)
        except OSError as error:
            raise stage_failed(error, "the journal could not be read") from error

    def _file_head(self, staged: StagedObject, max_bytes: int) -> bytes | None:
        try:
            with open(self._path(staged.key.path), "rb") as file:
                return file.read(max_bytes)
        except FileNotFoundError:
            return None

    def _listing(self, area: str, batch: BatchId) -> Iterator[StagedObject]:
        prefix = f"{self._root}/{area}/{batch}"
        for study in _folders_in_order(prefix):
            for series in _folders_in_order(f"{prefix}/{study}"):
                folder = f"{prefix}/{study}/{series}"
                for name in sorted(_names(folder)):
                    with suppress(InvalidIdentifier, FileNotFoundError):
                        key = StagingKey.parse(f"{BATCHES}/{batch}/{study}/{series}/{name}")
                        status = os.stat(f"{folder}/{name}")
                        modified_at = from_nanoseconds(status.st_mtime_ns)
                        yield StagedObject(key=key, size=status.st_size, modified_at=modified_at)

    def _move(self, keys: Iterable[StagingKey], group: str, batch: BatchId, folders: DurableFolders) -> None:
        """Move objects of one batch; the new names are durable before the old ones are gone for good."""
        targets: dict[str, None] = {}
        sources: dict[str, None] = {}
        try:
            self._journal.seal(batch)  # a closed batch has been sealed; of another one nothing may come back either
            for key in keys:
                source = self._path(key.path)
                sources[os.path.dirname(source)] = None
                if os.path.exists(source):
                    targets[self._files.put(source, group, key, folders)] = None
                elif folders.has(group, key.study.value, key.series.value):
                    # gone, perhaps there already; whoever moved it may have died before its name was durable
                    targets[folders.ensure(group, key.study.value, key.series.value)] = None
            for folder in targets:
                sync_folder(self._operations, folder)
            for folder in sources:
                if os.path.isdir(folder):
                    sync_folder(self._operations, folder)
        except OSError as error:
            raise stage_failed(error, "an object could not be moved") from error
        self._prune(batch, sources)

    def _prune(self, batch: BatchId, folders: Iterable[str]) -> None:
        """Remove what the batch has no objects in any more; only closed batches lose objects, so nobody is adding."""
        prefix = f"{self._root}/{BATCHES}/{batch}"
        studies = dict.fromkeys(os.path.dirname(folder) for folder in folders)
        for folder in folders:
            remove_empty(self._operations, [folder])
        for study in studies:
            remove_empty(self._operations, [study])
        if remove_empty(self._operations, [prefix]):
            self._folders.forget(f"{BATCHES}/{batch}")
            self._index.forget(batch)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"


def _waiting(pending: Pending) -> StagedObject:
    record = pending.record
    return StagedObject(key=record.facts.key, size=record.size, modified_at=record.facts.staged_at)


def _path_of(staged: StagedObject) -> str:
    return staged.key.path


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise stage_failed(error, "the staging area could not be listed") from error


def _folders_in_order(folder: str) -> list[str]:
    # as in an object store's listing, where "1.2.3/" comes before "1.2/"
    return sorted(_names(folder), key=lambda name: f"{name}/")
