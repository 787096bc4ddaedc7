"""How an object gets a file of its own in its batch: from its draft, or when its time in the journal is over."""

# ruff: noqa: PTH110
# Paths are text here: five Path objects for each instance would cost more than they tell.

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice

from adapters.outbound.local.file_draft import FileDraft, Incoming, TemporaryFile
from adapters.outbound.local.file_index import FileIndex
from adapters.outbound.local.files import (
    DurableFolders,
    FileOperations,
    FolderSyncFailed,
    stage_failed,
    sync_folder,
    to_nanoseconds,
)
from domain.errors import StageFailed
from domain.identifiers import BatchId
from domain.staging import StagedInstance, StagingKey

BATCHES = "batches"
"""The folder of all batches in the staging area."""

_MOVED_AT_ONCE = 16
_IN_DOUBT = "the batch's folder could not be made durable before; nothing more is staged in it"


class ObjectFiles:
    """
    The files of a staging area's objects; safe to share between threads.

    Args:
        folders: makes those of the staging area.
        operations: how files are handled.
        incoming: where a file is written before it gets its name.
        index: is told what is in a batch.

    """

    def __init__(
        self, folders: DurableFolders, operations: FileOperations, incoming: Incoming, index: FileIndex
    ) -> None:
        self._folders = folders
        self._operations = operations
        self._incoming = incoming
        self._index = index
        self._in_doubt: set[BatchId] = set()

    def check(self, batch: BatchId) -> None:
        """Raise StageFailed if nothing more may be staged in a batch."""
        if batch in self._in_doubt:
            raise StageFailed(_IN_DOUBT, suspect_prefix=True)

    def stage(self, draft: FileDraft, facts: StagedInstance) -> None:
        """
        Make a drafted object durable in a file of its own.

        Raises:
            StageFailed: if that is not certain.

        """
        batch = facts.key.batch
        source = draft.settle(facts.staged_at)
        try:
            folder = self._put(source, facts.key)
            draft.renamed()
            sync_folder(self._operations, folder)
        except FolderSyncFailed as error:
            self._in_doubt.add(batch)
            raise stage_failed(error, "the batch's folder could not be made durable", suspect_prefix=True) from error
        except OSError as error:
            raise stage_failed(error, "an object could not be put into its batch") from error
        self._index.append(facts)

    def move_out(self, objects: Iterable[tuple[StagedInstance, bytes]]) -> None:
        """Give objects of the journal files of their own, durably, whatever has their names (else OSError)."""
        folders: dict[str, None] = {}
        objects = iter(objects)
        while group := list(islice(objects, _MOVED_AT_ONCE)):
            with ExitStack() as stack:
                files = [(self._written(facts, content, stack), facts) for facts, content in group]
                for file, facts in files:
                    self._operations.sync(file.descriptor)
                    assert file.path is not None  # noqa: S101 - just made
                    folders[self._put(file.path, facts.key)] = None
                    file.path = None
                    self._index.append(facts)
        for folder in folders:
            sync_folder(self._operations, folder)

    def put(self, source: str, group: str, key: StagingKey, folders: DurableFolders) -> str:
        """Rename `source` to where `key` belongs below `group`; return the folder, which is still to be synced."""
        name = f"{key.sop_instance}.dcm"
        folder = folders.ensure(group, key.study.value, key.series.value)
        try:
            self._operations.rename(source, f"{folder}/{name}")
        except FileNotFoundError:
            if not os.path.exists(source):
                raise
            # folders that had become empty were removed
            folders.forget(group)
            folder = folders.ensure(group, key.study.value, key.series.value)
            self._operations.rename(source, f"{folder}/{name}")
        return folder

    def _written(self, facts: StagedInstance, content: bytes, stack: ExitStack) -> TemporaryFile:
        """Write an object to a temporary file and set the disk to work on it; `stack` removes what is left of it."""
        file = self._incoming.create()
        stack.callback(self._incoming.drop, file)
        self._operations.write(file.descriptor, content)
        self._operations.stamp(file.descriptor, to_nanoseconds(facts.staged_at))
        self._operations.start_writeback(file.descriptor, 0, len(content))
        return file

    def _put(self, source: str, key: StagingKey) -> str:
        return self.put(source, f"{BATCHES}/{key.batch}", key, self._folders)
