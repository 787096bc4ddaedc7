"""The process that runs import jobs: the runner while its receiver lives, and replaced when it dies."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.entrypoints.import_runner import ImportRunner, data_store
from domain.identifiers import DataStoreId

ID = DataStoreId("0" * 32)
PATIENCE_SECONDS = 60.0


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_taken(folder: Path) -> bool:
    with data_store(folder, ID) as store:
        return not store.become_runner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "datastore" / ID.value).mkdir(parents=True)
    return tmp_path


def test_it_is_the_runner_until_its_receiver_stops_it(folder: Path) -> None:
    runner = ImportRunner(folder, ID)
    runner.ensure()
    _wait_until(lambda: _is_taken(folder))

    runner.ensure()
    assert _is_taken(folder)
    runner.stop()
    assert not _is_taken(folder)


def test_one_that_died_is_replaced(folder: Path) -> None:
    runner = ImportRunner(folder, ID)
    runner.ensure()
    _wait_until(lambda: _is_taken(folder))
    process = runner._process
    assert process is not None
    process.kill()
    process.wait()

    runner.ensure()
    _wait_until(lambda: _is_taken(folder))
    assert process is not runner._process
    runner.stop()


def test_it_ends_when_nobody_holds_its_input_any_more(folder: Path) -> None:
    runner = ImportRunner(folder, ID)
    runner.ensure()
    _wait_until(lambda: _is_taken(folder))
    process = runner._process
    assert process is not None
    assert process.stdin is not None

    process.stdin.close()

    assert process.wait(PATIENCE_SECONDS) == 0
    assert not _is_taken(folder)
