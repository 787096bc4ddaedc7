import shutil
from pathlib import Path

import pytest

from adapters.memory.clock import FakeClock
from adapters.memory.telemetry import RecordingTelemetry
from adapters.outbound.draft_room import DraftRoom
from adapters.outbound.room import RoomCheck, available_memory
from domain.budget import DraftBudget


def a_check(folder: Path, **changes: object) -> RoomCheck:
    settings = {
        "folder": folder,
        "minimum_free_bytes": 0,
        "drafts": DraftRoom(DraftBudget(temporary_bytes=3 << 20, largest_bytes=1 << 20)),
        "clock": FakeClock(),
        "telemetry": RecordingTelemetry(),
        "available_memory": lambda: None,
        **changes,
    }
    return RoomCheck(**settings)  # type: ignore[arg-type]


def test_a_disk_that_is_nearly_full_takes_nothing_more(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert a_check(tmp_path / "not" / "yet" / "there", minimum_free_bytes=free // 2).shortage() == ""
    words = a_check(tmp_path, minimum_free_bytes=free * 2).shortage()
    assert "--minimum-free-space" in words
    assert "--data-dir" in words


def test_shortage_of_temporary_space_is_told_once_and_its_end_too(tmp_path: Path) -> None:
    clock, telemetry = FakeClock(), RecordingTelemetry()
    check = a_check(tmp_path, clock=clock, telemetry=telemetry)
    assert check.shortage() == ""
    claims = [check.drafts.claim() for _ in range(3)]
    for claim in claims:
        claim.fills(1 << 20)
    assert check.shortage() == ""  # looked at within the second
    clock.advance(1)
    assert "--temporary-space" in check.shortage()
    clock.advance(1)
    assert "--temporary-space" in check.shortage()
    for claim in claims:
        claim.release()
    clock.advance(1)
    assert check.shortage() == ""
    assert telemetry.names() == ["room.refused", "room.restored"]


def test_too_little_memory_is_a_shortage(tmp_path: Path) -> None:
    assert a_check(tmp_path, available_memory=lambda: 64 << 20).shortage() == ""
    assert "--memory-budget" in a_check(tmp_path, available_memory=lambda: (64 << 20) - 1).shortage()


@pytest.mark.parametrize(
    "machine,limit,expected",
    [
        ("MemTotal: 10 kB\nMemAvailable:    4096 kB\n", "3000000", 1_500_000),
        ("MemTotal: 10 kB\nMemAvailable:    1024 kB\n", "3000000", 1 << 20),
        ("MemAvailable:    4096 kB\n", "max", 4096 << 10),
        (None, "3000000", 1_500_000),
        (None, None, None),
    ],
)
def test_memory_is_what_the_container_and_the_machine_leave(
    tmp_path: Path, machine: str | None, limit: str | None, expected: int | None
) -> None:
    if machine is not None:
        (tmp_path / "meminfo").write_text(machine)
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("2000000\n")
        (tmp_path / "memory.stat").write_text("anon 9\nactive_file 200000\ninactive_file 300000\n")
    assert expected == available_memory(tmp_path / "meminfo", tmp_path)
