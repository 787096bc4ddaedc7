"""
What a data store holds: image sets, instances and where they lie. Nothing here changes anything.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import attrs

from adapters.outbound.local.data_store.catalogue import Catalogue
from adapters.outbound.local.data_store.errors import ResourceNotFoundException
from adapters.outbound.local.data_store.validation import path_name

_PAGE: Final = 500


@attrs.frozen(kw_only=True)
class ImageSet:
    """
    One image set as it is now.

    Attributes:
        image_set_id: 32 hexadecimal digits.
        study: Study Instance UID.
        series: Series Instance UID.
        version: 1 at first, one more for each job that changed it.
        is_primary: False if its deciding elements conflict with the primary data of its series or study.
        created_at: aware UTC.
        updated_at: aware UTC, when its version was last raised.
        metadata: its metadata document.

    """

    image_set_id: str
    study: str
    series: str
    version: int
    is_primary: bool
    created_at: datetime
    updated_at: datetime
    metadata: Path


@attrs.frozen(kw_only=True)
class StoredInstance:
    """
    One instance in the data store.

    Attributes:
        sop_instance: SOP Instance UID.
        study: Study Instance UID.
        series: Series Instance UID.
        image_set_id: the image set that holds it.
        version: the present version of that image set.
        is_primary: whether that image set is the primary one of its series.
        path: the Part 10 object.

    """

    sop_instance: str
    study: str
    series: str
    image_set_id: str
    version: int
    is_primary: bool
    path: Path


@attrs.frozen(kw_only=True)
class Summary:
    """How much a data store holds; an instance in two image sets counts twice."""

    studies: int
    series: int
    instances: int
    image_sets: int
    primary_image_sets: int


@attrs.frozen(kw_only=True)
class Contents:
    """The image sets of one data store, read from its catalogue."""

    catalogue: Catalogue
    folder: Path

    def get(self, image_set_id: str) -> ImageSet:
        """
        Return an image set.

        Raises:
            ResourceNotFoundException: if there is none of this id.

        """
        row = self.active(image_set_id)
        if row is None:
            raise ResourceNotFoundException("image set not found")
        return self._image_set(row)

    def list(self, *, series: str | None = None) -> Iterator[ImageSet]:
        """Yield the image sets, oldest first; those of one Series Instance UID if it is given."""
        after = 0
        while True:
            rows = (
                self.catalogue.reader()
                .execute(
                    "SELECT * FROM image_sets WHERE state = 'ACTIVE' AND sequence > ? AND (? IS NULL OR series = ?)"
                    " ORDER BY sequence LIMIT ?",
                    (after, series, series, _PAGE),
                )
                .fetchall()
            )
            for row in rows:
                after = row["sequence"]
                yield self._image_set(row)
            if len(rows) < _PAGE:
                return

    def find(self, sop_instance: str) -> tuple[StoredInstance, ...]:
        """Return where an instance is, in the primary image set first; empty if it is nowhere."""
        rows = self.catalogue.reader().execute(
            "SELECT i.sop_instance, i.path, s.study, s.series, s.image_set_id, s.version, s.is_primary"
            " FROM instances i JOIN image_sets s ON s.image_set_id = i.image_set_id"
            " WHERE i.sop_instance = ? AND s.state = 'ACTIVE' ORDER BY s.is_primary DESC, s.sequence",
            (sop_instance,),
        )
        return tuple(
            StoredInstance(
                sop_instance=row["sop_instance"],
                study=row["study"],
                series=row["series"],
                image_set_id=row["image_set_id"],
                version=row["version"],
                is_primary=bool(row["is_primary"]),
                path=self.folder / row["path"],
            )
            for row in rows
        )

    def summary(self) -> Summary:
        """Count what is there."""
        row = (
            self.catalogue.reader()
            .execute(
                "SELECT count(DISTINCT study) AS studies, count(DISTINCT series) AS series, count(*) AS image_sets,"
                " coalesce(sum(is_primary), 0) AS primary_image_sets, (SELECT count(*) FROM instances i"
                " JOIN image_sets s ON s.image_set_id = i.image_set_id WHERE s.state = 'ACTIVE') AS instances"
                " FROM image_sets WHERE state = 'ACTIVE'"
            )
            .fetchone()
        )
        return Summary(**dict(row))

    def active(self, image_set_id: str) -> sqlite3.Row | None:
        """Return the row of an image set that is not being deleted."""
        row: sqlite3.Row | None = (
            self.catalogue.reader()
            .execute("SELECT * FROM image_sets WHERE image_set_id = ? AND state = 'ACTIVE'", (image_set_id,))
            .fetchone()
        )
        return row

    def _image_set(self, row: sqlite3.Row) -> ImageSet:
        return ImageSet(
            image_set_id=row["image_set_id"],
            study=row["study"],
            series=row["series"],
            version=row["version"],
            is_primary=bool(row["is_primary"]),
            created_at=datetime.fromisoformat(row["created_at"]),
            updated_at=datetime.fromisoformat(row["updated_at"]),
            metadata=self.metadata_path(row),
        )

    def metadata_path(self, row: sqlite3.Row) -> Path:
        """Return where the metadata document of an image set is."""
        return self.folder / series_folder(row["study"], row["series"]) / f"{row['image_set_id']}.json"


def series_folder(study: str, series: str) -> str:
    """Return the path of a series below the data store's folder."""
    return f"{path_name(study)}/{path_name(series)}"
