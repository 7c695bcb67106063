"""The command as people start it: a real process, its exit code and what it prints."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from unbroken.cli import main

SMALL = (
    "--set", "hyperparameters.n_steps=64", "--set", "hyperparameters.batch_size=64", "--set", "hyperparameters.n_epochs=2",
    "--set", "self_test=false", "--eval-every", "0",
)  # fmt: skip


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def error_lines(self):
        return self.err.strip().splitlines()


@pytest.fixture
def unbroken(tmp_path):
    """Runs `unbroken *arguments` in an empty folder and returns how it ended."""

    def run(*arguments, variables=None, encoding="utf-8", cwd=tmp_path, small=False):
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("UNBROKEN_")},
            "OMP_NUM_THREADS": "1",
            "PYTHONIOENCODING": encoding,
            **(variables or {}),
        }
        command = [sys.executable, "-m", "unbroken", *map(str, arguments), *(SMALL if small else ())]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=120, check=False)
        return Ended(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))

    return run


@pytest.fixture
def unbroken_here(tmp_path, monkeypatch, capsys):
    """The same within this process, in an empty folder: for what ends before anything is trained."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("UNBROKEN_RUNS_DIR", raising=False)
        monkeypatch.setattr(sys, "argv", ["unbroken", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ended(ended.value.code, printed.out, printed.err)

    return run
