"""Messages from fragments, command sets from and to bytes, held against pynetdicom's."""

import io
import struct
from typing import Any

import pytest
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import decode

from adapters.inbound.dicom.dimse import (
    MAXIMUM_COMMAND_BYTES,
    CommandField,
    CommandReceived,
    MessageReader,
    decode_command,
    encode_response,
)
from adapters.inbound.dicom.indications import Fragment
from domain.errors import ProtocolViolation
from tests.unit.inbound import pdus


def fragment(data: bytes, *, command: bool, last: bool = True, context: int = 3) -> Fragment:
    return Fragment(context, command, last, memoryview(data))


def test_a_command_without_a_data_set_is_a_message() -> None:
    reader = MessageReader()
    event = reader.feed(fragment(pdus.c_echo(7), command=True))
    assert isinstance(event, CommandReceived)
    assert event.context_id == 3
    assert event.command.field == CommandField.C_ECHO
    assert event.command.message_id == 7
    assert not reader.is_within_message


def test_a_data_set_is_handed_on_piece_by_piece() -> None:
    reader = MessageReader()
    command = pdus.c_store("1.2.3.4")
    assert reader.feed(fragment(command[:10], command=True, last=False)) is None
    event = reader.feed(fragment(command[10:], command=True))
    assert isinstance(event, CommandReceived)
    assert event.command.has_data_set
    assert (event.command.sop_class_uid, event.command.sop_instance_uid) == (pdus.CT, "1.2.3.4")
    piece, last_piece = fragment(b"ab", command=False, last=False), fragment(b"", command=False)
    assert piece is reader.feed(piece)
    assert reader.is_within_message
    assert last_piece is reader.feed(last_piece)
    assert not reader.is_within_message


@pytest.mark.parametrize(
    "before,offending",
    [
        pytest.param([], fragment(b"x", command=False), id="data set without a command"),
        pytest.param(
            [fragment(pdus.c_echo(), command=True)], fragment(b"x", command=False), id="data set nobody announced"
        ),
        pytest.param(
            [fragment(pdus.c_store(), command=True)],
            fragment(b"x", command=False, context=5),
            id="data set in another context",
        ),
        pytest.param(
            [fragment(pdus.c_store(), command=True)],
            fragment(pdus.c_echo(), command=True),
            id="command within a data set",
        ),
        pytest.param(
            [fragment(b"x", command=True, last=False)],
            fragment(b"x", command=True, context=5),
            id="command in two contexts",
        ),
        pytest.param(
            [fragment(b"x", command=True, last=False)],
            fragment(b"x", command=False),
            id="data set before its command is complete",
        ),
        pytest.param(
            [fragment(b"x" * MAXIMUM_COMMAND_BYTES, command=True, last=False)],
            fragment(b"x", command=True, last=False),
            id="command set without end",
        ),
    ],
)
def test_messages_out_of_order_are_violations(before: list[Fragment], offending: Fragment) -> None:
    reader = MessageReader()
    for one in before:
        reader.feed(one)
    with pytest.raises(ProtocolViolation):
        reader.feed(offending)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 7, id="header cut off"),
        pytest.param(struct.pack("<HHI", 0, 2, 9) + b"1.2", id="value cut off"),
        pytest.param(struct.pack("<HHI", 0, 2, 0xFFFFFFFF), id="undefined length"),
        pytest.param(struct.pack("<HHI", 8, 2, 0), id="another group"),
        pytest.param(pdus.element(0x0110, b"\1\0") + pdus.element(0x0800, b"\1\1"), id="no command field"),
        pytest.param(pdus.element(0x0100, b"\1\0") + pdus.element(0x0110, b"\1\0"), id="no data set type"),
        pytest.param(pdus.command(1, message_id=None), id="no message id"),
        pytest.param(
            pdus.element(0x0100, b"\1") + pdus.element(0x0110, b"\1\0") + pdus.element(0x0800, b"\1\1"),
            id="command field of one byte",
        ),
    ],
)
def test_a_command_set_that_cannot_be_read_is_a_violation(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_command(data)


def test_commands_of_pynetdicom_are_read() -> None:
    store = C_STORE()
    store.MessageID = 3
    store.AffectedSOPClassUID = pdus.CT
    store.AffectedSOPInstanceUID = "1.2.3"
    store.Priority = 2
    store.DataSet = io.BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(store)
    pieces = [bytes(pdv[1][1:]) for pdata in message.encode_msg(1, 0) for pdv in pdata.presentation_data_value_list]
    command = decode_command(pieces[0])
    assert (command.field, command.message_id, command.has_data_set) == (1, 3, True)
    assert (command.sop_class_uid, command.sop_instance_uid) == (pdus.CT, "1.2.3")

    echo = C_ECHO()
    echo.MessageID = 9
    echo.AffectedSOPClassUID = pdus.VERIFICATION
    echoing = C_ECHO_RQ()
    echoing.primitive_to_message(echo)
    (pdata,) = echoing.encode_msg(1, 0)
    command = decode_command(bytes(pdata.presentation_data_value_list[0][1][1:]))
    assert (command.field, command.message_id, command.has_data_set) == (0x30, 9, False)


def test_pynetdicom_reads_our_response() -> None:
    request = decode_command(pdus.c_store("1.2.3", message_id=515))
    data = encode_response(request, 0xA900, comment="odd", offending_element=0x00080018)
    command_set = decode(io.BytesIO(data), True, True)
    message = C_STORE_RSP()
    message.command_set = command_set
    message.data_set = io.BytesIO()
    primitive: Any = message.message_to_primitive()
    assert primitive.Status == 0xA900
    assert primitive.MessageIDBeingRespondedTo == 515
    assert primitive.AffectedSOPInstanceUID == "1.2.3"
    assert command_set.CommandGroupLength == len(data) - 12
    assert command_set.CommandField == 0x8001
    assert command_set.ErrorComment == "odd"
    assert command_set.OffendingElement == 0x00080018
    assert list(command_set.keys()) == sorted(command_set.keys())


def test_requested_uids_are_answered_as_affected_ones() -> None:
    uid = b"1.2.840.10008.1.20.1"
    extra = pdus.element(0x1001, b"1.2.3\0") + pdus.element(0x1008, b"\1\0")
    request = decode_command(pdus.element(0x0003, uid) + pdus.command(0x0130, extra=extra))
    assert request.sop_class_uid == uid.decode()
    assert request.sop_instance_uid == "1.2.3"
    assert request.action_type_id == 1
    elements = pdus.parse_command(encode_response(request, 0x0211))
    assert elements[0x0002] == uid
    assert elements[0x1000] == b"1.2.3\0"
    assert elements[0x1008] == b"\1\0"


def test_a_response_refers_back() -> None:
    response = decode_command(pdus.command(0x8100, message_id=4, extra=pdus.element(0x0900, b"\0\0")))
    assert response.is_response
    assert response.message_id == 4
    assert response.status == 0
    assert response.action_type_id is None


def test_a_cancel_refers_back() -> None:
    assert decode_command(pdus.command(0x0FFF, message_id=4)).message_id == 4
