"""What the data store refuses, and what it imports with a warning."""

from __future__ import annotations

import io
import json
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from adapters.outbound.local.data_store.limits import Limits
from adapters.outbound.local.data_store.reading import RefusedFile
from adapters.outbound.local.data_store.validation import Accepted, examine, path_name
from tests.unit.local.data_store.support import (
    DEFLATED,
    JPEG,
    Site,
    a_data_set,
    an_object,
    encapsulated,
    part10,
)

IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"


def accepted(body: bytes) -> Accepted:
    return examine(io.BytesIO(body), limits=Limits())


def warned(data_set: Dataset, transfer_syntax: str = "1.2.840.10008.1.2.1") -> list[str]:
    return [remark.kind for remark in accepted(part10(data_set, transfer_syntax)).remarks]


def refusal(body: bytes) -> str:
    with pytest.raises(RefusedFile) as caught:
        accepted(body)
    return caught.value.message


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("is_empty", [True, False])
def test_an_object_without_an_identifying_uid_is_refused_by_name(keyword: str, is_empty: bool) -> None:
    data_set = a_data_set()
    if is_empty:
        data_set[keyword].value = ""
    else:
        delattr(data_set, keyword)
    assert refusal(part10(data_set)) == f"DICOM attribute {keyword} does not exist"


def test_no_transfer_syntax_is_refused_in_the_words_of_the_service() -> None:
    assert refusal(part10(a_data_set(), None)) == "DICOM attribute TransferSyntaxUID does not exist"


@pytest.mark.parametrize(
    "body", [b"", b"hello", bytes(132), part10(a_data_set(), keep_meta=False), bytes(128) + b"DICM\2\0\x10\0UI\xff"]
)
def test_what_is_not_part_10_is_refused_in_the_words_of_the_service(body: bytes) -> None:
    assert refusal(body) in ("DICOM attributes does not exist", "DICOM attribute TransferSyntaxUID does not exist")


@pytest.mark.parametrize(
    "keyword,longest",
    [("PatientName", 256), ("PatientID", 256), ("PatientSex", 16), ("StudyID", 256), ("StudyTime", 28)],
)
def test_an_element_beyond_the_services_maximum_is_refused_without_its_value(keyword: str, longest: int) -> None:
    message = refusal(an_object(**{keyword: "Q" * (longest + 1)}))
    assert message == f"DICOM attribute {keyword} is longer than {longest} characters"


def test_a_related_instance_count_beyond_a_million_is_refused() -> None:
    message = refusal(an_object(NumberOfStudyRelatedInstances="1000001"))
    assert message == "DICOM attribute NumberOfStudyRelatedInstances is greater than 1000000"


def test_an_element_between_vr_and_service_maximum_is_imported_with_a_warning() -> None:
    assert warned(a_data_set(AccessionNumber="A" * 17)) == ["InvalidDicomValueLength"]


def test_a_japanese_name_is_measured_in_characters() -> None:
    name = "山田^太郎=" + "山" * 60
    assert warned(a_data_set(SpecificCharacterSet="ISO_IR 192", PatientName=name)) == []


def test_an_object_cut_within_its_attributes_is_refused() -> None:
    body = an_object(PixelData=None, ImageComments="x" * 100)
    assert refusal(body[: body.index(b"xxxx") + 10]) == "DICOM attributes end before the file says they do"


def test_an_unknown_transfer_syntax_is_imported_with_a_warning() -> None:
    assert warned(a_data_set(), "1.2.3.4") == ["UnsupportedTransferSyntax"]


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, "1.2.840.10008.1.2.1", DEFLATED, BIG_ENDIAN])
def test_every_native_encoding_is_read_without_a_warning(transfer_syntax: str) -> None:
    assert warned(a_data_set(), transfer_syntax) == []


