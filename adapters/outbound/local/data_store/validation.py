"""
One object read and judged: refused with the service's words, or imported, perhaps with remarks.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from typing import BinaryIO, Final

import attrs
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement

from adapters.outbound.local.data_store.frames import check_frames, native_frame_bits, number_of_frames
from adapters.outbound.local.data_store.grouping import Deciding
from adapters.outbound.local.data_store.limits import Limits
from adapters.outbound.local.data_store.metadata import levels_and_instance
from adapters.outbound.local.data_store.reading import (
    UNDEFINED_LENGTH,
    Element,
    Part10,
    RefusedFile,
    quietly,
    read_part10,
)
from adapters.outbound.local.data_store.remarks import Remark, invalid_uid_format, invalid_value_length
from adapters.outbound.local.data_store.values import element_vr, texts
from domain.errors import InvalidIdentifier
from domain.identifiers import Uid

_REQUIRED: Final = {
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
}

# The service's own table of maximum lengths; beyond them a file fails. Characters or bytes is not documented:
# characters, so that a name is not refused for the bytes its script takes.
_MAX_CHARACTERS: Final = {
    0x00100010: 256,  # PatientName
    0x00100020: 256,  # PatientID
    0x00100030: 18,  # PatientBirthDate
    0x00100040: 16,  # PatientSex
    0x0020000D: 256,  # StudyInstanceUID
    0x0020000E: 256,  # SeriesInstanceUID
    0x00200010: 256,  # StudyID
    0x00081030: 256,  # StudyDescription
    0x00080050: 256,  # AccessionNumber
    0x00080020: 18,  # StudyDate
    0x00080030: 28,  # StudyTime
    0x00080018: 256,  # SOPInstanceUID
}
_MAX_NUMBER: Final = {0x00201206: 1_000_000, 0x00201208: 1_000_000}  # NumberOfStudyRelatedSeries, ...Instances

# PS3.5 table 6.2-1: characters of one value (of one component group for PN).
_VR_CHARACTERS: Final = {
    "AE": 16,
    "AS": 4,
    "CS": 16,
    "DA": 10,  # 8; the ten of YYYY.MM.DD are allowed to readers (note 2 there)
    "DS": 16,
    "DT": 26,
    "IS": 12,
    "LO": 64,
    "LT": 10240,
    "PN": 64,
    "SH": 16,
    "ST": 1024,
    "TM": 16,  # 14; the sixteen of HH:MM:SS.FFFFFF are allowed to readers
    "UI": 64,
}

# PS3.5 9.1. The service lets Study and Series Instance UIDs have leading zeros and up to 256 characters.
_STRICT_UID: Final = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*", re.ASCII)
_LENIENT_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
_LENIENT: Final = frozenset({"StudyInstanceUID", "SeriesInstanceUID"})


@attrs.frozen(kw_only=True)
class Accepted:
    """
    What the data store keeps of an object it imports, beside the object.

    Attributes:
        study: Study Instance UID as it stands in the data set, padding removed; series, sop_instance and sop_class
            likewise.
        deciding: the elements that decide to which image set it belongs.
        remarks: warnings, none for most.
        levels: JSON of its patient, study and series elements, compressed.
        metadata: JSON of its own elements and frames, compressed.

    """

    study: str
    series: str
    sop_instance: str
    sop_class: str
    deciding: Deciding = attrs.field(repr=False)
    remarks: tuple[Remark, ...] = ()
    levels: bytes = attrs.field(repr=False)
    metadata: bytes = attrs.field(repr=False)


def examine(stream: BinaryIO, *, limits: Limits) -> Accepted:
    """
    Read an object and judge it.

    Raises:
        RefusedFile: if it is not imported; the message names attributes, never values.
        OSError: if `stream` cannot be read.

    """
    with quietly():
        part10 = read_part10(stream, max_header_bytes=limits.max_header_bytes)
        try:
            return _judge(part10)
        except RecursionError as error:
            raise RefusedFile("DICOM attributes are nested too deeply") from error


def path_name(uid: str) -> str:
    """
    Return the file name that stands for a UID.

    A UID as `domain.identifiers` takes it stands for itself.
    The service also imports longer ones and others that break the rules, with a warning; such a value never becomes
    a path and is stored under its hash.
    """
    try:
        return Uid(uid).value
    except InvalidIdentifier:
        return f"uid-{hashlib.sha256(uid.encode()).hexdigest()}"


def _judge(part10: Part10) -> Accepted:
    uids = {keyword: _required(part10, keyword, tag) for keyword, tag in _REQUIRED.items()}
    for tag, max_characters in _MAX_CHARACTERS.items():
        _check_length(part10, tag, max_characters)
    for tag, maximum in _MAX_NUMBER.items():
        _check_number(part10, tag, maximum)
    frame_remarks = check_frames(part10)
    remarks = (*_uid_remarks(uids), *_length_remarks(part10), *frame_remarks)
    is_native = part10.pixels is not None and part10.pixels.length != UNDEFINED_LENGTH
    frame_bits = native_frame_bits(part10) if is_native else None
    levels, instance = levels_and_instance(
        part10,
        sop_instance=uids["SOPInstanceUID"],
        # Where frames and announcement disagree, nothing can be fetched by frame.
        frames=0 if frame_remarks else number_of_frames(part10),
        frame_bytes=None if frame_bits is None else (frame_bits + 7) // 8,
    )
    return Accepted(
        study=uids["StudyInstanceUID"],
        series=uids["SeriesInstanceUID"],
        sop_instance=uids["SOPInstanceUID"],
        sop_class=uids["SOPClassUID"],
        deciding=Deciding(
            study=uids["StudyInstanceUID"],
            study_date=_value(part10, 0x00080020),
            accession_number=_value(part10, 0x00080050),
            patient_id=_value(part10, 0x00100020),
            study_id=_value(part10, 0x00200010),
            series=uids["SeriesInstanceUID"],
            series_number=_series_number(_value(part10, 0x00200011)),
        ),
        remarks=remarks,
        levels=_packed(levels),
        metadata=_packed(instance),
    )


def _required(part10: Part10, keyword: str, tag: int) -> str:
    value = _value(part10, tag)
    if value is None:
        raise RefusedFile(f"DICOM attribute {keyword} does not exist")
    return value


def _value(part10: Part10, tag: int) -> str | None:
    """Return the whole value as text, None where there is none."""
    values = texts(part10.elements.get(tag), part10.encodings)
    return None if values is None else "\\".join(values) or None


def _check_length(part10: Part10, tag: int, max_characters: int) -> None:
    value = _value(part10, tag)
    element = part10.elements.get(tag)
    stayed_in_file = isinstance(element, RawDataElement) and element.value is None and element.length
    if stayed_in_file or (value is not None and len(value) > max_characters):
        raise RefusedFile(f"DICOM attribute {keyword_for_tag(tag)} is longer than {max_characters} characters")


def _check_number(part10: Part10, tag: int, maximum: int) -> None:
    value = _value(part10, tag)
    if value is None:
        return
    try:
        is_over = float(value) > maximum
    except ValueError:
        return
    if is_over:
        raise RefusedFile(f"DICOM attribute {keyword_for_tag(tag)} is greater than {maximum}")


def _series_number(value: str | None) -> str | None:
    """Write equal numbers equally: "01" and "1" are one Series Number."""
    try:
        return None if value is None else str(int(value))
    except ValueError:
        return value


def _uid_remarks(uids: dict[str, str]) -> list[Remark]:
    return [
        invalid_uid_format(keyword)
        for keyword, value in uids.items()
        if (_LENIENT_UID if keyword in _LENIENT else _STRICT_UID).fullmatch(value) is None
    ]


def _length_remarks(part10: Part10) -> list[Remark]:
    """Judge elements of the data set itself: they are what a search may fail on; items and private ones are not."""
    return [
        invalid_value_length(keyword)
        for tag, element in part10.elements.items()
        if not tag >> 16 & 1 and (keyword := keyword_for_tag(tag)) and _is_too_long(element, part10)
    ]


def _is_too_long(element: Element, part10: Part10) -> bool:
    max_characters = _VR_CHARACTERS.get(element_vr(element))
    if max_characters is None or not isinstance(element, RawDataElement):
        return False
    if element.value is None:
        return element.length > 0
    if len(element.value) <= max_characters:
        return False
    values = texts(element, part10.encodings) or []
    if element_vr(element) == "PN":
        values = [group for value in values for group in value.split("=")]
    return any(len(value) > max_characters for value in values)


def _packed(document: object) -> bytes:
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)
