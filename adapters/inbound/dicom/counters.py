"""
What one association did, counted by its own thread alone, so that counting takes no lock.

Who adds counters up reads them while they rise; each number is right, though not all are of the same moment.
"""

from __future__ import annotations

from bisect import bisect_left

import attrs

# Upper bounds of the answers' latencies, in seconds; a last bucket has what took longer.
LATENCY_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@attrs.define
class Counters:
    """
    What one association, or all of them together, did since it began.

    Attributes:
        statuses: how often C-STORE was answered with each status.
        latencies: how many of those answers fell into each bucket of LATENCY_BOUNDS, and one more.
        latency_seconds: their sum: from the last byte of a data set until the answer is handed to the system.
        stage_failed_at: when a store last failed through no fault of the sender's (monotonic seconds), or None.
        staged_at: when one last succeeded.

    """

    stored: int = 0
    refused: int = 0
    echoed: int = 0
    data_set_bytes: int = 0
    statuses: dict[int, int] = attrs.field(factory=dict)
    latencies: list[int] = attrs.field(factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    latency_seconds: float = 0.0
    stage_failed_at: float | None = None
    staged_at: float | None = None

    def answered(self, status: int, seconds: float) -> None:
        """Count one answer to a C-STORE."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.latencies[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.latency_seconds += seconds

    def add(self, other: Counters) -> None:
        """Add what another association did."""
        self.stored += other.stored
        self.refused += other.refused
        self.echoed += other.echoed
        self.data_set_bytes += other.data_set_bytes
        for status, count in other.statuses.copy().items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        for bucket, count in enumerate(other.latencies):
            self.latencies[bucket] += count
        self.latency_seconds += other.latency_seconds
        self.stage_failed_at = _later(self.stage_failed_at, other.stage_failed_at)
        self.staged_at = _later(self.staged_at, other.staged_at)


def _later(first: float | None, second: float | None) -> float | None:
    return max((moment for moment in (first, second) if moment is not None), default=None)
