from typing import Any

import attrs
import pytest

from domain.instance import InstanceKey
from domain.lifecycle import InstanceState
from domain.record import (
    NO_OUTCOME,
    REMEMBERED,
    InstanceRecord,
    StudyHolding,
    StudyRecord,
    add_holdings,
    holdings_of,
    newest_of,
    prefers,
)
from domain.results import ImportOutcome
from tests.builders import (
    DATA_STORE,
    STUDY,
    a_batch_id,
    a_digest,
    a_holding,
    a_key,
    a_moment,
    a_record,
    a_staged_instance,
    a_staging_key,
    a_study,
    a_uid,
    an_image_set,
)

STAGED, IMPORTED = InstanceState.STAGED, InstanceState.IMPORTED
FAILED, SUPERSEDED = InstanceState.FAILED, InstanceState.SUPERSEDED


def a_copy(batch: int, seconds: float = 0.0, **overrides: Any) -> InstanceRecord:
    return a_record(1, batch=a_batch_id(batch), staged_at=a_moment(seconds), **overrides)


def test_a_listed_copy_is_staged_with_its_facts() -> None:
    staged = a_staged_instance(3)
    record = InstanceRecord.of(staged, attempt=2)
    assert (staged.key, staged.staged_at, 2, STAGED, staged.instance.digest) == (
        record.staging_key,
        record.staged_at,
        record.attempt,
        record.state,
        record.digest,
    )


@pytest.mark.parametrize("state, is_kept", [(STAGED, True), (IMPORTED, True), (FAILED, False), (SUPERSEDED, False)])
def test_a_copy_is_kept_when_its_bytes_are_or_will_be_in_the_data_store(state: InstanceState, is_kept: bool) -> None:
    assert is_kept is a_record(state=state).is_kept


def test_the_copy_that_was_confirmed_later_is_the_newer() -> None:
    assert a_copy(1, seconds=5).is_newer_than(a_copy(2, seconds=4))


def test_at_the_same_moment_the_copy_of_the_later_batch_is_the_newer() -> None:
    assert a_copy(2).is_newer_than(a_copy(1))
    assert not a_copy(1).is_newer_than(a_copy(2))


@pytest.mark.parametrize(
    "entry, stored, may",
    [
        ((1, STAGED), (1, STAGED), True),
        ((1, IMPORTED), (1, STAGED), True),
        ((1, IMPORTED), (1, FAILED), True),
        ((1, STAGED), (1, FAILED), False),
        ((1, STAGED), (1, IMPORTED), False),
        ((2, STAGED), (1, FAILED), True),
        ((2, STAGED), (1, STAGED), True),
        ((2, STAGED), (1, IMPORTED), False),
        ((1, IMPORTED), (2, STAGED), False),
    ],
)
def test_an_entry_never_goes_back(
    entry: tuple[int, InstanceState], stored: tuple[int, InstanceState], may: bool
) -> None:
    candidate = a_record(attempt=entry[0], state=entry[1])
    assert may is candidate.may_replace(a_record(attempt=stored[0], state=stored[1]))


def test_an_imported_instance_knows_where_it_went() -> None:
    outcome = ImportOutcome(
        key=a_staging_key(1), image_set=an_image_set(7), image_set_version=2, warnings=("frames",), is_primary=True
    )
    failed = a_record(state=FAILED, is_server_error=True)
    settled = failed.settled(outcome, 2, DATA_STORE)
    assert (IMPORTED, 2, None, False, DATA_STORE, an_image_set(7), 2, True, ("frames",), None) == (
        settled.state,
        settled.attempt,
        settled.reason,
        settled.is_server_error,
        settled.data_store,
        settled.image_set,
        settled.image_set_version,
        settled.is_primary,
        settled.warnings,
        settled.conflict,
    )


def test_a_non_primary_image_set_is_a_conflict() -> None:
    outcome = ImportOutcome(key=a_staging_key(1), image_set=an_image_set(), is_primary=False)
    assert a_record().settled(outcome, 1, DATA_STORE).conflict == "imported into a non-primary image set"


@pytest.mark.parametrize("first, expected", [(True, True), (None, True), (False, False)])
def test_a_warning_does_not_take_back_that_the_image_set_is_not_primary(first: bool | None, expected: bool) -> None:
    imported = ImportOutcome(key=a_staging_key(1), image_set=an_image_set(), is_primary=first)
    warned = attrs.evolve(imported, is_primary=None, warnings=("frames",))
    settled = a_record().settled(imported, 1, DATA_STORE).settled(warned, 1, DATA_STORE)
    assert (expected, not expected, ("frames",)) == (
        settled.is_primary,
        settled.conflict is not None,
        settled.warnings,
    )


@pytest.mark.parametrize("reason, expected", [("bad", "bad"), (None, NO_OUTCOME)])
def test_a_failed_instance_has_a_reason(reason: str | None, expected: str) -> None:
    outcome = ImportOutcome(key=a_staging_key(1), reason=reason, is_server_error=True)
    settled = a_record().settled(outcome, 1, DATA_STORE)
    assert (FAILED, expected, True) == (settled.state, settled.reason, settled.is_server_error)


def test_a_superseded_copy_with_other_bytes_is_a_conflict() -> None:
    newer = a_copy(2, digest=a_digest(9))
    superseded = a_copy(1).superseded(newer)
    assert (SUPERSEDED, a_batch_id(2)) == (superseded.state, superseded.superseded_by)
    assert f"a newer copy with other bytes is in batch {a_batch_id(2)}" == superseded.conflict


