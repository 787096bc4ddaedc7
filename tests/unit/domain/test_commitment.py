"""What is answered for an instance at which level, how a request goes on, and the addresses of peers."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from domain.commitment import (
    COMMITMENT_TRANSITIONS,
    COMMITTED,
    CommitmentLevel,
    CommitmentPeer,
    CommitmentPolicy,
    CommitmentState,
    FailureReason,
    Known,
    Verdict,
)
from domain.errors import IllegalTransition, InvalidIdentifier
from domain.identifiers import AeTitle, Uid
from domain.lifecycle import InstanceState
from tests.builders import A_POLICY, a_commitment, a_moment, a_record, a_reference

STAGED, IMPORTED, PRIMARY = CommitmentLevel
FAILED = Verdict(FailureReason.PROCESSING_FAILURE)
CONFLICT = Verdict(FailureReason.CLASS_INSTANCE_CONFLICT)
OTHER_CLASS = Uid("1.2.840.10008.5.1.4.1.1.4")
DAY = 24 * 3600.0


def recorded(**overrides: Any) -> Known:
    return Known(record=a_record(1, **overrides))


@pytest.mark.parametrize(
    "known,staged,imported,primary",
    [
        pytest.param(Known(), None, None, None, id="unknown"),
        pytest.param(Known(is_unlisted=True), COMMITTED, None, None, id="in a batch that was not listed"),
        pytest.param(recorded(), COMMITTED, None, None, id="staged"),
        pytest.param(recorded(state=InstanceState.SUPERSEDED), COMMITTED, None, None, id="superseded"),
        pytest.param(recorded(state=InstanceState.IMPORTED), COMMITTED, COMMITTED, COMMITTED, id="imported"),
        pytest.param(
            recorded(state=InstanceState.IMPORTED, is_primary=False), COMMITTED, COMMITTED, FAILED, id="not primary"
        ),
        pytest.param(recorded(state=InstanceState.FAILED), COMMITTED, FAILED, FAILED, id="not imported"),
        pytest.param(
            recorded(state=InstanceState.FAILED, is_server_error=True), COMMITTED, None, None, id="to be retried"
        ),
        pytest.param(recorded(state=InstanceState.FAILED, digest=None), FAILED, FAILED, FAILED, id="bytes gone"),
        pytest.param(
            Known(record=a_record(1, state=InstanceState.IMPORTED), is_unlisted=True),
            COMMITTED,
            None,
            None,
            id="imported, and a newer copy is on its way",
        ),
        pytest.param(recorded(sop_class=OTHER_CLASS), CONFLICT, CONFLICT, CONFLICT, id="another class"),
        pytest.param(
            recorded(sop_class=None, state=InstanceState.IMPORTED), COMMITTED, COMMITTED, COMMITTED, id="class unknown"
        ),
        pytest.param(
            Known(is_unlisted=True, unlisted_sop_class=OTHER_CLASS), CONFLICT, CONFLICT, CONFLICT, id="another, new"
        ),
    ],
)
def test_each_level_promises_more(
    known: Known, staged: Verdict | None, imported: Verdict | None, primary: Verdict | None
) -> None:
    for level, expected in ((STAGED, staged), (IMPORTED, imported), (PRIMARY, primary)):
        assert expected == CommitmentPolicy(level=level).verdict(a_reference(1), known, age_seconds=0.0)


def test_what_nobody_knows_is_looked_for_a_while() -> None:
    no_such = Verdict(FailureReason.NO_SUCH_INSTANCE)
    assert A_POLICY.verdict(a_reference(), Known(), age_seconds=9.9) is None
    assert no_such == A_POLICY.verdict(a_reference(), Known(), age_seconds=10.0)


def test_a_class_that_is_not_taken_here_is_not_looked_for() -> None:
    policy = CommitmentPolicy(sop_classes=frozenset({OTHER_CLASS}))
    assert policy.verdict(a_reference(), Known(), 0.0) == Verdict(FailureReason.SOP_CLASS_NOT_SUPPORTED)
    assert policy.verdict(a_reference(sop_class=OTHER_CLASS), Known(), 0.0) is None
    # What was taken before the setting was changed is still ours.
    assert policy.verdict(a_reference(), recorded(state=InstanceState.IMPORTED), 0.0) == COMMITTED


def test_what_stays_undecided_fails_in_the_end() -> None:
    assert A_POLICY.verdict(a_reference(), recorded(), DAY - 1) is None
    assert A_POLICY.verdict(a_reference(), recorded(), DAY) == FAILED
    assert A_POLICY.verdict(a_reference(), Known(is_unlisted=True), DAY) == FAILED


def test_failure_reasons_have_the_codes_of_the_standard() -> None:
    expected = {0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213}
    assert expected == {int(reason) for reason in FailureReason}


def test_looks_and_deliveries_come_more_and_more_rarely() -> None:
    assert [A_POLICY.next_look(age) for age in (0.0, 20.0, 30.0, 600.0, DAY)] == [2.0, 2.0, 3.0, 60.0, 60.0]
    assert [A_POLICY.next_delivery(tries) for tries in (1, 2, 3, 12, 5000)] == [10.0, 20.0, 40.0, 3600.0, 3600.0]


def test_a_new_request_is_held_by_its_receiver_while_its_association_may_be_used() -> None:
    request = a_commitment()
    request = type(request).of(
        transaction=request.transaction,
        requestor=request.requestor,
        called=request.called,
        association="a",
        references=[a_reference(1), a_reference(2), a_reference(1)],
        now=a_moment(),
        receiver="ours",
        policy=A_POLICY,
    )
    assert request.references == (a_reference(1), a_reference(2))
    assert request.undecided == request.references
    assert request.may_be_claimed("ours", a_moment())
    assert not request.may_be_claimed("theirs", a_moment(34))
    assert request.may_be_claimed("theirs", a_moment(35))
    assert a_commitment().may_be_claimed("theirs", a_moment())
    assert request.claimed("theirs", a_moment(35), A_POLICY).may_be_claimed("ours", a_moment(216))
    assert not request.claimed("theirs", a_moment(35), A_POLICY).may_be_claimed("ours", a_moment(214))


def test_a_request_that_is_kept_stays_with_its_association() -> None:
    kept = a_commitment(0).kept("ours", A_POLICY)
    assert (kept.claimed_by, kept.claimed_until) == ("ours", a_moment(180))
    assert (kept.released().claimed_by, kept.released().claimed_until) == (None, None)
    early = a_commitment(0).kept("ours", attrs.evolve(A_POLICY, claim_seconds=1.0))
    assert early.claimed_until == a_moment(35)


def test_a_result_is_complete_once_all_is_decided() -> None:
    request = a_commitment(0)
    waiting = request.looked([COMMITTED, None], a_moment(30), A_POLICY)
    assert (waiting.state, waiting.due_at, waiting.undecided) == (
        CommitmentState.WAITING,
        a_moment(33),
        (a_reference(2),),
    )
    decided = waiting.looked([COMMITTED, Verdict(FailureReason.NO_SUCH_INSTANCE)], a_moment(33), A_POLICY)
    assert (decided.state, decided.due_at, decided.decided_at) == (
        CommitmentState.DECIDED,
        a_moment(33),
        a_moment(33),
    )
    result = decided.result
    assert result.committed == (a_reference(1),)
    assert result.failed == ((a_reference(2), FailureReason.NO_SUCH_INSTANCE),)
    assert (result.transaction, result.requestor, result.called) == (
        request.transaction,
        request.requestor,
        request.called,
    )
    assert waiting.result.failed == ()
    answered = decided.answered(a_moment(34))
    assert (answered.state, answered.due_at, answered.is_finished) == (CommitmentState.ANSWERED, a_moment(34), True)
    assert [one.revision for one in (request, waiting, decided, answered)] == [1, 2, 3, 4]


def test_a_delivery_is_tried_until_patience_ends() -> None:
    decided = a_commitment(0).looked([COMMITTED, COMMITTED], a_moment(), A_POLICY)
    once = decided.undelivered(a_moment(1), A_POLICY)
    assert (once.attempts, once.due_at, once.state) == (1, a_moment(11), CommitmentState.DECIDED)
    twice = once.undelivered(a_moment(11), A_POLICY)
    assert (twice.attempts, twice.due_at) == (2, a_moment(31))
    given_up = twice.undelivered(a_moment(DAY), A_POLICY)
    assert (given_up.state, given_up.attempts, given_up.is_finished) == (CommitmentState.GIVEN_UP, 3, True)
    postponed = decided.postponed(a_moment(5), A_POLICY)
    assert (postponed.attempts, postponed.due_at) == (0, a_moment(7))


def test_a_repetition_moves_an_unfinished_request_to_its_association() -> None:
    stored = a_commitment(0).looked([COMMITTED, None], a_moment(1), A_POLICY)
    again = a_commitment(0, association="new", requested_at=a_moment(9), due_at=a_moment(9), claimed_by="ours")
    repeated = stored.repeated(again)
    assert (repeated.association, repeated.due_at, repeated.claimed_by) == ("new", a_moment(9), "ours")
    assert (repeated.verdicts, repeated.requested_at, repeated.revision) == ((COMMITTED, None), a_moment(), 3)


def test_a_repetition_of_a_finished_request_begins_anew() -> None:
    stored = a_commitment(0).looked([COMMITTED, FAILED], a_moment(1), A_POLICY).answered(a_moment(2))
    again = a_commitment(0, requested_at=a_moment(9), due_at=a_moment(9))
    assert stored.repeated(again) == attrs.evolve(again, revision=4)


def test_the_same_request_has_the_same_requestor_and_instances() -> None:
    request = a_commitment(references=(a_reference(1), a_reference(2)))
    assert request.is_the_same_as(a_commitment(references=(a_reference(2), a_reference(1))))
    assert not request.is_the_same_as(a_commitment(references=(a_reference(1),)))
    assert not request.is_the_same_as(a_commitment(requestor=AeTitle("OTHER")))


def test_a_transition_that_is_not_in_the_table_raises() -> None:
    assert set(COMMITMENT_TRANSITIONS) == set(CommitmentState)
    answered = a_commitment(state=CommitmentState.ANSWERED)
    with pytest.raises(IllegalTransition):
        answered.answered(a_moment())


def test_a_verdict_is_needed_for_each_reference() -> None:
    with pytest.raises(ValueError, match="each reference"):
        a_commitment(verdicts=(COMMITTED,))


@pytest.mark.parametrize(
    "text,title,host,port",
    [
        ("CT1=10.0.0.7:104", "CT1", "10.0.0.7", 104),
        (" CT 1=ct1.example:11112 ", "CT 1", "ct1.example", 11112),
        ("A=B=host:1", "A=B", "host", 1),
        ("CT1=[2001:db8::7]:104", "CT1", "2001:db8::7", 104),
    ],
)
def test_an_address_of_a_peer_reads_back(text: str, title: str, host: str, port: int) -> None:
    peer = CommitmentPeer.parse(text)
    assert peer == CommitmentPeer(ae_title=AeTitle(title), host=host, port=port)
    assert CommitmentPeer.parse(str(peer)) == peer


@pytest.mark.parametrize(
    "text", ["", "CT1", "CT1=host", "CT1=host:0", "CT1=host:65536", "=host:104", "CT1=:104", "CT1=2001:db8::7:104"]
)
def test_what_is_no_address_of_a_peer_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        CommitmentPeer.parse(text)
