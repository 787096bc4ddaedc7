import http.client
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from adapters.inbound.dicom.counters import LATENCY_BOUNDS, Counters
from adapters.inbound.dicom.server import Totals
from adapters.inbound.health import Health, HealthServer
from adapters.inbound.metrics import Held, Metrics, Sources

pytestmark = pytest.mark.usefixtures("no_threads_left")


def some_totals() -> Totals:
    work = Counters(stored=2, refused=1, echoed=3, data_set_bytes=1000)
    work.answered(0x0000, 0.0004)
    work.answered(0x0000, 0.002)
    work.answered(0xA700, 99.0)
    return Totals(
        open_connections=5,
        open_associations=4,
        accepted=9,
        work=work,
        ends={"released": 3, "lost": 1},
        rejections={"1,1,7": 2},
        tls_failures={"no_shared_cipher": 1},
    )


class Told:
    """A port whose answers a test sets."""

    def __init__(self, **limits: float) -> None:
        self.is_alive = True
        self.problems: list[str] = []
        sources = Sources(
            totals=some_totals,
            held=lambda: Held(memory=7, temporary=8, stores=1),
            batch_age=lambda: 12.5,
            certificate_seconds=lambda: 3600.0,
            is_ready=lambda: not self.problems,
            events=lambda: {"association.lost": 1},
        )
        health = Health(is_alive=lambda: self.is_alive, problems=lambda: self.problems, metrics=Metrics(sources))
        self.server = HealthServer(health, host="127.0.0.1", port=0, **limits)  # type: ignore[arg-type]
        self.port = self.server.start()

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read().decode()


@pytest.fixture
def told() -> Iterator[Told]:
    one = Told(seconds=1.0, connections=8)
    yield one
    one.server.stop()
    one.server.stop()


def test_livez_and_readyz_say_what_is_so(told: Told) -> None:
    assert told.get("/livez")[::2] == (200, "ok\n")
    assert told.get("/readyz?verbose")[::2] == (200, "ok\n")
    told.problems = ["the disk is full", "it rains"]
    assert told.get("/readyz")[::2] == (503, "the disk is full\nit rains\n")
    assert told.get("/livez")[0] == 200
    told.is_alive = False
    assert told.get("/livez")[0] == 503
    assert told.get("/livez", "HEAD")[::2] == (503, "")


def test_other_paths_and_methods_are_told(told: Told) -> None:
    assert told.get("/")[0] == 404
    assert told.get("/livez", "POST")[0] == 501


def test_metrics_are_those_of_prometheus(told: Told) -> None:
    status, content_type, text = told.get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    lines = text.splitlines()
    for line in (
        "storescp_associations_open 4.0",
        "storescp_associations_total 9.0",
        'storescp_connections_total{end="released"} 3.0',
        'storescp_rejections_total{code="1,1,7"} 2.0',
        'storescp_tls_failures_total{cause="no_shared_cipher"} 1.0',
        "storescp_instances_total 2.0",
        "storescp_data_set_bytes_total 1000.0",
        'storescp_c_store_answers_total{status="0x0000"} 2.0',
        'storescp_c_store_answers_total{status="0xA700"} 1.0',
        'storescp_c_store_answer_seconds_bucket{le="0.0005"} 1.0',
        'storescp_c_store_answer_seconds_bucket{le="30.0"} 2.0',
        'storescp_c_store_answer_seconds_bucket{le="+Inf"} 3.0',
        "storescp_c_store_answer_seconds_count 3.0",
        "storescp_memory_in_flight_bytes 7.0",
        "storescp_temporary_in_flight_bytes 8.0",
        "storescp_batch_age_seconds 12.5",
        "storescp_certificate_expiry_seconds 3600.0",
        'storescp_events_total{event="association.lost"} 1.0',
        "storescp_ready 1.0",
    ):
        assert line in lines
    _, content_type, _ = told.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")


