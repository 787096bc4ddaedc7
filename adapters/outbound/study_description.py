"""
What a person recognises a study by, read from the head of one object with pydicom.

Nothing in a data set is an error here: what cannot be read is left out.
"""

from __future__ import annotations

import io
import warnings
import zlib

import attrs
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from domain.record import StudyDescription

_LAST_TAG = 0x00100020  # Patient ID: nothing wanted comes after it
_INFLATED_BYTES = 262_144
_TEXT_CHARACTERS = 256


@attrs.frozen(kw_only=True)
class PydicomStudyDescriber:
    """
    Read study date, modality, accession number and description.

    Attributes:
        with_patient: read patient name and ID too; off unless a setting asks for it.

    """

    with_patient: bool = False

    def __call__(self, head: bytes) -> StudyDescription:
        """Return what the head of a Part 10 object says of its study."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's warnings quote values of the data set
                dataset = _read(head)
                return StudyDescription(
                    study_date=_text(dataset, "StudyDate"),
                    modality=_text(dataset, "Modality"),
                    accession_number=_text(dataset, "AccessionNumber"),
                    description=_text(dataset, "StudyDescription"),
                    patient_name=_text(dataset, "PatientName") if self.with_patient else None,
                    patient_id=_text(dataset, "PatientID") if self.with_patient else None,
                )
        except Exception:  # noqa: BLE001  # whatever a parser meets in foreign bytes, the study is described without it
            return StudyDescription()


def _read(head: bytes) -> Dataset:
    source = io.BytesIO(head)
    meta = read_partial(source, stop_when=lambda tag, _vr, _length: tag >= BaseTag(0x00080000), force=True)
    if meta.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return _read_deflated(head)
    source.seek(0)
    return read_partial(source, stop_when=_is_past, force=True)


def _read_deflated(head: bytes) -> Dataset:
    """Inflate what there is of the data set (PS3.5 A.5); the head of a deflated stream has no end."""
    length_at = 132
    group_length = int.from_bytes(head[length_at + 8 : length_at + 12], "little")
    start = length_at + 12 + group_length
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head[start:], _INFLATED_BYTES)
    source = io.BytesIO(inflated)
    return read_partial(source, stop_when=_is_past, force=True)


def _is_past(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag > _LAST_TAG)


def _text(dataset: Dataset, keyword: str) -> str | None:
    value = dataset.get(keyword)
    text = "" if value is None else str(value).strip()
    return text[:_TEXT_CHARACTERS] or None
