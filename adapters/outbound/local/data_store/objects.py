"""
Where a job reads its objects and writes its results: what it asks for, and both of it as files under a folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from adapters.outbound.local.data_store.durable import create, make_folder, make_root, replacing


class InputObjects(Protocol):
    """Objects under keys, as a job reads them; every method raises OSError where the storage fails or refuses."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and size in bytes of each object whose key begins with `prefix`, in the byte order of keys."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Open the object `key` for reading; what is returned can seek and is closed by the caller."""
        ...

    def uri(self, prefix: str) -> str:
        """Name `prefix` as the results shall name it."""
        ...


@runtime_checkable
class LinkableObjects(Protocol):
    """Input objects that may offer their bytes without a copy."""

    def link(self, key: str, target: Path) -> bool:
        """
        Give the object `key` the further name `target`.

        Returns:
            False if the bytes must be copied instead.

        """
        ...


class OutputObjects(Protocol):
    """Where a job writes its results."""

    def writer(self, key: str) -> AbstractContextManager[BinaryIO]:
        """
        Open the object `key` for writing; durable, and visible as a whole, when the context ends.

        Raises:
            OSError: if it could not be written; then nothing new is visible under `key`.

        """
        ...

    def uri(self, prefix: str) -> str:
        """Name `prefix` as the results shall name it."""
        ...


class UnsafeKey(ValueError):
    """A key that as a path could leave its folder; the text does not repeat it."""


def check_key(key: str) -> None:
    """
    Refuse a key or prefix whose parts are not plain names.

    Raises:
        UnsafeKey: if a part is empty, "." or "..", or a character is NUL or a backslash.

    """
    parts = key.removesuffix("/").split("/") if key else []
    if any(part in ("", ".", "..") for part in parts) or "\0" in key or "\\" in key:
        raise UnsafeKey("a key consists of names joined by single slashes, none of them '.' or '..'")


class FileInputObjects:
    """
    Files under `root`: a key is the path below it, with slashes.

    Symbolic links are neither listed nor followed.
    A prefix works as on S3: it need not end at a slash.

    Args:
        root: the folder; a missing one holds no objects.
        takes: says of a key whether it counts as an object; temporary files and indexes of a stage do not.
        never_rewritten: True if whoever writes there replaces files by renaming and makes them durable first; then
            the data store keeps a hard link instead of a copy.

    """

    def __init__(
        self,
        root: Path,
        *,
        takes: Callable[[str], bool] = lambda key: True,  # noqa: ARG005  # the default takes everything
        never_rewritten: bool = False,
    ) -> None:
        self._root = root.absolute()
        self._takes = takes
        self._never_rewritten = never_rewritten

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield key and size of each file; one folder's names at a time are in memory."""
        check_key(prefix)
        folder, slash, _ = prefix.rpartition("/")
        start = _inside(self._root, folder) if folder else self._root
        for key, size in _walk(start, folder + slash):
            if key.startswith(prefix) and self._takes(key):
                yield key, size

    def open(self, key: str) -> BinaryIO:
        """Open the file."""
        return self._path(key).open("rb")

    def uri(self, prefix: str) -> str:
        """Name it as a file URI."""
        check_key(prefix)
        return f"{self._root.as_uri()}/{prefix}"

    def link(self, key: str, target: Path) -> bool:
        """Link the file where that is safe and possible."""
        if not self._never_rewritten:
            return False
        source = self._path(key)
        try:
            os.link(source, target, follow_symlinks=False)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without hard links
            return False
        return True

    def _path(self, key: str) -> Path:
        path = _inside(self._root, key)
        if path.is_symlink():
            raise PermissionError("symbolic links are not objects")
        return path


class FileOutputObjects:
    """Files under `root`: a key is the path below it, with slashes."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @contextmanager
    def writer(self, key: str) -> Iterator[BinaryIO]:
        """Write a temporary file, make it durable, rename it."""
        path = _inside(self._root, key)
        make_root(self._root)
        make_folder(path.parent, within=self._root)
        with replacing(path) as stream:
            yield stream

    def uri(self, prefix: str) -> str:
        """Name it as a file URI."""
        check_key(prefix)
        return f"{self._root.as_uri()}/{prefix}"


def copy_object(objects: InputObjects, key: str, target: Path) -> int:
    """
    Bring an object to `target`, durable in content (its name is made durable with its folder).

    Returns:
        Its size in bytes.

    Raises:
        OSError: if it could not be read or written.

    """
    if isinstance(objects, LinkableObjects) and objects.link(key, target):
        return target.stat().st_size
    with objects.open(key) as source, create(target) as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())
        return copy.tell()


def _inside(root: Path, key: str) -> Path:
    check_key(key)
    path = root / key
    # What check_key lets through stays inside unless a symbolic link on the way leads out.
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise UnsafeKey("the key leads out of its folder")
    return path


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    # Keys sort as a whole: the slash behind a folder's name takes part, and bytes decide, not code points.
    named = sorted(
        (os.fsencode(entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")), entry) for entry in entries
    )
    for raw, entry in named:
        if raw.endswith(b"/"):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # gone since the folder was read
                continue
            yield prefix + entry.name, size
