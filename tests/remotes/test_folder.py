"""A folder as a remote: written by several machines and by processes that die, on file systems of every kind (D5)."""

import errno
import os
import signal
import sys

import pytest

from unbroken.errors import NotFound, RemoteError, RemoteRefused, RemoteUnreachable, UsageError
from unbroken.remotes import folder
from unbroken.remotes.contract import Item, Put
from unbroken.remotes.folder import FolderRemote
from unbroken.store import durable
from unbroken.store.durable import LocalBackend
from unbroken.testing.remote_contract import RemoteContract

DAY = 24 * 3600


@pytest.fixture
def place(tmp_path):
    return tmp_path / "a drive é" / "place"


@pytest.fixture
def make(place):
    place.parent.mkdir()
    return lambda: FolderRemote(f"folder:{place}", place)


@pytest.fixture
def remote(make):
    return make()


@pytest.fixture
def second(make):
    return make()


@pytest.fixture
def without_links(monkeypatch):
    def refuse(src, dst):
        raise OSError(errno.EPERM, "Operation not permitted", str(src), None, str(dst))

    monkeypatch.setattr(os, "link", refuse)


class TestFolder(RemoteContract):
    """D5: the contract on an ordinary file system."""


@pytest.mark.usefixtures("without_links")
class TestFolderWithoutHardLinks(RemoteContract):
    """D5: the contract where there are no hard links, as on exFAT, SMB and many FUSE mounts."""


WITHOUT_LINKS = """
import errno, os
def refuse(src, dst):
    raise OSError(errno.ENOTSUP, "Operation not supported")
os.link = refuse
"""
PUT_MANY = """
import sys, time
from pathlib import Path
from unbroken.remotes.folder import FolderRemote
place, who, start = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
source = place.parent / f"source of {who}"
source.write_bytes(who.encode() * 50_000)
print("ready", flush=True)
while not start.exists():
    time.sleep(0.0005)
for number in range(60):
    put = FolderRemote("folder:x", place).put({f"x/{number}": source})
    print(*put.written, flush=True)
"""


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_two_processes_with_the_same_names(links, child, place, tmp_path, remote):
    """D5: exactly one of two processes that put a name at once is told that its file was written, and that one is there."""
    start = tmp_path / "start"
    code = ("" if links else WITHOUT_LINKS) + PUT_MANY
    processes = {who: child(code, place, who, start) for who in ("ab", "cd")}
    for process in processes.values():
        assert process.stdout.readline() == "ready\n"
    start.touch()
    said = {who: process.communicate(timeout=60) for who, process in processes.items()}
    assert {who: errors for who, (_, errors) in said.items()} == {"ab": "", "cd": ""}
    winner = {name: who for who, (output, _) in said.items() for name in output.split()}
    assert sum(len(output.split()) for output, _ in said.values()) == 60
    assert set(winner.values()) == {"ab", "cd"}
    for number in range(60):
        assert (place / f"x/{number}").read_bytes() == winner[f"x/{number}"].encode() * 50_000
    assert len(remote.items()) == len(list((place / "x").iterdir())) == 60


DYING = """
import os, signal, sys
from pathlib import Path
from unbroken.remotes.folder import FolderRemote
from unbroken.store import durable
place, source, at = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
owner = {"write": durable.LocalFile, "sync": durable.LocalFile, "remove": durable.LocalBackend}.get(at, durable)
plain = getattr(owner, at)
def dying(*arguments):
    if at == "write":
        plain(arguments[0], arguments[1][:100_000])
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, at, dying)
FolderRemote("folder:x", place).put({"x/a": source, "x/b": source})
"""
PLACES = {
    "links": ["write", "sync", "_give_new_name", "remove"],
    "no links": ["_claim_name", "_move_folder", "_serve_claim", "_discard_claim", "remove"],
}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize(("links", "at"), [(links, at) for links, places in PLACES.items() for at in places])
def test_a_killed_put_leaves_nothing_half(links, at, child, place, files, remote):
    """D5: complete or absent, whatever moment a writer is killed at, and its death bars nobody from the name."""
    mine, theirs = files({"mine": b"m" * 300_000, "theirs": b"t" * 300_000}).values()
    process = child((WITHOUT_LINKS if links == "no links" else "") + DYING, place, theirs, at)
    assert process.wait(60) == -signal.SIGKILL
    assert remote.items() in ([], [Item("x/a", 300_000)])
    put = remote.put({"x/a": mine, "x/b": mine})
    assert remote.items() == [Item("x/a", 300_000), Item("x/b", 300_000)]
    expected = mine if "x/a" in put.written else theirs
    assert (place / "x/a").read_bytes() == expected.read_bytes()
    assert (place / "x/b").read_bytes() == mine.read_bytes()


