"""A real process, really killed or out of space in the middle of a save (A5, A7, A10)."""

import signal
import subprocess
import sys

import pytest

from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.durable import LocalBackend
from unbroken.store.repository import CheckpointRepository

SAVE = """
import sys
from pathlib import Path
from unbroken.store.durable import LocalBackend
from unbroken.store.repository import CheckpointRepository
from unbroken.testing.backends import KillingBackend
from unbroken.testing.samples import small_checkpoint

backend = LocalBackend(Path(sys.argv[1]))
for step in (100, 200):
    CheckpointRepository(backend, "sample_checkpoint").save(step, small_checkpoint("old"))
at, nth, half = sys.argv[2], int(sys.argv[3]), sys.argv[4] == "half"
killing = CheckpointRepository(KillingBackend(backend, at, nth, half_written=half), "sample_checkpoint")
killing.save(200, small_checkpoint("new"))
print("saved", flush=True)
"""

LIMITED = """
import resource, sys
from pathlib import Path
from unbroken.store.durable import LocalBackend
from unbroken.store.repository import CheckpointRepository
from unbroken.testing.samples import small_checkpoint

def large(writer):
    facts = small_checkpoint("large")(writer)
    with writer.member("exact/large") as file:
        for _ in range(40):
            file.write(bytes(100_000))
    return facts

repository = CheckpointRepository(LocalBackend(Path(sys.argv[1])), "sample_checkpoint")
repository.save(100, small_checkpoint("old"))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
for step in (100, 200):
    try:
        repository.save(step, large)
    except OSError as error:
        print("refused:", error.strerror)
print("next:", repository.save(300, small_checkpoint("after")).step)
"""


def run(script, *arguments):
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)


def mark_of(repository, record):
    with CheckpointFile(repository.backend, record.path) as file:
        return file.read("data").decode().split('"')[3]


@pytest.mark.parametrize(
    ("at", "nth", "half", "mark"),
    [
        ("make_folder", 1, "-", "old"),
        ("create", 1, "-", "old"),
        ("write", 1, "half", "old"),
        ("write", 1, "-", "old"),
        ("write", 2, "half", "old"),
        ("sync", 1, "-", "old"),
        ("close", 1, "-", "old"),
        ("replace", 1, "-", "old"),
        ("sync_folder", 2, "-", "new"),
    ],
)
def test_sigkill_at_every_write_boundary(tmp_path, at, nth, half, mark):
    """A7: a kill leaves the previous or the new checkpoint of a step, never something between."""
    result = run(SAVE, tmp_path, at, nth, half)
    assert result.returncode == -signal.SIGKILL, result.stderr
    repository = CheckpointRepository(LocalBackend(tmp_path), "sample_checkpoint")
    latest = repository.latest_valid(pytest.fail)
    assert (latest.step, mark_of(repository, latest)) == (200, mark)
    assert len(repository.remove_leftovers()) == (1 if at in ("write", "sync", "close", "replace") else 0)
    assert [entry.name for entry in repository.backend.entries("checkpoints")] == [
        "sample_checkpoint_100_steps.zip",
        "sample_checkpoint_200_steps.zip",
    ]


def test_a_save_that_is_not_killed_succeeds(tmp_path):
    assert run(SAVE, tmp_path, "write", 999, "-").stdout == "saved\n"


def test_a_real_file_size_limit_keeps_the_old_checkpoint(tmp_path):
    """A10: the operating system refuses to write on; a later, smaller save works again."""
    result = run(LIMITED, tmp_path)
    assert result.stdout == "refused: File too large\nrefused: File too large\nnext: 300\n", result.stderr
    assert result.stderr == ""
    repository = CheckpointRepository(LocalBackend(tmp_path), "sample_checkpoint")
    assert [(record.step, mark_of(repository, record)) for record in repository.records()] == [
        (100, "old"),
        (300, "after"),
    ]
    assert repository.remove_leftovers() == []
    assert repository.latest_valid(pytest.fail).step == 300
