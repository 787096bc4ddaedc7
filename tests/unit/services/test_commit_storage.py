"""Taking storage commitment requests and answering them, on memory adapters and a clock that the test moves."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from adapters.memory.clock import FakeClock
from adapters.memory.commitment import MemoryCommitmentSender, MemoryOpenAssociations
from adapters.memory.metadata import MemoryMetadataStore
from adapters.memory.staging import MemoryStagingArea
from adapters.memory.telemetry import RecordingTelemetry
from domain.commitment import (
    CommitmentLevel,
    CommitmentPeer,
    CommitmentPolicy,
    CommitmentReference,
    CommitmentRequest,
    CommitmentResult,
    CommitmentState,
    FailureReason,
)
from domain.errors import MetadataUnavailable
from domain.identifiers import AeTitle, Uid
from domain.lifecycle import BatchState, InstanceState
from domain.ports import Reported
from services.commit_storage import AnswerCommitments, RequestCommitment
from tests.builders import MODALITY, a_batch, a_record, a_reference, a_uid, an_instance

TRANSACTION = a_uid(1, root="2.25.5")
PEER = CommitmentPeer(ae_title=MODALITY, host="ct1.example", port=104)
OURS = AeTitle("STORESCP")


class Receiver:
    """One receiver process: both use cases, and the associations that are open on it."""

    def __init__(self, hospital: Hospital, owner: str, **changes: Any) -> None:
        self.associations = MemoryOpenAssociations()
        self.telemetry = hospital.telemetry
        common: dict[str, Any] = {
            "store": hospital.metadata,
            "clock": hospital.clock,
            "telemetry": hospital.telemetry,
            "owner": owner,
            "policy": changes.pop("policy", CommitmentPolicy()),
        }
        self.request = RequestCommitment(**common)
        self.answer = AnswerCommitments(
            **common,
            metadata=hospital.metadata,
            staging=hospital.staging,
            sender=hospital.sender,
            associations=self.associations,
            peers=changes.pop("peers", {MODALITY: PEER}),
        )

    def asked(self, *references: CommitmentReference, **changes: Any) -> FailureReason | None:
        facts: dict[str, Any] = {
            "transaction": TRANSACTION,
            "references": references,
            "requestor": MODALITY,
            "called": OURS,
            "association": "a-1",
            **changes,
        }
        return self.request(**facts)


class Hospital:
    """What all receivers share."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metadata = MemoryMetadataStore()
        self.staging = MemoryStagingArea(clock=self.clock)
        self.telemetry = RecordingTelemetry()
        self.sender = MemoryCommitmentSender()

    def receiver(self, owner: str = "receiver-1", **changes: Any) -> Receiver:
        return Receiver(self, owner, **changes)

    def record(self, number: int, **overrides: Any) -> None:
        self.metadata.claim([(a_record(number, **overrides), None)])

    def stage(self, number: int, batch: int = 1, state: BatchState = BatchState.OPEN, **overrides: Any) -> None:
        record = a_batch(batch, state=state)
        self.metadata.add_batch(record)
        self.staging.stage(self.staging.draft(), record.id, an_instance(number, **overrides))

    @property
    def stored(self) -> CommitmentRequest:
        found = self.metadata.commitment(TRANSACTION)
        assert found is not None
        return found


@pytest.fixture
def hospital() -> Hospital:
    return Hospital()


