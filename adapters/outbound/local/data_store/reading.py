"""
A Part 10 object as far as its pixel data, within a budget of memory and without converting values.

pydicom finds the elements; their values stay bytes, because its conversions warn in words that quote values.
"""

from __future__ import annotations

import io
import logging
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

import attrs
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from adapters.outbound.local.data_store.transfer_syntaxes import (
    DEFLATED_LITTLE_ENDIAN,
    EXPLICIT_BIG_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
)

UNDEFINED_LENGTH: Final = 0xFFFFFFFF
LARGE_VALUE_BYTES: Final = 1_000_000
"""Longer values stay in the file; the service keeps them apart too."""

_PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_PREAMBLE_BYTES: Final = 128
_CHUNK_BYTES: Final = 1 << 20
_MAX_INFLATED_BYTES: Final = 10 * 10**9

Element = RawDataElement | DataElement
_Stop = Callable[[BaseTag, str | None, int], bool]

# pydicom tells of odd encodings by warnings.warn and its logger, sometimes quoting what it found; whether that shows,
# or raises, is not for a hostile file to decide.
# The filters belong to the process, so one thread at a time may change them.
_QUIET = threading.Lock()


class RefusedFile(Exception):
    """
    A file that is not imported, with the words for its record.

    Args:
        message: names attributes, never values.

    """

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


NOT_DICOM: Final = "DICOM attributes does not exist"  # as the service writes it


@attrs.frozen(kw_only=True)
class PixelElement:
    """
    Where the pixel data stands.

    Attributes:
        tag: Pixel Data, or its float or double float form.
        length: bytes of the value, or `UNDEFINED_LENGTH` if it is encapsulated.
        offset: where the value begins in the (inflated) object.

    """

    tag: int
    length: int
    offset: int


@attrs.frozen(kw_only=True)
class Part10:
    """
    The head of a Part 10 object.

    Attributes:
        meta: the elements of group 0002.
        transfer_syntax: its Transfer Syntax UID, without padding.
        elements: the data set before the pixel data, unconverted, by tag.
        encodings: Python's names of its character sets.
        pixels: where the pixel data stands, if there is any.
        total_bytes: length of the object, inflated if it was deflated.
        source: the object itself, inflated as far as the budget goes; reading beyond the budget raises.

    """

    meta: Mapping[int, Element] = attrs.field(repr=False)
    transfer_syntax: str
    elements: Mapping[int, Element] = attrs.field(repr=False)
    encodings: tuple[str, ...]
    pixels: PixelElement | None
    total_bytes: int
    source: BinaryIO = attrs.field(repr=False)


class _OverBudget(Exception):
    """More was to be read than a header may have."""


