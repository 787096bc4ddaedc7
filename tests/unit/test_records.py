"""What is written of a record reads back, whatever it holds; damage and other versions never make a wrong one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.outbound.records import BATCH, HOLDING, INSTANCE, STUDY, Document, RecordFormat, time_text
from domain.batch import Batch, CloseReason
from domain.errors import MetadataUnavailable
from domain.identifiers import AeTitle, BatchId, DataStoreId, Digest, ImageSetId, ImportJobId, Uid
from domain.instance import InstanceKey
from domain.lifecycle import BatchState, InstanceState
from domain.record import InstanceRecord, StudyHolding, StudyRecord
from tests.builders import MOMENT, a_batch, a_holding, a_record, a_study

UIDS = st.from_regex(r"[0-9][0-9.]{0,63}", fullmatch=True).map(Uid)
BATCH_IDS = st.from_regex(r"[A-Za-z0-9_-]{1,48}", fullmatch=True).map(BatchId)
HEX = st.from_regex(r"[0-9a-z]{32}", fullmatch=True)
JOB_IDS = HEX.map(ImportJobId)
AE_TITLES = st.from_regex(r"[!-\[\]-~]{1,16}", fullmatch=True).map(AeTitle)
DIGESTS = st.binary(min_size=32, max_size=32).map(lambda value: Digest(value.hex()))
TIMES = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=9))])).filter(
    # At the ends of the calendar there is no UTC to convert to.
    lambda moment: 1 < moment.year < 9999
)
TEXTS = st.text(alphabet=st.characters(codec=None))
NUMBERS = st.integers(min_value=0, max_value=2**53)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


BATCHES = st.builds(
    Batch,
    id=BATCH_IDS,
    owner=TEXTS,
    opened_at=TIMES,
    state=st.sampled_from(BatchState),
    lease_expires_at=maybe(TIMES),
    closed_at=maybe(TIMES),
    close_reason=maybe(st.sampled_from(CloseReason)),
    attempt=NUMBERS,
    run=NUMBERS,
    is_cleared=st.booleans(),
    files=NUMBERS,
    size=NUMBERS,
    job_id=maybe(JOB_IDS),
    previous_job_id=maybe(JOB_IDS),
    submitted_at=maybe(TIMES),
    settled_at=maybe(TIMES),
    server_retries=NUMBERS,
    reason=maybe(TEXTS),
    revision=NUMBERS,
)
INSTANCES = st.builds(
    InstanceRecord,
    key=st.builds(InstanceKey, study=UIDS, sop_instance=UIDS),
    series=UIDS,
    batch=BATCH_IDS,
    staged_at=TIMES,
    attempt=NUMBERS,
    sop_class=maybe(UIDS),
    digest=maybe(DIGESTS),
    size=NUMBERS,
    received_at=maybe(TIMES),
    calling_ae_title=maybe(AE_TITLES),
    state=st.sampled_from(InstanceState),
    reason=maybe(TEXTS),
    is_server_error=st.booleans(),
    data_store=maybe(HEX.map(DataStoreId)),
    image_set=maybe(HEX.map(ImageSetId)),
    image_set_version=maybe(NUMBERS),
    is_primary=maybe(st.booleans()),
    warnings=st.lists(TEXTS, max_size=3).map(tuple),
    conflict=maybe(TEXTS),
    superseded_by=maybe(BATCH_IDS),
    earlier=st.lists(BATCH_IDS, max_size=3).map(tuple),
)
HOLDINGS = st.builds(
    StudyHolding,
    study=UIDS,
    batch=BATCH_IDS,
    received=NUMBERS,
    imported=NUMBERS,
    failed=NUMBERS,
    conflicts=NUMBERS,
    size=NUMBERS,
    first_received=TIMES,
    last_received=TIMES,
)
STUDIES = st.builds(
    StudyRecord,
    study=UIDS,
    first_received=TIMES,
    last_received=TIMES,
    study_date=maybe(TEXTS),
    modalities=st.lists(TEXTS, max_size=3).map(tuple),
    accession_number=maybe(TEXTS),
    description=maybe(TEXTS),
    patient_name=maybe(TEXTS),
    patient_id=maybe(TEXTS),
)

KINDS: list[Any] = [
    pytest.param(BATCH, a_batch(), id="batch"),
    pytest.param(INSTANCE, a_record(), id="instance"),
    pytest.param(HOLDING, a_holding(), id="holding"),
    pytest.param(STUDY, a_study(), id="study"),
]


@given(BATCHES)
def test_every_batch_reads_back(batch: Batch) -> None:
    assert batch == BATCH.loads(BATCH.dumps(batch))


@given(INSTANCES)
def test_every_instance_reads_back(record: InstanceRecord) -> None:
    assert record == INSTANCE.loads(INSTANCE.dumps(record))


@given(HOLDINGS)
def test_every_holding_reads_back(holding: StudyHolding) -> None:
    assert holding == HOLDING.loads(HOLDING.dumps(holding))


@given(STUDIES)
def test_every_study_reads_back(study: StudyRecord) -> None:
    assert study == STUDY.loads(STUDY.dumps(study))


@given(INSTANCES)
def test_a_document_is_ascii_so_that_any_store_takes_it(record: InstanceRecord) -> None:
    assert INSTANCE.dumps(record).isascii()


@pytest.mark.parametrize("form, record", KINDS)
def test_no_field_of_the_domain_is_forgotten(form: RecordFormat[Any], record: Any) -> None:
    names = {field.name for field in attrs.fields(type(record))}
    assert (names - {"key"} | ({"study", "sop_instance"} if "key" in names else set())) == set(form.fields)


@pytest.mark.parametrize("form, record", KINDS)
def test_every_document_carries_its_version(form: RecordFormat[Any], record: Any) -> None:
    assert form.write(record)["version"] == 1


def test_a_document_of_this_version_stays_readable() -> None:
    """As version 1 wrote it; this text never changes, a later version adds one of its own."""
    text = (
        '{"version":1,"study":"2.25.100","sop_instance":"2.25.9.100001","series":"2.25.200",'
        '"batch":"20250314T093001000Z-0001","staged_at":"2025-03-14T09:30:01.500000+00:00","attempt":1,'
        '"sop_class":"1.2.840.10008.5.1.4.1.1.2",'
        '"digest":"0000000000000000000000000000000000000000000000000000000000000001","size":525001,'
        '"received_at":"2025-03-14T09:30:01.000000+00:00","calling_ae_title":"MODALITY","state":"staged",'
        '"is_server_error":false}'
    )
    assert text == INSTANCE.dumps(a_record())
    assert INSTANCE.loads(text) == a_record()


def test_a_field_that_was_added_later_has_its_default() -> None:
    document = BATCH.write(a_batch(server_retries=2))
    del document["server_retries"]
    assert BATCH.read(document) == a_batch()


def test_a_field_from_the_future_is_ignored() -> None:
    assert BATCH.read({**BATCH.write(a_batch()), "colour": "green"}) == a_batch()


def _rename_site(document: Document) -> Document:
    return {**document, "version": 2, "owner": document["site"]}


def _add_prefix(document: Document) -> Document:
    return {**document, "version": 3, "owner": f"receiver/{document['owner']}"}


def test_older_versions_are_brought_up_step_by_step() -> None:
    third = attrs.evolve(BATCH, version=3, upgrades={1: _rename_site, 2: _add_prefix})
    first = BATCH.write(a_batch())
    first["site"] = first.pop("owner")
    assert third.read(first) == a_batch(owner="receiver/receiver-1")
    assert third.read({**third.write(a_batch()), "version": 2}) == a_batch(owner="receiver/receiver-1")
    assert third.read(third.write(a_batch())) == a_batch()


@pytest.mark.parametrize("version", [0, 2, "1", None, [], 1.5])
def test_another_version_says_so(version: object) -> None:
    with pytest.raises(MetadataUnavailable, match=r"record of a batch (has version|is damaged)"):
        BATCH.read({**BATCH.write(a_batch()), "version": version})


@pytest.mark.parametrize("form, record", KINDS)
@pytest.mark.parametrize("value", [None, 7, 1.5, True, "?", [], [7], {}, "DOE^JANE"])
def test_damage_is_an_error_without_the_value(form: RecordFormat[Any], record: Any, value: Any) -> None:
    document = form.write(record)
    for name in document:
        try:
            form.read({**document, name: value})
        except MetadataUnavailable as error:
            assert "JANE" not in str(error)  # noqa: PT017  # whether it is an error depends on the field


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"DOE^JANE"', "{}", "DOE^JANE"])
def test_what_is_no_document_is_an_error_without_the_text(text: str) -> None:
    with pytest.raises(MetadataUnavailable) as caught:
        STUDY.loads(text)
    assert "JANE" not in str(caught.value)


def test_times_are_texts_that_sort_as_they_do() -> None:
    times = [MOMENT + timedelta(microseconds=step) for step in (0, 1, 10, 1_000_000, 86_400_000_000)]
    there = timezone(timedelta(hours=-11))
    assert [time_text(time) for time in times] == sorted(time_text(time.astimezone(there)) for time in times)


def test_a_time_without_a_zone_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zone"):
        BATCH.write(a_batch(opened_at=datetime(2025, 3, 14)))  # noqa: DTZ001  # the point of this test
