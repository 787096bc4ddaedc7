"""
The workflow of one machine: a thread that takes the next step of each batch when it is due.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable

import attrs

from domain.batch import Batch
from domain.identifiers import BatchId
from domain.ports import Telemetry


@attrs.define(kw_only=True)
class ThreadWorkflow:
    """
    Carry closed batches, step by step; safe to share between threads.

    Nothing is remembered over a restart: recovery starts what the records say is unfinished.

    Attributes:
        carry: takes the next step of a batch; returns the seconds until the one after, or None at the end.
        is_carried_elsewhere: tells whether another process of this machine carries the batches; then this one leaves
            them alone.

    """

    carry: Callable[[BatchId], float | None]
    telemetry: Telemetry
    is_carried_elsewhere: Callable[[], bool] = lambda: False
    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _due: list[tuple[float, BatchId]] = attrs.field(factory=list, init=False)
    _carried: set[BatchId] = attrs.field(factory=set, init=False)
    _is_stopping: bool = attrs.field(default=False, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)

    def start(self, batch: Batch) -> None:
        """Carry `batch`; one that is carried already goes on as it is."""
        if self.is_carried_elsewhere():
            return
        with self._changed:
            if batch.id not in self._carried:
                self._carried.add(batch.id)
                heapq.heappush(self._due, (time.monotonic(), batch.id))
                self._changed.notify_all()

    def is_running(self, batch: Batch) -> bool | None:
        """Tell whether this or another process carries `batch`; None if none does."""
        with self._changed:
            return True if batch.id in self._carried or self.is_carried_elsewhere() else None

    def run(self) -> None:
        """Carry batches in a thread of their own until `stop`."""
        self._thread = threading.Thread(target=self._run, name="workflow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the present step; what is unfinished goes on at the next start."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def finish(self, progress: Callable[[int], None] = lambda _: None) -> None:
        """
        Carry all batches to their ends in the calling thread.

        Args:
            progress: called with the number of batches that are left, after each step.

        """
        while self._step(is_waiting=False):
            progress(len(self._carried))

    def _run(self) -> None:
        while self._step(is_waiting=True):
            pass

    def _step(self, *, is_waiting: bool) -> bool:
        """Take one step of the batch that is due first; False when there is nothing more to do."""
        with self._changed:
            while not self._is_stopping:
                if self._due:
                    wait = self._due[0][0] - time.monotonic()
                    if wait <= 0:
                        break
                    self._changed.wait(wait)
                elif is_waiting:
                    self._changed.wait()
                else:
                    return False
            if self._is_stopping:
                return False
            _, batch_id = heapq.heappop(self._due)
        delay = self._take_step(batch_id)
        with self._changed:
            if delay is None:
                self._carried.discard(batch_id)
            else:
                heapq.heappush(self._due, (time.monotonic() + delay, batch_id))
        return True

    def _take_step(self, batch_id: BatchId) -> float | None:
        try:
            return self.carry(batch_id)
        except Exception as error:  # noqa: BLE001  # one batch must not stop the others; recovery starts it again
            self.telemetry.event("workflow.step_failed", batch=batch_id.value, error=type(error).__name__)
            return None
