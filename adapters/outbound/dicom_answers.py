"""
What the other side of an association says, in words: who has to change what.
"""

from __future__ import annotations

import socket

_SUCCESS = 0x0000
_WARNINGS = {
    0x0001: "stored, requested optional attributes are not supported",
    0xB000: "stored, some elements were changed",
    0xB006: "stored, some elements were left out",
    0xB007: "stored, the data set does not match its SOP class",
}
_REFUSALS = {
    0x0105: "no such attribute",
    0x0106: "an attribute has an invalid value",
    0x0107: "attribute list error",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
}
_REFUSAL_RANGES = (
    (0xA700, 0xA7FF, "out of resources: the receiver has no room, or its storage failed; send again later"),
    (0xA900, 0xA9FF, "the data set does not match the SOP class or instance it was announced as"),
    (0xC000, 0xCFFF, "the receiver cannot understand the data set"),
)


def is_stored(status: int) -> bool:
    """Tell whether a C-STORE status (PS3.7 Annex C, PS3.4 B.2.3) means that the receiver has the instance."""
    return status == _SUCCESS or is_warning(status)


def is_warning(status: int) -> bool:
    """Tell whether the instance is stored, but with a remark."""
    return status in _WARNINGS or status >> 12 == 0xB  # noqa: PLR2004  # PS3.7 C.3: Bxxx are warnings


def status_words(status: int) -> str:
    """Return what a status of C-STORE or C-ECHO means."""
    if status == _SUCCESS:
        return "success"
    for low, high, words in _REFUSAL_RANGES:
        if low <= status <= high:
            return words
    return _WARNINGS.get(status) or _REFUSALS.get(status) or f"status 0x{status:04X}"


def rejection_words(source: int, reason: int, *, calling: str, called: str) -> str:
    """Return why an association was rejected (PS3.8 table 9-21) and what to change."""
    match source, reason:
        case 1, 3:
            return (
                f"the receiver does not accept the calling AE title {calling}: enter it at the receiver"
                " among those that may connect (ahi-storescp: --require-calling-ae-titles),"
                " or send under one it knows with --calling-ae-title"
            )
        case 1, 7:
            return (
                f"the receiver is not called {called}: give its AE title with --called-ae-title,"
                " or change it there (ahi-storescp: --ae-title, --require-called-ae-title)"
            )
        case 1, 2:
            return "the receiver does not know the DICOM application context: is it a DICOM receiver?"
        case 2, 2:
            return "the receiver does not support this version of the DICOM upper layer"
        case 3, 1:
            return "the receiver is stopping or short of room: try again later"
        case 3, 2:
            return (
                "the receiver has as many associations open as it allows: try again later,"
                " or raise its limit (ahi-storescp: --maximum-associations)"
            )
    return (
        f"the receiver gives no reason: check at the receiver that calling AE title {calling}"
        f" may connect and that it is called {called}"
    )


def connection_words(error: OSError, host: str, port: int, timeout_seconds: float) -> str:
    """Return why no connection came about, and what to look at."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"the name {host} is not known: check its spelling, or give the address instead"
    if isinstance(error, ConnectionRefusedError):
        return f"{host} refuses connections to port {port}: check the port, and that the receiver is running"
    if isinstance(error, TimeoutError):
        return (
            f"{host} port {port} does not answer within {timeout_seconds:g} s:"
            " check the address, and that no firewall is in between"
        )
    return f"no connection to {host} port {port}: {error.strerror or error}"
