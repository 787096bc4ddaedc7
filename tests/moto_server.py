"""
A simulated AWS over real HTTP for the tests of adapters: moto's server in a thread, on a free port.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tests.service_models import watched

REGION = "eu-central-1"


class MotoServer(ThreadedMotoServer):
    """moto's server, which answers one request after the other: its conditional writes are not atomic otherwise."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 0, verbose=False)

    def _server_entry(self) -> None:
        application = DomainDispatcherApplication(create_backend_app)
        lock = threading.Lock()

        def one_at_a_time(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            with lock:
                answer: Iterable[bytes] = application(environ, start_response)
                return answer

        self._server = make_server(
            self._ip_address, self._port, one_at_a_time, threaded=True, request_handler=MotoRequestHandler
        )
        self._server_ready_event.set()
        self._server.serve_forever(0.01)
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.get_host_and_port()
        return f"http://{host}:{port}"

    def client(self, service: str, **options: Any) -> Any:
        """Return a boto3 client of that service, with settings for tests unless `options` say otherwise."""
        # Any: the type of a client depends on the text.
        session = boto3.session.Session(
            aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION
        )
        config = Config(
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=32,
            retries={"mode": "standard", "max_attempts": 3},
        )
        client = session.client(service, **{"endpoint_url": self.url, "config": config, **options})  # type: ignore[call-overload]
        return watched(client)


@contextmanager
def moto_server() -> Iterator[MotoServer]:
    """Run a server while the context lasts."""
    server = MotoServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
