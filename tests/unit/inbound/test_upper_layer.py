"""The acceptor's side of the PS3.8 state table, cell by cell, and the stream of PDUs."""

import struct
from collections.abc import Callable

import pytest

from adapters.inbound.dicom.associate import AssociateAccept, ContextResult
from adapters.inbound.dicom.indications import (
    AbortIndication,
    ArtimStart,
    ArtimStop,
    AssociateIndication,
    CloseTransport,
    Fragment,
    Indication,
    LossIndication,
    RefusalIndication,
    ReleaseConfirmation,
    ReleaseIndication,
    ViolationIndication,
)
from adapters.inbound.dicom.state_table import TRANSITIONS, Cause, State
from adapters.inbound.dicom.upper_layer import UpperLayer
from domain.association import Rejection
from domain.errors import IllegalTransition
from tests.unit.inbound import pdus

ACCEPT = AssociateAccept(
    contexts=(
        ContextResult(context_id=1, abstract_syntax=pdus.VERIFICATION, result=0, transfer_syntax=pdus.IMPLICIT),
        ContextResult(context_id=3, abstract_syntax=pdus.CT, result=0, transfer_syntax=pdus.EXPLICIT),
    ),
    maximum_length=16384,
)
REJECTION = Rejection(result=2, source=3, reason=2, explanation="full")

# PS3.8 table 9-10, columns of the acceptor. A dash is a cell without meaning.
TABLE = """
cause                       1    2    3    6    7    8     10   12   13
ASSOCIATE_AC                -    AA-1 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
ASSOCIATE_RJ                -    AA-1 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-6
TRANSPORT_OPENED            AE-5 -    -    -    -    -     -    -    -
ASSOCIATE_RQ                -    AE-6 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-7
ACCEPT_REQUESTED            -    -    AE-7 -    -    -     -    -    -
REJECT_REQUESTED            -    -    AE-8 -    -    -     -    -    -
DATA_REQUESTED              -    -    -    DT-1 -    AR-7  -    -    -
DATA_TF                     -    AA-1 AA-8 DT-2 AR-6 AA-8  AA-8 AA-8 AA-6
RELEASE_REQUESTED           -    -    -    AR-1 -    -     -    -    -
RELEASE_RQ                  -    AA-1 AA-8 AR-2 AR-8 AA-8  AA-8 AA-8 AA-6
RELEASE_RP                  -    AA-1 AA-8 AA-8 AR-3 AA-8  AR-10 AA-8 AA-6
RELEASE_RESPONSE_REQUESTED  -    -    -    -    -    AR-4  -    AR-4 -
ABORT_REQUESTED             -    -    AA-1 AA-1 AA-1 AA-1  AA-1 AA-1 -
ABORT                       -    AA-2 AA-3 AA-3 AA-3 AA-3  AA-3 AA-3 AA-2
TRANSPORT_CLOSED            -    AA-5 AA-4 AA-4 AA-4 AA-4  AA-4 AA-4 AR-5
ARTIM_EXPIRED               -    AA-2 -    -    -    -     -    -    AA-2
INVALID_PDU                 -    AA-1 AA-8 AA-8 AA-8 AA-8  AA-8 AA-8 AA-7
"""
_HEAD, *_ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = {
    (Cause[row[0]], State(int(column))): action
    for row in _ROWS
    for column, action in zip(_HEAD[1:], row[1:], strict=True)
}

RQ = pdus.associate_rq()
DATA = pdus.p_data(pdus.pdv(3, 3, b"ab"))
DATA_FRAGMENT = Fragment(3, True, True, memoryview(b"ab"))

