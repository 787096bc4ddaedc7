"""The dashboard and the alarms, and that the metrics they look at are the application's own."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

from infra.application import METRICS_NAMESPACE
from infra.import_workflow import FUNCTIONS
from tests.infra.harness import ROOT, Deployed

SCHEDULED = {"recover", "reconcile"}
BREACHING = {
    *("receiver-cpu", "receiver-memory", "oldest-waiting", "no-healthy-target", "recover-not-run"),
    *("import-failures", "associations-rejected", "error-events"),
    *(f"{name}-errors" for name in SCHEDULED),
}
SILENT = {
    *("import-runs-died", "dead-letters"),
    *(f"{name.replace('_', '-')}-errors" for name in FUNCTIONS if name not in SCHEDULED),
}


def alarms(deployed: Deployed, stack: str) -> dict[str, dict[str, Any]]:
    return {item.name.removeprefix(f"{stack}-"): item.inputs for item in deployed.of("MetricAlarm")}


def test_these_alarms_exist_and_all_reach_the_topic(deployed: Deployed, stack: str) -> None:
    found = alarms(deployed, stack)
    assert set(found) == BREACHING | SILENT
    for alarm in found.values():
        assert [action.split(":")[2] for action in alarm["alarmActions"]] == ["sns"]
        assert alarm["okActions"] == alarm["alarmActions"]
        assert len(alarm["alarmDescription"]) > 40


def test_absent_data_is_an_alarm_but_where_a_service_falls_silent_by_itself(deployed: Deployed, stack: str) -> None:
    found = alarms(deployed, stack)
    assert {name for name, alarm in found.items() if alarm["treatMissingData"] == "breaching"} == BREACHING
    assert {name for name, alarm in found.items() if alarm["treatMissingData"] == "notBreaching"} == SILENT
    for name in BREACHING - {"recover-not-run"}:
        assert "No data: " in found[name]["alarmDescription"] or name == "no-healthy-target", name


def test_our_metrics_whose_absence_is_an_alarm_are_written_at_all_times(clinic: Deployed) -> None:
    from adapters.entrypoints.lambdas import ALWAYS_COUNTED
    from adapters.entrypoints.meter import Meter
    from adapters.memory.telemetry import RecordingTelemetry

    idle = RecordingTelemetry()
    nothing: Any = SimpleNamespace(stored=0, refused=0, rejections={}, open_associations=0)
    Meter(lambda: nothing, idle)()
    minute = {measured.name for measured in idle.measurements}
    five_minutes = {*ALWAYS_COUNTED, "OldestPendingSeconds"}
    for alarm in clinic.of("MetricAlarm"):
        if alarm.inputs["treatMissingData"] == "breaching":
            metrics = [query["metric"] for query in alarm.inputs["metricQueries"] if "metric" in query]
            ours = {metric["metricName"] for metric in metrics if metric["namespace"] == METRICS_NAMESPACE}
            # a period in which recovery rightly wrote nothing would be an alarm
            assert ours <= (minute | five_minutes if metrics[0]["period"] >= 15 * 60 else minute)


def test_thresholds_are_those_of_the_original_guide(clinic: Deployed) -> None:
    found = alarms(clinic, "hillside-clinic")
    thresholds = {name: (alarm["comparisonOperator"], alarm["threshold"]) for name, alarm in found.items()}
    assert thresholds["receiver-cpu"] == thresholds["receiver-memory"] == ("GreaterThanThreshold", 80)
    assert {thresholds[f"{name.replace('_', '-')}-errors"] for name in FUNCTIONS} == {("GreaterThanThreshold", 5)}
    assert thresholds["associations-rejected"] == thresholds["dead-letters"] == ("GreaterThanThreshold", 0)
    assert thresholds["import-failures"] == ("GreaterThanThreshold", 0)
    assert thresholds["oldest-waiting"] == ("GreaterThanThreshold", 3600)
    assert thresholds["no-healthy-target"] == ("LessThanThreshold", 1)
    assert thresholds["recover-not-run"] == ("LessThanThreshold", 1)
    (query,) = found["recover-not-run"]["metricQueries"]
    assert query["metric"]["period"] * found["recover-not-run"]["evaluationPeriods"] == 15 * 60


def test_one_result_a_question(deployed: Deployed) -> None:
    for alarm in deployed.of("MetricAlarm"):
        queries = alarm.inputs["metricQueries"]
        assert len([query for query in queries if query.get("returnData")]) == 1
        for query in queries:
            dimensions = query.get("metric", {}).get("dimensions", {"x": "y"})
            assert dimensions
            assert all(dimensions.values())


def ours(deployed: Deployed) -> set[str]:
    body = json.loads(deployed.one("Dashboard").inputs["dashboardBody"])
    shown = [line for widget in body["widgets"] for line in widget["properties"].get("metrics", ())]
    names = {line[1] for line in shown if line[0] == METRICS_NAMESPACE}
    queries = [query for alarm in deployed.of("MetricAlarm") for query in alarm.inputs["metricQueries"]]
    metrics = [query["metric"] for query in queries if "metric" in query]
    return names | {metric["metricName"] for metric in metrics if metric["namespace"] == METRICS_NAMESPACE}


def measured() -> set[str]:
    sources = [path for folder in ("adapters", "services") for path in (ROOT / folder).rglob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in sources]
    found = {name for text in texts for name in re.findall(r"measure\(\s*\"(\w+)\"", text)}
    return found | {"ErrorEvents"}


def test_metrics_are_those_that_the_application_writes(clinic: Deployed) -> None:
    from adapters.outbound.cloudwatch_telemetry import ERROR_EVENTS, NAMESPACE

    assert NAMESPACE == METRICS_NAMESPACE
    assert ERROR_EVENTS in ours(clinic)
    assert ours(clinic) - measured() == set()


def test_the_dashboard_shows_what_was_promised(clinic: Deployed) -> None:
    body = json.loads(clinic.one("Dashboard").inputs["dashboardBody"])
    shown = {widget["properties"]["title"]: widget["properties"].get("metrics", []) for widget in body["widgets"]}
    names = {
        title: {line[1] for line in lines if isinstance(line[0], str) and line[-1].get("visible", True)}
        for title, lines in shown.items()
        if title != "Functions: error rate (%)"
    }
    assert names == {
        "Alarms": set(),
        "Received": {"InstancesReceived", "BytesReceived"},
        "Answers to C-STORE": {"StoreSuccess", "StoreFailure"},
        "Refused": {"AssociationsRejected", "ErrorEvents"},
        "Imported": {"InstancesImported", "InstancesFailed", "ImportFailures", "ImportJobsStarted"},
        "From received to imported (seconds)": {"ReceivedToImported"},
        "Oldest image not imported yet (seconds)": {"OldestPendingSeconds"},
        "Receiver: processor and memory (%)": {"CPUUtilization", "MemoryUtilization"},
        "Load balancer: connections": {"ActiveFlowCount", "NewFlowCount"},
        "Load balancer: receivers": {"HealthyHostCount", "UnHealthyHostCount"},
        "Functions: calls": {"Invocations"},
        "Import workflow: runs": {
            *("ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsTimedOut"),
        },
    }
    rates = [line[0]["label"] for line in shown["Functions: error rate (%)"] if "expression" in line[0]]
    assert rates == list(FUNCTIONS)
    spots = [(widget["x"], widget["y"]) for widget in body["widgets"]]
    assert len(set(spots)) == len(spots)
    assert all(widget["x"] + widget["width"] <= 24 for widget in body["widgets"])
    assert len(body["widgets"][0]["properties"]["alarms"]) == len(clinic.of("MetricAlarm"))
