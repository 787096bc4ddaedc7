"""
The DICOM upper layer of an association acceptor, without I/O (PS3.8 chapter 9).

Fed bytes, it yields indications and the bytes to send; it opens no socket, reads no clock, starts no thread.
What it does when is the table in `state_table.py`, and its laws are these:

* Bytes are consumed in the order they came, however the transport split them.
* Nothing is kept that the peer merely announced: lengths are checked when a header is complete, P-DATA is handed on
  as it arrives, and only an A-ASSOCIATE-RQ within its limit is collected.
* Bytes that break the protocol yield one abort; what follows them is dropped unread.
* A primitive that a state does not know changes nothing and raises IllegalTransition, a bug of the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from adapters.inbound.dicom.associate import (
    APPLICATION_CONTEXT,
    MAXIMUM_LENGTH,
    MINIMUM_LENGTH,
    AssociateAccept,
    AssociateRequest,
    decode_request,
    encode_accept,
    encode_reject,
)
from adapters.inbound.dicom.indications import (
    AbortIndication,
    ArtimStart,
    ArtimStop,
    AssociateIndication,
    CloseTransport,
    Fragment,
    Indication,
    LossIndication,
    RefusalIndication,
    ReleaseConfirmation,
    ReleaseIndication,
    ViolationIndication,
)
from adapters.inbound.dicom.state_table import NEXT_STATE, TRANSITIONS, Cause, State
from domain.association import Rejection
from domain.errors import IllegalTransition, ProtocolViolation

_CAUSE_OF_PDU = {
    0x01: Cause.ASSOCIATE_RQ,
    0x02: Cause.ASSOCIATE_AC,
    0x03: Cause.ASSOCIATE_RJ,
    0x04: Cause.DATA_TF,
    0x05: Cause.RELEASE_RQ,
    0x06: Cause.RELEASE_RP,
    0x07: Cause.ABORT,
}

_HEADER = Struct(">BxI")
_HEADER_BYTES = _HEADER.size
_PDV_HEADER = Struct(">IBB")
_DATA_HEADERS = Struct(">BxIIBB")
_SHORT_BODY = 4  # A-ASSOCIATE-RJ, A-RELEASE and A-ABORT (PS3.8 9.3.4 to 9.3.8)
_PDV_OVERHEAD = 6
# Some senders take the maximum for the value of one PDV and leave out its header.
_LENGTH_TOLERANCE = _PDV_OVERHEAD

_UNRECOGNIZED_PDU = 1
_UNEXPECTED_PDU = 2
_INVALID_PARAMETER = 6

_DATA_TF = 0x04
# Names of their own for the hot path: looking a member up in its Enum takes longer than all the rest of a test.
_DATA_REQUESTED = Cause.DATA_REQUESTED
_IDLE = State.IDLE
_ESTABLISHED = State.ESTABLISHED
_OVER = frozenset({State.IDLE, State.AWAIT_CLOSE})

_ABORT_PDU = Struct(">BxIxxBB")
_RELEASE_RQ_PDU = b"\x05\0\0\0\0\4\0\0\0\0"
_RELEASE_RP_PDU = b"\x06\0\0\0\0\4\0\0\0\0"
_SERVICE_USER = 0
_SERVICE_PROVIDER = 2


class UpperLayer:
    """
    One association from its transport's opening to its close.

    Args:
        maximum_length: the longest P-DATA-TF PDU we announce to take, in bytes without its header.

    """

    def __init__(self, maximum_length: int) -> None:
        self.state = State.IDLE
        self.maximum_length = maximum_length
        self._peer_maximum_length = 0
        self._context_ids: frozenset[int] = frozenset()
        self._request: AssociateRequest | None = None
        self._indications: list[Indication] = []
        self._to_send: list[bytes] = []
        self._is_abort_repeated = False
        # Where we are in the stream: a header not complete yet, bytes to drop, a body to collect, P-DATA to hand on.
        self._partial = bytearray()
        self._drop = 0
        self._collecting: Cause | None = None
        self._body_left = 0
        self._pdu_left = 0
        self._pdv_left = 0
        self._pdv_context = 0
        self._pdv_is_command = False
        self._pdv_is_last = False

    def open(self) -> list[Indication]:
        """Note that a transport connection was accepted."""
        self._apply(Cause.TRANSPORT_OPENED)
        return self._taken()

    def receive(self, data: memoryview) -> list[Indication]:
        """
        Consume bytes.

        Args:
            data: any piece of the stream; fragments among the indications are views into it.

        Returns:
            What happened, in order. Never raises, whatever the bytes.

        """
        position = 0
        end = len(data)
        while position < end and self.state is not _IDLE:
            if self._pdv_left:  # the hot path
                step = min(self._pdv_left, end - position)
                self._pdv_left -= step
                is_last = self._pdv_is_last and not self._pdv_left
                piece = data[position : position + step]
                self._indications.append(Fragment(self._pdv_context, self._pdv_is_command, is_last, piece))
                position += step
            elif self._drop:
                step = min(self._drop, end - position)
                self._drop -= step
                position += step
            elif self._collecting is not None:
                step = min(self._body_left, end - position)
                self._partial += data[position : position + step]
                self._body_left -= step
                position += step
                if not self._body_left:
                    self._end_of_body(self._collecting)
            else:
                # Both a PDU's and a PDV's header have six bytes.
                if not self._partial and end - position >= _HEADER_BYTES:
                    header: bytes | memoryview | bytearray = data[position : position + _HEADER_BYTES]
                    position += _HEADER_BYTES
                else:
                    step = min(_HEADER_BYTES - len(self._partial), end - position)
                    self._partial += data[position : position + step]
                    position += step
                    if len(self._partial) < _HEADER_BYTES:
                        break
                    header = bytes(self._partial)
                    self._partial.clear()
                if self._pdu_left:
                    self._pdv_header(header)
                else:
                    self._pdu_header(header)
        return self._taken()

    def transport_closed(self) -> list[Indication]:
        """Note that the transport closed, from the other side or by failure."""
        if self.state is not State.IDLE:
            self._apply(Cause.TRANSPORT_CLOSED)
        return self._taken()

    def artim_expired(self) -> list[Indication]:
        """Note that the ARTIM timer ran out."""
        self._apply(Cause.ARTIM_EXPIRED)
        return self._taken()

    def data_to_send(self) -> bytes:
        """Give the bytes to send since the last call; empty if there are none."""
        if not self._to_send:
            return b""
        data = b"".join(self._to_send)
        self._to_send.clear()
        return data

    @property
    def can_send(self) -> bool:
        """Whether `send` is allowed now."""
        return (_DATA_REQUESTED, self.state) in TRANSITIONS

    @property
    def is_over(self) -> bool:
        """Whether no more indications but those of the ending can come."""
        return self.state in _OVER

    def accept(self, accept: AssociateAccept) -> None:
        """Answer an AssociateIndication with A-ASSOCIATE-AC."""
        self._apply(Cause.ACCEPT_REQUESTED)
        # A request may be large, and its association long.
        request, self._request = self._request, None
        assert request is not None  # noqa: S101 - the state says so
        self._peer_maximum_length = request.maximum_length
        self._context_ids = frozenset(context.context_id for context in accept.contexts if context.result == 0)
        self._to_send.append(encode_accept(request, accept))

    def reject(self, rejection: Rejection) -> list[Indication]:
        """Answer an AssociateIndication with A-ASSOCIATE-RJ."""
        self._apply(Cause.REJECT_REQUESTED)
        self._request = None
        self._to_send.append(encode_reject(rejection))
        return self._taken()

    def send(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        """
        Send one message as P-DATA-TF PDUs no longer than the requestor takes.

        Args:
            context_id: an accepted presentation context.
            command: the encoded command set.
            data_set: the encoded data set; empty if the message has none.

        """
        self._apply(_DATA_REQUESTED)
        self._to_send.extend(self._pdus(context_id, 1, command))
        if data_set:
            self._to_send.extend(self._pdus(context_id, 0, data_set))

    def request_release(self) -> None:
        """Ask the requestor for release."""
        self._apply(Cause.RELEASE_REQUESTED)
        self._to_send.append(_RELEASE_RQ_PDU)

    def respond_release(self) -> list[Indication]:
        """Answer a ReleaseIndication, in a collision after the ReleaseConfirmation."""
        self._apply(Cause.RELEASE_RESPONSE_REQUESTED)
        return self._taken()

    def abort(self) -> list[Indication]:
        """Abort as service user; does nothing once the association is over."""
        if (Cause.ABORT_REQUESTED, self.state) in TRANSITIONS:
            self._drop_rest_of_pdu()
            self._apply(Cause.ABORT_REQUESTED)
        return self._taken()

    def _pdu_header(self, header: bytes | memoryview | bytearray) -> None:
        kind, length = _HEADER.unpack(header)
        cause = _CAUSE_OF_PDU.get(kind)
        if kind == _DATA_TF and self.state is _ESTABLISHED:  # the hot path
            if _PDV_OVERHEAD <= length <= self.maximum_length + _LENGTH_TOLERANCE:
                self._pdu_left = length
            else:
                self._drop = length
                self._apply(Cause.INVALID_PDU, _INVALID_PARAMETER, "a P-DATA-TF PDU is empty or longer than announced")
        elif cause is None:
            self._drop = length
            self._apply(Cause.INVALID_PDU, _UNRECOGNIZED_PDU, _words_for_unknown(bytes(header)))
        elif self._is_length_wrong(cause, length):
            self._drop = length
            self._apply(Cause.INVALID_PDU, _INVALID_PARAMETER, f"a PDU of type {kind} has a length it cannot have")
        elif cause is Cause.ABORT or (cause is Cause.ASSOCIATE_RQ and self.state is State.AWAIT_ASSOCIATE_RQ):
            self._collecting, self._body_left = cause, length
        elif cause is Cause.DATA_TF and TRANSITIONS[cause, self.state] == "AR-6":
            self._pdu_left = length
        else:
            # What these say is known from their type; unexpected ones are dropped unread.
            self._drop = length
            self._apply(cause, _UNEXPECTED_PDU, f"a PDU of type {kind} was not expected now")

    def _is_length_wrong(self, cause: Cause, length: int) -> bool:
        if cause is Cause.ASSOCIATE_RQ:
            return not MINIMUM_LENGTH <= length <= MAXIMUM_LENGTH
        if cause in {Cause.RELEASE_RQ, Cause.RELEASE_RP, Cause.ABORT}:
            return length != _SHORT_BODY
        if cause is Cause.DATA_TF and self.state is State.AWAIT_RELEASE_RP:
            return not _PDV_OVERHEAD <= length <= self.maximum_length + _LENGTH_TOLERANCE
        return False

    def _pdv_header(self, header: bytes | memoryview | bytearray) -> None:
        length, context_id, control = _PDV_HEADER.unpack(header)
        left = self._pdu_left - 4 - length
        if length < 2 or left < 0 or 0 < left < _PDV_OVERHEAD:  # noqa: PLR2004 - context id and control header
            self._pdu_left -= _PDV_OVERHEAD
            self._drop_rest_of_pdu()
            self._apply(Cause.INVALID_PDU, _INVALID_PARAMETER, "a PDV does not fit its PDU")
        elif context_id not in self._context_ids:
            self._pdu_left -= _PDV_OVERHEAD
            self._drop_rest_of_pdu()
            problem = "a PDV names a presentation context that was not accepted"
            self._apply(Cause.INVALID_PDU, _INVALID_PARAMETER, problem)
        else:
            self._pdu_left = left
            self._pdv_left = length - 2
            self._pdv_context = context_id
            self._pdv_is_command = bool(control & 1)
            self._pdv_is_last = bool(control & 2)
            if not self._pdv_left:
                empty = memoryview(b"")
                self._indications.append(Fragment(context_id, self._pdv_is_command, self._pdv_is_last, empty))

    def _end_of_body(self, cause: Cause) -> None:
        body = bytes(self._partial)
        self._partial.clear()
        self._collecting = None
        if cause is Cause.ABORT:
            if TRANSITIONS[cause, self.state] == "AA-3":
                source, reason = body[2:]
                self._indications.append(AbortIndication(source, reason if source else 0))
            self._apply(cause)
            return
        try:
            self._request = decode_request(body)
        except ProtocolViolation as violation:
            self._apply(Cause.INVALID_PDU, violation.reason, violation.problem)
        else:
            self._apply(Cause.ASSOCIATE_RQ)

    def _drop_rest_of_pdu(self) -> None:
        """Let the rest of the P-DATA-TF PDU at hand pass unread; of other PDUs nothing is at hand."""
        if self._pdu_left:
            self._drop = self._pdu_left - len(self._partial)
            self._partial.clear()
        self._drop += self._pdv_left
        self._pdu_left = self._pdv_left = 0

    def _pdus(self, context_id: int, control: int, data: bytes) -> Iterator[bytes]:
        # What is cut has an even length, and so have its pieces; an odd maximum is rounded down.
        limit = ((self._peer_maximum_length or self.maximum_length) - _PDV_OVERHEAD) & ~1
        for start in range(0, len(data), limit):
            piece = data[start : start + limit]
            last = 2 if start + limit >= len(data) else 0
            header = _DATA_HEADERS.pack(4, len(piece) + _PDV_OVERHEAD, len(piece) + 2, context_id, control | last)
            yield header + piece

    def _apply(self, cause: Cause, reason: int = 0, problem: str = "") -> None:
        """Take the action of the table for `cause` in the present state (PS3.8 tables 9-6 to 9-9)."""
        action = TRANSITIONS.get((cause, self.state))
        if action is None:
            raise IllegalTransition("association", self.state.name, cause.name)
        if action == "AE-6":
            self._consider()
            return
        if action in {"AA-1", "AA-8"} or (action == "AA-7" and not self._is_abort_repeated):
            # Once more is enough: what goes on after that is not listening, and could make us send without end.
            self._is_abort_repeated = action == "AA-7"
            source = _SERVICE_USER if action == "AA-1" else _SERVICE_PROVIDER
            # Only the service provider has reasons (PS3.8 9.3.8).
            self._to_send.append(_ABORT_PDU.pack(7, 4, source, reason if source else 0))
        elif action == "AR-4":
            self._to_send.append(_RELEASE_RP_PDU)
        if problem and action in {"AA-1", "AA-8"}:
            self._indications.append(ViolationIndication(reason, problem))
        indication = _INDICATION_OF.get(action)
        if indication is not None:
            self._indications.extend(indication)
        self.state = NEXT_STATE[action]

    def _consider(self) -> None:
        """Do AE-6: refuse what no service user could accept, hand on the rest."""
        request = self._request
        assert request is not None  # noqa: S101 - decoded just before
        self._indications.append(ArtimStop())
        rejection = _provider_rejection(request)
        if rejection is None:
            self._indications.append(AssociateIndication(request))
            self.state = State.AWAIT_ASSOCIATE_RESPONSE
        else:
            self._request = None
            self._to_send.append(encode_reject(rejection))
            self._indications += [RefusalIndication(rejection, request), ArtimStart()]
            self.state = State.AWAIT_CLOSE

    def _taken(self) -> list[Indication]:
        indications = self._indications
        self._indications = []
        return indications


# What an action tells the driver, besides what it sends.
_INDICATION_OF: dict[str, tuple[Indication, ...]] = {
    "AE-5": (ArtimStart(),),
    "AE-8": (ArtimStart(),),
    "AR-2": (ReleaseIndication(),),
    "AR-3": (ReleaseConfirmation(), CloseTransport()),
    "AR-4": (ArtimStart(),),
    "AR-5": (ArtimStop(),),
    "AR-8": (ReleaseIndication(is_collision=True),),
    "AR-10": (ReleaseConfirmation(is_collision=True),),
    "AA-1": (ArtimStart(),),
    "AA-2": (ArtimStop(), CloseTransport()),
    "AA-3": (CloseTransport(),),
    "AA-4": (LossIndication(),),
    "AA-5": (ArtimStop(),),
    "AA-8": (ArtimStart(),),
}


_TLS_HANDSHAKE = b"\x16\x03"
_HTTP_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTION", b"CONNEC", b"PRI * ")


def _words_for_unknown(header: bytes) -> str:
    """Say what a PDU of no known type most likely is, for the administrator."""
    if header.startswith(_TLS_HANDSHAKE):
        return "TLS was spoken to the plain port: turn it off at the device, or let it use --tls-port"
    if header.startswith(_HTTP_METHODS):
        return "a web client called the DICOM port"
    return "a PDU of no known type"


def _provider_rejection(request: AssociateRequest) -> Rejection | None:
    """Judge what is the upper layer's own business (PS3.8 9.3.2, table 9-21)."""
    if not request.protocol_version & 1:
        return Rejection(
            result=1,
            source=2,
            reason=2,
            explanation=f"protocol version {request.protocol_version} is not supported: the device must offer 1",
        )
    if request.application_context != APPLICATION_CONTEXT:
        return Rejection(
            result=1,
            source=1,
            reason=2,
            explanation=f"application context {request.application_context or '(none)'} is not that of DICOM:"
            " the device is misconfigured or no DICOM device",
        )
    return None