# Action: what is sent, which indications come, where it leads. A-ABORT's source and reason depend on the cause.
OUTCOMES: dict[str, tuple[bytes | None, list[type[Indication]], State]] = {
    "AE-5": (b"", [ArtimStart], State.AWAIT_ASSOCIATE_RQ),
    "AE-6": (b"", [ArtimStop, AssociateIndication], State.AWAIT_ASSOCIATE_RESPONSE),
    "AE-7": (None, [], State.ESTABLISHED),
    "AE-8": (bytes.fromhex("03000000000400020302"), [ArtimStart], State.AWAIT_CLOSE),
    "DT-1": (pdus.p_data(pdus.pdv(3, 3, b"cd")), [], State.ESTABLISHED),
    "DT-2": (b"", [Fragment], State.ESTABLISHED),
    "AR-1": (pdus.RELEASE_RQ, [], State.AWAIT_RELEASE_RP),
    "AR-2": (b"", [ReleaseIndication], State.AWAIT_RELEASE_RESPONSE),
    "AR-3": (b"", [ReleaseConfirmation, CloseTransport], State.IDLE),
    "AR-4": (pdus.RELEASE_RP, [ArtimStart], State.AWAIT_CLOSE),
    "AR-5": (b"", [ArtimStop], State.IDLE),
    "AR-6": (b"", [Fragment], State.AWAIT_RELEASE_RP),
    "AR-7": (pdus.p_data(pdus.pdv(3, 3, b"cd")), [], State.AWAIT_RELEASE_RESPONSE),
    "AR-8": (b"", [ReleaseIndication], State.COLLISION_AWAIT_RELEASE_RP),
    "AR-10": (b"", [ReleaseConfirmation], State.COLLISION_AWAIT_RELEASE_RESPONSE),
    "AA-1": (pdus.abort(0, 0), [ArtimStart], State.AWAIT_CLOSE),
    "AA-2": (b"", [ArtimStop, CloseTransport], State.IDLE),
    "AA-3": (b"", [AbortIndication, CloseTransport], State.IDLE),
    "AA-4": (b"", [LossIndication], State.IDLE),
    "AA-5": (b"", [ArtimStop], State.IDLE),
    "AA-6": (b"", [], State.AWAIT_CLOSE),
    "AA-7": (None, [], State.AWAIT_CLOSE),
    "AA-8": (None, [ViolationIndication, ArtimStart], State.AWAIT_CLOSE),
}


def receive(layer: UpperLayer, data: bytes) -> list[Indication]:
    return layer.receive(memoryview(data))


def a_layer(state: State = State.ESTABLISHED, *, maximum_length: int = 16384, request: bytes = RQ) -> UpperLayer:
    """Lead a layer into a state by what would lead there, and forget what it sent."""
    layer = UpperLayer(maximum_length)
    if state is not State.IDLE:
        layer.open()
    if state not in {State.IDLE, State.AWAIT_ASSOCIATE_RQ}:
        receive(layer, request)
    if state not in {State.IDLE, State.AWAIT_ASSOCIATE_RQ, State.AWAIT_ASSOCIATE_RESPONSE}:
        layer.accept(ACCEPT)
    if state in {
        State.AWAIT_RELEASE_RP,
        State.COLLISION_AWAIT_RELEASE_RP,
        State.COLLISION_AWAIT_RELEASE_RESPONSE,
    }:
        layer.request_release()
    if state in {
        State.AWAIT_RELEASE_RESPONSE,
        State.COLLISION_AWAIT_RELEASE_RP,
        State.COLLISION_AWAIT_RELEASE_RESPONSE,
    }:
        receive(layer, pdus.RELEASE_RQ)
    if state is State.COLLISION_AWAIT_RELEASE_RESPONSE:
        receive(layer, pdus.RELEASE_RP)
    if state is State.AWAIT_CLOSE:
        layer.abort()
    layer.data_to_send()
    assert layer.state is state
    return layer


def nothing(function: Callable[[], None]) -> list[Indication]:
    function()
    return []


TRIGGERS: dict[Cause, Callable[[UpperLayer], list[Indication]]] = {
    Cause.ASSOCIATE_AC: lambda layer: receive(layer, pdus.ASSOCIATE_AC_EMPTY),
    Cause.ASSOCIATE_RJ: lambda layer: receive(layer, pdus.ASSOCIATE_RJ),
    Cause.TRANSPORT_OPENED: lambda layer: layer.open(),
    Cause.ASSOCIATE_RQ: lambda layer: receive(layer, RQ),
    Cause.ACCEPT_REQUESTED: lambda layer: nothing(lambda: layer.accept(ACCEPT)),
    Cause.REJECT_REQUESTED: lambda layer: layer.reject(REJECTION),
    Cause.DATA_REQUESTED: lambda layer: nothing(lambda: layer.send(3, b"cd")),
    Cause.DATA_TF: lambda layer: receive(layer, DATA),
    Cause.RELEASE_REQUESTED: lambda layer: nothing(layer.request_release),
    Cause.RELEASE_RQ: lambda layer: receive(layer, pdus.RELEASE_RQ),
    Cause.RELEASE_RP: lambda layer: receive(layer, pdus.RELEASE_RP),
    Cause.RELEASE_RESPONSE_REQUESTED: lambda layer: layer.respond_release(),
    Cause.ABORT_REQUESTED: lambda layer: layer.abort(),
    Cause.ABORT: lambda layer: receive(layer, pdus.abort(2, 1)),
    Cause.TRANSPORT_CLOSED: lambda layer: layer.transport_closed(),
    Cause.ARTIM_EXPIRED: lambda layer: layer.artim_expired(),
    Cause.INVALID_PDU: lambda layer: receive(layer, pdus.UNKNOWN_PDU),
}


