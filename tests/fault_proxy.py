"""
A loopback HTTP proxy in front of a simulated AWS, at which single requests go wrong as they do on a network.

    proxy.fail("s3:PutObject", Failure(status=503, code="SlowDown"), times=2)
    proxy.fail("dynamodb:*", RESET)
    proxy.clear()

A request is named as IAM names it, `service:Operation`.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import attrs


@attrs.frozen(kw_only=True)
class Failure:
    """
    What becomes of a request.

    Attributes:
        status: answered without asking the server; 0 answers nothing and resets the connection.
        code: the error that is answered.
        is_done: the request reaches the server all the same, and only its answer is replaced.
        is_late: with `is_done`, the server's own answer goes out once `happens` has ended.
        is_mid_body: reset when half of the request's body was read.
        hang_seconds: nothing happens for so long before.
        happens: called first, or when the request has reached the server if it does.

    """

    status: int = 0
    code: str = ""
    is_done: bool = False
    is_late: bool = False
    is_mid_body: bool = False
    hang_seconds: float = 0.0
    happens: Callable[[], None] = lambda: None


RESET = Failure()
RESET_MID_BODY = Failure(is_mid_body=True)
LOST_ANSWER = Failure(is_done=True)


@attrs.define
class _Rule:
    name: str
    failure: Failure
    times: int | None
    after: int


class FaultProxy:
    """Forwards to `target`, a URL, except where told otherwise; listens on a free port of loopback."""

    def __init__(self, target: str) -> None:
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.requests: list[str] = []
        self.released = threading.Event()
        self._server = _Server(self, urlsplit(target).netloc)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="fault-proxy", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, name: str, failure: Failure, *, times: int | None = None, after: int = 0) -> None:
        """Let requests of that name (`*` is a wildcard) fail, so many times or until `clear`, `after` that many."""
        with self._lock:
            self._rules.append(_Rule(name, failure, times, after))

    def clear(self) -> None:
        """Forward everything again."""
        with self._lock:
            self._rules.clear()

    def count(self, name: str) -> int:
        """Return how many requests of that name came."""
        with self._lock:
            return sum(fnmatchcase(each, name) for each in self.requests)

    def judge(self, name: str) -> Failure | None:
        """Note a request and tell what becomes of it."""
        with self._lock:
            self.requests.append(name)
            for rule in self._rules:
                if fnmatchcase(name, rule.name) and rule.times != 0:
                    if rule.after:
                        rule.after -= 1
                        continue
                    if rule.times is not None:
                        rule.times -= 1
                    return rule.failure
        return None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, target: str) -> None:
        self.proxy = proxy
        self.target = target
        self._open: dict[socket.socket, threading.Thread] = {}
        self._opening = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._opening:
            self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._opening:
                self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def hang_up(self) -> None:
        with self._opening:
            connections = dict(self._open)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        self._forward()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815  # as the base class looks for them

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base has it
        pass

    def _forward(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        name = f"{self._service()}:{self._operation()}"
        body = b""
        if self._service() == "sns":  # its operation is in the body
            body = self.rfile.read(length)
            name = f"sns:{parse_qs(body.decode()).get('Action', [''])[0]}"
        failure = self.server.proxy.judge(name)
        if failure is not None and failure.hang_seconds:
            self.server.proxy.released.wait(failure.hang_seconds)
        if failure is not None and failure.is_mid_body:
            self.rfile.read(length // 2)
            self._reset()
            return
        body = body or self.rfile.read(length)
        answer = None if failure is not None and not failure.is_done else self._ask(body)
        if failure is not None:
            failure.happens()
        if answer is not None and (failure is None or failure.is_late):
            self._send(*answer)
        elif failure is not None and failure.status:
            self._refuse(failure)
        else:
            self._reset()

    def _ask(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        told = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", told or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, failure: Failure) -> None:
        if self._service() in {"s3", "sns"}:
            content = f"<Error><Code>{failure.code}</Code><Message>asked for</Message></Error>".encode()
            self._send(failure.status, {"Content-Type": "application/xml", "x-amz-request-id": "FAULT"}, content)
        else:
            content = json.dumps({"__type": f"com.amazonaws#{failure.code}", "message": "asked for"}).encode()
            self._send(failure.status, {"Content-Type": "application/x-amz-json-1.0"}, content)

    def _reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            # With this option closing sends a reset, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _service(self) -> str:
        found = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", self.headers.get("Authorization", ""))
        return found[1] if found else "unsigned"

    def _operation(self) -> str:
        target = self.headers.get("X-Amz-Target")
        if target:
            return target.rpartition(".")[2]
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if self.command == "GET":
            return "ListObjectsV2" if "list-type" in query else "GetObject"
        if self.command == "POST":
            return "DeleteObjects" if "delete" in query else "MultipartUpload"
        return {"PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(self.command, self.command)
