"""
Peers that mean harm, or are broken: after each, nothing is left behind and a good client is served at once.

`attacked` (tests/attacked.py) checks that at the end of every test: threads, descriptors, temporary files, memory.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.inbound.dicom.connection import Limits
from adapters.outbound.local.files import FileOperations
from domain.association import AdmissionPolicy
from domain.batch import CloseReason
from tests.attacked import SHORT, Attacked, Peer, attacked, in_pdus, resident_bytes
from tests.fuzz.corpus import DEFLATED, bulk, deflated, every_item, many_contexts, nested
from tests.unit.inbound import pdus

pytestmark = pytest.mark.usefixtures("no_threads_left")

FIND = "1.2.840.10008.5.1.4.1.2.1.1"
ABORT_BY_USER = (7, b"\0\0\0\0")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Attacked]:
    with attacked(tmp_path / "data") as one:
        yield one


def a_store(instance: str = "1.2.3", pixels: bytes = b"x" * 100) -> bytes:
    return pdus.p_data(pdus.pdv(3, 3, pdus.c_store(instance))) + b"".join(
        in_pdus(3, pdus.data_set(sop_instance=instance, pixels=pixels))
    )


def ui(group: int, element: int, text: bytes) -> bytes:
    value = text + b"\0" * (len(text) & 1)
    return struct.pack("<HH2sH", group, element, b"UI", len(value)) + value


# ------------------------------------------------------------------------------------------ slow and silent peers

_COMMAND = pdus.p_data(pdus.pdv(3, 3, pdus.c_store()))
_DATA = b"".join(in_pdus(3, pdus.data_set(pixels=b"x" * 8000)))


@pytest.mark.parametrize(
    "is_associated,first,then,end",
    [
        pytest.param(False, b"", b"", "silent", id="nothing at all"),
        pytest.param(False, pdus.associate_rq()[:3], b"", "silent", id="half a header of a request"),
        pytest.param(False, b"", pdus.associate_rq(user=every_item()), "silent", id="a request byte by byte"),
        pytest.param(False, pdus.UNKNOWN_PDU, b"\0" * 300, "violated", id="on after our abort"),
        pytest.param(True, b"", b"", "timed_out", id="nothing after the association"),
        pytest.param(True, b"\4\0\0", b"", "timed_out", id="half a header of P-DATA"),
        pytest.param(True, _COMMAND[:40], b"", "timed_out", id="half a command set"),
        pytest.param(True, _COMMAND[:12], _COMMAND[12:] * 3, "timed_out", id="a command set byte by byte"),
        pytest.param(True, b"", pdus.p_data(pdus.pdv(3, 1, b"")) * 30, "timed_out", id="a command set of nothing"),
        pytest.param(True, _COMMAND, b"", "timed_out", id="a command and no data set"),
        pytest.param(True, _COMMAND + _DATA[:500], _DATA[500:], "timed_out", id="a data set byte by byte"),
    ],
)
def test_a_slow_peer_is_cut_off_and_holds_up_nobody(
    receiver: Attacked, is_associated: bool, first: bytes, then: bytes, end: str
) -> None:
    peers = [receiver.peer() for _ in range(4)]
    for peer in peers:
        if is_associated:
            peer.associate()
        peer.send(first)
    started = time.monotonic()
    receiver.serve_a_good_client()
    assert time.monotonic() - started < 2.0
    for byte in then:
        for peer in peers:
            peer.send(bytes((byte,)))
        if receiver.ends(end) == len(peers):
            break
        time.sleep(0.015)
    receiver.wait_until(lambda: receiver.ends(end) == len(peers))
    # Each timer, the time to say good-bye, and room for a busy machine.
    assert time.monotonic() - started < 8.0
    for peer in peers:
        peer.socket.close()


def test_half_open_connections_end_by_themselves(tmp_path: Path) -> None:
    with attacked(tmp_path / "data", maximum_pending_per_address=64) as receiver:
        silent = [receiver.peer() for _ in range(30)]
        asked = [receiver.peer() for _ in range(30)]
        for peer in asked:
            peer.associate()
        receiver.serve_a_good_client()
        receiver.wait_until(lambda: receiver.server.totals().open_connections == 0)
        assert (receiver.ends("silent"), receiver.ends("timed_out")) == (30, 30)
        for peer in (*silent, *asked):
            peer.socket.close()


def test_a_peer_that_reads_no_answer_is_given_up(receiver: Attacked) -> None:
    with receiver.peer() as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.associate()
        peer.socket.settimeout(0.3)
        echoes = pdus.p_data(pdus.pdv(1, 3, pdus.c_echo())) * 500
        deadline = time.monotonic() + 10
        while receiver.ends("lost") + receiver.ends("timed_out") == 0:
            assert time.monotonic() < deadline
            peer.send(echoes)


# ------------------------------------------------------------------------------------------------ lengths and limits


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 7, 0x17])
@pytest.mark.parametrize("is_associated", [False, True])
def test_a_pdu_of_4_gb_takes_no_memory(receiver: Attacked, is_associated: bool, kind: int) -> None:
    with receiver.peer() as peer:
        if is_associated:
            peer.associate()
        before = resident_bytes()
        peer.send(struct.pack(">BxI", kind, 0xFFFFFFFF), bytes(4 << 20))
        answer = peer.read()
        assert answer is None or answer[0] == 7, answer
        assert resident_bytes() - before < 16 << 20


def test_as_many_contexts_as_there_are_ids(receiver: Attacked) -> None:
    with receiver.peer() as peer:
        peer.send(many_contexts())
        answer = peer.read()
        assert answer is not None
        assert answer[0] == 2
        assert answer[1].count(pdus.item(0x40, pdus.EXPLICIT.encode())) == 128
        data = pdus.data_set(sop_instance="1.2.3", sop_class=f"{pdus.CT}.255")
        assert peer.store("1.2.3", data, context=255, sop_class=f"{pdus.CT}.255") == (0, "")
        peer.release()


def test_a_request_as_large_as_may_be_is_not_kept(tmp_path: Path) -> None:
    def syntaxes(start: int) -> tuple[str, ...]:
        return (pdus.EXPLICIT, *(str(number) for number in range(start, start + 6000)))

    contexts = tuple((2 * number + 1, pdus.CT, syntaxes(100_000 + 6000 * number)) for number in range(5))
    request = pdus.associate_rq(contexts=contexts)
    assert len(request) > 300_000
    with attacked(tmp_path / "data", limits=Limits()) as receiver:
        peers = [receiver.peer() for _ in range(40)]
        for peer in peers:
            peer.send(request)
            answer = peer.read()
            assert answer is not None
            assert answer[0] == 2
        assert receiver.grown_bytes() < 32 << 20
        for peer in peers:
            peer.socket.close()


def test_a_class_negotiated_thousands_of_times_is_answered_once(receiver: Attacked) -> None:
    with receiver.peer() as peer:
        peer.associate(user=pdus.item(0x56, pdus.counted(pdus.CT.encode())) * 1900)
        peer.release()


def test_values_of_no_length_are_taken_and_cost_little(receiver: Attacked) -> None:
    with receiver.peer() as peer:
        peer.associate()
        nothing = pdus.p_data(*(pdus.pdv(3, 0, b"") for _ in range(2000)))
        peer.send(_COMMAND, nothing * 20, *in_pdus(3, pdus.data_set()))
        assert peer.answer() == (0, "")
        peer.send(pdus.p_data(pdus.pdv(3, 1, b"")), pdus.p_data(pdus.pdv(3, 3, pdus.c_store("1.2.4"))))
        peer.send(*in_pdus(3, pdus.data_set(sop_instance="1.2.4")), pdus.p_data(pdus.pdv(1, 3, b"")))
        assert peer.answer() == (0, "")
        assert peer.read() == ABORT_BY_USER  # an empty command set


@pytest.mark.parametrize("piece", [b"", b"x", b"x" * 4000])
def test_a_command_set_without_end_is_aborted(receiver: Attacked, piece: bytes) -> None:
    with receiver.peer() as peer:
        peer.associate()
        many = pdus.p_data(*(pdus.pdv(3, 1, piece) for _ in range(max(1, 10_000 // (len(piece) + 6)))))
        for _ in range(60):
            peer.send(many)
        assert peer.read() == ABORT_BY_USER
    receiver.wait_until(lambda: receiver.ends("violated") == 1)
    assert receiver.ends("timed_out") == 0, "by its length, not by a timer"


@pytest.mark.parametrize(
    "data,expected",
    [
        pytest.param(pdus.p_data(pdus.pdv(99, 3, pdus.c_echo())), (7, b"\0\0\2\6"), id="a context never proposed"),
        pytest.param(pdus.p_data(pdus.pdv(5, 3, pdus.c_echo())), (7, b"\0\0\2\6"), id="a context refused"),
        pytest.param(pdus.p_data(pdus.pdv(2, 3, pdus.c_echo())), (7, b"\0\0\2\6"), id="an even context"),
        pytest.param(_COMMAND + pdus.p_data(pdus.pdv(1, 2, b"x")), ABORT_BY_USER, id="data set in another context"),
        pytest.param(
            pdus.p_data(pdus.pdv(3, 1, pdus.c_store()[:20]), pdus.pdv(1, 3, pdus.c_store()[20:])),
            ABORT_BY_USER,
            id="command set in two contexts",
        ),
        pytest.param(_COMMAND + _COMMAND, ABORT_BY_USER, id="a command within a message"),
        pytest.param(_COMMAND + _DATA[:600] + _COMMAND + bytes(8000), (7, b"\0\0\2\1"), id="a command within a value"),
        pytest.param(pdus.p_data(pdus.pdv(3, 3, b"\xff" * 60)), ABORT_BY_USER, id="a command set of noise"),
        pytest.param(b"\4\0\0\0\0\0", (7, b"\0\0\2\6"), id="an empty P-DATA"),
        pytest.param(pdus.pdu(4, struct.pack(">IBB", 1, 3, 3)), (7, b"\0\0\2\6"), id="a value too short"),
        pytest.param(pdus.pdu(4, struct.pack(">IBB", 0xFFFFFFFF, 3, 3)), (7, b"\0\0\2\6"), id="a value of 4 GB"),
        pytest.param(b"\x99" * 200, (7, b"\0\0\2\1"), id="noise"),
        pytest.param(pdus.associate_rq(), (7, b"\0\0\2\2"), id="a second request"),
        pytest.param(pdus.RELEASE_RP, (7, b"\0\0\2\2"), id="an answer to a release nobody asked for"),
        pytest.param(b"\5\0\0\0\0\1\0", (7, b"\0\0\2\6"), id="a release of another length"),
    ],
)
def test_what_breaks_the_protocol_is_aborted(receiver: Attacked, data: bytes, expected: tuple[int, bytes]) -> None:
    with receiver.peer() as peer:
        contexts = (*pdus.DEFAULT_CONTEXTS, (5, FIND, (pdus.IMPLICIT,)))
        peer.associate(contexts=contexts)
        peer.send(data)
        assert peer.read() == expected
        peer.send(data * 20)
    receiver.wait_until(lambda: receiver.ends("violated") == 1)
    assert len(receiver.telemetry.named("association.violated")) == 1


@pytest.mark.parametrize(
    "hello",
    [
        pytest.param(bytes.fromhex("16030100c8010000c40303") + bytes(range(200)), id="TLS"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"SSH-2.0-client\r\n", id="SSH"),
        pytest.param(b"\0" * 500, id="zeros"),
        pytest.param(b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\1\0\x08\0\3\0\0\0", id="RDP"),
    ],
)
def test_who_speaks_something_else_gets_an_abort(receiver: Attacked, hello: bytes) -> None:
    with receiver.peer() as peer:
        peer.send(hello)
        answer = peer.read()
        assert answer is not None
        assert answer[0] == 7
        assert len(answer[1]) == 4


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(pdus.p_data(pdus.pdv(1, 3, pdus.c_echo())), id="data"),
        pytest.param(pdus.RELEASE_RQ, id="a release"),
        pytest.param(pdus.abort(), id="an abort"),
        pytest.param(pdus.associate_rq(), id="a request"),
        pytest.param(b"\x99" * 50, id="noise"),
    ],
)
def test_who_does_not_wait_for_our_answer_is_no_bug_of_ours(receiver: Attacked, behind: bytes) -> None:
    with receiver.peer() as peer:
        peer.send(pdus.associate_rq() + behind)
        answer = peer.read()
        assert answer is None or answer[0] == 7
    receiver.wait_until(lambda: receiver.ends("violated") + receiver.ends("aborted") == 1)


# ------------------------------------------------------------------------------------------------ cut and aborted


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_a_session_cut_at_every_byte(receiver: Attacked, is_reset: bool) -> None:
    request = pdus.associate_rq(contexts=((3, pdus.CT, (pdus.EXPLICIT,)),))
    data = pdus.data_set(sop_instance="1.2.3", pixels=b"x" * 20)
    session = _COMMAND + b"".join(in_pdus(3, data)) + pdus.RELEASE_RQ
    for end in range(len(request)):
        peer = receiver.peer()
        peer.send(request[:end])
        peer.reset() if is_reset else peer.socket.close()
    for end in range(len(session) + 1):
        peer = receiver.peer()
        peer.send(request)
        assert peer.read() is not None
        peer.send(session[:end])
        peer.reset() if is_reset else peer.socket.close()
    receiver.wait_until(lambda: receiver.server.totals().open_connections == 0)
    stored = receiver.server.totals().stored - 1  # but for the good client's
    assert 0 <= stored <= len(pdus.RELEASE_RQ) + 1  # a reset may overtake what was sent before it
    assert is_reset or stored == len(pdus.RELEASE_RQ) + 1
    assert receiver.ends("failed") == 0


def test_an_abort_at_every_step(receiver: Attacked) -> None:
    data = pdus.data_set(pixels=b"x" * 3000)
    parts = [_COMMAND, *in_pdus(3, data, 500), pdus.RELEASE_RQ]
    for source, reason in ((0, 0), (2, 6), (255, 255)):
        for count in range(len(parts) + 1):
            with receiver.peer() as peer:
                peer.associate()
                peer.send(*parts[:count], pdus.abort(source, reason))
                while peer.read() is not None:
                    pass
    with receiver.peer() as peer:
        peer.send(pdus.abort())
        assert peer.read() is None


def test_releases_that_cross_or_come_twice(receiver: Attacked) -> None:
    with receiver.peer() as peer:
        peer.associate()
        peer.send(pdus.RELEASE_RQ, pdus.RELEASE_RQ, pdus.RELEASE_RP)
        answer = peer.read()
        assert answer is not None
        assert answer[0] in {6, 7}
    with receiver.peer() as peer:
        peer.associate()
        peer.send(_COMMAND, _DATA[:100], pdus.RELEASE_RP)  # within a value: part of it
        peer.send(pdus.RELEASE_RQ)
    with receiver.peer() as peer:
        peer.associate()
        peer.send(_COMMAND, pdus.RELEASE_RQ)  # the message is given up
        answer = peer.read()
        assert answer is not None
        assert answer[0] == 6
    assert receiver.telemetry.named("association.released")[-1].fields["unfinished"] == 1


def test_a_thousand_connections_a_second(receiver: Attacked) -> None:
    opened = 0
    started = time.monotonic()
    while time.monotonic() - started < 2.0 and opened < 2000:
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as connected:
            opened += 1
            if opened % 3 == 0:
                connected.sendall(b"\0")
        if opened % 500 == 0:
            receiver.serve_a_good_client()
    assert opened >= 500  # a slow machine; the rate is what the loop can make
    receiver.wait_until(lambda: receiver.server.totals().open_connections == 0)


class Endless:
    """A listening socket at which somebody always waits."""

    def __init__(self) -> None:
        self.accepted = 0

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        self.accepted += 1
        theirs, ours = socket.socketpair()
        theirs.close()
        return ours, ("127.0.0.1", 1)


def test_a_flood_on_one_listener_gives_the_other_its_turn(tmp_path: Path) -> None:
    with attacked(tmp_path / "data", maximum_pending_per_address=8, accept_queue=50) as receiver:
        endless = Endless()
        receiver.server._accept_all(endless, None)  # type: ignore[arg-type]  # all that it needs of one
        assert endless.accepted == 50
        receiver.wait_until(lambda: receiver.server.totals().open_connections == 0)


def test_more_associations_than_allowed_are_rejected_until_one_ends(tmp_path: Path) -> None:
    with attacked(tmp_path / "data", admission=AdmissionPolicy(maximum_associations=3)) as receiver:
        held = [receiver.peer() for _ in range(3)]
        for peer in held:
            peer.associate()
        for _ in range(20):
            with receiver.peer() as peer:
                peer.send(pdus.associate_rq())
                assert peer.read() == (3, b"\0\2\3\2")
        held[0].reset()
        receiver.wait_until(lambda: receiver.server.totals().open_associations < 3)
        receiver.serve_a_good_client()
        for peer in held[1:]:
            peer.release()
            peer.socket.close()


# ------------------------------------------------------------------------------------------------ hostile instances

BAD_UIDS = [
    b"..",
    b".",
    b"....",
    b"../..",
    b"../../../../../../tmp/x",
    b"/etc/passwd",
    b"1.2\0/../3",
    b"1.2/3",
    b"1.2\\3",
    b"1.2.3\n",
    b"%2e%2e",
    b"1." * 32 + b"1",
    "\uff11.\uff12".encode(),
    "1.2.é".encode("latin-1"),
    b"\x1b[31m",
    b"-1",
    b"1.2 3",
]


def test_uids_that_are_none_are_refused_and_leave_the_data_folder_alone(tmp_path: Path) -> None:
    with attacked(tmp_path / "data") as receiver:
        before = _tree(tmp_path)
        with receiver.peer() as peer:
            peer.associate()
            for place, bad in itertools.product(range(4), BAD_UIDS):
                uids = [pdus.CT.encode(), b"1.2.3", b"1.2.3.4", b"1.2.3.5"]
                uids[place] = bad
                data = b"".join(
                    ui(group, element, uid)
                    for (group, element), uid in zip(
                        ((8, 0x16), (8, 0x18), (0x20, 0xD), (0x20, 0xE)), uids, strict=True
                    )
                )
                instance = uids[1].decode("latin-1") if place == 1 else "1.2.3"
                status, comment = peer.store(instance, data)
                assert (status, comment[-30:]) == (0xC000, "UID is not 1 to 64 digits and dots"[-30:]), bad
            for bad in BAD_UIDS:
                status, comment = peer.store(bad.decode("latin-1"), pdus.data_set(sop_instance="1.2.3"))
                assert (status, comment) == (0xA900, "SOP Instance UID in command and data set differ: fix sender")
            peer.release()
        assert _tree(tmp_path) == before
        for event in receiver.telemetry.named("instance.refused"):
            assert not any(word in str(event.fields) for word in ("passwd", "tmp", "%2e", "2 3"))


def _tree(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "metadata" not in path.name}


def _without(*tags: tuple[int, int]) -> bytes:
    values = {(8, 0x16): pdus.CT, (8, 0x18): "1.2.3", (0x20, 0xD): "1.2.3.4", (0x20, 0xE): "1.2.3.5"}
    return b"".join(ui(*tag, text.encode()) for tag, text in values.items() if tag not in tags)


_CUT_OFF = "the data set ends in the middle of an element"
REFUSED: dict[str, tuple[bytes, int, str | None]] = {
    "another instance": (
        pdus.data_set(sop_instance="1.2.4"),
        0xA900,
        "SOP Instance UID in command and data set differ: fix sender",
    ),
    "another class": (
        pdus.data_set(sop_class=f"{pdus.CT}.1"),
        0xA900,
        "SOP Class UID in command and data set differ: fix sender",
    ),
    "no class": (_without((8, 0x16)), 0xC000, "SOP Class UID is missing in the data set"),
    "no instance": (_without((8, 0x18)), 0xC000, "SOP Instance UID is missing in the data set"),
    "no study": (_without((0x20, 0xD)), 0xC000, "Study Instance UID is missing in the data set"),
    "no series": (_without((0x20, 0xE)), 0xC000, "Series Instance UID is missing in the data set"),
    "nothing": (b"", 0xC000, "SOP Class UID is missing in the data set"),
    "ones": (b"\xff" * 5000, 0xC000, None),
    "noise": (random.Random(1).randbytes(5000), 0xC000, None),
    "HTML": (b"<html>" * 100, 0xC000, None),
    "deep sequences": (nested(400), 0xC000, "sequences are nested more than 256 deep"),
    "open sequences": (nested(20), 0xC000, _CUT_OFF),
    "a long UID": (ui(8, 0x16, b"1" * 2000), 0xC000, "SOP Class UID is longer than any UID"),
    "an element of 4 GB": (struct.pack("<HH2sHI", 7, 0x10, b"OB", 0, 0xFFFFFFF0), 0xC000, _CUT_OFF),
    "a short element": (struct.pack("<HH2sH", 8, 0x5, b"CS", 0xFFFF), 0xC000, _CUT_OFF),
    "too many bytes": (
        pdus.data_set(pixels=bytes(2 << 20)),
        0xA700,
        "Over 1048576 bytes: raise --maximum-object-bytes",
    ),
}


def test_what_cannot_be_kept_is_refused_with_its_reason_and_the_association_goes_on(tmp_path: Path) -> None:
    with attacked(tmp_path / "data", max_bytes=1 << 20) as receiver:
        staged = receiver.staged()
        with receiver.peer() as peer:
            peer.associate()
            for what, (data, status, comment) in REFUSED.items():
                answered, said = peer.store("1.2.3", data)
                assert answered == status, what
                assert comment is None or said == comment, what
                assert 0 < len(said) <= 64, what
            assert peer.store("1.2.9", pdus.data_set(sop_instance="1.2.9")) == (0, "")
            peer.release()
        assert receiver.staged() == staged | {"1.2.9"}
        assert len(receiver.telemetry.named("instance.refused")) == len(REFUSED)


def test_a_class_that_is_no_storage_is_refused_as_such(receiver: Attacked) -> None:
    with receiver.peer() as peer:
        peer.associate()
        status, comment = peer.store("1.2.3", pdus.data_set(), sop_class=FIND)
        assert (status, comment) == (0x0122, "SOP class not welcome here: see --supported-sop-class-uids")
        peer.release()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(deflated(bulk(200 << 20)), id="200 MB of one element"),
        pytest.param(deflated(nested(500)), id="deep sequences"),
        pytest.param(deflated(bulk(100_000)) + b"x" * 500, id="bytes behind the stream"),
        pytest.param(deflated(bulk(100_000))[:-9], id="half a stream"),
        pytest.param(b"\xff" * 3000, id="no stream"),
        pytest.param(deflated(struct.pack("<HHI", 7, 1, 0) * 3_000_000), id="millions of empty elements"),
    ],
)
def test_a_deflate_bomb_costs_little_and_is_refused(receiver: Attacked, data: bytes) -> None:
    with receiver.peer() as peer:
        peer.associate(contexts=((3, pdus.CT, (DEFLATED,)),))
        before = resident_bytes()
        status, _ = peer.store("1.2.3", data)
        assert status == 0xC000
        assert resident_bytes() - before < 32 << 20
        peer.release()


# --------------------------------------------------------------------------------------------- trouble of our own


class FullDisk(FileOperations):
    """Writes fail while the disk is full."""

    error = 0

    def write(self, descriptor: int, data: bytes | bytearray | memoryview) -> None:
        self._fail()
        super().write(descriptor, data)

    def create(self, path: str) -> int:
        if self.error == errno.EROFS:
            self._fail()
        return super().create(path)

    def _fail(self) -> None:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("size", [100, 400_000, 9_000_000])
def test_a_disk_that_takes_nothing_refuses_and_recovers(tmp_path: Path, number: int, size: int) -> None:
    operations = FullDisk()
    with attacked(tmp_path / "data", operations) as receiver:
        with receiver.peer() as peer:
            peer.associate()
            data = pdus.data_set(sop_instance="1.2.3", pixels=bytes(size))
            operations.error = number
            for _ in range(3):
                status = peer.store("1.2.3", data)
                assert status == (0xA700, "Receiver could not save it: see its log; send again")
            operations.error = 0
            assert peer.store("1.2.3", data) == (0, "")
            peer.release()
        assert "1.2.3" in receiver.staged()


_LOCK = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
held.close()
"""


