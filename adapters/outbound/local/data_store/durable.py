"""
File operations that survive a power cut once they return.

A file or folder whose sync failed is not trusted again: the system may have dropped what was to be written and forgets
the error. Files are then written anew under another name, and a job whose folders could not be synced fails.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

_FILE_MODE: Final = 0o640
_FOLDER_MODE: Final = 0o750


class FolderSyncFailed(OSError):
    """The names in a folder may not be durable, and a later sync would not tell."""


def sync_folder(folder: Path) -> None:
    """
    Make the names in `folder` durable.

    Raises:
        FolderSyncFailed: if that is not certain.

    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise FolderSyncFailed(error.errno, error.strerror) from error
    finally:
        os.close(descriptor)


def sync_folders(folders: Iterable[Path]) -> None:
    """Make the names in each of `folders` durable, each once."""
    for folder in sorted(set(folders)):
        sync_folder(folder)


def make_folder(folder: Path, *, within: Path) -> None:
    """
    Make `folder` and what lacks between it and `within`, durably.

    One that is there already is synced too: its maker may have died before.
    """
    for level in levels(folder, within=within):
        level.mkdir(_FOLDER_MODE, exist_ok=True)
        sync_folder(level.parent)


def make_root(folder: Path) -> None:
    """Make `folder` and what lacks above it, durably."""
    made = folder
    while not made.parent.exists():
        made = made.parent
    make_folder(folder, within=made.parent)


def levels(folder: Path, *, within: Path) -> list[Path]:
    """Return the folders from below `within` down to `folder`."""
    return [folder, *(parent for parent in folder.parents if parent != within and parent.is_relative_to(within))][::-1]


def create(path: Path) -> BinaryIO:
    """Create a file that was not there, for writing."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE), "wb")


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """
    Write the new content of `target`; at the end of the context it is durable under that name.

    Its folder must exist, and one writer at a time may be at work.
    If the body raises, `target` stays as it was.
    """
    # Always the same name, so that what a killed process left is replaced; never the same file, see above.
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with create(temporary) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_folder(target.parent)


@contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Hold the lock that `lock_file` stands for, among threads and processes; waits for it."""
    descriptor = _open_lock(lock_file)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(lock_file: Path) -> int | None:
    """Take the lock that `lock_file` stands for: its descriptor, to be closed in the end, or None if it is held."""
    descriptor = _open_lock(lock_file)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_lock(lock_file: Path) -> int:
    return os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
