"""What every Importer promises (domain/ports.py); another adapter joins by another parameter."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import pytest
from botocore.config import Config

from adapters.entrypoints.medical_imaging import Behaviour, HealthImagingStandIn
from adapters.memory.clock import FakeClock
from adapters.memory.importer import MemoryImporter
from adapters.memory.staging import MemoryStagingArea
from adapters.outbound.healthimaging_importer import HealthImagingImporter
from adapters.outbound.local.data_store import EmbeddedDataStore, FileInputObjects, FileOutputObjects
from adapters.outbound.local.embedded_importer import EmbeddedImporter
from domain.errors import ImporterBusy, ImportRefused
from domain.identifiers import ImportJobId
from domain.import_job import ImportJob, ImportJobStatus, ImportRequest
from domain.ports import Importer
from tests.builders import DATA_STORE, a_batch
from tests.s3 import a_session

REQUEST = ImportRequest.of(a_batch(1))
OTHER = ImportRequest.of(a_batch(2))
THIRD = ImportRequest.of(a_batch(3))
_PATIENCE_SECONDS = 60.0


@attrs.frozen
class Service:
    """
    An importer with what runs its jobs to their ends.

    Attributes:
        finish: returns once the jobs that were started have ended.
        exhaust: makes sure that a start after two others is throttled; those with the service's own rate do it anyway.

    """

    importer: Importer
    finish: Callable[[], object]
    exhaust: Callable[[], None] = lambda: None


@contextmanager
def _memory(_folder: Path) -> Iterator[Service]:
    clock = FakeClock()
    importer = MemoryImporter(MemoryStagingArea(clock), clock)

    def finish() -> None:
        importer.step()
        importer.step()

    def exhaust() -> None:
        importer.busy = 1

    yield Service(importer, finish, exhaust)


@contextmanager
def _embedded(folder: Path) -> Iterator[Service]:
    inputs, outputs = FileInputObjects(folder / "staging"), FileOutputObjects(folder / "results")
    with EmbeddedDataStore(folder / "store", DATA_STORE, inputs, outputs, FakeClock(), workers=0) as store:
        store.become_runner()
        yield Service(EmbeddedImporter(store=store, data_store=DATA_STORE), store.run_pending)


class _Inputs(FileInputObjects):
    def uri(self, prefix: str) -> str:
        return f"s3://staging/{prefix}"


class _Outputs(FileOutputObjects):
    def uri(self, prefix: str) -> str:
        return f"s3://results/{prefix}"


@contextmanager
def _health_imaging(folder: Path) -> Iterator[Service]:
    inputs, outputs = _Inputs(folder / "staging"), _Outputs(folder / "results")
    behaviour = Behaviour(clock=FakeClock())
    with HealthImagingStandIn(folder / "store", DATA_STORE, inputs, outputs, behaviour) as running:
        config = Config(inject_host_prefix=False, retries={"total_max_attempts": 1})
        with closing(a_session().client("medical-imaging", endpoint_url=running.url, config=config)) as client:
            importer = HealthImagingImporter(
                client=client,
                data_store=DATA_STORE,
                data_access_role_arn="arn:aws:iam::123456789012:role/import",
                staging_bucket="staging",
                results_bucket="results",
            )

            def finish() -> None:
                deadline = time.monotonic() + _PATIENCE_SECONDS
                while any(not job.status.has_ended for job in running.store.list_jobs()):
                    assert time.monotonic() < deadline
                    time.sleep(0.01)

            yield Service(importer, finish)


@pytest.fixture(params=[_memory, _embedded, pytest.param(_health_imaging, marks=pytest.mark.aws)])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "staging").mkdir()
    with request.param(tmp_path) as service:
        yield service


def test_a_job_is_accepted_under_its_name_and_knows_where_its_results_go(service: Service) -> None:
    job = service.importer.start(REQUEST)
    assert job.name == REQUEST.name
    assert job.status in {ImportJobStatus.SUBMITTED, ImportJobStatus.IN_PROGRESS}
    assert job.output_prefix == f"{REQUEST.output_prefix}{service.importer.data_store}-DicomImport-{job.id}/"
    assert job.submitted_at is not None


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_second_request_of_the_same_name_is_the_first_job(service: Service, *, has_ended: bool) -> None:
    job = service.importer.start(REQUEST)
    if has_ended:
        service.finish()
    assert service.importer.start(REQUEST).id == job.id


def test_a_job_goes_to_its_end_and_stays_the_same(service: Service) -> None:
    job = service.importer.start(REQUEST)
    other = service.importer.start(OTHER)
    assert other.id != job.id
    service.finish()
    ended = service.importer.describe(job.id)
    assert ended.status is ImportJobStatus.COMPLETED
    assert _identity(ended) == _identity(job)
    assert ended.ended_at is not None


def _identity(job: ImportJob) -> tuple[object, ...]:
    return job.id, job.name, job.output_prefix


def test_a_job_is_found_by_its_name(service: Service) -> None:
    assert service.importer.find(REQUEST.name) is None
    job = service.importer.start(REQUEST)
    for _ in range(2):
        found = service.importer.find(REQUEST.name)
        assert found is not None
        assert found.id == job.id
        service.finish()
    assert service.importer.find(OTHER.name) is None


def test_a_job_that_the_service_does_not_know_is_refused(service: Service) -> None:
    with pytest.raises(ImportRefused):
        service.importer.describe(ImportJobId("f" * 32))


def test_a_start_that_is_throttled_has_started_nothing(service: Service) -> None:
    service.importer.start(REQUEST)
    service.importer.start(OTHER)
    service.exhaust()
    with pytest.raises(ImporterBusy):
        service.importer.start(THIRD)
    assert service.importer.find(THIRD.name) is None
