"""A cache in a folder of its own, its log lines, and processes that use it."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unbroken.cache import ResultCache

SOURCE = Path(__file__).resolve().parents[2] / "src"
PREAMBLE = """
import sys
from pathlib import Path
from unbroken.cache import ResultCache
from unbroken.testing.walks import Walk, same_rows, uninterrupted
cache = ResultCache(Path(sys.argv[1]))
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "the cache é"


@pytest.fixture
def cache(folder):
    return ResultCache(folder)


@pytest.fixture
def lines(caplog):
    """The cache's log lines so far; `.warnings()` are those that a user sees without asking for logs."""

    class Lines:
        def all(self):
            return [record.getMessage() for record in caplog.records if record.name == "unbroken"]

        def warnings(self):
            return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

        def clear(self):
            caplog.clear()

    with caplog.at_level(logging.INFO, logger="unbroken"):
        yield Lines()


@pytest.fixture
def start(folder):
    """Starts `script` in a process of its own, after `PREAMBLE`, with the cache's folder and `words` as arguments."""
    running = []

    def begin(script, *words, source=SOURCE, where=folder):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("UNBROKEN_")}
        environment["PYTHONPATH"] = str(source)
        command = [sys.executable, "-c", PREAMBLE + script, str(where), *map(str, words)]
        process = subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def finished(start):
    """Runs `script` as `start` does, to its end, and returns what it printed; a failure shows its error."""

    def run(*arguments, **words):
        process = start(*arguments, **words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    return run
