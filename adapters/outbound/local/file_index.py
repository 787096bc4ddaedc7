"""
The facts that travel with each object: one line each in the batch's index, rebuilt from the object if a line is lost.

The index lies outside the batch's prefix, so nobody imports it, and it is written without a sync: the objects are
the truth. A line is believed if it is whole and speaks of an object of the size that is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import pydicom
from blake3 import blake3

from adapters.outbound.local.files import FileOperations, from_nanoseconds
from domain.errors import InvalidIdentifier
from domain.identifiers import AeTitle, BatchId, Digest, Uid
from domain.instance import SopInstance, digest_of
from domain.staging import StagedInstance, StagingKey

_READ_BYTES = 1 << 20
_PREAMBLE_BYTES = 128
_LONG_VRS = frozenset({b"OB", b"OW", b"UN", b"UT", b"SQ", b"OF", b"OD", b"OL", b"OV", b"UC", b"UR", b"SV", b"UV"})
_IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_UNKNOWN_SOP_CLASS = Uid("0")
_UNKNOWN_AE_TITLE = AeTitle("UNKNOWN")


class FileIndex:
    """
    The indexes of all batches, one file each.

    Args:
        folder: where they are.
        operations: how files are handled.

    """

    _OPEN_FILES = 8

    def __init__(self, folder: Path, operations: FileOperations) -> None:
        self._folder = folder
        self._operations = operations
        self._lock = threading.Lock()
        self._open: OrderedDict[BatchId, int] = OrderedDict()

    def append(self, staged: StagedInstance) -> None:
        """Add a line; one that cannot be written is left out, since the object tells the same."""
        line = encode_line(staged) + b"\n"
        with self._lock, contextlib.suppress(OSError):
            self._operations.write(self._opened(staged.key.batch), line)

    def read(self, batch: BatchId) -> Mapping[StagingKey, StagedInstance]:
        """Return what the whole lines say; another process may be appending."""
        found = {}
        try:
            content = self._path(batch).read_bytes()
        except FileNotFoundError:
            return {}
        for line in content.split(b"\n"):
            # a torn line, or zeros where the disk had got no further, is no JSON of ours
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, InvalidIdentifier):
                staged = decode_line(batch, line)
                found[staged.key] = staged
        return found

    def forget(self, batch: BatchId) -> None:
        """Remove the index of a batch that has no objects any more."""
        with self._lock:
            descriptor = self._open.pop(batch, None)
            if descriptor is not None:
                self._operations.close(descriptor)
            with contextlib.suppress(OSError):
                self._operations.unlink(str(self._path(batch)))

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            while self._open:
                self._operations.close(self._open.popitem()[1])

    def _opened(self, batch: BatchId) -> int:
        descriptor = self._open.get(batch)
        if descriptor is None:
            path = str(self._path(batch))
            try:
                descriptor = self._operations.open_to_append(path)
            except FileNotFoundError:
                self._operations.make_folder(str(self._folder))
                descriptor = self._operations.open_to_append(path)
            try:
                if os.fstat(descriptor).st_size:
                    # ends a line that a crash may have torn, so that ours is not glued to it
                    self._operations.write(descriptor, b"\n")
            except OSError:
                self._operations.close(descriptor)
                raise
            self._open[batch] = descriptor
            if len(self._open) > self._OPEN_FILES:
                self._operations.close(self._open.popitem(last=False)[1])
        return descriptor

    def _path(self, batch: BatchId) -> Path:
        return self._folder / f"{batch}.ndjson"


def encode_line(staged: StagedInstance) -> bytes:
    """
    Return the facts of an object as one line of JSON, all but its batch.

    By hand, since it is written for each instance and only a title may need escapes.
    """
    instance = staged.instance
    return (
        f'{{"study":"{instance.study.value}","series":"{instance.series.value}"'
        f',"sop_instance":"{instance.sop_instance.value}","size":{instance.size},"digest":"{instance.digest.value}"'
        f',"sop_class":"{instance.sop_class.value}","transfer_syntax":"{instance.transfer_syntax.value}"'
        f',"calling_ae_title":{_quoted(instance.calling_ae_title.value)}'
        f',"received_at":"{instance.received_at.isoformat()}","staged_at":"{staged.staged_at.isoformat()}"}}'
    ).encode("ascii")


@lru_cache(maxsize=256)
def _quoted(title: str) -> str:
    return json.dumps(title)


def decode_line(batch: BatchId, encoded: bytes) -> StagedInstance:
    """
    Return what a line says.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, InvalidIdentifier: it is none of ours.

    """
    line: Mapping[str, Any] = json.loads(encoded)
    instance = SopInstance(
        study=Uid(line["study"]),
        series=Uid(line["series"]),
        sop_instance=Uid(line["sop_instance"]),
        sop_class=Uid(line["sop_class"]),
        transfer_syntax=Uid(line["transfer_syntax"]),
        size=int(line["size"]),
        digest=Digest(line["digest"]),
        calling_ae_title=AeTitle(line["calling_ae_title"]),
        received_at=datetime.fromisoformat(line["received_at"]),
    )
    return StagedInstance(
        key=StagingKey.of(batch, instance),
        instance=instance,
        staged_at=datetime.fromisoformat(line["staged_at"]),
    )


@attrs.frozen(kw_only=True)
class _Header:
    """What the file meta information says, and where the data set begins."""

    transfer_syntax: Uid
    calling_ae_title: AeTitle
    data_set_at: int


def rebuild(key: StagingKey, path: str) -> StagedInstance:
    """
    Tell the facts of an object from the object itself: all but the time received, which becomes the time staged.

    What cannot be read is still told of, with a SOP class of 0, so that the import reports it and nothing vanishes.

    Raises:
        OSError: if it cannot be read, or is gone.

    """
    with Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        header = _read_header(file)
        data_set = blake3()
        file.seek(header.data_set_at)
        while piece := file.read(_READ_BYTES):
            data_set.update(piece)
        file.seek(0)
        sop_class = _read_sop_class(file)
    staged_at = from_nanoseconds(status.st_mtime_ns)
    instance = SopInstance(
        study=key.study,
        series=key.series,
        sop_instance=key.sop_instance,
        sop_class=sop_class,
        transfer_syntax=header.transfer_syntax,
        size=status.st_size,
        digest=digest_of(data_set, header.transfer_syntax),
        calling_ae_title=header.calling_ae_title,
        received_at=staged_at,
    )
    return StagedInstance(key=key, instance=instance, staged_at=staged_at)


def _read_header(file: BinaryIO) -> _Header:
    """Walk group 0002 (PS3.10 7.1), Explicit VR Little Endian; the data set begins where it stops making sense."""
    values: dict[int, bytes] = {}
    at = 0
    if file.read(_PREAMBLE_BYTES + 4)[_PREAMBLE_BYTES:] == b"DICM":
        at = _PREAMBLE_BYTES + 4
        while True:
            file.seek(at)
            head = file.read(12)
            if len(head) < 8 or head[:2] != b"\x02\x00":  # noqa: PLR2004  # tag, VR and length
                break
            element, vr = int.from_bytes(head[2:4], "little"), head[4:6]
            try:
                length, start = (
                    (struct.unpack_from("<I", head, 8)[0], 12)
                    if vr in _LONG_VRS
                    else (struct.unpack_from("<H", head, 6)[0], 8)
                )
            except struct.error:
                break
            file.seek(at + start)
            values[element] = file.read(min(length, 128))
            at += start + length
    try:
        transfer_syntax = Uid.parse(values.get(0x0010, b"").decode("ascii", "replace"))
    except InvalidIdentifier:
        transfer_syntax = Uid(_IMPLICIT_VR_LITTLE_ENDIAN)
    try:
        calling_ae_title = AeTitle.parse(values.get(0x0016, b"").decode("ascii", "replace").rstrip("\0"))
    except InvalidIdentifier:
        calling_ae_title = _UNKNOWN_AE_TITLE
    return _Header(transfer_syntax=transfer_syntax, calling_ae_title=calling_ae_title, data_set_at=at)


def _read_sop_class(file: BinaryIO) -> Uid:
    try:
        head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return Uid.parse(str(head.get("SOPClassUID", "")))
    except Exception:  # noqa: BLE001  # pydicom raises whatever damaged bytes lead it to; the import says what is wrong
        return _UNKNOWN_SOP_CLASS
