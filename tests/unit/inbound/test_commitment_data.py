"""The data sets of storage commitment: pydicom writes what we read, and reads what we write."""

from __future__ import annotations

import contextlib
import zlib
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from adapters.inbound.dicom.commitment_data import (
    TRANSFER_SYNTAXES,
    encode_information,
    event_information,
    event_type,
    read_request,
)
from domain.commitment import MOST_REFERENCES, CommitmentReference, CommitmentResult, FailureReason
from domain.errors import UnreadableDataSet
from domain.identifiers import AeTitle, Uid
from tests.builders import CT_IMAGE_STORAGE, a_reference, a_uid

IMPLICIT, EXPLICIT, BIG, DEFLATED = (f"1.2.840.10008.1.2{suffix}" for suffix in ("", ".1", ".2", ".1.99"))


def a_request(*numbers: int, is_undefined: bool = False, **changes: Any) -> Dataset:
    data_set = Dataset()
    data_set.TransactionUID = "2.25.5.1"
    data_set.ReferencedSOPSequence = Sequence([an_item(number) for number in numbers])
    for keyword, value in changes.items():
        setattr(data_set, keyword, value)
    if is_undefined:
        for element in data_set.iterall():
            if element.VR == "SQ":
                element.is_undefined_length = True
                for item in element.value:
                    item.is_undefined_length_sequence_item = True
    return data_set


