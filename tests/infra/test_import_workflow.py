"""The state machine, its functions and the schedules beside it."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

from domain.errors import FinalServiceError
from infra.import_workflow import DEFINITION_FILE, FUNCTIONS, definition
from tests.infra.harness import Deployed

MACHINE: dict[str, Any] = json.loads(DEFINITION_FILE.read_text(encoding="utf-8"))
STATES: dict[str, dict[str, Any]] = MACHINE["States"]
STEPS = ("ListBatch", "StartImport", "FollowImport", "RecordResults")
TASKS = {name: state for name, state in STATES.items() if state["Type"] == "Task"}


def following(state: dict[str, Any]) -> set[str]:
    branches = [*state.get("Choices", ()), *state.get("Catch", ()), state]
    return {branch["Next"] for branch in branches if "Next" in branch} | {state.get("Default", "")} - {""}


def test_every_state_leads_somewhere_and_can_be_reached() -> None:
    reached, left = set(), {MACHINE["StartAt"]}
    while left:
        name = left.pop()
        reached.add(name)
        left |= {state for state in following(STATES[name]) if state} - reached
    assert reached == set(STATES)


def test_answers_lead_where_the_steps_mean_them_to() -> None:
    actual = {
        name: {choice["StringEquals"]: choice["Next"] for choice in state["Choices"]}
        for name, state in STATES.items()
        if state["Type"] == "Choice"
    }
    expected = {
        "Listed": {"ready": "StartImport", "wait": "WaitToList", "settled": "Settled", "stale": "FollowImport"},
        "Started": {"submitted": "WaitForJob", "wait": "WaitToStart", "refused": "Notify", "stale": "FollowImport"},
        "Followed": {
            "running": "WaitForJob",
            "wait": "WaitForJob",
            "ended": "RecordResults",
            "failed": "Notify",
            "stale": "Stale",
        },
        "Recorded": {"settled": "Settled", "wait": "WaitToRecord", "failed": "Notify", "stale": "Stale"},
    }
    assert expected == actual


def test_an_answer_that_nobody_knows_ends_the_run() -> None:
    assert {state["Default"] for state in STATES.values() if state["Type"] == "Choice"} == {"Misunderstood"}


def test_only_our_final_errors_fail_a_batch() -> None:
    final = sorted(error.__name__ for error in FinalServiceError.__subclasses__())
    for name in STEPS:
        (caught,) = STATES[name]["Catch"]
        assert sorted(caught["ErrorEquals"]) == final
        assert caught["Next"] == "FailBatch"
    assert [name for name in TASKS if name not in STEPS and "Catch" in TASKS[name]] == []


def test_no_step_is_repeated_but_for_faults_of_the_service_that_calls_it() -> None:
    for name in STEPS:
        (retry,) = STATES[name]["Retry"]
        assert all(error.startswith("Lambda.") for error in retry["ErrorEquals"])


def test_states_pass_ids_only() -> None:
    ids = {"batch_id.$": "$.batch_id", "attempt.$": "$.attempt", "run.$": "$.run"}
    for name, state in TASKS.items():
        extra = {"error.$": "$.failure"} if name == "FailBatch" else {}
        assert state["Parameters"]["Payload"] == {**ids, **extra}
    for name in STEPS:
        assert STATES[name]["ResultSelector"] == {
            "next.$": "$.Payload.next",
            "wait_seconds.$": "$.Payload.wait_seconds",
        }
        assert STATES[name]["ResultPath"] == "$.step"


def test_every_task_is_a_function_of_ours() -> None:
    functions = {state["Parameters"]["FunctionName"] for state in TASKS.values()}
    assert functions == {f"${{{name}}}" for name, work in FUNCTIONS.items() if work.is_step}
    assert {state["Resource"] for state in TASKS.values()} == {"arn:aws:states:::lambda:invoke"}


def test_a_run_ends_after_twelve_hours_and_long_before_the_services_limit_of_events() -> None:
    from domain.import_job import PollPolicy

    assert MACHINE["TimeoutSeconds"] == 12 * 3600
    poll, seconds, polls = PollPolicy(), 0.0, 0
    while seconds < MACHINE["TimeoutSeconds"]:
        seconds += poll.delay(seconds)
        polls += 1
    events_a_poll = 5 + 2 + 2  # the task, the choice, the wait
    assert polls * events_a_poll < 25_000 / 4


def test_waits_are_as_long_as_the_function_says() -> None:
    waits = [state for state in STATES.values() if state["Type"] == "Wait"]
    assert {wait["SecondsPath"] for wait in waits} == {"$.step.wait_seconds"}


def test_a_state_waits_longer_for_a_function_than_the_function_may_take() -> None:
    for state in TASKS.values():
        name = state["Parameters"]["FunctionName"].strip("${}")
        assert state["TimeoutSeconds"] > FUNCTIONS[name].seconds


def test_what_is_deployed_is_the_file_with_the_functions_in_it(deployed: Deployed, stack: str) -> None:
    machine = deployed.one("StateMachine").inputs
    arns = {
        name: f"arn:aws:lambda:{deployed.outputs['stateMachineArn'].split(':')[3]}:123456789012:function:"
        f"{stack}-{name.replace('_', '-')}-1a2b3c4"
        for name in FUNCTIONS
    }
    assert machine["definition"] == definition(arns)
    assert re.search(r"\$\{", machine["definition"]) is None
    assert machine["name"] == f"{stack}-import"
    assert machine["type"] == "STANDARD"


def test_the_workflow_logs_without_data_and_is_traced(deployed: Deployed) -> None:
    machine = deployed.one("StateMachine").inputs
    logging = machine["loggingConfiguration"]
    assert (logging["level"], logging["includeExecutionData"]) == ("ERROR", False)
    assert logging["logDestination"].endswith("-import:*")
    assert machine["tracingConfiguration"] == {"enabled": True}


def test_functions_run_from_the_one_image(deployed: Deployed) -> None:
    images = {item.inputs["imageUri"] for item in deployed.of("function:Function")}
    task = json.loads(deployed.one("TaskDefinition").inputs["containerDefinitions"])
    assert images == {task[0]["image"]}
    for item in deployed.of("function:Function"):
        assert item.inputs["packageType"] == "Image"
        assert item.inputs["imageConfig"]["entryPoints"] == ["python", "-m", "awslambdaric"]
        assert item.inputs["tracingConfig"] == {"mode": "Active"}
        assert item.inputs["description"]


def test_every_functions_handler_exists(deployed: Deployed) -> None:
    for item in deployed.of("function:Function"):
        (path,) = item.inputs["imageConfig"]["commands"]
        module, _, function = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))


def test_repairs_are_woken_on_schedule_and_lost_events_kept(deployed: Deployed) -> None:
    schedules = {item.name.rpartition("-")[2]: item.inputs for item in deployed.of("Schedule")}
    queue = deployed.one("sqs/queue:Queue")
    assert {name: item["scheduleExpression"] for name, item in schedules.items()} == {
        "recover": "rate(5 minutes)",
        "reconcile": "rate(1 hour)",
    }
    for item in schedules.values():
        assert item["target"]["deadLetterConfig"]["arn"].endswith(f"{queue.name}-1a2b3c4")
    configured = deployed.of("FunctionEventInvokeConfig")
    assert len(configured) == 2
    for event in configured:
        assert event.inputs["destinationConfig"]["onFailure"]["destination"].endswith(f"{queue.name}-1a2b3c4")
