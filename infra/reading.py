"""
How a stack file is read.

All problems are gathered and told at once, each with what to do; nothing is created before all are gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import attrs
import pulumi

from domain.errors import InvalidIdentifier
from infra.config import NAME, NAME_CHARACTERS, REGIONS, Rule, StackConfig, key_of, rules
from infra.values import Explained


class ConfigurationProblems(pulumi.RunError):
    """
    A stack that cannot be made as its file says; the command line prints the text and no traceback.

    Args:
        stack: the name of the stack.
        problems: one sentence each, beginning with the setting it is about.

    """

    def __init__(self, stack: str, problems: tuple[str, ...]) -> None:
        self.problems = problems
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{len(problems)} problem(s) in the configuration of stack {stack}:{lines}")


@attrs.frozen(kw_only=True)
class Reading:
    """
    What a stack file came to.

    Attributes:
        config: the settings; those that are wrong have their defaults.
        problems: what is wrong with single settings.
        wrong: the keys of those settings, so that nothing further is said of them.

    """

    config: StackConfig
    problems: tuple[str, ...]
    wrong: frozenset[str]


def read_config(values: Mapping[str, str], *, stack: str, region: str) -> Reading:
    """
    Read the values of a stack file, each as text by its key.

    A wrong value is a problem and keeps its default, so that everything else can still be checked.
    """
    known = rules()
    problems = [_unknown(key, known) for key in values if key not in known]
    read: dict[str, Any] = {}
    wrong: set[str] = set()
    for field in attrs.fields(StackConfig):
        key = key_of(field.name)
        text = values.get(key, "")
        if not field.metadata or not text.strip():
            continue
        try:
            read[field.name] = known[key].parse(text)
        except (ValueError, LookupError, InvalidIdentifier) as error:
            reason = f" ({error})" if isinstance(error, Explained) else ""
            problems.append(f"{key}: {_shown(text)} is not allowed{reason}; allowed: {known[key].allowed}")
            wrong.add(key)
    if region not in REGIONS:
        said = f"{region} does not offer AWS HealthImaging" if region else "not set"
        problems.append(f"aws:region: {said}; run: pulumi config set aws:region REGION, with {' or '.join(REGIONS)}")
        wrong.add("aws:region")
    config = StackConfig(**read, stack=stack, region=region)
    if "hospitalName" not in wrong and (re.fullmatch(NAME, config.name) is None or len(config.name) > NAME_CHARACTERS):
        problems.append(
            f"hospitalName: {config.name!r} cannot begin the names of resources; run: pulumi config set hospitalName "
            f"NAME, with at most {NAME_CHARACTERS} lower-case letters, digits and single hyphens"
        )
    if not config.alarm_email and "alarmEmail" not in wrong:
        problems.append(
            "alarmEmail: not set; run: pulumi config set alarmEmail ADDRESS, or none if nobody is to be told"
        )
    return Reading(config=config, problems=tuple(problems), wrong=frozenset(wrong))


def _unknown(key: str, known: Mapping[str, Rule]) -> str:
    plain = {name.lower(): name for name in known}
    alike = [plain[name] for name in get_close_matches(key.lower().replace("_", "").replace("-", ""), plain, n=1)]
    hint = f"did you mean {alike[0]}?" if alike else "docs/parameters.md lists all settings."
    return f"{key}: unknown setting; {hint} To remove it run: pulumi config rm {key}"


def _shown(text: str) -> str:
    limit = 80
    return text if len(text) <= limit else f"{text[:limit]}..."
