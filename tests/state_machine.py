"""
A small interpreter of state machines, for what `infra/import_workflow.asl.json` uses: time and faults are a test's.

    execution = Execution(machine=MACHINE, call=call, now=clock.now, data={"batch_id": ..., "attempt": 1, "run": 1})
    while execution.status is Status.RUNNING:
        execution.step()

What it does not know is an error, so that a change of the file is not passed over.
Its judges are the tests that run the same file on moto's interpreter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import attrs

from adapters.entrypoints.simulated_aws import DEFINITION_FILE

MACHINE: Mapping[str, Any] = json.loads(DEFINITION_FILE.read_text(encoding="utf-8"))
"""The state machine as it is deployed."""

_KNOWN: Mapping[str, set[str]] = {
    "Task": {
        *("Type", "Comment", "Resource", "Parameters", "TimeoutSeconds"),
        *("ResultSelector", "ResultPath", "Retry", "Catch", "Next"),
    },
    "Choice": {"Type", "Comment", "Choices", "Default"},
    "Wait": {"Type", "Comment", "SecondsPath", "Next"},
    "Succeed": {"Type", "Comment"},
    "Fail": {"Type", "Comment", "Error", "Cause"},
}


class FunctionFailed(Exception):
    """A function raised, or the service that calls it did: the error's name and its cause."""

    def __init__(self, name: str, cause: str = "") -> None:
        super().__init__(name)
        self.name = name
        self.cause = cause


class Status(Enum):
    """How far an execution is."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"


@attrs.define(kw_only=True)
class Execution:
    """
    One execution of a state machine.

    Attributes:
        call: carries out a function by its name, given its payload.
        data: what passes between the states; the input at first.
        state: the state that is entered next.
        due_at: nothing happens before.

    """

    machine: Mapping[str, Any]
    call: Callable[[str, Mapping[str, Any]], Any]
    now: Callable[[], datetime]
    data: Any
    status: Status = Status.RUNNING
    state: str = attrs.field(init=False)
    due_at: datetime = attrs.field(init=False)
    _ends_at: datetime = attrs.field(init=False)
    _retries: dict[int, int] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.state = self.machine["StartAt"]
        self.due_at = self.now()
        self._ends_at = self.now() + timedelta(seconds=self.machine["TimeoutSeconds"])

    def step(self) -> None:
        """Pass through one state, or try it again, when it is time."""
        if self.now() >= self._ends_at:
            self.status = Status.TIMED_OUT
        if self.status is not Status.RUNNING or self.now() < self.due_at:
            return
        state = self.machine["States"][self.state]
        assert set(state) <= _KNOWN[state["Type"]], f"{self.state} has what this interpreter does not know"
        match state["Type"]:
            case "Task":
                self._task(state)
            case "Choice":
                self._go(self._chosen(state))
            case "Wait":
                self.due_at = self.now() + timedelta(seconds=_found(state["SecondsPath"], self.data))
                self._go(state["Next"])
            case "Succeed":
                self.status = Status.SUCCEEDED
            case _:
                self.status = Status.FAILED

    def _go(self, state: str) -> None:
        self.state = state
        self._retries.clear()

    def _chosen(self, state: Mapping[str, Any]) -> str:
        for choice in state["Choices"]:
            assert set(choice) == {"Variable", "StringEquals", "Next"}
            if _found(choice["Variable"], self.data) == choice["StringEquals"]:
                return str(choice["Next"])
        return str(state["Default"])

    def _task(self, state: Mapping[str, Any]) -> None:
        assert state["Resource"] == "arn:aws:states:::lambda:invoke"
        parameters = _filled(state["Parameters"], self.data)
        try:
            answer = {"Payload": self.call(parameters["FunctionName"].strip("${}"), parameters["Payload"])}
        except FunctionFailed as error:
            self._failed(state, error)
            return
        result = _filled(state["ResultSelector"], answer) if "ResultSelector" in state else answer
        self.data = _placed(state.get("ResultPath", "$"), self.data, result)
        self._go(state["Next"])

    def _failed(self, state: Mapping[str, Any], error: FunctionFailed) -> None:
        for number, retrier in enumerate(state.get("Retry", ())):
            if _is_among(error.name, retrier["ErrorEquals"]):
                tried = self._retries.get(number, 0)
                if tried < retrier["MaxAttempts"]:
                    self._retries[number] = tried + 1
                    seconds = retrier["IntervalSeconds"] * retrier["BackoffRate"] ** tried
                    self.due_at = self.now() + timedelta(seconds=min(seconds, retrier["MaxDelaySeconds"]))
                    return
                break
        for catcher in state.get("Catch", ()):
            if _is_among(error.name, catcher["ErrorEquals"]):
                self.data = _placed(catcher["ResultPath"], self.data, {"Error": error.name, "Cause": error.cause})
                self._go(catcher["Next"])
                return
        self.status = Status.FAILED


def _is_among(name: str, names: list[str]) -> bool:
    return name in names or "States.ALL" in names


def _found(path: str, data: Any) -> Any:
    """Follow a JSONPath of plain names."""
    first, *names = path.split(".")
    assert first == "$"
    for name in names:
        data = data[name]
    return data


def _filled(template: Any, data: Any) -> Any:
    """Fill a payload template: a name that ends in `.$` has a path for its value."""
    if not isinstance(template, Mapping):
        return template
    return {
        name.removesuffix(".$"): _found(value, data) if name.endswith(".$") else _filled(value, data)
        for name, value in template.items()
    }


def _placed(path: str | None, data: Any, result: Any) -> Any:
    """Put a result where ResultPath says."""
    if path is None:
        return data
    if path == "$":
        return result
    _, name = path.split(".")
    return {**data, name: result}
