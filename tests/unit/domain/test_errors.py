import inspect

import pytest

from domain import errors
from domain.errors import (
    DataSetMismatch,
    Draining,
    IllegalTransition,
    InstanceTooLarge,
    InvalidIdentifier,
    InvalidSettings,
    NotFound,
    ProtocolViolation,
    StageFailed,
    StoreScpError,
    UnreadableDataSet,
)

ALL = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, StoreScpError)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_stands_in_the_drawing(kind: type[StoreScpError]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


def test_a_wrong_uid_shows_digits_and_dots_only() -> None:
    error = InvalidIdentifier("SOP Instance UID", "1.2 DOE^JANE", "digits are allowed")
    assert str(error) == "SOP Instance UID '1.2?????????' is not valid: digits are allowed"
    assert (error.kind, error.value, error.rule) == ("SOP Instance UID", "1.2 DOE^JANE", "digits are allowed")


def test_a_wrong_identifier_is_shortened_and_escaped() -> None:
    assert f"batch id '{'a' * 70}...' is not valid: short" == str(InvalidIdentifier("batch id", "a" * 200, "short"))
    assert str(InvalidIdentifier("AE title", "Ä", "ASCII")) == r"AE title '\xc4' is not valid: ASCII"


def test_errors_carry_their_facts() -> None:
    mismatch = DataSetMismatch("SOP Class UID", "1.2", "1.3")
    assert (mismatch.attribute, mismatch.in_command, mismatch.in_data_set) == ("SOP Class UID", "1.2", "1.3")
    assert str(mismatch) == "SOP Class UID differs: command 1.2, data set 1.3"
    assert InstanceTooLarge(5).max_bytes == 5
    assert UnreadableDataSet("too short").problem == "too short"
    assert (ProtocolViolation("bad PDU", reason=2).problem, ProtocolViolation("", reason=2).reason) == ("bad PDU", 2)
    assert (
        StageFailed("full", suspect_prefix=True).problem,
        StageFailed("full", suspect_prefix=True).suspect_prefix,
    ) == ("full", True)
    assert (NotFound("batch", "b-1").kind, NotFound("batch", "b-1").value) == ("batch", "b-1")


def test_messages_say_what_happened() -> None:
    assert str(InstanceTooLarge(5)) == "instance exceeds 5 bytes (setting --maximum-object-bytes)"
    assert str(Draining()) == "the receiver is stopping"
    assert str(NotFound("batch", "b-1")) == "no batch b-1 is known here"
    assert str(IllegalTransition("batch", "open", "settled")) == "batch may not go from open to settled"
    assert str(InvalidSettings(("one", "two"))) == "2 problem(s) in the settings:\n  - one\n  - two"
    assert InvalidSettings(("one", "two")).problems == ("one", "two")
