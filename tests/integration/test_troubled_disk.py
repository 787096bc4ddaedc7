"""
A real `serve` whose disk is full or whose folder is gone: refused with 0xA700, nothing acknowledged is lost, and all
recovers.

A small file system of its own needs the right to mount; without it that test is skipped. A read-only disk:
test_hostile_peers.py.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacked import Peer
from tests.serving import Serving
from tests.unit.inbound import pdus

pytestmark = pytest.mark.slow

NOT_SAVED = (0xA700, "Receiver could not save it: see its log; send again")
SMALL = {"maximum_object_bytes": "8 MB", "temporary_space": "8 MB", "minimum_free_space": "0"}
_FILLER_BYTES = 60 << 20


def mount(*arguments: str | Path) -> bool:
    program = shutil.which("mount")
    command = [str(argument) for argument in (program, *arguments)]
    return program is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 64 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=64m", "none", disk):
        pytest.skip("mounting is not allowed here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def instance(number: int, size: int) -> tuple[str, bytes]:
    uid = f"1.2.6000.{number}"
    return uid, pdus.data_set(sop_instance=uid, study="1.2.6000", series="1.2.6001", pixels=bytes(size))


def store(port: int, number: int, size: int = 500_000) -> tuple[int, str]:
    with Peer(port, timeout=60) as peer:
        peer.associate()
        answer = peer.store(*instance(number, size))
        peer.release()
    return answer


def check_all_imported(serving: Serving, stored: set[int]) -> None:
    assert serving.settled(len(stored))["totals"]["failed"] == 0
    shown = serving.json("study", "1.2.6000")
    imported = {one["sop_instance_uid"] for one in shown["instances"] if one["state"] == "imported"}
    assert {f"1.2.6000.{number}" for number in stored} <= imported


def test_a_full_disk(small_disk: Path) -> None:
    with Serving(small_disk / "data", {**SMALL, "batch_quiet_seconds": "2"}) as serving:
        stored = {number for number in range(5) if store(serving.port, number) == (0, "")}
        assert stored == set(range(5))
        filler = small_disk / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(_FILLER_BYTES))
        with contextlib.suppress(OSError), filler.open("ab") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        refused = [store(serving.port, number, 3_000_000) for number in range(100, 104)]
        assert refused == [NOT_SAVED] * 4
        filler.unlink()
        assert store(serving.port, 200) == (0, "")
        check_all_imported(serving, {*stored, 200})
        assert list((serving.data_dir / "staging" / "incoming").glob("*.part")) == []
        assert serving.stop() == 0


def test_a_data_folder_that_is_moved_away_and_back(tmp_path: Path) -> None:
    with Serving(tmp_path / "data", {**SMALL, "batch_quiet_seconds": "5"}) as serving:
        assert store(serving.port, 1) == (0, "")
        serving.data_dir.rename(tmp_path / "away")
        status, comment = store(serving.port, 2)
        assert (status, comment) == NOT_SAVED
        shutil.rmtree(serving.data_dir, ignore_errors=True)
        (tmp_path / "away").rename(serving.data_dir)
        assert store(serving.port, 3) == (0, "")
        check_all_imported(serving, {1, 3})
        assert serving.stop() == 0


def test_a_data_folder_that_is_removed_refuses_until_it_is_started_anew(tmp_path: Path) -> None:
    serving = Serving(tmp_path / "data", {**SMALL, "batch_quiet_seconds": "3"})
    with serving:
        assert store(serving.port, 1) == (0, "")
        serving.data_dir.rename(tmp_path / "gone")  # at once: it is still being written to
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
        for number in (2, 3):
            assert store(serving.port, number)[0] == 0xA700
        with contextlib.suppress(AssertionError):
            serving.stop()
    with serving:
        assert store(serving.port, 4) == (0, "")
        check_all_imported(serving, {4})
        assert serving.stop() == 0
