"""A-ASSOCIATE PDUs, held against pynetdicom's and against bytes written by hand."""

import struct
from typing import Any

import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import build_context

from adapters.inbound.dicom.associate import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    AssociateAccept,
    CommonExtendedNegotiation,
    ContextResult,
    ProposedContext,
    RoleSelection,
    decode_request,
    encode_accept,
    encode_reject,
)
from adapters.inbound.dicom.presentation import answer_operations_window, storage_information
from domain.association import Rejection, UserIdentity
from domain.errors import ProtocolViolation
from tests.unit.inbound import pdus
from tests.unit.inbound.pdus import counted, item


def body(**changes: object) -> bytes:
    return pdus.associate_rq(**changes)[6:]  # type: ignore[arg-type]  # whatever the builder takes


def test_our_implementation_names_are_within_their_limits() -> None:
    assert IMPLEMENTATION_CLASS_UID.startswith("2.25.")
    assert len(IMPLEMENTATION_CLASS_UID) <= 64
    assert len(IMPLEMENTATION_VERSION_NAME) <= 16


def test_a_plain_request_is_read() -> None:
    request = decode_request(body())
    assert request.called_ae_title == "STORESCP"
    assert request.calling_ae_title == "MODALITY"
    assert request.maximum_length == 16384
    assert request.implementation_class_uid == "1.2.3.4"
    expected = tuple(
        ProposedContext(context_id=number, abstract_syntax=abstract, transfer_syntaxes=syntaxes)
        for number, abstract, syntaxes in pdus.DEFAULT_CONTEXTS
    )
    assert expected == request.contexts


def test_every_item_that_pynetdicom_can_send_is_read() -> None:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title = "MODALITY"
    primitive.called_ae_title = "STORESCP"
    contexts = []
    for number in range(1, 256, 2):
        context = build_context(f"1.2.{number}", [pdus.IMPLICIT, pdus.EXPLICIT])
        context.context_id = number
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    length = MaximumLengthNotification()
    length.maximum_length_received = 32768
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.3"
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = "VERSION"
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 8
    window.maximum_number_operations_performed = 2
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid = "1.2.1"
    role.scu_role = True
    role.scp_role = True
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid = "1.2.1"
    extended.service_class_application_information = b"\1\2"
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid = "1.2.3"
    common.service_class_uid = "1.2.840.10008.4.2"
    common.related_general_sop_class_identification = ["1.2.1", "1.2.5"]
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field = b"someone"
    identity.secondary_field = b"passcode"
    identity.positive_response_requested = True
    items: list[Any] = [length, implementation, version, window, role, extended, common, identity]
    primitive.user_information = items

    request = decode_request(A_ASSOCIATE_RQ(primitive).encode()[6:])

    assert len(request.contexts) == 128
    assert request.contexts[127].transfer_syntaxes == (pdus.IMPLICIT, pdus.EXPLICIT)
    assert request.maximum_length == 32768
    assert request.implementation_version_name == "VERSION"
    assert request.asynchronous_operations == (8, 2)
    assert request.roles == (RoleSelection(sop_class_uid="1.2.1", is_scu=True, is_scp=True),)
    assert request.extended == (("1.2.1", b"\1\2"),)
    assert request.common_extended == (
        CommonExtendedNegotiation(
            sop_class_uid="1.2.3",
            service_class_uid="1.2.840.10008.4.2",
            related_general_sop_classes=("1.2.1", "1.2.5"),
        ),
    )
    assert request.user_identity == UserIdentity(
        kind=2, primary=b"someone", secondary=b"passcode", is_answer_wanted=True
    )


def test_a_passcode_is_never_shown() -> None:
    user = item(0x58, b"\2\0" + counted(b"someone") + counted(b"passcode"))
    request = decode_request(body(user=user))
    assert request.user_identity is not None
    assert request.user_identity.secondary == b"passcode"
    for secret in ("passcode", "someone"):
        assert secret not in repr(request)


def test_unknown_items_and_sub_items_are_passed_over() -> None:
    request = decode_request(body(user=item(0x99, b"what"), extra=item(0x77, b"ever")))
    assert len(request.contexts) == 2


def test_odd_identifiers_cost_their_context_and_nothing_else() -> None:
    request = decode_request(
        body(
            contexts=(
                (1, "1.2.3\0", ("1.02.3", "not a uid", "1" * 65, "..")),
                (3, "ISO-\xe9", (pdus.IMPLICIT,)),
                (5, "9" * 64, ()),
            )
        )
    )
    assert request.contexts == (
        ProposedContext(context_id=1, abstract_syntax="1.2.3", transfer_syntaxes=("1.02.3",)),
        ProposedContext(context_id=3, abstract_syntax="", transfer_syntaxes=(pdus.IMPLICIT,)),
        ProposedContext(context_id=5, abstract_syntax="9" * 64, transfer_syntaxes=()),
    )


def test_titles_lose_their_padding_and_keep_the_rest() -> None:
    request = decode_request(body(called=b" A B ", calling=b"X\0\0"))
    assert (request.called_ae_title, request.calling_ae_title) == ("A B", "X")
    assert decode_request(body(calling=b"\xe9")).calling_ae_title == "\xe9"


