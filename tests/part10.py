"""Part 10 objects written by hand (PS3.10 7.1), with nothing of ours or of a DICOM library in between."""

import hashlib
import struct

from blake3 import blake3

from domain.identifiers import Digest
from domain.instance import SopInstance
from tests.builders import an_instance


def a_part10_object(number: int = 1, size: int = 600, **overrides: object) -> tuple[bytes, SopInstance]:
    """Return a whole object of about `size` bytes and what is known of it."""
    usual = an_instance(number, **overrides)
    data_set = (
        _uid(0x0008, 0x0016, usual.sop_class.value)
        + _uid(0x0008, 0x0018, usual.sop_instance.value)
        + _uid(0x0020, 0x000D, usual.study.value)
        + _uid(0x0020, 0x000E, usual.series.value)
        + _other(0x7FE0, 0x0010, hashlib.shake_128(str(number).encode()).digest(size // 2 * 2))
    )
    group = (
        _other(0x0002, 0x0001, b"\0\1", vr=b"OB")
        + _uid(0x0002, 0x0002, usual.sop_class.value)
        + _uid(0x0002, 0x0003, usual.sop_instance.value)
        + _uid(0x0002, 0x0010, usual.transfer_syntax.value)
        + _short(0x0002, 0x0016, b"AE", usual.calling_ae_title.value.encode(), b" ")
    )
    length = struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(group))
    content = bytes(128) + b"DICM" + length + group + data_set
    digest = blake3(data_set + usual.transfer_syntax.value.encode()).hexdigest()
    return content, an_instance(number, **{**overrides, "size": len(content), "digest": Digest(digest)})


def _uid(group: int, element: int, value: str) -> bytes:
    return _short(group, element, b"UI", value.encode(), b"\0")


def _short(group: int, element: int, vr: bytes, value: bytes, padding: bytes) -> bytes:
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def _other(group: int, element: int, value: bytes, vr: bytes = b"OW") -> bytes:
    return struct.pack("<HH2sHI", group, element, vr, 0, len(value)) + value