def test_the_table_is_that_of_the_standard() -> None:
    expected = {cell: action for cell, action in CELLS.items() if action != "-"}
    assert expected == TRANSITIONS


@pytest.mark.parametrize(
    "cause,state",
    [pytest.param(*cell, id=f"{cell[0].name}-{cell[1].name}") for cell, action in CELLS.items() if action != "-"],
)
def test_each_cell_does_what_its_action_says(cause: Cause, state: State) -> None:
    layer = a_layer(state)
    action = CELLS[cause, state]
    sent, kinds, following = OUTCOMES[action]

    indications = TRIGGERS[cause](layer)
    data = layer.data_to_send()

    if cause is Cause.ABORT_REQUESTED or state is State.AWAIT_ASSOCIATE_RQ:
        kinds = [kind for kind in kinds if kind is not ViolationIndication]
        indications = [one for one in indications if not isinstance(one, ViolationIndication)]
    assert kinds == [type(indication) for indication in indications]
    assert following is layer.state
    if action in {"AA-7", "AA-8"}:
        reason = 1 if cause is Cause.INVALID_PDU else 2
        assert pdus.abort(2, reason) == data
    elif action == "AE-7":
        assert data.startswith(b"\x02\0")
    else:
        assert sent == data


PRIMITIVES = {
    Cause.TRANSPORT_OPENED,
    Cause.ACCEPT_REQUESTED,
    Cause.REJECT_REQUESTED,
    Cause.DATA_REQUESTED,
    Cause.RELEASE_REQUESTED,
    Cause.RELEASE_RESPONSE_REQUESTED,
    Cause.ARTIM_EXPIRED,
}


@pytest.mark.parametrize(
    "cause,state",
    [
        pytest.param(*cell, id=f"{cell[0].name}-{cell[1].name}")
        for cell, action in CELLS.items()
        if action == "-" and cell[0] in PRIMITIVES
    ],
)
def test_a_primitive_without_meaning_is_a_bug_and_changes_nothing(cause: Cause, state: State) -> None:
    layer = a_layer(state)
    with pytest.raises(IllegalTransition):
        TRIGGERS[cause](layer)
    assert state is layer.state
    assert layer.data_to_send() == b""


@pytest.mark.parametrize(
    "cause,state",
    [
        pytest.param(*cell, id=f"{cell[0].name}-{cell[1].name}")
        for cell, action in CELLS.items()
        if action == "-" and cell[0] not in PRIMITIVES
    ],
)
def test_what_comes_too_late_is_ignored(cause: Cause, state: State) -> None:
    """Bytes and closings in Sta1 cannot happen; an abort of something that is over is already done."""
    layer = a_layer(state)
    assert TRIGGERS[cause](layer) == []
    assert layer.data_to_send() == b""
    assert state is layer.state


def test_an_unexpected_pdu_before_an_association_is_told_with_its_problem() -> None:
    layer = a_layer(State.AWAIT_ASSOCIATE_RQ)
    indications = receive(layer, DATA)
    assert [ViolationIndication, ArtimStart] == [type(one) for one in indications]


def test_another_protocol_version_is_rejected_by_the_provider() -> None:
    layer = a_layer(State.AWAIT_ASSOCIATE_RQ)
    indications = receive(layer, pdus.associate_rq(version=2))
    assert [ArtimStop, RefusalIndication, ArtimStart] == [type(one) for one in indications]
    assert bytes.fromhex("03000000000400010202") == layer.data_to_send()


