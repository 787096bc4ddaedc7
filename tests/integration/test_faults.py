"""
The faults of the AWS profile as a table: whatever goes wrong, nothing acknowledged is lost and the operator is told.

Faults happen on sockets: in a proxy before the simulated AWS, in the stand-in for HealthImaging, or by a killed
process; nothing of ours is patched.
Each row says how it begins, how many of three stores it refuses, and where the operator reads of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from adapters.entrypoints.medical_imaging import Results
from adapters.entrypoints.settings import variable_name
from domain.lifecycle import BatchState
from domain.staging import BATCHES
from tests.fault_proxy import LOST_ANSWER, RESET, RESET_MID_BODY, Failure
from tests.serving import clean_environment, store_until_cut
from tests.simulated_cloud import Cloud, Workshop, open_cloud, open_workshop

pytestmark = [pytest.mark.aws, pytest.mark.slow]

INTERNAL_ERROR = Failure(status=500, code="InternalError")
SLOW_DOWN = Failure(status=503, code="SlowDown")
ACCESS_DENIED = Failure(status=403, code="AccessDenied")
NO_SUCH_BUCKET = Failure(status=404, code="NoSuchBucket")
DYNAMODB_THROTTLED = Failure(status=400, code="ProvisionedThroughputExceededException")
DYNAMODB_ERROR = Failure(status=500, code="InternalServerError")
CONDITION_FAILED = Failure(status=400, code="ConditionalCheckFailedException")
NO_SUCH_TABLE = Failure(status=400, code="ResourceNotFoundException")
HANGS = Failure(hang_seconds=45)

Told = Callable[[Cloud], bool]


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as monkeypatch, open_workshop(monkeypatch) as workshop:
        yield workshop


@pytest.fixture
def cloud(workshop: Workshop, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    with open_cloud(workshop, tmp_path, **getattr(request, "param", {})) as cloud:
        yield cloud


def _is_told(name: str) -> Told:
    return lambda cloud: bool(cloud.events(name))


def _nobody(_cloud: Cloud) -> bool:
    """Say nothing: it healed by itself within a moment."""
    return True


def _run_failed(cloud: Cloud) -> bool:
    """Tell whether a run failed, of which there is an alarm."""
    return bool(cloud.executions("FAILED"))


REFUSED = _is_told("instance.refused")
DELAYED = _is_told("step.delayed")


@attrs.frozen(kw_only=True)
class StoreFault:
    """
    What goes wrong while a modality stores three instances.

    Attributes:
        on: requests that fail.
        times: how many of them; None until it is mended.
        stores: how many instances are sent meanwhile.
        refused: how many of these stores are answered with a failure.
        told: where the operator reads of it.
        is_at_start: it is so before the receiver starts.

    """

    on: str
    failure: Failure
    times: int | None = None
    stores: int = 3
    refused: int = 3
    told: Told = REFUSED
    is_at_start: bool = False


STORE_FAULTS: Mapping[str, StoreFault] = {
    "S3 500 once": StoreFault(on="s3:PutObject", failure=INTERNAL_ERROR, times=2, refused=0, told=_nobody),
    "S3 500 until mended": StoreFault(on="s3:PutObject", failure=INTERNAL_ERROR, stores=1, refused=1),
    "S3 503 SlowDown once": StoreFault(on="s3:PutObject", failure=SLOW_DOWN, times=2, refused=0, told=_nobody),
    "S3 503 SlowDown until mended": StoreFault(on="s3:PutObject", failure=SLOW_DOWN, stores=1, refused=1),
    "S3 reset mid-body once": StoreFault(on="s3:PutObject", failure=RESET_MID_BODY, times=1, refused=0, told=_nobody),
    "S3 reset mid-body until mended": StoreFault(on="s3:PutObject", failure=RESET_MID_BODY, stores=1, refused=1),
    "S3 time-out": StoreFault(on="s3:PutObject", failure=HANGS, stores=1, refused=1),
    "S3 access denied": StoreFault(on="s3:PutObject", failure=ACCESS_DENIED),
    "S3 bucket gone": StoreFault(on="s3:PutObject", failure=NO_SUCH_BUCKET),
    "S3 answer lost once": StoreFault(on="s3:PutObject", failure=LOST_ANSWER, times=1, refused=0, told=_nobody),
    "S3 answers lost until mended": StoreFault(on="s3:PutObject", failure=LOST_ANSWER, stores=1, refused=1),
    "DynamoDB throttled once": StoreFault(
        on="dynamodb:*", failure=DYNAMODB_THROTTLED, times=2, refused=0, told=_nobody
    ),
    "DynamoDB throttled until mended": StoreFault(on="dynamodb:*", failure=DYNAMODB_THROTTLED),
    "DynamoDB condition fails": StoreFault(on="dynamodb:PutItem", failure=CONDITION_FAILED, times=1, refused=1),
    "DynamoDB 500 once": StoreFault(on="dynamodb:*", failure=DYNAMODB_ERROR, times=2, refused=0, told=_nobody),
    "DynamoDB 500 until mended": StoreFault(on="dynamodb:*", failure=DYNAMODB_ERROR),
    "DynamoDB answer lost": StoreFault(on="dynamodb:PutItem", failure=LOST_ANSWER, times=1, refused=0, told=_nobody),
    "DynamoDB table gone": StoreFault(on="dynamodb:*", failure=NO_SUCH_TABLE),
    "DynamoDB table gone at start": StoreFault(on="dynamodb:*", failure=NO_SUCH_TABLE, is_at_start=True),
    "DynamoDB resets": StoreFault(on="dynamodb:*", failure=RESET),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", STORE_FAULTS)
def test_while_a_modality_stores(cloud: Cloud, name: str) -> None:
    fault = STORE_FAULTS[name]
    if fault.is_at_start:
        cloud.proxy.fail(fault.on, fault.failure, times=fault.times)
    with cloud.receiver() as port:
        if not fault.is_at_start:
            cloud.proxy.fail(fault.on, fault.failure, times=fault.times)
        acknowledged = cloud.send(port, range(fault.stores))
        assert len(acknowledged) == fault.stores - fault.refused, cloud.describe()
        assert fault.told(cloud), cloud.describe()
        cloud.proxy.clear()
        # what a modality does with what was refused
        assert len(cloud.send(port, range(3))) == 3, cloud.describe()
        cloud.close_batch()
    cloud.settle()

    cloud.assert_nothing_is_lost()
    status = cloud.overview()
    assert (status.received, status.imported, status.failed) == (3, 3, 0), cloud.describe()
    assert cloud.objects() == set()


@attrs.frozen(kw_only=True)
class ImportFault:
    """
    What goes wrong while a batch is imported; it begins when three instances are safe.

    Attributes:
        begins: makes it so.
        told: where the operator reads of it.
        needs_retry: it ends in FAILED, and only an operator's retry imports the instances.
        seconds: how long it lasts at least, by the simulated clock.

    """

    begins: Callable[[Cloud], None]
    told: Told = _nobody
    needs_retry: bool = False
    seconds: float = 0.0


def _refuses(error: str, operation: str, **amount: float) -> Callable[[Cloud], None]:
    def begin(cloud: Cloud) -> None:
        cloud.stand_in.behaviour.refuse(error, operation, **amount)  # type: ignore[arg-type]  # a whole number or not

    return begin


def _sets(**faults: object) -> Callable[[Cloud], None]:
    def begin(cloud: Cloud) -> None:
        cloud.stand_in.behaviour.change(faults)

    return begin


def _fails(on: str, failure: Failure, times: int | None, after: int = 0) -> Callable[[Cloud], None]:
    return lambda cloud: cloud.proxy.fail(on, failure, times=times, after=after)


def _fails_from(function: str, on: str, failure: Failure, times: int) -> Callable[[Cloud], None]:
    """Let requests fail from the first call of a function of ours."""

    def begin(cloud: Cloud) -> None:
        waiting = [function]

        def fail(name: str, _event: Mapping[str, Any]) -> None:
            if name in waiting:
                waiting.remove(name)
                cloud.proxy.fail(on, failure, times=times)

        cloud.before_call = fail

    return begin


def _raises(function: str, error: str, *, is_done: bool = False) -> Callable[[Cloud], None]:
    """Let a function of ours die once, as Lambda tells of it: before its work, or when all of it is done."""

    def begin(cloud: Cloud) -> None:
        dying = [function]

        def die(name: str, event: Mapping[str, Any]) -> None:
            if name in dying:
                dying.remove(name)
                if is_done:
                    getattr(cloud.handlers, name)(event)
                raise type(error, (Exception,), {})("as asked for")

        cloud.before_call = die

    return begin


def _is_notified(word: str) -> Told:
    """Tell whether people got a message, and whether `failures` has the reason."""
    return lambda cloud: len(cloud.notices()) == 1 and any(word in failure.reason for failure in cloud.failures())


HOUR = 3600.0
START, GET = "StartDICOMImportJob", "GetDICOMImportJob"

IMPORT_FAULTS: Mapping[str, ImportFault] = {
    "HealthImaging throttles starts for an hour": ImportFault(
        begins=_refuses("ThrottlingException", START, seconds=HOUR), told=DELAYED, seconds=HOUR
    ),
    "HealthImaging throttles everything for an hour": ImportFault(
        begins=_refuses("ThrottlingException", "*", seconds=HOUR), told=DELAYED, seconds=HOUR
    ),
    "HealthImaging conflict": ImportFault(
        begins=_refuses("ConflictException", START, seconds=600), told=DELAYED, seconds=600
    ),
    "HealthImaging quota full": ImportFault(
        begins=_refuses("ServiceQuotaExceededException", START, seconds=HOUR), told=DELAYED, seconds=HOUR
    ),
    "HealthImaging 500": ImportFault(
        begins=_refuses("InternalServerException", START, seconds=600), told=DELAYED, seconds=600
    ),
    "HealthImaging 500 while followed": ImportFault(
        begins=_refuses("InternalServerException", GET, requests=12), told=DELAYED
    ),
    "HealthImaging cuts": ImportFault(begins=_refuses("cut", START, requests=6), told=DELAYED),
    "HealthImaging answer lost": ImportFault(begins=_refuses("lost answer", START, requests=1)),
    "HealthImaging access denied": ImportFault(
        begins=_refuses("AccessDeniedException", START, seconds=600),
        told=_is_notified("iam:PassRole"),
        needs_retry=True,
    ),
    "HealthImaging job FAILED": ImportFault(
        begins=_sets(fail_jobs=1), told=_is_notified("AccessDenied"), needs_retry=True
    ),
    "HealthImaging results missing": ImportFault(
        begins=_sets(results=Results.MISSING), told=_is_notified("results"), needs_retry=True
    ),
    "HealthImaging results truncated": ImportFault(
        begins=_sets(results=Results.TRUNCATED), told=_is_notified("results"), needs_retry=True
    ),
    "HealthImaging manifest late": ImportFault(begins=_sets(manifest_delay_seconds=120), told=DELAYED),
    "Step Functions execution exists": ImportFault(
        begins=_fails("states:StartExecution", Failure(status=400, code="ExecutionAlreadyExists"), 1)
    ),
    "Step Functions start throttled": ImportFault(
        begins=_fails("states:StartExecution", Failure(status=400, code="ThrottlingException"), 4),
        told=_is_told("workflow.start_failed"),
    ),
    "Step Functions start answer lost": ImportFault(begins=_fails("states:StartExecution", LOST_ANSWER, 1)),
    "Step Functions away while recovering": ImportFault(
        begins=_fails("states:*", RESET, 8), told=_is_told("workflow.start_failed")
    ),
    **{
        f"Lambda error in {function}": ImportFault(begins=_raises(function, "RuntimeError"), told=_run_failed)
        for function in ("list_batch", "start_import", "follow_import", "record_results")
    },
    **{
        f"Lambda time-out of {function}": ImportFault(
            begins=_raises(function, "Sandbox.Timedout", is_done=True), told=_run_failed
        )
        for function in ("list_batch", "start_import", "follow_import", "record_results")
    },
    "S3 500 while listing": ImportFault(begins=_fails("s3:ListObjectsV2", INTERNAL_ERROR, 8), told=DELAYED),
    "S3 access denied while listing": ImportFault(begins=_fails("s3:ListObjectsV2", ACCESS_DENIED, 2), told=DELAYED),
    "S3 503 while facts are read": ImportFault(begins=_fails("s3:HeadObject", SLOW_DOWN, 30), told=DELAYED),
    "S3 500 while results are read": ImportFault(
        begins=_fails("s3:GetObject", INTERNAL_ERROR, 12, after=1), told=DELAYED
    ),
    "S3 reset while results are read": ImportFault(begins=_fails("s3:GetObject", RESET, 3, after=1)),
    "S3 500 while imported objects are deleted": ImportFault(
        begins=_fails("s3:DeleteObjects", INTERNAL_ERROR, 6), told=DELAYED
    ),
    "S3 answer lost while imported objects are deleted": ImportFault(begins=_fails("s3:DeleteObjects", LOST_ANSWER, 1)),
    "DynamoDB throttled during the import": ImportFault(
        begins=_fails_from("list_batch", "dynamodb:*", DYNAMODB_THROTTLED, 30), told=DELAYED
    ),
    "DynamoDB 500 during the import": ImportFault(
        begins=_fails_from("record_results", "dynamodb:*", DYNAMODB_ERROR, 30), told=DELAYED
    ),
    "DynamoDB answers lost during the import": ImportFault(
        begins=_fails_from("list_batch", "dynamodb:*", LOST_ANSWER, 3)
    ),
    "DynamoDB conditions fail during the import": ImportFault(
        begins=_fails("dynamodb:PutItem", CONDITION_FAILED, 2, after=1)
    ),
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", IMPORT_FAULTS)
def test_while_a_batch_is_imported(cloud: Cloud, name: str) -> None:
    fault = IMPORT_FAULTS[name]
    with cloud.receiver() as port:
        assert len(cloud.send(port, range(3))) == 3
        began = cloud.clock.now()
        fault.begins(cloud)
        cloud.close_batch()
    cloud.settle()

    cloud.assert_nothing_is_lost()
    assert fault.told(cloud), cloud.describe()
    cloud.proxy.clear()
    cloud.stand_in.behaviour.clear()
    if fault.needs_retry:
        (batch,) = cloud.batches()
        assert batch.state is BatchState.FAILED
        assert cloud.overview().failed == 3
        assert cloud.objects() == set(cloud.acknowledged)
        cloud.use_cases.retry(batch.id)
        cloud.settle()
        cloud.assert_nothing_is_lost()
    cloud.use_cases.reconcile()
    status = cloud.overview()
    assert (status.received, status.imported, status.failed) == (3, 3, 0), cloud.describe()
    assert cloud.objects() == set()
    assert cloud.failures() == []
    assert {batch.attempt for batch in cloud.batches()} == {2 if fault.needs_retry else 1}
    assert (cloud.clock.now() - began).total_seconds() >= fault.seconds


def test_a_job_that_never_ends_is_seen_as_pending_and_imported_when_it_does(cloud: Cloud) -> None:
    cloud.stand_in.behaviour.faults.jobs_never_end = True
    with cloud.receiver() as port:
        cloud.send(port, range(3))
        cloud.close_batch()
    began = cloud.clock.now()
    cloud.wait(lambda: (cloud.clock.now() - began).total_seconds() > 2 * HOUR, "waiting for two hours")

    status = cloud.overview()
    assert (status.received, status.pending, status.failed) == (3, 3, 0)
    assert status.batches[BatchState.IMPORTING] == 1
    cloud.assert_nothing_is_lost()
    cloud.handlers.recover({})
    assert cloud.telemetry.measurements[-1].name == "OldestPendingSeconds"  # of which there is an alarm
    assert cloud.telemetry.measurements[-1].value > 2 * HOUR

    cloud.stand_in.behaviour.clear()
    cloud.settle()

    assert cloud.overview().imported == 3


# the receiver


LONG_BATCHES = {"batch_quiet_seconds": "3600", "batch_max_age_seconds": "3600"}


@pytest.mark.parametrize("cloud", [LONG_BATCHES], indirect=True)
def test_receiving_goes_on_while_dynamodb_is_away_for_five_minutes_and_s3_is_well(cloud: Cloud) -> None:
    with cloud.receiver() as port:
        assert len(cloud.send(port, range(1))) == 1
        cloud.proxy.fail("dynamodb:*", RESET)
        for minute in range(1, 6):
            assert len(cloud.send(port, range(minute * 10, minute * 10 + 3))) == 3, cloud.describe()
            cloud.pass_time(60)
        cloud.wait(lambda: bool(cloud.events("lease.renewal_failed")), "a renewal that fails")
        cloud.proxy.clear()
        assert len(cloud.send(port, range(100, 103))) == 3
    cloud.settle()

    cloud.assert_nothing_is_lost()
    assert cloud.overview().imported == 19
    assert len(cloud.batches()) == 1


@pytest.mark.parametrize("cloud", [LONG_BATCHES], indirect=True)
def test_once_the_lease_has_run_out_nothing_is_acknowledged_until_it_can_be_kept(cloud: Cloud) -> None:
    with cloud.receiver() as port:
        assert len(cloud.send(port, range(2))) == 2
        cloud.proxy.fail("dynamodb:*", RESET)
        cloud.pass_time(601)

        assert cloud.send(port, range(2, 3)) == []
        assert cloud.events("instance.refused")

        cloud.proxy.clear()
        cloud.pass_time(150)
        cloud.use_cases.recover()
        assert len(cloud.send(port, range(2, 4))) == 2
    cloud.settle()

    cloud.assert_nothing_is_lost()
    assert cloud.overview().imported == 4
    assert cloud.events("batch.recovered") or cloud.events("lease.lost") or len(cloud.batches()) == 2


@pytest.mark.parametrize("cloud", [LONG_BATCHES], indirect=True)
def test_a_receiver_whose_lease_is_lost_while_it_is_paused_stages_again_elsewhere(cloud: Cloud) -> None:
    def pause() -> None:
        cloud.clock.advance(751)
        assert cloud.use_cases.recover().closed == 1

    with cloud.receiver() as port:
        assert len(cloud.send(port, range(1))) == 1
        cloud.proxy.fail("s3:PutObject", Failure(is_done=True, is_late=True, happens=pause), times=1)
        assert len(cloud.send(port, range(1, 3))) == 2
    cloud.settle()
    cloud.use_cases.reconcile()
    cloud.settle()

    cloud.assert_nothing_is_lost()
    assert cloud.events("lease.lost")
    assert len(cloud.events("batch.recovered")) == 1
    status = cloud.overview()
    assert (status.received, status.imported, status.failed) == (3, 3, 0)
    assert cloud.objects(BATCHES) == set()


@pytest.mark.parametrize("seconds", [-120.0, 120.0])
@pytest.mark.parametrize("cloud", [LONG_BATCHES], indirect=True)
def test_clocks_may_be_two_minutes_apart(cloud: Cloud, seconds: float) -> None:
    with cloud.receiver(cloud.clock.skewed(seconds)) as port:
        for number in range(16):  # for longer than a lease and the margin beyond it
            assert len(cloud.send(port, range(number, number + 1))) == 1
            renewed = cloud.proxy.count("dynamodb:PutItem")
            cloud.clock.advance(57)
            cloud.wait(lambda before=renewed: cloud.proxy.count("dynamodb:PutItem") > before, "renewing")  # type: ignore[misc]  # mypy cannot infer a default's type
            assert cloud.use_cases.recover().closed == 0
        assert [batch.state for batch in cloud.batches()] == [BatchState.OPEN]
    cloud.settle()

    cloud.assert_nothing_is_lost()
    assert cloud.overview().imported == 16
    assert cloud.events("lease.lost") == []


@contextmanager
def _process(cloud: Cloud, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a receiver in a process of its own, on its own clock."""
    values = {
        **cloud.created.settings,
        "endpoint_url": cloud.proxy.url,
        "data_store_id": cloud.settings.data_store_id.value,
        "health_imaging_endpoint_url": cloud.stand_in.url,
        "data_dir": str(cloud.folder / "receiver"),
        "host": "127.0.0.1",
        "port": "0",
        **settings,
    }
    environment = {**clean_environment(), **{variable_name(name): value for name, value in values.items()}}
    with (cloud.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "adapters.entrypoints.cli", "serve"],
            env={**environment, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"},
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("Listening on"), (cloud.folder / "log").read_text()
        yield process, int(line.split(" port ")[1].split()[0])
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


KILLED_AT = {
    "the record of the batch": ("dynamodb:PutItem", 0),
    "the second object": ("s3:PutObject", 1),
    "the end of the batch": ("dynamodb:PutItem", 1),
    "the start of the workflow": ("states:StartExecution", 0),
}


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", KILLED_AT)
def test_a_receiver_that_is_killed_before_and_after_each_step(cloud: Cloud, step: str, is_done: bool) -> None:
    on, after = KILLED_AT[step]
    with _process(cloud, batch_quiet_seconds="1") as (process, port):
        kill = Failure(is_done=is_done, happens=lambda: os.kill(process.pid, signal.SIGKILL))
        cloud.proxy.fail(on, kill, times=1, after=after)
        acknowledged: list[str] = []
        store_until_cut(port, range(4), acknowledged)
        cloud.acknowledged += acknowledged
        assert process.wait(60) == -signal.SIGKILL
    cloud.settle()
    cloud.use_cases.reconcile()
    cloud.settle()

    cloud.assert_nothing_is_lost()
    expected = {"the record of the batch": 0, "the second object": 1}.get(step, 4)
    assert len(acknowledged) == expected
    status = cloud.overview()
    assert (status.imported, status.failed, status.pending) == (status.received, 0, 0), cloud.describe()
    assert status.received >= expected
    # whose owner had not closed it, recovery did
    was_open = (step, is_done) not in {
        ("the record of the batch", False),
        ("the end of the batch", True),
        ("the start of the workflow", False),
        ("the start of the workflow", True),
    }
    assert bool(cloud.events("batch.recovered")) == was_open
    assert cloud.objects() == set()


def test_a_receiver_that_is_killed_while_it_stores_loses_nothing(cloud: Cloud) -> None:
    with _process(cloud) as (process, port):
        acknowledged: list[str] = []
        cloud.proxy.fail(
            "s3:PutObject", Failure(is_done=True, happens=lambda: os.kill(process.pid, signal.SIGKILL)), after=20
        )
        store_until_cut(port, range(60), acknowledged)
        cloud.acknowledged += acknowledged
        process.wait(60)
    assert len(acknowledged) == 20
    assert cloud.overview().pending == 21  # the last one is safe too, though nobody was told
    time.sleep(0.1)
    cloud.settle()

    cloud.assert_nothing_is_lost()
    assert cloud.overview().imported == 21
    assert cloud.events("batch.recovered")