@contextlib.contextmanager
def locked_elsewhere(path: Path) -> Iterator[Callable[[], object]]:
    """Hold the write lock of an SQLite file in another process; what is given lets go of it."""
    command = [sys.executable, "-c", _LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        yield lambda: other.communicate(timeout=10)


def test_a_database_locked_by_another_process_refuses_and_recovers(receiver: Attacked) -> None:
    with receiver.batches._changed:  # so that the next store needs a new batch, and that a record
        current = receiver.batches._current
        assert current is not None
        receiver.batches._retire(current, CloseReason.AGE)
    with locked_elsewhere(receiver.folder / "metadata.sqlite3") as unlock, receiver.peer() as peer:
        peer.associate()
        data = pdus.data_set(sop_instance="1.2.3")
        answers = [peer.store("1.2.3", data) for _ in range(2)]
        assert answers == [(0xA700, "Receiver's database not reachable: send again later")] * 2
        unlock()
        assert peer.store("1.2.3", data) == (0, "")
        peer.release()
    assert "1.2.3" in receiver.staged()


def test_a_staging_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    with attacked(tmp_path / "data") as receiver:
        kept = receiver.staged()
        away = tmp_path / "away"
        with receiver.peer() as peer:
            peer.associate()
            data = pdus.data_set(sop_instance="1.2.3")
            (receiver.folder / "staging").rename(away)
            assert peer.store("1.2.3", data) == (0xA700, "Receiver could not save it: see its log; send again")
            shutil.rmtree(receiver.folder / "staging", ignore_errors=True)
            away.rename(receiver.folder / "staging")
            assert peer.store("1.2.3", data) == (0, "")
            peer.release()
        assert receiver.staged() == kept | {"1.2.3"}


def test_a_receiver_out_of_descriptors_lives_on(tmp_path: Path) -> None:
    import resource

    with attacked(tmp_path / "data", limits=Limits(artim_seconds=5, network_timeout_seconds=5)) as receiver:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        peers = [receiver.peer() for _ in range(3)]
        for peer in peers:
            peer.associate()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            status, comment = peers[0].store("1.2.3", pdus.data_set())
            assert (status, comment) == (0xA700, "Receiver could not save it: see its log; send again")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert peers[1].store("1.2.3", pdus.data_set()) == (0, "")
        for peer in peers:
            peer.release()
            peer.socket.close()


def test_stopping_does_not_wait_for_a_peer_that_never_ends(tmp_path: Path) -> None:
    receiver = Attacked(tmp_path / "data", limits=SHORT)
    peers = [receiver.peer() for _ in range(3)]
    for peer in peers[1:]:
        peer.associate()
    peers[2].send(_COMMAND, _DATA[:300])
    started = time.monotonic()
    receiver.close()
    assert time.monotonic() - started < 8
    for peer in peers:
        select.select([peer.socket], [], [], 5)
        peer.socket.close()


def test_stopping_does_not_wait_for_a_peer_that_reads_nothing(tmp_path: Path) -> None:
    patient = Limits(artim_seconds=0.3, network_timeout_seconds=60, dimse_timeout_seconds=60)
    receiver = Attacked(tmp_path / "data", limits=patient)
    with receiver.peer() as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.associate()
        peer.socket.settimeout(0.3)
        echoes = pdus.p_data(pdus.pdv(1, 3, pdus.c_echo())) * 500
        with contextlib.suppress(TimeoutError):
            for _ in range(2000):
                peer.socket.sendall(echoes)
        started = time.monotonic()
        receiver.close()
        assert time.monotonic() - started < 10
        assert receiver.server.totals().open_connections == 0


def test_the_peer_of_these_tests_tells_an_end_from_an_answer() -> None:
    ours, theirs = socket.socketpair()
    peer = Peer.__new__(Peer)
    peer.socket = ours
    theirs.sendall(pdus.abort(2, 6))
    theirs.close()
    assert peer.read() == (7, b"\0\0\2\6")
    assert peer.read() is None
    ours.close()
