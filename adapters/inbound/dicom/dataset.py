"""
Encoded data sets without decoding them: the Part 10 header before one, the identifying attributes in its head.

The head reader walks elements in any registered encoding, keeps a few bytes and nothing of any other value, and stops
behind Series Instance UID (0020,000E), which stands before the bulk of every storage SOP class (PS3.5 7.1: elements
ascend).
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from struct import Struct
from typing import Protocol

from adapters.inbound.dicom.associate import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from domain.errors import UnreadableDataSet
from domain.identifiers import Uid
from domain.instance import IdentifyingAttributes, StoreRequest

_META_SHORT = Struct("<HH2sH")
_META_LONG = Struct("<HH2sxxI")
_META_LENGTH = Struct("<HH2sHI")
_LONGEST_UID = 64


def part10_header(request: StoreRequest) -> bytes:
    """
    Write what comes before the data set in a Part 10 object (PS3.10 7.1).

    The preamble is zeros, we are the writer (0002,0012 and 0013), the calling AE title is source and sender (0002,0016
    and 0017), the called one is the receiver (0002,0018).
    A SOP class or instance that is no UID is cut to what fits; such a store is refused once the data set is known.
    """
    before, behind = _common_meta(
        request.sop_class_uid[:_LONGEST_UID],
        request.transfer_syntax.value,
        request.calling_ae_title.value,
        request.called_ae_title.value,
    )
    instance = _meta(0x0003, b"UI", request.sop_instance_uid)
    length = _META_LENGTH.pack(2, 0, b"UL", 4, len(before) + len(instance) + len(behind))
    return b"".join((_PREAMBLE, length, before, instance, behind))


_PREAMBLE = b"\0" * 128 + b"DICM"


def _meta(element: int, vr: bytes, text: str) -> bytes:
    value = text[:_LONGEST_UID].encode("ascii", "replace")
    if len(value) & 1:
        value += b"\0" if vr == b"UI" else b" "
    return _META_SHORT.pack(2, element, vr, len(value)) + value


@lru_cache(maxsize=256)
def _common_meta(sop_class: str, transfer_syntax: str, calling: str, called: str) -> tuple[bytes, bytes]:
    """Write what most images of a sender share: the elements before the SOP Instance UID, and those behind it."""
    before = _META_LONG.pack(2, 1, b"OB", 2) + b"\0\1" + _meta(0x0002, b"UI", sop_class)
    behind = b"".join(
        (
            _meta(0x0010, b"UI", transfer_syntax),
            _meta(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _meta(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _meta(0x0016, b"AE", calling),
            _meta(0x0017, b"AE", calling),
            _meta(0x0018, b"AE", called),
        )
    )
    return before, behind


_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E
_NAMES = {
    _SOP_CLASS_UID: "SOP Class UID",
    _SOP_INSTANCE_UID: "SOP Instance UID",
    _STUDY_INSTANCE_UID: "Study Instance UID",
    _SERIES_INSTANCE_UID: "Series Instance UID",
}

_IMPLICIT_LITTLE = frozenset(
    {
        "1.2.840.10008.1.2",
        "1.2.840.113619.5.2",  # a private one whose pixel data alone is big endian
    }
)
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = frozenset(
    {
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
    }
)

_LONG_VRS = frozenset(
    vr.encode() for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
)
_SHORT_VRS = frozenset(
    vr.encode()
    for vr in "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()  # noqa: SIM905
)
_VRS = _LONG_VRS | _SHORT_VRS

_UNDEFINED = 0xFFFFFFFF
_DELIMITERS = 0xFFFE
_ITEM = 0xFFFEE000
_ITEM_DELIMITER = 0xFFFEE00D
_SEQUENCE_DELIMITER = 0xFFFEE0DD

_SHORT_HEADER = 8
_LONG_HEADER = 12
_LONGEST_VALUE = 1024  # of an identifying attribute; a UID has 64 and is judged elsewhere
_DEEPEST_NESTING = 512
_INFLATED_PIECE = 64 * 1024
_INFLATED_BUDGET = 16 * 1024 * 1024  # of a deflated data set's head

# By byte order: little, big. Each reads (group, element, VR, short length), (group, element, long length), long length.
_EXPLICIT = (Struct("<HH2sH").unpack_from, Struct(">HH2sH").unpack_from)
_IMPLICIT = (Struct("<HHI").unpack_from, Struct(">HHI").unpack_from)
_LENGTH = (Struct("<I").unpack_from, Struct(">I").unpack_from)


class _Inflater(Protocol):
    """What `zlib.decompressobj` gives; its type has no public name."""

    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes | memoryview, max_length: int = 0, /) -> bytes: ...
    def copy(self) -> _Inflater: ...


class IdentityReader:
    """
    Read the identifying attributes of a data set while it arrives.

    Memory is bounded by `_LONGEST_VALUE`, nesting and, for deflated data sets, one inflated piece.

    Args:
        transfer_syntax: the encoding; one we do not know is taken as explicit VR little endian, as every encapsulated
            one is (PS3.5 A.4).
        inflated_budget: how much of a deflated data set is inflated at most.

    """

    def __init__(self, transfer_syntax: Uid | str, inflated_budget: int = _INFLATED_BUDGET) -> None:
        uid = str(transfer_syntax)
        self.is_done = False
        self._found: dict[int, str] = {}
        self._is_implicit = uid in _IMPLICIT_LITTLE
        self._is_big = int(uid == _EXPLICIT_BIG)
        # Some senders write another VR encoding than they agreed on; the first element of a data set or item tells.
        self._is_at_first = True
        self._carry = b""
        self._skip = 0
        # Open sequences and items of undefined length, innermost last: is it a sequence, and what applies after it.
        self._open: list[tuple[bool, bool, int]] = []
        self._inflater: _Inflater | None = zlib.decompressobj(-zlib.MAX_WBITS) if uid in _DEFLATED else None
        self._inflated_bytes = 0
        self._inflated_budget = inflated_budget

    def feed(self, chunk: bytes | memoryview) -> None:
        """
        Take the next bytes of the data set; does nothing once `is_done`.

        Raises:
            UnreadableDataSet: if they cannot be the head of a data set.

        """
        if self.is_done:
            return
        if self._inflater is None:
            self._scan(chunk)
            return
        self._inflate(self._inflater, chunk)

    def result(self) -> IdentifyingAttributes:
        """
        Give what was found; call it after the last byte, or when `is_done`.

        Raises:
            UnreadableDataSet: if the data set ends within an element before its Series Instance UID.

        """
        if not self.is_done and (self._skip or self._carry or self._open or self._is_inflating):
            raise UnreadableDataSet("the data set ends in the middle of an element")
        found = self._found.get
        return IdentifyingAttributes(
            sop_class_uid=found(_SOP_CLASS_UID),
            sop_instance_uid=found(_SOP_INSTANCE_UID),
            study_instance_uid=found(_STUDY_INSTANCE_UID),
            series_instance_uid=found(_SERIES_INSTANCE_UID),
        )

    def _inflate(self, inflater: _Inflater, chunk: bytes | memoryview) -> None:
        rest: bytes | memoryview = chunk
        # Past the end of the deflated stream nothing is consumed any more: what follows is padding, and not read.
        while rest and not self.is_done and not inflater.eof:
            before = inflater.copy()
            try:
                piece = inflater.decompress(rest, _INFLATED_PIECE)
            except zlib.error as error:
                # What stands before the damage counts, so that the answer does not depend on how the bytes were split.
                if self._inflate_up_to_damage(before, rest):
                    return
                raise UnreadableDataSet("the deflated data set cannot be inflated") from error
            rest = inflater.unconsumed_tail
            self._scan_inflated(piece)

    def _inflate_up_to_damage(self, inflater: _Inflater, rest: bytes | memoryview) -> bool:
        """Inflate what stands before a damaged byte, halving until that byte alone is left; tell if it was enough."""
        while rest and not self.is_done:
            half = bytes(rest[: (len(rest) + 1) // 2])
            attempt = inflater.copy()
            try:
                piece = attempt.decompress(half, _INFLATED_PIECE)
            except zlib.error:
                if len(rest) == 1:
                    break
                rest = half
            else:
                inflater = attempt
                rest = attempt.unconsumed_tail + bytes(rest[len(half) :])
                self._scan_inflated(piece)
        return self.is_done

    def _scan_inflated(self, piece: bytes) -> None:
        # To the byte, so that the answer does not depend on how the bytes were split.
        self._scan(piece[: self._inflated_budget - self._inflated_bytes])
        self._inflated_bytes += len(piece)
        if not self.is_done and self._inflated_bytes > self._inflated_budget:
            raise UnreadableDataSet(f"the first {self._inflated_budget} inflated bytes hold no Series Instance UID")

    @property
    def _is_inflating(self) -> bool:
        return self._inflater is not None and not self._inflater.eof

    def _scan(self, chunk: bytes | memoryview) -> None:
        skip = self._skip
        if skip >= len(chunk):
            self._skip = skip - len(chunk)
            return
        self._skip = 0
        if self._carry:
            chunk = self._carry + bytes(chunk)
            self._carry = b""
        position = self._walk(chunk, skip)
        if self.is_done:
            return
        if position > len(chunk):
            self._skip = position - len(chunk)
        else:
            self._carry = bytes(chunk[position:])

    def _walk(self, data: bytes | memoryview, position: int) -> int:  # noqa: C901, PLR0912, PLR0915 - one loop, for speed
        """Pass over whole elements from `position` on; return where the first incomplete one begins, or ends."""
        end = len(data)
        unpack_explicit = _EXPLICIT[self._is_big]
        unpack_implicit = _IMPLICIT[self._is_big]
        while position + _SHORT_HEADER <= end:
            if self._open and self._open[-1][0]:
                position = self._item(data, position)
                unpack_explicit = _EXPLICIT[self._is_big]
                unpack_implicit = _IMPLICIT[self._is_big]
                continue
            if self._is_at_first:
                self._settle_encoding(data, position)
            size = _SHORT_HEADER
            vr = b""
            if self._is_implicit:
                group, element, length = unpack_implicit(data, position)
            else:
                group, element, vr, length = unpack_explicit(data, position)
                if vr in _LONG_VRS:
                    size = _LONG_HEADER
                    if position + size > end:
                        break
                    (length,) = _LENGTH[self._is_big](data, position + _SHORT_HEADER)
                elif vr not in _SHORT_VRS and not (vr.isalpha() and vr.isupper()):
                    # Delimiters have no VR, and neither have elements written as if the VR were implicit.
                    group, element, length = unpack_implicit(data, position)
            tag = group << 16 | element
            if group == _DELIMITERS:
                self._close_item(tag)
                position += _SHORT_HEADER
            elif self._open:
                if length == _UNDEFINED:
                    self._enter_sequence(vr)
                    position += size
                else:
                    position += size + length
            elif tag > _SERIES_INSTANCE_UID:
                self.is_done = True
                break
            elif tag in _NAMES:
                if length > _LONGEST_VALUE:
                    raise UnreadableDataSet(f"{_NAMES[tag]} is longer than any UID")
                if position + size + length > end:
                    break
                position += size
                self._keep(tag, bytes(data[position : position + length]))
                position += length
                if tag == _SERIES_INSTANCE_UID:
                    self.is_done = True
                    break
            elif length == _UNDEFINED:
                self._enter_sequence(vr)
                position += size
            else:
                position += size + length
                continue
            # What is open decides the encoding, and may just have changed.
            unpack_explicit = _EXPLICIT[self._is_big]
            unpack_implicit = _IMPLICIT[self._is_big]
        return position

    def _keep(self, tag: int, value: bytes) -> None:
        text = value.rstrip(b"\0 ").decode("latin-1")
        if text:
            self._found.setdefault(tag, text)

    def _settle_encoding(self, data: bytes | memoryview, position: int) -> None:
        self._is_at_first = False
        if self._open and self._is_implicit:
            return  # an item may fall back to implicit VR, never the other way round
        if _IMPLICIT[self._is_big](data, position)[0] != _DELIMITERS:
            self._is_implicit = bytes(data[position + 4 : position + 6]) not in _VRS

    def _enter_sequence(self, vr: bytes) -> None:
        if len(self._open) >= _DEEPEST_NESTING:
            raise UnreadableDataSet(f"sequences are nested more than {_DEEPEST_NESTING // 2} deep")
        self._open.append((True, self._is_implicit, self._is_big))
        if vr == b"UN":  # always implicit VR little endian inside (PS3.5 6.2.2, note 3)
            self._is_implicit = True
            self._is_big = 0

    def _item(self, data: bytes | memoryview, position: int) -> int:
        """Read an item's header within a sequence, or the sequence's end; return where it ends."""
        group, element, length = _IMPLICIT[self._is_big](data, position)
        tag = group << 16 | element
        position += _SHORT_HEADER
        if tag == _SEQUENCE_DELIMITER:
            _, self._is_implicit, self._is_big = self._open.pop()
        elif tag != _ITEM:
            raise UnreadableDataSet("a sequence holds something that is no item")
        elif length == _UNDEFINED:
            self._open.append((False, self._is_implicit, self._is_big))
            self._is_at_first = True
        else:
            position += length
        return position

    def _close_item(self, tag: int) -> None:
        if not self._open:
            if tag == _ITEM:
                raise UnreadableDataSet("an item stands outside of any sequence")
            return  # a stray delimiter, which some senders write after a sequence of defined length
        if tag != _ITEM_DELIMITER:
            raise UnreadableDataSet("an item holds something that is no element")
        _, self._is_implicit, self._is_big = self._open.pop()
        self._is_at_first = False
