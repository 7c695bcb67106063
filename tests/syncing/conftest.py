"""Runs at several steps of one training, two folders as two machines, and a folder as the remote between them."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import unbroken
from unbroken import logs
from unbroken.errors import NotFound
from unbroken.folder import RunFolder
from unbroken.locate import repository_of
from unbroken.remotes.folder import FolderRemote
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.segments import verify_segments
from unbroken.syncing.syncing import Pair, sync
from unbroken.testing.child import TrainingProcess

RUN = "run"
# no journal, self-test or evaluation: nothing of these travels
WORDS = {"seed": 0, "device": "cpu", "save_every": 64, "eval_every": 128, "eval_episodes": 1}
KINDS = {
    "ppo": ("CartPole-v1", {"algo": "ppo"}, {"n_steps": 64, "batch_size": 64, "n_epochs": 1}),
    "dqn": ("CartPole-v1", {"algo": "dqn"}, {"learning_starts": 40, "buffer_size": 200, "train_freq": 4}),
    "sac": ("Pendulum-v1", {"algo": "sac"}, {"learning_starts": 40, "buffer_size": 200, "batch_size": 16}),
    "torch": ("CartPole-v1", {"algo": "ppo_torch"}, {"n_steps": 64, "batch_size": 64, "n_epochs": 1}),
}


def train(runs, kind, steps, *, settings=None, **words):
    """Carry a run in this process to a target."""
    target, given, hyperparameters = KINDS[kind]
    chosen = {"hyperparameters": {**hyperparameters, **(settings or {})}, "self_test": False}
    return unbroken.train(target, runs_dir=runs, run=RUN, steps=steps, settings=chosen, **{**WORDS, **given, **words})


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """As the child processes have it: the number of threads belongs to a run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    """What is killed here are processes; that writes survive a power loss is tested with the store."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def history(tmp_path_factory):
    """`history(kind, steps)` is a runs folder with one training as it was when that target was reached; read only."""
    made = {}

    def at(kind, steps):
        if kind not in made:
            root = tmp_path_factory.mktemp("an élève's runs")
            made[kind] = {}
            for target in (128, 256, 384):
                assert train(root / "runs", kind, target).exit_code == 0
                made[kind][target] = shutil.copytree(root / "runs", root / str(target))
        return made[kind][steps]

    return at


@pytest.fixture
def place(tmp_path):
    return FolderRemote("folder:place", tmp_path / "the place é")


class Machine:
    """A runs folder of its own, with the run in it or without."""

    def __init__(self, runs, place):
        self.runs = Path(runs)
        self.folder = RunFolder(self.runs, RUN)
        self.pair = Pair(self.folder, place, RUN)

    def sync(self, remote=None, name=None):
        return sync(Pair(self.folder, remote or self.pair.remote, name or RUN))

    @property
    def path(self):
        return self.folder.path

    @property
    def step(self):
        """The step of the newest checkpoint, none of which may be unusable."""
        record = self.newest()
        return None if record is None else record.step

    def newest(self):
        skipped = []
        try:
            record, _ = repository_of(self.folder).search(lambda name, why: skipped.append((name, why)))
        except NotFound:
            return None
        assert skipped == []
        return record

    def files(self, *, archive=False):
        """Content of every file of the run that a sync carries, by relative path."""
        left_out = (".sync", ".lock", ".writable", "logs/sync.log", *(() if archive else ("archive",)))
        return {
            path.relative_to(self.path).as_posix(): path.read_bytes()
            for path in self.path.rglob("*")
            if path.is_file() and not path.relative_to(self.path).as_posix().startswith(left_out)
        }

    def archived(self):
        """Relative paths of what was kept."""
        root = self.path / "archive"
        return sorted(path.relative_to(root).as_posix().partition("/")[2] for path in root.rglob("*") if path.is_file())

    def verify(self):
        """Read every byte of the newest checkpoint and its segments."""
        with CheckpointFile(self.folder.backend, self.newest().path) as file:
            file.verify()
            verify_segments(file, set())
            return file.manifest


@pytest.fixture
def machine(tmp_path, history, place):
    """`machine("laptop", "ppo", 128)` is a machine with that run, `machine("rented")` one without any."""

    def make(name, kind=None, steps=None):
        runs = tmp_path / name
        if kind is not None:
            shutil.copytree(history(kind, steps), runs)
        return Machine(runs, place)

    return make


@pytest.fixture
def lines():
    """The log lines of this test so far."""

    class Lines(logging.Handler):
        def __init__(self):
            super().__init__()
            self.all = []

        def emit(self, record):
            self.all.append(record.getMessage())

        def holding(self, text):
            return [line for line in self.all if text in line]

        @property
        def warnings(self):
            return self.holding("[SYNC] WARNING")

    handler, level = Lines(), logs.LOGGER.level
    logs.LOGGER.addHandler(handler)
    logs.LOGGER.setLevel(logging.INFO)
    yield handler
    logs.LOGGER.removeHandler(handler)
    logs.LOGGER.setLevel(level)


@pytest.fixture
def place_files(place, tmp_path):
    """Content of every object at the remote, by name."""

    def look():
        root = tmp_path / "the place é"
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    return look


@pytest.fixture
def command(tmp_path):
    """`unbroken sync` as a process that is waited for, or with `background` one that is followed."""
    started = []

    def run(machine, *words, background=False, remote=None):
        url = remote or f"folder:{tmp_path / 'the place é'}"
        arguments = ["-m", "unbroken", "sync", RUN, url, "--runs-dir", str(machine.runs), *words]
        if background:
            started.append(TrainingProcess(arguments))
            return started[-1]
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    yield run
    for process in started:
        process.kill()


@pytest.fixture
def trainer():
    """`unbroken train` of a kind as a process that is followed."""
    started = []

    def run(machine, kind, steps):
        target, given, hyperparameters = KINDS[kind]
        words = {**WORDS, **given}
        options = [word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        settings = [f"hyperparameters.{name}={value}" for name, value in hyperparameters.items()] + ["self_test=false"]
        options += [word for setting in settings for word in ("--set", setting)]
        arguments = ["-m", "unbroken", "train", target, "--run", RUN, "--steps", str(steps)]
        started.append(TrainingProcess([*arguments, "--runs-dir", str(machine.runs), *options]))
        return started[-1]

    yield run
    for process in started:
        process.kill()


@pytest.fixture
def carry():
    """Train in this process: `carry(machine, kind, steps, settings=…, **words)`."""
    return lambda machine, kind, steps, **more: train(machine.runs, kind, steps, **more)
