"""The receivers that are measured, each a process of its own as its users start it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import attrs

from tests.benchmarks.machine import family
from tests.serving import clean_environment

AE_TITLE = "STORESCP"
_PDU = "131072"
_PATIENCE_SECONDS = 30.0
_NO_NAGLE = {"TCP_NODELAY": "1"}


@attrs.define
class Receiver(ABC):
    """
    One receiver, running while the `with` block lasts.

    Attributes:
        folder: its own, made for it; whatever it stores is below.
        port: where it listens.

    """

    name: str
    folder: Path
    is_tuned: bool = False
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return what starts it."""

    @property
    def client_environment(self) -> dict[str, str]:
        """The environment of its DCMTK clients."""
        return _environment(is_tuned=self.is_tuned)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pids(self) -> list[int]:
        """Return its process and the processes that it started."""
        return family(self.pid)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        self.port = self.port or _free_port()
        log_path = self.folder.parent / f"{self.folder.name}.log"
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_environment(is_tuned=self.is_tuned),
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        said = log_path.read_text(errors="replace")[-500:]
        self.__exit__()
        raise RuntimeError(f"{self.name} does not listen: {said}")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            pids = self.pids() if self._process.poll() is None else []
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._process.wait()


@attrs.define
class Ours(Receiver):
    """`ahi-storescp serve` with local storage; `settings` are given as options."""

    settings: dict[str, str] = attrs.field(factory=dict)

    def command(self) -> list[str]:
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        program = [sys.executable, "-m", "adapters.entrypoints.cli", "serve", "--host=127.0.0.1"]
        return [*program, f"--port={self.port}", f"--data-dir={self.folder}/data", "--log-format=json", *options]


@attrs.define
class Dcmtk(Receiver):
    """DCMTK's storescp, a process an association."""

    def command(self) -> list[str]:
        return ["/usr/bin/storescp", "--fork", "-pdu", _PDU, "-od", str(self.folder), str(self.port)]


@attrs.define
class Pynetdicom(Receiver):
    """pynetdicom's storescp application."""

    def command(self) -> list[str]:
        program = [sys.executable, "-m", "pynetdicom", "storescp", str(self.port), "-q"]
        return [*program, "-pdu", _PDU, "-ba", "127.0.0.1", "-od", str(self.folder)]


@attrs.define
class Orthanc(Receiver):
    """Orthanc with its defaults, but for ports and folder."""

    def command(self) -> list[str]:
        settings = {
            "Name": "bench",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpServerEnabled": False,
            "DicomServerEnabled": True,
            "DicomAet": AE_TITLE,
            "DicomPort": self.port,
            "DicomAlwaysAllowStore": True,
            "Plugins": [],
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(settings))
        return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(path)]


def missing() -> dict[str, str]:
    """Return what cannot take part and why."""
    lacks = {}
    if not Path("/usr/bin/storescp").exists():
        lacks["DCMTK storescp"] = "/usr/bin/storescp is not installed (apt-get install dcmtk)"
    if shutil.which("Orthanc") is None and not Path("/usr/sbin/Orthanc").exists():
        lacks["Orthanc"] = "it is not installed (apt-get install orthanc)"
    return lacks


def _environment(*, is_tuned: bool) -> dict[str, str]:
    environment = {name: value for name, value in clean_environment().items() if name != "TCP_NODELAY"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    return {**environment, **(_NO_NAGLE if is_tuned else {})}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
