"""
The tables that commands print for people; times are those of this machine's zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from adapters.inbound.formats import bad, date, size, state, when, zone
from adapters.inbound.screen import Cell, Column, Screen
from domain.batch import Batch
from domain.lifecycle import BatchState
from services.report_status import Failure, InstanceStatus, Overview, StudyState, StudyStatus

_LATEST = 20
_CONFLICTS = "What is in conflict, and why: `ahi-storescp failures --conflicts`"


def show_overview(screen: Screen, overview: Overview, since: datetime) -> None:
    """Show totals, batches, and the latest studies."""
    screen.line(f"Since {when(since)} {zone(since)}", "dim")
    screen.line()
    screen.table(
        [Column(name, is_number=True) for name in ("Received", "Imported", "Failed", "Pending", "Size")],
        [
            [
                f"{overview.received:,}",
                f"{overview.imported:,}",
                bad(overview.failed),
                f"{overview.pending:,}",
                size(overview.size),
            ]
        ],
    )
    screen.line()
    screen.table(
        [Column("Batches:"), *(Column(which.value, is_number=True) for which in BatchState)],
        [["", *(_batch_count(overview, which) for which in BatchState)]],
    )
    screen.line()
    if not overview.studies:
        screen.line("No study was received in this time; --since 30d looks further back.")
        return
    show_counts(screen, overview.studies[:_LATEST])
    screen.line()
    if len(overview.studies) > _LATEST:
        screen.line(f"The latest {_LATEST} of {len(overview.studies):,} studies; `ahi-storescp studies` lists all.")
    if overview.failed or overview.batches.get(BatchState.FAILED):
        screen.line("What failed, and why: `ahi-storescp failures`", "red")
    if any(study.state is StudyState.CONFLICT or study.conflicts for study in overview.studies):
        screen.line(_CONFLICTS, "magenta")


def _batch_count(overview: Overview, which: BatchState) -> Cell:
    count = overview.batches.get(which, 0)
    return bad(count) if which is BatchState.FAILED else Cell(f"{count:,}")


def show_counts(screen: Screen, studies: Sequence[StudyStatus]) -> None:
    """Show how studies stand."""
    screen.table(
        [
            Column("State"),
            Column("Received", is_number=True),
            Column("Imported", is_number=True),
            Column("Failed", is_number=True),
            Column("Pending", is_number=True),
            Column("Last received"),
            Column("Study Instance UID", is_long=True),
        ],
        [
            [
                state(study.state.value),
                f"{study.received:,}",
                f"{study.imported:,}",
                bad(study.failed),
                f"{study.pending:,}",
                when(study.last_received),
                study.study.value,
            ]
            for study in studies
        ],
    )


def show_studies(screen: Screen, studies: Sequence[StudyStatus]) -> None:
    """Show studies with what a person recognises them by."""
    screen.table(
        [
            Column("State"),
            Column("Imported", is_number=True),
            Column("Last received"),
            Column("Study date"),
            Column("Modality"),
            Column("Accession", is_long=True),
            Column("Description", wraps=True, is_long=True),
            Column("Study Instance UID", is_long=True),
        ],
        [
            [
                state(study.state.value),
                f"{study.imported:,}/{study.received:,}",
                when(study.last_received),
                date(study.record.study_date) if study.record else "",
                ",".join(study.record.modalities) if study.record else "",
                (study.record.accession_number or "") if study.record else "",
                (study.record.description or "") if study.record else "",
                study.study.value,
            ]
            for study in studies
        ],
    )


def show_study(screen: Screen, study: StudyStatus, instances: Sequence[InstanceStatus]) -> None:
    """Show one study, instance by instance."""
    record = study.record
    known = [
        ("Patient name", record.patient_name if record else None),
        ("Patient ID", record.patient_id if record else None),
        ("Study date", date(record.study_date) if record else None),
        ("Modalities", ", ".join(record.modalities) if record else None),
        ("Accession number", record.accession_number if record else None),
        ("Description", record.description if record else None),
    ]
    counts = f"{study.received:,} received, {study.imported:,} imported, {study.failed:,} failed"
    screen.pairs(
        [
            ("Study", study.study.value),
            ("State", state(study.state.value)),
            ("Instances", f"{counts}, {study.pending:,} pending ({size(study.size)})"),
            ("Received", f"{when(study.first_received)} to {when(study.last_received)}"),
            *((name, value) for name, value in known if value),
        ]
    )
    screen.line()
    show_instances(screen, instances)
    if study.state is StudyState.CONFLICT or study.conflicts:
        screen.line()
        screen.line(_CONFLICTS, "magenta")


def show_instances(screen: Screen, instances: Sequence[InstanceStatus]) -> None:
    """Show instances, one a row."""
    screen.table(
        [
            Column("State"),
            Column("SOP Instance UID", is_long=True),
            Column("Batch"),
            Column("Image set", is_long=True),
            Column("Version", is_number=True),
            Column("Remarks", wraps=True, is_long=True),
        ],
        [
            [
                state(instance.state.value),
                instance.key.sop_instance.value,
                instance.batch.value,
                str(instance.record.image_set or "") if instance.record else "",
                str(instance.record.image_set_version or "") if instance.record else "",
                _remarks(instance),
            ]
            for instance in instances
        ],
    )


def show_instance(screen: Screen, instance: InstanceStatus) -> None:
    """Show everything known of one instance."""
    record = instance.record
    rows: list[tuple[str, object]] = [
        ("SOP instance", instance.key.sop_instance),
        ("Series", instance.series),
        ("Study", instance.key.study),
    ]
    if record is not None:
        rows += [
            ("SOP class", record.sop_class),
            ("Received", when(record.received_at)),
            ("Sent by", record.calling_ae_title),
        ]
    rows += [("Size", size(instance.size)), ("Batch", instance.batch)]
    if record is not None:
        rows += [
            ("Data store", record.data_store),
            ("Image set", record.image_set),
            ("Version", record.image_set_version),
            ("Superseded by", record.superseded_by),
        ]
    screen.pairs(
        [
            *((name, str(value)) for name, value in rows[:1]),
            ("State", state(instance.state.value)),
            *((name, str(value)) for name, value in rows[1:] if value),
            *([("Remarks", remarks)] if (remarks := _remarks(instance)) else []),
        ]
    )


def _remarks(instance: InstanceStatus) -> str:
    record = instance.record
    remarks = [instance.reason, *((record.conflict, *record.warnings) if record else ())]
    return "; ".join(dict.fromkeys(remark for remark in remarks if remark))


def show_batches(screen: Screen, batches: Sequence[Batch]) -> None:
    """Show batches, one a row."""
    screen.table(
        [
            Column("State"),
            Column("Batch", is_long=True),
            Column("Opened"),
            Column("Files", is_number=True),
            Column("Size", is_number=True),
            Column("Attempt", is_number=True),
            Column("Reason", wraps=True, is_long=True),
        ],
        [
            [
                state(batch.state.value),
                batch.id.value,
                when(batch.opened_at),
                f"{batch.files:,}" if batch.files else "",
                size(batch.size) if batch.size else "",
                str(batch.attempt),
                batch.reason or "",
            ]
            for batch in batches
        ],
    )


def show_batch(screen: Screen, batch: Batch, instances: Sequence[InstanceStatus]) -> None:
    """Show one batch and what is in it."""
    rows = [
        ("Opened", when(batch.opened_at)),
        ("Closed", f"{when(batch.closed_at)} ({batch.close_reason})" if batch.closed_at else ""),
        ("Submitted", when(batch.submitted_at)),
        ("Settled", when(batch.settled_at)),
        ("Attempt", str(batch.attempt)),
        ("To import", f"{batch.files:,} files, {size(batch.size)}" if batch.files else ""),
        ("Import job", str(batch.job_id or "")),
        ("Reason", batch.reason or ""),
    ]
    screen.pairs(
        [
            ("Batch", batch.id.value),
            ("State", state(batch.state.value)),
            *((name, value) for name, value in rows if value),
        ]
    )
    screen.line()
    show_instances(screen, instances)


def show_failures(screen: Screen, failures: Sequence[Failure]) -> None:
    """Show what failed or is in conflict; a batch that failed as a whole has no UIDs."""
    screen.table(
        [
            Column("Batch"),
            Column("Study Instance UID", is_long=True),
            Column("SOP Instance UID", is_long=True),
            Column("Reason", wraps=True, is_long=True),
        ],
        [
            [
                failure.batch.value,
                failure.key.study.value if failure.key else "(the whole batch)",
                failure.key.sop_instance.value if failure.key else "",
                failure.reason,
            ]
            for failure in failures
        ],
    )
