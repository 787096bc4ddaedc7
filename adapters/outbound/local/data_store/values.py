"""
Element values: from the bytes of a data set to text and JSON, without pydicom's validation.
"""

from __future__ import annotations

import base64
import io
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Final

from pydicom.charset import decode_bytes
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import read_sequence
from pydicom.sequence import Sequence as DicomSequence

from adapters.outbound.local.data_store.reading import (
    UNDEFINED_LENGTH,
    Element,
    RefusedFile,
    elements_of,
    encodings_of,
)

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

MAX_DEPTH: Final = 32
MAX_INLINE_BYTES: Final = 1024

_CHARSET_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_SINGLE_VRS: Final = frozenset({"LT", "ST", "UR", "UT"})  # a backslash is text
_ASCII_VRS: Final = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_NUMBERS: Final = {"FD": "d", "FL": "f", "SL": "l", "SS": "h", "SV": "q", "UL": "L", "US": "H", "UV": "Q"}
_CHARSET_DELIMITERS: Final = {0x09, 0x0A, 0x0C, 0x0D, 0x3D, 0x5C, 0x5E}  # PS3.5 6.1.2.5.3
_EXPLICIT_UNKNOWN: Final = "UN"


def element_vr(element: Element) -> str:
    """Return the value representation: as encoded, else as in the dictionary, else UN."""
    encoded = element.VR
    if encoded is None or encoded == _EXPLICIT_UNKNOWN:
        try:
            listed = dictionary_VR(element.tag)
        except KeyError:
            return _EXPLICIT_UNKNOWN
        # The choice between US and SS needs Pixel Representation; unsigned is what nearly all data sets mean.
        return "US" if listed.startswith("US or") else "OW" if listed.startswith("OB or") else listed
    return str(encoded)


def texts(element: Element | None, encodings: Sequence[str]) -> list[str] | None:
    """
    Return the values of a text element, padding removed.

    Returns:
        None if there is no element, no value, or something that is not text.

    """
    if not isinstance(element, RawDataElement) or not element.value:
        return None
    text = _decode(element.value, encodings).strip("\0 ")
    if not text:
        return None
    return [text] if element_vr(element) in _SINGLE_VRS else [value.strip("\0 ") for value in text.split("\\")]


def document(
    elements: Mapping[int, Element], encodings: Sequence[str], source: BinaryIO, *, depth: int = 0
) -> Iterator[tuple[int, str, Json]]:
    """
    Yield tag, DICOM keyword (eight hexadecimal digits where there is none) and JSON value of each element.

    Args:
        elements: a data set, unconverted.
        encodings: Python's names of its character sets.
        source: the object they come from, for long sequences that are still in it.
        depth: sequences around this data set.

    Raises:
        RefusedFile: if a sequence makes no sense or is nested too deeply.
        OSError: if `source` cannot be read.

    """
    if depth > MAX_DEPTH:
        raise RefusedFile(f"DICOM attributes are nested more than {MAX_DEPTH} sequences deep")
    for tag, element in elements.items():
        if tag & 0xFFFF == 0:  # group lengths say nothing about the instance
            continue
        yield tag, keyword_for_tag(tag) or f"{tag:08X}", _json(element, encodings, source, depth)


def _json(element: Element, encodings: Sequence[str], source: BinaryIO, depth: int) -> Json:
    vr = element_vr(element)
    if vr == "SQ" or isinstance(element, DataElement):
        return _items(element, encodings, source, depth)
    if element.value is None and element.length:
        return {"BulkDataURI": f"{int(element.tag):08X}"}
    value = element.value or b""
    if vr in _NUMBERS:
        return _plain(_numbers(value, _NUMBERS[vr], little=element.is_little_endian))
    if vr in _CHARSET_VRS or vr in _ASCII_VRS:
        return _plain(list(texts(element, encodings) or ()))
    if vr == "AT":
        halves = struct.iter_unpack("<HH" if element.is_little_endian else ">HH", value[: len(value) // 4 * 4])
        return _plain([f"{group:04X}{number:04X}" for group, number in halves])
    if not value:
        return None
    if len(value) > MAX_INLINE_BYTES:
        return {"BulkDataURI": f"{int(element.tag):08X}"}
    return {"InlineBinary": base64.b64encode(value).decode("ascii")}


def _items(element: Element, encodings: Sequence[str], source: BinaryIO, depth: int) -> Json:
    if isinstance(element, DataElement):
        if not isinstance(element.value, DicomSequence):
            return None
        items = element.value
    else:
        raw = element.value
        if raw is None and element.length not in (0, UNDEFINED_LENGTH):
            source.seek(element.value_tell)
            raw = source.read(element.length)
        if not raw:
            return []
        try:
            items = read_sequence(
                io.BytesIO(raw), element.is_implicit_VR, element.is_little_endian, len(raw), list(encodings)
            )
        except Exception as error:
            # Bytes of an unknown sender: whatever the parser raises says that these are no items.
            name = keyword_for_tag(element.tag) or f"{int(element.tag):08X}"
            raise RefusedFile(f"DICOM attribute {name} cannot be parsed") from error
    return [
        {
            keyword: value
            for _, keyword, value in document(elements_of(item), encodings_of(item), source, depth=depth + 1)
        }
        for item in items
    ]


def _plain(values: Sequence[Json]) -> Json:
    """Write no value as null, one as itself and several as a list."""
    if not values:
        return None
    return values[0] if len(values) == 1 else list(values)


def _numbers(value: bytes, code: str, *, little: bool) -> list[int | float | str]:
    count = len(value) // struct.calcsize("=" + code)
    size = count * struct.calcsize("=" + code)
    numbers: tuple[int | float, ...] = struct.unpack(("<" if little else ">") + code * count, value[:size])
    # JSON knows neither infinity nor not-a-number.
    return [number if math.isfinite(number) else str(number) for number in numbers]


def _decode(value: bytes, encodings: Sequence[str]) -> str:
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    try:
        return decode_bytes(value, encodings, _CHARSET_DELIMITERS)
    except (LookupError, UnicodeError):
        return value.decode("latin-1")