def test_a_version_name_is_made_printable() -> None:
    assert decode_request(body(user=item(0x55, b"A\n\xff" + b"B" * 40))).implementation_version_name == "A??" + "B" * 13


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0" * 67, id="fixed fields cut off"),
        pytest.param(body(extra=b"\x20"), id="item header cut off"),
        pytest.param(body(extra=b"\x20\0\0\x09abc"), id="item cut off"),
        pytest.param(body(extra=item(0x20, b"\1\0")), id="context without reserved bytes"),
        pytest.param(body(contexts=((2, pdus.CT, (pdus.IMPLICIT,)),)), id="even context id"),
        pytest.param(body(contexts=((1, pdus.CT, ()), (1, pdus.CT, ()))), id="context id twice"),
        pytest.param(body(user=item(0x53, b"\0\1")), id="operations window cut off"),
        pytest.param(body(user=item(0x54, counted(b"1.2")[:-1])), id="role selection cut off"),
        pytest.param(body(user=item(0x57, counted(b"1.2") + counted(b"1.3") + counted(b"\0"))), id="common extended"),
        pytest.param(body(user=item(0x58, b"\2\0\xff\xff")), id="user identity cut off"),
        pytest.param(body(maximum_length=11), id="maximum length too small to answer"),
    ],
)
def test_what_cannot_be_read_is_our_error(data: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode_request(data)
    assert caught.value.reason == 6


def an_accept() -> AssociateAccept:
    return AssociateAccept(
        contexts=(
            ContextResult(context_id=1, abstract_syntax=pdus.VERIFICATION, result=0, transfer_syntax=pdus.IMPLICIT),
            ContextResult(context_id=3, abstract_syntax=pdus.CT, result=4, transfer_syntax=pdus.EXPLICIT),
        ),
        maximum_length=131072,
        asynchronous_operations=(16, 1),
        roles=(RoleSelection(sop_class_uid=pdus.CT, is_scu=True, is_scp=False),),
        extended=((pdus.CT, b"\2\0\3\0\0\0"),),
        is_user_identity_answered=True,
    )


def test_pynetdicom_reads_what_we_accept() -> None:
    request = decode_request(body())
    data = encode_accept(request, an_accept())
    pdu = A_ASSOCIATE_AC()
    pdu.decode(data)
    primitive = pdu.to_primitive()
    results = primitive.presentation_context_definition_results_list
    assert [(result.context_id, result.result) for result in results] == [(1, 0), (3, 4)]
    assert results[0].transfer_syntax == [pdus.IMPLICIT]
    assert primitive.maximum_length_received == 131072
    assert primitive.implementation_class_uid == IMPLEMENTATION_CLASS_UID
    kinds: dict[type, Any] = {type(one): one for one in primitive.user_information}
    assert kinds[ImplementationVersionNameNotification].implementation_version_name == IMPLEMENTATION_VERSION_NAME
    assert kinds[AsynchronousOperationsWindowNegotiation].maximum_number_operations_invoked == 16
    assert kinds[SCP_SCU_RoleSelectionNegotiation].scu_role is True
    assert kinds[SCP_SCU_RoleSelectionNegotiation].scp_role is False
    assert kinds[SOPClassExtendedNegotiation].service_class_application_information == b"\2\0\3\0\0\0"
    assert kinds[UserIdentityNegotiation].server_response in {None, b""}
    assert struct.unpack(">I", data[2:6])[0] == len(data) - 6


def test_titles_and_reserved_bytes_are_sent_back_as_received() -> None:
    raw = body(called=b" A ", calling=b"\xff\xfe")
    data = encode_accept(decode_request(raw), an_accept())
    assert raw[4:68] == data[10:74]


def test_pynetdicom_reads_what_we_reject() -> None:
    pdu = A_ASSOCIATE_RJ()
    pdu.decode(encode_reject(Rejection(result=2, source=3, reason=1, explanation="")))
    assert (pdu.result, pdu.source, pdu.reason_diagnostic) == (2, 3, 1)


@pytest.mark.parametrize(
    "proposed,expected",
    [(None, None), ((1, 1), (1, 1)), ((8, 8), (8, 1)), ((40, 0), (16, 1)), ((0, 0), (16, 1))],
)
def test_the_operations_window(proposed: tuple[int, int] | None, expected: tuple[int, int] | None) -> None:
    assert expected == answer_operations_window(proposed)


def test_extended_negotiation_is_answered_for_accepted_storage_classes_only() -> None:
    proposed = ((pdus.CT, b"\0"), ("1.2.3", b"\0"))
    assert storage_information(proposed, frozenset({pdus.CT})) == ((pdus.CT, b"\2\0\3\0\0\0"),)


def test_transfer_syntaxes_without_number_are_passed_over() -> None:
    many = tuple(f"1.2.{number}" for number in range(5000))
    request = decode_request(pdus.associate_rq(contexts=((1, pdus.CT, many),))[6:])
    assert request.contexts[0].transfer_syntaxes == many[:128]
