"""
`make cloud`: the profile `aws` on this machine, with local servers and a stand-in for HealthImaging.

    simulated AWS   S3, DynamoDB, Step Functions, Lambda, SNS: moto on loopback
    stand-in        HealthImaging: the embedded data store behind the real API
    schedules       what EventBridge would wake: recover, reconcile
    receiver        `ahi-storescp serve --profile aws`, a process of its own

Everything but the stand-in's data is in memory; all of it ends with this process.
While it runs, `.cloud/env` has every setting, for any shell:

    . .cloud/env && ahi-storescp status
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import attrs
import click

from adapters.entrypoints.process import stop_signals
from adapters.entrypoints.settings import read_settings, variable_name
from adapters.entrypoints.shell_file import shell_file
from adapters.outbound.clock import SystemClock
from domain.errors import StoreScpError
from domain.identifiers import DataStoreId
from domain.import_job import PollPolicy

if TYPE_CHECKING:
    from adapters.entrypoints.lambdas import Handlers

_HOST: Final = "127.0.0.1"
_POLL: Final = PollPolicy(seconds=1.0, steady_seconds=60.0, max_seconds=15.0, results_patience_seconds=60.0)
_READY_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 5
_KILL_SECONDS: Final = 30.0
_LISTENING: Final = re.compile(r"Listening on \S+ port (\d+)")
_FOLDER: Final = Path(".cloud")


@attrs.frozen(kw_only=True)
class Wishes:
    """What the command line asks for."""

    folder: Path
    port: int
    ae_title: str
    aws_port: int
    health_imaging_port: int
    data_dir: Path | None
    import_rate: float
    import_burst: int
    job_seconds: float
    batch_quiet_seconds: float
    recover_seconds: float
    reconcile_seconds: float
    region: str


class NotStarted(Exception):
    """The cloud cannot run; the text says why and what to do."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--port", default=11112, show_default=True, help="TCP port of the receiver; 0 takes a free one.")
@click.option("--ae-title", default="STORESCP", show_default=True, help="AE title of the receiver.")
@click.option("--aws-port", default=0, show_default="a free one", help="TCP port of the simulated AWS.")
@click.option("--health-imaging-port", default=0, show_default="a free one", help="TCP port of the stand-in.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    help="Keeps the stand-in's data store; without it, it goes when the cloud ends.",
)
@click.option("--import-rate", default=1.0, show_default=True, help="Import jobs a second, as the real service has it.")
@click.option("--import-burst", default=2, show_default=True, help="Import jobs at once.")
@click.option("--job-seconds", default=0.0, show_default=True, help="How long an import job takes at least.")
@click.option("--batch-quiet-seconds", default=5.0, show_default=True, help="Close the batch after so long a silence.")
@click.option("--recover-seconds", default=5.0, show_default=True, help="How often `recover` is woken.")
@click.option("--reconcile-seconds", default=60.0, show_default=True, help="How often `reconcile` is woken.")
@click.option("--region", default="us-east-1", show_default=True, help="The AWS region that it plays.")
def main(**options: Any) -> None:  # noqa: ANN401  # one for each option above
    """
    Run the profile aws on this machine until Ctrl-C: local servers, a stand-in for HealthImaging, a receiver.

    Nothing leaves this machine, and no AWS account is needed.
    """
    wishes = Wishes(folder=_FOLDER.absolute(), **options)
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with stop_signals() as stopping:
            sys.exit(run(wishes, stopping))
    except (NotStarted, StoreScpError) as error:
        click.echo(f"The cloud cannot run: {error}", err=True)
        sys.exit(1)


def run(wishes: Wishes, stopping: threading.Event) -> int:
    """
    Run everything until `stopping` is set or the receiver ends by itself.

    Returns:
        0 if it was told to stop.

    Raises:
        NotStarted: something cannot be started; nothing is left running.

    """
    _check_moto()
    with ExitStack() as stack:
        stack.enter_context(_only_one(wishes.folder))
        environment = _start_servers(wishes, stack)
        receiver = stack.enter_context(_receiver(environment, stopping))
        if receiver is None:
            return 0
        environment[variable_name("port")] = str(receiver.port)
        stack.enter_context(shell_file(wishes.folder / "env", environment))
        _tell(wishes, environment)
        while not stopping.wait(0.2):
            if receiver.process.poll() is not None:
                raise NotStarted(f"the receiver ended by itself with {receiver.process.returncode}; see above")
        click.echo("Stopping ...")
    click.echo("Everything has ended.")
    return 0


