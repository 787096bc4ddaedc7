"""
Start the import job of a cleared batch, once however often it is asked.
"""

from __future__ import annotations

from enum import StrEnum

import attrs

from domain.batch import Batch
from domain.errors import ImportRefused
from domain.identifiers import BatchId
from domain.import_job import ImportJob, ImportRequest
from domain.lifecycle import BatchState
from domain.ports import Clock, Importer, MetadataStore, Telemetry
from services.fail_batch import record_failure


class Start(StrEnum):
    """What became of a start."""

    SUBMITTED = "submitted"
    REFUSED = "refused"  # for good: the batch has FAILED
    STALE = "stale"  # the batch has gone on without us


@attrs.frozen(kw_only=True)
class StartImport:
    """Submit one import job for a cleared batch."""

    metadata: MetadataStore
    importer: Importer
    clock: Clock
    telemetry: Telemetry

    def __call__(self, batch_id: BatchId) -> Start:
        """
        Submit the job and record its id.

        A later run looks the job up by name first: an earlier one may have started it and died, longer ago than the
        service remembers client tokens.

        Raises:
            ImporterBusy: throttled, no free job slot, or a service error: a wait, not a failure.
            MetadataUnavailable: the metadata store is away; repeat later.

        """
        batch = self.metadata.batch(batch_id)
        if batch is not None and batch.state is BatchState.FAILED:
            return Start.REFUSED  # an answer that was lost: people may not have been told
        if batch is None or batch.state is not BatchState.CLOSED or not batch.is_measured:
            return Start.STALE
        try:
            job = self.importer.find(batch.job_name) if batch.run > 1 else None
            job = job or self._start(batch)
        except ImportRefused as error:
            return self._refuse(batch, str(error))
        if not self.metadata.replace_batch(batch, batch.submitted(job.id, self.clock.now())):
            return Start.STALE
        self.telemetry.event(
            "import.started", batch=batch.id.value, job=job.id.value, files=batch.files, bytes=batch.size
        )
        self.telemetry.measure("ImportJobsStarted", 1)
        return Start.SUBMITTED

    def _start(self, batch: Batch) -> ImportJob:
        try:
            return self.importer.start(ImportRequest.of(batch))
        except ImportRefused:
            # An earlier request may have been accepted and its answer lost: that job goes on, whatever holds now.
            job = self.importer.find(batch.job_name)
            if job is None:
                raise
            return job

    def _refuse(self, batch: Batch, reason: str) -> Start:
        is_failed = record_failure(self.metadata, self.telemetry, batch, reason, step="start")
        return Start.REFUSED if is_failed else Start.STALE
