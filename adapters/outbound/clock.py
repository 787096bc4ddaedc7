"""
The system's time.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

_RUNS_THROUGH_SUSPENSION: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """
    A Clock (domain/ports.py) on the machine's clocks.

    When the wall clock is set back, `now` stands still until it has caught up.
    `monotonic` is CLOCK_BOOTTIME where there is one; elsewhere it may stand still while the machine is suspended.
    """

    def __init__(self) -> None:
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the wall clock, aware UTC; it never goes back."""
        with self._lock:
            self._latest = max(self._latest, datetime.now(UTC))
            return self._latest

    def monotonic(self) -> float:
        """Return seconds that only rise."""
        if _RUNS_THROUGH_SUSPENSION is None:
            return time.monotonic()
        return time.clock_gettime(_RUNS_THROUGH_SUSPENSION)