def _check_moto() -> None:
    try:
        import moto  # noqa: F401  # only whether it is there
    except ImportError:
        raise NotStarted(
            "moto is not installed; `make cloud` installs it, or: pip install -r requirements/dev.txt"
        ) from None


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder for as long as the context lasts."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotStarted(f"another one runs in {folder}; end it first, or start this one elsewhere") from None
        (folder / "env").unlink(missing_ok=True)  # of one that was killed
        yield


def _start_servers(wishes: Wishes, stack: ExitStack) -> dict[str, str]:
    """Start all but the receiver and return the environment that everything finds them by."""
    from adapters.entrypoints.aws import build_aws
    from adapters.entrypoints.lambdas import Handlers
    from adapters.entrypoints.medical_imaging import Behaviour, HealthImagingStandIn, Rate
    from adapters.entrypoints.simulated_aws import SimulatedAws
    from adapters.entrypoints.use_cases import assemble
    from adapters.outbound.s3_objects import S3InputObjects, S3OutputObjects

    temporary = Path(stack.enter_context(_temporary_folder(wishes.folder)))
    aws = SimulatedAws(port=wishes.aws_port, region=wishes.region)
    with _naming_port("the simulated AWS", wishes.aws_port):
        aws.start()
    stack.callback(aws.stop)
    created = aws.create()
    behaviour = Behaviour(clock=SystemClock(), job_seconds=wishes.job_seconds)
    behaviour.rates["StartDICOMImportJob"] = Rate(wishes.import_rate, wishes.import_burst)
    data_store_id = _data_store_id(wishes.data_dir)
    with _naming_port("the stand-in for HealthImaging", wishes.health_imaging_port):
        stand_in = HealthImagingStandIn(
            (wishes.data_dir or temporary / "datastore") / data_store_id.value,
            data_store_id,
            S3InputObjects(client=aws.client("s3"), bucket=created.staging_bucket),
            S3OutputObjects(client=aws.client("s3"), bucket=created.results_bucket),
            behaviour,
            port=wishes.health_imaging_port,
            region=wishes.region,
        )
    stack.callback(stand_in.stop)
    stand_in.start()
    values = {
        **created.settings,
        "data_store_id": data_store_id.value,
        "health_imaging_endpoint_url": stand_in.url,
        "host": _HOST,
        "port": str(wishes.port),
        "ae_title": wishes.ae_title,
        "data_dir": str(temporary / "receiver"),
        "batch_quiet_seconds": str(wishes.batch_quiet_seconds),
        "grace_seconds": str(_GRACE_SECONDS),
    }
    log = stack.enter_context((wishes.folder / "functions.log").open("w"))
    settings = {name: value for name, value in values.items() if name != "data_dir"}
    profile = build_aws(read_settings({**settings, "data_dir": str(temporary / "functions")}, {}), log)
    stack.callback(profile.clients.close)
    use_cases = assemble(attrs.evolve(profile.use_cases.ports, poll=_POLL))
    handlers = Handlers(use_cases=use_cases, tell=profile.notifier, flush=profile.flush)
    aws.lambda_function = lambda name, event: call_function(handlers, name, event)
    schedules = Schedules(
        handlers=handlers, seconds={"recover": wishes.recover_seconds, "reconcile": wishes.reconcile_seconds}
    )
    stack.callback(aws.stop_executions)
    stack.callback(schedules.stop)
    schedules.start()
    return {
        **{variable_name(name): value for name, value in values.items()},
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": wishes.region,
        "AWS_DEFAULT_REGION": wishes.region,
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_ENDPOINT_URL_MEDICAL_IMAGING": stand_in.url,
    }


