"""SIGKILL at every file operation of a push and of a pull, and pushes in the middle of a training (D5, A5, A7)."""

import json
import subprocess
import sys
import time

import pytest

from unbroken.remotes.folder import FolderRemote
from unbroken.syncing.records import read_name, read_record
from unbroken.testing.twin import differences

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")

# copies the runs folder for each operation, and kills a fork just before that operation
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from unbroken import logs
from unbroken.folder import RunFolder
from unbroken.remotes.folder import FolderRemote
from unbroken.store.durable import LocalBackend
from unbroken.syncing.syncing import Pair, sync

before, place, out = map(Path, sys.argv[1:4])
copies_place = sys.argv[4] == "push"
step = int(sys.argv[5])

def kill_at(number):
    left = [number]

    def counted(operation):
        def counting(*arguments, **words):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **words)

        return counting

    for name in ("create", "replace", "remove", "sync_folder", "make_folder"):
        setattr(LocalBackend, name, counted(getattr(LocalBackend, name)))
    os.link = counted(os.link)
    # a kill loses nothing that was written, and hundreds of forks would wait for the disk
    os.fsync = lambda descriptor: None

number = 1
while True:
    runs = out / str(number) / "runs"
    there = out / str(number) / "place" if copies_place else place
    shutil.copytree(before, runs)
    if copies_place and place.exists():
        shutil.copytree(place, there)
    child = os.fork()
    if child == 0:
        kill_at(number)
        sync(Pair(RunFolder(runs, "run"), FolderRemote("folder:place", there), "run"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    number += step
print(number)
"""


@pytest.fixture
def killed(tmp_path, place):
    """`killed(machine, "push")`: the runs folders after a kill at each operation, the last one undisturbed."""

    def run(machine, what, step=1):
        out = tmp_path / f"killed {what}"
        machine.runs.mkdir(exist_ok=True)
        command = [sys.executable, "-c", KILLED, machine.runs, tmp_path / "the place é", out, what, str(step)]
        done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return [out / name for name in sorted((path.name for path in out.iterdir()), key=int)]

    return run


def _as_machine(machine, runs, place):
    found = machine("unused")
    return type(found)(runs, place)


# every so many-th operation; all of them in the full run
EACH = [pytest.param(kind, begun, 1, marks=pytest.mark.full) for kind in ("ppo", "dqn") for begun in (False, True)]


@pytest.mark.parametrize(("kind", "begun", "step"), [("dqn", True, 6), ("dqn", False, 12), *EACH])
def test_killed_while_pulling(kind, begun, step, machine, killed, place):
    """D5, A7: a kill at any operation leaves the old state or the new one, whole; the next sync ends as an undisturbed one."""
    machine("late", kind, 256).sync()
    rented = machine("rented", kind, 128) if begun else machine("rented")
    folders = killed(rented, "pull", step)
    assert len(folders) * step > 30
    undisturbed = _as_machine(machine, folders[-1] / "runs", place)
    assert undisturbed.step == 256
    seen = set()
    for folder in folders[:-1]:
        after = _as_machine(machine, folder / "runs", place)
        seen.add(after.step)
        if after.step is not None:
            manifest = after.verify()
            assert all((after.path / name).stat().st_size >= end for name, end in manifest["logs"].items())
            best = after.folder.best_score()
            assert not begun or best["step"] >= manifest["best_model"]["step"]
        assert after.sync().action in ("pulled", "equal")
        assert after.files() == undisturbed.files(), folder
    assert seen == {128 if begun else None, 256}


def test_killed_while_pulling_trains_on_exactly(machine, killed, place, carry, history):
    """D5, A6: trained on right after the kill, without another sync, the run ends as its undisturbed twin."""
    machine("late", "dqn", 256).sync()
    folders = killed(machine("rented", "dqn", 128), "pull", 2)
    steps = {}
    for folder in folders[:-1]:
        after = _as_machine(machine, folder / "runs", place)
        # the last kill of each state, when most of the other's files are there
        steps[after.step] = after
    assert steps.keys() == {128, 256}
    for step, after in steps.items():
        for target in (256, 384)[step == 256 :]:
            carry(after, "dqn", target)
        assert differences(after.runs, history("dqn", 384), "run") == [], step


# saving more often, the legs here have committed more; as often, they have segments of the same names with other rows
APART = [(64, 9), *(pytest.param(every, 1, marks=pytest.mark.full) for every in (16, 64))]


@pytest.mark.parametrize(("every", "step"), APART)
def test_killed_while_legs_that_went_apart_are_replaced(every, step, machine, killed, place, carry):
    """D5, A9: also where segments of both sides have the same names, the old state or the new one is whole after any kill."""
    machine("ahead", "dqn", 384).sync()
    apart = machine("apart", "dqn", 128)
    carry(apart, "dqn", 256, settings={"learning_rate": 1e-2}, save_every=every)
    seen = set()
    for folder in killed(apart, "pull", step)[:-1]:
        after = _as_machine(machine, folder / "runs", place)
        seen.add(after.step)
        after.verify()
        assert after.sync().step == 384
        assert after.verify()["step"] == 384
    assert seen == {256, 384}


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.full)])
def test_killed_while_pushing(step, machine, killed, place):
    """D5: a kill at any operation leaves at the remote what was there or all of the new state, and the next push completes it."""
    machine("early", "dqn", 128).sync()
    late = machine("late", "dqn", 256)
    before = late.files()
    folders = killed(late, "push", step)
    assert len(folders) * step > 60
    seen = set()
    for folder in folders[:-1]:
        remote = type(place)("folder:place", folder / "place")
        new = _as_machine(machine, folder / "new", remote)
        seen.add(new.sync().step)
        new.verify()
        again = _as_machine(machine, folder / "runs", remote)
        assert again.files() == before
        assert again.sync().action in ("pushed", "equal")
        assert not list((again.path / ".sync").rglob("*.zip"))
        assert new.sync().step == 256
        assert new.verify() == late.verify()
    assert seen == {128, 256} if step == 1 else seen <= {128, 256}


@pytest.mark.parametrize("kind", ["dqn", pytest.param("torch", marks=pytest.mark.full)])
def test_every_state_pushed_from_a_training_is_whole(kind, machine, trainer, place, place_files, tmp_path):
    """D5: while files are replaced, rotated out and appended to, every record names one state, whole and exact."""
    laptop = machine("laptop")
    training = trainer(laptop, kind, 1024)
    assert training.wait_for("Saved checkpoints"), training.last_lines()
    pushed = 0
    while training.running:
        pushed += laptop.sync().action == "pushed"
        time.sleep(0.02)
    assert training.wait() == 0, training.last_lines()
    laptop.sync()
    assert pushed >= 4
    records = sorted(name for name in place_files() if "/records/" in name)
    for name in records:
        only = Only(place, name)
        rented = type(laptop)(tmp_path / name[-10:], only)
        assert rented.sync().action == "pulled"
        _require_whole(rented, read_record(read_name(name.rpartition("/")[2]), place_files()[name]))
    assert laptop.sync().action == "equal"


class Only(FolderRemote):
    """A remote that shows one record and hides the others."""

    def __init__(self, place, name):
        super().__init__(place.url, place._path)
        self._name = name

    def items(self, prefix=""):
        return [item for item in super().items(prefix) if "/records/" not in item.name or item.name == self._name]


def _require_whole(machine, record):
    manifest = machine.verify()
    assert (manifest["step"], manifest["sequence"]) == record.point
    for name, end in manifest["logs"].items():
        assert end == 0 or (machine.path / name).stat().st_size == end
    assert machine.folder.metadata()["total_timesteps_completed"] == record.step
    if manifest["logs"]["logs/metrics.jsonl"]:
        rows = [json.loads(line) for line in (machine.path / "logs/metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] <= record.step
    assert (machine.path / "logs/run.log").read_bytes().endswith(b"\n")
