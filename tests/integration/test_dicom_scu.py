"""The sender against real receivers: pynetdicom's and DCMTK's."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made when the module is loaded

from adapters.outbound.dicom_scu import PynetdicomScu, SendOutcome
from domain.identifiers import AeTitle
from tests.dicom_samples import a_file
from tests.serving import Serving

_PIXELS = "1.2.840.10008.5.1.4.1.1.2"
_SAMPLES = Path(pydicom.data.__file__).parent / "test_files"

pytestmark = pytest.mark.usefixtures("no_threads_left")


@contextmanager
def a_receiver(
    handlers: list[Any], contexts: list[tuple[str, list[str]]] | None = None, **settings: Any
) -> Iterator[int]:
    """Run pynetdicom's SCP, called PACS; yield its port."""
    entity = AE(ae_title="PACS")
    for name, value in settings.items():
        setattr(entity, name, value)
    entity.add_supported_context(Verification)
    for sop_class, syntaxes in contexts or [(_PIXELS, [ExplicitVRLittleEndian])]:
        entity.add_supported_context(sop_class, syntaxes)
    server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def a_scu(port: int, **changes: Any) -> PynetdicomScu:
    usual = {"host": "127.0.0.1", "called": AeTitle("PACS"), "calling": AeTitle("CT1"), "timeout_seconds": 10.0}
    return PynetdicomScu(port=port, **{**usual, **changes})


def _answering(*statuses: int, comment: str = "") -> tuple[list[Any], list[bytes]]:
    """Return handlers that answer with one status after the other (the last one repeats), and what they received."""
    left, received = list(statuses), list[bytes]()

    def store(event: Any) -> Dataset:
        received.append(event.request.DataSet.getvalue())
        answer = Dataset()
        answer.Status = left.pop(0) if len(left) > 1 else left[0]
        if comment:
            answer.ErrorComment = comment
        return answer

    return [(evt.EVT_C_STORE, store)], received


def test_echo_is_answered() -> None:
    with a_receiver([(evt.EVT_C_ECHO, lambda _: 0)]) as port:
        answer = a_scu(port).echo()
    assert (answer.status, answer.problem) == (0, None)


