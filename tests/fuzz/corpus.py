"""Where fuzzing begins: recorded sessions and their parts, written out anew on each run."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from tests.fuzz.targets import COMMITMENT_SYNTAXES
from tests.unit.inbound import pdus

# Inputs that once broke a promise, by target; each stays here as a file of its own.
REGRESSIONS = Path(__file__).parent / "regressions"

COMMITMENT = "1.2.840.10008.1.20.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"


def seeds(target: str) -> list[bytes]:
    """Return what fuzzing of a target begins with, old findings included."""
    found = sorted((REGRESSIONS / target).glob("*")) if (REGRESSIONS / target).is_dir() else []
    return [*_SEEDS[target](), *(path.read_bytes() for path in found)]


def store(context_id: int = 3, instance: str = "1.2.3", number: int = 1, data: bytes | None = None) -> bytes:
    """Write a C-STORE, command and data set in PDUs of their own."""
    encoded = pdus.data_set(sop_instance=instance, pixels=b"x" * 100) if data is None else data
    return pdus.p_data(pdus.pdv(context_id, 3, pdus.c_store(instance, number))) + pdus.p_data(
        pdus.pdv(context_id, 2, encoded)
    )


def every_item() -> bytes:
    """Write the user information items that a requestor can send, each of them."""
    uid = pdus.counted(pdus.CT.encode())
    return b"".join(
        (
            pdus.item(0x53, struct.pack(">HH", 8, 1)),
            pdus.item(0x54, uid + b"\1\0"),
            pdus.item(0x55, b"DEVICE_1"),
            pdus.item(0x56, uid + b"\2\0\3\0\1\0"),
            pdus.item(0x57, uid + pdus.counted(b"1.2.840.10008.4.2") + pdus.counted(pdus.counted(b"1.2.3"))),
            pdus.item(0x58, b"\2\1" + pdus.counted(b"someone") + pdus.counted(b"passcode")),
        )
    )


def many_contexts() -> bytes:
    """Write a request that proposes as many contexts as there are ids."""
    return pdus.associate_rq(
        contexts=tuple((number, f"{pdus.CT}.{number}", (pdus.EXPLICIT, pdus.IMPLICIT)) for number in range(1, 256, 2))
    )


def commitment_information() -> bytes:
    """Write an Action Information with one reference, explicit VR little endian."""

    def ui(group: int, number: int, text: str) -> bytes:
        value = text.encode() + b"\0" * (len(text) & 1)
        return struct.pack("<HH2sH", group, number, b"UI", len(value)) + value

    item = ui(8, 0x1150, pdus.CT) + ui(8, 0x1155, "1.2.3")
    sequence = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    return ui(8, 0x1195, "1.2.99") + struct.pack("<HH2sHI", 8, 0x1199, b"SQ", 0, len(sequence)) + sequence


def nested(levels: int) -> bytes:
    """Write sequences of undefined length, each in the one before, and never end them."""
    level = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return level * levels


def bulk(size: int) -> bytes:
    """Write one private element of so many zeros, which stands before all that identifies an instance."""
    return struct.pack("<HH2sHI", 7, 0x1001, b"OB", 0, size) + bytes(size)


def deflated(data: bytes) -> bytes:
    """Deflate as transfer syntax 1.2.840.10008.1.2.1.99 has it."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def implicit(data: bytes) -> bytes:
    """Write the explicit VR little endian data set of `pdus.data_set` anew, as implicit VR."""
    encoded = b""
    position = 0
    while position < len(data):
        group, number, vr, length = struct.unpack_from("<HH2sH", data, position)
        position += 8
        if vr == b"OW":
            (length,) = struct.unpack_from("<I", data, position)
            position += 4
        encoded += struct.pack("<HHI", group, number, length) + data[position : position + length]
        position += length
    return encoded


