"""
FakeClock: time that passes only when a test says so.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class FakeClock:
    """
    A Clock (domain/ports.py) that stands still until it is advanced.

    Args:
        start: the first `now()`, aware UTC.

    """

    def __init__(self, start: datetime = datetime(2025, 3, 14, 9, 30, tzinfo=UTC)) -> None:
        self._start = start
        self._seconds = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the start and what was advanced since."""
        with self._lock:
            return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """Return the seconds advanced since the start."""
        with self._lock:
            return self._seconds

    def advance(self, seconds: float = 1.0) -> datetime:
        """
        Let time pass on both clocks and return the new `now()`.

        Raises:
            ValueError: if `seconds` is negative.

        """
        if seconds < 0:
            raise ValueError("time does not go back")
        with self._lock:
            self._seconds += seconds
        return self.now()

    def skewed(self, seconds: float) -> SkewedClock:
        """Return the clock of another machine, that many seconds ahead (or behind), advancing with this one."""
        return SkewedClock(self, seconds)


class SkewedClock:
    """The clock of another machine: its wall clock differs, seconds are as long."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self._clock = clock
        self._skew = timedelta(seconds=seconds)

    def now(self) -> datetime:
        """Return the other clock's time and the difference."""
        return self._clock.now() + self._skew

    def monotonic(self) -> float:
        """Return the seconds of the clock beneath."""
        return self._clock.monotonic()
