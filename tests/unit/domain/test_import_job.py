import pytest

from domain.import_job import ImportRequest, PollPolicy
from tests.builders import a_batch, a_batch_id


def test_a_request_is_named_by_batch_and_attempt() -> None:
    batch_id = a_batch_id()
    expected = ImportRequest(name=f"{batch_id}-2", input_prefix=f"batches/{batch_id}/", output_prefix=f"{batch_id}/")
    assert expected == ImportRequest.of(a_batch(attempt=2))


@pytest.mark.parametrize(
    "waited, expected", [(0, 15), (599, 15), (600, 30), (3_000, 150), (6_000, 300), (100_000, 300)]
)
def test_a_job_is_asked_for_steadily_and_then_ever_more_rarely(waited: float, expected: float) -> None:
    assert expected == PollPolicy().delay(waited)


def test_asking_never_gets_more_frequent_than_at_first() -> None:
    assert PollPolicy(steady_seconds=0).delay(1) == 15
