"""
Storage Commitment Push Model on open associations (PS3.4 Annex J): N-ACTION in, N-EVENT-REPORT out.

A result waits in the mailbox of its association until the association's own thread takes it, which alone reads and
writes the socket: no lock stands in the way of a C-STORE.
It takes it in a quiet moment between two messages, since many senders take whatever comes after their request for its
response.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

import attrs

from adapters.inbound.dicom.commitment_data import (
    MAXIMUM_BYTES,
    TRANSFER_SYNTAXES,
    encode_information,
    event_information,
    event_type,
    read_request,
)
from adapters.inbound.dicom.dimse import Command, encode_event_report
from adapters.inbound.dicom.seam import Telemetry
from adapters.inbound.dicom.status import PROCESSING_FAILURE, SUCCESS, Answer
from domain.association import Acceptance
from domain.commitment import CommitmentReference, CommitmentResult, FailureReason
from domain.errors import InvalidIdentifier, MetadataUnavailable, ProtocolViolation, StoreScpError, UnreadableDataSet
from domain.identifiers import AeTitle, Uid
from domain.ports import Reported

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"  # PS3.4 J.3.5
REQUEST_STORAGE_COMMITMENT = 1  # Action Type ID, PS3.4 J.3.2.1

# PS3.7 10.1.4.1.10; none of the service itself is defined (PS3.4 J.3.2.1.3).
NO_SUCH_INSTANCE = 0x0112
INVALID_ARGUMENT = 0x0115
INVALID_INSTANCE = 0x0117
NO_SUCH_CLASS = 0x0118
NO_SUCH_ACTION = 0x0123
DUPLICATE_TRANSACTION = 0x0131  # of PS3.3 C.14.1.1; in the range of failures, PS3.7 C.1
RESOURCE_LIMITATION = 0x0213

ACCEPTED = Answer(status=SUCCESS)

# Of requests that are arriving, in all; and how many that are complete are read and kept at a time.
_MOST_ARRIVING_BYTES = 32 * 1024 * 1024
_AT_ONCE = 4
_TOO_MANY_INSTANCES = Answer(status=RESOURCE_LIMITATION, comment="Too many instances in one request: ask in parts")
_TOO_MANY_REQUESTS = Answer(status=RESOURCE_LIMITATION, comment="Too many requests are arriving: ask again later")

_QUIET_SECONDS = 1.0
_BUSY_SECONDS = 5.0
_RESPONSE_SECONDS = 30.0
_LAST_MESSAGE_ID = 65_535


class RequestCommitment(Protocol):
    """The use case behind the N-ACTION."""

    def __call__(
        self,
        *,
        transaction: Uid,
        references: tuple[CommitmentReference, ...],
        requestor: AeTitle,
        called: AeTitle,
        association: str,
    ) -> FailureReason | None:
        """
        Make a request durable; a reason means that it is not taken.

        Raises:
            StoreScpError: it is not certainly durable.

        """
        ...


@attrs.define(eq=False)
class _Letter:
    """A result on its way; `_Mailbox` guards its fields."""

    result: CommitmentResult
    message_id: int = 0
    outcome: Reported | None = None


class _Mailbox:
    """The results of one association: posted by any thread, taken and settled by the association's own."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[_Letter] = deque()
        self._sent: _Letter | None = None
        self._is_closed = False

    def post(self, result: CommitmentResult, busy_seconds: float, response_seconds: float) -> Reported:
        """Leave a result and wait for what becomes of it."""
        letter = _Letter(result)
        with self._changed:
            if self._is_closed:
                return Reported.GONE
            self._waiting.append(letter)
            self._changed.wait_for(lambda: letter not in self._waiting, busy_seconds)
            if letter in self._waiting:
                self._waiting.remove(letter)
                return Reported.BUSY
            self._changed.wait_for(lambda: letter.outcome is not None, response_seconds)
            if letter.outcome is None:
                return Reported.REFUSED  # its response, should it come yet, is still matched
            return letter.outcome

    def take(self, message_id: int) -> CommitmentResult | None:
        """Take a result to be sent under that id; one at a time, since we invoke no more (PS3.7 D.3.3.3)."""
        with self._changed:
            if self._sent is not None or not self._waiting:
                return None
            self._sent = self._waiting.popleft()
            self._sent.message_id = message_id
            self._changed.notify_all()
            return self._sent.result

    def settle(self, message_id: int, outcome: Reported) -> bool:
        """Note the response to the result that was sent; False if none was sent under that id."""
        with self._changed:
            if self._sent is None or self._sent.message_id != message_id:
                return False
            self._sent.outcome = outcome
            self._sent = None
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """End what waits: the association is over."""
        with self._changed:
            self._is_closed = True
            for letter in (*self._waiting, *([self._sent] if self._sent else [])):
                letter.outcome = Reported.GONE
            self._waiting.clear()
            self._changed.notify_all()


