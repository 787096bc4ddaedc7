"""
MemoryWorkflow: records what was started; tests carry the batches through themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs

from domain.batch import Batch

Hook = Callable[[str], None]


def _no_hook(_method: str) -> None:
    """Do nothing."""


@attrs.define
class MemoryWorkflow:
    """
    A Workflow (domain/ports.py) whose executions run until a test ends them.

    Attributes:
        before: called with the method's name before it has any effect; what it raises is what the caller gets.
        after: the same once the effect is there: the answer that was lost on its way.
        started: each batch whose run was begun, once per execution, in that order.

    """

    before: Hook = _no_hook
    after: Hook = _no_hook
    started: list[Batch] = attrs.field(factory=list, init=False)
    _running: dict[str, bool] = attrs.field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def start(self, batch: Batch) -> None:
        """Begin the present run of `batch`; the second start is the first, even if that has ended."""
        self.before("start")
        with self._lock:
            if batch.execution_name not in self._running:
                self._running[batch.execution_name] = True
                self.started.append(batch)
        self.after("start")

    def is_running(self, batch: Batch) -> bool | None:
        """Tell whether the present run goes on; None if it was never started."""
        self.before("is_running")
        with self._lock:
            is_running = self._running.get(batch.execution_name)
        self.after("is_running")
        return is_running

    def running(self) -> list[Batch]:
        """Return the batches whose runs go on, in the order they were started."""
        with self._lock:
            return [batch for batch in self.started if self._running[batch.execution_name]]

    def end(self, batch: Batch) -> None:
        """End the run of `batch`, whatever came of it."""
        with self._lock:
            self._running[batch.execution_name] = False