def test_a_process_with_a_thousand_files_open_still_sends(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this process may not have 2,048 files open")
    with Serving(tmp_path / "data") as serving, ExitStack() as opened:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while opened.enter_context(Path(os.devnull).open("rb")).fileno() < 1024:
            """Its next connections are beyond what select() can tell of."""
        assert a_scu(serving.port).echo().problem is None


def test_bytes_arrive_as_they_are_in_the_file(tmp_path: Path) -> None:
    handlers, received = _answering(0)
    small, large = a_file(tmp_path, 1), a_file(tmp_path, 2, size=5_000_000)
    with a_receiver(handlers) as port:
        consignment = a_scu(port).gather([small, large])
        assert [file.outcome for file in consignment.send()] == [SendOutcome.STORED] * 2
    expected = [file.path.read_bytes()[file.data_offset :] for file in consignment.files]
    assert expected == received


def test_every_answer_is_told_with_the_receivers_words(tmp_path: Path) -> None:
    handlers, _ = _answering(0, 0xB000, 0xA700, 0xC001, comment="disk full")
    files = [a_file(tmp_path, number) for number in range(1, 5)]
    with a_receiver(handlers) as port:
        sent = list(a_scu(port).gather(files).send())
    assert [file.status for file in sent] == [0, 0xB000, 0xA700, 0xC001]
    assert [file.outcome.value for file in sent] == ["stored", "warning", "refused", "refused"]
    assert [file.is_stored for file in sent] == [True, True, False, False]
    assert sent[2].comment.endswith("the receiver says: disk full")


def test_a_kind_that_the_receiver_does_not_take_is_refused_and_the_rest_is_sent(tmp_path: Path) -> None:
    handlers, received = _answering(0)
    files = [a_file(tmp_path, 1, sop_class="1.2.3.4.5"), a_file(tmp_path, 2)]
    with a_receiver(handlers) as port:
        refused, stored = a_scu(port).gather(files).send()
    assert (refused.outcome, refused.status) == (SendOutcome.REFUSED, None)
    assert "does not take 1.2.3.4.5 in transfer syntax Explicit VR Little Endian" in refused.comment
    assert stored.is_stored
    assert len(received) == 1


def test_more_kinds_than_an_association_has_contexts_take_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", True)  # of the receiver: private classes too
    handlers, received = _answering(0)
    kinds = [f"1.2.3.{number}" for number in range(1, 201)]
    files = [a_file(tmp_path, number, sop_class=kind) for number, kind in enumerate(kinds, start=1)]
    accepted: list[object] = []
    handlers.append((evt.EVT_ACCEPTED, accepted.append))
    with a_receiver(handlers, contexts=[(kind, [ExplicitVRLittleEndian]) for kind in kinds]) as port:
        sent = list(a_scu(port).gather(files).send())
    assert [file.is_stored for file in sent] == [True] * 200
    assert (len(received), len(accepted)) == (200, 2)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"require_called_aet": True, "ae_title": "OTHER"}, "--called-ae-title"),
        ({"require_calling_aet": ["MR2"]}, "--require-calling-ae-titles"),
        ({"maximum_associations": 1}, "--maximum-associations"),
    ],
)
def test_a_rejection_says_what_to_change(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    handlers, _ = _answering(0)
    with a_receiver(handlers, **settings) as port:
        busy = None
        if "maximum_associations" in settings:
            other = AE()
            other.add_requested_context(Verification)
            busy = other.associate("127.0.0.1", port)
        problem = a_scu(port).echo().problem
        sent = list(a_scu(port).gather([a_file(tmp_path, 1), a_file(tmp_path, 2)]).send())
        if busy is not None:
            busy.release()
    assert problem is not None
    assert words in problem
    assert [(file.outcome, file.comment) for file in sent] == [(SendOutcome.NOT_SENT, problem)] * 2


def test_a_rejection_that_comes_with_the_end_of_the_connection_is_understood() -> None:
    rounds = 20

    def reject(listener: socket.socket) -> None:
        for _ in range(rounds):
            connected, _ = listener.accept()
            with connected:
                connected.recv(65536)
                connected.sendall(bytes.fromhex("0300 00000004 00 01 01 03"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        rejecting = threading.Thread(target=reject, args=(listener,))
        rejecting.start()
        problems = {a_scu(listener.getsockname()[1]).echo().problem for _ in range(rounds)}
        rejecting.join()
    (problem,) = problems
    assert problem is not None
    assert "does not accept the calling AE title CT1" in problem


def test_a_receiver_that_takes_nothing_of_it_is_told_with_the_kind_of_each_file(tmp_path: Path) -> None:
    with a_receiver([], contexts=[("1.2.840.10008.5.1.4.1.1.4", [ExplicitVRLittleEndian])]) as port:
        (sent,) = a_scu(port).gather([a_file(tmp_path, 1)]).send()
    assert (sent.outcome, sent.status) == (SendOutcome.REFUSED, None)
    assert sent.comment == "the receiver does not take CT Image Storage in transfer syntax Explicit VR Little Endian"


def test_an_association_that_one_file_ends_is_opened_again_for_the_rest(tmp_path: Path) -> None:
    seen: list[str] = []

    def store(event: Any) -> int:
        seen.append(event.request.AffectedSOPInstanceUID)
        if len(seen) == 2:
            event.assoc.abort()
        return 0

    files = [a_file(tmp_path, number) for number in range(1, 5)]
    with a_receiver([(evt.EVT_C_STORE, store)]) as port:
        outcomes = [file.outcome.value for file in a_scu(port).gather(files).send()]
    assert outcomes == ["stored", "not sent", "stored", "stored"]


def test_a_receiver_that_keeps_aborting_leaves_the_rest_unsent(tmp_path: Path) -> None:
    def store(event: Any) -> int:
        event.assoc.abort()
        return 0

    files = [a_file(tmp_path, number) for number in range(1, 6)]
    with a_receiver([(evt.EVT_C_STORE, store)]) as port:
        sent = list(a_scu(port).gather(files).send())
    assert [file.outcome for file in sent] == [SendOutcome.NOT_SENT] * 5
    assert "one association after the other" in sent[-1].comment


def test_a_receiver_that_goes_away_leaves_the_rest_unsent(tmp_path: Path) -> None:
    handlers, _ = _answering(0)
    accepted: list[Any] = []
    handlers.append((evt.EVT_ACCEPTED, accepted.append))
    files = [a_file(tmp_path, number) for number in range(1, 4)]
    with a_receiver(handlers) as port:
        sending = a_scu(port, timeout_seconds=2.0).gather(files).send()
        assert next(sending).is_stored
        accepted[0].assoc.abort()
    rest = list(sending)
    assert [file.outcome for file in rest] == [SendOutcome.NOT_SENT] * 2
    assert "refuses connections" in rest[1].comment


@contextmanager
def a_silent_listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Take one connection and do with it what a test wants."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def take() -> None:
            connection, _ = server.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


def test_a_listener_that_never_answers_is_told_from_one_that_hangs_up() -> None:
    with a_silent_listener(lambda connection: time.sleep(1.5)) as port:
        answer = a_scu(port, timeout_seconds=0.5).echo()
    assert "did not answer within 0.5 s" in str(answer.problem)
    with a_silent_listener(lambda connection: connection.close()) as port:
        answer = a_scu(port, timeout_seconds=5.0).echo()
    assert "ended the connection without an answer" in str(answer.problem)


def test_a_receiver_that_stops_reading_ends_the_transfer_in_time(tmp_path: Path) -> None:
    large = a_file(tmp_path, 1, size=60_000_000)
    is_done = threading.Event()

    def stall(event: evt.Event) -> None:
        if event.pdu.pdu_type == 0x04:
            is_done.wait(20)

    with a_receiver([(evt.EVT_PDU_RECV, stall)]) as port:
        began = time.monotonic()
        (sent,) = a_scu(port, timeout_seconds=1.0).gather([large]).send()
        is_done.set()
    assert sent.outcome is SendOutcome.NOT_SENT
    assert time.monotonic() - began < 10


@pytest.mark.dcmtk
def test_dcmtk_receives_every_sample_that_it_accepts(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    received = tmp_path / "received"
    received.mkdir()
    server = subprocess.Popen(
        [require_tool("storescp"), "--accept-all", "--bit-preserving", "-od", str(received), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        scu = a_scu(port, host="localhost")
        deadline = time.monotonic() + 10
        while scu.echo().problem is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        consignment = scu.gather(
            [_SAMPLES / "CT_small.dcm", _SAMPLES / "JPEG2000.dcm", _SAMPLES / "MR_small_bigendian.dcm"]
        )
        sent = list(consignment.send())
    finally:
        server.terminate()
        server.wait(10)
    assert [file.outcome for file in sent] == [SendOutcome.STORED] * 3
    stored = {path.name.split(".", 1)[1]: path.read_bytes() for path in received.iterdir()}
    for file in consignment.files:
        data_set = file.path.read_bytes()[file.data_offset :]
        assert stored[file.sop_instance.value].endswith(data_set)


def test_an_implicit_file_is_not_made_explicit(tmp_path: Path) -> None:
    handlers, received = _answering(0)
    path = a_file(tmp_path, 1, syntax=ImplicitVRLittleEndian)
    with a_receiver(handlers, contexts=[(_PIXELS, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]) as port:
        consignment = a_scu(port).gather([path])
        (sent,) = consignment.send()
    assert sent.is_stored
    assert received == [path.read_bytes()[consignment.files[0].data_offset :]]
