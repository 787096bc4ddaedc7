"""`make demo`, as a visitor runs it."""

import subprocess
import sys

import pytest

from tests.serving import clean_environment


@pytest.mark.slow
def test_the_demonstration_shows_what_became_of_every_image() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adapters.entrypoints.demo"],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env={**clean_environment(), "PYTHONIOENCODING": "utf-8"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    assert "$ ahi-storescp status" in words
    assert "$ ahi-storescp failures" in words
    assert "ValidationException" in words
    assert words.endswith("0 are pending.")