def test_another_application_context_is_rejected() -> None:
    layer = a_layer(State.AWAIT_ASSOCIATE_RQ)
    receive(layer, pdus.associate_rq(application_context=b"1.2.3"))
    assert bytes.fromhex("03000000000400010102") == layer.data_to_send()
    assert layer.is_over


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 11, 64])
def test_any_split_gives_the_same_data(size: int) -> None:
    layer = a_layer()
    stream = pdus.p_data(pdus.pdv(3, 1, b"abc"), pdus.pdv(3, 3, b"defg"), pdus.pdv(3, 0, b"h" * 99)) + pdus.p_data(
        pdus.pdv(3, 2, b"i" * 20)
    )
    fragments = []
    for start in range(0, len(stream), size):
        for one in receive(layer, stream[start : start + size]):
            assert isinstance(one, Fragment)
            fragments.append((one.is_command, one.is_last, bytes(one.data)))
    commands = b"".join(data for is_command, _, data in fragments if is_command)
    data = b"".join(data for is_command, _, data in fragments if not is_command)
    assert commands == b"abcdefg"
    assert data == b"h" * 99 + b"i" * 20
    assert sum(is_last for _, is_last, _ in fragments) == 2


def test_fragments_are_views_of_what_was_received() -> None:
    layer = a_layer()
    data = bytearray(DATA)
    (fragment,) = layer.receive(memoryview(data))
    assert isinstance(fragment, Fragment)
    assert fragment.data.obj is data


def test_an_empty_pdv_is_passed_on() -> None:
    layer = a_layer()
    assert [Fragment(3, False, True, memoryview(b""))] == receive(layer, pdus.p_data(pdus.pdv(3, 2, b"")))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(struct.pack(">BxI", 4, 16384 + 7), id="PDU longer than announced"),
        pytest.param(struct.pack(">BxI", 4, 0xFFFFFFFF), id="PDU of 4 GB"),
        pytest.param(struct.pack(">BxI", 4, 0), id="PDU without a PDV"),
        pytest.param(struct.pack(">BxI", 4, 5), id="PDU too short for a PDV"),
        pytest.param(pdus.pdu(4, struct.pack(">IBB", 1, 3, 3)), id="PDV without its header"),
        pytest.param(pdus.pdu(4, struct.pack(">IBB", 0, 3, 3)), id="PDV of no length"),
        pytest.param(pdus.pdu(4, struct.pack(">IBB", 9, 3, 3) + b"abc"), id="PDV longer than its PDU"),
        pytest.param(pdus.pdu(4, pdus.pdv(3, 3, b"a") + b"\0\0\0"), id="rest too short for a PDV"),
        pytest.param(pdus.p_data(pdus.pdv(5, 3, b"ab")), id="context never proposed"),
        pytest.param(pdus.pdu(5, b"\0" * 5), id="release of another length"),
        pytest.param(pdus.pdu(7, b"\0" * 3), id="abort of another length"),
        pytest.param(struct.pack(">BxI", 1, 0x7FFFFFFF), id="association request of 2 GB"),
    ],
)
def test_an_invalid_parameter_aborts_with_its_reason(data: bytes) -> None:
    layer = a_layer()
    indications = receive(layer, data)
    assert ViolationIndication in [type(one) for one in indications]
    assert pdus.abort(2, 6) == layer.data_to_send()
    assert State.AWAIT_CLOSE is layer.state
    assert receive(layer, DATA * 3) == []


def test_what_follows_a_violation_in_its_pdu_is_dropped_unread() -> None:
    layer = a_layer()
    receive(layer, pdus.p_data(pdus.pdv(9, 3, pdus.UNKNOWN_PDU), pdus.pdv(3, 3, b"ab")) + pdus.abort())
    assert State.IDLE is layer.state
    assert pdus.abort(2, 6) == layer.data_to_send()


@pytest.mark.parametrize("cut", range(1, len(DATA)))
def test_an_abort_of_ours_in_the_middle_of_a_pdu_drops_the_rest_of_it(cut: int) -> None:
    layer = a_layer()
    receive(layer, DATA[:cut])
    layer.abort()
    layer.data_to_send()
    assert receive(layer, DATA[cut:]) == []
    assert [ArtimStop, CloseTransport] == [type(one) for one in receive(layer, pdus.abort())]


