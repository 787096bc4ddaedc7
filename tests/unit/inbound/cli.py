"""The command line on memory adapters: an application whose every answer a test decides, and a way to run it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
from click.testing import CliRunner, Result

from adapters.entrypoints import cli
from adapters.entrypoints.settings import read_settings
from adapters.inbound.application import Listening, Options, Surroundings
from adapters.inbound.commands import build_commands
from adapters.inbound.shell import Session
from adapters.memory.clock import FakeClock
from adapters.memory.metadata import MemoryMetadataStore
from adapters.memory.staging import MemoryStagingArea
from adapters.memory.telemetry import RecordingTelemetry
from adapters.memory.workflow import MemoryWorkflow
from domain.batch import Batch, CloseReason
from domain.identifiers import AeTitle, BatchId, Uid
from domain.record import InstanceRecord, StudyRecord, holdings_of
from services.reconcile import Reconciled
from services.recover_batches import RecoverBatches, Recovered
from services.report_status import ReportStatus
from services.retry_batch import RetryBatch
from tests.builders import a_batch, a_moment, a_study


@attrs.define(kw_only=True)
class FakeApplication:
    """
    An Application (adapters/inbound/application.py).

    Attributes:
        carry: what `carry_on` does before it returns the unfinished batches; None: something else carries them.
        error: raised by whatever is asked first.

    """

    clock: FakeClock = attrs.field(factory=lambda: FakeClock(a_moment(3600)))
    metadata: MemoryMetadataStore = attrs.field(factory=MemoryMetadataStore)
    workflow: MemoryWorkflow = attrs.field(factory=MemoryWorkflow)
    carry: Callable[[Batch], Batch] | None = None
    error: Exception | None = None
    is_closed: bool = False
    listening: Listening = attrs.field(
        factory=lambda: Listening(host="0.0.0.0", port=4242, ae_title=AeTitle("STORE SCP"), keeps_in="./data")
    )

    @property
    def report(self) -> ReportStatus:
        if self.error is not None:
            raise self.error
        return ReportStatus(staging=MemoryStagingArea(clock=self.clock), metadata=self.metadata)

    def retry(self, batch_id: BatchId, /) -> Batch:
        return RetryBatch(metadata=self.metadata, workflow=self.workflow, telemetry=RecordingTelemetry())(batch_id)

    def recover(self) -> Recovered:
        return RecoverBatches(
            staging=MemoryStagingArea(clock=self.clock),
            metadata=self.metadata,
            workflow=self.workflow,
            clock=self.clock,
            telemetry=RecordingTelemetry(),
            is_abandoned=lambda _: True,
        )()

    def reconcile(self, progress: Callable[[BatchId], None], /) -> Reconciled:
        for batch in self.report.batches(a_moment()):
            progress(batch.id)
        return Reconciled(batches=3, rebuilt=2, rehoused=1)

    def carry_on(self, progress: Callable[[int, int], None], /) -> Sequence[Batch] | None:
        if self.carry is None:
            return None
        carried = []
        started = self.workflow.running()
        for batch in started:
            after = self.carry(batch)
            self.metadata.replace_batch(batch, after)
            carried.append(after)
            progress(len(carried), len(started))
        return carried

    def serve(self, announce: Callable[[Listening], None], /) -> None:
        if self.error is not None:
            raise self.error
        announce(self.listening)

    def close(self) -> None:
        self.is_closed = True

    def add(self, batch: Batch, *records: InstanceRecord, study: StudyRecord | None = None) -> Batch:
        """Put a batch with entries into the table, as listing and recording do."""
        self.metadata.add_batch(batch)
        entries = [attrs.evolve(record, batch=batch.id) for record in records]
        self.metadata.claim([(entry, None) for entry in entries])
        self.metadata.put_entries(entries)
        self.metadata.put_study(study or a_study())
        newest = self.metadata.newest([entry.key for entry in entries])
        self.metadata.put_holdings(holdings_of(entries, newest).values())
        return batch


@attrs.frozen(kw_only=True)
class FakeFile:
    path: Path
    reason: str = ""
    sop_instance: Uid = attrs.field(factory=lambda: Uid("1.2.3"))
    outcome: str = "stored"
    status: int | None = 0
    comment: str = ""


@attrs.frozen(kw_only=True)
class FakeAnswer:
    seconds: float = 0.25
    status: int | None = 0
    problem: str | None = None


@attrs.define(kw_only=True)
class FakeScu:
    """An Scu (adapters/inbound/application.py) and its consignment in one."""

    answer: FakeAnswer = attrs.field(factory=FakeAnswer)
    files: list[FakeFile] = attrs.field(factory=list)
    skipped: list[FakeFile] = attrs.field(factory=list)
    opened: dict[str, Any] = attrs.field(factory=dict)

    def echo(self) -> FakeAnswer:
        return self.answer

    def gather(self, paths: object, progress: Callable[[int], None], /) -> FakeScu:
        progress(len(self.files) + len(self.skipped))
        return self

    def send(self) -> Iterator[FakeFile]:
        yield from self.files


@attrs.define(kw_only=True)
class CommandLine:
    """
    What a person types, and what comes of it.

    Attributes:
        built_from: the options that the application was built from last.

    """

    application: FakeApplication = attrs.field(factory=FakeApplication)
    scu: FakeScu = attrs.field(factory=FakeScu)
    environ: Mapping[str, str] = attrs.field(factory=dict)
    built_from: dict[str, str | None] = attrs.field(factory=dict)

    def run(self, *arguments: str) -> Result:
        real = cli.surroundings(self.environ)

        def build(options: Options) -> FakeApplication:
            read_settings(options, self.environ)
            self.built_from = dict(options)
            return self.application

        def open_scu(**peer: Any) -> FakeScu:
            self.scu.opened = peer
            return self.scu

        def now() -> datetime:
            return self.application.clock.now()

        session = Session(
            surroundings=Surroundings(
                build=build,
                show_settings=real.show_settings,
                open_scu=open_scu,
                now=now,
                wants_traceback=real.wants_traceback,
            )
        )
        return CliRunner().invoke(build_commands(cli.declare), arguments, obj=session, prog_name="ahi-storescp")

    def json(self, *arguments: str) -> Any:
        """Run with --json and read what stands on standard output, whatever the exit code."""
        return json.loads(self.run(*arguments, "--json").stdout)


def a_failed_batch(number: int = 1, reason: str = "import job failed: no access") -> Batch:
    """Return a batch that failed as a whole."""
    return a_batch(number).closed(a_moment(number + 9), CloseReason.QUIET).failed(reason)
