"""
The legal transitions of batches and instances, as tables.

Laws:
- A state change that is not in a table is a bug and raises; a refused change alters nothing.
- CLOSED, SUBMITTED and IMPORTING always move on by themselves; FAILED waits for an operator.
- Nothing is ever removed from SETTLED but by a retry of what failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from domain.errors import IllegalTransition


class BatchState(StrEnum):
    """Where a batch is."""

    OPEN = "open"
    CLOSED = "closed"
    SUBMITTED = "submitted"
    IMPORTING = "importing"
    SETTLED = "settled"
    FAILED = "failed"


class InstanceState(StrEnum):
    """Where one instance of a batch is."""

    STAGED = "staged"
    IMPORTED = "imported"
    FAILED = "failed"
    SUPERSEDED = "superseded"


BATCH_TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = {
    # its owner, or recovery, closed it
    BatchState.OPEN: frozenset({BatchState.CLOSED}),
    # job accepted; nothing to import; the start was refused for good
    BatchState.CLOSED: frozenset({BatchState.SUBMITTED, BatchState.SETTLED, BatchState.FAILED}),
    # seen IN_PROGRESS; results recorded; the job failed or its results cannot be read
    BatchState.SUBMITTED: frozenset({BatchState.IMPORTING, BatchState.SETTLED, BatchState.FAILED}),
    BatchState.IMPORTING: frozenset({BatchState.SETTLED, BatchState.FAILED}),
    # retry: the attempt goes up
    BatchState.FAILED: frozenset({BatchState.CLOSED}),
    BatchState.SETTLED: frozenset({BatchState.CLOSED}),
}

INSTANCE_TRANSITIONS: Mapping[InstanceState, frozenset[InstanceState]] = {
    InstanceState.STAGED: frozenset({InstanceState.IMPORTED, InstanceState.FAILED, InstanceState.SUPERSEDED}),
    InstanceState.FAILED: frozenset({InstanceState.STAGED}),
    InstanceState.IMPORTED: frozenset(),
    InstanceState.SUPERSEDED: frozenset(),
}

STARTED = frozenset({BatchState.SUBMITTED, BatchState.IMPORTING})
"""States in which the import service may be reading the prefix."""

MAYBE_UNLISTED = (BatchState.OPEN, BatchState.CLOSED, BatchState.FAILED)
"""States in which it may not be decided yet what the import takes (`Batch.is_unlisted`)."""


def check_batch_transition(before: BatchState, after: BatchState) -> None:
    """Raise IllegalTransition unless a batch may go from `before` to `after`."""
    if after not in BATCH_TRANSITIONS[before]:
        raise IllegalTransition("batch", before, after)


def check_instance_transition(before: InstanceState, after: InstanceState) -> None:
    """Raise IllegalTransition unless an instance may go from `before` to `after`."""
    if after not in INSTANCE_TRANSITIONS[before]:
        raise IllegalTransition("instance", before, after)
