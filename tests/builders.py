"""
Valid domain values for tests: every builder gives one that is valid by default; name only what matters.

    an_instance(7)                          the seventh instance of the usual study
    an_instance(7, study=a_uid(5))          of another study
    a_record(7, state=InstanceState.FAILED)
    a_batch(2, state=BatchState.CLOSED)

`number` keeps values apart and in order: a higher number is a later batch, a later moment, a higher UID.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from domain.batch import Batch
from domain.commitment import CommitmentPolicy, CommitmentReference, CommitmentRequest
from domain.identifiers import AeTitle, BatchId, DataStoreId, Digest, ImageSetId, ImportJobId, Uid
from domain.instance import InstanceKey, SopInstance
from domain.lifecycle import InstanceState
from domain.record import InstanceRecord, StudyHolding, StudyRecord
from domain.staging import StagedInstance, StagedObject, StagingKey

MOMENT = datetime(2025, 3, 14, 9, 30, tzinfo=UTC)
"""When everything happens by default."""

STUDY = Uid("2.25.100")
SERIES = Uid("2.25.200")
CT_IMAGE_STORAGE = Uid("1.2.840.10008.5.1.4.1.1.2")
EXPLICIT_VR_LITTLE_ENDIAN = Uid("1.2.840.10008.1.2.1")
DATA_STORE = DataStoreId("d" * 32)
MODALITY = AeTitle("MODALITY")


def a_moment(seconds: float = 0.0) -> datetime:
    """Return a moment some seconds after `MOMENT`."""
    return MOMENT + timedelta(seconds=seconds)


def a_uid(number: int = 1, root: str = "2.25.9") -> Uid:
    """Return the UID of that number; higher numbers (below 100,000) sort later."""
    return Uid(f"{root}.{10_0000 + number}")


def a_digest(number: int = 1) -> Digest:
    """Return the digest of that number."""
    return Digest(f"{number:064x}")


def a_batch_id(number: int = 1) -> BatchId:
    """Return the id of a batch opened `number` seconds after `MOMENT`."""
    return BatchId.at(a_moment(number), f"{number:04d}")


def a_job_id(number: int = 1) -> ImportJobId:
    """Return the import job id of that number."""
    return ImportJobId(f"{number:032x}")


def an_image_set(number: int = 1) -> ImageSetId:
    """Return the image set id of that number."""
    return ImageSetId(f"{number:032x}")


def an_instance(number: int = 1, **overrides: Any) -> SopInstance:
    """Return the instance of that number of the usual study."""
    usual = SopInstance(
        study=STUDY,
        series=SERIES,
        sop_instance=a_uid(number),
        sop_class=CT_IMAGE_STORAGE,
        transfer_syntax=EXPLICIT_VR_LITTLE_ENDIAN,
        size=525_000 + number,
        digest=a_digest(number),
        calling_ae_title=MODALITY,
        received_at=a_moment(number),
    )
    return attrs.evolve(usual, **overrides)


def a_staging_key(number: int = 1, *, batch: BatchId | None = None, **overrides: Any) -> StagingKey:
    """Return where that instance is staged; `overrides` are those of `an_instance`."""
    return StagingKey.of(batch or a_batch_id(), an_instance(number, **overrides))


def a_staged_object(number: int = 1, *, batch: BatchId | None = None, **overrides: Any) -> StagedObject:
    """Return that instance as a listing shows it; `overrides` are those of `an_instance`."""
    instance = an_instance(number, **overrides)
    return StagedObject(key=StagingKey.of(batch or a_batch_id(), instance), size=instance.size)


def a_staged_instance(
    number: int = 1, *, batch: BatchId | None = None, staged_at: datetime | None = None, **overrides: Any
) -> StagedInstance:
    """Return that instance, staged half a second after it was received; `overrides` are those of `an_instance`."""
    instance = an_instance(number, **overrides)
    return StagedInstance(
        key=StagingKey.of(batch or a_batch_id(), instance),
        instance=instance,
        staged_at=staged_at or instance.received_at + timedelta(seconds=0.5),
    )


def a_key(number: int = 1, *, study: Uid = STUDY) -> InstanceKey:
    """Return the key of that instance."""
    return InstanceKey(study=study, sop_instance=a_uid(number))


def a_record(number: int = 1, *, study: Uid = STUDY, **overrides: Any) -> InstanceRecord:
    """
    Return the record of that instance in the first batch, STAGED unless `state` says otherwise.

    An IMPORTED, FAILED or SUPERSEDED one has the fields that belong to its state.
    """
    usual = InstanceRecord.of(a_staged_instance(number, study=study, batch=overrides.get("batch")), attempt=1)
    belongs: dict[InstanceState, dict[str, Any]] = {
        InstanceState.IMPORTED: {
            "data_store": DATA_STORE,
            "image_set": an_image_set(),
            "image_set_version": 1,
            "is_primary": True,
        },
        InstanceState.FAILED: {"reason": "ValidationException: no transfer syntax"},
        InstanceState.SUPERSEDED: {"reason": "a newer copy is elsewhere", "superseded_by": a_batch_id(99)},
    }
    return attrs.evolve(usual, **{**belongs.get(overrides.get("state", usual.state), {}), **overrides})


def a_batch(number: int = 1, **overrides: Any) -> Batch:
    """Return the batch of that number, just opened, unless `overrides` say otherwise."""
    usual = Batch(id=a_batch_id(number), owner="receiver-1", opened_at=a_moment(number))
    return attrs.evolve(usual, **overrides)


def a_holding(number: int = 1, **overrides: Any) -> StudyHolding:
    """Return what the batch of that number holds of the usual study: one pending instance."""
    usual = StudyHolding(
        study=STUDY,
        batch=a_batch_id(number),
        received=1,
        size=525_000,
        first_received=a_moment(number),
        last_received=a_moment(number),
    )
    return attrs.evolve(usual, **overrides)


def a_study(number: int = 0, **overrides: Any) -> StudyRecord:
    """Return a study received at that second; number 0 is the usual one."""
    usual = StudyRecord(
        study=a_uid(number, root="2.25.8") if number else STUDY,
        first_received=a_moment(number),
        last_received=a_moment(number),
        study_date="20250314",
        modalities=("CT",),
        accession_number="A-1",
        description="CT chest",
    )
    return attrs.evolve(usual, **overrides)


def a_reference(number: int = 1, **overrides: Any) -> CommitmentReference:
    """Return the reference to that instance."""
    return attrs.evolve(CommitmentReference(CT_IMAGE_STORAGE, a_uid(number)), **overrides)


def a_commitment(number: int = 1, **overrides: Any) -> CommitmentRequest:
    """Return a request for two instances, made at that second and claimed by nobody."""
    usual: dict[str, Any] = {
        "transaction": a_uid(number, root="2.25.5"),
        "requestor": MODALITY,
        "called": AeTitle("STORESCP"),
        "association": f"association-{number}",
        "references": (a_reference(1), a_reference(2)),
        "requested_at": a_moment(number),
        "due_at": a_moment(number),
    }
    return CommitmentRequest(**{**usual, **overrides})


A_POLICY = CommitmentPolicy()
"""The policy as it is without settings."""
