"""
Storage commitment (PS3.4 Annex J): what was asked for, what is known of each instance, what is answered and when.

Modalities delete their images by our answer, so it is never given on a guess: what is not certain is undecided, and
an undecided instance makes the answer wait.

Laws:
- A request is durable before it is acknowledged, and ends ANSWERED or GIVEN_UP.
- A verdict, once given, stays until the request is repeated; a result is complete or it is not sent.
- Who works on a request has claimed it; a claim ends by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

import attrs

from domain.errors import IllegalTransition, InvalidIdentifier
from domain.identifiers import AeTitle, Uid
from domain.lifecycle import InstanceState
from domain.record import InstanceRecord

MOST_REFERENCES = 9_000  # of a request: its record, compressed, fits into 400 KB whatever their UIDs are


class CommitmentLevel(StrEnum):
    """What has to be true of an instance before we answer for it."""

    STAGED = "staged"  # its bytes are durable with us
    IMPORTED = "imported"  # its newest version is in the data store
    PRIMARY = "primary"  # its newest version is in a primary image set


class FailureReason(IntEnum):
    """Why an instance is not committed: Failure Reason (0008,1197), PS3.3 C.14.1.1."""

    PROCESSING_FAILURE = 0x0110  # a general failure: here, it was not imported, or not in time
    NO_SUCH_INSTANCE = 0x0112  # nothing of that UID was ever received
    CLASS_INSTANCE_CONFLICT = 0x0119  # it was received as an instance of another SOP class
    SOP_CLASS_NOT_SUPPORTED = 0x0122  # instances of that SOP class are not taken here
    DUPLICATE_TRANSACTION_UID = 0x0131  # the Transaction UID is in use for something else
    RESOURCE_LIMITATION = 0x0213  # more references than one request may have


@attrs.frozen(order=True)
class CommitmentReference:
    """One instance that commitment is asked for (PS3.3 table 10-11)."""

    sop_class: Uid
    sop_instance: Uid


@attrs.frozen
class Verdict:
    """What is answered for one instance: committed, or the reason why not."""

    failure: FailureReason | None = None

    @property
    def is_committed(self) -> bool:
        """Whether we take the responsibility."""
        return self.failure is None


COMMITTED = Verdict()


@attrs.frozen(kw_only=True)
class Known:
    """
    What is known of the instance that a reference names.

    Attributes:
        record: its newest record in the table.
        is_unlisted: a batch that was not listed yet holds a copy, which is newer than the record.
        unlisted_sop_class: of that copy, where it was looked up.

    """

    record: InstanceRecord | None = None
    is_unlisted: bool = False
    unlisted_sop_class: Uid | None = None


@attrs.frozen(kw_only=True)
class CommitmentPolicy:
    """
    What we commit to, and how long things may take.

    Attributes:
        level: what makes an instance committed.
        sop_classes: those that are taken here; empty: any.
        wait_seconds: how long the answer may take to go out on the association of the request.
        patience_seconds: how long a request may stay undecided, and then its result undelivered.
        unknown_seconds: how long an instance that nobody knows is looked for: it may be between two tables.
        claim_seconds: how long a claim lasts; longer than a delivery can take.
        look_seconds: between the first looks at an undecided request.
        longest_look_seconds: between the later ones.
        retry_seconds: before the second delivery; each further wait is twice as long.
        longest_retry_seconds: between the later deliveries.
        max_references: in one request.

    """

    level: CommitmentLevel = CommitmentLevel.IMPORTED
    sop_classes: frozenset[Uid] = frozenset()
    wait_seconds: float = 30.0
    patience_seconds: float = 24 * 3600.0
    unknown_seconds: float = 10.0
    claim_seconds: float = 180.0
    look_seconds: float = 2.0
    longest_look_seconds: float = 60.0
    retry_seconds: float = 10.0
    longest_retry_seconds: float = 3600.0
    max_references: int = MOST_REFERENCES

    def next_look(self, age_seconds: float) -> float:
        """Return the seconds until an undecided request of that age is looked at again."""
        return min(self.longest_look_seconds, max(self.look_seconds, age_seconds / 10))

    def next_delivery(self, attempts: int) -> float:
        """Return the seconds to wait after so many deliveries have failed."""
        return float(min(self.longest_retry_seconds, self.retry_seconds * 2.0 ** min(attempts - 1, 32)))

    def verdict(self, reference: CommitmentReference, known: Known, age_seconds: float) -> Verdict | None:
        """Decide on one reference of a request of that age; None: not yet known."""
        verdict = _verdict(reference, known, self.level)
        if verdict is not None:
            return verdict
        if known.record is None and not known.is_unlisted:
            if self.sop_classes and reference.sop_class not in self.sop_classes:
                return Verdict(FailureReason.SOP_CLASS_NOT_SUPPORTED)
            return Verdict(FailureReason.NO_SUCH_INSTANCE) if age_seconds >= self.unknown_seconds else None
        return Verdict(FailureReason.PROCESSING_FAILURE) if age_seconds >= self.patience_seconds else None


def _verdict(reference: CommitmentReference, known: Known, level: CommitmentLevel) -> Verdict | None:
    record = known.record
    sop_class = known.unlisted_sop_class if known.is_unlisted or record is None else record.sop_class
    if sop_class is not None and sop_class != reference.sop_class:
        return Verdict(FailureReason.CLASS_INSTANCE_CONFLICT)
    if known.is_unlisted:
        return COMMITTED if level is CommitmentLevel.STAGED else None
    if record is None:
        return None
    if level is CommitmentLevel.STAGED:
        # Without a digest only the results name it: nobody has its bytes.
        return COMMITTED if record.digest is not None else Verdict(FailureReason.PROCESSING_FAILURE)
    if record.state is InstanceState.IMPORTED:
        is_good = level is CommitmentLevel.IMPORTED or record.is_primary is True
        return COMMITTED if is_good else Verdict(FailureReason.PROCESSING_FAILURE)
    # After an error of the service itself another attempt follows.
    is_final = record.state is InstanceState.FAILED and not record.is_server_error
    return Verdict(FailureReason.PROCESSING_FAILURE) if is_final else None


@attrs.frozen(kw_only=True)
class CommitmentResult:
    """
    A complete answer (PS3.4 J.3.3).

    Attributes:
        requestor: the AE title that asked and is told.
        called: the AE title by which it called us.

    """

    transaction: Uid
    requestor: AeTitle
    called: AeTitle
    committed: tuple[CommitmentReference, ...] = ()
    failed: tuple[tuple[CommitmentReference, FailureReason], ...] = ()


class CommitmentState(StrEnum):
    """Where a request is."""

    WAITING = "waiting"  # some instance is undecided
    DECIDED = "decided"  # the result is known and not delivered yet
    ANSWERED = "answered"
    GIVEN_UP = "given_up"  # the result could not be delivered in time


COMMITMENT_TRANSITIONS: Mapping[CommitmentState, frozenset[CommitmentState]] = {
    CommitmentState.WAITING: frozenset({CommitmentState.WAITING, CommitmentState.DECIDED}),
    # delivered; tried again later, or for too long; the requestor asked again
    CommitmentState.DECIDED: frozenset(CommitmentState),
    # the requestor asked again
    CommitmentState.ANSWERED: frozenset({CommitmentState.WAITING}),
    CommitmentState.GIVEN_UP: frozenset({CommitmentState.WAITING}),
}

_FINISHED = frozenset({CommitmentState.ANSWERED, CommitmentState.GIVEN_UP})

# Beyond the time in which its own receiver answers on the association.
_RESERVE_SECONDS = 5.0


@attrs.frozen(kw_only=True)
class CommitmentRequest:
    """
    The record of a request.

    Attributes:
        requestor: the AE title that asked.
        called: the AE title by which it called us.
        association: the association it came on, as long as that is open on the receiver that holds the claim.
        references: each instance once, in the order of the request.
        verdicts: one for each reference, None while undecided.
        due_at: when to look at it next; of a finished one, when it ended.
        decided_at: when the result was complete.
        attempts: deliveries that failed.
        claimed_by: the receiver process that works on it or holds its association.
        revision: raised by every change; a change is made only to the revision that was read.

    """

    transaction: Uid
    requestor: AeTitle
    called: AeTitle
    association: str = ""
    references: tuple[CommitmentReference, ...]
    verdicts: tuple[Verdict | None, ...] = attrs.field()
    requested_at: datetime
    due_at: datetime
    state: CommitmentState = CommitmentState.WAITING
    decided_at: datetime | None = None
    attempts: int = 0
    claimed_by: str | None = None
    claimed_until: datetime | None = None
    revision: int = 1

    @verdicts.default
    def _undecided(self) -> tuple[Verdict | None, ...]:
        return (None,) * len(self.references)

    @verdicts.validator
    def _check(self, _attribute: object, verdicts: tuple[Verdict | None, ...]) -> None:
        if len(verdicts) != len(self.references):
            raise ValueError("a verdict, or None, is needed for each reference")

    @classmethod
    def of(  # noqa: PLR0913  # the facts of a request, each by its name
        cls,
        *,
        transaction: Uid,
        requestor: AeTitle,
        called: AeTitle,
        association: str,
        references: Iterable[CommitmentReference],
        now: datetime,
        receiver: str,
        policy: CommitmentPolicy,
    ) -> CommitmentRequest:
        """Return a new request, claimed by the receiver whose association it came on as long as that may be used."""
        return cls(
            transaction=transaction,
            requestor=requestor,
            called=called,
            association=association,
            references=tuple(dict.fromkeys(references)),
            requested_at=now,
            due_at=now,
            claimed_by=receiver,
            claimed_until=_reserved_until(now, policy),
        )

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to be done."""
        return self.state in _FINISHED

    @property
    def undecided(self) -> tuple[CommitmentReference, ...]:
        """The references without a verdict."""
        pairs = zip(self.references, self.verdicts, strict=True)
        return tuple(reference for reference, verdict in pairs if verdict is None)

    @property
    def result(self) -> CommitmentResult:
        """The answer; complete once nothing is undecided."""
        pairs = list(zip(self.references, self.verdicts, strict=True))
        return CommitmentResult(
            transaction=self.transaction,
            requestor=self.requestor,
            called=self.called,
            committed=tuple(reference for reference, verdict in pairs if verdict is not None and verdict.is_committed),
            failed=tuple(
                (reference, verdict.failure)
                for reference, verdict in pairs
                if verdict is not None and verdict.failure is not None
            ),
        )

    def age_seconds(self, now: datetime) -> float:
        """Return how long ago it was asked for."""
        return (now - self.requested_at).total_seconds()

    def is_the_same_as(self, other: CommitmentRequest) -> bool:
        """Tell whether `other` asks the same for the same requestor, in whatever order."""
        return self.requestor == other.requestor and set(self.references) == set(other.references)

    def may_be_claimed(self, owner: str, now: datetime) -> bool:
        """Tell whether `owner` may work on it now."""
        return self.claimed_by in {None, owner} or self.claimed_until is None or self.claimed_until <= now

    def claimed(self, owner: str, now: datetime, policy: CommitmentPolicy) -> CommitmentRequest:
        """Return it in the hands of `owner`."""
        return self._changed(claimed_by=owner, claimed_until=now + timedelta(seconds=policy.claim_seconds))

    def needs_new_claim(self, now: datetime, policy: CommitmentPolicy) -> bool:
        """Tell whether so little is left of the claim that a delivery might outlast it."""
        return self.claimed_until is None or (self.claimed_until - now).total_seconds() < policy.claim_seconds / 2

    def kept(self, owner: str, policy: CommitmentPolicy) -> CommitmentRequest:
        """Return it reserved for `owner`, who holds its association, until well after it is due."""
        window = _reserved_until(self.requested_at, policy)
        return attrs.evolve(
            self, claimed_by=owner, claimed_until=max(window, self.due_at + timedelta(seconds=policy.claim_seconds))
        )

    def released(self) -> CommitmentRequest:
        """Return it free for any receiver."""
        return attrs.evolve(self, claimed_by=None, claimed_until=None)

    def looked(self, verdicts: Sequence[Verdict | None], now: datetime, policy: CommitmentPolicy) -> CommitmentRequest:
        """Return it with what is known now: decided, or due for another look."""
        if None in verdicts:
            again = now + timedelta(seconds=policy.next_look(self.age_seconds(now)))
            return self._changed(state=CommitmentState.WAITING, verdicts=tuple(verdicts), due_at=again)
        return self._changed(state=CommitmentState.DECIDED, verdicts=tuple(verdicts), due_at=now, decided_at=now)

    def answered(self, now: datetime) -> CommitmentRequest:
        """Return it as delivered."""
        return self._changed(state=CommitmentState.ANSWERED, due_at=now)

    def postponed(self, now: datetime, policy: CommitmentPolicy) -> CommitmentRequest:
        """Return it for another look soon: its association is busy."""
        return self._changed(state=CommitmentState.DECIDED, due_at=now + timedelta(seconds=policy.look_seconds))

    def undelivered(self, now: datetime, policy: CommitmentPolicy) -> CommitmentRequest:
        """Return it after a delivery that failed: due for another one, or given up after too long."""
        attempts = self.attempts + 1
        decided_at = self.decided_at or now
        if (now - decided_at).total_seconds() >= policy.patience_seconds:
            return self._changed(state=CommitmentState.GIVEN_UP, attempts=attempts, due_at=now)
        again = now + timedelta(seconds=policy.next_delivery(attempts))
        return self._changed(state=CommitmentState.DECIDED, attempts=attempts, due_at=again)

    def repeated(self, again: CommitmentRequest) -> CommitmentRequest:
        """
        Return it as the requestor asks again.

        A finished one begins anew, since what was not committed may be by now; another one keeps what is known of it
        and moves to the association of the repetition.
        """
        if self.is_finished:
            _check_transition(self.state, CommitmentState.WAITING)
            return attrs.evolve(again, revision=self.revision + 1)
        return self._changed(
            association=again.association,
            called=again.called,
            due_at=again.due_at,
            claimed_by=again.claimed_by,
            claimed_until=again.claimed_until,
        )

    def _changed(self, **changes: object) -> CommitmentRequest:
        after = changes.get("state")
        if isinstance(after, CommitmentState):
            _check_transition(self.state, after)
        return attrs.evolve(self, revision=self.revision + 1, **changes)  # type: ignore[arg-type]  # by our own methods


