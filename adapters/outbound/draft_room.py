"""
What the drafts of a process hold together, of memory and of temporary space, by the laws of domain/budget.py.

Both are asked for ahead of need, so that not every piece that arrives takes the lock.
"""

from __future__ import annotations

import threading

import attrs

from domain.budget import DraftBudget
from domain.errors import StageFailed

_FIRST_STEP_BYTES = 64 << 10
_STEP_BYTES = 1 << 20
_LONGEST_WAIT_SECONDS = 30.0  # by then most senders have given up, too


@attrs.frozen(kw_only=True)
class Held:
    """What drafts hold at a moment, in bytes, and how many of them there are."""

    memory: int
    temporary: int
    drafts: int


@attrs.define(eq=False)
class DraftRoom:
    """
    The room of all drafts, safe to share between threads.

    Attributes:
        budget: decides who gets what.
        longest_wait_seconds: how long a draft waits for temporary space before its store is refused.

    """

    budget: DraftBudget = attrs.field(factory=DraftBudget)
    longest_wait_seconds: float = _LONGEST_WAIT_SECONDS
    most_memory: int = attrs.field(default=0, init=False)
    _memory: int = attrs.field(default=0, init=False)
    _files: dict[Claim, int] = attrs.field(factory=dict, init=False, repr=False)  # in the order they began
    _drafts: int = attrs.field(default=0, init=False)
    # reentrant: a draft that is forgotten may end while its thread is in here
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False, repr=False)
    _changed: threading.Condition = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._changed = threading.Condition(self._lock)

    def claim(self) -> Claim:
        """Begin one draft, which holds nothing yet."""
        with self._lock:
            self._drafts += 1
        return Claim(self)

    def held(self) -> Held:
        """Return what drafts hold now."""
        with self._lock:
            return Held(memory=self._memory, temporary=sum(self._files.values()), drafts=self._drafts)

    def is_short(self) -> bool:
        """Tell whether temporary space is so low that stores wait for it, or soon will."""
        with self._lock:
            return self.budget.is_space_short(waiting_files=self._waiting_files())

    def _waiting_files(self) -> int:
        sizes = iter(self._files.values())
        next(sizes, None)
        return sum(sizes)

    def take_memory(self, held: int, size: int) -> int:
        """Return how much memory a draft may hold that holds `held` and needs `size`: `held` if it gets no more."""
        ahead = max(size, min(2 * held, held + _STEP_BYTES), _FIRST_STEP_BYTES)
        with self._lock:
            others = self._memory - held
            for wanted in (ahead, size):
                if self.budget.keeps_in_memory(wanted, others=others):
                    self._memory = others + wanted
                    self.most_memory = max(self.most_memory, self._memory)
                    return wanted
        return held

    def take_space(self, claim: Claim, size: int) -> int:
        """
        Wait until a draft's file may have `size` bytes, and return how many it may have.

        Raises:
            StageFailed: there was no room in time.

        """
        ahead = -(-size // _STEP_BYTES) * _STEP_BYTES
        with self._lock:
            self._files.setdefault(claim, 0)
            granted = 0

            def is_granted() -> bool:
                nonlocal granted
                is_oldest = next(iter(self._files)) is claim
                others = self._waiting_files() - (0 if is_oldest else self._files[claim])
                for wanted in (ahead, size):
                    if self.budget.may_fill_file(wanted, waiting_files=others, is_oldest=is_oldest):
                        granted = wanted
                        return True
                return False

            if not self._changed.wait_for(is_granted, self.longest_wait_seconds):
                raise StageFailed(
                    f"temporary space ({self.budget.temporary_bytes} bytes) is used up by other stores:"
                    " raise --temporary-space, or let devices send fewer large instances at once"
                )
            self._files[claim] = granted
        return granted

    def give_back(self, claim: Claim, memory: int, *, is_over: bool) -> None:
        """Let go of memory, and of everything else if the draft is over."""
        with self._lock:
            self._memory -= memory
            if is_over:
                self._drafts -= 1
                if self._files.pop(claim, None) is not None:
                    self._changed.notify_all()


class Claim:
    """What one draft holds; used by one thread at a time."""

    __slots__ = ("_is_over", "_memory", "_room", "_space")

    def __init__(self, room: DraftRoom) -> None:
        self._room = room
        self._memory = 0
        self._space = 0
        self._is_over = False

    def keeps(self, size: int) -> bool:
        """Hold `size` bytes of memory; False if there is not so much for it."""
        if size <= self._memory:
            return True
        self._memory = self._room.take_memory(self._memory, size)
        return size <= self._memory

    def fills(self, size: int) -> None:
        """
        Hold `size` bytes of temporary space, waiting for it if need be.

        Raises:
            StageFailed: there was none in time.

        """
        if size > self._space:
            self._space = self._room.take_space(self, size)

    def leave_memory(self) -> None:
        """Give the memory back; the bytes are in a file now."""
        memory, self._memory = self._memory, 0
        if memory:
            self._room.give_back(self, memory, is_over=False)

    def release(self) -> None:
        """Give everything back; may be repeated."""
        if not self._is_over:
            self._is_over = True
            memory, self._memory, self._space = self._memory, 0, 0
            self._room.give_back(self, memory, is_over=True)
