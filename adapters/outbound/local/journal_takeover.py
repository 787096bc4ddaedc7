"""
The journals of other processes: what is in those of the living, and what the dead left becomes files.

Laws:
- Every record is written anew, whatever has its name already.
- The segments are gone for good before a batch of theirs may close, so nothing that is moved later comes back.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from adapters.outbound.local.files import FileOperations
from adapters.outbound.local.journal_record import Header, Record, read_content, read_header, read_records
from adapters.outbound.local.journal_segment import SegmentReader, open_segment, sync_removal
from adapters.outbound.local.owner_lock import OwnerLocks
from domain.errors import NotPossible
from domain.identifiers import BatchId
from domain.staging import StagedInstance

SUFFIX = ".segment"

MoveOut = Callable[[Iterable[tuple[StagedInstance, bytes]]], None]
"""Gives objects files of their own, durably; OSError if that is not certain."""


def named_batches(root: Path, operations: FileOperations, *, but: str) -> Iterator[BatchId]:
    """Yield the batches that segments of other processes than `but` name (OSError if they cannot be read)."""
    for folder in _folders(root, but):
        yield from _named(folder, operations)


def read_pending(root: Path, operations: FileOperations, batch: BatchId, *, but: str) -> Iterator[tuple[str, Record]]:
    """Yield the records of a batch in segments of other processes than `but` (OSError if they cannot be read)."""
    for folder in _folders(root, but):
        for path in _segments(folder):
            with ExitStack() as stack:
                opened = _opened(operations, path, stack)
                if opened is not None and opened[1].batch == batch:
                    for record in read_records(*opened):
                        yield str(path), record


def take_over(  # noqa: PLR0913  # collaborators
    root: Path,
    locks: OwnerLocks,
    operations: FileOperations,
    move_out: MoveOut,
    batch: BatchId | None,
    *,
    but: str,
) -> None:
    """
    Take over the journals of all dead processes.

    Raises:
        OSError: if that did not succeed where `batch` is named, or it is named in the journal of a living process;
            without a batch, if it did not succeed anywhere.

    """
    for folder in _folders(root, but):
        is_named = batch is None or batch in _named(folder, operations)
        try:
            with ExitStack() as stack:
                if _is_ours_now(folder, locks, stack):
                    _take_over(folder, operations, move_out)
                    continue
        except OSError:
            if is_named:
                raise
        if batch is not None:
            if is_named:
                # the lock of a batch's owner may be free a moment before that of its journal
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            sync_removal(operations, folder)  # whoever takes it over may just have removed what named it


def _take_over(
    folder: Path,
    operations: FileOperations,
    move_out: MoveOut,
) -> None:
    paths = _segments(folder)
    for path in paths:
        with ExitStack() as stack:
            opened = _opened(operations, path, stack)
            if opened is not None:
                move_out(_contents(*opened))
    for path in paths:
        operations.unlink(str(path))
    sync_removal(operations, folder)
    with suppress(FileNotFoundError):  # another process was faster
        operations.remove_folder(str(folder))


def _is_ours_now(folder: Path, locks: OwnerLocks, stack: ExitStack) -> bool:
    if locks.is_held(folder.name):
        return False
    try:
        stack.enter_context(locks.hold(folder.name))
    except NotPossible:
        return False
    return True


def _folders(root: Path, but: str) -> list[Path]:
    return [path for path in _below(root) if path.name != but and path.is_dir()]


def _segments(folder: Path) -> list[Path]:
    return [path for path in _below(folder) if path.suffix == SUFFIX]


def _below(folder: Path) -> list[Path]:
    # unlike glob it passes over nothing that may not be read, and bears that the folder goes meanwhile
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _named(folder: Path, operations: FileOperations) -> set[BatchId]:
    found = set()
    for path in _segments(folder):
        with ExitStack() as stack:
            opened = _opened(operations, path, stack)
            if opened is not None:
                found.add(opened[1].batch)
    return found


def _opened(operations: FileOperations, path: Path, stack: ExitStack) -> tuple[SegmentReader, Header] | None:
    """Open a segment; None if it names no batch, or is gone."""
    try:
        read = stack.enter_context(open_segment(operations, str(path)))
    except FileNotFoundError:
        return None
    header = read_header(read)
    return None if header is None else (read, header)


def _contents(read: SegmentReader, header: Header) -> Iterator[tuple[StagedInstance, bytes]]:
    for record in read_records(read, header):
        content = read_content(read, record)
        if content is not None:  # else it was torn, and never answered
            yield record.facts, content
