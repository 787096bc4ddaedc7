"""
Record the results of an ended job: settle every instance of the batch.

What is recorded is the union of the listing and the results.
An instance that was listed and has no outcome has FAILED and is kept; an object that the job found and no listing
named is entered late.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum

import attrs

from domain.batch import Batch
from domain.errors import ImportRefused, ResultsNotReady, ResultsUnreadable
from domain.identifiers import BatchId
from domain.import_job import ImportJob, PollPolicy
from domain.lifecycle import STARTED, BatchState, InstanceState
from domain.ports import Clock, Importer, MetadataStore, ResultsReader, Telemetry
from domain.record import NO_OUTCOME, InstanceRecord
from services.fail_batch import record_failure
from services.rehouse_orphans import RehouseOrphans
from services.retry_batch import RetryBatch
from services.settle_instances import SettleInstances, chunks

_SERVER_RETRIES = 3


class Recording(StrEnum):
    """What became of a recording."""

    SETTLED = "settled"
    FAILED = "failed"  # the results cannot be read: the batch has FAILED
    STALE = "stale"  # the batch has gone on without us


@attrs.frozen(kw_only=True)
class RecordResults:
    """Settle the instances of a batch whose job has ended."""

    metadata: MetadataStore
    importer: Importer
    results: ResultsReader
    settle: SettleInstances
    rehouse: RehouseOrphans
    retry: RetryBatch
    clock: Clock
    telemetry: Telemetry
    poll: PollPolicy = attrs.field(factory=PollPolicy)

    def __call__(self, batch_id: BatchId) -> Recording:
        """
        Read the results and settle the batch; may be repeated at any point.

        Raises:
            ResultsNotReady: they are not complete yet; repeat later.
            ImporterBusy: the service cannot be asked now; repeat later.
            MetadataUnavailable: the metadata store is away; repeat later.

        """
        batch = self.metadata.batch(batch_id)
        if batch is not None and batch.state is BatchState.FAILED:
            return Recording.FAILED  # an answer that was lost: people may not have been told
        if batch is None or batch.state not in STARTED or batch.job_id is None:
            return Recording.STALE
        try:
            job = self.importer.describe(batch.job_id)
        except ImportRefused as error:
            return self._fail(batch, str(error))
        try:
            self._record(batch, job)
        except ResultsNotReady as error:
            if not self._is_overdue(batch, job):
                raise
            return self._fail(batch, f"the results of import job {job.id} never came: {error}")
        except ResultsUnreadable as error:
            return self._fail(batch, f"the results of import job {job.id} cannot be read: {error}")
        return self._settle(batch)

    def _record(self, batch: Batch, job: ImportJob) -> None:
        self.settle.record(batch.id, batch.attempt, self.results.outcomes(job), self.importer.data_store)
        for chunk in chunks(self._without_outcome(batch)):
            self.metadata.put_entries([entry.failed(NO_OUTCOME, batch.attempt) for entry in chunk])
        self.settle.refresh_holdings(batch.id)

    def _without_outcome(self, batch: Batch) -> Iterator[InstanceRecord]:
        for entry in self.metadata.entries(batch.id):
            if entry.state is InstanceState.STAGED and entry.attempt == batch.attempt:
                yield entry

    def _settle(self, batch: Batch) -> Recording:
        imported = failed = 0
        may_help = False
        waited = timedelta()
        now = self.clock.now()
        for entry in self.metadata.entries(batch.id):
            if entry.attempt == batch.attempt:
                imported += entry.state is InstanceState.IMPORTED
                failed += entry.state is InstanceState.FAILED
                may_help = may_help or (entry.state is InstanceState.FAILED and entry.is_server_error)
                waited = max(waited, now - (entry.received_at or now))
        settled = batch.settled(now)
        is_retried = may_help and batch.server_retries < _SERVER_RETRIES
        # One write: whoever dies after it leaves a batch that goes on by itself.
        after = settled.retried(by_itself=True) if is_retried else settled
        if not self.metadata.replace_batch(batch, after):
            return Recording.STALE
        self.telemetry.event("batch.settled", batch=batch.id.value, imported=imported, failed=failed)
        self.telemetry.measure("InstancesImported", imported)
        self.telemetry.measure("InstancesFailed", failed)
        self.telemetry.measure("ReceivedToImported", waited.total_seconds(), "Seconds")
        if is_retried:
            self.retry.begin(after)  # its listing names what no listing named so far
        else:
            self.rehouse(batch.id)
        return Recording.SETTLED

    def _is_overdue(self, batch: Batch, job: ImportJob) -> bool:
        ended = job.ended_at or batch.submitted_at or batch.opened_at
        return (self.clock.now() - ended).total_seconds() > self.poll.results_patience_seconds

    def _fail(self, batch: Batch, reason: str) -> Recording:
        is_failed = record_failure(self.metadata, self.telemetry, batch, reason, step="results")
        return Recording.FAILED if is_failed else Recording.STALE
