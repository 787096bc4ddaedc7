"""
The proof that what was staged survives a loss of power, and that the proof sees each missing sync.

Every file operation is recorded; after each of them the power goes, what was not synced is lost (tests/disk.py), and
a fresh staging area looks for every object whose `stage` had returned by then.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from adapters.memory.clock import FakeClock
from adapters.outbound.local.file_draft import DraftLimits
from adapters.outbound.local.file_staging import FileStagingArea
from adapters.outbound.local.files import FileOperations
from domain.identifiers import BatchId
from domain.staging import StagedInstance, StagedObject, StagingKey
from tests.builders import a_batch_id, a_uid
from tests.disk import Disk, Entry, Loss, RecordingFileOperations, Skip
from tests.part10 import a_part10_object

LIMITS = DraftLimits(memory_bytes=6_000, early_bytes=2_000, writeback_bytes=1_000)
FIRST, SECOND, THIRD = a_batch_id(1), a_batch_id(2), a_batch_id(3)
STAGING = Path("data", "staging")

# number, size (in memory; early in a file besides; in a file only), batch, study, series
OBJECTS = [
    (1, 600, FIRST, 1, 1),
    (2, 3_000, FIRST, 1, 1),
    (3, 9_000, FIRST, 1, 2),
    (4, 700, FIRST, 2, 3),
    (5, 800, SECOND, 1, 1),
    (6, 8_000, SECOND, 1, 1),
]


@attrs.define
class Story:
    """What was done, and what every object should look like."""

    log: list[Entry]
    contents: Mapping[StagingKey, bytes]
    facts: Mapping[StagingKey, StagedInstance]


class Staging:
    """Stages objects on a recorded disk and notes what `stage` has promised."""

    def __init__(self, base: Path, skip: Skip = lambda _kind, _path: False) -> None:
        base.mkdir()
        self.operations = RecordingFileOperations(base, skip)
        self.clock = FakeClock()
        self.area = FileStagingArea(base / STAGING, self.operations, self.clock, LIMITS)
        self.contents: dict[StagingKey, bytes] = {}
        self.facts: dict[StagingKey, StagedInstance] = {}

    def stage(self, number: int, size: int, batch: BatchId, study: int, series: int) -> None:
        content, instance = a_part10_object(number, size, study=a_uid(study, "2.25.1"), series=a_uid(series, "2.25.2"))
        key = StagingKey.of(batch, instance)
        self.contents[key] = content
        draft = self.area.draft()
        for start in range(0, len(content), 512):
            draft.write(content[start : start + 512])
        staged_at = self.area.stage(draft, batch, instance)
        self.facts[key] = StagedInstance(key=key, instance=instance, staged_at=staged_at)
        self.operations.note("promise", key)
        draft.discard()
        self.clock.advance(0.25)

    def story(self) -> Story:
        self.area.close()
        return Story(self.operations.log, self.contents, self.facts)


def _told(base: Path, skip: Skip = lambda _kind, _path: False) -> Story:
    staging = Staging(base, skip)
    for each in OBJECTS:
        staging.stage(*each)
    return staging.story()


def _losses(story: Story, loss: Loss, folder: Path) -> Iterator[str]:
    """Let the power go after every operation, and tell each promise that was broken."""
    folder.mkdir()
    disk = Disk()
    promised: list[StagingKey] = []
    for moment, (name, details) in enumerate(story.log):
        if name == "promise":
            promised.append(details[0])
        else:
            disk.apply((name, details))
        if name not in {"write", "stamp", "begin file", "begin folder"}:
            restored = folder / str(moment)
            disk.restore(restored, loss)
            for problem in _broken(restored, promised, story):
                yield f"after operation {moment} ({name}): {problem}"


def _broken(restored: Path, promised: list[StagingKey], story: Story) -> Iterator[str]:
    area = FileStagingArea(restored / STAGING, FileOperations(), FakeClock())
    listed = {staged.key: staged for batch in (FIRST, SECOND, THIRD) for staged in area.list(batch)}
    for key, staged in listed.items():
        if area.read_head(staged, 1 << 20) != story.contents[key]:
            yield f"{key.path} has other bytes"
    for key in promised:
        if key not in listed:
            yield f"{key.path} is gone"
    facts = {found.key: found for found in area.facts(listed[key] for key in promised if key in listed)}
    for key, found in facts.items():
        # the time received is the one fact that an object does not tell
        expected = story.facts[key]
        instance = attrs.evolve(expected.instance, received_at=found.instance.received_at)
        if attrs.evolve(expected, instance=instance) != found:
            yield f"{key.path} has other facts"


@pytest.mark.parametrize("loss", Loss)
def test_what_was_staged_survives_a_loss_of_power_at_any_moment(tmp_path: Path, loss: Loss) -> None:
    story = _told(tmp_path / "disk")

    assert len(OBJECTS) == sum(name == "promise" for name, _ in story.log)
    assert list(_losses(story, loss, tmp_path / "restored")) == []


def _is(kind: str, depth: int | None = None) -> Skip:
    def skip(what: str, path: str) -> bool:
        return what == kind and (depth is None or len(Path(path).parts) == depth)

    return skip


SYNCS: Mapping[str, Skip] = {
    "file": _is("file"),
    "file in memory": lambda kind, path: kind == "file" and path.endswith("-1.part"),
    "file early": lambda kind, path: kind == "file" and path.endswith("-2.part"),
    "file only": lambda kind, path: kind == "file" and path.endswith("-3.part"),
    "the folder above the data folder": _is("folder", 0),
    "data folder": _is("folder", 1),
    "staging": _is("folder", 2),
    "batches": lambda kind, path: kind == "folder" and path == "data/staging/batches",
    "batch": _is("folder", 4),
    "study": _is("folder", 5),
    "series": _is("folder", 6),
    "series of one object": lambda kind, path: kind == "folder" and path.endswith("2.25.2.100003"),
}


@pytest.mark.parametrize("sync", SYNCS)
def test_the_proof_sees_each_sync_that_is_missing(tmp_path: Path, sync: str) -> None:
    story = _told(tmp_path / "disk", SYNCS[sync])

    assert list(_losses(story, Loss.DROPPED, tmp_path / "restored")) != []


@pytest.mark.parametrize("loss", [Loss.TORN, Loss.EMPTY])
def test_the_proof_sees_a_file_that_gets_its_name_before_its_bytes(tmp_path: Path, loss: Loss) -> None:
    story = _told(tmp_path / "disk", SYNCS["file"])

    assert list(_losses(story, loss, tmp_path / "restored")) != []


def test_the_proof_sees_a_sync_that_comes_after_the_rename(tmp_path: Path) -> None:
    story = _told(tmp_path / "disk")
    renames = [at for at, (name, _) in enumerate(story.log) if name == "rename"]
    for at in renames:
        # [begin file, end, ..., rename] becomes [..., rename, begin file, end]
        begin = max(before for before in range(at) if story.log[before][0] == "begin file")
        end = story.log.index(("end", (story.log[begin][1][0],)))
        moved = [story.log[begin], story.log[end]]
        story.log[begin : at + 1] = [entry for entry in story.log[begin : at + 1] if entry not in moved] + moved

    assert list(_losses(story, Loss.DROPPED, tmp_path / "dropped")) == []
    assert list(_losses(story, Loss.TORN, tmp_path / "torn")) != []


def test_threads_that_share_folders_keep_every_promise(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "disk")

    def work(thread: int) -> None:
        for number in range(3):
            staging.stage(thread * 10 + number, 500 + 900 * number, FIRST, number % 2, (thread + number) % 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    story = staging.story()

    assert len(story.facts) == 12
    assert list(_losses(story, Loss.DROPPED, tmp_path / "restored")) == []


# Moves: at every moment each object is somewhere, whole, and after the move where it was moved to.


def _rehouse(area: FileStagingArea, staged: StagedObject) -> None:
    area.rehouse(staged, THIRD)


def _supersede(area: FileStagingArea, staged: StagedObject) -> None:
    area.supersede(staged)


def _moved(base: Path, move: Callable[[FileStagingArea, StagedObject], None], skip: Skip) -> Story:
    staging = Staging(base, skip)
    staging.stage(1, 600, FIRST, 1, 1)
    staging.stage(2, 700, FIRST, 1, 1)
    for staged in list(staging.area.list(FIRST)):
        move(staging.area, staged)
        staging.operations.note("promise", staged.key, "moved")
    return staging.story()


def _lost_by_move(story: Story, folder: Path) -> Iterator[str]:
    disk = Disk()
    promised: set[StagingKey] = set()
    moved: set[StagingKey] = set()
    folder.mkdir()
    for moment, (name, details) in enumerate(story.log):
        if name != "promise":
            disk.apply((name, details))
        elif details[1:] == ("moved",):
            moved.add(details[0])
        else:
            promised.add(details[0])
        restored = folder / str(moment)
        disk.restore(restored, Loss.DROPPED)
        for key in promised:
            targets = [
                restored / STAGING / attrs.evolve(key, batch=THIRD).path,
                restored / STAGING / key.superseded_path,
            ]
            places = targets if key in moved else [*targets, restored / STAGING / key.path]
            if story.contents[key] not in [place.read_bytes() for place in places if place.exists()]:
                yield f"after operation {moment} ({name}): {key.path} is lost"


@pytest.mark.parametrize("move", [_rehouse, _supersede])
def test_a_moved_object_is_never_lost(tmp_path: Path, move: Callable[[FileStagingArea, StagedObject], None]) -> None:
    story = _moved(tmp_path / "disk", move, lambda _kind, _path: False)

    assert list(_lost_by_move(story, tmp_path / "restored")) == []


@pytest.mark.parametrize("depth", [3, 4, 5, 6])
@pytest.mark.parametrize("move", [_rehouse, _supersede])
def test_the_proof_sees_each_missing_sync_of_a_move(
    tmp_path: Path, move: Callable[[FileStagingArea, StagedObject], None], depth: int
) -> None:
    def skip(kind: str, path: str) -> bool:
        is_target = str(THIRD) in path or "superseded" in path or (depth == 3 and path.endswith("batches"))
        return kind == "folder" and is_target and len(Path(path).parts) == depth

    story = _moved(tmp_path / "disk", move, skip)

    assert list(_lost_by_move(story, tmp_path / "restored")) != []
