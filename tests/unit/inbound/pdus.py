"""Bytes of PDUs and command sets, written out by hand so that nothing is tested against itself."""

import struct

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFAULT_CONTEXTS = ((1, VERIFICATION, (IMPLICIT,)), (3, CT, (EXPLICIT, IMPLICIT)))

RELEASE_RQ = bytes.fromhex("05000000000400000000")
RELEASE_RP = bytes.fromhex("06000000000400000000")
ASSOCIATE_AC_EMPTY = bytes.fromhex("020000000004") + b"\0\1\0\0"
ASSOCIATE_RJ = bytes.fromhex("03000000000400010101")
UNKNOWN_PDU = bytes.fromhex("1700000000020000")


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def counted(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def abort(source: int = 0, reason: int = 0) -> bytes:
    return pdu(7, bytes((0, 0, source, reason)))


def context(context_id: int, abstract_syntax: str, transfer_syntaxes: tuple[str, ...]) -> bytes:
    syntaxes = b"".join(item(0x40, uid.encode()) for uid in transfer_syntaxes)
    return item(0x20, bytes((context_id, 0, 0, 0)) + item(0x30, abstract_syntax.encode()) + syntaxes)


def associate_rq(
    *,
    contexts: tuple[tuple[int, str, tuple[str, ...]], ...] = DEFAULT_CONTEXTS,
    user: bytes = b"",
    maximum_length: int = 16384,
    called: bytes = b"STORESCP",
    calling: bytes = b"MODALITY",
    version: int = 1,
    application_context: bytes = APPLICATION_CONTEXT,
    extra: bytes = b"",
) -> bytes:
    body = struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16) + b"\0" * 32
    body += item(0x10, application_context)
    body += b"".join(context(*proposed) for proposed in contexts)
    body += item(0x50, item(0x51, struct.pack(">I", maximum_length)) + item(0x52, b"1.2.3.4") + user)
    return pdu(1, body + extra)


def pdv(context_id: int, control: int, value: bytes) -> bytes:
    return struct.pack(">IBB", len(value) + 2, context_id, control) + value


def p_data(*values: bytes) -> bytes:
    return pdu(4, b"".join(values))


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def command(
    field: int,
    *,
    message_id: int | None = 1,
    data_set: int = 0x0101,
    sop_class: str | None = None,
    sop_instance: str | None = None,
    extra: bytes = b"",
) -> bytes:
    body = b""
    if sop_class is not None:
        body += element(0x0002, sop_class.encode() + b"\0" * (len(sop_class) & 1))
    body += element(0x0100, struct.pack("<H", field))
    if message_id is not None:
        refers_back = field & 0x8000 or field == 0x0FFF
        body += element(0x0120 if refers_back else 0x0110, struct.pack("<H", message_id))
    body += element(0x0800, struct.pack("<H", data_set))
    if sop_instance is not None:
        body += element(0x1000, sop_instance.encode() + b"\0" * (len(sop_instance) & 1))
    body += extra
    return element(0, struct.pack("<I", len(body))) + body


def c_echo(message_id: int = 1) -> bytes:
    return command(0x0030, message_id=message_id, sop_class=VERIFICATION)


def c_store(instance: str = "1.2.3", message_id: int = 1, sop_class: str = CT) -> bytes:
    return command(0x0001, message_id=message_id, data_set=0, sop_class=sop_class, sop_instance=instance)


def parse_command(data: bytes) -> dict[int, bytes]:
    elements = {}
    position = 0
    while position < len(data):
        group, number, length = struct.unpack_from("<HHI", data, position)
        assert group == 0
        elements[number] = data[position + 8 : position + 8 + length]
        position += 8 + length
    return elements


def data_set(
    sop_class: str = CT,
    sop_instance: str = "1.2.3",
    study: str = "1.2.3.4",
    series: str = "1.2.3.5",
    pixels: bytes = b"",
) -> bytes:
    """Write an explicit VR little endian data set."""

    def ui(group: int, number: int, text: str) -> bytes:
        value = text.encode() + b"\0" * (len(text) & 1)
        return struct.pack("<HH2sH", group, number, b"UI", len(value)) + value

    return (
        ui(8, 0x16, sop_class)
        + ui(8, 0x18, sop_instance)
        + ui(0x20, 0xD, study)
        + ui(0x20, 0xE, series)
        + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, len(pixels))
        + pixels
    )
