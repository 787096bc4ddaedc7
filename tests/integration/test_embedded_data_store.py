"""Every file that pydicom ships goes through the data store: imported, or refused with a reason that fits."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.errors import InvalidDicomError

from adapters.outbound.local.data_store import EmbeddedDataStore, FileInputObjects, FileOutputObjects, JobStatus
from tests.unit.local.data_store.support import STORE, Results, Site

SHIPPED = Path(pydicom.__file__).parent / "data"
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give a data store into which all of them were imported in one job."""
    site = Site(root=tmp_path_factory.mktemp("shipped"))
    shutil.copytree(SHIPPED, site.root / "in/shipped", ignore=shutil.ignore_patterns("*.py", "*.pyc", "__pycache__"))
    yield site
    site.store.close()


@pytest.fixture(scope="module")
def results(site: Site) -> Results:
    job = site.submit("shipped/")
    site.store.run_pending()
    return site.results(job)


@pytest.fixture(scope="module")
def expected(site: Site) -> dict[str, str | None]:
    """Say of each file which reason pydicom's own reading gives for a refusal; None for an import."""
    return {
        path.relative_to(site.root / "in").as_posix(): _reason(path)
        for path in sorted((site.root / "in").rglob("*"))
        if path.is_file()
    }


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_each_file_is_imported_or_refused_for_the_reason_it_has(
    results: Results, expected: dict[str, str | None]
) -> None:
    assert results.job.status is JobStatus.COMPLETED
    assert len(expected) > 150
    refused = {record["inputFile"]: record["exception"]["message"] for record in results.failure}
    imported = [record["inputFile"] for record in [*results.success, *results.warning]]
    assert sorted([*refused, *imported]) == sorted(expected)
    assert len(imported) == len(set(imported))
    assert refused == {key: reason for key, reason in expected.items() if reason is not None}
    assert {record["exception"]["exceptionType"] for record in results.failure} == {"ValidationException"}


def test_the_manifest_counts_what_the_records_say(site: Site, results: Results) -> None:
    manifest = results.manifest
    assert manifest["numberOfScannedFiles"] == manifest["numberOfImportedFiles"] + len(results.failure)
    assert manifest["numberOfImportedFiles"] == len(results.success) + len(results.warning)
    assert manifest["numberOfFilesWithCustomerError"] == len(results.failure)
    assert {each["imageSetId"] for each in manifest["imageSetsSummary"]} == {
        response["imageSetId"] for response in results.responses
    }
    assert sum(each["numberOfMatchedSOPInstances"] for each in manifest["imageSetsSummary"]) == (
        site.store.summary().instances
    )


def test_odd_pixel_data_is_imported_with_its_warning(results: Results) -> None:
    warned = {
        Path(record["inputFile"]).name: [each["type"] for each in record["importResponse"]["warnings"]]
        for record in results.warning
    }
    assert warned == {"MR_truncated.dcm": ["FramesExtractionFailure"], "badVR.dcm": ["FrameNumberMismatch"]}


def test_each_imported_object_is_stored_as_it_came(site: Site, results: Results) -> None:
    stored = {path.read_bytes() for path in site.folder.rglob("*.dcm")}
    sources = {(site.root / "in" / record["inputFile"]).read_bytes() for record in results.success}
    assert stored <= sources | {(site.root / "in" / record["inputFile"]).read_bytes() for record in results.warning}
    assert len(list(site.folder.rglob("*.dcm"))) == site.store.summary().instances


def test_each_image_set_has_a_document_that_names_its_instances(site: Site, results: Results) -> None:
    for image_set in site.store.image_sets():
        document = json.loads(image_set.metadata.read_text())
        (instances,) = [series["Instances"] for series in document["Study"]["Series"].values()]
        for sop_instance in instances:
            places = site.store.find(sop_instance)
            assert image_set.image_set_id in {place.image_set_id for place in places}
            assert all(place.path.is_file() for place in places)


def test_importing_all_of_it_again_raises_versions_and_adds_nothing(site: Site, results: Results) -> None:
    before = site.store.summary()
    job = site.submit("shipped/")
    site.store.run_pending()
    again = site.results(job)
    assert site.store.summary() == before
    assert {each["imageSetVersion"] for each in again.manifest["imageSetsSummary"]} == {2}
    assert again.messages == results.messages


def test_deleting_the_input_loses_nothing_even_where_it_was_linked(tmp_path: Path) -> None:
    site = Site(root=tmp_path)
    site.store.close()
    target = tmp_path / "in/b/1.dcm"
    target.parent.mkdir(parents=True)
    shutil.copy(SHIPPED / "test_files/CT_small.dcm", target)
    body = target.read_bytes()
    with EmbeddedDataStore(
        site.folder,
        STORE,
        FileInputObjects(tmp_path / "in", never_rewritten=True),
        FileOutputObjects(tmp_path / "out"),
        site.clock,
        rate=math.inf,
        workers=0,
    ) as store:
        store.start_import_job("t", None, "b/", "out/")
        store.run_pending()
        shutil.rmtree(tmp_path / "in")
        (stored,) = store.find(str(pydicom.dcmread(SHIPPED / "test_files/CT_small.dcm").SOPInstanceUID))
        assert stored.path.read_bytes() == body


def _reason(path: Path) -> str | None:
    if path.name == "rtplan_truncated.dcm":
        return "DICOM attributes end before the file says they do"
    try:
        data_set = pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError):
        return "DICOM attributes does not exist"
    if "TransferSyntaxUID" not in data_set.file_meta:
        return "DICOM attribute TransferSyntaxUID does not exist"
    missing = next((keyword for keyword in UIDS if not data_set.get(keyword)), None)
    return None if missing is None else f"DICOM attribute {missing} does not exist"
