import pytest

from domain.errors import InvalidIdentifier
from domain.identifiers import BatchId, Uid
from domain.instance import InstanceKey
from domain.staging import StagingKey, batch_prefix, results_prefix
from tests.builders import a_batch_id, a_staging_key, an_instance

BATCH = BatchId("20260102T030405678Z-ab12")
KEY = StagingKey(batch=BATCH, study=Uid("1.2"), series=Uid("1.3"), sop_instance=Uid("1.4"))
PATH = "batches/20260102T030405678Z-ab12/1.2/1.3/1.4.dcm"


def test_a_key_says_batch_study_series_and_instance() -> None:
    assert KEY.path == PATH


def test_a_superseded_object_keeps_the_rest_of_its_key() -> None:
    assert f"superseded/{PATH.removeprefix('batches/')}" == KEY.superseded_path


@pytest.mark.parametrize("path", [PATH, f"some/folder/{PATH}"])
def test_a_key_reads_back_whatever_folder_stands_before_it(path: str) -> None:
    assert StagingKey.parse(path) == KEY


@pytest.mark.parametrize(
    "path",
    [
        "",
        "batches/b/1.2/1.3/1.4",
        "batches/b/1.2/1.4.dcm",
        "batches/b/1.2/1.3/1.4/1.5.dcm",
        "batches//1.2/1.3/1.4.dcm",
        "batches/b/../1.3/1.4.dcm",
        "superseded/b/1.2/1.3/1.4.dcm",
    ],
)
def test_what_is_no_key_is_refused(path: str) -> None:
    with pytest.raises(InvalidIdentifier):
        StagingKey.parse(path)


def test_the_key_of_an_instance_is_built_from_its_uids() -> None:
    instance = an_instance(2)
    expected = StagingKey(
        batch=a_batch_id(), study=instance.study, series=instance.series, sop_instance=instance.sop_instance
    )
    assert expected == StagingKey.of(a_batch_id(), instance)


def test_a_key_tells_which_instance_it_is() -> None:
    assert InstanceKey(study=Uid("1.2"), sop_instance=Uid("1.4")) == KEY.instance_key


def test_a_key_lies_below_the_prefix_of_its_batch() -> None:
    key = a_staging_key(1, batch=BATCH)
    assert key.path.startswith(batch_prefix(BATCH))
    assert f"{BATCH}/" == results_prefix(BATCH)
