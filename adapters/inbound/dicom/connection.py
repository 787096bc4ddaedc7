"""
One transport connection in its own thread: blocking reads into one buffer, timers, and the end of it all.

Waiting is measured while reading only, so that a receiver slow to save never times its sender out.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from adapters.inbound.dicom.associate import AssociateRequest
from adapters.inbound.dicom.commitment import AssociationCommitments, CommitmentDesk
from adapters.inbound.dicom.counters import Counters
from adapters.inbound.dicom.indications import (
    AbortIndication,
    ArtimStart,
    ArtimStop,
    AssociateIndication,
    Fragment,
    Indication,
    LossIndication,
    RefusalIndication,
    ReleaseIndication,
    ViolationIndication,
)
from adapters.inbound.dicom.operations import Operations
from adapters.inbound.dicom.presentation import PresentationPolicy, refused_contexts
from adapters.inbound.dicom.seam import ReceiveInstance, Telemetry
from adapters.inbound.dicom.state_table import State
from adapters.inbound.dicom.strangers import Strangers
from adapters.inbound.dicom.tls_failures import HandshakeFailed
from adapters.inbound.dicom.upper_layer import UpperLayer
from domain.association import Acceptance, AssociationFacts, Rejection
from domain.errors import ProtocolViolation

Wrap = Callable[[socket.socket], socket.socket]

_BEFORE_ASSOCIATION_BYTES = 16 * 1024  # a connection that never asks costs no more
_PROGRESS_BYTES = 64 * 1024
_KEEP_ALIVE_INTERVAL_SECONDS = 15
_KEEP_ALIVE_PROBES = 4
_LONGEST_TICK_SECONDS = 2.0
_SHORTEST_WAIT_SECONDS = 0.001
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux alone has it


@attrs.frozen(kw_only=True)
class Limits:
    """
    What one connection may cost.

    Attributes:
        maximum_pdu_bytes: the longest P-DATA-TF PDU we announce to take.
        artim_seconds: from opening to a complete A-ASSOCIATE-RQ (TLS handshake included), and from our last word
            to the peer's close.
        network_timeout_seconds: without a single byte.
        dimse_timeout_seconds: of waiting for a command set, or for each 64 KiB of a data set.
        receive_bytes: the buffer of one association.
        keep_alive_seconds: idle time before TCP asks whether the peer is there; load balancers forget after 350.

    """

    maximum_pdu_bytes: int = attrs.field(default=131072, validator=attrs.validators.ge(4096))
    artim_seconds: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    network_timeout_seconds: float = attrs.field(default=90.0, validator=attrs.validators.gt(0))
    dimse_timeout_seconds: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))
    receive_bytes: int = attrs.field(default=256 * 1024, validator=attrs.validators.ge(4096))
    keep_alive_seconds: int = attrs.field(default=120, validator=attrs.validators.in_(range(1, 291)))


class Host(Protocol):
    """What a connection needs of the receiver it belongs to."""

    limits: Limits
    presentation: PresentationPolicy
    receive: ReceiveInstance
    telemetry: Telemetry
    strangers: Strangers
    commitments: CommitmentDesk | None

    def admit(self, connection: Connection, facts: AssociationFacts) -> Acceptance | Rejection:
        """Decide, and count the association as open if accepted."""
        ...

    def ended(self, connection: Connection, how: str) -> None:
        """Count one connection's end and take its work into the totals."""
        ...


