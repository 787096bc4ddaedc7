"""A receiver's connection on a made-up socket: the real driver, and no waiting."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from socket import socket
from typing import cast

from adapters.inbound.dicom.commitment import STORAGE_COMMITMENT, CommitmentDesk
from adapters.inbound.dicom.connection import Connection, Limits
from adapters.inbound.dicom.dimse import MAXIMUM_COMMAND_BYTES
from adapters.inbound.dicom.presentation import VERIFICATION, PresentationPolicy
from adapters.inbound.dicom.seam import ReceiveInstance, Telemetry
from adapters.inbound.dicom.strangers import Strangers
from domain.association import Acceptance, AdmissionPolicy, AssociationFacts, Load, Rejection
from domain.commitment import CommitmentReference, FailureReason
from domain.errors import InstanceTooLarge
from domain.identifiers import AeTitle, BatchId, Digest, Uid
from domain.instance import IdentifyingAttributes, StoreRequest, identify
from domain.staging import StagingKey
from tests.builders import MOMENT

MAXIMUM_PDU_BYTES = 4096
LARGEST_INSTANCE = 64 * 1024
_BATCH = BatchId("20260102T030405678Z-fuzz")
_DIGEST = Digest("0" * 64)
_LIMITS = Limits(maximum_pdu_bytes=MAXIMUM_PDU_BYTES, receive_bytes=8192)
_SENT_BY_AN_ACCEPTOR = {2, 3, 4, 6, 7}
_LAST_WORDS = {3, 6, 7}


class BrokenPromise(AssertionError):
    """The receiver did what it promises never to do."""


def promise(is_kept: bool, claim: str) -> None:
    """Fail unless a promise is kept."""
    if not is_kept:
        raise BrokenPromise(claim)


class Wire:
    """What the driver takes for a socket: gives the pieces one by one, keeps what is sent, then is closed."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._pieces.reverse()
        self.sent = bytearray()
        self.is_closed = False

    def setsockopt(self, *_: object) -> None: ...

    def settimeout(self, _: float | None) -> None: ...

    def shutdown(self, _: int) -> None: ...

    def close(self) -> None:
        self.is_closed = True

    def recv_into(self, buffer: memoryview) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces.pop()
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        if size < len(piece):
            self._pieces.append(piece[size:])
        return size

    def sendall(self, data: bytes) -> None:
        self.sent += data


class Taken:
    """The use case behind C-STORE as far as the domain decides it; keeps no bytes."""

    def __init__(self) -> None:
        self.begun = 0
        self.finished = 0
        self.abandoned = 0

    def begin(self, request: StoreRequest, header: bytes, /) -> OneTaken:
        promise(header[128:132] == b"DICM" and len(header) <= 1024, "a Part 10 header has its form")
        self.begun += 1
        return OneTaken(self, request)


class OneTaken:
    def __init__(self, taken: Taken, request: StoreRequest) -> None:
        self._taken = taken
        self._request = request
        self._size = 0
        self._is_over = False

    def write(self, data: bytes | memoryview, /) -> None:
        promise(not self._is_over, "nothing is written to a store that is over")
        self._size += len(data)
        if self._size > LARGEST_INSTANCE:
            raise InstanceTooLarge(LARGEST_INSTANCE)

    def finish(self, attributes: IdentifyingAttributes, /) -> object:
        instance = identify(self._request, attributes, size=self._size, digest=_DIGEST, received_at=MOMENT)
        path = StagingKey.of(_BATCH, instance).path
        parts = path.split("/")
        promise(not path.startswith("/") and "\0" not in path, "a path stays in its folder")
        promise(all(part.strip(".") for part in parts), "no part of a path leads elsewhere")
        self._taken.finished += 1
        self._is_over = True
        return instance

    def abandon(self) -> None:
        if not self._is_over:
            self._taken.abandoned += 1
        self._is_over = True


