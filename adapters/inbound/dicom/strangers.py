"""
Events of peers that never came to an association: told sparingly, since scanners and floods would drown the log.

Nothing is lost by that: how connections ended is counted for each (metrics), and a line tells how many it stands for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from adapters.inbound.dicom.seam import Telemetry

_SECONDS = 10.0
_MOST_KNOWN = 1024


class Strangers:
    """
    Tells at most one event in a while for each kind of mishap of an address; safe to share between threads.

    Args:
        telemetry: where events go.
        seconds: how long an address and its mishap are quiet after a line.
        now: a monotonic clock in seconds.

    """

    def __init__(
        self, telemetry: Telemetry, *, seconds: float = _SECONDS, now: Callable[[], float] = monotonic
    ) -> None:
        self._telemetry = telemetry
        self._seconds = seconds
        self._now = now
        self._lock = threading.Lock()
        # When each was told last, the longest ago first, and how many were left out since.
        self._known: dict[tuple[str, str], tuple[float, int]] = {}

    def event(self, name: str, /, *, address: str, mishap: str, **fields: str | float | None) -> None:
        """Record one event, or count it for the next line of its kind."""
        key = (address, mishap)
        with self._lock:
            now = self._now()
            told_at, left_out = self._known.get(key, (float("-inf"), 0))
            if now - told_at < self._seconds:
                self._known[key] = (told_at, left_out + 1)
                return
            self._known.pop(key, None)
            if len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = (now, 0)
        if left_out:
            fields["left_out"] = left_out
        self._telemetry.event(name, address=address, **fields)
