"""Storage commitment on one association without sockets: odd requests, odd responses, and who may wait for what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from adapters.inbound.dicom.associate import ContextResult
from adapters.inbound.dicom.commitment import (
    STORAGE_COMMITMENT,
    WELL_KNOWN_INSTANCE,
    AssociationCommitments,
    CommitmentDesk,
)
from adapters.inbound.dicom.commitment_data import MAXIMUM_BYTES, encode_information, event_information
from adapters.inbound.dicom.dimse import CommandField, decode_command
from adapters.inbound.dicom.indications import Fragment
from adapters.inbound.dicom.operations import Operations
from adapters.inbound.dicom.presentation import PresentationPolicy
from adapters.memory.telemetry import RecordingTelemetry
from domain.association import Acceptance
from domain.commitment import CommitmentResult, FailureReason
from domain.errors import MetadataUnavailable, ProtocolViolation
from domain.identifiers import AeTitle
from domain.ports import Reported
from tests.builders import MODALITY, a_reference, a_uid
from tests.unit.inbound import pdus

IMPLICIT = "1.2.840.10008.1.2"
NAMES = Acceptance(calling_ae_title=MODALITY, called_ae_title=AeTitle("STORESCP"))
RESULT = CommitmentResult(
    transaction=a_uid(1, root="2.25.5"),
    requestor=MODALITY,
    called=AeTitle("STORESCP"),
    committed=(a_reference(1),),
)
REQUEST = encode_information(event_information(RESULT), IMPLICIT)


class Scene:
    """One association with a commitment context (1), a storage context (3) and what was sent on it."""

    def __init__(self, **desk: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[], FailureReason | None] = lambda: None
        self.telemetry = RecordingTelemetry()
        self.desk = CommitmentDesk(
            self._request,
            self.telemetry,
            **{"busy_seconds": 5.0, "response_seconds": 5.0, **desk},
        )
        self.sent: list[tuple[int, dict[int, bytes], bytes]] = []
        self.commitments = AssociationCommitments(self.desk, NAMES, "a-1", self._send)
        self.operations = Operations(
            receive=None,  # type: ignore[arg-type]  # no C-STORE comes
            policy=PresentationPolicy.parse(services=[STORAGE_COMMITMENT]),
            contexts={
                1: ContextResult(context_id=1, abstract_syntax=STORAGE_COMMITMENT, result=0, transfer_syntax=IMPLICIT),
                3: ContextResult(context_id=3, abstract_syntax=pdus.CT, result=0, transfer_syntax=IMPLICIT),
            },
            names=NAMES,
            association="a-1",
            telemetry=self.telemetry,
            send=self._send,
            commitments=self.commitments,
        )

    def _request(self, **facts: Any) -> FailureReason | None:
        self.asked.append(facts)
        return self.answer()

    def _send(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        self.sent.append((context_id, decode_command(command).elements, data_set))

    def feed(self, command: bytes, *data: bytes, context_id: int = 1) -> None:
        self.operations.feed(Fragment(context_id, True, True, memoryview(command)))
        for number, piece in enumerate(data, start=1):
            self.operations.feed(Fragment(context_id, False, number == len(data), memoryview(piece)))

    def ask(self, *data: bytes, **changes: Any) -> int:
        self.feed(an_action(has_data_set=bool(data), **changes), *data)
        return int.from_bytes(self.sent[-1][1][0x0900], "little")

    def reporting(self) -> tuple[threading.Thread, list[Reported]]:
        outcomes: list[Reported] = []
        thread = threading.Thread(target=lambda: outcomes.append(self.desk.report("a-1", RESULT)))
        thread.start()
        return thread, outcomes

    def send_report(self) -> int:
        """Let the association send what waits, and return the message id."""
        before = len(self.sent)
        while len(self.sent) == before:
            self.commitments.report_one()
        return int.from_bytes(self.sent[-1][1][0x0110], "little")


def element(number: int, value: bytes) -> bytes:
    return b"\0\0" + number.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value


def uid(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) & 1)


def an_action(
    *,
    sop_class: str = STORAGE_COMMITMENT,
    instance: str = WELL_KNOWN_INSTANCE,
    action: int = 1,
    has_data_set: bool = True,
) -> bytes:
    return b"".join(
        (
            element(0x0003, uid(sop_class)),
            element(0x0100, CommandField.N_ACTION.to_bytes(2, "little")),
            element(0x0110, b"\7\0"),
            element(0x0800, b"\0\0" if has_data_set else b"\1\1"),
            element(0x1001, uid(instance)),
            element(0x1008, action.to_bytes(2, "little")),
        )
    )


def a_response(message_id: int, status: int = 0, *, has_data_set: bool = False, field: int = 0x8100) -> bytes:
    return b"".join(
        (
            element(0x0100, field.to_bytes(2, "little")),
            element(0x0120, message_id.to_bytes(2, "little")),
            element(0x0800, b"\0\0" if has_data_set else b"\1\1"),
            element(0x0900, status.to_bytes(2, "little")),
        )
    )


def test_a_request_in_pieces_is_taken_and_answered() -> None:
    scene = Scene()
    assert scene.ask(REQUEST[:7], REQUEST[7:], b"") == 0
    (asked,) = scene.asked
    assert asked["references"] == (a_reference(1),)
    assert (asked["requestor"], asked["called"], asked["association"]) == (MODALITY, AeTitle("STORESCP"), "a-1")
    context_id, response, _ = scene.sent[-1]
    assert (context_id, response[0x0100], response[0x0120]) == (1, b"\x30\x81", b"\7\0")
    assert scene.desk.is_open("a-1")


@pytest.mark.parametrize(
    "changes,expected",
    [
        ({"sop_class": "1.2.840.10008.1.20.2"}, 0x0118),
        ({"instance": "1.2.3"}, 0x0112),
        ({"instance": "Yamada"}, 0x0117),
        ({"instance": ""}, 0x0117),
        ({"action": 2}, 0x0123),
    ],
)
def test_a_request_for_something_else_is_refused(changes: dict[str, Any], expected: int) -> None:
    scene = Scene()
    assert scene.ask(REQUEST, **changes) == expected
    assert scene.asked == []
    assert scene.telemetry.named("commitment.refused")[0].fields["status"] == f"0x{expected:04X}"


def test_a_request_without_action_information_is_refused() -> None:
    assert Scene().ask() == 0x0115


def test_a_request_that_cannot_be_read_is_refused_without_quoting_it() -> None:
    scene = Scene()
    assert scene.ask(b"Yamada^Tarou") == 0x0115
    assert "Yamada" not in str(scene.telemetry.events)


def test_a_request_beyond_the_bound_is_dropped_while_it_arrives() -> None:
    scene = Scene()
    assert scene.ask(*[bytes(MAXIMUM_BYTES // 2)] * 4) == 0x0213
    assert scene.ask(REQUEST) == 0, "the association goes on"


@pytest.mark.parametrize(
    "answer,expected",
    [
        (FailureReason.DUPLICATE_TRANSACTION_UID, 0x0131),
        (FailureReason.RESOURCE_LIMITATION, 0x0213),
        (MetadataUnavailable("away"), 0x0110),
        (ZeroDivisionError("Yamada^Tarou"), 0x0110),
    ],
)
def test_what_the_use_case_refuses_is_refused(answer: FailureReason | Exception, expected: int) -> None:
    scene = Scene()

    def act() -> FailureReason | None:
        if isinstance(answer, Exception):
            raise answer
        return answer

    scene.answer = act
    assert scene.ask(REQUEST) == expected
    assert "Yamada" not in str(scene.telemetry.events)


def test_an_action_on_another_context_is_not_known() -> None:
    scene = Scene()
    scene.feed(an_action(), REQUEST, context_id=3)
    assert scene.sent[-1][1][0x0900] == (0x0211).to_bytes(2, "little")


@pytest.mark.parametrize(
    "status,expected",
    [
        (0x0000, Reported.DELIVERED),
        (0x0107, Reported.DELIVERED),
        (0xB000, Reported.DELIVERED),
        (0x0110, Reported.REFUSED),
    ],
)
@pytest.mark.parametrize("has_data_set", [False, True])
def test_a_report_is_settled_by_its_response(status: int, expected: Reported, has_data_set: bool) -> None:
    scene = Scene()
    scene.ask(REQUEST)
    thread, outcomes = scene.reporting()
    message_id = scene.send_report()
    context_id, command, information = scene.sent[-1]
    assert (context_id, command[0x1002], information) == (1, b"\1\0", REQUEST)
    assert (command[0x0002], command[0x1000]) == (uid(STORAGE_COMMITMENT), uid(WELL_KNOWN_INSTANCE))
    scene.feed(a_response(message_id, status, has_data_set=has_data_set), *([b"\0\0"] if has_data_set else []))
    thread.join()
    assert outcomes == [expected]
    assert not scene.operations.is_within_message


def test_one_report_is_under_way_at_a_time() -> None:
    scene = Scene()
    scene.ask(REQUEST)
    threads = [scene.reporting() for _ in range(2)]
    first = scene.send_report()
    scene.commitments.report_one()
    assert len(scene.sent) == 2
    scene.feed(a_response(first))
    second = scene.send_report()
    assert second == first + 1
    scene.feed(a_response(second))
    for thread, outcomes in threads:
        thread.join()
        assert outcomes == [Reported.DELIVERED]


def test_a_report_that_cannot_be_sent_is_taken_back() -> None:
    scene = Scene(busy_seconds=0.01)
    scene.ask(REQUEST)
    assert scene.desk.report("a-1", RESULT) is Reported.BUSY
    scene.commitments.report_one()
    assert len(scene.sent) == 1


def test_a_report_without_a_response_is_not_delivered() -> None:
    scene = Scene(response_seconds=0.01)
    scene.ask(REQUEST)
    thread, outcomes = scene.reporting()
    message_id = scene.send_report()
    thread.join()
    assert outcomes == [Reported.REFUSED]
    scene.feed(a_response(message_id))  # late, and still matched


def test_the_end_of_an_association_ends_its_reports() -> None:
    scene = Scene()
    scene.ask(REQUEST)
    waiting = [scene.reporting() for _ in range(2)]
    scene.send_report()
    scene.operations.abandon()
    scene.operations.abandon()
    for thread, outcomes in waiting:
        thread.join()
        assert outcomes == [Reported.GONE]
    assert not scene.desk.is_open("a-1")
    assert scene.desk.report("a-1", RESULT) is Reported.GONE


def test_nothing_is_reported_before_a_request() -> None:
    scene = Scene()
    assert scene.commitments.quiet_seconds is None
    scene.commitments.report_one()
    assert scene.sent == []
    assert scene.desk.report("a-1", RESULT) is Reported.GONE


@pytest.mark.parametrize("field", [0x8100, 0x8001])
def test_a_response_to_nothing_is_a_violation(field: int) -> None:
    scene = Scene()
    scene.ask(REQUEST)
    with pytest.raises(ProtocolViolation):
        scene.feed(a_response(1, field=field))


def test_requests_that_arrive_together_have_a_bound_of_memory() -> None:
    scene = Scene()
    others = [AssociationCommitments(scene.desk, NAMES, f"b-{number}", scene._send) for number in range(16)]
    piece = bytes(MAXIMUM_BYTES)
    actions = [other.begin(1, IMPLICIT, decode_command(an_action())) for other in others]
    for action in actions:
        action.write(piece)
    assert scene.ask(REQUEST) == 0x0213
    assert actions[0].finish().status == 0x0115, "room again, whatever became of it"
    assert scene.ask(REQUEST) == 0
    others[1].close()
    others[1].close()
    assert all(scene.ask(REQUEST) == 0 for _ in range(3)), "given back once"
    assert scene.telemetry.named("commitment.refused")[0].fields["comment"] == (
        "Too many requests are arriving: ask again later"
    )


def test_an_association_that_ends_within_a_request_gives_its_room_back() -> None:
    scene = Scene()
    for number in range(40):
        other = AssociationCommitments(scene.desk, NAMES, f"b-{number}", scene._send)
        other.begin(1, IMPLICIT, decode_command(an_action())).write(bytes(MAXIMUM_BYTES))
        other.close()
    assert scene.ask(REQUEST) == 0
