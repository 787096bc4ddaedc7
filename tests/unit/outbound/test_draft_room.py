import threading
import time

import pytest

from adapters.outbound.draft_room import DraftRoom, Held
from domain.budget import DraftBudget
from domain.errors import StageFailed

pytestmark = pytest.mark.usefixtures("no_threads_left")

MIB = 1 << 20


def a_room(*, memory: int = 8 * MIB, temporary: int = 30 * MIB, wait: float = 10.0) -> DraftRoom:
    budget = DraftBudget(memory_bytes=memory, temporary_bytes=temporary, largest_bytes=10 * MIB)
    return DraftRoom(budget, longest_wait_seconds=wait)


def test_memory_is_held_until_it_is_given_back() -> None:
    room = a_room()
    first, second = room.claim(), room.claim()
    assert first.keeps(MIB)
    assert second.keeps(3 * MIB)
    assert first.keeps(MIB // 2)
    assert not second.keeps(4 * MIB)  # more than half of the budget with the other's
    assert room.held().drafts == 2
    second.leave_memory()
    assert room.held().memory == MIB
    first.release()
    first.release()
    second.release()
    assert room.held() == Held(memory=0, temporary=0, drafts=0)
    assert room.most_memory == 4 * MIB


def test_memory_is_asked_for_ahead_and_exactly_where_there_is_little() -> None:
    room = a_room(memory=100_000)
    first, second, third = room.claim(), room.claim(), room.claim()
    assert first.keeps(1)
    assert room.held().memory == 64 << 10
    assert second.keeps(30_000)
    assert room.held().memory == (64 << 10) + 30_000
    assert not third.keeps(10_000)


def test_the_oldest_file_reads_on_while_others_wait_for_it() -> None:
    room = a_room()
    oldest, second, third = room.claim(), room.claim(), room.claim()
    oldest.fills(MIB)
    second.fills(10 * MIB)
    third.fills(10 * MIB)
    assert room.is_short()
    oldest.fills(10 * MIB)

    waiting = room.claim()
    thread = threading.Thread(target=waiting.fills, args=(MIB,))
    thread.start()
    time.sleep(0.1)
    assert thread.is_alive()
    oldest.release()
    thread.join(5)
    assert not thread.is_alive()
    assert room.held().temporary == 21 * MIB
    for claim in (second, third, waiting):
        claim.release()
    assert room.held() == Held(memory=0, temporary=0, drafts=0)
    assert not room.is_short()


def test_who_waits_too_long_is_refused_with_the_remedy() -> None:
    room = a_room(temporary=10 * MIB, wait=0.05)
    oldest, other = room.claim(), room.claim()
    oldest.fills(1)
    with pytest.raises(StageFailed, match="raise --temporary-space"):
        other.fills(1)
    other.release()
    oldest.fills(10 * MIB)
    oldest.release()


def test_hundreds_of_drafts_that_share_little_space_all_finish() -> None:
    room = a_room(temporary=12 * MIB, wait=30)
    sizes: list[int] = []

    def work(number: int) -> None:
        claim = room.claim()
        for size in range(0, (1 + number % 10) * MIB, MIB // 2):
            if not claim.keeps(size):
                claim.fills(size)
                claim.leave_memory()
            sizes.append(room.held().temporary)
        claim.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert room.held() == Held(memory=0, temporary=0, drafts=0)
    assert max(sizes) <= 12 * MIB
