"""
Identifiers that cannot be built wrong: parse, validate, print back the same.

Raw strings stop at the border; past it there are only these.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import attrs

from domain.errors import InvalidIdentifier

_STAMP_CHARACTERS = len("20260102T030405678Z")
_UID = re.compile(r"(?=\.*[0-9])[0-9.]{1,64}", re.ASCII)
_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}", re.ASCII)
_BATCH_ID = re.compile(r"[A-Za-z0-9_-]{1,48}", re.ASCII)
_JOB_ID = re.compile(r"[0-9a-z]{1,32}", re.ASCII)
_HEX_ID = re.compile(r"[0-9a-z]{32}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


def _check(kind: str, value: str, pattern: re.Pattern[str], rule: str) -> str:
    if pattern.fullmatch(value) is None:
        raise InvalidIdentifier(kind, value, rule)
    return value


@attrs.frozen(order=True)
class Uid:
    """
    A DICOM unique identifier (PS3.5 section 9), safe as a file name.

    1 to 64 digits and dots with at least one digit.
    Leading zeros and empty components break the standard and still occur; they pass, since refusing them loses an
    image.
    A value of dots alone never passes: as a path it would leave its folder.
    """

    value: str

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be a UID."""
        _check("UID", self.value, _UID, "1 to 64 digits and dots are allowed")

    @classmethod
    def parse(cls, text: str, kind: str = "UID") -> Uid:
        """
        Read a UID as it stands in a data set or command: padding (NUL or spaces at its end) is dropped.

        Raises:
            InvalidIdentifier: naming `kind`, if the rest is not a UID.

        """
        value = text.rstrip("\0 ")
        try:
            return cls(value)
        except InvalidIdentifier as error:
            raise InvalidIdentifier(kind, value, error.rule) from error

    def __str__(self) -> str:
        """Return the UID as text."""
        return self.value


@attrs.frozen(order=True)
class AeTitle:
    """
    An application entity title (PS3.5 6.2, AE): 1 to 16 printable ASCII characters, no backslash.

    Leading and trailing spaces are not significant and must be gone already; `parse` removes them.
    Upper and lower case differ.
    """

    value: str

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be an AE title."""
        rule = "1 to 16 printable ASCII characters without backslash are allowed, not only spaces"
        _check("AE title", self.value, _AE_TITLE, rule)
        if self.value != self.value.strip(" "):
            raise InvalidIdentifier("AE title", self.value, rule)

    @classmethod
    def parse(cls, text: str) -> AeTitle:
        """
        Read an AE title, dropping the spaces around it.

        Raises:
            InvalidIdentifier: if nothing, or something that is not allowed, remains.

        """
        return cls(text.strip(" "))

    def __str__(self) -> str:
        """Return the title as text."""
        return self.value


@attrs.frozen(order=True)
class BatchId:
    """The name of a batch, sorting by the time it was opened; at most 48 of [A-Za-z0-9_-]."""

    value: str

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be a batch id."""
        _check("batch id", self.value, _BATCH_ID, "1 to 48 letters, digits, hyphens and underscores are allowed")

    @classmethod
    def at(cls, opened_at: datetime, entropy: str) -> BatchId:
        """
        Name a batch opened at `opened_at` (aware); `entropy` keeps two of one moment apart.

        Raises:
            InvalidIdentifier: if `entropy` has characters that an id may not have.

        """
        moment = opened_at.astimezone(UTC)
        return cls(f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}Z-{entropy}")

    @property
    def opened_at(self) -> datetime | None:
        """The moment in the name, aware UTC; None if the name was not made by `at`."""
        try:
            moment = datetime.strptime(self.value[:_STAMP_CHARACTERS], "%Y%m%dT%H%M%S%fZ")  # noqa: DTZ007  # Z is UTC
        except ValueError:
            return None
        return moment.replace(tzinfo=UTC)

    def __str__(self) -> str:
        """Return the id as text."""
        return self.value


@attrs.frozen(order=True)
class ImportJobId:
    """The id that the import service gave a job: 1 to 32 of [0-9a-z]."""

    value: str

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be a job id."""
        _check("import job id", self.value, _JOB_ID, "1 to 32 lower-case letters and digits are allowed")

    def __str__(self) -> str:
        """Return the id as text."""
        return self.value


@attrs.frozen(order=True)
class ImageSetId:
    """The id of an image set in a data store: 32 of [0-9a-z]."""

    value: str

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be an image set id."""
        _check("image set id", self.value, _HEX_ID, "32 lower-case letters and digits are allowed")

    def __str__(self) -> str:
        """Return the id as text."""
        return self.value


@attrs.frozen(order=True)
class DataStoreId:
    """The id of a data store: 32 of [0-9a-z]."""

    value: str

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be a data store id."""
        _check("data store id", self.value, _HEX_ID, "32 lower-case letters and digits are allowed")

    def __str__(self) -> str:
        """Return the id as text."""
        return self.value


@attrs.frozen
class Digest:
    """A BLAKE3 over data set and transfer syntax UID, as 64 hexadecimal digits: what makes two instances the same."""

    value: str

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be a digest."""
        _check("digest", self.value, _DIGEST, "64 lower-case hexadecimal digits are allowed")

    def __str__(self) -> str:
        """Return the digest as text."""
        return self.value
