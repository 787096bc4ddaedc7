"""
Whether pixel data holds the frames that the data set announces, without decoding a pixel.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Final

import attrs
from pydicom.dataelem import RawDataElement

from adapters.outbound.local.data_store.reading import UNDEFINED_LENGTH, Part10
from adapters.outbound.local.data_store.remarks import (
    FRAME_NUMBER_MISMATCH,
    FRAMES_EXTRACTION_FAILURE,
    INVALID_OFFSET_TABLE,
    UNSUPPORTED_TRANSFER_SYNTAX,
    Remark,
)
from adapters.outbound.local.data_store.transfer_syntaxes import KNOWN, Encoding
from adapters.outbound.local.data_store.values import element_vr, texts

_ITEM: Final = 0xFFFEE000
_SEQUENCE_DELIMITER: Final = 0xFFFEE0DD
_FLOAT_BITS: Final = {0x7FE00008: 32, 0x7FE00009: 64}
_MAX_FRAGMENTS: Final = 1_000_000
_YBR_422: Final = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422"})
_YBR_420: Final = "YBR_PARTIAL_420"


@attrs.frozen(kw_only=True)
class Fragments:
    """
    Encapsulated pixel data (PS3.5 A.4).

    Attributes:
        offset_table: entries of the Basic Offset Table; empty if it is.
        starts: where each fragment's item begins, counted from the first byte behind the offset table.
        lengths: bytes of each fragment.

    """

    offset_table: tuple[int, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]


def number_of_frames(part10: Part10) -> int:
    """Return Number of Frames: 0 without pixel data, 1 where it is absent or not a number."""
    if part10.pixels is None:
        return 0
    given = _text(part10, 0x00280008)
    try:
        return int(float(given)) if given is not None else 1
    except (ValueError, OverflowError):
        return 1


def check_frames(part10: Part10) -> tuple[Remark, ...]:
    """
    Say what is wrong with transfer syntax, frames and offset tables; each file gets one remark at most.

    Raises:
        OSError: if the object cannot be read.

    """
    encoding = KNOWN.get(part10.transfer_syntax)
    if encoding is None:
        return (UNSUPPORTED_TRANSFER_SYNTAX,)
    if part10.pixels is None:
        return ()
    is_encapsulated = part10.pixels.length == UNDEFINED_LENGTH
    if is_encapsulated != (encoding is not Encoding.NATIVE):
        return (FRAMES_EXTRACTION_FAILURE,)
    if not is_encapsulated:
        return _check_native(part10, part10.pixels.length, part10.pixels.offset)
    fragments = read_fragments(part10, part10.pixels.offset)
    if fragments is None or not fragments.starts:
        return (FRAMES_EXTRACTION_FAILURE,)
    if encoding is Encoding.VIDEO:
        return ()  # one stream holds all frames: neither fragments nor offsets count them
    return _check_fragments(part10, fragments)


def native_frame_bits(part10: Part10) -> int | None:
    """Return how many bits one native frame takes, or None if the data set does not say."""
    rows, columns = _unsigned(part10, 0x00280010), _unsigned(part10, 0x00280011)
    bits = _FLOAT_BITS.get(part10.pixels.tag if part10.pixels else 0) or _unsigned(part10, 0x00280100)
    if not rows or not columns or not bits:
        return None
    frame_bits = rows * columns * bits * (_unsigned(part10, 0x00280002) or 1)
    photometric = _text(part10, 0x00280004)
    # Sub-sampled colour shares its chroma samples (PS3.3 C.7.6.3.1.2).
    if photometric in _YBR_422:
        return frame_bits * 2 // 3
    return frame_bits // 2 if photometric == _YBR_420 else frame_bits


def read_fragments(part10: Part10, offset: int) -> Fragments | None:
    """
    Read the items of encapsulated pixel data, headers only.

    Returns:
        None if they make no sense or do not end as they should.

    """
    source = part10.source
    table: tuple[int, ...] | None = None
    starts: list[int] = []
    lengths: list[int] = []
    at = offset
    base = offset
    for _ in range(_MAX_FRAGMENTS):
        source.seek(at)
        header = source.read(8)
        if len(header) < 8:  # noqa: PLR2004  # tag and length
            return None
        group, element, length = struct.unpack("<HHL", header)
        tag = group << 16 | element
        if tag == _SEQUENCE_DELIMITER:
            return (
                None if table is None else Fragments(offset_table=table, starts=tuple(starts), lengths=tuple(lengths))
            )
        if tag != _ITEM or at + 8 + length > part10.total_bytes:
            return None
        if table is None:
            if length % 4 or length > 4 * _MAX_FRAGMENTS:
                return None
            table = struct.unpack(f"<{length // 4}L", source.read(length))
            base = at + 8 + length
        else:
            starts.append(at - base)
            lengths.append(length)
        at += 8 + length
    return None


def _check_native(part10: Part10, length: int, offset: int) -> tuple[Remark, ...]:
    frame_bits = native_frame_bits(part10)
    if frame_bits is None or offset + length > part10.total_bytes:
        return (FRAMES_EXTRACTION_FAILURE,)
    frames = number_of_frames(part10)
    expected = (frame_bits * frames + 7) // 8
    # Padding up to one frame is common and harmless; a whole frame more is a frame nobody announced.
    too_long = length - expected >= max(2, frame_bits // 8)
    return (FRAME_NUMBER_MISMATCH,) if frames < 1 or length < expected or too_long else ()


def _check_fragments(part10: Part10, fragments: Fragments) -> tuple[Remark, ...]:
    frames = number_of_frames(part10)
    if frames < 1 or len(fragments.starts) < frames:
        return (FRAME_NUMBER_MISMATCH,)
    extended = _extended_offset_table(part10)
    if extended is not None:
        offsets, sizes = extended
        is_right = not fragments.offset_table and len(offsets) == frames and _leads_to(offsets, fragments)
        return () if is_right and _sizes_fit(offsets, sizes, fragments) else (INVALID_OFFSET_TABLE,)
    if fragments.offset_table:
        is_right = len(fragments.offset_table) == frames and _leads_to(fragments.offset_table, fragments)
        return () if is_right else (INVALID_OFFSET_TABLE,)
    # Without a table, several frames can be told apart only if each is one fragment.
    return (FRAME_NUMBER_MISMATCH,) if frames > 1 and len(fragments.starts) != frames else ()


def _leads_to(offsets: tuple[int, ...], fragments: Fragments) -> bool:
    """Say whether the offsets begin at the first fragment, rise, and each is where a fragment starts."""
    rising = all(left < right for left, right in pairwise(offsets))
    return offsets[0] == 0 and rising and set(offsets) <= set(fragments.starts)


def _sizes_fit(offsets: tuple[int, ...], sizes: tuple[int, ...] | None, fragments: Fragments) -> bool:
    """Say whether the extended table's lengths are those of the fragments, padding or not (PS3.3 C.7.6.3.1.8)."""
    if sizes is None or len(sizes) != len(offsets):
        return False
    length_at = dict(zip(fragments.starts, fragments.lengths, strict=True))
    return all(length_at[offset] - 1 <= size <= length_at[offset] for offset, size in zip(offsets, sizes, strict=True))


