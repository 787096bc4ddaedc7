from datetime import timedelta
from typing import Any

import attrs
import pytest

from domain.batch import Batch, BatchPolicy, CloseReason, Join, LeasePolicy, OpenBatch
from domain.errors import IllegalTransition
from domain.lifecycle import BatchState
from tests.builders import a_batch, a_batch_id, a_digest, a_job_id, a_moment, an_instance

LEASE = LeasePolicy(seconds=600, recovery_margin_seconds=150)


def an_open_batch(**policy: Any) -> OpenBatch:
    return OpenBatch(batch=a_batch(), policy=BatchPolicy(**policy), opened_at=0.0, joined_at=0.0)


def stored(batch: OpenBatch, *numbers: int) -> OpenBatch:
    for number in numbers:
        batch.begin(an_instance(number), now=0.0)
        batch.confirm(an_instance(number), now=0.0)
    return batch


# ---------------------------------------------------------------------------------- leases


def test_a_lease_counts_from_when_it_was_asked_for() -> None:
    assert a_moment(600) == LEASE.expiry(a_moment())


def test_a_batch_is_abandoned_when_its_lease_ended_longer_ago_than_clocks_differ() -> None:
    batch = a_batch(lease_expires_at=a_moment(600))
    assert not LEASE.is_abandoned(batch, a_moment(750))
    assert LEASE.is_abandoned(batch, a_moment(750) + timedelta(milliseconds=1))


def test_a_batch_without_a_lease_is_never_abandoned_by_time() -> None:
    assert not LEASE.is_abandoned(a_batch(), a_moment(1_000_000))


# ---------------------------------------------------------------------------------- records


def test_a_batch_is_closed_once() -> None:
    batch = a_batch(lease_expires_at=a_moment(600))
    closed = batch.closed(a_moment(5), CloseReason.QUIET)
    expected = attrs.evolve(
        batch,
        state=BatchState.CLOSED,
        closed_at=a_moment(5),
        close_reason=CloseReason.QUIET,
        lease_expires_at=None,
        revision=2,
    )
    assert expected == closed
    with pytest.raises(IllegalTransition):
        closed.closed(a_moment(6), CloseReason.AGE)


def test_every_change_raises_the_revision() -> None:
    batch = a_batch()
    steps: list[Batch] = [batch.renewed(a_moment(9))]
    steps.append(steps[-1].closed(a_moment(), CloseReason.AGE))
    steps.append(steps[-1].cleared())
    steps.append(steps[-1].measured(files=1, size=2))
    steps.append(steps[-1].rerun())
    steps.append(steps[-1].submitted(a_job_id(), a_moment()))
    steps.append(steps[-1].importing())
    steps.append(steps[-1].failed("why"))
    steps.append(steps[-1].told())
    steps.append(steps[-1].retried(by_itself=False))
    steps.append(steps[-1].read_again())
    steps.append(steps[-1].settled(a_moment()))
    assert list(range(2, 14)) == [step.revision for step in steps]


def test_a_batch_counts_as_started_from_when_it_is_cleared_until_its_job_has_ended() -> None:
    closed = a_batch().closed(a_moment(), CloseReason.AGE)
    cleared = closed.cleared()
    submitted = cleared.measured(files=1, size=1).submitted(a_job_id(), a_moment())
    states = [a_batch(), closed, cleared, submitted, submitted.importing(), submitted.settled(a_moment())]
    assert [batch.is_started for batch in states] == [False, False, True, True, True, False]
    assert not submitted.failed("why").is_started


def test_a_batch_is_measured_when_it_is_decided_what_its_import_takes() -> None:
    cleared = a_batch().closed(a_moment(), CloseReason.AGE).cleared()
    measured = cleared.measured(files=2, size=9)
    assert (cleared.is_measured, measured.is_measured) == (False, True)
    assert (measured.files, measured.size) == (2, 9)


def test_a_retry_is_a_new_attempt_from_its_first_run() -> None:
    failed = a_batch(state=BatchState.IMPORTING, attempt=2, run=3, job_id=a_job_id(), server_retries=1).failed("why")
    retried = failed.retried(by_itself=False)
    assert (BatchState.CLOSED, 3, 1, None, a_job_id(), 0, None) == (
        retried.state,
        retried.attempt,
        retried.run,
        retried.job_id,
        retried.previous_job_id,
        retried.server_retries,
        retried.reason,
    )


def test_people_know_of_a_failure_until_it_is_retried() -> None:
    failed = a_batch(state=BatchState.SUBMITTED).failed("why")
    told = failed.told()
    assert [batch.is_told for batch in (failed, told, told.retried(by_itself=False))] == [False, True, False]


