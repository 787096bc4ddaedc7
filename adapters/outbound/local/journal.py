"""
The journal of the staging area: where an object is durable from its answer until it has a file of its own.

    staging/journal/<token>.lock            held by the process that writes the segments
    staging/journal/<token>/<n>.segment     (journal_segment.py)

A file of its own costs an object three waits for the disk, for its bytes, its inode and its name; a record costs one.
So a burst is answered as fast as the disk writes, and the files are written when it has passed.

Laws:
- A store is answered when its record is durable; then every listing has it, whoever asks.
- A batch is sealed before it closes: its objects are durable in files of their own, and no segment names it any more.
- What a dead process left is taken over before a batch of it closes (journal_takeover.py).
- Where the journal is full, or there is none, an object is durable by itself: nobody waits for the journal.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from adapters.outbound.local.buffers import BLOCK_BYTES, Buffer
from adapters.outbound.local.files import DurableFolders, FileOperations
from adapters.outbound.local.journal_record import (
    EPOCH_BYTES,
    Header,
    Record,
    checksum_of,
    read_content,
    record_bytes,
)
from adapters.outbound.local.journal_segment import Segment, SegmentReader, make_segment, open_segment
from adapters.outbound.local.journal_takeover import SUFFIX, MoveOut, named_batches, read_pending, take_over
from adapters.outbound.local.owner_lock import HeldLock, OwnerLocks
from domain.identifiers import BatchId
from domain.staging import StagedInstance, StagingKey

NAME = "journal"
_LEAST_SEGMENT_BYTES = 64 << 10
_RETRY_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0  # until a segment is tried again that could not be made


@attrs.frozen(kw_only=True)
class JournalLimits:
    """
    What the journal may take.

    Attributes:
        segments: how many there are at most; none without a journal.
        segment_bytes: of disk for each of them.
        object_bytes: larger objects do without the journal.
        linger_seconds: how long an object stays here at least, unless its batch closes: a burst is over by then.
        most_of_free: a segment is made where it takes no more than this share of the free space.

    """

    segments: int = 4
    segment_bytes: int = 64 << 20
    object_bytes: int = 2 << 20
    linger_seconds: float = 2.0
    most_of_free: float = 1 / 16

    @classmethod
    def within(cls, space: int) -> JournalLimits:
        """Return the limits of a journal of `space` bytes; none if that is too little for any."""
        usual = cls()
        segment_bytes = space // usual.segments // BLOCK_BYTES * BLOCK_BYTES
        if segment_bytes < _LEAST_SEGMENT_BYTES:
            return cls(segments=0)
        return cls(segment_bytes=segment_bytes, object_bytes=min(usual.object_bytes, segment_bytes // 4))


@attrs.frozen
class Pending:
    """An object that is in a segment and perhaps has no file of its own."""

    path: str
    record: Record


class Journal:
    """
    The journal of one process, safe to share between threads.

    Args:
        root: the staging area's folder.
        folders: makes the journal's.
        operations: how files are handled.
        limits: what it may take.
        move_out: gives objects files of their own.

    """

    def __init__(
        self, root: Path, folders: DurableFolders, operations: FileOperations, limits: JournalLimits, move_out: MoveOut
    ) -> None:
        self._root = root / NAME
        self._folders = folders
        self._operations = operations
        self._limits = limits
        self._move_out = move_out
        self._locks = OwnerLocks(self._root)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # All below is guarded by the lock.
        self._worker: threading.Thread | None = None
        self._is_closing = False
        self._token = ""
        self._held: HeldLock | None = None
        self._made = 0
        self._names = 0
        self._is_made = False
        self._make_after = 0.0
        self._settle_after = 0.0
        self._free: list[Segment] = []
        self._used: list[Segment] = []  # in the order of their use
        self._current: dict[BatchId, Segment] = {}

    def prepare(self, wait_seconds: float) -> None:
        """Make the segments, which is done beside what comes then if it takes longer than `wait_seconds`."""
        with self._changed:
            self._begin()
            if self._worker is not None:
                self._changed.wait_for(lambda: self._is_made, wait_seconds)

    def has_room(self) -> bool:
        """Tell whether an object that begins to arrive will most likely find room."""
        with self._lock:
            self._begin()
            size = record_bytes(self._limits.object_bytes)
            return bool(self._free) or any(segment.has_room(size) for segment in self._current.values())

    def add(self, facts: StagedInstance, buffer: Buffer, size: int) -> bool:
        """
        Make an object durable; False if that is not certain, and it has to be durable by itself.

        Args:
            facts: what travels with it.
            buffer: one block that is free, then its bytes.
            size: how many these are.

        """
        if size > self._limits.object_bytes:
            return False
        segment = self._reserve(facts.key.batch, record_bytes(size))
        if segment is None:
            return False
        written: Record | None = None
        try:
            checksum = checksum_of(buffer.view[BLOCK_BYTES : BLOCK_BYTES + size])
            record = Record(position=segment[1], facts=facts, size=size, checksum=checksum)
            segment[0].write(record, buffer)
            written = record
        except OSError:
            pass
        finally:
            self._end(segment[0], written)
        return written is not None

    def pending(self, batch: BatchId) -> dict[StagingKey, Pending]:
        """Return the objects of a batch that are in a journal, this one or another (OSError if that cannot be read)."""
        with self._lock:
            ours = self._token
            found = {
                record.facts.key: Pending(segment.path, record)
                for segment in self._used
                if segment.batch == batch
                for record in segment.records
            }
        for path, record in read_pending(self._root, self._operations, batch, but=ours):
            found[record.facts.key] = Pending(path, record)
        return found

    def read(self, pending: Pending) -> bytes | None:
        """Return the bytes of an object; None if they have a file of their own by now (OSError as for `pending`)."""
        try:
            with open_segment(self._operations, pending.path) as read:
                return read_content(read, pending.record)
        except FileNotFoundError:
            return None

    def batches(self) -> frozenset[BatchId]:
        """Return the batches that have an object in a journal, or had one a moment ago (OSError as for `pending`)."""
        with self._lock:
            ours = self._token
            found = {segment.batch for segment in self._used if segment.batch is not None and segment.records}
        return frozenset(found | set(named_batches(self._root, self._operations, but=ours)))

    def seal(self, batch: BatchId) -> None:
        """Return when no object of a batch needs a journal any more (OSError if that is not certain)."""
        with self._changed:
            while segments := [segment for segment in self._used if segment.batch == batch]:
                ready = next((one for one in segments if self._retire(one)), None)
                if ready is None:
                    self._changed.wait()
                else:
                    self._settle(ready)
            ours = self._token
        take_over(self._root, self._locks, self._operations, self._move_out, batch, but=ours)

    def take_over(self) -> None:
        """Give all objects files of their own that dead processes had in their journals (OSError as for `seal`)."""
        with self._lock:
            ours = self._token
        take_over(self._root, self._locks, self._operations, self._move_out, None, but=ours)
        self._locks.clear()

    def close(self) -> None:
        """
        End when nobody is in a segment any more; those of batches that are not sealed stay for whoever takes over.

        What is stored from now on does without the journal, unless it is used again after this has returned.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            worker = self._worker
        if worker is not None:
            worker.join()
        with self._changed:
            # a descriptor that is closed under a writer may be another file's by then, and the lock lets an heir in
            while [segment for segment in self._used if not self._retire(segment)]:
                self._changed.wait()
            for segment in (*self._free, *self._used):
                segment.close()
            for segment in self._free:
                with contextlib.suppress(OSError):
                    self._operations.unlink(segment.path)
            if self._held is not None:
                if not self._used:
                    with contextlib.suppress(OSError):
                        self._operations.remove_folder(f"{self._root}/{self._token}")
                self._held.release()
            self._free, self._used, self._current = [], [], {}
            self._held, self._token, self._made = None, "", 0
            self._worker, self._is_closing, self._is_made = None, False, False
            self._changed.notify_all()

    def _reserve(self, batch: BatchId, size: int) -> tuple[Segment, int] | None:
        """Find a place for a record of `size` bytes; its segment is not settled before `_end`."""
        with self._lock:
            if self._is_closing:
                return None
            segment = self._current.get(batch)
            if segment is None or not segment.has_room(size):
                segment = self._next_for(batch)
                if segment is None or not segment.has_room(size):
                    return None
            position = segment.end
            segment.end += size
            segment.users += 1
            return segment, position

    def _next_for(self, batch: BatchId) -> Segment | None:
        """Put a free segment to use (the lock is held)."""
        if not self._free:
            return None
        segment = self._free.pop()
        segment.used_at = time.monotonic()
        self._used.append(segment)
        self._current[batch] = segment
        with contextlib.suppress(OSError):  # it has no room then, and is removed in time
            segment.begin(Header(epoch=secrets.token_bytes(EPOCH_BYTES), batch=batch))
        self._changed.notify_all()
        return segment

    def _end(self, segment: Segment, record: Record | None) -> None:
        with self._changed:
            if record is not None:
                segment.records.append(record)
            segment.users -= 1
            if segment.is_awaited and not segment.users:
                self._changed.notify_all()  # not for each store: it would wake the thread of the journal

    def _begin(self) -> None:
        """Start the thread of the journal (the lock is held)."""
        if self._worker is None and self._limits.segments and not self._is_closing:
            self._worker = threading.Thread(target=self._work, name="journal", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        """Make segments, and settle those that are due; the thread of the journal."""
        with self._changed:
            while not self._is_closing:
                now = time.monotonic()
                if self._made < self._limits.segments and now >= self._make_after:
                    if not self._make():
                        self._make_after = now + _PATIENCE_SECONDS
                    continue
                if not self._is_made:
                    self._is_made = True
                    self._changed.notify_all()
                late = [segment for segment in self._used if self._due_at(segment) <= now]
                ready = next((segment for segment in late if self._retire(segment)), None)
                if ready is None:
                    self._changed.wait(self._pause(now))
                    continue
                try:
                    self._settle(ready)
                except OSError:
                    # the batch's owner tells when it cannot close; until then it is durable where it is
                    self._settle_after = time.monotonic() + _RETRY_SECONDS

    def _pause(self, now: float) -> float | None:
        """Return for how many seconds there is nothing to do unless something changes; None if for ever."""
        times = [self._due_at(segment) for segment in self._used]
        if self._made < self._limits.segments:
            times.append(self._make_after)
        waits = [moment - now for moment in times if moment > now]
        return min(waits, default=None)

    def _due_at(self, segment: Segment) -> float:
        return max(segment.used_at + self._limits.linger_seconds, self._settle_after)

    def _retire(self, segment: Segment) -> bool:
        """Give a segment no further record (the lock is held); tell whether it can be settled now."""
        batch = segment.batch
        if batch is not None and self._current.get(batch) is segment:
            del self._current[batch]
        segment.is_awaited = True
        return not segment.users and not segment.is_settling

    def _settle(self, segment: Segment) -> None:
        """Give the objects of a segment files of their own and free it (the lock is held, but not all the time)."""
        segment.is_settling = True
        is_settled = False
        self._lock.release()
        try:
            self._move_out(self._contents(segment))
            segment.erase()
            is_settled = True
        finally:
            self._lock.acquire()
            segment.is_settling = False
            if is_settled:
                self._used.remove(segment)
                segment.clear()
                if segment.error is None:
                    self._free.append(segment)
                else:
                    segment.close()
                    self._made -= 1
            self._changed.notify_all()

    def _contents(self, segment: Segment) -> Iterator[tuple[StagedInstance, bytes]]:
        if not segment.records:
            return
        read = SegmentReader(self._operations, segment.descriptor)  # its name may be gone
        for record in segment.records:
            content = read_content(read, record)
            if content is None:
                raise OSError(errno.EIO, "the journal does not hold what was written to it")
            yield record.facts, content

    def _make(self) -> bool:
        """Make a segment (the lock is held, but not while it is written); False if there is no room for one."""
        self._made += 1
        self._names += 1
        name = f"{self._names}{SUFFIX}"
        made: Segment | None = None
        self._lock.release()
        try:
            if self._limits.segment_bytes <= self._free_bytes() * self._limits.most_of_free:
                folder = self._ensure_folder()
                made = make_segment(self._operations, f"{folder}/{name}", self._limits.segment_bytes)
        except OSError:
            pass
        finally:
            self._lock.acquire()
            if made is None:
                self._made -= 1
            else:
                self._free.append(made)
        return made is not None

    def _free_bytes(self) -> int:
        return self._operations.free_bytes(self._folders.ensure(NAME))

    def _ensure_folder(self) -> str:
        """Return the folder of this process once it is durable and its lock is held; only the worker calls it."""
        if self._held is None:
            token = secrets.token_hex(8)
            held = self._locks.hold(token)
            try:
                self._folders.ensure(NAME, token)
            except OSError:
                held.release()
                raise
            with self._lock:
                self._token, self._held = token, held
        return f"{self._root}/{self._token}"
