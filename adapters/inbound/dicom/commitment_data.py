"""
The data sets of storage commitment: what an N-ACTION asks for, what an N-EVENT-REPORT tells (PS3.4 J.3.2, J.3.3).

The reader is ours: it keeps two UIDs an item and nothing else, stops at a bound, and every damage is one error, while
pydicom would warn with the peer's bytes and raise what it likes.
"""

from __future__ import annotations

import zlib
from struct import Struct

import attrs
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as DicomSequence

from domain.commitment import MOST_REFERENCES, CommitmentReference, CommitmentResult
from domain.errors import InvalidIdentifier, UnreadableDataSet
from domain.identifiers import Uid

MAXIMUM_BYTES = 2 * 1024 * 1024  # 9,000 references have at most 1.6 MB
_INFLATED_BYTES = 2 * MAXIMUM_BYTES

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"

TRANSFER_SYNTAXES = frozenset({_IMPLICIT_LITTLE, "1.2.840.10008.1.2.1", _EXPLICIT_BIG, _DEFLATED})
"""What these data sets are read and written in; no others are accepted for them."""

_TRANSACTION_UID = 0x00081195
_REFERENCED_SOP_SEQUENCE = 0x00081199
_FAILED_SOP_SEQUENCE = 0x00081198
_REFERENCED_SOP_CLASS_UID = 0x00081150
_REFERENCED_SOP_INSTANCE_UID = 0x00081155
_FAILURE_REASON = 0x00081197

_LONG_VRS = frozenset(vr.encode() for vr in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # noqa: SIM905
_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_ITEM_DELIMITER = 0xFFFEE00D
_SEQUENCE_DELIMITER = 0xFFFEE0DD
_DELIMITERS = 0xFFFE
_TAG_AND_LENGTH = 8
_LONG_HEADER = 12
_LONGEST_UID = 66  # padding included
_DEEPEST_NESTING = 16


@attrs.frozen
class AskedCommitment:
    """What an N-ACTION asks for."""

    transaction: Uid
    references: tuple[CommitmentReference, ...]


def read_request(data: bytes, transfer_syntax: str) -> AskedCommitment:
    """
    Read the Action Information of a storage commitment request (PS3.4 table J.3-1).

    Of more references than a request may have, one too many is read, and nothing behind it.

    Raises:
        UnreadableDataSet: if it cannot be read, or lacks what the table requires; the only error, whatever the bytes.

    """
    if transfer_syntax == _DEFLATED:
        data = _inflated(data)
    reader = _Reader(data, is_implicit=transfer_syntax == _IMPLICIT_LITTLE, is_big=transfer_syntax == _EXPLICIT_BIG)
    transaction, pairs = reader.read()
    try:
        classes = {text: Uid.parse(text, "Referenced SOP Class UID") for text in {pair[0] for pair in pairs}}
        return AskedCommitment(
            Uid.parse(transaction or "", "Transaction UID"),
            tuple(
                CommitmentReference(classes[sop_class], Uid.parse(sop_instance, "Referenced SOP Instance UID"))
                for sop_class, sop_instance in pairs
            ),
        )
    except InvalidIdentifier as error:
        raise UnreadableDataSet(f"{error.kind} is missing or not valid") from error


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, _INFLATED_BYTES)
    except zlib.error as error:
        raise UnreadableDataSet("the deflated data set is damaged") from error
    if inflater.unconsumed_tail:
        raise UnreadableDataSet(f"the deflated data set has more than {_INFLATED_BYTES} bytes")
    return inflated