def _reserved_until(requested_at: datetime, policy: CommitmentPolicy) -> datetime:
    return requested_at + timedelta(seconds=policy.wait_seconds + _RESERVE_SECONDS)


def _check_transition(before: CommitmentState, after: CommitmentState) -> None:
    if after not in COMMITMENT_TRANSITIONS[before]:
        raise IllegalTransition("commitment request", before, after)


_PEER = re.compile(
    r"(?P<title>.+)=(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s=:\[\]]+)):(?P<port>[0-9]{1,5})", re.ASCII
)
_HIGHEST_PORT = 65_535


@attrs.frozen(kw_only=True)
class CommitmentPeer:
    """Where the storage commitment result for an AE title is delivered."""

    ae_title: AeTitle
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> CommitmentPeer:
        """
        Read `CT1=10.0.0.7:104`, `CT1=ct1.example:104` or `CT1=[2001:db8::7]:104`.

        Raises:
            InvalidIdentifier: if it is none of these.

        """
        match = _PEER.fullmatch(text.strip())
        if match is None or not 1 <= int(match["port"]) <= _HIGHEST_PORT:
            raise InvalidIdentifier("address of a commitment peer", text, "AE=host:port is expected, IPv6 in brackets")
        return cls(ae_title=AeTitle.parse(match["title"]), host=match["ipv6"] or match["host"], port=int(match["port"]))

    def __str__(self) -> str:
        """Return what `parse` reads."""
        return (
            f"{self.ae_title}=[{self.host}]:{self.port}"
            if ":" in self.host
            else f"{self.ae_title}={self.host}:{self.port}"
        )
