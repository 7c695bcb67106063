"""The remote that fails by plan fails as it is told, and otherwise keeps the contract."""

import signal
import sys

import pytest

from unbroken.errors import RemoteRefused, RemoteUnreachable
from unbroken.remotes.contract import Item, Put
from unbroken.remotes.folder import FolderRemote
from unbroken.testing.remote_contract import RemoteContract
from unbroken.testing.remotes import Faults, FaultyRemote, flipped, truncated


@pytest.fixture
def remote(tmp_path):
    return FaultyRemote(FolderRemote("folder:place", tmp_path / "place"))


@pytest.fixture
def second(tmp_path):
    return FaultyRemote(FolderRemote("folder:place", tmp_path / "place"))


class TestFaultyThatNeverFails(RemoteContract):
    pass


def test_errors_come_at_their_operations(remote, files):
    remote.faults = Faults(errors={2: RemoteRefused("no")})
    sources = files({"a": b"a"})
    assert remote.items() == []
    with pytest.raises(RemoteRefused, match="no"):
        remote.put(sources)
    assert remote.put(sources) == Put(written=("a",))
    assert remote.calls == [("items", ("",)), ("put", ("a",)), ("put", ("a",))]


def test_nobody_answers_for_a_while(remote, files):
    remote.faults = Faults(unreachable=range(1, 3))
    with pytest.raises(RemoteUnreachable):
        remote.put(files({"a": b"a"}))
    with pytest.raises(RemoteUnreachable):
        remote.items()
    assert remote.items() == []


@pytest.mark.parametrize(("spoil", "expected"), [(truncated, b"01234"), (flipped, b"0123446789")])
def test_fetched_bytes_are_spoilt(spoil, expected, remote, files, tmp_path):
    remote.put(files({"a": b"0123456789"}))
    remote.faults = Faults(spoil=spoil)
    remote.fetch("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == expected
    assert remote.items() == [Item("a", 10)]


def test_a_put_dies_in_the_middle(remote, files):
    remote.faults = Faults(put_dies_after=2)
    sources = files({"z": b"z", "m": b"m", "a": b"a"})
    with pytest.raises(RemoteUnreachable):
        remote.put(sources)
    assert [item.name for item in remote.items()] == ["m", "z"]
    remote.faults = Faults(put_dies_after=3)
    assert remote.put(sources) == Put(written=("a",), present=("z", "m"))


DYING = """
import sys
from pathlib import Path
from unbroken.remotes.folder import FolderRemote
from unbroken.testing.backends import kill_this_process
from unbroken.testing.remotes import Faults, FaultyRemote
place, source = map(Path, sys.argv[1:])
remote = FaultyRemote(FolderRemote("folder:x", place), Faults(put_dies_after=1, death=kill_this_process))
remote.put({"z": source, "a": source})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_the_process_dies_in_the_middle_of_a_put(child, remote, files, tmp_path):
    process = child(DYING, tmp_path / "place", files({"a": b"a"})["a"])
    assert process.wait(60) == -signal.SIGKILL
    assert remote.items() == [Item("z", 1)]


def test_success_is_reported_and_nothing_kept(remote, files):
    remote.faults = Faults(forgetful=True)
    assert remote.put(files({"a": b"a"})) == Put(written=("a",))
    assert remote.items() == []


def test_listings_are_stale_after_a_put(remote, files):
    remote.put(files({"x/a": b"a"}))
    remote.faults = Faults(stale=2)
    remote.put(files({"x/b": b"b", "y": b"y"}))
    assert remote.items("x/") == [Item("x/a", 1)]
    assert remote.items("y") == []
    assert remote.items("x/") == [Item("x/a", 1), Item("x/b", 1)]
