"""Which presentation contexts are accepted."""

import pytest
from pydicom.uid import UID, AllTransferSyntaxes
from pynetdicom import sop_class
from pynetdicom.presentation import AllStoragePresentationContexts

from adapters.inbound.dicom.associate import (
    AssociateRequest,
    CommonExtendedNegotiation,
    ProposedContext,
    RoleSelection,
)
from adapters.inbound.dicom.presentation import (
    HEALTHIMAGING_TRANSFER_SYNTAXES,
    LOSSY_TRANSFER_SYNTAXES,
    PresentationPolicy,
    name_of,
    refused_contexts,
)
from domain.association import UserIdentity
from domain.errors import InvalidIdentifier
from tests.unit.inbound.pdus import CT, EXPLICIT, IMPLICIT, VERIFICATION

JPEG = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
UNKNOWN_SYNTAX = "1.2.3.4.5"
PRIVATE_CLASS = "1.3.12.2.1107.5.9.1"
COMMITMENT = "1.2.840.10008.1.20.1"


def a_request(*contexts: tuple[str, tuple[str, ...]], **changes: object) -> AssociateRequest:
    proposed = tuple(
        ProposedContext(context_id=2 * number + 1, abstract_syntax=abstract, transfer_syntaxes=syntaxes)
        for number, (abstract, syntaxes) in enumerate(contexts)
    )
    facts: dict[str, object] = {
        "protocol_version": 1,
        "called_ae_title": "A",
        "calling_ae_title": "B",
        "echoed_fields": b"",
        "application_context": "",
        "contexts": proposed,
        **changes,
    }
    return AssociateRequest(**facts)  # type: ignore[arg-type]  # whatever the test changes


def result_of(policy: PresentationPolicy, abstract: str, *syntaxes: str, **changes: object) -> tuple[int, str]:
    (context,) = policy.negotiate(a_request((abstract, syntaxes), **changes), 16384).contexts
    return context.result, context.transfer_syntax


@pytest.mark.parametrize("policy", [PresentationPolicy(), PresentationPolicy.parse(["standard"])])
def test_every_storage_class_of_the_standard_is_welcome(policy: PresentationPolicy) -> None:
    for context in AllStoragePresentationContexts:
        assert result_of(policy, str(context.abstract_syntax), IMPLICIT) == (0, IMPLICIT)


def test_retired_private_and_future_classes_are_welcome_by_default() -> None:
    for uid in ("1.2.840.10008.5.1.1.29", "1.2.840.10008.5.1.4.1.1.6", PRIVATE_CLASS, "1.2.840.10008.5.1.4.1.1.999"):
        assert result_of(PresentationPolicy(), uid, IMPLICIT) == (0, IMPLICIT)


def test_other_services_are_not_storage() -> None:
    groups = (
        sop_class._QR_CLASSES,
        sop_class._BASIC_WORKLIST_CLASSES,
        sop_class._PRINT_MANAGEMENT_CLASSES,
        sop_class._PROCEDURE_STEP_CLASSES,
        sop_class._STORAGE_COMMITMENT_CLASSES,
        sop_class._UNIFIED_PROCEDURE_STEP_CLASSES,
        sop_class._MEDIA_CREATION_CLASSES,
        sop_class._MEDIA_STORAGE_CLASSES,
        sop_class._INVENTORY_CLASSES,
        sop_class._INSTANCE_AVAILABILITY_CLASSES,
    )
    for uid in [uid for group in groups for uid in group.values()] + [IMPLICIT, "1.2.840.10008.1.20.2", ""]:
        assert result_of(PresentationPolicy(), uid, IMPLICIT) == (3, IMPLICIT)


def test_verification_is_served_whatever_the_classes() -> None:
    for classes in ([], ["standard"], [CT]):
        assert result_of(PresentationPolicy.parse(classes), VERIFICATION, IMPLICIT) == (0, IMPLICIT)


def test_a_further_service_can_be_served() -> None:
    assert result_of(PresentationPolicy.parse(services=[COMMITMENT]), COMMITMENT, IMPLICIT) == (0, IMPLICIT)


def test_a_list_is_all_there_is() -> None:
    policy = PresentationPolicy.parse([CT])
    assert result_of(policy, CT, IMPLICIT) == (0, IMPLICIT)
    assert result_of(policy, PRIVATE_CLASS, IMPLICIT) == (3, IMPLICIT)


def test_standard_leaves_private_classes_out_unless_they_specialise_a_standard_one() -> None:
    policy = PresentationPolicy.parse(["standard"])
    special = CommonExtendedNegotiation(
        sop_class_uid=PRIVATE_CLASS, service_class_uid="1.2.840.10008.4.2", related_general_sop_classes=(CT,)
    )
    assert result_of(policy, PRIVATE_CLASS, IMPLICIT) == (3, IMPLICIT)
    assert result_of(policy, PRIVATE_CLASS, IMPLICIT, common_extended=(special,)) == (0, IMPLICIT)


