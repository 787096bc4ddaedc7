"""Many and large instances at once, on real sockets and files: all are served, and memory stays bounded."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.inbound.dicom.connection import Limits
from adapters.inbound.dicom.presentation import PresentationPolicy
from adapters.inbound.dicom.server import DicomServer, Listener
from adapters.memory.metadata import MemoryMetadataStore
from adapters.memory.telemetry import RecordingTelemetry
from adapters.memory.workflow import MemoryWorkflow
from adapters.outbound.clock import SystemClock
from adapters.outbound.draft_room import DraftRoom, Held
from adapters.outbound.local.file_staging import FileStagingArea
from adapters.outbound.local.files import FileOperations
from domain.association import AdmissionPolicy
from domain.batch import BatchPolicy
from domain.budget import DraftBudget
from services.receive_instance import ReceiveInstance
from services.write_batches import WriteBatches
from tests.integration.test_receiver_server import read_pdu, read_status, release, status_of
from tests.unit.inbound import pdus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("no_threads_left")]

MIB = 1 << 20
PATIENCE_SECONDS = 280
PDU_BYTES = 100_000
PIECE = pdus.p_data(pdus.pdv(3, 0, bytes(PDU_BYTES)))  # one for all senders: their memory is not measured


class Running:
    """A receiver on a folder, without anything behind its staging area."""

    def __init__(self, folder: Path, room: DraftRoom) -> None:
        self.folder = folder
        self.room = room
        clock, telemetry = SystemClock(), RecordingTelemetry()
        self.staging = FileStagingArea(folder / "staging", FileOperations(), clock, room=room)
        batches = WriteBatches(
            staging=self.staging,
            metadata=MemoryMetadataStore(),
            workflow=MemoryWorkflow(),
            clock=clock,
            telemetry=telemetry,
            owner="test",
            entropy=lambda: "00000000",
            policy=BatchPolicy(max_age_seconds=3600),
        )
        self.server = DicomServer(
            listeners=[Listener(host="127.0.0.1", port=0)],
            admission=AdmissionPolicy(maximum_associations=300),
            presentation=PresentationPolicy(),
            receive=ReceiveInstance(staging=self.staging, batches=batches, clock=clock, telemetry=telemetry),
            telemetry=telemetry,
            limits=Limits(artim_seconds=120),
        )
        self.server.start()
        self.telemetry = telemetry

    def associate(self) -> socket.socket:
        connected = socket.create_connection(self.server.addresses[0], timeout=PATIENCE_SECONDS)
        connected.sendall(pdus.associate_rq())
        assert read_pdu(connected)[0] == 2
        return connected


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    shutil.rmtree(tmp_path / "data", ignore_errors=True)  # gigabytes that pytest would keep


def a_receiver(folder: Path, **budget: int) -> Running:
    return Running(folder, DraftRoom(DraftBudget(**budget)))


def resident_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("resident memory is read from /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


class Watch:
    """How far resident memory rises above what it is now."""

    def __init__(self) -> None:
        self._before = resident_bytes()
        self.growth = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._is_over.wait(0.02):
            self.growth = max(self.growth, resident_bytes() - self._before)

    def end(self) -> int:
        self._is_over.set()
        self._thread.join()
        return self.growth


def send(connected: socket.socket, instance: str, size: int) -> int:
    """Store an instance whose pixels are zeros, and return the status."""
    head = pdus.data_set(sop_instance=instance)[:-4] + size.to_bytes(4, "little")
    connected.sendall(pdus.p_data(pdus.pdv(3, 3, pdus.c_store(instance))) + pdus.p_data(pdus.pdv(3, 0, head)))
    for _ in range(size // PDU_BYTES):
        connected.sendall(PIECE)
    connected.sendall(pdus.p_data(pdus.pdv(3, 2, bytes(size % PDU_BYTES))))
    return status_of(read_status(connected))


def test_three_hundred_senders_share_little_memory_and_all_are_served(folder: Path) -> None:
    receiver = a_receiver(folder, memory_bytes=64 * MIB)
    statuses: list[int] = []
    everyone_is_in = threading.Barrier(301)

    def store(number: int) -> None:
        connected = receiver.associate()
        everyone_is_in.wait(PATIENCE_SECONDS)
        statuses.append(send(connected, f"1.2.{number}", 7 * MIB))
        release(connected)

    senders = [threading.Thread(target=store, args=(number,)) for number in range(300)]
    for sender in senders:
        sender.start()
    everyone_is_in.wait(PATIENCE_SECONDS)
    watch = Watch()
    started = time.monotonic()
    for sender in senders:
        sender.join(PATIENCE_SECONDS)
    growth = watch.end()
    seconds = time.monotonic() - started
    receiver.server.drain(5)
    receiver.staging.close()
    print(f"{seconds:.1f} s, {growth / MIB:.0f} MiB more, {receiver.room.most_memory / MIB:.1f} MiB of drafts")  # noqa: T201  # what pytest -s shows

    assert statuses == [0] * 300
    assert receiver.room.most_memory <= 64 * MIB
    assert receiver.room.held() == Held(memory=0, temporary=0, drafts=0)
    # beside the budget, 300 buffers of 256 KiB that are used for the first time, and as much again for the senders
    assert growth <= 64 * MIB * 1.2 + 300 * MIB // 2
    assert len(list(folder.rglob("*.dcm"))) == 300
    assert list(folder.rglob("*.part")) == []


def test_a_large_instance_is_never_held(folder: Path) -> None:
    receiver = a_receiver(folder)
    connected = receiver.associate()
    assert send(connected, "1.2.1", 1000) == 0
    watch = Watch()
    started = time.monotonic()
    assert send(connected, "1.2.2", 256 * MIB) == 0
    growth = watch.end()
    print(f"{time.monotonic() - started:.1f} s, {growth / MIB:.1f} MiB more")  # noqa: T201  # what pytest -s shows
    release(connected)
    receiver.server.drain(5)
    receiver.staging.close()
    assert growth <= 48 * MIB
    assert max(path.stat().st_size for path in folder.rglob("*.dcm")) > 256 * MIB


def test_large_instances_wait_for_temporary_space_and_all_finish(folder: Path) -> None:
    receiver = a_receiver(folder, memory_bytes=MIB, temporary_bytes=60 * MIB, largest_bytes=40 * MIB)
    statuses: list[int] = []

    def store(number: int) -> None:
        connected = receiver.associate()
        statuses.append(send(connected, f"1.2.{number}", 30 * MIB))
        release(connected)

    senders = [threading.Thread(target=store, args=(number,)) for number in range(6)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(PATIENCE_SECONDS)
    receiver.server.drain(5)
    receiver.staging.close()
    assert statuses == [0] * 6
    assert receiver.room.held() == Held(memory=0, temporary=0, drafts=0)
