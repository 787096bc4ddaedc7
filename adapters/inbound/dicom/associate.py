"""
A-ASSOCIATE PDUs: a requestor's bytes to plain facts, our answers to bytes (PS3.8 9.3.2 to 9.3.4, PS3.7 D.3.3).

Everything hostile bytes can cause here is one error, ProtocolViolation, which never quotes them.
pynetdicom is not used on purpose: its decoder raises six kinds of errors, logs and warns with the peer's bytes,
and gives up an association for one unknown item or one odd UID, which the standard tells us to ignore (PS3.8 9.3.1).
The tests hold both decoders side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct

import attrs

from domain.association import Rejection, UserIdentity
from domain.errors import ProtocolViolation

IMPLEMENTATION_CLASS_UID = "2.25.214675013568243587980029100154950812099"
IMPLEMENTATION_VERSION_NAME = "AHI_STORESCP_010"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

ASSOCIATE_RQ = 0x01
ASSOCIATE_AC = 0x02
ASSOCIATE_RJ = 0x03

MINIMUM_LENGTH = 68  # the fixed fields of an A-ASSOCIATE-RQ after its header
# 128 contexts with all registered transfer syntaxes, and a signed web token.
MAXIMUM_LENGTH = 320 * 1024

_APPLICATION_CONTEXT = 0x10
_PRESENTATION_CONTEXT_RQ = 0x20
_PRESENTATION_CONTEXT_AC = 0x21
_ABSTRACT_SYNTAX = 0x30
_TRANSFER_SYNTAX = 0x40
_USER_INFORMATION = 0x50
_MAXIMUM_LENGTH = 0x51
_IMPLEMENTATION_CLASS_UID = 0x52
_ASYNCHRONOUS_OPERATIONS = 0x53
_ROLE_SELECTION = 0x54
_IMPLEMENTATION_VERSION_NAME = 0x55
_EXTENDED_NEGOTIATION = 0x56
_COMMON_EXTENDED_NEGOTIATION = 0x57
_USER_IDENTITY_RQ = 0x58
_USER_IDENTITY_AC = 0x59

_INVALID_PARAMETER = 6  # PS3.8 table 9-26
_DEFAULT_MAXIMUM_LENGTH = 16384
_MOST_TRANSFER_SYNTAXES = 128  # of one context; some 70 are registered, and what comes after these is passed over
_SMALLEST_MAXIMUM_LENGTH = 12  # what one PDV header and a few bytes need; less cannot carry an answer

_PDU_HEADER = Struct(">BxI")
_FIXED_FIELDS = Struct(">HH16s16s32s")
_ITEM_HEADER = Struct(">BxH")
_UINT16 = Struct(">H")
_UINT32 = Struct(">I")
_PAIR = Struct(">HH")
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)


@attrs.frozen(kw_only=True)
class ProposedContext:
    """
    A presentation context as the requestor proposes it.

    Attributes:
        context_id: odd, 1 to 255.
        abstract_syntax: a UID, or "" if what was sent is none.
        transfer_syntaxes: UIDs in the requestor's order; what is no UID is left out.

    """

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@attrs.frozen(kw_only=True)
class RoleSelection:
    """Which roles the requestor proposes to take for a SOP class (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    is_scu: bool
    is_scp: bool


@attrs.frozen(kw_only=True)
class CommonExtendedNegotiation:
    """What kind of SOP class the requestor says this one is (PS3.7 D.3.3.6)."""

    sop_class_uid: str
    service_class_uid: str
    related_general_sop_classes: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class AssociateRequest:
    """
    An A-ASSOCIATE-RQ in plain facts.

    Attributes:
        protocol_version: bit 0 stands for version 1, the only one.
        called_ae_title: padding removed, not validated.
        calling_ae_title: padding removed, not validated.
        echoed_fields: called and calling title and reserved bytes as received, to be sent back (PS3.8 9.3.3).
        application_context: a UID, or "".
        contexts: in the requestor's order, ids unique.
        maximum_length: the longest P-DATA-TF PDU we may send, header excluded; 0 means any.
        implementation_class_uid: of the requestor, or "".
        implementation_version_name: of the requestor, printable ASCII, or "".
        asynchronous_operations: operations the requestor wants to invoke and to perform at once; 0 means any.
        roles: role selections.
        extended: SOP class UID to service-class-application-information (PS3.7 D.3.3.5).
        common_extended: SOP class common extended negotiations.
        user_identity: who the user is, if told.

    """

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    echoed_fields: bytes = attrs.field(repr=False)
    application_context: str
    contexts: tuple[ProposedContext, ...]
    maximum_length: int = _DEFAULT_MAXIMUM_LENGTH
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    asynchronous_operations: tuple[int, int] | None = None
    roles: tuple[RoleSelection, ...] = ()
    extended: tuple[tuple[str, bytes], ...] = ()
    common_extended: tuple[CommonExtendedNegotiation, ...] = ()
    user_identity: UserIdentity | None = None


@attrs.frozen(kw_only=True)
class ContextResult:
    """
    Our answer to one proposed context.

    Attributes:
        context_id: of the proposal.
        abstract_syntax: of the proposal.
        result: 0 accepted, 1 user rejection, 2 no reason, 3 abstract syntax not supported, 4 transfer syntaxes
            not supported (PS3.8 table 9-18).
        transfer_syntax: the chosen one; without meaning unless accepted.

    """

    context_id: int
    abstract_syntax: str
    result: int
    transfer_syntax: str


@attrs.frozen(kw_only=True)
class AssociateAccept:
    """
    What an A-ASSOCIATE-AC says.

    Attributes:
        contexts: one result per proposed context.
        maximum_length: the longest P-DATA-TF PDU we take, header excluded.
        asynchronous_operations: operations the requestor may invoke and perform at once; None leaves one each.
        roles: the requestor's roles as we grant them.
        extended: our service-class-application-information per SOP class.
        is_user_identity_answered: send the positive answer the requestor asked for.

    """

    contexts: tuple[ContextResult, ...]
    maximum_length: int
    asynchronous_operations: tuple[int, int] | None = None
    roles: tuple[RoleSelection, ...] = ()
    extended: tuple[tuple[str, bytes], ...] = ()
    is_user_identity_answered: bool = False


def decode_request(body: bytes) -> AssociateRequest:
    """
    Read an A-ASSOCIATE-RQ.

    Args:
        body: the PDU without its 6-byte header.

    Raises:
        ProtocolViolation: if it cannot be read (the only error, whatever the bytes).

    """
    if len(body) < MINIMUM_LENGTH:
        raise ProtocolViolation("A-ASSOCIATE-RQ is shorter than its fixed fields", reason=_INVALID_PARAMETER)
    version, _, called, calling, _ = _FIXED_FIELDS.unpack_from(body)
    application_context = ""
    contexts: dict[int, ProposedContext] = {}
    user: dict[str, object] = {}
    for kind, value in _items(body[MINIMUM_LENGTH:]):
        if kind == _PRESENTATION_CONTEXT_RQ:
            context = _context(value)
            if context.context_id in contexts:
                raise ProtocolViolation("a presentation context id is used twice", reason=_INVALID_PARAMETER)
            contexts[context.context_id] = context
        elif kind == _USER_INFORMATION:
            user.update(_user_information(value))
        elif kind == _APPLICATION_CONTEXT:
            application_context = _uid(value)
    return AssociateRequest(
        protocol_version=version,
        called_ae_title=_title(called),
        calling_ae_title=_title(calling),
        echoed_fields=bytes(body[4:MINIMUM_LENGTH]),
        application_context=application_context,
        contexts=tuple(contexts.values()),
        **user,  # type: ignore[arg-type]  # the keys and types of _user_information
    )


def encode_accept(request: AssociateRequest, accept: AssociateAccept) -> bytes:
    """Write the A-ASSOCIATE-AC PDU that answers `request`."""
    items = [_item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode())]
    for context in accept.contexts:
        # The transfer syntax of a refused context is not tested by anybody, yet it must be there.
        syntax = _item(_TRANSFER_SYNTAX, context.transfer_syntax.encode())
        items.append(_item(_PRESENTATION_CONTEXT_AC, bytes((context.context_id, 0, context.result, 0)) + syntax))
    user = [
        _item(_MAXIMUM_LENGTH, _UINT32.pack(accept.maximum_length)),
        _item(_IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_CLASS_UID.encode()),
    ]
    if accept.asynchronous_operations is not None:
        user.append(_item(_ASYNCHRONOUS_OPERATIONS, _PAIR.pack(*accept.asynchronous_operations)))
    user.extend(
        _item(_ROLE_SELECTION, _counted(role.sop_class_uid.encode()) + bytes((role.is_scu, role.is_scp)))
        for role in accept.roles
    )
    user.append(_item(_IMPLEMENTATION_VERSION_NAME, IMPLEMENTATION_VERSION_NAME.encode()))
    user.extend(
        _item(_EXTENDED_NEGOTIATION, _counted(uid.encode()) + information) for uid, information in accept.extended
    )
    if accept.is_user_identity_answered:
        user.append(_item(_USER_IDENTITY_AC, _counted(b"")))
    items.append(_item(_USER_INFORMATION, b"".join(user)))
    body = b"\0\1\0\0" + request.echoed_fields + b"".join(items)
    return _PDU_HEADER.pack(ASSOCIATE_AC, len(body)) + body