@pytest.mark.usefixtures("without_links")
def test_a_put_without_links_finishes_for_a_killed_one(place, files, remote):
    """D5: a claim bars nobody: its file is moved if it is there, and forgotten if it is not."""
    folder = place / "x"
    for name, content in {"a": b"complete", "b": None}.items():
        (folder / f".{name}.claim").mkdir(parents=True)
        (folder / f".{name}.claim" / f".{name}.99-1.tmp").touch()
        if content is not None:
            (folder / f".{name}.99-1.tmp").write_bytes(content)
    assert remote.items() == []
    source = files({"own": b"own"})["own"]
    assert remote.put({"x/a": source, "x/b": source}) == Put(written=("x/b",), present=("x/a",))
    assert (folder / "a").read_bytes() == b"complete"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_a_drive_that_is_not_mounted(tmp_path, files):
    """D5: a missing parent is said; neither an empty list nor a new folder on the local disk hides it."""
    remote = FolderRemote("folder:x", tmp_path / "mnt" / "drive")
    source = files({"a": b"a"})["a"]
    for action in (remote.items, lambda: remote.put({"a": source}), lambda: remote.fetch("a", tmp_path / "a")):
        with pytest.raises(RemoteUnreachable, match=r"Is the drive mounted\?"):
            action()
    assert not (tmp_path / "mnt").exists()
    assert not (tmp_path / ".a.part").exists()


def test_a_mount_point_of_this_machines_table_with_nothing_mounted(tmp_path, files, monkeypatch):
    """D5: an empty mount point is there, and what went into it would be hidden by the next mount."""
    drive = tmp_path / "my drive"
    drive.mkdir()
    table = tmp_path / "fstab"
    table.write_text(
        f"# a comment\nUUID=1 / ext4 defaults 0 1\n//server/x {str(drive).replace(' ', chr(92) + '040')} cifs noauto 0 0\n"
    )
    monkeypatch.setattr(folder, "_TABLE", table)
    with pytest.raises(RemoteUnreachable, match=r"nothing is mounted at .*my drive"):
        FolderRemote("folder:x", drive / "runs").put(files({"a": b"a"}))
    assert not list(drive.iterdir())
    (drive / "something").touch()
    assert FolderRemote("folder:x", drive / "runs").items() == []
    (drive / "something").unlink()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == drive)
    assert FolderRemote("folder:x", drive / "runs").put(files({"a": b"a"})).written == ("a",)


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need rights there")
def test_what_is_no_file_is_not_taken_for_an_object(remote, place, files):
    """D5: a dangling link, a loop or a pipe has the name and nothing that anybody could fetch."""
    place.mkdir(exist_ok=True)
    (place / "link").symlink_to(place / "nowhere")
    (place / "loop").symlink_to(place / "loop")
    os.mkfifo(place / "pipe")
    for name in ("link", "loop", "pipe"):
        with pytest.raises(RemoteError, match=f"no file where {name} would go"):
            remote.put(files({name: b"a"}))
    assert remote.items() == []


def test_a_file_is_no_place(tmp_path, files):
    source = files({"a": b"a"})["a"]
    with pytest.raises(RemoteError, match="is a file"):
        FolderRemote("folder:x", source).put({"a": source})


def test_a_folder_where_the_object_would_go(remote, files):
    sources = files({"x/a": b"a", "x": b"x"})
    with pytest.raises(RemoteError, match="something that is no file where x would go"):
        remote.put(sources)
    assert remote.items() == [Item("x/a", 1)]
    with pytest.raises(RemoteError, match="fails"):
        remote.put({"x/a/b": sources["x"]})


