"""Kill the receiver while a client sends: what was answered Success is imported, and present once."""

import random
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.serving import Serving, pixels, store_until_cut

_INSTANCES = 400
_WRITTEN_EARLY = 300_000


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "moments, size", [pytest.param(20, 4096, id="small"), pytest.param(8, _WRITTEN_EARLY, id="large")]
)
def test_what_was_answered_success_survives_kill_9_at_random_moments(tmp_path: Path, moments: int, size: int) -> None:
    chance = random.Random(20)
    acknowledged: list[str] = []
    serving = Serving(tmp_path / "data", {"batch_max_files": "40", "batch_quiet_seconds": "0.2"})
    for moment in range(moments):
        serving.start()
        first = moment * _INSTANCES
        sender = threading.Thread(
            target=store_until_cut,
            args=(serving.port, range(first, first + _INSTANCES), acknowledged),
            kwargs={"size": size},
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
    stored = {path.stem: path for path in (tmp_path / "data" / "datastore").rglob("*.dcm")}
    assert sorted(stored) == sorted(imported)
    for uid, path in stored.items():
        assert dcmread(path).PixelData == pixels(int(uid.rpartition(".")[2]), size)