class _Budgeted(io.RawIOBase):
    """A file of which only so many bytes can be read in all; seeking costs nothing."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes
        self.is_exhausted = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def as_binary(self) -> BinaryIO:
        """Return this as the type that pydicom asks for; read, seek and tell are all it calls."""
        return cast("BinaryIO", self)

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._left:
            self.is_exhausted = True
            raise _OverBudget
        data = self._stream.read(size)
        self._left -= len(data)
        return data


def read_part10(stream: BinaryIO, *, max_header_bytes: int) -> Part10:
    """
    Read a Part 10 object as far as its pixel data.

    Args:
        stream: positioned anywhere, can seek; must stay open as long as the result is used.
        max_header_bytes: what may be read in all.

    Raises:
        RefusedFile: if it is not Part 10, names no transfer syntax, ends too early or has too large a header.
        OSError: if `stream` cannot be read.

    """
    total_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(_PREAMBLE_BYTES)
    if stream.read(4) != b"DICM":
        raise RefusedFile(NOT_DICOM)
    budgeted = _Budgeted(stream, max_header_bytes)
    meta = _elements(budgeted, implicit=False, little=True, stop=lambda tag, _vr, _length: tag >> 16 != 2)  # noqa: PLR2004  # group 0002
    named = elements_of(meta).get(0x00020010)
    transfer_syntax = _ascii(named.value) if named is not None and isinstance(named.value, bytes) else ""
    if not transfer_syntax:
        raise RefusedFile("DICOM attribute TransferSyntaxUID does not exist")
    source: BinaryIO = stream
    if transfer_syntax == DEFLATED_LITTLE_ENDIAN:
        source, total_bytes = _inflate(stream, max_header_bytes)
        budgeted = _Budgeted(source, max_header_bytes)

    pixels: PixelElement | None = None

    def stop(tag: BaseTag, _vr: str | None, length: int) -> bool:
        nonlocal pixels
        if tag not in _PIXEL_TAGS:
            return False
        pixels = PixelElement(tag=int(tag), length=length, offset=budgeted.tell())
        return True

    data_set = _elements(
        budgeted,
        implicit=transfer_syntax == IMPLICIT_LITTLE_ENDIAN,
        little=transfer_syntax != EXPLICIT_BIG_ENDIAN,
        stop=stop,
    )
    elements = elements_of(data_set)
    _check_complete(elements, total_bytes)
    return Part10(
        meta=elements_of(meta),
        transfer_syntax=transfer_syntax,
        elements=elements,
        encodings=encodings_of(data_set),
        pixels=pixels,
        total_bytes=total_bytes,
        source=budgeted.as_binary(),
    )


def elements_of(data_set: Dataset) -> dict[int, Element]:
    """Return the elements of a data set by tag; asking pydicom for a single one may convert it."""
    return {int(tag): element for tag, element in data_set.items()}


def encodings_of(data_set: Dataset) -> tuple[str, ...]:
    """Return Python's names of the character sets of a data set."""
    encodings = data_set.original_character_set
    return (encodings,) if isinstance(encodings, str) else tuple(encodings)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom's warnings from showing, raising or being logged, for one thread at a time."""
    here = threading.get_ident()

    def is_from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = logging.getLogger("pydicom")
        logger.addFilter(is_from_elsewhere)
        try:
            yield
        finally:
            logger.removeFilter(is_from_elsewhere)


def _elements(stream: _Budgeted, *, implicit: bool, little: bool, stop: _Stop) -> Dataset:
    try:
        return read_dataset(
            stream.as_binary(),
            is_implicit_VR=implicit,
            is_little_endian=little,
            stop_when=stop,
            defer_size=LARGE_VALUE_BYTES,
        )
    except Exception as error:
        if stream.is_exhausted:
            raise RefusedFile("DICOM attributes are larger than the metadata of an image set may be") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # The parser meets hostile bytes: whatever it raises says that this is no data set.
        raise RefusedFile(NOT_DICOM) from error


def _check_complete(elements: Mapping[int, Element], total_bytes: int) -> None:
    """Refuse an object that ends within its attributes; pydicom takes what is there."""
    for element in elements.values():
        if not isinstance(element, RawDataElement) or element.length == UNDEFINED_LENGTH:
            continue
        if element.value_tell + element.length > total_bytes:
            raise RefusedFile("DICOM attributes end before the file says they do")


def _inflate(stream: BinaryIO, max_kept_bytes: int) -> tuple[BinaryIO, int]:
    """Inflate the rest of `stream` and keep its beginning; also return how long it would be as a whole."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    kept = io.BytesIO()
    total_bytes = 0
    try:
        while not inflater.eof:
            chunk = inflater.unconsumed_tail or stream.read(_CHUNK_BYTES)
            if not chunk:
                break
            inflated = inflater.decompress(chunk, _CHUNK_BYTES)
            total_bytes += len(inflated)
            kept.write(inflated[: max(0, max_kept_bytes - kept.tell())])
            if total_bytes > _MAX_INFLATED_BYTES:
                raise RefusedFile("DICOM attributes are larger than a file may be once inflated")
    except zlib.error as error:
        raise RefusedFile(NOT_DICOM) from error
    kept.seek(0)
    return kept, total_bytes


def _ascii(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")
