"""
The receiver process: listen, close batches in time, recover what stalled, and stop without losing anything.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import attrs

from adapters.entrypoints.capacity import room_check
from adapters.entrypoints.meter import Meter
from adapters.entrypoints.settings import Settings
from adapters.entrypoints.use_cases import Ports, UseCases
from adapters.inbound.dicom.commitment import STORAGE_COMMITMENT, CommitmentDesk
from adapters.inbound.dicom.commitment_data import event_information, event_type
from adapters.inbound.dicom.connection import Limits
from adapters.inbound.dicom.presentation import PresentationPolicy
from adapters.inbound.dicom.server import DicomServer, Listener
from adapters.inbound.dicom.tls import TlsMode, TlsPort
from adapters.inbound.dicom.tls_credentials import Credentials
from adapters.inbound.health import Health, HealthServer
from adapters.inbound.metrics import Held, Metrics, Sources
from adapters.outbound.dicom_commitment import DicomCommitmentSender
from adapters.outbound.draft_room import DraftRoom
from adapters.outbound.room import RoomCheck
from adapters.outbound.telemetry import LineTelemetry
from domain.association import AdmissionPolicy
from domain.batch import BatchPolicy
from domain.commitment import CommitmentLevel, CommitmentPolicy
from domain.errors import NotPossible
from domain.ports import CommitmentStore
from services.write_batches import WriteBatches

_TICK_SECONDS = 0.25
_METER_SECONDS = 60.0
_LOAD_SECONDS = 5.0
_CLOSE_SECONDS = 15.0
_FAILURE_SECONDS = 60.0  # with nothing stored since, whether saving works again is not known
_WATCH_SECONDS = 3600.0
_ANSWER_SECONDS = 1.0
_ANSWERERS = 4  # a peer that does not answer holds one up, not all
_FORGET_SECONDS = 3600.0
_TELL_AGAIN_SECONDS = 60.0  # what fails at each turn is told this often
_COMMITMENTS_KEPT = timedelta(days=30)


@attrs.frozen(kw_only=True)
class Chore:
    """
    Something to do now and then beside receiving.

    Attributes:
        name: of the event that tells of its failure.
        every_seconds: how long to wait between two times.
        do: what to do; may raise.
        is_awaited: stopping waits for its end; what is not awaited may be cut off anywhere and is taken up later.

    """

    name: str
    every_seconds: float
    do: Callable[[], object]
    is_awaited: bool = True


@attrs.define
class Receiver:
    """
    A running receiver.

    Args:
        settings: where to listen, whom to admit, when to close batches.
        use_cases: wired on the adapters of a profile.
        chores: done by one thread, beside closing batches.
        drafts: what arriving instances hold.
        on_load: told every few seconds how many associations are open.

    """

    _settings: Settings
    _use_cases: UseCases
    _chores: tuple[Chore, ...] = ()
    _drafts: DraftRoom = attrs.field(factory=DraftRoom)
    _on_load: Callable[[int], None] | None = None
    _server: DicomServer = attrs.field(init=False)
    _tls: TlsPort | None = attrs.field(init=False)
    _room: RoomCheck = attrs.field(init=False)
    _health: HealthServer | None = attrs.field(init=False)
    _batches: WriteBatches = attrs.field(init=False)
    _is_stopping: threading.Event = attrs.field(factory=threading.Event, init=False)
    _threads: list[threading.Thread] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        settings = self._settings
        policy = BatchPolicy(
            quiet_seconds=settings.batch_quiet_seconds,
            max_age_seconds=settings.batch_max_age_seconds,
            max_files=settings.batch_max_files,
            max_bytes=settings.batch_max_bytes,
        )
        self._batches, receive = self._use_cases.receiving(policy, settings.maximum_object_bytes)
        telemetry = self._use_cases.ports.telemetry
        commitments = self._use_cases.ports.commitments
        desk: CommitmentDesk | None = None
        if commitments is not None:
            take = self._use_cases.taking_commitments(commitments, commitment_policy(settings))
            desk = CommitmentDesk(take, telemetry)
            self._chores = (*self._chores, *self._commitment_chores(commitments, desk))
        self._tls = tls_port(settings, self._use_cases.ports)
        self._room = room_check(settings, self._drafts, self._use_cases.ports.clock, telemetry)
        self._server = DicomServer(
            listeners=self._listeners(),
            admission=admission_policy(settings),
            presentation=PresentationPolicy.parse(
                [uid.value for uid in settings.supported_sop_class_uids] or [settings.storage_classes],
                settings.transfer_syntaxes,
                services=[] if desk is None else [STORAGE_COMMITMENT],
            ),
            receive=receive,
            telemetry=telemetry,
            commitments=desk,
            limits=Limits(
                maximum_pdu_bytes=settings.maximum_pdu_size,
                artim_seconds=settings.artim_timeout,
                network_timeout_seconds=settings.network_timeout,
                dimse_timeout_seconds=settings.dimse_timeout,
            ),
            shortage=self._room.shortage,
            maximum_pending_per_address=settings.maximum_waiting_connections,
        )
        self._health = None
        if settings.health_port:
            self._health = HealthServer(self._health_facts(), host=settings.host, port=settings.health_port)

    def _listeners(self) -> list[Listener]:
        settings = self._settings
        listeners = [Listener(host=settings.host, port=settings.port)] if settings.plain else []
        if self._tls is not None:
            listeners.append(Listener(host=settings.host, port=settings.tls_port, wrap=self._tls.wrap))
        return listeners

    def _health_facts(self) -> Health:
        telemetry = self._use_cases.ports.telemetry
        return Health(
            is_alive=lambda: self._server.is_accepting or self._server.is_draining,
            problems=self._problems,
            metrics=Metrics(
                Sources(
                    totals=self._server.totals,
                    held=self._held,
                    batch_age=self._batches.open_age_seconds,
                    certificate_seconds=self._certificate_seconds,
                    is_ready=lambda: not self._problems(),
                    events=telemetry.events if isinstance(telemetry, LineTelemetry) else dict,
                )
            ),
        )

    def _problems(self) -> list[str]:
        """Say why no more is taken, or why a store would fail."""
        if self._server.is_draining:
            return ["the receiver is stopping"]
        problems = [shortage] if (shortage := self._room.shortage()) else []
        work = self._server.totals().work
        failed_at = work.stage_failed_at
        is_over = failed_at is None or time.monotonic() - failed_at > _FAILURE_SECONDS
        if failed_at is not None and not is_over and (work.staged_at is None or work.staged_at < failed_at):
            problems.append("the last instance could not be saved: see instance.refused in the log")
        return problems

    def _held(self) -> Held:
        held = self._drafts.held()
        return Held(memory=held.memory, temporary=held.temporary, stores=held.drafts)

    def _certificate_seconds(self) -> float | None:
        if self._tls is None:
            return None
        return (self._tls.expires_at - self._use_cases.ports.clock.now()).total_seconds()

    def _watch_certificate(self) -> None:
        seconds = self._certificate_seconds()
        if self._tls is not None and seconds is not None:
            self._use_cases.ports.telemetry.measure("CertificateSecondsLeft", seconds, "Seconds")
            self._tls.warn()

    def _commitment_chores(self, store: CommitmentStore, desk: CommitmentDesk) -> Iterator[Chore]:
        ports = self._use_cases.ports
        answer = self._use_cases.answering_commitments(
            store,
            commitment_policy(self._settings),
            associations=desk,
            sender=DicomCommitmentSender(information=event_information, event_type=event_type),
            peers=self._settings.commitment_peers,
        )
        for _ in range(_ANSWERERS):
            # A delivery to a peer that does not answer lasts longer than stopping may.
            yield Chore(name="commitments.answer_failed", every_seconds=_ANSWER_SECONDS, do=answer, is_awaited=False)
        yield Chore(
            name="commitments.forget_failed",
            every_seconds=_FORGET_SECONDS,
            do=lambda: store.forget_commitments(ports.clock.now() - _COMMITMENTS_KEPT),
        )

    def start(self) -> int:
        """
        Begin to receive.

        Returns:
            The TCP port.

        Raises:
            NotPossible: the address cannot be listened on.

        """
        settings = self._settings
        try:
            self._server.start()
        except OSError as error:
            raise NotPossible(
                f"cannot listen on {error.filename}: {error.strerror}; {_remedy(error, '--port or --tls-port')}"
            ) from error
        health_port = self._start_health()
        if self._tls is not None:
            self._watch_certificate()
            self._run_chore(
                Chore(name="tls.watch_failed", every_seconds=_WATCH_SECONDS, do=self._watch_certificate),
            )
        self._run_chore(Chore(name="batches.tick_failed", every_seconds=_TICK_SECONDS, do=self._batches.tick))
        meter = Meter(self._server.totals, self._use_cases.ports.telemetry)
        self._run_chore(Chore(name="receiver.measuring_failed", every_seconds=_METER_SECONDS, do=meter))
        if (on_load := self._on_load) is not None:
            tell = partial(_tell_load, self._server, on_load)
            self._run_chore(Chore(name="receiver.load_failed", every_seconds=_LOAD_SECONDS, do=tell))
        for chore in self._chores:
            self._run_chore(chore)
        addresses = self._server.addresses
        port = addresses[0][1]
        self._use_cases.ports.telemetry.event(
            "receiver.listening",
            host=settings.host,
            port=port,
            ae_title=settings.ae_title.value,
            tls=settings.tls,
            tls_port=addresses[-1][1] if self._tls is not None else None,
            health_port=health_port,
        )
        return port

    def reload(self) -> None:
        """Read certificates anew; what is open goes on."""
        if self._tls is not None:
            self._tls.reload()

    def _start_health(self) -> int | None:
        if self._health is None:
            return None
        try:
            return self._health.start()
        except OSError as error:
            self._server.drain(0)
            raise NotPossible(
                f"cannot listen on {self._settings.host} port {self._settings.health_port}: {error.strerror};"
                f" {_remedy(error, '--health-port')}"
            ) from error

    def stop(self, hurrying: threading.Event | None = None) -> bool:
        """
        Stop accepting, let associations finish within the grace period, close the open batch.

        Args:
            hurrying: set to end the grace period at once.

        Returns:
            False if the metadata store was away and the batch is left to recovery; nothing is lost then either.

        """
        telemetry = self._use_cases.ports.telemetry
        telemetry.event(
            "receiver.draining",
            associations=self._server.totals().open_associations,
            grace_seconds=self._settings.grace_seconds,
        )
        self._drain(hurrying)
        self._is_stopping.set()
        for thread in self._threads:
            thread.join()
        deadline = time.monotonic() + _CLOSE_SECONDS
        while not (is_closed := self._batches.drain()) and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS)
        if self._health is not None:
            self._health.stop()
        telemetry.event("receiver.stopped")
        return is_closed

    def _drain(self, hurrying: threading.Event | None) -> None:
        is_drained = threading.Event()

        def hurry() -> None:
            while not is_drained.wait(_TICK_SECONDS):
                if hurrying is not None and hurrying.is_set():
                    self._server.drain(0)
                    return

        watching = threading.Thread(target=hurry, name="hurry", daemon=True)
        watching.start()
        self._server.drain(self._settings.grace_seconds)
        is_drained.set()
        watching.join()

    def _run_chore(self, chore: Chore) -> None:
        thread = threading.Thread(target=self._repeat, args=(chore,), name=chore.name, daemon=True)
        if chore.is_awaited:
            self._threads.append(thread)
        thread.start()

    def _repeat(self, chore: Chore) -> None:
        told, told_at = "", 0.0
        while not self._is_stopping.wait(chore.every_seconds):
            try:
                chore.do()
            except Exception as error:  # noqa: BLE001  # a bug in a chore must not end receiving; it is told and tried again
                problem, now = type(error).__name__, time.monotonic()
                if problem != told or now - told_at >= _TELL_AGAIN_SECONDS:
                    told, told_at = problem, now
                    self._use_cases.ports.telemetry.event(chore.name, error=problem)
            else:
                told = ""


def _remedy(error: OSError, options: str) -> str:
    """Say what to do about an address that cannot be listened on; `options` name the port."""
    if error.errno == errno.EADDRINUSE:
        return f"stop what uses it, or choose another {options}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"ports below 1024 need a privilege: choose another {options}"
    return "--host must be an address of this machine; 0.0.0.0 is all of them"


def _tell_load(server: DicomServer, on_load: Callable[[int], None]) -> None:
    on_load(server.totals().open_associations)


def commitment_policy(settings: Settings) -> CommitmentPolicy:
    """Return what a storage commitment means."""
    return CommitmentPolicy(
        level=CommitmentLevel(settings.commitment_level),
        sop_classes=frozenset(settings.supported_sop_class_uids),
        wait_seconds=settings.commitment_wait_seconds,
        patience_seconds=settings.commitment_patience_hours * 3600,
    )


def admission_policy(settings: Settings) -> AdmissionPolicy:
    """Return who may open an association."""
    return AdmissionPolicy(
        called_ae_titles=frozenset({settings.ae_title} if settings.require_called_ae_title else ()),
        callers=settings.require_calling_ae_titles,
        maximum_associations=settings.maximum_associations,
        maximum_associations_per_caller=settings.maximum_associations_per_ae or None,
    )


def tls_port(settings: Settings, ports: Ports) -> TlsPort | None:
    """
    Return what does TLS; None if it is off.

    Raises:
        NotPossible: certificate, key or CA cannot be used.

    """
    mode = TlsMode(settings.tls)
    if mode is TlsMode.OFF:
        return None
    credentials = Credentials(certificate=settings.tls_certificate, key=settings.tls_key, authority=settings.tls_ca)
    return TlsPort(mode, credentials, ports.telemetry, ports.clock.now)
