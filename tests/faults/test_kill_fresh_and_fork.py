"""Killed while the old training is put aside for a fresh one, while a fork is made, and at the end of `--more` (A4, A7, A9)."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from unbroken.folder import RunFolder
from unbroken.inspection import compare
from unbroken.locate import repository_of

SETTINGS = [
    "hyperparameters.n_steps=64",
    "hyperparameters.batch_size=64",
    "hyperparameters.n_epochs=1",
    "self_test=false",
]
WORDS = ["--save-every", "64", "--eval-every", "0", "--seed", "0", *(word for s in SETTINGS for word in ("--set", s))]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


def train(runs, *words, kill=None):
    how = ["-m", "unbroken"] if kill is None else ["-m", "unbroken.testing.kill_at", kill, "--"]
    command = [sys.executable, *how, "train", *words, *WORDS, "--runs-dir", str(runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of 256 steps, its two checkpoints of step 192 and 256."""
    runs = tmp_path_factory.mktemp("original")
    assert train(runs, "CartPole-v1", "--run", "run", "--steps", "256").returncode == 0
    return runs


@pytest.fixture
def runs(original, tmp_path):
    return shutil.copytree(original, tmp_path / "runs")


def contents(folder):
    """What every file but logs and lock holds, by its last name."""
    skip = {"run.log", ".lock"}
    return {path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in skip}


def killed(result):
    assert result.returncode == -signal.SIGKILL, result.stdout + result.stderr


@pytest.mark.parametrize("nth", [3, *(pytest.param(nth, marks=pytest.mark.full) for nth in (1, 2, 5, 6))])
def test_killed_while_the_old_training_moves_to_the_archive(runs, original, nth):
    """A9: nothing of the old training is lost, and the same command makes the fresh one that it would have been."""
    before = contents(runs / "run")
    fresh = ["CartPole-v1", "--run", "run", "--steps", "256", "--fresh"]
    killed(train(runs, *fresh, kill=f"fresh.move:{nth}"))
    assert before <= contents(runs / "run")
    done = train(runs, *fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    assert before <= contents(runs / "run")
    shutil.copytree(original / "run", runs / "twin")
    compared = compare(runs, "run", "twin")
    assert compared.identical, compared.text()


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("checkpoint.write:1", marks=pytest.mark.full),
        pytest.param("checkpoint.replace:1", marks=pytest.mark.full),
        "run-yaml.write:1",
        pytest.param("run-yaml.replace:1", marks=pytest.mark.full),
        pytest.param("run-yaml.sync_folder:1", marks=pytest.mark.full),
    ],
)
def test_killed_while_a_fork_is_made(runs, place):
    """A9: the parent keeps every byte; the same command makes the fork, which ends as the parent did."""
    before = {path: path.read_bytes() for path in (runs / "run").rglob("*") if path.is_file()}
    fork = ["--checkpoint", "run@192", "--run", "fork", "--steps", "256"]
    killed(train(runs, *fork, kill=place))
    done = train(runs, *fork)
    assert done.returncode == 0, done.stdout + done.stderr
    assert before == {path: path.read_bytes() for path in (runs / "run").rglob("*") if path.is_file()}
    compared = compare(runs, "fork", "run")
    assert compared.identical, compared.text()
    repository = repository_of(RunFolder(runs, "fork"), "CartPole-v1")
    assert list((runs / "fork").rglob("*.tmp")) == []
    assert all(repository.verified(record).valid for record in repository.records())


@pytest.mark.full
@pytest.mark.parametrize("place", ["close:1", "run-yaml.write:2", "run-yaml.replace:2"])
def test_killed_between_the_last_checkpoint_of_more_and_its_end(runs, place):
    """A4, A5: the repetition finds it done, and only the next --more adds again."""
    more = ["CartPole-v1", "--run", "run", "--more", "128"]
    killed(train(runs, *more, kill=place))
    repository = repository_of(RunFolder(runs, "run"), "CartPole-v1")
    for expected in (384, 512):
        done = train(runs, *more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert repository.records()[-1].step == expected
