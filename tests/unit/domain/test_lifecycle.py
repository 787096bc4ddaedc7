from itertools import product

import pytest

from domain.errors import IllegalTransition
from domain.lifecycle import (
    BATCH_TRANSITIONS,
    INSTANCE_TRANSITIONS,
    BatchState,
    InstanceState,
    check_batch_transition,
    check_instance_transition,
)


@pytest.mark.parametrize("before, after", list(product(BatchState, BatchState)))
def test_a_batch_moves_as_the_table_says_and_not_otherwise(before: BatchState, after: BatchState) -> None:
    if after in BATCH_TRANSITIONS[before]:
        check_batch_transition(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"^batch may not go from {before} to {after}$"):
            check_batch_transition(before, after)


@pytest.mark.parametrize("before, after", list(product(InstanceState, InstanceState)))
def test_an_instance_moves_as_the_table_says_and_not_otherwise(before: InstanceState, after: InstanceState) -> None:
    if after in INSTANCE_TRANSITIONS[before]:
        check_instance_transition(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"^instance may not go from {before} to {after}$"):
            check_instance_transition(before, after)


def test_every_state_has_its_row() -> None:
    assert set(BatchState) == set(BATCH_TRANSITIONS)
    assert set(InstanceState) == set(INSTANCE_TRANSITIONS)


def test_only_open_batches_take_instances_and_nothing_opens_one_again() -> None:
    assert not any(BatchState.OPEN in after for after in BATCH_TRANSITIONS.values())