@pytest.mark.parametrize(
    ("code", "kind", "hint"),
    [
        (errno.EROFS, RemoteRefused, "check the rights"),
        (errno.EACCES, RemoteRefused, "check the rights"),
        (errno.ENOSPC, RemoteError, "make room"),
        (errno.EIO, RemoteUnreachable, "still connected"),
        (errno.ENOTCONN, RemoteUnreachable, "still connected"),
        (errno.ENAMETOOLONG, RemoteError, "fails"),
    ],
)
def test_what_the_file_system_says(code, kind, hint, remote, files, monkeypatch):
    """D5: one line with the way out."""

    def fail(backend, path):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(LocalBackend, "create", fail)
    with pytest.raises(RemoteError, match=hint) as caught:
        remote.put(files({"a": b"a"}))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_a_full_drive_keeps_what_is_there(remote, place, files, monkeypatch):
    """D5: complete or absent, and nothing of the failed file stays in the way."""
    remote.put(files({"a": b"a"}))

    def half(file, data):
        file._file.write(bytes(data)[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.LocalFile, "write", half)
    with pytest.raises(RemoteError, match="is full"):
        remote.put(files({"b": b"bb"}))
    assert [path.name for path in place.iterdir()] == ["a"]


def test_what_others_put_there(remote, place, files, tmp_path):
    """D5: files of writers under way, names that no object can have, and loops are not listed; ordinary files are."""
    remote.put(files({"x/a": b"a"}))
    (place / "x" / ".b.12-34.tmp").write_bytes(b"half")
    (place / "x" / ".b.claim").mkdir()
    (place / "x" / ".b.claim" / ".b.12-34.tmp").touch()
    (place / "by hand.txt").write_bytes(b"text")
    if sys.platform != "win32":
        (place / "a\\b").write_bytes(b"")
        (place / "x" / "loop").symlink_to(place)
    assert remote.items() == [Item("by hand.txt", 4), Item("x/a", 1)]
    with pytest.raises(NotFound):
        remote.fetch("none", tmp_path / "a")
    for name in ("x/.b.12-34.tmp", ".x.claim/a"):
        with pytest.raises(UsageError, match="take another"):
            remote.put({name: tmp_path / "none"})
    with pytest.raises(UsageError):
        remote.items("../")


def test_what_killed_writers_left_goes_after_a_day(remote, place, files):
    """D5: the drive does not fill up with halves, and a writer at work is left alone."""
    folder = place / "x"
    folder.mkdir(parents=True)
    for name, age in {".a.1-1.tmp": DAY + 60, ".b.1-1.tmp": DAY - 60, "a.1-1.tmp": 9 * DAY}.items():
        (folder / name).write_bytes(b"half")
        now = (folder / name).stat().st_mtime
        os.utime(folder / name, (now - age, now - age))
    remote.put(files({"x/new": b"new"}))
    assert sorted(path.name for path in folder.iterdir()) == [".b.1-1.tmp", "a.1-1.tmp", "new"]


def test_a_fetch_reads_only_what_is_missing(remote, files, tmp_path):
    """D5: interrupted transfers continue."""
    remote.put(files({"a": b"0123456789"}))
    (tmp_path / ".a.part").write_bytes(b"????")
    remote.fetch("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"????456789"
    remote.fetch("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_fetch_that_breaks_off_goes_on(remote, files, tmp_path, monkeypatch):
    """D5: what had arrived stays beside the target, and the next call needs only the rest."""
    content = bytes(range(256)) * 10_000
    remote.put(files({"a": content}))
    chunks = FolderRemote._chunks

    def broken(self, path, offset):
        yield next(chunks(self, path, offset))
        raise RemoteUnreachable("gone")

    monkeypatch.setattr(FolderRemote, "_chunks", broken)
    with pytest.raises(RemoteUnreachable):
        remote.fetch("a", tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert (tmp_path / ".a.part").read_bytes() == content[: 1 << 20]
    monkeypatch.setattr(FolderRemote, "_chunks", chunks)
    remote.fetch("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content


def test_an_object_that_ends_early_is_said(remote, files, tmp_path, monkeypatch):
    """D5: a truncated transfer never looks complete."""
    remote.put(files({"a": b"0123456789"}))
    monkeypatch.setattr(FolderRemote, "_chunks", lambda self, path, offset: iter([b"0123"]))
    with pytest.raises(RemoteError, match="4 of 10 bytes arrived; the same command goes on"):
        remote.fetch("a", tmp_path / "a")
    assert not (tmp_path / "a").exists()
