"""
A world (tests/world.py) whose batches are carried by executions of the deployed state machine, calling the real
functions.

    world = CarriedWorld()
    world.receive(Delivery("imported", ("imported", "refused")), 1)
    world.go_on()
    world.outcome()

Calls of functions are numbered, and a plan says by which of them things go wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import attrs

from adapters.entrypoints.lambdas import Handlers
from adapters.memory.importer import Rejection
from domain.batch import Batch, BatchPolicy
from domain.errors import FinalServiceError, OurError, TemporaryServiceError
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState
from tests.builders import a_uid
from tests.state_machine import MACHINE, Execution, FunctionFailed, Status
from tests.world import UNFINISHED, Crash, Interruption, Watched, World

_SCHEDULE_SECONDS = 300.0
_LONGEST_SLEEP_SECONDS = 850.0  # a function is ended after 900 s
_ROUNDS = 2_000


@attrs.frozen
class Disturbance:
    """
    What happens at one call of a function.

    Attributes:
        kind: dies half-way; is cut off when all is done; a port fails; it comes twice, one after the other or one in
            the midst of the other; an earlier call comes once more in the midst; recovery comes in the midst; it sleeps
            while its execution ends and everything else goes on; its execution is stopped.
        calls: at which call of a port that is.
        is_after: once the effect of that call is there, instead of before.
        error: by which name the state machine hears of it.
        which: chooses the earlier call.
        only: the method that is counted; None counts all.

    """

    kind: str
    calls: int = 1
    is_after: bool = False
    error: str = "RuntimeError"
    which: int = 0
    only: str | None = None


@attrs.frozen
class Delivery:
    """One batch: what becomes of it, and of each of its instances."""

    fate: str
    instances: tuple[str, ...]


@attrs.frozen
class Outcome:
    """How things stand in the end; what depends on the order of events is left out, such as the ids of jobs."""

    batches: Mapping[BatchId, tuple[BatchState, int, str]]
    instances: Mapping[str, tuple[InstanceState, str]]
    imports: Mapping[tuple[str, str], int]
    kept: frozenset[str]
    jobs: frozenset[str]
    told: frozenset[BatchId]


class CarriedWorld(World):
    """
    A world whose batches are carried by executions of the state machine.

    Attributes:
        job_seconds: how long a job takes at least.
        is_unread: results that a retry wanted to read again could not be read at that moment; then what they may say
            was imported is imported again, which loses nothing.

    """

    def __init__(self, plan: Mapping[int, Disturbance] | None = None, policy: BatchPolicy | None = None) -> None:
        super().__init__(policy=policy, runs_tell=True)
        self.plan = plan or {}
        self.told: list[str] = []
        tell = Watched("topic", None, self._called).watching("publish", self._tell)
        self.handlers = Handlers(use_cases=self.use_cases, tell=tell)
        self.executions: list[tuple[Batch, Execution]] = []
        self.history: list[tuple[str, Mapping[str, Any]]] = []
        self.jobs: set[str] = set()
        self.is_unread = False
        self.job_seconds = 0.0
        self._fails_once: set[int] = set()
        self._unreadable: set[str] = set()

    def _tell(self, subject: str, _text: str) -> None:
        self.told.append(subject)

    # --------------------------------------------------------------------------------- what is sent

    def receive(self, delivery: Delivery, number: int) -> None:
        """Let a receiver take a batch."""
        owner = self.new_owner()
        for position, fate in enumerate(delivery.instances):
            serial = 10 * number + position
            assert self.store(owner, serial, study=number % 2)
            match fate:
                case "refused":
                    self.importer.rejections[a_uid(serial)] = Rejection()
                case "server error":
                    self.importer.rejections[a_uid(serial)] = Rejection(
                        reason="InternalServerException", is_server_error=True
                    )
                case "server error once":
                    self._fails_once.add(serial)
                case "no outcome":
                    self.importer.unmentioned.add(a_uid(serial))
        (batch,) = self.batch_ids(BatchState.OPEN)
        match delivery.fate:
            case "start refused":
                self.importer.refusals[f"{batch}-1"] = "AccessDenied: no role"
            case "job failed":
                self.importer.job_failures[batch] = "the bucket cannot be read"
            case "results unreadable":
                self._unreadable.add(f"{batch}-1")
        owner.batches.drain()

    def mend(self) -> None:
        """Let nothing fail any more."""
        self.heal_imports()
        self._fails_once.clear()
        self._unreadable.clear()

    # ------------------------------------------------------------------------------- how it goes on

    def go_on(self, seconds: float | None = None) -> None:
        """Let executions, jobs and schedules go on until nothing is left to do, or for some time."""
        started = self.clock.monotonic()
        quiet = False
        for _ in range(_ROUNDS):
            running = self._running()
            ready = [execution for execution in running if execution.due_at <= self.clock.now()]
            for execution in ready:
                execution.step()
            if ready:
                quiet = False
                continue
            if quiet and not running and not self.batch_ids(*UNFINISHED):
                return
            wait = min([(each.due_at - self.clock.now()).total_seconds() for each in running] or [_SCHEDULE_SECONDS])
            if seconds is not None and self.clock.monotonic() + wait - started > seconds:
                return
            self.clock.advance(wait)
            self._jobs_go_on()
            if not running:
                quiet = self.wake("recover") == {"closed": 0, "started": 0, "restarted": 0}
        raise AssertionError(f"it never ends: {[(batch, each.state) for batch, each in self.executions[-5:]]}")

    def wake(self, function: str) -> Any:
        """Let a schedule call a function, which may fail: it comes again."""
        with suppress(FunctionFailed):
            return self._call(None, function, {})
        return None

    def _running(self) -> list[Execution]:
        for batch, execution in self.executions:
            if execution.status is not Status.RUNNING:
                self.workflow.end(batch)
        known = {batch.execution_name for batch, _ in self.executions}
        for batch in self.workflow.running():
            if batch.execution_name not in known:
                self.executions.append((batch, self._begun(batch)))
        return [execution for _, execution in self.executions if execution.status is Status.RUNNING]

    def _begun(self, batch: Batch) -> Execution:
        ids = {"batch_id": batch.id.value, "attempt": batch.attempt, "run": batch.run}
        execution: Execution
        execution = Execution(
            machine=MACHINE,
            call=lambda function, payload: self._call(execution, function, payload),
            now=self.clock.now,
            data=ids,
        )
        return execution

    def _jobs_go_on(self) -> None:
        for job in self.importer.running():
            self.jobs.add(job.name)
            assert job.submitted_at is not None
            if (self.clock.now() - job.submitted_at).total_seconds() < self.job_seconds:
                continue
            if job.name in self._unreadable:
                self.importer.unreadable.add(job.id)
            once = {
                a_uid(serial): Rejection(reason="ThrottlingException", is_server_error=True)
                for serial in self._fails_once
            }
            if job.name.endswith("-1"):
                self.importer.rejections.update(once)
            self.work(job.name)
            for uid in once:
                self.importer.rejections.pop(uid, None)

    # ------------------------------------------------------------------------------ what is in the way

    def _call(self, execution: Execution | None, function: str, payload: Mapping[str, Any]) -> Any:
        disturbance = self.plan.get(len(self.history))
        self.history.append((function, payload))
        answer = partial(self._answer, function, payload)
        if disturbance is None:
            return answer()
        match disturbance.kind:
            case "stopped":
                raise FunctionFailed("States.TaskFailed")
            case "cut off":
                answer()
                raise FunctionFailed(disturbance.error)
            case "twice":
                answer()
                return answer()
            case "sleeps":
                self._disturbed(disturbance, answer, lambda _port: self._everything_else_goes_on(execution))
                raise FunctionFailed("States.Timeout")
            case kind:
                happens: dict[str, Callable[[str], object]] = {
                    "dies": self.crash,
                    "away": self._port_fails,
                    "together": lambda _port: self._meanwhile(answer),
                    "earlier": lambda _port: self._meanwhile(
                        partial(self._answer, *self.history[disturbance.which % len(self.history)])
                    ),
                    "recovery": lambda _port: self._meanwhile(partial(self._answer, "recover", {})),
                }
                return self._disturbed(disturbance, answer, happens[kind])

    def _disturbed(self, disturbance: Disturbance, answer: Callable[[], Any], happens: Callable[[str], object]) -> Any:
        try:
            with self.interrupted(Interruption(disturbance.calls, disturbance.is_after, happens, disturbance.only)):
                return answer()
        except Crash:
            raise FunctionFailed(disturbance.error) from None

    def _answer(self, function: str, payload: Mapping[str, Any]) -> Any:
        self._function = function
        try:
            return getattr(self.handlers, function)(payload)
        except (OurError, TemporaryServiceError, FinalServiceError) as error:
            raise FunctionFailed(type(error).__name__, str(error)) from error

    def _port_fails(self, port: str) -> None:
        if port == "topic":
            raise TemporaryServiceError("the topic cannot be reached")
        self.is_unread |= port == "results" and self._function == "list_batch"
        self.away(port)

    def _meanwhile(self, answer: Callable[[], Any]) -> None:
        with self.interrupted(None), suppress(FunctionFailed):
            answer()

    def _everything_else_goes_on(self, execution: Execution | None) -> None:
        with self.interrupted(None):
            if execution is not None:
                execution.status = Status.FAILED
            self._running()
            self.wake("recover")
            self.go_on(_LONGEST_SLEEP_SECONDS)

    # ----------------------------------------------------------------------------------- how it ended

    def outcome(self) -> Outcome:
        """Return how things stand."""
        batches = list(self.metadata.batches(tuple(BatchState)))
        records = [record for study in self.studies() for record in self.report.study(study)[1]]
        return Outcome(
            batches={batch.id: (batch.state, batch.attempt, _plain(batch.reason)) for batch in batches},
            instances={each.key.sop_instance.value: (each.state, _plain(each.reason)) for each in records},
            imports=Counter((key.path, digest.value) for key, digest in self.importer.imports),
            kept=frozenset(key.path for key in self.staging.objects),
            jobs=frozenset(self.jobs),
            told=frozenset(batch.id for batch in batches if any(batch.id.value in each for each in self.told)),
        )


def _plain(reason: str | None) -> str:
    return re.sub(r"\d{32}", "...", reason or "")
