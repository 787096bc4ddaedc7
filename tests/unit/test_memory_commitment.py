"""The lists that stand in for requestors of storage commitment."""

from __future__ import annotations

from adapters.memory.commitment import MemoryCommitmentSender, MemoryOpenAssociations
from domain.commitment import CommitmentPeer
from domain.ports import CommitmentSender, OpenAssociations, Reported
from tests.builders import a_commitment

PEER = CommitmentPeer.parse("CT1=ct1.example:104")
RESULT = a_commitment().result


def test_a_sender_keeps_what_it_delivers_unless_it_is_told_to_fail() -> None:
    memory = MemoryCommitmentSender()
    sender: CommitmentSender = memory
    assert sender.deliver(RESULT, PEER) is None
    memory.problem = "down"
    assert sender.deliver(RESULT, PEER) == "down"
    assert memory.delivered == [(RESULT, PEER)]


def test_associations_answer_as_they_are_told() -> None:
    memory = MemoryOpenAssociations(answers={"a-1": Reported.DELIVERED, "a-2": Reported.BUSY})
    associations: OpenAssociations = memory
    answers = [associations.report(label, RESULT) for label in ("a-1", "a-2", "a-3")]
    assert answers == [Reported.DELIVERED, Reported.BUSY, Reported.GONE]
    assert [associations.is_open(label) for label in ("a-1", "a-2", "a-3")] == [True, True, False]
    assert memory.reported == [("a-1", RESULT)]
