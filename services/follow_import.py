"""
Ask how a submitted import job is doing.
"""

from __future__ import annotations

from enum import StrEnum

import attrs

from domain.batch import Batch
from domain.errors import ImportRefused
from domain.identifiers import BatchId
from domain.import_job import ImportJobStatus
from domain.lifecycle import STARTED, BatchState
from domain.ports import Importer, MetadataStore, Telemetry
from services.fail_batch import record_failure


class Progress(StrEnum):
    """How far a job is."""

    RUNNING = "running"
    ENDED = "ended"  # its results can be recorded
    FAILED = "failed"  # and so has the batch
    STALE = "stale"  # the batch has gone on without us


@attrs.frozen(kw_only=True)
class FollowImport:
    """Look at the job of a batch once."""

    metadata: MetadataStore
    importer: Importer
    telemetry: Telemetry

    def __call__(self, batch_id: BatchId) -> Progress:
        """
        Describe the job and record what that means for the batch.

        Raises:
            ImporterBusy: ask again later.
            MetadataUnavailable: the metadata store is away; repeat later.

        """
        batch = self.metadata.batch(batch_id)
        if batch is not None and batch.state is BatchState.FAILED:
            return Progress.FAILED  # an answer that was lost: people may not have been told
        if batch is None or batch.state not in STARTED or batch.job_id is None:
            return Progress.STALE
        try:
            job = self.importer.describe(batch.job_id)
        except ImportRefused as error:
            return self._fail(batch, str(error))
        match job.status:
            case ImportJobStatus.COMPLETED:
                return Progress.ENDED
            case ImportJobStatus.FAILED:
                return self._fail(batch, f"import job {job.id} failed: {job.message or 'the service gives no reason'}")
            case ImportJobStatus.IN_PROGRESS if batch.state is BatchState.SUBMITTED:
                # Losing this write changes nothing: the next look makes it.
                self.metadata.replace_batch(batch, batch.importing())
        return Progress.RUNNING

    def _fail(self, batch: Batch, reason: str) -> Progress:
        is_failed = record_failure(self.metadata, self.telemetry, batch, reason, step="import")
        return Progress.FAILED if is_failed else Progress.STALE
