"""
How single values read in tables: times in this machine's zone, sizes, states in their colours.
"""

from __future__ import annotations

from datetime import datetime

from adapters.inbound.screen import Cell

_STYLES = {
    "failed": "bold red",
    "refused": "bold red",
    "not sent": "bold red",
    "missing": "bold red",
    "conflict": "magenta",
    "superseded": "magenta",
    "warning": "yellow",
    "pending": "yellow",
    "staged": "yellow",
    "receiving": "cyan",
    "open": "cyan",
    "imported": "green",
    "settled": "green",
    "stored": "green",
}
_DATE_DIGITS = 8


def when(value: datetime | None) -> str:
    """Return a time in this machine's zone, to the second."""
    return "" if value is None else f"{value.astimezone():%Y-%m-%d %H:%M:%S}"


def zone(value: datetime) -> str:
    """Return the name of this machine's zone at that time."""
    return value.astimezone().tzname() or "local time"


def size(count: int) -> str:
    """Return bytes as people read them; 1 MB is 10^6 bytes."""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004  # what a unit is
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: 1 instance, 2 instances."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def state(text: str) -> Cell:
    """Return a state in its colour."""
    return Cell(text, _STYLES.get(text, ""))


def bad(count: int) -> Cell:
    """Return a count that should be zero."""
    return Cell(f"{count:,}", "bold red" if count else "")


def date(text: str | None) -> str:
    """Return a DICOM date (PS3.5 6.2, DA) with hyphens; anything else as it is."""
    if text and len(text) == _DATE_DIGITS and text.isdigit():
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text or ""


def dimse_status(status: int | None) -> str:
    """Return a DIMSE status as the standard writes it."""
    return "" if status is None else f"0x{status:04X}"
