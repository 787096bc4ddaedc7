import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import attrs
import pytest

from adapters.memory.clock import FakeClock
from adapters.memory.telemetry import RecordingTelemetry
from adapters.outbound.ecs_task_protection import EcsTaskProtection


@attrs.define
class Agent:
    uri: str
    asked: list[dict[str, Any]] = attrs.field(factory=list)
    paths: list[str] = attrs.field(factory=list)
    answer: dict[str, Any] = attrs.field(factory=lambda: {"protection": {}})


@pytest.fixture
def agent() -> Iterator[Agent]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            seen.paths.append(self.path)
            seen.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(seen.answer).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        seen = Agent(f"http://127.0.0.1:{server.server_port}/api/task")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield seen
        server.shutdown()
        thread.join()


def test_the_task_is_protected_while_associations_are_open_and_no_longer(agent: Agent) -> None:
    protect = EcsTaskProtection(agent.uri, FakeClock(), RecordingTelemetry())
    for open_associations in (0, 1, 3, 0, 0):
        protect(open_associations)
    assert agent.asked == [{"ProtectionEnabled": True, "ExpiresInMinutes": 60}, {"ProtectionEnabled": False}]
    assert set(agent.paths) == {"/api/task/task-protection/v1/state"}


def test_protection_is_renewed_before_it_expires(agent: Agent) -> None:
    clock = FakeClock()
    protect = EcsTaskProtection(agent.uri, clock, RecordingTelemetry())
    protect(1)
    clock.advance(1199)
    protect(1)
    clock.advance(2)
    protect(1)
    assert len(agent.asked) == 2


def test_a_refusal_is_told_and_asked_for_again(agent: Agent) -> None:
    telemetry = RecordingTelemetry()
    protect = EcsTaskProtection(agent.uri, FakeClock(), telemetry)
    agent.answer = {"failure": {"Reason": "no"}}
    protect(1)
    agent.answer = {"protection": {}}
    protect(1)
    assert len(agent.asked) == 2
    assert [event.name for event in telemetry.events] == ["task.protection_delayed"]


def test_an_agent_that_is_away_disturbs_nothing() -> None:
    telemetry = RecordingTelemetry()
    EcsTaskProtection("http://127.0.0.1:9", FakeClock(), telemetry)(1)
    assert len(telemetry.events) == 1
