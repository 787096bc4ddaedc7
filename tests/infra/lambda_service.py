"""
Lambda on loopback for functions in a container: its Runtime API, and a process for each function.

A process begins as Lambda begins it, with the entry point and the command that the deployment configured, and stays
for the calls that follow.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs

PATIENCE_SECONDS = 120.0
_NEXT = "/2018-06-01/runtime/invocation/next"


class FunctionFailed(Exception):
    """A function raised, or could not be loaded."""


@attrs.frozen
class Started:
    """How the process of a function is started: command line, environment, folder."""

    command: list[str]
    environment: Mapping[str, str]
    folder: Path


@attrs.define
class Function:
    """
    One function: calls go to its process one after the other.

    Attributes:
        start: as it was configured.

    """

    name: str
    start: Started
    _events: queue.Queue[bytes | None] = attrs.field(factory=queue.Queue)
    _answers: queue.Queue[tuple[str, bytes]] = attrs.field(factory=queue.Queue)
    _calling: threading.Lock = attrs.field(factory=threading.Lock)
    _server: ThreadingHTTPServer | None = None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.start.folder / f"{self.name}.log"

    def invoke(self, event: Mapping[str, Any]) -> Any:
        """
        Call it.

        Raises:
            FunctionFailed: with what it reported.

        """
        with self._calling:
            process = self._begin()
            self._events.put(json.dumps(event).encode())
            deadline = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < deadline:
                try:
                    what, body = self._answers.get(timeout=0.2)
                except queue.Empty:
                    if process.poll() is None:
                        continue
                    break
                if what == "response":
                    return json.loads(body)
                raise FunctionFailed(f"{self.name}: {body.decode()}")
            raise FunctionFailed(f"{self.name} does not answer: {self.log.read_text()}")

    def _begin(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), _api(self._events, self._answers))
            threading.Thread(target=self._server.serve_forever, name=f"lambda-{self.name}", daemon=True).start()
            address = f"127.0.0.1:{self._server.server_port}"
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self.start.command,
                    cwd=self.start.folder,
                    env={**self.start.environment, "AWS_LAMBDA_RUNTIME_API": address},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        return self._process

    def stop(self) -> None:
        """End its process, as Lambda does: without a word."""
        if self._process is not None and self._server is not None:
            self._process.kill()
            self._process.wait()
            self._events.put(None)
            self._server.shutdown()
            self._server.server_close()


def _api(events: queue.Queue[bytes | None], answers: queue.Queue[tuple[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == _NEXT, self.path
            event = events.get()
            if event is None:
                return
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd")
            self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + PATIENCE_SECONDS) * 1000)))
            self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:123456789012:function:f")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(event)))
            self.end_headers()
            self.wfile.write(event)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()
            answers.put((self.path.rpartition("/")[2], body))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the same
            pass

    return Api


@attrs.define
class LambdaService:
    """
    Every function of a stack.

    Attributes:
        describe: tells how the process of a function is started.
        answered: the functions that have.

    """

    describe: Callable[[str], Started]
    answered: set[str] = attrs.field(factory=set)
    _functions: dict[str, Function] = attrs.field(factory=dict)
    _opening: threading.Lock = attrs.field(factory=threading.Lock)

    def invoke(self, name: str, event: Mapping[str, Any]) -> Any:
        with self._opening:
            if name not in self._functions:
                self._functions[name] = Function(name, self.describe(name))
        answer = self._functions[name].invoke(event)
        self.answered.add(name)
        return answer

    def stop(self) -> None:
        for function in self._functions.values():
            function.stop()
