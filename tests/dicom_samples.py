"""DICOM files made for tests: small, valid, each of its own number."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from tests.builders import SERIES, STUDY, a_uid


def a_file(
    folder: Path, number: int, *, sop_class: str = CTImageStorage, syntax: str = ExplicitVRLittleEndian, size: int = 64
) -> Path:
    """Write the instance of that number of the usual study, with pixel data of that many bytes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(a_uid(number).value)
    meta.TransferSyntaxUID = UID(syntax)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = a_uid(number).value
    dataset.StudyInstanceUID = STUDY.value
    dataset.SeriesInstanceUID = SERIES.value
    dataset.PatientName = "Test^Patient"
    dataset.add_new(0x7FE00010, "OW", bytes(size))
    path = folder / f"{number}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path
