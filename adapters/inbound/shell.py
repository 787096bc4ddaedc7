"""
The shell of the command line: exit codes, errors in one line, settings as options, help with headings.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, NoReturn

import attrs
import click

from adapters.inbound.application import Application, Surroundings
from adapters.inbound.screen import Screen, clean
from domain.errors import IllegalTransition, InvalidIdentifier, InvalidSettings, NotFound, StoreScpError
from domain.identifiers import AeTitle, BatchId, Uid


class ExitCode(IntEnum):
    """How every command ends."""

    DONE = 0
    FAILED = 1  # something failed, was refused or is unknown
    WRONG_USE = 2  # arguments or settings
    STOPPED = 130  # by Ctrl-C


@attrs.define
class Session:
    """
    One run of the command line; every command gets it as its object.

    Attributes:
        options: the settings given as options so far, by field name.

    """

    surroundings: Surroundings
    screen: Screen = attrs.field(factory=Screen)
    options: dict[str, str | None] = attrs.field(factory=dict)

    def open(self) -> Application:
        """Build the application from the settings; close it afterwards."""
        return self.surroundings.build(self.options)


@attrs.frozen(kw_only=True)
class SettingDeclaration:
    """
    A setting as an option of commands.

    Attributes:
        name: of its field.
        heading: of the help that it stands under.
        is_flag_like: the option alone means "true".
        is_hidden: it works, and help does not list it.

    """

    name: str
    option: str
    help: str
    heading: str
    is_flag_like: bool = False
    is_hidden: bool = False


class SettingOption(click.Option):
    """An option that only remembers its text: settings are read, and their errors told, all at once."""

    def __init__(self, declaration: SettingDeclaration) -> None:
        self.heading = declaration.heading
        alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if declaration.is_flag_like else {}
        super().__init__(
            [declaration.option, declaration.name],
            type=str,
            metavar="[true|false]" if declaration.is_flag_like else "VALUE",
            help=declaration.help,
            expose_value=False,
            callback=_remember,
            hidden=declaration.is_hidden,
            **alone,
        )


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    session = context.find_object(Session)
    if session is not None and value is not None:
        session.options[str(parameter.name)] = value


class Command(click.Command):
    """A command whose help lists settings under headings of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of the command itself first."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            # Arguments stand in the first line, and the text says what they are; click gives them empty rows.
            if record is not None and record[1]:
                sections.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=38)


class Cli(click.Group):
    """The group of all commands: whatever happens ends in an exit code and, at most, one message."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they were added: as they are needed."""
        del ctx
        return list(self.commands)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]  # noqa: ANN401  # click's own
        """Run one command and exit."""
        extra.pop("standalone_mode", None)
        session: Session = extra["obj"]
        code: int
        try:
            code = int(super().main(args, standalone_mode=False, **extra) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = ExitCode.WRONG_USE
        except click.ClickException as error:
            code = _say_wrong_use(error)
        except InvalidSettings as error:
            code = _say(str(error), ExitCode.WRONG_USE, "`ahi-storescp settings` lists them all")
        except NotFound as error:
            code = _say(str(error), ExitCode.FAILED, _where_to_look(error.kind))
        except IllegalTransition as error:
            code = _say_bug(error, session)
        except StoreScpError as error:
            code = _say(str(error), ExitCode.FAILED)
        except (click.Abort, KeyboardInterrupt):
            code = _say("stopped", ExitCode.STOPPED)
        except OSError as error:
            code = _say(_os_words(error), ExitCode.FAILED)
        except Exception as error:  # noqa: BLE001  # the last place that can turn it into words
            code = _say_bug(error, session)
        session.screen.close()
        sys.exit(code)


def _say(message: str, code: ExitCode, remedy: str = "") -> ExitCode:
    lines = "\n".join(clean(line) for line in message.splitlines())
    click.echo(f"ahi-storescp: {lines}" + (f"\n{remedy}" if remedy else ""), err=True)
    return code


def fail(message: str) -> ExitCode:
    """Say on standard error what failed, and return the exit code for it."""
    return _say(message, ExitCode.FAILED)


def _say_wrong_use(error: click.ClickException) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "ahi-storescp"
    _say(error.format_message(), ExitCode.WRONG_USE, f"`{path} --help` shows how it is used, with examples")
    return error.exit_code


def _say_bug(error: Exception, session: Session) -> ExitCode:
    if session.surroundings.wants_traceback(session.options):
        traceback.print_exception(error)
        return ExitCode.FAILED
    return _say(
        f"unexpected {type(error).__name__}; this is a bug",
        ExitCode.FAILED,
        "the same command with STORESCP_LOG_LEVEL=debug shows it whole, for a report",
    )


def _where_to_look(kind: str) -> str:
    command = {"study": "studies", "instance": "study UID", "batch": "batches"}.get(kind, "status")
    return f"`ahi-storescp {command}` shows what is there; are --data-dir and --profile those of the receiver?"


def _os_words(error: OSError) -> str:
    named = f"{error.filename}: " if error.filename else ""
    return f"{named}{error.strerror or error}"


class _Identifier(click.ParamType[Any]):
    """An argument that becomes one of the domain's identifiers."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401  # click's own
        """Parse it, or tell why it cannot be one."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except InvalidIdentifier as error:
            self.fail(f"{clean(value)!r}: {error.rule}", param, ctx)


class _Port(click.IntRange):
    """A TCP port that can be connected to."""

    name = "port number"

    def __init__(self) -> None:
        super().__init__(1, 65535)


PORT = _Port()
UID = _Identifier("uid", lambda text: Uid.parse(text.strip()))
BATCH = _Identifier("batch", lambda text: BatchId(text.strip()))
AE_TITLE = _Identifier("ae title", AeTitle.parse)

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class _Since(click.ParamType[datetime]):
    """A moment in the past: an age such as 7d, or a date and time; without a zone it is this machine's."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401  # click's own
        """Return the moment, aware UTC."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        session = ctx.find_object(Session) if ctx is not None else None
        now = session.surroundings.now() if session is not None else datetime.now(UTC)
        try:
            if text[:-1].isascii() and text[:-1].isdigit() and text[-1] in _UNITS:
                return now - int(text[:-1]) * _UNITS[text[-1]]
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{clean(text)!r}: an age such as 7d, 24h or 90m, a date such as 2026-11-01,"
                " or a time such as 2026-11-01T08:30+09:00 is allowed",
                param,
                ctx,
            )


SINCE = _Since()


def examples(*lines: str) -> str:
    """Return the end of a command's help: how it is typed."""
    return "\n".join(["\b", "Examples:", *(f"  ahi-storescp {line}" for line in lines)])


def with_settings(command: click.Command, declarations: Iterable[SettingDeclaration]) -> click.Command:
    """Add settings as options to a command."""
    command.params.extend(SettingOption(declaration) for declaration in declarations)
    return command
