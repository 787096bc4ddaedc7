"""
What people see and what wakes them: one dashboard, and alarms that say what to do.

Where a metric comes at all times, its absence is an alarm too.
Counters of what may rightly never happen are absent in a quiet hospital; there absence says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import pulumi
import pulumi_aws as aws

from infra.application import METRICS_DIMENSION, METRICS_NAMESPACE

_MINUTES = 60
_ALARM_PERCENT = 80
_ERROR_PERCENT = 5
_OLDEST_SECONDS = 3600
_RECOVER_MINUTES = 15
_WIDTH, _HEIGHT, _COLUMNS = 8, 6, 24

Missing = Literal["breaching", "notBreaching"]


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

    """

    name: str
    description: str
    metrics: Mapping[str, Metric]
    expression: str = ""
    comparison: str = "GreaterThanThreshold"
    threshold: float
    minutes: int = 5
    periods: int = 1
    missing: Missing


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
            missing="breaching",
        ),
        Alarm(
            name="receiver-memory",
            description="The receiver's tasks use more than 80 % of their memory. If it lasts, raise taskMemoryLimit "
            "or lower maximumAssociations. No data: the service is not running.",
            metrics={"memory": watched.ecs("MemoryUtilization")},
            threshold=_ALARM_PERCENT,
            periods=3,
            missing="breaching",
        ),
        *(
            Alarm(
                name=f"{function.replace('_', '-')}-errors",
                description=f"More than 5 % of the calls of the function {function} fail. Its log says why; nothing "
                "is lost, the work is taken up again.",
                metrics={
                    "errors": watched.function(function, "Errors"),
                    "calls": watched.function(function, "Invocations"),
                },
                expression="100 * errors / calls",
                threshold=_ERROR_PERCENT,
                missing="notBreaching",
            )
            for function in watched.functions
        ),
        Alarm(
            name="import-failures",
            description="Images were received and not imported. They are kept. See why with: ahi-storescp failures; "
            "once the cause is gone: ahi-storescp retry",
            metrics={"batches": watched.ours("ImportFailures"), "instances": watched.ours("InstancesFailed")},
            expression="FILL(batches, 0) + FILL(instances, 0)",
            threshold=0,
            missing="notBreaching",
        ),
        Alarm(
            name="import-runs-died",
            description="Runs of the import workflow failed. Recovery starts them again; the workflow's log and "
            "ahi-storescp failures say why.",
            metrics={"failed": watched.workflow("ExecutionsFailed"), "aborted": watched.workflow("ExecutionsAborted")},
            expression="FILL(failed, 0) + FILL(aborted, 0)",
            threshold=0,
            missing="notBreaching",
        ),
        Alarm(
            name="oldest-waiting",
            description="An image was received more than an hour ago and is not imported yet. See what it waits for "
            "with: ahi-storescp status. No data: recovery does not run.",
            metrics={"oldest": watched.ours("OldestPendingSeconds", "Maximum")},
            threshold=_OLDEST_SECONDS,
            minutes=15,
            missing="breaching",
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
            missing="breaching",
        ),
        Alarm(
            name="associations-rejected",
            description="The receiver refused modalities. Its log says which and what to change: association.rejected",
            metrics={"rejected": watched.ours("AssociationsRejected")},
            threshold=0,
            missing="notBreaching",
        ),
        Alarm(
            name="error-events",
            description="The application reported errors. Search its logs for the level error.",
            metrics={"errors": watched.ours("ErrorEvents")},
            threshold=0,
            missing="notBreaching",
        ),
        Alarm(
            name="dead-letters",
            description="A scheduled repair could not be started. Read the message in the dead-letter queue, mend the "
            "cause, delete the message; the next schedule makes up for it.",
            metrics={"messages": dead},
            threshold=0,
            # SQS tells nothing of a queue that has been empty for six hours
            missing="notBreaching",
        ),
        Alarm(
            name="recover-not-run",
            description="Recovery has not run for 15 minutes, so stalled imports stay where they are. See its log, "
            "and the schedule in EventBridge Scheduler.",
            metrics={"runs": watched.function("recover", "Invocations")},
            comparison="LessThanThreshold",
            threshold=1,
            minutes=_RECOVER_MINUTES,
            missing="breaching",
        ),
    ]


@attrs.frozen(kw_only=True)
class ObservabilityArgs:
    """
    What an Observability is made of.

    Attributes:
        topic_arn: where every alarm is told.

    """

    region: str
    watched: Watched
    topic_arn: pulumi.Input[str]
    tags: Mapping[str, str]


