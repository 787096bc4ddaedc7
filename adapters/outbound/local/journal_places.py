"""
Where records go: the segments of one process, and what is free in them.

Laws:
- A place belongs to one store from the moment it is found until it is left; between, its segment is not settled.
- A place of an object that still arrives is a guess, and withdrawn at will: a slow sender never holds up a segment.
- Nothing is written to a place that was withdrawn or left: the segment may be another batch's by then.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time

import attrs

from adapters.outbound.local.async_write import Writers
from adapters.outbound.local.buffers import BLOCK_BYTES, Buffer
from adapters.outbound.local.journal_record import EPOCH_BYTES, Header, Record, record_bytes
from adapters.outbound.local.journal_segment import Place, Segment
from domain.identifiers import BatchId

_NEVER = 1 << 62


@attrs.frozen
class _Last:
    """The last object that was large enough to be written while it arrives."""

    batch: BatchId
    size: int


class Places:
    """
    The places of one journal; safe to share between threads.

    Args:
        object_bytes: larger objects get none.
        piece_bytes: so much of an object is written at once while it arrives.

    Attributes:
        changed: guards all that follows, and tells when it may matter to others.
        is_closed: no place is found any more.
        free: segments that nobody uses.
        used: the others, in the order of their use.
        busy_at: when a segment was put to use or a store ended, whichever was last, on the monotonic clock in seconds.

    """

    def __init__(self, object_bytes: int, piece_bytes: int) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.is_closed = False
        self.free: list[Segment] = []
        self.used: list[Segment] = []
        self.busy_at = 0.0
        self.piece_bytes = piece_bytes
        self._object_bytes = object_bytes
        self._current: dict[BatchId, Segment] = {}
        self._last: _Last | None = None
        self._writers = Writers()

    def has_room(self) -> bool:
        """Tell whether an object that begins to arrive will most likely find room (the lock is held)."""
        size = record_bytes(self._object_bytes)
        return bool(self.free) or any(segment.has_room(size) for segment in self._current.values())

    def find(self, batch: BatchId, size: int) -> Place | None:
        """Find a place for an object of `size` bytes; None if there is no room, or it is too large."""
        if size > self._object_bytes:
            return None
        with self.changed:
            place = self._find(batch, record_bytes(size))
            if place is not None:
                place.segment.users += 1
            return place

    def find_early(self, size: int) -> Place | None:
        """
        Find a place for an object of which `size` bytes have arrived: in the batch of the last one, and about as large.

        None where nobody knows how large it will be, or where stores wait for the disk already: with several senders it
        is busy all the time, and what is begun early would only come before what somebody waits for.
        """
        with self.changed:
            if self._last is None or size > self._last.size or any(each.users or each.early for each in self.used):
                return None
            room = record_bytes(min(self._last.size + self._last.size // 8, self._object_bytes))
            segment = self._current.get(self._last.batch)
            if segment is None or not segment.has_room(room):
                return None
            writes = self._writers.take()
            if writes is None:
                return None
            place = self._place_in(segment, room)
            place.writes = writes
            segment.early.add(place)
            return place

    def claim(self, place: Place, batch: BatchId, size: int) -> bool:
        """Take an early place for an object that is complete, of `size` bytes; False if it is the wrong one."""
        segment = place.segment
        with self.changed:
            if place not in segment.early or segment.batch != batch or segment.error is not None:
                return False
            if record_bytes(size) > place.size:
                return False
            segment.users += 1
            self._fix_size(place, record_bytes(size))
            return True

    def leave_early(self, place: Place) -> None:
        """Give up an early place, and return when nothing is written to it any more."""
        self._withdraw(place)
        with self.changed:
            if place in place.segment.early:
                self._fix_size(place, 0)

    def leave(self, place: Place, record: Record | None) -> None:
        """End the use of a place, of which `record` is durable or else nothing."""
        segment = place.segment
        try:
            if place.writes is not None:
                self._writers.give(place.writes)  # waits for what is under way after a failure
        finally:
            with self.changed:
                if record is not None:
                    segment.records.append(record)
                    if record.size >= self.piece_bytes:
                        self._last = _Last(record.facts.key.batch, record.size)
                segment.users -= 1
                self.busy_at = time.monotonic()
                if segment.is_awaited and not segment.users:
                    self.changed.notify_all()  # not for each store: it would wake the thread of the journal

    def retire(self, segment: Segment) -> bool:
        """
        Leave no further place in a segment (the lock is held); tell whether it can be settled now.

        Places of objects that still arrive are withdrawn, which waits for no more than what is under way on the disk.
        """
        batch = segment.batch
        if batch is not None and self._current.get(batch) is segment:
            del self._current[batch]
        segment.is_awaited = True
        for place in segment.early:
            self._withdraw(place)
        segment.early.clear()
        return not segment.users and not segment.is_settling

    def forget(self) -> None:
        """Forget all segments, which are closed (the lock is held)."""
        self.free, self.used, self._current = [], [], {}
        self._writers.close()

    def _find(self, batch: BatchId, size: int) -> Place | None:
        """Find room for a record of `size` bytes (the lock is held)."""
        if self.is_closed:
            return None
        segment = self._current.get(batch)
        if segment is None or not segment.has_room(size):
            segment = self._next_for(batch)
            if segment is None or not segment.has_room(size):
                return None
        return self._place_in(segment, size)

    def _place_in(self, segment: Segment, size: int) -> Place:
        """Take room of a segment that has it (the lock is held)."""
        place = Place(segment=segment, position=segment.end, size=size)
        segment.end += size
        return place

    def _next_for(self, batch: BatchId) -> Segment | None:
        """Put a free segment to use (the lock is held)."""
        if not self.free:
            return None
        segment = self.free.pop()
        segment.used_at = self.busy_at = time.monotonic()
        self.used.append(segment)
        self._current[batch] = segment
        with contextlib.suppress(OSError):  # it has no room then, and is removed in time
            segment.begin(Header(epoch=secrets.token_bytes(EPOCH_BYTES), batch=batch))
        self.changed.notify_all()
        return segment

    def _fix_size(self, place: Place, size: int) -> None:
        """Make an early place one of `size` bytes like any other (the lock is held)."""
        segment = place.segment
        segment.early.remove(place)
        if segment.end == place.position + place.size:
            segment.end = place.position + size  # nobody has come behind it
        place.size = size

    def _withdraw(self, place: Place) -> None:
        writes = place.withdraw()
        if writes is not None:
            self._writers.give(writes)


class EarlyRecord:
    """
    The record of one object, whose content is written while it arrives; used by one thread.

    So the disk has little left to do when the last byte is there. Where the guess about its place was wrong, or nobody
    could guess, the object gets a record like any other.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._next = places.piece_bytes
        self._place: Place | None = None

    def advance(self, buffer: Buffer, size: int) -> None:
        """Note that `size` bytes of the object are in the buffer, behind its first block."""
        if size < self._next:
            return
        whole_blocks = size - size % BLOCK_BYTES
        place = self._place = self._place or self._places.find_early(size)
        if place is not None and record_bytes(size) <= place.size and place.begin(buffer, whole_blocks):
            self._next = whole_blocks + self._places.piece_bytes
        else:
            self.leave()

    def claim(self, batch: BatchId, size: int) -> Place | None:
        """Return the place, now the caller's, for the complete object; None if it has none there."""
        place = self._place
        if place is not None and self._places.claim(place, batch, size):
            self._place, self._next = None, _NEVER
            return place
        self.leave()
        return None

    def leave(self) -> None:
        """Return when nothing is read from the buffer any more; may be repeated."""
        place, self._place, self._next = self._place, None, _NEVER
        if place is not None:
            self._places.leave_early(place)
