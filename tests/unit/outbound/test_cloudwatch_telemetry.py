import io
import json
import threading
from typing import Any

from adapters.memory.clock import FakeClock
from adapters.outbound.cloudwatch_telemetry import CloudWatchTelemetry
from adapters.outbound.telemetry import Level


def _telemetry() -> tuple[CloudWatchTelemetry, io.StringIO]:
    stream = io.StringIO()
    return CloudWatchTelemetry(stream, FakeClock(), Level.INFO, service="hospital"), stream


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_counts_are_added_up_and_other_values_told_one_by_one() -> None:
    telemetry, stream = _telemetry()
    for size in (10, 20, 30):
        telemetry.measure("InstancesReceived", 1)
        telemetry.measure("BytesReceived", size, "Bytes")
        telemetry.measure("ReceivedToImported", size / 2, "Seconds")
    assert stream.getvalue() == ""

    telemetry.flush()
    telemetry.flush()

    (line,) = _lines(stream)
    assert line["service"] == "hospital"
    assert line["InstancesReceived"] == [3.0]
    assert line["BytesReceived"] == [60.0]
    assert line["ReceivedToImported"] == [5.0, 10.0, 15.0]
    (metrics,) = line["_aws"]["CloudWatchMetrics"]
    assert (metrics["Namespace"], metrics["Dimensions"]) == ("DicomStoreScp", [["service"]])
    assert {(metric["Name"], metric["Unit"]) for metric in metrics["Metrics"]} == {
        ("InstancesReceived", "Count"),
        ("BytesReceived", "Bytes"),
        ("ReceivedToImported", "Seconds"),
    }
    assert isinstance(line["_aws"]["Timestamp"], int)


def test_many_values_go_out_before_there_are_too_many_for_a_line() -> None:
    telemetry, stream = _telemetry()
    for number in range(250):
        telemetry.measure("ReceivedToImported", number, "Seconds")

    telemetry.close()

    values = [value for line in _lines(stream) for value in line["ReceivedToImported"]]
    assert values == list(range(250))
    assert all(len(line["ReceivedToImported"]) <= 100 for line in _lines(stream))


def test_events_are_lines_and_errors_are_measured() -> None:
    telemetry, stream = _telemetry()
    telemetry.event("batch.closed", bytes=5)
    telemetry.event("batch.failed", batch="b-1")
    telemetry.flush()

    staged, failed, metrics = _lines(stream)
    assert (staged["event"], staged["bytes"], failed["event"], failed["level"]) == (
        "batch.closed",
        5,
        "batch.failed",
        "error",
    )
    assert metrics["ErrorEvents"] == [1.0]
    assert telemetry.events() == {"batch.closed": 1, "batch.failed": 1}


def test_many_threads_lose_nothing_and_the_last_flush_comes_with_the_close() -> None:
    telemetry, stream = _telemetry()
    telemetry.run()

    def work() -> None:
        for _ in range(500):
            telemetry.measure("InstancesReceived", 1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    telemetry.close()

    assert sum(line["InstancesReceived"][0] for line in _lines(stream)) == 4000
