"""
The metadata document of an image set: DICOM keywords by patient, study, series and instance.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from typing import BinaryIO, Final

import attrs
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement

from adapters.outbound.local.data_store.reading import Part10
from adapters.outbound.local.data_store.transfer_syntaxes import KEPT, KNOWN
from adapters.outbound.local.data_store.values import Json, document, texts

SCHEMA_VERSION: Final = "1.1"

_PATIENT: Final = frozenset(
    {
        "EthnicGroup",
        "IssuerOfPatientID",
        "OtherPatientIDs",
        "OtherPatientIDsSequence",
        "OtherPatientNames",
        "PatientBirthDate",
        "PatientBirthName",
        "PatientBirthTime",
        "PatientComments",
        "PatientID",
        "PatientMotherBirthName",
        "PatientName",
        "PatientSex",
        "ReferencedPatientSequence",
        "ResponsibleOrganization",
        "ResponsiblePerson",
    },
)
_STUDY: Final = frozenset(
    {
        "AccessionNumber",
        "AdditionalPatientHistory",
        "AdmittingDiagnosesDescription",
        "IssuerOfAccessionNumberSequence",
        "NameOfPhysiciansReadingStudy",
        "Occupation",
        "PatientAge",
        "PatientSize",
        "PatientWeight",
        "PhysiciansOfRecord",
        "ProcedureCodeSequence",
        "ReferencedStudySequence",
        "ReferringPhysicianName",
        "StudyDate",
        "StudyDescription",
        "StudyID",
        "StudyInstanceUID",
        "StudyTime",
    },
)
_SERIES: Final = frozenset(
    {
        "BodyPartExamined",
        "DeviceSerialNumber",
        "FrameOfReferenceUID",
        "InstitutionAddress",
        "InstitutionName",
        "InstitutionalDepartmentName",
        "Laterality",
        "Manufacturer",
        "ManufacturerModelName",
        "Modality",
        "OperatorsName",
        "PatientPosition",
        "PerformedProcedureStepDescription",
        "PerformedProcedureStepID",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "PerformingPhysicianName",
        "PositionReferenceIndicator",
        "ProtocolName",
        "ReferencedPerformedProcedureStepSequence",
        "RequestAttributesSequence",
        "SeriesDate",
        "SeriesDescription",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesTime",
        "SoftwareVersions",
        "StationName",
    },
)
_LEVELS: Final = {
    **dict.fromkeys(_PATIENT, "Patient"),
    **dict.fromkeys(_STUDY, "Study"),
    **dict.fromkeys(_SERIES, "Series"),
}
_DEFAULT_STORED: Final = "1.2.840.10008.1.2.4.202"  # what the service transcodes to


def levels_and_instance(
    part10: Part10, *, sop_instance: str, frames: int, frame_bytes: int | None
) -> tuple[dict[str, Json], dict[str, Json]]:
    """
    Sort the elements of one instance by level.

    Args:
        part10: the object.
        sop_instance: its SOP Instance UID.
        frames: Number of Frames, 0 without pixel data.
        frame_bytes: bytes of one frame where the encoding is native, None if unknown.

    Returns:
        Elements of "Patient", "Study" and "Series"; and the document of the instance with its own elements.

    Raises:
        RefusedFile: if a sequence makes no sense.
        OSError: if the object cannot be read.

    """
    levels: dict[str, dict[str, Json]] = {"Patient": {}, "Study": {}, "Series": {}}
    own: dict[str, Json] = {}
    for tag, element in part10.meta.items():
        values = texts(element, ("ascii",)) if isinstance(element, RawDataElement) else None
        if values and (keyword := keyword_for_tag(tag)) and keyword.endswith("UID"):
            own[keyword] = values[0]
    for _, keyword, value in document(part10.elements, part10.encodings, part10.source):
        levels.get(_LEVELS.get(keyword, ""), own)[keyword] = value
    if part10.pixels is not None:
        own[keyword_for_tag(part10.pixels.tag)] = None  # pixels are fetched by frame, as from the service
    stored = part10.transfer_syntax
    if stored in KNOWN and stored not in KEPT:
        # The local store keeps the object as it came; the document says what the service would say.
        stored = _DEFAULT_STORED
    instance: dict[str, Json] = {
        "StoredTransferSyntaxUID": stored if part10.pixels is not None else part10.transfer_syntax,
        "DICOM": own,
        "ImageFrames": [_frame(sop_instance, number, frame_bytes) for number in range(1, min(frames, _MAX_FRAMES) + 1)],
    }
    return {level: dict(elements) for level, elements in levels.items()}, instance


_MAX_FRAMES: Final = 100_000  # Number of Frames is the sender's word; more are not listed one by one


def _frame(sop_instance: str, number: int, frame_bytes: int | None) -> Json:
    identity = hashlib.sha256(f"{sop_instance}/{number}".encode()).hexdigest()[:32]
    return {"ID": identity} if frame_bytes is None else {"ID": identity, "FrameSizeInBytes": frame_bytes}


@attrs.frozen(kw_only=True)
class ImageSetHead:
    """
    What a metadata document says before its instances.

    Attributes:
        levels: compressed JSON, as `validation.Accepted.levels`.

    """

    data_store_id: str
    image_set_id: str
    version: int
    is_primary: bool
    series: str
    levels: bytes = attrs.field(repr=False)


def write_document(stream: BinaryIO, head: ImageSetHead, instances: Iterable[tuple[str, bytes]]) -> None:
    """
    Write the document of an image set, one instance in memory at a time.

    Args:
        stream: where it goes.
        head: what is said once.
        instances: SOP Instance UID and compressed JSON, as `validation.Accepted.metadata`, of each.

    """
    levels = json.loads(zlib.decompress(head.levels))
    opening = {
        "SchemaVersion": SCHEMA_VERSION,
        "DatastoreID": head.data_store_id,
        "ImageSetID": head.image_set_id,
        "VersionID": str(head.version),
        "IsPrimary": head.is_primary,
        "Patient": {"DICOM": levels["Patient"]},
    }
    stream.write(json.dumps(opening).removesuffix("}").encode())
    stream.write(b', "Study": {"DICOM": ' + json.dumps(levels["Study"]).encode())
    stream.write(b', "Series": {' + json.dumps(head.series).encode())
    stream.write(b': {"DICOM": ' + json.dumps(levels["Series"]).encode() + b', "Instances": {')
    for position, (sop_instance, metadata) in enumerate(instances):
        stream.write((b"," if position else b"") + b"\n")
        stream.write(json.dumps(sop_instance).encode() + b": " + zlib.decompress(metadata))
    stream.write(b"\n}}}}}\n")
