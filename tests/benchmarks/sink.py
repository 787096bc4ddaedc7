"""
A stand-in for S3 that confirms every PUT and keeps nothing, in a process of its own with one thread.

It answers what the receiver asks DynamoDB and Step Functions, too, so that a batch can be opened and closed.
A PUT is confirmed a set time after its last byte came; waiting takes no processor.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import attrs

from tests.benchmarks.machine import stand_elsewhere

_READ_BYTES = 1 << 20
_END = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CONFIRMED = b'HTTP/1.1 200 OK\r\nETag: "sink"\r\nContent-Length: 0\r\n\r\n'
_ANSWERS = {
    b"query": b'{"Items":[],"Count":0,"ScannedCount":0}',
    b"describetable": b'{"Table":{"TableStatus":"ACTIVE"}}',
    b"startexecution": b'{"executionArn":"arn:aws:states:eu-central-1:123456789012:execution:a:b","startDate":0}',
}


@attrs.frozen(kw_only=True)
class Taken:
    """
    What a sink took so far.

    Attributes:
        puts: how many PUTs it confirmed.
        others: how many other requests came to S3.
        waited: seconds by which PUTs were confirmed after their last byte, all together.

    """

    puts: int
    others: int
    waited: float


@attrs.frozen
class Sink:
    """A running sink."""

    url: str
    _questions: multiprocessing.connection.Connection

    def taken(self) -> Taken:
        """Return what it took so far."""
        self._questions.send(None)
        answer = self._questions.recv()
        assert isinstance(answer, Taken)
        return answer


@contextmanager
def sink(latency_seconds: float = 0.0) -> Iterator[Sink]:
    """Run a sink that confirms a PUT so long after its last byte."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    questions, answers = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(listener, latency_seconds, answers), daemon=True
    )
    process.start()
    try:
        yield Sink(f"http://127.0.0.1:{listener.getsockname()[1]}", questions)
    finally:
        process.terminate()
        process.join()
        listener.close()
        questions.close()
        answers.close()


@attrs.define(eq=False)
class _Client:
    """
    One connection; requests come one after the other, as HTTP clients send them.

    Attributes:
        head: of a request, as far as it came.
        left: bytes of its body that are still to come.
        target: what is asked of DynamoDB or Step Functions; empty for S3.

    """

    line: socket.socket
    head: bytes = b""
    left: int = 0
    target: bytes = b""
    is_put: bool = False

    def fileno(self) -> int:
        return self.line.fileno()

    def take(self, buffer: memoryview) -> bool | None:
        """Take what came: True when a request is complete, None at the end of the connection."""
        try:
            received = self.line.recv_into(buffer)
        except ConnectionResetError:
            return None
        if not received:
            return None
        if self.left:
            self.left -= received
            return self.left <= 0
        self.head += buffer[:received]
        head, end, body = self.head.partition(_END)
        if not end:
            return False
        self.head = b""
        lines = head.lower().split(b"\r\n")
        self.is_put = head.startswith(b"PUT")
        self.target = _header(lines, b"x-amz-target:").partition(b".")[2]
        if b"expect: 100-continue" in lines:
            self.line.sendall(_CONTINUE)
        self.left = int(_header(lines, b"content-length:") or 0) - len(body)
        return self.left <= 0


def _header(lines: list[bytes], name: bytes) -> bytes:
    return next((line[len(name) :].strip() for line in lines if line.startswith(name)), b"")


def _serve(
    listener: socket.socket, latency_seconds: float, questions: multiprocessing.connection.Connection
) -> NoReturn:
    stand_elsewhere()
    buffer = memoryview(bytearray(_READ_BYTES))
    sources: list[socket.socket | _Client | multiprocessing.connection.Connection] = [listener, questions]
    due: deque[tuple[float, _Client]] = deque()  # all wait equally long, so they are due in the order they came
    puts, others, waited = 0, 0, 0.0
    while True:
        # select() alone takes microseconds; epoll would round up to the next millisecond
        wait = max(0.0, due[0][0] - time.perf_counter()) if due else None
        for source in select.select(sources, (), (), wait)[0]:
            if isinstance(source, _Client):
                is_complete = source.take(buffer)
                if is_complete is None:
                    sources.remove(source)
                    source.line.close()
                elif is_complete and source.target:
                    source.line.sendall(_answer(source.target))
                elif is_complete and source.is_put:
                    due.append((time.perf_counter() + latency_seconds, source))
                elif is_complete:
                    others += 1
                    source.line.sendall(_CONFIRMED)
            elif isinstance(source, socket.socket):
                line = source.accept()[0]
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sources.append(_Client(line))
            else:
                source.recv()
                source.send(Taken(puts=puts, others=others, waited=waited))
        while due and (late := time.perf_counter() - due[0][0]) >= 0:
            due.popleft()[1].line.sendall(_CONFIRMED)
            puts += 1
            waited += latency_seconds + late


def _answer(target: bytes) -> bytes:
    body = _ANSWERS.get(target, b"{}")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body
