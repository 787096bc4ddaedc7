"""
Import jobs: what is asked, what became of it, and the register that outlives the process.
"""

from __future__ import annotations

import json
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, Protocol

import attrs

from adapters.outbound.local.data_store.catalogue import Catalogue
from adapters.outbound.local.data_store.errors import (
    ConflictException,
    ResourceNotFoundException,
    ServiceQuotaExceededException,
    ThrottlingException,
    ValidationException,
)
from adapters.outbound.local.data_store.objects import UnsafeKey, check_key
from adapters.outbound.local.data_store.throttle import Bucket

LISTED_DAYS: Final = 90  # the service archives older jobs out of its list

_CLIENT_TOKEN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_JOB_NAME: Final = re.compile(r"[A-Za-z0-9._/#-]{1,64}", re.ASCII)
_MAX_PREFIX_CHARACTERS: Final = 1024
_PAGE: Final = 100


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the present moment, aware UTC."""
        ...


class JobStatus(Enum):
    """
    How far a job is.

    COMPLETED says that the run ended, not that any file was imported.
    """

    SUBMITTED = "SUBMITTED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED)


class Phase(Enum):
    """What of a job is done for good; a job that is run again goes on from here."""

    NEW = "NEW"  # nothing: its objects are read again from the first
    APPLIED = "APPLIED"  # image sets and outcomes are in the catalogue, files still in the job's folder
    PLACED = "PLACED"  # files and metadata documents are in their places, results may lack


@attrs.frozen(kw_only=True)
class Job:
    """
    One import job.

    Attributes:
        job_id: 32 hexadecimal digits.
        job_name: as asked for, else the job id.
        client_token: the key under which it was asked for.
        input_prefix: prefix of the objects it imports, ending in a slash unless it is empty.
        output_prefix: the job's own folder in the output, `<asked for>/<data store id>-DicomImport-<job id>/`, from
            the moment it is submitted.
        status: how far it is.
        message: why it failed; None otherwise.
        submitted_at: aware UTC.
        ended_at: aware UTC, None before it ended.
        attributes: what the caller wanted kept with it, such as the role it named.

    """

    job_id: str
    job_name: str
    client_token: str
    input_prefix: str
    output_prefix: str
    status: JobStatus
    message: str | None
    submitted_at: datetime
    ended_at: datetime | None
    attributes: Mapping[str, str]


@attrs.frozen(kw_only=True)
class ImportRequest:
    """What a caller asks for; two requests are the same if all of it is."""

    client_token: str
    job_name: str | None
    input_prefix: str
    output_prefix: str
    attributes: Mapping[str, str]

    def check(self) -> None:
        """
        Apply the service's patterns.

        Raises:
            ValidationException: naming the parameter and the rule.

        """
        if _CLIENT_TOKEN.fullmatch(self.client_token) is None:
            raise ValidationException("clientToken must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")
        if self.job_name is not None and _JOB_NAME.fullmatch(self.job_name) is None:
            raise ValidationException("jobName must be 1 to 64 of A-Z, a-z, 0-9, '.', '_', '/', '#' and '-'")
        for name, prefix in (("input", self.input_prefix), ("output", self.output_prefix)):
            if len(prefix) > _MAX_PREFIX_CHARACTERS:
                raise ValidationException(f"{name} prefix must have at most {_MAX_PREFIX_CHARACTERS} characters")
            try:
                check_key(prefix)
                prefix.encode()
            except (UnsafeKey, UnicodeError) as error:
                raise ValidationException(
                    f"{name} prefix must be names joined by single slashes, none of them '.' or '..'"
                ) from error

    @property
    def body(self) -> str:
        """Everything but the client token, as text that can be compared."""
        asked = {
            "jobName": self.job_name,
            "input": as_folder(self.input_prefix),
            "output": as_folder(self.output_prefix),
            "attributes": dict(self.attributes),
        }
        return json.dumps(asked, sort_keys=True)


def as_folder(prefix: str) -> str:
    """End a prefix in a slash: whether the service takes `ab` for `abc/` too is not documented, here it does not."""
    return prefix if not prefix or prefix.endswith("/") else prefix + "/"


@attrs.frozen(kw_only=True)
class Quotas:
    """
    How many calls and jobs a data store allows.

    Attributes:
        rate: starts a second; infinity for no limit.
        burst: starts at once.
        concurrency: jobs submitted or running.

    """

    rate: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    burst: int = attrs.field(default=2, validator=attrs.validators.ge(1))
    concurrency: int = attrs.field(default=100, validator=attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class JobRegister:
    """The jobs of one data store, in its catalogue; works from any process."""

    catalogue: Catalogue
    clock: Clock
    data_store_id: str
    quotas: Quotas
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex

    def start(self, request: ImportRequest) -> Job:
        """
        Register a job, or find the one that this request started before.

        Every call takes a token, repeats and refused ones too.

        Raises:
            ThrottlingException: if there is no token; nothing was changed.
            ValidationException: if a parameter breaks its pattern.
            ConflictException: if the client token belongs to another request.
            ServiceQuotaExceededException: if as many jobs as allowed have not ended.

        """
        self._take_token()
        request.check()
        with self.catalogue.transaction() as connection:
            known = connection.execute("SELECT * FROM jobs WHERE client_token = ?", (request.client_token,)).fetchone()
            if known is not None:
                if known["body"] != request.body:
                    raise ConflictException("clientToken was used before with other parameters")
                return job_of(known)
            (unended,) = connection.execute(
                "SELECT count(*) FROM jobs WHERE status IN ('SUBMITTED', 'IN_PROGRESS')"
            ).fetchone()
            if unended >= self.quotas.concurrency:
                raise ServiceQuotaExceededException(
                    f"{unended} import jobs have not ended, {self.quotas.concurrency} are allowed"
                )
            job_id = self.new_id()
            connection.execute(
                "INSERT INTO jobs (job_id, client_token, job_name, input_prefix, output_prefix, attributes, body,"
                " status, submitted_at, phase, attempts) VALUES (?, ?, ?, ?, ?, ?, ?, 'SUBMITTED', ?, 'NEW', 0)",
                (
                    job_id,
                    request.client_token,
                    request.job_name or job_id,
                    as_folder(request.input_prefix),
                    f"{as_folder(request.output_prefix)}{self.data_store_id}-DicomImport-{job_id}/",
                    json.dumps(dict(request.attributes), sort_keys=True),
                    request.body,
                    self.clock.now().astimezone(UTC).isoformat(),
                ),
            )
            return job_of(connection.execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone())

    def describe(self, job_id: str) -> Job:
        """
        Return a job as it is now, however old.

        Raises:
            ResourceNotFoundException: if there is none of this id.

        """
        row = self.catalogue.reader().execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:
            raise ResourceNotFoundException("import job not found")
        return job_of(row)

    def listed(self, status: JobStatus | None = None) -> Iterator[Job]:
        """Yield the jobs of the last 90 days, newest first, those in `status` if one is given."""
        oldest = (self.clock.now().astimezone(UTC) - timedelta(days=LISTED_DAYS)).isoformat()
        before = 2**62
        while True:
            # Page by page: no statement stays open while the caller thinks.
            rows = (
                self.catalogue.reader()
                .execute(
                    "SELECT * FROM jobs WHERE sequence < ? AND submitted_at >= ? AND (? IS NULL OR status = ?)"
                    " ORDER BY sequence DESC LIMIT ?",
                    (before, oldest, status and status.value, status and status.value, _PAGE),
                )
                .fetchall()
            )
            for row in rows:
                before = row["sequence"]
                yield job_of(row)
            if len(rows) < _PAGE:
                return

    def unended(self) -> list[tuple[Job, Phase]]:
        """Return the jobs that have to be run or run again, those with the most done first, then the oldest."""
        rows = self.catalogue.reader().execute(
            "SELECT * FROM jobs WHERE status IN ('SUBMITTED', 'IN_PROGRESS')"
            " ORDER BY phase = 'NEW', applied_order, sequence"
        )
        return [(job_of(row), Phase(row["phase"])) for row in rows]

    def begin(self, job_id: str) -> None:
        """Record that a job is running."""
        with self.catalogue.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET status = 'IN_PROGRESS' WHERE job_id = ? AND status = 'SUBMITTED'", (job_id,)
            )

    def end(self, job_id: str, status: JobStatus, message: str | None = None) -> None:
        """Record how a job ended and forget what was kept to run it again."""
        with self.catalogue.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET status = ?, message = ?, ended_at = ? WHERE job_id = ?",
                (status.value, message, self.clock.now().astimezone(UTC).isoformat(), job_id),
            )
            connection.execute("DELETE FROM job_files WHERE job_id = ?", (job_id,))

    def count_attempt(self, job_id: str) -> int:
        """Record that the end of a job went wrong once more; return how often it has."""
        with self.catalogue.transaction() as connection:
            connection.execute("UPDATE jobs SET attempts = attempts + 1 WHERE job_id = ?", (job_id,))
            (attempts,) = connection.execute("SELECT attempts FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            return int(attempts)

    def _take_token(self) -> None:
        now = self.clock.now()
        quotas = self.quotas
        with self.catalogue.transaction() as connection:
            row = connection.execute("SELECT tokens, at FROM throttle WHERE operation = 'start'").fetchone()
            before = (
                Bucket.full(quotas.burst, now)
                if row is None
                else Bucket(tokens=row["tokens"], at=datetime.fromisoformat(row["at"]))
            )
            after = before.take(now, rate=quotas.rate, burst=quotas.burst)
            if after is None:
                raise ThrottlingException("Rate exceeded")
            connection.execute(
                "INSERT OR REPLACE INTO throttle (operation, tokens, at) VALUES ('start', ?, ?)",
                (after.tokens, after.at.isoformat()),
            )


def job_of(row: sqlite3.Row) -> Job:
    """Read a job from its row."""
    return Job(
        job_id=row["job_id"],
        job_name=row["job_name"],
        client_token=row["client_token"],
        input_prefix=row["input_prefix"],
        output_prefix=row["output_prefix"],
        status=JobStatus(row["status"]),
        message=row["message"],
        submitted_at=datetime.fromisoformat(row["submitted_at"]),
        ended_at=None if row["ended_at"] is None else datetime.fromisoformat(row["ended_at"]),
        attributes=json.loads(row["attributes"]),
    )
