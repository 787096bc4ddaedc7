"""
The whole promise on one machine: real clients send every DICOM file that pydicom ships.

Every distinct instance that was answered Success is imported, or reported with a reason that names the cause.
"""

from __future__ import annotations

import json
import re
import subprocess
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import uid

from adapters.entrypoints.local import open_local
from adapters.entrypoints.settings import read_settings
from tests.serving import Serving, run_command
from tests.tools import require_tool

_OPTIONS = {
    uid.ImplicitVRLittleEndian: "-xi",
    uid.ExplicitVRLittleEndian: "-xe",
    uid.ExplicitVRBigEndian: "-xb",
    uid.DeflatedExplicitVRLittleEndian: "-xd",
    uid.JPEGBaseline8Bit: "-xy",
    uid.JPEGExtended12Bit: "-xx",
    uid.JPEGLosslessSV1: "-xs",
    uid.JPEGLSLossless: "-xt",
    uid.JPEGLSNearLossless: "-xu",
    uid.JPEG2000Lossless: "-xv",
    uid.JPEG2000: "-xw",
    uid.RLELossless: "-xr",
}
_SENDING = re.compile(r"^I: Sending file: (.*)$", re.MULTILINE)
_SLOW_IMPORT = {"batch_quiet_seconds": "1"}


def the_files() -> list[Path]:
    """Return every file in pydicom's wheel that looks like DICOM."""
    folder = Path(pydicom.__file__).parent / "data"
    return sorted(path for path in folder.rglob("*") if path.is_file() and _looks_like_dicom(path))


def _looks_like_dicom(path: Path) -> bool:
    return path.suffix == ".dcm" or path.read_bytes()[128:132] == b"DICM"


def read(path: Path) -> pydicom.FileDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the files are odd on purpose
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def transfer_syntax_of(path: Path) -> uid.UID:
    try:
        return uid.UID(read(path).file_meta.get("TransferSyntaxUID", uid.ExplicitVRLittleEndian))
    except Exception:  # noqa: BLE001  # what cannot be read is sent like any other file
        return uid.ExplicitVRLittleEndian


def send_with_dcmtk(storescu: str, port: int, files: list[Path]) -> tuple[set[Path], dict[Path, str]]:
    """Send each file with the option of its encoding; return what was answered Success, and why the rest was not."""
    stored: set[Path] = set()
    unsent: dict[Path, str] = {}
    by_option: dict[str, list[Path]] = {}
    for path in files:
        by_option.setdefault(_OPTIONS.get(transfer_syntax_of(path), "-xe"), []).append(path)
    for option, group in by_option.items():
        for path in group:
            done = subprocess.run(
                [storescu, "-v", "-R", option, "-aec", "STORESCP", "127.0.0.1", str(port), str(path)],
                capture_output=True,
                check=False,
                timeout=60,
            )
            # DCMTK prints parts of a data set that it cannot read: whatever bytes they are
            said = (done.stdout + done.stderr).decode("utf-8", "replace")
            if "Received Store Response (Success)" in said:
                stored.add(path)
            else:
                unsent[path] = _last_complaint(said)
    return stored, unsent


def _last_complaint(said: str) -> str:
    complaints = [line for line in said.splitlines() if line.startswith(("E:", "W:", "F:"))]
    return complaints[-1] if complaints else f"no word: {said[-200:]}"


def sop_instances(files: set[Path]) -> set[str]:
    return {str(read(path).SOPInstanceUID) for path in files}


def states_of_instances(serving: Serving) -> dict[str, str]:
    """Ask in this process: a command for each study would take most of the test's time."""
    settings = read_settings({"data_dir": str(serving.data_dir)}, {})
    with open_local(settings) as profile:
        report = profile.use_cases.report
        studies = [study.study for study in report.overview(profile.clock.now() - timedelta(days=1)).studies]
        return {
            instance.key.sop_instance.value: instance.state.value
            for study in studies
            for instance in report.study(study)[1]
        }


@pytest.mark.dcmtk
@pytest.mark.timeout(300)
def test_every_instance_dcmtk_gets_success_for_is_imported_or_reported(tmp_path: Path) -> None:
    storescu = require_tool("/usr/bin/storescu")
    with Serving(tmp_path / "data", _SLOW_IMPORT) as serving:
        stored, unsent = send_with_dcmtk(storescu, serving.port, the_files())
        sent = sop_instances(stored)
        assert len(sent) > 20
        assert all(unsent.values()), "a file that was not sent has the client's reason"
        check_everything_is_accounted_for(serving, sent)
        assert serving.stop() == 0


@pytest.mark.timeout(300)
def test_every_instance_our_own_client_gets_success_for_is_imported_or_reported(tmp_path: Path) -> None:
    with Serving(tmp_path / "data", _SLOW_IMPORT) as serving:
        files = [str(path) for path in the_files()]
        done = run_command("send", "127.0.0.1", str(serving.port), *files, "--json")
        stored = {Path(file["path"]) for file in _sent(done.stdout) if file["outcome"] == "stored"}
        sent = sop_instances(stored)
        assert len(sent) > 40
        check_everything_is_accounted_for(serving, sent)
        assert serving.stop() == 0


def _sent(printed: str) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(printed)["files"]
    return files


def check_everything_is_accounted_for(serving: Serving, sent: set[str]) -> None:
    status = serving.settled(len(sent))
    totals = status["totals"]
    assert totals["received"] == totals["imported"] + totals["failed"]
    known = states_of_instances(serving)
    assert sent <= set(known)
    failures = {failure["sop_instance_uid"]: failure for failure in serving.json("failures")}
    for sop_instance in sent:
        if known[sop_instance] != "imported":
            assert "Exception" in failures[sop_instance]["reason"]
    in_store = {path.stem for path in (serving.data_dir / "datastore").rglob("*.dcm")}
    assert {sop_instance for sop_instance in sent if known[sop_instance] == "imported"} <= in_store
