"""
The proof of the journal: what was staged through it survives a loss of power, a sealed batch does so without it, and
nothing of a sealed batch ever comes back from it.

As test_durability.py: the power goes after every operation, then the dead process's journal is taken over.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from adapters.memory.clock import FakeClock
from adapters.outbound.local.buffers import BLOCK_BYTES
from adapters.outbound.local.file_draft import DraftLimits
from adapters.outbound.local.file_staging import FileStagingArea
from adapters.outbound.local.files import FileOperations
from adapters.outbound.local.journal import JournalLimits
from domain.identifiers import BatchId
from domain.staging import StagingKey
from tests.builders import a_batch_id, a_uid
from tests.disk import Disk, Entry, Loss, RecordingFileOperations
from tests.part10 import a_part10_object

# Three segments, of which each has room for one or two objects: they fill up and are used again.
JOURNAL = JournalLimits(
    segments=3,
    segment_bytes=24 << 10,
    object_bytes=7_000,
    piece_bytes=BLOCK_BYTES,
    linger_seconds=3600,
    most_of_free=1.0,
)
DRAFTS = DraftLimits(memory_bytes=8_000, early_bytes=2_000, writeback_bytes=1_000)
FIRST, SECOND, THIRD = a_batch_id(1), a_batch_id(2), a_batch_id(3)
BATCHES = (FIRST, SECOND, THIRD)
STAGING = Path("data", "staging")
SkipWhile = Callable[[str, str, bool], bool]


@attrs.define
class Story:
    """What was done, and what every object should look like."""

    log: list[Entry]
    contents: dict[StagingKey, bytes]


class Staging:
    """Stages objects on a recorded disk and notes what was promised; `skip` is told too whether a batch is sealed."""

    def __init__(
        self,
        base: Path,
        skip: SkipWhile = lambda _kind, _path, _is_sealing: False,
        journal: JournalLimits = JOURNAL,
    ) -> None:
        base.mkdir()
        self.is_sealing = False
        self.operations = RecordingFileOperations(base, lambda kind, path: skip(kind, path, self.is_sealing))
        self.clock = FakeClock()
        self.area = FileStagingArea(base / STAGING, self.operations, self.clock, DRAFTS, journal=journal)
        self.area.prepare(60)
        self.contents: dict[StagingKey, bytes] = {}

    def stage(
        self, number: int, size: int, batch: BatchId, series: int = 1, halfway: Callable[[], None] = lambda: None
    ) -> None:
        content, instance = a_part10_object(number, size, series=a_uid(series, "2.25.2"))
        key = StagingKey.of(batch, instance)
        self.contents[key] = content
        draft = self.area.draft()
        for start in range(0, len(content), 512):
            draft.write(content[start : start + 512])
            if start == BLOCK_BYTES:
                halfway()
        self.area.stage(draft, batch, instance)
        self.operations.note("promise", key)
        draft.discard()

    def abandon(self, number: int, size: int) -> None:
        draft = self.area.draft()
        draft.write(a_part10_object(number, size)[0])
        draft.discard()

    def seal(self, batch: BatchId) -> None:
        self.is_sealing = True
        self.area.seal(batch)
        self.is_sealing = False
        self.operations.note("sealed", batch)

    def story(self) -> Story:
        return Story(self.operations.log, self.contents)


def _told(base: Path, skip: SkipWhile = lambda _kind, _path, _is_sealing: False) -> Story:
    staging = Staging(base, skip)
    staging.stage(1, 600, FIRST)
    staging.stage(2, 3_000, FIRST, 2)
    staging.stage(3, 7_500, FIRST)  # durable by itself
    staging.stage(4, 900, SECOND)  # two batches at once
    for number in range(5, 10):  # more than there is room for
        staging.stage(number, 5_000, FIRST)
    staging.seal(FIRST)
    staging.stage(11, 700, SECOND)
    staging.stage(12, 700, THIRD)
    staging.seal(SECOND)
    staging.stage(13, 800, THIRD)
    return staging.story()


def _told_of_early_records(base: Path, skip: SkipWhile = lambda _kind, _path, _is_sealing: False) -> Story:
    """Tell what becomes of records that are begun while their objects arrive."""
    staging = Staging(base, skip, attrs.evolve(JOURNAL, segment_bytes=64 << 10))
    staging.stage(1, 5_000, FIRST)
    staging.stage(2, 5_100, FIRST)  # begun where it stays
    staging.abandon(3, 5_000)  # its place is the next one's
    staging.stage(4, 4_500, FIRST, halfway=lambda: staging.stage(5, 600, FIRST))  # one more behind its place
    staging.stage(6, 5_000, FIRST, halfway=lambda: staging.abandon(7, 600))
    staging.stage(8, 6_900, FIRST)  # larger than it was thought to be
    staging.stage(9, 5_000, SECOND)  # begun in the first batch
    staging.stage(10, 5_000, THIRD, halfway=lambda: staging.seal(SECOND))  # its place is withdrawn
    staging.stage(11, 5_000, THIRD)
    staging.stage(12, 5_000, THIRD)
    staging.seal(FIRST)
    return staging.story()


def _losses(story: Story, loss: Loss, folder: Path) -> Iterator[str]:
    """Let the power go after every operation, and tell each promise that was broken."""
    folder.mkdir()
    disk = Disk()
    promised: list[StagingKey] = []
    sealed: set[BatchId] = set()
    for moment, (name, details) in enumerate(story.log):
        if name == "promise":
            promised.append(details[0])
        elif name == "sealed":
            sealed.add(details[0])
        else:
            disk.apply((name, details))
        if name not in {"stamp", "begin file", "begin folder", "open"}:
            restored = folder / str(moment)
            disk.restore(restored, loss)
            for problem in _broken(restored / STAGING, promised, sealed, story):
                yield f"after operation {moment} ({name}): {problem}"
            shutil.rmtree(restored)


def _broken(staging: Path, promised: list[StagingKey], sealed: set[BatchId], story: Story) -> Iterator[str]:
    yield from _unsealed(staging, [key for key in promised if key.batch in sealed], story)
    for batch in sealed:
        shutil.rmtree(staging / "batches" / str(batch), ignore_errors=True)  # as if it had been imported
    area = FileStagingArea(staging, FileOperations(), FakeClock())
    seen = {staged.key for batch in BATCHES for staged in area.list(batch)}
    yield from (f"{key.path} is not listed" for key in promised if key.batch not in sealed and key not in seen)
    for batch in BATCHES:
        area.seal(batch)
    listed = {staged.key: staged for batch in BATCHES for staged in area.list(batch)}
    for key, staged in listed.items():
        if key.batch in sealed:
            yield f"{key.path} came back"
        elif area.read_head(staged, 1 << 20) != story.contents[key]:
            yield f"{key.path} has other bytes"
    yield from (f"{key.path} is gone" for key in promised if key.batch not in sealed and key not in listed)
    if list(staging.glob("journal/*/*")):
        yield "a journal was not taken over"
    area.close()


def _unsealed(staging: Path, keys: Iterable[StagingKey], story: Story) -> Iterator[str]:
    for key in keys:
        path = staging / key.path
        if not path.exists() or path.read_bytes() != story.contents[key]:
            yield f"{key.path} was sealed and is not there"


@pytest.mark.parametrize("loss", Loss)
def test_what_was_staged_survives_a_loss_of_power_at_any_moment(tmp_path: Path, loss: Loss) -> None:
    story = _told(tmp_path / "disk")

    assert sum(name == "promise" for name, _ in story.log) == 12
    assert list(_losses(story, loss, tmp_path / "restored")) == []


@pytest.mark.parametrize("loss", Loss)
def test_what_was_begun_while_it_arrived_survives_a_loss_of_power_at_any_moment(tmp_path: Path, loss: Loss) -> None:
    story = _told_of_early_records(tmp_path / "disk")

    assert sum(name == "promise" for name, _ in story.log) == 10
    assert sum(name == "begin data" for name, _ in story.log) >= 3
    assert list(_losses(story, loss, tmp_path / "restored")) == []


@pytest.mark.parametrize("missing", ["sync", "wait"])
@pytest.mark.parametrize("loss", [Loss.DROPPED, Loss.TORN])
def test_the_proof_sees_what_is_missing_after_early_writes(tmp_path: Path, missing: str, loss: Loss) -> None:
    story = _told_of_early_records(tmp_path / "disk", lambda kind, _path, _: kind == missing)

    assert next(_losses(story, loss, tmp_path / "restored"), None) is not None


SYNCS: dict[str, SkipWhile] = {
    "records": lambda kind, _path, is_sealing: kind == "data" and not is_sealing,
    "the end of segments": lambda kind, _path, is_sealing: kind == "data" and is_sealing,
    "files of what did without the journal": lambda kind, _path, is_sealing: kind == "file" and not is_sealing,
    "files of a sealed batch": lambda kind, _path, is_sealing: kind == "file" and is_sealing,
    "names of segments": lambda kind, path, _: kind == "folder" and len(Path(path).parts) == 4 and "journal" in path,
    "the journal of a process": lambda kind, path, _: kind == "folder" and path == "data/staging/journal",
    "the journal": lambda kind, path, _: kind == "folder" and path == "data/staging",
    "batches": lambda kind, path, _: kind == "folder" and path == "data/staging/batches",
    "batch": lambda kind, path, _: kind == "folder" and len(Path(path).parts) == 4 and "batches" in path,
    "study": lambda kind, path, _: kind == "folder" and len(Path(path).parts) == 5,
    "series of what did without the journal": (
        lambda kind, path, is_sealing: kind == "folder" and len(Path(path).parts) == 6 and not is_sealing
    ),
    "series of a sealed batch": (
        lambda kind, path, is_sealing: kind == "folder" and len(Path(path).parts) == 6 and is_sealing
    ),
}


@pytest.mark.parametrize("sync", SYNCS)
def test_the_proof_sees_each_sync_that_is_missing(tmp_path: Path, sync: str) -> None:
    story = _told(tmp_path / "disk", SYNCS[sync])

    assert next(_losses(story, Loss.DROPPED, tmp_path / "restored"), None) is not None


def test_the_proof_sees_a_segment_that_is_erased_before_its_objects_have_files(tmp_path: Path) -> None:
    story = _told(tmp_path / "disk")
    erased = next(
        at
        for at, (name, facts) in enumerate(story.log)
        if name == "begin write"
        and facts[2:] == (0, bytes(4096))
        and any(entry[0] == "promise" for entry in story.log[:at])
    )
    end = story.log.index(("end", (story.log[erased][1][0],)))
    first_file = next(at for at in range(erased, 0, -1) if story.log[at][0] == "promise")
    moved = [story.log[erased], story.log[end]]
    log = [entry for entry in story.log if entry not in moved]
    log[first_file + 1 : first_file + 1] = moved

    assert next(_losses(attrs.evolve(story, log=log), Loss.DROPPED, tmp_path / "restored"), None) is not None


def test_threads_that_share_a_journal_keep_every_promise(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "disk")

    def work(thread: int) -> None:
        for number in range(3):
            staging.stage(thread * 10 + number, 500 + 900 * number, BATCHES[number % 2], (thread + number) % 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for batch in (FIRST, SECOND):
        staging.seal(batch)
    story = staging.story()

    assert len(story.contents) == 12
    assert list(_losses(story, Loss.TORN, tmp_path / "restored")) == []


@pytest.mark.parametrize("loss", Loss)
def test_a_takeover_that_a_loss_of_power_ends_is_done_again(tmp_path: Path, loss: Loss) -> None:
    story = _told(tmp_path / "disk")
    disk = Disk()
    for name, details in story.log:
        if name not in {"promise", "sealed"}:
            disk.apply((name, details))
    lost = tmp_path / "lost"
    disk.restore(lost, loss)
    before = Disk.of(lost)
    operations = RecordingFileOperations(lost)
    area = FileStagingArea(lost / STAGING, operations, FakeClock())
    for batch in BATCHES:
        area.seal(batch)
        operations.note("sealed", batch)
    area.close()
    promised = [details[0] for name, details in story.log if name == "promise"]
    (tmp_path / "restored").mkdir()

    sealed = {FIRST, SECOND}
    for moment, (name, details) in enumerate(operations.log):
        if name == "sealed":
            sealed.add(details[0])
        else:
            before.apply((name, details))
        restored = tmp_path / "restored" / str(moment)
        before.restore(restored, loss)
        assert list(_broken(restored / STAGING, promised, sealed, story)) == [], f"after operation {moment} ({name})"
    assert set(BATCHES) == sealed
