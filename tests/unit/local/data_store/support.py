"""
A data store in a temporary folder, Part 10 objects made to measure, and a clock that stands still.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from adapters.outbound.local.data_store import (
    EmbeddedDataStore,
    FileInputObjects,
    FileOutputObjects,
    InputObjects,
    Job,
    Limits,
    OutputObjects,
    ResultOptions,
)
from domain.identifiers import DataStoreId

STORE = DataStoreId("d" * 32)
CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG = "1.2.840.10008.1.2.4.50"
DEFLATED = "1.2.840.10008.1.2.1.99"


@attrs.define
class StandingClock:
    """Moves when told to."""

    moment: datetime = datetime(2026, 5, 4, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def forward(self, **delta: float) -> None:
        self.moment += timedelta(**delta)


def a_data_set(sop: str | None = "1.2.3.1", series: str = "1.2.3", study: str = "1.2", **elements: Any) -> Dataset:
    """Make a small CT slice; an element given as None is left out."""
    data_set = Dataset()
    values = {
        "SOPClassUID": CT,
        "SOPInstanceUID": sop,
        "StudyDate": "20260504",
        "AccessionNumber": "ACC1",
        "Modality": "CT",
        "PatientName": "Doe^Jane",
        "PatientID": "PAT1",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "StudyID": "S1",
        "SeriesNumber": "1",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 2,
        "Columns": 2,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": b"\1\2\3\4",
    }
    for keyword, value in {**values, **elements}.items():
        if value is not None:
            tag = Tag(keyword)
            vr = "OB" if keyword == "PixelData" else dictionary_VR(tag)
            data_set.add(DataElement(tag, vr, value, validation_mode=IGNORE))
    return data_set


def part10(data_set: Dataset, transfer_syntax: str | None = ExplicitVRLittleEndian, *, keep_meta: bool = True) -> bytes:
    """Encode a data set; pydicom's own checks are left out, since what is wrong on purpose must come through."""
    body = _encoded(
        data_set,
        implicit=transfer_syntax == "1.2.840.10008.1.2",
        little=transfer_syntax != "1.2.840.10008.1.2.2",
    )
    if transfer_syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = deflater.compress(body) + deflater.flush()
    if not keep_meta:
        return body
    meta = Dataset()
    meta.MediaStorageSOPClassUID = CT
    if transfer_syntax is not None:
        meta.TransferSyntaxUID = transfer_syntax
    group = _encoded(meta, implicit=False, little=True)
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(group)) + group + body


def _encoded(data_set: Dataset, *, implicit: bool, little: bool) -> bytes:
    stream = DicomBytesIO()
    stream.is_implicit_VR = implicit
    stream.is_little_endian = little
    write_dataset(stream, data_set, data_set.get("SpecificCharacterSet", "iso8859"))
    return bytes(stream.getvalue())


def an_object(sop: str = "1.2.3.1", **elements: Any) -> bytes:
    """Encode `a_data_set`."""
    return part10(a_data_set(sop, **elements))


def encapsulated(frames: Sequence[bytes], *, has_table: bool = True, **elements: Any) -> Dataset:
    """Make a data set with compressed frames, one fragment each."""
    pixels = encapsulate(list(frames), has_bot=has_table)
    data_set = a_data_set(**{"NumberOfFrames": str(len(frames)), "PixelData": pixels, **elements})
    data_set["PixelData"].is_undefined_length = True
    return data_set


@attrs.define(kw_only=True)
class Site:
    """A data store with its input and output folders."""

    root: Path
    clock: StandingClock = attrs.field(factory=StandingClock)
    store: EmbeddedDataStore = attrs.field(init=False)
    jobs: int = 0

    def __attrs_post_init__(self) -> None:
        self.store = self.open()

    @property
    def folder(self) -> Path:
        return self.root / "datastore" / STORE.value

    def open(
        self,
        *,
        inputs: InputObjects | None = None,
        outputs: OutputObjects | None = None,
        rate: float = math.inf,
        burst: int = 2,
        concurrency: int = 100,
        limits: Limits | None = None,
        options: ResultOptions | None = None,
        workers: int = 0,
    ) -> EmbeddedDataStore:
        """Open the data store once more, as another process would."""
        return EmbeddedDataStore(
            self.folder,
            STORE,
            inputs or FileInputObjects(self.root / "in"),
            outputs or FileOutputObjects(self.root / "out"),
            self.clock,
            rate=rate,
            burst=burst,
            concurrency=concurrency,
            limits=limits,
            options=options,
            workers=workers,
        )

    def reopen(self, **settings: Any) -> EmbeddedDataStore:
        """Close the data store and open it with other settings."""
        self.store.close()
        self.store = self.open(**settings)
        return self.store

    def put(self, prefix: str, objects: dict[str, bytes] | Sequence[bytes]) -> None:
        """Write objects below `prefix`; a sequence gets names in order."""
        named = objects if isinstance(objects, dict) else {f"{n:04}.dcm": body for n, body in enumerate(objects)}
        for name, body in named.items():
            path = self.root / "in" / prefix / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)

    def submit(self, prefix: str = "b/") -> Job:
        self.jobs += 1
        return self.store.start_import_job(f"token-{self.jobs}", f"job-{self.jobs}", prefix, "results/")

    def run(self, objects: dict[str, bytes] | Sequence[bytes]) -> Results:
        """Import objects in a job of their own."""
        prefix = f"batch-{self.jobs + 1}/"
        self.put(prefix, objects)
        job = self.submit(prefix)
        self.store.run_pending()
        return self.results(job)

    def results(self, job: Job) -> Results:
        job = self.store.describe(job.job_id)
        folder = self.root / "out" / job.output_prefix
        return Results(
            job=job,
            manifest=json.loads((folder / "job-output-manifest.json").read_text())["jobSummary"],
            success=_records(folder / "SUCCESS/success.ndjson"),
            failure=_records(folder / "FAILURE/failure.ndjson"),
            warning=_records(folder / "WARNING/warning.ndjson"),
        )


@attrs.frozen(kw_only=True)
class Results:
    """What a job wrote, parsed."""

    job: Job
    manifest: dict[str, Any]
    success: list[dict[str, Any]]
    failure: list[dict[str, Any]]
    warning: list[dict[str, Any]]

    @property
    def responses(self) -> list[dict[str, Any]]:
        """The import responses of all imported files, in order of their keys."""
        records = sorted([*self.success, *self.warning], key=lambda record: str(record["inputFile"]))
        return [record["importResponse"] for record in records]

    @property
    def messages(self) -> list[str]:
        return [record["exception"]["message"] for record in self.failure]

    @property
    def warned(self) -> list[str]:
        """The kinds of all warnings."""
        return [each["type"] for record in self.warning for each in record["importResponse"]["warnings"]]


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
