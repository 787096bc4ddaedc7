"""
The sides of storage commitment that face requestors, as lists: for tests and for trying things out.
"""

from __future__ import annotations

import threading

import attrs

from domain.commitment import CommitmentPeer, CommitmentResult
from domain.ports import Reported


@attrs.define
class MemoryCommitmentSender:
    """
    A CommitmentSender (domain/ports.py) that keeps what it delivers, safe to share between threads.

    Attributes:
        problem: what every delivery fails with, as long as it is set.
        delivered: each result with where it went, in order.

    """

    problem: str | None = None
    delivered: list[tuple[CommitmentResult, CommitmentPeer]] = attrs.field(factory=list, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def deliver(self, result: CommitmentResult, to: CommitmentPeer) -> str | None:
        """Keep a result, or fail as it was told to."""
        with self._lock:
            if self.problem is None:
                self.delivered.append((result, to))
            return self.problem


@attrs.define
class MemoryOpenAssociations:
    """
    The OpenAssociations (domain/ports.py) of a receiver as a test says.

    Attributes:
        answers: what reporting on each open association comes to.
        reported: each result that was delivered with its association, in order.

    """

    answers: dict[str, Reported] = attrs.field(factory=dict)
    reported: list[tuple[str, CommitmentResult]] = attrs.field(factory=list, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def is_open(self, association: str) -> bool:
        """Tell whether the test has opened it."""
        return association in self.answers

    def report(self, association: str, result: CommitmentResult) -> Reported:
        """Answer as the test says, keeping what was delivered."""
        with self._lock:
            answer = self.answers.get(association, Reported.GONE)
            if answer is Reported.DELIVERED:
                self.reported.append((association, result))
            return answer
