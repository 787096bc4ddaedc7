"""
A hospital in memory: several owners, the workflow's handlers, an import service, and faults at any call of a port.

Time stands still until it is advanced.
The world remembers what was sent, what reached the stage and what was acknowledged, so that a test can compare that
with what the system says and does.

    world = World()
    receiver = world.new_owner()
    world.store(receiver, 1)
    world.run()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import attrs
from blake3 import blake3

from adapters.entrypoints.use_cases import Ports, assemble
from adapters.memory.clock import FakeClock
from adapters.memory.importer import MemoryImporter, MemoryResultsReader
from adapters.memory.metadata import MemoryMetadataStore
from adapters.memory.staging import MemoryStagingArea
from adapters.memory.telemetry import RecordingTelemetry
from adapters.memory.workflow import MemoryWorkflow
from domain.batch import Batch, BatchPolicy, LeasePolicy
from domain.errors import (
    ImporterBusy,
    MetadataUnavailable,
    OurError,
    ResultsNotReady,
    StageFailed,
    TemporaryServiceError,
)
from domain.identifiers import BatchId, Digest, Uid
from domain.instance import InstanceKey, SopInstance
from domain.lifecycle import BatchState, InstanceState
from domain.record import StudyDescription
from domain.staging import StagingKey
from services.write_batches import WriteBatches
from tests.builders import a_uid, an_instance

LEASE = LeasePolicy()
UNFINISHED = (BatchState.OPEN, BatchState.CLOSED, BatchState.SUBMITTED, BatchState.IMPORTING)


class Crash(BaseException):
    """The process that made a call dies in the middle of it; nothing it would do afterwards happens."""


@attrs.define
class Interruption:
    """
    What happens at one call of a port.

    Attributes:
        calls: at which call from now on, 1 is the next.
        is_after: once the effect of the call is there, instead of before.
        happens: what happens then; it may raise what the caller gets.
        only: the method it waits for; others are not counted.

    """

    calls: int
    is_after: bool
    happens: Callable[[str], object]
    only: str | None = None


@attrs.frozen
class Watched:
    """
    A port whose every call is told of: before it has any effect, and once the effect is there.

    Attributes:
        called: is given the name of the port, the method, and whether the effect is there; what it raises is what the
            caller gets.

    """

    name: str
    port: Any
    called: Callable[..., None]

    def __getattr__(self, method: str) -> Any:
        what = getattr(self.port, method)
        return self.watching(method, what) if callable(what) else what

    def watching(self, method: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, told of in the same way."""

        def watched(*args: Any, **named: Any) -> Any:
            self.called(self.name, method, is_after=False)
            answer = call(*args, **named)
            self.called(self.name, method, is_after=True)
            return answer

        return watched


@attrs.frozen
class Landed:
    """Bytes that reached the stage."""

    key: InstanceKey
    digest: Digest
    staged_at: datetime
    batch: BatchId


@attrs.define
class _Store:
    instance: SopInstance
    content: bytes
    landed: Landed | None = None


@attrs.define(eq=False)
class Owner:
    """A receiver process."""

    name: str
    batches: WriteBatches
    is_busy: bool = False
    is_ticking: bool = False


def _describe(head: bytes) -> StudyDescription:
    return StudyDescription(study_date="20250314", modality="CT", description=f"{len(head) and 'chest'}")


