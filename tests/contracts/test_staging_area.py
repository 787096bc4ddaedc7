"""What every StagingArea promises (domain/ports.py); another adapter joins by another parameter."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from blake3 import blake3

from adapters.memory.clock import FakeClock
from adapters.memory.staging import MemoryStagingArea
from adapters.outbound.local.file_draft import DraftLimits
from adapters.outbound.local.file_staging import FileStagingArea
from adapters.outbound.local.files import FileOperations
from adapters.outbound.local.journal import JournalLimits
from domain.errors import StageFailed
from domain.identifiers import BatchId, Digest, Uid
from domain.instance import SopInstance
from domain.ports import StagingArea
from domain.staging import StagedObject, StagingKey
from tests.builders import EXPLICIT_VR_LITTLE_ENDIAN, a_batch_id, a_uid, an_instance

if TYPE_CHECKING:
    from tests.s3 import Storage


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


KINDS = [
    "memory",
    "local",
    "local in files",
    "local in a journal",
    pytest.param("s3", marks=pytest.mark.aws),
    pytest.param("s3 in files", marks=pytest.mark.aws),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def area(kind: str, request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> Iterator[StagingArea]:
    if kind == "memory":
        yield MemoryStagingArea(clock)
        return
    if kind.startswith("s3"):
        kept_bytes = 64 if kind == "s3 in files" else 8 << 20
        yield _s3_area(request.getfixturevalue("storage"), clock, tmp_path, kept_bytes=kept_bytes)
        return
    limits = DraftLimits(memory_bytes=64, early_bytes=16) if kind == "local in files" else DraftLimits()
    # so small that it is full now and then, and so patient that nothing moves out of it by itself
    journal = JournalLimits(segments=2, segment_bytes=64 << 10, object_bytes=20_000, linger_seconds=3600)
    local = FileStagingArea(
        tmp_path / "data" / "staging",
        FileOperations(),
        clock,
        limits,
        journal=journal if kind == "local in a journal" else None,
    )
    local.prepare(60)
    yield local
    local.close()


@pytest.fixture(scope="session")
def storage() -> Iterator["Storage"]:
    """Give a simulated S3."""
    from tests.s3 import simulated_storage

    with simulated_storage() as storage:
        yield storage


def _s3_area(storage: "Storage", clock: FakeClock, folder: Path, *, kept_bytes: int) -> StagingArea:
    from adapters.outbound.s3_staging import S3StagingArea
    from adapters.outbound.spooled_draft import DraftSpace

    return S3StagingArea(storage.make_bucket(), DraftSpace(folder / "incoming", kept_bytes=kept_bytes), clock)


@pytest.fixture
def is_now(kind: str, clock: FakeClock) -> Callable[[datetime], bool]:
    """Tell whether facts say that an object was staged just now: S3 has a clock of its own, with whole seconds."""
    if kind.startswith("s3"):
        return lambda moment: timedelta(0) <= datetime.now(UTC) - moment < timedelta(seconds=60)
    return lambda moment: moment == clock.now()


def _of(number: int, content: bytes, **overrides: object) -> SopInstance:
    digest = blake3(content + EXPLICIT_VR_LITTLE_ENDIAN.value.encode()).hexdigest()
    return an_instance(number, **{"size": len(content), "digest": Digest(digest), **overrides})


def _content(number: int, size: int = 1000) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(size)


def _stage(area: StagingArea, batch: BatchId, number: int, **overrides: object) -> SopInstance:
    content = _content(number)
    instance = _of(number, content, **overrides)
    draft = area.draft()
    draft.write(content)
    area.stage(draft, batch, instance)
    draft.discard()
    return instance


def _read(area: StagingArea, staged: StagedObject) -> bytes:
    return area.read_head(staged, staged.size + 1)


BATCH = a_batch_id(1)
OTHER = a_batch_id(2)


def test_what_was_sealed_is_there_as_before(area: StagingArea) -> None:
    instances = [_stage(area, BATCH, number) for number in range(5)]
    before = list(area.list(BATCH))

    area.seal(BATCH)
    area.seal(BATCH)
    area.seal(OTHER)

    assert before == list(area.list(BATCH))
    assert sorted(instance.digest.value for instance in instances) == sorted(
        facts.instance.digest.value for facts in area.facts(before)
    )
    assert [_content(number) for number in range(5)] == [_read(area, staged) for staged in before]


def test_an_empty_area_has_nothing(area: StagingArea) -> None:
    assert list(area.batches()) == []
    assert list(area.list(BATCH)) == []


def test_a_staged_object_is_listed_with_its_size_bytes_and_facts(
    area: StagingArea, clock: FakeClock, is_now: Callable[[datetime], bool]
) -> None:
    draft = area.draft()
    buffer = bytearray(b"first ")
    draft.write(memoryview(buffer))
    buffer[:] = b"reused"
    draft.write(b"second" * 40)
    content = b"first " + b"second" * 40
    instance = _of(1, content)
    clock.advance(5)

    staged_at = area.stage(draft, BATCH, instance)
    draft.discard()

    assert clock.now() == staged_at
    assert len(content) == draft.size
    (staged,) = area.list(BATCH)
    assert StagedObject(key=StagingKey.of(BATCH, instance), size=len(content)) == attrs.evolve(staged, modified_at=None)
    assert content == _read(area, staged)
    (facts,) = area.facts([staged])
    assert (staged.key, instance) == (facts.key, facts.instance)
    assert is_now(facts.staged_at)
    assert list(area.batches()) == [BATCH]


def test_read_head_returns_no_more_than_it_was_asked_for(area: StagingArea) -> None:
    _stage(area, BATCH, 1)
    (staged,) = area.list(BATCH)

    assert _content(1)[:10] == area.read_head(staged, 10)


def test_an_unstaged_draft_is_in_no_batch(area: StagingArea) -> None:
    draft = area.draft()
    draft.write(_content(1))

    assert list(area.batches()) == []

    draft.discard()
    draft.discard()
    with pytest.raises(StageFailed):
        area.stage(draft, BATCH, _of(1, _content(1)))
    assert list(area.batches()) == []


def test_listing_is_in_the_order_of_paths(area: StagingArea) -> None:
    instances = [
        _of(number, _content(number), study=Uid(study), series=Uid(series), sop_instance=Uid(sop))
        for number, (study, series, sop) in enumerate(
            [
                ("1.2.3", "1.5", "1.9"),
                ("1.2", "1.5", "1.9"),
                ("1.2", "1.5.1", "1.9"),
                ("1.2", "1.5", "1.9.1"),
                ("1.10", "1.5", "1.9"),
                ("1.2", "1.5", "1.10"),
            ]
        )
    ]
    for number, instance in enumerate(instances):
        draft = area.draft()
        draft.write(_content(number))
        area.stage(draft, BATCH, instance)

    paths = [staged.key.path for staged in area.list(BATCH)]

    assert sorted(StagingKey.of(BATCH, instance).path for instance in instances) == paths


def test_batches_come_in_order_and_do_not_mix(area: StagingArea) -> None:
    for number in (3, 1, 2):
        _stage(area, a_batch_id(number), number)

    assert [a_batch_id(1), a_batch_id(2), a_batch_id(3)] == list(area.batches())
    assert [a_uid(2)] == [staged.key.sop_instance for staged in area.list(a_batch_id(2))]


def test_the_same_object_staged_twice_stands_there_once(
    area: StagingArea, clock: FakeClock, is_now: Callable[[datetime], bool]
) -> None:
    _stage(area, BATCH, 1)
    clock.advance()
    _stage(area, BATCH, 1)

    (staged,) = area.list(BATCH)
    (facts,) = area.facts([staged])
    assert is_now(facts.staged_at)
    assert _content(1) == _read(area, staged)


def test_a_draft_may_be_staged_again_until_it_is_discarded(
    area: StagingArea, clock: FakeClock, is_now: Callable[[datetime], bool]
) -> None:
    draft = area.draft()
    draft.write(_content(1))
    instance = _of(1, _content(1))
    area.stage(draft, BATCH, instance)
    clock.advance()
    area.stage(draft, OTHER, instance)
    area.stage(draft, OTHER, instance)
    draft.discard()

    for batch in (BATCH, OTHER):
        (staged,) = area.list(batch)
        assert _content(1) == _read(area, staged)
    (facts,) = area.facts(area.list(OTHER))
    assert is_now(facts.staged_at)


def test_facts_come_for_objects_of_several_batches_and_leave_out_what_is_gone(area: StagingArea) -> None:
    _stage(area, BATCH, 1)
    _stage(area, OTHER, 2)
    listed = [*area.list(BATCH), *area.list(OTHER)]
    area.discard(listed[:1])

    assert [a_uid(2)] == [facts.instance.sop_instance for facts in area.facts(listed)]


def test_what_is_superseded_leaves_its_batch_once(area: StagingArea) -> None:
    _stage(area, BATCH, 1)
    _stage(area, BATCH, 2)
    first, second = area.list(BATCH)

    area.supersede(first)
    area.supersede(first)

    assert [second] == list(area.list(BATCH))
    assert area.read_head(first, 10) == b""
    assert [first.key] == [staged.key for staged in area.superseded(BATCH)]
    assert list(area.superseded(OTHER)) == []


def test_rehousing_takes_the_facts_along(area: StagingArea, clock: FakeClock) -> None:
    instance = _stage(area, BATCH, 1)
    (staged,) = area.list(BATCH)
    (before,) = area.facts([staged])
    clock.advance(100)

    area.rehouse(staged, OTHER)
    area.rehouse(staged, OTHER)

    assert list(area.batches()) == [OTHER]
    (moved,) = area.list(OTHER)
    assert attrs.evolve(staged.key, batch=OTHER) == moved.key
    assert _content(1) == _read(area, moved)
    (facts,) = area.facts([moved])
    assert (moved.key, instance, before.staged_at) == (facts.key, facts.instance, facts.staged_at)


def test_what_is_discarded_is_gone_and_may_be_discarded_again(area: StagingArea) -> None:
    for number in (1, 2, 3):
        _stage(area, BATCH, number)
    _stage(area, OTHER, 4)
    objects = [*area.list(BATCH), *area.list(OTHER)]

    area.discard(iter(objects[:2]))
    area.discard(iter(objects))

    assert list(area.batches()) == []
    assert area.read_head(objects[0], 10) == b""


def test_a_batch_that_was_emptied_takes_objects_again(area: StagingArea) -> None:
    _stage(area, BATCH, 1)
    area.discard(list(area.list(BATCH)))

    instance = _stage(area, BATCH, 1)

    (facts,) = area.facts(area.list(BATCH))
    assert instance == facts.instance


def test_many_threads_may_stage_at_once(area: StagingArea) -> None:
    start = threading.Barrier(8)

    def work(thread: int) -> None:
        start.wait()
        for number in range(10):
            _stage(area, BATCH, thread * 100 + number, series=a_uid(thread % 3, root="2.25.7"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    listed = list(area.list(BATCH))
    assert len(listed) == 80
    contents = {staged.key.sop_instance: _read(area, staged) for staged in listed}
    numbers = [thread * 100 + number for thread in range(8) for number in range(10)]
    assert {a_uid(number): _content(number) for number in numbers} == contents
    assert len(list(area.facts(listed))) == 80
