"""
Import again what failed: the one thing that raises a batch's attempt.
"""

from __future__ import annotations

import attrs

from domain.batch import Batch
from domain.errors import NotFound, NotPossible, StoreScpError
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState
from domain.ports import MetadataStore, Telemetry, Workflow


@attrs.frozen(kw_only=True)
class RetryBatch:
    """Close a failed batch, or one with failed instances, for another attempt."""

    metadata: MetadataStore
    workflow: Workflow
    telemetry: Telemetry

    def __call__(self, batch_id: BatchId) -> Batch:
        """
        Retry on an operator's word.

        Raises:
            NotFound: nobody knows the batch.
            NotPossible: nothing in it failed, or it is still on its way.

        """
        batch = self.metadata.batch(batch_id)
        if batch is None:
            raise NotFound("batch", batch_id.value)
        if batch.state is BatchState.SETTLED:
            if not any(entry.state is InstanceState.FAILED for entry in self.metadata.entries(batch_id)):
                raise NotPossible(f"batch {batch_id} has no failed instance; there is nothing to retry")
        elif batch.state is not BatchState.FAILED:
            raise NotPossible(
                f"batch {batch_id} is {batch.state}; only failed work can be retried, and this goes on by itself"
            )
        retried = batch.retried(by_itself=False)
        if not self.metadata.replace_batch(batch, retried):
            raise NotPossible(f"batch {batch_id} is being changed by someone else; look at it again")
        self.begin(retried)
        return retried

    def begin(self, retried: Batch) -> None:
        """Begin the attempt of a batch that was closed again; recovery does if this cannot."""
        self.telemetry.event("batch.retried", batch=retried.id.value, attempt=retried.attempt)
        try:
            self.workflow.start(retried)
        except StoreScpError:
            self.telemetry.event("workflow.start_failed", batch=retried.id.value)
