"""
The whole AWS profile in one process over real sockets: receiver, handlers, moto with the state machine, the stand-in.

Time stands still until a test, or a Wait state of the state machine, lets it pass: a Wait takes no real time, and the
clock of everything goes on by what it would have taken.
"""

from __future__ import annotations

import gc
import io
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
from botocore import endpoint
from moto.sns.models import sns_backends
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.wait_function import WaitFunction
from pydicom import Dataset
from pynetdicom import AE

from adapters.entrypoints.aws import AwsProfile, Clients, aws_clients, build_aws
from adapters.entrypoints.lambdas import Handlers
from adapters.entrypoints.medical_imaging import Behaviour, HealthImagingStandIn
from adapters.entrypoints.receiver import Receiver
from adapters.entrypoints.settings import Settings, read_settings
from adapters.entrypoints.simulated_aws import ACCOUNT, CREDENTIALS, Created, SimulatedAws
from adapters.entrypoints.use_cases import UseCases, assemble
from adapters.memory.clock import FakeClock
from adapters.memory.telemetry import RecordingTelemetry
from adapters.outbound.s3_objects import S3InputObjects, S3OutputObjects
from domain.batch import Batch, LeasePolicy
from domain.errors import OurError, TemporaryServiceError
from domain.identifiers import BatchId, DataStoreId
from domain.lifecycle import BatchState
from domain.ports import Clock
from services.report_status import Failure, Overview
from tests.fault_proxy import FaultProxy
from tests.service_models import Asked
from tests.serving import store_until_cut

PATIENCE_SECONDS = 180.0
DATA_STORE = DataStoreId("d" * 32)
QUIET_SECONDS = 15.0
_SDK_HASTE = 20  # the SDK tries again as often as ever, after a twentieth of its pauses
_LEASE = LeasePolicy()


@attrs.define
class Workshop:
    """
    A simulated AWS that many clouds of one module share, with its one state machine.

    Attributes:
        asked: what every client of every cloud was asked for.

    """

    aws: SimulatedAws
    state_machine_arn: str
    asked: Asked = attrs.field(factory=Asked)
    _clients: Clients | None = attrs.field(default=None, init=False)

    def clients(self, settings: Settings) -> Clients:
        """Return the clients for whoever only looks: of this server, whatever the settings of a cloud are."""
        if self._clients is None:
            self._clients = aws_clients(attrs.evolve(settings, endpoint_url=self.aws.url))
        return self._clients

    def close(self) -> None:
        """Close those clients."""
        if self._clients is not None:
            self._clients.close()


@contextmanager
def open_workshop(monkeypatch: Any) -> Iterator[Workshop]:
    """Run a simulated AWS; a Wait state advances the clock of the cloud, and who tries again does not wait for long."""
    monkeypatch.setattr(WaitFunction, "_wait_interval", lambda _self, env, wait_seconds: _wait(env, wait_seconds))
    monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=lambda _seconds: None))
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / _SDK_HASTE)))
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    aws = SimulatedAws()
    aws.start()
    # what moto has loaded stays, and is not looked through again and again
    gc.collect()
    gc.freeze()
    try:
        with closing(Workshop(aws, aws.create("workshop").state_machine_arn)) as workshop:
            yield workshop
    finally:
        gc.unfreeze()
        aws.stop()


_clock_of: list[FakeClock] = []


def _wait(env: Any, seconds: float) -> None:
    for clock in _clock_of:
        clock.advance(seconds)
    time.sleep(0.01)  # a state machine that only waits must not starve the others


