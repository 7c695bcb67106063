"""Storage that fails under a real training, and files that are not what they should be (A7, A8, A10).

Children are used where the operating system has to refuse; the rest trains within this process.
"""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from functools import partial

import pytest

import unbroken
from unbroken.errors import DamagedFile, StorageError
from unbroken.inspection import compare
from unbroken.store.checkpoint_file import CheckpointFile, ForeignFile, write_checkpoint
from unbroken.store.durable import LocalBackend, write_bytes_durably
from unbroken.store.segments import pack
from unbroken.testing.backends import FaultyBackend

RUN = "CartPole-v1-ppo-seed0"
SETTINGS = {
    "hyperparameters": {"n_steps": 64, "batch_size": 64, "n_epochs": 1},
    "self_test": False,
    "evaluation": {"every": 0},
    "saving": {"every": 64},
}
NEWEST = "CartPole-v1_checkpoint_256_steps.zip"
DROP_OVERRIDE = 24, 1
DROP_SEARCH = 24, 2


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def train(runs, capsys):
    """Trains in `runs` and returns the outcome with the log lines."""

    def run(steps, **words):
        capsys.readouterr()
        outcome = unbroken.train("CartPole-v1", runs_dir=runs, steps=steps, **{"settings": SETTINGS, **words})
        return outcome, capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def before_and_twin(tmp_path_factory):
    """A run of 256 of 384 steps, and one that went to 384 undisturbed with the same sequence of targets."""
    runs = tmp_path_factory.mktemp("prepared")
    for name, targets in ((RUN, [256]), ("twin", [256, 384])):
        for steps in targets:
            unbroken.train("CartPole-v1", run=name, runs_dir=runs, steps=steps, settings=SETTINGS)
    return runs


@pytest.fixture
def prepared(before_and_twin, runs):
    shutil.copytree(before_and_twin, runs)
    return runs / RUN


def identical_to_twin(runs):
    compared = compare(runs, RUN, "twin")
    # a leg that starts before the first target's end carries the new target earlier
    allowed = {"state.model._current_progress_remaining"}
    return {name for name, _, _ in compared.differences} <= allowed, compared.text()


def child(runs, steps, *words, prepare=None):
    command = [
        sys.executable,
        "-m",
        "unbroken",
        "train",
        "CartPole-v1",
        "--steps",
        str(steps),
        "--runs-dir",
        str(runs),
        "--eval-every",
        "0",
        "--save-every",
        "64",
        *words,
        *(f"--set=hyperparameters.{pair}" for pair in ("n_steps=64", "batch_size=64", "n_epochs=1")),
        "--set=self_test=false",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False, preexec_fn=prepare
    )


def no_large_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def obey_permissions():
    """Root writes where it may not: without these two capabilities the child is held to the permissions, as users are."""
    import ctypes

    for drop in (DROP_OVERRIDE, DROP_SEARCH):
        if os.geteuid() == 0 and ctypes.CDLL(None).prctl(*drop, 0, 0, 0) != 0:
            raise OSError("prctl failed")


# a disk that is full, read-only, or comes back


def test_disk_full_in_mid_training_warns_trains_on_and_continues_later(prepared, runs):
    """A10: every save fails from here on; the target is reached, the good checkpoints stay, the same command finishes."""
    good = {path.name: path.read_bytes() for path in (prepared / "checkpoints").iterdir()}
    final = (prepared / "CartPole-v1_final.zip").read_bytes()
    full = child(runs, 384, prepare=no_large_files)
    assert full.returncode == StorageError.exit_code == 74
    assert "[CHECKPOINT] WARNING: checkpoint of step 320 was not saved: [Errno 27] File too large" in full.stdout
    assert "training goes on, the last good checkpoint stays, the next save tries again" in full.stdout
    assert "checkpoint of step 384 was not saved" in full.stdout
    assert full.stderr.splitlines() == [
        "error: the target is reached, but its checkpoint could not be saved; make room and run the same command again"
    ]
    assert {path.name: path.read_bytes() for path in (prepared / "checkpoints").iterdir()} == good
    assert (prepared / "CartPole-v1_final.zip").read_bytes() == final
    room = child(runs, 384)
    assert room.returncode == 0, room.stderr
    assert "Resume: timestep=256" in room.stdout
    assert identical_to_twin(runs)[0], identical_to_twin(runs)[1]


def faulty(monkeypatch, fail):
    """Every run folder's storage fails as `fail(operation, path)` says."""
    from unbroken.folder import RunFolder

    class Faulty(FaultyBackend):
        def __init__(self, root):
            super().__init__(LocalBackend(root), fail)
            self.root = root

        def local_path(self, path):
            return self.inner.local_path(path)

    monkeypatch.setattr(RunFolder, "backend", property(lambda folder: Faulty(folder.path)))


