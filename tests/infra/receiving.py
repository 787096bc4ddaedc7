"""The receiver of an applied stack: the container's command in the container's environment, in a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.infra.applying import Applied
from tests.infra.harness import ROOT

PATIENCE_SECONDS = 120.0
OF_THE_CHECKOUT = (sys.executable, "-m", "adapters.entrypoints.cli")


@attrs.define
class Receiving:
    """
    A receiver that listens.

    Attributes:
        livez: what its health port answered before it was told to stop.
        exit_code: once it has ended.

    """

    port: int
    livez: int = 0
    exit_code: int | None = None


@contextmanager
def receiving(
    made: Applied,
    folder: Path,
    program: Sequence[str | Path] = OF_THE_CHECKOUT,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Receiving]:
    """Run it while the context lasts; then it is told to stop, and waited for."""
    log = folder / "receiver.log"
    skipped = log.stat().st_size if log.exists() else 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        health_port = probe.getsockname()[1]
    # what one machine cannot give twice; options beat variables
    elsewhere = ["--host=127.0.0.1", "--port=0", f"--health-port={health_port}", f"--data-dir={folder / 'data'}"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*program, *made.container["command"], *elsewhere],
            cwd=cwd,
            env={**made.receiver_environment(), **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        run = Receiving(_listening_port(process, log, skipped))
        yield run
        path = made.deployed.one("lb/targetGroup:TargetGroup").inputs["healthCheck"]["path"]
        with urllib.request.urlopen(f"http://127.0.0.1:{health_port}{path}", timeout=PATIENCE_SECONDS) as answer:
            run.livez = answer.status
        process.send_signal(signal.SIGTERM)
        run.exit_code = process.wait(PATIENCE_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _listening_port(process: subprocess.Popen[bytes], log: Path, skipped: int) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_bytes()[skipped:].split(b"\n")[:-1]:
            event = json.loads(line)
            if event.get("event") == "receiver.listening":
                return int(event["port"])
        time.sleep(0.05)
    raise AssertionError(f"it does not listen: {log.read_text()[skipped:]}")
