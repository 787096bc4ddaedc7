"""
A token bucket as a value: how many calls may pass now.
"""

from __future__ import annotations

import math
from datetime import datetime

import attrs


@attrs.frozen(kw_only=True)
class Bucket:
    """
    What is left of a token bucket at a moment.

    Attributes:
        tokens: calls that may pass at once; a fraction is one that is on its way.
        at: the moment this was true, aware.

    """

    tokens: float
    at: datetime

    @classmethod
    def full(cls, burst: int, now: datetime) -> Bucket:
        """Return a bucket nobody has taken from."""
        return cls(tokens=float(burst), at=now)

    def take(self, now: datetime, *, rate: float, burst: int) -> Bucket | None:
        """
        Take one token.

        Args:
            now: aware; a clock that went back adds nothing.
            rate: tokens added a second; infinity takes the limit away.
            burst: tokens it can hold.

        Returns:
            The bucket afterwards, or None if there was no whole token.

        """
        if math.isinf(rate):
            return self
        elapsed = max(0.0, (now - self.at).total_seconds())
        tokens = min(float(burst), self.tokens + elapsed * rate)
        # Elapsed seconds come in microseconds; what is missing below that is arithmetic, not a caller in a hurry.
        if tokens < 1 - 1e-6:
            return None
        return Bucket(tokens=max(0.0, tokens - 1), at=max(now, self.at))
