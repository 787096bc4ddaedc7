"""
The promise, tried against anything that can happen between a store and the data store.

Several receivers and the workflow's handlers work on the same stores.
Any call of a port may fail before or after its effect, or be the last that its process makes, or take so long that
leases end and the others go on meanwhile.
Handlers run at any time, in any order, more than once.

Whatever happened, in the end every acknowledged instance is imported in its newest bytes, or reported; nothing
acknowledged is overwritten or deleted unimported; nothing is left pending.

    HYPOTHESIS_PROFILE=ci .venv/bin/pytest tests/properties        the examples that CI runs
    STORESCP_EXAMPLES=20000 .venv/bin/pytest tests/properties      many more
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapters.memory.importer import Rejection
from domain.batch import BatchPolicy, LeasePolicy
from domain.errors import OurError, TemporaryServiceError
from domain.identifiers import BatchId
from domain.instance import InstanceKey
from domain.lifecycle import STARTED, BatchState, InstanceState
from services.report_status import InstanceStatus
from tests.builders import a_moment, a_uid
from tests.world import LEASE, UNFINISHED, Crash, Interruption, Owner, World

EXAMPLES = int(os.environ.get("STORESCP_EXAMPLES", "120"))
STEPS = int(os.environ.get("STORESCP_STEPS", "40"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    suppress_health_check=list(HealthCheck),
    deadline=None,
)

_INSTANCES = 3
_VERSIONS = 3
_SECONDS = st.sampled_from([0.5, 16.0, 61.0, 300.0, 560.0, 605.0, 810.0])

numbers = st.integers(0, 11)
# instance, version of its bytes, study
sendings = st.tuples(st.integers(1, _INSTANCES), st.integers(0, _VERSIONS - 1), st.sampled_from([0, 0, 0, 0, 1]))


@attrs.frozen
class Action:
    """Something that goes on in the world; the numbers choose among what is there."""

    name: str
    first: int = 0
    second: int = 0
    seconds: float = 0.0


TROUBLES = (
    "reject",
    "reject as a server",
    "do not mention",
    "accept",
    "accept",
    "busy",
    "lose answers",
    "not ready",
    "fail a job",
    "refuse a start",
    "unreadable",
    "readable",
    "run ends",
)
HANDLER_ACTIONS = ("carry", "carry", "carry", "list", "start", "follow", "record", "recover", "rehouse", "retry")
handler_actions = st.builds(Action, st.sampled_from(HANDLER_ACTIONS), numbers)
other_actions = st.one_of(
    handler_actions,
    st.builds(Action, st.just("store"), numbers, numbers),
    st.builds(Action, st.just("tick"), numbers),
    st.builds(Action, st.sampled_from(["jobs", "job", "reject", "accept", "run ends", "stray writes"]), numbers),
    st.builds(Action, st.just("time"), seconds=_SECONDS),
)
# What happens to the others while a handler or a write to the stage stands still.
pauses = st.one_of(
    st.lists(other_actions, min_size=1, max_size=8),
    # beyond the lease and the margin, and on to the import
    st.tuples(
        st.just(Action("time", seconds=LEASE.seconds + LEASE.recovery_margin_seconds + 60)),
        st.just(Action("recover")),
        st.lists(other_actions, max_size=8),
    ).map(lambda parts: [parts[0], parts[1], *parts[2]]),
    st.tuples(
        st.builds(Action, st.just("time"), seconds=st.sampled_from([560.0, 810.0])),
        st.just(Action("everything")),
        st.lists(st.sampled_from([Action("everything"), Action("jobs")]), max_size=4),
    ).map(lambda parts: [parts[0], parts[1], *parts[2]]),
    st.integers(0, 11).map(lambda which: [Action("finish", which)]),
)


@attrs.frozen
class Fault:
    """Which call is interrupted, and how."""

    kind: str
    calls: int
    is_after: bool
    meanwhile: tuple[Action, ...] = ()
    only: str | None = None


faults = st.one_of(
    st.builds(Fault, st.sampled_from(["away", "crash"]), st.integers(1, 14), st.booleans()),
    st.builds(Fault, st.just("pause"), st.integers(1, 14), st.booleans(), pauses.map(tuple)),
)
maybe_faults = st.one_of(st.none(), st.none(), faults)


class Promise(RuleBasedStateMachine):
    """What holds always and in the end, and how things are done; without anything that happens."""

    lease: LeasePolicy | None = LEASE

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.lease, BatchPolicy(max_files=3))
        self._steps: dict[str, Callable[[BatchId], object]] = {
            "carry": self.world.carry,
            "list": self.world.list_batch,
            "start": self.world.start_import,
            "follow": self.world.follow_import,
            "record": self.world.record_results,
            "rehouse": self.world.rehouse,
            "retry": self.world.retry,
        }

    # --------------------------------------------------------------------------------- always

    @invariant()
    def nothing_acknowledged_is_gone(self) -> None:
        world = self.world
        held = {
            (place.facts.key.instance_key, place.facts.instance.digest)
            for places in (world.staging.objects, world.staging.set_aside, world.staging.trash)
            for place in places.values()
        }
        for landed in world.acknowledged:
            assert (landed.key, landed.digest) in held

    @invariant()
    def nothing_is_given_up_unimported(self) -> None:
        world = self.world
        imported = {(key.instance_key, digest) for key, digest in world.importer.imports}
        for key, given_up in world.staging.trash.items():
            assert (key.instance_key, given_up.facts.instance.digest) in imported

    @invariant()
    def every_acknowledged_instance_shows(self) -> None:
        if not self.world.has_lost_the_table:
            self._check_reports()

    def teardown(self) -> None:
        self.world.run()
        self._check_the_end()
        self.world.deliver_late()
        self.world.heal_imports()
        for _ in range(3):
            self.world.retry_everything()
            self.world.run()
        self._check_the_end()
        assert list(self.world.report.failures()) == []

    # -------------------------------------------------------------------------------- the checks

    def _check_reports(self) -> None:
        shown = {landed.key: landed for landed in self.world.acknowledged}
        for study in self.world.studies():
            status, listed = self.world.report.study(study)
            instances = {each.key: each for each in listed}
            assert len(instances) == len(listed)
            assert {key for key in shown if key.study == study} <= set(instances)
            assert status.received == len(listed)
            assert status.imported == sum(each.state is InstanceState.IMPORTED for each in listed)
            assert status.failed == sum(each.state is InstanceState.FAILED for each in listed)
            assert status.pending == sum(each.state is InstanceState.STAGED for each in listed)
            assert status.received == status.imported + status.failed + status.pending

    def _check_the_end(self) -> None:
        world = self.world
        acknowledged = {(landed.key, landed.staged_at) for landed in world.acknowledged}
        for key, newest in world.newest_acknowledged().items():
            status = self._status(key)
            copy = world.importer.data.get(key)
            if status.state is InstanceState.FAILED:
                assert status.reason
                continue
            assert status.state is InstanceState.IMPORTED
            assert copy is not None
            if self.world.has_lost_the_table:
                continue
            assert status.record is not None
            # A stray write that the job found and no listing named may be imported before an older copy is.
            if (key, status.record.staged_at) in acknowledged:
                assert status.record.digest == copy.digest
            newer = {
                landed.digest
                for landed in world.landed
                if landed.key == key and landed.staged_at > newest.staged_at and landed not in world.acknowledged
            }
            assert copy.digest in {newest.digest, *newer}
        self._check_reports()
        overview = world.report.overview(a_moment(-86_400))
        assert overview.pending == 0
        by_study = {each.study: each for each in overview.studies}
        for study in world.studies():
            exact, _ = world.report.study(study)
            known = by_study[study]
            assert (known.received, known.imported, known.failed, known.size) == (
                exact.received,
                exact.imported,
                exact.failed,
                exact.size,
            )
        self._check_what_is_left()

    def _check_what_is_left(self) -> None:
        """Whatever still stands in a prefix is there because it failed, and that is reported."""
        for key in self.world.staging.objects:
            batch, listed = self.world.report.batch(key.batch)
            assert batch.state not in UNFINISHED
            states = {each.key: each.state for each in listed}
            if batch.state is BatchState.SETTLED:
                assert states[key.instance_key] is InstanceState.FAILED

    def _status(self, key: InstanceKey) -> InstanceStatus:
        return next(each for each in self.world.report.instance(key.sop_instance) if each.key == key)

    # ------------------------------------------------------------------------------- how it is done

    def _store(self, instance: int, version: int, study: int, owner: Owner) -> None:
        self.world.store(owner, instance, version, study=study)

    def _pick(self, which: int, *states: BatchState) -> BatchId | None:
        """Choose a batch, one that is on its way rather than another."""
        if self.world.is_metadata_away:
            return None
        batches = self.world.batch_ids(*states) or self.world.batch_ids(*UNFINISHED) or self.world.batch_ids()
        return batches[which % min(len(batches), 4)] if batches else None

    def _kill(self, owner: Owner) -> None:
        self.world.kill(owner)
        self.world.new_owner()

    def _interruption(self, fault: Fault | None) -> Interruption | None:
        if fault is None:
            return None
        happens: dict[str, Callable[[str], object]] = {
            "away": self.world.away,
            "stray": self.world.stray,
            "crash": self.world.crash,
            "pause": lambda _port: self._meanwhile(fault.meanwhile),
        }
        return Interruption(fault.calls, fault.is_after, happens[fault.kind], fault.only)

    def _receive(self, which: int, fault: Fault | None, what: Callable[[Owner], Any]) -> None:
        free = [owner for owner in self.world.owners if not owner.is_busy and not owner.is_ticking]
        if not free:
            return
        owner = free[which % len(free)]
        try:
            with self.world.interrupted(self._interruption(fault)):
                what(owner)
        except Crash:
            self._kill(owner)

    def _tick(self, which: int, fault: Fault | None) -> None:
        """Let a receiver look after its batches, perhaps while it writes to the stage."""
        free = [owner for owner in self.world.owners if not owner.is_ticking]
        if not free:
            return
        owner = free[which % len(free)]
        try:
            with self.world.interrupted(self._interruption(fault)):
                self.world.tick(owner)
        except Crash:
            self._kill(owner)

    def _perform(self, action: Action, fault: Fault | None) -> None:
        self._interrupted(fault, partial(self._act, action))

    def _interrupted(self, fault: Fault | None, what: Callable[[], Any]) -> None:
        with suppress(Crash), self.world.interrupted(self._interruption(fault)):
            self._quietly(what)

    def _meanwhile(self, actions: Sequence[Action]) -> None:
        with self.world.interrupted(None):
            for action in actions:
                self._act(action)

    def _quietly(self, what: Callable[[], Any]) -> None:
        with suppress(OurError, TemporaryServiceError):
            what()

    def _act(self, action: Action) -> None:
        world, which = self.world, action.first
        sending = (action.second % _INSTANCES + 1, action.second % _VERSIONS, 0)
        acts: dict[str, Callable[[], object]] = {
            "store": lambda: self._receive(which, None, partial(self._store, *sending)),
            "tick": lambda: self._tick(which, None),
            "time": lambda: world.clock.advance(action.seconds),
            "stray writes": world.deliver_late,
            "run ends": world.end_runs,
            "recover": partial(self._quietly, world.recover),
            "reconcile": partial(self._quietly, world.reconcile),
            "everything": self._everything,
            "finish": lambda: self._finish(self._pick(which)),
        }
        if action.name in acts:
            acts[action.name]()
        elif action.name in HANDLER_ACTIONS:
            self._handle(action.name, which)
        else:
            self._trouble(action.name, which)

    def _everything(self) -> None:
        """Let recovery run, and take every batch one step on."""
        self._quietly(self.world.recover)
        with self.world.interrupted(None):
            batches = [] if self.world.is_metadata_away else self.world.batch_ids(*UNFINISHED)
        for batch in batches:
            self._quietly(partial(self.world.carry, batch))

    def _handle(self, name: str, which: int) -> None:
        states = {
            "list": [BatchState.CLOSED],
            "start": [BatchState.CLOSED],
            "follow": [*STARTED],
            "record": [*STARTED],
            "rehouse": [BatchState.SETTLED],
        }
        batch = self._pick(which, *states.get(name, ()))
        if name == "retry" and not self.world.is_metadata_away:
            with self.world.interrupted(None):
                failed = sorted({failure.batch for failure in self.world.report.failures()})
            batch = failed[which % len(failed)] if failed else None
        if batch is not None:
            self._quietly(partial(self._steps[name], batch))

    def _trouble(self, name: str, which: int) -> None:
        importer, instance = self.world.importer, a_uid(which % _INSTANCES + 1)
        batch, jobs = self._pick(which), importer.running()
        job = jobs[which % len(jobs)] if jobs else None
        troubles: dict[str, Callable[[], object]] = {
            "jobs": self.world.work,
            "reject": lambda: importer.rejections.update({instance: Rejection()}),
            "reject as a server": lambda: importer.rejections.update({instance: Rejection(is_server_error=True)}),
            "do not mention": lambda: importer.unmentioned.add(instance),
            "accept": self._accept,
            "busy": lambda: setattr(importer, "busy", 1),
            "lose answers": lambda: setattr(importer, "lost_answers", 1),
            "not ready": lambda: setattr(importer, "unready", 1),
            "readable": importer.unreadable.clear,
        }
        if batch is not None:
            troubles["fail a job"] = lambda: importer.job_failures.update({batch: "the service gave up"})
            troubles["refuse a start"] = lambda: importer.refusals.update({f"{batch}-{which % 2 + 1}": "not allowed"})
        if job is not None:
            troubles["job"] = lambda: self.world.work(job.name)
            troubles["unreadable"] = lambda: importer.unreadable.add(job.id)
        troubles.get(name, lambda: None)()

    def _accept(self) -> None:
        self.world.importer.rejections.clear()
        self.world.importer.unmentioned.clear()

    def take(self, name: str, batch: BatchId) -> None:
        """Take one step with one batch."""
        match name:
            case "finish" | "finish rejected":
                if name == "finish rejected":
                    self.world.importer.rejections[a_uid(1)] = Rejection()
                self._finish(batch)
                self._accept()
            case "job":
                self._work_for(batch)
            case _:
                self._quietly(partial(self._steps[name], batch))

    def _work_for(self, batch: BatchId) -> None:
        for job in self.world.importer.running():
            if job.name.startswith(f"{batch}-"):
                self.world.work(job.name)

    def _finish(self, batch: BatchId | None) -> None:
        """Carry one batch to its end, and its jobs with it."""
        if batch is None:
            return
        for _ in range(8):
            self._quietly(partial(self.world.carry, batch))
            self._work_for(batch)


class Hospital(Promise):
    """Everything that may happen."""

    @initialize(owners=st.integers(1, 3))
    def receivers_start(self, owners: int) -> None:
        for number in range(owners):
            self.world.new_owner(skew_seconds=(0.0, 45.0, -45.0)[number])

    # ------------------------------------------------------------------------------ receivers

    @rule(owner=numbers, sent=st.lists(sendings, min_size=1, max_size=3), is_over=st.booleans())
    def send(self, owner: int, sent: list[tuple[int, int, int]], is_over: bool) -> None:
        """Send some instances; `is_over` lets the batch close."""
        for instance, version, study in sent:
            self._receive(owner, None, partial(self._store, instance, version, study))
        if is_over:
            self.world.clock.advance(61)
            self._tick(owner, None)

    @rule(owner=numbers, sent=sendings, fault=faults)
    def send_with_a_fault(self, owner: int, sent: tuple[int, int, int], fault: Fault) -> None:
        self._receive(owner, fault, partial(self._store, *sent))

    @rule(
        owner=numbers,
        sent=sendings,
        kind=st.sampled_from(["away", "stray", "stray", "crash", "pause", "pause", "pause"]),
        is_after=st.booleans(),
        meanwhile=pauses,
    )
    def send_and_the_stage_has_trouble(
        self, owner: int, sent: tuple[int, int, int], kind: str, is_after: bool, meanwhile: list[Action]
    ) -> None:
        fault = Fault(kind, 1, is_after and kind != "stray", tuple(meanwhile), "stage")
        self._receive(owner, fault, partial(self._store, *sent))

    @rule(owner=numbers, fault=maybe_faults)
    def tick(self, owner: int, fault: Fault | None) -> None:
        self._tick(owner, fault)

    @rule(owner=numbers, is_crash=st.booleans(), fault=maybe_faults)
    def owner_ends(self, owner: int, is_crash: bool, fault: Fault | None) -> None:
        def end(it: Owner) -> None:
            if not is_crash:
                it.batches.drain()
            self._kill(it)

        self._receive(owner, fault, end)

    @rule()
    def stray_writes_arrive(self) -> None:
        self.world.deliver_late()

    # ------------------------------------------------------------------------------- handlers

    @rule(action=handler_actions, fault=maybe_faults)
    def handle(self, action: Action, fault: Fault | None) -> None:
        self._perform(action, fault)

    @rule(which=numbers, steps=st.integers(1, 6), fault=maybe_faults, is_working=st.booleans())
    def carry_some_way(self, which: int, steps: int, fault: Fault | None, is_working: bool) -> None:
        """Take one batch from wherever it is a good way on; one step is interrupted."""
        batch = self._pick(which)
        if batch is None:
            return
        for step in range(steps):
            self._interrupted(fault if step == steps - 1 else None, partial(self.world.carry, batch))
            if is_working:
                self.world.work()

    @rule(fault=maybe_faults)
    def everything_goes_on(self, fault: Fault | None) -> None:
        self._perform(Action("everything"), fault)
        self.world.work()

    @rule(which=numbers, fault=maybe_faults)
    def reconcile(self, which: int, fault: Fault | None) -> None:
        self._perform(Action("reconcile", which), fault)

    @rule(which=numbers, fault=maybe_faults)
    def operator_retries(self, which: int, fault: Fault | None) -> None:
        self._perform(Action("retry", which), fault)

    # ---------------------------------------------------------------------------- the services

    @rule(seconds=_SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(port=st.sampled_from(["metadata", "metadata", "stage", "workflow"]), meanwhile=pauses)
    def a_service_is_away_for_a_while(self, port: str, meanwhile: list[Action]) -> None:
        setattr(self.world, f"is_{port}_away", True)
        self._meanwhile(meanwhile)
        self.world.heal()

    @rule(which=numbers, is_one=st.booleans())
    def jobs_go_on(self, which: int, is_one: bool) -> None:
        self._act(Action("job" if is_one else "jobs", which))

    @rule(kind=st.sampled_from(TROUBLES), which=numbers)
    def importer_is_troubled(self, kind: str, which: int) -> None:
        self._act(Action(kind, which))


@attrs.frozen
class Move:
    """
    A step that is taken with the batch of one copy; the oldest is number 0.

    Attributes:
        calls: at which call of a port the others move on, 0 for never.
        meanwhile: how they do; if they do not, the step ends there in a crash.

    """

    name: str
    copy: int
    calls: int = 0
    is_after: bool = False
    meanwhile: tuple[Move, ...] = ()


MOVES = (
    "carry",
    "carry",
    "carry",
    "finish",
    "finish",
    "finish rejected",
    "retry",
    "retry",
    "job",
    "job",
    "list",
    "start",
)
copies = st.integers(0, 2)
moves = st.builds(Move, st.sampled_from(MOVES), copies)
paused_moves = st.builds(
    Move,
    st.sampled_from(["carry", "list", "start", "record", "rehouse"]),
    copies,
    st.integers(1, 12),
    st.booleans(),
    st.lists(moves, max_size=5).map(tuple),
)


@settings(SETTINGS, max_examples=4 * EXAMPLES)
@given(number=st.integers(2, 3), schedule=st.lists(st.one_of(moves, moves, paused_moves), max_size=10))
def test_of_several_copies_the_newest_wins(number: int, schedule: list[Move]) -> None:
    """Receivers hold other bytes of one instance, and whatever is done to their batches is done in any order."""
    hospital = Hospital()
    world = hospital.world
    for version in range(number):
        world.store(world.new_owner(), 1, version)
    world.clock.advance(61)
    for owner in world.owners:
        world.tick(owner)
    batches = world.batch_ids()

    def take(move: Move) -> None:
        def others_move(_port: str) -> None:
            for other in move.meanwhile:
                take(other)

        happens = others_move if move.meanwhile else world.crash
        interruption = Interruption(move.calls, move.is_after, happens) if move.calls else None
        with suppress(Crash), world.interrupted(interruption):
            hospital.take(move.name, batches[move.copy % number])

    for move in schedule:
        take(move)
        hospital.nothing_acknowledged_is_gone()
        hospital.nothing_is_given_up_unimported()
    hospital.teardown()


class HospitalWithLocks(Hospital):
    """On one machine: owners hold locks, which end with them."""

    lease = None


class HospitalLosingItsTable(Hospital):
    """The metadata table is lost, later, and rebuilt."""

    @precondition(lambda self: len(self.world.acknowledged) >= 3 and not self.world.has_lost_the_table)
    @rule()
    def table_is_lost(self) -> None:
        self.world.lose_the_table()


def _case(machine: type[RuleBasedStateMachine]) -> Any:
    case = pytest.mark.timeout(0)(machine.TestCase)
    case.settings = SETTINGS
    return case


TestHospital = _case(Hospital)
TestHospitalWithLocks = _case(HospitalWithLocks)
TestHospitalLosingItsTable = _case(HospitalLosingItsTable)
