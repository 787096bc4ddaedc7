"""Every error of ours has exactly one C-STORE status."""

from collections.abc import Iterator

import pytest

from adapters.inbound.dicom.status import LONGEST_COMMENT, TABLE, UNEXPECTED, answer_for
from domain import errors
from domain.errors import StoreScpError


def all_errors(base: type[StoreScpError] = StoreScpError) -> Iterator[type[StoreScpError]]:
    yield base
    for derived in base.__subclasses__():
        yield from all_errors(derived)


def test_every_error_has_one_row() -> None:
    own = {kind for kind in all_errors() if kind.__module__ == errors.__name__}
    assert own == set(TABLE)


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.__name__)
def test_every_row_cites_the_standard(kind: type[StoreScpError]) -> None:
    assert TABLE[kind].citation.startswith(("PS3.4 ", "PS3.7 "))


EXAMPLES: list[tuple[StoreScpError, int, str]] = [
    (errors.InvalidIdentifier("SOP Instance UID", "Yamada", "?"), 0xC000, "SOP Instance UID not valid: 1-64 digits"),
    (errors.InvalidIdentifier("AE title", "x\\y", "?"), 0xC000, "AE title not valid"),
    (errors.UnreadableDataSet("Study Instance UID is missing"), 0xC000, "Study Instance UID is missing"),
    (errors.DataSetMismatch("SOP Class UID", "1.2", "1.3"), 0xA900, "SOP Class UID in command and data set differ"),
    (errors.DataSetMismatch("SOP Instance UID", "1.2", "1.3"), 0xA900, "SOP Instance UID in command and data set"),
    (errors.InstanceTooLarge(4 * 10**9), 0xA700, "Over 4000000000 bytes: raise --maximum-object-bytes"),
    (errors.ProtocolViolation("odd"), 0x0110, "association aborted"),
    (errors.StageFailed("disk full: /some/path"), 0xA700, "could not save"),
    (errors.Draining(), 0xA700, "stopping"),
    (errors.MetadataUnavailable("x"), 0xA700, "database"),
    (errors.InvalidSettings(("a",)), 0x0110, "settings"),
    (errors.NotFound("batch", "1"), 0x0110, "failed"),
    (errors.NotPossible("x"), 0x0110, "failed"),
    (errors.ImporterBusy("x"), 0xA700, "busy"),
    (errors.ResultsNotReady("x"), 0xA700, "busy"),
    (errors.ImportRefused("x"), 0x0110, "refused"),
    (errors.ResultsUnreadable("x"), 0x0110, "refused"),
    (errors.IllegalTransition("batch", "a", "b"), 0x0110, "failed"),
    (errors.PeerError("x"), 0xC000, "cannot be kept"),
    (errors.OurError("x"), 0x0110, "failed"),
    (errors.TemporaryServiceError("x"), 0xA700, "busy"),
    (errors.FinalServiceError("x"), 0x0110, "refused"),
    (StoreScpError("x"), 0x0110, "failed"),
]


@pytest.mark.parametrize("error,status,words", EXAMPLES, ids=lambda value: type(value).__name__)
def test_an_error_becomes_its_status(error: StoreScpError, status: int, words: str) -> None:
    answer = answer_for(error)
    assert status == answer.status
    assert words in answer.comment
    row = TABLE[type(error)]
    assert row.comment(error) == answer.comment, "the comment had to be cut"


def test_every_row_has_an_example() -> None:
    assert {type(error) for error, _, _ in EXAMPLES} == set(TABLE)


def test_a_mismatch_names_the_element() -> None:
    assert answer_for(errors.DataSetMismatch("SOP Class UID", "1", "2")).offending_element == 0x00080016
    assert answer_for(errors.DataSetMismatch("SOP Instance UID", "1", "2")).offending_element == 0x00080018


def test_anything_else_is_a_processing_failure_that_quotes_nothing() -> None:
    answer = answer_for(ZeroDivisionError("Yamada^Tarou"))
    assert answer == UNEXPECTED
    assert (answer.status, "Yamada" in answer.comment) == (0x0110, False)
    assert len(answer.comment) <= LONGEST_COMMENT


def test_a_derived_error_has_the_row_of_its_ancestor() -> None:
    class Odd(errors.StageFailed):
        pass

    assert answer_for(Odd("x")).status == 0xA700


def test_a_comment_is_cut_to_what_the_standard_allows() -> None:
    answer = answer_for(errors.UnreadableDataSet("a\\b\u5c71" + "x" * 100))
    assert answer.comment == "a?b?" + "x" * 60


def test_an_identifier_of_any_length_leaves_room_for_the_remedy() -> None:
    answer = answer_for(errors.InvalidIdentifier("network of a calling AE title", "x" * 99, "?"))
    assert answer.comment.endswith("correct it at the device")
