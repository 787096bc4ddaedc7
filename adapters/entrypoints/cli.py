"""
The console script: joins the commands with settings, the application and the DICOM client.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from adapters.entrypoints.settings import (
    Origin,
    Rule,
    Shown,
    option_name,
    read_settings,
    rules,
    show_settings,
    variable_name,
)
from adapters.inbound.application import Application, Options, ShownSetting, ShownSettings, Surroundings
from adapters.inbound.commands import Audience, build_commands
from adapters.inbound.shell import Session, SettingDeclaration
from adapters.outbound.dicom_scu import PynetdicomScu
from domain.errors import InvalidSettings

_PLACES = frozenset({"profile", "data_dir", "log_format", "log_level"})
_GENERAL = "Settings (each also a variable: --data-dir is STORESCP_DATA_DIR)"
_AWS = "Settings of the profile aws"


def main() -> None:
    """Run the command line of this process and exit."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 shows what it lacks as escapes, where Python would raise.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    build_commands(declare).main(prog_name="ahi-storescp", obj=Session(surroundings=surroundings(os.environ)))


def surroundings(environ: Mapping[str, str]) -> Surroundings:
    """Return what the commands reach, for an environment."""
    return Surroundings(
        build=lambda options: _build(options, environ),
        show_settings=lambda options: shown_settings(options, environ),
        open_scu=lambda *, host, port, called, calling, timeout_seconds: PynetdicomScu(
            host=host, port=port, called=called, calling=calling, timeout_seconds=timeout_seconds
        ),
        now=lambda: datetime.now(UTC),
        wants_traceback=lambda options: (
            (options.get("log_level") or environ.get(variable_name("log_level"), "")) == "debug"
        ),
    )


def _build(options: Options, environ: Mapping[str, str]) -> Application:
    settings = read_settings(options, environ)
    from adapters.entrypoints.bootstrap import build

    return build(settings)


def declare(audience: Audience) -> Iterator[SettingDeclaration]:
    """Yield the settings that commands of an audience take as options."""
    for name, rule in rules().items():
        if audience is Audience.PEER:
            if name == "log_level":
                yield _declaration(name, rule, is_hidden=True)
        elif audience is Audience.RECEIVER:
            yield _declaration(name, rule, may_stand_alone=True)
        elif not rule.serve:
            is_apart = audience is Audience.READER and not (rule.aws or name in _PLACES)
            yield _declaration(name, rule, is_hidden=is_apart)


def _declaration(
    name: str, rule: Rule, *, is_hidden: bool = False, may_stand_alone: bool = False
) -> SettingDeclaration:
    default = "required" if rule.required else f"default: {rule.shown or 'empty'}"
    is_boolean = bool(rule.shown) and isinstance(rule.parse(rule.shown), bool)
    return SettingDeclaration(
        name=name,
        option=option_name(name),
        help=f"{rule.help}  [{default}]",
        heading=_AWS if rule.aws else _GENERAL,
        is_flag_like=is_boolean and may_stand_alone,
        is_hidden=is_hidden,
    )


def shown_settings(options: Options, environ: Mapping[str, str]) -> ShownSettings:
    """Return every setting for people, with what is wrong."""
    problems: tuple[str, ...] = ()
    try:
        read_settings(options, environ)
    except InvalidSettings as error:
        problems = error.problems
    return ShownSettings(
        settings=tuple(_shown(setting, problems) for setting in show_settings(options, environ)),
        problems=problems,
    )


def _shown(setting: Shown, problems: tuple[str, ...]) -> ShownSetting:
    option, variable = option_name(setting.name), variable_name(setting.name)
    # A problem begins with the name by which the setting was given.
    spelled = (f"{variable} ",) if setting.origin is Origin.VARIABLE else (f"{option} ",)
    return ShownSetting(
        name=setting.name,
        option=option,
        variable=variable,
        value=setting.value,
        origin=setting.origin.value,
        meaning=setting.rule.help,
        allowed=setting.rule.allowed,
        is_for_aws=setting.rule.aws,
        problem=next((problem for problem in problems if problem.startswith(spelled)), None),
    )


if __name__ == "__main__":
    main()
