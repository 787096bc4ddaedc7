"""
The workflow service: one Step Functions state machine, one execution for each run of a batch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs

from adapters.outbound.aws_errors import workflow_errors
from domain.batch import Batch

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

_UNFINISHED = frozenset({"RUNNING", "PENDING_REDRIVE"})


@attrs.frozen(kw_only=True)
class StepFunctionsWorkflow:
    """
    A Workflow (domain/ports.py) on a standard state machine, safe to share between threads.

    An execution is named by batch, attempt and run; the service keeps a name taken for 90 days after its end.
    """

    client: SFNClient
    state_machine_arn: str

    def start(self, batch: Batch) -> None:
        """Begin the present run of `batch`; that it has begun, or even ended, is fine."""
        words = json.dumps({"batch_id": batch.id.value, "attempt": batch.attempt, "run": batch.run})
        with workflow_errors(self.state_machine_arn):
            try:
                self.client.start_execution(
                    stateMachineArn=self.state_machine_arn, name=batch.execution_name, input=words
                )
            except self.client.exceptions.ExecutionAlreadyExists:
                return

    def is_running(self, batch: Batch) -> bool | None:
        """
        Tell whether the present run goes on; None if it was never started.

        Raises:
            TemporaryServiceError: it cannot be asked now.

        """
        with workflow_errors(self.state_machine_arn):
            try:
                answer = self.client.describe_execution(executionArn=self._execution_arn(batch))
            except self.client.exceptions.ExecutionDoesNotExist:
                return None
        return answer["status"] in _UNFINISHED

    def _execution_arn(self, batch: Batch) -> str:
        # arn:<partition>:states:<region>:<account>:stateMachine:<name>[:<version or alias>]
        parts = self.state_machine_arn.split(":")
        return ":".join([*parts[:5], "execution", parts[6], batch.execution_name])