@pytest.mark.parametrize(("number", "text"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only")])
@pytest.mark.parametrize("operation", ["create", "write", "sync", "replace"])
def test_a_save_that_fails_is_tried_again_at_the_next(train, runs, monkeypatch, number, text, operation):
    """A10: ENOSPC and EROFS at one save; the one before stays, the one after is made, the run reaches its target."""
    seen = []

    def fail(name, path):
        if name == operation and "_checkpoint_128_steps" in path:
            seen.append(sorted(p.name for p in (runs / RUN / "checkpoints").iterdir() if not p.name.startswith(".")))
            return OSError(number, os.strerror(number))
        return None

    faulty(monkeypatch, fail)
    outcome, out = train(192)
    assert (outcome.step, outcome.exit_code) == (192, 0)
    assert f"WARNING: checkpoint of step 128 was not saved: [Errno {number}] {text}" in out
    assert seen[0] == ["CartPole-v1_checkpoint_64_steps.zip"]
    assert sorted(p.name for p in (runs / RUN / "checkpoints").iterdir()) == [
        "CartPole-v1_checkpoint_192_steps.zip",
        "CartPole-v1_checkpoint_64_steps.zip",
    ]


def test_metadata_best_model_and_rotation_that_fail_only_warn(train, runs, monkeypatch):
    """A10: nothing but the checkpoints is needed to go on."""
    failing = ("training_metadata", "best_model")

    def fail(operation, path):
        if operation == "create" and any(name in path for name in failing):
            return OSError(errno.ENOSPC, "No space left on device")
        if operation == "remove" and path.endswith("_steps.zip"):
            return OSError(errno.EACCES, "Permission denied")
        return None

    faulty(monkeypatch, fail)
    settings = {**SETTINGS, "evaluation": {"every": 64, "episodes": 1}}
    outcome, out = train(192, settings=settings)
    assert outcome.exit_code == 0
    assert "WARNING: the metadata beside the checkpoints was not written" in out
    assert "WARNING: best_model/best_model.zip was not written" in out
    assert "could not be rotated out: [Errno 13]" in out
    assert len(list((runs / RUN / "checkpoints").iterdir())) == 3


def test_a_final_model_that_fails_is_an_error_and_made_by_the_next_start(train, runs, monkeypatch):
    """A2, A10: the state is safe, the product is not there yet: said, exit code 74, and made without training again."""
    with monkeypatch.context() as patch:
        faulty(
            patch, lambda name, path: OSError(errno.ENOSPC, "full") if name == "create" and "_final" in path else None
        )
        with pytest.raises(StorageError, match=r"CartPole-v1_final\.zip could not be written; make room"):
            train(128)
    assert not (runs / RUN / "CartPole-v1_final.zip").exists()
    outcome, out = train(128)
    assert outcome.reason == "target reached before"
    assert "Wrote CartPole-v1_final.zip from the checkpoint of step 128" in out
    from stable_baselines3 import PPO

    assert PPO.load(runs / RUN / "CartPole-v1_final.zip").num_timesteps == 128


def test_metrics_that_cannot_be_written_cost_rows_not_the_training(train, runs, monkeypatch):
    """A10: one warning, however many rows."""
    from unbroken.store.append import AppendFile

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(AppendFile, "write", full)
    outcome, out = train(192)
    assert outcome.exit_code == 0
    assert out.count("metrics cannot be written") == 1


def test_a_read_only_folder_at_start_is_74(tmp_path):
    """Issue 2, "Errors": no place to write at start stops before training, in one line."""
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    ended = child(locked / "runs", 64, prepare=obey_permissions)
    assert ended.returncode == StorageError.exit_code == 74
    assert len(ended.stderr.splitlines()) == 1
    assert "cannot be written" in ended.stderr
    assert "choose another with --runs-dir" in ended.stderr


def test_a_file_in_place_of_the_folder_is_74(runs, train):
    """Issue 2, "Errors"."""
    runs.write_text("not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        train(64)


def test_too_little_space_at_start_is_said(runs, train, monkeypatch):
    """Issue 2, "Errors": no disk space at start."""
    monkeypatch.setattr(LocalBackend, "free_bytes", lambda self: 1_000_000)
    with pytest.raises(StorageError, match="only 1 MB are free"):
        train(64)


# files that are not what they should be


def truncate(path):
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [truncate, flip, empty, zeros])
def test_a_damaged_newest_is_set_aside_and_the_one_before_leads_to_the_same_bits(prepared, runs, train, damage):
    """A7: reported, kept in quarantine/, skipped; the end is that of the undisturbed twin."""
    newest = prepared / "checkpoints" / NEWEST
    damage(newest)
    content = newest.read_bytes()
    outcome, out = train(384)
    assert outcome.step == 384
    assert f"WARNING: Skipped {NEWEST}: checkpoint checkpoints/{NEWEST} is damaged" in out
    assert f"moved to quarantine/{NEWEST}" in out
    assert (prepared / "quarantine" / NEWEST).read_bytes() == content
    assert "Resume: timestep=192" in out
    assert identical_to_twin(runs)[0], identical_to_twin(runs)[1]


def test_no_truncation_of_a_real_checkpoint_passes_for_a_foreign_file(prepared):
    """A7: its members are zips themselves, whose ends a reader of zips may take for the end of the file."""
    path = prepared / "checkpoints" / NEWEST
    backend, name = LocalBackend(prepared), f"checkpoints/{NEWEST}"
    with CheckpointFile(backend, name) as file:
        # members of a larger network are not deflated, and their own ends stand in the file as they are
        write_checkpoint(backend, name, partial(pack, file))
    content = path.read_bytes()
    ends = [place + 22 for place in range(len(content)) if content.startswith(b"PK\x05\x06", place)]
    assert len(ends) > 3
    for length in {*ends[:-1], *(end + 7 for end in ends[:-1]), *range(0, len(content), 4001)}:
        path.write_bytes(content[:length])
        with CheckpointFile(backend, name) as file:
            with pytest.raises(DamagedFile) as caught:
                file.verify()
            assert not isinstance(caught.value, ForeignFile), length


def test_a_foreign_file_where_a_checkpoint_goes_is_moved_and_not_overwritten(prepared, train):
    """A9: nothing is silently deleted."""
    foreign = prepared / "checkpoints" / "CartPole-v1_checkpoint_320_steps.zip"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("data", "somebody else's")
    content = foreign.read_bytes()
    _, out = train(320)
    assert (
        f"WARNING: moved a file of another training from where the next checkpoint goes to quarantine/{foreign.name}"
        in out
    )
    assert (prepared / "quarantine" / foreign.name).read_bytes() == content
    with CheckpointFile(LocalBackend(prepared), f"checkpoints/{foreign.name}") as file:
        file.verify()


def test_all_damaged_is_refused_until_a_fresh_start(prepared, runs, train):
    """A7, A9: nothing is lost, nothing is used, nothing starts over unasked, the second time neither."""
    names = [path.name for path in (prepared / "checkpoints").iterdir()]
    for name in names:
        flip(prepared / "checkpoints" / name)
    metrics = (prepared / "logs" / "metrics.jsonl").read_bytes()
    with pytest.raises(DamagedFile, match=r"no checkpoint can be used: .*--fresh") as caught:
        train(384)
    assert all(name in str(caught.value) for name in names)
    assert len(list((prepared / "quarantine").iterdir())) == 2
    with pytest.raises(DamagedFile, match=r"had reached step 256, .* no checkpoint of it is left .*--fresh"):
        train(384)
    assert (prepared / "logs" / "metrics.jsonl").read_bytes() == metrics
    outcome, out = train(384, fresh=True)
    assert outcome.step == 384
    assert "starting at step 0" in out
    assert identical_to_twin(runs)[0], identical_to_twin(runs)[1]


def test_checkpoints_that_cannot_be_read_now_are_74(prepared, train, monkeypatch):
    """A7, A10: a disk that fails is not damage: nothing moves, and the same command goes on once it can be read."""
    with monkeypatch.context() as patch:
        faulty(
            patch,
            lambda name, path: (
                OSError(errno.EIO, "Input/output error") if name == "open" and path.startswith("checkpoints/") else None
            ),
        )
        with pytest.raises(StorageError, match=r"cannot be read: \[Errno 5\] Input/output error; run the same command"):
            train(320)
    assert not (prepared / "quarantine").exists()
    _, out = train(320)
    assert "Resume: timestep=256" in out


def test_only_foreign_files_start_at_zero(runs, train):
    """A7, A8: somebody else's files are no training of this run."""
    folder = runs / RUN / "checkpoints"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / NEWEST, "w") as archive:
        archive.writestr("data", "somebody else's")
    outcome, out = train(64)
    assert outcome.step == 64
    assert "WARNING: none of them can be used" in out
    assert "starting at step 0" in out


def test_a_leftover_temporary_file_is_removed_and_never_used(prepared, train):
    """A7: it would sort as the newest."""
    whole = (prepared / "checkpoints" / NEWEST).read_bytes()
    name = ".CartPole-v1_checkpoint_9999_steps.zip.4711-3.tmp"
    write_bytes_durably(LocalBackend(prepared), f"checkpoints/{name}", whole)
    _, out = train(320)
    assert f"Removed {name}, an unfinished save of a process that was killed" in out
    assert "Resume: timestep=256" in out
    assert not (prepared / "checkpoints" / name).exists()


def test_a_plain_sb3_zip_under_our_name_is_skipped_and_not_moved(prepared, train):
    """A7, A8: somebody else's file that matches the pattern."""
    from stable_baselines3 import PPO

    foreign = prepared / "checkpoints" / "CartPole-v1_checkpoint_5000_steps.zip"
    PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64).save(foreign)
    content = foreign.read_bytes()
    _, out = train(320)
    assert "Skipped CartPole-v1_checkpoint_5000_steps.zip: " in out
    assert "is not a checkpoint of unbroken" in out
    assert "left where it is" in out
    assert "Resume: timestep=256" in out
    assert foreign.read_bytes() == content
    with zipfile.ZipFile(foreign) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("shift", [-10 * 365 * 86_400, 10 * 365 * 86_400])
