import threading

import pytest

from domain.batch import BatchPolicy, CloseReason, LeasePolicy
from domain.errors import Draining, MetadataUnavailable, StageFailed
from domain.identifiers import BatchId
from domain.lifecycle import BatchState
from domain.staging import StagingKey
from tests.builders import a_batch, an_instance
from tests.world import Interruption, Owner, World

UNLEASED = None


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def owner(world: World) -> Owner:
    return world.new_owner()


def reasons(world: World) -> list[CloseReason | None]:
    return [batch.close_reason for batch in world.metadata.batches([BatchState.CLOSED])]


def only_batch(world: World) -> BatchId:
    (batch_id,) = world.batch_ids()
    return batch_id


def test_the_record_of_a_batch_is_there_before_its_first_object(world: World, owner: Owner) -> None:
    seen: list[int] = []
    with world.interrupted(Interruption(1, False, lambda _: seen.append(len(world.batch_ids())), "stage")):
        assert world.store(owner, 1)
    assert seen == [1]


def test_all_instances_of_a_process_share_its_open_batch(world: World, owner: Owner) -> None:
    assert all(world.store(owner, number) for number in (1, 2, 3))
    assert len(list(world.staging.list(only_batch(world)))) == 3


def test_the_same_bytes_are_written_once(world: World, owner: Owner) -> None:
    assert world.store(owner, 1)
    assert world.store(owner, 1)
    assert len(world.landed) == 1


def test_other_bytes_of_a_uid_go_to_the_next_batch_and_the_open_one_closes(world: World, owner: Owner) -> None:
    assert world.store(owner, 1, 0)
    assert world.store(owner, 1, 1)
    world.tick(owner)
    assert reasons(world) == [CloseReason.OTHER_BYTES]
    assert len(world.staging.objects) == 2


