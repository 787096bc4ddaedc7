"""
Direct writes that go on while their thread does something else: Linux's asynchronous ones, io_submit(2).

Python has no function for them, and libraries that have one copy the bytes or want an event loop. io_uring could do the
same, but containers are usually not allowed to use it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import attrs

_PWRITE = 1
_MOST = 16
_IS_64_BIT = sys.maxsize > 1 << 32  # a 32-bit Python on such a machine has other numbers
_ONE = ctypes.c_long(1)


@attrs.frozen
class _Numbers:
    """The numbers of the system calls."""

    setup: int
    destroy: int
    submit: int
    getevents: int


_NUMBERS = {"x86_64": _Numbers(206, 207, 209, 208), "aarch64": _Numbers(0, 1, 2, 4)}


class _Request(ctypes.Structure):
    """`struct iocb` of a little-endian machine (linux/aio_abi.h)."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_descriptor", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event`."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("second_result", ctypes.c_int64),
    )


class AsyncWrites:
    """
    The writes that were begun and not waited for; used by one thread at a time.

    Raises:
        OSError: the system has no such writes, or no room for more of them.

    """

    def __init__(self) -> None:
        self._numbers = _numbers()
        self._context = ctypes.c_ulong(0)
        self._requests = (_Request * _MOST)()
        self._pointers = (ctypes.c_void_p * _MOST)(*(ctypes.addressof(each) for each in self._requests))
        self._events = (_Event * _MOST)()
        self._begun: list[memoryview] = []  # their memory is the system's until all have ended
        self._ended = 0
        self._problem = 0
        _call(self._numbers.setup, ctypes.c_uint(_MOST), ctypes.byref(self._context))

    def begin(self, descriptor: int, data: memoryview, offset: int) -> None:
        """
        Begin to write; until `wait` has returned, what is in `data` stays as it is, and the descriptor open.

        Raises:
            OSError: if that is not possible; nothing of it will be written.

        """
        number = len(self._begun)
        if number == _MOST:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        request = self._requests[number]
        request.opcode = _PWRITE
        request.descriptor = descriptor
        request.address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        request.size = len(data)
        request.offset = offset
        pointer = ctypes.byref(self._pointers, number * ctypes.sizeof(ctypes.c_void_p))
        self._begun.append(data)  # before, so that none is under way that nobody counts
        try:
            _call(self._numbers.submit, self._context, _ONE, pointer)
        except OSError:
            self._begun.pop()
            raise

    def wait(self) -> None:
        """
        Return when every write has ended, durable or not.

        Raises:
            OSError: one of them has failed, or has not written all.

        """
        while waiting := len(self._begun) - self._ended:
            count = ctypes.c_long(waiting)
            try:
                ended = _call(self._numbers.getevents, self._context, count, count, self._events, None)
            except InterruptedError:
                continue
            self._ended += ended
            for event in self._events[:ended]:
                if event.result != _Request.from_address(event.request).size:
                    self._problem = -event.result if event.result < 0 else errno.ENOSPC
        problem = self._problem
        self._begun.clear()
        self._ended = self._problem = 0
        if problem:
            raise OSError(problem, os.strerror(problem))

    def close(self) -> None:
        """Give back what the system keeps for them; nothing may be under way; never raises."""
        with suppress(OSError):
            _call(self._numbers.destroy, self._context)


class Writers:
    """Keeps `AsyncWrites` that nobody uses for whoever comes next; safe to share between threads."""

    def __init__(self) -> None:
        self._spare: list[AsyncWrites] = []
        self._lock = threading.Lock()

    def take(self) -> AsyncWrites | None:
        """Return one with nothing under way; None where there are none."""
        with self._lock:
            if self._spare:
                return self._spare.pop()
        try:
            return AsyncWrites()
        except OSError:
            return None

    def give(self, writes: AsyncWrites) -> None:
        """Take one back, as soon as nothing is under way any more."""
        with suppress(OSError):  # told to nobody, since nobody counted on it
            writes.wait()
        with self._lock:
            self._spare.append(writes)

    def close(self) -> None:
        """Close those that nobody uses."""
        with self._lock:
            while self._spare:
                self._spare.pop().close()


def _call(*arguments: object) -> int:
    result = _system_call()(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@cache
def _system_call() -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    return function


def _numbers() -> _Numbers:
    numbers = _NUMBERS.get(platform.machine()) if sys.platform == "linux" and _IS_64_BIT else None
    if numbers is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return numbers
