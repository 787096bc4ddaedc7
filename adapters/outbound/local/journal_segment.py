"""
One file of the journal: all its blocks were written before, so a record costs the disk no more than its bytes.

Laws:
- A segment holds records of one batch at a time. While its header names the batch, some of its objects may be durable
  here only; the header is gone, durably, before the batch may close.
- A record may be written in parts while its object arrives. It is one when its head is, and it is answered when all of
  it is durable.
- A write that failed is not repeated; the segment takes nothing more and is removed once its objects are elsewhere.
- A write counts if the segment still has its name: in a folder that was removed or moved away nobody will look for it.
- The page cache is passed by, for reading too: a page that another process reads at the moment of a write would make
  that write fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from adapters.outbound.local.async_write import AsyncWrites
from adapters.outbound.local.buffers import BLOCK_BYTES, Buffer, blocks
from adapters.outbound.local.files import FileOperations, FolderSyncFailed, sync_folder
from adapters.outbound.local.journal_record import NO_HEADER, Checksum, Header, Record, encode_head, record_bytes
from domain.identifiers import BatchId
from domain.staging import StagedInstance

_PIECE_BYTES = 1 << 20
_WINDOW_BYTES = 64 << 10


@attrs.define(eq=False, kw_only=True)
class Segment:
    """
    A segment of this process, in use or free; `Places` guards all that is not a constant, but for `error`.

    Attributes:
        inode: tells whether its name is still its own.
        header: None while it is free.
        end: where the next record goes.
        users: stores between their place and their answer.
        early: places of objects that still arrive; they are withdrawn, never waited for.
        records: what was answered.
        used_at: when it was put to use, on the monotonic clock in seconds.
        is_awaited: it takes no further record, and somebody waits for the last of its users.
        is_settling: a thread moves its objects to files of their own.
        error: why it takes no records any more.

    """

    path: str
    descriptor: int
    size: int
    inode: int
    operations: FileOperations
    header: Header | None = None
    end: int = 0
    users: int = 0
    early: set[Place] = attrs.field(factory=set)
    records: list[Record] = attrs.field(factory=list)
    used_at: float = 0.0
    is_awaited: bool = False
    is_settling: bool = False
    error: OSError | None = None

    @property
    def batch(self) -> BatchId | None:
        """Whose records it holds."""
        return None if self.header is None else self.header.batch

    def has_room(self, size: int) -> bool:
        """Tell whether a record of `size` bytes may be added."""
        return self.error is None and self.end + size <= self.size

    def begin(self, header: Header) -> None:
        """Use it for a batch from now on, durably (OSError if that is not certain)."""
        self.header, self.end = header, BLOCK_BYTES
        self._write_block(header.encode())

    def erase(self) -> None:
        """
        Leave nothing that a recovery would take for objects of this batch, since they may be moved from now on.

        Raises:
            OSError: if that is not certain.

        """
        if self.error is None:
            with contextlib.suppress(OSError):
                self._write_block(NO_HEADER)
        if self.error is not None:
            remove_segment(self.operations, self.path)

    def clear(self) -> None:
        """Note that it was erased."""
        self.header, self.end, self.records, self.is_awaited = None, 0, [], False

    def close(self) -> None:
        """Close it."""
        self.operations.close(self.descriptor)

    def _write_block(self, block: bytes) -> None:
        buffer = Buffer(BLOCK_BYTES)
        buffer.view[:] = block
        try:
            self.operations.write_at(self.descriptor, buffer.view, 0)
        except OSError as error:
            self.error = error
            raise


@attrs.define(eq=False, kw_only=True)
class Place:
    """
    Room for one record in a segment.

    Attributes:
        position: in the segment, in bytes.
        size: in bytes, the block of the record's head included.
        writes: what is under way here; None unless its content is written while the object arrives, or once withdrawn.
        begun: bytes of the content, from its start, that were given to the disk: whole blocks.

    """

    segment: Segment
    position: int
    size: int
    writes: AsyncWrites | None = None
    begun: int = 0
    _checksum: Checksum = attrs.field(factory=Checksum, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def begin(self, buffer: Buffer, size: int) -> bool:
        """
        Begin to write an object's first `size` bytes, which are whole blocks, but those that were begun before.

        Returns:
            False if that is not possible, or the place was withdrawn.

        """
        with self._lock:
            start, end = BLOCK_BYTES + self.begun, BLOCK_BYTES + size
            if self.writes is None or not self._begin(self.writes, buffer, start, end):
                return False
            self._checksum.update(buffer.view[start:end])  # while the disk works
            self.begun = size
            return True

    def withdraw(self) -> AsyncWrites | None:
        """
        Take the place from an object that still arrives; callable from any thread.

        Returns:
            What was under way here, when all of it has ended; None if another thread was faster.

        """
        with self._lock:
            writes = self.writes
            if writes is not None:
                try:
                    self.segment.operations.end_writes(writes)
                except OSError as error:
                    self.segment.error = error
                self.writes = None  # now, not before: who finds it so may count on the end of them all
            return writes

    def write(self, facts: StagedInstance, buffer: Buffer, size: int) -> Record:
        """
        Write the record of an object, durably.

        Args:
            facts: what travels with it.
            buffer: one block for the head of the record, then the bytes of the object, of which some were begun.
            size: how many these are.

        Raises:
            OSError: if it is not certain that all of it is durable.

        """
        segment = self.segment
        whole = record_bytes(size)
        buffer.view[BLOCK_BYTES + size : whole] = bytes(whole - BLOCK_BYTES - size)  # what another image has left there
        try:
            if self.writes is None:
                record = self._put_head(facts, buffer, size)
                segment.operations.write_at(segment.descriptor, buffer.view[:whole], self.position)
            else:
                record = self._finish(self.writes, facts, buffer, size)
            is_named = segment.operations.inode(segment.path) == segment.inode
        except OSError as error:
            segment.error = error
            raise
        if not is_named:
            segment.error = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if segment.error is not None:
            # another store's failure, too: the system tells an error once, and perhaps it was about these bytes
            raise segment.error
        return record

    def _finish(self, writes: AsyncWrites, facts: StagedInstance, buffer: Buffer, size: int) -> Record:
        """Write what was not begun of the record, and return when all of it is durable."""
        operations, descriptor = self.segment.operations, self.segment.descriptor
        start, whole = BLOCK_BYTES + self.begun, record_bytes(size)
        is_begun = start == whole or self._begin(writes, buffer, start, whole)
        record = self._put_head(facts, buffer, size)
        is_begun = is_begun and self._begin(writes, buffer, 0, BLOCK_BYTES)
        operations.end_writes(writes)
        if is_begun:
            operations.sync_data(descriptor)
        else:
            operations.write_at(descriptor, buffer.view[:whole], self.position)
        return record

    def _put_head(self, facts: StagedInstance, buffer: Buffer, size: int) -> Record:
        """Put the head of the record into the first block of the buffer."""
        assert self.segment.header is not None  # noqa: S101 - begun before
        self._checksum.update(buffer.view[BLOCK_BYTES + self.begun : BLOCK_BYTES + size])
        record = Record(position=self.position, facts=facts, size=size, checksum=self._checksum.digest())
        buffer.view[:BLOCK_BYTES] = encode_head(self.segment.header.epoch, record)
        return record

    def _begin(self, writes: AsyncWrites, buffer: Buffer, start: int, end: int) -> bool:
        """Begin to write a part of the record; False if that is not possible, and nothing of it will be written."""
        operations, descriptor = self.segment.operations, self.segment.descriptor
        try:
            operations.begin_write_at(writes, descriptor, buffer.view[start:end], self.position + start)
        except OSError:
            return False
        return True


class SegmentReader:
    """
    Reads a segment, perhaps of another process that writes to it; used by one thread.

    Args:
        descriptor: of the segment.

    """

    def __init__(self, operations: FileOperations, descriptor: int) -> None:
        self._operations = operations
        self._descriptor = descriptor
        self._buffer = Buffer(_WINDOW_BYTES)
        self._start = self._end = 0

    def __call__(self, size: int, position: int) -> bytes:
        """Return `size` bytes from `position`, fewer at the end of the file."""
        if not self._start <= position <= position + size <= self._end:
            self._fill(position - position % BLOCK_BYTES, position + size)
        return bytes(self._buffer.view[position - self._start : min(position + size, self._end) - self._start])

    def _fill(self, start: int, end: int) -> None:
        wanted = max(_WINDOW_BYTES, blocks(end - start))
        if wanted > len(self._buffer.view):
            self._buffer = Buffer(wanted)
        self._start = start
        self._end = start + self._operations.read_at(self._descriptor, self._buffer.view[:wanted], start)


@contextmanager
def open_segment(operations: FileOperations, path: str) -> Iterator[SegmentReader]:
    """Open a segment for reading (OSError if that is not possible)."""
    descriptor = operations.open_direct(path)
    try:
        yield SegmentReader(operations, descriptor)
    finally:
        operations.close(descriptor)


def make_segment(operations: FileOperations, path: str, size: int) -> Segment:
    """
    Make a segment that is on the disk in full, its name included.

    Zeros are written rather than promised by the file system: the first write to what was only promised has to be
    entered in the file system's own journal, and that is what a segment saves.

    Raises:
        OSError: if that is not possible, or the page cache cannot be passed by there; nothing is left.

    """
    descriptor = operations.create_direct(path)
    try:
        zeros = Buffer(min(size, _PIECE_BYTES))
        for start in range(0, size, _PIECE_BYTES):
            operations.write_at(descriptor, zeros.view[: size - start], start)
        sync_folder(operations, path.rpartition("/")[0])
        inode = operations.inode(path)
    except OSError:
        operations.close(descriptor)
        with contextlib.suppress(OSError):
            operations.unlink(path)
        raise
    return Segment(path=path, descriptor=descriptor, size=size, inode=inode, operations=operations)


def remove_segment(operations: FileOperations, path: str) -> None:
    """Remove a segment for good (OSError if that is not certain)."""
    with contextlib.suppress(FileNotFoundError):
        operations.unlink(path)
    sync_removal(operations, Path(path).parent)


def sync_removal(operations: FileOperations, folder: Path) -> None:
    """Return when it is on the disk that segments of `folder`, or the folder itself, were removed by anyone."""
    try:
        sync_folder(operations, str(folder))
    except FolderSyncFailed as error:
        if error.errno != errno.ENOENT:
            raise
        sync_removal(operations, folder.parent)
