"""
The only place that decides when bytes and names are durable.

Laws, for a file that must survive a loss of power:
- write, sync the file < rename < sync the folder, and the parent of every folder newly made < say so.
- A file whose sync failed is never synced again: the system may have dropped its bytes and forgets the error.
- A folder whose sync failed is not trusted again either; what was renamed into it is in doubt.

`FileOperations` is the seam: a subclass that records every call can prove those laws.
"""

# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH116
# Paths are text here: five Path objects for each instance would cost more than they tell.

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from adapters.outbound.local.async_write import AsyncWrites
from domain.errors import StageFailed

_SYNC_FILE_RANGE_WRITE = 2
_DIRECT: int | None = getattr(os, "O_DIRECT", None)  # Linux has it
_DURABLE_WRITE: int = getattr(os, "RWF_DSYNC", 0)  # some builds of Python for Linux lack it
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_FILE_MODE = 0o640
_FOLDER_MODE = 0o750

_WORDS = {
    errno.ENOSPC: "no space is left on the disk; free some or give --data-dir a larger one",
    errno.EDQUOT: "the disk quota is used up; raise it or give --data-dir another disk",
    errno.EIO: "the disk reports an input/output error; check the disk and the system log",
    errno.EROFS: "the file system is read-only, perhaps since an error; check the disk and the system log",
    errno.EACCES: "permission is denied; the receiver's user must own the data folder",
    errno.EPERM: "the operation is not permitted; the receiver's user must own the data folder",
    errno.EMFILE: "this process has too many files open; raise its limit (ulimit -n)",
    errno.ENFILE: "the system has too many files open; raise fs.file-max",
    errno.EFBIG: "the file is larger than the file system or a limit of this process allows",
    errno.EBUSY: "another process still holds it",
    errno.ENOENT: "a folder of it is missing, or was removed while in use",
    errno.EEXIST: "there is a file of that name, and no folder",
    errno.ENOTDIR: "there is a file of that name, and no folder",
}


def stage_failed(error: OSError, doing: str, *, suspect_prefix: bool = False) -> StageFailed:
    """Put an operating system's error into words for the operator; `doing` says what was tried, and names no path."""
    return StageFailed(f"{doing}: {words_for(error)}", suspect_prefix=suspect_prefix)


def words_for(error: OSError) -> str:
    """Return what an operating system's error means and, where that is known, what to do; it names no path."""
    number = error.errno
    words = _WORDS.get(number) if number is not None else None
    return words or (os.strerror(number) if number is not None else type(error).__name__).lower()


