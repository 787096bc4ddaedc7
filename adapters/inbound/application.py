"""
What the command line needs of the rest: shapes only, so that the composition root and tests can give their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import attrs

from domain.batch import Batch
from domain.identifiers import AeTitle, BatchId, Uid
from services.reconcile import Reconciled
from services.recover_batches import Recovered
from services.report_status import ReportStatus

Options = Mapping[str, str | None]
"""The settings that were given as options, by their field name."""


@attrs.frozen(kw_only=True)
class Listening:
    """
    Where a receiver listens, for people.

    Attributes:
        host: the address it is bound to.
        port: the port it really has, also where port 0 was asked for.
        keeps_in: the data folder, or the data store.
        is_plain: whether the port is without TLS.

    """

    host: str
    port: int
    ae_title: AeTitle
    keeps_in: str
    is_plain: bool = True


class Application(Protocol):
    """The use cases behind the commands, built from settings; closed after each command."""

    @property
    def report(self) -> ReportStatus:
        """Answer questions."""
        ...

    def retry(self, batch_id: BatchId, /) -> Batch:
        """As RetryBatch."""
        ...

    def recover(self) -> Recovered:
        """As RecoverBatches."""
        ...

    def reconcile(self, progress: Callable[[BatchId], None], /) -> Reconciled:
        """As Reconcile."""
        ...

    def carry_on(self, progress: Callable[[int, int], None], /) -> Sequence[Batch] | None:
        """
        Carry every closed, submitted or importing batch to its end in this process, if nothing else does.

        Args:
            progress: called with how many batches are done, and how many there are.

        Returns:
            Those batches as they are at the end; None where something else carries them: a running `serve`, a
            workflow service.

        """
        ...

    def serve(self, announce: Callable[[Listening], None], /) -> None:
        """
        Receive until the process is told to stop (SIGTERM, SIGINT), then finish and return.

        Args:
            announce: called once, when connections are taken.

        Raises:
            OSError: if it cannot listen there.

        """
        ...

    def close(self) -> None:
        """Give back files, connections and threads; may be repeated."""
        ...


class SkippedFile(Protocol):
    """A file that cannot be sent."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def reason(self) -> str:
        """Why not."""
        ...


class SentFile(Protocol):
    """What became of one file."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def sop_instance(self) -> Uid:
        """Which instance it holds."""
        ...

    @property
    def outcome(self) -> str:
        """One of "stored", "warning" (stored too), "refused" and "not sent"."""
        ...

    @property
    def status(self) -> int | None:
        """What the receiver answered."""
        ...

    @property
    def comment(self) -> str:
        """What that means, and the receiver's own words."""
        ...


class Consignment(Protocol):
    """Files that are ready to be sent to one receiver."""

    @property
    def files(self) -> Sequence[object]:
        """What can be sent."""
        ...

    @property
    def skipped(self) -> Sequence[SkippedFile]:
        """What cannot."""
        ...

    def send(self) -> Iterator[SentFile]:
        """Send one after the other, yielding each result."""
        ...


class EchoAnswer(Protocol):
    """What became of a C-ECHO."""

    @property
    def seconds(self) -> float:
        """How long it took, the opening of the connection included."""
        ...

    @property
    def status(self) -> int | None:
        """What the receiver answered."""
        ...

    @property
    def problem(self) -> str | None:
        """What went wrong and what to change; None after Success."""
        ...


class Scu(Protocol):
    """The requestor's side of one receiver; nothing here raises for what the receiver or a file does wrong."""

    def echo(self) -> EchoAnswer:
        """Send one C-ECHO."""
        ...

    def gather(self, paths: Iterable[Path], progress: Callable[[int], None], /) -> Consignment:
        """Look at files and folders; `progress` is called with how many were looked at."""
        ...


class OpenScu(Protocol):
    """Makes an Scu for a receiver; opens nothing yet."""

    def __call__(self, *, host: str, port: int, called: AeTitle, calling: AeTitle, timeout_seconds: float) -> Scu:
        """Return it."""
        ...


@attrs.frozen(kw_only=True)
class ShownSetting:
    """
    One setting for people.

    Attributes:
        value: as text, empty if it is empty; never a secret.
        origin: "option", "variable", "default" or "missing".
        problem: what is wrong with it, naming value and what is allowed.

    """

    name: str
    option: str
    variable: str
    value: str
    origin: str
    meaning: str
    allowed: str
    is_for_aws: bool = False
    problem: str | None = None


@attrs.frozen(kw_only=True)
class ShownSettings:
    """
    All settings for people.

    Attributes:
        problems: everything that is wrong, also what belongs to no setting.

    """

    settings: tuple[ShownSetting, ...]
    problems: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Surroundings:
    """
    What the commands reach the rest of the world through.

    Attributes:
        build: makes the application from the options that were given; raises InvalidSettings.
        show_settings: tells what each setting is, right or wrong.
        open_scu: makes the requestor's side of a receiver.
        now: the wall clock, aware UTC.
        wants_traceback: whether an error nobody foresaw is to be shown whole.

    """

    build: Callable[[Options], Application]
    show_settings: Callable[[Options], ShownSettings]
    open_scu: OpenScu
    now: Callable[[], datetime]
    wants_traceback: Callable[[Options], bool]
