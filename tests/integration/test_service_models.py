"""
What boto3 is asked for is what the services take, by botocore's own models of them (tests/service_models.py).

Every client of a simulated cloud, a simulated server or a scripted one is watched in all tests; here is checked that no
call of ours escapes that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from botocore.model import ServiceModel

import adapters.outbound
from adapters.entrypoints.medical_imaging.service_model import problems_of
from domain.lifecycle import BatchState
from tests.serving import a_data_set
from tests.simulated_cloud import open_cloud, open_workshop
from tests.state_machine import MACHINE

pytestmark = [pytest.mark.aws, pytest.mark.slow]

SERVICES = ("dynamodb", "medical-imaging", "s3", "sns", "stepfunctions")
_CALL = re.compile(r"client\.(?!get_paginator)(\w+)\(|get_paginator\(\"(\w+)\"\)")
_NOT_ON_AWS = "s3_objects.py"  # what the stand-in reads and writes
_MANAGED_COPY = "copy"  # of more than 5 GB; test_a_very_large_object_moves_in_parts_with_its_facts watches it


def _model(service: str) -> ServiceModel:
    return botocore.session.get_session().get_service_model(service)


def _named_in_the_source() -> Iterator[str]:
    (folder,) = adapters.outbound.__path__
    for path in sorted(Path(folder).glob("*.py")):
        if path.name != _NOT_ON_AWS:
            for method, paginated in _CALL.findall(path.read_text(encoding="utf-8")):
                yield method or paginated


def _operations() -> Mapping[str, str]:
    """Return the operations of our services by the names of boto3's methods."""
    return {
        xform_name(operation): f"{service}:{operation}"
        for service in SERVICES
        for operation in _model(service).operation_names
    }


def test_every_call_of_ours_is_made_with_parameters_that_its_service_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_workshop(monkeypatch) as workshop, open_cloud(workshop, tmp_path) as cloud:
        cloud.stand_in.behaviour.faults.fail_jobs = 1
        with cloud.by_hand(), cloud.receiver() as first, cloud.receiver() as second:
            cloud.send(first, range(2))
            cloud.clock.advance(1)
            corrected = a_data_set(0)
            corrected.StudyDescription = "corrected"
            cloud.store(second, corrected)
            cloud.close_batch()
        cloud.settle()
        assert sorted(batch.state for batch in cloud.batches()) == [BatchState.FAILED, BatchState.SETTLED]
        assert len(cloud.notices()) == 1

        operations = _operations()
        named = set(_named_in_the_source())
        assert named - set(operations) == {_MANAGED_COPY}
        assert {operations[name] for name in named - {_MANAGED_COPY}} - workshop.asked.operations == set()
        assert workshop.asked.problems == []


def test_every_service_call_of_the_state_machine_has_parameters_that_its_service_takes() -> None:
    tasks = {name: state for name, state in MACHINE["States"].items() if state["Type"] == "Task"}
    assert {state["Resource"] for state in tasks.values()} == {"arn:aws:states:::lambda:invoke"}
    shape = _model("lambda").operation_model("Invoke").input_shape
    assert shape is not None
    for name, state in tasks.items():
        function = state["Parameters"]["FunctionName"].strip("${}")
        parameters = {
            **state["Parameters"],
            "FunctionName": f"arn:aws:lambda:eu-west-1:123456789012:function:hospital-{function}",
        }
        assert set(parameters) <= set(shape.members), name
        assert list(problems_of(shape, parameters)) == [], name
