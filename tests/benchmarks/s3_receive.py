"""
The receiver with the profile of AWS against a sink on this machine: `python -m tests.benchmarks.s3_receive [--json]`.

Receiver, senders and sink are processes of their own; the sink confirms every PUT, late if asked to, and keeps
nothing, and it answers what the receiver asks DynamoDB and Step Functions.
9 KB instances over 16 associations with 30 ms before each confirmation, against what would be possible; then the CPU
of the receiver's process for an instance of 525 KB, with obstore as it is and with boto3's put_object in its place.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console

from tests.benchmarks import machine, report
from tests.benchmarks.images import CT_SLICE, SMALL, Kind
from tests.benchmarks.receivers import Ours

LATENCY_SECONDS = 0.030
ASSOCIATIONS = 16
RATE_GOAL = 0.8
CPU_GOAL_MS = 2.0
_SMALL_EACH = 150
_LARGE_EACH = 100
_LARGE_ASSOCIATIONS = 4
_READ = 1 << 18
_BOTO3 = "--with-boto3"
_CLIENT_SECONDS = 120
_ACCOUNT = "123456789012"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "sink", "AWS_SECRET_ACCESS_KEY": "sink"}


@attrs.define
class _OnAws(Ours):
    """`ahi-storescp serve --profile aws`, with obstore or with boto3 in its place."""

    is_boto3: bool = False

    def command(self) -> list[str]:
        usual = super().command()
        if self.is_boto3:
            usual[1:3] = ["-m", "tests.benchmarks.s3_receive", _BOTO3]
        return usual


def measure() -> dict[str, float]:
    """Measure everything; rates in instances a second."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with _sink(0.0) as url:
            with _receiver(folder / "zero", url) as receiver:
                single = _send(receiver, SMALL, 1, 4 * _SMALL_EACH).per_second
            with _receiver(folder / "zero-16", url) as receiver:
                zero = _send(receiver, SMALL, ASSOCIATIONS, _SMALL_EACH).per_second
            cpu = {}
            for name, is_boto3 in (("obstore", False), ("boto3", True)):
                with _receiver(folder / name, url, is_boto3=is_boto3) as receiver:
                    cpu[name] = _send(receiver, CT_SLICE, _LARGE_ASSOCIATIONS, _LARGE_EACH).cpu_ms
        with _sink(LATENCY_SECONDS) as url, _receiver(folder / "late", url) as receiver:
            late = _send(receiver, SMALL, ASSOCIATIONS, _SMALL_EACH).per_second
    possible = min(ASSOCIATIONS / (LATENCY_SECONDS + 1 / single), zero)
    return {
        "one_association_no_latency": single,
        "associations": ASSOCIATIONS,
        "no_latency": zero,
        "with_latency": late,
        "possible_with_latency": possible,
        "share_of_possible": late / possible,
        "cpu_ms_obstore": cpu["obstore"],
        "cpu_ms_boto3": cpu["boto3"],
    }


@attrs.frozen(kw_only=True)
class _Sent:
    per_second: float
    cpu_ms: float


def _send(receiver: Ours, kind: Kind, associations: int, each: int) -> _Sent:
    """Send from processes that begin together, after a few instances that are not counted."""
    _clients(receiver, kind, first=500, associations=1, each=10)
    before = machine.cpu_seconds(receiver.pids())
    seconds = _clients(receiver, kind, first=0, associations=associations, each=each)
    count = associations * each
    return _Sent(per_second=count / seconds, cpu_ms=(machine.cpu_seconds(receiver.pids()) - before) / count * 1e3)


def _clients(receiver: Ours, kind: Kind, *, first: int, associations: int, each: int) -> float:
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.probe", str(receiver.port), kind.name, str(number), str(each)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for number in range(first, first + associations)
    ]
    for client in clients:
        assert client.stdout is not None
        client.stdout.readline()  # it has its association
    start = time.perf_counter()
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
    for client in clients:
        client.communicate(timeout=_CLIENT_SECONDS)
    seconds = time.perf_counter() - start
    if any(client.returncode for client in clients):
        raise RuntimeError("a client failed")
    return seconds


