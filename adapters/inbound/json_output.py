"""
The JSON that commands print for programs: names and meanings stay, new keys may come.

Times are ISO 8601 in UTC, counts and sizes are integers, what is unknown is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from adapters.inbound.application import EchoAnswer, SentFile, ShownSettings, SkippedFile
from domain.batch import Batch
from domain.lifecycle import BatchState
from services.reconcile import Reconciled
from services.recover_batches import Recovered
from services.report_status import Failure, InstanceStatus, Overview, StudyStatus

Json = dict[str, Any]


def moment(value: datetime | None) -> str | None:
    """Return a time as 2026-11-01T08:30:00.000Z."""
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def overview_json(overview: Overview) -> Json:
    """Return what `status` knows."""
    return {
        "totals": {
            "received": overview.received,
            "imported": overview.imported,
            "failed": overview.failed,
            "pending": overview.pending,
            "bytes": overview.size,
        },
        "batches": {state.value: overview.batches.get(state, 0) for state in BatchState},
        "studies": [study_json(study) for study in overview.studies],
    }


def study_json(study: StudyStatus, *, with_patient: bool = False) -> Json:
    """Return how a study stands; the patient only where it was asked for by name."""
    record = study.record
    shown: Json = {
        "study_instance_uid": study.study.value,
        "received": study.received,
        "imported": study.imported,
        "failed": study.failed,
        "pending": study.pending,
        "conflicts": study.conflicts,
        "bytes": study.size,
        "state": study.state.value,
        "first_received": moment(study.first_received),
        "last_received": moment(study.last_received),
        "study_date": record.study_date if record else None,
        "modalities": list(record.modalities) if record else [],
        "accession_number": record.accession_number if record else None,
        "description": record.description if record else None,
    }
    if with_patient:
        shown["patient_name"] = record.patient_name if record else None
        shown["patient_id"] = record.patient_id if record else None
    return shown


def study_with_instances_json(study: StudyStatus, instances: Iterable[InstanceStatus]) -> Json:
    """Return what `study` knows."""
    return {**study_json(study, with_patient=True), "instances": [instance_json(instance) for instance in instances]}


def instance_json(instance: InstanceStatus) -> Json:
    """Return how an instance stands."""
    record = instance.record
    return {
        "sop_instance_uid": instance.key.sop_instance.value,
        "study_instance_uid": instance.key.study.value,
        "series_instance_uid": instance.series.value,
        "sop_class_uid": _text(record.sop_class) if record else None,
        "state": instance.state.value,
        "reason": instance.reason,
        "batch": instance.batch.value,
        "bytes": instance.size,
        "received": moment(record.received_at) if record else None,
        "calling_ae_title": _text(record.calling_ae_title) if record else None,
        "data_store_id": _text(record.data_store) if record else None,
        "image_set_id": _text(record.image_set) if record else None,
        "image_set_version": record.image_set_version if record else None,
        "is_primary": record.is_primary if record else None,
        "warnings": list(record.warnings) if record else [],
        "conflict": record.conflict if record else None,
        "superseded_by": _text(record.superseded_by) if record else None,
    }


def batch_json(batch: Batch) -> Json:
    """Return how a batch stands."""
    return {
        "batch": batch.id.value,
        "state": batch.state.value,
        "reason": batch.reason,
        "opened": moment(batch.opened_at),
        "closed": moment(batch.closed_at),
        "close_reason": _text(batch.close_reason),
        "submitted": moment(batch.submitted_at),
        "settled": moment(batch.settled_at),
        "attempt": batch.attempt,
        "files": batch.files,
        "bytes": batch.size,
        "import_job_id": _text(batch.job_id),
        "owner": batch.owner,
    }


def batch_with_instances_json(batch: Batch, instances: Iterable[InstanceStatus]) -> Json:
    """Return what `batch` knows."""
    return {**batch_json(batch), "instances": [instance_json(instance) for instance in instances]}


def failure_json(failure: Failure) -> Json:
    """Return one failure or conflict; a batch that failed as a whole has no UIDs."""
    return {
        "sop_instance_uid": failure.key.sop_instance.value if failure.key else None,
        "study_instance_uid": failure.key.study.value if failure.key else None,
        "batch": failure.batch.value,
        "reason": failure.reason,
    }


def retried_json(batch: Batch, *, is_carried_elsewhere: bool, failed: int) -> Json:
    """Return what `retry` did: the batch as it is now, and how many of its instances failed again."""
    return {**batch_json(batch), "is_carried_elsewhere": is_carried_elsewhere, "failed": failed}


def work_json(done: Recovered | Reconciled, carried: Sequence[Batch] | None, failed: int) -> Json:
    """Return what `recover` or `reconcile` did; `carried` is null where something else goes on with the batches."""
    counts = (
        {"closed": done.closed, "started": done.started, "restarted": done.restarted}
        if isinstance(done, Recovered)
        else {"batches": done.batches, "rebuilt": done.rebuilt, "rehoused": done.rehoused}
    )
    batches = None if carried is None else [batch_json(batch) for batch in carried]
    return {**counts, "carried": batches, "failed": failed}


def settings_json(shown: ShownSettings) -> Json:
    """Return what `settings` knows."""
    return {
        "settings": [
            {
                "name": setting.name,
                "option": setting.option,
                "variable": setting.variable,
                "value": setting.value,
                "origin": setting.origin,
                "meaning": setting.meaning,
                "allowed": setting.allowed,
                "problem": setting.problem,
            }
            for setting in shown.settings
        ],
        "problems": list(shown.problems),
    }


def echo_json(host: str, port: int, answer: EchoAnswer) -> Json:
    """Return what `echo` found."""
    return {
        "host": host,
        "port": port,
        "is_answered": answer.problem is None,
        "status": _status(answer.status),
        "seconds": round(answer.seconds, 3),
        "problem": answer.problem,
    }


def send_json(sent: Sequence[SentFile], skipped: Sequence[SkippedFile]) -> Json:
    """Return what `send` did, file by file."""
    counts = dict.fromkeys(("stored", "warning", "refused", "not sent"), 0)
    for file in sent:
        counts[str(file.outcome)] += 1
    return {
        "totals": {**{name.replace(" ", "_"): count for name, count in counts.items()}, "skipped": len(skipped)},
        "files": [
            {
                "path": str(file.path),
                "sop_instance_uid": file.sop_instance.value,
                "outcome": str(file.outcome).replace(" ", "_"),
                "status": _status(file.status),
                "comment": file.comment or None,
            }
            for file in sent
        ],
        "skipped": [{"path": str(file.path), "reason": file.reason} for file in skipped],
    }


def _status(status: int | None) -> str | None:
    return None if status is None else f"0x{status:04X}"
