"""
MemoryStagingArea: the staging area as dicts, for tests and for trying things out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

import attrs

from domain.errors import StageFailed
from domain.identifiers import BatchId
from domain.instance import SopInstance
from domain.ports import Clock, Draft
from domain.staging import StagedInstance, StagedObject, StagingKey

Hook = Callable[[str, StagingKey | None], None]


def _no_hook(_method: str, _key: StagingKey | None) -> None:
    """Do nothing."""


class MemoryDraft:
    """A draft of `MemoryStagingArea`."""

    def __init__(self) -> None:
        self._content: bytearray | None = bytearray()
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def content(self) -> bytes:
        """The bytes written so far."""
        if self._content is None:
            raise StageFailed("the draft was discarded")
        return bytes(self._content)

    def write(self, data: bytes | memoryview) -> None:
        """Append a copy of `data`."""
        if self._content is None:
            raise StageFailed("the draft was discarded")
        self._content += data
        self._size = len(self._content)

    def discard(self) -> None:
        """Give the bytes up."""
        self._content = None


@attrs.frozen
class MemoryObject:
    """One object with its bytes and facts."""

    content: bytes
    facts: StagedInstance


@attrs.define
class MemoryStagingArea:
    """
    A StagingArea (domain/ports.py) in memory, safe to share between threads.

    Attributes:
        before: called with the method's name and the key, or None, before the method has any effect; what it raises
            is what the caller gets.
        after: the same once the effect is there: the answer that was lost on its way.
        objects: what is in batches.
        trash: what was discarded.
        set_aside: what was superseded.

    """

    clock: Clock
    before: Hook = _no_hook
    after: Hook = _no_hook
    objects: dict[StagingKey, MemoryObject] = attrs.field(factory=dict, init=False, repr=False)
    trash: dict[StagingKey, MemoryObject] = attrs.field(factory=dict, init=False, repr=False)
    set_aside: dict[StagingKey, MemoryObject] = attrs.field(factory=dict, init=False, repr=False)
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False, repr=False)

    def draft(self) -> MemoryDraft:
        """Begin a new object."""
        self.before("draft", None)
        draft = MemoryDraft()
        self.after("draft", None)
        return draft

    def stage(self, draft: Draft, batch: BatchId, instance: SopInstance) -> datetime:
        """Put the drafted object into `batch`."""
        if not isinstance(draft, MemoryDraft):
            raise TypeError("a draft of another staging area")
        key = StagingKey.of(batch, instance)
        content = draft.content
        self.before("stage", key)
        with self._lock:
            staged_at = self.clock.now()
            facts = StagedInstance(key=key, instance=instance, staged_at=staged_at)
            self.objects[key] = MemoryObject(content, facts)
        self.after("stage", key)
        return staged_at

    def seal(self, batch: BatchId) -> None:  # noqa: ARG002  # nothing waits for it
        """Do nothing: an object is where it belongs once it is staged."""
        self.before("seal", None)
        self.after("seal", None)

    def list(self, batch: BatchId) -> Iterator[StagedObject]:
        """Yield the objects of `batch`, as they were when the listing began, in the order of their paths."""
        self.before("list", None)
        return self._listing(self.objects, batch)

    def facts(self, objects: Iterable[StagedObject]) -> Iterator[StagedInstance]:
        """Yield the facts of each object that is there."""
        for staged in objects:
            self.before("facts", staged.key)
            held = self.objects.get(staged.key)
            if held is not None:
                yield held.facts

    def read_head(self, staged: StagedObject, max_bytes: int) -> bytes:
        """Return the first bytes of an object; b"" if it is gone."""
        self.before("read_head", staged.key)
        held = self.objects.get(staged.key)
        return b"" if held is None else held.content[:max_bytes]

    def supersede(self, staged: StagedObject) -> None:
        """Move an object to `set_aside`."""
        self.before("supersede", staged.key)
        with self._lock:
            held = self.objects.pop(staged.key, None)
            if held is not None:
                self.set_aside[staged.key] = held
        self.after("supersede", staged.key)

    def rehouse(self, staged: StagedObject, batch: BatchId) -> None:
        """Move an object into another batch."""
        self.before("rehouse", staged.key)
        with self._lock:
            held = self.objects.pop(staged.key, None)
            if held is not None:
                key = attrs.evolve(staged.key, batch=batch)
                self.objects[key] = MemoryObject(held.content, attrs.evolve(held.facts, key=key))
        self.after("rehouse", staged.key)

    def discard(self, objects: Iterable[StagedObject]) -> None:
        """Move objects to `trash`, one after the other."""
        for staged in objects:
            self.before("discard", staged.key)
            with self._lock:
                held = self.objects.pop(staged.key, None)
                if held is not None:
                    self.trash[staged.key] = held
            self.after("discard", staged.key)

    def batches(self) -> Iterator[BatchId]:
        """Yield every batch that has an object, in the order of their ids."""
        self.before("batches", None)
        with self._lock:
            found = {key.batch for key in self.objects}
        yield from sorted(found)

    def superseded(self, batch: BatchId) -> Iterator[StagedObject]:
        """Yield the objects of `batch` that were superseded, in the order of their paths."""
        self.before("superseded", None)
        return self._listing(self.set_aside, batch)

    def _listing(self, held: Mapping[StagingKey, MemoryObject], batch: BatchId) -> Iterator[StagedObject]:
        with self._lock:
            found = [
                StagedObject(key=key, size=len(each.content), modified_at=each.facts.staged_at)
                for key, each in held.items()
                if key.batch == batch
            ]
        return iter(sorted(found, key=lambda staged: staged.key.path))
