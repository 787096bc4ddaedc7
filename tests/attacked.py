"""A receiver to attack, in this process: the real driver and use case on real files, and an account of what is left."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from adapters.inbound.dicom.connection import Limits
from adapters.inbound.dicom.presentation import PresentationPolicy
from adapters.inbound.dicom.server import DicomServer, Listener
from adapters.memory.telemetry import RecordingTelemetry
from adapters.memory.workflow import MemoryWorkflow
from adapters.outbound.clock import SystemClock
from adapters.outbound.draft_room import DraftRoom, Held
from adapters.outbound.local.file_staging import FileStagingArea
from adapters.outbound.local.files import FileOperations
from adapters.outbound.local.sqlite_metadata import SqliteMetadataStore
from domain.association import AdmissionPolicy
from services.receive_instance import ReceiveInstance
from services.write_batches import WriteBatches
from tests.unit.inbound import pdus

SHORT = Limits(artim_seconds=0.6, network_timeout_seconds=1.2, dimse_timeout_seconds=0.8)
_AT_ONCE_SECONDS = 10.0  # far below any real time-out, above what a busy machine takes
PATIENCE_SECONDS = 20.0
_MEMORY_MARGIN = 48 << 20


class Peer:
    """A client that says what it is told to say."""

    def __init__(self, port: int, timeout: float = PATIENCE_SECONDS) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send all of it; a receiver that has had enough meanwhile is none of the peer's business."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.socket.sendall(b"".join(parts))

    def read(self) -> tuple[int, bytes] | None:
        """Read one PDU: its type and body; None once the receiver has closed."""
        try:
            head = self._exactly(6)
            kind, length = struct.unpack(">BxI", head)
            return kind, self._exactly(length)
        except (EOFError, ConnectionError):
            return None

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def associate(self, **changes: Any) -> None:
        """Ask for an association and get it."""
        self.send(pdus.associate_rq(**changes))
        answer = self.read()
        assert answer is not None
        assert answer[0] == 2, answer

    def answer(self) -> tuple[int, str]:
        """Read one response: its status and Error Comment."""
        pdu = self.read()
        assert pdu is not None
        assert pdu[0] == 4, pdu
        elements = pdus.parse_command(pdu[1][6:])
        return int.from_bytes(elements[0x0900], "little"), elements.get(0x0902, b"").decode("ascii").rstrip()

    def store(self, instance: str, data: bytes, *, context: int = 3, sop_class: str = pdus.CT) -> tuple[int, str]:
        """Send one C-STORE and return what is answered."""
        command = pdus.c_store(instance, 1, sop_class)
        self.send(pdus.p_data(pdus.pdv(context, 3, command)), *in_pdus(context, data))
        return self.answer()

    def release(self) -> None:
        """End the association as one should."""
        self.send(pdus.RELEASE_RQ)
        answer = self.read()
        assert answer is not None
        assert answer[0] == 6, answer

    def reset(self) -> None:
        """Vanish with a reset in place of an orderly end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def in_pdus(context: int, data: bytes, size: int = 16_000) -> Iterator[bytes]:
    """Write a data set as P-DATA-TF PDUs of that size."""
    for start in range(0, len(data), size) or (0,):
        piece = data[start : start + size]
        yield pdus.p_data(pdus.pdv(context, 2 if start + size >= len(data) else 0, piece))