def encode_reject(rejection: Rejection) -> bytes:
    """Write the A-ASSOCIATE-RJ PDU."""
    body = bytes((0, rejection.result, rejection.source, rejection.reason))
    return _PDU_HEADER.pack(ASSOCIATE_RJ, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM_HEADER.pack(kind, len(value)) + value


def _counted(value: bytes) -> bytes:
    return _UINT16.pack(len(value)) + value


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split items or sub-items; each has a type, a reserved byte and a 16-bit length (PS3.8 9.3.1)."""
    position = 0
    while position < len(data):
        start = position + _ITEM_HEADER.size
        if start > len(data):
            raise ProtocolViolation("an item of the A-ASSOCIATE-RQ is cut off", reason=_INVALID_PARAMETER)
        kind, length = _ITEM_HEADER.unpack_from(data, position)
        position = start + length
        if position > len(data):
            raise ProtocolViolation("an item of the A-ASSOCIATE-RQ is cut off", reason=_INVALID_PARAMETER)
        yield kind, data[start:position]


def _context(value: bytes) -> ProposedContext:
    if len(value) < 4:  # noqa: PLR2004 - id and three reserved bytes, PS3.8 9.3.2.2
        raise ProtocolViolation("a presentation context is cut off", reason=_INVALID_PARAMETER)
    context_id = value[0]
    if not context_id & 1:
        raise ProtocolViolation("a presentation context id is not odd", reason=_INVALID_PARAMETER)
    abstract_syntax = ""
    transfer_syntaxes: list[str] = []
    for kind, data in _items(value[4:]):
        if kind == _ABSTRACT_SYNTAX:
            abstract_syntax = _uid(data)
        elif kind == _TRANSFER_SYNTAX:
            uid = _uid(data)
            if uid and len(transfer_syntaxes) < _MOST_TRANSFER_SYNTAXES:
                transfer_syntaxes.append(uid)
    return ProposedContext(
        context_id=context_id, abstract_syntax=abstract_syntax, transfer_syntaxes=tuple(transfer_syntaxes)
    )


def _user_information(value: bytes) -> dict[str, object]:
    """Read the sub-items we know and pass over the others (PS3.8 9.3.1)."""
    facts: dict[str, object] = {}
    roles: list[RoleSelection] = []
    extended: list[tuple[str, bytes]] = []
    common: list[CommonExtendedNegotiation] = []
    for kind, data in _items(value):
        fields = _Fields(data)
        if kind == _MAXIMUM_LENGTH:
            facts["maximum_length"] = _maximum_length(fields)
        elif kind == _IMPLEMENTATION_CLASS_UID:
            facts["implementation_class_uid"] = _uid(data)
        elif kind == _IMPLEMENTATION_VERSION_NAME:
            facts["implementation_version_name"] = _printable(data)
        elif kind == _ASYNCHRONOUS_OPERATIONS:
            facts["asynchronous_operations"] = (fields.uint16(), fields.uint16())
        elif kind == _ROLE_SELECTION:
            uid = _uid(fields.counted())
            roles.append(RoleSelection(sop_class_uid=uid, is_scu=fields.uint8() == 1, is_scp=fields.uint8() == 1))
        elif kind == _EXTENDED_NEGOTIATION:
            extended.append((_uid(fields.counted()), fields.rest()))
        elif kind == _COMMON_EXTENDED_NEGOTIATION:
            common.append(_common_extended(fields))
        elif kind == _USER_IDENTITY_RQ:
            facts["user_identity"] = _user_identity(fields)
    return {**facts, "roles": tuple(roles), "extended": tuple(extended), "common_extended": tuple(common)}


def _maximum_length(fields: _Fields) -> int:
    length = fields.uint32()
    if 0 < length < _SMALLEST_MAXIMUM_LENGTH:
        raise ProtocolViolation("the maximum length leaves no room for an answer", reason=_INVALID_PARAMETER)
    return length


def _common_extended(fields: _Fields) -> CommonExtendedNegotiation:
    sop_class = _uid(fields.counted())
    service_class = _uid(fields.counted())
    related = _Fields(fields.counted())
    uids = []
    while not related.is_at_end:
        uids.append(_uid(related.counted()))
    return CommonExtendedNegotiation(
        sop_class_uid=sop_class, service_class_uid=service_class, related_general_sop_classes=tuple(uids)
    )


def _user_identity(fields: _Fields) -> UserIdentity:
    kind = fields.uint8()
    is_answer_wanted = fields.uint8() == 1
    primary = fields.counted()
    secondary = b"" if fields.is_at_end else fields.counted()
    return UserIdentity(kind=kind, primary=primary, secondary=secondary, is_answer_wanted=is_answer_wanted)


class _Fields:
    """The fields of one sub-item, read in order and never past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def is_at_end(self) -> bool:
        return self._position >= len(self._data)

    def take(self, length: int) -> bytes:
        end = self._position + length
        if end > len(self._data):
            raise ProtocolViolation("a user information sub-item is cut off", reason=_INVALID_PARAMETER)
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def uint8(self) -> int:
        return self.take(1)[0]

    def uint16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def counted(self) -> bytes:
        return self.take(self.uint16())

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)


def _uid(data: bytes) -> str:
    """Read a UID, leaving out padding that the standard forbids here and devices send; "" if it is none."""
    text = data.rstrip(b"\0 ").decode("latin-1")
    return text if _UID.fullmatch(text) and text.strip(".") else ""


def _title(data: bytes) -> str:
    return data.strip(b"\0 ").decode("latin-1")


def _printable(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in data[:16]).strip()  # noqa: PLR2004
