"""
Storage commitment over real sockets, with pynetdicom as the requestor: on the same association, on a new one, peers
that are down, restarts, two receivers on one table, and requests that are wrong.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from adapters.inbound.dicom.commitment import STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE, CommitmentDesk
from adapters.inbound.dicom.commitment_data import encode_information, event_information, event_type
from adapters.inbound.dicom.connection import Limits
from adapters.inbound.dicom.presentation import PresentationPolicy
from adapters.inbound.dicom.server import DicomServer, Listener
from adapters.memory.staging import MemoryStagingArea
from adapters.memory.telemetry import RecordingTelemetry
from adapters.memory.workflow import MemoryWorkflow
from adapters.outbound.clock import SystemClock
from adapters.outbound.dicom_commitment import DicomCommitmentSender
from adapters.outbound.local.sqlite_metadata import SqliteMetadataStore
from domain.association import AdmissionPolicy
from domain.commitment import CommitmentLevel, CommitmentPeer, CommitmentPolicy, CommitmentReference
from domain.identifiers import AeTitle, Uid
from domain.lifecycle import InstanceState
from domain.ports import Reported
from services.commit_storage import AnswerCommitments, RequestCommitment
from services.receive_instance import ReceiveInstance
from services.write_batches import WriteBatches
from tests.builders import CT_IMAGE_STORAGE, a_batch, a_record, a_uid, an_instance
from tests.serving import Serving, a_data_set
from tests.unit.inbound import pdus

pytestmark = [pytest.mark.usefixtures("no_threads_left"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

IMPORTED, FAILED = InstanceState.IMPORTED, InstanceState.FAILED
MR = "1.2.840.10008.5.1.4.1.1.4"
PATIENCE = 20.0
POLICY = CommitmentPolicy(
    wait_seconds=5.0,
    unknown_seconds=0.3,
    claim_seconds=2.0,
    look_seconds=0.05,
    longest_look_seconds=0.1,
    retry_seconds=0.1,
    longest_retry_seconds=0.5,
)


def until(claim: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not claim():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


class Receiver:
    """A receiver that takes and answers requests, on a metadata file that others may share."""

    def __init__(self, folder: Path, owner: str = "receiver-1", **changes: Any) -> None:
        self.clock = SystemClock()
        self.telemetry = RecordingTelemetry()
        self.store = SqliteMetadataStore(folder / "metadata.sqlite3")
        self.staging = MemoryStagingArea(clock=self.clock)
        self.workflow = MemoryWorkflow()
        policy: CommitmentPolicy = changes.pop("policy", POLICY)
        common: dict[str, Any] = {
            "store": self.store,
            "clock": self.clock,
            "telemetry": self.telemetry,
            "owner": owner,
            "policy": policy,
        }
        self.desk = CommitmentDesk(
            RequestCommitment(**common),
            self.telemetry,
            quiet_seconds=changes.pop("quiet_seconds", 0.3),
            busy_seconds=1.0,
        )
        self.answer = AnswerCommitments(
            **common,
            metadata=self.store,
            staging=self.staging,
            sender=DicomCommitmentSender(information=event_information, event_type=event_type, timeout_seconds=3.0),
            associations=self.desk,
            peers={peer.ae_title: peer for peer in changes.pop("peers", ())},
        )
        batches = WriteBatches(
            staging=self.staging,
            metadata=self.store,
            workflow=self.workflow,
            clock=self.clock,
            telemetry=self.telemetry,
            owner=owner,
            entropy=lambda: "0001",
        )
        self.server = DicomServer(
            listeners=[Listener(host="127.0.0.1", port=0)],
            admission=AdmissionPolicy(),
            presentation=PresentationPolicy.parse(services=[STORAGE_COMMITMENT]),
            receive=ReceiveInstance(staging=self.staging, batches=batches, clock=self.clock, telemetry=self.telemetry),
            telemetry=self.telemetry,
            commitments=self.desk,
            limits=Limits(network_timeout_seconds=20.0),
        )
        self.server.start()
        self.port = self.server.addresses[0][1]
        self._is_stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def begin_answering(self, threads: int = 2) -> None:
        self._threads = [threading.Thread(target=self._answer) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _answer(self) -> None:
        while not self._is_stopping.wait(0.05):
            self.answer()

    def record(self, number: int, **overrides: Any) -> None:
        self.store.claim([(a_record(number, **overrides), None)])

    def stop(self) -> None:
        self._is_stopping.set()
        for thread in self._threads:
            thread.join()
        self.server.drain(0)
        self.store.close()


@contextlib.contextmanager
def receiving(folder: Path, owner: str = "receiver-1", *, answering: bool = True, **changes: Any) -> Iterator[Receiver]:
    receiver = Receiver(folder, owner, **changes)
    if answering:
        receiver.begin_answering()
    try:
        yield receiver
    finally:
        receiver.stop()


@attrs.define
class Told:
    """What a requestor was told."""

    event_types: list[int] = attrs.field(factory=list)
    results: list[Dataset] = attrs.field(factory=list)
    callers: list[str] = attrs.field(factory=list)
    status: int = 0x0000

    def take(self, event: evt.Event) -> tuple[int, None]:
        request: Any = event.request
        assert request.AffectedSOPClassUID == STORAGE_COMMITMENT
        assert request.AffectedSOPInstanceUID == WELL_KNOWN_INSTANCE
        self.callers.append(event.assoc.requestor.ae_title)
        self.results.append(event.event_information)
        self.event_types.append(event.event_type or 0)
        return self.status, None

    @property
    def handlers(self) -> list[Any]:
        return [(evt.EVT_N_EVENT_REPORT, self.take)]

    def first(self) -> Dataset:
        until(lambda: bool(self.event_types))
        return self.results[0]


def asking(*numbers: int, transaction: str = "2.25.5.1", sop_class: str = CT_IMAGE_STORAGE.value) -> Dataset:
    request = Dataset()
    request.TransactionUID = transaction
    items = []
    for number in numbers:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = a_uid(number).value
        items.append(item)
    request.ReferencedSOPSequence = Sequence(items)
    return request


@contextlib.contextmanager
def associated(
    receiver: Receiver, told: Told | None = None, *syntaxes: str, roles: list[Any] | None = None
) -> Iterator[Association]:
    entity = AE("MODALITY")
    entity.add_requested_context(STORAGE_COMMITMENT, list(syntaxes) or ImplicitVRLittleEndian)
    entity.add_requested_context(CT_IMAGE_STORAGE.value, ExplicitVRLittleEndian)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PATIENCE
    association = entity.associate(
        "127.0.0.1",
        receiver.port,
        ae_title="ARCHIVE",
        ext_neg=roles,
        evt_handlers=[] if told is None else told.handlers,
    )
    assert association.is_established
    try:
        yield association
        if told is not None:
            # pynetdicom must not be asked to release while it is confirming a result.
            until(lambda: len(receiver.telemetry.named("commitment.answered")) >= len(told.event_types))
    finally:
        if association.is_established:
            association.release()


def a_dataset_without_references() -> Dataset:
    data_set = asking()
    del data_set.ReferencedSOPSequence
    return data_set


def ask(association: Association, request: Dataset | None, action: int = 1, instance: str = WELL_KNOWN_INSTANCE) -> int:
    answer, _ = association.send_n_action(request, action, UID(STORAGE_COMMITMENT), UID(instance))
    return int(answer.Status)


@contextlib.contextmanager
def a_peer(told: Told, port: int = 0, title: str = "MODALITY", **supported: Any) -> Iterator[int]:
    """Run a modality that takes results on associations that others open."""
    entity = AE(title)
    entity.require_called_aet = True
    entity.add_supported_context(STORAGE_COMMITMENT, **{"scu_role": False, "scp_role": True, **supported})
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=told.handlers)
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        entity.shutdown()


def peer_at(port: int, title: str = "MODALITY") -> CommitmentPeer:
    return CommitmentPeer(ae_title=AeTitle(title), host="127.0.0.1", port=port)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_a_result_comes_on_the_association_of_its_request(tmp_path: Path, syntax: str) -> None:
    told = Told()
    with receiving(tmp_path) as receiver:
        receiver.record(1, state=IMPORTED)
        receiver.record(2, state=IMPORTED)
        with associated(receiver, told, syntax) as association:
            assert ask(association, asking(1, 2)) == 0
            result = told.first()
    assert told.event_types == [1]
    assert result.TransactionUID == "2.25.5.1"
    assert [item.ReferencedSOPInstanceUID for item in result.ReferencedSOPSequence] == [a_uid(1).value, a_uid(2).value]
    assert "FailedSOPSequence" not in result
    until(lambda: bool(receiver.telemetry.named("commitment.answered")))
    assert receiver.telemetry.named("commitment.answered")[0].fields["way"] == "the association of the request"


def test_each_failure_has_its_reason(tmp_path: Path) -> None:
    told = Told()
    with receiving(tmp_path) as receiver:
        receiver.record(1, state=IMPORTED)
        receiver.record(2, state=FAILED)
        receiver.record(3, state=IMPORTED, sop_class=Uid(MR))
        with associated(receiver, told) as association:
            assert ask(association, asking(1, 2, 3, 4)) == 0
            result = told.first()
    assert told.event_types == [2]
    assert [item.ReferencedSOPInstanceUID for item in result.ReferencedSOPSequence] == [a_uid(1).value]
    failed = {item.ReferencedSOPInstanceUID: item.FailureReason for item in result.FailedSOPSequence}
    assert failed == {a_uid(2).value: 0x0110, a_uid(3).value: 0x0119, a_uid(4).value: 0x0112}


def test_stores_go_on_before_and_after_a_result(tmp_path: Path) -> None:
    told = Told()
    with receiving(tmp_path) as receiver:
        receiver.record(1)
        with associated(receiver, told) as association:
            assert ask(association, asking(1)) == 0
            for number in range(20):
                assert association.send_c_store(a_data_set(number)).Status == 0
            receiver.store.put_entries([a_record(1, state=IMPORTED)])
            told.first()
            assert association.send_c_store(a_data_set(99)).Status == 0
    assert receiver.server.totals().stored == 21


class RawRequestor:
    """A requestor that answers what comes while it stores, as the standard allows and few devices do."""

    def __init__(self, port: int) -> None:
        self.reports: list[bytes] = []
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        contexts = ((1, STORAGE_COMMITMENT, (pdus.IMPLICIT,)), (3, pdus.CT, (pdus.EXPLICIT,)))
        self._socket.sendall(pdus.associate_rq(contexts=contexts))
        assert self._pdu()[0] == 2

    def ask(self, request: bytes) -> None:
        extra = pdus.element(0x1001, WELL_KNOWN_INSTANCE.encode()) + pdus.element(0x1008, b"\1\0")
        command = pdus.element(0x0003, STORAGE_COMMITMENT.encode()) + pdus.command(0x0130, data_set=0, extra=extra)[12:]
        self._socket.sendall(pdus.p_data(pdus.pdv(1, 3, command), pdus.pdv(1, 2, request)))
        self.wait_for(0x8130)

    def store(self, number: int) -> None:
        with self.storing(number):
            pass

    @contextlib.contextmanager
    def storing(self, number: int) -> Iterator[None]:
        """Store one instance, all but its last byte before what is done meanwhile."""
        instance = f"1.2.3.{number}"
        data = pdus.data_set(sop_instance=instance, pixels=bytes(4000))
        message = pdus.p_data(pdus.pdv(3, 3, pdus.c_store(instance, number))) + pdus.p_data(pdus.pdv(3, 2, data))
        self._socket.sendall(message[:-1])
        yield
        self._socket.sendall(message[-1:])
        self.wait_for(0x8001)

    def wait_for(self, field: int) -> None:
        """Read until the response comes, confirming every result on the way."""
        while True:
            elements = pdus.parse_command(self._message(is_command=True))
            found = int.from_bytes(elements[0x0100], "little")
            if found == field:
                assert elements[0x0900] == b"\0\0"
                return
            assert found == 0x0100
            self.reports.append(self._message(is_command=False))
            message_id = int.from_bytes(elements[0x0110], "little")
            response = pdus.command(0x8100, message_id=message_id, extra=pdus.element(0x0900, b"\0\0"))
            self._socket.sendall(pdus.p_data(pdus.pdv(1, 3, response)))

    def close(self) -> None:
        self._socket.close()

    def _message(self, *, is_command: bool) -> bytes:
        message = b""
        while True:
            kind, body = self._pdu()
            assert kind == 4
            control = body[5]
            assert bool(control & 1) is is_command
            message += body[6:]
            if control & 2:
                return message

    def _pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            assert piece, "closed"
            data += piece
        return data


def test_results_and_stores_interleave_without_harm(tmp_path: Path) -> None:
    with receiving(tmp_path, answering=False, quiet_seconds=0.001) as receiver:
        receiver.record(1, state=IMPORTED)
        requestor = RawRequestor(receiver.port)
        requestor.ask(encode_information(asking(1), pdus.IMPLICIT))
        (label,) = receiver.desk._open
        stored = receiver.store.commitment(Uid("2.25.5.1"))
        assert stored is not None
        references = tuple(CommitmentReference(CT_IMAGE_STORAGE, a_uid(number)) for number in range(500))
        result = attrs.evolve(stored.result, committed=references)
        outcomes: list[Reported] = []
        is_done = threading.Event()

        def report() -> None:
            while not is_done.is_set():
                outcomes.append(receiver.desk.report(label, result))

        reporters = [threading.Thread(target=report) for _ in range(4)]
        for reporter in reporters:
            reporter.start()
        number = 0
        while number < 200 or len(requestor.reports) < 10:
            number += 1
            requestor.store(number)
            time.sleep(0.003 * (number % 3))
        is_done.set()
        requestor.close()
        for reporter in reporters:
            reporter.join()
        until(lambda: receiver.server.totals().open_connections == 0)
    assert receiver.server.totals().stored == number
    assert outcomes.count(Reported.DELIVERED) >= len(requestor.reports) - 1
    assert set(requestor.reports) == {encode_information(event_information(result), pdus.IMPLICIT)}


@pytest.mark.parametrize(
    "level,expected",
    [
        (CommitmentLevel.STAGED, {1: 0, 2: 0, 3: 0}),
        (CommitmentLevel.IMPORTED, {1: 0x0110, 2: 0, 3: 0}),
        (CommitmentLevel.PRIMARY, {1: 0x0110, 2: 0x0110, 3: 0}),
    ],
)
def test_levels_promise_what_they_say(tmp_path: Path, level: CommitmentLevel, expected: dict[int, int]) -> None:
    told = Told()
    with receiving(tmp_path, policy=attrs.evolve(POLICY, level=level, patience_seconds=0.5)) as receiver:
        receiver.record(1)  # staged, and never imported
        receiver.record(2, state=IMPORTED, is_primary=False)
        receiver.record(3, state=IMPORTED)
        with associated(receiver, told) as association:
            assert ask(association, asking(1, 2, 3)) == 0
            result = told.first()
    found = {item.ReferencedSOPInstanceUID: 0 for item in result.get("ReferencedSOPSequence", [])}
    found |= {item.ReferencedSOPInstanceUID: item.FailureReason for item in result.get("FailedSOPSequence", [])}
    assert found == {a_uid(number).value: reason for number, reason in expected.items()}


def test_at_level_staged_what_was_stored_a_moment_ago_is_committed(tmp_path: Path) -> None:
    told = Told()
    with receiving(tmp_path, policy=attrs.evolve(POLICY, level=CommitmentLevel.STAGED)) as receiver:
        with associated(receiver, told) as association:
            assert association.send_c_store(a_data_set(1)).Status == 0
            request = asking(1)
            request.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.7100.1"
            assert ask(association, request) == 0
            told.first()
    assert told.event_types == [1]


def test_a_result_waits_for_the_import(tmp_path: Path) -> None:
    told = Told()
    with receiving(tmp_path) as receiver:
        batch = a_batch(1)
        receiver.store.add_batch(batch)
        receiver.staging.stage(receiver.staging.draft(), batch.id, an_instance(1))
        with associated(receiver, told) as association:
            assert ask(association, asking(1)) == 0
            time.sleep(3 * POLICY.unknown_seconds)
            assert told.event_types == []
            receiver.record(1, state=IMPORTED)
            receiver.staging.objects.clear()
            told.first()
    assert told.event_types == [1]


def test_a_result_comes_on_a_new_association_when_the_first_is_gone(tmp_path: Path) -> None:
    told = Told()
    with a_peer(told) as port, receiving(tmp_path, peers=[peer_at(port)]) as receiver:
        receiver.record(1)
        with associated(receiver) as association:
            assert ask(association, asking(1, 2)) == 0
        receiver.store.put_entries([a_record(1, state=IMPORTED)])
        result = told.first()
        until(lambda: bool(receiver.telemetry.named("commitment.answered")))
    assert (told.event_types, told.callers) == ([2], ["ARCHIVE"])
    assert [item.ReferencedSOPInstanceUID for item in result.ReferencedSOPSequence] == [a_uid(1).value]
    assert [item.FailureReason for item in result.FailedSOPSequence] == [0x0112]


def test_a_result_known_late_comes_on_a_new_association(tmp_path: Path) -> None:
    same, new = Told(), Told()
    with a_peer(new) as port:
        with receiving(tmp_path, peers=[peer_at(port)], policy=attrs.evolve(POLICY, wait_seconds=0.3)) as receiver:
            receiver.record(1)
            with associated(receiver, same) as association:
                assert ask(association, asking(1)) == 0
                time.sleep(0.5)
                receiver.store.put_entries([a_record(1, state=IMPORTED)])
                new.first()
    assert (same.event_types, new.event_types) == ([], [1])


def test_a_peer_that_does_not_answer_the_role_proposal_is_told_all_the_same(tmp_path: Path) -> None:
    told = Told()
    with a_peer(told, scu_role=None, scp_role=None) as port, receiving(tmp_path, peers=[peer_at(port)]) as receiver:
        receiver.record(1, state=IMPORTED)
        with associated(receiver) as association:
            assert ask(association, asking(1)) == 0
        told.first()


def test_a_peer_that_was_down_is_told_when_it_is_up(tmp_path: Path) -> None:
    told = Told()
    with a_peer(Told()) as port:
        pass
    with receiving(tmp_path, peers=[peer_at(port)]) as receiver:
        receiver.record(1, state=IMPORTED)
        with associated(receiver) as association:
            assert ask(association, asking(1)) == 0
        until(lambda: len(receiver.telemetry.named("commitment.delivery_failed")) >= 2)
        with a_peer(told, port):
            told.first()
            until(lambda: bool(receiver.telemetry.named("commitment.answered")))
    problem = str(receiver.telemetry.named("commitment.delivery_failed")[0].fields["problem"])
    assert "--commitment-peers" in problem
    assert told.event_types == [1]


@pytest.mark.parametrize(
    "title,supported,status,words",
    [
        ("OTHER", {}, 0, "it is not called MODALITY"),
        ("MODALITY", {}, 0x0110, "refused the result with status 0x0110"),
    ],
)
def test_what_a_peer_objects_to_is_said(
    tmp_path: Path, title: str, supported: dict[str, Any], status: int, words: str
) -> None:
    with a_peer(Told(status=status), title=title, **supported) as port:
        with receiving(tmp_path, peers=[peer_at(port)]) as receiver:
            receiver.record(1, state=IMPORTED)
            with associated(receiver) as association:
                assert ask(association, asking(1)) == 0
            until(lambda: bool(receiver.telemetry.named("commitment.delivery_failed")))
    assert words in str(receiver.telemetry.named("commitment.delivery_failed")[0].fields["problem"])


def test_a_peer_that_does_not_take_the_service_is_named(tmp_path: Path) -> None:
    entity = AE("MODALITY")
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    try:
        with receiving(tmp_path, peers=[peer_at(server.server_address[1])]) as receiver:
            receiver.record(1, state=IMPORTED)
            with associated(receiver) as association:
                assert ask(association, asking(1)) == 0
            until(lambda: bool(receiver.telemetry.named("commitment.delivery_failed")))
    finally:
        server.shutdown()
        entity.shutdown()
    problem = str(receiver.telemetry.named("commitment.delivery_failed")[0].fields["problem"])
    assert "does not take Storage Commitment Push Model" in problem


def test_a_request_survives_a_restart(tmp_path: Path) -> None:
    told = Told()
    with a_peer(told) as port:
        policy = attrs.evolve(POLICY, wait_seconds=0.0)
        with receiving(tmp_path, answering=False, policy=policy) as receiver:
            receiver.record(1, state=IMPORTED)
            with associated(receiver) as association:
                assert ask(association, asking(1)) == 0
        assert told.event_types == []
        with receiving(tmp_path, "receiver-2", peers=[peer_at(port)], policy=policy):
            told.first()
    assert told.event_types == [1]


def test_two_receivers_on_one_table_answer_once(tmp_path: Path) -> None:
    told = Told()
    policy = attrs.evolve(POLICY, wait_seconds=0.0)
    with a_peer(told) as port, contextlib.ExitStack() as stack:
        receivers = [
            stack.enter_context(receiving(tmp_path, f"receiver-{number}", peers=[peer_at(port)], policy=policy))
            for number in (1, 2, 3)
        ]
        receivers[0].record(1, state=IMPORTED)
        with associated(receivers[0]) as association:
            for number in range(20):
                assert ask(association, asking(1, transaction=f"2.25.5.{number}")) == 0
        until(lambda: len(told.results) >= 20)
        time.sleep(0.5)
    assert sorted(result.TransactionUID for result in told.results) == sorted(
        f"2.25.5.{number}" for number in range(20)
    )


def test_a_requestor_without_an_address_is_named_in_the_log(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        receiver.record(1)
        with associated(receiver) as association:
            assert ask(association, asking(1)) == 0
        receiver.store.put_entries([a_record(1, state=IMPORTED)])
        until(lambda: bool(receiver.telemetry.named("commitment.undeliverable")))
    (event, *_) = receiver.telemetry.named("commitment.undeliverable")
    assert event.fields["calling_ae_title"] == "MODALITY"
    assert "add MODALITY=host:port to --commitment-peers" in str(event.fields["remedy"])


def test_the_same_request_again_is_answered_again(tmp_path: Path) -> None:
    told = Told()
    with receiving(tmp_path) as receiver:
        receiver.record(1, state=IMPORTED)
        with associated(receiver, told) as association:
            assert ask(association, asking(1)) == 0
            until(lambda: len(receiver.telemetry.named("commitment.answered")) == 1)
            assert ask(association, asking(1)) == 0
            until(lambda: len(told.event_types) == 2)
            assert ask(association, asking(2)) == 0x0131
    assert [event.fields["status"] for event in receiver.telemetry.named("commitment.refused")] == ["0x0131"]


def test_wrong_requests_are_answered_as_the_standard_says(tmp_path: Path) -> None:
    with receiving(tmp_path, policy=attrs.evolve(POLICY, max_references=2)) as receiver:
        with associated(receiver) as association:
            assert ask(association, asking(1), action=2) == 0x0123
            assert ask(association, asking(1), instance="1.2.840.10008.1.20.1.2") == 0x0112
            assert ask(association, None) == 0x0115
            assert ask(association, a_dataset_without_references()) == 0x0115
            assert ask(association, asking()) == 0x0115
            assert ask(association, asking(1, 2, 3)) == 0x0213
            assert ask(association, asking(1)) == 0, "the association goes on"
    statuses = [event.fields["status"] for event in receiver.telemetry.named("commitment.refused")]
    assert statuses == ["0x0123", "0x0112", "0x0115", "0x0115", "0x0115", "0x0213"]


def test_a_request_that_cannot_be_kept_is_not_accepted(tmp_path: Path) -> None:
    with receiving(tmp_path, answering=False) as receiver:
        receiver.store.close()
        with associated(receiver) as association:
            assert ask(association, asking(1)) == 0x0110


def test_roles_and_encodings_are_negotiated(tmp_path: Path) -> None:
    with receiving(tmp_path, answering=False) as receiver:
        roles = [build_role(STORAGE_COMMITMENT, scu_role=True, scp_role=True)]
        with associated(receiver, None, JPEG2000, ExplicitVRLittleEndian, roles=roles) as association:
            (context,) = (one for one in association.accepted_contexts if one.abstract_syntax == STORAGE_COMMITMENT)
            assert context.transfer_syntax == [ExplicitVRLittleEndian]
            assert (context.as_scu, context.as_scp) == (True, False), "we are no SCU of storage commitment"


def test_an_association_in_the_middle_of_a_message_is_busy(tmp_path: Path) -> None:
    with receiving(tmp_path, answering=False, quiet_seconds=0.01) as receiver:
        receiver.record(1, state=IMPORTED)
        requestor = RawRequestor(receiver.port)
        requestor.ask(encode_information(asking(1), pdus.IMPLICIT))
        (label,) = receiver.desk._open
        stored = receiver.store.commitment(Uid("2.25.5.1"))
        assert stored is not None
        with requestor.storing(1):
            until(lambda: receiver.server.totals().data_set_bytes > 0)
            assert receiver.desk.report(label, stored.result) is Reported.BUSY
        assert requestor.reports == []
        requestor.close()
        until(lambda: not receiver.desk.is_open(label))
        assert receiver.desk.report(label, stored.result) is Reported.GONE
    assert receiver.server.totals().stored == 1


def test_the_whole_receiver_commits_what_it_imported(tmp_path: Path) -> None:
    told = Told()
    with a_peer(told) as port:
        settings = {"commitment_peers": f"MODALITY=127.0.0.1:{port}", "commitment_wait_seconds": "0"}
        with Serving(tmp_path / "data", settings) as serving:
            entity = AE("MODALITY")
            entity.requested_contexts = [
                build_context(STORAGE_COMMITMENT),
                build_context(CT_IMAGE_STORAGE.value, ExplicitVRLittleEndian),
            ]
            association = entity.associate("127.0.0.1", serving.port)
            assert association.send_c_store(a_data_set(1)).Status == 0
            request = asking(1)
            request.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.7100.1"
            assert ask(association, request) == 0
            association.release()
            deadline = time.monotonic() + 60
            while not told.event_types:
                assert time.monotonic() < deadline, serving.events()
                time.sleep(0.1)
            assert serving.stop() == 0
            names = [event["event"] for event in serving.events()]
    assert told.event_types == [1]
    assert names.index("commitment.requested") < names.index("batch.settled") < names.index("commitment.answered")
