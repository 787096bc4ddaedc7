"""
RecordingTelemetry: events and measurements kept for tests to look at.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import attrs

Field = str | int | float | None


@attrs.frozen
class Event:
    """One event as it was told."""

    name: str
    fields: Mapping[str, Field]


@attrs.frozen
class Measurement:
    """One measurement as it was told."""

    name: str
    value: float
    unit: str


@attrs.define
class RecordingTelemetry:
    """
    A Telemetry (domain/ports.py) that remembers everything, safe to share between threads.

    Attributes:
        events: in the order they were told.
        measurements: likewise.

    """

    events: list[Event] = attrs.field(factory=list)
    measurements: list[Measurement] = attrs.field(factory=list)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def event(self, name: str, /, **fields: Field) -> None:
        """Remember an event."""
        with self._lock:
            self.events.append(Event(name, dict(fields)))

    def measure(self, name: str, value: float, unit: str = "Count") -> None:
        """Remember a measurement."""
        with self._lock:
            self.measurements.append(Measurement(name, value, unit))

    def named(self, name: str) -> list[Event]:
        """Return the events of that name."""
        with self._lock:
            return [event for event in self.events if event.name == name]

    def names(self) -> list[str]:
        """Return the names of all events."""
        with self._lock:
            return [event.name for event in self.events]

    def total(self, name: str) -> float:
        """Add up the measurements of that name."""
        with self._lock:
            return sum(measurement.value for measurement in self.measurements if measurement.name == name)
