"""
The commands that talk to a receiver, this one or any other, as a modality does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from adapters.inbound import json_output
from adapters.inbound.application import Consignment, Scu, SentFile, SkippedFile
from adapters.inbound.formats import counted, dimse_status, state
from adapters.inbound.questions import as_json
from adapters.inbound.screen import Column, Row, Screen, progress_bar
from adapters.inbound.shell import AE_TITLE, PORT, Command, ExitCode, Session, examples, fail

_STORED = frozenset({"stored", "warning"})


def _peer(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what names the other side."""
    for decorate in (
        click.option(
            "--timeout",
            "timeout_seconds",
            type=click.FloatRange(0.1, 3600),
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for the connection, and for each answer.",
        ),
        click.option(
            "--calling-ae-title",
            "calling",
            type=AE_TITLE,
            default="AHISEND",
            show_default=True,
            metavar="TITLE",
            help="The AE title to send under.",
        ),
        click.option(
            "--called-ae-title",
            "called",
            type=AE_TITLE,
            default="STORESCP",
            show_default=True,
            metavar="TITLE",
            help="The AE title of the receiver.",
        ),
        click.argument("port", type=PORT),
        click.argument("host"),
    ):
        command = decorate(command)
    return command


@click.command(
    cls=Command, epilog=examples("echo localhost 11112", "echo 10.0.0.5 104 --called-ae-title PACS --timeout 5")
)
@_peer
@as_json
@click.pass_obj
def echo(session: Session, /, host: str, port: int, *, as_json: bool, **peer: Any) -> int:  # noqa: ANN401  # the options above
    """
    Ask a receiver whether it answers (C-ECHO).

    Ends with 1 if it does not, and says what to change.
    """
    answer = session.surroundings.open_scu(host=host, port=port, **peer).echo()
    if as_json:
        session.screen.json(json_output.echo_json(host, port, answer))
    if answer.problem is not None:
        return fail(answer.problem)
    if not as_json:
        session.screen.line(f"{host} port {port} answers as {peer['called']} ({answer.seconds:.2f} s)", "green")
    return ExitCode.DONE


@click.command(
    cls=Command,
    epilog=examples("send localhost 11112 image.dcm", "send 10.0.0.5 104 /media/cdrom --called-ae-title PACS"),
)
@_peer
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True, path_type=Path))
@as_json
@click.pass_obj
def send(
    session: Session,
    /,
    host: str,
    port: int,
    paths: Sequence[Path],
    *,
    as_json: bool,
    **peer: Any,  # noqa: ANN401  # the options above
) -> int:
    """
    Send files and folders to a receiver (C-STORE), as they are.

    Folders are searched to the bottom; what is no DICOM file is skipped and listed.
    Ends with 1 if anything was refused or could not be sent, or if there was nothing to send.
    """
    consignment = _find(session.surroundings.open_scu(host=host, port=port, **peer), paths)
    count = len(consignment.files)
    sent: list[SentFile] = []
    try:
        with progress_bar("Sending") as progress:
            progress(0, count)
            for result in consignment.send():
                sent.append(result)
                progress(len(sent), count)
    finally:  # after a Ctrl-C too: what was sent was sent
        if as_json:
            session.screen.json(json_output.send_json(sent, consignment.skipped))
        elif sent or consignment.skipped:
            show_sent(session.screen, sent, consignment.skipped)
    if not count:
        return fail("there was no DICOM file to send")
    left = sum(file.outcome not in _STORED for file in sent)
    if left:
        return fail(f"not stored: {left:,} of {counted(count, 'file')}; {_commonest(sent)}")
    return ExitCode.DONE


def _find(scu: Scu, paths: Sequence[Path]) -> Consignment:
    with progress_bar("Looking at files") as progress:
        return scu.gather(paths, lambda number: progress(number, None))


def _commonest(sent: Sequence[SentFile]) -> str:
    reasons = Counter(file.comment for file in sent if file.outcome not in _STORED)
    return reasons.most_common(1)[0][0]


def show_sent(screen: Screen, sent: Sequence[SentFile], skipped: Sequence[SkippedFile]) -> None:
    """Show what was not simply stored, then a summary by outcome and status."""
    remarkable = [file for file in sent if file.outcome != "stored" or file.comment]
    if remarkable or skipped:
        rows: list[Row] = [
            [state(str(file.outcome)), dimse_status(file.status), str(file.path), file.comment] for file in remarkable
        ]
        rows += [[state("skipped"), "", str(file.path), file.reason] for file in skipped]
        screen.table(
            [
                Column("Outcome"),
                Column("Status"),
                Column("File", is_long=True),
                Column("Why", wraps=True, is_long=True),
            ],
            rows,
        )
        screen.line()
    counts = Counter((str(file.outcome), dimse_status(file.status)) for file in sent)
    counts.update({("skipped", ""): len(skipped)} if skipped else {})
    screen.table(
        [Column("Files", is_number=True), Column("Outcome"), Column("Status")],
        [[f"{count:,}", state(outcome), status] for (outcome, status), count in counts.most_common()],
    )


PEER_COMMANDS = (echo, send)
