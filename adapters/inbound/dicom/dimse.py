"""
DIMSE messages: fragments to commands, commands to bytes (PS3.7 6.3 and 9.3), without I/O.

A command set is always implicit VR little endian and collected whole within a limit; a data set is never collected,
its pieces are handed on.
The laws of a message: its command set is complete before its data set begins, both use one presentation context, and
the next command set begins after the last byte of the data set.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import NamedTuple

import attrs

from adapters.inbound.dicom.indications import Fragment
from domain.errors import ProtocolViolation

MAXIMUM_COMMAND_BYTES = 64 * 1024  # real command sets have a few hundred


class CommandField(enum.IntEnum):
    """The requests an acceptor may meet (PS3.7 E.1-1); their responses have bit 15 set."""

    C_STORE = 0x0001
    C_GET = 0x0010
    C_FIND = 0x0020
    C_MOVE = 0x0021
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_GET = 0x0110
    N_SET = 0x0120
    N_ACTION = 0x0130
    N_CREATE = 0x0140
    N_DELETE = 0x0150
    C_CANCEL = 0x0FFF


_C_CANCEL = CommandField.C_CANCEL  # looked up once: in an Enum that takes long
RESPONSE = 0x8000
NO_DATA_SET = 0x0101
_DATA_SET_FOLLOWS = 0x0001  # anything but NO_DATA_SET (PS3.7 E.1)

_GROUP_LENGTH = 0x0000
_AFFECTED_SOP_CLASS_UID = 0x0002
_REQUESTED_SOP_CLASS_UID = 0x0003
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_OFFENDING_ELEMENT = 0x0901
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_REQUESTED_SOP_INSTANCE_UID = 0x1001
_EVENT_TYPE_ID = 0x1002
_ACTION_TYPE_ID = 0x1008

_ELEMENT_HEADER = Struct("<HHI")
_ELEMENT_HEADER_LENGTH = _ELEMENT_HEADER.size
_UINT16 = Struct("<H")
_UINT32 = Struct("<I")
_UINT16_ELEMENT = Struct("<HHIH")
_UINT32_ELEMENT = Struct("<HHII")
_UINT16_LENGTH = 2


@attrs.define(slots=True)
class Command:
    """
    A command set in plain facts.

    Attributes:
        field: Command Field (0000,0100); one of CommandField, a response, or unknown.
        message_id: of a request, or the id that a response or C-CANCEL refers to.
        has_data_set: a data set follows.
        sop_class_uid: Affected, else Requested SOP Class UID, padding removed, not validated; "" if absent.
        sop_instance_uid: Affected, else Requested SOP Instance UID, likewise.
        elements: every element of group 0000 by its number, as encoded.

    """

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str
    elements: dict[int, bytes] = attrs.field(repr=False)

    @property
    def is_response(self) -> bool:
        """Whether it answers a request of ours."""
        return bool(self.field & RESPONSE)

    @property
    def status(self) -> int | None:
        """Status (0000,0900) of a response."""
        return _uint16(self.elements, _STATUS)

    @property
    def action_type_id(self) -> int | None:
        """Action Type ID (0000,1008) of an N-ACTION request."""
        return _uint16(self.elements, _ACTION_TYPE_ID)


class CommandReceived(NamedTuple):
    """A command set is complete; its data set, if it has one, follows in fragments."""

    context_id: int
    command: Command


class MessageReader:
    """Turn the fragments of one association into commands and pieces of their data sets."""

    def __init__(self) -> None:
        self._command_bytes = bytearray()
        self._command_cost = 0
        self._command_context: int | None = None
        self._data_context: int | None = None

    @property
    def is_within_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._command_context is not None or self._data_context is not None

    def feed(self, fragment: Fragment) -> CommandReceived | Fragment | None:
        """
        Take the next fragment.

        Returns:
            The command it completes, itself if it belongs to a data set, None while a command set is incomplete.

        Raises:
            ProtocolViolation: for a message out of order or a command set that cannot be read.

        """
        context_id, is_command, is_last, data = fragment
        if not is_command:
            if context_id != self._data_context:
                raise ProtocolViolation("a piece of a data set came without its command")
            if is_last:
                self._data_context = None
            return fragment
        if self._data_context is not None:
            raise ProtocolViolation("a command came before the end of the last data set")
        if self._command_context is None:
            self._command_context = context_id
        elif self._command_context != context_id:
            raise ProtocolViolation("a command changed its presentation context")
        self._command_cost += len(data) or 1  # values of no length must end, too
        if self._command_cost > MAXIMUM_COMMAND_BYTES:
            raise ProtocolViolation(f"a command set has more than {MAXIMUM_COMMAND_BYTES} bytes")
        self._command_bytes += data
        if not is_last:
            return None
        command = decode_command(bytes(self._command_bytes))
        self._command_bytes.clear()
        self._command_cost = 0
        self._command_context = None
        if command.has_data_set:
            self._data_context = context_id
        return CommandReceived(context_id, command)


def decode_command(data: bytes) -> Command:
    """
    Read a command set.

    Raises:
        ProtocolViolation: if it cannot be read, or lacks what no message can do without.

    """
    elements: dict[int, bytes] = {}
    unpack_header = _ELEMENT_HEADER.unpack_from
    position = 0
    end = len(data)
    while position < end:
        start = position + _ELEMENT_HEADER_LENGTH
        if start > end:
            raise ProtocolViolation("a command set is cut off")
        group, element, length = unpack_header(data, position)
        position = start + length
        if group or position > end:
            raise ProtocolViolation("a command set has an element that does not belong there, or is cut off")
        elements[element] = data[start:position]
    field = _uint16(elements, _COMMAND_FIELD)
    data_set_type = _uint16(elements, _DATA_SET_TYPE)
    if field is None or data_set_type is None:
        raise ProtocolViolation("a command set lacks its Command Field or Data Set Type")
    refers_back = field & RESPONSE or field == _C_CANCEL
    message_id = _uint16(elements, _MESSAGE_ID_BEING_RESPONDED_TO if refers_back else _MESSAGE_ID)
    if message_id is None:
        raise ProtocolViolation("a command set lacks its Message ID")
    return Command(
        field,
        message_id,
        data_set_type != NO_DATA_SET,
        _text(_sop_class_uid(elements)),
        _text(_sop_instance_uid(elements)),
        elements,
    )


def encode_response(command: Command, status: int, *, comment: str = "", offending_element: int | None = None) -> bytes:
    """
    Write the response to a request, without a data set.

    Args:
        command: the request; its UIDs are sent back as received.
        status: Status (0000,0900).
        comment: Error Comment (0000,0902), ASCII, at most 64 characters.
        offending_element: a tag for (0000,0901), such as 0x00080018.

    """
    elements = command.elements
    parts = []
    sop_class = _sop_class_uid(elements)
    if sop_class is not None:
        parts.append(_element(_AFFECTED_SOP_CLASS_UID, sop_class))
    parts += (
        _UINT16_ELEMENT.pack(0, _COMMAND_FIELD, _UINT16_LENGTH, command.field | RESPONSE),
        _UINT16_ELEMENT.pack(0, _MESSAGE_ID_BEING_RESPONDED_TO, _UINT16_LENGTH, command.message_id),
        _UINT16_ELEMENT.pack(0, _DATA_SET_TYPE, _UINT16_LENGTH, NO_DATA_SET),
        _UINT16_ELEMENT.pack(0, _STATUS, _UINT16_LENGTH, status),
    )
    if offending_element is not None:
        tag = _UINT16.pack(offending_element >> 16) + _UINT16.pack(offending_element & 0xFFFF)
        parts.append(_element(_OFFENDING_ELEMENT, tag))
    if comment:
        text = comment.encode("ascii", "replace")
        parts.append(_element(_ERROR_COMMENT, text + b" " * (len(text) & 1)))
    sop_instance = _sop_instance_uid(elements)
    if sop_instance is not None:
        parts.append(_element(_AFFECTED_SOP_INSTANCE_UID, sop_instance))
    # An N-EVENT-REPORT or N-ACTION response names the type it answers (PS3.7 10.3.1.2, 10.3.5.2).
    if _EVENT_TYPE_ID in elements:
        parts.append(_element(_EVENT_TYPE_ID, elements[_EVENT_TYPE_ID]))
    if _ACTION_TYPE_ID in elements:
        parts.append(_element(_ACTION_TYPE_ID, elements[_ACTION_TYPE_ID]))
    body = b"".join(parts)
    return _UINT32_ELEMENT.pack(0, _GROUP_LENGTH, 4, len(body)) + body


def encode_event_report(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> bytes:
    """Write an N-EVENT-REPORT request whose data set follows (PS3.7 10.3.1.1)."""
    body = b"".join(
        (
            _element(_AFFECTED_SOP_CLASS_UID, _even(sop_class_uid)),
            _UINT16_ELEMENT.pack(0, _COMMAND_FIELD, _UINT16_LENGTH, CommandField.N_EVENT_REPORT),
            _UINT16_ELEMENT.pack(0, _MESSAGE_ID, _UINT16_LENGTH, message_id),
            _UINT16_ELEMENT.pack(0, _DATA_SET_TYPE, _UINT16_LENGTH, _DATA_SET_FOLLOWS),
            _element(_AFFECTED_SOP_INSTANCE_UID, _even(sop_instance_uid)),
            _UINT16_ELEMENT.pack(0, _EVENT_TYPE_ID, _UINT16_LENGTH, event_type),
        )
    )
    return _UINT32_ELEMENT.pack(0, _GROUP_LENGTH, 4, len(body)) + body


def _even(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" * (len(value) & 1)


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT_HEADER.pack(0, number, len(value)) + value


def _uint16(elements: dict[int, bytes], number: int) -> int | None:
    value = elements.get(number)
    if value is None or len(value) != _UINT16_LENGTH:
        return None
    return int.from_bytes(value, "little")


def _sop_class_uid(elements: dict[int, bytes]) -> bytes | None:
    return elements.get(_AFFECTED_SOP_CLASS_UID, elements.get(_REQUESTED_SOP_CLASS_UID))


def _sop_instance_uid(elements: dict[int, bytes]) -> bytes | None:
    return elements.get(_AFFECTED_SOP_INSTANCE_UID, elements.get(_REQUESTED_SOP_INSTANCE_UID))


def _text(value: bytes | None) -> str:
    return "" if value is None else value.rstrip(b"\0 ").decode("latin-1")
