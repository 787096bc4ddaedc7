"""What is fuzzed: each target takes any bytes, checks its promises, and returns a short account of what happened."""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import NamedTuple

from adapters.inbound.dicom.associate import MAXIMUM_LENGTH, MINIMUM_LENGTH, decode_request, encode_accept
from adapters.inbound.dicom.commitment_data import TRANSFER_SYNTAXES, read_request
from adapters.inbound.dicom.dataset import IdentityReader
from adapters.inbound.dicom.dimse import (
    MAXIMUM_COMMAND_BYTES,
    CommandReceived,
    MessageReader,
    decode_command,
    encode_response,
)
from adapters.inbound.dicom.indications import Fragment
from adapters.inbound.dicom.presentation import MAXIMUM_OPERATIONS, PresentationPolicy
from domain.errors import ProtocolViolation, UnreadableDataSet
from tests.fuzz.wire import MAXIMUM_PDU_BYTES, Session, check_sent, promise

Target = Callable[[bytes], Hashable]

SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50",
)
COMMITMENT_SYNTAXES = tuple(sorted(TRANSFER_SYNTAXES))
POLICIES = (
    PresentationPolicy(),
    PresentationPolicy.parse(["standard"], "all"),
    PresentationPolicy.parse(["1.2.840.10008.5.1.4.1.1.2"]),
)
_PIECES = (1, 2, 3, 5, 6, 7, 11, 12, 16, 64, 255, 1000)
_LONGEST_CARRY = 2048
_INFLATED_BYTES = 64 * 1024


def cut(data: bytes, seed: int) -> Iterator[bytes]:
    """Cut into pieces of sizes that `seed` chooses; 0 leaves it whole."""
    if not seed:
        yield data
        return
    position = 0
    while position < len(data):
        size = _PIECES[seed % len(_PIECES)]
        seed = seed * 5 + 1 & 0xFFFF
        yield data[position : position + size]
        position += size


def upper_layer(data: bytes) -> Hashable:
    """
    Feed a connection a stream: byte 0 chooses the pieces, bit 0 of byte 1 that nothing is cut, bit 1 commitment.

    A requestor waits for the answer to its request, so that usually comes in pieces of its own.
    """
    if len(data) < 2:
        return None
    seed, flags = data[0], data[1]
    stream = data[2:]
    with_commitments = bool(flags & 2)
    if flags & 1:
        return _account(Session([stream], with_commitments=with_commitments).run())
    end = _end_of_request(stream)
    request, rest = stream[:end], stream[end:]
    one = Session([request, rest], with_commitments=with_commitments).run()
    other = Session([*cut(request, seed), *cut(rest, seed)], with_commitments=with_commitments).run()
    promise(_is_the_same(_account(one), _account(other)), "however the bytes are split, the same happens")
    return _account(one)


def _is_the_same(whole: _Account, cut_up: _Account) -> bool:
    # Whatever follows a request for release in the same bytes came before our answer, else after it, and then nobody
    # cares; a requestor waits.
    is_released = cut_up.end == "released" and whole.end in {"violated", "aborted"}
    if is_released and whole.events[:-1] == cut_up.events[:-1]:
        return (whole.finished, whole.abandoned) == (cut_up.finished, cut_up.abandoned)
    return whole == cut_up


def _end_of_request(stream: bytes) -> int:
    if len(stream) < 6 or stream[0] != 1:
        return 0
    return min(6 + int.from_bytes(stream[2:6], "big"), len(stream))


class _Account(NamedTuple):
    end: str
    events: tuple[Hashable, ...]
    sent: tuple[int, ...] | None
    finished: int
    abandoned: int


def _account(session: Session) -> _Account:
    events = tuple((name, fields.get("reason"), fields.get("status")) for name, fields in session.told.events)
    taken = session.taken
    end = session.ends[0]
    # Who aborts, or breaks the protocol, may find in the same bytes that messages before it are not answered any more.
    sent = None if end in {"violated", "aborted"} else tuple(check_sent(bytes(session.wire.sent)))
    return _Account(end, events, sent, taken.finished, taken.abandoned)


