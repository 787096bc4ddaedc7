"""
What a data set says of a patient is in the data set alone: marked data through the whole flow, then every log searched.

Study date, modality, accession number and study description are kept by design (adapters/outbound/study_description.py)
and carry no marker here but in the search of the logs.
"""

from __future__ import annotations

import functools
import json
import re
import signal
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from tests.attacked import Peer
from tests.serving import PATIENCE_SECONDS, Serving, a_data_set, run_command
from tests.unit.inbound import pdus

MARK = "ZQXPATIENT"
KEPT_MARK = "ZQYKEPT"  # in what the metadata may hold and logs may not
DIGITS = "736251847362518473"  # in what looks like a UID or number

NAMES = {
    "japanese": (["", "ISO 2022 IR 87"], "Zqxyamada^Tarou=山田^太郎=やまだ^たろう"),
    "half-width": (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    "korean": (["", "ISO 2022 IR 149"], "Zqxhong^Gildong=洪^吉洞=홍^길동"),
    "utf-8": ("ISO_IR 192", "Zqxwang^XiaoDong=王^小東"),
    "latin": ("ISO_IR 100", "Zqxbuc^Jérôme"),
}
WORDS = (MARK, KEPT_MARK, DIGITS, "Zqx", "山田", "太郎", "やまだ", "ﾔﾏﾀﾞ", "洪", "吉洞", "홍", "길동", "小東", "Jérôme")
_ENCODINGS = ("utf-8", "shift_jis", "euc_jp", "iso2022_jp", "euc_kr", "latin-1", "utf-16-le")
_TEXTS = {"PN": 60, "LO": 60, "SH": 16, "ST": 400, "LT": 400, "UT": 400, "UC": 60, "CS": 16, "AE": 16}
_KEPT = {"StudyDescription", "AccessionNumber"}


class TextServing(Serving):
    """One that logs as text."""

    def events(self, skipped: int = 0) -> list[dict[str, Any]]:
        text = self.log.read_bytes()[skipped:].decode()
        found = re.search(r"receiver\.listening.*?port=(\d+)", text)
        return [{"event": "receiver.listening", "port": int(found[1])}] if found else []


def spellings(word: str) -> Iterator[bytes]:
    """Give every way in which a text might show in a log."""
    yield json.dumps(word)[1:-1].encode()
    yield ascii(word)[1:-1].encode()
    for encoding in _ENCODINGS:
        try:
            encoded = word.encode(encoding)
        except UnicodeEncodeError:
            continue
        yield encoded
        if encoding == "iso2022_jp" and not word.isascii():
            yield encoded[3:-3]  # without the escape sequences
        if not word.isascii():
            yield ascii(encoded)[2:-1].encode()  # as a bytes literal
            yield ascii(encoded.decode("latin-1"))[1:-1].encode()  # as mistaken text


def found_in(data: bytes, words: tuple[str, ...] = WORDS) -> list[tuple[str, bytes]]:
    hits = []
    for word in words:
        for spelling in spellings(word):
            at = data.find(spelling)
            if len(spelling) > 2 and at >= 0:
                hits.append((word, data[max(0, at - 200) : at + 100]))
    return hits


@functools.cache
def marked_attributes() -> list[tuple[int, str, int]]:
    """List the text attributes of those modules: tag, keyword, characters they may have."""
    groups = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)
    return [
        (tag, entry[4], _TEXTS[entry[0]])
        for tag, entry in DicomDictionary.items()
        if tag >> 16 in groups and entry[0] in _TEXTS and entry[4] not in {"", "SpecificCharacterSet"}
    ]


def a_marked_data_set(number: int, name: str = "utf-8") -> Dataset:
    """Mark every text attribute of the patient, study, series and equipment modules, and private ones."""
    data_set = a_data_set(number, study=f"2.25.8000.{number}")
    for tag, keyword, length in marked_attributes():
        if tag not in data_set:
            mark = KEPT_MARK if keyword in _KEPT else MARK
            setattr(data_set, keyword, f"{mark}{keyword}"[:length].upper())
    data_set.SpecificCharacterSet, data_set.PatientName = NAMES[name]
    data_set.PatientID = f"{MARK}ID"
    data_set.PatientBirthDate = "19010203"
    data_set.OtherPatientIDs = [f"{MARK}1", f"{MARK}2"]
    private = data_set.private_block(0x0009, f"{MARK} CREATOR", create=True)
    private.add_new(0x01, "UI", f"1.2.{DIGITS}")
    private.add_new(0x02, "LO", f"{MARK} private")
    private.add_new(0x03, "PN", f"{MARK}^Private")
    inner = Dataset()
    inner.PatientName = f"{MARK}^Nested"
    data_set.ReferencedPatientSequence = [inner]
    return data_set


def write(data_set: Dataset, path: Path) -> Path:
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(path, data_set, enforce_file_format=True)
    return path


def a_failing_file(folder: Path) -> Path:
    """Write an instance that is received and whose import is refused for a value that is too long."""
    failing = a_marked_data_set(77)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of that value
        failing.PatientID = MARK * 2000
        return write(failing, folder / "failing.dcm")


def ui(group: int, element: int, text: str) -> bytes:
    value = text.encode() + b"\0" * (len(text) & 1)
    return struct.pack("<HH2sH", group, element, b"UI", len(value)) + value


