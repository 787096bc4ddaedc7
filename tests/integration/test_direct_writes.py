"""Direct writes, durable or begun, on a real disk."""

import errno
import os
import platform
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.outbound.local import async_write
from adapters.outbound.local.async_write import AsyncWrites, Writers
from adapters.outbound.local.buffers import BLOCK_BYTES, Buffer
from adapters.outbound.local.files import FileOperations

BLOCKS = 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def descriptor(path: Path) -> Iterator[int]:
    operations = FileOperations()
    descriptor = operations.create_direct(str(path))
    operations.write_at(descriptor, Buffer(BLOCKS * BLOCK_BYTES).view, 0)
    yield descriptor
    operations.close(descriptor)


@pytest.fixture
def writes() -> Iterator[AsyncWrites]:
    writes = AsyncWrites()
    yield writes
    writes.close()


def a_buffer(blocks: int) -> Buffer:
    buffer = Buffer(blocks * BLOCK_BYTES)
    for number in range(blocks):
        buffer.view[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES] = bytes([number + 1]) * BLOCK_BYTES
    return buffer


@pytest.mark.parametrize("flag", [os.RWF_DSYNC, 0])
def test_a_write_is_durable_when_it_returns(descriptor: int, flag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    write = os.pwritev

    def pwritev(to: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        calls.append(("pwritev", to, flags))
        return write(to, buffers, offset, flags)

    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "fdatasync", lambda to: calls.append(("fdatasync", to)))
    if not flag:  # as where Python was built without it
        monkeypatch.setattr("adapters.outbound.local.files._DURABLE_WRITE", 0)
    FileOperations().write_at(descriptor, a_buffer(1).view, 0)

    assert calls == [("pwritev", descriptor, flag), *([] if flag else [("fdatasync", descriptor)])]


def test_a_sync_of_what_was_begun_reaches_the_disk(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    FileOperations().sync_data(descriptor)

    assert calls == [descriptor]


def test_what_was_begun_is_written_when_waiting_ends(writes: AsyncWrites, descriptor: int, path: Path) -> None:
    buffer = a_buffer(4)

    writes.begin(descriptor, buffer.view[2 * BLOCK_BYTES :], 5 * BLOCK_BYTES)
    writes.begin(descriptor, buffer.view[:BLOCK_BYTES], BLOCK_BYTES)
    writes.wait()

    written = [path.read_bytes()[number * BLOCK_BYTES] for number in range(BLOCKS)]
    assert written == [0, 1, 0, 0, 0, 3, 4, 0]
    assert path.read_bytes()[5 * BLOCK_BYTES : 7 * BLOCK_BYTES] == bytes(buffer.view[2 * BLOCK_BYTES :])


def test_waiting_for_nothing_takes_no_time(writes: AsyncWrites) -> None:
    writes.wait()
    writes.wait()


def test_it_may_be_used_again_and_again(writes: AsyncWrites, descriptor: int, path: Path) -> None:
    buffer = a_buffer(BLOCKS)
    for turn in range(50):
        for number in range(BLOCKS):
            block = buffer.view[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
            block[:1] = bytes([turn])
            writes.begin(descriptor, block, number * BLOCK_BYTES)
        writes.wait()
        assert path.read_bytes() == bytes(buffer.view)


def test_more_than_there_is_room_for_are_refused_and_the_others_written(
    writes: AsyncWrites, descriptor: int, path: Path
) -> None:
    buffer = a_buffer(1)
    for number in range(16):
        writes.begin(descriptor, buffer.view, number % BLOCKS * BLOCK_BYTES)
    with pytest.raises(BlockingIOError):
        writes.begin(descriptor, buffer.view, 0)
    writes.wait()

    assert path.read_bytes() == bytes(buffer.view) * BLOCKS
    writes.begin(descriptor, buffer.view, 0)
    writes.wait()


def test_a_write_that_cannot_be_begun_says_so_and_leaves_the_others_alone(
    writes: AsyncWrites, descriptor: int, path: Path
) -> None:
    buffer = a_buffer(1)
    reader = os.open(path, os.O_RDONLY)
    writes.begin(descriptor, buffer.view, 0)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        writes.begin(reader, buffer.view, BLOCK_BYTES)
    writes.begin(descriptor, buffer.view, 2 * BLOCK_BYTES)
    writes.wait()
    os.close(reader)

    assert [path.read_bytes()[number * BLOCK_BYTES] for number in range(3)] == [1, 0, 1]


@pytest.mark.parametrize(
    "offset, number",
    [
        pytest.param(1, errno.EINVAL, id="no whole blocks"),
        pytest.param(1 << 62, errno.EFBIG, id="beyond what a file may have"),
    ],
)
def test_a_write_that_fails_later_is_told_by_waiting_once(
    writes: AsyncWrites, descriptor: int, offset: int, number: int, path: Path
) -> None:
    buffer = a_buffer(1)
    writes.begin(descriptor, buffer.view, offset)
    writes.begin(descriptor, buffer.view, 0)
    with pytest.raises(OSError, match=os.strerror(number)):
        writes.wait()
    writes.wait()

    assert path.read_bytes()[:BLOCK_BYTES] == bytes(buffer.view)


@pytest.mark.parametrize("interruption", [InterruptedError, KeyboardInterrupt])
def test_an_interrupted_wait_is_taken_up_again(
    writes: AsyncWrites,
    descriptor: int,
    path: Path,
    interruption: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffer = a_buffer(2)
    writes.begin(descriptor, buffer.view[:BLOCK_BYTES], 1)  # fails
    writes.begin(descriptor, buffer.view[BLOCK_BYTES:], BLOCK_BYTES)
    call = async_write._call
    turns = iter([True, False, True])

    def one_at_a_time(number: int, context: object, *arguments: object) -> int:
        if next(turns, False):
            return call(number, context, 1, 1, *arguments[2:])
        raise interruption

    monkeypatch.setattr(async_write, "_call", one_at_a_time)
    if interruption is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            writes.wait()
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        writes.wait()
    monkeypatch.undo()
    writes.wait()

    assert path.read_bytes()[BLOCK_BYTES : 2 * BLOCK_BYTES] == bytes(buffer.view[BLOCK_BYTES:])


def test_half_a_write_is_a_failure(writes: AsyncWrites, descriptor: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    buffer = a_buffer(2)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((BLOCKS + 1) * BLOCK_BYTES, hard))
        writes.begin(descriptor, buffer.view, BLOCKS * BLOCK_BYTES)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            writes.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_machine_whose_calls_are_not_known_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")

    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        AsyncWrites()
    assert Writers().take() is None


def test_writers_are_used_again_once_nothing_is_under_way(descriptor: int, path: Path) -> None:
    writers = Writers()
    first, second = writers.take(), writers.take()
    assert first is not None
    assert second is not None
    buffer = a_buffer(1)
    first.begin(descriptor, buffer.view, 0)
    second.begin(descriptor, buffer.view, 1)

    writers.give(first)
    assert path.read_bytes()[:BLOCK_BYTES] == bytes(buffer.view)
    assert writers.take() is first
    writers.give(second)  # what failed is nobody's concern any more
    assert writers.take() is second
    second.wait()
    writers.give(first)
    writers.give(second)
    writers.close()
    assert writers.take() not in {first, second}
