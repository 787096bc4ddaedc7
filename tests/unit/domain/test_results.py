from typing import Any

import pytest

from domain.errors import ResultsUnreadable
from domain.results import ImportOutcome, JobSummary, read_outcome, read_summary
from tests.builders import a_staging_key, an_image_set

KEY = a_staging_key(1)


def a_response(**overrides: Any) -> dict[str, Any]:
    response = {"imageSetId": an_image_set().value, "imageSetVersion": "3", "isPrimary": True, **overrides}
    return {"inputFile": f"some/folder/{KEY.path}", "importResponse": response}


def test_a_manifest_gives_its_counts() -> None:
    manifest = {
        "jobSummary": {
            "numberOfScannedFiles": 5,
            "numberOfImportedFiles": 3,
            "numberOfFilesWithCustomerError": 2,
            "numberOfFilesWithServerError": "none",
        }
    }
    expected = JobSummary(scanned=5, imported=3, customer_errors=2, server_errors=None)
    assert expected == read_summary(manifest)


@pytest.mark.parametrize("manifest", [None, [], {}, {"jobSummary": 1}])
def test_what_has_no_summary_is_no_manifest(manifest: object) -> None:
    with pytest.raises(ResultsUnreadable, match="no jobSummary"):
        read_summary(manifest)


def test_a_success_is_an_image_set() -> None:
    expected = ImportOutcome(key=KEY, image_set=an_image_set(), image_set_version=3)
    outcome = read_outcome(a_response())
    assert expected == outcome
    assert expected.is_imported


@pytest.mark.parametrize("version, expected", [(7, 7), ("x", None), (None, None), ("\u0663", None)])
def test_a_version_that_is_no_number_is_not_known(version: object, expected: int | None) -> None:
    outcome = read_outcome(a_response(imageSetVersion=version))
    assert outcome is not None
    assert expected == outcome.image_set_version


@pytest.mark.parametrize("is_primary, expected", [(True, True), (None, None), ("no", None), (False, False)])
def test_a_primary_image_set_is_a_plain_yes_or_no_or_not_known(is_primary: object, expected: bool | None) -> None:
    outcome = read_outcome(a_response(isPrimary=is_primary))
    assert outcome is not None
    assert expected is outcome.is_primary


def test_warnings_are_read_as_far_as_they_can_be() -> None:
    warnings = [
        {"warning_reason_code": 1, "type": "Frames", "message": "one is missing"},
        {"warning_reason_code": 2, "message": "unknown"},
        {"type": "Frames", "message": "no code"},
        "plain words",
    ]
    outcome = read_outcome(a_response(warnings=warnings))
    assert outcome is not None
    assert outcome.warnings == (
        "Frames (0x0001): one is missing",
        "warning (0x0002): unknown",
        "Frames: no code",
        "plain words",
    )


@pytest.mark.parametrize(
    "exception, reason, is_server_error",
    [
        ({"exceptionType": "ValidationException", "message": " bad "}, "ValidationException: bad", False),
        ({"exceptionType": "InternalServerException"}, "InternalServerException", True),
        ({"message": "why?"}, "unknown error: why?", False),
    ],
)
def test_a_failure_has_the_services_reason(exception: dict[str, str], reason: str, is_server_error: bool) -> None:
    expected = ImportOutcome(key=KEY, reason=reason, is_server_error=is_server_error)
    assert expected == read_outcome({"inputFile": KEY.path, "exception": exception})
    assert not expected.is_imported


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"inputFile": 5},
        {"inputFile": "elsewhere/x.dcm", "exception": {}},
        {"inputFile": KEY.path},
        {"inputFile": KEY.path, "importResponse": {"imageSetId": "nonsense"}},
        {"inputFile": KEY.path, "importResponse": {}},
    ],
)
def test_a_record_of_another_kind_is_passed_over(record: dict[str, object]) -> None:
    assert read_outcome(record) is None


def test_what_is_no_record_makes_the_results_unreadable() -> None:
    with pytest.raises(ResultsUnreadable, match="not a JSON object"):
        read_outcome(["x"])
