"""The receiver on real sockets: DCMTK and pynetdicom as senders, scripted use case behind it, hostile peers."""

import contextlib
import io
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, UserIdentityNegotiation

from adapters.inbound.dicom.connection import Limits
from adapters.inbound.dicom.dataset import part10_header
from adapters.inbound.dicom.presentation import PresentationPolicy
from adapters.inbound.dicom.server import DicomServer, Listener
from adapters.inbound.dicom.tls import TlsMode, TlsPort
from adapters.inbound.dicom.tls_credentials import Credentials
from domain.association import AdmissionPolicy
from domain.errors import DataSetMismatch, Draining, InstanceTooLarge, StageFailed
from domain.instance import IdentifyingAttributes, StoreRequest
from tests.unit.inbound import pdus

pytestmark = [pytest.mark.usefixtures("no_threads_left"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

CT_FILE = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"


class FakeReception:
    def __init__(self, use_case: "FakeUseCase", request: StoreRequest, header: bytes) -> None:
        self.use_case = use_case
        self.request = request
        self.header = header
        self.data = bytearray()
        self.attributes: IdentifyingAttributes | None = None
        self.abandoned = 0

    def write(self, data: bytes | memoryview, /) -> None:
        self.use_case.step("write")
        self.data += data

    def finish(self, attributes: IdentifyingAttributes, /) -> object:
        self.attributes = attributes
        self.use_case.step("finish")
        return self

    def abandon(self) -> None:
        self.abandoned += 1


class FakeUseCase:
    """Keeps what it is given; each step first does what the script says."""

    def __init__(self) -> None:
        self.receptions: list[FakeReception] = []
        self.script: dict[str, Callable[[], None]] = {}

    def step(self, name: str) -> None:
        self.script.get(name, lambda: None)()

    def begin(self, request: StoreRequest, header: bytes, /) -> FakeReception:
        self.step("begin")
        reception = FakeReception(self, request, header)
        self.receptions.append(reception)
        return reception


class FakeTelemetry:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, name: str, /, **fields: str | float | None) -> None:
        self.events.append((name, fields))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.events if event == name]


