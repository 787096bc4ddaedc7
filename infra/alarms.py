"""
What wakes people: the metrics of a stack, and alarms that say what to do.

The absence of a metric is an alarm too, but where a service of AWS falls silent in a quiet hospital.
The receiver writes its counters every minute and recovery every five minutes, zeros included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs
import pulumi

from infra.application import METRICS_DIMENSION, METRICS_NAMESPACE

_ALARM_PERCENT = 80
_ERROR_PERCENT = 5
_OLDEST_SECONDS = 3600
_RECOVER_MINUTES = 15
"""Recovery runs every five minutes, and writes what it counts."""
_RECONCILE_MINUTES = 180


@attrs.frozen(kw_only=True)
class Metric:
    """One metric, as alarms and the dashboard name it."""

    namespace: str
    name: str
    dimensions: Mapping[str, pulumi.Input[str]]
    stat: str

    def shown(self, label: str) -> list[object]:
        """Return it as the dashboard writes it."""
        flat = [part for pair in self.dimensions.items() for part in pair]
        return [self.namespace, self.name, *flat, {"stat": self.stat, "label": label}]


@attrs.frozen(kw_only=True)
class Alarm:
    """
    A condition that somebody has to know of.

    Attributes:
        description: what it means and what to do; all that the e-mail says.
        metrics: by the id that `expression` uses; one alone needs no expression.
        minutes: how long a period is.
        periods: how many in a row.
        silence: why it says nothing that no data comes; empty where that is an alarm.

    """

    name: str
    description: str
    metrics: Mapping[str, Metric]
    expression: str = ""
    comparison: str = "GreaterThanThreshold"
    threshold: float
    minutes: int = 5
    periods: int = 1
    silence: str = ""


@attrs.frozen(kw_only=True)
class Watched:
    """What is watched, by the names that CloudWatch knows it by."""

    cluster: pulumi.Input[str]
    service: pulumi.Input[str]
    load_balancer: pulumi.Input[str]
    target_group: pulumi.Input[str]
    functions: Mapping[str, pulumi.Input[str]]
    state_machine: pulumi.Input[str]
    dead_letters: pulumi.Input[str]
    application: str

    def ecs(self, name: str) -> Metric:
        """Return a metric of the receiver's service."""
        dimensions = {"ClusterName": self.cluster, "ServiceName": self.service}
        return Metric(namespace="AWS/ECS", name=name, dimensions=dimensions, stat="Average")

    def balancer(self, name: str, stat: str, *, of_targets: bool = False) -> Metric:
        """Return a metric of the load balancer."""
        dimensions = {"LoadBalancer": self.load_balancer}
        if of_targets:
            dimensions = {"TargetGroup": self.target_group, **dimensions}
        return Metric(namespace="AWS/NetworkELB", name=name, dimensions=dimensions, stat=stat)

    def function(self, function: str, name: str, stat: str = "Sum") -> Metric:
        """Return a metric of a function."""
        dimensions = {"FunctionName": self.functions[function]}
        return Metric(namespace="AWS/Lambda", name=name, dimensions=dimensions, stat=stat)

    def workflow(self, name: str) -> Metric:
        """Return a metric of the state machine."""
        dimensions = {"StateMachineArn": self.state_machine}
        return Metric(namespace="AWS/States", name=name, dimensions=dimensions, stat="Sum")

    def ours(self, name: str, stat: str = "Sum") -> Metric:
        """Return a metric that the application writes."""
        dimensions = {METRICS_DIMENSION: self.application}
        return Metric(namespace=METRICS_NAMESPACE, name=name, dimensions=dimensions, stat=stat)