def call_function(handlers: Handlers, name: str, event: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a function as Lambda would, its measurements written before it answers."""
    try:
        answer: dict[str, Any] = getattr(handlers, name)(event)
        return answer
    finally:
        handlers.flush()


@attrs.define(kw_only=True)
class Schedules:
    """
    Wakes functions now and then, as EventBridge does.

    Attributes:
        seconds: how long between two times, by function.

    """

    handlers: Handlers
    seconds: Mapping[str, float]
    _stopping: threading.Event = attrs.field(factory=threading.Event, init=False)
    _threads: list[threading.Thread] = attrs.field(factory=list, init=False)

    def start(self) -> None:
        """Wake them from now on."""
        for name in self.seconds:
            thread = threading.Thread(target=self._repeat, args=(name,), name=f"schedule-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Wake nothing further; returns when nothing runs."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, name: str) -> None:
        while not self._stopping.wait(self.seconds[name]):
            try:
                call_function(self.handlers, name, {})
            except Exception as error:  # noqa: BLE001  # as a schedule does: it is tried again the next time
                self.handlers.use_cases.ports.telemetry.event(f"{name}.failed", error=type(error).__name__)


@attrs.frozen
class _Running:
    process: subprocess.Popen[str]
    port: int


@contextmanager
def _receiver(environment: Mapping[str, str], stopping: threading.Event) -> Iterator[_Running | None]:
    """
    Run `ahi-storescp serve` for as long as the context lasts; None if `stopping` came first.

    Raises:
        NotStarted: it does not listen.

    """
    process = subprocess.Popen(
        [sys.executable, "-m", "adapters.entrypoints.cli", "serve"],
        env={**_inherited(), **environment, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C reaches this process alone, which then ends the receiver before the servers it needs.
        start_new_session=True,
    )
    ports: list[int] = []
    assert process.stdout is not None  # noqa: S101  # for the type checker: it is a pipe
    reader = threading.Thread(target=_read_port, args=(process.stdout, ports), name="receiver-output", daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not ports and not stopping.is_set():
            if process.poll() is not None:
                raise NotStarted("the receiver did not start; see above")
            if time.monotonic() > deadline:
                raise NotStarted(f"the receiver does not listen after {_READY_SECONDS:g} s")
            time.sleep(0.05)
        yield _Running(process, ports[0]) if ports else None
    finally:
        _end(process)
        reader.join()
        process.stdout.close()


def _inherited() -> dict[str, str]:
    """Return our environment without what would lead the receiver elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("STORESCP_", "AWS_"))}


def _read_port(output: IO[str], ports: list[int]) -> None:
    for line in output:
        found = _LISTENING.search(line)
        if found is not None:
            ports.append(int(found[1]))


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(_GRACE_SECONDS + _KILL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="run-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _naming_port(what: str, port: int) -> Iterator[None]:
    """Say what could not listen; werkzeug ends the process where its port is taken."""
    try:
        yield
    except (OSError, SystemExit) as error:
        raise NotStarted(f"{what} cannot listen on {_HOST} port {port}; choose another port") from error


def _data_store_id(folder: Path | None) -> DataStoreId:
    """Return the id of the data store that `folder` has, or a new one."""
    found = [] if folder is None or not folder.is_dir() else sorted(path.name for path in folder.iterdir())
    ids = [name for name in found if re.fullmatch(r"[0-9a-z]{32}", name)]
    return DataStoreId(ids[0] if ids else secrets.token_hex(16))


def _tell(wishes: Wishes, environment: Mapping[str, str]) -> None:
    port, url = environment[variable_name("port")], environment["AWS_ENDPOINT_URL_MEDICAL_IMAGING"]
    lines = [
        "",
        "The profile aws runs on this machine; Ctrl-C ends all of it.",
        f"  simulated AWS   {environment['AWS_ENDPOINT_URL']}  (S3, DynamoDB, Step Functions, Lambda, SNS)",
        f"  HealthImaging   {url}  (stand-in; {wishes.import_rate:g} jobs a second, burst {wishes.import_burst})",
        f"  receiver        {_HOST} port {port} as {wishes.ae_title}",
        f"  functions       their log is {_FOLDER / 'functions.log'}",
        "",
        "Send an image from another terminal, and ask what became of it:",
        f"  storescu -aec {shlex.quote(wishes.ae_title)} localhost {port} image.dcm",
        f"  . {_FOLDER / 'env'} && ahi-storescp status",
        "",
        "Let the service fail, and see what an operator is told (DELETE ends it):",
        f"  curl -d '{{\"fail_jobs\": 1}}' {url}/_control",
        "",
    ]
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main(prog_name="python -m adapters.entrypoints.cloud")
