"""What only the staging area on files has: failing disks, torn indexes, trash, leftovers, locks."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from pathlib import Path

import attrs
import pytest

from adapters.memory.clock import FakeClock
from adapters.outbound.local.file_draft import DraftLimits
from adapters.outbound.local.file_staging import FileStagingArea
from adapters.outbound.local.files import FileOperations
from adapters.outbound.local.owner_lock import OwnerLocks, hold_data_folder
from domain.errors import NotPossible, StageFailed
from domain.identifiers import AeTitle, Uid
from domain.instance import SopInstance
from domain.staging import StagingKey
from tests.attacked import Attacked
from tests.builders import a_batch_id
from tests.disk import FailingFileOperations
from tests.part10 import a_part10_object
from tests.unit.inbound import pdus

BATCH, OTHER = a_batch_id(1), a_batch_id(2)
LIMITS = DraftLimits(memory_bytes=6_000, early_bytes=2_000, writeback_bytes=1_000)
SMALL, EARLY, LARGE = 600, 3_000, 9_000


@pytest.fixture
def operations() -> FailingFileOperations:
    return FailingFileOperations()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def area(data: Path, operations: FailingFileOperations, clock: FakeClock) -> Iterator[FileStagingArea]:
    area = FileStagingArea(data / "staging", operations, clock, LIMITS)
    yield area
    area.close()


def _stage(area: FileStagingArea, number: int = 1, size: int = SMALL, **overrides: object) -> SopInstance:
    content, instance = a_part10_object(number, size, **overrides)
    draft = area.draft()
    draft.write(content)
    area.stage(draft, BATCH, instance)
    draft.discard()
    return instance


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _content(area: FileStagingArea) -> bytes:
    (staged,) = area.list(BATCH)
    return area.read_head(staged, 1 << 20)


# Failing disks.


@pytest.mark.parametrize("size", [SMALL, EARLY])
def test_a_failed_sync_leads_to_a_new_file_and_never_to_a_second_sync(
    area: FileStagingArea, operations: FailingFileOperations, data: Path, size: int
) -> None:
    operations.failures["sync"] = [errno.EIO]

    _stage(area, size=size)

    assert a_part10_object(1, size)[0] == _content(area)
    assert 2 == len(operations.synced) == len(set(operations.synced))
    assert [name for name in _files(data / "staging/incoming") if name.endswith(".part")] == []


@pytest.mark.parametrize("size", [SMALL, EARLY])
def test_two_failed_syncs_are_a_failure_that_says_what_to_do(
    area: FileStagingArea, operations: FailingFileOperations, data: Path, size: int
) -> None:
    operations.failures["sync"] = [errno.EIO, errno.ENOSPC]

    with pytest.raises(StageFailed, match=r"no space is left on the disk.*--data-dir") as caught:
        _stage(area, size=size)

    assert not caught.value.suspect_prefix
    assert list(area.list(BATCH)) == []
    assert 2 == len(operations.synced) == len(set(operations.synced))


def test_a_draft_that_is_only_in_its_file_is_lost_with_a_failed_sync(
    area: FileStagingArea, operations: FailingFileOperations
) -> None:
    operations.failures["sync"] = [errno.EIO]
    content, instance = a_part10_object(1, LARGE)
    draft = area.draft()
    draft.write(content)

    for batch in (BATCH, OTHER):
        with pytest.raises(StageFailed, match="input/output error"):
            area.stage(draft, batch, instance)

    assert len(operations.synced) == 1
    draft.discard()


@pytest.mark.parametrize("size", [SMALL, EARLY, LARGE])
def test_a_folder_whose_sync_failed_takes_nothing_more_and_the_draft_goes_elsewhere(
    area: FileStagingArea, operations: FailingFileOperations, size: int
) -> None:
    _stage(area, 7)
    content, instance = a_part10_object(1, size)
    draft = area.draft()
    draft.write(content)
    operations.failures["sync_folder"] = [errno.EIO]

    for _ in range(2):
        with pytest.raises(StageFailed) as caught:
            area.stage(draft, BATCH, instance)
        assert caught.value.suspect_prefix
    area.stage(draft, OTHER, instance)
    draft.discard()

    (staged,) = area.list(OTHER)
    assert content == area.read_head(staged, 1 << 20)
    assert len(operations.synced) == len(set(operations.synced))


@pytest.mark.parametrize("size", [SMALL, EARLY, LARGE])
@pytest.mark.parametrize("failing", ["rename", "make_folder"])
def test_a_draft_may_be_staged_again_after_any_other_failure(
    area: FileStagingArea, operations: FailingFileOperations, data: Path, size: int, failing: str
) -> None:
    _stage(area, 7)
    content, instance = a_part10_object(1, size)
    draft = area.draft()
    draft.write(content)
    operations.failures[failing] = [errno.ENOSPC]

    with pytest.raises(StageFailed) as caught:
        area.stage(draft, OTHER, instance)
    area.stage(draft, OTHER, instance)
    draft.discard()

    assert not caught.value.suspect_prefix
    (staged,) = area.list(OTHER)
    assert content == area.read_head(staged, 1 << 20)
    assert len(operations.synced) == len(set(operations.synced))
    assert [name for name in _files(data / "staging/incoming") if name.endswith(".part")] == []


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "no space"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "input/output"),
        (errno.EROFS, "read-only"),
        (errno.EMFILE, "too many files"),
        (errno.EACCES, "permission"),
        (errno.ESTALE, "stale"),
    ],
)
@pytest.mark.parametrize("failing", ["create", "write"])
def test_an_error_while_bytes_arrive_is_told_in_words(
    area: FileStagingArea, operations: FailingFileOperations, failing: str, number: int, words: str
) -> None:
    operations.failures[failing] = [number]
    draft = area.draft()

    for _ in range(2):
        with pytest.raises(StageFailed, match=words):
            draft.write(bytes(LARGE))
    draft.discard()


# The index.


def test_facts_come_from_the_index_with_the_time_received(area: FileStagingArea, data: Path) -> None:
    instance = _stage(area)
    reader = FileStagingArea(data / "staging", FileOperations(), FakeClock())

    (facts,) = reader.facts(reader.list(BATCH))

    assert instance == facts.instance


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda line: b"", id="gone"),
        pytest.param(lambda line: line[: len(line) // 2], id="torn"),
        pytest.param(lambda line: bytes(len(line)), id="zeros"),
        pytest.param(lambda line: b"[1]\n" + b"{}\n", id="something else"),
        pytest.param(lambda line: line.replace(b'"digest":"', b'"digest":"x'), id="wrong digest"),
        pytest.param(lambda line: line.replace(b'"size":', b'"size":1'), id="wrong size"),
    ],
)
def test_a_damaged_line_is_rebuilt_from_the_object(
    area: FileStagingArea, data: Path, clock: FakeClock, damage: Callable[[bytes], bytes]
) -> None:
    instance = _stage(area, calling_ae_title=AeTitle("CT 1"))
    staged_at = clock.now()
    area.close()
    index = data / "staging" / "index" / f"{BATCH}.ndjson"
    index.write_bytes(damage(index.read_bytes()))
    clock.advance(60)

    (facts,) = area.facts(area.list(BATCH))

    assert attrs.evolve(instance, received_at=staged_at) == facts.instance
    assert staged_at == facts.staged_at

    second = _stage(area, 2)
    assert second in [found.instance for found in area.facts(area.list(BATCH))]
    assert json.loads(index.read_bytes().splitlines()[-1])["digest"] == second.digest.value


class NoRoomForLines(FailingFileOperations):
    """Fails the first write to each index that is opened."""

    def open_to_append(self, path: str) -> int:
        self.failures["write"] = [errno.ENOSPC]
        return super().open_to_append(path)


def test_an_index_that_cannot_be_written_is_not_left_open(data: Path, clock: FakeClock) -> None:
    with closing(FileStagingArea(data / "staging", FileOperations(), clock, LIMITS)) as area:
        _stage(area)
    with closing(FileStagingArea(data / "staging", NoRoomForLines(), clock, LIMITS)) as area:
        before = len(list(Path("/dev/fd").iterdir()))
        for number in range(2, 12):
            _stage(area, number)
        assert len(list(Path("/dev/fd").iterdir())) < before + 5


def test_an_object_tells_the_digest_with_which_it_was_received(tmp_path: Path) -> None:
    with closing(Attacked(tmp_path)) as receiver, receiver.peer() as peer:
        peer.associate()
        assert peer.store("1.2.3", pdus.data_set(pixels=bytes(range(250)) * 5_000)) == (0, "")
        peer.release()
    area = FileStagingArea(tmp_path / "staging", FileOperations(), FakeClock())
    (batch,) = area.batches()
    received = {facts.key: facts.instance.digest for facts in area.facts(area.list(batch))}

    (tmp_path / "staging" / "index" / f"{batch}.ndjson").unlink()

    assert received == {facts.key: facts.instance.digest for facts in area.facts(area.list(batch))}
    assert len(set(received.values())) == 2


@pytest.mark.parametrize("content", [b"", b"no DICOM at all", bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\xff\xff"])
def test_an_unreadable_object_is_told_of_all_the_same(area: FileStagingArea, data: Path, content: bytes) -> None:
    _stage(area)
    (staged,) = area.list(BATCH)
    (data / "staging" / staged.key.path).write_bytes(content)
    (staged,) = area.list(BATCH)

    (facts,) = area.facts([staged])

    assert (staged.key, len(content), Uid("0")) == (facts.key, facts.instance.size, facts.instance.sop_class)


def test_facts_may_be_read_while_the_owner_appends(area: FileStagingArea, data: Path) -> None:
    reader = FileStagingArea(data / "staging", FileOperations(), FakeClock())
    stop = threading.Event()

    def read() -> int:
        rounds = 0
        while not stop.is_set():
            for facts in reader.facts(reader.list(BATCH)):
                assert a_part10_object(int(facts.instance.sop_instance.value[-3:]))[1].digest == facts.instance.digest
            rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for number in range(60):
            _stage(area, number)
        stop.set()
        assert reading.result() > 0


# Folders.


def test_foreign_files_are_not_listed(area: FileStagingArea, data: Path) -> None:
    _stage(area)
    (staged,) = area.list(BATCH)
    folder = (data / "staging" / staged.key.path).parent
    (folder / "notes.txt").write_text("x")
    (folder.parent / "file").write_text("x")
    (data / "staging/batches/not a batch").mkdir()

    assert [staged] == list(area.list(BATCH))
    assert list(area.batches()) == [BATCH]


def test_nothing_is_made_on_disk_by_looking(area: FileStagingArea, data: Path) -> None:
    assert list(area.batches()) == []
    assert area.clear_incoming() == 0
    assert area.expire(date(2025, 1, 1)) == 0
    assert not data.exists()


def test_discarded_objects_lie_in_the_trash_of_the_day_until_it_expires(
    area: FileStagingArea, data: Path, clock: FakeClock
) -> None:
    instance = _stage(area)
    tail = StagingKey.of(BATCH, instance).path.removeprefix("batches/")
    area.discard(area.list(BATCH))

    assert [f"20250314/{tail}"] == _files(data / "trash")
    # an emptied batch leaves nothing behind
    assert list((data / "staging" / "batches").iterdir()) == []
    assert _files(data / "staging" / "index") == []

    assert area.expire(date(2025, 3, 14)) == 0
    clock.advance(86_400)
    _stage(area, 2)
    area.discard(area.list(BATCH))
    (data / "trash" / "not a day").mkdir()
    assert area.expire(date(2025, 3, 15)) == 1
    assert sorted(path.name for path in (data / "trash").iterdir()) == ["20250315", "not a day"]


def test_superseded_objects_are_kept(area: FileStagingArea, data: Path) -> None:
    instance = _stage(area)
    (staged,) = area.list(BATCH)

    area.supersede(staged)

    kept = data / "staging" / StagingKey.of(BATCH, instance).superseded_path
    assert a_part10_object(1, SMALL)[0] == kept.read_bytes()


def test_clearing_removes_only_what_the_dead_left(area: FileStagingArea, data: Path) -> None:
    draft = area.draft()
    draft.write(bytes(LARGE))
    program = (
        "import os, sys; from pathlib import Path\n"
        "from adapters.memory.clock import FakeClock\n"
        "from adapters.outbound.local.file_staging import FileStagingArea\n"
        "from adapters.outbound.local.files import FileOperations\n"
        "area = FileStagingArea(Path(sys.argv[1]), FileOperations(), FakeClock())\n"
        "area.draft().write(bytes(9_000_000))\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    incoming = data / "staging" / "incoming"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(data / "staging")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        other = FileStagingArea(data / "staging", FileOperations(), FakeClock())
        assert other.clear_incoming() == 0
        assert len(list(incoming.glob("*.part"))) == 2
        process.send_signal(signal.SIGKILL)
    assert other.clear_incoming() == 1
    assert len(list(incoming.glob("*.part"))) == 1
    assert len(list(incoming.glob("*.lock"))) == 1
    draft.discard()
    assert len(list(incoming.glob("*.part"))) == 0


# Locks.


def test_an_owner_is_held_until_released(tmp_path: Path) -> None:
    locks = OwnerLocks(tmp_path / "owners")
    assert not locks.is_held("receiver-1")

    with locks.hold("receiver-1"):
        assert locks.is_held("receiver-1")
        assert not locks.is_held("receiver-2")
        assert list(locks.held()) == ["receiver-1"]
        assert OwnerLocks(tmp_path / "owners").is_held("receiver-1")

    assert not locks.is_held("receiver-1")
    assert _files(tmp_path) == []


def test_an_owner_is_held_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.outbound.local.owner_lock._PATIENCE_SECONDS", 0.05)
    locks = OwnerLocks(tmp_path)
    held = locks.hold("receiver-1")
    with pytest.raises(NotPossible):
        locks.hold("receiver-1")
    held.release()
    held.release()
    locks.hold("receiver-1").release()


_HOLD = (
    "import sys; from pathlib import Path\n"
    "from adapters.outbound.local.owner_lock import OwnerLocks, hold_data_folder\n"
    "a = OwnerLocks(Path(sys.argv[1])).hold('receiver-1'); b = hold_data_folder(Path(sys.argv[1]))\n"
    "print('ready', flush=True); sys.stdin.read()\n"
)


def test_a_killed_process_lets_go_and_the_next_is_told_who_holds(tmp_path: Path) -> None:
    locks = OwnerLocks(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert locks.is_held("receiver-1")
        with pytest.raises(NotPossible, match=rf"process {process.pid}\b"):
            hold_data_folder(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert not locks.is_held("receiver-1")
    locks.clear()
    assert _files(tmp_path) == []
    with hold_data_folder(tmp_path / "new"):
        with pytest.raises(NotPossible, match=str(os.getpid())):
            hold_data_folder(tmp_path / "new")
    hold_data_folder(tmp_path / "new").release()


def test_a_lock_whose_file_was_replaced_keeps_nobody_out_and_leaves_the_other_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    held = hold_data_folder(folder)
    assert held.is_intact()
    shutil.rmtree(folder)
    assert not held.is_intact()
    with hold_data_folder(folder) as other:
        held.release()
        assert other.is_intact()
    assert not other.is_intact()