def test_who_says_nothing_or_drips_is_cut_off_and_stops_nobody(told: Told) -> None:
    silent = socket.create_connection(("127.0.0.1", told.port), timeout=10)
    dripping = socket.create_connection(("127.0.0.1", told.port), timeout=10)
    dripping.sendall(b"GET /livez HTTP/1.1\r\n")
    assert told.get("/livez")[0] == 200
    deadline = time.monotonic() + 30  # the server takes a second; each drip would give it another one
    with pytest.raises(OSError):  # noqa: PT011, PT012  # broken or reset
        while time.monotonic() < deadline:
            dripping.sendall(b"X: y\r\n")
            time.sleep(0.05)
    assert silent.recv(10) == b""
    silent.close()
    dripping.close()


def test_more_connections_than_allowed_are_closed() -> None:
    told = Told(seconds=60.0, connections=8)
    held = [socket.create_connection(("127.0.0.1", told.port), timeout=10) for _ in range(4)]
    with socket.create_connection(("127.0.0.1", told.port), timeout=10) as one_more:
        assert one_more.recv(10) == b""  # they are accepted in their order, so the others are held by now
    for connected in held:
        connected.close()
    deadline = time.monotonic() + 30
    status = 0
    while status != 200 and time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            status = told.get("/livez")[0]
    assert status == 200
    told.server.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the whole of 127.0.0.0/8")
def test_one_address_may_not_hold_every_connection() -> None:
    told = Told(seconds=60.0, connections=8)
    held = [socket.create_connection(("127.0.0.1", told.port), timeout=10) for _ in range(6)]
    assert [connected.recv(10) for connected in held[4:]] == [b"", b""]
    others = [
        socket.create_connection(("127.0.0.1", told.port), timeout=10, source_address=(f"127.0.0.{number}", 0))
        for number in (2, 2, 2, 3, 4)
    ]
    assert others[4].recv(10) == b"", "as many as may be, in all"
    others[3].sendall(b"GET /livez HTTP/1.1\r\n\r\n")
    assert b"200 OK" in others[3].recv(1000)
    for connected in (*held, *others):
        connected.close()
    told.server.stop()


def test_a_long_or_senseless_request_is_cut_off(told: Told) -> None:
    for request in (b"GET /" + b"x" * 20_000, b"\x16\x03\x01\x02\x00\r\n\r\n", b""):
        answer = b""
        with socket.create_connection(("127.0.0.1", told.port), timeout=10) as connected:
            # It may be cut off while we are still sending, and then the reset takes an answer with it.
            with suppress(ConnectionError, OSError):
                connected.sendall(request)
                connected.shutdown(socket.SHUT_WR)
                answer = connected.recv(1000)
        assert b"200" not in answer
    assert told.get("/livez")[0] == 200


def test_a_port_in_use_is_an_error_that_can_be_told(told: Told) -> None:
    health = Health(is_alive=bool, problems=list, metrics=Metrics(Sources(totals=some_totals)))
    with pytest.raises(OSError, match="in use"):
        HealthServer(health, host="127.0.0.1", port=told.port).start()


def test_counters_add_up_and_keep_the_latest_times() -> None:
    total = Counters(staged_at=5.0)
    for seconds in (0.0, *LATENCY_BOUNDS, 1e9):
        total.answered(0, seconds)
    other = Counters(stored=1, refused=2, echoed=3, data_set_bytes=4, stage_failed_at=1.0, staged_at=2.0)
    other.answered(0xA700, 1.0)
    total.add(other)
    assert total.statuses == {0: len(LATENCY_BOUNDS) + 2, 0xA700: 1}
    assert sum(total.latencies) == len(LATENCY_BOUNDS) + 3
    assert (total.stage_failed_at, total.staged_at) == (1.0, 5.0)
    assert (total.stored, total.refused, total.echoed, total.data_set_bytes) == (1, 2, 3, 4)
