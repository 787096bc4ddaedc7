"""Batches of the greatest size and the longest imports, by the real functions on memory adapters."""

from datetime import timedelta

import pytest

from domain.batch import BatchPolicy
from domain.lifecycle import BatchState, InstanceState
from tests.builders import a_uid
from tests.carried_world import CarriedWorld
from tests.state_machine import Status

_GIGABYTE = 1_000_000_000
_WHOLE = BatchPolicy().max_files


@pytest.fixture
def world() -> CarriedWorld:
    return CarriedWorld()


def test_a_batch_takes_4500_instances_and_the_next_one_the_rest(world: CarriedWorld) -> None:
    owner = world.new_owner()
    for number in range(_WHOLE + 1):
        assert world.store(owner, number)
    owner.batches.drain()

    world.go_on()

    assert _WHOLE == 4_500
    batches = list(world.metadata.batches([BatchState.SETTLED]))
    assert [batch.files for batch in batches] == [4_500, 1]
    assert len(world.importer.imports) == 4_501
    assert world.staging.objects == {}
    status, instances = world.report.study(a_uid(0, root="2.25.7"))
    assert (status.received, status.imported, len(instances)) == (4_501, 4_501, 4_501)


def test_a_batch_takes_nine_gigabytes_and_the_next_one_the_rest(world: CarriedWorld) -> None:
    owner = world.new_owner()
    for number in range(7):
        assert world.store(owner, number, size=3 * _GIGABYTE)
    owner.batches.drain()

    world.go_on()

    batches = list(world.metadata.batches([BatchState.SETTLED]))
    assert [(batch.files, batch.size) for batch in batches] == [
        (3, 9 * _GIGABYTE),
        (3, 9 * _GIGABYTE),
        (1, 3 * _GIGABYTE),
    ]
    status, _ = world.report.study(a_uid(0, root="2.25.7"))
    assert (status.received, status.imported, status.size) == (7, 7, 21 * _GIGABYTE)


def test_an_import_of_days_is_carried_by_runs_of_twelve_hours(world: CarriedWorld) -> None:
    world.job_seconds = timedelta(hours=30).total_seconds()
    owner = world.new_owner()
    world.store(owner, 1)
    owner.batches.drain()

    world.go_on()

    (batch,) = world.metadata.batches([BatchState.SETTLED])
    assert (batch.attempt, batch.run) == (1, 3)
    ended = [execution.status for _, execution in world.executions]
    assert ended == [Status.TIMED_OUT] * 2 + [Status.SUCCEEDED]
    assert {state for state, _ in world.outcome().instances.values()} == {InstanceState.IMPORTED}
    assert len(world.jobs) == 1