def test_a_quiet_batch_is_closed_and_handed_over(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.tick(owner)
    assert reasons(world) == []
    world.clock.advance(15)
    world.tick(owner)
    assert reasons(world) == [CloseReason.QUIET]
    assert [only_batch(world)] == [batch.id for batch in world.workflow.started]
    world.tick(owner)


def test_a_batch_that_is_never_quiet_closes_by_age(world: World, owner: Owner) -> None:
    for number in range(7):
        world.store(owner, number + 1)
        world.clock.advance(10)
        world.tick(owner)
    assert reasons(world) == [CloseReason.AGE]


def test_a_full_batch_closes_and_the_next_one_takes_over() -> None:
    world = World(policy=BatchPolicy(max_files=2))
    owner = world.new_owner()
    assert all(world.store(owner, number) for number in (1, 2, 3))
    world.tick(owner)
    assert reasons(world) == [CloseReason.FILES]


def test_a_batch_waits_with_closing_for_writes_to_the_stage(world: World, owner: Owner) -> None:
    def age() -> None:
        world.clock.advance(60)
        owner.batches.tick()
        assert reasons(world) == []

    with world.interrupted(Interruption(1, False, lambda _: age(), "stage")):
        assert world.store(owner, 1)
    owner.batches.tick()
    assert reasons(world) == [CloseReason.AGE]


def test_a_write_that_fails_is_not_acknowledged_and_may_be_repeated(world: World, owner: Owner) -> None:
    with world.interrupted(Interruption(1, True, world.away, "stage")):
        assert not world.store(owner, 1)
    assert world.store(owner, 1)
    assert len(world.landed) == 2
    assert len(world.staging.objects) == 1


def test_a_prefix_that_the_stage_could_not_confirm_takes_nothing_further(world: World, owner: Owner) -> None:
    def suspect(_port: str) -> None:
        raise StageFailed("sync failed", suspect_prefix=True)

    with world.interrupted(Interruption(1, True, suspect, "stage")):
        assert not world.store(owner, 1)
    assert world.store(owner, 1)
    assert len(world.staging.objects) == 2
    world.tick(owner)
    assert reasons(world) == [CloseReason.SUSPECT]


def test_a_suspect_batch_closes_even_when_nothing_follows(world: World, owner: Owner) -> None:
    def suspect(_port: str) -> None:
        raise StageFailed("sync failed", suspect_prefix=True)

    with world.interrupted(Interruption(1, True, suspect, "stage")):
        assert not world.store(owner, 1)
    world.tick(owner)
    assert reasons(world) == [CloseReason.SUSPECT]


# ------------------------------------------------------------------------------------------- leases


def test_a_write_that_ends_after_the_lease_is_repeated_in_a_fresh_batch(world: World, owner: Owner) -> None:
    with world.interrupted(Interruption(1, False, lambda _: world.clock.advance(601), "stage")):
        assert world.store(owner, 1)
    assert len({landed.batch for landed in world.landed}) == 2
    assert len(world.telemetry.named("lease.lost")) == 1


def test_a_write_that_outlives_every_lease_is_refused(world: World, owner: Owner) -> None:
    def take_long(method: str, _key: StagingKey | None) -> None:
        if method == "stage":
            world.clock.advance(601)

    world.staging.before = take_long
    world.staging.after = lambda _method, _key: None
    draft = world.staging.draft()
    with pytest.raises(StageFailed, match="ran out again and again"):
        owner.batches.store(draft, an_instance(1))


def test_nothing_joins_a_batch_whose_lease_has_ended(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.clock.advance(600)
    world.store(owner, 1)
    assert len(world.batch_ids(BatchState.OPEN)) == 2
    world.tick(owner)
    assert reasons(world) == [CloseReason.SUSPECT]


def test_a_lease_is_renewed_now_and_then() -> None:
    world = World(policy=BatchPolicy(quiet_seconds=5_000, max_age_seconds=5_000))
    owner = world.new_owner()
    world.store(owner, 1)
    for _ in range(50):
        world.clock.advance(29)
        world.tick(owner)
    assert world.store(owner, 2)
    assert len(world.batch_ids()) == 1
    (batch,) = world.metadata.batches([BatchState.OPEN])
    assert batch.revision == 1 + 25


def test_the_lease_of_a_closing_batch_is_renewed_while_something_is_written(world: World, owner: Owner) -> None:
    def take_long() -> None:
        for _ in range(100):
            world.clock.advance(30)
            owner.batches.tick()

    with world.interrupted(Interruption(1, False, lambda _: take_long(), "stage")):
        assert world.store(owner, 1)
    assert len(world.landed) == 1


def test_a_closing_batch_that_was_taken_away_is_given_up_too(world: World, owner: Owner) -> None:
    def lose() -> None:
        world.clock.advance(60)
        owner.batches.tick()
        world.clock.advance(840)
        world.recover()
        owner.batches.tick()

    with world.interrupted(Interruption(1, False, lambda _: lose(), "stage")):
        assert world.store(owner, 1)
    assert len({landed.batch for landed in world.landed}) == 2


def test_a_renewal_whose_answer_was_lost_is_taken_up(world: World, owner: Owner) -> None:
    world.policy = BatchPolicy(quiet_seconds=5_000, max_age_seconds=5_000)
    owner = world.new_owner()
    world.store(owner, 1)
    world.clock.advance(31)
    with world.interrupted(Interruption(1, True, world.away, "replace_batch")):
        world.tick(owner)
    assert len(world.telemetry.named("lease.renewal_failed")) == 1
    world.tick(owner)
    world.clock.advance(580)
    world.tick(owner)
    world.clock.advance(300)
    assert world.store(owner, 2)
    assert len(world.batch_ids()) == 1


def test_a_batch_that_was_taken_away_is_given_up(world: World) -> None:
    world.policy = BatchPolicy(quiet_seconds=5_000, max_age_seconds=5_000)
    owner = world.new_owner()
    world.store(owner, 1)
    world.clock.advance(900)
    assert world.recover().closed == 1
    world.tick(owner)
    assert len(world.telemetry.named("lease.lost")) == 1
    assert world.store(owner, 2)
    assert len(world.batch_ids()) == 2
    assert reasons(world) == [CloseReason.RECOVERED]


def test_without_leases_time_does_not_matter() -> None:
    world = World(UNLEASED, BatchPolicy(quiet_seconds=100_000, max_age_seconds=100_000))
    owner = world.new_owner()
    world.store(owner, 1)
    world.clock.advance(10_000)
    world.tick(owner)
    assert world.store(owner, 2)
    (batch,) = world.metadata.batches([BatchState.OPEN])
    assert (batch.revision, batch.lease_expires_at) == (1, None)


def test_the_lease_policy_is_the_owners(world: World) -> None:
    world.lease = LeasePolicy(seconds=10, renew_every_seconds=1)
    owner = world.new_owner()
    world.store(owner, 1)
    world.clock.advance(10)
    world.store(owner, 2)
    assert len(world.batch_ids()) == 2


# ----------------------------------------------------------------------- the metadata store is away


def test_without_a_record_nothing_is_taken(world: World, owner: Owner) -> None:
    world.is_metadata_away = True
    assert not world.store(owner, 1)
    assert world.staging.objects == {}


def test_receiving_goes_on_in_the_open_batch_while_the_metadata_store_is_away(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.is_metadata_away = True
    world.clock.advance(100)
    world.tick(owner)
    assert world.store(owner, 2)
    world.is_metadata_away = False
    world.tick(owner)
    assert reasons(world) == [CloseReason.AGE]


def test_a_full_batch_closes_once_the_metadata_store_is_back(world: World) -> None:
    world.policy = BatchPolicy(max_files=1)
    owner = world.new_owner()
    world.store(owner, 1)
    world.is_metadata_away = True
    assert not world.store(owner, 2)
    world.tick(owner)
    assert world.telemetry.named("batch.close_failed")
    world.is_metadata_away = False
    world.tick(owner)
    assert reasons(world) == [CloseReason.FILES]


def test_a_batch_closes_after_it_was_sealed_and_not_before(world: World, owner: Owner) -> None:
    def away(_port: str) -> None:
        raise StageFailed("the disk is full")

    world.store(owner, 1)
    world.clock.advance(15)
    with world.interrupted(Interruption(1, False, away, "seal")):
        world.tick(owner)
    assert [only_batch(world)] == world.batch_ids(BatchState.OPEN)
    assert [event.fields["detail"] for event in world.telemetry.named("batch.seal_failed")] == ["the disk is full"]
    assert world.store(owner, 2)
    world.tick(owner)
    assert reasons(world) == [CloseReason.QUIET]


def test_a_batch_whose_opening_got_no_answer_is_closed_before_the_next_is_opened(world: World, owner: Owner) -> None:
    with world.interrupted(Interruption(1, True, world.away, "add_batch")):
        assert not world.store(owner, 1)
    assert world.store(owner, 1)
    assert reasons(world) == [CloseReason.SUSPECT]
    assert len(world.batch_ids(BatchState.OPEN)) == 1


def test_one_opening_without_an_answer_is_enough(world: World, owner: Owner) -> None:
    with world.interrupted(Interruption(1, False, world.away, "add_batch")):
        assert not world.store(owner, 1)
    world.is_metadata_away = True
    assert not world.store(owner, 1)
    world.is_metadata_away = False
    world.tick(owner)
    assert world.batch_ids() == []
    assert world.store(owner, 1)


def test_a_batch_id_that_is_taken_is_not_used(world: World, owner: Owner) -> None:
    owner.batches.entropy = lambda: "same"
    world.metadata.add_batch(a_batch(id=BatchId.at(world.clock.now(), "same")))
    with pytest.raises(MetadataUnavailable, match="exists already"):
        owner.batches.store(world.staging.draft(), an_instance(1))


def test_a_workflow_that_cannot_be_started_is_left_to_recovery(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.is_workflow_away = True
    world.clock.advance(15)
    world.tick(owner)
    assert reasons(world) == [CloseReason.QUIET]
    assert len(world.telemetry.named("workflow.start_failed")) == 1


def test_a_closing_whose_answer_was_lost_is_handed_over_all_the_same(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.clock.advance(15)
    with world.interrupted(Interruption(1, True, world.away, "replace_batch")):
        world.tick(owner)
    assert world.workflow.started == []
    world.tick(owner)
    assert [only_batch(world)] == [batch.id for batch in world.workflow.started]


def test_a_batch_that_others_closed_and_carried_on_is_left_to_them(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.clock.advance(900)
    world.recover()
    batch = only_batch(world)
    world.carry(batch)
    world.work()
    started = len(world.workflow.started)
    world.tick(owner)
    assert started == len(world.workflow.started)


def test_a_batch_that_recovery_closes_at_the_same_moment_is_left_to_it(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    world.clock.advance(900)
    with world.interrupted(Interruption(1, False, lambda _: world.recover(), "replace_batch")):
        world.tick(owner)
    assert reasons(world) == [CloseReason.RECOVERED]
    assert world.telemetry.named("batch.closed") == []


# ------------------------------------------------------------------------------------------ the end


def test_draining_closes_the_open_batch_and_takes_nothing_further(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    assert owner.batches.drain()
    assert reasons(world) == [CloseReason.STOPPING]
    with pytest.raises(Draining):
        owner.batches.store(world.staging.draft(), an_instance(2))
    assert owner.batches.drain()


def test_draining_is_not_done_while_something_is_written(world: World, owner: Owner) -> None:
    done: list[bool] = []
    with world.interrupted(Interruption(1, False, lambda _: done.append(owner.batches.drain()), "stage")):
        assert world.store(owner, 1)
    assert done == [False]
    assert owner.batches.drain()


def test_draining_is_not_done_while_a_batch_is_opened(world: World, owner: Owner) -> None:
    done: list[bool] = []
    with world.interrupted(Interruption(1, True, lambda _: done.append(owner.batches.drain()), "add_batch")):
        assert not world.store(owner, 1)
    assert done == [False]
    assert owner.batches.drain()
    assert world.batch_ids(BatchState.OPEN) == []


def test_two_may_finish_closing_at_once(world: World, owner: Owner) -> None:
    world.store(owner, 1)
    with world.interrupted(Interruption(1, False, lambda _: owner.batches.drain(), "replace_batch")):
        owner.batches.drain()
    assert owner.batches.drain()
    assert len(world.workflow.started) == 1


def test_the_age_of_the_open_batch_is_known(world: World, owner: Owner) -> None:
    assert owner.batches.open_age_seconds() is None
    world.store(owner, 1)
    world.clock.advance(7)
    age = owner.batches.open_age_seconds()
    assert age is not None
    assert pytest.approx(age, abs=0.01) == 7.0


# ------------------------------------------------------------------------------------------ threads


class Gate:
    """Holds calls of one method until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def pass_through(self, *_: object) -> None:
        self.reached.set()
        assert self.opened.wait(10)


@pytest.mark.usefixtures("no_threads_left")
def test_a_second_store_of_a_uid_waits_for_the_first(world: World, owner: Owner) -> None:
    gate, answers = Gate(), []
    world.staging.before = lambda method, _key: gate.pass_through() if method == "stage" else None
    world.staging.after = lambda _method, _key: None

    def store(number: int) -> None:
        answers.append((number, owner.batches.store(world.staging.draft(), an_instance(1))))

    threads = [threading.Thread(target=store, args=(number,)) for number in (1, 2)]
    threads[0].start()
    assert gate.reached.wait(10)
    threads[1].start()
    threads[1].join(0.05)
    assert answers == []
    gate.opened.set()
    for thread in threads:
        thread.join(10)
    assert [answer for _, answer in sorted(answers, key=lambda pair: not pair[1])] == [True, False]
    assert len(world.staging.objects) == 1


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("is_away", [False, True])
def test_one_thread_opens_a_batch_for_all(world: World, owner: Owner, is_away: bool) -> None:
    gate, opened, failed = Gate(), [], []

    def open_slowly(method: str) -> None:
        if method == "add_batch":
            opened.append(method)
            gate.pass_through()
            if is_away:
                raise MetadataUnavailable("away")

    world.metadata.before = open_slowly
    world.metadata.after = lambda _method: None
    world.staging.before = world.staging.after = lambda _method, _key: None

    def store(number: int) -> None:
        try:
            owner.batches.store(world.staging.draft(), an_instance(number))
        except MetadataUnavailable:
            failed.append(number)

    threads = [threading.Thread(target=store, args=(number,)) for number in (1, 2, 3)]
    threads[0].start()
    assert gate.reached.wait(10)
    for thread in threads[1:]:
        thread.start()
    for thread in threads[1:]:
        thread.join(0.05)
    gate.opened.set()
    for thread in threads:
        thread.join(10)
    assert len(opened) == 1
    assert (3 if is_away else 0) == len(failed)
