"""What a sender makes of files, and of what a receiver says."""

import os
import socket
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from adapters.outbound.dicom_answers import (
    connection_words,
    is_stored,
    is_warning,
    rejection_words,
    status_words,
)
from adapters.outbound.dicom_files import DicomFile, SkippedFile, find_files, read_file, sendable
from adapters.outbound.dicom_scu import PynetdicomScu, SendOutcome
from domain.identifiers import AeTitle
from tests.dicom_samples import a_file

_SAMPLES = Path(pydicom.data.__file__).parent / "test_files"


def test_a_file_names_its_instance_and_encoding(tmp_path: Path) -> None:
    path = a_file(tmp_path, 7)
    found = read_file(path)
    assert isinstance(found, DicomFile)
    assert found.sop_instance.value == pydicom.dcmread(path).SOPInstanceUID
    assert found.transfer_syntax.value == ExplicitVRLittleEndian
    assert found.has_sound_header


def test_folders_are_searched_to_the_bottom_and_each_file_comes_once(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    paths = [a_file(tmp_path, 1), a_file(tmp_path / "b", 2), a_file(tmp_path / "b" / "c", 3)]
    (tmp_path / "README.txt").write_text("hello")
    found = list(find_files([tmp_path, tmp_path / "b", paths[0]]))
    assert [file.path for file in found if isinstance(file, DicomFile)] == paths
    assert [(file.path.name, file.reason[:16]) for file in found if isinstance(file, SkippedFile)] == [
        ("README.txt", "not a DICOM file")
    ]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (found,) = find_files([tmp_path / "pipe"])
    assert found == SkippedFile(path=tmp_path / "pipe", reason="not a regular file")


def test_what_cannot_be_sent_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "meta-only").write_bytes(b"\0" * 128 + b"DICM")
    reasons = {
        path.name: read_file(path)
        for path in (
            tmp_path / "empty",
            tmp_path / "meta-only",
            tmp_path / "gone",
            _SAMPLES / "dicomdirtests" / "DICOMDIR",
        )
    }
    texts = {name: found.reason for name, found in reasons.items() if isinstance(found, SkippedFile)}
    assert "not a DICOM file" in texts["empty"]
    assert "no data set" in texts["meta-only"]
    assert "No such file" in texts["gone"]
    assert "DICOMDIR" in texts["DICOMDIR"]


@pytest.mark.parametrize("path", sorted(_SAMPLES.rglob("*")), ids=lambda path: path.name)
def test_no_sample_is_more_than_a_reason(path: Path) -> None:
    found = read_file(path)
    assert isinstance(found, DicomFile | SkippedFile)


def test_a_header_that_disagrees_is_replaced_and_the_data_set_kept(tmp_path: Path) -> None:
    path = a_file(tmp_path, 7)
    content = path.read_bytes()
    dataset = pydicom.dcmread(path)
    uid = str(dataset.file_meta.MediaStorageSOPInstanceUID).encode()
    path.write_bytes(content.replace(uid, uid[:-1] + b"9", 1))
    found = read_file(path)
    assert isinstance(found, DicomFile)
    assert not found.has_sound_header
    assert found.sop_instance.value == dataset.SOPInstanceUID
    with sendable(found) as mended:
        again = read_file(mended)
        assert isinstance(again, DicomFile)
        assert again.has_sound_header
        assert mended.read_bytes()[again.data_offset :] == content[found.data_offset :]
    assert not mended.exists()


@pytest.mark.parametrize(
    "status, stored, warning",
    [(0, True, False), (0xB007, True, True), (0xBABE, True, True), (0xA700, False, False), (0x0122, False, False)],
)
def test_which_statuses_mean_stored(status: int, stored: bool, warning: bool) -> None:
    assert (is_stored(status), is_warning(status)) == (stored, warning)


@pytest.mark.parametrize(
    "status, words",
    [
        (0, "success"),
        (0xA7FF, "out of resources"),
        (0xA900, "does not match"),
        (0xC123, "cannot understand"),
        (0x0124, "not authorised"),
        (0xB000, "changed"),
        (0xFE00, "0xFE00"),
    ],
)
def test_statuses_in_words(status: int, words: str) -> None:
    assert words in status_words(status)


@pytest.mark.parametrize(
    "source, reason, words",
    [
        (1, 3, "--require-calling-ae-titles"),
        (1, 7, "--called-ae-title"),
        (1, 2, "application context"),
        (2, 2, "version"),
        (3, 1, "later"),
        (3, 2, "--maximum-associations"),
        (1, 1, "no reason"),
    ],
)
def test_rejections_in_words(source: int, reason: int, words: str) -> None:
    assert words in rejection_words(source, reason, calling="CT1", called="PACS")


@pytest.mark.parametrize(
    "error, words",
    [
        (socket.gaierror("x"), "is not known"),
        (ConnectionRefusedError(), "refuses connections"),
        (TimeoutError(), "within 5 s"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
)
def test_missing_connections_in_words(error: OSError, words: str) -> None:
    assert words in connection_words(error, "pacs", 104, 5.0)


def test_nobody_listens_or_has_that_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    scu = PynetdicomScu(
        host="127.0.0.1", port=port, called=AeTitle("PACS"), calling=AeTitle("CT1"), timeout_seconds=2.0
    )
    answer = scu.echo()
    assert answer.problem is not None
    assert "refuses connections" in answer.problem
    (sent,) = scu.gather([a_file(tmp_path, 1)]).send()
    assert (sent.outcome, sent.status) == (SendOutcome.NOT_SENT, None)
    assert "refuses connections" in sent.comment
    unknown = PynetdicomScu(host="no-such-host.invalid", port=104, called=AeTitle("PACS"), calling=AeTitle("CT1"))
    assert "is not known" in str(unknown.echo().problem)
