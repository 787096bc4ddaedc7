"""
The API over HTTP: sockets, signatures, the shape of answers and errors, and `/_control`.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from adapters.entrypoints.medical_imaging.behaviour import LOST_ANSWER, Behaviour
from adapters.entrypoints.medical_imaging.operations import Answer, Blob, FaultyInputs, FaultyOutputs, Operations
from adapters.entrypoints.medical_imaging.service_model import read_request, route, wire
from adapters.outbound.local.data_store import (
    DataStoreError,
    EmbeddedDataStore,
    InputObjects,
    InternalServerException,
    Limits,
    OutputObjects,
    ResultOptions,
)
from domain.identifiers import DataStoreId

CONTROL: Final = "/_control"
ACCOUNT: Final = "123456789012"

_MAX_BODY_BYTES: Final = 1 << 20
_IDLE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05  # how soon it notices that it shall stop
_SIGNATURE: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[^/,\s]+/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request,"
    r"\s*SignedHeaders=[a-z0-9;-]+,\s*Signature=[0-9a-f]{64}"
)


class MissingAuthenticationTokenException(DataStoreError):
    """The request is not signed, or not as AWS has it."""

    http_status = 403


class InvalidSignatureException(DataStoreError):
    """The request is signed for another service."""

    http_status = 403


class HealthImagingStandIn:
    """
    A data store behind the `medical-imaging` API, on a free or a given port of this machine.

    It listens on loopback only.
    A request must be signed; the signature itself is not computed, since any credentials will do here.

    Args:
        folder: the embedded data store's own folder.
        data_store_id: its id.
        inputs: where jobs read, such as S3InputObjects.
        outputs: where jobs write results.
        behaviour: rates, quotas and faults; the clock is its own.
        port: 0 takes a free one.
        region: of ARNs and signatures.
        limits: of one job.
        options: of results.
        workers: jobs that are run at once.

    """

    def __init__(
        self,
        folder: Path,
        data_store_id: DataStoreId,
        inputs: InputObjects,
        outputs: OutputObjects,
        behaviour: Behaviour,
        *,
        port: int = 0,
        region: str = "us-east-1",
        limits: Limits | None = None,
        options: ResultOptions | None = None,
        workers: int = 2,
    ) -> None:
        self.behaviour = behaviour
        self._outputs = FaultyOutputs(outputs, behaviour)
        self.store = EmbeddedDataStore(
            folder,
            data_store_id,
            FaultyInputs(inputs, behaviour),
            self._outputs,
            behaviour.clock,
            # Rates and quotas are the API's here: repeats and refusals count too, and a job may only seem to go on.
            rate=float("inf"),
            concurrency=1_000_000,
            limits=limits,
            options=options,
            workers=workers,
        )
        operations = Operations(
            store=self.store,
            data_store_id=data_store_id.value,
            inputs=inputs,
            outputs=outputs,
            behaviour=behaviour,
            region=region,
            account=ACCOUNT,
        )
        self._server = _Server(("127.0.0.1", port), operations, behaviour)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="medical-imaging", daemon=True
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        """Answer requests and run jobs from now on."""
        self.store.become_runner()
        self._thread.start()

    def stop(self) -> None:
        """Close everything; returns when no thread of it runs."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.hang_up()
        self._outputs.close()
        self.store.close()

    def __enter__(self) -> Self:
        """Start; it is stopped at the end of the context."""
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


class _Server(ThreadingHTTPServer):
    """One thread a connection; all of them end with the server."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], operations: Operations, behaviour: Behaviour) -> None:
        self.operations = operations
        self.behaviour = behaviour
        self._open: dict[socket.socket, threading.Thread] = {}
        self._opening = threading.Lock()
        super().__init__(address, _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as the base has it
        """Serve a connection."""
        with self._opening:
            self._open[request] = threading.current_thread()
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._opening:
                self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # as the base has it
        """Say nothing of clients that go away."""

    def hang_up(self) -> None:
        """Close every connection and wait for its thread."""
        with self._opening:
            connections = dict(self._open)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "HealthImagingStandIn"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    def do_POST(self) -> None:
        """Answer."""
        self._answer()

    def do_DELETE(self) -> None:
        """Answer."""
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the base has it
        """Log nothing."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        body = self._body()
        if body is None:
            return
        if url.path == CONTROL:
            self._control(body)
            return
        try:
            answer = self._operate(url.path, dict(parse_qsl(url.query, keep_blank_values=True)), body)
        except DataStoreError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001  # a bug answers one request badly, as the service would
            self._refuse(InternalServerException(type(error).__name__))
        else:
            if isinstance(answer, Blob):
                self._send(200, answer.content, answer.headers)
            elif answer is not None:
                self._send_json(200, wire(answer))

    def _operate(self, path: str, query: Mapping[str, str], body: bytes) -> Answer | None:
        """Carry out a request; None where the connection was closed instead."""
        self._check_signature()
        operation, labels = route(self.command, path)
        cut = self.server.behaviour.admit(operation.name)
        if cut is None or cut == LOST_ANSWER:
            asked = read_request(operation, labels, query, body)
            answer = self.server.operations(operation.name, asked)
            if cut is None:
                return answer
        self._hang_up()
        return None

    def _check_signature(self) -> None:
        signed = _SIGNATURE.fullmatch(self.headers.get("Authorization", ""))
        if signed is None or self.headers.get("X-Amz-Date") is None:
            raise MissingAuthenticationTokenException("Missing Authentication Token")
        if signed["service"] != "medical-imaging":
            raise InvalidSignatureException("Credential should be scoped to correct service: 'medical-imaging'.")

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > _MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self._send_json(413, {"message": "the body is too large, or its length is not told"})
            return None
        return self.rfile.read(int(length))

    def _control(self, body: bytes) -> None:
        """Show, change (POST) or end (DELETE) the faults; for this machine only, wherever the server listens."""
        if not ip_address(self.client_address[0]).is_loopback:
            self._send_json(403, {"message": "this machine only"})
            return
        behaviour = self.server.behaviour
        change: Callable[[], None] = {
            "POST": lambda: behaviour.change(json.loads(body)),
            "DELETE": behaviour.clear,
        }.get(self.command, lambda: None)
        try:
            change()
        except (AttributeError, TypeError, ValueError) as error:
            self._send_json(400, {"message": str(error)})
        else:
            self._send_json(200, behaviour.describe())

    def _refuse(self, error: DataStoreError) -> None:
        self._send_json(error.http_status, {"message": str(error)}, {"x-amzn-ErrorType": type(error).__name__})

    def _send_json(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