class Running:
    """A receiver and all that tests look at."""

    def __init__(self, **changes: Any) -> None:
        self.use_case = FakeUseCase()
        self.telemetry = FakeTelemetry()
        arguments: dict[str, Any] = {
            "listeners": [Listener(host="127.0.0.1", port=0)],
            "admission": AdmissionPolicy(),
            "presentation": PresentationPolicy(),
            "receive": self.use_case,
            "telemetry": self.telemetry,
            **changes,
        }
        self.server = DicomServer(**arguments)
        self.server.start()
        self.port = self.server.addresses[0][1]

    def connect(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def until(self, claim: Callable[[], bool], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not claim():
            assert time.monotonic() < deadline, (self.server.totals(), self.telemetry.events)
            time.sleep(0.01)

    def ends(self, how: str) -> int:
        return self.server.totals().ends.get(how, 0)


@contextlib.contextmanager
def running(**changes: Any) -> Iterator[Running]:
    receiver = Running(**changes)
    try:
        yield receiver
    finally:
        receiver.server.drain(0)


@pytest.fixture
def receiver() -> Iterator[Running]:
    with running() as one:
        yield one


def read_pdu(connected: socket.socket) -> tuple[int, bytes]:
    head = read_exactly(connected, 6)
    kind, length = struct.unpack(">BxI", head)
    return kind, read_exactly(connected, length)


def read_exactly(connected: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connected.recv(length - len(data))
        assert piece, f"closed after {data!r}"
        data += piece
    return data


def associate(receiver: Running, **changes: Any) -> socket.socket:
    connected = receiver.connect()
    connected.sendall(pdus.associate_rq(**changes))
    kind, _ = read_pdu(connected)
    assert kind == 2
    return connected


def read_status(connected: socket.socket) -> dict[int, bytes]:
    kind, body = read_pdu(connected)
    assert kind == 4, (kind, body)
    return pdus.parse_command(body[6:])


def status_of(elements: dict[int, bytes]) -> int:
    return int.from_bytes(elements[0x0900], "little")


def store(instance: str = "1.2.3", message_id: int = 1, pixels: bytes = b"") -> bytes:
    return pdus.p_data(pdus.pdv(3, 3, pdus.c_store(instance, message_id))) + pdus.p_data(
        pdus.pdv(3, 2, pdus.data_set(sop_instance=instance, pixels=pixels))
    )


def drip(connected: socket.socket, data: bytes, seconds: float) -> None:
    """Send byte by byte until the receiver has had enough."""
    for byte in data:
        try:
            connected.sendall(bytes((byte,)))
        except OSError:
            return
        time.sleep(seconds)
    pytest.fail("the receiver never closed")


def release(connected: socket.socket) -> None:
    connected.sendall(pdus.RELEASE_RQ)
    assert read_pdu(connected)[0] == 6
    connected.close()


def an_ae(*contexts: str) -> AE:
    entity = AE("MODALITY")
    for uid in contexts or (pdus.VERIFICATION, pdus.CT):
        entity.add_requested_context(uid)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    return entity


def a_dataset() -> Dataset:
    return pydicom.dcmread(CT_FILE)


def test_dcmtk_can_echo(receiver: Running, require_tool: Callable[[str], str]) -> None:
    command = [require_tool("echoscu"), "-v", "127.0.0.1", str(receiver.port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    receiver.until(lambda: receiver.server.totals().echoed == 1)


def test_dcmtk_can_store(receiver: Running, require_tool: Callable[[str], str]) -> None:
    command = [require_tool("storescu"), "-v", "-aet", "CT1", "-aec", "STORE", "127.0.0.1", str(receiver.port)]
    done = subprocess.run([*command, str(CT_FILE)], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    (reception,) = receiver.use_case.receptions
    expected = a_dataset()
    assert reception.request.sop_instance_uid == expected.SOPInstanceUID
    assert reception.request.calling_ae_title.value == "CT1"
    assert reception.request.called_ae_title.value == "STORE"
    assert reception.attributes is not None
    assert reception.attributes.series_instance_uid == expected.SeriesInstanceUID
    assert part10_header(reception.request) == reception.header
    stored = pydicom.dcmread(io.BytesIO(reception.header + bytes(reception.data)))
    assert stored.PixelData == expected.PixelData
    assert reception.abandoned == 0


@pytest.mark.parametrize("option", ["-xi", "-xe", "-xb", "-xs", "-xy", "-xr", "-xd", "-x="])
def test_dcmtk_may_propose_what_it_likes(receiver: Running, option: str, require_tool: Callable[[str], str]) -> None:
    command = [require_tool("storescu"), option, "127.0.0.1", str(receiver.port), str(CT_FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    (reception,) = receiver.use_case.receptions
    assert reception.attributes is not None
    assert reception.attributes.sop_instance_uid == a_dataset().SOPInstanceUID


def test_pynetdicom_can_store_and_sees_errors_with_their_comments(receiver: Running) -> None:
    association = an_ae().associate("127.0.0.1", receiver.port)
    assert association.is_established
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(a_dataset()).Status == 0

    def fail(error: Exception) -> Callable[[], None]:
        def raise_it() -> None:
            raise error

        return raise_it

    failures: list[tuple[str, Exception, int]] = [
        ("begin", Draining(), 0xA700),
        ("write", InstanceTooLarge(1000), 0xA700),
        ("write", StageFailed("disk full"), 0xA700),
        ("finish", DataSetMismatch("SOP Class UID", "1.2", "1.3"), 0xA900),
        ("finish", StageFailed("disk full"), 0xA700),
        ("begin", ZeroDivisionError("Yamada^Tarou"), 0x0110),
        ("write", OSError("Yamada^Tarou"), 0x0110),
        ("finish", MemoryError("Yamada^Tarou"), 0x0110),
    ]
    for step, error, expected in failures:
        receiver.use_case.script = {step: fail(error)}
        answer = association.send_c_store(a_dataset())
        assert expected == answer.Status, (step, error)
        assert 0 < len(answer.ErrorComment) <= 64
    receiver.use_case.script = {}
    assert association.send_c_store(a_dataset()).Status == 0
    association.release()
    assert association.is_released

    refused = receiver.telemetry.named("instance.refused")
    assert [f"0x{status:04X}" for _, _, status in failures] == [fields["status"] for fields in refused]
    assert "Yamada" not in str(receiver.telemetry.events)
    # Those that failed at their beginning never were; the first and last succeeded.
    assert [reception.abandoned for reception in receiver.use_case.receptions] == [0, 1, 1, 1, 1, 1, 1, 0]
    receiver.until(lambda: receiver.ends("released") == 1)
    totals = receiver.server.totals()
    assert (totals.stored, totals.refused, totals.echoed) == (2, 8, 1)


def test_a_data_set_without_identity_is_refused_by_its_attribute(receiver: Running) -> None:
    connected = associate(receiver)
    connected.sendall(pdus.p_data(pdus.pdv(3, 3, pdus.c_store()), pdus.pdv(3, 2, b"\x08\0\x16\0UI\xff")))
    answer = read_status(connected)
    assert status_of(answer) == 0xC000
    assert b"ends in the middle" in answer[0x0902]
    release(connected)


def test_compressed_instances_are_kept_as_they_are(receiver: Running) -> None:
    path = CT_FILE.parent / "JPEG2000.dcm"
    expected = pydicom.dcmread(path)
    entity = AE("MODALITY")
    entity.requested_contexts = [build_context(expected.SOPClassUID, expected.file_meta.TransferSyntaxUID)]
    association = entity.associate("127.0.0.1", receiver.port)
    assert association.send_c_store(expected).Status == 0
    association.release()
    (reception,) = receiver.use_case.receptions
    assert expected.file_meta.TransferSyntaxUID == reception.request.transfer_syntax.value


@pytest.mark.parametrize(
    "changes,title,called,codes,words",
    [
        ({"admission": AdmissionPolicy.parse(callers=["CT1"])}, "MODALITY", "X", (1, 1, 3), "add MODALITY"),
        (
            {"admission": AdmissionPolicy.parse(callers=["MODALITY@10.9.9.0/24"])},
            "MODALITY",
            "X",
            (1, 1, 3),
            "MODALITY@127.0.0.1",
        ),
        ({"admission": AdmissionPolicy.parse(called_ae_titles=["STORE"])}, "MODALITY", "X", (1, 1, 7), "STORE"),
        ({"shortage": lambda: "the disk is full"}, "MODALITY", "X", (2, 3, 1), "the disk is full"),
    ],
)
def test_a_refused_association_is_a_rejection_that_tells_what_to_change(
    changes: dict[str, Any], title: str, called: str, codes: tuple[int, int, int], words: str
) -> None:
    with running(**changes) as receiver:
        connected = receiver.connect()
        connected.sendall(pdus.associate_rq(calling=title.encode(), called=called.encode()))
        kind, body = read_pdu(connected)
        assert (kind, tuple(body[1:])) == (3, codes)
        connected.close()
        receiver.until(lambda: receiver.ends("rejected") == 1)
        (event,) = receiver.telemetry.named("association.rejected")
        assert words in event["explanation"]
        assert (event["result"], event["source"], event["reason"]) == codes
        assert event["address"] == "127.0.0.1"
        assert event["calling_ae_title"] == title


def test_a_blank_calling_title_is_rejected_not_aborted(receiver: Running) -> None:
    connected = receiver.connect()
    connected.sendall(pdus.associate_rq(calling=b""))
    assert read_pdu(connected) == (3, b"\0\1\1\3")
    connected.close()


def test_associations_have_a_limit_in_all_and_per_caller() -> None:
    policy = AdmissionPolicy(maximum_associations=2, maximum_associations_per_caller=1)
    with running(admission=policy) as receiver:
        first = associate(receiver, calling=b"CT1")
        again = receiver.connect()
        again.sendall(pdus.associate_rq(calling=b"CT1"))
        assert read_pdu(again) == (3, b"\0\2\3\2")
        second = associate(receiver, calling=b"CT2")
        third = receiver.connect()
        third.sendall(pdus.associate_rq(calling=b"CT3"))
        assert read_pdu(third) == (3, b"\0\2\3\2")
        release(first)
        receiver.until(lambda: receiver.server.totals().open_associations == 1)
        release(associate(receiver, calling=b"CT1"))
        for connected in (again, second, third):
            connected.close()


def test_connections_that_ask_nothing_do_not_count_and_are_not_logged() -> None:
    with running(admission=AdmissionPolicy(maximum_associations=1), limits=Limits(artim_seconds=2)) as receiver:
        probes = [receiver.connect() for _ in range(20)]
        release(associate(receiver))
        for probe in probes[:10]:
            probe.close()
        receiver.until(lambda: receiver.ends("closed_before_asking") == 10)
        receiver.until(lambda: receiver.ends("silent") == 10)
        assert {"association.accepted", "association.released"} == {name for name, _ in receiver.telemetry.events}
        for probe in probes[10:]:
            assert probe.recv(1) == b""
            probe.close()


def test_one_address_may_not_hold_every_connection() -> None:
    with running(maximum_pending_per_address=3) as receiver:
        held = [receiver.connect() for _ in range(3)]
        receiver.until(lambda: receiver.server.totals().open_connections == 3)
        with receiver.connect() as turned_away:
            assert turned_away.recv(1) == b""
        assert receiver.ends("turned_away") == 1
        held.pop().close()
        receiver.until(lambda: receiver.ends("closed_before_asking") == 1)
        release(associate(receiver))
        for connected in held:
            connected.close()


def test_a_request_sent_byte_by_byte_ends_with_the_artim_time() -> None:
    with running(limits=Limits(artim_seconds=0.5)) as receiver:
        with receiver.connect() as connected:
            drip(connected, pdus.associate_rq() * 10, 0.02)
        receiver.until(lambda: receiver.ends("silent") == 1)


def test_refused_contexts_are_reported_by_name(receiver: Running) -> None:
    find = "1.2.840.10008.5.1.4.1.2.1.1"
    association = an_ae(pdus.CT, find).associate("127.0.0.1", receiver.port)
    assert len(association.accepted_contexts) == 1
    association.release()
    (event,) = receiver.telemetry.named("context.refused")
    assert event["abstract_syntaxes"] == f"{find} (Patient Root Query/Retrieve Information Model - FIND)"
    assert event["result"] == 3
    assert event["contexts"] == 1


def test_no_acceptable_context_is_an_acceptance_of_none(receiver: Running) -> None:
    connected = receiver.connect()
    connected.sendall(pdus.associate_rq(contexts=((1, "1.2.840.10008.5.1.4.1.2.1.1", (pdus.IMPLICIT,)),)))
    assert read_pdu(connected)[0] == 2
    release(connected)


def test_unknown_operations_are_answered_and_cancels_are_not(receiver: Running) -> None:
    connected = associate(receiver)
    find = pdus.command(0x0020, message_id=5, data_set=0, sop_class=pdus.CT)
    connected.sendall(pdus.p_data(pdus.pdv(3, 3, find)) + pdus.p_data(pdus.pdv(3, 2, b"x" * 9000)))
    answer = read_status(connected)
    assert status_of(answer) == 0x0211
    assert answer[0x0120] == b"\5\0"
    connected.sendall(pdus.p_data(pdus.pdv(3, 3, pdus.command(0x0FFF, message_id=5))))
    connected.sendall(pdus.p_data(pdus.pdv(1, 3, pdus.c_echo(6))))
    assert read_status(connected)[0x0120] == b"\6\0"
    release(connected)


def test_a_store_where_none_belongs_is_refused(receiver: Running) -> None:
    connected = associate(receiver)
    connected.sendall(
        pdus.p_data(pdus.pdv(1, 3, pdus.c_store(sop_class=pdus.VERIFICATION))) + pdus.p_data(pdus.pdv(1, 2, b"x"))
    )
    assert status_of(read_status(connected)) == 0x0122
    without = pdus.command(0x0001, message_id=9, sop_class=pdus.CT, sop_instance="1.2.3")
    connected.sendall(pdus.p_data(pdus.pdv(3, 3, without)))
    assert status_of(read_status(connected)) == 0xC000
    release(connected)
    assert receiver.use_case.receptions == []


def test_a_listed_policy_holds_for_each_instance_too() -> None:
    with running(presentation=PresentationPolicy.parse([pdus.CT])) as receiver:
        connected = associate(receiver)
        other = pdus.c_store(sop_class="1.2.840.10008.5.1.4.1.1.4")
        connected.sendall(pdus.p_data(pdus.pdv(3, 3, other)) + pdus.p_data(pdus.pdv(3, 2, b"x")))
        assert status_of(read_status(connected)) == 0x0122
        release(connected)


def test_operations_sent_ahead_are_answered_in_order(receiver: Running) -> None:
    window = struct.pack(">BxHHH", 0x53, 4, 8, 1)
    connected = receiver.connect()
    connected.sendall(pdus.associate_rq(user=window))
    kind, body = read_pdu(connected)
    assert kind == 2
    assert window in body
    connected.sendall(b"".join(store(f"1.2.{number}", number, b"x" * 5000) for number in range(1, 9)))
    connected.sendall(pdus.RELEASE_RQ)
    answers = [int.from_bytes(read_status(connected)[0x0120], "little") for _ in range(8)]
    assert answers == list(range(1, 9))
    assert read_pdu(connected)[0] == 6
    connected.close()
    assert [f"1.2.{number}" for number in range(1, 9)] == [
        reception.request.sop_instance_uid for reception in receiver.use_case.receptions
    ]


def test_negotiation_items_of_pynetdicom_are_answered(receiver: Running) -> None:
    entity = an_ae()
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 40
    window.maximum_number_operations_performed = 1
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field = b"someone"
    identity.secondary_field = b"passcode"
    identity.positive_response_requested = True
    association = entity.associate("127.0.0.1", receiver.port, ext_neg=[window, identity])
    assert association.is_established
    assert association.acceptor.asynchronous_operations == (16, 1)
    association.release()
    assert "passcode" not in str(receiver.telemetry.events)


def test_a_lost_peer_abandons_its_store_at_whatever_byte_it_goes(receiver: Running) -> None:
    stream = store(pixels=b"x" * 200)
    for cut in range(0, len(stream), 7):
        connected = associate(receiver)
        connected.sendall(stream[:cut])
        connected.close()
    receiver.until(lambda: receiver.server.totals().open_connections == 0)
    assert all(reception.abandoned == 1 for reception in receiver.use_case.receptions)
    assert receiver.server.totals().stored == 0
    assert len(receiver.telemetry.named("association.lost")) == receiver.ends("lost") == len(range(0, len(stream), 7))
    release(associate(receiver))


def test_an_abort_of_the_peer_abandons_its_store(receiver: Running) -> None:
    connected = associate(receiver)
    connected.sendall(store()[:-5])
    connected.sendall(b"")
    receiver.until(lambda: len(receiver.use_case.receptions) == 1)
    connected.close()
    receiver.until(lambda: receiver.use_case.receptions[0].abandoned == 1)
    connected = associate(receiver)
    connected.sendall(pdus.abort())
    receiver.until(lambda: receiver.ends("aborted") == 1)
    connected.close()


@pytest.mark.parametrize(
    "data,reason",
    [
        pytest.param(struct.pack(">BxI", 4, 0xFFFFFFFF), 6, id="PDU of 4 GB"),
        pytest.param(pdus.UNKNOWN_PDU, 1, id="unknown PDU"),
        pytest.param(pdus.associate_rq(), 2, id="second association request"),
        pytest.param(pdus.p_data(pdus.pdv(7, 3, b"")), 6, id="context nobody accepted"),
    ],
)
def test_a_broken_protocol_is_aborted_with_its_reason(receiver: Running, data: bytes, reason: int) -> None:
    connected = associate(receiver)
    connected.sendall(data)
    assert read_pdu(connected) == (7, bytes((0, 0, 2, reason)))
    connected.close()
    receiver.until(lambda: receiver.ends("violated") == 1)
    (event,) = receiver.telemetry.named("association.violated")
    assert event["reason"] == reason


def test_a_message_out_of_order_is_aborted_by_the_service_user(receiver: Running) -> None:
    connected = associate(receiver)
    connected.sendall(pdus.p_data(pdus.pdv(3, 2, b"data without a command")) + pdus.RELEASE_RQ)
    assert read_pdu(connected) == (7, b"\0\0\0\0")
    connected.close()


def test_a_response_to_nothing_is_aborted(receiver: Running) -> None:
    connected = associate(receiver)
    connected.sendall(pdus.p_data(pdus.pdv(3, 3, pdus.command(0x8001))))
    assert read_pdu(connected) == (7, b"\0\0\0\0")
    connected.close()


def test_a_silent_association_ends_after_the_network_timeout() -> None:
    with running(limits=Limits(network_timeout_seconds=0.4)) as receiver:
        connected = associate(receiver)
        started = time.monotonic()
        assert read_pdu(connected)[0] == 7
        assert time.monotonic() - started > 0.3
        (event,) = receiver.telemetry.named("association.timed_out")
        assert event["timer"] == "network"
        connected.close()
        receiver.until(lambda: receiver.ends("timed_out") == 1)


def test_a_message_that_never_ends_runs_into_the_dimse_timeout() -> None:
    with running(limits=Limits(dimse_timeout_seconds=0.4, artim_seconds=0.5)) as receiver:
        connected = associate(receiver)
        connected.sendall(store(pixels=b"x" * 4000)[:-2000])
        drip(connected, b"x" * 1000, 0.005)
        receiver.until(lambda: receiver.ends("timed_out") == 1)
        (event,) = receiver.telemetry.named("association.timed_out")
        assert event["timer"] == "dimse"
        assert receiver.use_case.receptions[0].abandoned == 1
        connected.close()


def test_a_slow_store_of_ours_times_nobody_out() -> None:
    limits = Limits(dimse_timeout_seconds=1, network_timeout_seconds=1)
    with running(limits=limits) as receiver:
        receiver.use_case.script = {"write": lambda: time.sleep(1.2), "finish": lambda: time.sleep(1.2)}
        connected = associate(receiver)
        connected.sendall(store())
        assert status_of(read_status(connected)) == 0
        release(connected)


def test_draining_lets_associations_finish() -> None:
    with running() as receiver:
        connected = associate(receiver)
        waiting = receiver.connect()
        receiver.until(lambda: receiver.server.totals().open_connections == 2)
        drain = threading.Thread(target=receiver.server.drain, args=(10,))
        drain.start()
        receiver.until(lambda: not receiver.server.is_accepting)
        with pytest.raises(ConnectionRefusedError):
            receiver.connect()
        waiting.sendall(pdus.associate_rq())
        assert read_pdu(waiting) == (3, b"\0\2\3\1")
        waiting.close()
        connected.sendall(store())
        assert status_of(read_status(connected)) == 0
        assert drain.is_alive()
        release(connected)
        drain.join(5)
        assert not drain.is_alive()
        assert receiver.ends("released") == 1


def test_after_the_grace_period_what_is_left_is_aborted() -> None:
    with running(limits=Limits(artim_seconds=0.3)) as receiver:
        idle = associate(receiver)
        busy = associate(receiver)
        busy.sendall(store()[:-5])
        receiver.until(lambda: len(receiver.use_case.receptions) == 1)
        receiver.server.drain(0.2)
        assert read_pdu(idle) == (7, b"\0\0\0\0")
        assert read_pdu(busy)[0] == 7
        assert receiver.ends("expelled") == 2
        assert receiver.use_case.receptions[0].abandoned == 1
        idle.close()
        busy.close()


def test_a_port_in_use_is_told_and_leaves_nothing_open(receiver: Running) -> None:
    listeners = [Listener(host="127.0.0.1", port=0), Listener(host="127.0.0.1", port=receiver.port)]
    with pytest.raises(OSError, match="in use"):
        Running(listeners=listeners)


def open_descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_many_hostile_connections_leave_nothing_behind(receiver: Running) -> None:
    release(associate(receiver))
    receiver.until(lambda: sum(receiver.server.totals().ends.values()) == 1)
    before = open_descriptors()
    for number in range(200):
        with receiver.connect() as connected:
            connected.sendall(os.urandom(number))
    receiver.until(lambda: sum(receiver.server.totals().ends.values()) == 201)
    release(associate(receiver))
    receiver.until(lambda: sum(receiver.server.totals().ends.values()) == 202)
    assert receiver.server.totals().open_connections == 0
    assert open_descriptors() <= before


def test_a_big_data_set_arrives_whole(receiver: Running) -> None:
    connected = associate(receiver)
    pixels = os.urandom(3_000_000)
    data = pdus.data_set(pixels=pixels)
    connected.sendall(pdus.p_data(pdus.pdv(3, 3, pdus.c_store())))
    for start in range(0, len(data), 100_000):
        last = 2 if start + 100_000 >= len(data) else 0
        connected.sendall(pdus.p_data(pdus.pdv(3, last, data[start : start + 100_000])))
    assert status_of(read_status(connected)) == 0
    release(connected)
    assert data == receiver.use_case.receptions[0].data


@pytest.fixture
def certificate(tmp_path: Path, require_tool: Callable[[str], str]) -> tuple[Path, Path]:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [require_tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return key, cert


def test_a_silent_tls_client_stops_nobody(certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    credentials = Credentials(certificate=str(cert), key=str(key))
    tls = TlsPort(TlsMode.ON, credentials, FakeTelemetry(), lambda: datetime.now(UTC))
    listeners = [Listener(host="127.0.0.1", port=0, wrap=tls.wrap), Listener(host="127.0.0.1", port=0)]
    with running(listeners=listeners) as receiver:
        silent = receiver.connect()
        client = ssl.create_default_context(cafile=str(cert))
        entity = an_ae()
        association = entity.associate("127.0.0.1", receiver.port, tls_args=(client, "127.0.0.1"))
        assert association.is_established
        assert association.send_c_store(a_dataset()).Status == 0
        association.release()
        plain = socket.create_connection(receiver.server.addresses[1], timeout=10)
        plain.sendall(pdus.associate_rq())
        assert read_pdu(plain)[0] == 2
        release(plain)
        idle = client.wrap_socket(receiver.connect(), server_hostname="127.0.0.1")
        idle.sendall(pdus.associate_rq())
        assert read_pdu(idle)[0] == 2
        with receiver.connect() as without_tls:
            without_tls.sendall(pdus.associate_rq())
            receiver.until(lambda: receiver.ends("tls_failed") == 1)
        (event,) = receiver.telemetry.named("connection.tls_refused")
        assert (event["cause"], event["address"]) == ("not_tls", "127.0.0.1")
        assert receiver.server.totals().tls_failures == {"not_tls": 1}
        silent.close()
        receiver.server.drain(0)
        assert read_pdu(idle) == (7, b"\0\0\0\0")
        idle.close()
