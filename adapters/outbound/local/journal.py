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
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from adapters.outbound.local.buffers import BLOCK_BYTES, Buffer
from adapters.outbound.local.files import DurableFolders, FileOperations
from adapters.outbound.local.journal_making import SegmentMaker
from adapters.outbound.local.journal_places import EarlyRecord, Places
from adapters.outbound.local.journal_record import Record, read_content
from adapters.outbound.local.journal_segment import Segment, SegmentReader, open_segment
from adapters.outbound.local.journal_takeover import MoveOut, named_batches, read_pending, take_over
from adapters.outbound.local.owner_lock import OwnerLocks
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
        piece_bytes: so much of an object is written at once while it arrives.
        linger_seconds: a burst is over when nothing was stored for so long; where no segment is free, each is kept so
            long at least. Both unless its batch closes.
        most_of_free: a segment is made where it takes no more than this share of the free space.

    """

    segments: int = 4
    segment_bytes: int = 64 << 20
    object_bytes: int = 2 << 20
    piece_bytes: int = attrs.field(default=256 << 10, validator=attrs.validators.ge(BLOCK_BYTES))
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
        self._operations = operations
        self._limits = limits
        self._move_out = move_out
        self._locks = OwnerLocks(self._root)
        self._maker = SegmentMaker(
            NAME, folders, operations, self._locks, segment_bytes=limits.segment_bytes, most_of_free=limits.most_of_free
        )
        self._places = Places(limits.object_bytes, limits.piece_bytes)
        self._changed = self._places.changed
        # All below is guarded by the lock.
        self._worker: threading.Thread | None = None
        self._made = 0
        self._is_made = False
        self._make_after = 0.0
        self._settle_after = 0.0

    def prepare(self, wait_seconds: float) -> None:
        """Make the segments, which is done beside what comes then if it takes longer than `wait_seconds`."""
        with self._changed:
            self._begin()
            if self._worker is not None:
                self._changed.wait_for(lambda: self._is_made, wait_seconds)

    def early(self) -> EarlyRecord | None:
        """Return what writes the record of an object while it arrives; None if it will most likely find no room."""
        with self._changed:
            self._begin()
            has_room = self._places.has_room()
        return EarlyRecord(self._places) if has_room else None

    def add(self, facts: StagedInstance, buffer: Buffer, size: int, early: EarlyRecord | None = None) -> bool:
        """
        Make an object durable; False if that is not certain, and it has to be durable by itself.

        Args:
            facts: what travels with it.
            buffer: one block that is free, then its bytes.
            size: how many these are.
            early: what was written of its record until now.

        """
        batch = facts.key.batch
        place = None if early is None else early.claim(batch, size)
        if place is None:
            place = self._places.find(batch, size)
        if place is None:
            return False
        written: Record | None = None
        try:
            written = place.write(facts, buffer, size)
        except OSError:
            pass
        finally:
            self._places.leave(place, written)
        return written is not None

    def pending(self, batch: BatchId) -> dict[StagingKey, Pending]:
        """Return the objects of a batch that are in a journal, this one or another (OSError if that cannot be read)."""
        with self._changed:
            ours = self._maker.token
            found = {
                record.facts.key: Pending(segment.path, record)
                for segment in self._places.used
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
        with self._changed:
            ours = self._maker.token
            found = {segment.batch for segment in self._places.used if segment.batch is not None and segment.records}
        return frozenset(found | set(named_batches(self._root, self._operations, but=ours)))

    def seal(self, batch: BatchId) -> None:
        """Return when no object of a batch needs a journal any more (OSError if that is not certain)."""
        with self._changed:
            while segments := [segment for segment in self._places.used if segment.batch == batch]:
                ready = next((one for one in segments if self._places.retire(one)), None)
                if ready is None:
                    self._changed.wait()
                else:
                    self._settle(ready)
            ours = self._maker.token
        take_over(self._root, self._locks, self._operations, self._move_out, batch, but=ours)

    def take_over(self) -> None:
        """Give all objects files of their own that dead processes had in their journals (OSError as for `seal`)."""
        with self._changed:
            ours = self._maker.token
        take_over(self._root, self._locks, self._operations, self._move_out, None, but=ours)
        self._locks.clear()

    def close(self) -> None:
        """
        End when nobody is in a segment any more; those of batches that are not sealed stay for whoever takes over.

        What is stored from now on does without the journal, unless it is used again after this has returned.
        """
        with self._changed:
            self._places.is_closed = True
            self._changed.notify_all()
            worker = self._worker
        if worker is not None:
            worker.join()
        with self._changed:
            # a descriptor that is closed under a writer may be another file's by then, and the lock lets an heir in
            while [segment for segment in self._places.used if not self._places.retire(segment)]:
                self._changed.wait()
            for segment in (*self._places.free, *self._places.used):
                segment.close()
            for segment in self._places.free:
                with contextlib.suppress(OSError):
                    self._operations.unlink(segment.path)
            self._maker.release(is_empty=not self._places.used)
            self._places.forget()
            self._made = 0
            self._worker, self._places.is_closed, self._is_made = None, False, False
            self._changed.notify_all()

    def _begin(self) -> None:
        """Start the thread of the journal (the lock is held)."""
        if self._worker is None and self._limits.segments and not self._places.is_closed:
            self._worker = threading.Thread(target=self._work, name="journal", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        """Make segments, and settle those that are due; the thread of the journal."""
        with self._changed:
            while not self._places.is_closed:
                now = time.monotonic()
                if self._made < self._limits.segments and now >= self._make_after:
                    if not self._make():
                        self._make_after = now + _PATIENCE_SECONDS
                    continue
                if not self._is_made:
                    self._is_made = True
                    self._changed.notify_all()
                late = [segment for segment in self._places.used if self._due_at(segment) <= now]
                ready = next((segment for segment in late if self._places.retire(segment)), None)
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
        times = [self._due_at(segment) for segment in self._places.used]
        if self._made < self._limits.segments:
            times.append(self._make_after)
        waits = [moment - now for moment in times if moment > now]
        return min(waits, default=None)

    def _due_at(self, segment: Segment) -> float:
        """
        Return when to settle a segment unless its batch closes before.

        Files take the disk from those who store, so they wait for a pause while there is room for more.
        """
        since = self._places.busy_at if self._places.free else segment.used_at
        return max(since + self._limits.linger_seconds, self._settle_after)

    def _settle(self, segment: Segment) -> None:
        """Give the objects of a segment files of their own and free it (the lock is held, but not all the time)."""
        segment.is_settling = True
        is_settled = False
        self._changed.release()
        try:
            self._move_out(self._contents(segment))
            segment.erase()
            is_settled = True
        finally:
            self._changed.acquire()
            segment.is_settling = False
            if is_settled:
                self._places.used.remove(segment)
                segment.clear()
                if segment.error is None:
                    self._places.free.append(segment)
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
        """Make a segment (the lock is held, but not while it is written); False if that is not possible."""
        self._made += 1
        self._changed.release()
        made: Segment | None = None
        try:
            made = self._maker.make()
        finally:
            self._changed.acquire()
            if made is None:
                self._made -= 1
            else:
                self._places.free.append(made)
        return made is not None
