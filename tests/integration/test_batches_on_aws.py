"""Batches of every kind through the whole AWS profile; test_workflow.py has one ordinary batch and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from domain.batch import Batch, CloseReason
from domain.identifiers import BatchId
from domain.lifecycle import BatchState
from tests.simulated_cloud import Cloud, Workshop, open_cloud, open_workshop

pytestmark = [pytest.mark.aws, pytest.mark.slow]


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as monkeypatch, open_workshop(monkeypatch) as workshop:
        yield workshop


@pytest.fixture
def cloud(workshop: Workshop, tmp_path: Path) -> Iterator[Cloud]:
    with open_cloud(workshop, tmp_path) as cloud:
        yield cloud


def _totals(cloud: Cloud) -> tuple[int, int, int, int]:
    status = cloud.overview()
    return status.received, status.imported, status.failed, status.pending


def test_a_batch_of_none_is_settled_without_a_job(cloud: Cloud) -> None:
    ports = cloud.use_cases.ports
    now = cloud.clock.now()
    batch = Batch(id=BatchId.at(now, "000001"), owner="receiver-1", opened_at=now)
    closed = batch.closed(now, CloseReason.QUIET)
    assert ports.metadata.add_batch(batch)
    assert ports.metadata.replace_batch(batch, closed)
    ports.workflow.start(closed)
    cloud.settle()

    assert [each.state for each in cloud.batches()] == [BatchState.SETTLED]
    assert list(cloud.stand_in.store.list_jobs()) == []
    assert _totals(cloud) == (0, 0, 0, 0)


def test_a_batch_of_one_is_imported(cloud: Cloud) -> None:
    with cloud.receiver() as port:
        cloud.send(port, range(1))
        cloud.close_batch()
    cloud.settle()

    assert _totals(cloud) == (1, 1, 0, 0)
    assert cloud.objects() == set()


def test_a_study_over_three_receivers_is_one_study_of_three_batches(cloud: Cloud) -> None:
    with ExitStack() as stack:
        ports = [stack.enter_context(cloud.receiver()) for _ in range(3)]
        for number, port in enumerate(ports):
            assert len(cloud.send(port, range(3 * number, 3 * number + 3))) == 3
        cloud.close_batch()
    cloud.settle()

    (study,) = cloud.overview().studies
    assert study.study.value == "2.25.7000"
    assert [batch.state for batch in cloud.batches()] == [BatchState.SETTLED] * 3
    assert _totals(cloud) == (9, 9, 0, 0)
    cloud.assert_nothing_is_lost()
    assert cloud.objects() == set()


def test_the_same_instances_in_two_batches_count_once(cloud: Cloud) -> None:
    with cloud.receiver() as first, cloud.receiver() as second:
        assert len(cloud.send(first, range(3))) == 3
        assert len(cloud.send(second, range(3))) == 3
        cloud.close_batch()
    cloud.settle()

    assert len(cloud.batches()) == 2
    assert _totals(cloud) == (3, 3, 0, 0)
    cloud.assert_nothing_is_lost()