def test_a_retry_of_a_settled_batch_has_nothing_to_read_again() -> None:
    settled = a_batch(state=BatchState.SUBMITTED, job_id=a_job_id(), server_retries=1).settled(a_moment())
    retried = settled.retried(by_itself=True)
    assert (retried.previous_job_id, retried.server_retries) == (None, 2)
    assert retried.settled_at is None


def test_results_that_were_read_again_are_not_read_a_third_time() -> None:
    batch = a_batch(state=BatchState.CLOSED, previous_job_id=a_job_id())
    assert batch.read_again().previous_job_id is None


def test_jobs_and_runs_are_named_so_that_the_second_start_is_the_first() -> None:
    batch = a_batch(attempt=2, run=3)
    assert f"{a_batch_id()}-2" == batch.job_name
    assert f"{a_batch_id()}-2-3" == batch.execution_name


# ------------------------------------------------------------------------------- what may join


def test_an_instance_joins_once() -> None:
    batch = an_open_batch()
    assert Join.JOINS is batch.answer(an_instance(1))
    batch.begin(an_instance(1), now=1.0)
    assert Join.WAIT is batch.answer(an_instance(1))
    batch.confirm(an_instance(1), now=2.0)
    assert Join.REPEAT is batch.answer(an_instance(1))
    assert (1, an_instance(1).size, 0) == (batch.files, batch.size, batch.in_flight)


def test_other_bytes_of_a_uid_wait_and_then_go_to_the_next_batch() -> None:
    other = an_instance(1, digest=a_digest(9))
    batch = an_open_batch()
    batch.begin(an_instance(1), now=0.0)
    assert Join.WAIT is batch.answer(other)
    batch.confirm(an_instance(1), now=0.0)
    assert Join.NEXT_BATCH is batch.answer(other)
    assert CloseReason.OTHER_BYTES is batch.due(0.0)


def test_a_batch_that_closes_still_knows_repeats_and_takes_nothing_else() -> None:
    batch = stored(an_open_batch(), 1)
    batch.close(CloseReason.STOPPING)
    batch.close(CloseReason.AGE)
    assert Join.REPEAT is batch.answer(an_instance(1))
    assert Join.NEXT_BATCH is batch.answer(an_instance(2))
    assert CloseReason.STOPPING is batch.due(0.0)


def test_the_same_bytes_may_be_written_again_after_a_doubtful_write_other_bytes_not() -> None:
    batch = an_open_batch()
    batch.begin(an_instance(1), now=0.0)
    batch.doubt(an_instance(1), now=1.0, suspect=False)
    assert Join.JOINS is batch.answer(an_instance(1))
    assert Join.NEXT_BATCH is batch.answer(an_instance(1, digest=a_digest(9)))


def test_a_write_that_is_repeated_counts_once() -> None:
    batch = an_open_batch()
    batch.begin(an_instance(1), now=0.0)
    batch.doubt(an_instance(1), now=0.0, suspect=False)
    stored(batch, 1)
    assert (batch.files, batch.in_flight) == (1, 0)


def test_a_suspect_prefix_takes_nothing_further() -> None:
    batch = an_open_batch()
    batch.begin(an_instance(1), now=0.0)
    batch.doubt(an_instance(1), now=0.0, suspect=True)
    assert CloseReason.SUSPECT is batch.due(0.0)
    assert Join.NEXT_BATCH is batch.answer(an_instance(1))


def test_a_batch_is_full_by_files() -> None:
    batch = stored(an_open_batch(max_files=2), 1, 2)
    assert Join.NEXT_BATCH is batch.answer(an_instance(3))
    assert CloseReason.FILES is batch.close_reason


def test_a_batch_is_full_by_bytes_and_an_instance_of_any_size_has_one_to_itself() -> None:
    batch = an_open_batch(max_bytes=600_000)
    assert Join.JOINS is batch.answer(an_instance(1, size=10**9))
    stored(batch, 1)
    assert Join.NEXT_BATCH is batch.answer(an_instance(2))
    assert CloseReason.BYTES is batch.close_reason


# ------------------------------------------------------------------------------- when it is due


def test_a_batch_is_due_when_it_was_quiet() -> None:
    batch = stored(an_open_batch(), 1)
    assert batch.due(14.9) is None
    assert CloseReason.QUIET is batch.due(15.0)


def test_a_batch_is_not_quiet_while_something_is_written() -> None:
    batch = an_open_batch()
    batch.begin(an_instance(1), now=0.0)
    assert batch.due(59.0) is None
    assert CloseReason.AGE is batch.due(60.0)