class Told:
    """Telemetry: names and fields of events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, str | float | None]]] = []

    def event(self, name: str, /, **fields: str | float | None) -> None:
        for value in fields.values():
            promise(not isinstance(value, str) or len(value) < 1000, "an event quotes no long text")
        self.events.append((name, fields))


def _take_commitment(
    *,
    transaction: Uid,
    references: tuple[CommitmentReference, ...],
    requestor: AeTitle,
    called: AeTitle,
    association: str,
) -> FailureReason | None:
    return None


class Session:
    """One connection, from its first byte to its end; a Host (adapters/inbound/dicom/connection.py)."""

    def __init__(self, pieces: Iterable[bytes], *, with_commitments: bool = True) -> None:
        self.limits = _LIMITS
        self.presentation = PresentationPolicy(
            services=frozenset({VERIFICATION, STORAGE_COMMITMENT} if with_commitments else {VERIFICATION})
        )
        self.taken = Taken()
        self.told = Told()
        self.receive: ReceiveInstance = self.taken
        self.telemetry: Telemetry = self.told
        self.strangers = Strangers(self.told)
        self.commitments = CommitmentDesk(_take_commitment, self.told) if with_commitments else None
        self.ends: list[str] = []
        self.wire = Wire(pieces)
        self.admitted = 0
        self._connection = Connection(cast("socket", self.wire), address="127.0.0.1", label="fuzz-1", host=self)

    def admit(self, connection: Connection, facts: AssociationFacts) -> Acceptance | Rejection:
        decision = AdmissionPolicy().decide(facts, Load())
        self.admitted += isinstance(decision, Acceptance)
        return decision

    def ended(self, connection: Connection, how: str) -> None:
        self.ends.append(how)

    def run(self) -> Session:
        """Run it and check every promise; the session is what happened."""
        self._connection.run()
        names = [name for name, _ in self.told.events]
        promise("association.failed" not in names, f"no bytes bring a bug to light: {self.told.events[-1:]}")
        promise(len(self.ends) == 1, f"a connection ends once: {self.ends}")
        promise(self.wire.is_closed, "the socket is closed")
        taken = self.taken
        promise(taken.begun == taken.finished + taken.abandoned, "a store is finished or abandoned")
        promise(self.admitted <= 1, "an association is admitted once")
        reader = self._connection._operations._reader if self._connection._operations else None
        promise(reader is None or len(reader._command_bytes) <= MAXIMUM_COMMAND_BYTES, "a command set is bounded")
        promise(len(self._connection._layer._partial) <= 512 * 1024, "what is collected is bounded")
        check_sent(bytes(self.wire.sent))
        return self


def check_sent(sent: bytes) -> list[int]:
    """Check that what we sent is well-formed PDUs, nothing after our last word; return their types."""
    kinds: list[int] = []
    position = 0
    while position < len(sent):
        promise(len(sent) - position >= 6, "a PDU has a header")
        kind, length = struct.unpack_from(">BxI", sent, position)
        position += 6
        promise(kind in _SENT_BY_AN_ACCEPTOR, f"an acceptor sends no PDU of type {kind}")
        promise(length <= len(sent) - position, "a PDU is as long as it says")
        # AA-7: a second request, or an invalid PDU, after our last word is answered by another abort (PS3.8 9.2.3)
        promise(kind == 7 or not kinds or kinds[-1] not in _LAST_WORDS, "nothing but an abort follows our last word")
        if kind == 4:
            _check_values(sent[position : position + length])
        kinds.append(kind)
        position += length
    return kinds


def _check_values(body: bytes) -> None:
    position = 0
    while position < len(body):
        promise(len(body) - position >= 6, "a PDV has a header")
        length, context_id, control = struct.unpack_from(">IBB", body, position)
        promise(2 <= length <= len(body) - position - 4, "a PDV fits its PDU")
        promise(bool(context_id & 1) and control <= 3, "a PDV names a context and its kind")
        position += 4 + length