def an_item(number: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = CT_IMAGE_STORAGE.value
    item.ReferencedSOPInstanceUID = a_uid(number).value
    return item


def encoded(data_set: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == IMPLICIT
    buffer.is_little_endian = syntax != BIG
    write_dataset(buffer, data_set)
    data = buffer.getvalue()
    if syntax != DEFLATED:
        return data
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


def decoded(data: bytes, syntax: str) -> Dataset:
    plain = zlib.decompress(data, -15) if syntax == DEFLATED else data
    return read_dataset(BytesIO(plain), syntax == IMPLICIT, syntax != BIG)


@pytest.mark.parametrize("is_undefined", [False, True], ids=["defined", "undefined"])
@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
def test_a_request_is_read_in_every_encoding(syntax: str, is_undefined: bool) -> None:
    asked = read_request(encoded(a_request(1, 2, is_undefined=is_undefined), syntax), syntax)
    assert asked.transaction == Uid("2.25.5.1")
    assert asked.references == (a_reference(1), a_reference(2))


@pytest.mark.parametrize("is_undefined", [False, True], ids=["defined", "undefined"])
@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
def test_what_else_stands_in_a_request_is_passed_over(syntax: str, is_undefined: bool) -> None:
    inner = Dataset()
    inner.CodeValue = "1"
    inner.ReferencedSOPSequence = Sequence([an_item(9)])
    item = an_item(1)
    item.StorageMediaFileSetID = "SET"
    item.PurposeOfReferenceCodeSequence = Sequence([inner, Dataset()])
    other = an_item(8)
    request = a_request(
        SpecificCharacterSet="ISO_IR 192",
        StorageMediaFileSetUID="2.25.3",
        ReferencedSOPSequence=Sequence([item]),
        ReferencedPerformedProcedureStepSequence=Sequence([other]),
        is_undefined=is_undefined,
    )
    request.add_new(0x00091001, "UN", b"\1\2\3\4")
    asked = read_request(encoded(request, syntax), syntax)
    assert asked.references == (a_reference(1),)


@pytest.mark.parametrize(
    "request_,words",
    [
        (a_request(), "Referenced SOP Sequence is missing"),
        (Dataset(), "Referenced SOP Sequence is missing"),
        (a_request(1, TransactionUID=""), "Transaction UID is missing"),
        (a_request(1, ReferencedSOPSequence=Sequence([Dataset()])), "Referenced SOP Class UID is missing"),
    ],
)
def test_a_request_without_what_it_needs_is_unreadable(request_: Dataset, words: str) -> None:
    with pytest.raises(UnreadableDataSet, match=words):
        read_request(encoded(request_, EXPLICIT), EXPLICIT)


@pytest.mark.parametrize(
    "data,syntax",
    [
        (b"\x08", IMPLICIT),
        (b"\x08\0\x95\x11\xff\0\0\0", IMPLICIT),
        (b"\x08\0\x95\x11UN\0\0", EXPLICIT),
        (b"\x08\0\x99\x11\xff\xff\xff\xff", IMPLICIT),
        (b"\x08\0\x99\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff", IMPLICIT),
        (b"\x08\0\x99\x11\x08\0\0\0\x08\0\x50\x11\0\0\0\0", IMPLICIT),
        (
            b"\x08\0\x11\x11\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\0\x11\x11\xff\xff\xff\xff" * 99,
            IMPLICIT,
        ),
        (b"not deflated", DEFLATED),
        (zlib.compress(bytes(5 * 2**20))[2:], DEFLATED),
    ],
)
def test_damage_is_one_error(data: bytes, syntax: str) -> None:
    with pytest.raises(UnreadableDataSet):
        read_request(data, syntax)


VALID = {syntax: encoded(a_request(1, 2, 3, is_undefined=True), syntax) for syntax in TRANSFER_SYNTAXES}


@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
def test_mutations_are_read_or_refused_and_nothing_else(syntax: str, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(VALID[syntax])
    for position, value in changes:
        data[position % len(data)] = value
    with contextlib.suppress(UnreadableDataSet):
        read_request(bytes(data[: len(data) - cut % len(data)]), syntax)


def a_result(**changes: Any) -> CommitmentResult:
    facts: dict[str, Any] = {
        "transaction": Uid("2.25.5.1"),
        "requestor": AeTitle("CT1"),
        "called": AeTitle("STORESCP"),
        "committed": (a_reference(1),),
        **changes,
    }
    return CommitmentResult(**facts)


@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
def test_a_result_is_written_in_every_encoding(syntax: str) -> None:
    result = a_result(failed=((a_reference(2), FailureReason.NO_SUCH_INSTANCE),))
    data = encode_information(event_information(result), syntax)
    assert len(data) % 2 == 0
    read = decoded(data, syntax)
    assert read.TransactionUID == "2.25.5.1"
    (committed,) = read.ReferencedSOPSequence
    assert (committed.ReferencedSOPClassUID, committed.ReferencedSOPInstanceUID) == (
        CT_IMAGE_STORAGE.value,
        a_uid(1).value,
    )
    (failed,) = read.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (a_uid(2).value, 0x0112)


def test_only_the_sequences_that_hold_something_are_written() -> None:
    failure = ((a_reference(2), FailureReason.PROCESSING_FAILURE),)
    assert (event_type(a_result()), "FailedSOPSequence" in event_information(a_result())) == (1, False)
    none_committed = a_result(committed=(), failed=failure)
    assert (event_type(none_committed), "ReferencedSOPSequence" in event_information(none_committed)) == (2, False)


def test_a_uid_that_breaks_the_rules_is_named_as_it_was_received() -> None:
    odd = CommitmentReference(CT_IMAGE_STORAGE, Uid("1.02..3"))
    data = encode_information(event_information(a_result(committed=(odd,))), EXPLICIT)
    assert b"1.02..3\0" in data


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_of_too_many_references_little_is_kept(syntax: str) -> None:
    def item(number: int) -> bytes:
        data_set = Dataset()
        data_set.ReferencedSOPClassUID, data_set.ReferencedSOPInstanceUID = "1.2", f"1.{number}"
        content = encoded(data_set, syntax)
        return b"\xfe\xff\x00\xe0" + len(content).to_bytes(4, "little") + content

    items = b"".join(item(number) for number in range(10, MOST_REFERENCES + 500))
    start = encoded(a_request(), syntax)[:-4]  # up to the length of its sequence, which has no items
    asked = read_request(start + len(items).to_bytes(4, "little") + items + b"noise", syntax)
    assert len(asked.references) == MOST_REFERENCES + 1
