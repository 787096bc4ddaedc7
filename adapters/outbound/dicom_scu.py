"""
PynetdicomScu: ask a receiver whether it answers, and send it files, byte for byte as they are.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
from pydicom.uid import UID
from pynetdicom import _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made when the module is loaded

from adapters.outbound.dicom_answers import connection_words, is_stored, is_warning, rejection_words, status_words
from adapters.outbound.dicom_files import DicomFile, SkippedFile, find_files, sendable
from adapters.outbound.dicom_requestor import Requestor
from domain.identifiers import AeTitle, Uid

_MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: ids are odd numbers up to 255
_MAX_MESSAGE_ID = 65_535
_PDUS_AHEAD = 16  # how far reading a file may run ahead of the network
_OUR_MAX_PDU = 131_072
_MAX_LOSSES = 2  # associations in a row that end without a single answer


class SendOutcome(StrEnum):
    """What became of one file."""

    STORED = "stored"
    WARNING = "warning"  # stored, with a remark of the receiver
    REFUSED = "refused"  # the receiver said no to this instance, or to its kind
    NOT_SENT = "not sent"  # there was no association to send it on, or it was lost before the answer


@attrs.frozen(kw_only=True)
class SentFile:
    """
    The result for one file.

    Attributes:
        status: what the receiver answered; None without an answer.
        comment: what that means, and the receiver's own words; empty for a plain success.

    """

    path: Path
    sop_instance: Uid
    outcome: SendOutcome
    status: int | None = None
    comment: str = ""

    @property
    def is_stored(self) -> bool:
        """Whether the receiver has it."""
        return self.outcome in {SendOutcome.STORED, SendOutcome.WARNING}


@attrs.frozen(kw_only=True)
class EchoAnswer:
    """
    The result of a C-ECHO.

    Attributes:
        seconds: from opening the connection to the answer.
        problem: what went wrong and what to change; None if the receiver answered Success.

    """

    seconds: float
    status: int | None = None
    problem: str | None = None


@attrs.frozen(kw_only=True)
class Consignment:
    """
    Files that are ready to be sent to one receiver.

    Attributes:
        skipped: what cannot be sent.

    """

    scu: PynetdicomScu
    files: tuple[DicomFile, ...]
    skipped: tuple[SkippedFile, ...] = ()

    def send(self) -> Iterator[SentFile]:
        """Send them one after the other, yielding each result."""
        return self.scu.send(self.files)


_REACTOR_TURN_SECONDS = 0.02


class _NoAssociation(Exception):
    """No association came about; the text says why. It never leaves this module."""


class _NothingTaken(_NoAssociation):
    """The receiver accepted none of the presentation contexts."""


@attrs.frozen(kw_only=True)
class PynetdicomScu:
    """
    The requestor's side of one receiver.

    Attributes:
        called: the receiver's AE title.
        calling: ours.
        timeout_seconds: for the connection, for the answer to each request, and for the network to take more.

    """

    host: str
    port: int
    called: AeTitle
    calling: AeTitle
    timeout_seconds: float = 30.0

    def gather(self, paths: Iterable[Path], progress: Callable[[int], None] = lambda _: None) -> Consignment:
        """Look at files and folders; `progress` is called with how many were looked at."""
        files: list[DicomFile] = []
        skipped: list[SkippedFile] = []
        for number, found in enumerate(find_files(paths), start=1):
            if isinstance(found, SkippedFile):
                skipped.append(found)
            else:
                files.append(found)
            progress(number)
        return Consignment(scu=self, files=tuple(files), skipped=tuple(skipped))

    def echo(self) -> EchoAnswer:
        """Send one C-ECHO."""
        began = time.monotonic()
        try:
            dialogue = self._associate([build_context(Verification)])
        except _NoAssociation as error:
            return EchoAnswer(seconds=time.monotonic() - began, problem=str(error))
        try:
            answer = dialogue.association.send_c_echo()
        except (RuntimeError, ValueError) as error:
            return EchoAnswer(seconds=time.monotonic() - began, problem=f"the association was lost: {error}")
        finally:
            dialogue.end()
        seconds = time.monotonic() - began
        status = cast("int | None", answer.get("Status"))
        if status is None:
            return EchoAnswer(
                seconds=seconds, problem=f"the receiver did not answer C-ECHO within {self.timeout_seconds:g} s"
            )
        problem = None if status == 0 else _comment(status, answer.get("ErrorComment"))
        return EchoAnswer(seconds=seconds, status=status, problem=problem)

    def send(self, files: Sequence[DicomFile]) -> Iterator[SentFile]:
        """
        Send files one after the other, yielding each result.

        One association proposes up to 128 pairs of SOP class and transfer syntax, exactly those of the files; more
        pairs take more associations.
        A lost association is opened again for the files that are left; if that is refused, or lost again without an
        answer, they are reported as not sent.
        """
        _config.STORE_SEND_CHUNKED_DATASET = True  # the bytes of the file, read piece by piece, never decoded
        refused = ""
        for group in _groups(files):
            left: Sequence[DicomFile] = group
            losses = 0
            while left and not refused:
                try:
                    dialogue = self._associate([build_context(*pair) for pair in dict.fromkeys(map(_pair, left))])
                except _NothingTaken:
                    yield from map(_not_taken, left)
                    left = ()
                    break
                except _NoAssociation as error:
                    refused = str(error)
                    break
                answered, left = yield from self._send_on(dialogue, left)
                losses = 0 if answered else losses + 1
                if losses == _MAX_LOSSES:
                    refused = "the receiver ended one association after the other without an answer"
            yield from _not_sent(left, refused)

    def _send_on(
        self, dialogue: _Dialogue, files: Sequence[DicomFile]
    ) -> Generator[SentFile, None, tuple[int, Sequence[DicomFile]]]:
        """Send until the association ends; return how many files were answered, and which are left."""
        accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in dialogue.association.accepted_contexts
            if context.as_scu
        }
        answered = 0
        try:
            for number, file in enumerate(files):
                if _pair(file) not in accepted:
                    yield _not_taken(file)
                    continue
                sent = self._store(dialogue.association, file, number % _MAX_MESSAGE_ID + 1)
                yield sent
                if sent.status is None:
                    return answered, files[number + 1 :]
                answered += 1
        finally:
            dialogue.end()
        return answered, ()

    def _store(self, association: Association, file: DicomFile, message_id: int) -> SentFile:
        began = time.monotonic()
        try:
            with sendable(file) as path:
                answer = association.send_c_store(path, msg_id=message_id)
        except OSError as error:
            return _unanswered(file, f"cannot be read: {error.strerror or error}")
        except (RuntimeError, ValueError, AttributeError) as error:
            return _unanswered(file, f"cannot be sent: {error}")
        status = cast("int | None", answer.get("Status"))
        if status is None:
            if time.monotonic() - began >= self.timeout_seconds:
                return _unanswered(file, f"the receiver did not answer within {self.timeout_seconds:g} s (--timeout)")
            return _unanswered(file, "the receiver ended the association without an answer to this file")
        outcome = SendOutcome.REFUSED
        if is_stored(status):
            outcome = SendOutcome.WARNING if is_warning(status) else SendOutcome.STORED
        comment = _comment(status, answer.get("ErrorComment"))
        return SentFile(path=file.path, sop_instance=file.sop_instance, outcome=outcome, status=status, comment=comment)

    def _associate(self, contexts: list[PresentationContext]) -> _Dialogue:
        """Open an association at the first address of the host that takes a connection."""
        try:
            addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise _NoAssociation(self._unconnected(error)) from error
        began = time.monotonic()
        for *_, address in addresses:
            began = time.monotonic()
            opened: list[evt.Event] = []
            rejections: list[A_ASSOCIATE_RJ] = []
            entity = Requestor(self.calling.value)
            entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = self.timeout_seconds
            entity.network_timeout = max(60.0, self.timeout_seconds)
            association = entity.associate(
                _pynetdicom_address(address),
                self.port,
                contexts=contexts,
                ae_title=self.called.value,
                max_pdu=_OUR_MAX_PDU,
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, opened.append),
                    (evt.EVT_PDU_RECV, partial(_note_rejection, rejections)),
                ],
            )
            if association.is_established:
                return _Dialogue(_tuned(association, self.timeout_seconds), entity)
            entity.hang_up(association)
            if opened:
                raise self._unestablished(association, rejections, time.monotonic() - began)
        raise _NoAssociation(self._unconnected(self._why_unconnected(time.monotonic() - began)))

    def _unestablished(
        self, association: Association, rejections: Sequence[A_ASSOCIATE_RJ], seconds: float
    ) -> _NoAssociation:
        for rejection in rejections:
            permanence = "rejected" if rejection.result == 1 else "rejected for now"
            words = rejection_words(
                rejection.source or 0,
                rejection.reason_diagnostic or 0,
                calling=self.calling.value,
                called=self.called.value,
            )
            return _NoAssociation(f"association {permanence}: {words}")
        if association.rejected_contexts:
            return _NothingTaken(
                "the receiver takes none of the kinds (SOP class and transfer syntax) that were proposed"
            )
        if seconds >= self.timeout_seconds:
            return _NoAssociation(
                f"{self.host} port {self.port} took the connection and did not answer"
                f" within {self.timeout_seconds:g} s: is it a DICOM receiver, and one that expects no TLS?"
            )
        return _NoAssociation(
            f"{self.host} port {self.port} ended the connection without an answer: is it a DICOM receiver, one that"
            f" expects no TLS, and may calling AE title {self.calling} connect to it?"
        )

    def _unconnected(self, error: Exception) -> str:
        wrapped = error if isinstance(error, OSError) else socket.gaierror(str(error))
        return connection_words(wrapped, self.host, self.port, self.timeout_seconds)

    def _why_unconnected(self, seconds: float) -> OSError:
        """Find out what pynetdicom keeps to itself: why there was no connection."""
        if seconds >= self.timeout_seconds:
            return TimeoutError()
        try:
            socket.create_connection((self.host, self.port), timeout=self.timeout_seconds).close()
        except OSError as error:
            return error
        return ConnectionError("the connection was lost at once")


def send(host: str, port: int, paths: Iterable[Path], *, called: str = "STORESCP") -> Iterator[SentFile]:
    """Send files and folders with the usual AE titles and time-outs; what cannot be sent is left out."""
    scu = PynetdicomScu(host=host, port=port, called=AeTitle.parse(called), calling=AeTitle("AHISEND"))
    return scu.gather(paths).send()


class _BoundedQueue(queue.Queue[Any]):
    """
    What waits to be sent, bounded: else a large file is read into memory whole, and its answer timed from then.

    What comes after the end of the connection is dropped; pynetdicom tells its caller of the end itself.
    """

    def __init__(self, association: Association, timeout_seconds: float) -> None:
        super().__init__(maxsize=_PDUS_AHEAD)
        self._association = association
        self._timeout_seconds = timeout_seconds

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ANN401, FBT001, FBT002  # as in Queue
        """Wait for room as long as the network goes on taking bytes."""
        del block, timeout
        deadline = time.monotonic() + self._timeout_seconds
        while self._is_open():
            try:
                return super().put(item, timeout=0.05)
            except queue.Full:
                if time.monotonic() >= deadline:
                    self._cut()
        return None

    def _is_open(self) -> bool:
        dul = self._association.dul
        return dul.is_alive() and dul.state_machine.current_state != "Sta1"

    def _cut(self) -> None:
        """End a connection that takes no more bytes; the thread that is writing to it wakes up."""
        connection = self._association.dul.socket
        if connection is not None and connection.socket is not None:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)


class HeldBack(threading.Event):
    """
    Stands in for the event that lets an association's reactor run, while the reactor is kept waiting.

    Before each request pynetdicom asks its reactor to pause and goes on as soon as that says so; a reactor that was
    just about to look for messages then takes a quick receiver's answer away from the request that waits for it.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._real: threading.Event = association._reactor_checkpoint  # noqa: SLF001  # pynetdicom has no other way
        self._real.clear()
        # Longer than the reactor needs for a turn: whatever it was doing, it waits afterwards.
        time.sleep(_REACTOR_TURN_SECONDS)
        association._reactor_checkpoint = self  # noqa: SLF001

    def set(self) -> None:
        """Keep the reactor waiting."""

    def let_go(self) -> None:
        """Let the reactor run again."""
        self._association._reactor_checkpoint = self._real  # noqa: SLF001
        self._real.set()