class Attacked:
    """
    A receiver with short time-outs on a data folder.

    Attributes:
        folder: the data folder.
        telemetry: every event.
        server: the receiver.

    """

    def __init__(self, folder: Path, operations: FileOperations | None = None, **changes: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.telemetry = RecordingTelemetry()
        self.drafts = DraftRoom()
        clock = SystemClock()
        self.staging = FileStagingArea(folder / "staging", operations or FileOperations(), clock, room=self.drafts)
        self.metadata = SqliteMetadataStore(folder / "metadata.sqlite3", busy_seconds=0.3)
        self.batches = WriteBatches(
            staging=self.staging,
            metadata=self.metadata,
            workflow=MemoryWorkflow(),
            clock=clock,
            telemetry=self.telemetry,
            owner="attacked",
            entropy=lambda: secrets.token_hex(4),
        )
        arguments: dict[str, Any] = {
            "listeners": [Listener(host="127.0.0.1", port=0)],
            "admission": AdmissionPolicy(),
            "presentation": PresentationPolicy(),
            "receive": ReceiveInstance(
                staging=self.staging,
                batches=self.batches,
                clock=clock,
                telemetry=self.telemetry,
                max_bytes=changes.pop("max_bytes", 64 << 20),
            ),
            "telemetry": self.telemetry,
            "limits": SHORT,
            **changes,
        }
        self.server = DicomServer(**arguments)
        self.server.start()
        self.port = self.server.addresses[0][1]
        self._good = 0
        self.serve_a_good_client()
        self.wait_until(lambda: self.server.totals().open_connections == 0)
        self._threads = set(threading.enumerate())
        self._descriptors = open_descriptors()
        self._memory = resident_bytes()

    def close(self) -> None:
        """Stop it, leaving its folder."""
        self.server.drain(0)
        self.batches.drain()
        self.staging.close()
        self.metadata.close()

    def peer(self) -> Peer:
        """Connect."""
        return Peer(self.port)

    def serve_a_good_client(self) -> str:
        """Store one instance as a well-behaved client does; return its SOP Instance UID."""
        self._good += 1
        instance = f"1.2.777.{self._good}"
        with self.peer() as peer:
            peer.associate(calling=b"GOOD")
            assert peer.store(instance, pdus.data_set(sop_instance=instance)) == (0, "")
            peer.release()
        return instance

    def staged(self) -> set[str]:
        """Return the SOP Instance UIDs of what is staged."""
        return {
            staged.key.sop_instance.value for batch in self.staging.batches() for staged in self.staging.list(batch)
        }

    def ends(self, how: str) -> int:
        """Return how many connections ended that way."""
        return self.server.totals().ends.get(how, 0)

    def grown_bytes(self) -> int:
        """Return by how much the memory of this process has grown since it began."""
        return resident_bytes() - self._memory

    def wait_until(self, claim: Callable[[], bool]) -> None:
        """Wait for something that will be soon."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not claim():
            assert time.monotonic() < deadline, (self.server.totals(), self.telemetry.events[-5:])
            time.sleep(0.01)

    def check_unhurt(self) -> None:
        """Nothing is left of an attack, no bug came to light, and a good client is served at once."""
        started = time.monotonic()
        instance = self.serve_a_good_client()
        assert time.monotonic() - started < _AT_ONCE_SECONDS
        assert instance in self.staged()
        self.wait_until(lambda: self.server.totals().open_connections == 0)
        self.wait_until(lambda: set(threading.enumerate()) <= self._threads)
        more_indexes = len(self.telemetry.named("batch.opened")) - 1  # the index of a batch stays open with it
        self.wait_until(lambda: open_descriptors() <= self._descriptors + more_indexes)
        assert list((self.folder / "staging" / "incoming").glob("*.part")) == []
        assert self.drafts.held() == Held(memory=0, temporary=0, drafts=0)
        assert self.telemetry.named("association.failed") == []
        assert self.grown_bytes() < _MEMORY_MARGIN


@contextlib.contextmanager
def attacked(folder: Path, operations: FileOperations | None = None, **changes: Any) -> Iterator[Attacked]:
    """Run a receiver, and at the end check that it is unhurt."""
    receiver = Attacked(folder, operations, **changes)
    try:
        yield receiver
        receiver.check_unhurt()
    finally:
        receiver.close()


def open_descriptors() -> int:
    """Count this process's open files and sockets; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def resident_bytes() -> int:
    """Return the memory of this process; 0 where the system does not tell."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0
