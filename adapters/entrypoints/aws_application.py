"""
The commands' application on AWS: Step Functions carries the batches, so commands only set things going.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from adapters.entrypoints.aws import AwsProfile, open_aws
from adapters.entrypoints.process import receive_until_stopped
from adapters.entrypoints.settings import Settings
from adapters.inbound.application import Listening
from adapters.outbound.ecs_task_protection import EcsTaskProtection
from domain.batch import Batch
from domain.identifiers import BatchId
from services.reconcile import Reconciled
from services.recover_batches import Recovered
from services.report_status import ReportStatus


class AwsApplication:
    """The application on AWS."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._opened: AwsProfile | None = None

    @property
    def report(self) -> ReportStatus:
        """Answer questions."""
        return self._profile().use_cases.report

    def retry(self, batch_id: BatchId, /) -> Batch:
        """Retry a failed batch; the workflow imports it."""
        return self._profile().use_cases.retry(batch_id)

    def recover(self) -> Recovered:
        """Set going what stalled."""
        return self._profile().use_cases.recover()

    def reconcile(self, progress: Callable[[BatchId], None], /) -> Reconciled:
        """Compare objects and results with the table."""
        return self._profile().use_cases.reconcile(progress)

    def carry_on(self, _progress: Callable[[int, int], None], /) -> Sequence[Batch] | None:
        """Leave it to the workflow."""
        return None

    def serve(self, announce: Callable[[Listening], None], /) -> None:
        """Receive until told to stop."""
        settings = self._settings
        receive_until_stopped(
            settings,
            self._profile().use_cases,
            self._profile().drafts,
            (),
            announce,
            keeps_in=f"s3://{settings.staging_bucket}, then data store {settings.data_store_id} in {settings.region}",
            on_load=self._task_protection(),
        )

    def close(self) -> None:
        """Give back connections and threads."""
        self._opened = None
        self._stack.close()

    def _task_protection(self) -> EcsTaskProtection | None:
        """Return what keeps the service from ending this task while it is at work; None outside ECS."""
        agent_uri = os.environ.get("ECS_AGENT_URI")
        profile = self._profile()
        return EcsTaskProtection(agent_uri, profile.clock, profile.telemetry) if agent_uri else None

    def _profile(self) -> AwsProfile:
        if self._opened is None:
            self._opened = self._stack.enter_context(open_aws(self._settings))
        return self._opened
