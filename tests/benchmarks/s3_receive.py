"""
The receiver with the profile of AWS against a sink on this machine: `python -m tests.benchmarks.s3_receive [--json]`.

Receiver, client and sink are processes of their own; the sink confirms every PUT, late if asked to, and keeps
nothing, and it answers what the receiver asks DynamoDB and Step Functions.
9 KB instances over 16 associations with 30 ms before each confirmation, against what would be possible; then the CPU
of the receiver's process for an instance of 525 KB, with obstore as it is and with boto3's put_object in its place.
Everything has its turn in each round, ratios are formed within a round, and medians of the rounds are shown.
"""

from __future__ import annotations

import json
import operator
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console

from tests.benchmarks import machine, report
from tests.benchmarks.images import CT_SLICE, SMALL, Kind
from tests.benchmarks.receivers import Ours
from tests.benchmarks.sink import Sink, Taken, sink

LATENCY_SECONDS = 0.030
ASSOCIATIONS = 16
ROUNDS = 5
TITLE = (
    "Profile of AWS against a sink: 9 KB, instances/s by associations and latency of S3; 525 KB, CPU ms of the receiver"
)
CHECKS = (
    report.Check(text="at least 80 % of what is possible", field="share_of_possible", limit=0.8, holds=operator.ge),
    report.Check(text="at most 2 ms of CPU with obstore", field="cpu_ms_525_kb_obstore", limit=2.0, holds=operator.le),
)
_ALONE_EACH = 1000
_SMALL_EACH = 150
_LARGE_EACH = 100
_LARGE_ASSOCIATIONS = 4
_STUDIES_APART = 100
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


@attrs.frozen(kw_only=True)
class _Sent:
    """
    What was measured while a client sent.

    Attributes:
        cpu_ms: processor time of the receiver for an instance.
        waited_ms: how long the receiver's threads waited for a processor, for an instance; much if others use them.
        client_cpu_ms: processor time of the client for an instance.
        confirmed_ms: from the last byte of a PUT to its confirmation.

    """

    per_second: float
    cpu_ms: float
    waited_ms: float
    client_cpu_ms: float
    confirmed_ms: float


@attrs.frozen(kw_only=True)
class _Spent:
    """What receiver and sink did until now: seconds of the receiver, and requests."""

    cpu: float
    waited: float
    taken: Taken


@attrs.define
class _Client:
    """Sends to one receiver and its sink, new instances each time."""

    receiver: Ours
    sink: Sink
    _study: int = 10_000

    def send(self, kind: Kind, associations: int, each: int) -> _Sent:
        """Send with a process of its own, after a few instances that are not counted."""
        self._study += _STUDIES_APART
        arguments = [str(self.receiver.port), kind.name, str(associations), str(each), str(self._study)]
        with subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.load", *arguments],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as client:
            assert client.stdout is not None
            assert client.stdin is not None
            client.stdout.readline()  # all associations are at work
            before = self._spent()
            client.stdin.write("go\n")
            client.stdin.flush()
            words = client.stdout.readline().split()
            after = self._spent()
            client.communicate(timeout=_CLIENT_SECONDS)
        if client.returncode:
            raise RuntimeError("a client failed")
        count = associations * each
        puts = after.taken.puts - before.taken.puts
        others = after.taken.others - before.taken.others
        if puts != count or others:
            raise RuntimeError(f"{count} instances made {puts} PUTs and {others} other requests")
        seconds, client_cpu = (float(word) for word in words)
        return _Sent(
            per_second=count / seconds,
            cpu_ms=(after.cpu - before.cpu) / count * 1e3,
            waited_ms=(after.waited - before.waited) / count * 1e3,
            client_cpu_ms=client_cpu / count * 1e3,
            confirmed_ms=(after.taken.waited - before.taken.waited) / count * 1e3,
        )

    def _spent(self) -> _Spent:
        return _Spent(
            cpu=machine.cpu_seconds(self.receiver.pids()),
            waited=machine.waiting_seconds(self.receiver.pid),
            taken=self.sink.taken(),
        )


def measure(folder: Path, rounds: int = ROUNDS) -> dict[str, float]:
    """Measure everything; rates in instances a second."""
    with (
        sink() as at_once,
        sink(LATENCY_SECONDS) as late,
        _receiver(folder / "s3-at-once", at_once.url) as near,
        _receiver(folder / "s3-late", late.url) as far,
        _receiver(folder / "s3-boto3", at_once.url, is_boto3=True) as usual,
    ):
        clients = _Client(near, at_once), _Client(far, late), _Client(usual, at_once)
        measured = [_round(*clients) for _ in range(rounds)]
    shares = [each["share_of_possible"] for each in measured]
    return {
        **{name: statistics.median(each[name] for each in measured) for name in measured[0]},
        "lowest_share": min(shares),
        "highest_share": max(shares),
    }


def _round(near: _Client, far: _Client, with_boto3: _Client) -> dict[str, float]:
    alone = near.send(SMALL, 1, _ALONE_EACH)
    together = near.send(SMALL, ASSOCIATIONS, _SMALL_EACH)
    late = far.send(SMALL, ASSOCIATIONS, _SMALL_EACH)
    large = near.send(CT_SLICE, _LARGE_ASSOCIATIONS, _LARGE_EACH)
    large_boto3 = with_boto3.send(CT_SLICE, _LARGE_ASSOCIATIONS, _LARGE_EACH)
    possible = min(ASSOCIATIONS / (LATENCY_SECONDS + 1 / alone.per_second), together.per_second)
    return {
        "one_association_at_once": alone.per_second,
        "associations_at_once": together.per_second,
        "possible_with_latency": possible,
        "with_latency": late.per_second,
        "share_of_possible": late.per_second / possible,
        "confirmed_after_ms": late.confirmed_ms,
        "waited_for_processor_ms": late.waited_ms,
        "cpu_ms_9_kb": late.cpu_ms,
        "client_cpu_ms_9_kb": late.client_cpu_ms,
        "cpu_ms_525_kb_obstore": large.cpu_ms,
        "cpu_ms_525_kb_boto3": large_boto3.cpu_ms,
    }


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
@click.option("--rounds", default=ROUNDS, show_default=True, help="how often each has its turn")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def main(rounds: int, as_json: bool) -> None:
    """Measure the receiver against a sink."""
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), rounds)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        report.print_checks(Console(width=None if sys.stdout.isatty() else 120), TITLE, result, CHECKS)


if __name__ == "__main__":
    if sys.argv[1:2] == [_BOTO3]:
        del sys.argv[1]
        _serve_with_boto3()
    else:
        main()
