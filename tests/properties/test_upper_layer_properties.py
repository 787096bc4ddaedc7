"""
Whatever the bytes and however they are split: the same events, or our error and an abort.
"""

import tracemalloc
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from adapters.inbound.dicom.associate import MAXIMUM_LENGTH, AssociateAccept, decode_request
from adapters.inbound.dicom.dataset import IdentityReader
from adapters.inbound.dicom.dimse import CommandReceived, MessageReader, decode_command, encode_response
from adapters.inbound.dicom.indications import (
    AbortIndication,
    AssociateIndication,
    Fragment,
    Indication,
    ReleaseIndication,
    ViolationIndication,
)
from adapters.inbound.dicom.presentation import PresentationPolicy
from adapters.inbound.dicom.state_table import State
from adapters.inbound.dicom.upper_layer import UpperLayer
from domain.errors import ProtocolViolation, UnreadableDataSet
from tests.unit.inbound import pdus

LIMIT = 4096
POLICY = PresentationPolicy()


def cut(data: bytes, pieces: Sequence[int]) -> list[bytes]:
    """Cut `data` into pieces of these sizes, over and over."""
    result = []
    position = number = 0
    while position < len(data):
        size = pieces[number % len(pieces)] if pieces else len(data)
        result.append(data[position : position + size])
        position += size
        number += 1
    return result


