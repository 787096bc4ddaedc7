import attrs
import pytest
from blake3 import blake3

from domain.errors import DataSetMismatch, InstanceTooLarge, StageFailed, UnreadableDataSet
from domain.identifiers import AeTitle, Digest
from domain.instance import IdentifyingAttributes, StoreRequest
from services.receive_instance import ReceiveInstance
from tests.builders import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, MODALITY
from tests.world import World

HEADER, DATA = b"part 10 header", b"the data set"
REQUEST = StoreRequest(
    sop_class_uid=CT_IMAGE_STORAGE.value,
    sop_instance_uid="2.25.3",
    transfer_syntax=EXPLICIT_VR_LITTLE_ENDIAN,
    calling_ae_title=MODALITY,
    called_ae_title=AeTitle("STORESCP"),
    association="a-1",
)
ATTRIBUTES = IdentifyingAttributes(
    sop_class_uid=CT_IMAGE_STORAGE.value,
    sop_instance_uid="2.25.3",
    study_instance_uid="2.25.1",
    series_instance_uid="2.25.2",
)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def receive(world: World) -> ReceiveInstance:
    return ReceiveInstance(
        staging=world.staging,
        batches=world.new_owner().batches,
        clock=world.clock,
        telemetry=world.telemetry,
        max_bytes=30,
    )


def test_a_complete_instance_is_durable_as_it_was_sent(world: World, receive: ReceiveInstance) -> None:
    reception = receive.begin(REQUEST, HEADER)
    reception.write(DATA[:5])
    reception.write(memoryview(DATA)[5:])
    instance = reception.finish(ATTRIBUTES)
    (held,) = world.staging.objects.values()
    assert held.content == HEADER + DATA
    assert instance == held.facts.instance


def test_the_digest_covers_data_set_and_transfer_syntax_and_not_the_header(receive: ReceiveInstance) -> None:
    reception = receive.begin(REQUEST, HEADER)
    reception.write(DATA)
    expected = blake3(DATA + EXPLICIT_VR_LITTLE_ENDIAN.value.encode()).hexdigest()
    assert Digest(expected) == reception.finish(ATTRIBUTES).digest


def test_what_was_received_is_told_and_counted(world: World, receive: ReceiveInstance) -> None:
    for _ in range(2):
        reception = receive.begin(REQUEST, HEADER)
        reception.write(DATA)
        reception.finish(ATTRIBUTES)
    assert [event.name for event in world.telemetry.events if event.name.startswith("instance.")] == [
        "instance.staged",
        "instance.repeated",
    ]
    assert world.telemetry.named("instance.staged")[0].fields["association"] == "a-1"
    assert (2, 2 * len(HEADER + DATA)) == (
        world.telemetry.total("InstancesReceived"),
        world.telemetry.total("BytesReceived"),
    )


def test_more_bytes_than_one_object_may_have_are_refused(receive: ReceiveInstance) -> None:
    reception = receive.begin(REQUEST, HEADER)
    reception.write(b"x" * 16)
    with pytest.raises(InstanceTooLarge):
        reception.write(b"x")
    reception.abandon()
    reception.abandon()


@pytest.mark.parametrize(
    "attributes, error",
    [
        (attrs.evolve(ATTRIBUTES, study_instance_uid=None), UnreadableDataSet),
        (attrs.evolve(ATTRIBUTES, sop_instance_uid="2.25.4"), DataSetMismatch),
    ],
)
def test_what_is_not_what_it_should_be_is_not_staged(
    world: World, receive: ReceiveInstance, attributes: IdentifyingAttributes, error: type[Exception]
) -> None:
    reception = receive.begin(REQUEST, HEADER)
    reception.write(DATA)
    with pytest.raises(error):
        reception.finish(attributes)
    assert world.staging.objects == {}


def test_a_draft_that_cannot_take_its_header_is_given_up(receive: ReceiveInstance) -> None:
    discarded = []

    class FullDraft:
        size = 0

        def write(self, data: bytes | memoryview) -> None:
            raise StageFailed("no room")

        def discard(self) -> None:
            discarded.append(True)

    class FullStage:
        def draft(self) -> FullDraft:
            return FullDraft()

    full = attrs.evolve(receive, staging=FullStage())  # type: ignore[arg-type]  # nothing else of it is used
    with pytest.raises(StageFailed, match="no room"):
        full.begin(REQUEST, HEADER)
    assert discarded == [True]