def _sessions() -> list[bytes]:
    request = pdus.associate_rq()
    wide = pdus.associate_rq(
        contexts=(
            (1, pdus.VERIFICATION, (pdus.IMPLICIT,)),
            (3, pdus.CT, (pdus.EXPLICIT,)),
            (5, pdus.CT, (DEFLATED,)),
            (7, COMMITMENT, (pdus.EXPLICIT, pdus.IMPLICIT)),
            (9, "1.2.840.10008.5.1.4.1.2.1.1", (pdus.IMPLICIT,)),
            (11, pdus.CT, (pdus.IMPLICIT,)),
        ),
        user=every_item(),
    )
    echo = pdus.p_data(pdus.pdv(1, 3, pdus.c_echo(7)))
    action = pdus.command(
        0x0130,
        message_id=9,
        data_set=0,
        extra=pdus.element(0x0003, COMMITMENT.encode())
        + pdus.element(0x1001, b"1.2.840.10008.1.20.1.1")
        + pdus.element(0x1008, b"\1\0"),
    )
    command = pdus.c_store("1.2.3", 5)
    data = pdus.data_set(pixels=b"y" * 300)
    in_bits = b"".join(
        pdus.p_data(*(pdus.pdv(3, 1 | (2 if at + 20 >= len(command) else 0), command[at : at + 20]),))
        for at in range(0, len(command), 20)
    ) + b"".join(
        pdus.p_data(pdus.pdv(3, 2 if at + 33 >= len(data) else 0, data[at : at + 33]), pdus.pdv(3, 0, b""))
        if at + 33 < len(data)
        else pdus.p_data(pdus.pdv(3, 2, data[at:]))
        for at in range(0, len(data), 33)
    )
    return [
        request + pdus.RELEASE_RQ,
        request + echo + pdus.RELEASE_RQ,
        request + store() + pdus.RELEASE_RQ,
        request + store() + store(instance="1.2.4", number=2) + echo + pdus.RELEASE_RQ,
        request + in_bits + pdus.RELEASE_RQ,
        request + pdus.p_data(pdus.pdv(3, 3, pdus.c_store()), pdus.pdv(3, 2, pdus.data_set())) + pdus.abort(),
        request + store()[:-20] + pdus.RELEASE_RQ,
        request + store(data=nested(20)) + store(instance="1.2.9") + pdus.RELEASE_RQ,
        request + pdus.p_data(pdus.pdv(3, 3, pdus.command(0x0FFF, message_id=1))) + pdus.UNKNOWN_PDU,
        request + pdus.p_data(pdus.pdv(3, 3, pdus.command(0x0020, data_set=0)), pdus.pdv(3, 2, b"abc")) + echo,
        request + request,
        wide + store(5, data=deflated(pdus.data_set())) + store(11, data=implicit(pdus.data_set())) + pdus.RELEASE_RQ,
        wide + pdus.p_data(pdus.pdv(7, 3, action), pdus.pdv(7, 2, commitment_information())) + pdus.RELEASE_RQ,
        wide + pdus.p_data(pdus.pdv(9, 3, pdus.c_echo())) + pdus.RELEASE_RQ,
        many_contexts() + pdus.RELEASE_RQ,
        pdus.associate_rq(version=2),
        pdus.associate_rq(calling=b""),
        pdus.ASSOCIATE_RJ + pdus.RELEASE_RP,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes.fromhex("16030102000100") + b"\x03\x03" + b"\x55" * 64,
    ]


def _upper_layer() -> list[bytes]:
    sessions = _sessions()
    return [
        *(bytes((number * 7 & 0xFF, 2)) + session for number, session in enumerate(sessions)),
        *(b"\0\1" + session for session in sessions[:6]),
    ]


def _associate() -> list[bytes]:
    requests = (
        pdus.associate_rq(),
        pdus.associate_rq(user=every_item()),
        many_contexts(),
        pdus.associate_rq(maximum_length=0, user=pdus.item(0x99, b"abc"), extra=pdus.item(0x77, b"")),
    )
    return [bytes((policy,)) + request[6:] for policy in range(3) for request in requests]


def _command_set() -> list[bytes]:
    commands = (
        pdus.c_echo(),
        pdus.c_store(),
        pdus.command(0x0FFF),
        pdus.command(0x8030, extra=pdus.element(0x0900, b"\0\0")),
        pdus.command(0x0130, data_set=0, extra=pdus.element(0x1008, b"\1\0")),
    )
    return [bytes((seed,)) + command for seed in (0, 3) for command in commands]


def _data_set() -> list[bytes]:
    plain = pdus.data_set(pixels=b"z" * 64)
    character_set = struct.pack("<HH2sH", 8, 5, b"CS", 10) + b"ISO_IR 192"
    sequence = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    full = plain[:48] + sequence + item + character_set + ends + plain[48:]
    return [
        *(bytes((0, seed)) + data for seed in (0, 1, 5) for data in (plain, character_set + plain, full, nested(300))),
        b"\1\3" + implicit(plain),
        b"\2\3" + implicit(plain),
        b"\3\0" + deflated(plain),
        b"\3\1" + deflated(plain),
        b"\3\4" + deflated(bulk(1_000_000)),
        b"\4\2" + plain,
    ]


def _commitment() -> list[bytes]:
    plain = commitment_information()
    return [
        *(bytes((number,)) + plain for number in range(len(COMMITMENT_SYNTAXES))),
        bytes((COMMITMENT_SYNTAXES.index(DEFLATED),)) + deflated(plain) if DEFLATED in COMMITMENT_SYNTAXES else plain,
    ]


_SEEDS = {
    "upper_layer": _upper_layer,
    "associate": _associate,
    "command_set": _command_set,
    "data_set": _data_set,
    "commitment": _commitment,
}