def _extended_offset_table(part10: Part10) -> tuple[tuple[int, ...], tuple[int, ...] | None] | None:
    offsets = _longs(part10, 0x7FE00001)
    return None if not offsets else (offsets, _longs(part10, 0x7FE00002))


def _longs(part10: Part10, tag: int) -> tuple[int, ...] | None:
    element = part10.elements.get(tag)
    if not isinstance(element, RawDataElement) or not element.length:
        return None
    value = element.value
    if value is None:  # a long table stayed in the file
        part10.source.seek(element.value_tell)
        value = part10.source.read(element.length)
    count = len(value) // 8
    return struct.unpack(("<" if element.is_little_endian else ">") + f"{count}Q", value[: count * 8])


def _text(part10: Part10, tag: int) -> str | None:
    values = texts(part10.elements.get(tag), ["ascii"])
    return values[0] if values else None


def _unsigned(part10: Part10, tag: int) -> int | None:
    element = part10.elements.get(tag)
    if not isinstance(element, RawDataElement) or not element.value or len(element.value) < 2:  # noqa: PLR2004  # US
        return None
    code = "L" if element_vr(element) == "UL" and len(element.value) >= 4 else "H"  # noqa: PLR2004  # UL
    number: int = struct.unpack_from(("<" if element.is_little_endian else ">") + code, element.value)[0]
    return number
