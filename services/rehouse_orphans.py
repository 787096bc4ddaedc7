"""
Move objects that no listing and no result named out of a settled batch into a batch of their own.

A write that was confirmed late, or never, can leave an object in a prefix after its batch was listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import attrs

from domain.batch import Batch, CloseReason, LeasePolicy
from domain.errors import MetadataUnavailable, StoreScpError
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState
from domain.ports import Clock, MetadataStore, StagingArea, Telemetry, Workflow
from domain.staging import StagedObject
from services.settle_instances import chunks


@attrs.frozen(kw_only=True)
class RehouseOrphans:
    """Find and move what was left behind; may be repeated at any point."""

    staging: StagingArea
    metadata: MetadataStore
    workflow: Workflow
    clock: Clock
    telemetry: Telemetry
    owner: str
    entropy: Callable[[], str]
    lease: LeasePolicy | None = None

    def __call__(self, batch_id: BatchId) -> int:
        """
        Sweep one settled batch.

        Returns:
            How many objects were moved into a new batch.

        """
        batch = self.metadata.batch(batch_id)
        if batch is None or batch.state is not BatchState.SETTLED:
            return 0
        orphans = self._orphans(batch)
        first = next(orphans, None)
        if first is None:
            return 0
        moved = 0
        started = self.clock.monotonic()
        fresh = self._open()
        try:
            for orphan in chain([first], orphans):
                if self.lease is not None and self.clock.monotonic() - started >= self.lease.seconds:
                    break  # recovery may close the new batch now; the next sweep moves the rest
                self.staging.rehouse(orphan, fresh.id)
                moved += 1
        finally:
            # What was moved goes on, also when an error ends the moving.
            self._close(fresh, batch_id, moved)
        return moved

    def _orphans(self, batch: Batch) -> Iterator[StagedObject]:
        """
        Yield objects without an entry; give up what was imported and only not given up yet.

        A settled batch has nothing on its way: an entry that says so was made by a listing that came too late.
        """
        for objects in chunks(self.staging.list(batch.id)):
            entries = self.metadata.pick_entries(batch.id, [staged.key.instance_key for staged in objects])
            for staged in objects:
                entry = entries.get(staged.key.instance_key)
                if entry is None or (entry.state is InstanceState.STAGED and entry.attempt <= batch.attempt):
                    yield staged
                elif entry.state is InstanceState.IMPORTED:
                    self.staging.discard([staged])
                elif entry.state is InstanceState.SUPERSEDED:
                    self.staging.supersede(staged)

    def _open(self) -> Batch:
        now = self.clock.now()
        batch = Batch(
            id=BatchId.at(now, self.entropy()),
            owner=self.owner,
            opened_at=now,
            lease_expires_at=self.lease.expiry(now) if self.lease else None,
        )
        if not self.metadata.add_batch(batch):
            raise MetadataUnavailable(f"batch {batch.id} exists already")
        return batch

    def _close(self, fresh: Batch, source: BatchId, moved: int) -> None:
        closed = fresh.closed(self.clock.now(), CloseReason.REHOUSED)
        if not self.metadata.replace_batch(fresh, closed):
            return  # recovery closed it meanwhile, and carries it on
        self.telemetry.event("batch.rehoused", batch=fresh.id.value, source=source.value, files=moved)
        try:
            self.workflow.start(closed)
        except StoreScpError:
            self.telemetry.event("workflow.start_failed", batch=fresh.id.value)