def test_clock_jumps_do_not_matter(prepared, runs, train, monkeypatch, shift):
    """A7: neither file times nor the time in the commit record decide what is newest."""
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + shift)
        train(320)
    for path in (prepared / "checkpoints").iterdir():
        backwards = -int(path.name.split("_")[-2]) * 1000
        os.utime(path, (real() + backwards, real() + backwards))
    _, out = train(384)
    assert "Resume: timestep=320" in out
    assert identical_to_twin(runs)[0], identical_to_twin(runs)[1]


@pytest.mark.parametrize("content", [None, b"", b"config: [", b"just text", b"\xff\xfe", b"config: 5"])
def test_a_lost_run_file_loses_nothing(prepared, train, content):
    """A7: the checkpoint's copy of the configuration is used, and the file is written again."""
    path = prepared / "run.yaml"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    outcome, out = train(320, settings=None)
    assert outcome.step == 320
    assert "changes the training" not in out
    assert b"n_steps: 64" in path.read_bytes()


def test_a_lost_run_file_and_only_the_runs_name(prepared, runs, capsys):
    """A4, A7: `--run NAME` continues from the checkpoint's own configuration."""
    (prepared / "run.yaml").unlink()
    assert unbroken.train(run=RUN, runs_dir=runs, steps=320).step == 320
    assert "Resume: timestep=256" in capsys.readouterr().out


