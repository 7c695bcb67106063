"""What an environment of a user's is made of: its modules, and the code and files that its arguments name (D1, D3)."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from unbroken.cache.sources import data_digest, text_digest
from unbroken.errors import ConfigurationError
from unbroken.fingerprint import argument_files, environment_sources

CORE = """
import gymnasium
import numpy as np
from gymnasium import spaces

class Market(gymnasium.Env):
    observation_space, action_space, GAIN = spaces.Box(-9, 9, (1,)), spaces.Discrete(2), 1.0

    def __init__(self, gain=None):
        self.gain = self.GAIN if gain is None else gain

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(self.gain), True, False, {}
"""
NAMED = {
    "part:make": ("part.py", "import functools\nfrom core import Market\nmake = functools.partial(Market, gain=1.0)\n"),
    "mine:Market": ("mine.py", "from core import Market\nMarket.GAIN = 1.0\n"),
    "reg:My-v0": (
        "reg.py",
        "from gymnasium import register\nregister('My-v0', entry_point='core:Market', kwargs={'gain': 1.0})\n",
    ),
}
ASK = """
import sys
from unbroken.fingerprint import environment_sources, source_digest
from unbroken.targets import check_target, make_environment
target = sys.argv[1]
check_target(target)
env = make_environment(target)
env.reset()
print(sorted(environment_sources(target, {}).items()), source_digest(target), env.step(0)[1], sep="|")
"""


def asked(folder, target):
    done = subprocess.run([sys.executable, "-c", ASK, target], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


@pytest.mark.parametrize("target", NAMED)
def test_the_module_that_a_target_names_and_that_of_its_class_count(tmp_path, target):
    """A binding, an attribute and a registration elsewhere than the class: each changes episodes, key and a run's own digest."""
    file, text = NAMED[target]
    (tmp_path / "core.py").write_text(CORE, encoding="utf-8")
    (tmp_path / file).write_text(text, encoding="utf-8")
    first = asked(tmp_path, target)
    (tmp_path / file).write_text(text.replace("1.0", "7.0"), encoding="utf-8")
    second = asked(tmp_path, target)
    assert (first[2], second[2]) == ("1.0", "7.0")
    assert first[0] != second[0]
    assert first[1] != second[1]
    (tmp_path / "core.py").write_text(CORE.replace("self.gain)", "self.gain + 1)"), encoding="utf-8")
    third = asked(tmp_path, target)
    assert third[0] != second[0]
    assert third[1] != second[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prices.csv").write_text("1\n2\n", encoding="utf-8")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "more.csv").write_text("3\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("kwargs", "wrappers", "file"),
    [
        ({"data": "prices.csv"}, (), "prices.csv"),
        ({"data": "~/prices.csv"}, (), "prices.csv"),
        ({"data": ["none.csv", "prices.csv"]}, (), "prices.csv"),
        ({"data": {"a": {"b": "prices.csv"}}}, (), "prices.csv"),
        ({"data": "folder"}, (), "folder/deep/more.csv"),
        ({}, ({"class": "m:W", "kwargs": {"data": "prices.csv"}},), "prices.csv"),
    ],
)
def test_files_that_arguments_name_count(here, kwargs, wrappers, file):
    """However deep, with `~`, in wrappers' arguments, all files of a folder; with Windows line ends it is the same text."""
    before = argument_files(kwargs, wrappers)
    assert len(before) == 1
    content = (here / file).read_bytes()
    (here / file).write_bytes(content.replace(b"\n", b"\r\n"))
    assert argument_files(kwargs, wrappers) == before
    (here / file).write_bytes(content + b"9\n")
    assert argument_files(kwargs, wrappers) != before


def test_a_new_file_in_a_folder_counts_and_too_many_are_refused(here, monkeypatch):
    before = argument_files({"data": "folder"})
    (here / "folder" / "new.csv").write_text("", encoding="utf-8")
    assert argument_files({"data": "folder"}) != before
    monkeypatch.setattr("unbroken.fingerprint._MOST_FILES", 1)
    with pytest.raises(ConfigurationError, match="data names the folder folder of more than 1 files"):
        argument_files({"data": "folder"})


def test_the_folder_of_the_work_is_no_data(here):
    """It holds what runs write, and a separator is no folder."""
    for value in (".", "/", "~", "..", str(here)):
        assert argument_files({"sep": value}) == {}


def test_values_that_only_look_like_names_are_none(here):
    for value in ("", "human", "gpu:zero", "12:30", "~nobody-of-that-name/x", "a\0b", "x" * 5000, 3, None, True):
        assert environment_sources("CartPole-v1", {"value": value}) == environment_sources("CartPole-v1", {})


def test_code_that_arguments_name_counts(here, monkeypatch):
    monkeypatch.syspath_prepend(str(here))
    (here / "my_rewards.py").write_text("def pay(x): return x\n", encoding="utf-8")
    assert "my_rewards.py" in environment_sources("CartPole-v1", {"deep": [{"reward": "my_rewards:pay"}]})


def test_data_is_no_text(tmp_path):
    """10 and 13 are line ends in text and numbers in an array."""
    digests = set()
    for value in (10, 13):
        np.save(tmp_path / "array.npy", np.array([value, 200]))
        digests.add(data_digest(tmp_path / "array.npy"))
        (tmp_path / "bytes").write_bytes(bytes([value, 200]))
        digests.add(data_digest(tmp_path / "bytes"))
    assert len(digests) == 4


def test_large_text_is_read_in_parts(tmp_path, monkeypatch):
    """Line ends and letters that lie across two parts; the same as in one."""
    text = "é\r\n" * 50 + "\r" + "end\r"
    monkeypatch.setattr("unbroken.cache.sources._CHUNK", 3)
    (tmp_path / "text").write_bytes(text.encode())
    assert data_digest(tmp_path / "text") == text_digest(text.encode())
    (tmp_path / "cut").write_bytes(text.encode() + "é".encode()[:1])
    assert (
        data_digest(tmp_path / "cut") == hashlib.blake2b(text.encode() + "é".encode()[:1], digest_size=16).hexdigest()
    )


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    path = tmp_path / "data"
    path.write_bytes(b"1")
    first = data_digest(path)
    opened = []
    monkeypatch.setattr(type(path), "open", lambda *arguments: opened.append(1))
    assert data_digest(path) == first
    assert not opened
