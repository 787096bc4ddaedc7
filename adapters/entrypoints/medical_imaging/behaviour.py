"""
How the stand-in behaves: the service's own rates and quotas, and the faults that a test asks for.

What a fault means is told in its field; all of them end with `clear`.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import attrs

from adapters.outbound.local.data_store import (
    AccessDeniedException,
    ConflictException,
    DataStoreError,
    InternalServerException,
    ResourceNotFoundException,
    ServiceQuotaExceededException,
    ThrottlingException,
    ValidationException,
)
from adapters.outbound.local.data_store.throttle import Bucket
from domain.ports import Clock


class Results(StrEnum):
    """What of its results an ended job leaves behind."""

    COMPLETE = "complete"
    MISSING = "missing"  # nothing at all
    NO_MANIFEST = "no manifest"
    TRUNCATED = "truncated"  # each list ends in the middle of its last line but one
    TORN_MANIFEST = "torn manifest"  # the manifest ends in its middle


@attrs.frozen
class Rate:
    """How many requests of an operation pass: `per_second` on the long run, `burst` at once."""

    per_second: float = attrs.field(converter=float, validator=attrs.validators.gt(0))
    burst: int = attrs.field(validator=attrs.validators.ge(1))


RATES: Final[Mapping[str, Rate]] = {
    "StartDICOMImportJob": Rate(1, 2),
    "GetDICOMImportJob": Rate(25, 50),
    "ListDICOMImportJobs": Rate(10, 20),
    "GetDatastore": Rate(10, 20),
    "SearchImageSets": Rate(25, 50),
    "GetImageSet": Rate(25, 50),
    "GetImageSetMetadata": Rate(50, 100),
    "DeleteImageSet": Rate(0.25, 1),
}
"""The service's own rates (its guide, "Throttling limits")."""

UNLIMITED: Final = Rate(math.inf, 1)

ERRORS: Final[Mapping[str, type[DataStoreError]]] = {
    error.__name__: error
    for error in (
        AccessDeniedException,
        ConflictException,
        InternalServerException,
        ResourceNotFoundException,
        ServiceQuotaExceededException,
        ThrottlingException,
        ValidationException,
    )
}
LOST_ANSWER: Final = "lost answer"
CUT: Final = "cut"


@attrs.frozen(kw_only=True)
class Refusal:
    """
    Requests that are not answered as they should be.

    Attributes:
        error: the name of an exception of the service; "cut" closes the connection before anything was done, and
            "lost answer" does so when all is done.
        operation: which requests; None means all.
        requests: how many; None means all.
        until: how long; None means for ever.

    """

    error: str = attrs.field(validator=attrs.validators.in_([*ERRORS, LOST_ANSWER, CUT]))
    operation: str | None = None
    requests: int | None = None
    until: datetime | None = None


@attrs.define(kw_only=True)
class Faults:
    """
    What goes wrong, beside refusals; nothing by default.

    Attributes:
        fail_jobs: so many jobs, from the next that runs, end as FAILED.
        jobs_never_end: what is started from now on stays IN_PROGRESS.
        results: what jobs that end from now on leave behind.
        manifest_delay_seconds: how long after the other results the manifest comes.
        bare_output_uri: GetDICOMImportJob names the output prefix as it was asked for, not the job's own folder.

    """

    fail_jobs: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    jobs_never_end: bool = False
    results: Results = attrs.field(default=Results.COMPLETE, converter=Results)
    manifest_delay_seconds: float = attrs.field(default=0.0, converter=float)
    bare_output_uri: bool = False


