"""
`make demo`: send sample images through a receiver of its own and print what became of them.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pydicom.data
from rich.console import Console

from adapters.entrypoints.local import LocalProfile, open_local
from adapters.entrypoints.receiver import Receiver
from adapters.entrypoints.settings import read_settings
from adapters.inbound.screen import Screen
from adapters.inbound.tables import show_failures, show_overview
from adapters.outbound.dicom_scu import send
from services.report_status import Overview

_PATIENCE_SECONDS = 120.0
_SETTINGS = {
    "host": "127.0.0.1",
    "port": "0",
    "batch_quiet_seconds": "1",
    "grace_seconds": "5",
    "import_rate": "100",
    "import_burst": "100",
    "log_level": "error",
}


def main() -> int:
    """Run the demonstration; 0 if every image is accounted for."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="ahi-storescp-demo-") as folder:
        settings = read_settings({**_SETTINGS, "data_dir": folder}, {})
        with open_local(settings, io.StringIO()) as profile:
            profile.become_receiver()
            profile.workflow.run()
            receiver = Receiver(settings, profile.use_cases, profile.chores())
            port = receiver.start()
            console.print(f"A receiver with temporary storage listens on 127.0.0.1 port {port}.")
            sent = _send(port, console)
            with console.status("Following the images into the data store ..."):
                overview = _follow(profile)
            receiver.stop()
            profile.workflow.stop()
            screen = Screen()
            console.print("\n$ ahi-storescp status", markup=False)
            show_overview(screen, overview, _since(profile))
            if failures := list(profile.use_cases.report.failures()):
                console.print("\n$ ahi-storescp failures", markup=False)
                show_failures(screen, failures)
            console.print(
                f"\n{sent} files were answered Success. They hold {overview.received} different instances, some of them"
                f" in several encodings, of which the newest wins: {overview.imported} were imported,"
                f" {overview.failed} failed with the reason above, {overview.pending} are pending.",
                highlight=False,
            )
            return 0 if overview.received and not overview.pending else 1


def _samples() -> Sequence[Path]:
    """Return the images that pydicom ships: CT, MR, ultrasound, structured reports, compressed ones."""
    folder = Path(pydicom.data.__file__).parent / "test_files"
    return sorted(path for path in folder.glob("*.dcm") if path.is_file())


def _send(port: int, console: Console) -> int:
    files = _samples()
    console.print(f"Sending {len(files)} sample files, as a modality would ...")
    results = list(send("127.0.0.1", port, files))
    return sum(result.is_stored for result in results)


def _since(profile: LocalProfile) -> datetime:
    return profile.clock.now() - timedelta(days=1)


def _follow(profile: LocalProfile) -> Overview:
    report = profile.use_cases.report
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        overview = report.overview(_since(profile))
        if (overview.received and not overview.pending) or time.monotonic() > deadline:
            return overview
        time.sleep(0.25)


if __name__ == "__main__":
    sys.exit(main())
