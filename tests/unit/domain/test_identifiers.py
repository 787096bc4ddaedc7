from datetime import UTC, datetime, timedelta, timezone

import pytest

from domain.errors import InvalidIdentifier
from domain.identifiers import AeTitle, BatchId, DataStoreId, Digest, ImageSetId, ImportJobId, Uid

A_MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


@pytest.mark.parametrize("text", ["1", "1.2.840.10008.1.2.1", "2.25.0", "01.002", "1..2", "9" * 64])
def test_a_uid_is_1_to_64_digits_and_dots(text: str) -> None:
    assert text == str(Uid(text))


@pytest.mark.parametrize("text", ["", ".", "..", "1.2a", "1/2", "1.2 ", "1\n", "9" * 65, "\u0661.\u0662"])
def test_what_is_not_digits_and_dots_is_no_uid(text: str) -> None:
    with pytest.raises(InvalidIdentifier, match="1 to 64 digits and dots are allowed"):
        Uid(text)


@pytest.mark.parametrize("text", ["1.2", "1.2\0", "1.2  ", "1.2 \0"])
def test_padding_of_a_uid_is_dropped(text: str) -> None:
    assert Uid("1.2") == Uid.parse(text)


def test_a_bad_uid_is_named_for_what_it_should_have_been() -> None:
    with pytest.raises(InvalidIdentifier, match=r"^Study Instance UID '1\.2\.\?' is not valid"):
        Uid.parse("1.2.x", "Study Instance UID")


def test_uids_sort() -> None:
    assert [Uid("1.1"), Uid("1.2")] == sorted([Uid("1.2"), Uid("1.1")])


@pytest.mark.parametrize("text", ["CT1", " CT1", "CT1   ", "  CT1  "])
def test_spaces_around_an_ae_title_are_dropped(text: str) -> None:
    assert str(AeTitle.parse(text)) == "CT1"


@pytest.mark.parametrize("text", ["", "    ", "A" * 17, "A\\B", "Ä", "A\0", "A\n"])
def test_an_ae_title_is_1_to_16_printable_characters_without_backslash(text: str) -> None:
    with pytest.raises(InvalidIdentifier, match="AE title"):
        AeTitle.parse(text)


def test_an_ae_title_with_spaces_around_it_is_none() -> None:
    with pytest.raises(InvalidIdentifier, match="AE title ' CT1' is not valid"):
        AeTitle(" CT1")


def test_upper_and_lower_case_make_another_ae_title() -> None:
    assert AeTitle("CT1") != AeTitle("ct1")


def test_a_batch_id_names_its_moment_in_utc() -> None:
    there = A_MOMENT.astimezone(timezone(timedelta(hours=9)))
    assert str(BatchId.at(there, "ab12")) == "20260102T030405678Z-ab12"


def test_a_batch_id_tells_when_its_batch_was_opened() -> None:
    assert A_MOMENT.replace(microsecond=678_000) == BatchId.at(A_MOMENT, "ab12").opened_at


def test_a_batch_id_of_another_make_does_not_know_when() -> None:
    assert BatchId("by-hand").opened_at is None


def test_batch_ids_sort_by_time() -> None:
    earlier, later = BatchId.at(A_MOMENT, "zz"), BatchId.at(A_MOMENT + timedelta(milliseconds=1), "aa")
    assert [earlier, later] == sorted([later, earlier])


@pytest.mark.parametrize("text", ["", "a" * 49, "a/b", "a.b", "ä"])
def test_a_batch_id_is_1_to_48_harmless_characters(text: str) -> None:
    with pytest.raises(InvalidIdentifier, match="batch id"):
        BatchId(text)


@pytest.mark.parametrize("text", ["a" * 32, "0"])
def test_an_import_job_id_prints_back(text: str) -> None:
    assert text == str(ImportJobId(text))


@pytest.mark.parametrize("text", ["", "A", "a" * 33, "a-b"])
def test_an_import_job_id_is_1_to_32_lower_case_letters_and_digits(text: str) -> None:
    with pytest.raises(InvalidIdentifier, match="import job id"):
        ImportJobId(text)


@pytest.mark.parametrize("kind, name", [(ImageSetId, "image set id"), (DataStoreId, "data store id")])
def test_ids_of_the_service_have_32_lower_case_letters_and_digits(
    kind: type[ImageSetId] | type[DataStoreId], name: str
) -> None:
    assert str(kind("0a" * 16)) == "0a" * 16
    for text in ("", "0a", "0A" * 16, "0a" * 17):
        with pytest.raises(InvalidIdentifier, match=name):
            kind(text)


def test_a_digest_has_64_hexadecimal_digits() -> None:
    assert str(Digest("0f" * 32)) == "0f" * 32
    for text in ("", "0f", "0F" * 32, "0g" * 32):
        with pytest.raises(InvalidIdentifier, match="digest"):
            Digest(text)