def alarms(watched: Watched) -> list[Alarm]:
    """Return every alarm of a stack."""
    dead = Metric(
        namespace="AWS/SQS",
        name="ApproximateNumberOfMessagesVisible",
        dimensions={"QueueName": watched.dead_letters},
        stat="Maximum",
    )
    return [
        Alarm(
            name="receiver-cpu",
            description="The receiver's tasks use more than 80 % of their processors. If it lasts, raise "
            "autoscaleMaxCapacity or taskCpu. No data: the service is not running.",
            metrics={"cpu": watched.ecs("CPUUtilization")},
            threshold=_ALARM_PERCENT,
            periods=3,
        ),
        Alarm(
            name="receiver-memory",
            description="The receiver's tasks use more than 80 % of their memory. If it lasts, raise taskMemoryLimit "
            "or lower maximumAssociations. No data: the service is not running.",
            metrics={"memory": watched.ecs("MemoryUtilization")},
            threshold=_ALARM_PERCENT,
            periods=3,
        ),
        *(
            Alarm(
                name=f"{function.replace('_', '-')}-errors",
                description=f"More than 5 % of the calls of the function {function} fail. Its log says why; nothing "
                f"is lost, the work is taken up again.{'' if silence else ' No data: it is not called.'}",
                metrics={
                    "errors": watched.function(function, "Errors"),
                    "calls": watched.function(function, "Invocations"),
                },
                expression="100 * errors / calls",
                threshold=_ERROR_PERCENT,
                minutes=minutes,
                silence=silence,
            )
            for function, minutes, silence in _called(watched.functions)
        ),
        Alarm(
            name="import-failures",
            description="Images were received and not imported. They are kept. See why with: ahi-storescp failures; "
            "once the cause is gone: ahi-storescp retry BATCH. No data: recovery does not run.",
            metrics={"batches": watched.ours("ImportFailures"), "instances": watched.ours("InstancesFailed")},
            expression="batches + instances",
            threshold=0,
            minutes=_RECOVER_MINUTES,
        ),
        Alarm(
            name="import-runs-died",
            description="Runs of the import workflow failed. Recovery starts them again; the workflow's log and "
            "ahi-storescp failures say why.",
            metrics={"failed": watched.workflow("ExecutionsFailed"), "aborted": watched.workflow("ExecutionsAborted")},
            expression="FILL(failed, 0) + FILL(aborted, 0)",
            threshold=0,
            silence="Step Functions counts failed runs only",
        ),
        Alarm(
            name="oldest-waiting",
            description="An image was received more than an hour ago and is not imported yet. See what it waits for "
            "with: ahi-storescp status. No data: recovery does not run.",
            metrics={"oldest": watched.ours("OldestPendingSeconds", "Maximum")},
            threshold=_OLDEST_SECONDS,
            minutes=_RECOVER_MINUTES,
        ),
        Alarm(
            name="no-healthy-target",
            description="No receiver answers: modalities cannot send. See the events of the ECS service and the "
            "receiver's log.",
            metrics={"healthy": watched.balancer("HealthyHostCount", "Minimum", of_targets=True)},
            comparison="LessThanThreshold",
            threshold=1,
            minutes=1,
            periods=2,
        ),
        Alarm(
            name="associations-rejected",
            description="The receiver refused modalities. Its log says which and what to change: "
            "association.rejected. No data: no receiver runs.",
            metrics={"rejected": watched.ours("AssociationsRejected")},
            threshold=0,
        ),
        Alarm(
            name="error-events",
            description="The application reported errors. Search its logs for the level error. No data: recovery does "
            "not run.",
            metrics={"errors": watched.ours("ErrorEvents")},
            threshold=0,
            minutes=_RECOVER_MINUTES,
        ),
        Alarm(
            name="dead-letters",
            description="A scheduled repair could not be started. Read the message in the dead-letter queue, mend the "
            "cause, delete the message; the next schedule makes up for it.",
            metrics={"messages": dead},
            threshold=0,
            silence="SQS tells nothing of a queue that has been empty for six hours",
        ),
        Alarm(
            name="recover-not-run",
            description="Recovery has not run for 15 minutes, so stalled imports stay where they are. See its log, "
            "and the schedule in EventBridge Scheduler.",
            metrics={"runs": watched.function("recover", "Invocations")},
            comparison="LessThanThreshold",
            threshold=1,
            minutes=_RECOVER_MINUTES,
        ),
    ]


def _called(functions: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """Give each function, over how many minutes its errors are looked at, and why it may be silent."""
    scheduled = {"recover": _RECOVER_MINUTES, "reconcile": _RECONCILE_MINUTES}
    for function in functions:
        if function in scheduled:
            yield function, scheduled[function], ""
        else:
            yield function, 5, "nobody calls it while nothing arrives"
