"""
What people see: the dashboard, and the alarms on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pulumi
import pulumi_aws as aws

from infra.alarms import Alarm, Watched, alarms

_MINUTES = 60
_WIDTH, _HEIGHT, _COLUMNS = 8, 6, 24


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
            treat_missing_data="notBreaching" if alarm.silence else "breaching",
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
