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
from contextlib import ExitStack
from pathlib import Path

from adapters.outbound.local.files import FileOperations, sync_folder
from adapters.outbound.local.journal_record import Header, Record, read_content, read_header, read_records
from adapters.outbound.local.journal_segment import SegmentReader
from adapters.outbound.local.owner_lock import OwnerLocks
from domain.errors import NotPossible
from domain.identifiers import BatchId
from domain.staging import StagedInstance

SUFFIX = ".segment"


def named_batches(root: Path, operations: FileOperations, *, but: str) -> Iterator[BatchId]:
    """Yield the batches that segments of other processes than `but` name (OSError if they cannot be read)."""
    for path in _segments(root, but):
        with ExitStack() as stack:
            opened = _opened(operations, path, stack)
            if opened is not None:
                yield opened[1].batch


def read_pending(root: Path, operations: FileOperations, batch: BatchId, *, but: str) -> Iterator[tuple[str, Record]]:
    """Yield the records of a batch in segments of other processes than `but` (OSError if they cannot be read)."""
    for path in _segments(root, but):
        with ExitStack() as stack:
            opened = _opened(operations, path, stack)
            if opened is not None and opened[1].batch == batch:
                for record in read_records(*opened):
                    yield str(path), record


def take_over(  # noqa: PLR0913  # collaborators
    root: Path,
    locks: OwnerLocks,
    operations: FileOperations,
    move_out: Callable[[Iterable[tuple[StagedInstance, bytes]]], None],
    batch: BatchId | None,
    *,
    but: str,
) -> None:
    """
    Take over the journals of all dead processes.

    Raises:
        OSError: if that did not succeed, or the journal of a living process has objects of `batch`.

    """
    for folder in sorted(root.glob("*/")):
        if folder.name != but:
            with ExitStack() as stack:
                if _is_ours_now(folder, locks, stack):
                    _take_over(folder, operations, move_out)
                elif any(named == batch for named in named_batches(root, operations, but=but)):
                    # the lock of a batch's owner may be free a moment before that of its journal
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _take_over(
    folder: Path,
    operations: FileOperations,
    move_out: Callable[[Iterable[tuple[StagedInstance, bytes]]], None],
) -> None:
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    for path in paths:
        with ExitStack() as stack:
            opened = _opened(operations, path, stack)
            if opened is not None:
                move_out(_contents(*opened))
    for path in paths:
        operations.unlink(str(path))
    sync_folder(operations, str(folder))
    operations.remove_folder(str(folder))


def _is_ours_now(folder: Path, locks: OwnerLocks, stack: ExitStack) -> bool:
    if locks.is_held(folder.name):
        return False
    try:
        stack.enter_context(locks.hold(folder.name))
    except NotPossible:
        return False
    return True


def _segments(root: Path, but: str) -> list[Path]:
    return sorted(path for path in root.glob(f"*/*{SUFFIX}") if path.parent.name != but)


def _opened(operations: FileOperations, path: Path, stack: ExitStack) -> tuple[SegmentReader, Header] | None:
    """Open a segment; None if it names no batch, or is gone."""
    try:
        read = stack.enter_context(SegmentReader(operations, str(path)))
    except FileNotFoundError:
        return None
    header = read_header(read)
    return None if header is None else (read, header)


def _contents(read: SegmentReader, header: Header) -> Iterator[tuple[StagedInstance, bytes]]:
    for record in read_records(read, header):
        content = read_content(read, record)
        if content is not None:  # else it was torn, and never answered
            yield record.facts, content
