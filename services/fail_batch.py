"""
Fail a batch whose import ended in an error that waiting does not help.
"""

from __future__ import annotations

import attrs

from domain.batch import Batch
from domain.identifiers import BatchId
from domain.lifecycle import STARTED, BatchState
from domain.ports import MetadataStore, Telemetry


def record_failure(metadata: MetadataStore, telemetry: Telemetry, batch: Batch, reason: str, *, step: str) -> bool:
    """Record that `batch` FAILED in a step; False, changing nothing, if it has gone on meanwhile."""
    if not metadata.replace_batch(batch, batch.failed(reason)):
        return False
    telemetry.event("batch.failed", batch=batch.id.value, step=step)
    telemetry.measure("ImportFailures", 1)
    return True


@attrs.frozen(kw_only=True)
class FailBatch:
    """Record that a batch failed as a whole."""

    metadata: MetadataStore
    telemetry: Telemetry

    def __call__(self, batch_id: BatchId, reason: str) -> bool:
        """
        Fail the batch with a reason for the operator; one that has ended stays as it is.

        Returns:
            Whether the batch is FAILED now.

        Raises:
            MetadataUnavailable: the metadata store is away; repeat later.

        """
        batch = self.metadata.batch(batch_id)
        if batch is None:
            return False
        if batch.state is not BatchState.CLOSED and batch.state not in STARTED:
            return batch.state is BatchState.FAILED
        return record_failure(self.metadata, self.telemetry, batch, reason, step="workflow")
