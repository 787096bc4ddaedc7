"""
The layout of the staging area: one prefix per batch, one key per SOP instance in it.

    batches/<batch id>/<study uid>/<series uid>/<sop instance uid>.dcm
    superseded/<batch id>/<study uid>/<series uid>/<sop instance uid>.dcm

Every part is validated before it becomes part of a key, so no key can leave its prefix.
"""

from __future__ import annotations

from datetime import datetime

import attrs

from domain.errors import InvalidIdentifier
from domain.identifiers import BatchId, Uid
from domain.instance import InstanceKey, SopInstance

BATCHES = "batches/"
SUPERSEDED = "superseded/"
_SUFFIX = ".dcm"
_PARTS = 5


def batch_prefix(batch: BatchId) -> str:
    """Return the prefix of `batch`, ending in a slash: what an import job takes."""
    return f"{BATCHES}{batch}/"


def results_prefix(batch: BatchId) -> str:
    """Return the prefix below which the import service writes the results of `batch`."""
    return f"{batch}/"


@attrs.frozen(kw_only=True, order=True)
class StagingKey:
    """Where one instance of a batch is staged."""

    batch: BatchId
    study: Uid
    series: Uid
    sop_instance: Uid

    @classmethod
    def of(cls, batch: BatchId, instance: SopInstance) -> StagingKey:
        """Return where `instance` belongs in `batch`."""
        return cls(batch=batch, study=instance.study, series=instance.series, sop_instance=instance.sop_instance)

    @classmethod
    def parse(cls, path: str) -> StagingKey:
        """
        Read a key back; what stands before `batches/` is ignored, since result records may name a bucket's folder.

        Raises:
            InvalidIdentifier: if it is no key of this layout.

        """
        parts = path[path.rfind(BATCHES) :].split("/")
        if len(parts) != _PARTS or not path.endswith(_SUFFIX) or not parts[0]:
            raise InvalidIdentifier("staging key", path, "batches/<batch>/<study>/<series>/<instance>.dcm is expected")
        _, batch, study, series, name = parts
        return cls(
            batch=BatchId(batch),
            study=Uid(study),
            series=Uid(series),
            sop_instance=Uid(name.removesuffix(_SUFFIX)),
        )

    @property
    def path(self) -> str:
        """The key itself."""
        return f"{BATCHES}{self._tail}"

    @property
    def superseded_path(self) -> str:
        """Where the object goes when a newer copy of the instance was taken instead."""
        return f"{SUPERSEDED}{self._tail}"

    @property
    def _tail(self) -> str:
        return f"{self.batch}/{self.study}/{self.series}/{self.sop_instance}{_SUFFIX}"

    @property
    def instance_key(self) -> InstanceKey:
        """Which instance of which study this is."""
        return InstanceKey(study=self.study, sop_instance=self.sop_instance)


@attrs.frozen(kw_only=True)
class StagedObject:
    """
    One object of a listing: what its key and size tell, without opening it.

    Attributes:
        modified_at: when it was written as far as the listing says, aware UTC; for people, not for decisions.

    """

    key: StagingKey
    size: int
    modified_at: datetime | None = None


@attrs.frozen(kw_only=True)
class StagedInstance:
    """
    One staged object with the facts that travel with it.

    Attributes:
        staged_at: when the stage confirmed it, aware UTC: of two copies the one with the later time is the newer.

    """

    key: StagingKey
    instance: SopInstance
    staged_at: datetime
