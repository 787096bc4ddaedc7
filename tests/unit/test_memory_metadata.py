"""The hooks of MemoryMetadataStore: faults before an effect, and answers lost after it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from adapters.memory.metadata import MemoryMetadataStore
from domain.errors import MetadataUnavailable
from domain.lifecycle import BatchState
from domain.ports import MetadataStore
from tests.builders import STUDY, a_batch, a_batch_id, a_holding, a_key, a_record, a_study, a_uid

CALLS: dict[str, Callable[[MetadataStore], Any]] = {
    "add_batch": lambda store: store.add_batch(a_batch()),
    "batch": lambda store: store.batch(a_batch_id()),
    "replace_batch": lambda store: store.replace_batch(a_batch(), a_batch()),
    "clear_batch": lambda store: store.clear_batch(a_batch(), a_batch(), frozenset()),
    "batches": lambda store: store.batches(BatchState),
    "newest": lambda store: store.newest([a_key()]),
    "claim": lambda store: store.claim([(a_record(), None)]),
    "put_entries": lambda store: store.put_entries([a_record()]),
    "entries": lambda store: store.entries(a_batch_id()),
    "pick_entries": lambda store: store.pick_entries(a_batch_id(), [a_key()]),
    "put_holdings": lambda store: store.put_holdings([a_holding()]),
    "holdings": lambda store: store.holdings(STUDY),
    "put_study": lambda store: store.put_study(a_study()),
    "study": lambda store: store.study(STUDY),
    "studies": lambda store: store.studies(),
    "instances": lambda store: store.instances(STUDY),
    "find_instance": lambda store: store.find_instance(a_uid()),
    "failures": lambda store: store.failures(),
    "conflicts": lambda store: store.conflicts(),
}


def call(name: str, store: MetadataStore) -> None:
    answer = CALLS[name](store)
    if isinstance(answer, Iterator):
        list(answer)


def unavailable(name: str) -> None:
    raise MetadataUnavailable(f"{name} did not work")


def test_every_method_of_the_port_is_called_here() -> None:
    methods = {name for name, _ in inspect.getmembers(MetadataStore, inspect.isfunction) if name[0] != "_"}
    assert methods == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_the_hooks_learn_of_every_call(name: str) -> None:
    before: list[str] = []
    after: list[str] = []
    call(name, MemoryMetadataStore(before=before.append, after=after.append))
    assert [name] == before == after


@pytest.mark.parametrize("name", CALLS)
def test_a_fault_reaches_the_caller(name: str) -> None:
    with pytest.raises(MetadataUnavailable):
        call(name, MemoryMetadataStore(before=unavailable))
    with pytest.raises(MetadataUnavailable):
        call(name, MemoryMetadataStore(after=unavailable))


def test_a_fault_before_has_no_effect_and_one_after_has() -> None:
    store = MemoryMetadataStore(before=unavailable)
    with pytest.raises(MetadataUnavailable):
        store.add_batch(a_batch())
    store.before, store.after = lambda _name: None, unavailable
    with pytest.raises(MetadataUnavailable):
        store.add_batch(a_batch())
    store.after = lambda _name: None
    assert store.batch(a_batch_id()) == a_batch()
    assert not store.add_batch(a_batch())


def test_a_hook_may_use_the_store() -> None:
    """So that a test can let another owner act just before a call."""
    store = MemoryMetadataStore()

    def interfere(name: str) -> None:
        if name == "replace_batch":
            store.before = lambda _name: None
            store.replace_batch(a_batch(), a_batch().rerun())

    store.add_batch(a_batch())
    store.before = interfere
    assert not store.replace_batch(a_batch(), a_batch().rerun().rerun())
