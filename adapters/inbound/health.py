"""
The HTTP port for load balancers, monitors and people.

    /livez      200 while the process works; what a load balancer checks: a new task would not heal a full disk or S3
    /readyz     200 while more is taken, else 503 and why; for people and alarms
    /metrics    numbers for Prometheus

No patient data passes here.
The port cannot be used to hurt the receiver: connections, bytes and time of each request are bounded.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

import attrs

from adapters.inbound.metrics import Metrics

_PLAIN_TEXT = "text/plain; charset=utf-8"
_MOST_HEAD_BYTES = 8 << 10
_POLL_SECONDS = 0.25
_Answer = tuple[HTTPStatus, str, bytes]


@attrs.frozen(kw_only=True)
class Health:
    """
    What the port tells.

    Attributes:
        is_alive: whether the process does its work.
        problems: why no more is taken; empty while it is.
        metrics: the numbers.

    """

    is_alive: Callable[[], bool]
    problems: Callable[[], list[str]]
    metrics: Metrics


class HealthServer:
    """
    Serves the port in threads of its own.

    Args:
        health: what it tells.
        host: an address of this machine.
        port: 0 takes a free one.
        seconds: what one request may take.
        connections: how many may be open at once, half of them from one address; the next are closed.

    """

    def __init__(self, health: Health, *, host: str, port: int, seconds: float = 3.0, connections: int = 16) -> None:
        self._server: _Server | None = None
        self._health = health
        self._host = host
        self._port = port
        self._seconds = seconds
        self._connections = connections
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """
        Begin to serve and return the port.

        Raises:
            OSError: it cannot be listened on.

        """
        self._server = _Server(self._health, self._host, self._port, self._seconds, self._connections)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="health", daemon=True
        )
        self._thread.start()
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Stop serving; may be repeated."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, health: Health, host: str, port: int, seconds: float, connections: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.health = health
        self.seconds = seconds
        self._connections = connections
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer would ask DNS for our name, which may take long and is of no use here.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # the library's own
        if not self._take(client_address[0]):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._give_back(client_address[0])
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # the library's own
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._give_back(client_address[0])

    def _take(self, address: str) -> bool:
        # Nobody alone may take what a load balancer needs: its target would be replaced.
        with self._lock:
            is_free = self._open.total() < self._connections and self._open.get(address, 0) < max(
                1, self._connections // 2
            )
            if is_free:
                self._open[address] += 1
            return is_free

    def _give_back(self, address: str) -> None:
        with self._lock:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # the library's own
        """Say nothing: whoever speaks no HTTP here is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "ahi-storescp"
    sys_version = ""

    def setup(self) -> None:
        self.connection = self.request
        self.connection.settimeout(self.server.seconds)
        self.rfile = io.BytesIO(_read_head(self.connection, time.monotonic() + self.server.seconds))
        self.wfile = io.BytesIO()

    def finish(self) -> None:
        assert isinstance(self.wfile, io.BytesIO)  # noqa: S101  # set up above
        with contextlib.suppress(OSError):
            self.connection.sendall(self.wfile.getvalue())

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the library's own
        """Log nothing: load balancers ask every few seconds."""

    def _answer(self, *, with_body: bool) -> None:
        answer = _ANSWERS.get(self.path.partition("?")[0], _not_found)
        status, content_type, body = answer(self.server.health, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    """Read until the empty line; what is late or long is cut off, and no request then."""
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        left = deadline - time.monotonic()
        if left <= 0 or len(head) > _MOST_HEAD_BYTES:
            return b""
        connection.settimeout(left)
        try:
            piece = connection.recv(_MOST_HEAD_BYTES)
        except OSError:
            return b""
        if not piece:
            return b""
        head += piece
    return head


def _livez(health: Health, _accept: str) -> _Answer:
    return _said(["the DICOM port takes no connections"] if not health.is_alive() else [])


def _readyz(health: Health, _accept: str) -> _Answer:
    return _said(health.problems())


def _metrics(health: Health, accept: str) -> _Answer:
    content_type, text = health.metrics.text(accept)
    return HTTPStatus.OK, content_type, text


def _not_found(_health: Health, _accept: str) -> _Answer:
    return HTTPStatus.NOT_FOUND, _PLAIN_TEXT, b"/livez, /readyz and /metrics are here\n"


def _said(problems: list[str]) -> _Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, _PLAIN_TEXT, "".join(f"{line}\n" for line in problems or ["ok"]).encode()


_ANSWERS: Mapping[str, Callable[[Health, str], _Answer]] = {
    "/livez": _livez,
    "/readyz": _readyz,
    "/metrics": _metrics,
}