def test_a_lost_run_file_keeps_the_parent_of_a_fork(prepared, runs, train):
    """A9: the parent is in the checkpoint too."""
    train(320, checkpoint=f"{RUN}@192", run="fork")
    (runs / "fork" / "run.yaml").unlink()
    train(384, run="fork")
    assert json.loads((runs / "fork" / "training_metadata.json").read_text())["parent_checkpoint"]["step"] == 192


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff"])
def test_missing_or_damaged_metadata_is_accepted_with_a_warning(prepared, train, content):
    """A8: nothing is loaded from it; the next save writes it again."""
    path = prepared / "training_metadata.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    _, out = train(320)
    assert "WARNING: training_metadata.json is missing or cannot be read; the checkpoint's own copy is used" in out
    assert json.loads(path.read_text())["total_timesteps_completed"] == 320
    _, out = train(384)
    assert "WARNING" not in out


def test_a_checkpoint_without_metadata_is_accepted_with_a_warning(prepared, runs, train):
    """A8: optimistically."""
    backend, path = LocalBackend(prepared), f"checkpoints/{NEWEST}"
    with CheckpointFile(backend, path) as file:
        members = {name: file.read(name) for name in file.names()}
        facts = {key: file.manifest[key] for key in ("sequence", "scenario", "step", "kind", "created")}

    def bare(writer):
        for name, content in members.items():
            writer.write_member(name, content)
        return facts

    write_checkpoint(backend, path, bare)
    _, out = train(320)
    assert "WARNING: the checkpoint has no metadata: it is taken to fit the configuration, unchecked" in out
    assert "Resume: timestep=256" in out


def test_a_shorter_metrics_file_is_said(prepared, train):
    """A16, "Nothing silent": rows that were there at the checkpoint are gone."""
    os.truncate(prepared / "logs" / "metrics.jsonl", 10)
    _, out = train(320)
    assert "WARNING: logs/metrics.jsonl is " in out
    assert "rows are missing" in out


def test_two_trainings_of_one_run_at_the_same_time_are_refused(prepared, runs, train):
    """Issue 2, "Errors": the lock names its owner, code 69."""
    from unbroken.errors import RunLocked
    from unbroken.store.lock import ExclusiveLock

    with ExclusiveLock(prepared / ".lock"), pytest.raises(RunLocked, match=f"being trained by process {os.getpid()}"):
        train(320)
    assert RunLocked.exit_code == 69
    assert train(320)[0].step == 320
