"""
The API as the SDK describes it: which operation a request is, and whether its parameters are what the service takes.

The SDK itself checks presence and minimum lengths only; patterns, ranges and words reach the service, so they are
checked here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from urllib.parse import unquote

import attrs
import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from adapters.outbound.local.data_store import DataStoreError, ValidationException

Parameters = Mapping[str, Any]
"""The parameters of a request by the names of their members."""


class UnknownOperationException(DataStoreError):
    """No operation has this method and path."""

    http_status = 404


@attrs.frozen
class Route:
    """How one operation is recognised."""

    operation: OperationModel
    method: str
    pattern: re.Pattern[str]


@cache
def service_model() -> ServiceModel:
    """Return the SDK's description of the service."""
    return botocore.session.get_session().get_service_model("medical-imaging")


@cache
def routes() -> tuple[Route, ...]:
    """Return how every operation of the service is recognised."""
    model = service_model()
    found = []
    for name in model.operation_names:
        operation = model.operation_model(name)
        path = str(operation.http["requestUri"]).partition("?")[0]
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
        found.append(Route(operation, str(operation.http["method"]), re.compile(pattern)))
    return tuple(found)


def route(method: str, path: str) -> tuple[OperationModel, Mapping[str, str]]:
    """
    Find the operation of a request and the labels in its path.

    Raises:
        UnknownOperationException: there is none.

    """
    for candidate in routes():
        if candidate.method == method and (match := candidate.pattern.fullmatch(path)) is not None:
            return candidate.operation, {name: unquote(value) for name, value in match.groupdict().items()}
    raise UnknownOperationException("no operation has this method and path")


def read_request(
    operation: OperationModel, labels: Mapping[str, str], query: Mapping[str, str], body: bytes
) -> Parameters:
    """
    Read the parameters of a request.

    Args:
        operation: what is asked for.
        labels: from the path.
        query: from the query string.
        body: as it came.

    Raises:
        ValidationException: naming every parameter that breaks its rule, without its value.

    """
    shape = operation.input_shape
    if shape is None:
        return {}
    parameters: dict[str, Any] = {}
    problems: list[str] = []
    outside: dict[str, Mapping[str, str]] = {"uri": labels, "querystring": query}
    for name, member in shape.members.items():
        place = member.serialization.get("location")
        text = outside.get(str(place), {}).get(str(member.serialization.get("name", name)))
        if text is not None:
            parameters[name] = _from_text(member, text, name, problems)
    content = _content(body)
    payload = shape.serialization.get("payload")
    if payload is not None:
        if body:
            parameters[payload] = content
    else:
        members = {name for name, member in shape.members.items() if "location" not in member.serialization}
        parameters.update({name: value for name, value in content.items() if name in members and value is not None})
    problems.extend(problems_of(shape, parameters))
    if problems:
        raise ValidationException("; ".join(problems))
    return parameters


def problems_of(shape: Shape, value: object, path: str = "") -> Iterator[str]:
    """Yield every way in which `value` breaks the rules of a shape, named by its place, without the value itself."""
    here = path or "the request"
    check = _CHECKS.get(shape.type_name)
    if check is not None:
        yield from check(shape, value, path, here)


def _structure(shape: Shape, value: object, path: str, here: str) -> Iterator[str]:
    assert isinstance(shape, StructureShape)  # noqa: S101  # for the type checker
    if not isinstance(value, Mapping):
        yield f"{here} must be an object"
        return
    for name in shape.required_members:
        if value.get(name) is None:
            yield f"{_joined(path, name)} is required"
    if getattr(shape, "is_tagged_union", False) and len(value) != 1:
        yield f"{here} must have exactly one member"
    for name, each in value.items():
        if name in shape.members and each is not None:
            yield from problems_of(shape.members[name], each, _joined(path, name))


def _list(shape: Shape, value: object, path: str, here: str) -> Iterator[str]:
    assert isinstance(shape, ListShape)  # noqa: S101  # for the type checker
    if not isinstance(value, list):
        yield f"{here} must be a list"
        return
    yield from _within(shape, len(value), here, "items")
    for position, each in enumerate(value):
        yield from problems_of(shape.member, each, f"{path}[{position}]")


def _map(shape: Shape, value: object, path: str, here: str) -> Iterator[str]:
    assert isinstance(shape, MapShape)  # noqa: S101  # for the type checker
    if not isinstance(value, Mapping):
        yield f"{here} must be an object"
        return
    yield from _within(shape, len(value), here, "members")
    for name, each in value.items():
        yield from problems_of(shape.key, name, f"the name of a member of {here}")
        yield from problems_of(shape.value, each, _joined(path, str(name)))


def _string(shape: Shape, value: object, _path: str, here: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{here} must be a text"
        return
    yield from _within(shape, len(value), here, "characters")
    pattern = shape.metadata.get("pattern")
    if pattern is not None and re.search(_anchored(str(pattern)), value, re.ASCII) is None:
        yield f"{here} must match {pattern}"
    words = shape.metadata.get("enum")
    if words and value not in words:
        yield f"{here} must be one of {', '.join(words)}"


def _integer(shape: Shape, value: object, _path: str, here: str) -> Iterator[str]:
    if not isinstance(value, int) or isinstance(value, bool):
        yield f"{here} must be a whole number"
        return
    yield from _within(shape, value, here, "")


def _boolean(_shape: Shape, value: object, _path: str, here: str) -> Iterator[str]:
    if not isinstance(value, bool):
        yield f"{here} must be true or false"


def _timestamp(_shape: Shape, value: object, _path: str, here: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{here} must be seconds since 1970"


_CHECKS: Final[Mapping[str, Callable[[Shape, object, str, str], Iterator[str]]]] = {
    "structure": _structure,
    "list": _list,
    "map": _map,
    "string": _string,
    "integer": _integer,
    "long": _integer,
    "boolean": _boolean,
    "timestamp": _timestamp,
}


def _within(shape: Shape, size: int, here: str, what: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield f"{here} must have at least {low} {what}" if what else f"{here} must be at least {low}"
    if high is not None and size > high:
        yield f"{here} must have at most {high} {what}" if what else f"{here} must be at most {high}"


def _anchored(pattern: str) -> str:
    pattern = pattern.replace(r"\p{ASCII}", r"[\x00-\x7f]")  # the one class of Java's that the model uses
    return pattern if pattern.startswith("^") else rf"\A(?:{pattern})\Z"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _from_text(shape: Shape, text: str, name: str, problems: list[str]) -> object:
    if shape.type_name not in {"integer", "long"}:
        return text
    try:
        return int(text)
    except ValueError:
        problems.append(f"{name} must be a whole number")
        return None


def _content(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        content = json.loads(body)
    except ValueError:
        raise ValidationException("the body must be JSON") from None
    if not isinstance(content, dict):
        raise ValidationException("the body must be a JSON object")
    return content


def wire(value: object) -> object:
    """Return an answer as JSON has it: times as seconds since 1970, members without a value left out."""
    if isinstance(value, datetime):
        return round(value.astimezone(UTC).timestamp(), 3)
    if isinstance(value, Mapping):
        return {name: wire(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [wire(each) for each in value]
    return value
