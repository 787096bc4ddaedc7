"""
Rebuild the metadata table from the objects and the results, and find objects that nothing names.

The objects under a prefix and the results of jobs are the truth; the table is a projection of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from heapq import merge
from itertools import groupby

import attrs

from domain.batch import Batch, CloseReason, LeasePolicy
from domain.errors import ResultsNotReady, ResultsUnreadable, StoreScpError
from domain.identifiers import BatchId
from domain.import_job import ImportJob
from domain.lifecycle import BatchState, InstanceState
from domain.ports import Clock, Importer, MetadataStore, ResultsReader, StagingArea, Telemetry, Workflow
from domain.record import InstanceRecord
from services.rehouse_orphans import RehouseOrphans
from services.settle_instances import SettleInstances, chunks

_OWNER = "reconcile"
_SUPERSEDED = "a newer copy was taken instead"


@attrs.frozen(kw_only=True)
class Reconciled:
    """
    What reconciling did.

    Attributes:
        batches: prefixes and results that were looked at.
        rebuilt: batches that had lost their record.
        rehoused: objects that no listing named, moved into a batch of their own.

    """

    batches: int = 0
    rebuilt: int = 0
    rehoused: int = 0


@attrs.frozen(kw_only=True)
class Reconcile:
    """
    Compare what is there with what is recorded; may be repeated, and stopped, at any point.

    Attributes:
        is_abandoned: tells whether the owner of an open batch can no longer write to it.

    """

    staging: StagingArea
    metadata: MetadataStore
    importer: Importer
    results: ResultsReader
    settle: SettleInstances
    rehouse: RehouseOrphans
    workflow: Workflow
    clock: Clock
    telemetry: Telemetry
    is_abandoned: Callable[[Batch], bool]
    lease: LeasePolicy | None = None

    def __call__(self, progress: Callable[[BatchId], None] = lambda _: None) -> Reconciled:
        """
        Go through every batch that has objects or results.

        Args:
            progress: called with each batch when it was looked at.

        Raises:
            MetadataUnavailable, StageFailed: a store is away; repeat later.

        """
        done = Reconciled()
        for batch_id in self._batches():
            batch = self.metadata.batch(batch_id)
            rebuilt = rehoused = 0
            if batch is None:
                rebuilt = self._rebuild(batch_id)
            elif batch.state is BatchState.SETTLED:
                rehoused = self.rehouse(batch_id)
            done = attrs.evolve(
                done,
                batches=done.batches + 1,
                rebuilt=done.rebuilt + rebuilt,
                rehoused=done.rehoused + rehoused,
            )
            progress(batch_id)
        return done

    def _batches(self) -> Iterator[BatchId]:
        found = merge(self.staging.batches(), self.results.batches())
        return (batch_id for batch_id, _ in groupby(found))

    def _rebuild(self, batch_id: BatchId) -> bool:
        """Write the record of a batch that has none; what has no outcome yet is imported."""
        jobs = self.results.jobs(batch_id)
        written_at = self._last_written(batch_id)
        opened_at = batch_id.opened_at or written_at or self.clock.now()
        expires_at = self.lease.expiry(written_at or opened_at) if self.lease else None
        batch = Batch(id=batch_id, owner=_OWNER, opened_at=opened_at, lease_expires_at=expires_at)
        if not jobs and not self.is_abandoned(batch):
            return False  # perhaps its owner is writing to it right now
        self.staging.seal(batch_id)
        batch = batch.closed(self.clock.now(), CloseReason.RECOVERED)
        batch = attrs.evolve(batch, attempt=max(1, len(jobs)))
        for attempt, job in enumerate(jobs, start=1):
            self._record(batch_id, attempt, job)
        self._enter_superseded(batch)
        if jobs:
            batch = attrs.evolve(batch, state=BatchState.SETTLED, job_id=jobs[-1].id, settled_at=self.clock.now())
        # Before the record of the batch: with it, this is not looked at again.
        self.settle.enter_studies(self.settle.refresh_holdings(batch_id).values())
        if not self.metadata.add_batch(batch):
            return False
        self.telemetry.event("batch.rebuilt", batch=batch_id.value, jobs=len(jobs))
        if jobs:
            self.rehouse(batch_id)
        else:
            self._start(batch)
        return True

    def _record(self, batch_id: BatchId, attempt: int, job: ImportJob) -> None:
        try:
            self.settle.record(batch_id, attempt, self.results.outcomes(job), self.importer.data_store)
        except (ResultsNotReady, ResultsUnreadable):
            self.telemetry.event("results.unreadable", batch=batch_id.value, job=job.id.value)

    def _enter_superseded(self, batch: Batch) -> None:
        for objects in chunks(self.staging.superseded(batch.id)):
            self.metadata.put_entries(
                [
                    InstanceRecord(
                        key=staged.key.instance_key,
                        series=staged.key.series,
                        batch=batch.id,
                        staged_at=staged.modified_at or batch.opened_at,
                        attempt=batch.attempt,
                        size=staged.size,
                        state=InstanceState.SUPERSEDED,
                        reason=_SUPERSEDED,
                        conflict=_SUPERSEDED,
                    )
                    for staged in objects
                ]
            )

    def _last_written(self, batch_id: BatchId) -> datetime | None:
        times = [staged.modified_at for staged in self.staging.list(batch_id) if staged.modified_at is not None]
        return max(times, default=None)

    def _start(self, batch: Batch) -> None:
        try:
            self.workflow.start(batch)
        except StoreScpError:
            self.telemetry.event("workflow.start_failed", batch=batch.id.value)
