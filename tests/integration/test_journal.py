"""The journal of the staging area on a disk that fails, is full, or is shared by threads and dead processes."""

import errno
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from adapters.memory.clock import FakeClock
from adapters.outbound.local.async_write import AsyncWrites, Writers
from adapters.outbound.local.buffers import BLOCK_BYTES, Buffers
from adapters.outbound.local.file_draft import DraftLimits
from adapters.outbound.local.file_staging import FileStagingArea
from adapters.outbound.local.files import FileOperations
from adapters.outbound.local.journal import JournalLimits
from adapters.outbound.local.journal_record import (
    Header,
    Read,
    Record,
    checksum_of,
    encode_head,
    read_content,
    read_header,
    read_records,
    record_bytes,
)
from domain.errors import StageFailed
from domain.identifiers import AeTitle, BatchId
from domain.staging import StagedInstance, StagingKey
from tests.builders import a_batch_id
from tests.disk import FailingFileOperations
from tests.part10 import a_part10_object

BATCH, OTHER = a_batch_id(1), a_batch_id(2)
DRAFTS = DraftLimits(memory_bytes=20_000, early_bytes=2_000, writeback_bytes=1_000)
JOURNAL = JournalLimits(
    segments=3,
    segment_bytes=64 << 10,
    object_bytes=10_000,
    piece_bytes=BLOCK_BYTES,
    linger_seconds=3600,
    most_of_free=1.0,
)
LARGE = 9_000  # more than a piece, so that it is written while it arrives
HALF = 5_000


class Operations(FailingFileOperations):
    """
    The same for what is done to segments.

    Attributes:
        begun: sizes and offsets of early writes.

    """

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[int, int]] = []

    def create_direct(self, path: str) -> int:
        self.may_fail("create_direct")
        return super().create_direct(path)

    def open_direct(self, path: str) -> int:
        self.may_fail("open_direct")
        return super().open_direct(path)

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> None:
        self.may_fail("erase" if offset == 0 and not any(data) else "begin" if offset == 0 else "write_at")
        super().write_at(descriptor, data, offset)

    def begin_write_at(self, writes: AsyncWrites, descriptor: int, data: memoryview, offset: int) -> None:
        self.may_fail("begin_write_at")
        self.begun.append((len(data), offset))
        super().begin_write_at(writes, descriptor, data, offset)

    def end_writes(self, writes: AsyncWrites) -> None:
        self.may_fail("end_writes")
        super().end_writes(writes)

    def sync_data(self, descriptor: int) -> None:
        self.may_fail("sync_data")
        super().sync_data(descriptor)

    def read_at(self, descriptor: int, into: memoryview, offset: int) -> int:
        self.may_fail("read_at")
        return super().read_at(descriptor, into, offset)

    def unlink(self, path: str) -> None:
        self.may_fail("unlink a segment" if path.endswith(".segment") else "unlink")
        super().unlink(path)


@pytest.fixture
def operations() -> Operations:
    return Operations()


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "data" / "staging"


def an_area(staging: Path, operations: FileOperations, journal: JournalLimits = JOURNAL) -> FileStagingArea:
    area = FileStagingArea(staging, operations, FakeClock(), DRAFTS, journal=journal)
    area.prepare(60)
    return area


@pytest.fixture
def area(staging: Path, operations: Operations) -> Iterator[FileStagingArea]:
    area = an_area(staging, operations)
    yield area
    area.close()


def stage(area: FileStagingArea, number: int = 1, size: int = 600, batch: BatchId = BATCH) -> None:
    content, instance = a_part10_object(number, size)
    draft = area.draft()
    try:
        draft.write(content)
        area.stage(draft, batch, instance)
    finally:
        draft.discard()


class Sending:
    """An object on its way, of which the first half has come."""

    def __init__(self, area: FileStagingArea, number: int, size: int = LARGE) -> None:
        self._area = area
        self._content, self._instance = a_part10_object(number, size)
        self._draft = area.draft()
        self._draft.write(self._content[:HALF])

    def finish(self, batch: BatchId = BATCH) -> None:
        self._draft.write(self._content[HALF:])
        try:
            self._area.stage(self._draft, batch, self._instance)
        finally:
            self._draft.discard()

    def abandon(self) -> None:
        self._draft.discard()


def contents(area: FileStagingArea, batch: BatchId = BATCH) -> list[bytes]:
    return [area.read_head(staged, 1 << 20) for staged in area.list(batch)]


def expected(*numbers: int, size: int = 600) -> list[bytes]:
    by_name = {a_part10_object(number, size)[1].sop_instance.value: number for number in numbers}
    return [a_part10_object(by_name[name], size)[0] for name in sorted(by_name)]


def segments(staging: Path) -> list[Path]:
    return sorted(staging.glob("journal/*/*.segment"))


def named(staging: Path) -> list[BatchId]:
    """Return the batches that segments name."""
    headers = [read_header(reader(path.read_bytes())) for path in segments(staging)]
    return [header.batch for header in headers if header is not None]


def files(staging: Path, batch: BatchId = BATCH) -> int:
    """Return how many objects have files of their own."""
    return len(list(staging.glob(f"batches/{batch}/*/*/*.dcm")))


