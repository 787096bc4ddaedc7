"""
Records as plain documents: what is written of a batch, instance, holding, study or commitment request, and read back.

A document is a dict that JSON can hold; None and empty tuples are left out.
Each carries the `version` of its format.
A field that was added later needs no new version: where a document lacks it, the domain's default holds.
A field that changes its meaning does: raise the version and add to `upgrades` how the previous one is read.

Laws:
- Reading back what was written gives the same value.
- Fields that are not known are ignored, so a program one step older still reads what a newer one wrote.
- A document of a version from the future, or a damaged one, is MetadataUnavailable and never a wrong value.
"""

from __future__ import annotations

import json
import zlib
from base64 import b85decode, b85encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar, cast

import attrs

from domain.batch import Batch, CloseReason
from domain.commitment import (
    COMMITTED,
    CommitmentReference,
    CommitmentRequest,
    CommitmentState,
    FailureReason,
    Verdict,
)
from domain.errors import InvalidIdentifier, MetadataUnavailable
from domain.identifiers import AeTitle, BatchId, DataStoreId, Digest, ImageSetId, ImportJobId, Uid
from domain.instance import InstanceKey
from domain.lifecycle import BatchState, InstanceState
from domain.record import InstanceRecord, StudyHolding, StudyRecord

Document = dict[str, Any]
"""What JSON can hold; `Any` because that is where the types of the domain end."""

VERSION = "version"

_Record = TypeVar("_Record")
_Read = Callable[[Any], object]


def time_text(moment: datetime) -> str:
    """
    Return an aware time as text of fixed length in UTC, which sorts as the times do.

    Raises:
        ValueError: for a time without a zone.

    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be recorded")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _own_fields(record: Any) -> Mapping[str, object]:  # noqa: ANN401  # any attrs class
    return {field.name: getattr(record, field.name) for field in attrs.fields(type(record))}


@attrs.frozen(kw_only=True)
class RecordFormat(Generic[_Record]):
    """
    How one kind of record is written and read.

    Attributes:
        kind: its name for messages.
        version: what is written.
        build: makes the record from its fields.
        fields: how the plain value of each field becomes the domain's.
        flatten: the fields of a record; those of its parts stand beside its own.
        upgrades: from an older version, how its document becomes one of the next version.

    """

    kind: str
    build: Callable[..., _Record]
    fields: Mapping[str, _Read]
    version: int = 1
    flatten: Callable[[Any], Mapping[str, object]] = _own_fields
    upgrades: Mapping[int, Callable[[Document], Document]] = attrs.field(factory=dict)

    def write(self, record: _Record) -> Document:
        """Return the document of `record`."""
        document: Document = {VERSION: self.version}
        for name, value in self.flatten(record).items():
            if value is not None and value != ():
                document[name] = _plain(value)
        return document

    def read(self, document: Mapping[str, Any]) -> _Record:
        """
        Return the record of a document of this version, or of an older one that `upgrades` knows.

        Raises:
            MetadataUnavailable: if it is of another version or damaged.

        """
        try:
            current = self._upgraded(dict(document))
            values = {name: read(current[name]) for name, read in self.fields.items() if name in current}
            return self.build(**values)
        except (AttributeError, KeyError, TypeError, ValueError, InvalidIdentifier) as error:
            # The values themselves stay out of the message: texts from data sets and the service are among them.
            raise MetadataUnavailable(f"the record of a {self.kind} is damaged ({type(error).__name__})") from error

    def dumps(self, record: _Record) -> str:
        """Return the document of `record` as JSON, in ASCII: whatever a text holds survives, lone surrogates too."""
        return json.dumps(self.write(record), separators=(",", ":"))

    def loads(self, text: str) -> _Record:
        """Return the record of a JSON document (errors as for `read`)."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise MetadataUnavailable(f"the record of a {self.kind} is not JSON") from error
        if not isinstance(document, dict):
            raise MetadataUnavailable(f"the record of a {self.kind} is not a JSON object")
        return self.read(document)

    def _upgraded(self, document: Document) -> Document:
        version = _number(document[VERSION])
        while version != self.version:
            upgrade = self.upgrades.get(version)
            if upgrade is None:
                raise MetadataUnavailable(
                    f"the record of a {self.kind} has version {version}, this program reads up to"
                    f" {self.version}: another version of the program wrote it, use that or a newer one"
                )
            document = upgrade(document)
            version += 1
        return document


def _plain(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    # What is left are identifiers: one text each.
    return cast("Uid", value).value


def _time(value: str) -> datetime:
    return datetime.fromisoformat(value).astimezone(UTC)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number is expected")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false is expected")
    return value


def _texts(value: list[object]) -> tuple[str, ...]:
    return tuple(_text(item) for item in value)


def _batch_ids(value: list[str]) -> tuple[BatchId, ...]:
    return tuple(BatchId(item) for item in value)