@pytest.mark.parametrize(
    "elements,expected",
    [
        ({"NumberOfFrames": "2"}, ["FrameNumberMismatch"]),
        ({"NumberOfFrames": "0"}, ["FrameNumberMismatch"]),
        ({"PixelData": bytes(8)}, ["FrameNumberMismatch"]),
        ({"PixelData": bytes(6)}, []),
        ({"NumberOfFrames": "2", "PixelData": bytes(8)}, []),
        ({"Rows": None}, ["FramesExtractionFailure"]),
        ({"BitsAllocated": 1, "Rows": 3, "Columns": 3, "NumberOfFrames": "7", "PixelData": bytes(8)}, []),
        ({"PixelData": None}, []),
        ({"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3, "PixelData": bytes(8)}, []),
    ],
)
def test_native_pixel_data_must_hold_the_frames_announced(elements: dict[str, Any], expected: list[str]) -> None:
    assert warned(a_data_set(**elements)) == expected


@pytest.mark.parametrize(
    "elements,expected",
    [
        ({}, []),
        ({"NumberOfFrames": "4"}, ["FrameNumberMismatch"]),
        ({"NumberOfFrames": "2"}, ["InvalidOffsetTable"]),
    ],
)
def test_fragments_must_be_the_frames_announced(elements: dict[str, Any], expected: list[str]) -> None:
    assert warned(encapsulated([b"aa", b"bb", b"cc"], **elements), JPEG) == expected


def test_more_fragments_than_frames_without_a_table_cannot_be_told_apart() -> None:
    assert warned(encapsulated([b"aa", b"bb", b"cc"], has_table=False, NumberOfFrames="2"), JPEG) == [
        "FrameNumberMismatch"
    ]
    assert warned(encapsulated([b"aa", b"bb", b"cc"], has_table=False, NumberOfFrames="1"), JPEG) == []


def test_an_offset_table_that_leads_astray_is_warned_of() -> None:
    data_set = encapsulated([b"aa", b"bb"])
    broken = bytearray(data_set.PixelData)
    broken[12:16] = struct.pack("<L", 11)
    data_set.PixelData = bytes(broken)
    assert warned(data_set, JPEG) == ["InvalidOffsetTable"]


@pytest.mark.parametrize(
    "offsets,lengths,expected",
    [
        ((0, 12), (4, 3), []),
        ((0, 13), (4, 4), ["InvalidOffsetTable"]),
        ((0, 12), (4, 2), ["InvalidOffsetTable"]),
        ((0,), (4,), ["InvalidOffsetTable"]),
        ((12, 0), (4, 4), ["InvalidOffsetTable"]),
    ],
)
def test_the_extended_offset_table_must_name_every_frame(
    offsets: tuple[int, ...], lengths: tuple[int, ...], expected: list[str]
) -> None:
    data_set = encapsulated(
        [b"aaaa", b"bbbb"],
        has_table=False,
        ExtendedOffsetTable=struct.pack(f"<{len(offsets)}Q", *offsets),
        ExtendedOffsetTableLengths=struct.pack(f"<{len(lengths)}Q", *lengths),
    )
    assert warned(data_set, JPEG) == expected


def test_encapsulated_pixels_without_an_end_cannot_be_parsed() -> None:
    assert [r.kind for r in accepted(part10(encapsulated([b"aaaa"]), JPEG)[:-8]).remarks] == ["FramesExtractionFailure"]


def test_native_pixels_under_a_compressed_syntax_cannot_be_parsed() -> None:
    assert warned(a_data_set(), JPEG) == ["FramesExtractionFailure"]


def test_a_video_stream_is_not_counted_by_fragments() -> None:
    assert warned(encapsulated([b"stream"], NumberOfFrames="500"), "1.2.840.10008.1.2.4.102") == []


@pytest.mark.parametrize(
    "sop,series,expected",
    [
        ("1.2.003", "1.2", ["InvalidUIDFormat"]),
        ("1.2.3", "0.01.2", []),
        ("1.2.3", "1.2.", ["InvalidUIDFormat"]),
        ("1.2.3", "1.2.abc", ["InvalidUIDFormat"]),
        ("1.2.3", "1." + "2" * 100, ["InvalidDicomValueLength"]),
    ],
)
def test_uids_the_service_takes_although_they_break_the_rules(sop: str, series: str, expected: list[str]) -> None:
    assert warned(a_data_set(sop, series=series)) == expected


@pytest.mark.parametrize("uid", ["../../etc/passwd", "..", "", "1.2/3", "1." + "2" * 100, "a\\b", "1.2\n", "/1.2"])
def test_what_is_no_uid_never_becomes_a_path(uid: str) -> None:
    assert path_name(uid).startswith("uid-")
    assert len(path_name(uid)) == 68
    assert path_name("1.2.840") == "1.2.840"


def test_a_uid_that_climbs_stays_in_the_folder(site: Site) -> None:
    climbing = "../../../escaped"
    results = site.run([an_object(climbing, series=climbing, study=climbing)])
    assert results.warned == ["InvalidUIDFormat"] * 3
    (stored,) = site.store.find("../../../escaped")
    assert stored.path.resolve().is_relative_to(site.folder)
    assert stored.path.is_file()
    assert not list(site.root.glob("escaped*"))


def test_a_header_beyond_the_budget_is_refused_before_it_is_held() -> None:
    data_set = a_data_set(ReferencedSeriesSequence=Sequence([a_data_set(PixelData=None) for _ in range(50)]))
    data_set["ReferencedSeriesSequence"].is_undefined_length = True
    with pytest.raises(RefusedFile, match="larger than the metadata"):
        examine(io.BytesIO(part10(data_set)), limits=Limits(max_header_bytes=5000))


def test_a_deflated_bomb_is_not_held() -> None:
    data_set = a_data_set(PixelData=bytes(30_000_000))
    result = examine(io.BytesIO(part10(data_set, DEFLATED)), limits=Limits(max_header_bytes=10_000))
    assert [remark.kind for remark in result.remarks] == ["FrameNumberMismatch"]


def test_nesting_without_end_is_refused() -> None:
    data_set = a_data_set(PixelData=None)
    for _ in range(40):
        outer = a_data_set(PixelData=None)
        outer.ReferencedSeriesSequence = Sequence([data_set])
        data_set = outer
    assert "nested" in refusal(part10(data_set))


def test_the_metadata_document_has_the_services_shape(site: Site) -> None:
    response = site.run([an_object("1.2.3.1"), an_object("1.2.3.2", InstanceNumber="7")]).responses[0]
    document = json.loads(site.store.image_set(response["imageSetId"]).metadata.read_text())
    assert document["SchemaVersion"] == "1.1"
    assert document["DatastoreID"] == "d" * 32
    assert document["ImageSetID"] == response["imageSetId"]
    assert document["Patient"]["DICOM"] == {"PatientName": "Doe^Jane", "PatientID": "PAT1"}
    assert document["Study"]["DICOM"]["StudyInstanceUID"] == "1.2"
    series = document["Study"]["Series"]["1.2.3"]
    assert series["DICOM"]["Modality"] == "CT"
    assert list(series["Instances"]) == ["1.2.3.1", "1.2.3.2"]
    instance = series["Instances"]["1.2.3.2"]
    assert instance["StoredTransferSyntaxUID"] == "1.2.840.10008.1.2.4.202"
    assert instance["DICOM"]["Rows"] == 2
    assert instance["DICOM"]["PixelData"] is None
    assert instance["DICOM"]["InstanceNumber"] == "7"
    assert [len(frame["ID"]) for frame in instance["ImageFrames"]] == [32]


@pytest.mark.parametrize(
    "character_set,name",
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞"),
        ("ISO_IR 192", "Müller^Jörg"),
        ("ISO_IR 100", "Müller^Jörg"),
    ],
)
def test_names_in_every_script_reach_the_metadata(site: Site, character_set: Any, name: str) -> None:
    response = site.run([an_object(SpecificCharacterSet=character_set, PatientName=name)]).responses[0]
    document = json.loads(site.store.image_set(response["imageSetId"]).metadata.read_text())
    assert document["Patient"]["DICOM"]["PatientName"] == name


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_objects_are_imported_or_refused_and_nothing_else(data: st.DataObject) -> None:
    bodies = [
        an_object(ReferencedSeriesSequence=Sequence([a_data_set(PixelData=None)])),
        part10(encapsulated([b"aa", b"bb"]), JPEG),
        part10(a_data_set(), DEFLATED),
        part10(a_data_set(), IMPLICIT),
    ]
    body = bytearray(data.draw(st.sampled_from(bodies)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(132, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(132, len(body)))]
    with suppress(RefusedFile):
        accepted(bytes(body))