class Driver:
    """A receiver without sockets: answers as the real one does, and writes down what happened."""

    def __init__(self) -> None:
        self.layer = UpperLayer(LIMIT)
        self.layer.open()
        self.reader = MessageReader()
        self.sent = b""
        self.happened: list[tuple[object, ...]] = []

    def run(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            for indication in self.layer.receive(memoryview(bytearray(piece))):
                self.take(indication)
            self.sent += self.layer.data_to_send()

    @property
    def is_violated(self) -> bool:
        return any(what[0] == "violation" for what in self.happened)

    def take(self, indication: Indication) -> None:
        if isinstance(indication, AssociateIndication):
            accept: AssociateAccept = POLICY.negotiate(indication.request, LIMIT)
            self.layer.accept(accept)
            self.happened.append(("associate", accept))
        elif isinstance(indication, Fragment):
            self.fragment(indication)
        elif isinstance(indication, ReleaseIndication) and not self.layer.is_over:
            self.layer.respond_release()
            self.happened.append(("release",))
        elif isinstance(indication, ViolationIndication):
            self.happened.append(("violation", indication.reason))
        elif isinstance(indication, AbortIndication):
            self.happened.append(("abort", *indication))

    def fragment(self, fragment: Fragment) -> None:
        if self.is_violated:
            return
        try:
            event = self.reader.feed(fragment)
        except ProtocolViolation:
            self.happened.append(("violation", 0))
            self.layer.abort()
            return
        if isinstance(event, CommandReceived):
            self.happened.append(("command", event.context_id, event.command))
            if not event.command.has_data_set and self.layer.can_send:
                self.layer.send(event.context_id, encode_response(event.command, 0))
        elif event is not None:
            # Where a fragment was split is the transport's affair: pieces are joined until the last.
            data, is_last = bytes(event.data), event.is_last
            if self.happened and self.happened[-1][0] == "data" and not self.happened[-1][2]:
                before = self.happened.pop()[1]
                assert isinstance(before, bytes)
                data = before + data
            self.happened.append(("data", data, is_last))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Draw the P-DATA-TF PDUs of one message, in any legal fragmentation."""
    number = draw(st.integers(0, 65535))
    if draw(st.booleans()):
        parts = [(1, pdus.c_echo(number), 1)]
    else:
        data = draw(st.binary(max_size=300))
        parts = [(1, pdus.c_store("1.2.3", number), 3), (0, data, 3)]
    pdvs = []
    for control, data, context in parts:
        pieces = cut(data, draw(st.lists(st.integers(1, 200), max_size=3))) or [b""]
        pdvs += [
            pdus.pdv(context, control | (2 if at == len(pieces) - 1 else 0), piece) for at, piece in enumerate(pieces)
        ]
    stream = b""
    while pdvs:
        together = draw(st.integers(1, 4))
        stream += pdus.p_data(*pdvs[:together])
        pdvs = pdvs[together:]
    return stream


SESSIONS = st.builds(
    lambda parts, release: (pdus.associate_rq(), b"".join(parts) + (pdus.RELEASE_RQ if release else b"")),
    st.lists(messages(), max_size=4),
    st.booleans(),
)
SPLITS = st.lists(st.integers(1, 400), max_size=6)


@given(SESSIONS, SPLITS, SPLITS)
def test_any_split_gives_the_same_events_and_answers(
    session: tuple[bytes, bytes], one: list[int], another: list[int]
) -> None:
    results = []
    for split in ([], one, another, [1]):
        driver = Driver()
        # A requestor waits for the answer to its A-ASSOCIATE-RQ before it goes on.
        driver.run(cut(session[0], split))
        driver.run(cut(session[1], split))
        results.append((driver.happened, driver.sent, driver.layer.state))
    assert results == [results[0]] * 4
    assert "violation" not in [what[0] for what in results[0][0]]


def assert_it_ended_well(driver: Driver) -> None:
    """No exception came this far; a violation was answered by an abort, and nothing is kept."""
    if driver.is_violated and not any(what[0] == "abort" for what in driver.happened):
        assert b"\x07\0\0\0\0\4\0\0" in driver.sent
        assert driver.layer.state in {State.AWAIT_CLOSE, State.IDLE}
    assert len(driver.layer._partial) <= MAXIMUM_LENGTH


@given(SESSIONS, SPLITS, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
def test_any_mutation_ends_in_our_error_or_none(
    session: tuple[bytes, bytes], split: list[int], changes: list[tuple[int, int]]
) -> None:
    stream = bytearray(session[0] + session[1])
    for place, value in changes:
        stream[place % len(stream)] = value
    driver = Driver()
    driver.run(cut(bytes(stream[: len(session[0])]), split))
    driver.run(cut(bytes(stream[len(session[0]) :]), split))
    assert_it_ended_well(driver)


@given(st.binary(max_size=2000), SPLITS, st.booleans())
def test_random_bytes_end_in_our_error_or_none(data: bytes, split: list[int], within_association: bool) -> None:
    driver = Driver()
    if within_association:
        driver.run([pdus.associate_rq()])
    driver.run(cut(data, split))
    assert_it_ended_well(driver)


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=64), st.booleans())
def test_an_announced_length_alone_takes_no_memory(
    kind: int, length: int, data: bytes, within_association: bool
) -> None:
    driver = Driver()
    if within_association:
        driver.run([pdus.associate_rq()])
    tracemalloc.start()
    try:
        driver.run([bytes((kind, 0)) + length.to_bytes(4, "big") + data])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 * 1024


@given(st.binary(max_size=500))
def test_any_association_request_is_read_or_our_error(data: bytes) -> None:
    for body in (data, pdus.associate_rq()[6:74] + data):
        try:
            request = decode_request(body)
        except ProtocolViolation:
            continue
        POLICY.negotiate(request, LIMIT)


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_any_command_set_is_read_or_our_error(data: bytes, changes: list[tuple[int, int]]) -> None:
    valid = bytearray(pdus.c_store())
    for place, value in changes:
        valid[place % len(valid)] = value
    for command_set in (data, bytes(valid)):
        try:
            command = decode_command(command_set)
        except ProtocolViolation:
            continue
        encode_response(command, 0)


SYNTAXES = st.sampled_from(
    ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.3"]
)


@given(
    SYNTAXES,
    st.binary(max_size=400),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    SPLITS,
)
def test_any_data_set_is_read_or_our_error_however_split(
    syntax: str, noise: bytes, changes: list[tuple[int, int]], split: list[int]
) -> None:
    valid = bytearray(pdus.data_set(pixels=noise))
    for place, value in changes:
        valid[place % len(valid)] = value
    for data in (noise, bytes(valid)):
        results: list[object] = []
        for pieces in (cut(data, split), [data], cut(data, [1])):
            reader = IdentityReader(syntax)
            try:
                for piece in pieces:
                    reader.feed(piece)
                results.append(reader.result())
            except UnreadableDataSet:
                results.append(UnreadableDataSet)
            assert len(reader._carry) <= 2048
        assert results == [results[0]] * 3
