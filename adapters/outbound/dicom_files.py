"""
DICOM files on disk as a sender needs them: which instance each one holds, and the bytes of its data set untouched.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import attrs
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from domain.errors import InvalidIdentifier
from domain.identifiers import Uid

_SOP_INSTANCE_UID = Tag(0x0008, 0x0018)
_META_GROUP = 0x0002
_PREAMBLE = b"\0" * 128 + b"DICM"


@attrs.frozen(kw_only=True)
class DicomFile:
    """
    One file that can be sent.

    Attributes:
        data_offset: where its data set begins.
        has_sound_header: its file meta information names what the data set holds; else a sender needs a new one.

    """

    path: Path
    sop_class: Uid
    sop_instance: Uid
    transfer_syntax: Uid
    size: int
    data_offset: int
    has_sound_header: bool = True


@attrs.frozen(kw_only=True)
class SkippedFile:
    """One file that cannot be sent, and why."""

    path: Path
    reason: str


def find_files(paths: Iterable[Path]) -> Iterator[DicomFile | SkippedFile]:
    """Look at files, and at everything in folders, in the order of their names; a file named twice comes once."""
    seen: set[Path] = set()
    for path in paths:
        for found in _walk(path):
            if isinstance(found, SkippedFile):
                yield found
            elif found not in seen:
                seen.add(found)
                yield read_file(found)


def read_file(path: Path) -> DicomFile | SkippedFile:
    """Find out what a file holds, reading no further than its SOP Instance UID."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values in a file are for the receiver to judge
            return _read(path, file)
    except InvalidDicomError:
        return SkippedFile(path=path, reason="not a DICOM file (no DICM after the preamble)")
    except InvalidIdentifier as error:
        return SkippedFile(path=path, reason=str(error))
    except OSError as error:
        return SkippedFile(path=path, reason=f"cannot be read: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001  # pydicom raises whatever a damaged file makes of it
        return SkippedFile(path=path, reason=f"damaged, its header cannot be understood ({type(error).__name__})")


@contextmanager
def sendable(file: DicomFile) -> Iterator[Path]:
    """
    Give the path of a file whose header names what its data set holds.

    That is the file itself, or a temporary copy with a new header and the same data set, byte for byte.
    """
    if file.has_sound_header:
        yield file.path
        return
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(file.sop_class.value)
    meta.MediaStorageSOPInstanceUID = UID(file.sop_instance.value)
    meta.TransferSyntaxUID = UID(file.transfer_syntax.value)
    header = DicomBytesIO()
    write_file_meta_info(header, meta, enforce_standard=False)
    with tempfile.NamedTemporaryFile(suffix=".dcm") as copy:
        copy.write(_PREAMBLE + header.getvalue())
        with file.path.open("rb") as original:
            original.seek(file.data_offset)
            shutil.copyfileobj(original, copy)
        copy.flush()
        yield Path(copy.name)


def _walk(path: Path) -> Iterator[Path | SkippedFile]:
    if not path.is_dir():
        yield _regular(path)
        return
    problems: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=problems.append):
        folders.sort()
        for name in sorted(names):
            yield _regular(Path(folder, name))
    for problem in problems:
        yield SkippedFile(path=Path(problem.filename or path), reason=f"cannot be read: {problem.strerror or problem}")


def _regular(path: Path) -> Path | SkippedFile:
    """Return a file that can be read to its end; a pipe, for one, would be waited for."""
    if path.is_file() or not path.exists():
        return path  # what is gone has its own reason
    return SkippedFile(path=path, reason="not a regular file")


def _read(path: Path, file: BinaryIO) -> DicomFile | SkippedFile:
    size = os.fstat(file.fileno()).st_size
    read_preamble(file, force=False)
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_is_past_meta)
    offset = file.tell()
    if offset >= size:
        return SkippedFile(path=path, reason="holds no data set")
    file.seek(0)
    head = _head(file)
    values = {
        "SOP Class UID": (_text(head, "SOPClassUID"), _text(meta, "MediaStorageSOPClassUID")),
        "SOP Instance UID": (_text(head, "SOPInstanceUID"), _text(meta, "MediaStorageSOPInstanceUID")),
        "Transfer Syntax UID": (_text(meta, "TransferSyntaxUID") or _guessed_syntax(head),) * 2,
    }
    for name, (in_data_set, in_meta) in values.items():
        if not (in_data_set or in_meta):
            return SkippedFile(path=path, reason=f"has no {name}")
    sop_class, sop_instance, syntax = (
        Uid.parse(in_data_set or in_meta, name) for name, (in_data_set, in_meta) in values.items()
    )
    if sop_class.value == MediaStorageDirectoryStorage:
        return SkippedFile(path=path, reason="a DICOMDIR, the directory of a medium: nothing that is stored")
    is_sound = (sop_class.value, sop_instance.value, syntax.value) == (
        _text(meta, "MediaStorageSOPClassUID"),
        _text(meta, "MediaStorageSOPInstanceUID"),
        _text(meta, "TransferSyntaxUID"),
    )
    return DicomFile(
        path=path,
        sop_class=sop_class,
        sop_instance=sop_instance,
        transfer_syntax=syntax,
        size=size,
        data_offset=offset,
        has_sound_header=is_sound,
    )


def _head(file: BinaryIO) -> FileDataset | None:
    """Return the data set as far as its SOP Instance UID; None if it is damaged: its header may do."""
    try:
        return read_partial(file, stop_when=_is_past_instance)
    except Exception:  # noqa: BLE001  # pydicom raises whatever a damaged file makes of it
        return None


def _text(source: Dataset | None, keyword: str) -> str:
    try:
        return str(source.get(keyword) or "").strip("\0 ") if source is not None else ""
    except Exception:  # noqa: BLE001  # a value that pydicom cannot convert is as good as none
        return ""


def _guessed_syntax(head: FileDataset | None) -> str:
    """Return the transfer syntax that pydicom read the data set by, for a header without one."""
    if head is None:
        return ""
    is_implicit, is_little_endian = head.original_encoding
    if is_implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian)


def _is_past_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != _META_GROUP


def _is_past_instance(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag > _SOP_INSTANCE_UID)
