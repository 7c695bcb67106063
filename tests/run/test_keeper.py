"""What happens around a save at a cut: a last save that fails, retention and metadata that fail (A2, A10, A11)."""

import errno
import threading

import pytest

from unbroken.background import BackgroundWriter
from unbroken.errors import StorageError
from unbroken.keeper import Keeper, SaveSchedule, Snapshot
from unbroken.retention.policy import KeepNewest
from unbroken.stopping import StopRequest
from unbroken.store.memory import MemoryBackend
from unbroken.store.repository import CheckpointRepository
from unbroken.testing.backends import FaultyBackend


class Storage:
    """A keeper over storage that fails while `broken` names an operation and a part of a path."""

    def __init__(self, **words):
        self.inner = MemoryBackend()
        self.broken = ()
        self.repository = CheckpointRepository(FaultyBackend(self.inner, self._fail), "sample_checkpoint")
        self.keeper = Keeper(self.repository, SaveSchedule(), [KeepNewest(1)], **words)

    def _fail(self, operation, path):
        if self.broken and operation == self.broken[0] and self.broken[1] in path:
            return OSError(errno.EIO, "Input/output error")
        return None

    def save(self, step):
        return self.keeper.save(lambda: sample(step), wait=True)

    def steps(self):
        return [record.step for record in CheckpointRepository(self.inner, "sample_checkpoint").records()]


def sample(step):
    return Snapshot(step, "rollout", lambda writer: writer.write_member("data", b"{}"))


def asked_to_stop():
    stop = StopRequest()
    stop.ask("SIGTERM received")
    return stop


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO", logger="unbroken")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_last_save_that_fails_says_what_is_repeated(lines):
    """A10, A11: the leg ends with the checkpoint before it."""
    storage = Storage()
    storage.save(100)
    storage.broken = ("create", "_150_")
    assert storage.keeper.at_cut(150, lambda: sample(150), asked_to_stop())
    assert any("50 steps since step 100 will be repeated" in line for line in lines())


def test_a_last_save_that_fails_without_any_checkpoint_is_a_storage_error():
    """A10, A11: "resume me" would promise what is not there."""
    storage = Storage()
    storage.broken = ("create", "")
    with pytest.raises(StorageError, match="could not be saved and there is none before it"):
        storage.keeper.at_cut(150, lambda: sample(150), asked_to_stop())


@pytest.mark.parametrize("broken", [("entries", "checkpoints"), ("open", "_100_")])
def test_nothing_is_rotated_out_while_something_cannot_be_read(lines, broken):
    """A2, A10: neither an unlisted folder nor an unreadable record ends the training or costs a checkpoint."""
    storage = Storage(after_commit=lambda record, facts: setattr(storage, "broken", broken))
    assert storage.save(100)
    storage.broken = ()
    assert storage.save(200)
    assert storage.steps() == [100, 200]
    assert any("rotated out" in line and "Input/output error" in line for line in lines())
    storage.broken = ()
    storage.keeper._after_commit = lambda record, facts: None
    assert storage.save(300)
    assert storage.steps() == [300]


def test_metadata_that_cannot_be_made_only_warns(lines):
    """A10: whatever kind of error it is."""

    def broken(record, facts):
        raise KeyError("schema")

    storage = Storage(after_commit=broken)
    assert storage.save(100)
    assert storage.save(200)
    assert storage.steps() == [200]
    assert any("metadata beside the checkpoints was not written: KeyError" in line for line in lines())


def test_a_job_that_fails_does_not_end_the_training(lines):
    """A10: it is said, and the next one runs."""
    writer, done = BackgroundWriter(), []

    def fails():
        raise RuntimeError("broken")

    writer.submit(fails)
    assert writer.drain()
    writer.submit(lambda: done.append(1))
    assert writer.drain()
    assert done == [1]
    assert any("a save ended with RuntimeError: broken" in line for line in lines())


def test_a_closed_writer_leaves_no_thread_and_works_again():
    """A notebook makes many runs in one process."""
    writer, done = BackgroundWriter(), []
    for _ in range(3):
        writer.submit(lambda: done.append(threading.current_thread()))
        writer.close()
    for thread in done:
        thread.join(5)
    assert len(set(done)) == 3
    assert not any(thread.is_alive() for thread in done)
