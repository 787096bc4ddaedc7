"""Every seed and every input that once broke a promise, and a moment of blind fuzzing of each target."""

import pytest

from tests.fuzz.corpus import REGRESSIONS, seeds
from tests.fuzz.mutation import fuzz
from tests.fuzz.targets import TARGETS
from tests.fuzz.wire import BrokenPromise, check_sent


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_old_findings_keep_every_promise(target: str) -> None:
    for data in seeds(target):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_a_moment_of_fuzzing_breaks_nothing(target: str) -> None:
    tried, happened = fuzz(target, 30, seeds(target), tries=300)
    assert tried
    assert happened > 3


def test_every_folder_of_findings_belongs_to_a_target() -> None:
    assert {path.name for path in REGRESSIONS.iterdir() if path.is_dir()} <= set(TARGETS)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\7\0", id="half a header"),
        pytest.param(b"\1\0\0\0\0\0", id="a request"),
        pytest.param(b"\6\0\0\0\0\4\0\0\0\0\2\0\0\0\0\0", id="an acceptance after the release"),
        pytest.param(b"\4\0\0\0\0\7\0\0\0\3\2\0x", id="an even context id"),
    ],
)
def test_what_no_acceptor_may_send_is_seen(sent: bytes) -> None:
    with pytest.raises(BrokenPromise):
        check_sent(sent)