def eventually(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def reader(content: bytes) -> Read:
    return lambda size, position: content[position : position + size]


# Staging.


def test_a_store_is_in_the_journal_alone_until_its_batch_is_sealed(
    area: FileStagingArea, operations: Operations, staging: Path
) -> None:
    for number in (1, 2, 3):
        stage(area, number)
    assert operations.synced == []
    assert files(staging) == 0
    assert named(staging) == [BATCH]
    assert expected(1, 2, 3) == contents(area)

    area.seal(BATCH)
    area.seal(BATCH)

    assert 3 == len(set(operations.synced)) == len(operations.synced)
    assert files(staging) == 3
    assert named(staging) == []
    assert expected(1, 2, 3) == contents(area)


@pytest.mark.parametrize("number_of_segments", [1, 2])
def test_what_lingers_gets_its_file_by_itself_and_the_segment_is_used_again(
    staging: Path, number_of_segments: int
) -> None:
    limits = attrs.evolve(JOURNAL, linger_seconds=0.2, segments=number_of_segments)
    area = an_area(staging, FileOperations(), limits)
    for number in range(4):
        stage(area, number)
        eventually(lambda: not named(staging))
        assert files(staging) == number + 1

    assert expected(0, 1, 2, 3) == contents(area)
    area.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The journal's clock, which stands still."""
    clock = SimpleNamespace(now=0.0)
    for module in ("journal", "journal_places"):
        monkeypatch.setattr(f"adapters.outbound.local.{module}.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_files_are_not_written_while_stores_go_on_and_there_is_room(
    area: FileStagingArea, staging: Path, clock: SimpleNamespace
) -> None:
    stage(area, 1)
    stage(area, 1, batch=OTHER)
    clock.now = 3000.0
    stage(area, 2)
    clock.now = 4000.0  # longer than it lingers since the first store, not since the last
    area.seal(OTHER)  # wakes the thread of the journal
    time.sleep(0.2)
    assert files(staging) == 0

    stage(area, 2, batch=OTHER)
    stage(area, 1, batch=a_batch_id(3))  # takes the last free segment
    eventually(lambda: files(staging) == 2)
    assert set(named(staging)) == {OTHER, a_batch_id(3)}


def test_the_first_store_after_a_pause_begins_a_burst(staging: Path, clock: SimpleNamespace) -> None:
    class Slow(FileOperations):
        def write_at(self, descriptor: int, data: memoryview, offset: int) -> None:
            time.sleep(0.1)  # so that the thread of the journal looks meanwhile
            super().write_at(descriptor, data, offset)

    area = an_area(staging, Slow())
    stage(area, 1)
    area.seal(BATCH)
    clock.now = 5000.0
    stage(area, 2)
    stage(area, 3)

    assert files(staging) == 1
    assert named(staging) == [BATCH]
    area.close()


def test_what_could_not_get_its_file_is_tried_again_and_never_lost(staging: Path, operations: Operations) -> None:
    area = an_area(staging, operations, attrs.evolve(JOURNAL, linger_seconds=0.0))
    operations.failures["rename"] = [errno.EIO]

    stage(area)

    eventually(lambda: not operations.failures["rename"])
    assert expected(1) == contents(area)
    area.seal(BATCH)
    assert files(staging) == 1
    assert expected(1) == contents(area)
    area.close()


def test_a_large_object_does_without_the_journal(area: FileStagingArea, operations: Operations, staging: Path) -> None:
    stage(area, size=15_000)

    assert len(operations.synced) == 1
    assert named(staging) == []
    assert expected(1, size=15_000) == contents(area)


@pytest.mark.parametrize("failing", ["write_at", "begin"])
def test_an_object_whose_record_fails_is_durable_by_itself_and_that_segment_is_not_used_again(
    area: FileStagingArea, operations: Operations, staging: Path, failing: str
) -> None:
    if failing == "write_at":
        stage(area, 1)
    else:
        stage(area, 1, size=15_000)
    before = segments(staging)
    operations.failures[failing] = [errno.EIO]

    stage(area, 2)
    stage(area, 3)

    assert len(contents(area)) == 3
    area.seal(BATCH)
    assert named(staging) == []
    assert len(set(before) & set(segments(staging))) == len(before) - 1
    assert files(staging) == 3
    assert list(staging.glob("incoming/*.part")) == []


@pytest.mark.parametrize("failing", ["create", "write", "sync", "rename", "sync_folder"])
def test_a_store_that_fails_in_the_journal_and_by_itself_is_refused(
    area: FileStagingArea, operations: Operations, failing: str
) -> None:
    stage(area, 1)
    operations.failures = {"write_at": [errno.EIO], failing: [errno.ENOSPC] * 2}

    with pytest.raises(StageFailed, match="no space"):
        stage(area, 2)

    operations.failures.clear()
    stage(area, 3, batch=OTHER)
    assert expected(1)[0] in contents(area)
    assert expected(3) == contents(area, OTHER)


@pytest.mark.parametrize(
    "limits, failures",
    [
        pytest.param(JournalLimits(segments=0), {}, id="none"),
        pytest.param(attrs.evolve(JOURNAL, segment_bytes=1 << 60), {}, id="little room"),
        pytest.param(JOURNAL, {"create_direct": [errno.EINVAL]}, id="a file system without direct writes"),
        pytest.param(JOURNAL, {"erase": [errno.ENOSPC]}, id="no room"),
    ],
)
def test_without_a_journal_objects_are_durable_by_themselves(
    staging: Path, operations: Operations, limits: JournalLimits, failures: dict[str, list[int]]
) -> None:
    operations.failures = failures
    area = an_area(staging, operations, limits)

    stage(area)

    assert len(operations.synced) == 1
    assert segments(staging) == []
    assert expected(1) == contents(area)
    area.close()


def test_what_finds_the_journal_full_is_durable_by_itself(
    area: FileStagingArea, operations: Operations, staging: Path
) -> None:
    for number in range(30):
        stage(area, number, 6_000)

    assert JOURNAL.segments == len(segments(staging))
    assert 0 < files(staging) == len(operations.synced) < 30
    assert expected(*range(30), size=6_000) == contents(area)
    area.seal(BATCH)
    assert files(staging) == 30
    assert expected(*range(30), size=6_000) == contents(area)


def test_a_draft_that_arrives_while_the_journal_is_full_is_written_early(area: FileStagingArea, staging: Path) -> None:
    draft = area.draft()
    draft.write(bytes(5_000))
    assert list(staging.glob("incoming/*.part")) == []
    for number in range(30):
        stage(area, number, 6_000)
    late = area.draft()
    late.write(bytes(5_000))

    assert len(list(staging.glob("incoming/*.part"))) == 1
    late.discard()
    draft.discard()


@pytest.mark.parametrize(
    "space, expected_limits",
    [
        (256 << 20, JournalLimits()),
        (8 << 20, JournalLimits(segment_bytes=2 << 20, object_bytes=512 << 10)),
        (0, JournalLimits(segments=0)),
        (200_000, JournalLimits(segments=0)),
    ],
)
def test_the_limits_of_a_space(space: int, expected_limits: JournalLimits) -> None:
    assert expected_limits == JournalLimits.within(space)


# Records that are begun while their objects arrive.


@pytest.fixture
def done(operations: Operations) -> list[str]:
    """Return what is done to segments from now on."""
    names: list[str] = []
    operations.before = names.append
    return names


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[AsyncWrites]:
    """Return what is made to write early, from now on."""
    all_made: list[AsyncWrites] = []

    def make() -> AsyncWrites:
        writes = AsyncWrites()
        all_made.append(writes)
        return writes

    monkeypatch.setattr("adapters.outbound.local.async_write.AsyncWrites", make)
    return all_made


WRITTEN_EARLY = ["begin_write_at", "begin_write_at", "end_writes", "sync_data"]


def test_an_object_like_the_last_one_is_written_while_it_arrives(area: FileStagingArea, done: list[str]) -> None:
    stage(area, 1, LARGE)
    assert "begin_write_at" not in done  # nobody knew how large it would be

    sending = Sending(area, 2)
    assert done[-1] == "begin_write_at"
    sending.finish()

    assert done[-5:] == ["begin_write_at", *WRITTEN_EARLY]
    assert expected(1, 2, size=LARGE) == contents(area)


def test_what_grows_by_small_steps_is_written_a_piece_at_a_time(area: FileStagingArea, operations: Operations) -> None:
    stage(area, 1, LARGE)
    content, instance = a_part10_object(2, LARGE)
    draft = area.draft()
    for start in range(0, len(content), 100):
        draft.write(content[start : start + 100])
    area.stage(draft, BATCH, instance)
    draft.discard()

    sizes, offsets = zip(*operations.begun, strict=True)
    assert sizes == (BLOCK_BYTES,) * 4  # two whole pieces, the rest, the head
    head = min(offsets)
    assert offsets == (head + BLOCK_BYTES, head + 2 * BLOCK_BYTES, head + 3 * BLOCK_BYTES, head)
    assert expected(1, 2, size=LARGE) == contents(area)


def test_a_smaller_object_leaves_the_rest_of_its_place_to_the_next(area: FileStagingArea, staging: Path) -> None:
    sizes = [9_500, 4_200, 4_200]
    for number, size in enumerate(sizes):
        stage(area, number, size)

    read = next(reader(path.read_bytes()) for path in segments(staging) if read_header(reader(path.read_bytes())))
    header = read_header(read)
    assert header is not None
    records = list(read_records(read, header))
    assert len(records) == 3
    for record, following in pairwise(records):
        assert following.position == record.position + record_bytes(record.size)


def test_an_object_that_turns_out_larger_is_written_like_any_other(area: FileStagingArea, done: list[str]) -> None:
    stage(area, 1, 6_500)
    sending = Sending(area, 2)
    assert done[-1] == "begin_write_at"
    sending.finish()

    assert done[-2:] == ["end_writes", "write_at"]
    assert expected(2, size=LARGE)[0] in contents(area)


@pytest.mark.parametrize(
    "size, steps",
    [pytest.param(30_000, [17_000], id="at the end"), pytest.param(38_000, [17_000, 16_000], id="before")],
)
def test_an_object_that_turns_out_larger_does_not_run_over_what_came_behind_it(
    staging: Path, operations: Operations, size: int, steps: list[int]
) -> None:
    journal = attrs.evolve(JOURNAL, piece_bytes=16 << 10, object_bytes=40_000, segment_bytes=256 << 10)
    drafts = attrs.evolve(DRAFTS, memory_bytes=80_000)
    area = FileStagingArea(staging, operations, FakeClock(), drafts, journal=journal)
    area.prepare(60)
    stage(area, 1, 17_000)
    content, instance = a_part10_object(2, size)
    draft = area.draft()
    draft.write(content[: steps[0]])
    stage(area, 3)
    for start, end in pairwise((*accumulate(steps), len(content))):
        draft.write(content[start:end])
    area.stage(draft, BATCH, instance)
    draft.discard()

    wanted = sorted(expected(1, size=17_000) + expected(2, size=size) + expected(3))
    assert wanted == sorted(contents(area))
    area.seal(BATCH)
    assert wanted == sorted(contents(area))
    area.close()


def test_an_object_too_large_for_the_journal_leaves_its_place(
    area: FileStagingArea, operations: Operations, done: list[str]
) -> None:
    stage(area, 1, LARGE)
    Sending(area, 2, 15_000).finish()

    assert "end_writes" in done
    assert len(operations.synced) == 1
    assert expected(2, size=15_000)[0] in contents(area)


def test_the_guess_is_the_batch_that_took_the_last_object(area: FileStagingArea, done: list[str]) -> None:
    stage(area, 1, LARGE, OTHER)
    stage(area, 2, LARGE)
    stage(area, 3, LARGE, OTHER)
    done.clear()
    Sending(area, 4).finish(OTHER)

    assert done == ["begin_write_at", "begin_write_at", *WRITTEN_EARLY]


def test_an_object_of_another_batch_is_written_like_any_other(
    area: FileStagingArea, staging: Path, done: list[str]
) -> None:
    stage(area, 1, LARGE)
    Sending(area, 2).finish(OTHER)

    assert done[-1] == "write_at"
    assert expected(1, size=LARGE) == contents(area)
    assert expected(2, size=LARGE) == contents(area, OTHER)
    area.seal(BATCH)
    area.seal(OTHER)
    assert (files(staging), files(staging, OTHER)) == (1, 1)


def test_an_object_that_never_ends_leaves_nothing_behind(area: FileStagingArea, staging: Path) -> None:
    stage(area, 1, LARGE)
    for number in range(2, 40):  # more than there is room for, if their places were lost
        Sending(area, number).abandon()
    stage(area, 40, LARGE)

    assert expected(1, 40, size=LARGE) == contents(area)
    assert len(named(staging)) == 1


def test_a_slow_sender_holds_up_no_seal_and_its_object_is_kept_all_the_same(
    area: FileStagingArea, staging: Path, done: list[str]
) -> None:
    stage(area, 1, LARGE)
    slow = Sending(area, 2)
    area.seal(BATCH)
    stage(area, 3, LARGE, OTHER)  # perhaps where the slow one had its place
    stage(area, 4, LARGE, OTHER)
    slow.finish(OTHER)

    assert "end_writes" in done
    assert expected(1, size=LARGE) == contents(area)
    assert expected(2, 3, 4, size=LARGE) == contents(area, OTHER)
    area.seal(OTHER)
    assert expected(2, 3, 4, size=LARGE) == contents(area, OTHER)
    assert named(staging) == []


def test_a_slow_sender_holds_up_no_segment_that_lingers(staging: Path, operations: Operations) -> None:
    area = an_area(staging, operations, attrs.evolve(JOURNAL, linger_seconds=0.0))
    stage(area, 1, LARGE)
    slow = Sending(area, 2)
    eventually(lambda: not named(staging))
    assert files(staging) == 1

    slow.finish()
    assert expected(1, 2, size=LARGE) == contents(area)
    area.close()


def test_a_slow_sender_holds_up_no_end(staging: Path, operations: Operations) -> None:
    area = an_area(staging, operations)
    stage(area, 1, LARGE)
    slow = Sending(area, 2)
    area.close()
    slow.finish()

    assert expected(1, 2, size=LARGE) == contents(area)
    area.seal(BATCH)
    assert files(staging) == 2
    area.close()


def test_while_somebody_waits_for_the_disk_nothing_is_begun_early(
    area: FileStagingArea, operations: Operations, done: list[str]
) -> None:
    stage(area, 1, LARGE)
    first, second = Sending(area, 2), Sending(area, 3)
    assert done.count("begin_write_at") == 1
    second.finish()
    first.finish()

    assert done.count("begin_write_at") == 4
    assert expected(1, 2, 3, size=LARGE) == contents(area)


@pytest.mark.parametrize("failing", ["end_writes", "sync_data"])
def test_an_early_record_that_fails_is_durable_by_itself_and_that_segment_is_not_used_again(
    area: FileStagingArea, operations: Operations, staging: Path, made: list[AsyncWrites], failing: str
) -> None:
    stage(area, 1, LARGE)
    before = segments(staging)
    for number in (2, 3):
        stage(area, 10 + number, LARGE)
        operations.failures[failing] = [errno.EIO]
        Sending(area, number).finish()

    assert len(operations.synced) == 2
    assert len(made) == 1
    assert expected(1, 2, 3, 12, 13, size=LARGE) == contents(area)
    area.seal(BATCH)
    assert named(staging) == []
    assert len(set(before) & set(segments(staging))) == len(before) - 2
    assert files(staging) == 5
    assert list(staging.glob("incoming/*.part")) == []


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_what_cannot_be_begun_is_written_when_it_is_there(
    area: FileStagingArea, operations: Operations, staging: Path, done: list[str], at: int
) -> None:
    stage(area, 1, LARGE)
    before = segments(staging)
    operations.failures["begin_write_at"] = [0] * (at - 1) + [errno.EAGAIN]
    Sending(area, 2).finish()

    assert done[-2:] == ["end_writes", "write_at"]
    assert operations.synced == []
    assert expected(1, 2, size=LARGE) == contents(area)
    area.seal(BATCH)
    assert set(before) == set(segments(staging))


@pytest.mark.parametrize("moment", ["while it arrives", "sync_data"])
def test_where_another_store_failed_an_early_record_is_not_believed(
    area: FileStagingArea, operations: Operations, moment: str
) -> None:
    stage(area, 1, LARGE)
    sending = Sending(area, 2)

    def fail(name: str) -> None:
        if name == moment:
            operations.before = lambda _name: None
            operations.failures["write_at"] = [errno.EIO]
            stage(area, 3, LARGE)

    operations.before = fail
    fail("while it arrives")
    sending.finish()

    assert len(operations.synced) == (2 if moment == "sync_data" else 1)
    assert expected(1, 2, 3, size=LARGE) == contents(area)


def test_memory_is_used_again_when_nothing_is_written_from_it(
    area: FileStagingArea, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(area, 1, LARGE)
    sending = Sending(area, 2)
    monkeypatch.setattr(Buffers, "give", lambda _buffers, _buffer, _used: done.append("give"))
    sending.abandon()

    assert done[-2:] == ["end_writes", "give"]


def test_an_end_gives_back_what_the_system_keeps_for_early_writes(
    area: FileStagingArea, made: list[AsyncWrites], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[AsyncWrites] = []

    def close(writes: AsyncWrites) -> None:
        closed.append(writes)

    monkeypatch.setattr(AsyncWrites, "close", close)
    for number in range(1, 4):
        stage(area, number, LARGE)
    area.close()

    assert len(made) == 1
    assert made == closed


def test_an_early_write_that_fails_in_an_object_that_never_ends_ends_its_segment(
    area: FileStagingArea, operations: Operations, staging: Path
) -> None:
    stage(area, 1, LARGE)
    before = segments(staging)
    sending = Sending(area, 2)
    operations.failures["end_writes"] = [errno.EIO]
    sending.abandon()
    stage(area, 3, LARGE)

    area.seal(BATCH)
    assert len(set(before) & set(segments(staging))) == len(before) - 1
    assert expected(1, 3, size=LARGE) == contents(area)


def test_where_no_write_can_be_begun_objects_are_written_when_they_are_there(
    area: FileStagingArea, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writers, "take", lambda _writers: None)
    stage(area, 1, LARGE)
    stage(area, 2, LARGE)

    assert "begin_write_at" not in done
    assert expected(1, 2, size=LARGE) == contents(area)


def store_while_batches_are_sealed(
    staging: Path, sizes: list[int], store: Callable[[FileStagingArea, int, BatchId], None]
) -> None:
    """Let threads store objects of `sizes` in every batch while others seal some; all of them are kept."""
    area = an_area(staging, FileOperations(), attrs.evolve(JOURNAL, linger_seconds=0.0))
    batches = [a_batch_id(number) for number in range(1, 9)]

    def store_all(number: int) -> None:
        for batch in batches:
            store(area, number, batch)

    def seal(batch: BatchId) -> None:
        for _ in range(20):
            area.seal(batch)

    with ThreadPoolExecutor(10) as pool:
        stores = [pool.submit(store_all, number) for number in range(len(sizes))]
        seals = [pool.submit(seal, batch) for batch in batches[:4]]
        for each in (*stores, *seals):
            each.result()
    for batch in batches:
        area.seal(batch)
        assert files(staging, batch) == len(sizes)
        found = sorted(contents(area, batch))
        assert sorted(a_part10_object(number, size)[0] for number, size in enumerate(sizes)) == found
    assert named(staging) == []
    area.close()


def test_threads_begin_abandon_and_finish_while_batches_are_sealed(staging: Path) -> None:
    sizes = [4_100 + 700 * number for number in range(6)]

    def store(area: FileStagingArea, number: int, batch: BatchId) -> None:
        Sending(area, 100 + number, sizes[-1 - number]).abandon()
        Sending(area, number, sizes[number]).finish(batch)

    store_while_batches_are_sealed(staging, sizes, store)


def test_threads_store_while_batches_are_sealed(staging: Path) -> None:
    sizes = [600 + 1000 * number for number in range(6)]

    def store(area: FileStagingArea, number: int, batch: BatchId) -> None:
        stage(area, number, sizes[number], batch)
        assert any(staged.size > 0 for staged in area.list(batch))

    store_while_batches_are_sealed(staging, sizes, store)


# Sealing.


@pytest.mark.parametrize("failing", ["create", "write", "sync", "rename", "sync_folder", "read_at"])
def test_a_seal_that_failed_may_be_repeated(
    area: FileStagingArea, operations: Operations, staging: Path, failing: str
) -> None:
    for number in (1, 2):
        stage(area, number)
    operations.failures[failing] = [errno.EIO]

    with pytest.raises(StageFailed, match="could not be made files"):
        area.seal(BATCH)
    assert named(staging) == [BATCH]
    assert expected(1, 2) == contents(area)
    area.seal(BATCH)

    assert len(set(operations.synced)) == len(operations.synced)
    assert files(staging) == 2
    assert expected(1, 2) == contents(area)
    assert named(staging) == []
    assert list(staging.glob("incoming/*.part")) == []


def test_a_segment_that_cannot_be_erased_is_removed(
    area: FileStagingArea, operations: Operations, staging: Path
) -> None:
    stage(area)
    operations.failures = {"erase": [errno.EIO], "unlink a segment": [errno.EIO]}

    with pytest.raises(StageFailed):
        area.seal(BATCH)
    area.seal(BATCH)

    assert named(staging) == []
    assert expected(1) == contents(area)
    stage(area, 2, batch=OTHER)
    assert expected(2) == contents(area, OTHER)


def test_a_segment_of_which_it_is_not_certain_that_it_was_removed_keeps_its_batch_open_for_a_moment_only(
    area: FileStagingArea, operations: Operations, staging: Path
) -> None:
    def fail_next(name: str) -> None:
        if name == "unlink a segment":
            operations.failures["sync_folder"] = [errno.EIO]

    stage(area)
    operations.failures["erase"] = [errno.EIO]
    operations.before = fail_next

    with pytest.raises(StageFailed):
        area.seal(BATCH)
    operations.before = lambda _name: None
    area.seal(BATCH)

    assert named(staging) == []
    assert expected(1) == contents(area)


@pytest.mark.parametrize("is_written_to", [True, False])
def test_a_journal_that_was_removed_while_in_use_keeps_no_batch_open(
    area: FileStagingArea, staging: Path, *, is_written_to: bool
) -> None:
    stage(area, 1)
    shutil.rmtree(staging / "journal")
    if is_written_to:
        stage(area, 2)

    area.seal(BATCH)

    assert files(staging) == 1 + is_written_to
    stage(area, 3)
    area.seal(BATCH)
    assert files(staging) == 2 + is_written_to


def test_what_gets_its_file_while_it_is_read_is_read_all_the_same(
    area: FileStagingArea, operations: Operations, staging: Path
) -> None:
    stage(area, 1)
    other_operations = Operations()
    other = an_area(staging, other_operations)
    staged = list(other.list(BATCH))
    other_operations.before = lambda name: area.seal(BATCH) if name == "open_direct" else None

    assert expected(1) == [other.read_head(each, 1 << 20) for each in staged]
    assert len(operations.synced) == 1


def test_a_record_that_the_disk_changed_keeps_its_batch_open(
    area: FileStagingArea, operations: Operations, staging: Path
) -> None:
    stage(area)
    path = next(path for path in segments(staging) if read_header(reader(path.read_bytes())))
    with path.open("r+b") as file:
        file.seek(2 * BLOCK_BYTES + 500)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))

    with pytest.raises(StageFailed, match="check the disk"):
        area.seal(BATCH)
    assert named(staging) == [BATCH]


# Several processes.


def test_another_process_sees_what_is_in_the_journal(area: FileStagingArea, staging: Path) -> None:
    stage(area, 1)
    stage(area, 2, size=15_000)
    other = an_area(staging, FileOperations())

    assert list(other.batches()) == [BATCH]
    assert [a_part10_object(1)[0], a_part10_object(2, 15_000)[0]] == contents(other)
    assert list(area.facts(area.list(BATCH))) == list(other.facts(other.list(BATCH)))
    assert list(other.list(OTHER)) == []


def test_reading_it_does_not_disturb_its_writer(area: FileStagingArea, staging: Path) -> None:
    other = an_area(staging, FileOperations())
    is_over = threading.Event()

    def read() -> int:
        rounds = 0
        while not is_over.is_set():
            contents(other)
            rounds += 1
        return rounds

    with ThreadPoolExecutor(2) as pool:
        reading = [pool.submit(read) for _ in range(2)]
        for number in range(20):
            stage(area, number)
        is_over.set()
        assert all(each.result() for each in reading)
    assert files(staging) == 0
    assert expected(*range(20)) == contents(other)


def test_what_a_dead_process_left_is_taken_over(staging: Path, operations: Operations) -> None:
    dead = an_area(staging, operations)
    stage(dead, 1)
    stage(dead, 2, batch=OTHER)
    before = list(dead.facts([*dead.list(BATCH), *dead.list(OTHER)]))
    dead.close()
    heir = FileStagingArea(staging, operations, FakeClock(), DRAFTS)
    assert expected(1) == contents(heir)

    heir.seal(BATCH)

    assert list(staging.glob("journal/*")) == []
    assert (files(staging), files(staging, OTHER)) == (1, 1)
    assert expected(1) == contents(heir)
    assert expected(2) == contents(heir, OTHER)
    assert before == list(heir.facts([*heir.list(BATCH), *heir.list(OTHER)]))


def test_a_takeover_that_failed_may_be_repeated(staging: Path, operations: Operations) -> None:
    dead = an_area(staging, operations)
    stage(dead, 1)
    dead.close()
    heir = FileStagingArea(staging, operations, FakeClock(), DRAFTS)

    for failing in ("create", "sync", "rename", "sync_folder", "open_direct", "read_at", "unlink a segment"):
        operations.failures = {failing: [errno.EIO]}
        with pytest.raises(StageFailed):
            heir.seal(BATCH)
        operations.failures = {failing: [errno.EIO]}
        heir.clear_incoming()
        assert len(list(staging.glob("journal/*/"))) == 1
    heir.clear_incoming()

    assert expected(1) == contents(heir)
    assert list(staging.glob("journal/*")) == []
    assert list(staging.glob("incoming/*.part")) == []


def test_the_journal_of_a_living_process_is_left_alone(area: FileStagingArea, staging: Path) -> None:
    stage(area)
    other = FileStagingArea(staging, FileOperations(), FakeClock(), DRAFTS)

    with pytest.raises(StageFailed, match="another process still holds it"):
        other.seal(BATCH)
    other.seal(OTHER)
    other.clear_incoming()

    assert named(staging) == [BATCH]


def dead_journals(staging: Path, *batches: BatchId) -> None:
    """Leave what processes left that died, in folders that come last in their order."""
    for number, batch in enumerate(batches):
        dead = an_area(staging, FileOperations())
        before = set(staging.glob("journal/*/"))
        stage(dead, number, batch=batch)
        dead.close()
        folder = next(path.parent for path in segments(staging) if path.parent in before and path.parent.name[0] != "z")
        folder.rename(folder.with_name(f"z{number}"))


def test_a_living_process_does_not_keep_what_a_dead_one_left(staging: Path) -> None:
    dead_journals(staging, BATCH)
    area = an_area(staging, FileOperations())
    stage(area, 5, batch=OTHER)

    FileStagingArea(staging, FileOperations(), FakeClock(), DRAFTS).seal(BATCH)

    assert files(staging) == 1
    assert named(staging) == [OTHER]
    area.close()


def test_what_a_dead_process_left_keeps_no_other_batch_open(staging: Path, operations: Operations) -> None:
    dead_journals(staging, BATCH)
    heir = FileStagingArea(staging, operations, FakeClock(), DRAFTS)
    stage(heir, 5, batch=OTHER)

    for batch, is_sealed in ((OTHER, True), (BATCH, False), (OTHER, True)):
        operations.failures["create"] = [errno.EIO]
        if is_sealed:
            heir.seal(batch)
        else:
            with pytest.raises(StageFailed):
                heir.seal(batch)
    operations.failures.clear()

    assert named(staging) == [BATCH]
    heir.seal(BATCH)
    assert list(staging.glob("journal/*")) == []


def test_two_processes_may_take_over_at_once(staging: Path, operations: Operations) -> None:
    dead_journals(staging, BATCH, OTHER)
    heir = FileStagingArea(staging, operations, FakeClock(), DRAFTS)
    faster = FileStagingArea(staging, FileOperations(), FakeClock(), DRAFTS)
    operations.before = lambda name: faster.seal(BATCH) if name == "open_direct" else None

    assert list(heir.list(OTHER))  # looks into the journals while the other process removes them
    dead_journals(staging, BATCH, OTHER)
    heir.seal(BATCH)

    assert list(staging.glob("journal/*")) == []
    assert (files(staging), files(staging, OTHER)) == (1, 1)


def test_locks_of_the_dead_are_removed(area: FileStagingArea, staging: Path) -> None:
    (staging / "journal" / "dead.lock").touch()

    area.clear_incoming()

    assert next(path.parent.name for path in segments(staging)) == next(staging.glob("journal/*.lock")).stem
    assert len(list(staging.glob("journal/*.lock"))) == 1


@pytest.mark.parametrize("moment", ["write_at", "rename"])
def test_it_does_not_end_under_a_store_or_a_seal(staging: Path, operations: Operations, moment: str) -> None:
    area = an_area(staging, operations)
    stage(area, 1)
    has_begun, goes_on = threading.Event(), threading.Event()

    def wait(name: str) -> None:
        if name == moment and not has_begun.is_set():
            has_begun.set()
            goes_on.wait(60)

    operations.before = wait
    with ThreadPoolExecutor(2) as pool:
        working = pool.submit(stage, area, 2) if moment == "write_at" else pool.submit(area.seal, BATCH)
        assert has_begun.wait(60)
        closing = pool.submit(area.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        assert segments(staging)
        before = len(operations.synced)
        stage(area, 3)
        assert len(operations.synced) > before  # by itself
        goes_on.set()
        working.result()
        closing.result()

    heir = FileStagingArea(staging, FileOperations(), FakeClock(), DRAFTS)
    heir.seal(BATCH)
    assert expected(*((1, 2, 3) if moment == "write_at" else (1, 3))) == contents(heir)
    assert list(staging.glob("journal/*")) == []


def test_a_clean_end_leaves_no_journal(staging: Path, operations: Operations) -> None:
    area = an_area(staging, operations)
    stage(area)
    area.seal(BATCH)

    area.close()

    assert list(staging.glob("journal/*")) == []
    stage(area, 2)
    assert expected(1, 2) == contents(area)
    area.seal(BATCH)
    area.close()


# Records.


EPOCH = bytes(range(16))
HEADER = Header(epoch=EPOCH, batch=BATCH)


def a_record(number: int, position: int, size: int = 600, epoch: bytes = EPOCH) -> bytes:
    content, instance = a_part10_object(number, size)
    facts = StagedInstance(key=StagingKey.of(BATCH, instance), instance=instance, staged_at=FakeClock().now())
    record = Record(position=position, facts=facts, size=len(content), checksum=checksum_of(content))
    return (encode_head(epoch, record) + content).ljust(record_bytes(len(content)), b"\0")


def found(segment: bytes) -> list[int]:
    """Return the numbers of the objects that are whole."""
    header = read_header(reader(segment))
    if header is None:
        return []
    numbers = {a_part10_object(number)[1].sop_instance: number for number in range(9)}
    return [
        numbers[record.facts.key.sop_instance]
        for record in read_records(reader(segment), header)
        if read_content(reader(segment), record) is not None
    ]


def a_segment(*records: bytes) -> bytes:
    return HEADER.encode() + b"".join(records)


def test_records_are_read_back_in_their_order() -> None:
    first = a_record(1, BLOCK_BYTES, 9_000)
    second = a_record(2, BLOCK_BYTES + len(first))

    assert found(a_segment(first, second, bytes(3 * BLOCK_BYTES))) == [1, 2]


def test_a_torn_record_is_none_and_those_behind_it_are_found() -> None:
    first = bytearray(a_record(1, BLOCK_BYTES, 9_000))
    second = a_record(2, BLOCK_BYTES + len(first))
    for torn in (0, 40, 200, BLOCK_BYTES + 8_000):
        damaged = bytearray(first)
        damaged[torn] ^= 1
        assert found(a_segment(bytes(damaged), second)) == [2]


def test_a_record_of_an_earlier_use_or_another_place_is_none() -> None:
    earlier = a_record(1, BLOCK_BYTES, epoch=bytes(16))
    elsewhere = a_record(2, BLOCK_BYTES)

    assert found(a_segment(earlier, elsewhere, a_record(3, BLOCK_BYTES + len(earlier) + len(elsewhere)))) == [3]


def test_a_record_may_not_pass_off_what_a_peer_has_sent() -> None:
    content, instance = a_part10_object(1)
    inner = a_record(2, 3 * BLOCK_BYTES, epoch=bytes(16))
    facts = StagedInstance(key=StagingKey.of(BATCH, instance), instance=instance, staged_at=FakeClock().now())
    content = content.ljust(BLOCK_BYTES, b"\0") + inner
    record = Record(position=BLOCK_BYTES, facts=facts, size=len(content), checksum=checksum_of(content))
    damaged = bytearray((encode_head(EPOCH, record) + content).ljust(record_bytes(len(content)), b"\0"))
    damaged[0] ^= 1

    assert found(a_segment(bytes(damaged))) == []


def test_a_segment_that_is_cut_off_or_no_segment_has_no_records() -> None:
    whole = a_segment(a_record(1, BLOCK_BYTES))

    assert found(whole[:-BLOCK_BYTES]) == []
    assert found(whole[: BLOCK_BYTES + 10]) == []
    assert found(whole[:100]) == []
    assert found(b"") == []
    assert found(bytes(len(whole))) == []


def test_a_head_holds_the_longest_facts() -> None:
    longest = "9" * 64
    content, instance = a_part10_object(1)
    instance = attrs.evolve(
        instance,
        study=type(instance.study)(longest),
        series=type(instance.series)(longest),
        sop_instance=type(instance.sop_instance)(longest),
        sop_class=type(instance.sop_class)(longest),
        transfer_syntax=type(instance.transfer_syntax)(longest),
        calling_ae_title=AeTitle('"' * 16),
    )
    facts = StagedInstance(key=StagingKey.of(BATCH, instance), instance=instance, staged_at=FakeClock().now())
    record = Record(position=BLOCK_BYTES, facts=facts, size=1 << 40, checksum=checksum_of(content))

    assert len(encode_head(EPOCH, record)) == BLOCK_BYTES