@pytest.mark.parametrize(
    "proposed,expected",
    [
        pytest.param((EXPLICIT, IMPLICIT), (0, EXPLICIT), id="the first"),
        pytest.param((IMPLICIT, EXPLICIT), (0, IMPLICIT), id="the requestor's order, not ours"),
        pytest.param((UNKNOWN_SYNTAX, IMPLICIT), (0, IMPLICIT), id="the first acceptable"),
        pytest.param((JPEG, IMPLICIT), (0, JPEG), id="lossy if it stands first"),
        pytest.param((JPEG,), (0, JPEG), id="lossy if alone"),
        pytest.param((UNKNOWN_SYNTAX, JPEG), (0, JPEG), id="lossy if nothing else is acceptable"),
        pytest.param((UNKNOWN_SYNTAX, JPEG, IMPLICIT), (0, IMPLICIT), id="lossless before lossy"),
        pytest.param((UNKNOWN_SYNTAX, JPEG_2000, JPEG_LOSSLESS), (0, JPEG_LOSSLESS), id="what may be lossy waits"),
        pytest.param((UNKNOWN_SYNTAX,), (4, UNKNOWN_SYNTAX), id="nothing acceptable"),
        pytest.param((), (4, IMPLICIT), id="nothing proposed"),
    ],
)
def test_the_choice_within_a_context(proposed: tuple[str, ...], expected: tuple[int, str]) -> None:
    assert expected == result_of(PresentationPolicy(), CT, *proposed)


def test_all_means_all() -> None:
    policy = PresentationPolicy.parse(transfer_syntaxes="all")
    assert result_of(policy, CT, UNKNOWN_SYNTAX, IMPLICIT) == (0, UNKNOWN_SYNTAX)


def test_what_healthimaging_imports() -> None:
    names = {uid for uid in AllTransferSyntaxes if not UID(uid).name.startswith(("JPIP", "SMPTE"))}
    assert {str(uid) for uid in names} | {"1.2.840.10008.1.2.4.112"} == HEALTHIMAGING_TRANSFER_SYNTAXES
    assert IMPLICIT not in LOSSY_TRANSFER_SYNTAXES
    # of the retired JPEG processes, too, only these are lossless (PS3.5 1998, annex A.4)
    jpeg = {f"1.2.840.10008.1.2.4.{number}" for number in range(50, 71) if number not in {67, 68, 69}}
    assert {uid.rpartition(".")[2] for uid in jpeg - LOSSY_TRANSFER_SYNTAXES} == {"57", "58", "65", "66", "70"}
    assert JPEG_LOSSLESS not in LOSSY_TRANSFER_SYNTAXES


def test_roles_are_granted_as_scu_only() -> None:
    both = RoleSelection(sop_class_uid=CT, is_scu=True, is_scp=True)
    accept = PresentationPolicy().negotiate(a_request((CT, (IMPLICIT,)), roles=(both,)), 1)
    assert accept.roles == (RoleSelection(sop_class_uid=CT, is_scu=True, is_scp=False),)


def test_a_requestor_that_would_only_be_scp_is_refused() -> None:
    scp = RoleSelection(sop_class_uid=CT, is_scu=False, is_scp=True)
    accept = PresentationPolicy().negotiate(a_request((CT, (IMPLICIT,)), roles=(scp,)), 1)
    assert accept.contexts[0].result == 1
    assert accept.roles == ()


def test_extended_negotiation_and_user_identity_are_answered() -> None:
    identity = UserIdentity(kind=1, primary=b"x", is_answer_wanted=True)
    request = a_request(
        (CT, (IMPLICIT,)),
        (VERIFICATION, (IMPLICIT,)),
        extended=((CT, b""), (VERIFICATION, b"")),
        user_identity=identity,
        asynchronous_operations=(8, 1),
    )
    accept = PresentationPolicy().negotiate(request, 4096)
    assert accept.extended == ((CT, b"\2\0\3\0\0\0"),)
    assert accept.is_user_identity_answered
    assert accept.asynchronous_operations == (8, 1)
    assert accept.maximum_length == 4096


def test_settings_that_cannot_be_are_named() -> None:
    with pytest.raises(InvalidIdentifier, match="supported SOP Class UID"):
        PresentationPolicy.parse(["CTImage"])
    with pytest.raises(ValueError, match="healthimaging or all"):
        PresentationPolicy.parse(transfer_syntaxes="some")


def test_any_may_be_said_aloud() -> None:
    assert PresentationPolicy() == PresentationPolicy.parse(["any"])


def test_uids_are_named_for_people() -> None:
    assert name_of(CT) == "CT Image Storage"
    assert name_of(PRIVATE_CLASS) == "private or unknown"
    assert name_of("") == "not a UID"


def test_refused_contexts_are_summed_up_by_reason() -> None:
    request = a_request(
        (CT, (EXPLICIT,)),
        ("1.2.840.10008.5.1.4.1.2.1.1", (IMPLICIT,)),
        *((CT, (f"1.2.3.{number}",)) for number in range(30)),
    )
    results = PresentationPolicy().negotiate(request, 16384).contexts
    classes, syntaxes = refused_contexts(request.contexts, results)
    assert (classes.result, classes.contexts) == (3, 1)
    assert classes.abstract_syntaxes == (
        "1.2.840.10008.5.1.4.1.2.1.1 (Patient Root Query/Retrieve Information Model - FIND)"
    )
    assert (syntaxes.result, syntaxes.contexts) == (4, 30)
    assert syntaxes.abstract_syntaxes == f"{CT} (CT Image Storage)"
    assert syntaxes.transfer_syntaxes.startswith("1.2.3.0 (private or unknown), 1.2.3.1 ")
    assert syntaxes.transfer_syntaxes.endswith("1.2.3.19 (private or unknown), and 10 more")


def test_nothing_refused_is_nothing_to_tell() -> None:
    request = a_request((CT, (EXPLICIT,)))
    assert refused_contexts(request.contexts, PresentationPolicy().negotiate(request, 16384).contexts) == []
