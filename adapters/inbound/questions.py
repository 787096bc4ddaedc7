"""
The commands that answer questions and change nothing; each ends with 0 unless what was asked for is unknown.
"""

from __future__ import annotations

from contextlib import closing
from datetime import datetime

import click

from adapters.inbound import json_output, tables
from adapters.inbound.shell import BATCH, SINCE, UID, Command, Session, examples
from domain.identifiers import BatchId, Uid

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs; times are UTC.")
since = click.option(
    "--since",
    type=SINCE,
    default="7d",
    show_default=True,
    metavar="TIME",
    help="How far to look back: an age such as 7d, 24h or 90m, a date, or a time such as 2026-11-01T08:30.",
)


@click.command(cls=Command, epilog=examples("status", "status --since 24h", "status --since 2026-11-01 --json"))
@since
@as_json
@click.pass_obj
def status(session: Session, since: datetime, *, as_json: bool) -> None:
    """
    Tell how many instances arrived, and what became of them.

    received = imported + failed + pending, counted by SOP Instance UID.
    Batches that are not settled are always counted, settled ones since then.
    """
    with closing(session.open()) as application:
        overview = application.report.overview(since)
    if as_json:
        session.screen.json(json_output.overview_json(overview))
    else:
        tables.show_overview(session.screen, overview, since)


@click.command(cls=Command, epilog=examples("studies", "studies --since 90m", "studies --json"))
@since
@as_json
@click.pass_obj
def studies(session: Session, since: datetime, *, as_json: bool) -> None:
    r"""
    List the studies that arrived, the latest first.

    \b
    failed     some instance was not imported
    conflict   some went to a non-primary image set, or a newer copy was taken instead
    receiving  instances are arriving just now
    pending    all are safe, and on their way
    imported   all are in the data store
    """
    with closing(session.open()) as application:
        found = application.report.overview(since).studies
    if as_json:
        session.screen.json([json_output.study_json(one) for one in found])
    elif found:
        tables.show_studies(session.screen, found)
    else:
        session.screen.line("No study was received in this time; --since 30d looks further back.")


@click.command(cls=Command, epilog=examples("study 1.2.840.113619.2.55.3", "study 1.2.840.113619.2.55.3 --json"))
@click.argument("uid", type=UID)
@as_json
@click.pass_obj
def study(session: Session, uid: Uid, *, as_json: bool) -> None:
    """
    Tell whether a study arrived, instance by instance.

    UID is its Study Instance UID. Ends with 1 if nothing of it was ever received.
    """
    with closing(session.open()) as application:
        found, instances = application.report.study(uid)
    if as_json:
        session.screen.json(json_output.study_with_instances_json(found, instances))
    else:
        tables.show_study(session.screen, found, instances)


@click.command(cls=Command, epilog=examples("instance 1.2.840.113619.2.55.3.604.1"))
@click.argument("uid", type=UID)
@as_json
@click.pass_obj
def instance(session: Session, uid: Uid, *, as_json: bool) -> None:
    """
    Tell whether one image arrived, and where it is.

    UID is its SOP Instance UID. It is shown once for each study that has it; JSON is a list.
    Ends with 1 if it was never received.
    """
    with closing(session.open()) as application:
        found = application.report.instance(uid)
    if as_json:
        session.screen.json([json_output.instance_json(one) for one in found])
        return
    for number, one in enumerate(found):
        if number:
            session.screen.line()
        tables.show_instance(session.screen, one)


@click.command(cls=Command, epilog=examples("batches", "batches --since 24h --json"))
@since
@as_json
@click.pass_obj
def batches(session: Session, since: datetime, *, as_json: bool) -> None:
    """
    List the batches, the latest first.

    Those that are not settled are always there, settled ones if they were opened since then.
    """
    with closing(session.open()) as application:
        found = application.report.batches(since)
    if as_json:
        session.screen.json([json_output.batch_json(one) for one in found])
    elif found:
        tables.show_batches(session.screen, found)
    else:
        session.screen.line("No batch was opened in this time; --since 30d looks further back.")


@click.command(cls=Command, epilog=examples("batch 20261101T083000123Z-1f2e3d4c"))
@click.argument("batch_id", metavar="ID", type=BATCH)
@as_json
@click.pass_obj
def batch(session: Session, batch_id: BatchId, *, as_json: bool) -> None:
    """
    Show one batch and what is in it.

    Ends with 1 if nobody knows it.
    """
    with closing(session.open()) as application:
        found, instances = application.report.batch(batch_id)
    if as_json:
        session.screen.json(json_output.batch_with_instances_json(found, instances))
    else:
        tables.show_batch(session.screen, found, instances)


@click.command(cls=Command, epilog=examples("failures", "failures --conflicts", "failures --json"))
@click.option(
    "--conflicts",
    is_flag=True,
    help="List instead what went to a non-primary image set, or was superseded by other bytes.",
)
@as_json
@click.pass_obj
def failures(session: Session, *, conflicts: bool, as_json: bool) -> None:
    """
    List what was not imported, and why.

    Batches that failed as a whole come first.
    `ahi-storescp retry BATCH` imports it again once the reason is mended.
    """
    with closing(session.open()) as application:
        found = list(application.report.conflicts() if conflicts else application.report.failures())
    if as_json:
        session.screen.json([json_output.failure_json(one) for one in found])
    elif found:
        tables.show_failures(session.screen, found)
    else:
        session.screen.line("Nothing is in conflict." if conflicts else "Nothing failed.", "green")


QUESTIONS = (status, studies, study, instance, batches, batch, failures)
