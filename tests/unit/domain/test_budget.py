import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.budget import DraftBudget

BUDGET = DraftBudget(memory_bytes=1000, temporary_bytes=300, largest_bytes=100, first_bytes=50)


@pytest.mark.parametrize(
    "size,others,expected",
    [
        (1000, 0, False),  # more than half: short
        (500, 0, True),
        (500, 1, False),
        (50, 950, True),  # short, but within its first bytes
        (51, 900, False),
        (50, 951, False),  # there is no memory at all
    ],
)
def test_memory_is_for_all_drafts_together_and_for_first_bytes_while_it_is_short(
    size: int, others: int, expected: bool
) -> None:
    assert expected is BUDGET.keeps_in_memory(size, others=others)


@pytest.mark.parametrize(
    "size,waiting_files,is_oldest,expected",
    [
        (100, 200, True, True),
        (101, 200, True, False),
        (100, 100, False, True),
        (100, 101, False, False),
        (201, 0, False, False),
    ],
)
def test_all_files_but_the_oldest_leave_room_for_the_largest_object(
    size: int, waiting_files: int, is_oldest: bool, expected: bool
) -> None:
    assert expected is BUDGET.may_fill_file(size, waiting_files=waiting_files, is_oldest=is_oldest)


def test_space_is_short_when_drafts_are_about_to_wait() -> None:
    assert not BUDGET.is_space_short(waiting_files=180)
    assert BUDGET.is_space_short(waiting_files=181)
    assert not DraftBudget(temporary_bytes=100, largest_bytes=100).is_space_short(waiting_files=0)


def test_a_budget_that_cannot_hold_one_object_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="less than one object of 100"):
        DraftBudget(temporary_bytes=99, largest_bytes=100)


@given(st.data(), st.lists(st.integers(1, 100), min_size=1, max_size=12))
def test_every_draft_can_finish_whoever_is_asked_in_what_order(data: st.DataObject, wanted: list[int]) -> None:
    files: dict[int, int] = {}  # in the order they began
    unfinished = set(range(len(wanted)))
    while unfinished:
        moved = False
        for number in data.draw(st.permutations(sorted(unfinished))):
            files.setdefault(number, 0)
            oldest = next(iter(files))
            others = sum(size for other, size in files.items() if other not in {oldest, number})
            wished = min(wanted[number], files[number] + data.draw(st.sampled_from([30, 1])))
            for size in (wished, files[number] + 1):
                if BUDGET.may_fill_file(size, waiting_files=others, is_oldest=number == oldest):
                    files[number] = size
                    moved = True
                    break
            assert sum(files.values()) <= BUDGET.temporary_bytes
            if files[number] >= wanted[number]:
                del files[number]
                unfinished.remove(number)
        assert moved
