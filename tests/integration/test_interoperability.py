"""Senders that others wrote, against a real `serve`: DCMTK, pynetdicom and Orthanc."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pynetdicom import AE, build_context, build_role
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, UserIdentityNegotiation
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made when the module is loaded

from tests.serving import PATIENCE_SECONDS, Serving, a_data_set

RequireTool = Callable[[str], str]

SAMPLES = Path(pydicom.data.__file__).parent / "test_files"
CT = SAMPLES / "CT_small.dcm"
# What storescu can propose, and a file in that encoding, or the encoding of one to be made up.
PROPOSALS: dict[str, Path | uid.UID] = {
    "-x=": CT,
    "-xe": CT,
    "-xb": SAMPLES / "MR_small_bigendian.dcm",
    "-xi": SAMPLES / "MR_small_implicit.dcm",
    "-xd": SAMPLES / "image_dfl.dcm",
    "-xs": uid.JPEGLosslessSV1,
    "-xy": SAMPLES / "SC_rgb_jpeg_dcmtk.dcm",
    "-xx": SAMPLES / "JPEG-lossy.dcm",
    "-xt": uid.JPEGLSLossless,
    "-xu": uid.JPEGLSNearLossless,
    "-xv": SAMPLES / "MR_small_jp2klossless.dcm",
    "-xw": SAMPLES / "JPEG2000.dcm",
    "-xr": SAMPLES / "MR_small_RLE.dcm",
    "-xm": uid.MPEG2MPML,
    "-xh": uid.MPEG2MPHL,
    "-xn": uid.MPEG4HP41,
    "-xl": uid.MPEG4HP41BD,
    "-x2": uid.MPEG4HP422D,
    "-x3": uid.MPEG4HP423D,
    "-xo": uid.MPEG4HP42STEREO,
    "-x4": uid.HEVCMP51,
    "-x5": uid.HEVCM10P51,
}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("interoperability") / "data") as one:
        yield one
        assert one.stop() == 0


def run(*command: str | Path) -> str:
    """Run a sender to its successful end and return what it says."""
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")  # DCMTK prints values as they are
    assert done.returncode == 0, said
    return said


def is_received(serving: Serving, sop_instance: str) -> bool:
    return bool(serving.json("instance", sop_instance, check=False))


def eventually(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.mark.dcmtk
@pytest.mark.parametrize("options", [(), ("-pts", "20"), ("-ppc", "40"), ("--repeat", "5"), ("-pdu", "4096")])
def test_echoscu(serving: Serving, require_tool: RequireTool, options: tuple[str, ...]) -> None:
    said = run(require_tool("echoscu"), "-v", *options, "-aec", "STORESCP", "127.0.0.1", str(serving.port))
    assert "Received Echo Response (Success)" in said


@pytest.mark.dcmtk
def test_storescu_proposing_every_transfer_syntax_it_knows(
    serving: Serving, require_tool: RequireTool, tmp_path: Path
) -> None:
    storescu = require_tool("storescu")
    for number, (option, what) in enumerate(PROPOSALS.items()):
        path = what if isinstance(what, Path) else made_up(what, 9400 + number, tmp_path)
        said = run(storescu, "-v", "-R", option, "127.0.0.1", str(serving.port), path)
        assert "Received Store Response (Success)" in said, (option, said)


def made_up(syntax: uid.UID, number: int, folder: Path) -> Path:
    """Write an instance in an encoding that no file here has; nobody on its way looks at the pixels."""
    data_set = a_data_set(number, study="2.25.9400")
    data_set.PixelData = encapsulate([b"not what it says"])
    data_set["PixelData"].is_undefined_length = True
    data_set.file_meta.TransferSyntaxUID = syntax
    return save(data_set, folder / f"{number}.dcm")


@pytest.mark.dcmtk
@pytest.mark.parametrize("length", ["4096", "16384", "131072"])
def test_storescu_with_pdus_of_other_lengths(serving: Serving, require_tool: RequireTool, length: str) -> None:
    options = ("-v", "--max-pdu", length, "--max-send-pdu", length, "--repeat", "3")
    said = run(require_tool("storescu"), *options, "127.0.0.1", str(serving.port), CT)
    assert said.count("Received Store Response (Success)") == 3


@pytest.mark.dcmtk
def test_dcmsend_sends_a_folder(serving: Serving, require_tool: RequireTool, tmp_path: Path) -> None:
    data_sets = [a_data_set(number, study="2.25.9000") for number in range(9000, 9020)]
    for number, data_set in enumerate(data_sets):
        save(data_set, tmp_path / f"{number}.dcm")
    said = run(require_tool("dcmsend"), "-v", "+sd", "+r", "127.0.0.1", str(serving.port), tmp_path)
    assert "with status SUCCESS  : 20" in said or said.count("Success") >= 20, said
    eventually(lambda: serving.json("study", "2.25.9000")["imported"] == 20)


def save(data_set: Dataset, path: Path) -> Path:
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    dcmwrite(path, data_set, enforce_file_format=True)
    return path


def test_pynetdicom_with_everything_it_can_negotiate(serving: Serving) -> None:
    entity = AE("MODALITY")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = PATIENCE_SECONDS
    entity.add_requested_context(Verification)
    entity.add_requested_context(uid.CTImageStorage, uid.ExplicitVRLittleEndian)
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 8
    window.maximum_number_operations_performed = 1
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field = b"someone"
    identity.secondary_field = b"ZQXpasscode"
    identity.positive_response_requested = True
    role = build_role(uid.CTImageStorage, scu_role=True, scp_role=True)
    association = entity.associate("127.0.0.1", serving.port, ext_neg=[window, identity, role])
    assert association.is_established
    assert association.acceptor.asynchronous_operations == (8, 1)
    assert association.acceptor.user_identity is not None
    assert association.send_c_echo().Status == 0
    for number in range(9100, 9105):
        assert association.send_c_store(a_data_set(number, study="2.25.9100")).Status == 0
    association.release()
    eventually(lambda: serving.json("study", "2.25.9100")["imported"] == 5)
    assert b"ZQXpasscode" not in serving.log.read_bytes()


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_pynetdicom_in_every_uncompressed_encoding(serving: Serving, syntax: uid.UID) -> None:
    number = 9200 + len(syntax)
    data_set = a_data_set(number, study="2.25.9200")
    data_set.file_meta.TransferSyntaxUID = syntax
    entity = AE("MODALITY")
    entity.requested_contexts = [build_context(uid.CTImageStorage, syntax)]
    association = entity.associate("127.0.0.1", serving.port)
    assert association.is_established
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the data set was made for another byte order
        data_set.is_little_endian = syntax.is_little_endian
        assert association.send_c_store(data_set).Status == 0
    association.release()
    eventually(lambda: is_received(serving, f"2.25.7100.{number}"))


class Orthanc:
    """An Orthanc of its own on loopback, told by REST what to do."""

    def __init__(self, program: str, folder: Path, receiver_port: int) -> None:
        self.port = free_port()
        settings = {
            "Name": "sender",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "HttpPort": self.port,
            "HttpServerEnabled": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
            "DicomAet": "ORTHANC",
            "DicomModalities": {"receiver": ["STORESCP", "127.0.0.1", receiver_port]},
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.log = (folder / "orthanc.log").open("wb")
        self.process = subprocess.Popen(
            [program, "--verbose", str(folder / "orthanc.json")], stdout=self.log, stderr=subprocess.STDOUT, cwd=folder
        )

    def ask(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", body, timeout=60) as answer:
            return json.loads(answer.read())

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                self.ask("/system")
                return
            assert self.process.poll() is None, "it ended at once"
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


def test_orthanc_sends_when_told_to(serving: Serving, require_tool: RequireTool, tmp_path: Path) -> None:
    orthanc = Orthanc(require_tool("Orthanc"), tmp_path, serving.port)
    try:
        orthanc.wait()
        kept = []
        for number in range(9300, 9310):
            path = save(a_data_set(number, study="2.25.9300"), tmp_path / f"{number}.dcm")
            kept.append(orthanc.ask("/instances", path.read_bytes())["ID"])
        kept.append(orthanc.ask("/instances", (SAMPLES / "JPEG2000.dcm").read_bytes())["ID"])
        sent = orthanc.ask("/modalities/receiver/store", json.dumps(kept).encode())
        assert (sent["InstancesCount"], sent["FailedInstancesCount"]) == (11, 0)
        assert orthanc.ask("/modalities/receiver/echo", b"{}") == {}
    finally:
        orthanc.stop()
    eventually(lambda: serving.json("study", "2.25.9300")["imported"] == 10)
    for event in serving.events():
        assert event["event"] != "association.failed"
