"""Copies of the user's folder, what is kept out of them, and who may write where (A18)."""

import subprocess
import sys
from pathlib import Path

import pytest

from unbroken import tracing
from unbroken.errors import UsageError
from unbroken.proving import stage
from unbroken.proving.asking import Reports
from unbroken.proving.stage import copy_folder, script_command, target_command


@pytest.fixture
def user(tmp_path, monkeypatch):
    folder = tmp_path / "user"
    for name in (
        "train.py", "helpers/envs.py", "data/map.csv", "checkpoints/model_64_steps.zip", "checkpoints/model.log",
        "checkpoints/model_training_metadata.json", "runs/a/run.yaml", "runs/a/big.bin", ".git/HEAD", "venv/pyvenv.cfg",
        "venv/lib/x.py", "helpers/__pycache__/envs.pyc", "tb/events.out.tfevents.1.host",
    ):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import unbroken\n")
    monkeypatch.chdir(folder)
    return folder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_copy_begins_at_step_0_and_leaves_out_what_is_no_input(user, tmp_path):
    """A18: neither checkpoints nor runs of earlier trainings, nor version control, environments and caches."""
    command = script_command(Path("train.py"), ["--lr", "1"])
    where = command.place(tmp_path / "proof")
    assert names(where) == ["checkpoints/model.log", "data/map.csv", "helpers/envs.py", "train.py"]
    assert command.words(where)[-3:] == [str(where / "train.py"), "--lr", "1"]
    assert command.text == "python train.py --lr 1"


def test_what_is_named_is_copied_although_it_looks_like_a_result(user, tmp_path):
    """A18: --copy, for large folders and for a model that the training starts from."""
    where = script_command(Path("train.py"), [], ["checkpoints/model_64_steps.zip"]).place(tmp_path / "proof")
    assert names(where) == ["checkpoints/model_64_steps.zip", "helpers/envs.py", "train.py"]
    with pytest.raises(UsageError, match="no such file"):
        script_command(Path("train.py"), [], ["missing"]).place(tmp_path / "other")
    with pytest.raises(UsageError, match="no such file"):
        script_command(Path("train.py"), [], ["../../etc"]).place(tmp_path / "outside")


def test_a_folder_that_is_too_large_is_refused_with_the_way_out(user, tmp_path, monkeypatch):
    """A18: a home folder is not copied ten times."""
    monkeypatch.setattr(stage, "_MOST_FILES", 2)
    with pytest.raises(UsageError, match="--copy NAME"):
        copy_folder(user, tmp_path / "copy")


def test_a_script_elsewhere_runs_in_a_copy_of_its_own_folder(user, tmp_path, monkeypatch):
    """A18: the working folder has nothing to do with it then."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert script_command(user / "train.py", []).root == user


def test_a_registered_target_needs_no_copy(user, tmp_path):
    """A18: a module beside the user does."""
    assert target_command("CartPole-v1", ["--algo", "dqn"]).root is None
    assert target_command("helpers.envs:Env", []).root == user
    words = target_command("CartPole-v1", ["--algo", "dqn"]).words(tmp_path)
    assert words[-4:] == ["--runs-dir", str(tmp_path / "runs"), "--run", "proof"]


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("from stable_baselines3 import PPO\n", False),
        ("from unbroken.sb3 import resume_or_create\n", True),
        ("import unbroken\n", True),
        ("# unbroken is not used\n", False),
        ("from helpers import envs\n", True),
        ("import unknown\n", False),
    ],
)
def test_whether_a_script_uses_unbroken_is_known_before_it_is_started(user, text, uses):
    """A18: over the modules that it imports, and only those."""
    user.joinpath("plain.py").write_text(text)
    if uses:
        assert script_command(Path("plain.py"), []).script == user / "plain.py"
    else:
        with pytest.raises(UsageError, match="resume_or_create"):
            script_command(Path("plain.py"), [])


GUARD = """
import os, sys
from pathlib import Path
from unbroken.proving.child import guard
original, copy = sys.argv[1:]
guard(original, copy)
def allowed(act):
    try:
        act()
    except PermissionError as error:
        return "relative to the working folder" not in str(error)
    return True
print([allowed(act) for act in (
    lambda: open(original + "/data/map.csv").close(),
    lambda: open(copy + "/new", "w").close(),
    lambda: open(original + "/new", "w").close(),
    lambda: os.open(original + "/data/map.csv", os.O_RDWR),
    lambda: Path(original, "made").mkdir(),
    lambda: Path(original, "train.py").unlink(),
    lambda: Path(copy, "new").rename(original + "/moved"),
)])
"""


def test_the_guard_lets_read_and_refuses_every_change(user, tmp_path):
    """A18: nothing of the user's is touched."""
    copy = tmp_path / "copy"
    copy.mkdir()
    before = names(user)
    done = subprocess.run(
        [sys.executable, "-c", GUARD, str(user), str(copy)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[True, True, False, False, False, False, False]"
    assert names(user) == before


def test_a_report_that_cannot_be_written_is_known_before_the_training(tmp_path):
    """A18: not after it."""
    Reports(tmp_path / "report.json", tmp_path / "report.html").require_writable()
    with pytest.raises(UsageError, match="no folder"):
        Reports(html=tmp_path / "missing" / "report.html").require_writable()


def test_nothing_is_traced_unless_asked_for(monkeypatch):
    """A18: off, tracing costs one cached look at the environment."""
    monkeypatch.delenv(tracing.FOLDER, raising=False)
    tracing.current.cache_clear()
    assert tracing.current() is None
