"""
Events as lines of text or JSON, and counters in memory.

An event is one line whatever its values hold: everything but plain printable characters is escaped, so bytes of a
peer can neither forge a line nor reach a terminal as control characters.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache
from typing import TextIO

import attrs

from domain.ports import Clock

Field = str | int | float | None

_MAX_CHARACTERS = 1_000
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+,\[\]()<>-]+", re.ASCII)
_ERRORS = ("failed", "lost", "expired")
# One for each image: a busy day would drown the rest, and its line costs more than some images' receiving.
_FREQUENT = frozenset({"instance.staged", "instance.repeated"})
_WARNINGS = ("refused", "rejected", "delayed", "expiring", "undeliverable")


class Level(IntEnum):
    """How much an event matters."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, event: str) -> Level:
        """Tell the level of an event from its name, mostly from the end of it."""
        if event in _FREQUENT:
            return cls.DEBUG
        if event.endswith(_ERRORS):
            return cls.ERROR
        return cls.WARNING if event.endswith(_WARNINGS) else cls.INFO


@attrs.frozen(kw_only=True)
class Total:
    """What was measured under one name so far."""

    unit: str
    count: int = 0
    sum: float = 0.0
    max: float = 0.0


class LineTelemetry:
    """
    A Telemetry (domain/ports.py) that writes a line for each event, safe to share between threads.

    A stream that cannot be written to loses events and disturbs nothing else.

    Args:
        stream: where lines go, usually the standard error.
        clock: tells the time of an event.
        level: events that matter less are counted only.

    """

    def __init__(self, stream: TextIO, clock: Clock, level: Level = Level.INFO) -> None:
        self._stream = stream
        self._clock = clock
        self._level = level
        self._lock = threading.Lock()
        self._events: dict[str, int] = {}
        self._measured: dict[str, tuple[int, float, float, str]] = {}

    def event(self, name: str, /, **fields: Field) -> None:
        """Count an event, and write its line if it matters enough."""
        level = Level.of(name)
        line = None
        if level >= self._level:
            time = self._clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
            shown = {key: _shortened(value) for key, value in fields.items() if value is not None}
            line = self._line(time, level.name.lower(), name, shown)
        with self._lock:
            self._events[name] = self._events.get(name, 0) + 1
            if line is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._stream.write(f"{line}\n")
                    self._stream.flush()

    def measure(self, name: str, value: float, unit: str = "Count") -> None:
        """Add a measurement to its total."""
        with self._lock:
            count, total, highest, _ = self._measured.get(name, (0, 0.0, value, unit))
            self._measured[name] = (count + 1, total + value, max(highest, value), unit)

    def events(self) -> Mapping[str, int]:
        """Return how often each event was told of, whatever its level."""
        with self._lock:
            return dict(self._events)

    def totals(self) -> Mapping[str, Total]:
        """Return what was measured under each name."""
        with self._lock:
            return {
                name: Total(unit=unit, count=count, sum=total, max=highest)
                for name, (count, total, highest, unit) in self._measured.items()
            }

    def _line(self, time: str, level: str, name: str, fields: Mapping[str, Field]) -> str:
        raise NotImplementedError


class JsonTelemetry(LineTelemetry):
    """One JSON object a line: `time`, `level`, `event`, and the fields."""

    def _line(self, time: str, level: str, name: str, fields: Mapping[str, Field]) -> str:
        line: dict[str, Field] = {"time": time, "level": level, "event": name}
        # a field of such a name must not pass for what it is not
        line.update((f"{key}_" if key in line else key, value) for key, value in fields.items())
        return json.dumps(line, separators=(",", ":"))


class TextTelemetry(LineTelemetry):
    """Lines for people: time, level, event, and fields as `name=value`, quoted as JSON where not plain."""

    def _line(self, time: str, level: str, name: str, fields: Mapping[str, Field]) -> str:
        words = [time, f"{level:<7}", _quoted(name), *(f"{key}={_quoted(value)}" for key, value in fields.items())]
        return " ".join(words)


def telemetry(log_format: str, level: Level, stream: TextIO, clock: Clock) -> LineTelemetry:
    """Return the telemetry of a format: `json`, `text`, or `auto` = text on a terminal, else JSON."""
    is_text = log_format == "text" or (log_format == "auto" and stream.isatty())
    return (TextTelemetry if is_text else JsonTelemetry)(stream, clock, level)


def _shortened(value: Field) -> Field:
    if isinstance(value, str) and len(value) > _MAX_CHARACTERS:
        return f"{value[:_MAX_CHARACTERS]}..."
    return value


def _quoted(value: Field) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