def associate(data: bytes) -> Hashable:
    """Decode the body of an A-ASSOCIATE-RQ, negotiate by each policy, encode the answer."""
    if not data:
        return None
    try:
        request = decode_request(data[1:])
    except ProtocolViolation as violation:
        return violation.problem
    policy = POLICIES[data[0] % len(POLICIES)]
    accept = policy.negotiate(request, MAXIMUM_PDU_BYTES)
    promise(len(accept.contexts) == len(request.contexts) <= 128, "each context is answered")
    if accept.asynchronous_operations is not None:
        promise(1 <= accept.asynchronous_operations[0] <= MAXIMUM_OPERATIONS, "the window is ours")
    encoded = encode_accept(request, accept)
    check_sent(encoded)
    promise(len(encoded) <= MAXIMUM_LENGTH, "the answer has a bounded length")
    _check_items(encoded[6 + MINIMUM_LENGTH :])
    return (
        tuple(context.result for context in accept.contexts),
        len(accept.roles),
        len(accept.extended),
        len(request.common_extended),
        None if request.user_identity is None else request.user_identity.kind,
    )


def _check_items(items: bytes) -> None:
    position = 0
    while position < len(items):
        promise(len(items) - position >= 4, "an item has a header")
        (length,) = struct.unpack_from(">H", items, position + 2)
        position += 4 + length
    promise(position == len(items), "the items fill their PDU")


def command_set(data: bytes) -> Hashable:
    """Decode a command set whole, and as fragments whose sizes byte 0 chooses."""
    if not data:
        return None
    seed, encoded = data[0], data[1:]
    whole: Hashable
    try:
        command = decode_command(encoded)
        response = encode_response(command, 0xC000, comment="x" * 64, offending_element=0x00080018)
        decode_command(response)
        whole = (command.field, command.has_data_set, command.sop_class_uid, command.sop_instance_uid)
    except ProtocolViolation as violation:
        whole = violation.problem
    reader = MessageReader()
    pieces = list(cut(encoded, seed))
    parts: Hashable = None
    try:
        for at, piece in enumerate(pieces):
            event = reader.feed(Fragment(1, True, at == len(pieces) - 1, memoryview(piece)))
            promise(len(reader._command_bytes) <= MAXIMUM_COMMAND_BYTES, "a command set is bounded")
            if isinstance(event, CommandReceived):
                found = event.command
                parts = (found.field, found.has_data_set, found.sop_class_uid, found.sop_instance_uid)
    except ProtocolViolation as violation:
        parts = violation.problem
    if pieces and len(encoded) + 6 * len(pieces) <= MAXIMUM_COMMAND_BYTES:
        promise(whole == parts, "however a command set is fragmented, it says the same")
    return whole[:2] if isinstance(whole, tuple) else whole


def data_set(data: bytes) -> Hashable:
    """Read the identifying attributes: byte 0 chooses the transfer syntax, byte 1 the pieces."""
    if len(data) < 2:
        return None
    syntax = SYNTAXES[data[0] % len(SYNTAXES)]
    results: list[Hashable] = []
    for seed in (0, data[1]):
        reader = IdentityReader(syntax, inflated_budget=_INFLATED_BYTES)  # a bomb takes its time, which others need
        try:
            for piece in cut(data[2:], seed):
                reader.feed(piece)
                promise(len(reader._carry) <= _LONGEST_CARRY, "little is kept of a data set")
            results.append(reader.result())
        except UnreadableDataSet as error:
            results.append(error.problem)
    texts = [result if isinstance(result, str) else "" for result in results]
    promise(results[0] == results[1] or all(texts), f"however a data set is split, it says the same: {results}")
    return texts[0] or "read"


def commitment(data: bytes) -> Hashable:
    """Read the request of a storage commitment; byte 0 chooses the transfer syntax."""
    if not data:
        return None
    try:
        asked = read_request(data[1:], COMMITMENT_SYNTAXES[data[0] % len(COMMITMENT_SYNTAXES)])
    except UnreadableDataSet as error:
        return error.problem
    promise(len(asked.references) >= 1, "a request refers to something")
    return min(len(asked.references), 3)


TARGETS: Mapping[str, Target] = {
    "upper_layer": upper_layer,
    "associate": associate,
    "command_set": command_set,
    "data_set": data_set,
    "commitment": commitment,
}