def test_a_request_is_durable_before_it_is_acknowledged(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    assert receiver.asked(a_reference(1), a_reference(2)) is None
    assert hospital.stored.references == (a_reference(1), a_reference(2))
    (event,) = hospital.telemetry.named("commitment.requested")
    assert (event.fields["instances"], event.fields["is_repeated"]) == (2, 0)


def test_a_request_that_cannot_be_written_is_not_acknowledged(hospital: Hospital) -> None:
    def away(_method: str) -> None:
        raise MetadataUnavailable("away")

    hospital.metadata.before = away
    with pytest.raises(MetadataUnavailable):
        hospital.receiver().asked(a_reference(1))


def test_more_references_than_a_record_holds_are_refused(hospital: Hospital) -> None:
    receiver = hospital.receiver(policy=CommitmentPolicy(max_references=1))
    assert receiver.asked(a_reference(1), a_reference(2)) is FailureReason.RESOURCE_LIMITATION


def test_a_transaction_uid_in_use_for_something_else_is_refused(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    receiver.asked(a_reference(1))
    assert receiver.asked(a_reference(2)) is FailureReason.DUPLICATE_TRANSACTION_UID
    assert receiver.asked(a_reference(1), requestor=AeTitle("X")) is FailureReason.DUPLICATE_TRANSACTION_UID
    assert hospital.stored.references == (a_reference(1),)


def test_a_request_is_answered_on_its_association(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    receiver.associations.answers["a-1"] = Reported.DELIVERED
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 1
    ((association, result),) = receiver.associations.reported
    assert (association, result.committed, result.failed) == ("a-1", (a_reference(1),), ())
    assert (result.requestor, result.called) == (MODALITY, OURS)
    assert hospital.stored.state is CommitmentState.ANSWERED
    (event,) = hospital.telemetry.named("commitment.answered")
    assert (event.fields["committed"], event.fields["failed"]) == (1, 0)
    assert receiver.answer() == 0


def test_a_request_is_answered_on_a_new_association_when_its_own_is_gone(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 1
    ((result, to),) = hospital.sender.delivered
    assert (result.committed, to) == ((a_reference(1),), PEER)


def test_an_answer_known_late_goes_out_on_a_new_association(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    receiver.associations.answers["a-1"] = Reported.DELIVERED
    hospital.record(1)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 0
    hospital.clock.advance(31)
    hospital.metadata.put_entries([a_record(1, state=InstanceState.IMPORTED)])
    assert receiver.answer() == 1
    assert (len(receiver.associations.reported), len(hospital.sender.delivered)) == (0, 1)


def test_without_an_address_the_association_is_used_as_long_as_it_is_open(hospital: Hospital) -> None:
    receiver = hospital.receiver(peers={})
    receiver.associations.answers["a-1"] = Reported.DELIVERED
    hospital.record(1)
    receiver.asked(a_reference(1))
    for _ in range(20):
        hospital.clock.advance(60)
        assert receiver.answer() == 0
        assert hospital.stored.claimed_by == "receiver-1"
    hospital.metadata.put_entries([a_record(1, state=InstanceState.IMPORTED)])
    hospital.clock.advance(60)
    assert receiver.answer() == 1
    assert len(receiver.associations.reported) == 1


def test_without_an_address_and_association_the_log_says_what_to_do(hospital: Hospital) -> None:
    receiver = hospital.receiver(peers={})
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 0
    (event,) = hospital.telemetry.named("commitment.undeliverable")
    assert "MODALITY=host:port to --commitment-peers" in str(event.fields["remedy"])
    # The administrator does it, and restarts the receiver.
    restarted = hospital.receiver("receiver-2")
    hospital.clock.advance(10)
    assert restarted.answer() == 1


def test_a_busy_association_is_asked_again_soon_then_left_for_a_new_one(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    receiver.associations.answers["a-1"] = Reported.BUSY
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 0
    assert (hospital.stored.state, hospital.stored.attempts) == (CommitmentState.DECIDED, 0)
    hospital.clock.advance(2)
    receiver.associations.answers["a-1"] = Reported.DELIVERED
    assert receiver.answer() == 1


def test_an_answer_that_the_requestor_refuses_is_tried_again(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    receiver.associations.answers["a-1"] = Reported.REFUSED
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 0
    assert hospital.telemetry.named("commitment.delivery_failed")[0].fields["attempt"] == 1
    assert hospital.stored.attempts == 1


def test_a_peer_that_is_down_gets_its_answer_when_it_is_up(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    hospital.sender.problem = "down"
    receiver.asked(a_reference(1))
    for wait in (0, 10, 20, 40):
        hospital.clock.advance(wait)
        assert receiver.answer() == 0
    assert [event.fields["attempt"] for event in hospital.telemetry.named("commitment.delivery_failed")] == [1, 2, 3, 4]
    hospital.sender.problem = None
    hospital.clock.advance(79)
    assert receiver.answer() == 0, "not due yet"
    hospital.clock.advance(1)
    assert receiver.answer() == 1


def test_a_peer_that_stays_down_is_given_up(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    hospital.sender.problem = "down"
    receiver.asked(a_reference(1))
    receiver.answer()
    hospital.clock.advance(24 * 3600)
    assert receiver.answer() == 0
    assert hospital.stored.state is CommitmentState.GIVEN_UP
    assert len(hospital.telemetry.named("commitment.delivery_lost")) == 1
    hospital.clock.advance(24 * 3600)
    receiver.answer()
    assert len(hospital.telemetry.named("commitment.delivery_lost")) == 1


def test_the_answer_waits_for_the_last_instance(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    hospital.record(2)
    receiver.asked(a_reference(1), a_reference(2))
    assert receiver.answer() == 0
    assert hospital.stored.undecided == (a_reference(2),)
    hospital.metadata.put_entries([a_record(2, state=InstanceState.FAILED)])
    hospital.clock.advance(2)
    assert receiver.answer() == 1
    ((result, _),) = hospital.sender.delivered
    assert result.committed == (a_reference(1),)
    assert result.failed == ((a_reference(2), FailureReason.PROCESSING_FAILURE),)


def test_what_stays_undecided_for_a_day_is_answered_as_failed(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1)
    receiver.asked(a_reference(1))
    receiver.answer()
    hospital.clock.advance(24 * 3600)
    assert receiver.answer() == 1
    ((result, _),) = hospital.sender.delivered
    assert result.failed == ((a_reference(1), FailureReason.PROCESSING_FAILURE),)


def test_an_instance_in_an_open_batch_is_not_unknown(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.stage(1)
    hospital.stage(2, batch=2, state=BatchState.CLOSED)
    hospital.stage(9)
    receiver.asked(a_reference(1), a_reference(2), a_reference(3))
    hospital.clock.advance(11)
    assert receiver.answer() == 0
    assert hospital.stored.undecided == (a_reference(1), a_reference(2))


def test_a_newer_copy_on_its_way_keeps_the_answer_waiting(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    hospital.stage(1, batch=2)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 0


def test_a_batch_that_was_cleared_is_not_listed_again(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    cleared = attrs.evolve(a_batch(1, state=BatchState.CLOSED), is_cleared=True)
    hospital.metadata.add_batch(cleared)
    hospital.staging.stage(hospital.staging.draft(), cleared.id, an_instance(1))
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 1


def test_a_newer_copy_in_a_batch_that_failed_unlisted_keeps_the_answer_waiting(hospital: Hospital) -> None:
    hospital.record(1, state=InstanceState.IMPORTED)
    hospital.stage(1, batch=2, state=BatchState.FAILED)
    receiver = hospital.receiver()
    receiver.asked(a_reference(1))
    assert receiver.answer() == 0
    hospital.clock.advance(24 * 3600.0)
    assert receiver.answer() == 1
    assert hospital.stored.result.failed == ((a_reference(1), FailureReason.PROCESSING_FAILURE),)


def test_nothing_unknown_is_committed(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    receiver.asked(a_reference(7))
    assert receiver.answer() == 0
    hospital.clock.advance(10)
    assert receiver.answer() == 1
    ((result, _),) = hospital.sender.delivered
    assert result.failed == ((a_reference(7), FailureReason.NO_SUCH_INSTANCE),)


def test_at_level_staged_an_open_batch_is_enough(hospital: Hospital) -> None:
    receiver = hospital.receiver(policy=CommitmentPolicy(level=CommitmentLevel.STAGED))
    other = a_reference(2, sop_class=Uid("1.2.840.10008.5.1.4.1.1.4"))
    hospital.stage(1)
    hospital.stage(2)
    receiver.asked(a_reference(1), other)
    assert receiver.answer() == 1
    ((result, _),) = hospital.sender.delivered
    assert result.committed == (a_reference(1),)
    assert result.failed == ((other, FailureReason.CLASS_INSTANCE_CONFLICT),)


def test_at_level_staged_what_moves_between_listing_and_opening_is_looked_at_again(hospital: Hospital) -> None:
    receiver = hospital.receiver(policy=CommitmentPolicy(level=CommitmentLevel.STAGED))
    hospital.stage(1)
    receiver.asked(a_reference(1))

    def gone(method: str, _key: object) -> None:
        if method == "facts":
            hospital.staging.objects.clear()

    hospital.staging.before = gone
    assert receiver.answer() == 0
    assert hospital.stored.undecided == (a_reference(1),)


def test_of_two_studies_with_one_uid_the_newer_record_holds(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    older, newer = an_instance(1).received_at, an_instance(5).received_at
    hospital.record(1, study=a_uid(1, root="2.25.4"), state=InstanceState.FAILED, staged_at=older)
    hospital.record(1, study=a_uid(2, root="2.25.4"), state=InstanceState.IMPORTED, staged_at=newer)
    hospital.record(1, study=a_uid(3, root="2.25.4"), state=InstanceState.FAILED, staged_at=older)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 1
    assert hospital.sender.delivered[0][0].failed == ()


def test_two_receivers_answer_once(hospital: Hospital) -> None:
    first, second = hospital.receiver("receiver-1"), hospital.receiver("receiver-2")
    first.associations.answers["a-1"] = Reported.DELIVERED
    hospital.record(1, state=InstanceState.IMPORTED)
    first.asked(a_reference(1))
    assert second.answer() == 0, "the first one holds the association"
    assert first.answer() == 1
    assert second.answer() == 0


def test_a_receiver_that_died_leaves_its_requests_to_others(hospital: Hospital) -> None:
    first, second = hospital.receiver("receiver-1"), hospital.receiver("receiver-2")
    hospital.record(1, state=InstanceState.IMPORTED)
    first.asked(a_reference(1))
    hospital.clock.advance(36)
    assert second.answer() == 1


def test_a_claim_that_was_lost_is_somebody_elses(hospital: Hospital) -> None:
    first, second = hospital.receiver("receiver-1"), hospital.receiver("receiver-2")
    hospital.record(1, state=InstanceState.IMPORTED)
    first.asked(a_reference(1))
    hospital.clock.advance(36)

    def quicker(method: str) -> None:
        if method == "replace_commitment":
            hospital.metadata.before = lambda _method: None
            assert second.answer() == 1

    hospital.metadata.before = quicker
    assert first.answer() == 0
    assert len(hospital.sender.delivered) == 1


def test_two_threads_of_one_receiver_do_not_work_on_the_same_request(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))

    def at_the_same_time(method: str) -> None:
        if method == "find_instances":
            hospital.metadata.before = lambda _method: None
            assert receiver.answer() == 0

    hospital.metadata.before = at_the_same_time
    assert receiver.answer() == 1


def test_a_store_that_is_away_leaves_nothing_at_work(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))

    def away_at(wanted: str) -> None:
        def away(method: str) -> None:
            if method == wanted:
                raise MetadataUnavailable("away")

        hospital.metadata.before = away

    for method in ("replace_commitment", "find_instances"):
        away_at(method)
        with pytest.raises(MetadataUnavailable):
            receiver.answer()
    hospital.metadata.before = lambda _method: None
    assert receiver.answer() == 1


def test_one_round_takes_no_more_than_its_claims_last_for(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    for number in range(25):
        receiver.asked(a_reference(1), transaction=a_uid(number, root="2.25.5"))
    assert [receiver.answer() for _ in range(3)] == [20, 5, 0]


def test_a_peer_that_is_down_is_tried_once_a_round(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    deliveries: list[CommitmentPeer] = []

    class Down:
        def deliver(self, result: CommitmentResult, to: CommitmentPeer) -> str | None:
            deliveries.append(to)
            return "down"

    for number in range(5):
        receiver.asked(a_reference(1), transaction=a_uid(number, root="2.25.5"))
    assert attrs.evolve(receiver.answer, sender=Down())() == 0
    assert deliveries == [PEER]
    assert len(hospital.telemetry.named("commitment.delivery_failed")) == 5


def test_a_request_whose_turn_comes_late_is_claimed_again(hospital: Hospital) -> None:
    first, second = hospital.receiver("receiver-1"), hospital.receiver("receiver-2")
    hospital.record(1, state=InstanceState.IMPORTED)
    for number in range(3):
        first.asked(a_reference(1), transaction=a_uid(number, root="2.25.5"), requestor=AeTitle(f"CT{number}"))
    hospital.clock.advance(36)
    delivered: list[AeTitle] = []

    class Slow:
        def deliver(self, result: CommitmentResult, to: CommitmentPeer) -> str | None:
            delivered.append(result.requestor)
            hospital.clock.advance(100 if len(delivered) == 1 else 200)
            if len(delivered) == 2:
                attrs.evolve(second.answer, sender=Quick(), peers=peers)()
            return None

    class Quick:
        def deliver(self, result: CommitmentResult, to: CommitmentPeer) -> str | None:
            delivered.append(result.requestor)
            return None

    peers = {AeTitle(f"CT{number}"): PEER for number in range(3)}
    assert attrs.evolve(first.answer, sender=Slow(), peers=peers)() == 2
    # The second one took longer than its claim, and so was answered twice; the third was left to who has it now.
    assert [delivered.count(AeTitle(f"CT{number}")) for number in range(3)] == [1, 2, 1]


def test_a_repeated_request_is_answered_again(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.FAILED)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 1
    hospital.metadata.put_entries([a_record(1, state=InstanceState.IMPORTED, attempt=2)])
    assert receiver.asked(a_reference(1)) is None
    assert hospital.telemetry.named("commitment.requested")[1].fields["is_repeated"] == 1
    assert receiver.answer() == 1
    assert [len(result.failed) for result, _ in hospital.sender.delivered] == [1, 0]


def test_a_request_repeated_while_it_is_answered_is_answered_again(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))

    def again(method: str) -> None:
        if method == "find_instances":
            hospital.metadata.before = lambda _method: None
            receiver.asked(a_reference(1), association="a-2")

    hospital.metadata.before = again
    receiver.associations.answers["a-2"] = Reported.DELIVERED
    receiver.answer()
    receiver.answer()
    assert [association for association, _ in receiver.associations.reported] == ["a-2"]


def test_a_repetition_survives_the_record_changing_under_it(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    hospital.record(1)
    receiver.asked(a_reference(1))
    store, rounds = hospital.metadata, []

    def changing(method: str) -> None:
        if method == "replace_commitment":
            store.before = lambda _method: None
            rounds.append(method)
            stored = hospital.stored
            store.replace_commitment(stored, stored.claimed("receiver-9", hospital.clock.now(), CommitmentPolicy()))
            store.before = changing

    store.before = changing
    assert receiver.asked(a_reference(1)) is None, "it is at work"
    assert len(rounds) == 5


def test_a_repetition_of_what_is_forgotten_meanwhile_is_a_new_request(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    receiver.asked(a_reference(1))
    store = hospital.metadata

    def forget(method: str) -> None:
        if method == "commitment":
            store._commitments.clear()
            store.before = lambda _method: None

    store.before = forget
    assert receiver.asked(a_reference(1), association="a-2") is None
    assert hospital.stored.association == "a-2"


def test_a_new_request_of_somebody_quicker_is_compared_again(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    receiver.asked(a_reference(1))
    store = hospital.metadata

    def swap(method: str) -> None:
        if method == "commitment":
            store._commitments.clear()
            store.before = refill

    def refill(method: str) -> None:
        if method == "add_commitment":
            store.before = lambda _method: None
            hospital.receiver("receiver-2").asked(a_reference(1), association="a-9")

    store.before = swap
    assert receiver.asked(a_reference(1), association="a-2") is None
    assert hospital.stored.association == "a-2"


def test_what_another_thread_is_delivering_is_left_to_it(hospital: Hospital) -> None:
    class Meanwhile(MemoryOpenAssociations):
        def report(self, association: str, result: CommitmentResult) -> Reported:
            assert receiver.answer() == 0
            return super().report(association, result)

    receiver = hospital.receiver()
    receiver.associations = Meanwhile({"a-1": Reported.DELIVERED})
    receiver.answer = attrs.evolve(receiver.answer, associations=receiver.associations)
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))
    assert receiver.answer() == 1
    assert len(receiver.associations.reported) == 1


@pytest.mark.parametrize("answer", [Reported.BUSY, Reported.REFUSED])
def test_an_association_that_takes_nothing_costs_one_wait_a_round(hospital: Hospital, answer: Reported) -> None:
    class Counting(MemoryOpenAssociations):
        asked = 0

        def report(self, association: str, result: CommitmentResult) -> Reported:
            self.asked += 1
            return super().report(association, result)

    receiver = hospital.receiver()
    counting = Counting({"a-1": answer, "a-2": Reported.DELIVERED})
    receiver.answer = attrs.evolve(receiver.answer, associations=counting)
    hospital.record(1, state=InstanceState.IMPORTED)
    for number in range(5):
        receiver.asked(a_reference(1), transaction=a_uid(number, root="2.25.5"))
    receiver.asked(a_reference(1), transaction=a_uid(9, root="2.25.5"), association="a-2")
    assert receiver.answer() == 1, "the other association is served in the same round"
    assert counting.asked == 2
    counting.answers["a-1"] = Reported.DELIVERED
    hospital.clock.advance(10)
    assert receiver.answer() == 5


def test_a_round_claims_no_more_than_it_can_hold(hospital: Hospital) -> None:
    receiver = hospital.receiver()
    references = [a_reference(number) for number in range(7000)]
    hospital.record(1)
    for number in range(4):
        receiver.asked(*references, transaction=a_uid(number, root="2.25.5"))
    hospital.clock.advance(10)
    assert [receiver.answer() for _ in range(2)] == [0, 0]
    hospital.metadata.put_entries([a_record(1, state=InstanceState.IMPORTED)])
    hospital.clock.advance(10)
    assert [receiver.answer() for _ in range(3)] == [3, 1, 0]


def test_what_cannot_be_delivered_is_not_told_at_every_attempt(hospital: Hospital) -> None:
    receiver = hospital.receiver(peers={})
    hospital.record(1, state=InstanceState.IMPORTED)
    receiver.asked(a_reference(1))
    for _ in range(40):
        receiver.answer()
        hospital.clock.advance(3600)
    assert len(hospital.telemetry.named("commitment.undeliverable")) == 2
    assert len(hospital.telemetry.named("commitment.delivery_lost")) == 1
