"""`make cloud` as a person uses it: one terminal runs it, another sends images and asks, a signal ends all of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from adapters.entrypoints.shell_file import shell_text
from tests.serving import a_data_set, clean_environment

pytestmark = [pytest.mark.aws, pytest.mark.slow]

PATIENCE_SECONDS = 90.0


@attrs.define
class Cloud:
    """The cloud as a process, in a folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def env(self) -> Path:
        return self.folder / ".cloud" / "env"

    def output(self, name: str = "out") -> str:
        return (self.folder / name).read_text()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.env.exists():
            assert self.process.poll() is None, self.output("err")
            assert time.monotonic() < deadline, self.output("err")
            time.sleep(0.1)

    def shell(self, line: str, program: str = "sh") -> subprocess.CompletedProcess[str]:
        """Run a line in a new shell that has read the settings."""
        return subprocess.run(
            [program, "-euc", f". .cloud/env && {line}"],
            cwd=self.folder,
            env={**clean_environment(), "PATH": "/usr/bin:/bin", "AWS_PROFILE": "someone-elses"},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def json(self, line: str) -> Any:
        done = self.shell(f"{line} --json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def settled(self, received: int) -> dict[str, int]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            totals: dict[str, int] = self.json("ahi-storescp status")["totals"]
            if totals["received"] >= received and not totals["pending"]:
                return totals
            assert time.monotonic() < deadline, totals
            time.sleep(0.3)

    def children(self) -> list[int]:
        """Return the processes that it started."""
        found = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, line.split())) for line in found.splitlines()[1:]]
        return [pid for pid, parent in pairs if parent == self.process.pid]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    started: list[Cloud] = []

    def run(*options: str, folder: Path = tmp_path) -> Cloud:
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "adapters.entrypoints.cloud", "--port=0", "--batch-quiet-seconds=1", *options],
                cwd=folder,
                env=clean_environment(),
                stdout=out,
                stderr=err,
            )
        started.append(Cloud(folder, process))
        return started[-1]

    yield run
    for cloud in started:
        if cloud.process.poll() is None:
            cloud.process.terminate()
            try:
                cloud.process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                cloud.process.kill()
                cloud.process.wait()


def _is_listening(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.dcmtk
@pytest.mark.timeout(240)
def test_images_are_sent_imported_and_asked_for_and_a_signal_ends_everything(
    start: Callable[..., Cloud], require_tool: Callable[[str], str], tmp_path: Path
) -> None:
    storescu = require_tool("/usr/bin/storescu" if Path("/usr/bin/storescu").exists() else "storescu")
    for number in range(3):
        a_data_set(number, size=128).save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    cloud = start()
    cloud.wait_until_ready()
    assert f"storescu -aec STORESCP localhost {cloud.shell('echo $STORESCP_PORT').stdout.strip()}" in cloud.output()
    assert ". .cloud/env && ahi-storescp status" in cloud.output()
    assert cloud.shell('echo "$STORESCP_PROFILE ${AWS_PROFILE:-none}"').stdout == "aws none\n"

    sent = cloud.shell(f'{storescu} -aec "$STORESCP_AE_TITLE" localhost "$STORESCP_PORT" 0.dcm 1.dcm 2.dcm')

    assert sent.returncode == 0, sent.stderr
    totals = cloud.settled(3)
    assert (totals["received"], totals["imported"], totals["failed"]) == (3, 3, 0)
    assert cloud.json("ahi-storescp failures") == []
    assert "2.25.7000" in cloud.shell("ahi-storescp study 2.25.7000").stdout

    # the service fails, the operator is told, and a retry mends it
    url = cloud.shell('echo "$AWS_ENDPOINT_URL_MEDICAL_IMAGING"').stdout.strip()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/_control", b'{"fail_jobs": 1}', method="POST")) as told:
        assert told.status == 200
    a_data_set(9, study="2.25.7009", series="2.25.7019", size=128).save_as(tmp_path / "9.dcm", enforce_file_format=True)
    cloud.shell(f'{storescu} -aec "$STORESCP_AE_TITLE" localhost "$STORESCP_PORT" 9.dcm')
    assert cloud.settled(4)["failed"] == 1
    failures = cloud.shell("ahi-storescp failures --json").stdout
    assert "AccessDenied" in failures
    batch = re.search(r"\d{8}T\d{9}Z-[0-9a-f]{8}", failures)
    assert batch is not None
    assert cloud.shell(f"ahi-storescp retry {batch[0]}").returncode == 0
    assert cloud.settled(4)["imported"] == 4

    urls = cloud.shell('echo "$AWS_ENDPOINT_URL $AWS_ENDPOINT_URL_MEDICAL_IMAGING"').stdout.split()
    receiver = cloud.children()
    assert len(receiver) == 1
    cloud.process.send_signal(signal.SIGTERM)
    assert cloud.process.wait(PATIENCE_SECONDS) == 0
    assert not cloud.env.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in receiver)
    assert not any(_is_listening(url) for url in urls)
    assert "Everything has ended." in cloud.output()
    assert "Traceback" not in cloud.output("err")
    assert [path.name for path in (tmp_path / ".cloud").iterdir() if path.is_dir()] == []


@pytest.mark.timeout(240)
def test_a_second_one_is_refused_and_leaves_the_first_alone(start: Callable[..., Cloud]) -> None:
    first = start()
    first.wait_until_ready()
    second = start()

    assert second.process.wait(PATIENCE_SECONDS) == 1
    assert "another one runs" in second.output("err")
    assert "Traceback" not in second.output("err")
    assert first.env.exists()
    assert first.shell("ahi-storescp status").returncode == 0
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("option", ["--aws-port", "--health-imaging-port", "--port"])
def test_a_port_that_is_taken_is_named_and_nothing_is_left(start: Callable[..., Cloud], option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cloud = start(f"{option}={port}")
        assert cloud.process.wait(PATIENCE_SECONDS) == 1

    assert str(port) in cloud.output("err")
    assert "Traceback" not in cloud.output("err")
    assert not cloud.env.exists()


def test_a_signal_while_it_starts_ends_it(start: Callable[..., Cloud]) -> None:
    cloud = start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (cloud.folder / ".cloud" / "lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    cloud.process.send_signal(signal.SIGTERM)

    assert cloud.process.wait(PATIENCE_SECONDS) == 0
    assert "Traceback" not in cloud.output("err")
    assert not cloud.env.exists()


@pytest.mark.parametrize("program", ["sh", "dash", "bash", "zsh"])
def test_the_shell_file_works_in_every_shell_and_from_another_folder(tmp_path: Path, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    folder = tmp_path / ".cloud"
    folder.mkdir()
    value = 'it\'s $HOME and `more` "of" it\\'
    (folder / "env").write_text(shell_text(folder, {"STORESCP_AE_TITLE": value}))

    done = subprocess.run(
        [program, "-euc", f'. {folder}/env; . {folder}/env; printf \'%s\\n\' "$STORESCP_AE_TITLE" "$PATH"'],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    told, path = done.stdout.splitlines()
    assert told == value
    assert path.split(":")[:2] == ["/usr/bin", "/bin"]
    (programs,) = path.split(":")[2:]
    assert os.path.samefile(programs, Path(sys.executable).parent)  # noqa: PTH121  # either may be missing
