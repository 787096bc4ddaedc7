"""
Memory for the bytes of drafts: aligned to pages, as writing past the page cache demands, and used again.

A buffer has its whole capacity as addresses from the start and takes pages as they are filled, so nothing is copied
while it grows.
"""

from __future__ import annotations

import mmap
import threading

BLOCK_BYTES = 4096
"""What positions, sizes and addresses are multiples of where the page cache is passed by."""

_SPARE_BUFFERS = 16
_SPARE_BYTES = 1 << 20


def blocks(size: int) -> int:
    """Return how many bytes the blocks have that hold `size` bytes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


class Buffer:
    """
    One piece of memory, given back when nobody refers to it or to a part of its view any more.

    Attributes:
        view: all of it.

    """

    __slots__ = ("view",)

    def __init__(self, size: int) -> None:
        # private: a shared one would be a file in memory, whose pages cost more
        self.view = memoryview(mmap.mmap(-1, blocks(size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class Buffers:
    """
    Buffers of one size, safe to share between threads; a few are kept for the next draft, pages and all.

    Args:
        size: of each, in bytes.

    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._spare: list[Buffer] = []
        self._lock = threading.Lock()

    def take(self) -> Buffer:
        """Return a buffer; what is in it is of no meaning."""
        with self._lock:
            if self._spare:
                return self._spare.pop()
        return Buffer(self._size)

    def give(self, buffer: Buffer, used: int) -> None:
        """Take a buffer back of which `used` bytes were written."""
        if used <= _SPARE_BYTES:
            with self._lock:
                if len(self._spare) < _SPARE_BUFFERS:
                    self._spare.append(buffer)
