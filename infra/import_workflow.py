"""
What carries a closed batch through its import: a state machine and its functions.

Schedules wake the repairs that pick up what stalled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import pulumi
import pulumi_aws as aws

from infra.application import Environment
from infra.policies import ACTORS, Grant, Places, all_streams, document, grants_for, trust

DEFINITION_FILE = Path(__file__).with_name("import_workflow.asl.json")
HANDLERS = "adapters.entrypoints.lambdas"
WORK_DIR = "/tmp/storescp"  # noqa: S108  # the one folder a function may write to, and its own
_ENTRY_POINT = ["python", "-m", "awslambdaric"]
_EVENT_SECONDS = 3600


@attrs.frozen(kw_only=True)
class Work:
    """One function: what it does, how long it may take, and how often it is woken."""

    description: str
    seconds: int
    memory: int
    schedule: str | None = None
    is_step: bool = True


FUNCTIONS: Mapping[str, Work] = {
    "list_batch": Work(description="Lists a closed batch and clears it for its import", seconds=900, memory=1769),
    "start_import": Work(description="Starts the import job of a batch", seconds=120, memory=512),
    "follow_import": Work(description="Looks at the import job of a batch", seconds=120, memory=512),
    "record_results": Work(description="Records what became of every instance", seconds=900, memory=1769),
    "fail_batch": Work(description="Marks a batch as failed, with the cause", seconds=60, memory=512),
    "notify": Work(description="Tells the operator of a failed batch", seconds=60, memory=512),
    "recover": Work(
        description="Sets going what stalled", seconds=600, memory=1024, schedule="rate(5 minutes)", is_step=False
    ),
    "reconcile": Work(
        description="Finds what no listing named, and rebuilds what the metadata lost",
        seconds=900,
        memory=1769,
        schedule="rate(1 hour)",
        is_step=False,
    ),
}


@attrs.frozen(kw_only=True)
class ImportWorkflowArgs:
    """
    What an ImportWorkflow is made of.

    Attributes:
        state_machine_name: chosen beforehand, since the functions need to know it before it exists.
        environment: variables of every function.
        places: where everything is that the functions work on.
        dead_letters: ARN of the queue for events that nobody could take.

    """

    account_id: str
    region: str
    state_machine_name: str
    image_uri: pulumi.Input[str]
    cpu_architecture: str
    environment: Environment
    places: Places
    dead_letters: pulumi.Input[str]
    log_retention_days: int
    kms_key_arn: str | None
    tags: Mapping[str, str]


class ImportWorkflow(pulumi.ComponentResource):
    """The state machine, a function for each of its steps, and the scheduled repairs."""

    state_machine: aws.sfn.StateMachine
    functions: Mapping[str, aws.lambda_.Function]

    def __init__(self, name: str, args: ImportWorkflowArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("dicom-ahi:infra:ImportWorkflow", name, None, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        self.functions = {function: self._function(function, work) for function, work in FUNCTIONS.items()}
        self.state_machine = self._state_machine()
        self._schedules()
        self.register_outputs({"state_machine": self.state_machine.arn})

    def _log_group(self, what: str, path: str) -> aws.cloudwatch.LogGroup:
        return aws.cloudwatch.LogGroup(
            f"{self._name}-{what}",
            name=path,
            retention_in_days=self._args.log_retention_days,
            kms_key_id=self._args.kms_key_arn,
            tags=self._args.tags,
            opts=self._child,
        )

    def _role(
        self, what: str, service: str, description: str, grants: Sequence[Grant]
    ) -> tuple[aws.iam.Role, aws.iam.RolePolicy]:
        # Lambda says of no one whom it takes on a role for
        ours = {} if service == "lambda" else {"StringEquals": {"aws:SourceAccount": self._args.account_id}}
        role = aws.iam.Role(
            f"{self._name}-{what}",
            description=description,
            assume_role_policy=trust(f"{service}.amazonaws.com", **ours),
            tags=self._args.tags,
            opts=self._child,
        )
        policy = aws.iam.RolePolicy(
            f"{self._name}-{what}",
            role=role.id,
            policy=document(grants),
            opts=pulumi.ResourceOptions(parent=role),
        )
        return role, policy

    def _function(self, function: str, work: Work) -> aws.lambda_.Function:
        args = self._args
        what = function.replace("_", "-")
        logs = self._log_group(what, f"/storescp/{self._name}/{what}")
        grants = [
            *grants_for(ACTORS[function], args.places),
            Grant(actions=("logs:CreateLogStream", "logs:PutLogEvents"), resources=(logs.arn.apply(all_streams),)),
            _TRACES,
        ]
        if work.schedule is not None:
            grants.append(Grant(actions=("sqs:SendMessage",), resources=(args.dead_letters,)))
        role, policy = self._role(what, "lambda", f"What the function {what} may do", grants)
        made = aws.lambda_.Function(
            f"{self._name}-{what}",
            description=work.description,
            package_type="Image",
            image_uri=args.image_uri,
            image_config=aws.lambda_.FunctionImageConfigArgs(
                entry_points=_ENTRY_POINT, commands=[f"{HANDLERS}.{function}"]
            ),
            architectures=["arm64" if args.cpu_architecture == "ARM64" else "x86_64"],
            role=role.arn,
            timeout=work.seconds,
            memory_size=work.memory,
            environment=aws.lambda_.FunctionEnvironmentArgs(variables=dict(args.environment)),
            logging_config=aws.lambda_.FunctionLoggingConfigArgs(log_format="Text", log_group=logs.name),
            tracing_config=aws.lambda_.FunctionTracingConfigArgs(mode="Active"),
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
        )
        if work.schedule is not None:
            aws.lambda_.FunctionEventInvokeConfig(
                f"{self._name}-{what}",
                function_name=made.name,
                maximum_retry_attempts=1,
                maximum_event_age_in_seconds=_EVENT_SECONDS,
                destination_config=aws.lambda_.FunctionEventInvokeConfigDestinationConfigArgs(
                    on_failure=aws.lambda_.FunctionEventInvokeConfigDestinationConfigOnFailureArgs(
                        destination=args.dead_letters
                    )
                ),
                opts=pulumi.ResourceOptions(parent=made),
            )
        return made

    def _state_machine(self) -> aws.sfn.StateMachine:
        args = self._args
        steps = [self.functions[function] for function, work in FUNCTIONS.items() if work.is_step]
        # this prefix spares the log group a resource policy of its own, of which an account has only ten
        logs = self._log_group("import", f"/aws/vendedlogs/states/{self._name}-import")
        grants = [
            Grant(actions=("lambda:InvokeFunction",), resources=tuple(step.arn for step in steps)),
            Grant(
                actions=(
                    "logs:CreateLogDelivery",
                    "logs:DeleteLogDelivery",
                    "logs:DescribeLogGroups",
                    "logs:DescribeResourcePolicies",
                    "logs:GetLogDelivery",
                    "logs:ListLogDeliveries",
                    "logs:PutResourcePolicy",
                    "logs:UpdateLogDelivery",
                ),
                resources=("*",),
                reason="log deliveries know no resource; Step Functions asks for exactly these",
            ),
            _TRACES,
        ]
        role, policy = self._role("import", "states", "Lets the import workflow call its functions", grants)
        arns = {function: self.functions[function].arn for function, work in FUNCTIONS.items() if work.is_step}
        return aws.sfn.StateMachine(
            f"{self._name}-import",
            name=args.state_machine_name,
            type="STANDARD",
            role_arn=role.arn,
            definition=pulumi.Output.all(**arns).apply(definition),
            logging_configuration=aws.sfn.StateMachineLoggingConfigurationArgs(
                level="ERROR",
                include_execution_data=False,
                log_destination=logs.arn.apply(all_streams),
            ),
            tracing_configuration=aws.sfn.StateMachineTracingConfigurationArgs(enabled=True),
            tags=args.tags,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
        )

    def _schedules(self) -> None:
        args = self._args
        woken = {function: work.schedule for function, work in FUNCTIONS.items() if work.schedule is not None}
        grants = [
            Grant(
                actions=("lambda:InvokeFunction",), resources=tuple(self.functions[function].arn for function in woken)
            ),
            Grant(actions=("sqs:SendMessage",), resources=(args.dead_letters,)),
        ]
        role, policy = self._role("schedule", "scheduler", "Lets the schedules wake the repairs", grants)
        for function, expression in woken.items():
            what = function.replace("_", "-")
            aws.scheduler.Schedule(
                f"{self._name}-{what}",
                description=FUNCTIONS[function].description,
                schedule_expression=expression,
                flexible_time_window=aws.scheduler.ScheduleFlexibleTimeWindowArgs(mode="OFF"),
                target=aws.scheduler.ScheduleTargetArgs(
                    arn=self.functions[function].arn,
                    role_arn=role.arn,
                    input=json.dumps({}),
                    retry_policy=aws.scheduler.ScheduleTargetRetryPolicyArgs(
                        maximum_retry_attempts=2, maximum_event_age_in_seconds=_EVENT_SECONDS
                    ),
                    dead_letter_config=aws.scheduler.ScheduleTargetDeadLetterConfigArgs(arn=args.dead_letters),
                ),
                opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
            )


_TRACES = Grant(
    actions=("xray:PutTelemetryRecords", "xray:PutTraceSegments"),
    resources=("*",),
    reason="traces know no resource",
)


def definition(arns: Mapping[str, str]) -> str:
    """
    Return the state machine with the ARN of each function in the place of its name, `${list_batch}`.

    Raises:
        KeyError: for a name that nobody gave an ARN for.

    """
    text = DEFINITION_FILE.read_text(encoding="utf-8")
    return re.sub(r"\$\{(\w+)\}", lambda place: arns[place[1]], text)
