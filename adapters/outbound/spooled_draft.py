"""
The bytes of one object on their way to S3: in memory while they are few, else in a temporary file.

Memory is bounded for all drafts together: one that finds none left goes on in its file, so every store that was let
in can finish.
The file has no name from the moment it is made; it ends with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from adapters.outbound.draft_room import DraftRoom
from domain.errors import StageFailed

_KEPT_BYTES = 8 << 20


@attrs.define
class DraftSpace:
    """
    Where drafts are; safe to share between threads.

    Memory: the budget of `room` for all drafts, and up to as much again for the copies that are being sent.

    Attributes:
        folder: where temporary files go; it is made if it lacks.
        kept_bytes: a larger draft goes to a file.
        room: what all drafts may take together.

    """

    folder: Path
    kept_bytes: int = _KEPT_BYTES
    room: DraftRoom = attrs.field(factory=DraftRoom)

    def open_file(self) -> IO[bytes]:
        """Make a temporary file without a name (OSError if that is not possible)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self.folder, prefix="draft-", buffering=0)


class SpooledDraft:
    """A draft of `S3StagingArea`; used by one thread at a time."""

    def __init__(self, space: DraftSpace) -> None:
        self._space = space
        self._claim = space.room.claim()
        self._size = 0
        self._kept: bytearray | None = bytearray()
        self._file: IO[bytes] | None = None
        self._problem: str | None = None

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
        size = self._size + len(data)
        if self._kept is not None and size <= self._space.kept_bytes and self._claim.keeps(size):
            self._kept += data
            self._size = size
            return
        self._take_space(size)
        if self._kept is not None:
            self._spill(self._kept)
        self._append(data)
        self._size = size

    @contextmanager
    def content(self) -> Iterator[memoryview | IO[bytes]]:
        """
        Give all bytes: a view while they are in memory, else the file at its beginning.

        Raises:
            StageFailed: if they are gone.

        """
        self._check()
        if self._kept is not None:
            with memoryview(self._kept) as view:
                yield view
            return
        assert self._file is not None  # noqa: S101  # what is not kept was spilled
        try:
            self._file.seek(0)
        except OSError as error:
            raise self._lost(error) from error
        yield self._file

    def discard(self) -> None:
        """Give the bytes up."""
        self._problem = self._problem or "the draft was discarded"
        self._kept = None
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        self._claim.release()

    def __del__(self) -> None:
        """Give the bytes up when a draft is forgotten: the memory is counted."""
        self.discard()

    def _spill(self, kept: bytearray) -> None:
        try:
            self._file = self._space.open_file()
        except OSError as error:
            raise self._lost(error) from error
        with memoryview(kept) as view:
            self._append(view)
        self._kept = None
        self._claim.leave_memory()

    def _append(self, data: bytes | memoryview) -> None:
        assert self._file is not None  # noqa: S101  # the caller opened it
        try:
            with memoryview(data) as view:
                at = 0
                while at < len(view):
                    at += self._file.write(view[at:])
        except OSError as error:
            raise self._lost(error) from error

    def _take_space(self, size: int) -> None:
        try:
            self._claim.fills(size)
        except StageFailed as error:
            self._problem = error.problem
            self.discard()
            raise

    def _check(self) -> None:
        if self._problem is not None:
            raise StageFailed(self._problem)

    def _lost(self, error: OSError) -> StageFailed:
        self._problem = (
            f"a temporary file in {self._space.folder} could not be written: {error.strerror or type(error).__name__};"
            " give the receiver more temporary space"
        )
        self.discard()
        return StageFailed(self._problem)
