from typing import Any

import pytest

from adapters.inbound.aws_events import Step, read_error, read_step
from domain.errors import InvalidIdentifier
from tests.builders import a_batch, a_batch_id

PAYLOAD = {"batch_id": a_batch_id(1).value, "attempt": 2, "run": 3}


def test_a_step_names_batch_attempt_and_run_and_may_hold_more() -> None:
    step = read_step({**PAYLOAD, "step": {"next": "ready"}})

    assert step == Step(batch_id=a_batch_id(1), attempt=2, run=3)
    assert step.is_of(a_batch(1, attempt=2, run=3))
    assert not step.is_of(a_batch(1, attempt=2, run=4))
    assert not step.is_of(a_batch(1, attempt=3, run=3))
    assert not step.is_of(None)


@pytest.mark.parametrize(
    "payload", [{}, {**PAYLOAD, "attempt": "2"}, {**PAYLOAD, "run": None}, {**PAYLOAD, "batch_id": 5}]
)
def test_what_is_no_step_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="batch_id"):
        read_step(payload)


def test_a_batch_id_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(InvalidIdentifier):
        read_step({**PAYLOAD, "batch_id": "../x"})


@pytest.mark.parametrize(
    "payload, words",
    [
        (
            {"error": {"Error": "ImportRefused", "Cause": '{"errorMessage": "no role", "errorType": "x"}'}},
            "ImportRefused: no role",
        ),
        ({"error": {"Error": "States.Timeout", "Cause": "plain words"}}, "States.Timeout: plain words"),
        ({"error": {"Error": "ImportRefused", "Cause": '["a list"]'}}, 'ImportRefused: ["a list"]'),
        ({"error": {"Error": "ImportRefused"}}, "ImportRefused"),
        ({"error": "ImportRefused"}, "ImportRefused"),
        ({}, "the workflow gave no reason"),
    ],
)
def test_an_error_is_told_in_words(payload: dict[str, Any], words: str) -> None:
    assert read_error({**PAYLOAD, **payload}) == words
