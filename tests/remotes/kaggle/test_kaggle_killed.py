"""Machines that are killed in the middle, as processes of their own: the same command goes on (D5, A5)."""

import json
import os
import subprocess
import sys
import time

import pytest

from unbroken.remotes.contract import Item
from unbroken.testing.kaggle import Fault

PROGRAM = """
import json, sys
from pathlib import Path
from unbroken.remotes.kaggle.session import Pace
from unbroken.remotes.kaggle_dataset import KaggleDatasetRemote

action, workspace, name, path = sys.argv[1:]
pace = Pace(backoff=0.01, longest=0.05)
remote = KaggleDatasetRemote("kaggle-dataset:ada/rl-cache", Path(workspace), pace=pace)
if action == "put":
    put = remote.put({name: Path(path)})
    print(json.dumps([put.written, put.present]))
else:
    remote.fetch(name, Path(path))
"""


@pytest.fixture
def process(service, tmp_path):
    """Start a put or a fetch as a process of its own."""
    started = []

    def start(action, name, path):
        command = [sys.executable, "-W", "error", "-c", PROGRAM, action, tmp_path / "machine", name, path]
        environment = {**os.environ, **service.environment()}
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.communicate()


def until(condition, child):
    while not condition():
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.01)


def finished(child):
    output, complaints = child.communicate(timeout=60)
    assert child.returncode == 0, complaints
    assert complaints == ""
    return output


def test_killed_in_an_upload(service, process, remote, files):
    source = files(a=1_000_000)["a"]
    service.next("upload", Fault(request_bytes=600_000, hangs=True, executed=True))
    child = process("put", "a", source)
    until(lambda: service.uploads and len(service.uploads[0].content) == 600_000, child)
    child.kill()
    child.wait()
    assert remote.items() == []
    assert json.loads(finished(process("put", "a", source))) == [["a"], []]
    assert service.uploads[0].starts == [0, 600_000]
    assert remote.items() == [Item("a", 1_000_000)]


def test_killed_after_the_version_was_made(service, process, remote, files, versions):
    source = files(a=1000)["a"]
    service.next("CreateDataset", Fault(hangs=True, executed=True))
    child = process("put", "a", source)
    until(versions, child)
    child.kill()
    child.wait()
    assert json.loads(finished(process("put", "a", source))) == [[], ["a"]]
    assert list(versions()) == [1]


def test_killed_in_a_download(service, process, remote, files, tmp_path):
    source = files(a=2_000_000)["a"]
    remote.put({"a": source})
    target, part = tmp_path / "arrived", tmp_path / ".arrived.part"
    service.next("storage", Fault())
    service.next("storage", Fault(answer_bytes=1_500_000, hangs=True, executed=True))
    child = process("fetch", "a", target)
    until(lambda: part.exists() and part.stat().st_size >= 1_000_000, child)
    child.kill()
    child.wait()
    assert not target.exists()
    service.answered.clear()
    finished(process("fetch", "a", target))
    assert target.read_bytes() == source.read_bytes()
    assert service.answered["storage"] < 1_100_000
    assert not part.exists()
