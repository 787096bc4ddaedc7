"""
A receiver as a process: it runs until the process is told to stop.
"""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from adapters.entrypoints.receiver import Chore, Receiver
from adapters.entrypoints.settings import Settings
from adapters.entrypoints.use_cases import UseCases
from adapters.inbound.application import Listening
from adapters.outbound.draft_room import DraftRoom

_OPEN_FILES = 65_536


def allow_open_files() -> None:
    """
    Let this process have as many files and connections open as it may, within reason.

    Many systems set 1,024 at first, which a few hundred associations use up when each has files open.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # not permitted: it does with what it has
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def stop_signals(hurrying: threading.Event | None = None) -> Iterator[threading.Event]:
    """Yield an event that is set by SIGTERM and SIGINT, and by nothing else; a SIGINT after that sets `hurrying`."""
    stopping = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        if hurrying is not None and stopping.is_set() and number == signal.SIGINT:
            hurrying.set()
        stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def reload_signal(*, is_wanted: bool) -> Iterator[threading.Event]:
    """Yield an event that is set by SIGHUP; where that is not wanted, SIGHUP keeps what it means to a terminal."""
    reloading = threading.Event()

    def reload(_number: int, _frame: FrameType | None) -> None:
        reloading.set()

    before = signal.signal(signal.SIGHUP, reload) if is_wanted else None
    try:
        yield reloading
    finally:
        if is_wanted:
            signal.signal(signal.SIGHUP, before)


def receive_until_stopped(
    settings: Settings,
    use_cases: UseCases,
    drafts: DraftRoom,
    chores: Sequence[Chore],
    announce: Callable[[Listening], None],
    *,
    keeps_in: str,
    on_load: Callable[[int], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """
    Receive until the process is told to stop, then finish; SIGHUP reads certificates anew.

    `check` is called each second; what it raises ends receiving as a signal does, and is raised here afterwards.

    Raises:
        NotPossible: the address cannot be listened on.

    """
    allow_open_files()
    hurrying = threading.Event()
    with stop_signals(hurrying) as stopping, reload_signal(is_wanted=settings.tls != "off") as reloading:
        receiver = Receiver(settings, use_cases, tuple(chores), drafts, on_load)
        port = receiver.start()
        announce(
            Listening(
                host=settings.host,
                port=port,
                ae_title=settings.ae_title,
                keeps_in=keeps_in,
                is_plain=settings.plain,
            )
        )
        try:
            # A plain wait() would keep Python from running signal handlers on some systems.
            while not stopping.wait(1.0):
                check()
                if reloading.is_set():
                    reloading.clear()
                    receiver.reload()
        finally:
            receiver.stop(hurrying)
