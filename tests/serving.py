"""A receiver in a process of its own, as a person starts it, and senders that note every answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import attrs
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from adapters.outbound.dicom_scu import HeldBack

PATIENCE_SECONDS = 60.0
QUICK = {
    "journal_space": "8 MiB",
    "batch_quiet_seconds": "0.5",
    "import_rate": "1000",
    "import_burst": "1000",
    "grace_seconds": "10",
    "log_format": "json",
}


@attrs.define
class Serving:
    """
    `ahi-storescp serve` on a data folder and a free port, until the `with` block ends.

    Attributes:
        data_dir: the data folder.
        settings: by field name; `QUICK` unless they say otherwise.
        port: where it listens.

    """

    data_dir: Path
    settings: dict[str, str] = attrs.field(factory=dict)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.data_dir.parent / "serve.log"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> Self:
        """Start it and wait until it listens."""
        settings = {**QUICK, "host": "127.0.0.1", "port": str(self.port), **self.settings}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        skipped = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "adapters.entrypoints.cli", "serve", f"--data-dir={self.data_dir}", *options],
                stdout=subprocess.PIPE,
                stderr=log,
                env=clean_environment(),
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            for event in self.events(skipped):
                if event["event"] == "receiver.listening":
                    self.port = event["port"]
                    return self
            time.sleep(0.02)
        raise AssertionError(f"it does not listen: {self.log.read_text()[skipped:]}")

    def events(self, skipped: int = 0) -> list[dict[str, Any]]:
        """Return the events logged after the first `skipped` bytes."""
        lines = self.log.read_bytes()[skipped:].split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        """End it as a loss of power would, but for the page cache."""
        self.process.send_signal(signal.SIGKILL)
        self._reap()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(number)
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(PATIENCE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._process = None
        return code

    def command(self, *arguments: str, check: bool = True) -> str:
        """Run another command on the same data folder and return what it prints."""
        done = run_command(*arguments, f"--data-dir={self.data_dir}")
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str, check: bool = True) -> Any:
        """Run another command with --json."""
        return json.loads(self.command(*arguments, "--json", check=check))

    def settled(self, received: int) -> dict[str, Any]:
        """Wait until so many instances were received and none is pending, and return the status."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            status: dict[str, Any] = self.json("status")
            totals = status["totals"]
            if totals["received"] >= received and not totals["pending"]:
                return status
            assert time.monotonic() < deadline, status["totals"]
            time.sleep(0.2)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of ours that a developer may have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STORESCP_")}


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ahi-storescp` as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "adapters.entrypoints.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env=clean_environment(),
    )


def a_data_set(number: int, *, study: str = "2.25.7000", series: str = "2.25.7001", size: int = 4096) -> Dataset:
    """Return a small CT image; other numbers are other instances."""
    data_set = Dataset()
    data_set.SOPClassUID = CTImageStorage
    data_set.SOPInstanceUID = f"2.25.7100.{number}"
    data_set.StudyInstanceUID = study
    data_set.SeriesInstanceUID = series
    data_set.Modality = "CT"
    data_set.PatientID = "PATIENT"
    data_set.PatientName = "Name^Patient"
    data_set.Rows = data_set.Columns = 8
    data_set.BitsAllocated = data_set.BitsStored = 16
    data_set.HighBit = 15
    data_set.PixelRepresentation = 0
    data_set.SamplesPerPixel = 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    data_set.PixelData = pixels(number, size)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data_set


def pixels(number: int, size: int) -> bytes:
    """Return what an image shows."""
    return number.to_bytes(4, "little") * (size // 4)


def store_until_cut(
    port: int, numbers: range, acknowledged: list[str], study: str = "2.25.7000", size: int = 4096
) -> None:
    """Send instances one by one, noting each that was answered Success, until all are sent or the line is cut."""
    client = AE()
    client.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    client.acse_timeout = client.dimse_timeout = client.network_timeout = PATIENCE_SECONDS
    association = client.associate("127.0.0.1", port)
    transport = association.dul.socket.socket if association.dul.socket else None
    held_back = HeldBack(association)
    try:
        for number in numbers:
            if not association.is_established:
                return
            data_set = a_data_set(number, study=study, size=size)
            status = association.send_c_store(data_set)
            if "Status" not in status:
                return
            if status.Status == 0:
                acknowledged.append(data_set.SOPInstanceUID)
        held_back.let_go()
        association.release()
    except (RuntimeError, ValueError):
        return  # cut between two messages
    finally:
        held_back.let_go()
        if transport is not None:
            transport.close()  # pynetdicom leaves the socket of a cut association to the collector
