"""Batches of every kind through the whole AWS profile; test_workflow.py has one ordinary batch and what goes wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import boto3
import pydicom
import pytest
from botocore.config import Config

from domain.batch import Batch, CloseReason
from domain.identifiers import BatchId, Uid
from domain.lifecycle import BatchState, InstanceState
from domain.record import NO_OUTCOME
from tests.builders import an_instance
from tests.serving import a_data_set
from tests.simulated_cloud import Cloud, Workshop, open_cloud, open_workshop

pytestmark = [pytest.mark.aws, pytest.mark.slow]


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as monkeypatch, open_workshop(monkeypatch) as workshop:
        yield workshop


@pytest.fixture
def cloud(workshop: Workshop, tmp_path: Path) -> Iterator[Cloud]:
    with open_cloud(workshop, tmp_path) as cloud:
        yield cloud


def _totals(cloud: Cloud) -> tuple[int, int, int, int]:
    status = cloud.overview()
    return status.received, status.imported, status.failed, status.pending


def test_a_batch_of_none_is_settled_without_a_job(cloud: Cloud) -> None:
    ports = cloud.use_cases.ports
    now = cloud.clock.now()
    batch = Batch(id=BatchId.at(now, "000001"), owner="receiver-1", opened_at=now)
    closed = batch.closed(now, CloseReason.QUIET)
    assert ports.metadata.add_batch(batch)
    assert ports.metadata.replace_batch(batch, closed)
    ports.workflow.start(closed)
    cloud.settle()

    assert [each.state for each in cloud.batches()] == [BatchState.SETTLED]
    assert list(cloud.stand_in.store.list_jobs()) == []
    assert _totals(cloud) == (0, 0, 0, 0)


def test_a_batch_of_one_is_imported(cloud: Cloud) -> None:
    with cloud.receiver() as port:
        cloud.send(port, range(1))
        cloud.close_batch()
    cloud.settle()

    assert _totals(cloud) == (1, 1, 0, 0)
    assert cloud.objects() == set()


def test_a_study_over_three_receivers_is_one_study_of_three_batches(cloud: Cloud) -> None:
    with ExitStack() as stack:
        ports = [stack.enter_context(cloud.receiver()) for _ in range(3)]
        for number, port in enumerate(ports):
            assert len(cloud.send(port, range(3 * number, 3 * number + 3))) == 3
        cloud.close_batch()
    cloud.settle()

    (study,) = cloud.overview().studies
    assert study.study.value == "2.25.7000"
    assert [batch.state for batch in cloud.batches()] == [BatchState.SETTLED] * 3
    assert _totals(cloud) == (9, 9, 0, 0)
    cloud.assert_nothing_is_lost()
    assert cloud.objects() == set()


def test_the_same_instances_in_two_batches_count_once(cloud: Cloud) -> None:
    with cloud.receiver() as first, cloud.receiver() as second:
        assert len(cloud.send(first, range(3))) == 3
        assert len(cloud.send(second, range(3))) == 3
        cloud.close_batch()
    cloud.settle()

    assert len(cloud.batches()) == 2
    assert _totals(cloud) == (3, 3, 0, 0)
    cloud.assert_nothing_is_lost()


def test_two_batches_of_one_study_are_one_study(cloud: Cloud) -> None:
    with cloud.receiver() as port:
        for numbers in (range(2), range(2, 5)):
            assert len(cloud.send(port, numbers)) == len(numbers)
            cloud.close_batch()
    cloud.settle()

    (study,) = cloud.overview().studies
    assert (study.received, study.imported) == (5, 5)
    assert [batch.files for batch in cloud.batches()] == [2, 3]
    cloud.assert_nothing_is_lost()


def _corrected() -> pydicom.Dataset:
    corrected = a_data_set(0)
    corrected.StudyDescription = "corrected"
    return corrected


STEPS_BEFORE = {
    "staged": [],
    "listed": ["list_batch"],
    "submitted": ["list_batch", "start_import"],
    "importing": ["list_batch", "start_import", "follow_import"],
    "imported": ["list_batch", "start_import", "follow_import", "record_results"],
}


@pytest.mark.parametrize("became", STEPS_BEFORE)
def test_a_correction_at_another_receiver_wins_whatever_became_of_the_old_version(cloud: Cloud, became: str) -> None:
    cloud.stand_in.behaviour.job_seconds = 100
    with cloud.by_hand() as take, cloud.receiver() as first, cloud.receiver() as second:
        assert len(cloud.send(first, range(1))) == 1
        (old,) = (batch.id for batch in cloud.batches())
        if became != "staged":
            cloud.close_batch()
        for step in STEPS_BEFORE[became]:
            if step == "record_results":
                cloud.clock.advance(100)
                cloud.wait(lambda: take("follow_import", old) == "ended", "the end of the job")
            take(step, old)
        cloud.clock.advance(1)  # S3 tells time in seconds; within one the later batch decides
        cloud.store(second, _corrected())
        cloud.close_batch()
        new = cloud.batches()[1].id
        listed = take("list_batch", new)
    cloud.settle()

    # what is on its way into the data store is waited for
    assert listed == ("wait" if became in {"listed", "submitted", "importing"} else "ready")
    assert _totals(cloud) == (1, 1, 0, 0)
    stored = pydicom.dcmread(cloud.stand_in.store.find("2.25.7100.0")[0].path)
    assert stored.StudyDescription == "corrected"
    # a version that was not imported is kept, and an operator can see it
    assert [conflict.batch for conflict in cloud.use_cases.report.conflicts()] == ([old] if became == "staged" else [])
    cloud.assert_nothing_is_lost()


def _stage(cloud: Cloud, batch: BatchId, number: int) -> None:
    """Put an object under a batch, whatever its record says."""
    data_set, content = a_data_set(number), io.BytesIO()
    data_set.save_as(content, enforce_file_format=True)
    staging = cloud.use_cases.ports.staging
    draft = staging.draft()
    draft.write(content.getvalue())
    uids = {"study": data_set.StudyInstanceUID, "series": data_set.SeriesInstanceUID}
    instance = an_instance(
        number,
        **{name: Uid(uid) for name, uid in uids.items()},
        sop_instance=Uid(data_set.SOPInstanceUID),
        size=draft.size,
        received_at=cloud.clock.now(),
    )
    staging.stage(draft, batch, instance)
    draft.discard()
    cloud.acknowledged.append(data_set.SOPInstanceUID)


def _closed(cloud: Cloud, count: int = 2) -> BatchId:
    """Receive a batch and close it."""
    with cloud.receiver() as port:
        assert len(cloud.send(port, range(count))) == count
        cloud.close_batch()
    return cloud.batches()[-1].id


def test_an_object_that_arrives_after_the_listing_is_imported_by_the_job_that_finds_it(cloud: Cloud) -> None:
    with cloud.by_hand() as take:
        batch = _closed(cloud)
        assert take("list_batch", batch) == "ready"
        _stage(cloud, batch, 7)
        assert take("start_import", batch) == "submitted"
    cloud.settle()

    assert len(cloud.batches()) == 1
    assert _totals(cloud) == (3, 3, 0, 0)
    assert cloud.objects() == set()
    cloud.assert_nothing_is_lost()


def test_an_object_that_arrives_after_the_job_has_read_the_prefix_moves_to_a_batch_of_its_own(cloud: Cloud) -> None:
    with cloud.by_hand() as take:
        batch = _closed(cloud)
        assert [take(step, batch) for step in ("list_batch", "start_import")] == ["ready", "submitted"]
        cloud.wait(lambda: take("follow_import", batch) == "ended", "the end of the job")
        _stage(cloud, batch, 7)
        assert take("record_results", batch) == "settled"
    cloud.settle()

    assert [each.close_reason for each in cloud.batches()] == [CloseReason.QUIET, CloseReason.REHOUSED]
    assert _totals(cloud) == (3, 3, 0, 0)
    assert cloud.objects() == set()
    cloud.assert_nothing_is_lost()


def test_a_listed_key_without_a_record_is_imported_once_its_owner_is_gone(cloud: Cloud) -> None:
    batch = BatchId.at(cloud.clock.now(), "lost")
    _stage(cloud, batch, 1)
    assert cloud.handlers.reconcile({})["rebuilt"] == 0  # perhaps its owner is writing to it

    cloud.clock.advance(timedelta(minutes=15).total_seconds())
    assert cloud.handlers.reconcile({})["rebuilt"] == 1
    cloud.settle()

    assert [each.id for each in cloud.batches()] == [batch]
    assert _totals(cloud) == (1, 1, 0, 0)
    cloud.assert_nothing_is_lost()


def test_a_record_without_an_object_has_failed_and_says_so(cloud: Cloud) -> None:
    with cloud.by_hand() as take:
        batch = _closed(cloud)
        assert take("list_batch", batch) == "ready"
        ports = cloud.use_cases.ports
        ports.staging.discard([next(iter(ports.staging.list(batch)))])
    cloud.settle()

    (failure,) = cloud.failures()
    assert failure.key is not None
    assert (failure.key.sop_instance.value, failure.reason) == ("2.25.7100.0", NO_OUTCOME)
    assert _totals(cloud) == (2, 1, 1, 0)


def test_what_an_operator_sends_again_after_deleting_its_image_set_is_imported_again(cloud: Cloud) -> None:
    _closed(cloud, 1)
    cloud.settle()
    ((before,),) = (cloud.use_cases.report.instance(Uid("2.25.7100.0")),)
    assert before.record is not None
    assert before.record.image_set is not None
    session = boto3.Session(region_name=cloud.workshop.aws.region)
    with closing(
        session.client("medical-imaging", endpoint_url=cloud.stand_in.url, config=Config(inject_host_prefix=False))
    ) as client:
        client.delete_image_set(
            datastoreId=cloud.settings.data_store_id.value, imageSetId=before.record.image_set.value
        )
    assert cloud.stand_in.store.find("2.25.7100.0") == ()

    _closed(cloud, 1)
    cloud.settle()

    ((after,),) = (cloud.use_cases.report.instance(Uid("2.25.7100.0")),)
    assert after.record is not None
    assert after.state is InstanceState.IMPORTED
    assert after.batch != before.batch
    assert after.record.image_set != before.record.image_set
    assert _totals(cloud) == (1, 1, 0, 0)
    cloud.assert_nothing_is_lost()


_FIRST_FIELDS = {
    "batch": """version id owner opened_at state lease_expires_at closed_at close_reason attempt run is_cleared files
        size job_id previous_job_id submitted_at settled_at server_retries reason revision""",
    "instance": """version study sop_instance series batch staged_at attempt sop_class digest size received_at
        calling_ae_title state reason is_server_error data_store image_set image_set_version is_primary warnings
        conflict superseded_by""",
    "holding": "version study batch received imported failed conflicts size first_received last_received",
    "study": """version study first_received last_received study_date modalities accession_number description
        patient_name patient_id""",
}
"""What the program wrote before fields were added; this never changes."""

_KINDS = {
    ("BATCH", "BATCH"): "batch",
    ("BATCH", "INSTANCE"): "instance",
    ("STUDY", "INSTANCE"): "instance",
    ("STUDY", "BATCH"): "holding",
    ("STUDY", "STUDY"): "study",
}


def _write_as_before(cloud: Cloud) -> None:
    """Let every record be as the program before this one wrote it."""
    client = cloud.workshop.aws.client("dynamodb")
    for item in client.scan(TableName=cloud.created.table)["Items"]:
        kind = _KINDS.get((item["pk"]["S"].partition("#")[0], item["sk"]["S"].partition("#")[0]))
        if kind is not None:
            first = _FIRST_FIELDS[kind].split()
            document = {name: value for name, value in json.loads(item["document"]["S"]).items() if name in first}
            client.put_item(TableName=cloud.created.table, Item={**item, "document": {"S": json.dumps(document)}})


@pytest.mark.parametrize("steps", [["list_batch"], ["list_batch", "start_import"]], ids=["listed", "submitted"])
def test_records_of_the_previous_version_are_carried_on(cloud: Cloud, steps: list[str]) -> None:
    with cloud.by_hand() as take:
        batch = _closed(cloud)
        for step in steps:
            take(step, batch)
        cloud.run_executions()
        _write_as_before(cloud)
    cloud.settle()

    assert _totals(cloud) == (2, 2, 0, 0)
    _write_as_before(cloud)
    assert _totals(cloud) == (2, 2, 0, 0)
    cloud.assert_nothing_is_lost()
