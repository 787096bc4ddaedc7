"""
The screen: text, tables and JSON on standard output; nothing from outside can steer the terminal.

On a terminal there are colours, and a table that is too wide puts its long columns below each row, or becomes one
block per row, rather than lose or break a character.
Elsewhere lines are as long as they need to be.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from typing import TextIO

import attrs
from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_ENDLESS = 1_000_000  # columns of a place that is no terminal
_WRAP_AT_LEAST = 30  # narrower columns of prose cannot be read
_BELOW = (0, 0, 0, 2)  # how lines below a row are set in
_JOINERS = "\u200c\u200d"  # invisible, and part of how Persian and Indic names are written


def clean(text: str) -> str:
    """Return `text` with everything escaped that could steer a terminal: controls, escapes, changes of direction."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if character in _JOINERS or (category[0] != "C" and category not in {"Zl", "Zp"}):
        return character
    return character.encode("unicode_escape").decode("ascii")


@attrs.frozen
class Column:
    """
    One column of a table.

    Attributes:
        is_number: aligned to the right.
        wraps: prose that may be wrapped on a terminal.
        is_long: goes to a line of its own below the row where the terminal is too narrow; the last such column first.

    """

    title: str
    is_number: bool = False
    wraps: bool = False
    is_long: bool = False


@attrs.frozen
class Cell:
    """One text of a table with its colour; the text may come from outside."""

    text: str
    style: str = ""

    def rendered(self) -> Text:
        """Return what can be shown of it."""
        return Text(clean(self.text), style=self.style)


Row = Sequence[str | Cell]


class Screen:
    """Where commands write."""

    def json(self, value: object) -> None:
        """Write a value as JSON, in ASCII: as safe for a terminal as for a program."""
        self._write(json.dumps(value, indent=2) + "\n")

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line."""
        self._show(Text(clean(text), style=style))

    def pairs(self, rows: Sequence[tuple[str, str | Cell]]) -> None:
        """Write names with their values, one a line."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(Text(name), _cell(value).rendered())
        self._show(table)

    def table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Write a table; where it does not fit the terminal, with its long columns below, or as blocks of lines."""
        console = _console(sys.stdout, is_terminal=sys.stdout.isatty())
        beside = list(range(len(columns)))
        below: list[int] = []
        while _least_width(columns, rows, beside, console) > console.width:
            last = next((index for index in reversed(beside) if columns[index].is_long), None)
            if last is None:
                self._blocks(columns, rows)
                return
            beside.remove(last)
            below.insert(0, last)
        if below:
            self._table_with_lines(columns, rows, beside, below)
        else:
            self._show(_table(columns, rows, beside))

    def _table_with_lines(
        self, columns: Sequence[Column], rows: Sequence[Row], beside: Sequence[int], below: Sequence[int]
    ) -> None:
        """Write a table whose rows are followed by lines of their own for the columns `below`."""
        head, rule, *lines = self._rendered(_table(columns, rows, beside)).splitlines()
        self._write(f"{head}\n")
        for index in below:
            self._show(Padding(Text(columns[index].title, style="bold"), _BELOW))
        self._write(f"{rule}\n")
        for line, row in zip(lines, rows, strict=True):
            self._write(f"{line}\n")
            for index in below:
                text = _cell(row[index]).rendered()
                if not text.plain:
                    continue
                if columns[index].wraps:
                    self._show(Padding(text, _BELOW))
                else:
                    self._show(Text("  ") + text)  # in one piece, to be copied

    def _blocks(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        for row in rows:
            self.pairs([(column.title, value) for column, value in zip(columns, row, strict=True) if _cell(value).text])
            self.line()

    def close(self) -> None:
        """Write out what is left."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        self._write("")

    def _show(self, renderable: RenderableType) -> None:
        self._write(self._rendered(renderable))

    def _rendered(self, renderable: RenderableType) -> str:
        buffer = StringIO()
        _console(buffer, is_terminal=sys.stdout.isatty()).print(renderable, soft_wrap=isinstance(renderable, Text))
        return "".join(line.rstrip(" ") + "\n" for line in buffer.getvalue().splitlines())

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            _forget(sys.stdout)  # `| head` has seen enough; the command still ends with its own exit code


def _cell(value: str | Cell) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _table(columns: Sequence[Column], rows: Sequence[Row], shown: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index in shown:
        column = columns[index]
        table.add_column(
            Text(column.title),
            justify="right" if column.is_number else "left",
            no_wrap=not column.wraps,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(_cell(row[index]).rendered() for index in shown))
    return table


def _least_width(columns: Sequence[Column], rows: Sequence[Row], shown: Sequence[int], console: Console) -> int:
    """Return the width below which a table of the columns `shown` would lose or break something that is not prose."""
    table = _table(columns, rows, shown)
    widest = Measurement.get(console, console.options.update(width=_ENDLESS), table).maximum
    for index in shown:
        if columns[index].wraps:
            widths = [len(columns[index].title), *(_cell(row[index]).rendered().cell_len for row in rows)]
            widest -= max(0, max(widths) - _WRAP_AT_LEAST)
    return widest


def _console(file: TextIO, *, is_terminal: bool) -> Console:
    return Console(
        file=file,
        force_terminal=is_terminal,
        width=None if is_terminal else _ENDLESS,
        markup=False,
        emoji=False,
        highlight=False,
        color_system="auto" if is_terminal else None,
        legacy_windows=False,
    )


def _forget(file: TextIO) -> None:
    """Let what is still buffered, and all that follows, go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """
    Show how far long work is, on standard error and only on a terminal.

    Yields:
        What to call with how much is done, and of how much (None: nobody knows).

    """
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=_console(sys.stderr, is_terminal=sys.stderr.isatty()),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
