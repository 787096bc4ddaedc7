"""
The functions of the state machine and of the schedules, on the same use cases as everything else.

    function        in the state machine                answers as "next"
    list_batch      list a closed batch                 ready, wait, settled, stale
    start_import    submit its import job               submitted, wait, refused, stale
    follow_import   look at the job once                running, ended, failed, stale
    record_results  read its results                    settled, failed, wait, stale
    fail_batch      caught: a final error of ours       failed, stale
    notify          after a failure: tell people        done
    recover         every five minutes: set going what stalled
    reconcile       every hour: find what nothing names

A step is given `batch_id`, `attempt` and `run`, and answers `next` and `wait_seconds`, how long to wait if it has to
be taken again.
"wait" is what passes by itself; "stale" is a batch that has gone on without this run, which then ends.
Any other error ends the run and changes nothing; `recover` starts the next one.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

from adapters.entrypoints.aws import build_aws
from adapters.entrypoints.settings import read_settings
from adapters.entrypoints.use_cases import UseCases
from adapters.inbound.aws_events import Payload, read_error, read_step
from adapters.outbound.cloudwatch_telemetry import ERROR_EVENTS
from domain.batch import Batch
from domain.errors import OurError, TemporaryServiceError
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState
from services.fail_batch import FailBatch
from services.start_import import Start

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

Answer = dict[str, Any]
"""What a function answers: JSON."""

ALWAYS_COUNTED = (ERROR_EVENTS, "ImportFailures", "InstancesFailed")
"""What is measured every five minutes, be it zero: its absence is an alarm."""

_STALE = "stale"
_SHOWN_STUDIES = 20


@attrs.frozen(kw_only=True)
class Handlers:
    """
    Every function.

    Attributes:
        tell: publishes a subject and a text; None tells nobody.
        flush: writes what was measured; the process may be frozen after each call.

    """

    use_cases: UseCases
    tell: Callable[[str, str], None] | None = None
    flush: Callable[[], None] = lambda: None

    def list_batch(self, event: Payload) -> Answer:
        """List a closed batch and clear it for its import."""
        return self._take(event, self.use_cases.list_batch, busy="wait")

    def start_import(self, event: Payload) -> Answer:
        """Submit the import job of a cleared batch."""
        return self._take(event, self.use_cases.start_import, busy="wait")

    def follow_import(self, event: Payload) -> Answer:
        """Look at the job of a batch once."""
        return self._take(event, self.use_cases.follow_import, busy="running")

    def record_results(self, event: Payload) -> Answer:
        """Settle the instances of a batch whose job has ended."""
        return self._take(event, self.use_cases.record_results, busy="wait")

    def fail_batch(self, event: Payload) -> Answer:
        """Fail a batch with the error that the state machine caught."""
        step, ports = read_step(event), self.use_cases.ports
        if not step.is_of(ports.metadata.batch(step.batch_id)):
            return {"next": _STALE}
        fail = FailBatch(metadata=ports.metadata, telemetry=ports.telemetry)
        return {"next": "failed" if fail(step.batch_id, read_error(event)) else _STALE}

    def notify(self, event: Payload) -> Answer:
        """Tell people of what was not imported, at least once; recovery sees to it that this is called."""
        metadata = self.use_cases.ports.metadata
        batch = metadata.batch(read_step(event).batch_id)
        if batch is not None and not batch.is_told:
            if self.tell is not None:
                self.tell(f"Import of batch {batch.id} needs attention", self._words(batch))
            if batch.state is BatchState.FAILED:
                metadata.replace_batch(batch, batch.told())
        return {"next": "done"}

    def recover(self, _event: Payload) -> Answer:
        """Set going what stalled; and count nothing of what alarms look at, so that none differs from unknown."""
        for name in ALWAYS_COUNTED:
            self.use_cases.ports.telemetry.measure(name, 0)
        return attrs.asdict(self.use_cases.recover())

    def reconcile(self, _event: Payload) -> Answer:
        """Find what nothing names, and rebuild what the table lost."""
        return attrs.asdict(self.use_cases.reconcile())

    def _take(self, event: Payload, take: Callable[[BatchId], StrEnum], *, busy: str) -> Answer:
        """Take one step; `busy` is the answer to an error that passes by itself."""
        step, ports = read_step(event), self.use_cases.ports
        batch: Batch | None = None
        try:
            batch = ports.metadata.batch(step.batch_id)
            word = take(step.batch_id).value if step.is_of(batch) else _STALE
        except (TemporaryServiceError, OurError) as error:
            ports.telemetry.event("step.delayed", batch=step.batch_id.value, error=type(error).__name__)
            word = busy
        return {"next": word, "wait_seconds": self._wait_seconds(None if word == Start.SUBMITTED else batch)}

    def _wait_seconds(self, batch: Batch | None) -> int:
        """Return how long to wait for a batch that is as the step found it; None: it has only just begun."""
        ports = self.use_cases.ports
        if batch is None:
            return math.ceil(ports.poll.seconds)
        began = batch.submitted_at or batch.closed_at or batch.opened_at
        return math.ceil(ports.poll.delay((ports.clock.now() - began).total_seconds()))

    def _words(self, batch: Batch) -> str:
        """Say in words what happened; the reason itself may quote a data set, so it is left in the table."""
        counts: dict[InstanceState, int] = {}
        studies: dict[str, None] = {}
        for entry in self.use_cases.ports.metadata.entries(batch.id):
            counts[entry.state] = counts.get(entry.state, 0) + 1
            if entry.state is not InstanceState.IMPORTED:
                studies[entry.key.study.value] = None
        if batch.state is BatchState.FAILED:
            happened = "could not be imported. Its objects are kept, and nothing is lost."
        else:
            happened = f"is {batch.state.value}. What was not imported is kept, and nothing is lost."
        shown = list(studies)[:_SHOWN_STUDIES]
        more = len(studies) - len(shown)
        return "\n".join(
            [
                f"Batch {batch.id} (attempt {batch.attempt}) {happened}",
                "",
                *(f"{count} instance(s) {state.value}" for state, count in sorted(counts.items())),
                *(f"study {study}" for study in shown),
                *([f"and {more} more studies"] if more else []),
                "",
                "See why: ahi-storescp failures",
                f"Once the cause is gone: ahi-storescp retry {batch.id}",
            ]
        )


@cache
def _handlers() -> Handlers:
    """Build what every call of this process uses, at the first one."""
    settings = read_settings({"profile": "aws"}, os.environ)
    profile = build_aws(settings, sys.stdout)
    return Handlers(use_cases=profile.use_cases, tell=profile.notifier, flush=profile.flush)


def _flushing(handle: Callable[[Handlers, Payload], Answer], event: Mapping[str, Any]) -> Answer:
    handlers = _handlers()
    try:
        return handle(handlers, event)
    finally:
        handlers.flush()


def list_batch(event: Mapping[str, Any], _context: LambdaContext) -> Answer:
    """Handle `list_batch`."""
    return _flushing(Handlers.list_batch, event)


def start_import(event: Mapping[str, Any], _context: LambdaContext) -> Answer:
    """Handle `start_import`."""
    return _flushing(Handlers.start_import, event)


def follow_import(event: Mapping[str, Any], _context: LambdaContext) -> Answer:
    """Handle `follow_import`."""
    return _flushing(Handlers.follow_import, event)


def record_results(event: Mapping[str, Any], _context: LambdaContext) -> Answer:
    """Handle `record_results`."""
    return _flushing(Handlers.record_results, event)


def fail_batch(event: Mapping[str, Any], _context: LambdaContext) -> Answer:
    """Handle `fail_batch`."""
    return _flushing(Handlers.fail_batch, event)


def notify(event: Mapping[str, Any], _context: LambdaContext) -> Answer:
    """Handle `notify`."""
    return _flushing(Handlers.notify, event)


def recover(event: Mapping[str, Any], _context: LambdaContext) -> Answer:
    """Handle `recover`."""
    return _flushing(Handlers.recover, event)


def reconcile(event: Mapping[str, Any], _context: LambdaContext) -> Answer:
    """Handle `reconcile`."""
    return _flushing(Handlers.reconcile, event)
