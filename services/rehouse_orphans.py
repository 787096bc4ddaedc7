"""
Move objects that no listing and no result named out of a settled batch into a batch of their own.

A write that was confirmed late, or never, can leave an object in a prefix after its batch was listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """
    Find and move what was left behind; may be repeated at any point.

    A batch that could not be closed is closed by the next call: where it has no lease, nobody else closes it as long as
    this process lives.
    """

    staging: StagingArea
    metadata: MetadataStore
    workflow: Workflow
    clock: Clock
    telemetry: Telemetry
    owner: str
    entropy: Callable[[], str]
    lease: LeasePolicy | None = None
    _unclosed: set[Batch] = attrs.field(factory=set, init=False, repr=False)

    def __call__(self, batch_id: BatchId) -> int:
        """
        Sweep one settled batch.

        Returns:
            How many objects were moved into a new batch.

        """
        for unclosed in list(self._unclosed):
            self._close(unclosed)
            self._unclosed.discard(unclosed)
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
            self.telemetry.event("batch.rehoused", batch=fresh.id.value, source=batch_id.value, files=moved)
            self._close(fresh)
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
        with self._remembering(batch):
            is_new = self.metadata.add_batch(batch)
        if not is_new:
            raise MetadataUnavailable(f"batch {batch.id} exists already")
        return batch

    @contextmanager
    def _remembering(self, fresh: Batch) -> Iterator[None]:
        """Remember a batch that may be open if the answer to a write is lost."""
        try:
            yield
        except MetadataUnavailable:
            self._unclosed.add(fresh)
            raise

    def _close(self, fresh: Batch) -> None:
        closed = fresh.closed(self.clock.now(), CloseReason.REHOUSED)
        with self._remembering(fresh):
            is_ours = self.metadata.replace_batch(fresh, closed)
        if not is_ours:
            return  # recovery closed it meanwhile, and carries it on
        try:
            self.workflow.start(closed)
        except StoreScpError:
            self.telemetry.event("workflow.start_failed", batch=fresh.id.value)
