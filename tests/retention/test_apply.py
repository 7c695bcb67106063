"""Removal follows the plan and never stops training (A10, B2)."""

from unbroken.errors import NotFound
from unbroken.retention.apply import Removal, apply
from unbroken.retention.policy import KeepNewest, plan
from unbroken.store.memory import MemoryBackend
from unbroken.store.repository import CheckpointRepository
from unbroken.testing.backends import FaultyBackend
from unbroken.testing.samples import small_checkpoint


def repository_with(backend, *steps):
    repository = CheckpointRepository(backend, "sample_checkpoint")
    for step in steps:
        repository.save(step, small_checkpoint())
    return repository


def test_oldest_first():
    """A2: the newest 2 are left."""
    repository = repository_with(MemoryBackend(), 100, 200, 300, 400)
    events = []
    removals = apply(plan(repository.records(), [KeepNewest(2)]), repository.remove, events.append)
    assert [removal.record.step for removal in removals] == [100, 200]
    assert events == removals
    assert [record.step for record in repository.records()] == [300, 400]


def test_a_failing_removal_is_reported_and_the_others_go_on():
    """A10: read-only or busy files warn."""
    busy = PermissionError("in use")
    backend = FaultyBackend(
        MemoryBackend(), lambda operation, path: busy if operation == "remove" and "_100_" in path else None
    )
    repository = repository_with(backend, 100, 200, 300)
    records = repository.records()
    removals = apply(plan(records, [KeepNewest(1)]), repository.remove, lambda event: None)
    assert removals == [Removal(records[0], busy), Removal(records[1])]
    assert [record.step for record in repository.records()] == [100, 300]


def test_one_that_is_gone_already_is_reported():
    repository = repository_with(MemoryBackend(), 100, 200)
    decided = plan(repository.records(), [])
    repository.remove(decided.removable[0])
    removals = apply(decided, repository.remove, lambda event: None)
    assert isinstance(removals[0].error, NotFound)
