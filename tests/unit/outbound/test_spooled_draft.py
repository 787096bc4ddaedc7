import errno
import gc
from pathlib import Path
from typing import IO

import pytest

from adapters.outbound.draft_room import DraftRoom, Held
from adapters.outbound.spooled_draft import DraftSpace, SpooledDraft
from domain.budget import DraftBudget
from domain.errors import StageFailed


def _room(memory_bytes: int) -> DraftRoom:
    return DraftRoom(DraftBudget(memory_bytes=memory_bytes))


def _content(draft: SpooledDraft) -> bytes:
    with draft.content() as content:
        return bytes(content) if isinstance(content, memoryview) else content.read()


@pytest.mark.parametrize("kept_bytes", [0, 5, 6, 1000])
def test_what_was_written_is_given_back_again_and_again(tmp_path: Path, kept_bytes: int) -> None:
    draft = DraftSpace(tmp_path / "incoming", kept_bytes=kept_bytes)
    spooled = SpooledDraft(draft)
    for piece in (b"one", memoryview(b"two"), b"", b"three" * 100):
        spooled.write(piece)

    assert spooled.size == 506
    assert _content(spooled) == b"onetwo" + b"three" * 100
    assert _content(spooled) == b"onetwo" + b"three" * 100
    spooled.discard()
    spooled.discard()


def test_a_small_draft_makes_no_file_and_a_large_one_none_with_a_name(tmp_path: Path) -> None:
    space = DraftSpace(tmp_path / "incoming", kept_bytes=10)
    draft = SpooledDraft(space)
    draft.write(b"x" * 10)
    assert not (tmp_path / "incoming").exists()

    draft.write(b"x")

    assert list((tmp_path / "incoming").iterdir()) == []
    draft.discard()


def test_drafts_share_their_memory_and_one_that_finds_none_goes_on_in_its_file(tmp_path: Path) -> None:
    space = DraftSpace(tmp_path / "incoming", kept_bytes=10, room=_room(15))
    first, second = SpooledDraft(space), SpooledDraft(space)
    first.write(b"1" * 10)
    assert not (tmp_path / "incoming").exists()

    second.write(b"2" * 5)
    second.write(b"2" * 2)

    assert (tmp_path / "incoming").exists()
    assert _content(second) == b"2" * 7
    first.discard()
    assert space.room.held().memory == 0
    second.discard()
    assert space.room.held().temporary == 0


def test_a_forgotten_draft_gives_its_memory_back(tmp_path: Path) -> None:
    space = DraftSpace(tmp_path, kept_bytes=10, room=_room(10))
    SpooledDraft(space).write(b"x" * 10)
    gc.collect()

    assert space.room.held() == Held(memory=0, temporary=0, drafts=0)


class _Full(DraftSpace):
    def open_file(self) -> IO[bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_draft_without_room_fails_and_says_so(tmp_path: Path) -> None:
    draft = SpooledDraft(_Full(tmp_path, kept_bytes=1))

    for _ in range(2):
        with pytest.raises(StageFailed, match="No space left on device; give the receiver more temporary space"):
            draft.write(b"xx")
    draft.discard()


def test_a_discarded_draft_has_nothing(tmp_path: Path) -> None:
    draft = SpooledDraft(DraftSpace(tmp_path))
    draft.discard()

    with pytest.raises(StageFailed, match="discarded"):
        draft.write(b"x")
    with pytest.raises(StageFailed, match="discarded"):
        _content(draft)
