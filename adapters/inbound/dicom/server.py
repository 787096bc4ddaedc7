"""
The receiver: listening sockets, one thread a connection, admission and its counts, draining.

Connections that have not asked for an association yet do not count against the association limit; they have a cap of
their own, in all and per address, and must ask within the ARTIM time.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import secrets
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import attrs

from adapters.inbound.dicom.commitment import CommitmentDesk
from adapters.inbound.dicom.connection import Connection, Limits, Wrap
from adapters.inbound.dicom.counters import Counters
from adapters.inbound.dicom.presentation import PresentationPolicy
from adapters.inbound.dicom.seam import ReceiveInstance, Telemetry
from adapters.inbound.dicom.strangers import Strangers
from domain.association import Acceptance, AdmissionPolicy, AssociationFacts, Load, Rejection
from domain.identifiers import AeTitle

_STOP_POLL_SECONDS = 0.05
_EXPEL_SECONDS = 5.0
_ACCEPT_PAUSE_SECONDS = 0.1


@attrs.frozen(kw_only=True)
class Listener:
    """
    Where to listen.

    Attributes:
        host: an address of this machine, or 0.0.0.0 or ::.
        port: 0 lets the system choose.
        wrap: turns an accepted socket into a TLS one, handshake included; called in the connection's own thread, on
            a socket with a time-out. None for plain TCP.

    """

    host: str = "0.0.0.0"  # noqa: S104 - a receiver is there to be reached
    port: int = 11112
    wrap: Wrap | None = None


@attrs.frozen(kw_only=True)
class Totals:
    """
    What the receiver did since it began, open associations included; `ends` counts connections by how they ended.

    The ends: released, aborted (by the peer), violated (we aborted), timed_out, lost, expelled (we stopped), rejected,
    closed_before_asking, silent (ARTIM ran out first), tls_failed, failed (a bug), turned_away (over the cap of
    connections that have not asked yet).

    Attributes:
        accepted: associations that were opened.
        work: what all associations did.
        rejections: how often each was sent, as "result,source,reason".
        tls_failures: how often a TLS handshake failed for each cause.

    """

    open_connections: int
    open_associations: int
    accepted: int
    work: Counters
    ends: dict[str, int]
    rejections: dict[str, int]
    tls_failures: dict[str, int]

    @property
    def stored(self) -> int:
        """Instances that were answered Success."""
        return self.work.stored

    @property
    def refused(self) -> int:
        """Instances that were answered otherwise."""
        return self.work.refused

    @property
    def echoed(self) -> int:
        """C-ECHO requests that were answered."""
        return self.work.echoed

    @property
    def data_set_bytes(self) -> int:
        """Bytes of data sets that arrived."""
        return self.work.data_set_bytes


class DicomServer:
    """
    Serve DICOM associations.

    Args:
        listeners: where; each may have its own TLS.
        admission: who may open an association.
        presentation: what may be sent.
        receive: the use case behind C-STORE.
        telemetry: where events go.
        commitments: storage commitment; None where it is not served.
        limits: what one connection may cost.
        shortage: says of what there is too little to take more, and the remedy; empty if there is enough. Asked once
            per association, from many threads.
        maximum_pending: connections that have not asked yet, in all.
        maximum_pending_per_address: the same per peer address.
        accept_queue: connections that the system holds for us before we accept them.

    """

    def __init__(  # noqa: PLR0913 - collaborators arrive one by one, each by its name
        self,
        *,
        listeners: Sequence[Listener],
        admission: AdmissionPolicy,
        presentation: PresentationPolicy,
        receive: ReceiveInstance,
        telemetry: Telemetry,
        commitments: CommitmentDesk | None = None,
        limits: Limits | None = None,
        shortage: Callable[[], str] = str,
        maximum_pending: int = 1024,
        maximum_pending_per_address: int = 256,
        accept_queue: int = 1024,
    ) -> None:
        self.limits = Limits() if limits is None else limits
        self.presentation = presentation
        self.receive = receive
        self.telemetry = telemetry
        self.strangers = Strangers(telemetry)
        self.commitments = commitments
        self._listeners = tuple(listeners)
        self._admission = admission
        self._shortage = shortage
        self._maximum_pending = maximum_pending
        self._maximum_pending_per_address = maximum_pending_per_address
        self._accept_queue = accept_queue
        self._sockets: list[tuple[socket.socket, Wrap | None]] = []
        self._acceptor: threading.Thread | None = None
        self._is_draining = False
        self._lock = threading.Lock()
        # All below is guarded by the lock.
        self._threads: dict[Connection, threading.Thread] = {}
        self._pending: Counter[str] = Counter()
        self._open: Counter[AeTitle] = Counter()
        self._ends: Counter[str] = Counter()
        self._accepted = 0
        self._refusals: dict[str, Counter[str]] = {"rejected": Counter(), "tls_failed": Counter()}
        self._done = Counters()
        self._labels = (f"{secrets.token_hex(3)}-{number}" for number in itertools.count(1))

    def start(self) -> None:
        """
        Bind and begin to accept.

        Raises:
            OSError: if an address cannot be bound, which its `filename` names; nothing is left open.

        """
        try:
            for listener in self._listeners:
                self._sockets.append((self._bind(listener), listener.wrap))
        except OSError:
            self._close_sockets()
            raise
        self._acceptor = threading.Thread(target=self._accept_until_draining, name="dicom-accept", daemon=True)
        self._acceptor.start()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each listener, in their order, with the ports the system chose."""
        return [bound.getsockname()[:2] for bound, _ in self._sockets]

    def drain(self, grace_seconds: float) -> None:
        """
        Stop: accept nothing new, let associations finish, after the grace period abort what is left.

        Returns when every connection has ended. Requests for an association that arrive meanwhile are rejected with
        2,3,1. Callable once or more, from any thread but a connection's.
        """
        deadline = time.monotonic() + grace_seconds
        self._is_draining = True
        if self._acceptor is not None:
            self._acceptor.join()
        self._join(deadline)
        for connection in self._left():
            connection.expel()
        self._join(time.monotonic() + _EXPEL_SECONDS + self.limits.artim_seconds)
        for connection in self._left():
            connection.cut()
        self._join(time.monotonic() + _EXPEL_SECONDS)

    def totals(self) -> Totals:
        """Add up what was done until now."""
        work = Counters()
        with self._lock:
            work.add(self._done)
            for connection in self._threads:
                work.add(connection.counters)
            return Totals(
                open_connections=len(self._threads),
                open_associations=self._open.total(),
                accepted=self._accepted,
                work=work,
                ends=dict(self._ends),
                rejections=dict(self._refusals["rejected"]),
                tls_failures=dict(self._refusals["tls_failed"]),
            )

    @property
    def is_draining(self) -> bool:
        """Whether it was told to stop."""
        return self._is_draining

    @property
    def is_accepting(self) -> bool:
        """Whether connections are taken."""
        return self._acceptor is not None and self._acceptor.is_alive()

    def admit(self, connection: Connection, facts: AssociationFacts) -> Acceptance | Rejection:
        """Decide for a connection, and count its association as open if accepted."""
        shortage = self._shortage()
        caller: AeTitle | None
        with self._lock:
            caller = next((title for title in self._open if title.value == facts.calling_ae_title), None)
            decision = self._admission.decide(
                facts,
                Load(
                    associations=self._open.total(),
                    associations_of_caller=0 if caller is None else self._open[caller],
                    is_draining=self._is_draining,
                    shortage=shortage,
                ),
            )
            if isinstance(decision, Acceptance):
                self._accepted += 1
                self._open[decision.calling_ae_title] += 1
                self._no_longer_pending(connection.address)
        return decision

    def ended(self, connection: Connection, how: str) -> None:
        """Count one connection's end and take its work into the totals."""
        with self._lock:
            self._ends[how] += 1
            if how in self._refusals:
                self._refusals[how][connection.refusal] += 1
            self._done.add(connection.counters)
            if connection.names is None:
                self._no_longer_pending(connection.address)
            else:
                title = connection.names.calling_ae_title
                self._open[title] -= 1
                if not self._open[title]:
                    del self._open[title]
            self._threads.pop(connection, None)

    def _no_longer_pending(self, address: str) -> None:
        self._pending[address] -= 1
        if not self._pending[address]:
            del self._pending[address]

    def _bind(self, listener: Listener) -> socket.socket:
        family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((listener.host, listener.port))
            bound.listen(self._accept_queue)
            bound.settimeout(0)
        except OSError as error:
            bound.close()
            raise OSError(error.errno, error.strerror, f"{listener.host} port {listener.port}") from error
        return bound

    def _accept_until_draining(self) -> None:
        with selectors.DefaultSelector() as selector:
            for bound, wrap in self._sockets:
                selector.register(bound, selectors.EVENT_READ, wrap)
            while not self._is_draining:
                for key, _ in selector.select(_STOP_POLL_SECONDS):
                    self._accept_all(key.fileobj, key.data)  # type: ignore[arg-type]  # registered above
            # Who is in the queue already gets a proper rejection instead of a reset.
            for bound, wrap in self._sockets:
                self._accept_all(bound, wrap)
        self._close_sockets()

    def _accept_all(self, bound: socket.socket, wrap: Wrap | None) -> None:
        # No more than were waiting: under a flood the other listener has its turn, and stopping is noticed.
        for _ in range(self._accept_queue):
            try:
                transport, peer = bound.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # gone before we came to it
            except OSError:
                time.sleep(_ACCEPT_PAUSE_SECONDS)  # out of descriptors: let some connections end
                return
            self._take_in(transport, _plain_address(peer[0]), wrap)

    def _take_in(self, transport: socket.socket, address: str, wrap: Wrap | None) -> None:
        with self._lock:
            if (
                self._pending.total() >= self._maximum_pending
                or self._pending.get(address, 0) >= self._maximum_pending_per_address
            ):
                self._ends["turned_away"] += 1
                transport.close()
                return
            self._pending[address] += 1
            connection = Connection(transport, address=address, label=next(self._labels), host=self, wrap=wrap)
            thread = threading.Thread(target=connection.run, name=f"dicom-{connection.label}", daemon=True)
            self._threads[connection] = thread
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads: as if over the cap
            transport.close()
            self.ended(connection, "turned_away")

    def _left(self) -> list[Connection]:
        with self._lock:
            return list(self._threads)

    def _join(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            with self._lock:
                threads = list(self._threads.values())
            if not threads:
                return
            threads[0].join(min(_STOP_POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def _close_sockets(self) -> None:
        for bound, _ in self._sockets:
            with contextlib.suppress(OSError):
                bound.close()
        self._sockets.clear()


def _plain_address(text: str) -> str:
    """Write an IPv4 peer of a socket for both families as IPv4, and leave out an IPv6 scope."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
