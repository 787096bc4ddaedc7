import pytest

from adapters.memory.metadata import MemoryMetadataStore
from adapters.memory.telemetry import RecordingTelemetry
from domain.batch import Batch
from domain.lifecycle import BatchState
from services.fail_batch import FailBatch
from tests.builders import a_batch, a_batch_id


class _Changed(MemoryMetadataStore):
    """Someone else changes the batch between reading and writing."""

    def replace_batch(self, old: Batch, new: Batch) -> bool:
        return False


@pytest.mark.parametrize("state", [BatchState.CLOSED, BatchState.SUBMITTED, BatchState.IMPORTING])
def test_a_batch_on_its_way_fails_with_its_reason(state: BatchState) -> None:
    metadata, telemetry = MemoryMetadataStore(), RecordingTelemetry()
    metadata.add_batch(a_batch(1, state=state))
    fail = FailBatch(metadata=metadata, telemetry=telemetry)

    assert fail(a_batch_id(1), "no role")
    assert fail(a_batch_id(1), "another reason")

    batch = metadata.batch(a_batch_id(1))
    assert batch is not None
    assert (batch.state, batch.reason) == (BatchState.FAILED, "no role")


@pytest.mark.parametrize("state", [BatchState.OPEN, BatchState.SETTLED])
def test_a_batch_that_is_not_on_its_way_stays_as_it_is(state: BatchState) -> None:
    metadata = MemoryMetadataStore()
    batch = a_batch(1, state=state)
    metadata.add_batch(batch)

    assert not FailBatch(metadata=metadata, telemetry=RecordingTelemetry())(batch.id, "no role")

    assert metadata.batch(batch.id) == batch


def test_a_batch_that_nobody_knows_or_someone_else_changes_does_not_fail() -> None:
    metadata = _Changed()
    fail = FailBatch(metadata=metadata, telemetry=RecordingTelemetry())

    assert not fail(a_batch_id(1), "no role")
    metadata.add_batch(a_batch(1, state=BatchState.CLOSED))
    assert not fail(a_batch_id(1), "no role")