def misbehave(port: int) -> None:
    """Put marks where no mark belongs."""
    with Peer(port) as peer:
        peer.associate(
            calling=b"CT1",
            contexts=((1, pdus.VERIFICATION, (pdus.IMPLICIT,)), (3, pdus.CT, (pdus.EXPLICIT,)), (5, MARK, (MARK,))),
            user=pdus.item(0x58, b"\2\0" + pdus.counted(MARK.encode()) + pdus.counted(f"{MARK}pass".encode()))
            + pdus.item(0x99, MARK.encode()),
        )
        plain = pdus.data_set(sop_instance="1.2.3")
        name = struct.pack("<HH2sH", 0x10, 0x10, b"PN", 20) + f"{MARK}^Somebody".ljust(20).encode()
        refused = [
            peer.store(f"{MARK}^Command", plain),
            peer.store("1.2.3", plain, sop_class=f"{MARK}"),
            peer.store("1.2.3", pdus.data_set(sop_instance=f"{MARK}^Data")),
            peer.store("1.2.3", pdus.data_set(sop_instance="1.2.3", study=f"{MARK}\\{MARK}")),
            peer.store("1.2.3", pdus.data_set(sop_instance="1.2.3", series=f"山田{MARK}")),
            peer.store("1.2.3", name + ui(8, 0x16, pdus.CT)),
            peer.store("1.2.3", MARK.encode() * 50),
            peer.store("1.2.3", "山田^太郎".encode("iso2022_jp") * 20),
        ]
        assert all(status for status, _ in refused), refused
        assert not found_in(str(refused).encode())
        peer.send(pdus.p_data(pdus.pdv(3, 3, pdus.command(0x0020, data_set=0, sop_class=MARK, sop_instance=MARK))))
        peer.send(pdus.p_data(pdus.pdv(3, 2, MARK.encode())))
        assert peer.answer()[0] == 0x0211
        peer.send(pdus.p_data(pdus.pdv(3, 3, pdus.c_store("1.2.3"))), pdus.p_data(pdus.pdv(3, 0, name)))
    for noise in (f"GET /{MARK}", f"{MARK}\0" * 20, "\4\0\0\0\0\x20" + MARK * 3):
        with Peer(port) as peer:
            peer.send(noise.encode())
            peer.read()
    with Peer(port) as peer:
        peer.associate()
        peer.send(pdus.p_data(pdus.pdv(3, 3, MARK.encode())))
        peer.read()


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_patient_data_reaches_a_log_or_the_metadata(tmp_path: Path, log_format: str) -> None:
    folder = tmp_path / f"{MARK} folder"
    folder.mkdir()
    kind = Serving if log_format == "json" else TextServing
    serving = kind(tmp_path / "data", {"log_level": "debug", "log_format": log_format})
    names = list(NAMES)
    files = [
        write(a_marked_data_set(number, names[number % len(names)]), folder / f"{MARK}{number}.dcm")
        for number in range(10)
    ]
    with serving:
        sent = run_command("send", "127.0.0.1", str(serving.port), str(folder), "--json")
        assert sent.returncode == 0, sent.stdout
        # the import refuses it, and says why without saying what
        run_command("send", "127.0.0.1", str(serving.port), str(a_failing_file(tmp_path)))
        misbehave(serving.port)
        assert serving.settled(len(files) + 1)["totals"]["failed"] == 1
        said = [
            serving.command(*question, check=False)
            for question in (
                ("status",),
                ("studies",),
                ("batches",),
                ("failures",),
                ("failures", "--json"),
                ("study", "2.25.8000.1"),
                ("instance", "2.25.7100.1"),
                ("study", "2.25.8000.77", "--json"),
            )
        ]
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.stdout is not None
        printed = serving.process.stdout.read()
        assert serving.process.wait(PATIENCE_SECONDS) == 0
    logged = serving.log.read_bytes()
    assert logged.count(b"instance.refused") >= 8
    assert found_in(logged) == []
    assert found_in(printed) == []
    metadata_words = tuple(word for word in WORDS if word != KEPT_MARK)
    for text in said:
        assert found_in(text.encode(), metadata_words) == []
    kept = [*(tmp_path / "data").glob("metadata.sqlite3*"), *(tmp_path / "data" / "staging").rglob("*.ndjson")]
    assert kept
    for path in kept:
        assert found_in(path.read_bytes(), metadata_words) == [], path.name


@pytest.mark.slow
def test_with_the_setting_study_shows_names_as_they_are_written(tmp_path: Path) -> None:
    files = {
        name: write(a_marked_data_set(number, name), tmp_path / f"{number}.dcm") for number, name in enumerate(NAMES)
    }
    with Serving(tmp_path / "data", {"store_patient_identity": "true", "log_level": "debug"}) as serving:
        done = run_command("send", "127.0.0.1", str(serving.port), *(str(path) for path in files.values()), "--json")
        assert done.returncode == 0, done.stdout
        serving.settled(len(files))
        for number, (name, path) in enumerate(files.items()):
            shown = serving.json("study", f"2.25.8000.{number}")
            assert shown["patient_name"] == NAMES[name][1], name
            assert shown["patient_id"] == f"{MARK}ID"
            (stored,) = (tmp_path / "data" / "datastore").rglob(f"2.25.7100.{number}.dcm")
            assert stored.read_bytes().endswith(the_data_set_in(path)), "byte for byte"
        assert serving.stop() == 0
    assert found_in(serving.log.read_bytes()) == []


def the_data_set_in(path: Path) -> bytes:
    """Return what stands behind the file meta information."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 140)
    return data[144 + length :]


def test_the_search_finds_what_it_looks_for() -> None:
    for word in ("山田", MARK, "길동", "Jérôme"):
        for spelling in spellings(word):
            assert found_in(b"x" + spelling + b"y") or len(spelling) <= 2
    assert found_in(b'{"event": "\\u5c71\\u7530"}')
    assert found_in(b"\x1b$B;3ED\x1b(B")
    assert found_in(b"nothing") == []
