"""Kill the receiver while a client sends: what was answered Success is imported, and present once."""

import random
import threading
import time
from pathlib import Path

import pytest

from tests.serving import Serving, store_until_cut

_MOMENTS = 20
_INSTANCES = 400


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_was_answered_success_survives_kill_9_at_twenty_random_moments(tmp_path: Path) -> None:
    chance = random.Random(20)
    acknowledged: list[str] = []
    serving = Serving(tmp_path / "data", {"batch_max_files": "40", "batch_quiet_seconds": "0.2"})
    for moment in range(_MOMENTS):
        serving.start()
        first = moment * _INSTANCES
        sender = threading.Thread(
            target=store_until_cut, args=(serving.port, range(first, first + _INSTANCES), acknowledged)
        )
        before = len(acknowledged)
        sender.start()
        time.sleep(chance.uniform(0.02, 0.6))
        serving.kill()
        sender.join()
        assert len(acknowledged) < before + _INSTANCES or moment, "the kill came too late to prove anything"
    assert acknowledged

    with serving:
        status = serving.settled(len(acknowledged))
        imported = {
            instance["sop_instance_uid"]
            for study in status["studies"]
            for instance in serving.json("study", study["study_instance_uid"])["instances"]
            if instance["state"] == "imported"
        }
        assert set(acknowledged) <= imported
        assert status["totals"]["failed"] == 0
        assert serving.stop() == 0
    stored = [path.stem for path in (tmp_path / "data" / "datastore").rglob("*.dcm")]
    assert sorted(stored) == sorted(imported)
