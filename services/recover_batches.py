"""
Go on with work whose owner died: abandoned open batches, and batches that nothing carries on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from domain.batch import Batch, CloseReason
from domain.errors import StageFailed, StoreScpError, TemporaryServiceError
from domain.lifecycle import BatchState
from domain.ports import Clock, MetadataStore, StagingArea, Telemetry, Workflow

_UNFINISHED = (BatchState.CLOSED, BatchState.SUBMITTED, BatchState.IMPORTING)


@attrs.frozen(kw_only=True)
class Recovered:
    """
    What recovery did.

    Attributes:
        closed: batches whose owner was gone.
        started: batches that had no run of the workflow.
        restarted: batches whose run had died, also one that should have told people of a failure.

    """

    closed: int = 0
    started: int = 0
    restarted: int = 0


@attrs.frozen(kw_only=True)
class RecoverBatches:
    """
    Look for stalled batches and set them going; may be repeated, also by two at once.

    Attributes:
        is_abandoned: tells whether the owner of an open batch can no longer write to it.
        runs_tell: people are told of a batch that FAILED by its run, so it gets runs until one has.

    """

    staging: StagingArea
    metadata: MetadataStore
    workflow: Workflow
    clock: Clock
    telemetry: Telemetry
    is_abandoned: Callable[[Batch], bool]
    runs_tell: bool = False

    def __call__(self) -> Recovered:
        """
        Recover what can be recovered now.

        Raises:
            MetadataUnavailable: the metadata store is away; repeat later.

        """
        recovered = Recovered()
        for batch in self.metadata.batches([BatchState.OPEN]):
            if self.is_abandoned(batch) and self._seal(batch):
                closed = batch.closed(self.clock.now(), CloseReason.RECOVERED)
                if self.metadata.replace_batch(batch, closed):
                    self.telemetry.event("batch.recovered", batch=batch.id.value)
                    recovered = attrs.evolve(recovered, closed=recovered.closed + 1)
        for batch in self._wanting_a_run():
            match self._is_running(batch):
                case None:
                    if self._start(batch):
                        recovered = attrs.evolve(recovered, started=recovered.started + 1)
                case False:
                    again = batch.rerun()
                    if self.metadata.replace_batch(batch, again) and self._start(again):
                        recovered = attrs.evolve(recovered, restarted=recovered.restarted + 1)
        self._measure_oldest()
        return recovered

    def _wanting_a_run(self) -> Iterator[Batch]:
        yield from self.metadata.batches(_UNFINISHED)
        if self.runs_tell:
            for batch in self.metadata.batches([BatchState.FAILED]):
                if not batch.is_told:
                    yield batch

    def _seal(self, batch: Batch) -> bool:
        """Make what the owner left whole; a batch of which that fails stays open until the next recovery."""
        try:
            self.staging.seal(batch.id)
        except StageFailed as error:
            self.telemetry.event("batch.seal_failed", batch=batch.id.value, detail=str(error))
            return False
        return True

    def _measure_oldest(self) -> None:
        """Measure for how long the oldest batch has not been accounted for; zero when all are."""
        oldest = next(self.metadata.batches((BatchState.OPEN, *_UNFINISHED)), None)
        waited = (self.clock.now() - oldest.opened_at).total_seconds() if oldest is not None else 0.0
        self.telemetry.measure("OldestPendingSeconds", waited, "Seconds")

    def _is_running(self, batch: Batch) -> bool | None:
        """Take a workflow that cannot be asked now for one that runs: the next recovery asks again."""
        try:
            return self.workflow.is_running(batch)
        except TemporaryServiceError:
            self.telemetry.event("workflow.look_failed", batch=batch.id.value)
            return True

    def _start(self, batch: Batch) -> bool:
        try:
            self.workflow.start(batch)
        except StoreScpError:
            self.telemetry.event("workflow.start_failed", batch=batch.id.value)
            return False
        return True
