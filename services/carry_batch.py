"""
Carry a closed batch through its import, one step at a time: list, start, follow, record.

Where a workflow service does this, its state machine takes these same steps; here they follow one another in
process.
"""

from __future__ import annotations

import attrs

from domain.errors import OurError, TemporaryServiceError
from domain.identifiers import BatchId
from domain.import_job import PollPolicy
from domain.lifecycle import STARTED, BatchState
from domain.ports import Clock, MetadataStore
from services.follow_import import FollowImport, Progress
from services.list_batch import ListBatch, Listing
from services.record_results import RecordResults
from services.start_import import StartImport


@attrs.frozen(kw_only=True)
class CarryBatch:
    """Take the next step of a batch."""

    metadata: MetadataStore
    list_batch: ListBatch
    start_import: StartImport
    follow_import: FollowImport
    record_results: RecordResults
    clock: Clock
    poll: PollPolicy = attrs.field(factory=PollPolicy)

    def __call__(self, batch_id: BatchId) -> float | None:
        """
        Take one step.

        Returns:
            Seconds to wait before the next step; None when the batch needs none.

        """
        try:
            batch = self.metadata.batch(batch_id)
            if batch is None:
                return None
            if batch.state is BatchState.CLOSED:
                listing = self.list_batch(batch_id)
                if listing is Listing.WAIT:
                    return self.poll.seconds
                if listing is Listing.READY:
                    self.start_import(batch_id)
                return 0.0
            if batch.state not in STARTED:
                return None
            if self.follow_import(batch_id) is Progress.RUNNING:
                began = batch.submitted_at or batch.opened_at
                return self.poll.delay((self.clock.now() - began).total_seconds())
            self.record_results(batch_id)
        except (TemporaryServiceError, OurError):
            return self.poll.seconds
        return 0.0
