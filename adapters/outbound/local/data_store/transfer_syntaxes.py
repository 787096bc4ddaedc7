"""
The transfer syntaxes that the service keeps or transcodes; anything else it stores as it is and warns.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Encoding(Enum):
    """How pixel data is laid out under a transfer syntax."""

    NATIVE = "native"  # one value, frame behind frame
    FRAGMENTS = "fragments"  # encapsulated, each frame in one or more fragments (PS3.5 A.4)
    VIDEO = "video"  # encapsulated, one stream over all frames


IMPLICIT_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
DEFLATED_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

_FRAGMENTS = ("50", "51", "57", "70", "80", "81", "90", "91", "92", "93", "112", "201", "202", "203")
_FRAGMENTABLE_VIDEO = ("100", "101", "102", "103", "104", "105", "106")
_VIDEO = (*_FRAGMENTABLE_VIDEO, *(f"{number}.1" for number in _FRAGMENTABLE_VIDEO), "107", "108")

KNOWN: Final[dict[str, Encoding]] = {
    IMPLICIT_LITTLE_ENDIAN: Encoding.NATIVE,
    "1.2.840.10008.1.2.1": Encoding.NATIVE,
    DEFLATED_LITTLE_ENDIAN: Encoding.NATIVE,
    EXPLICIT_BIG_ENDIAN: Encoding.NATIVE,
    "1.2.840.10008.1.2.5": Encoding.FRAGMENTS,
    **{f"1.2.840.10008.1.2.4.{number}": Encoding.FRAGMENTS for number in _FRAGMENTS},
    **{f"1.2.840.10008.1.2.4.{number}": Encoding.VIDEO for number in _VIDEO},
}

KEPT: Final = frozenset(
    {f"1.2.840.10008.1.2.4.{number}" for number in ("50", "91", "112", "203", *_VIDEO)},
)
"""Stored in the encoding they came in; the other known ones are transcoded without loss by the service."""
