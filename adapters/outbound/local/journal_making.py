"""The folder of one process's journal, and the segments made in it."""

from __future__ import annotations

import contextlib
import secrets

from adapters.outbound.local.files import DurableFolders, FileOperations
from adapters.outbound.local.journal_segment import Segment, make_segment
from adapters.outbound.local.journal_takeover import SUFFIX
from adapters.outbound.local.owner_lock import HeldLock, OwnerLocks


class SegmentMaker:
    """
    Makes segments below a name of chance whose lock this process holds; used by the thread of the journal.

    Args:
        group: the folder of all journals, below the root of `folders`.
        folders: makes it.
        operations: how files are handled.
        locks: tells the living from the dead.
        segment_bytes: of disk for each segment.
        most_of_free: one is made where it takes no more than this share of the free space.

    Attributes:
        token: the name; empty before the first segment. Others may read it: it is there before any segment is.

    """

    def __init__(  # noqa: PLR0913  # collaborators
        self,
        group: str,
        folders: DurableFolders,
        operations: FileOperations,
        locks: OwnerLocks,
        *,
        segment_bytes: int,
        most_of_free: float,
    ) -> None:
        self.token = ""
        self._group = group
        self._folders = folders
        self._operations = operations
        self._locks = locks
        self._segment_bytes = segment_bytes
        self._most_of_free = most_of_free
        self._held: HeldLock | None = None
        self._folder = ""
        self._names = 0

    def make(self) -> Segment | None:
        """Make a segment; None if there is no room for one, or it cannot be made."""
        self._names += 1
        try:
            free = self._operations.free_bytes(self._folders.ensure(self._group))
            if self._segment_bytes > free * self._most_of_free:
                return None
            path = f"{self._ensure_folder()}/{self._names}{SUFFIX}"
            return make_segment(self._operations, path, self._segment_bytes)
        except OSError:
            return None

    def release(self, *, is_empty: bool) -> None:
        """Let go of the folder, which is removed if it `is_empty`: what is left in it is for whoever takes over."""
        if self._held is not None:
            if is_empty:
                with contextlib.suppress(OSError):
                    self._operations.remove_folder(self._folder)
            self._held.release()
        self._held, self.token = None, ""

    def _ensure_folder(self) -> str:
        """Return the folder once it is durable and its lock is held."""
        if self._held is None:
            token = secrets.token_hex(8)
            held = self._locks.hold(token)
            try:
                self._folder = self._folders.ensure(self._group, token)
            except OSError:
                held.release()
                raise
            self.token, self._held = token, held
        return self._folder
