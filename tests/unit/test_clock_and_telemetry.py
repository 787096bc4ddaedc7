"""The system clock and the lines of telemetry."""

import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from adapters.memory.clock import FakeClock
from adapters.outbound import clock as clock_module
from adapters.outbound.clock import SystemClock
from adapters.outbound.telemetry import JsonTelemetry, Level, TextTelemetry, Total, telemetry
from tests.builders import MOMENT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_clock_is_aware_and_rises() -> None:
    clock = SystemClock()
    first, second = clock.now(), clock.now()

    assert timedelta() == first.utcoffset()
    assert second >= first
    assert abs(first - datetime.now(UTC)) < timedelta(seconds=5)
    assert clock.monotonic() <= clock.monotonic()


def test_now_stands_still_while_the_wall_clock_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [MOMENT, MOMENT - timedelta(hours=1), MOMENT + timedelta(seconds=1)]

    class Moved(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # as called here
            return moments.pop(0)

    monkeypatch.setattr(clock_module, "datetime", Moved)
    clock = SystemClock()
    clock._latest = MOMENT - timedelta(days=1)

    assert [MOMENT, MOMENT, MOMENT + timedelta(seconds=1)] == [clock.now() for _ in range(3)]


def test_the_monotonic_clock_does_without_boottime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "_RUNS_THROUGH_SUSPENSION", None)
    clock = SystemClock()

    assert clock.monotonic() <= clock.monotonic()


def test_a_json_line_holds_time_level_event_and_fields() -> None:
    stream = io.StringIO()
    JsonTelemetry(stream, FakeClock(MOMENT)).event("stage.failed", batch="b", bytes=3, reason=None, level="mine")

    assert json.loads(stream.getvalue()) == {
        "time": "2025-03-14T09:30:00.000Z",
        "level": "error",
        "event": "stage.failed",
        "batch": "b",
        "bytes": 3,
        "level_": "mine",
    }


def test_a_text_line_reads_well() -> None:
    stream = io.StringIO()
    TextTelemetry(stream, FakeClock(MOMENT)).event("association.released", calling_ae_title="CT 1", bytes=3)

    assert (
        stream.getvalue() == '2025-03-14T09:30:00.000Z info    association.released calling_ae_title="CT 1" bytes=3\n'
    )


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("hostile", ["a\nb", "a\r\nfake event", "\x1b[31m", "\x85", "\u2028", "\u202e", '" x="'])
def test_a_value_cannot_forge_a_line_or_a_field(log_format: str, hostile: str) -> None:
    stream = io.StringIO()
    telemetry(log_format, Level.INFO, stream, FakeClock()).event("association.rejected", calling=hostile)

    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert json.dumps(hostile) in line


def test_a_long_value_is_cut() -> None:
    stream = io.StringIO()
    JsonTelemetry(stream, FakeClock()).event("x", value="a" * 5_000)

    assert len(json.loads(stream.getvalue())["value"]) == 1_003


def test_the_format_follows_the_stream() -> None:
    assert isinstance(telemetry("auto", Level.INFO, Terminal(), FakeClock()), TextTelemetry)
    assert isinstance(telemetry("auto", Level.INFO, io.StringIO(), FakeClock()), JsonTelemetry)
    assert isinstance(telemetry("json", Level.INFO, Terminal(), FakeClock()), JsonTelemetry)
    assert isinstance(telemetry("text", Level.INFO, io.StringIO(), FakeClock()), TextTelemetry)


def test_what_matters_less_than_the_level_is_only_counted() -> None:
    stream = io.StringIO()
    lines = JsonTelemetry(stream, FakeClock(), Level.WARNING)
    for name in ("association.released", "association.rejected", "lease.lost"):
        lines.event(name)

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        "association.rejected",
        "lease.lost",
    ]
    assert lines.events() == {"association.released": 1, "association.rejected": 1, "lease.lost": 1}


def test_measurements_are_added_up() -> None:
    lines = JsonTelemetry(io.StringIO(), FakeClock())
    lines.measure("store.seconds", 0.5, "Seconds")
    lines.measure("store.seconds", 0.25, "Seconds")

    assert {"store.seconds": Total(unit="Seconds", count=2, sum=0.75, max=0.5)} == lines.totals()


def test_a_stream_that_is_closed_disturbs_nobody() -> None:
    stream = io.StringIO()
    lines = JsonTelemetry(stream, FakeClock())
    stream.close()

    lines.event("instance.staged")

    assert lines.events() == {"instance.staged": 1}
