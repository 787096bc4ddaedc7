from typing import Any

import attrs
import pytest
from blake3 import blake3

from domain.errors import DataSetMismatch, UnreadableDataSet
from domain.identifiers import AeTitle, Uid
from domain.instance import IdentifyingAttributes, InstanceKey, SopInstance, StoreRequest, digest_of, identify
from tests.builders import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, MODALITY, a_digest, a_moment, an_instance

REQUEST = StoreRequest(
    sop_class_uid=CT_IMAGE_STORAGE.value,
    sop_instance_uid="2.25.3",
    transfer_syntax=EXPLICIT_VR_LITTLE_ENDIAN,
    calling_ae_title=MODALITY,
    called_ae_title=AeTitle("STORESCP"),
)
ATTRIBUTES = IdentifyingAttributes(
    sop_class_uid=CT_IMAGE_STORAGE.value,
    sop_instance_uid="2.25.3",
    study_instance_uid="2.25.1",
    series_instance_uid="2.25.2",
)


def identified(**attributes: Any) -> SopInstance:
    return identify(REQUEST, attrs.evolve(ATTRIBUTES, **attributes), size=10, digest=a_digest(), received_at=a_moment())


def test_an_instance_joins_what_command_and_data_set_say() -> None:
    expected = SopInstance(
        study=Uid("2.25.1"),
        series=Uid("2.25.2"),
        sop_instance=Uid("2.25.3"),
        sop_class=CT_IMAGE_STORAGE,
        transfer_syntax=EXPLICIT_VR_LITTLE_ENDIAN,
        size=10,
        digest=a_digest(),
        calling_ae_title=MODALITY,
        received_at=a_moment(),
    )
    assert expected == identified()


def test_padding_in_the_data_set_does_not_matter() -> None:
    assert identified() == identified(study_instance_uid="2.25.1\0")


@pytest.mark.parametrize(
    "field, name",
    [
        ("sop_class_uid", "SOP Class UID"),
        ("sop_instance_uid", "SOP Instance UID"),
        ("study_instance_uid", "Study Instance UID"),
        ("series_instance_uid", "Series Instance UID"),
    ],
)
def test_an_identifying_attribute_that_is_missing_or_no_uid_is_named_without_its_value(field: str, name: str) -> None:
    for value in (None, ""):
        with pytest.raises(UnreadableDataSet, match=f"^{name} is missing in the data set$"):
            identified(**{field: value})
    with pytest.raises(UnreadableDataSet, match=f"^{name} is not 1 to 64 digits and dots$"):
        identified(**{field: "DOE^JANE"})


@pytest.mark.parametrize("field, name", [("sop_class_uid", "SOP Class UID"), ("sop_instance_uid", "SOP Instance UID")])
def test_a_command_that_names_something_else_is_a_mismatch(field: str, name: str) -> None:
    with pytest.raises(DataSetMismatch) as caught:
        identified(**{field: "2.25.99"})
    assert (name, "2.25.99") == (caught.value.attribute, caught.value.in_data_set)


def test_the_key_of_an_instance_is_its_study_and_uid() -> None:
    instance = an_instance(3)
    assert InstanceKey(study=instance.study, sop_instance=instance.sop_instance) == instance.key


@pytest.mark.parametrize(
    "size, expected",
    [
        (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        (1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"),
        (7169, "a003fc7a51754a9b3c7fae0367ab3d782dccf28855a03d435f8cfe74605e7817"),
    ],
)
def test_blake3_answers_as_its_official_test_vectors_do(size: int, expected: str) -> None:
    assert expected == blake3(bytes(number % 251 for number in range(size))).hexdigest()


def test_a_digest_is_blake3_over_data_set_and_transfer_syntax() -> None:
    data_set = blake3()
    data_set.update(b"the data ")
    data_set.update(memoryview(b"set"))
    digest = digest_of(data_set, EXPLICIT_VR_LITTLE_ENDIAN)
    assert blake3(b"the data set" + b"1.2.840.10008.1.2.1").hexdigest() == digest.value