class CommitmentDesk:
    """
    Storage commitment for all associations of a receiver; an OpenAssociations (domain/ports.py).

    Args:
        request: the use case behind the N-ACTION.
        telemetry: where refused requests are told.
        quiet_seconds: how long an association has to be silent before a result is sent on it.
        busy_seconds: how long a result waits for that, each time.
        response_seconds: how long its response may take.

    """

    def __init__(
        self,
        request: RequestCommitment,
        telemetry: Telemetry,
        *,
        quiet_seconds: float = _QUIET_SECONDS,
        busy_seconds: float = _BUSY_SECONDS,
        response_seconds: float = _RESPONSE_SECONDS,
    ) -> None:
        self.request = request
        self.telemetry = telemetry
        self.quiet_seconds = quiet_seconds
        self._busy_seconds = busy_seconds
        self._response_seconds = response_seconds
        self.turns = threading.BoundedSemaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._open: dict[str, _Mailbox] = {}
        self._arriving_bytes = 0

    def is_open(self, association: str) -> bool:
        """Tell whether an association that has asked for commitment is open here."""
        with self._lock:
            return association in self._open

    def report(self, association: str, result: CommitmentResult) -> Reported:
        """Report a result on the association of its request, and wait for the answer."""
        with self._lock:
            mailbox = self._open.get(association)
        if mailbox is None:
            return Reported.GONE
        return mailbox.post(result, self._busy_seconds, self._response_seconds)

    def hold(self, size: int) -> bool:
        """Make room for so many bytes of an arriving request; False if there is none."""
        with self._lock:
            if self._arriving_bytes + size > _MOST_ARRIVING_BYTES:
                return False
            self._arriving_bytes += size
            return True

    def let_go(self, size: int) -> None:
        """Give room back."""
        with self._lock:
            self._arriving_bytes -= size

    def open_mailbox(self, association: str) -> _Mailbox:
        """Begin to take results for an association."""
        with self._lock:
            return self._open.setdefault(association, _Mailbox())

    def close_mailbox(self, association: str) -> None:
        """End that; harmless if it never began."""
        with self._lock:
            mailbox = self._open.pop(association, None)
        if mailbox is not None:
            mailbox.close()


Send = Callable[[int, bytes, bytes], None]


class AssociationCommitments:
    """
    Storage commitment on one association; used by its own thread only.

    Args:
        desk: of the receiver.
        names: calling and called AE title.
        association: the label of this association.
        send: sends one message: context id, encoded command set, encoded data set.

    """

    def __init__(self, desk: CommitmentDesk, names: Acceptance, association: str, send: Send) -> None:
        self._desk = desk
        self._names = names
        self._association = association
        self._send = send
        self._mailbox: _Mailbox | None = None
        self._context: tuple[int, str] | None = None
        self._message_id = 0
        self._held_bytes = 0

    @property
    def quiet_seconds(self) -> float | None:
        """How long a silence is to be waited for, once a result may have to be sent; None before."""
        return None if self._mailbox is None else self._desk.quiet_seconds

    def begin(self, context_id: int, transfer_syntax: str, command: Command) -> CommitmentAction:
        """Begin to receive an N-ACTION request."""
        return CommitmentAction(self, context_id, transfer_syntax, command)

    def hold(self, size: int) -> bool:
        """Make room for so many more bytes of the request at hand; False if there is none."""
        is_held = self._desk.hold(size)
        if is_held:
            self._held_bytes += size
        return is_held

    def let_go(self) -> None:
        """Give back the room of the request at hand; may be repeated."""
        held, self._held_bytes = self._held_bytes, 0
        self._desk.let_go(held)

    def accept(self, context_id: int, transfer_syntax: str, data: bytes) -> Answer:
        """Take a complete request."""
        with self._desk.turns:
            return self._accept(context_id, transfer_syntax, data)

    def _accept(self, context_id: int, transfer_syntax: str, data: bytes) -> Answer:
        asked = read_request(data, transfer_syntax)
        # Before it is durable: an answerer may be quicker than we are.
        self._context = context_id, transfer_syntax
        self._mailbox = self._desk.open_mailbox(self._association)
        refusal = self._desk.request(
            transaction=asked.transaction,
            references=asked.references,
            requestor=self._names.calling_ae_title,
            called=self._names.called_ae_title,
            association=self._association,
        )
        if refusal is FailureReason.RESOURCE_LIMITATION:
            return _TOO_MANY_INSTANCES
        if refusal is not None:
            return Answer(status=DUPLICATE_TRANSACTION, comment="Transaction UID is in use for other instances")
        return ACCEPTED

    def refused(self, answer: Answer, error: BaseException | None) -> Answer:
        """Tell of a request that was not taken."""
        self._desk.telemetry.event(
            "commitment.refused",
            association=self._association,
            calling_ae_title=self._names.calling_ae_title.value,
            status=f"0x{answer.status:04X}",
            comment=answer.comment,
            error=None if error is None else type(error).__name__,
            detail=str(error) if isinstance(error, StoreScpError) else None,
        )
        return answer

    def report_one(self) -> None:
        """Send the next result that waits, if any; call it in a quiet moment between two messages."""
        if self._mailbox is None or self._context is None:
            return
        message_id = self._message_id % _LAST_MESSAGE_ID + 1
        result = self._mailbox.take(message_id)
        if result is None:
            return
        self._message_id = message_id
        context_id, transfer_syntax = self._context
        information = encode_information(event_information(result), transfer_syntax)
        command = encode_event_report(message_id, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE, event_type(result))
        self._send(context_id, command, information)

    def responded(self, command: Command) -> None:
        """
        Match the response to an N-EVENT-REPORT.

        Raises:
            ProtocolViolation: nothing was asked under its id.

        """
        # Success and warnings: the requestor knows (PS3.7 C.1, 10.1.1.1.8).
        is_taken = command.status in {SUCCESS, 0x0001, 0x0107, 0x0116} or (command.status or 0) >> 12 == 0xB  # noqa: PLR2004
        outcome = Reported.DELIVERED if is_taken else Reported.REFUSED
        if self._mailbox is None or not self._mailbox.settle(command.message_id, outcome):
            raise ProtocolViolation("a response came to a request that was never sent")

    def close(self) -> None:
        """End it: the association is over; may be repeated."""
        self.let_go()
        self._desk.close_mailbox(self._association)


