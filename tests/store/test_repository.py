"""The checkpoints of one run: names, order, the newest valid one (A2, A7, A9)."""

import errno
import time

import pytest

from unbroken.errors import NotFound, UsageError
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.durable import write_bytes_durably
from unbroken.store.repository import CheckpointRepository
from unbroken.testing.backends import FaultyBackend
from unbroken.testing.samples import small_checkpoint


def save(repository, step, mark="", **facts):
    return repository.save(step, small_checkpoint(mark, **facts))


def mark_of(repository, record):
    with CheckpointFile(repository.backend, record.path) as file:
        return file.read("data").decode().split('"')[3]


def test_names_are_those_of_the_requirement(repository):
    """A2: `checkpoints/{scenario}_checkpoint_{steps}_steps.zip`."""
    record = save(repository, 10_000)
    assert record.path == "checkpoints/sample_checkpoint_10000_steps.zip"
    assert record.path == repository.path_for(10_000)


def test_a_saved_record_is_the_one_that_is_found(repository):
    record = save(repository, 5, score=2.0, tiers=["pinned"], kind="final")
    assert repository.records() == [record]
    assert (record.score, record.tiers, record.kind, record.valid) == (2.0, {"pinned"}, "final", None)
    assert record.created == pytest.approx(time.time(), abs=60)


def test_a_score_that_is_no_number_is_none(repository):
    assert save(repository, 5, score=float("nan")).score is None


def test_order_is_that_of_the_commits_not_of_steps_or_clocks(repository, monkeypatch):
    """A7: a clock that jumps back, and file times, do not matter."""
    save(repository, 300)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    save(repository, 100)
    records = repository.records()
    assert [record.step for record in records] == [300, 100]
    assert [record.sequence for record in records] == [1, 2]
    assert repository.latest_valid(pytest.fail).step == 100


def test_without_a_sequence_the_step_decides(repository):
    for step in (7, 30):
        save(repository, step, sequence=None)
    assert [record.sequence for record in repository.records()] == [7, 30]


def unreadable(repository, name):
    """The repository's files, of which one cannot be read while the list holds something."""
    broken = [OSError(errno.EIO, "Input/output error")]
    backend = FaultyBackend(
        repository.backend, lambda op, path: broken[0] if broken and op == "open" and name in path else None
    )
    return broken, CheckpointRepository(backend, "sample_checkpoint", scenario="sample", run="sample")


def test_what_cannot_be_read_is_unknown_and_what_comes_next_is_newer(repository):
    """A7, A10: a read error that passes must not make an older checkpoint the newest."""
    for step in (300, 200, 100):
        save(repository, step)
    broken, failing = unreadable(repository, "_100_")
    record = failing.records()[-1]
    assert (record.step, record.valid, record.unreadable) == (100, None, True)
    assert "cannot be read" in record.problem
    save(failing, 50)
    broken.clear()
    assert failing.latest_valid(pytest.fail).step == 50
    assert repository.latest_valid(pytest.fail).step == 50


def test_sequences_seen_once_are_remembered(repository):
    """A7: removed or unreadable since, a sequence is not given twice."""
    save(repository, 100)
    repository.remove(save(repository, 200))
    assert save(repository, 300).sequence == 3


def test_a_read_error_that_passes_while_searching_leaves_the_order_alone(repository):
    """A7: an old file that failed once is not taken for the newest."""
    for step in (300, 200):
        save(repository, step)
    once = [OSError(errno.EIO, "Input/output error")]
    backend = FaultyBackend(
        repository.backend, lambda op, path: once.pop() if once and op == "open" and "_300_" in path else None
    )
    failing = CheckpointRepository(backend, "sample_checkpoint", scenario="sample", run="sample")
    assert failing.latest_valid(pytest.fail).step == 200
    assert once == []


def test_saving_a_step_again_replaces_it(repository):
    """A5: after a resume the same step is written once more."""
    save(repository, 100, "first")
    save(repository, 200, "other")
    save(repository, 100, "second")
    assert len(repository.records()) == 2
    latest = repository.latest_valid(pytest.fail)
    assert (latest.step, latest.sequence, mark_of(repository, latest)) == (100, 3, "second")


def test_three_prefixes_share_a_folder(backend):
    """A15: `cartpole`, `cartpole_v2` and `cartpole_checkpoint` do not see each other's files."""
    prefixes = ("cartpole", "cartpole_v2", "cartpole_checkpoint")
    repositories = {prefix: CheckpointRepository(backend, f"{prefix}_checkpoint", "") for prefix in prefixes}
    for number, repository in enumerate(repositories.values()):
        save(repository, number)
    for number, repository in enumerate(repositories.values()):
        assert [record.step for record in repository.records()] == [number]


@pytest.mark.parametrize("name", ["sample_checkpoint_007_steps.zip", "sample_checkpoint_²_steps.zip", "x.zip"])
def test_other_names_are_not_seen(repository, name):
    write_bytes_durably(repository.backend, f"checkpoints/{name}", b"")
    repository.backend.make_folder("checkpoints/sample_checkpoint_8_steps.zip")
    assert repository.records() == []


def test_a_prefix_is_taken_literally(backend):
    repository = CheckpointRepository(backend, "a.b+c (1)_checkpoint", "")
    save(repository, 1)
    write_bytes_durably(backend, "aXb+c (1)_checkpoint_2_steps.zip", b"")
    assert [record.step for record in repository.records()] == [1]


def test_an_empty_folder_has_no_checkpoint(repository):
    assert repository.records() == []
    assert repository.latest_valid(pytest.fail) is None
    assert repository.next_sequence() == 1


def test_the_latest_is_verified(repository):
    save(repository, 1)
    assert repository.latest_valid(pytest.fail).valid is True


def test_another_scenario_is_reported_and_left(repository, skipped):
    """A8: somebody else's checkpoint under our name."""
    save(repository, 1)
    other = CheckpointRepository(repository.backend, "sample_checkpoint")
    save(other, 2, scenario="another")
    assert repository.latest_valid(skipped).step == 1
    reason = skipped.all["sample_checkpoint_2_steps.zip"]
    assert "belongs to scenario another, not sample; left where it is" in reason
    assert repository.backend.exists(other.path_for(2))


def test_another_run_is_reported_and_left(repository, skipped):
    """A9: a fork's file copied into the wrong run."""
    save(CheckpointRepository(repository.backend, "sample_checkpoint"), 2, run="sample-fork-1")
    assert repository.latest_valid(skipped) is None
    assert "belongs to run sample-fork-1, not sample" in skipped.all["sample_checkpoint_2_steps.zip"]


def test_remove(repository):
    record = save(repository, 1)
    repository.remove(record)
    assert repository.records() == []
    with pytest.raises(NotFound):
        repository.remove(record)


def test_leftovers_of_other_prefixes_stay(repository):
    """A15: three prefixes may share one folder."""
    mine, other = (f".{name}_checkpoint_1_steps.zip.1-1.tmp" for name in ("sample", "other"))
    for name in (mine, other):
        write_bytes_durably(repository.backend, f"checkpoints/{name}", b"")
    assert repository.remove_leftovers() == [mine]


@pytest.mark.parametrize("prefix", ["", "a/b", "..", "a\\b"])
def test_a_prefix_that_leaves_the_folder_is_refused(backend, prefix):
    with pytest.raises(UsageError):
        CheckpointRepository(backend, prefix)


def test_negative_steps_are_refused(repository):
    with pytest.raises(UsageError):
        repository.path_for(-1)
