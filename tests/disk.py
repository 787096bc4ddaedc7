"""
A disk that forgets, and one that fails.

The one that forgets replays recorded file operations and tells what is left after a loss of power.

The model promises no more than POSIX does. A file keeps what it held when its last sync began; a folder keeps the
names it had when its last sync began; a folder or file is found only if every folder above it keeps its name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import attrs

from adapters.outbound.local.async_write import AsyncWrites
from adapters.outbound.local.files import FileOperations

Entry = tuple[str, tuple[Any, ...]]
Skip = Callable[[str, str], bool]


class RecordingFileOperations(FileOperations):
    """
    Does and records every operation.

    Args:
        base: the folder that was there before and needs no proof; paths are recorded below it.
        skip: told "file", "folder", "data" (a direct write), "wait" (for writes that were begun) or "sync" (of these),
            and the path; where it says yes that is not done.

    """

    def __init__(self, base: Path, skip: Skip = lambda _kind, _path: False) -> None:
        self.log: list[Entry] = []
        self._base = base
        self._skip = skip
        self._lock = threading.Lock()
        self._handles: dict[int, tuple[int, str]] = {}
        self._next = 0
        self._under_way: dict[int, list[tuple[int, str, memoryview, bytes]]] = {}

    def note(self, name: str, *facts: Any) -> None:
        with self._lock:
            self.log.append((name, facts))

    def create(self, path: str) -> int:
        descriptor = super().create(path)
        self._opened(descriptor, path)
        return descriptor

    def open_to_append(self, path: str) -> int:
        descriptor = super().open_to_append(path)
        self._opened(descriptor, path)
        return descriptor

    def create_direct(self, path: str) -> int:
        descriptor = super().create_direct(path)
        self._opened(descriptor, path)
        return descriptor

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> None:
        handle, path = self._handles[descriptor]
        token = self._begin("write", handle, offset, bytes(data))
        super().write_at(descriptor, data, offset)
        if not self._skip("data", path):
            self.note("end", token)

    def begin_write_at(self, writes: AsyncWrites, descriptor: int, data: memoryview, offset: int) -> None:
        handle, path = self._handles[descriptor]
        token = self._begin("write", handle, offset, bytes(data))
        super().begin_write_at(writes, descriptor, data, offset)
        self._under_way.setdefault(id(writes), []).append((token, path, data, bytes(data)))

    def end_writes(self, writes: AsyncWrites) -> None:
        super().end_writes(writes)
        for token, path, data, then in self._under_way.pop(id(writes), []):
            assert data == then, "memory was used for something else while it was written from"
            if not self._skip("wait", path):
                self.note("written", token)

    def sync_data(self, descriptor: int) -> None:
        handle, path = self._handles[descriptor]
        if self._skip("sync", path):
            return
        token = self._begin("data", handle)
        super().sync_data(descriptor)
        self.note("end", token)

    def write(self, descriptor: int, data: bytes | bytearray | memoryview) -> None:
        super().write(descriptor, data)
        self.note("write", self._handles[descriptor][0], bytes(data))

    def stamp(self, descriptor: int, seconds_ns: int) -> None:
        super().stamp(descriptor, seconds_ns)
        self.note("stamp", self._handles[descriptor][0], seconds_ns)

    def sync(self, descriptor: int) -> None:
        handle, path = self._handles[descriptor]
        if self._skip("file", path):
            return
        token = self._begin("file", handle)
        super().sync(descriptor)
        self.note("end", token)

    def close(self, descriptor: int) -> None:
        self._handles.pop(descriptor, None)
        super().close(descriptor)

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self.note("rename", self._below(source), self._below(target))

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self.note("remove", self._below(path))

    def make_folder(self, path: str) -> None:
        super().make_folder(path)
        self.note("folder", self._below(path))

    def remove_folder(self, path: str) -> None:
        super().remove_folder(path)
        self.note("remove", self._below(path))

    def sync_folder(self, path: str) -> None:
        if self._skip("folder", "/".join(self._below(path))):
            return
        token = self._begin("folder", self._below(path))
        super().sync_folder(path)
        self.note("end", token)

    def _opened(self, descriptor: int, path: str) -> None:
        handle = self._number()
        self._handles[descriptor] = (handle, "/".join(self._below(path)))
        self.note("open", handle, self._below(path))

    def _begin(self, what: str, *facts: Any) -> int:
        """Note that something has begun; return the token by which its end is noted."""
        token = self._number()
        self.note(f"begin {what}", token, *facts)
        return token

    def _number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _below(self, path: str) -> tuple[str, ...]:
        return Path(path).relative_to(self._base).parts


class FailingFileOperations(FileOperations):
    """
    Real operations of which some fail.

    Attributes:
        failures: the operation's name and the errors of its next calls; 0 lets one succeed.
        synced: the paths of files that were synced, in order.
        before: called with the name of each operation that may fail.

    """

    def __init__(self) -> None:
        self.failures: dict[str, list[int]] = {}
        self.synced: list[str] = []
        self.before: Callable[[str], None] = lambda _name: None
        self._paths: dict[int, str] = {}

    def may_fail(self, name: str) -> None:
        self.before(name)
        planned = self.failures.get(name)
        number = planned.pop(0) if planned else 0
        if number:
            raise OSError(number, os.strerror(number))

    def create(self, path: str) -> int:
        self.may_fail("create")
        descriptor = super().create(path)
        self._paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: bytes | bytearray | memoryview) -> None:
        self.may_fail("write")
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self.synced.append(self._paths[descriptor])
        self.may_fail("sync")
        super().sync(descriptor)

    def rename(self, source: str, target: str) -> None:
        self.may_fail("rename")
        super().rename(source, target)

    def make_folder(self, path: str) -> None:
        self.may_fail("make_folder")
        super().make_folder(path)

    def sync_folder(self, path: str) -> None:
        self.may_fail("sync_folder")
        super().sync_folder(path)


class Loss(Enum):
    """What becomes of that which nobody synced."""

    DROPPED = "names and bytes that were not synced are gone"
    TORN = "names got to the disk by themselves, bytes that were not synced only by half, one half or the other"
    EMPTY = "names got to the disk by themselves, bytes that were not synced not at all"


@attrs.define(eq=False)
class _Write:
    offset: int
    data: bytes
    after: frozenset[int]  # what had ended when it began, and so never comes over it

    def give_way(self, newer: _Write) -> None:
        start = max(self.offset, newer.offset)
        end = min(self.offset + len(self.data), newer.offset + len(newer.data))
        if start < end:
            self.data = _over(self.data, start - self.offset, newer.data[start - newer.offset : end - newer.offset])


@attrs.define(eq=False)
class _File:
    content: bytes = b""
    modified: int | None = None
    kept: tuple[bytes, int | None] | None = None
    begun: dict[int, _Write] = attrs.field(factory=dict)  # direct writes that are not durable
    written: set[int] = attrs.field(factory=set)  # those of them that have ended, so that the next sync takes them

    def begin(self, token: int, offset: int, data: bytes) -> None:
        self.content = _over(self.content, offset, data)
        self.begun[token] = _Write(offset, data, frozenset(self.written))

    def keep(self, token: int) -> None:
        """Make a direct write durable, unless it is so already."""
        self.written.discard(token)
        write = self.begun.pop(token, None)
        if write is not None:
            content, modified = self.kept or (b"", None)
            self.kept = _over(content, write.offset, write.data), modified
            for older in write.after & self.begun.keys():
                self.begun[older].give_way(write)


@attrs.define(eq=False)
class _Folder:
    names: dict[str, _File | _Folder] = attrs.field(factory=dict)
    kept: dict[str, _File | _Folder] = attrs.field(factory=dict)
    kept_from: int = 0


class Disk:
    """What a recorded log has done so far, and what of it would survive."""

    def __init__(self) -> None:
        self._root = _Folder()
        self._handles: dict[int, _File] = {}
        self._syncs: dict[int, Callable[[], None]] = {}
        self._owners: dict[int, _File] = {}
        self._begun = 0

    @classmethod
    def of(cls, folder: Path) -> Disk:
        """Begin with what is in a folder, all of it durable."""
        disk = cls()
        disk._root = _durable(folder)
        return disk

    def apply(self, entry: Entry) -> None:
        """Do one recorded operation."""
        name, facts = entry
        getattr(self, f"_{name.replace(' ', '_')}")(*facts)

    def restore(self, folder: Path, loss: Loss) -> None:
        """Write what survives a loss of power at this moment into an empty folder."""
        _restore(self._root, folder, loss)

    def _open(self, handle: int, path: tuple[str, ...]) -> None:
        file = self._parent(path).names.setdefault(path[-1], _File())
        assert isinstance(file, _File)
        self._handles[handle] = file

    def _write(self, handle: int, data: bytes) -> None:
        self._handles[handle].content += data

    def _begin_write(self, token: int, handle: int, offset: int, data: bytes) -> None:
        file = self._handles[handle]
        file.begin(token, offset, data)
        self._owners[token] = file
        self._syncs[token] = lambda: file.keep(token)

    def _written(self, token: int) -> None:
        self._owners[token].written.add(token)

    def _begin_data(self, token: int, handle: int) -> None:
        file = self._handles[handle]
        written = sorted(file.written)

        def end() -> None:
            for each in written:
                file.keep(each)

        self._syncs[token] = end

    def _stamp(self, handle: int, modified: int) -> None:
        self._handles[handle].modified = modified

    def _begin_file(self, token: int, handle: int) -> None:
        file = self._handles[handle]
        state = (file.content, file.modified)

        def end() -> None:
            file.kept = state

        self._syncs[token] = end

    def _begin_folder(self, token: int, path: tuple[str, ...]) -> None:
        folder = self._folder_at(path)
        state = dict(folder.names)

        begun = self._begun = self._begun + 1

        def end() -> None:
            # of two syncs at once the one that began later saw more, whichever ends first
            if begun > folder.kept_from:
                folder.kept, folder.kept_from = state, begun

        self._syncs[token] = end

    def _end(self, token: int) -> None:
        self._syncs.pop(token)()

    def _rename(self, source: tuple[str, ...], target: tuple[str, ...]) -> None:
        self._parent(target).names[target[-1]] = self._parent(source).names.pop(source[-1])

    def _remove(self, path: tuple[str, ...]) -> None:
        del self._parent(path).names[path[-1]]

    def _folder(self, path: tuple[str, ...]) -> None:
        self._parent(path).names.setdefault(path[-1], _Folder())

    def _parent(self, path: tuple[str, ...]) -> _Folder:
        return self._folder_at(path[:-1])

    def _folder_at(self, path: tuple[str, ...]) -> _Folder:
        folder = self._root
        for name in path:
            below = folder.names[name]
            assert isinstance(below, _Folder)
            folder = below
        return folder


def _durable(path: Path) -> _Folder:
    names: dict[str, _File | _Folder] = {}
    for below in path.iterdir():
        if below.is_dir():
            names[below.name] = _durable(below)
        else:
            state = (below.read_bytes(), below.stat().st_mtime_ns)
            names[below.name] = _File(*state, kept=state)
    return _Folder(names, dict(names))


def _over(content: bytes, offset: int, data: bytes) -> bytes:
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


def _restore(folder: _Folder, path: Path, loss: Loss) -> None:
    path.mkdir()
    for name, below in (folder.kept if loss is Loss.DROPPED else folder.names).items():
        if isinstance(below, _Folder):
            _restore(below, path / name, loss)
            continue
        content, modified = below.kept or (b"", None)
        if loss is Loss.TORN and below.begun:
            for token, write in below.begun.items():
                half = len(write.data) // 2
                if token % 2:
                    content = _over(content, write.offset, write.data[:half])
                else:
                    content = _over(content, write.offset + half, write.data[half:])
        elif loss is Loss.TORN and content != below.content:
            content += below.content[len(content) : (len(content) + len(below.content)) // 2]
        (path / name).write_bytes(content)
        if modified is not None:
            os.utime(path / name, ns=(modified, modified))