@attrs.frozen
class _Dialogue:
    """An established association and who requested it."""

    association: Association
    _entity: Requestor

    def end(self) -> None:
        """End the association, once its reactor runs again."""
        checkpoint = self.association._reactor_checkpoint  # noqa: SLF001  # set by us
        if isinstance(checkpoint, HeldBack):
            checkpoint.let_go()
        self._entity.end(self.association)


def _tuned(association: Association, timeout_seconds: float) -> Association:
    """Let an open association read ahead little, and send small PDUs at once: else each file waits 40 ms for an ack."""
    HeldBack(association)
    association.dul.to_provider_queue = _BoundedQueue(association, timeout_seconds)
    connection = association.dul.socket
    if connection is not None and connection.socket is not None:
        with suppress(OSError):
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return association


def _note_rejection(noted: list[A_ASSOCIATE_RJ], event: evt.Event) -> None:
    """
    Keep an A-ASSOCIATE-RJ as it arrives.

    pynetdicom itself takes one that comes quickly, together with the end of the connection, for no connection at all.
    """
    if isinstance(event.pdu, A_ASSOCIATE_RJ):
        noted.append(event.pdu)


def _groups(files: Sequence[DicomFile]) -> Iterator[list[DicomFile]]:
    """Divide files so that each group needs no more presentation contexts than an association has."""
    by_pair: dict[tuple[str, str], list[DicomFile]] = {}
    for file in files:
        by_pair.setdefault(_pair(file), []).append(file)
    pairs = list(by_pair)
    for start in range(0, len(pairs), _MAX_CONTEXTS):
        together = set(pairs[start : start + _MAX_CONTEXTS])
        yield [file for file in files if _pair(file) in together]


def _pair(file: DicomFile) -> tuple[str, str]:
    return file.sop_class.value, file.transfer_syntax.value


def _not_sent(files: Iterable[DicomFile], why: str) -> Iterator[SentFile]:
    for file in files:
        yield _unanswered(file, why)


def _unanswered(file: DicomFile, why: str) -> SentFile:
    return SentFile(path=file.path, sop_instance=file.sop_instance, outcome=SendOutcome.NOT_SENT, comment=why)


def _not_taken(file: DicomFile) -> SentFile:
    return SentFile(
        path=file.path,
        sop_instance=file.sop_instance,
        outcome=SendOutcome.REFUSED,
        comment=f"the receiver does not take {UID(file.sop_class.value).name}"
        f" in transfer syntax {UID(file.transfer_syntax.value).name}",
    )


def _comment(status: int, error_comment: object) -> str:
    words = "" if status == 0 else status_words(status)
    said = str(error_comment or "").strip()
    return f"{words}; the receiver says: {said}" if words and said else words or said


def _pynetdicom_address(address: tuple[Any, ...]) -> str | tuple[str, int, int]:
    host, _port, *rest = address
    return (host, rest[0], rest[1]) if rest else host
