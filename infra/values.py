"""
How single values of a stack file are read.

Each reader is a pair: text to value, raising ValueError, and words that finish the sentence "allowed: ...".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import attrs

from domain.association import PermittedCaller
from domain.commitment import CommitmentPeer
from domain.errors import InvalidIdentifier

Reader = tuple[Callable[[str], Any], str]

_ARN_OF_SECRET = re.compile(r"arn:aws:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+")
_TAG = re.compile(r"[\w .:/=+@-]+")
_MAX_TAG_KEY = 128
_MAX_TAG_VALUE = 256


class Explained(ValueError):
    """A value that is not allowed, with a reason that helps to mend it."""


@attrs.frozen(kw_only=True)
class MutualTls:
    """Secrets that hold the receiver's certificate and key, and the CA that signs the modalities' certificates."""

    certificate_secret_arn: str
    key_secret_arn: str
    ca_secret_arn: str

    @classmethod
    def parse(cls, text: str) -> MutualTls | None:
        """Read the JSON object; an empty one is none."""
        value = json.loads(text)
        if value == {}:
            return None
        names = ("certificateSecretArn", "keySecretArn", "caSecretArn")
        if not isinstance(value, dict):
            raise Explained("it is no object")
        foreign = sorted(set(value) - set(names))
        missing = [name for name in names if name not in value]
        if foreign or missing:
            raise Explained("; ".join([*(f"{n} is missing" for n in missing), *(f"{n} is unknown" for n in foreign)]))
        for name in names:
            if _ARN_OF_SECRET.fullmatch(str(value[name])) is None:
                raise Explained(f"{name} is not the ARN of a secret in AWS Secrets Manager")
        return cls(
            certificate_secret_arn=value["certificateSecretArn"],
            key_secret_arn=value["keySecretArn"],
            ca_secret_arn=value["caSecretArn"],
        )

    @property
    def secret_arns(self) -> tuple[str, str, str]:
        """The three secrets."""
        return self.certificate_secret_arn, self.key_secret_arn, self.ca_secret_arn


def boolean() -> Reader:
    """Read true or false."""
    return {"true": True, "false": False}.__getitem__, "true or false"


def integer(low: int, high: int) -> Reader:
    """Read a whole number within bounds."""

    def parse(text: str) -> int:
        # the command line may write a large default as 9e+09
        value = float(text)
        if not value.is_integer() or not low <= value <= high:
            raise ValueError(text)
        return int(value)

    return parse, f"a whole number from {low} to {high}"


def one_of(*numbers: int) -> Reader:
    """Read one of some numbers."""
    return (lambda text: _member(int(text), numbers)), _either(numbers)


def choice(*words: str) -> Reader:
    """Read one of some words."""
    return (lambda text: _member(text, words)), _either(words)


def _member(value: Any, allowed: tuple[Any, ...]) -> Any:  # noqa: ANN401  # numbers or words
    if value not in allowed:
        raise ValueError(value)
    return value


def _either(values: tuple[Any, ...]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}"


def matching(pattern: str, allowed: str) -> Reader:
    """Read a text of some form."""
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(text)
        return text

    return parse, allowed


def maybe(pattern: str, allowed: str) -> Reader:
    """Read a text of some form, or an empty one."""
    parse, _ = matching(pattern, allowed)
    return (lambda text: parse(text) if text else ""), allowed


def optional(reader: Reader) -> Reader:
    """Read a value, or None from an empty text."""
    parse, allowed = reader
    return (lambda text: parse(text) if text else None), allowed


def network() -> Reader:
    """Read an IPv4 network; the whole internet is none that anybody should let in."""

    def parse(text: str) -> IPv4Network:
        try:
            loose = IPv4Network(text, strict=False)
        except ValueError:
            hint = "IPv6 is not supported" if ":" in text else "an address and the length of its prefix are needed"
            raise Explained(hint) from None
        if loose.prefixlen == 0:
            raise Explained("that is the whole internet; name the networks of the hospital")
        if str(loose) != text and f"{loose.network_address}" != text.partition("/")[0]:
            raise Explained(f"did you mean {loose}, or {text.partition('/')[0]}/32 for this one machine?")
        return loose

    return parse, "a network such as 203.0.113.0/24"


def permitted_caller() -> Reader:
    """Read an AE title with an optional network; the application reads the same text again."""

    def parse(text: str) -> str:
        PermittedCaller.parse(text)
        return text

    return parse, "AE titles, each with a network if wanted: CT1, MR2@10.0.0.0/24"


def commitment_peer() -> Reader:
    """Read where storage commitment results go: an address, since rules of security groups hold no names."""

    def parse(text: str) -> CommitmentPeer:
        peer = CommitmentPeer.parse(text)
        try:
            IPv4Address(peer.host)
        except ValueError:
            raise Explained(f"{peer.host!r} is no IPv4 address") from None
        return peer

    return parse, "AE title, IPv4 address and port: CT1=10.1.2.3:104"


def list_of(reader: Reader) -> Reader:
    """Read a JSON list; each value once."""
    parse, allowed = reader

    def parse_all(text: str) -> tuple[Any, ...]:
        items = json.loads(text)
        if not isinstance(items, list):
            raise Explained("it is no list")
        parsed = []
        for item in items:
            stripped = str(item).strip()
            try:
                parsed.append(parse(stripped))
            except Explained:
                raise
            except (ValueError, InvalidIdentifier):
                raise Explained(f"{stripped!r} is wrong") from None
        return tuple(dict.fromkeys(parsed))

    return parse_all, f"a list of {allowed}" if not allowed.startswith("a ") else f"a list, each {allowed}"


def tags(text: str) -> Mapping[str, str]:
    """Read the tags of a stack."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise Explained("it is no object")
    for key, word in value.items():
        if not isinstance(word, str | int | float) or isinstance(word, bool):
            raise Explained(f"the value of {key} is no text")
        if key.lower().startswith("aws:"):
            raise Explained(f"{key}: names that begin with aws: are reserved")
        if not _TAG.fullmatch(key) or len(key) > _MAX_TAG_KEY or len(str(word)) > _MAX_TAG_VALUE:
            raise Explained(f"{key}: at most {_MAX_TAG_KEY} letters, digits, spaces and . : / = + - @ _ are allowed")
    return {key: str(word) for key, word in value.items()}