def test_a_request_that_cannot_be_read_is_aborted_before_any_association() -> None:
    layer = a_layer(State.AWAIT_ASSOCIATE_RQ)
    indications = receive(layer, pdus.associate_rq(extra=b"\x21\0\xff\xff"))
    assert [ViolationIndication, ArtimStart] == [type(one) for one in indications]
    assert pdus.abort(0, 0) == layer.data_to_send()


def test_a_request_of_2_gb_is_refused_at_its_header() -> None:
    layer = a_layer(State.AWAIT_ASSOCIATE_RQ)
    indications = receive(layer, struct.pack(">BxI", 1, 0x7FFFFFFF))
    assert [ViolationIndication, ArtimStart] == [type(one) for one in indications]


def test_what_we_send_respects_the_requestors_maximum_length() -> None:
    layer = a_layer(request=pdus.associate_rq(maximum_length=17))
    layer.send(3, b"x" * 25, b"y" * 3)
    expected = (
        pdus.p_data(pdus.pdv(3, 1, b"x" * 10)) * 2
        + pdus.p_data(pdus.pdv(3, 3, b"x" * 5))
        + pdus.p_data(pdus.pdv(3, 2, b"yyy"))
    )
    assert expected == layer.data_to_send()


def test_a_requestor_without_a_maximum_gets_one_pdu() -> None:
    layer = a_layer(request=pdus.associate_rq(maximum_length=0))
    layer.send(3, b"x" * 1000)
    assert pdus.p_data(pdus.pdv(3, 3, b"x" * 1000)) == layer.data_to_send()


def test_a_release_collision_ends_in_order() -> None:
    layer = a_layer(State.AWAIT_RELEASE_RP)
    assert [ReleaseIndication(is_collision=True)] == receive(layer, pdus.RELEASE_RQ)
    assert [ReleaseConfirmation(is_collision=True)] == receive(layer, pdus.RELEASE_RP)
    layer.respond_release()
    assert layer.data_to_send() == pdus.RELEASE_RP
    assert [ArtimStop()] == layer.transport_closed()
    assert State.IDLE is layer.state


def test_the_source_and_reason_of_an_abort_are_told() -> None:
    assert receive(a_layer(), pdus.abort(2, 5))[0] == AbortIndication(2, 5)
    assert receive(a_layer(), pdus.abort(0, 5))[0] == AbortIndication(0, 0)


def test_sending_is_possible_while_established_and_before_the_release_is_answered() -> None:
    able = {state for state in State if a_layer(state).can_send}
    assert {State.ESTABLISHED, State.AWAIT_RELEASE_RESPONSE} == able


@pytest.mark.parametrize(
    "first,words",
    [
        (bytes.fromhex("16030100c8"), "TLS was spoken"),
        (b"GET / HTTP/1.1", "a web client"),
        (b"OPTIONS / HTTP/1.1", "a web client"),
        (pdus.UNKNOWN_PDU, "no known type"),
    ],
)
def test_who_speaks_something_else_is_named(first: bytes, words: str) -> None:
    told = [
        one
        for one in receive(a_layer(State.AWAIT_ASSOCIATE_RQ), first + b"\0" * 99)
        if type(one) is ViolationIndication
    ]
    assert words in told[0].problem


def test_who_goes_on_after_our_abort_is_told_once_more_and_no_more() -> None:
    layer = a_layer(State.AWAIT_CLOSE)
    for _ in range(3):
        receive(layer, b"\x99\0\0\0\0\0" * 5000)
    assert pdus.abort(2, 1) == layer.data_to_send()


@pytest.mark.parametrize("answer", [lambda layer: layer.accept(ACCEPT), lambda layer: layer.reject(REJECTION)])
def test_a_request_is_not_kept_once_it_is_answered(answer: Callable[[UpperLayer], object]) -> None:
    layer = a_layer(State.AWAIT_ASSOCIATE_RESPONSE)
    answer(layer)
    assert layer._request is None


def test_a_request_that_we_reject_ourselves_is_not_kept() -> None:
    layer = a_layer(State.AWAIT_ASSOCIATE_RQ)
    receive(layer, pdus.associate_rq(version=2))
    assert layer._request is None