def test_a_superseded_copy_with_the_same_bytes_is_none() -> None:
    assert a_copy(1).superseded(a_copy(2)).conflict is None


def test_bytes_that_are_not_known_are_not_the_same() -> None:
    unknown = a_copy(1, digest=None)
    assert unknown.superseded(a_copy(2, digest=None)).conflict is not None


# ----------------------------------------------------------------------------------- the newest copy


def test_the_first_copy_is_the_newest() -> None:
    assert a_copy(1) == newest_of(a_copy(1), None)


def test_a_newer_copy_takes_over_and_remembers_the_batches_before() -> None:
    stored = a_copy(2, earlier=(a_batch_id(1),))
    assert a_copy(3, earlier=(a_batch_id(1), a_batch_id(2))) == newest_of(a_copy(3), stored)


@pytest.mark.parametrize("state", [STAGED, FAILED])
def test_an_older_copy_listed_later_is_remembered_by_the_newest(state: InstanceState) -> None:
    stored = a_copy(3, state=state, earlier=(a_batch_id(1),))
    assert attrs.evolve(stored, earlier=(a_batch_id(2), a_batch_id(1))) == newest_of(a_copy(2), stored)


def test_an_older_copy_is_remembered_once_and_not_where_nothing_can_change_any_more() -> None:
    assert newest_of(a_copy(1), a_copy(3, earlier=(a_batch_id(1),))) is None
    assert newest_of(a_copy(1), a_copy(3, state=IMPORTED)) is None


def test_a_copy_that_was_older_and_is_written_anew_does_not_wait_for_itself() -> None:
    stored = a_copy(2, seconds=1, earlier=(a_batch_id(1), a_batch_id(0)))
    expected = a_copy(1, seconds=2, earlier=(a_batch_id(0), a_batch_id(2)))
    assert newest_of(a_copy(1, seconds=2), stored) == expected


def test_a_copy_that_is_listed_again_changes_nothing() -> None:
    stored = a_copy(2, earlier=(a_batch_id(1),))
    assert newest_of(a_copy(2), stored) is None


def test_a_copy_that_is_retried_is_staged_again_and_keeps_what_was_before() -> None:
    stored = a_copy(2, state=FAILED, earlier=(a_batch_id(1),))
    expected = a_copy(2, attempt=2, earlier=(a_batch_id(1),))
    assert expected == newest_of(a_copy(2, attempt=2), stored)


def test_a_copy_with_an_outcome_is_not_staged_again_in_the_same_attempt() -> None:
    assert newest_of(a_copy(2), a_copy(2, state=FAILED)) is None


def test_batches_that_have_ended_are_forgotten_but_for_the_last_few() -> None:
    earlier = tuple(a_batch_id(number) for number in range(REMEMBERED + 3))
    ended = frozenset(earlier) - {a_batch_id(1)}
    stored = a_copy(99, earlier=earlier)
    assert (a_batch_id(1), *earlier[3:]) == stored.forgetting(ended).earlier
    assert stored == stored.forgetting(frozenset())


def test_a_newer_copy_elsewhere_is_preferred_while_it_is_kept() -> None:
    assert prefers(a_copy(1), a_copy(2))
    assert prefers(a_copy(1), a_copy(2, state=IMPORTED))
    assert not prefers(a_copy(1), a_copy(2, state=FAILED))


def test_nothing_is_preferred_to_the_newest_copy() -> None:
    assert not prefers(a_copy(2), a_copy(1))
    assert not prefers(a_copy(2), a_copy(2))
    assert not prefers(a_copy(2), None)


# ----------------------------------------------------------------------------------- holdings and studies


def test_a_holding_counts_what_is_newest_in_its_batch() -> None:
    other = a_uid(5, root="2.25.8")
    entries = [
        a_record(1),
        a_record(2, state=IMPORTED, conflict="look"),
        a_record(3, state=FAILED, received_at=None),
        a_record(4),
        a_record(5, state=SUPERSEDED),
        a_record(6, study=other),
    ]
    newest: dict[InstanceKey, InstanceRecord] = {entry.key: entry for entry in entries}
    newest[a_key(4)] = a_record(4, batch=a_batch_id(2))
    del newest[a_key(5)]
    holdings = holdings_of(entries, newest)
    expected = StudyHolding(
        study=STUDY,
        batch=a_batch_id(),
        received=3,
        imported=1,
        failed=1,
        conflicts=1,
        size=sum(entry.size for entry in entries[:3]),
        first_received=a_moment(1),
        last_received=a_moment(5),
    )
    assert expected == holdings[STUDY]
    assert holdings[STUDY].pending == 1
    assert holdings[other].received == 1


def test_holdings_add_up() -> None:
    first = a_holding(1, received=3, imported=1, failed=1, conflicts=1, size=10)
    second = a_holding(2, received=2, imported=2, size=5)
    expected = attrs.evolve(first, received=5, imported=3, failed=1, conflicts=1, size=15, last_received=a_moment(2))
    assert expected == add_holdings(first, second)


def test_a_study_gathers_what_is_said_of_it() -> None:
    before = a_study(modalities=("PT",), patient_name="A")
    newer = StudyRecord(
        study=STUDY,
        first_received=a_moment(-5),
        last_received=a_moment(-1),
        modalities=("CT",),
        description="later words",
    )
    merged = before.merged(newer)
    expected = attrs.evolve(before, first_received=a_moment(-5), modalities=("CT", "PT"), description="later words")
    assert expected == merged
