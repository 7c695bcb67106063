"""Killed while the old training is put aside for a fresh one, while a fork is made, and at the end of `--more` (A4, A7, A9)."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from unbroken.folder import RunFolder
from unbroken.inspection import compare, pack_checkpoint
from unbroken.locate import repository_of
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.segments import segments_of

SETTINGS = [
    "hyperparameters.n_steps=64",
    "hyperparameters.batch_size=64",
    "hyperparameters.n_epochs=1",
    "self_test=false",
]
WORDS = ["--save-every", "64", "--eval-every", "0", "--seed", "0", *(word for s in SETTINGS for word in ("--set", s))]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


# rows of a buffer that has gone round lie in segments, which a fork takes along and then rotates out
BUFFERED = ["--algo", "dqn", "--save-every", "64", "--eval-every", "0", "--seed", "0", "--set", "self_test=false"]
BUFFERED += ["--set", "hyperparameters.buffer_size=150", "--set", "hyperparameters.learning_starts=30"]


def train(runs, *words, kill=None, settings=WORDS):
    how = ["-m", "unbroken"] if kill is None else ["-m", "unbroken.testing.kill_at", kill, "--"]
    command = [sys.executable, *how, "train", *words, *settings, "--runs-dir", str(runs)]
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
    forked_and_killed(runs, ["--checkpoint", "run@192", "--run", "fork", "--steps", "256"], place, WORDS)


def forked_and_killed(runs, fork, place, settings):
    """Kill a fork of `run` at a place and finish it by the same command; returns its checkpoints, which all verify."""
    before = {path: path.read_bytes() for path in (runs / "run").rglob("*") if path.is_file()}
    killed(train(runs, *fork, kill=place, settings=settings))
    done = train(runs, *fork, settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert before == {path: path.read_bytes() for path in (runs / "run").rglob("*") if path.is_file()}
    compared = compare(runs, "fork", "run")
    assert compared.identical, compared.text()
    repository = repository_of(RunFolder(runs, "fork"), "CartPole-v1")
    assert list((runs / "fork").rglob("*.tmp")) == []
    assert all(repository.verified(record).valid for record in repository.records())
    return repository


def test_a_fork_of_a_lone_file_killed_before_its_first_own_checkpoint(runs, tmp_path):
    """A7, A16: its curves begin at the fork, and are cut back to there and nowhere else."""
    assert pack_checkpoint(runs, "run@192", tmp_path / "one.zip")
    fork = ["--checkpoint", str(tmp_path / "one.zip"), "--run", "fork", "--steps", "512", "--save-every", "256"]
    killed(train(tmp_path / "other", *fork, kill="checkpoint.write:2"))
    done = train(tmp_path / "other", *fork)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows are missing" not in done.stdout
    lines = (tmp_path / "other" / "fork" / "logs" / "metrics.jsonl").read_text("utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (256, 512)


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


@pytest.fixture(scope="module")
def buffered(tmp_path_factory):
    """A run of 384 steps with a replay buffer, of which every checkpoint is kept."""
    runs = tmp_path_factory.mktemp("buffered")
    done = train(
        runs, "CartPole-v1", "--run", "run", "--steps", "384", "--set", "saving.keep_last=9", settings=BUFFERED
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return runs


@pytest.mark.parametrize(
    "place",
    [
        # its parent's three segments are copied, then the checkpoint that names them
        pytest.param("segment.write:1", marks=pytest.mark.full),
        "segment.replace:2",
        pytest.param("segment.sync_folder:3", marks=pytest.mark.full),
        pytest.param("checkpoint.write:1", marks=pytest.mark.full),
        pytest.param("run-yaml.write:1", marks=pytest.mark.full),
        # the first saves of its own
        pytest.param("segment.create:4", marks=pytest.mark.full),
        pytest.param("segment.write:4", marks=pytest.mark.full),
        "segment.sync_folder:4",
        pytest.param("checkpoint.write:2", marks=pytest.mark.full),
        pytest.param("checkpoint.replace:2", marks=pytest.mark.full),
        pytest.param("checkpoint.sync_folder:2", marks=pytest.mark.full),
        pytest.param("segment.replace:5", marks=pytest.mark.full),
        # its first checkpoint is rotated out, and with it what no other names
        pytest.param("retention.after:1", marks=pytest.mark.full),
        "collect.before:1",
    ],
)
def test_killed_while_a_fork_takes_its_parents_rows_and_adds_its_own(buffered, tmp_path, place):
    """A7, A9, A10: segments that fork and parent both name are the fork's own copies; neither loses a row."""
    runs = shutil.copytree(buffered, tmp_path / "runs")
    fork = ["--checkpoint", "run@192", "--run", "fork", "--steps", "384", "--set", "saving.keep_last=2"]
    repository = forked_and_killed(runs, fork, place, BUFFERED)
    named = {segment.file for record in repository.records() for segment in segments_in(repository, record)}
    assert {path.name for path in (runs / "fork" / "replay").iterdir()} == named


def segments_in(repository, record):
    with CheckpointFile(repository.backend, record.path) as file:
        return segments_of(file.manifest)
