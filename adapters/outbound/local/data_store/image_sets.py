"""
Image sets: what a job changes of them, where their instances lie, and their metadata documents.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC
from pathlib import Path

import attrs

from adapters.outbound.local.data_store.catalogue import Catalogue
from adapters.outbound.local.data_store.contents import Contents, series_folder
from adapters.outbound.local.data_store.durable import levels, replacing, sync_folders
from adapters.outbound.local.data_store.errors import ResourceNotFoundException
from adapters.outbound.local.data_store.grouping import Deciding, belongs_to_primary
from adapters.outbound.local.data_store.jobs import Clock
from adapters.outbound.local.data_store.metadata import ImageSetHead, write_document
from adapters.outbound.local.data_store.validation import path_name


@attrs.frozen(kw_only=True)
class _Target:
    """An image set as the job that is being applied leaves it."""

    image_set_id: str
    version: int
    is_primary: bool
    folder: str


@attrs.frozen(kw_only=True)
class ImageSets:
    """
    The image sets of one data store, in its catalogue and folder.

    `apply`, `place`, `delete` and `finish_deletions` are called under the data store's lock for changes, so that
    files are moved in the order in which the catalogue changed.
    """

    catalogue: Catalogue
    contents: Contents
    clock: Clock
    folder: Path
    data_store_id: str
    new_id: Callable[[], str]

    def apply(self, job_id: str) -> None:
        """
        Decide for every accepted file of a job to which image set it goes, and record all of it at once.

        Files are taken by number: of two that hold the same instance the later one stays.
        """
        with self.catalogue.transaction() as connection:
            targets: dict[Deciding, _Target] = {}
            last_file: dict[str, int] = {}
            rows = connection.execute(
                "SELECT number, deciding, sop_instance FROM job_files"
                " WHERE job_id = ? AND exception_type IS NULL ORDER BY number",
                (job_id,),
            ).fetchall()
            for row in rows:
                deciding = Deciding(**json.loads(row["deciding"]))
                if deciding not in targets:
                    targets[deciding] = self._target(connection, job_id, row["number"], deciding)
                target = targets[deciding]
                path = f"{target.folder}/{path_name(row['sop_instance'])}.dcm"
                connection.execute(
                    "UPDATE job_files SET image_set_id = ?, version = ?, is_primary = ?, path = ?"
                    " WHERE job_id = ? AND number = ?",
                    (target.image_set_id, target.version, target.is_primary, path, job_id, row["number"]),
                )
                connection.execute(
                    "INSERT OR REPLACE INTO instances (image_set_id, sop_instance, sop_class, path, metadata)"
                    " SELECT image_set_id, sop_instance, sop_class, path, metadata FROM job_files"
                    " WHERE job_id = ? AND number = ?",
                    (job_id, row["number"]),
                )
                last_file[target.image_set_id] = row["number"]
            for image_set_id, number in last_file.items():
                # What patient, study and series are called follows the newest instance: it may be the correction.
                connection.execute(
                    "UPDATE image_sets SET levels = (SELECT levels FROM job_files WHERE job_id = ? AND number = ?)"
                    " WHERE image_set_id = ?",
                    (job_id, number, image_set_id),
                )
            # Its own copies in job_files have served: the image sets have them now.
            connection.execute("UPDATE job_files SET levels = NULL, metadata = NULL WHERE job_id = ?", (job_id,))
            connection.execute(
                "UPDATE jobs SET phase = 'APPLIED',"
                " applied_order = (SELECT coalesce(max(applied_order), 0) + 1 FROM jobs) WHERE job_id = ?",
                (job_id,),
            )

    def place(self, job_id: str, incoming: Path) -> None:
        """
        Move the files of an applied job to their places and write the metadata documents of its image sets.

        May be repeated: what was moved is passed over.

        Args:
            job_id: the job.
            incoming: the folder with its files, each under its number.

        Raises:
            FolderSyncFailed: if it is not certain that the files will be found there.
            OSError: if a file could not be moved or a document not be written; worth repeating.

        """
        touched: dict[str, None] = {}
        changed_folders: set[Path] = {incoming} if incoming.is_dir() else set()
        # What went to an image set that was deleted meanwhile stays behind and goes with the folder.
        rows = self.catalogue.reader().execute(
            "SELECT number, image_set_id, path FROM job_files WHERE job_id = ? AND exception_type IS NULL"
            " AND image_set_id IN (SELECT image_set_id FROM image_sets WHERE state = 'ACTIVE') ORDER BY number",
            (job_id,),
        )
        for row in rows.fetchall():
            touched[row["image_set_id"]] = None
            target = self.folder / row["path"]
            if target.parent not in changed_folders:
                above = levels(target.parent, within=self.folder)
                for level in above:
                    level.mkdir(0o750, exist_ok=True)
                changed_folders.update((self.folder, *above))
            # Missing: moved before this process began, and synced below all the same.
            with suppress(FileNotFoundError):
                (incoming / str(row["number"])).rename(target)
        sync_folders(changed_folders)
        for image_set_id in touched:
            self._write_metadata(image_set_id)
        with self.catalogue.transaction() as connection:
            connection.execute("UPDATE jobs SET phase = 'PLACED' WHERE job_id = ?", (job_id,))

    def delete(self, image_set_id: str) -> None:
        """
        Delete an image set with its instances; the next import of the series founds a new one.

        Raises:
            ResourceNotFoundException: if there is none of this id.
            OSError: if a file could not be deleted; the deletion goes on with the next change of the data store.

        """
        with self.catalogue.transaction() as connection:
            changed = connection.execute(
                "UPDATE image_sets SET state = 'DELETING' WHERE image_set_id = ? AND state = 'ACTIVE'",
                (image_set_id,),
            ).rowcount
        if not changed:
            raise ResourceNotFoundException("image set not found")
        self.finish_deletions()

    def finish_deletions(self) -> None:
        """
        Remove the files and rows of image sets that are being deleted.

        It comes before anything is placed: a new image set of the series uses the same paths.
        """
        doomed = self.catalogue.reader().execute("SELECT * FROM image_sets WHERE state = 'DELETING'").fetchall()
        for row in doomed:
            image_set_id = row["image_set_id"]
            paths = self.catalogue.reader().execute(
                "SELECT path FROM instances WHERE image_set_id = ?", (image_set_id,)
            )
            folders = set()
            for path in [*(self.folder / entry["path"] for entry in paths), self.contents.metadata_path(row)]:
                path.unlink(missing_ok=True)
                folders.add(path.parent)
            sync_folders(folder for folder in folders if folder.is_dir())
            with self.catalogue.transaction() as connection:
                connection.execute("DELETE FROM instances WHERE image_set_id = ?", (image_set_id,))
                connection.execute("DELETE FROM image_sets WHERE image_set_id = ?", (image_set_id,))
            for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
                for empty in (folder, folder.parent, folder.parent.parent):
                    if empty != self.folder and empty.is_relative_to(self.folder):
                        with suppress(OSError):  # not empty, or gone
                            empty.rmdir()

    def _target(self, connection: sqlite3.Connection, job_id: str, number: int, deciding: Deciding) -> _Target:
        """Find or found the image set for these deciding elements and raise its version, once a job."""
        primary = connection.execute(
            "SELECT * FROM image_sets WHERE series = ? AND is_primary AND state = 'ACTIVE'", (deciding.series,)
        ).fetchone()
        of_study = connection.execute(
            "SELECT deciding FROM image_sets WHERE study = ? AND is_primary AND state = 'ACTIVE'"
            " ORDER BY sequence LIMIT 1",
            (deciding.study,),
        ).fetchone()
        is_primary = belongs_to_primary(
            deciding,
            primary_of_series=None if primary is None else Deciding(**json.loads(primary["deciding"])),
            primary_of_study=None if of_study is None else Deciding(**json.loads(of_study["deciding"])),
        )
        serialized = json.dumps(attrs.asdict(deciding), sort_keys=True)
        known = primary
        if not is_primary:
            known = connection.execute(
                "SELECT * FROM image_sets WHERE series = ? AND deciding = ? AND NOT is_primary AND state = 'ACTIVE'"
                " ORDER BY sequence LIMIT 1",
                (deciding.series, serialized),
            ).fetchone()
        now = self.clock.now().astimezone(UTC).isoformat()
        if known is not None:
            image_set_id, version = known["image_set_id"], known["version"] + 1
            connection.execute(
                "UPDATE image_sets SET version = ?, updated_at = ? WHERE image_set_id = ?",
                (version, now, image_set_id),
            )
        else:
            image_set_id, version = self.new_id(), 1
            connection.execute(
                "INSERT INTO image_sets (image_set_id, study, series, deciding, is_primary, version, levels,"
                " created_at, updated_at, state) SELECT ?, study, series, deciding, ?, 1, levels, ?, ?, 'ACTIVE'"
                " FROM job_files WHERE job_id = ? AND number = ?",
                (image_set_id, is_primary, now, now, job_id, number),
            )
        folder = series_folder(deciding.study, deciding.series)
        return _Target(
            image_set_id=image_set_id,
            version=version,
            is_primary=is_primary,
            # An instance may be in the primary and in other image sets, with different content.
            folder=folder if is_primary else f"{folder}/{image_set_id}",
        )

    def _write_metadata(self, image_set_id: str) -> None:
        row = self.contents.active(image_set_id)
        if row is None:  # deleted since
            return
        head = ImageSetHead(
            data_store_id=self.data_store_id,
            image_set_id=image_set_id,
            version=row["version"],
            is_primary=bool(row["is_primary"]),
            series=row["series"],
            levels=row["levels"],
        )
        path = self.contents.metadata_path(row)
        instances = self.catalogue.reader().execute(
            "SELECT sop_instance, metadata FROM instances WHERE image_set_id = ? ORDER BY sop_instance",
            (image_set_id,),
        )
        with replacing(path) as stream:
            write_document(stream, head, ((each["sop_instance"], each["metadata"]) for each in instances))
