"""Who may open an association."""

import pytest

from domain.association import (
    Acceptance,
    AdmissionPolicy,
    AssociationFacts,
    Load,
    PermittedCaller,
    Rejection,
    UserIdentity,
)
from domain.errors import InvalidIdentifier
from domain.identifiers import AeTitle


def facts(calling: str = "CT1", called: str = "STORE", address: str = "10.0.0.7") -> AssociationFacts:
    return AssociationFacts(calling_ae_title=calling, called_ae_title=called, address=address)


def codes(decision: Acceptance | Rejection) -> tuple[int, int, int] | None:
    return (decision.result, decision.source, decision.reason) if isinstance(decision, Rejection) else None


def words(decision: Acceptance | Rejection) -> str:
    assert isinstance(decision, Rejection)
    return decision.explanation


CALLING = (1, 1, 3)
CALLED = (1, 1, 7)
LIMIT = (2, 3, 2)
CONGESTION = (2, 3, 1)


def test_by_default_everyone_may_call_us_anything() -> None:
    decision = AdmissionPolicy().decide(facts(), Load())
    assert Acceptance(calling_ae_title=AeTitle("CT1"), called_ae_title=AeTitle("STORE")) == decision


@pytest.mark.parametrize("title", ["", "a\\b", "\xe9", "seventeen letters"])
def test_a_calling_title_that_is_none_is_refused(title: str) -> None:
    decision = AdmissionPolicy().decide(facts(calling=title), Load())
    assert codes(decision) == CALLING
    assert "10.0.0.7" in words(decision)


@pytest.mark.parametrize("title", ["", "a\\b"])
def test_a_called_title_that_is_none_is_refused(title: str) -> None:
    assert codes(AdmissionPolicy().decide(facts(called=title), Load())) == CALLED


def test_only_our_names_are_ours() -> None:
    policy = AdmissionPolicy.parse(called_ae_titles=["STORE", "ARCHIVE"])
    assert codes(policy.decide(facts(called="ARCHIVE"), Load())) is None
    decision = policy.decide(facts(called="store"), Load())
    assert codes(decision) == CALLED
    assert "ARCHIVE, STORE" in words(decision)


def test_only_permitted_callers_may_call() -> None:
    policy = AdmissionPolicy.parse(callers=["CT1", "MR1"])
    assert codes(policy.decide(facts(calling="MR1"), Load())) is None
    decision = policy.decide(facts(calling="US1"), Load())
    assert codes(decision) == CALLING
    assert "add US1 or US1@10.0.0.7 to --require-calling-ae-titles" in words(decision)


@pytest.mark.parametrize(
    "address,is_permitted",
    [
        ("10.0.0.7", True),
        ("::ffff:10.0.0.7", True),
        ("10.0.1.7", False),
        ("192.168.1.1", True),
        ("fd00::1", True),
        ("fd01::1", False),
        ("somewhere", False),
    ],
)
def test_callers_may_be_bound_to_networks(address: str, is_permitted: bool) -> None:
    policy = AdmissionPolicy.parse(callers=["CT1@10.0.0.0/24", "CT1@192.168.1.1", "CT1@fd00::/16"])
    decision = policy.decide(facts(address=address), Load())
    assert (CALLING if not is_permitted else None) == codes(decision)
    if not is_permitted:
        assert "10.0.0.0/24, 192.168.1.1/32, fd00::/16 only" in words(decision)


@pytest.mark.parametrize("callers", [["CT1", "CT1@10.0.0.0/24"], ["CT1@10.0.0.0/24", "CT1"]])
def test_a_caller_once_named_without_a_network_may_call_from_anywhere(callers: list[str]) -> None:
    policy = AdmissionPolicy.parse(callers=callers)
    assert codes(policy.decide(facts(address="172.16.0.1"), Load())) is None


@pytest.mark.parametrize(
    "load,expected,remedy",
    [
        (Load(is_draining=True), CONGESTION, "repeat"),
        (Load(shortage="the disk is full: free some"), CONGESTION, "the disk is full: free some"),
        (Load(associations=2), LIMIT, "raise --maximum-associations (2)"),
        (Load(associations=1, associations_of_caller=1), LIMIT, "raise --maximum-associations-per-ae (1)"),
        (Load(associations=1), None, ""),
    ],
)
def test_load_refuses_for_now(load: Load, expected: tuple[int, int, int] | None, remedy: str) -> None:
    policy = AdmissionPolicy(maximum_associations=2, maximum_associations_per_caller=1)
    decision = policy.decide(facts(), load)
    assert expected == codes(decision)
    if expected is not None:
        assert remedy in words(decision)


def test_without_a_limit_per_caller_one_caller_may_have_them_all() -> None:
    policy = AdmissionPolicy(maximum_associations=9)
    assert codes(policy.decide(facts(), Load(associations=8, associations_of_caller=8))) is None


def test_what_can_never_be_is_said_before_what_cannot_be_now() -> None:
    policy = AdmissionPolicy.parse(callers=["CT1"], called_ae_titles=["STORE"])
    busy = Load(associations=999, is_draining=True)
    assert codes(policy.decide(facts(calling="X", called="Y"), busy)) == CALLING
    assert codes(policy.decide(facts(called="Y"), busy)) == CALLED
    assert codes(policy.decide(facts(), busy)) == CONGESTION


@pytest.mark.parametrize("text", ["CT1", "CT1@10.0.0.0/24", "A@B@10.0.0.7/32", "CT1@fd00::/16"])
def test_a_caller_is_printed_as_it_is_parsed(text: str) -> None:
    assert text == str(PermittedCaller.parse(text))


@pytest.mark.parametrize("text", ["", "CT1@", "CT1@10.0.0.7/24", "CT1@hospital", "@10.0.0.0/24", "seventeen letters"])
def test_a_caller_that_cannot_be_is_named(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        PermittedCaller.parse(text)


def test_a_policy_without_room_for_anybody_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="maximum_associations"):
        AdmissionPolicy(maximum_associations=0)
    with pytest.raises(ValueError, match="maximum_associations_per_caller"):
        AdmissionPolicy(maximum_associations_per_caller=0)


def test_a_users_secrets_are_never_shown() -> None:
    identity = UserIdentity(kind=2, primary=b"someone", secondary=b"passcode")
    assert "passcode" not in repr(identity)
    assert "someone" not in repr(identity)
