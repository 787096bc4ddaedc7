"""
Every function may run twice, out of order, or die half-way: the outcome is the same.

The state machine as it is deployed carries batches through their imports, by the real functions on memory adapters.
Each example does so once undisturbed and once with disturbances at calls of functions and, inside them, of ports.
In the end both worlds hold the same, and people were told of the same batches.

    STORESCP_EXAMPLES=20000 .venv/bin/pytest tests/properties/test_functions_may_fail_anyhow.py     many more
"""

from __future__ import annotations

import os

import attrs
import hypothesis.strategies as st
from hypothesis import HealthCheck, example, given, settings

from domain.lifecycle import BatchState, InstanceState
from tests.carried_world import CarriedWorld, Delivery, Disturbance, Outcome

EXAMPLES = int(os.environ.get("STORESCP_EXAMPLES", "100"))
SETTINGS = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)

ERRORS = ("RuntimeError", "Sandbox.Timedout", "Lambda.ServiceException")
KINDS = ("dies", "dies", "cut off", "away", "away", "twice", "together", "earlier", "recovery", "sleeps", "stopped")
disturbances = st.one_of(
    st.builds(
        Disturbance,
        st.sampled_from(KINDS),
        st.integers(1, 16),
        st.booleans(),
        st.sampled_from(ERRORS),
        st.integers(0, 30),
    ),
    # where it hurts: beside the one write that decides
    st.builds(
        Disturbance,
        st.sampled_from(["dies", "away", "together", "recovery", "sleeps"]),
        st.just(1),
        st.booleans(),
        only=st.just("replace_batch"),
    ),
)
# by the number of the function's call; a batch takes about six, and each disturbance adds some
plans = st.dictionaries(st.integers(0, 24), disturbances, max_size=6)

INSTANCE_FATES = ("imported", "imported", "imported", "refused", "server error", "server error once", "no outcome")
BATCH_FATES = ("imported", "imported", "imported", "start refused", "job failed", "results unreadable")


deliveries = st.builds(
    Delivery, st.sampled_from(BATCH_FATES), st.lists(st.sampled_from(INSTANCE_FATES), min_size=1, max_size=3).map(tuple)
)


def _carry_through(world: CarriedWorld, delivered: list[Delivery]) -> tuple[Outcome, Outcome]:
    """Return how things stand once all has ended, and once the operator has mended and retried what failed."""
    for number, delivery in enumerate(delivered, start=1):
        world.receive(delivery, number)
    world.go_on()
    first = world.outcome()
    failed = {batch for batch, (state, *_) in first.batches.items() if state is BatchState.FAILED}
    assert failed <= first.told
    world.mend()
    world.retry_everything()
    world.go_on()
    while world.wake("reconcile") is None:
        pass
    world.go_on()
    return first, world.outcome()


_DIES_AFTER_THE_WRITE = Disturbance("dies", is_after=True, only="replace_batch")


@SETTINGS
# what it found: a retry by itself that was forgotten, and failures of which nobody was told
@example([Delivery("imported", ("server error once",))], {4: _DIES_AFTER_THE_WRITE})
@example([Delivery("job failed", ("imported",))], {3: _DIES_AFTER_THE_WRITE})
@example([Delivery("start refused", ("imported",))], {1: attrs.evolve(_DIES_AFTER_THE_WRITE, kind="away")})
@given(delivered=st.lists(deliveries, min_size=1, max_size=3), plan=plans)
def test_whatever_happens_to_functions_the_outcome_is_the_same(
    delivered: list[Delivery], plan: dict[int, Disturbance]
) -> None:
    first, last = _carry_through(CarriedWorld({}), delivered)
    assert {state for state, _ in last.instances.values()} == {InstanceState.IMPORTED}
    assert last.kept == frozenset()

    disturbed = CarriedWorld(plan)
    disturbed_first, disturbed_last = _carry_through(disturbed, delivered)

    assert disturbed_first == first
    if disturbed.is_unread:
        last = attrs.evolve(last, imports=disturbed_last.imports, jobs=disturbed_last.jobs)
    assert disturbed_last == last


@SETTINGS
@given(copies=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=2, max_size=3), plan=plans)
def test_whatever_happens_to_functions_the_newest_copy_is_imported(
    copies: list[list[int]], plan: dict[int, Disturbance]
) -> None:
    """Receivers hold other bytes of the same instances; which older copies go in first depends on what happens."""
    world = CarriedWorld(plan)
    for version, instances in enumerate(copies):
        owner = world.new_owner()
        for instance in instances:
            world.store(owner, instance, version)
        owner.batches.drain()

    world.go_on()

    newest = {key: landed.digest for key, landed in world.newest_acknowledged().items()}
    assert {key: copy.digest for key, copy in world.importer.data.items()} == newest
    outcome = world.outcome()
    assert {state for state, *_ in outcome.batches.values()} == {BatchState.SETTLED}
    assert {state for state, _ in outcome.instances.values()} == {InstanceState.IMPORTED}
    assert outcome.kept == frozenset()
    assert outcome.told == frozenset()