class _Reader:
    """Walk an encoded data set (PS3.5 7.1 to 7.5), whatever stands between what we look for."""

    def __init__(self, data: bytes, *, is_implicit: bool, is_big: bool) -> None:
        order = ">" if is_big else "<"
        self._data = data
        self._is_implicit = is_implicit
        self._tag = Struct(f"{order}HH").unpack_from
        self._uint16 = Struct(f"{order}H").unpack_from
        self._uint32 = Struct(f"{order}I").unpack_from
        self._position = 0

    def read(self) -> tuple[str | None, list[tuple[str, str]]]:
        """Return the Transaction UID and the pairs of class and instance UID."""
        transaction: str | None = None
        pairs: list[tuple[str, str]] | None = None
        end = len(self._data)
        while self._position < end:
            tag, length = self._header(end)
            if tag == _TRANSACTION_UID:
                transaction = self._text(length, end)
            elif tag == _REFERENCED_SOP_SEQUENCE and pairs is None:
                pairs = self._references(length, end)
                if len(pairs) > MOST_REFERENCES:
                    return transaction, pairs
            else:
                self._skip(length, end, 0)
        if not pairs:
            raise UnreadableDataSet("Referenced SOP Sequence is missing or empty")
        return transaction, pairs

    def _references(self, length: int, end: int) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        sequence_end = self._end_of(length, end)
        while self._position < sequence_end:
            if len(pairs) > MOST_REFERENCES:
                return pairs
            tag, item_length = self._delimiter(sequence_end)
            if tag == _SEQUENCE_DELIMITER:
                return pairs
            pairs.append(self._reference(item_length, sequence_end))
        self._must_be_defined(length)
        return pairs

    def _reference(self, length: int, end: int) -> tuple[str, str]:
        sop_class = sop_instance = ""
        item_end = self._end_of(length, end)
        while self._position < item_end:
            tag, value_length = self._header(item_end)
            if tag == _ITEM_DELIMITER:
                return sop_class, sop_instance
            if tag == _REFERENCED_SOP_CLASS_UID:
                sop_class = self._text(value_length, item_end)
            elif tag == _REFERENCED_SOP_INSTANCE_UID:
                sop_instance = self._text(value_length, item_end)
            else:
                self._skip(value_length, item_end, 0)
        self._must_be_defined(length)
        return sop_class, sop_instance

    def _header(self, end: int) -> tuple[int, int]:
        """Read the header of one element, or of an item delimiter."""
        start = self._position
        if end - start < _TAG_AND_LENGTH:
            raise _cut_off()
        group, element = self._tag(self._data, start)
        tag = group << 16 | element
        if self._is_implicit or group == _DELIMITERS:
            self._position = start + _TAG_AND_LENGTH
            return tag, self._uint32(self._data, start + 4)[0]
        if self._data[start + 4 : start + 6] not in _LONG_VRS:
            self._position = start + _TAG_AND_LENGTH
            return tag, self._uint16(self._data, start + 6)[0]
        if end - start < _LONG_HEADER:
            raise _cut_off()
        self._position = start + _LONG_HEADER
        return tag, self._uint32(self._data, start + 8)[0]

    def _delimiter(self, end: int) -> tuple[int, int]:
        """Read the header of an item or of the end of a sequence."""
        tag, length = self._header(end)
        if tag not in {_ITEM, _SEQUENCE_DELIMITER}:
            raise UnreadableDataSet("a sequence holds something else than items")
        return tag, length

    def _end_of(self, length: int, end: int) -> int:
        if length == _UNDEFINED:
            return end
        if length > end - self._position:
            raise _cut_off()
        return self._position + length

    def _must_be_defined(self, length: int) -> None:
        if length == _UNDEFINED:
            raise _cut_off()

    def _text(self, length: int, end: int) -> str:
        if length > min(_LONGEST_UID, end - self._position):
            raise UnreadableDataSet("a UID has more than 64 characters, or is cut off")
        start = self._position
        self._position = start + length
        return self._data[start : self._position].decode("latin-1")

    def _skip(self, length: int, end: int, depth: int) -> None:
        """Pass over a value; one of undefined length is a sequence (PS3.5 7.5.1)."""
        if length != _UNDEFINED:
            self._position = self._end_of(length, end)
            return
        if depth >= _DEEPEST_NESTING:
            raise UnreadableDataSet(f"sequences are nested more than {_DEEPEST_NESTING} deep")
        while True:
            tag, item_length = self._delimiter(end)
            if tag == _SEQUENCE_DELIMITER:
                return
            if item_length != _UNDEFINED:
                self._skip(item_length, end, depth)
                continue
            while True:
                tag, value_length = self._header(end)
                if tag == _ITEM_DELIMITER:
                    break
                self._skip(value_length, end, depth + 1)


def _cut_off() -> UnreadableDataSet:
    return UnreadableDataSet("the data set is cut off")


def event_information(result: CommitmentResult) -> Dataset:
    """Return the Event Information of a result (PS3.4 table J.3-2); its event type is that of `event_type`."""
    information = Dataset()
    _add(information, _TRANSACTION_UID, "UI", result.transaction.value)
    if result.committed:
        items = [_reference_item(reference) for reference in result.committed]
        _add(information, _REFERENCED_SOP_SEQUENCE, "SQ", DicomSequence(items))
    if result.failed:
        failures = []
        for reference, reason in result.failed:
            item = _reference_item(reference)
            _add(item, _FAILURE_REASON, "US", int(reason))
            failures.append(item)
        _add(information, _FAILED_SOP_SEQUENCE, "SQ", DicomSequence(failures))
    return information


def event_type(result: CommitmentResult) -> int:
    """Return the Event Type ID: 1 all committed, 2 failures exist (PS3.4 J.3.3.1)."""
    return 2 if result.failed else 1


def encode_information(information: Dataset, transfer_syntax: str) -> bytes:
    """Encode a data set in one of TRANSFER_SYNTAXES."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax == _IMPLICIT_LITTLE
    buffer.is_little_endian = transfer_syntax != _EXPLICIT_BIG
    write_dataset(buffer, information)
    encoded = buffer.getvalue()
    if transfer_syntax == _DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        encoded = deflater.compress(encoded) + deflater.flush()
        encoded += b"\0" * (len(encoded) & 1)  # PS3.5 A.5
    return encoded


def _reference_item(reference: CommitmentReference) -> Dataset:
    item = Dataset()
    _add(item, _REFERENCED_SOP_CLASS_UID, "UI", reference.sop_class.value)
    _add(item, _REFERENCED_SOP_INSTANCE_UID, "UI", reference.sop_instance.value)
    return item


def _add(data_set: Dataset, tag: int, vr: str, value: object) -> None:
    # A UID that breaks the rules on leading zeros was stored as it is, and is named as it is.
    data_set.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