class CommitmentAction:
    """One N-ACTION on its way in: collects its data set within a bound."""

    def __init__(
        self, commitments: AssociationCommitments, context_id: int, transfer_syntax: str, command: Command
    ) -> None:
        self._commitments = commitments
        self._context_id = context_id
        self._transfer_syntax = transfer_syntax
        self._data = bytearray()
        self._answer = _judge(command, transfer_syntax)

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the data set."""
        if self._answer is not None:
            return
        if len(self._data) + len(data) > MAXIMUM_BYTES:
            self._refuse(_TOO_MANY_INSTANCES)
        elif not self._commitments.hold(len(data)):
            self._refuse(_TOO_MANY_REQUESTS)
        else:
            self._data += data

    def _refuse(self, answer: Answer) -> None:
        self._answer = answer
        self._data.clear()
        self._commitments.let_go()

    def finish(self) -> Answer:
        """Return the answer once the request is durable, or why it is not taken; never raises."""
        try:
            return self._finish()
        finally:
            self._commitments.let_go()

    def _finish(self) -> Answer:
        error: BaseException | None = None
        answer = self._answer
        if answer is None:
            try:
                answer = self._commitments.accept(self._context_id, self._transfer_syntax, bytes(self._data))
            except UnreadableDataSet as unreadable:
                error, answer = unreadable, Answer(status=INVALID_ARGUMENT, comment=unreadable.problem[:64])
            except MetadataUnavailable as away:
                error = away
                answer = Answer(status=PROCESSING_FAILURE, comment="Receiver's database not reachable: ask again later")
            except Exception as unexpected:  # noqa: BLE001 - whatever it is, the requestor gets an answer
                error = unexpected
                answer = Answer(status=PROCESSING_FAILURE, comment="Receiver failed: see its log; ask again")
        return answer if answer == ACCEPTED else self._commitments.refused(answer, error)


def _judge(command: Command, transfer_syntax: str) -> Answer | None:
    """Answer a request that is wrong whatever its data set says."""
    if command.sop_class_uid != STORAGE_COMMITMENT:
        return Answer(status=NO_SUCH_CLASS, comment="Requested SOP Class UID is not that of the context")
    if command.sop_instance_uid != WELL_KNOWN_INSTANCE:
        try:
            Uid.parse(command.sop_instance_uid)
        except InvalidIdentifier:
            return Answer(status=INVALID_INSTANCE, comment="Requested SOP Instance UID is not a UID")
        return Answer(status=NO_SUCH_INSTANCE, comment=f"Requested SOP Instance must be {WELL_KNOWN_INSTANCE}")
    if command.action_type_id != REQUEST_STORAGE_COMMITMENT:
        return Answer(status=NO_SUCH_ACTION, comment="Action Type ID 1 (Request Storage Commitment) is served")
    if not command.has_data_set:
        return Answer(status=INVALID_ARGUMENT, comment="Action Information is missing")
    if transfer_syntax not in TRANSFER_SYNTAXES:
        return Answer(status=PROCESSING_FAILURE, comment="Transfer syntax not fit for this: propose implicit LE")
    return None