@attrs.define(kw_only=True)
class Behaviour:
    """
    How one stand-in behaves now; safe to share between threads.

    Attributes:
        clock: what rates, durations and refusals are measured by.
        rates: by operation; another operation has no limit.
        concurrency: jobs that may be submitted or running.
        job_seconds: how long a job takes at least.
        faults: what goes wrong; set its fields, or call `clear`.

    """

    clock: Clock
    rates: dict[str, Rate] = attrs.field(factory=lambda: dict(RATES))
    concurrency: int = 100
    job_seconds: float = 0.0
    faults: Faults = attrs.field(factory=Faults)
    _refusals: list[Refusal] = attrs.field(factory=list)
    _buckets: dict[str, Bucket] = attrs.field(factory=dict)
    _calls: Counter[str] = attrs.field(factory=Counter)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def refuse(
        self, error: str, operation: str | None = None, *, requests: int | None = None, seconds: float | None = None
    ) -> None:
        """Answer requests with `error` (`Refusal`) from now on, so many or so long."""
        until = None if seconds is None else self.clock.now() + timedelta(seconds=seconds)
        refusal = Refusal(error=error, operation=operation, requests=requests, until=until)
        with self._lock:
            self._refusals.append(refusal)

    def clear(self) -> None:
        """End all faults and refusals."""
        with self._lock:
            self.faults = Faults()
            self._refusals.clear()

    def admit(self, operation: str) -> str | None:
        """
        Count a request, and let it pass or not.

        Returns:
            "lost answer" or "cut" where the connection shall be closed, else None.

        Raises:
            DataStoreError: it does not pass.

        """
        with self._lock:
            self._calls[operation] += 1
            refusal = self._refusal(operation)
            if refusal is not None:
                if refusal.error not in ERRORS:
                    return refusal.error
                raise ERRORS[refusal.error]("asked for by a test")
            rate = self.rates.get(operation, UNLIMITED)
            now = self.clock.now()
            bucket = self._buckets.get(operation, Bucket.full(rate.burst, now))
            after = bucket.take(now, rate=rate.per_second, burst=rate.burst)
            if after is None:
                raise ThrottlingException("Rate exceeded")
            self._buckets[operation] = after
        return None

    def takes_failure(self) -> bool:
        """Tell whether the job that runs now shall fail, and count that."""
        with self._lock:
            is_failing = self.faults.fail_jobs > 0
            self.faults.fail_jobs -= is_failing
            return is_failing

    @property
    def calls(self) -> Mapping[str, int]:
        """How often each operation was asked for, refused requests included."""
        with self._lock:
            return dict(self._calls)

    def change(self, wanted: Mapping[str, Any]) -> None:
        """
        Apply what came to `/_control`: fields of this class and of `Faults`, and "refuse", a list of refusals.

        Raises:
            ValueError, TypeError: a name or value means nothing.

        """
        names = {field.name for field in attrs.fields(Faults)}
        for name, value in wanted.items():
            if name == "refuse":
                for refusal in value:
                    self.refuse(**refusal)
            elif name == "rates":
                self.rates = {**self.rates, **{operation: Rate(*rate) for operation, rate in value.items()}}
                with self._lock:
                    self._buckets.clear()
            elif name == "concurrency":
                self.concurrency = int(value)
            elif name == "job_seconds":
                self.job_seconds = float(value)
            elif name in names:
                setattr(self.faults, name, value)
            else:
                raise ValueError(f"{name} is no setting of the stand-in")

    def describe(self) -> dict[str, Any]:
        """Return what `/_control` shows."""
        return {
            "rates": {operation: [rate.per_second, rate.burst] for operation, rate in self.rates.items()},
            "concurrency": self.concurrency,
            "job_seconds": self.job_seconds,
            **attrs.asdict(self.faults),
            "calls": self.calls,
        }

    def _refusal(self, operation: str) -> Refusal | None:
        now = self.clock.now()
        for position, refusal in enumerate(self._refusals):
            if refusal.operation not in {None, "*", operation}:
                continue
            if (refusal.until is not None and now >= refusal.until) or refusal.requests == 0:
                continue
            if refusal.requests is not None:
                self._refusals[position] = attrs.evolve(refusal, requests=refusal.requests - 1)
            return refusal
        return None
