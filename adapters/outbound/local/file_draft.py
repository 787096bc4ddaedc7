"""
The bytes of one object on their way in: kept in memory while they are few, and in a temporary file besides or instead.

A draft that goes to the journal (journal.py) has no file; its record is begun while it arrives. Another one of some
size is written to its file while it arrives and the disk is set to work at once. Either way little is left to do when
the last byte is there. Up to a threshold the bytes stay in memory too: they can be written anew if a sync fails.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
from datetime import datetime
from pathlib import Path

import attrs

from adapters.outbound.draft_room import Claim
from adapters.outbound.local.buffers import BLOCK_BYTES, Buffer, Buffers
from adapters.outbound.local.files import DurableFolders, FileOperations, stage_failed, to_nanoseconds
from adapters.outbound.local.journal_places import EarlyRecord
from adapters.outbound.local.owner_lock import HeldLock, OwnerLocks
from domain.errors import StageFailed

_SUFFIX = ".part"
_COPY_BYTES = 1 << 20


@attrs.frozen(kw_only=True)
class DraftLimits:
    """
    How drafts are held.

    Attributes:
        memory_bytes: a larger draft is in its temporary file only.
        early_bytes: from here on a draft is written to its file while it arrives.
        writeback_bytes: how much is written before the disk is set to work on it.

    """

    memory_bytes: int = 8 << 20
    early_bytes: int = 64 << 10
    writeback_bytes: int = 125 << 10  # a little below the usual PDU, so that each one sets the disk to work


class Incoming:
    """
    The folder of temporary files, on the staging area's own file system.

    Their names begin with a token whose lock this process holds, so what the dead left can be told from the rest.

    Args:
        folders: makes the folder.
        operations: how files are handled.

    """

    NAME = "incoming"

    def __init__(self, root: Path, folders: DurableFolders, operations: FileOperations) -> None:
        self._path = root / self.NAME
        self._folders = folders
        self._operations = operations
        self._locks = OwnerLocks(self._path)
        self._token = secrets.token_hex(8)
        self._held: HeldLock | None = None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def create(self) -> TemporaryFile:
        """Make a temporary file (OSError if that is not possible)."""
        if self._held is None:
            with self._lock:
                if self._held is None:
                    self._folders.ensure(self.NAME)
                    self._held = self._locks.hold(self._token)
        path = f"{self._path}/{self._token}-{next(self._numbers)}{_SUFFIX}"
        return TemporaryFile(path=path, descriptor=self._operations.create(path))

    def drop(self, file: TemporaryFile) -> None:
        """Close a file, and remove it unless it has got another name; never raises."""
        self._operations.close(file.descriptor)
        if file.path is not None:
            with contextlib.suppress(OSError):
                self._operations.unlink(file.path)

    def clear(self) -> int:
        """Remove what dead processes left behind; return how many files that were."""
        removed = 0
        for path in self._path.glob(f"*{_SUFFIX}"):
            if not self._locks.is_held(path.name.partition("-")[0]):
                with contextlib.suppress(FileNotFoundError):
                    self._operations.unlink(str(path))
                    removed += 1
        self._locks.clear()
        return removed

    def release(self) -> None:
        """Let go of the lock: this process makes no temporary file any more."""
        with self._lock:
            if self._held is not None:
                self._held.release()
                self._held = None


@attrs.define(eq=False, kw_only=True)
class TemporaryFile:
    """
    A file in the making.

    Attributes:
        path: None once it was renamed or removed.
        written: bytes so far.
        is_synced: its one sync succeeded; it takes nothing more.

    """

    path: str | None
    descriptor: int
    written: int = 0
    is_synced: bool = False


class FileDraft:
    """
    A draft of `FileStagingArea`.

    Each temporary file is synced once and renamed once; staging again, for whatever reason, writes a new one.

    Attributes:
        early: writes its record in the journal while it arrives; None where it does without the journal.

    """

    def __init__(  # noqa: PLR0913, PLR0917  # collaborators
        self,
        incoming: Incoming,
        operations: FileOperations,
        limits: DraftLimits,
        claim: Claim,
        buffers: Buffers,
        early: EarlyRecord | None = None,
    ) -> None:
        self._incoming = incoming
        self._claim = claim
        self._operations = operations
        self._limits = limits
        self._buffers = buffers
        self._size = 0
        self._kept: Buffer | None = buffers.take()
        self._file: TemporaryFile | None = None
        self._set_to_work = 0
        self._problem: str | None = None
        self.early = early

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def write(self, data: bytes | memoryview) -> None:
        """
        Append a copy of `data`.

        Raises:
            StageFailed: if there is no room; the draft can only be discarded then.

        """
        self._check()
        length = len(data)
        size = self._size + length
        if self._kept is not None and size <= self._limits.memory_bytes and self._claim.keeps(size):
            at = BLOCK_BYTES + self._size
            self._kept.view[at : at + length] = data
            self._size = size
            if self.early is not None:
                self.early.advance(self._kept, size)
            unsaved = size - (self._file.written if self._file is not None else 0)
            if size >= self._limits.early_bytes and unsaved >= self._limits.writeback_bytes:
                try:
                    self._save(self._kept)
                except OSError as error:
                    raise self._lost(error, "an object could not be written") from error
            return
        self._take_space(size)
        try:
            if self._kept is not None:
                self._save(self._kept)
                self._leave_memory()
                self._claim.leave_memory()
            file = self._opened()
            self._operations.write(file.descriptor, data)
        except OSError as error:
            raise self._lost(error, "an object could not be written") from error
        file.written += length
        self._size = size
        self._start_writeback(file)

    @property
    def kept(self) -> Buffer | None:
        """A free block, then all bytes, if they are in memory only."""
        return self._kept if self._problem is None and self._file is None else None

    def settle(self, staged_at: datetime) -> str:
        """
        Return the path of a temporary file that holds all bytes, durable and stamped with `staged_at`.

        Raises:
            StageFailed: if the bytes could not be made durable.

        """
        self._check()
        if self._kept is None:
            return self._settle_from_file(staged_at)
        try:
            if self._file is not None and self._file.is_synced:
                self._drop_file()
            try:
                return self._sync(self._save(self._kept), staged_at)
            except _SyncFailed:
                # that file is never synced again; the bytes are still here, so they get a new one, once
                return self._sync(self._save(self._kept), staged_at)
        except OSError as error:
            self._drop_file()
            raise stage_failed(error, "an object could not be made durable") from error

    def renamed(self) -> None:
        """Note that the temporary file is none any more."""
        if self._file is not None:
            self._file.path = None
            if self._kept is not None:
                self._drop_file()

    def discard(self) -> None:
        """Give the bytes up."""
        self._give_up(self._problem or "the draft was discarded")

    def _settle_from_file(self, staged_at: datetime) -> str:
        try:
            file = self._opened()
            if file.is_synced:
                # renamed already, perhaps into a batch that is in doubt now: its bytes are sound
                file = self._copied(file)
            return self._sync(file, staged_at)
        except OSError as error:
            raise self._lost(error, "an object could not be made durable") from error

    def _copied(self, source: TemporaryFile) -> TemporaryFile:
        copy = self._incoming.create()
        try:
            while piece := self._operations.read(source.descriptor, _COPY_BYTES, copy.written):
                self._operations.write(copy.descriptor, piece)
                copy.written += len(piece)
        finally:
            self._drop_file()
            self._file = copy
        return copy

    def _sync(self, file: TemporaryFile, staged_at: datetime) -> str:
        # the time is in the file too: should the batch's index lose its line, nothing of "newer" is lost
        self._operations.stamp(file.descriptor, to_nanoseconds(staged_at))
        try:
            self._operations.sync(file.descriptor)
        except OSError as error:
            self._drop_file()
            raise _SyncFailed(error.errno, error.strerror) from error
        file.is_synced = True
        if file.path is None or file.written != self._size:
            raise OSError(0, "a temporary file was lost")
        return file.path

    def _save(self, kept: Buffer) -> TemporaryFile:
        """Write to the file what is in memory only."""
        file = self._opened()
        if file.written < self._size:
            self._operations.write(file.descriptor, kept.view[BLOCK_BYTES + file.written : BLOCK_BYTES + self._size])
            file.written = self._size
        if self._size >= self._limits.early_bytes:
            self._start_writeback(file)
        return file

    def _start_writeback(self, file: TemporaryFile) -> None:
        waiting = file.written - self._set_to_work
        if waiting >= self._limits.writeback_bytes:
            self._operations.start_writeback(file.descriptor, self._set_to_work, waiting)
            self._set_to_work = file.written

    def _opened(self) -> TemporaryFile:
        if self._file is None:
            self._file = self._incoming.create()
            self._set_to_work = 0
        return self._file

    def _drop_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._incoming.drop(file)

    def _take_space(self, size: int) -> None:
        try:
            self._claim.fills(size)
        except StageFailed as error:
            self._give_up(error.problem)
            raise

    def _lost(self, error: OSError, doing: str) -> StageFailed:
        failed = stage_failed(error, doing)
        self._give_up(failed.problem)
        return failed

    def _give_up(self, problem: str) -> None:
        self._problem = problem
        self._drop_file()
        self._leave_memory()
        self._claim.release()

    def _leave_memory(self) -> None:
        kept, self._kept = self._kept, None
        if self.early is not None:
            self.early.leave()
        if kept is not None:
            self._buffers.give(kept, self._size)

    def _check(self) -> None:
        if self._problem is not None:
            raise StageFailed(self._problem)


class _SyncFailed(OSError):
    """The sync itself failed, not what came before it."""