def to_nanoseconds(moment: datetime) -> int:
    """Return an aware time as a file system holds it."""
    since = moment - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def from_nanoseconds(nanoseconds: int) -> datetime:
    """Return the time that a file system holds, to the microsecond."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


class FileOperations:
    """What is done to files and folders, one method an operation; all of them raise OSError."""

    def create(self, path: str) -> int:
        """Create a file that was not there, open for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)

    def open_to_append(self, path: str) -> int:
        """Open a file for appending; it is made if it is not there."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)

    def write(self, descriptor: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`."""
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, memoryview(data)[written:])

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset`."""
        return os.pread(descriptor, size, offset)

    def create_direct(self, path: str) -> int:
        """Create a file that was not there, for writing past the page cache."""
        if _DIRECT is None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _DIRECT
        try:
            return os.open(path, flags, _FILE_MODE)
        except FileExistsError:
            raise
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)  # some file systems find out after they made it
            raise

    def open_direct(self, path: str) -> int:
        """Open a file that `create_direct` has made, for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | (_DIRECT or 0))

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> None:
        """Write whole blocks to a file that `create_direct` has made, durably."""
        written = os.pwritev(descriptor, [data], offset, _DURABLE_WRITE)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not _DURABLE_WRITE:
            self.sync_data(descriptor)

    def begin_write_at(self, writes: AsyncWrites, descriptor: int, data: memoryview, offset: int) -> None:
        """Begin to write whole blocks to a file that `create_direct` has made (async_write.py)."""
        writes.begin(descriptor, data, offset)

    def end_writes(self, writes: AsyncWrites) -> None:
        """Return when all that was begun is written, durable or not."""
        writes.wait()

    def sync_data(self, descriptor: int) -> None:
        """Return when what was written to a file that `create_direct` has made is on the disk."""
        os.fdatasync(descriptor)

    def read_at(self, descriptor: int, into: memoryview, offset: int) -> int:
        """Read whole blocks of a file that `open_direct` has opened; return how many bytes, fewer at the end."""
        size = 0
        # one call may stop at a block that cannot be read, and only the next one says so
        while size < len(into) and (more := os.preadv(descriptor, [into[size:]], offset + size)):
            size += more
        return size

    def inode(self, path: str) -> int:
        """Return which file has a name now."""
        return os.stat(path).st_ino

    def free_bytes(self, path: str) -> int:
        """Return how much space is free for us where `path` is."""
        return shutil.disk_usage(path).free

    def start_writeback(self, descriptor: int, offset: int, size: int) -> None:
        """
        Let the disk begin with bytes that were written, without waiting; promises nothing, never raises.

        sync_file_range(2) does just that on Linux, and an error that comes of it is still reported by the sync. A
        periodic fdatasync would wait, and take the error away from the one sync that decides; POSIX_FADV_DONTNEED
        would also wait for every processor, and take the pages from the import that reads them soon.
        """
        begin = _writeback_starter()
        if begin is not None:
            begin(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)

    def stamp(self, descriptor: int, seconds_ns: int) -> None:
        """Set the time of last modification, in nanoseconds since 1970."""
        os.utime(descriptor, ns=(seconds_ns, seconds_ns))

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes, size and times are on the disk."""
        _sync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close; never raises, since nothing is learnt from it that the sync did not say."""
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        """Give a file another name, replacing what has it."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def make_folder(self, path: str) -> None:
        """Make a folder; harmless if it is there."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, _FOLDER_MODE)

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def sync_folder(self, path: str) -> None:
        """Return when the names in a folder are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)


@cache
def _writeback_starter() -> Callable[[int, int, int, int], object] | None:
    """Find sync_file_range(2), which Python has no function for; None where there is none."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415  # macOS only: there fsync stops at the drive's cache

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


class FolderSyncFailed(OSError):
    """A folder's sync failed: names in it are in doubt, and a later success would not mend that."""


def sync_folder(operations: FileOperations, path: str) -> None:
    """
    Return when the names in a folder are on the disk.

    Threads do not share syncs here: the journal of ext4 already commits for all who wait, and a second queue in front
    of it was measured to gain nothing.

    Raises:
        FolderSyncFailed: if that is not certain.

    """
    try:
        operations.sync_folder(path)
    except OSError as error:
        raise FolderSyncFailed(error.errno, error.strerror) from error


class DurableFolders:
    """
    Folders whose names are on the disk, all the way up.

    Args:
        root: the folder that is ours; what is missing above it is made too.
        operations: how files are handled.

    """

    _KNOWN_GROUPS = 64

    def __init__(self, root: Path, operations: FileOperations) -> None:
        self._root = root
        self._operations = operations
        self._lock = threading.Lock()
        self._has_root = False
        self._known: OrderedDict[str, set[str]] = OrderedDict()

    def ensure(self, group: str, *names: str) -> str:
        """
        Return the path `root/group/names...` once every folder of it is there and durable.

        `group` is a path below the root; a group's folders are remembered and forgotten together.
        Threads that want the same new folder all wait until it is durable.

        Raises:
            OSError: if that is not certain.

        """
        path = "/".join((str(self._root), group, *names))
        known = self._known.get(group)
        if known is not None and path in known:
            return path
        with self._lock:
            self._ensure_root()
            known = self._known.get(group, set())
            folder = str(self._root)
            missing = []
            for name in (*group.split("/"), *names):
                parent, folder = folder, f"{folder}/{name}"
                if folder not in known:
                    # one that is there already may have been made by a process that died before syncing it
                    self._operations.make_folder(folder)
                    missing.append((parent, folder))
            for parent, _ in missing:
                sync_folder(self._operations, parent)
            self._known[group] = known | {folder for _, folder in missing}
            while len(self._known) > self._KNOWN_GROUPS:
                self._known.popitem(last=False)
        return path

    def has(self, group: str, *names: str) -> bool:
        """Tell whether the folder `root/group/names...` is there, durable or not."""
        return self._root.joinpath(group, *names).is_dir()

    def forget(self, group: str) -> None:
        """Look again next time, since folders of `group` were removed."""
        with self._lock:
            self._known.pop(group, None)

    def _ensure_root(self) -> None:
        if self._has_root:
            return
        levels = [self._root]
        while not levels[-1].parent.exists():
            levels.append(levels[-1].parent)
        # two levels in any case: the data folder, and the root in it, may never have been synced
        if len(levels) == 1:
            levels.append(self._root.parent)
        for level in reversed(levels):
            was_there = level.exists()
            self._operations.make_folder(str(level))
            try:
                sync_folder(self._operations, str(level.parent))
            except FolderSyncFailed as error:
                # a data folder made for us in a place that we may not read: its maker answers for its name
                if not (was_there and error.errno == errno.EACCES):
                    raise
        self._has_root = True


def remove_empty(operations: FileOperations, folders: Iterable[str]) -> bool:
    """Remove folders, each only if it is empty, up to the first that is not; tell whether all are gone."""
    for folder in folders:
        try:
            operations.remove_folder(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
