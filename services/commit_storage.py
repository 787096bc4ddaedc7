"""
Storage commitment (PS3.4 Annex J): take requests, find out what is true of their instances, and answer.

A request is durable before it is acknowledged, so that whoever was told "accepted" is answered, restart or not.
Its receiver holds it while the association of the request may be used; after that any receiver may answer it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

import attrs

from domain.commitment import (
    CommitmentLevel,
    CommitmentPeer,
    CommitmentPolicy,
    CommitmentReference,
    CommitmentRequest,
    CommitmentState,
    FailureReason,
    Known,
    Verdict,
)
from domain.identifiers import AeTitle, Uid
from domain.lifecycle import MAYBE_UNLISTED
from domain.ports import (
    Clock,
    CommitmentSender,
    CommitmentStore,
    MetadataStore,
    OpenAssociations,
    Reported,
    StagingArea,
    Telemetry,
)
from domain.record import InstanceRecord
from domain.staging import StagedObject
from services.settle_instances import chunks

_REPEAT_ROUNDS = 5
# Of one round: claims must not run out while other results are delivered, and what is claimed is held in memory.
_REQUESTS_AT_ONCE = 20
_REFERENCES_AT_ONCE = 20_000
# While nothing is tried there is nothing new to tell; the first attempt may have been one that was refused.
_TOLD_ATTEMPTS = 2


@attrs.frozen(kw_only=True)
class RequestCommitment:
    """Take a request for storage commitment."""

    store: CommitmentStore
    clock: Clock
    telemetry: Telemetry
    owner: str
    policy: CommitmentPolicy = attrs.field(factory=CommitmentPolicy)

    def __call__(
        self,
        *,
        transaction: Uid,
        references: Sequence[CommitmentReference],
        requestor: AeTitle,
        called: AeTitle,
        association: str,
    ) -> FailureReason | None:
        """
        Make a request durable, so that it will be answered.

        The same request again, from the same requestor, is answered again.

        Returns:
            None once it is durable, else why it is not taken.

        Raises:
            MetadataUnavailable: it is not certainly durable.

        """
        if len(references) > self.policy.max_references:
            return FailureReason.RESOURCE_LIMITATION
        asked = CommitmentRequest.of(
            transaction=transaction,
            requestor=requestor,
            called=called,
            association=association,
            references=references,
            now=self.clock.now(),
            receiver=self.owner,
            policy=self.policy,
        )
        is_new = self.store.add_commitment(asked)
        if not is_new:
            refusal = self._repeat(asked)
            if refusal is not None:
                return refusal
        self.telemetry.event(
            "commitment.requested",
            association=association,
            transaction=transaction.value,
            calling_ae_title=requestor.value,
            instances=len(asked.references),
            is_repeated=int(not is_new),
        )
        return None

    def _repeat(self, asked: CommitmentRequest) -> FailureReason | None:
        for _ in range(_REPEAT_ROUNDS):
            stored = self.store.commitment(asked.transaction)
            if stored is None:  # forgotten in this very moment
                if self.store.add_commitment(asked):
                    return None
                continue
            if not stored.is_the_same_as(asked):
                return FailureReason.DUPLICATE_TRANSACTION_UID
            if self.store.replace_commitment(stored, stored.repeated(asked)):
                return None
        # Somebody works on it so busily that it is being answered already.
        return None


@attrs.frozen
class _Obstacles:
    """Who takes nothing in this round: one who does not answer must not cost a time-out for each of its requests."""

    associations: set[str] = attrs.field(factory=set)
    peers: dict[AeTitle, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class AnswerCommitments:
    """
    Answer requests as soon as everything is known, and go on trying until the answer is delivered.

    Called every few seconds, by as many threads and receivers at once as there are.

    Attributes:
        peers: where answers are delivered when the association of the request is gone, by AE title.

    """

    store: CommitmentStore
    metadata: MetadataStore
    staging: StagingArea
    sender: CommitmentSender
    associations: OpenAssociations
    clock: Clock
    telemetry: Telemetry
    owner: str
    peers: Mapping[AeTitle, CommitmentPeer] = attrs.field(factory=dict)
    policy: CommitmentPolicy = attrs.field(factory=CommitmentPolicy)
    _at_work: set[Uid] = attrs.field(factory=set, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)
    _looking: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def __call__(self) -> int:
        """
        Look at every request that is due, and return how many were answered.

        Raises:
            MetadataUnavailable, StageFailed: a store is away; repeat later.

        """
        claimed: list[CommitmentRequest] = []
        answered = 0
        try:
            known = self._look(claimed)
            obstacles = _Obstacles()
            for request in claimed:
                mine = self._still_mine(request)
                if mine is not None:
                    answered += self._advance(mine, known, obstacles)
        finally:
            with self._lock:
                self._at_work.difference_update(request.transaction for request in claimed)
        return answered

    def _look(self, claimed: list[CommitmentRequest]) -> dict[Uid, Known]:
        """Claim what is due, and find out what is known of its instances."""
        # One thread at a time: this is work, and must leave the processor to receiving; delivering is mostly waiting.
        if not self._looking.acquire(blocking=False):
            return {}
        try:
            self._claim_due(claimed)
            return self._find_out(claimed)
        finally:
            self._looking.release()

    def _find_out(self, claimed: Sequence[CommitmentRequest]) -> dict[Uid, Known]:
        wanted = {
            reference.sop_instance
            for request in claimed
            if request.state is CommitmentState.WAITING
            for reference in request.undecided
        }
        # Before the table: what leaves these batches meanwhile is in the table by then.
        unlisted = self._unlisted(wanted)
        return self._known(wanted, unlisted)

    def _claim_due(self, claimed: list[CommitmentRequest]) -> None:
        references = 0
        now = self.clock.now()
        for request in self.store.due_commitments(now):
            if not request.may_be_claimed(self.owner, now) or not self._begin(request.transaction):
                continue
            mine = request.claimed(self.owner, now, self.policy)
            is_mine = False
            try:
                is_mine = self.store.replace_commitment(request, mine)
            finally:
                if not is_mine:
                    self._end(request.transaction)
            if is_mine:
                claimed.append(mine)
                references += len(mine.references)
                if len(claimed) >= _REQUESTS_AT_ONCE or references >= _REFERENCES_AT_ONCE:
                    return

    def _begin(self, transaction: Uid) -> bool:
        """Keep two threads of this process apart, which share their claims."""
        with self._lock:
            if transaction in self._at_work:
                return False
            self._at_work.add(transaction)
            return True

    def _end(self, transaction: Uid) -> None:
        with self._lock:
            self._at_work.discard(transaction)

    def _unlisted(self, wanted: set[Uid]) -> dict[Uid, StagedObject]:
        """Find copies in batches that were not listed yet."""
        found: dict[Uid, StagedObject] = {}
        if not wanted:
            return found
        batches = [batch for batch in self.metadata.batches(MAYBE_UNLISTED) if batch.is_unlisted]
        for batch in reversed(batches):
            for staged in self.staging.list(batch.id):
                if staged.key.sop_instance in wanted:
                    found.setdefault(staged.key.sop_instance, staged)
        return found

    def _known(self, wanted: Iterable[Uid], unlisted: Mapping[Uid, StagedObject]) -> dict[Uid, Known]:
        newest: dict[Uid, InstanceRecord] = {}
        for chunk in chunks(sorted(wanted)):
            for record in self.store.find_instances(chunk):
                other = newest.get(record.key.sop_instance)
                if other is None or record.is_newer_than(other):
                    newest[record.key.sop_instance] = record
        classes: dict[Uid, Uid] = {}
        if self.policy.level is CommitmentLevel.STAGED:
            # Only this level answers for what was not listed yet, so only this one has to open it.
            for staged in self.staging.facts(unlisted.values()):
                classes[staged.key.sop_instance] = staged.instance.sop_class
        known = {}
        for uid in {*newest, *unlisted}:
            is_unlisted = uid in unlisted
            if is_unlisted and self.policy.level is CommitmentLevel.STAGED and uid not in classes:
                is_unlisted = False  # moved on between listing and opening: the next look finds it
            known[uid] = Known(record=newest.get(uid), is_unlisted=is_unlisted, unlisted_sop_class=classes.get(uid))
        return known

    def _still_mine(self, request: CommitmentRequest) -> CommitmentRequest | None:
        """Claim a request again whose turn came late; None if somebody else has it by now."""
        now = self.clock.now()
        if not request.needs_new_claim(now, self.policy):
            return request
        renewed = request.claimed(self.owner, now, self.policy)
        return renewed if self.store.replace_commitment(request, renewed) else None

    def _advance(self, request: CommitmentRequest, known: Mapping[Uid, Known], obstacles: _Obstacles) -> bool:
        """Decide what can be decided, deliver what is complete, and tell whether it was delivered."""
        now = self.clock.now()
        decided = request
        if request.state is CommitmentState.WAITING:
            age = request.age_seconds(now)
            verdicts: list[Verdict | None] = [
                verdict or self.policy.verdict(reference, known.get(reference.sop_instance, Known()), age)
                for reference, verdict in zip(request.references, request.verdicts, strict=True)
            ]
            decided = request.looked(verdicts, now, self.policy)
        if decided.state is CommitmentState.WAITING:
            self._put(request, decided)
            return False
        after = self._deliver(decided, obstacles)
        self._put(request, after)
        return after.state is CommitmentState.ANSWERED

    def _deliver(self, request: CommitmentRequest, obstacles: _Obstacles) -> CommitmentRequest:
        peer = self.peers.get(request.requestor)
        result = request.result
        began = self.clock.now()
        is_in_time = request.age_seconds(began) < self.policy.wait_seconds
        if is_in_time or peer is None:
            is_held_up = request.association in obstacles.associations
            reported = Reported.BUSY if is_held_up else self.associations.report(request.association, result)
            if reported in {Reported.BUSY, Reported.REFUSED}:
                obstacles.associations.add(request.association)
            if reported is Reported.DELIVERED:
                return self._answered(request, "the association of the request")
            if reported is Reported.BUSY:
                return request.postponed(self.clock.now(), self.policy)
            if reported is Reported.REFUSED:
                return self._undelivered(request, "the requestor did not confirm it on the association of the request")
        if peer is None:
            if request.attempts < _TOLD_ATTEMPTS:
                self.telemetry.event(
                    "commitment.undeliverable",
                    transaction=request.transaction.value,
                    calling_ae_title=request.requestor.value,
                    remedy="the association of the request has ended; to deliver answers later, add"
                    f" {request.requestor}=host:port to --commitment-peers",
                )
            return self._later(request)
        problem = obstacles.peers.get(request.requestor) or self.sender.deliver(result, peer)
        if problem is None:
            return self._answered(request, "a new association")
        obstacles.peers[request.requestor] = problem
        return self._undelivered(request, problem)

    def _answered(self, request: CommitmentRequest, way: str) -> CommitmentRequest:
        now = self.clock.now()
        result = request.result
        self.telemetry.event(
            "commitment.answered",
            transaction=request.transaction.value,
            calling_ae_title=request.requestor.value,
            committed=len(result.committed),
            failed=len(result.failed),
            way=way,
            seconds=round(request.age_seconds(now), 3),
        )
        self.telemetry.measure("CommitmentsAnswered", 1)
        self.telemetry.measure("CommitmentSeconds", request.age_seconds(now), "Seconds")
        return request.answered(now)

    def _undelivered(self, request: CommitmentRequest, problem: str) -> CommitmentRequest:
        self.telemetry.event(
            "commitment.delivery_failed",
            transaction=request.transaction.value,
            calling_ae_title=request.requestor.value,
            attempt=request.attempts + 1,
            problem=problem,
        )
        return self._later(request)

    def _later(self, request: CommitmentRequest) -> CommitmentRequest:
        after = request.undelivered(self.clock.now(), self.policy)
        if after.is_finished:
            self.telemetry.event(
                "commitment.delivery_lost",
                transaction=request.transaction.value,
                calling_ae_title=request.requestor.value,
                attempts=after.attempts,
                remedy="let the device ask again, once it can be reached at its address in --commitment-peers",
            )
        return after

    def _put(self, request: CommitmentRequest, after: CommitmentRequest) -> None:
        """Write what became of it and end the claim, unless it has to wait for its association here."""
        is_held = not after.is_finished and self.associations.is_open(request.association)
        kept = after.kept(self.owner, self.policy) if is_held else after.released()
        # Refused if the requestor has asked again meanwhile: then it is answered again.
        self.store.replace_commitment(request, kept)
