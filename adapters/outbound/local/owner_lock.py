"""
Locks that a process holds for as long as it lives; a crash of any kind lets go of them.

They are flock(2) locks on local files, so they hold among the processes of one machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from domain.errors import NotPossible

_SUFFIX = ".lock"
_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.01


class HeldLock:
    """A lock that is held until `release`, the end of the `with` block, or the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let go; may be repeated."""
        if self._descriptor is None:
            return
        if self.is_intact():
            # removed while still held: whoever opens the name later makes a new file
            self._path.unlink(missing_ok=True)
        descriptor, self._descriptor = self._descriptor, None
        os.close(descriptor)

    def is_intact(self) -> bool:
        """Tell whether it still keeps others out: its file may have been removed or replaced, with its folder."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class OwnerLocks:
    """
    One lock for each owner of a batch, in a folder of their own.

    Args:
        folder: made at the first `hold`.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, owner: str) -> HeldLock:
        """
        Take the lock of `owner`, which has to be a file name.

        Raises:
            NotPossible: if another process, or another holder in this one, has it.

        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{owner}{_SUFFIX}"
        # patience: someone who only asks `is_held` has it for a moment
        held = _take(path, patience_seconds=_PATIENCE_SECONDS)
        if held is None:
            raise NotPossible(f"the lock of owner {owner} is held already")
        return HeldLock(path, held)

    def is_held(self, owner: str) -> bool:
        """Tell whether a living process holds the lock of `owner`."""
        try:
            descriptor = os.open(self._folder / f"{owner}{_SUFFIX}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def held(self) -> Iterator[str]:
        """Yield the owners whose locks are held."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            owner = path.name.removesuffix(_SUFFIX)
            if self.is_held(owner):
                yield owner

    def clear(self) -> None:
        """Remove the lock files of the dead."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                descriptor = _take(path, patience_seconds=0.0, create=False)
                if descriptor is not None:
                    HeldLock(path, descriptor).release()


def hold_data_folder(folder: Path) -> HeldLock:
    """
    Make this process the only receiver on a data folder.

    Raises:
        NotPossible: naming the process that is it already.

    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"serve{_SUFFIX}"
    descriptor = _take(path, patience_seconds=0.0)
    if descriptor is None:
        with contextlib.suppress(OSError, ValueError):
            holder = int(path.read_text(encoding="ascii"))
            raise NotPossible(
                f"another receiver (process {holder}) serves the data folder {folder}; "
                "stop it or choose another --data-dir"
            )
        raise NotPossible(f"another receiver serves the data folder {folder}; choose another --data-dir")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return HeldLock(path, descriptor)


def _take(path: Path, *, patience_seconds: float, create: bool = True) -> int | None:
    """Return a descriptor that holds the lock, or None if another holds it until the patience ends."""
    deadline = time.monotonic() + patience_seconds
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() >= deadline:
                return None
            time.sleep(_PAUSE_SECONDS)
            continue
        except BaseException:
            os.close(descriptor)
            raise
        # the name may have been removed between open and lock; then the lock excludes nobody
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)
        if not create:
            return None