BATCH = RecordFormat(
    kind="batch",
    build=Batch,
    fields={
        "id": BatchId,
        "owner": _text,
        "opened_at": _time,
        "state": BatchState,
        "lease_expires_at": _time,
        "closed_at": _time,
        "close_reason": CloseReason,
        "attempt": _number,
        "run": _number,
        "is_cleared": _flag,
        "files": _number,
        "size": _number,
        "job_id": ImportJobId,
        "previous_job_id": ImportJobId,
        "submitted_at": _time,
        "settled_at": _time,
        "server_retries": _number,
        "reason": _text,
        "is_told": _flag,
        "revision": _number,
    },
)


def _instance_fields(record: InstanceRecord) -> Mapping[str, object]:
    fields = dict(_own_fields(record))
    del fields["key"]
    return {"study": record.key.study, "sop_instance": record.key.sop_instance, **fields}


def _instance(*, study: Uid, sop_instance: Uid, **fields: Any) -> InstanceRecord:  # noqa: ANN401  # named below
    return InstanceRecord(key=InstanceKey(study=study, sop_instance=sop_instance), **fields)


INSTANCE = RecordFormat(
    kind="instance",
    build=_instance,
    flatten=_instance_fields,
    fields={
        "study": Uid,
        "sop_instance": Uid,
        "series": Uid,
        "batch": BatchId,
        "staged_at": _time,
        "attempt": _number,
        "sop_class": Uid,
        "digest": Digest,
        "size": _number,
        "received_at": _time,
        "calling_ae_title": AeTitle,
        "state": InstanceState,
        "reason": _text,
        "is_server_error": _flag,
        "data_store": DataStoreId,
        "image_set": ImageSetId,
        "image_set_version": _number,
        "is_primary": _flag,
        "warnings": _texts,
        "conflict": _text,
        "superseded_by": BatchId,
        "earlier": _batch_ids,
    },
)

HOLDING = RecordFormat(
    kind="study's part in a batch",
    build=StudyHolding,
    fields={
        "study": Uid,
        "batch": BatchId,
        "received": _number,
        "imported": _number,
        "failed": _number,
        "conflicts": _number,
        "size": _number,
        "first_received": _time,
        "last_received": _time,
    },
)

STUDY = RecordFormat(
    kind="study",
    build=StudyRecord,
    fields={
        "study": Uid,
        "first_received": _time,
        "last_received": _time,
        "study_date": _text,
        "modalities": _texts,
        "accession_number": _text,
        "description": _text,
        "patient_name": _text,
        "patient_id": _text,
    },
)


def _request_fields(request: CommitmentRequest) -> Mapping[str, object]:
    fields = dict(_own_fields(request))
    del fields["references"], fields["verdicts"]
    return {**fields, "instances": _packed(request.references, request.verdicts)}


def _packed(references: Sequence[CommitmentReference], verdicts: Sequence[Verdict | None]) -> str:
    """Compress what would not fit otherwise: 9,000 references have to fit into one item of 400 KB."""
    lines = []
    for reference, verdict in zip(references, verdicts, strict=True):
        code = "" if verdict is None else str(int(verdict.failure or 0))
        lines.append(f"{reference.sop_class} {reference.sop_instance} {code}")
    return b85encode(zlib.compress("\n".join(lines).encode("ascii"), 9)).decode("ascii")


def _unpacked(text: object) -> list[tuple[CommitmentReference, Verdict | None]]:
    try:
        lines = zlib.decompress(b85decode(_text(text))).decode("ascii").splitlines()
    except zlib.error as error:
        raise ValueError("references cannot be unpacked") from error
    pairs = []
    for line in lines:
        sop_class, sop_instance, code = line.split(" ")
        reference = CommitmentReference(Uid(sop_class), Uid(sop_instance))
        pairs.append((reference, _verdict(code)))
    return pairs


def _verdict(code: str) -> Verdict | None:
    if not code:
        return None
    return COMMITTED if code == "0" else Verdict(FailureReason(int(code)))


def _request(*, instances: list[tuple[CommitmentReference, Verdict | None]], **fields: Any) -> CommitmentRequest:  # noqa: ANN401  # named below
    return CommitmentRequest(
        references=tuple(reference for reference, _ in instances),
        verdicts=tuple(verdict for _, verdict in instances),
        **fields,
    )


COMMITMENT = RecordFormat(
    kind="storage commitment request",
    build=_request,
    flatten=_request_fields,
    fields={
        "transaction": Uid,
        "requestor": AeTitle,
        "called": AeTitle,
        "association": _text,
        "instances": _unpacked,
        "requested_at": _time,
        "due_at": _time,
        "state": CommitmentState,
        "decided_at": _time,
        "attempts": _number,
        "claimed_by": _text,
        "claimed_until": _time,
        "revision": _number,
    },
)
