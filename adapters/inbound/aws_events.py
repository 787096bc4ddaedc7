"""
What Step Functions hands to a function, as typed values.

    {"batch_id": "20250314T093001000Z-0a1b2c3d", "attempt": 1, "run": 1}
    {..., "error": "ImportRefused", "cause": "..."}

The second comes from a Catch; the cause of a function's error is JSON itself, with an `errorMessage`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from domain.batch import Batch
from domain.identifiers import BatchId

Payload = Mapping[str, Any]
"""A decoded JSON object, before it is looked at."""


@attrs.frozen(kw_only=True)
class Step:
    """One step of one run of a batch."""

    batch_id: BatchId
    attempt: int
    run: int

    def is_of(self, batch: Batch | None) -> bool:
        """Tell whether the record of the batch is still at this attempt and run."""
        return batch is not None and (batch.attempt, batch.run) == (self.attempt, self.run)


def read_step(payload: Payload) -> Step:
    """
    Read the input of a step; what else it holds is ignored.

    Raises:
        ValueError, InvalidIdentifier: if it names no step: a mistake in the state machine.

    """
    values = [payload.get(name) for name in ("batch_id", "attempt", "run")]
    batch_id, attempt, run = values
    if not isinstance(batch_id, str) or not isinstance(attempt, int) or not isinstance(run, int):
        raise ValueError("a step has the text batch_id and the whole numbers attempt and run")  # noqa: TRY004  # a value
    return Step(batch_id=BatchId(batch_id), attempt=attempt, run=run)


def read_error(payload: Payload) -> str:
    """Return in words what a Catch put beside the step as `error`: {"Error": a name, "Cause": JSON or words}."""
    caught = payload.get("error")
    if not isinstance(caught, Mapping):
        return str(caught or "the workflow gave no reason")
    name, cause = str(caught.get("Error") or "the workflow gave no reason"), str(caught.get("Cause") or "")
    try:
        told = json.loads(cause)
    except ValueError:
        told = None
    if isinstance(told, Mapping) and told.get("errorMessage"):
        cause = str(told["errorMessage"])
    return f"{name}: {cause}" if cause else name
