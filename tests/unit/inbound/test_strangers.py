from adapters.inbound.dicom.strangers import Strangers
from adapters.memory.telemetry import RecordingTelemetry


class Scene:
    def __init__(self) -> None:
        self.time = 100.0
        self.telemetry = RecordingTelemetry()
        self.strangers = Strangers(self.telemetry, seconds=10.0, now=lambda: self.time)

    def meet(self, address: str = "10.0.0.7", mishap: str = "noise") -> None:
        self.strangers.event("association.violated", address=address, mishap=mishap, reason=1)


def test_the_first_is_told_and_the_next_line_says_how_many_it_stands_for() -> None:
    scene = Scene()
    for _ in range(500):
        scene.meet()
        scene.time += 0.01
    scene.time += 10
    scene.meet()
    scene.time += 10
    scene.meet()
    fields = [event.fields for event in scene.telemetry.named("association.violated")]
    assert fields == [
        {"address": "10.0.0.7", "reason": 1},
        {"address": "10.0.0.7", "reason": 1, "left_out": 499},
        {"address": "10.0.0.7", "reason": 1},
    ]


def test_another_address_and_another_mishap_have_lines_of_their_own() -> None:
    scene = Scene()
    for _ in range(3):
        scene.meet()
        scene.meet(address="10.0.0.8")
        scene.meet(mishap="TLS")
    assert len(scene.telemetry.events) == 3


def test_a_flood_from_everywhere_takes_bounded_memory() -> None:
    scene = Scene()
    for number in range(3000):
        scene.meet(address=f"10.0.{number // 256}.{number % 256}")
    assert len(scene.strangers._known) == 1024
    scene.meet(address="10.0.11.183")
    assert len(scene.telemetry.events) == 3000, "the latest is still known"