@attrs.define
class Cloud:
    """
    One hospital's stack.

    Attributes:
        handlers: the functions; like receivers they reach the simulated AWS through the proxy.
        use_cases: those of a test that looks, or acts as the operator; no fault of the proxy is in their way.

    """

    workshop: Workshop
    created: Created
    stand_in: HealthImagingStandIn
    proxy: FaultProxy
    clock: FakeClock
    settings: Settings
    folder: Path
    telemetry: RecordingTelemetry = attrs.field(factory=RecordingTelemetry)
    calls: list[tuple[str, Mapping[str, Any], Any]] = attrs.field(factory=list)
    before_call: Callable[[str, Mapping[str, Any]], None] | None = None
    acknowledged: list[str] = attrs.field(factory=list)
    handlers: Handlers = attrs.field(init=False)
    use_cases: UseCases = attrs.field(init=False)
    _seen: set[BatchId] = attrs.field(factory=set, init=False)
    _closing: ExitStack = attrs.field(factory=ExitStack, init=False)

    def __attrs_post_init__(self) -> None:
        use_cases, profile = self._opened(self.clock, self.settings)
        self.handlers = Handlers(use_cases=use_cases, tell=profile.notifier)
        beside = attrs.evolve(self.settings, endpoint_url=self.workshop.aws.url)
        looking = attrs.evolve(self.workshop.clients(beside), medical_imaging=profile.clients.medical_imaging)
        self.use_cases, _ = self._opened(self.clock, beside, looking)
        self.workshop.aws.lambda_function = self.call

    def _opened(self, clock: Clock, settings: Settings, clients: Clients | None = None) -> tuple[UseCases, AwsProfile]:
        """Open the profile, with clients of its own if none are given, as a process of its own would."""
        profile = build_aws(settings, io.StringIO(), clients)
        if clients is None:
            self._closing.callback(profile.clients.close)
            for service in ("s3", "dynamodb", "medical_imaging", "stepfunctions", "sns"):
                self.workshop.asked.watch(getattr(profile.clients, service))
        ports = attrs.evolve(
            profile.use_cases.ports,
            clock=clock,
            telemetry=self.telemetry,
            is_abandoned=lambda batch: _LEASE.is_abandoned(batch, clock.now()),
        )
        return assemble(ports), profile

    def close(self) -> None:
        """Close the clients."""
        self._closing.close()

    def call(self, name: str, event: Mapping[str, Any]) -> Any:
        """Carry out a function, as Lambda does."""
        if self.before_call is not None:
            self.before_call(name, event)
        answer = getattr(self.handlers, name)(event)
        self.calls.append((name, dict(event), answer))
        return answer

    @contextmanager
    def receiver(self, clock: Clock | None = None) -> Iterator[int]:
        """Run a receiver with collaborators of its own and give its port; it ends as one that is told to stop."""
        use_cases, profile = self._opened(clock or self.clock, self.settings)
        receiver = Receiver(self.settings, use_cases, drafts=profile.drafts)
        port = receiver.start()
        try:
            yield port
        finally:
            receiver.stop()

    def send(self, port: int, numbers: range, study: str = "2.25.7000") -> list[str]:
        """Store instances, note which were acknowledged, and return those."""
        acknowledged: list[str] = []
        store_until_cut(port, numbers, acknowledged, study)
        self.acknowledged += acknowledged
        return acknowledged

    def store(self, port: int, data_set: Dataset) -> None:
        """Store one instance, and note that it was acknowledged."""
        client = AE()
        client.add_requested_context(data_set.SOPClassUID, data_set.file_meta.TransferSyntaxUID)
        association = client.associate("127.0.0.1", port)
        assert association.is_established
        assert association.send_c_store(data_set).Status == 0
        association.release()
        self.acknowledged.append(data_set.SOPInstanceUID)

    @contextmanager
    def by_hand(self) -> Iterator[Callable[[str, BatchId], str]]:
        """Let every execution end at its first step, and give what takes the steps instead: function and batch."""

        def die(_name: str, _event: Mapping[str, Any]) -> None:
            raise RuntimeError("a test takes the steps")

        def take(name: str, batch_id: BatchId) -> str:
            batch = self.use_cases.ports.metadata.batch(batch_id)
            assert batch is not None
            event = {"batch_id": batch.id.value, "attempt": batch.attempt, "run": batch.run}
            return str(getattr(self.handlers, name)(event)["next"])

        self.before_call = die
        try:
            yield take
        finally:
            self.run_executions()
            self.before_call = None

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps, so that whatever happens now and then has its chance."""
        while seconds > 0:
            step = min(seconds, 30.0)
            self.clock.advance(step)
            seconds -= step
            time.sleep(0.02)

    def wait(self, is_so: Callable[[], bool], what: str = "it") -> None:
        """Wait, in real time, until something is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, f"{what} does not happen: {self.describe()}"
            time.sleep(0.05)

    def close_batch(self) -> None:
        """Let the open batch become quiet, and wait until it is closed."""
        self.wait(lambda: bool(self.batches()), "a batch")
        self.clock.advance(QUIET_SECONDS + 1)
        self.wait(lambda: all(batch.state is not BatchState.OPEN for batch in self.batches()), "closing")

    def batches(self) -> list[Batch]:
        """Return all batches, oldest first; a listing alone may leave out one that changes its state meanwhile."""
        metadata = self.use_cases.ports.metadata
        self._seen.update(batch.id for batch in metadata.batches(list(BatchState)))
        found = (metadata.batch(batch_id) for batch_id in sorted(self._seen))
        return [batch for batch in found if batch is not None]

    def run_executions(self) -> None:
        """Wait until no execution runs."""
        self.wait(lambda: not self.executions("RUNNING"), "the end of the executions")

    def executions(self, *statuses: str) -> list[str]:
        """Return the names of our executions in any of these states, or all."""
        client = self.workshop.aws.client("stepfunctions")
        ours = {batch.id.value for batch in self.batches()}
        pages = client.get_paginator("list_executions").paginate(stateMachineArn=self.workshop.state_machine_arn)
        found = [execution for page in pages for execution in page["executions"]]
        return [
            execution["name"]
            for execution in found
            if execution["name"].rsplit("-", 2)[0] in ours and (not statuses or execution["status"] in statuses)
        ]

    def settle(self) -> None:
        """Do what the schedules do until every batch has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.run_executions()
            if all(batch.state in {BatchState.SETTLED, BatchState.FAILED} for batch in self.batches()):
                return
            assert time.monotonic() < deadline, self.describe()
            self.clock.advance(_LEASE.seconds + _LEASE.recovery_margin_seconds + 1)
            with suppress(OurError, TemporaryServiceError):  # the schedule comes again
                self.handlers.recover({})

    def overview(self) -> Overview:
        """Return what `status` shows."""
        return self.use_cases.report.overview(self.clock.now() - timedelta(days=365))

    def failures(self) -> list[Failure]:
        """Return what `failures` shows."""
        return list(self.use_cases.report.failures())

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """Return the fields of the events of that name."""
        return [event.fields for event in self.telemetry.events if event.name == name]

    def notices(self) -> list[str]:
        """Return what people were told by the topic."""
        topic = sns_backends[ACCOUNT][self.workshop.aws.region].topics[self.created.topic_arn]
        return [str(sent[1]) for sent in topic.sent_notifications]

    def objects(self, prefix: str = "") -> set[str]:
        """Return the SOP Instance UIDs of all objects that are current in the staging bucket, below a prefix."""
        paginator = self.workshop.aws.client("s3").get_paginator("list_objects_v2")
        pages = paginator.paginate(Bucket=self.created.staging_bucket, Prefix=prefix)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {key.rpartition("/")[2].removesuffix(".dcm") for key in keys}

    def imported(self) -> set[str]:
        """Return which of the acknowledged instances are in the data store."""
        return {uid for uid in self.acknowledged if self.stand_in.store.find(uid)}

    def assert_nothing_is_lost(self) -> None:
        """Check that every acknowledged instance is in the data store, or still staged and not said to be imported."""
        status = self.overview()
        assert set(self.acknowledged) <= self.imported() | self.objects(), self.describe()
        assert status.received >= len(set(self.acknowledged)), self.describe()
        assert status.received == status.imported + status.failed + status.pending
        assert status.imported <= self.stand_in.store.summary().instances, self.describe()

    def describe(self) -> str:
        """Say how things stand, for a test that failed."""
        batches = [f"{batch.id} {batch.state} {batch.attempt}-{batch.run} {batch.reason}" for batch in self.batches()]
        events = [f"{event.name} {dict(event.fields)}" for event in self.telemetry.events[-20:]]
        calls = [f"{name} {answer}" for name, _, answer in self.calls[-10:]]
        return "\n".join(["", *batches, *events, *calls])


@contextmanager
def open_cloud(workshop: Workshop, folder: Path, **settings: str) -> Iterator[Cloud]:
    """Create a stack of its own in the shared simulated AWS; S3, DynamoDB and Step Functions are behind the proxy."""
    aws = workshop.aws
    clock = FakeClock(datetime.now(UTC))
    created = aws.create(f"hospital-{uuid.uuid4().hex[:12]}", state_machine_arn=workshop.state_machine_arn)
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(aws.url))
        behaviour = Behaviour(clock=clock)
        stand_in = stack.enter_context(
            HealthImagingStandIn(
                folder / "datastore",
                DATA_STORE,
                S3InputObjects(client=aws.client("s3"), bucket=created.staging_bucket),
                S3OutputObjects(client=aws.client("s3"), bucket=created.results_bucket),
                behaviour,
            )
        )
        values = {
            **created.settings,
            "endpoint_url": proxy.url,
            "data_store_id": DATA_STORE.value,
            "health_imaging_endpoint_url": stand_in.url,
            "data_dir": str(folder / "data"),
            "host": "127.0.0.1",
            "port": "0",
            "grace_seconds": "2",
            **settings,
        }
        cloud = Cloud(
            workshop=workshop,
            created=created,
            stand_in=stand_in,
            proxy=proxy,
            clock=clock,
            settings=read_settings(values, {}),
            folder=folder,
        )
        _clock_of[:] = [clock]
        try:
            yield cloud
            problems, workshop.asked.problems = workshop.asked.problems, []
            assert problems == []
        finally:
            behaviour.clear()
            aws.stop_executions()
            _clock_of.clear()
            cloud.close()
