"""
Events as JSON lines, and measurements as lines in CloudWatch's embedded metric format, on one stream.

A receiver is one long-lived process of many threads: measurements are gathered and written once a minute, not a line
for each instance.
Of counts and bytes the sum is written, of everything else every value, so that percentiles can be told.
"""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TextIO

from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from adapters.outbound.telemetry import Field, JsonTelemetry, Level
from domain.ports import Clock

NAMESPACE = "DicomStoreScp"
ERROR_EVENTS = "ErrorEvents"
FLUSH_SECONDS = 60.0

_SUMMED = frozenset({"Count", "Bytes"})
# Powertools prints a metric by itself, and to the standard output, at its hundredth value.
_MOST_VALUES = 99


class CloudWatchTelemetry(JsonTelemetry):
    """
    A Telemetry (domain/ports.py) for CloudWatch, safe to share between threads.

    Events that are errors are measured too, as `ErrorEvents`: what an alarm looks at.

    Args:
        stream: what CloudWatch Logs reads, the standard output or error.
        clock: tells the time of an event.
        level: events that matter less are counted only.
        namespace: where CloudWatch keeps the metrics.
        service: the value of their one dimension, `service`: the stack's name.

    """

    def __init__(
        self, stream: TextIO, clock: Clock, level: Level = Level.INFO, *, namespace: str = NAMESPACE, service: str
    ) -> None:
        super().__init__(stream, clock, level)
        self._namespace = namespace
        self._service = service
        self._gathered: dict[tuple[str, str], list[float]] = {}
        self._gathering = threading.Lock()
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None

    def event(self, name: str, /, **fields: Field) -> None:
        """Count an event, and write its line if it matters enough."""
        super().event(name, **fields)
        if Level.of(name) >= Level.ERROR:
            self.measure(ERROR_EVENTS, 1)

    def measure(self, name: str, value: float, unit: str = "Count") -> None:
        """Gather a measurement until the next flush."""
        super().measure(name, value, unit)
        key = (name, unit)
        full: dict[tuple[str, str], list[float]] = {}
        with self._gathering:
            values = self._gathered.setdefault(key, [])
            if unit in _SUMMED and values:
                values[0] += value
            else:
                values.append(value)
                if len(values) == _MOST_VALUES:
                    full = {key: self._gathered.pop(key)}
        self._write(full)

    def flush(self) -> None:
        """Write what was measured since the last flush."""
        with self._gathering:
            gathered, self._gathered = self._gathered, {}
        self._write(gathered)

    def run(self) -> None:
        """Flush once a minute in a thread of its own, until `close`."""
        self._thread = threading.Thread(target=self._repeat, name="telemetry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop flushing, and flush a last time."""
        self._is_closing.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _repeat(self) -> None:
        while not self._is_closing.wait(FLUSH_SECONDS):
            self.flush()

    def _write(self, gathered: dict[tuple[str, str], list[float]]) -> None:
        if not gathered:
            return
        metrics = AmazonCloudWatchEMFProvider(namespace=self._namespace, service=self._service)
        for (name, unit), values in gathered.items():
            for value in values:
                metrics.add_metric(name=name, unit=unit, value=value)
        line = json.dumps(metrics.serialize_metric_set(), separators=(",", ":"))
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(f"{line}\n")
            self._stream.flush()
