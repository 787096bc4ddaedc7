"""
Ports to use cases: the one place where collaborators are handed to each other, whatever they are made of.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

import attrs

from domain.batch import Batch, BatchPolicy, LeasePolicy
from domain.commitment import CommitmentPeer, CommitmentPolicy
from domain.import_job import PollPolicy
from domain.ports import (
    Clock,
    CommitmentSender,
    CommitmentStore,
    Importer,
    MetadataStore,
    OpenAssociations,
    ResultsReader,
    StagingArea,
    StudyDescriber,
    Telemetry,
    Workflow,
)
from services.carry_batch import CarryBatch
from services.commit_storage import AnswerCommitments, RequestCommitment
from services.follow_import import FollowImport
from services.list_batch import ListBatch
from services.receive_instance import ReceiveInstance
from services.reconcile import Reconcile
from services.record_results import RecordResults
from services.recover_batches import RecoverBatches
from services.rehouse_orphans import RehouseOrphans
from services.report_status import ReportStatus
from services.retry_batch import RetryBatch
from services.settle_instances import SettleInstances
from services.start_import import StartImport
from services.write_batches import WriteBatches


def batch_entropy() -> str:
    """Return what keeps the ids of two batches of one moment apart: eight hexadecimal digits."""
    return secrets.token_hex(4)


@attrs.frozen(kw_only=True)
class Ports:
    """
    Everything that the use cases need of the outside.

    Attributes:
        owner: names this process in the records of its batches.
        is_abandoned: tells whether the owner of an open batch can no longer write to it.
        commitments: the storage commitment requests; None where none are taken.
        lease: None where the owner holds a lock instead.
        runs_tell: the runs of the workflow tell people of batches that FAILED.

    """

    staging: StagingArea
    metadata: MetadataStore
    importer: Importer
    results: ResultsReader
    workflow: Workflow
    describe_study: StudyDescriber
    clock: Clock
    telemetry: Telemetry
    owner: str
    is_abandoned: Callable[[Batch], bool]
    commitments: CommitmentStore | None = None
    lease: LeasePolicy | None = None
    runs_tell: bool = False
    poll: PollPolicy = attrs.field(factory=PollPolicy)
    entropy: Callable[[], str] = batch_entropy


@attrs.frozen(kw_only=True)
class UseCases:
    """Every use case, wired; those of one process share its open batch."""

    ports: Ports
    report: ReportStatus
    list_batch: ListBatch
    start_import: StartImport
    follow_import: FollowImport
    record_results: RecordResults
    carry: CarryBatch
    retry: RetryBatch
    recover: RecoverBatches
    rehouse: RehouseOrphans
    reconcile: Reconcile

    def receiving(self, policy: BatchPolicy, max_bytes: int) -> tuple[WriteBatches, ReceiveInstance]:
        """Return what a receiver process adds: its open batch, and the use case behind C-STORE."""
        ports = self.ports
        batches = WriteBatches(
            staging=ports.staging,
            metadata=ports.metadata,
            workflow=ports.workflow,
            clock=ports.clock,
            telemetry=ports.telemetry,
            owner=ports.owner,
            entropy=ports.entropy,
            policy=policy,
            lease=ports.lease,
        )
        receive = ReceiveInstance(
            staging=ports.staging,
            batches=batches,
            clock=ports.clock,
            telemetry=ports.telemetry,
            max_bytes=max_bytes,
        )
        return batches, receive

    def taking_commitments(self, store: CommitmentStore, policy: CommitmentPolicy) -> RequestCommitment:
        """Return the use case behind a storage commitment request."""
        ports = self.ports
        return RequestCommitment(
            store=store, clock=ports.clock, telemetry=ports.telemetry, owner=ports.owner, policy=policy
        )

    def answering_commitments(
        self,
        store: CommitmentStore,
        policy: CommitmentPolicy,
        *,
        associations: OpenAssociations,
        sender: CommitmentSender,
        peers: Iterable[CommitmentPeer],
    ) -> AnswerCommitments:
        """Return the use case that answers storage commitment requests."""
        ports = self.ports
        return AnswerCommitments(
            store=store,
            metadata=ports.metadata,
            staging=ports.staging,
            sender=sender,
            associations=associations,
            clock=ports.clock,
            telemetry=ports.telemetry,
            owner=ports.owner,
            peers={peer.ae_title: peer for peer in peers},
            policy=policy,
        )


def assemble(ports: Ports) -> UseCases:
    """Wire the use cases on `ports`."""
    settle = SettleInstances(staging=ports.staging, metadata=ports.metadata)
    retry = RetryBatch(metadata=ports.metadata, workflow=ports.workflow, telemetry=ports.telemetry)
    rehouse = RehouseOrphans(
        staging=ports.staging,
        metadata=ports.metadata,
        workflow=ports.workflow,
        clock=ports.clock,
        telemetry=ports.telemetry,
        owner=ports.owner,
        entropy=ports.entropy,
        lease=ports.lease,
    )
    list_batch = ListBatch(
        staging=ports.staging,
        metadata=ports.metadata,
        importer=ports.importer,
        results=ports.results,
        settle=settle,
        describe_study=ports.describe_study,
        clock=ports.clock,
        telemetry=ports.telemetry,
    )
    start_import = StartImport(
        metadata=ports.metadata, importer=ports.importer, clock=ports.clock, telemetry=ports.telemetry
    )
    follow_import = FollowImport(metadata=ports.metadata, importer=ports.importer, telemetry=ports.telemetry)
    record_results = RecordResults(
        metadata=ports.metadata,
        importer=ports.importer,
        results=ports.results,
        settle=settle,
        rehouse=rehouse,
        retry=retry,
        clock=ports.clock,
        telemetry=ports.telemetry,
        poll=ports.poll,
    )
    return UseCases(
        ports=ports,
        report=ReportStatus(staging=ports.staging, metadata=ports.metadata),
        list_batch=list_batch,
        start_import=start_import,
        follow_import=follow_import,
        record_results=record_results,
        carry=CarryBatch(
            metadata=ports.metadata,
            list_batch=list_batch,
            start_import=start_import,
            follow_import=follow_import,
            record_results=record_results,
            clock=ports.clock,
            poll=ports.poll,
        ),
        retry=retry,
        recover=RecoverBatches(
            staging=ports.staging,
            metadata=ports.metadata,
            workflow=ports.workflow,
            clock=ports.clock,
            telemetry=ports.telemetry,
            is_abandoned=ports.is_abandoned,
            runs_tell=ports.runs_tell,
        ),
        rehouse=rehouse,
        reconcile=Reconcile(
            staging=ports.staging,
            metadata=ports.metadata,
            importer=ports.importer,
            results=ports.results,
            settle=settle,
            rehouse=rehouse,
            workflow=ports.workflow,
            clock=ports.clock,
            telemetry=ports.telemetry,
            is_abandoned=ports.is_abandoned,
            lease=ports.lease,
        ),
    )
