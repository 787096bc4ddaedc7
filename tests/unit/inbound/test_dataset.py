"""The Part 10 header and the head reader, held against pydicom on every file that it ships."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from adapters.inbound.dicom.associate import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from adapters.inbound.dicom.dataset import IdentityReader, part10_header
from domain.errors import UnreadableDataSet
from domain.identifiers import AeTitle, Uid
from domain.instance import IdentifyingAttributes, StoreRequest
from tests.unit.inbound import pdus

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

EXPECTED = IdentifyingAttributes(
    sop_class_uid=pdus.CT, sop_instance_uid="1.2.3", study_instance_uid="1.2.3.4", series_instance_uid="1.2.3.5"
)


def read(data: bytes, transfer_syntax: str = EXPLICIT, size: int | None = None) -> IdentifyingAttributes:
    reader = IdentityReader(transfer_syntax)
    step = size or max(1, len(data))
    for start in range(0, len(data), step):
        reader.feed(memoryview(data)[start : start + step])
    return reader.result()


@cache
def shipped_files() -> list[Path]:
    folder = Path(pydicom.__file__).parent / "data"
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if path.read_bytes()[128:132] == b"DICM"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [None, 1, 7, 1024])
@pytest.mark.parametrize("path", shipped_files(), ids=lambda path: path.name)
def test_it_reads_what_pydicom_reads(path: Path, size: int | None) -> None:
    expected = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    data = io.BytesIO(path.read_bytes())
    read_preamble(data, force=False)
    _read_file_meta_info(data)
    transfer_syntax = expected.file_meta.get("TransferSyntaxUID", IMPLICIT)

    found = read(data.read(), str(transfer_syntax), size)

    assert found == IdentifyingAttributes(
        sop_class_uid=expected.get("SOPClassUID") or None,
        sop_instance_uid=expected.get("SOPInstanceUID") or None,
        study_instance_uid=expected.get("StudyInstanceUID") or None,
        series_instance_uid=expected.get("SeriesInstanceUID") or None,
    )


def test_pydicom_ships_files_enough() -> None:
    assert len(shipped_files()) > 150


def a_dataset() -> Dataset:
    """Make a data set with sequences before its Series Instance UID, nested, empty and private."""
    inner = Dataset()
    inner.SeriesInstanceUID = "9.9.9"
    inner.StudyInstanceUID = "9.9.8"
    middle = Dataset()
    middle.SOPInstanceUID = "9.9.7"
    middle.ReferencedSeriesSequence = Sequence([inner, Dataset()])
    top = Dataset()
    top.SOPClassUID = pdus.CT
    top.SOPInstanceUID = "1.2.3"
    top.ReferencedStudySequence = Sequence([middle, middle])
    top.ReferencedImageSequence = Sequence([])
    top.PatientName = "Yamada^Tarou"
    top.add_new(0x00091001, "UN", b"\1" * 31 + b"\2")
    top.add_new(0x00091002, "OB", b"\3" * 70000)
    top.StudyInstanceUID = "1.2.3.4"
    top.SeriesInstanceUID = "1.2.3.5"
    top.Rows = 1
    return top


@pytest.mark.parametrize("is_undefined", [False, True])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize("size", [None, 1, 13])
def test_sequences_in_every_encoding_are_passed_over(syntax: str, size: int | None, is_undefined: bool) -> None:
    made = a_dataset()

    def spread(one: Dataset) -> None:
        for element in one:
            if element.VR == "SQ":
                element.is_undefined_length = is_undefined
                for item in element.value:
                    item.is_undefined_length_sequence_item = is_undefined
                    spread(item)

    spread(made)
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer, made, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG, enforce_file_format=False
    )
    data = buffer.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
    assert read(data, syntax, size) == EXPECTED


def ui(number: int, text: str) -> bytes:
    value = text.encode() + b"\0" * (len(text) & 1)
    return struct.pack("<HH2sH", number >> 16, number & 0xFFFF, b"UI", len(value)) + value


CLASS = ui(0x00080016, pdus.CT)
INSTANCE = ui(0x00080018, "1.2.3")
STUDY = ui(0x0020000D, "1.2.3.4")
SERIES = ui(0x0020000E, "1.2.3.5")
ITEM = bytes.fromhex("feff00e0ffffffff")
ITEM_END = bytes.fromhex("feff0de000000000")
SEQUENCE_END = bytes.fromhex("feffdde000000000")


def test_it_stops_behind_the_series() -> None:
    reader = IdentityReader(EXPLICIT)
    done = []
    for piece in (CLASS + INSTANCE + STUDY, SERIES + b"garbage"):
        reader.feed(piece)
        done.append(reader.is_done)
    assert done == [False, True]
    reader.feed(b"more garbage")
    assert reader.result() == EXPECTED


def test_it_stops_behind_where_the_series_should_be() -> None:
    reader = IdentityReader(EXPLICIT)
    reader.feed(CLASS + INSTANCE + STUDY + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 1 << 30))
    assert reader.is_done
    assert reader.result().series_instance_uid is None


def test_empty_values_are_absent() -> None:
    assert read(ui(0x00080016, "") + INSTANCE).sop_class_uid is None


def test_values_keep_what_is_odd_about_them() -> None:
    assert read(ui(0x00080016, " 1.2 ") + ui(0x00080018, "x\\y")).sop_class_uid == " 1.2"


def test_undefined_length_un_holds_implicit_little_endian() -> None:
    implicit = struct.pack("<HHI", 0x0020, 0x000E, 4) + b"9.9\0"
    inside = struct.pack(">HH2sHI", 9, 0x1001, b"UN", 0, 0xFFFFFFFF) + ITEM + implicit + ITEM_END + SEQUENCE_END
    head, tail = (
        b"".join(
            struct.pack(">HH2sH", number >> 16, number & 0xFFFF, b"UI", len(value)) + value for number, value in values
        )
        for values in (
            [(0x00080016, pdus.CT.encode() + b"\0"), (0x00080018, b"1.2.3\0")],
            [(0x0020000D, b"1.2.3.4\0"), (0x0020000E, b"1.2.3.5\0")],
        )
    )
    for size in (None, 1):
        assert read(head + inside + tail, BIG, size) == EXPECTED


def test_encapsulated_fragments_in_a_private_element_are_passed_over() -> None:
    element = struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, 0xFFFFFFFF)
    fragments = bytes.fromhex("feff00e000000000") + bytes.fromhex("feff00e004000000") + b"\xfe\xff\x00\xe0"
    data = CLASS + INSTANCE + element + fragments + SEQUENCE_END + STUDY + SERIES
    for size in (None, 1):
        assert read(data, "1.2.840.10008.1.2.4.50", size) == EXPECTED


def test_another_vr_encoding_than_agreed_is_noticed() -> None:
    explicit = CLASS + INSTANCE + STUDY + SERIES
    values = ((0x00080016, pdus.CT), (0x00080018, "1.2.3"), (0x0020000D, "1.2.3.4"), (0x0020000E, "1.2.3.5"))
    implicit = b"".join(
        struct.pack("<HHI", number >> 16, number & 0xFFFF, len(text)) + text.encode() for number, text in values
    )
    assert read(explicit, IMPLICIT) == EXPECTED
    assert read(implicit, EXPLICIT) == EXPECTED


def test_single_elements_without_a_vr_are_read_as_implicit() -> None:
    private = struct.pack("<HHI", 9, 0x1001, 4) + b"abcd"
    assert read(CLASS + INSTANCE + private + STUDY + SERIES) == EXPECTED


def test_a_stray_delimiter_is_passed_over() -> None:
    assert read(CLASS + INSTANCE + SEQUENCE_END + ITEM_END + STUDY + SERIES) == EXPECTED


SEQUENCE = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(CLASS[:5], id="header cut off"),
        pytest.param(CLASS[:-1], id="identifying value cut off"),
        pytest.param(CLASS + SEQUENCE[:9], id="long header cut off"),
        pytest.param(CLASS + SEQUENCE, id="sequence never ends"),
        pytest.param(CLASS + SEQUENCE + ITEM, id="item never ends"),
        pytest.param(struct.pack("<HH2sHI", 8, 8, b"UT", 0, 99) + b"a", id="value cut off"),
        pytest.param(struct.pack("<HH2sHI", 8, 0x16, b"UN", 0, 1025), id="a SOP class of 1025 bytes"),
        pytest.param(struct.pack("<HH2sHI", 8, 0x16, b"UN", 0, 0xFFFFFFFF), id="a SOP class of undefined length"),
        pytest.param(CLASS + SEQUENCE + INSTANCE, id="no item in a sequence"),
        pytest.param(CLASS + SEQUENCE + ITEM + SEQUENCE_END, id="sequence ends within an item"),
        pytest.param(CLASS + SEQUENCE + ITEM_END, id="item ends outside of it"),
        pytest.param(CLASS + ITEM, id="item outside of a sequence"),
        pytest.param(CLASS + (SEQUENCE + ITEM) * 300, id="nested without end"),
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_what_is_no_data_set_is_our_error(data: bytes, size: int | None) -> None:
    with pytest.raises(UnreadableDataSet):
        read(data, EXPLICIT, size)


def test_an_empty_data_set_has_nothing() -> None:
    assert read(b"") == IdentifyingAttributes(
        sop_class_uid=None, sop_instance_uid=None, study_instance_uid=None, series_instance_uid=None
    )


def test_nesting_deep_within_the_bound_is_no_recursion() -> None:
    depth = 250
    nested = (SEQUENCE + ITEM) * depth + (ITEM_END + SEQUENCE_END) * depth
    assert read(CLASS + INSTANCE + nested + STUDY + SERIES) == EXPECTED


def test_a_decompression_bomb_is_refused_within_its_budget() -> None:
    bomb = struct.pack("<HH2sHI", 8, 8, b"UT", 0, 1 << 28) + b"\0" * (1 << 22)
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    data = deflater.compress(bomb) + deflater.flush()
    assert len(data) < 10_000
    with pytest.raises(UnreadableDataSet, match="the first 1048576 inflated bytes"):
        IdentityReader(DEFLATED, inflated_budget=1 << 20).feed(data)


def feed(reader: IdentityReader, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_budget_ends_at_a_byte_however_the_bytes_are_split(size: int) -> None:
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    head = struct.pack("<HH2sHI", 8, 8, b"UT", 0, 4000) + bytes(4000) + CLASS + INSTANCE + STUDY + SERIES
    data = deflater.compress(head + bytes(100_000)) + deflater.flush()
    enough, short = (IdentityReader(DEFLATED, inflated_budget=budget) for budget in (len(head), len(head) - 1))
    feed(enough, data, size)
    assert enough.result() == EXPECTED
    with pytest.raises(UnreadableDataSet, match=f"the first {len(head) - 1} inflated bytes"):
        feed(short, data, size)


def test_what_stands_before_damage_counts_however_the_bytes_are_split() -> None:
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    data = deflater.compress(CLASS + INSTANCE + STUDY + SERIES + bytes(50_000)) + deflater.flush()
    found: list[object] = []
    for damaged_at in range(len(data)):
        damaged = data[:damaged_at] + b"\xff" * 200
        outcomes: set[object] = set()
        for size in (None, 1, 7):
            try:
                outcomes.add(read(damaged, DEFLATED, size))
            except UnreadableDataSet:
                outcomes.add(None)
        assert len(outcomes) == 1, damaged_at
        found += outcomes
    assert {None, EXPECTED} <= set(found)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x03", zlib.compress(CLASS)])
def test_what_does_not_inflate_is_our_error(data: bytes) -> None:
    with pytest.raises(UnreadableDataSet):
        read(data, DEFLATED)


def test_memory_stays_small_whatever_arrives() -> None:
    reader = IdentityReader(EXPLICIT)
    reader.feed(struct.pack("<HH2sHI", 8, 8, b"UT", 0, 0xFFFFFFF0))
    for _ in range(1000):
        reader.feed(b"x" * 100_000)
    assert len(reader._carry) == 0


def a_request(**changes: object) -> StoreRequest:
    facts: dict[str, object] = {
        "sop_class_uid": pdus.CT,
        "sop_instance_uid": "1.2.3",
        "transfer_syntax": Uid(EXPLICIT),
        "calling_ae_title": AeTitle("MODALITY"),
        "called_ae_title": AeTitle("STORE"),
        **changes,
    }
    return StoreRequest(**facts)  # type: ignore[arg-type]  # whatever the test changes


def test_the_header_names_us_and_both_parties() -> None:
    data = part10_header(a_request())
    assert data[:128] == b"\0" * 128
    read_back = pydicom.dcmread(io.BytesIO(data + pdus.data_set()))
    meta = read_back.file_meta
    assert meta.MediaStorageSOPClassUID == pdus.CT
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.SourceApplicationEntityTitle == "MODALITY"
    assert meta.SendingApplicationEntityTitle == "MODALITY"
    assert meta.ReceivingApplicationEntityTitle == "STORE"
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.FileMetaInformationGroupLength == len(data) - 128 - 4 - 12
    assert read_back.StudyInstanceUID == "1.2.3.4"


def test_a_header_can_be_written_of_anything() -> None:
    data = part10_header(a_request(sop_class_uid="\xe9" * 5000, sop_instance_uid=""))
    assert len(data) < 600