class Connection:
    """
    Drive one accepted socket until it is closed.

    Attributes:
        counters: what it did until now.
        refusal: after its end, which rejection it was or why TLS failed; empty if neither.

    Args:
        transport: the accepted socket, which is ours from now on.
        address: the peer's address as text.
        label: ties the events of this connection together.
        host: the receiver.
        wrap: turns the socket into a TLS one, handshake included; None for plain TCP.

    """

    def __init__(
        self, transport: socket.socket, *, address: str, label: str, host: Host, wrap: Wrap | None = None
    ) -> None:
        self.address = address
        self.label = label
        self.names: Acceptance | None = None
        self.counters = Counters()
        self.refusal = ""
        self._transport = transport
        self._host = host
        self._limits = host.limits
        self._wrap = wrap
        self._layer = UpperLayer(self._limits.maximum_pdu_bytes)
        self._operations: Operations | None = None
        self._commitments: AssociationCommitments | None = None
        self._is_waiting_for_quiet = False
        self._deadline: float | None = None
        self._read_timeout = self._limits.artim_seconds
        self._is_expelled = False
        self._end = "closed_before_asking"

    def run(self) -> None:
        """Serve the connection to its end; never raises."""
        try:
            self._prepare()
            self._serve()
        except OSError as error:
            self._lost(type(error).__name__)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end in silence, nor quote what it met
            self._end = "failed"
            self._event("association.failed", error=type(error).__name__)
        finally:
            if self._operations is not None:
                self._operations.abandon()
            self._transport.close()
            self._host.ended(self, self._end)

    def expel(self) -> None:
        """Make the thread abort its association and end; callable from any thread."""
        self._is_expelled = True
        if self._wrap is None:  # under TLS it would cut off our last word; there the thread looks up by itself
            with contextlib.suppress(OSError):
                self._transport.shutdown(socket.SHUT_RD)  # wakes a blocked read

    def cut(self) -> None:
        """End a connection whose peer does not even take our last word; callable from any thread."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._transport, socket.SHUT_RDWR)  # under TLS, too: nothing is left to be said

    def _prepare(self) -> None:
        transport = self._transport
        transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", self._limits.keep_alive_seconds),
            ("TCP_KEEPINTVL", _KEEP_ALIVE_INTERVAL_SECONDS),
            ("TCP_KEEPCNT", _KEEP_ALIVE_PROBES),
        ):
            number = getattr(socket, option, None)
            if number is not None:
                transport.setsockopt(socket.IPPROTO_TCP, number, value)
        self._deadline = time.monotonic() + self._limits.artim_seconds
        if self._wrap is not None:
            transport.settimeout(self._limits.artim_seconds)
            try:
                self._transport = self._wrap(transport)
            except TimeoutError:
                self._end = "silent"
                raise
            except HandshakeFailed as failure:
                self._end = "tls_failed"
                self.refusal = failure.cause
                self._host.strangers.event(
                    "connection.tls_refused",
                    association=self.label,
                    address=self.address,
                    mishap=failure.cause,
                    cause=failure.cause,
                    explanation=failure.explanation,
                )
                raise
        else:
            transport.settimeout(None)
            _set_timeval(transport, socket.SO_SNDTIMEO, self._limits.network_timeout_seconds)

    def _serve(self) -> None:
        layer = self._layer
        layer.open()
        buffer = memoryview(bytearray(_BEFORE_ASSOCIATION_BYTES))
        self._read_phase(buffer, lambda: layer.state is State.ESTABLISHED)
        if layer.state is State.ESTABLISHED:
            self._deadline = None
            self._set_read_timeout(self._tick)
            buffer = memoryview(bytearray(self._limits.receive_bytes))
            self._transfer(buffer)
        self._read_phase(buffer, lambda: False)

    def _read_phase(self, buffer: memoryview, is_over: Callable[[], bool]) -> None:
        """Read under the ARTIM timer, until `is_over` or nothing is left to be done."""
        layer = self._layer
        while layer.state is not State.IDLE and not is_over():
            left = (self._deadline or 0.0) - time.monotonic()
            received: int | None = None
            if left > 0:
                self._set_read_timeout(max(left, _SHORTEST_WAIT_SECONDS))
                received = self._read(buffer)
            if received is None:
                if left > 0 and time.monotonic() < (self._deadline or 0.0):
                    continue
                if layer.state is State.AWAIT_ASSOCIATE_RQ:
                    self._end = "silent"
                self._handle(layer.artim_expired())
            elif received == 0:
                self._handle(layer.transport_closed())
            else:
                self._handle(layer.receive(buffer[:received]))

    def _transfer(self, buffer: memoryview) -> None:
        """Read and serve an established association; this is the hot path."""
        layer = self._layer
        operations = self._operations
        assert operations is not None  # noqa: S101 - made when we accepted
        network_timeout = self._limits.network_timeout_seconds
        dimse_timeout = self._limits.dimse_timeout_seconds
        idle = waited = 0.0
        progress = 0
        is_within_message = operations.is_within_message
        while not layer.is_over:
            before = time.monotonic()
            received = self._read(buffer)
            wait = time.monotonic() - before
            idle += wait
            if is_within_message:
                waited += wait
            if self._is_expelled:
                self._handle(self._expelled())
            elif received:
                idle = 0.0
                progress += received
                self._handle(layer.receive(buffer[:received]))
                is_within_message = operations.is_within_message
                if progress >= _PROGRESS_BYTES or not is_within_message:
                    progress = 0
                    waited = 0.0
                elif waited > dimse_timeout:
                    self._timed_out("dimse", dimse_timeout)
            elif received == 0:
                self._handle(layer.transport_closed())
            elif waited > dimse_timeout:
                self._timed_out("dimse", dimse_timeout)
            elif idle > network_timeout:
                self._timed_out("network", network_timeout)
            else:
                self._use_the_quiet(operations)

    def _use_the_quiet(self, operations: Operations) -> None:
        """Send what was waiting for a moment in which the peer sends nothing."""
        if self._is_waiting_for_quiet and self._commitments is not None and not operations.is_within_message:
            self._commitments.report_one()

    @property
    def _tick(self) -> float:
        """How often a silent association looks at its timers."""
        shortest = min(self._limits.network_timeout_seconds, self._limits.dimse_timeout_seconds)
        return min(shortest / 4, _LONGEST_TICK_SECONDS)

    def _read(self, buffer: memoryview) -> int | None:
        """Read what is there: the number of bytes, 0 at the end, None after a time-out."""
        try:
            received = self._transport.recv_into(buffer)
        except (BlockingIOError, TimeoutError):
            return None
        # Acknowledge at once, or the sender's Nagle algorithm waits 40 ms for us; Linux forgets it after each read.
        if _QUICKACK is not None and received:
            self._transport.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return received

    def _set_read_timeout(self, seconds: float) -> None:
        if self._wrap is None:
            # The kernel's own timer: Python's would ask poll() before each read.
            _set_timeval(self._transport, socket.SO_RCVTIMEO, seconds)
        else:
            self._read_timeout = seconds
            self._transport.settimeout(seconds)

    def _flush(self) -> None:
        data = self._layer.data_to_send()
        if data and self._wrap is None:
            self._transport.sendall(data)
        elif data:  # here reading and sending share one time-out
            self._transport.settimeout(self._limits.network_timeout_seconds)
            self._transport.sendall(data)
            self._transport.settimeout(self._read_timeout)

    def _handle(self, indications: Sequence[Indication]) -> None:
        for indication in indications:
            kind = type(indication)
            if kind is Fragment:
                self._fragment(indication)  # type: ignore[arg-type]  # `is` narrows nothing, isinstance costs more
            elif kind is ArtimStart:
                self._deadline = time.monotonic() + self._limits.artim_seconds
            elif kind is not ArtimStop:
                self._control(indication)
        self._flush()

    def _fragment(self, fragment: Fragment) -> None:
        assert self._operations is not None  # noqa: S101 - made when we accepted
        if self._end == "violated":
            return
        try:
            self._operations.feed(fragment)
        except ProtocolViolation as violation:
            self._violated(violation.reason, violation.problem)
            self._handle(self._layer.abort())

    def _control(self, indication: Indication) -> None:
        if isinstance(indication, AssociateIndication):
            self._admit(indication.request)
        elif isinstance(indication, RefusalIndication):
            self._rejected(indication.request, indication.rejection)
        elif isinstance(indication, ReleaseIndication):
            if self._layer.is_over:
                return  # what came before it in the same bytes made us abort
            self._end = "released"
            self._event("association.released", **self._totals())
            self._handle(self._layer.respond_release())
        elif isinstance(indication, AbortIndication):
            self._end = "aborted"
            self._event("association.aborted", source=indication.source, reason=indication.reason, **self._totals())
        elif isinstance(indication, ViolationIndication):
            self._violated(indication.reason, indication.problem)
        elif isinstance(indication, LossIndication):
            self._lost("closed by the peer")

    def _admit(self, request: AssociateRequest) -> None:
        if self._layer.state is not State.AWAIT_ASSOCIATE_RESPONSE:
            return  # what came behind it in the same bytes ended it already: an abort, or what broke the protocol
        facts = AssociationFacts(
            calling_ae_title=request.calling_ae_title,
            called_ae_title=request.called_ae_title,
            address=self.address,
            user_identity=request.user_identity,
        )
        decision = self._host.admit(self, facts)
        if isinstance(decision, Rejection):
            self._rejected(request, decision)
            self._handle(self._layer.reject(decision))
            return
        self.names = decision
        self._end = "lost"
        accept = self._host.presentation.negotiate(request, self._limits.maximum_pdu_bytes)
        accepted = {context.context_id: context for context in accept.contexts if context.result == 0}
        if self._host.commitments is not None:
            self._commitments = AssociationCommitments(self._host.commitments, decision, self.label, self._answer)
        self._operations = Operations(
            receive=self._host.receive,
            policy=self._host.presentation,
            contexts=accepted,
            names=decision,
            association=self.label,
            telemetry=self._host.telemetry,
            send=self._answer,
            commitments=self._commitments,
        )
        self.counters = self._operations.counters
        self._layer.accept(accept)
        self._event(
            "association.accepted",
            **self._parties(request),
            implementation=request.implementation_version_name,
            contexts=len(accept.contexts),
            accepted_contexts=len(accepted),
        )
        for refused in refused_contexts(request.contexts, accept.contexts):
            self._event(
                "context.refused",
                calling_ae_title=_shown(request.calling_ae_title),
                **attrs.asdict(refused),
            )

    def _answer(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        # A peer that has aborted or gone meanwhile gets no answer; what was stored stays stored.
        if self._layer.can_send:
            self._layer.send(context_id, command, data_set)
            self._flush()
        if self._commitments is not None and not self._is_waiting_for_quiet:
            quiet_seconds = self._commitments.quiet_seconds
            if quiet_seconds is not None:
                self._is_waiting_for_quiet = True
                self._set_read_timeout(min(self._tick, quiet_seconds))

    def _expelled(self) -> list[Indication]:
        self._end = "expelled"
        self._event("association.aborted", source=None, reason=None, detail="receiver stopped", **self._totals())
        return self._layer.abort()

    def _rejected(self, request: AssociateRequest, rejection: Rejection) -> None:
        self._end = "rejected"
        self.refusal = f"{rejection.result},{rejection.source},{rejection.reason}"
        self._event(
            "association.rejected",
            **self._parties(request),
            result=rejection.result,
            source=rejection.source,
            reason=rejection.reason,
            explanation=rejection.explanation,
        )

    def _violated(self, reason: int, problem: str) -> None:
        if self._end == "violated":
            return  # told already: what follows in the same bytes is part of the same mishap
        self._end = "violated"
        if self.names is None:
            self._host.strangers.event(
                "association.violated",
                association=self.label,
                address=self.address,
                mishap=problem,
                reason=reason,
                problem=problem,
            )
        else:
            self._event("association.violated", address=self.address, reason=reason, problem=problem, **self._totals())

    def _timed_out(self, timer: str, seconds: float) -> None:
        self._end = "timed_out"
        self._event("association.timed_out", timer=timer, seconds=seconds, **self._totals())
        self._handle(self._layer.abort())

    def _lost(self, how: str) -> None:
        """Note a transport that failed; before an association, and after the last word, that is no event."""
        if self._end == "lost":
            self._event("association.lost", detail=how, **self._totals())

    def _event(self, name: str, /, **fields: str | float | None) -> None:
        self._host.telemetry.event(name, association=self.label, **fields)

    def _parties(self, request: AssociateRequest) -> dict[str, str]:
        return {
            "calling_ae_title": _shown(request.calling_ae_title),
            "called_ae_title": _shown(request.called_ae_title),
            "address": self.address,
        }

    def _totals(self) -> dict[str, int]:
        if self._operations is None:
            return {}
        counters = self._operations.counters
        totals = {"stored": counters.stored, "refused": counters.refused, "data_set_bytes": counters.data_set_bytes}
        if self._operations.is_within_message:
            totals["unfinished"] = 1  # a message had begun, which the peer knows not to be kept
        return totals


def _set_timeval(transport: socket.socket, option: int, seconds: float) -> None:
    whole = int(seconds)
    transport.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, int((seconds - whole) * 1e6)))


def _shown(text: str) -> str:
    """Show a title as received, whatever its characters."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
