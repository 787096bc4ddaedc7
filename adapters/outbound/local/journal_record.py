"""
What a segment of the journal holds: a header that names a batch, then records, each one object of that batch.

Laws:
- Header and records begin at multiples of the block size and fill whole blocks, so none is written over by another.
- A record is believed if its checksums hold and it names the epoch of the header: chance, drawn anew at each use of the
  segment, so neither an earlier use nor bytes that a peer has chosen can pass for a record.
- What was torn by a loss of power is no record; records behind it are found all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct

import attrs
from xxhash import xxh3_128, xxh3_128_digest

from adapters.outbound.local.buffers import BLOCK_BYTES, blocks
from adapters.outbound.local.file_index import decode_line, encode_line
from domain.errors import InvalidIdentifier
from domain.identifiers import BatchId
from domain.staging import StagedInstance

EPOCH_BYTES = 16
_HEADER_MAGIC = b"AHIJOUR2"
_RECORD_MAGIC = b"AHIRECO2"
# magic, epoch, bytes of the batch's name; then the name, then the checksum of all that
_HEADER = Struct(f"<8s{EPOCH_BYTES}sI")
# magic, epoch, position, bytes and checksum of the content, bytes of the facts; then these, then the checksum of all
_RECORD = Struct(f"<8s{EPOCH_BYTES}sQQ16sI")
_CHECKSUM_BYTES = 16

NO_HEADER = bytes(BLOCK_BYTES)

Checksum = xxh3_128
"""`checksum_of` bytes that come one after another: `update`, then `digest`."""

Read = Callable[[int, int], bytes]
"""Takes size and position, and gives the bytes, fewer at the end."""


@attrs.frozen(kw_only=True)
class Header:
    """Whose records a segment holds."""

    epoch: bytes
    batch: BatchId

    def encode(self) -> bytes:
        """Return one block."""
        name = self.batch.value.encode("ascii")
        return _sealed(_HEADER.pack(_HEADER_MAGIC, self.epoch, len(name)) + name)


@attrs.frozen(kw_only=True)
class Record:
    """One object of a segment: where it is, and the facts that travel with it."""

    position: int
    facts: StagedInstance
    size: int
    checksum: bytes


def record_bytes(size: int) -> int:
    """Return how much of a segment the record of an object of `size` bytes takes."""
    return BLOCK_BYTES + blocks(size)


def checksum_of(content: bytes | memoryview) -> bytes:
    """Return the checksum of an object's bytes; it tells what was torn, not what was forged."""
    return xxh3_128_digest(content)


def encode_head(epoch: bytes, record: Record) -> bytes:
    """Return the block that goes before the content of a record."""
    line = encode_line(record.facts)
    return _sealed(_RECORD.pack(_RECORD_MAGIC, epoch, record.position, record.size, record.checksum, len(line)) + line)


def read_header(read: Read) -> Header | None:
    """Return whose records a segment holds; None if it is free, or nothing in it was ever promised."""
    block = read(BLOCK_BYTES, 0)
    if len(block) < BLOCK_BYTES:
        return None
    magic, epoch, length = _HEADER.unpack_from(block)
    if magic != _HEADER_MAGIC or not _holds(block, _HEADER.size + length):
        return None
    return Header(epoch=epoch, batch=BatchId(block[_HEADER.size : _HEADER.size + length].decode("ascii")))


def read_records(read: Read, header: Header) -> Iterator[Record]:
    """Yield the records whose head is whole, in the order of their positions; their contents are not looked at."""
    position = BLOCK_BYTES
    while block := read(BLOCK_BYTES, position):
        record = _record_at(header, position, block)
        if record is not None:
            yield record
        position += BLOCK_BYTES if record is None else record_bytes(record.size)


def read_content(read: Read, record: Record) -> bytes | None:
    """Return the bytes of an object; None if they are not those that were to be written."""
    content = read(record.size, record.position + BLOCK_BYTES)
    return content if checksum_of(content) == record.checksum else None


def _record_at(header: Header, position: int, block: bytes) -> Record | None:
    if len(block) < BLOCK_BYTES:
        return None
    magic, epoch, says_position, size, checksum, length = _RECORD.unpack_from(block)
    if (magic, epoch, says_position) != (_RECORD_MAGIC, header.epoch, position):
        return None
    end = _RECORD.size + length
    if not _holds(block, end):
        return None
    try:
        facts = decode_line(header.batch, block[_RECORD.size : end])
    except (ValueError, KeyError, TypeError, AttributeError, InvalidIdentifier):  # of another version
        return None
    return Record(position=position, facts=facts, size=size, checksum=checksum)


def _sealed(said: bytes) -> bytes:
    return (said + xxh3_128_digest(said)).ljust(BLOCK_BYTES, b"\0")


def _holds(block: bytes, end: int) -> bool:
    return end + _CHECKSUM_BYTES <= len(block) and block[end : end + _CHECKSUM_BYTES] == xxh3_128_digest(block[:end])