def _receiver(folder: Path, url: str, *, is_boto3: bool = False) -> Ours:
    os.environ.update(_CREDENTIALS)
    arn = f"arn:aws:states:eu-central-1:{_ACCOUNT}:stateMachine:sink"
    return _OnAws(
        "s3",
        folder,
        settings={
            "profile": "aws",
            "region": "eu-central-1",
            "staging-bucket": "staging",
            "results-bucket": "results",
            "table": "sink",
            "data-store-id": "d" * 32,
            "data-access-role-arn": f"arn:aws:iam::{_ACCOUNT}:role/sink",
            "state-machine-arn": arn,
            "endpoint-url": url,
        },
        is_boto3=is_boto3,
    )


@contextmanager
def _sink(latency_seconds: float) -> Iterator[str]:
    """Run the sink in a process of its own; give its URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener, latency_seconds), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        process.terminate()
        process.join()
        listener.close()


def _serve(listener: socket.socket, latency_seconds: float) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_take, args=(connection, latency_seconds), daemon=True).start()


def _take(connection: socket.socket, latency_seconds: float) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(_READ))
    waiting = b""
    while True:
        while b"\r\n\r\n" not in waiting:
            received = connection.recv(_READ)
            if not received:
                return
            waiting += received
        head, _, waiting = waiting.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        if b"expect: 100-continue" in lines:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        left = int(_header(lines, b"content-length") or 0)
        left, waiting = left - len(waiting[:left]), waiting[left:]
        while left > 0:
            received_bytes = connection.recv_into(buffer[: min(left, _READ)])
            if not received_bytes:
                return
            left -= received_bytes
        target = _header(lines, b"x-amz-target").partition(b".")[2]
        if not target and head.startswith(b"PUT"):
            time.sleep(latency_seconds)
        connection.sendall(_answer(target))


def _header(lines: list[bytes], name: bytes) -> bytes:
    return next((line.partition(b":")[2].strip() for line in lines if line.startswith(name + b":")), b"")


def _answer(target: bytes) -> bytes:
    bodies = {
        b"query": b'{"Items":[],"Count":0,"ScannedCount":0}',
        b"describetable": b'{"Table":{"TableStatus":"ACTIVE"}}',
        b"startexecution": b'{"executionArn":"arn:aws:states:eu-central-1:123456789012:execution:a:b","startDate":0}',
    }
    body = bodies.get(target, b"{}") if target else b""
    kind = b"application/x-amz-json-1.0" if target else b"application/xml"
    head = b'HTTP/1.1 200 OK\r\nETag: "sink"\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n'
    return head % (kind, len(body)) + body


def _serve_with_boto3() -> None:
    """Be the command line, with boto3's put_object instead of obstore's put."""
    from botocore.config import Config

    from adapters.entrypoints import aws, cli

    class Store:
        """As much of obstore's S3Store as staging small objects needs."""

        def __init__(self, session: Any, bucket: str, *, endpoint_url: str | None = None, **_others: Any) -> None:
            config = Config(s3={"addressing_style": "path"}, max_pool_connections=50)
            self._client = session.client("s3", endpoint_url=endpoint_url, config=config)
            self._bucket = bucket

        def put(self, path: str, content: memoryview, *, attributes: dict[str, str], **_others: Any) -> None:
            facts = dict(attributes)
            kind = facts.pop("Content-Type")
            self._client.put_object(
                Bucket=self._bucket,
                Key=path,
                Body=bytes(content),
                ContentType=kind,
                Metadata=facts,
                ChecksumAlgorithm="SHA256",
            )

    setattr(aws, "open_store", Store)  # noqa: B010  # it stands in for a function of another type
    cli.main()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def main(as_json: bool) -> None:
    """Measure the receiver against a sink."""
    result = measure()
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    title = "16 associations, 9 KB, 30 ms to S3, instances/s; CPU ms of the receiver for 525 KB"
    report.print_checks(
        console,
        title,
        result,
        report.Check(text="CPU at most 2 ms", field="cpu_ms_obstore", limit=CPU_GOAL_MS),
    )
    verdict = "yes" if result["share_of_possible"] >= RATE_GOAL else "no"
    console.print(f"at least {RATE_GOAL:.0%} of what is possible: {verdict}")


if __name__ == "__main__":
    if sys.argv[1:2] == [_BOTO3]:
        del sys.argv[1]
        _serve_with_boto3()
    else:
        main()
