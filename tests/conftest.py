"""What every test may use: outside tools, hypothesis profiles, a check that no thread outlives its test."""

import os
import threading
import time
from collections.abc import Callable, Iterator

import hypothesis
import pytest

from tests.tools import REQUIRE_TOOLS
from tests.tools import require_tool as find_tool

# CI: the same examples on every run, and no deadline on a machine whose load nobody knows.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get(REQUIRE_TOOLS) == "1" else "dev")
)

_THREAD_GRACE_SECONDS = 5.0


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """Give the path of a program from outside; without it the test is skipped, or fails in CI."""
    return find_tool


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """Fail a test that leaves threads behind; ask for it with `pytest.mark.usefixtures`."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + _THREAD_GRACE_SECONDS
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = sorted(thread.name for thread in set(threading.enumerate()) - before)
    if left:
        pytest.fail(f"threads left running: {', '.join(left)}", pytrace=False)
