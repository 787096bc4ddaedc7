"""
The command line: the group of all commands, and those that run the receiver or mend what stalled.

Commands reach the rest through `Surroundings`, their object; the composition root gives it.
"""

from __future__ import annotations

import copy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from enum import Enum, auto
from pathlib import Path

import click

from adapters.inbound import json_output
from adapters.inbound.application import Application, Listening, ShownSettings
from adapters.inbound.formats import counted, state
from adapters.inbound.peer_commands import PEER_COMMANDS
from adapters.inbound.questions import QUESTIONS, as_json
from adapters.inbound.screen import Cell, Column, Screen, progress_bar
from adapters.inbound.shell import (
    BATCH,
    Cli,
    Command,
    ExitCode,
    Session,
    SettingDeclaration,
    examples,
    fail,
    with_settings,
)
from domain.batch import Batch
from domain.identifiers import BatchId
from domain.lifecycle import BatchState, InstanceState


class Audience(Enum):
    """Which settings a command takes."""

    RECEIVER = auto()  # all of them
    WORKER = auto()  # those of importing
    READER = auto()  # where things are
    PEER = auto()  # none that a receiver has


def build_commands(declare: Callable[[Audience], Iterable[SettingDeclaration]]) -> Cli:
    """Return the group of all commands, with the settings that each one takes as options."""
    group = Cli(
        name="ahi-storescp",
        help=_HELP,
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    audiences: dict[Audience, Sequence[click.Command]] = {
        Audience.RECEIVER: (serve, settings),
        Audience.READER: QUESTIONS,
        Audience.WORKER: (retry, recover, reconcile),
        Audience.PEER: PEER_COMMANDS,
    }
    for audience, commands in audiences.items():
        for command in commands:
            own = copy.copy(command)
            own.params = list(command.params)
            group.add_command(with_settings(own, declare(audience)))
    return group


_HELP = """
Receive DICOM instances, import them into AWS HealthImaging, and answer for each one.

It is not a medical device and not for diagnosis.
"""
_EPILOG = """
\b
Start here:
  ahi-storescp serve                           receive, with all in ./data
  ahi-storescp send localhost 11112 image.dcm  send a first image
  ahi-storescp status                          what became of what arrived

Exit codes: 0 done; 1 something failed, was refused or is unknown; 2 wrong use or settings; 130 stopped by Ctrl-C.
"""


@click.command(
    cls=Command,
    epilog=examples(
        "serve", "serve --port 104 --data-dir /srv/dicom", "serve --require-calling-ae-titles CT1,MR2@10.0.0.0/24"
    ),
)
@click.pass_obj
def serve(session: Session) -> None:
    """
    Receive instances until told to stop (Ctrl-C, SIGTERM).

    Stopping: no new associations, the open ones may finish within the grace period, then the batch is closed.
    A second Ctrl-C ends the grace period.

    Each option is a setting, and has a variable: --port is STORESCP_PORT. An option beats a variable.
    """
    with closing(session.open()) as application:
        application.serve(lambda listening: _announce(session.screen, listening))


def _announce(screen: Screen, listening: Listening) -> None:
    here = "localhost" if listening.host in {"0.0.0.0", "::", "127.0.0.1", "::1"} else listening.host  # noqa: S104  # compared, not bound
    title = shlex.quote(listening.ae_title.value)
    called = "" if title == "STORESCP" else f" --called-ae-title {title}"
    screen.line(f"Listening on {listening.host} port {listening.port} as {listening.ae_title}; Ctrl-C stops.")
    screen.line(f"Everything is kept in {listening.keeps_in}")
    if not listening.is_plain:
        screen.line("Only TLS is taken there; docs/operations.md shows how to send a first image.")
        return
    screen.line("Send a first image from another terminal:")
    screen.line(f"  storescu -aec {title} {here} {listening.port} image.dcm")
    screen.line(f"  {_program()} send {here} {listening.port} image.dcm{called}")


def _program() -> str:
    """Return what to type to run this program again: its path, unless a shell finds it by name."""
    started = Path(sys.argv[0])
    if shutil.which(started.name) is not None:
        return started.name
    with suppress(ValueError):
        return str(started.absolute().relative_to(Path.cwd()))
    return str(started)


@click.command(cls=Command, epilog=examples("settings", "settings --profile aws", "settings --json"))
@as_json
@click.pass_obj
def settings(session: Session, *, as_json: bool) -> int:
    """
    List every setting with its value and where it comes from.

    Options given here are looked at as `serve` would. Ends with 2 if a value is wrong or missing.
    """
    shown = session.surroundings.show_settings(session.options)
    if as_json:
        session.screen.json(json_output.settings_json(shown))
    else:
        show_settings(session.screen, shown)
    if not shown.problems:
        return ExitCode.DONE
    fail("\n  ".join([f"{len(shown.problems)} problem(s) in the settings:", *shown.problems]))
    return ExitCode.WRONG_USE


@click.command(cls=Command, epilog=examples("failures", "retry 20261101T083000123Z-1f2e3d4c"))
@click.argument("batch_id", metavar="BATCH", type=BATCH)
@as_json
@click.pass_obj
def retry(session: Session, batch_id: BatchId, *, as_json: bool) -> int:
    """
    Import again what failed in a batch.

    That may be some of its images, or the batch as a whole. Mend the reason first; `ahi-storescp failures` names it.
    While a receiver runs, it does the work; otherwise this command does, and waits for it.
    Ends with 1 if something failed again, or if there is nothing to retry.
    """
    with closing(session.open()) as application:
        batch = application.retry(batch_id)
        carried = _carry_on(application)
        failed = 0
        if carried is not None:
            batch, instances = application.report.batch(batch_id)
            failed = sum(instance.state is InstanceState.FAILED for instance in instances)
    if as_json:
        session.screen.json(json_output.retried_json(batch, is_carried_elsewhere=carried is None, failed=failed))
    elif carried is None:
        session.screen.line(f"Batch {batch_id} is on its way again; `ahi-storescp batch {batch_id}` follows it.")
    else:
        session.screen.line(f"Batch {batch_id} is {batch.state}.")
    if batch.state is BatchState.FAILED:
        return fail(f"batch {batch_id} failed again: {batch.reason or 'no reason was recorded'}")
    if failed:
        return fail(f"{counted(failed, 'instance')} failed again; `ahi-storescp batch {batch_id}` tells why")
    return ExitCode.DONE


@click.command(cls=Command, epilog=examples("recover", "recover --json"))
@as_json
@click.pass_obj
def recover(session: Session, *, as_json: bool) -> int:
    """
    Go on with work whose owner died.

    May be repeated. A running receiver does this by itself. Ends with 1 if something that was carried on failed.
    """
    with closing(session.open()) as application:
        done = application.recover()
        carried = _carry_on(application)
        failed = _failed(application, carried)
    if as_json:
        session.screen.json(json_output.work_json(done, carried, failed))
    else:
        session.screen.line(
            f"{done.closed} abandoned batches closed, {done.started} started, {done.restarted} restarted."
        )
        _tell_carried(session.screen, carried)
    return _judge(failed)


@click.command(cls=Command, epilog=examples("reconcile", "reconcile --json"))
@as_json
@click.pass_obj
def reconcile(session: Session, *, as_json: bool) -> int:
    """
    Rebuild the table from images and results.

    Finds images that nothing names, too. May be repeated, and stopped at any point.
    Ends with 1 if something that was carried on failed.
    """
    with closing(session.open()) as application:
        with progress_bar("Looking at batches") as progress:
            looked_at: list[BatchId] = []

            def advance(batch_id: BatchId) -> None:
                looked_at.append(batch_id)
                progress(len(looked_at), None)

            done = application.reconcile(advance)
        carried = _carry_on(application)
        failed = _failed(application, carried)
    if as_json:
        session.screen.json(json_output.work_json(done, carried, failed))
    else:
        session.screen.line(
            f"{done.batches:,} batches looked at, {done.rebuilt:,} rebuilt, {done.rehoused:,} images rehoused."
        )
        _tell_carried(session.screen, carried)
    return _judge(failed)


def _carry_on(application: Application) -> Sequence[Batch] | None:
    with progress_bar("Importing batches") as progress:
        return application.carry_on(progress)


def _failed(application: Application, carried: Sequence[Batch] | None) -> int:
    """Count the instances that failed in batches that were carried here."""
    return sum(
        instance.state is InstanceState.FAILED
        for batch in carried or ()
        for instance in application.report.batch(batch.id)[1]
    )


def _judge(failed: int) -> int:
    if failed:
        return fail(f"not imported: {counted(failed, 'instance')}; `ahi-storescp failures` tells why")
    return ExitCode.DONE


def _tell_carried(screen: Screen, carried: Sequence[Batch] | None) -> None:
    if carried is None:
        screen.line("Another process carries the batches on; `ahi-storescp batches` follows them.")
    elif carried:
        screen.line(f"{len(carried):,} batches were carried to their end here.")


def show_settings(screen: Screen, shown: ShownSettings) -> None:
    """Show every setting with its value and where that came from."""
    screen.table(
        [Column("Option"), Column("Value"), Column("From"), Column("What it does", wraps=True, is_long=True)],
        [
            [
                setting.option,
                Cell(setting.value, "bold red" if setting.problem else ""),
                Cell(f"{setting.origin}, wrong", "bold red")
                if setting.problem and setting.value
                else state(setting.origin),
                setting.meaning,
            ]
            for setting in shown.settings
        ],
    )