class Observability(pulumi.ComponentResource):
    """The dashboard and the alarms."""

    dashboard_url: pulumi.Output[str]

    def __init__(self, name: str, args: ObservabilityArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("dicom-ahi:infra:Observability", name, None, opts)
        self._name = name
        self._args = args
        self._child = pulumi.ResourceOptions(parent=self)
        made = [self._alarm(alarm) for alarm in alarms(args.watched)]
        dashboard = aws.cloudwatch.Dashboard(
            f"{name}-dashboard",
            dashboard_name=f"{name}-dicom-receiver",
            dashboard_body=pulumi.Output.json_dumps(self._dashboard([alarm.arn for alarm in made])),
            opts=self._child,
        )
        self.dashboard_url = pulumi.Output.format(
            "https://{0}.console.aws.amazon.com/cloudwatch/home?region={0}#dashboards:name={1}",
            args.region,
            dashboard.dashboard_name,
        )
        self.register_outputs({"dashboard_url": self.dashboard_url})

    def _alarm(self, alarm: Alarm) -> aws.cloudwatch.MetricAlarm:
        queries = [
            aws.cloudwatch.MetricAlarmMetricQueryArgs(
                id=key,
                metric=aws.cloudwatch.MetricAlarmMetricQueryMetricArgs(
                    namespace=metric.namespace,
                    metric_name=metric.name,
                    dimensions=dict(metric.dimensions),
                    stat=metric.stat,
                    period=alarm.minutes * _MINUTES,
                ),
                return_data=not alarm.expression,
            )
            for key, metric in alarm.metrics.items()
        ]
        if alarm.expression:
            queries.append(
                aws.cloudwatch.MetricAlarmMetricQueryArgs(
                    id="result", expression=alarm.expression, label=alarm.name, return_data=True
                )
            )
        return aws.cloudwatch.MetricAlarm(
            f"{self._name}-{alarm.name}",
            alarm_description=alarm.description,
            metric_queries=queries,
            comparison_operator=alarm.comparison,
            threshold=alarm.threshold,
            evaluation_periods=alarm.periods,
            treat_missing_data=alarm.missing,
            alarm_actions=[self._args.topic_arn],
            ok_actions=[self._args.topic_arn],
            tags=self._args.tags,
            opts=self._child,
        )

    def _dashboard(self, alarm_arns: Sequence[pulumi.Output[str]]) -> dict[str, Any]:
        args, watched = self._args, self._args.watched
        graphs: list[tuple[str, list[list[object]]]] = [
            (
                "Received",
                [
                    watched.ours("InstancesReceived").shown("instances"),
                    watched.ours("BytesReceived").shown("bytes"),
                ],
            ),
            (
                "Answers to C-STORE",
                [
                    watched.ours("StoreSuccess").shown("success"),
                    watched.ours("StoreFailure").shown("failure"),
                ],
            ),
            (
                "Refused",
                [
                    watched.ours("AssociationsRejected").shown("associations rejected"),
                    watched.ours("ErrorEvents").shown("error events"),
                ],
            ),
            (
                "Imported",
                [
                    watched.ours("InstancesImported").shown("instances imported"),
                    watched.ours("InstancesFailed").shown("instances failed"),
                    watched.ours("ImportFailures").shown("batches failed"),
                    watched.ours("ImportJobsStarted").shown("import jobs started"),
                ],
            ),
            (
                "From received to imported (seconds)",
                [
                    watched.ours("ReceivedToImported", "p50").shown("median"),
                    watched.ours("ReceivedToImported", "p99").shown("99th percentile"),
                ],
            ),
            (
                "Oldest image not imported yet (seconds)",
                [watched.ours("OldestPendingSeconds", "Maximum").shown("oldest")],
            ),
            (
                "Receiver: processor and memory (%)",
                [watched.ecs("CPUUtilization").shown("CPU"), watched.ecs("MemoryUtilization").shown("memory")],
            ),
            (
                "Load balancer: connections",
                [
                    watched.balancer("ActiveFlowCount", "Average").shown("active"),
                    watched.balancer("NewFlowCount", "Sum").shown("new"),
                ],
            ),
            (
                "Load balancer: receivers",
                [
                    watched.balancer("HealthyHostCount", "Minimum", of_targets=True).shown("healthy"),
                    watched.balancer("UnHealthyHostCount", "Maximum", of_targets=True).shown("unhealthy"),
                ],
            ),
            (
                "Functions: calls",
                [watched.function(name, "Invocations").shown(name) for name in watched.functions],
            ),
            (
                "Functions: error rate (%)",
                [line for number, name in enumerate(watched.functions) for line in _error_rate(number, name, watched)],
            ),
            (
                "Import workflow: runs",
                [
                    watched.workflow(metric).shown(label)
                    for metric, label in (
                        ("ExecutionsStarted", "started"),
                        ("ExecutionsSucceeded", "succeeded"),
                        ("ExecutionsFailed", "failed"),
                        ("ExecutionsTimedOut", "ended after 12 h"),
                    )
                ],
            ),
        ]
        widgets: list[dict[str, Any]] = [
            {
                "type": "alarm",
                "x": 0,
                "y": 0,
                "width": _COLUMNS,
                "height": 3,
                "properties": {"title": "Alarms", "alarms": list(alarm_arns)},
            }
        ]
        for index, (title, metrics) in enumerate(graphs):
            widgets.append(
                {
                    "type": "metric",
                    "x": index * _WIDTH % _COLUMNS,
                    "y": 3 + index * _WIDTH // _COLUMNS * _HEIGHT,
                    "width": _WIDTH,
                    "height": _HEIGHT,
                    "properties": {
                        "title": title,
                        "region": args.region,
                        "view": "timeSeries",
                        "period": 300,
                        "metrics": metrics,
                    },
                }
            )
        return {"widgets": widgets}


def _error_rate(number: int, function: str, watched: Watched) -> list[list[object]]:
    errors = watched.function(function, "Errors").shown(function)
    calls = watched.function(function, "Invocations").shown(function)
    hidden = {"stat": "Sum", "visible": False}
    return [
        [*errors[:-1], {**hidden, "id": f"e{number}"}],
        [*calls[:-1], {**hidden, "id": f"c{number}"}],
        [{"expression": f"100 * e{number} / c{number}", "label": function}],
    ]
