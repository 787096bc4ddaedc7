"""Grouping, versions, replacement, deletion."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.outbound.local.data_store import ResourceNotFoundException, Summary
from tests.unit.local.data_store.support import Site, an_object


def test_a_series_is_one_primary_image_set_of_version_1(site: Site) -> None:
    results = site.run([an_object(f"1.2.3.{n}") for n in range(5)])
    assert len({response["imageSetId"] for response in results.responses}) == 1
    assert results.manifest["imageSetsSummary"] == [
        {**results.responses[0], "numberOfMatchedSOPInstances": 5},
    ]
    assert results.responses[0]["imageSetVersion"] == 1
    assert results.responses[0]["isPrimary"] is True
    assert site.store.summary() == Summary(studies=1, series=1, instances=5, image_sets=1, primary_image_sets=1)


def test_each_job_that_adds_to_a_series_raises_its_version_by_one(site: Site) -> None:
    versions = [site.run([an_object(f"1.2.3.{n}")]).responses[0]["imageSetVersion"] for n in range(3)]
    assert versions == [1, 2, 3]
    assert site.store.summary().instances == 3


def test_the_same_instance_again_replaces_it(site: Site) -> None:
    first = site.run([an_object(PixelData=b"\1\1\1\1")]).responses[0]
    newer = an_object(PixelData=b"\2\2\2\2")
    second = site.run([newer]).responses[0]
    assert second == {**first, "imageSetVersion": 2}
    (stored,) = site.store.find("1.2.3.1")
    assert stored.path == site.folder / "1.2" / "1.2.3" / "1.2.3.1.dcm"
    assert stored.path.read_bytes() == newer
    assert (stored.version, stored.is_primary) == (2, True)


def test_of_two_objects_with_one_instance_in_a_job_the_later_key_stays(site: Site) -> None:
    later = an_object(PixelData=b"\2\2\2\2")
    results = site.run({"a.dcm": an_object(), "b.dcm": later})
    assert len(results.success) == 2
    assert results.manifest["imageSetsSummary"][0]["numberOfMatchedSOPInstances"] == 1
    (stored,) = site.store.find("1.2.3.1")
    assert stored.path.read_bytes() == later


@pytest.mark.parametrize(
    "conflict",
    [
        {"StudyDate": "20260505"},
        {"AccessionNumber": "ACC2"},
        {"AccessionNumber": None},
        {"PatientID": "PAT2"},
        {"StudyID": "S2"},
        {"SeriesNumber": "2"},
        {"study": "1.9"},
    ],
)
def test_an_element_that_conflicts_with_primary_data_makes_a_non_primary_image_set(
    site: Site, conflict: dict[str, Any]
) -> None:
    original = an_object("1.2.3.1")
    primary = site.run([original]).responses[0]
    conflicting = an_object("1.2.3.1", **conflict)
    other = site.run([conflicting]).responses[0]
    assert other["isPrimary"] is False
    assert other["imageSetVersion"] == 1
    assert other["imageSetId"] != primary["imageSetId"]
    # a repeat joins it, and the primary data is left alone
    assert site.run([conflicting]).responses[0] == {**other, "imageSetVersion": 2}
    first, second = site.store.find("1.2.3.1")
    assert first.is_primary
    assert not second.is_primary
    assert first.path.read_bytes() == original
    assert second.path.read_bytes() == conflicting
    assert second.path.parent.name == other["imageSetId"]
    assert site.store.image_set(other["imageSetId"]).metadata.is_file()


@pytest.mark.parametrize("same", [{"SeriesNumber": "01"}, {"PatientID": "PAT1 "}, {"PatientName": "Doe^Janet"}])
def test_padding_and_other_elements_do_not_conflict(site: Site, same: dict[str, Any]) -> None:
    site.run([an_object("1.2.3.1")])
    assert site.run([an_object("1.2.3.2", **same)]).responses[0]["isPrimary"] is True


def test_a_new_series_that_names_another_patient_in_the_study_is_non_primary(site: Site) -> None:
    site.run([an_object("1.2.3.1")])
    assert site.run([an_object("1.2.4.1", series="1.2.4", SeriesNumber="2")]).responses[0]["isPrimary"] is True
    response = site.run([an_object("1.2.5.1", series="1.2.5", PatientID="PAT2")]).responses[0]
    assert response["isPrimary"] is False


def test_conflicting_variants_in_one_job_are_split_and_the_first_key_is_primary(site: Site) -> None:
    results = site.run([an_object("1.2.3.1"), an_object("1.2.3.2", PatientID="PAT2"), an_object("1.2.3.3")])
    assert [response["isPrimary"] for response in results.responses] == [True, False, True]
    assert results.manifest["numberOfGeneratedImageSets"] == 2


def test_a_deleted_image_set_is_gone_and_the_next_import_founds_a_new_one(site: Site) -> None:
    old = site.run([an_object("1.2.3.1"), an_object("1.2.3.2")]).responses[0]
    site.store.delete_image_set(old["imageSetId"])
    assert site.store.find("1.2.3.1") == ()
    assert site.store.summary() == Summary(studies=0, series=0, instances=0, image_sets=0, primary_image_sets=0)
    assert not (site.folder / "1.2").exists()
    with pytest.raises(ResourceNotFoundException):
        site.store.image_set(old["imageSetId"])
    with pytest.raises(ResourceNotFoundException):
        site.store.delete_image_set(old["imageSetId"])
    new = site.run([an_object("1.2.3.1", PatientID="PAT2")]).responses[0]
    assert new["isPrimary"] is True
    assert new["imageSetVersion"] == 1
    assert new["imageSetId"] != old["imageSetId"]


def test_deleting_one_image_set_leaves_the_others_of_its_series(site: Site) -> None:
    primary = site.run([an_object("1.2.3.1")]).responses[0]
    other = site.run([an_object("1.2.3.1", PatientID="PAT2")]).responses[0]
    site.store.delete_image_set(primary["imageSetId"])
    (left,) = site.store.find("1.2.3.1")
    assert (left.image_set_id, left.path.is_file()) == (other["imageSetId"], True)
    assert [each.image_set_id for each in site.store.image_sets(series="1.2.3")] == [other["imageSetId"]]


def test_a_deletion_cut_short_is_finished_before_the_next_import(site: Site) -> None:
    old = site.run([an_object("1.2.3.1"), an_object("1.2.3.2")]).responses[0]
    with site.store._catalogue.transaction() as connection:
        connection.execute("UPDATE image_sets SET state = 'DELETING' WHERE image_set_id = ?", (old["imageSetId"],))
    site.run([an_object("1.2.3.1")])
    assert len(site.store.find("1.2.3.1")) == 1
    assert site.store.find("1.2.3.2") == ()
    assert not (site.folder / "1.2" / "1.2.3" / "1.2.3.2.dcm").exists()
