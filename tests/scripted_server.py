"""
A loopback HTTP server that answers as a test tells it to, and remembers what it was asked.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Request:
    """What was asked; names of headers may be spelled in any case."""

    method: str
    path: str
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@attrs.frozen(kw_only=True)
class Answer:
    """
    What is answered.

    Attributes:
        cut: so many bytes of the body are sent, then the connection is closed.
        is_lost: the connection is closed without an answer.

    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    cut: int | None = None
    is_lost: bool = False


def json_answer(body: object, status: int = 200, **headers: str) -> Answer:
    """Return an answer in JSON."""
    return Answer(
        status=status, body=json.dumps(body).encode(), headers={"Content-Type": "application/json", **headers}
    )


def error_answer(code: str, status: int, message: str = "no") -> Answer:
    """Return an error as REST-JSON services put it."""
    return json_answer({"message": message}, status, **{"x-amzn-ErrorType": code, "x-amzn-RequestId": "R-1"})


def s3_error(code: str, status: int) -> Answer:
    """Return an error as S3 puts it."""
    return Answer(status=status, body=f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


class ScriptedServer:
    """Answers each request by `answer`, which a test may replace; `requests` is what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Answer] = lambda _request: Answer()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="scripted", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def script(self, *answers: Answer) -> None:
        """Answer the next requests so, in this order, and every one after that as the last."""
        left = list(answers)
        self.answer = lambda _request: left.pop(0) if len(left) > 1 else left[0]

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Run a server while the context lasts."""
    server = ScriptedServer()
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer
    owner: ScriptedServer

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        request = Request(method=self.command, path=self.path, headers=self.headers, body=self.rfile.read(length))
        self.owner.requests.append(request)
        answer = self.owner.answer(request)
        if answer.is_lost:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
        self.wfile.flush()
        if answer.cut is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815  # as the standard library calls them

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""