class World:
    """Everything, wired."""

    def __init__(
        self, lease: LeasePolicy | None = LEASE, policy: BatchPolicy | None = None, *, runs_tell: bool = False
    ) -> None:
        self.lease = lease
        self.runs_tell = runs_tell
        self.policy = policy or BatchPolicy()
        self.clock = FakeClock()
        self.handlers_clock = self.clock.skewed(50.0)
        self.staging = MemoryStagingArea(clock=self.clock)
        self.metadata = MemoryMetadataStore()
        self.workflow = MemoryWorkflow()
        self.telemetry = RecordingTelemetry()
        self.importer = MemoryImporter(staging=self.staging, clock=self.clock)
        self.results = MemoryResultsReader(self.importer)
        self.owners: list[Owner] = []
        self.dead: set[str] = set()
        self.landed: list[Landed] = []
        self.acknowledged: list[Landed] = []
        self.late: list[tuple[BatchId, SopInstance, bytes]] = []
        self.has_lost_the_table = False
        self.is_metadata_away = False
        self.is_stage_away = False
        self.is_workflow_away = False
        self._stores: list[_Store] = []
        self._interruption: Interruption | None = None
        self._is_dying = False
        self._serial = 0
        self._hook()
        self._wire()

    # -------------------------------------------------------------------------------- wiring

    def _hook(self) -> None:
        self.metadata.before = lambda method: self._called("metadata", method, is_after=False)
        self.metadata.after = lambda method: self._called("metadata", method, is_after=True)
        self.workflow.before = lambda method: self._called("workflow", method, is_after=False)
        self.workflow.after = lambda method: self._called("workflow", method, is_after=True)
        self.staging.before = self._before_staging
        self.staging.after = self._after_staging

    def _wire(self) -> None:
        use_cases = assemble(
            Ports(
                staging=self.staging,
                metadata=self.metadata,
                importer=Watched("importer", self.importer, self._called),
                results=Watched("results", self.results, self._called),
                workflow=self.workflow,
                describe_study=_describe,
                clock=self.handlers_clock,
                telemetry=self.telemetry,
                owner="sweeper",
                is_abandoned=self.is_abandoned,
                lease=self.lease or LEASE,
                entropy=self._entropy,
                runs_tell=self.runs_tell,
            )
        )
        self.use_cases = use_cases
        self.settle = use_cases.record_results.settle
        self.rehouse = use_cases.rehouse
        self.retry = use_cases.retry
        self.list_batch = use_cases.list_batch
        self.start_import = use_cases.start_import
        self.follow_import = use_cases.follow_import
        self.record_results = use_cases.record_results
        self.carry = use_cases.carry
        self.recover = use_cases.recover
        self.reconcile = use_cases.reconcile
        self.report = use_cases.report

    def _entropy(self) -> str:
        self._serial += 1
        return f"{self._serial:06d}"

    def is_abandoned(self, batch: Batch) -> bool:
        """Tell as a composition root would: by the owner's lock, or by the lease."""
        return batch.owner in self.dead or LEASE.is_abandoned(batch, self.handlers_clock.now())

    def new_owner(self, skew_seconds: float = 0.0) -> Owner:
        """Start a receiver whose wall clock is that far ahead."""
        name = f"receiver-{len(self.owners) + len(self.dead) + 1}"
        batches = WriteBatches(
            staging=self.staging,
            metadata=self.metadata,
            workflow=self.workflow,
            clock=self.clock.skewed(skew_seconds),
            telemetry=self.telemetry,
            owner=name,
            entropy=self._entropy,
            policy=self.policy,
            lease=self.lease,
        )
        owner = Owner(name, batches)
        self.owners.append(owner)
        return owner

    # -------------------------------------------------------------------------------- faults

    @contextmanager
    def interrupted(self, interruption: Interruption | None) -> Iterator[None]:
        """Let `interruption` happen within the block, once."""
        before, self._interruption = self._interruption, interruption
        try:
            yield
        finally:
            self._interruption = before
            self._is_dying = False

    @contextmanager
    def _untroubled(self) -> Iterator[None]:
        """Let every call within the block have its effect."""
        away = (self.is_metadata_away, self.is_stage_away, self.is_workflow_away)
        self.is_metadata_away = self.is_stage_away = self.is_workflow_away = False
        try:
            with self.interrupted(None):
                yield
        finally:
            self.is_metadata_away, self.is_stage_away, self.is_workflow_away = away

    def crash(self, _port: str = "") -> None:
        """Let the caller die."""
        self._is_dying = True
        raise Crash

    def away(self, port: str) -> None:
        """Let a call fail as its port promises."""
        if port == "metadata":
            raise MetadataUnavailable("away for one call")
        if port == "staging":
            raise StageFailed("away for one call")
        if port == "importer":
            raise ImporterBusy("away for one call")
        if port == "results":
            raise ResultsNotReady("away for one call")
        raise TemporaryServiceError("away for one call")

    def stray(self, port: str) -> None:
        """Let a write to the stage fail and take effect only when `deliver_late` is called."""
        if port == "staging" and self._stores:
            store = self._stores[-1]
            self.late.append((self._last_key.batch, store.instance, store.content))
        self.away(port)

    def deliver_late(self) -> None:
        """Let every write that went astray take effect."""
        late, self.late = self.late, []
        with self._untroubled():
            for batch, instance, content in late:
                draft = self.staging.draft()
                draft.write(content)
                self._stores.append(_Store(instance, content))
                self.staging.stage(draft, batch, instance)
                self._stores.pop()

    def _called(self, port: str, method: str, *, is_after: bool) -> None:
        if self._is_dying:
            raise Crash
        if not is_after and port == "metadata" and self.is_metadata_away:
            raise MetadataUnavailable("away")
        if not is_after and port == "staging" and self.is_stage_away:
            raise StageFailed("away")
        if not is_after and port == "workflow" and self.is_workflow_away:
            raise TemporaryServiceError("away")
        due = self._interruption
        if due is None or due.is_after is not is_after or due.only not in (None, method):
            return
        due.calls -= 1
        if due.calls <= 0:
            self._interruption = None
            due.happens(port)

    def _before_staging(self, method: str, key: StagingKey | None) -> None:
        if key is not None:
            self._last_key = key
        self._called("staging", method, is_after=False)
        if method == "discard" and key is not None and not self.has_lost_the_table:
            with self._untroubled():
                entry = self.metadata.pick_entries(key.batch, [key.instance_key])[key.instance_key]
            # What is given up is known to be imported before.
            assert entry.state is InstanceState.IMPORTED
        if method == "stage" and key is not None:
            self.clock.advance(0.001)
            held = self.staging.objects.get(key)
            mine = self._stores[-1].instance.digest if self._stores else None
            if held is not None and held.facts.instance.digest != mine:
                raise AssertionError(f"other bytes are overwritten at {key.path}")

    def _after_staging(self, method: str, key: StagingKey | None) -> None:
        if method == "stage" and key is not None:
            facts = self.staging.objects[key].facts
            landed = Landed(key.instance_key, facts.instance.digest, facts.staged_at, key.batch)
            self.landed.append(landed)
            if self._stores:
                self._stores[-1].landed = landed
        self._called("staging", method, is_after=True)

    # -------------------------------------------------------------------------------- doing

    def store(
        self, owner: Owner, number: int, version: int = 0, *, study: int = 0, series: int = 0, size: int | None = None
    ) -> bool:
        """Send an instance, of a size that may be feigned; tell whether it was acknowledged."""
        content = f"{study}/{number}/{version}".encode()
        instance = an_instance(
            number,
            study=a_uid(study, root="2.25.7"),
            series=a_uid(series, root="2.25.6"),
            size=size or len(content),
            digest=Digest(blake3(content).hexdigest()),
            received_at=self.clock.advance(0.001),
        )
        store = _Store(instance, content)
        self._stores.append(store)
        owner.is_busy = True
        try:
            draft = self.staging.draft()
            draft.write(content)
            is_new = owner.batches.store(draft, instance)
        except OurError:
            return False
        finally:
            owner.is_busy = False
            self._stores.remove(store)
        if is_new:
            assert store.landed is not None
            with self._untroubled():
                batch = self.metadata.batch(store.landed.batch)
            # Success means durable under an open batch whose record exists.
            assert batch is None or batch.state is BatchState.OPEN
            assert batch is not None or self.has_lost_the_table
            self.acknowledged.append(store.landed)
        else:
            assert any(known.key == instance.key and known.digest == instance.digest for known in self.acknowledged)
        return True

    def tick(self, owner: Owner) -> None:
        """Let the owner look after its batches."""
        owner.is_ticking = True
        try:
            owner.batches.tick()
        finally:
            owner.is_ticking = False

    def kill(self, owner: Owner) -> None:
        """Let the owner die."""
        if owner in self.owners:
            self.owners.remove(owner)
            self.dead.add(owner.name)

    def batch_ids(self, *states: BatchState) -> list[BatchId]:
        """Return the batches in any of `states`, or all."""
        with self.interrupted(None):
            return [batch.id for batch in self.metadata.batches(states or tuple(BatchState))]

    def work(self, name: str | None = None) -> None:
        """Let the import service get on with the job of that name, or with every job."""
        with self._untroubled():
            self.importer.step(name)

    def end_runs(self) -> None:
        """Let every run of the workflow end where it is."""
        for batch in self.workflow.running():
            self.workflow.end(batch)

    def lose_the_table(self) -> None:
        """Lose everything that the metadata store knew."""
        self.has_lost_the_table = True
        fresh = MemoryMetadataStore()
        for name in ("_batches", "_newest", "_entries", "_holdings", "_studies"):
            setattr(self.metadata, name, getattr(fresh, name))

    def heal(self) -> None:
        """Bring every service back."""
        self.is_metadata_away = self.is_stage_away = self.is_workflow_away = False
        self.importer.busy = self.importer.lost_answers = self.importer.unready = 0

    def heal_imports(self) -> None:
        """Let nothing be refused any more."""
        self.importer.refusals.clear()
        self.importer.job_failures.clear()
        self.importer.rejections.clear()
        self.importer.unmentioned.clear()
        self.importer.unreadable.clear()

    def run(self, *, is_reconciling: bool = True) -> None:
        """Let everything go on until nothing is left to do; it must come to an end."""
        self.heal()
        self.end_runs()
        for owner in self.owners:
            owner.batches.drain()
        for _ in range(60):
            self.clock.advance(LEASE.seconds + LEASE.recovery_margin_seconds + 51)
            for owner in self.owners:
                owner.batches.drain()
            self.recover()
            for batch in self.workflow.running():
                if self.carry(batch.id) is None:
                    self.workflow.end(batch)
            self.work()
            if not self.batch_ids(*UNFINISHED):
                if not is_reconciling:
                    return
                self.reconcile()
                if not self.batch_ids(*UNFINISHED):
                    return
        left = [(batch.id.value, batch.state.value) for batch in self.metadata.batches(UNFINISHED)]
        raise AssertionError(f"batches are left pending for ever: {left}")

    def retry_everything(self) -> None:
        """Retry as an operator would, until nothing can be retried."""
        for batch_id in {failure.batch for failure in self.report.failures()}:
            self.retry(batch_id)

    # -------------------------------------------------------------------------------- knowing

    def newest_acknowledged(self) -> dict[InstanceKey, Landed]:
        """Return, of each instance, the bytes that were confirmed last."""
        newest: dict[InstanceKey, Landed] = {}
        for landed in self.acknowledged:
            known = newest.get(landed.key)
            if known is None or landed.staged_at > known.staged_at:
                newest[landed.key] = landed
        return newest

    def studies(self) -> set[Uid]:
        """Return the studies of which something was acknowledged."""
        return {landed.key.study for landed in self.acknowledged}
