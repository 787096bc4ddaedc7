"""What is sent: CT images of 525 KB, small ones of 9 KB, and one of 2 GB; each is its own SOP Instance."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import attrs

CT = "1.2.840.10008.5.1.4.1.1.2"
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"
EXPLICIT = "1.2.840.10008.1.2.1"
_ROOT = "2.25.71000"


@attrs.frozen(kw_only=True)
class Kind:
    """One size of image."""

    name: str
    rows: int
    columns: int

    @property
    def pixel_bytes(self) -> int:
        return self.rows * self.columns * 2


CT_SLICE = Kind(name="525 KB", rows=512, columns=512)
SMALL = Kind(name="9 KB", rows=66, columns=66)


@attrs.frozen
class Image:
    """One instance, not encoded yet."""

    kind: Kind
    number: int
    study: int = 1

    @property
    def sop_instance(self) -> str:
        return f"{_ROOT}.{self.study}.{self.kind.rows}.{self.number}"

    def data_set(self) -> bytes:
        """Encode it as explicit VR little endian; the pixels differ from image to image and compress a little."""
        kind = self.kind
        series = self.number // 100
        pattern = struct.pack("<Q", self.number * 0x9E3779B97F4A7C15 & (1 << 64) - 1) + b"\x10\x04\x20\x04" * 30
        pixels = (pattern * (kind.pixel_bytes // len(pattern) + 1))[: kind.pixel_bytes]
        return (
            _short(0x0008, 0x0016, b"UI", CT)
            + _short(0x0008, 0x0018, b"UI", self.sop_instance)
            + _short(0x0008, 0x0020, b"DA", "20260102")
            + _short(0x0008, 0x0060, b"CS", "CT")
            + _short(0x0010, 0x0010, b"PN", "BENCH^MARK")
            + _short(0x0010, 0x0020, b"LO", f"BENCH{self.study}")
            + _short(0x0020, 0x000D, b"UI", f"{_ROOT}.{self.study}.1")
            + _short(0x0020, 0x000E, b"UI", f"{_ROOT}.{self.study}.2.{kind.rows}.{series}")
            + _short(0x0020, 0x0013, b"IS", str(self.number))
            + _number(0x0028, 0x0002, 1)
            + _short(0x0028, 0x0004, b"CS", "MONOCHROME2")
            + _number(0x0028, 0x0010, kind.rows)
            + _number(0x0028, 0x0011, kind.columns)
            + _number(0x0028, 0x0100, 16)
            + _number(0x0028, 0x0101, 16)
            + _number(0x0028, 0x0102, 15)
            + _number(0x0028, 0x0103, 0)
            + _pixels(len(pixels))
            + pixels
        )


def multi_frame_head(pixel_bytes: int, number: int = 1) -> bytes:
    """Encode all but the pixels of one large multi-frame image."""
    frames = pixel_bytes // (1000 * 1000)
    return (
        _short(0x0008, 0x0016, b"UI", MULTI_FRAME)
        + _short(0x0008, 0x0018, b"UI", f"{_ROOT}.9.3.{number}")
        + _short(0x0020, 0x000D, b"UI", f"{_ROOT}.9.1")
        + _short(0x0020, 0x000E, b"UI", f"{_ROOT}.9.2")
        + _number(0x0028, 0x0002, 1)
        + _short(0x0028, 0x0008, b"IS", str(frames))
        + _number(0x0028, 0x0010, 1000)
        + _number(0x0028, 0x0011, 1000)
        + _number(0x0028, 0x0100, 8)
        + _pixels(pixel_bytes)
    )


def multi_frame_uid(number: int = 1) -> str:
    """Return the SOP Instance UID of `multi_frame_head`."""
    return f"{_ROOT}.9.3.{number}"


def write_files(folder: Path, images: Iterator[Image]) -> list[str]:
    """Write Part 10 files; return their names."""
    folder.mkdir(parents=True)
    names = []
    for image in images:
        name = f"{image.study}-{image.number}.dcm"
        (folder / name).write_bytes(_part10(image))
        names.append(name)
    return names


def _part10(image: Image) -> bytes:
    meta = (
        struct.pack("<HH2sxxI", 2, 1, b"OB", 2)
        + b"\0\1"
        + _short(2, 0x0002, b"UI", CT)
        + _short(2, 0x0003, b"UI", image.sop_instance)
        + _short(2, 0x0010, b"UI", EXPLICIT)
        + _short(2, 0x0012, b"UI", f"{_ROOT}.0")
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta + image.data_set()


def _short(group: int, element: int, vr: bytes, text: str) -> bytes:
    value = text.encode()
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) & 1)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def _number(group: int, element: int, value: int) -> bytes:
    return struct.pack("<HH2sHH", group, element, b"US", 2, value)


def _pixels(size: int) -> bytes:
    return struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", size)
