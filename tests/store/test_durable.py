"""One module owns durability (A7): complete or absent, in the right order of operations."""

import errno
import json
import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import unbroken
from unbroken.errors import UsageError
from unbroken.store import durable
from unbroken.store.durable import (
    LocalBackend,
    is_leftover,
    move_aside,
    remove_leftovers,
    write_bytes_durably,
    write_durably,
    write_json_durably,
    write_new_durably,
)
from unbroken.store.memory import MemoryBackend
from unbroken.testing.backends import FaultyBackend, RecordingBackend


def content(backend, path):
    with backend.open(path) as file:
        return file.read()


def names(backend, folder=""):
    return [entry.name for entry in backend.entries(folder)]


def test_the_order_is_write_sync_replace_sync_folder():
    """A7: written aside, synced, committed last."""
    recording = RecordingBackend(MemoryBackend())
    write_bytes_durably(recording, "x/a", b"1")
    order = [operation.name for operation in recording.operations]
    assert order == ["make_folder", "sync_folder", "create", "write", "sync", "replace", "sync_folder"]
    assert recording.operations[1].path == ""
    assert recording.operations[-1].path == "x"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_local_files_and_folders_are_really_synced(backend, monkeypatch):
    """A7: the file, its folder and the folders above it reach the disk."""
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), fsync(fd)))
    write_bytes_durably(backend, "x/a", b"1")
    file = next(index for index, path in enumerate(synced) if path.endswith(".tmp"))
    assert synced[file + 1 :] == [str(backend.root / "x")]
    assert str(backend.root) in synced[:file]
    assert str(backend.root.parent) in synced[:file]


def test_only_one_module_syncs_and_replaces():
    """A7: no other module calls fsync or replace on files."""
    source = Path(unbroken.errors.__file__).parent
    pattern = re.compile(r"os\.(fsync|replace|rename)\(|F_FULLFSYNC")
    found = {path.name for path in source.rglob("*.py") if pattern.search(path.read_text("utf-8"))}
    assert found == {"durable.py"}


@pytest.mark.parametrize("operation", ["create", "write", "sync", "close", "replace"])
def test_a_failure_keeps_the_old_content_and_leaves_nothing(tmp_path, operation):
    """A10: disk full at any operation leaves the last good file."""
    local = LocalBackend(tmp_path)
    write_bytes_durably(local, "x/a", b"old")
    full = OSError(errno.ENOSPC, "no space left on device")
    faulty = FaultyBackend(local, lambda name, path: full if name == operation else None)
    with pytest.raises(OSError, match="no space"):
        write_bytes_durably(faulty, "x/a", b"new")
    assert content(local, "x/a") == b"old"
    assert names(local, "x") == ["a"]


def test_a_failing_folder_sync_is_an_error():
    """A7: what may not survive a power loss is not acknowledged."""
    faulty = FaultyBackend(MemoryBackend(), lambda name, path: OSError("bad disk") if name == "sync_folder" else None)
    with pytest.raises(OSError, match="bad disk"):
        write_bytes_durably(faulty, "a", b"new")


def test_an_interrupt_while_writing_leaves_nothing(backend):
    """A5: Ctrl-C in the middle of a save."""

    def interrupted(writer):
        writer.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_durably(backend, "a", interrupted)
    assert names(backend) == []


def test_json_is_readable_and_keeps_its_order(backend):
    write_json_durably(backend, "a.json", {"z": 1, "a": "é"})
    text = content(backend, "a.json").decode("utf-8")
    assert text == '{\n  "z": 1,\n  "a": "é"\n}\n'
    assert json.loads(text) == {"z": 1, "a": "é"}


def test_json_that_is_not_plain_data_leaves_the_old_file(backend):
    write_json_durably(backend, "a.json", 1)
    with pytest.raises(TypeError):
        write_json_durably(backend, "a.json", {"a": object()})
    assert content(backend, "a.json") == b"1\n"


def test_move_aside_never_overwrites(backend):
    """A9: nothing is ever silently deleted."""
    moved = []
    for number in range(3):
        write_bytes_durably(backend, "x/a_1.zip", str(number).encode())
        moved.append(move_aside(backend, "x/a_1.zip", "archive", label="fresh"))
    assert moved == ["archive/a_1.fresh.zip", "archive/a_1.fresh.1.zip", "archive/a_1.fresh.2.zip"]
    assert [content(backend, path) for path in moved] == [b"0", b"1", b"2"]
    assert names(backend, "x") == []


def test_move_aside_takes_whole_folders(backend):
    """A9: `--fresh` puts the old checkpoints aside in one step."""
    write_bytes_durably(backend, "checkpoints/a", b"a")
    assert move_aside(backend, "checkpoints", "archive") == "archive/checkpoints"
    assert content(backend, "archive/checkpoints/a") == b"a"


def test_leftovers_are_removed_and_nothing_else(backend):
    """A7: a temporary file of a killed writer; a user's own file stays."""
    backend.make_folder("x/.folder.1-1.tmp")
    others = [".a.tmp", "a.1-1.tmp", ".a.1.tmp", ".a.1-1.tmp.zip", "a", ".a.x-1.tmp"]
    for name in [*others, ".a.zip.99-0.tmp", ".b.zip.99-1.tmp"]:
        write_bytes_durably(backend, f"x/{name}", b"half")
    assert remove_leftovers(backend, "x", lambda name: name == "a.zip") == [".a.zip.99-0.tmp"]
    assert remove_leftovers(backend, "x") == [".b.zip.99-1.tmp"]
    assert sorted([*others, ".folder.1-1.tmp"]) == names(backend, "x")


def test_a_file_being_written_is_no_leftover(backend):
    found = []

    def produce(writer):
        writer.write(b"1")
        found.extend(remove_leftovers(backend, "x"))

    write_durably(backend, "x/a", produce)
    assert found == []
    assert content(backend, "x/a") == b"1"


def test_leftovers_on_a_read_only_folder_are_left():
    """A10: read-only storage is no reason to stop."""
    inner = MemoryBackend()
    write_bytes_durably(inner, ".a.9-9.tmp", b"")
    read_only = OSError(errno.EROFS, "read-only file system")
    faulty = FaultyBackend(inner, lambda name, path: read_only if name == "remove" else None)
    assert remove_leftovers(faulty, "") == []


def test_paths_outside_are_refused(backend):
    with pytest.raises(UsageError, match="relative path"):
        write_bytes_durably(backend, "../a", b"")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_file_system_without_folder_sync_is_accepted(backend, monkeypatch):
    """A17: network and FUSE mounts of rented notebooks."""
    fsync = os.fsync

    def no_folders(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, "invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    write_bytes_durably(backend, "x/a", b"1")
    assert content(backend, "x/a") == b"1"


def test_replacing_an_open_file_is_tried_again(tmp_path, monkeypatch):
    """A17: Windows refuses to replace a file while a scanner has it open."""
    replace, refusals = os.replace, [PermissionError("in use")] * 2

    def sometimes(src, dst):
        if refusals:
            raise refusals.pop()
        replace(src, dst)

    monkeypatch.setattr(os, "replace", sometimes)
    monkeypatch.setattr(durable, "_REPLACE_ATTEMPTS", 8)
    write_bytes_durably(LocalBackend(tmp_path), "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    refusals.append(PermissionError("not writable"))
    monkeypatch.setattr(durable, "_REPLACE_ATTEMPTS", 1)
    with pytest.raises(PermissionError):
        write_bytes_durably(LocalBackend(tmp_path), "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.fixture(params=["links", "no links"])
def linking(request, monkeypatch):
    """File systems with and without hard links."""

    def refuse(src, dst):
        raise OSError(errno.EPERM, "operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)
    return request.param


def put_new(backend, path, data):
    return write_new_durably(backend, path, lambda writer: writer.write(data))


@pytest.mark.usefixtures("linking")
class TestNewNames:
    """D5: a name is given once, whoever asks for it."""

    def test_the_first_content_stays(self, backend):
        assert put_new(backend, "x/a", b"first")
        assert not put_new(backend, "x/a", b"second")
        assert content(backend, "x/a") == b"first"
        assert names(backend, "x") == ["a"]

    def test_long_names(self, backend):
        """Names of the greatest length that begin alike are not mixed up."""
        long = ["é" * 100 + "n" * 50 + end for end in "ab"]
        assert [put_new(backend, name, name.encode()) for name in long] == [True, True]
        assert not put_new(backend, long[0], b"")
        assert [content(backend, name) for name in long] == [name.encode() for name in long]
        assert names(backend) == long
        short = [durable._shortened(name) for name in long]
        assert short[0] != short[1]
        assert max(len(name.encode()) for name in short) <= 200

    def test_a_failure_leaves_nothing(self, backend):
        def fail(writer):
            writer.write(b"half")
            raise OSError(errno.ENOSPC, "no space left on device")

        with pytest.raises(OSError, match="no space"):
            write_new_durably(backend, "x/a", fail)
        assert names(backend, "x") == []

    def test_what_it_leaves_under_way_is_known(self, backend):
        seen = []

        def look(writer):
            writer.write(b"a")
            seen.extend(names(backend, "x"))

        write_new_durably(backend, "x/a", look)
        assert len(seen) == 1
        assert is_leftover(seen[0])
        assert not any(is_leftover(name) for name in ("a", "a.1-1.tmp", ".a.tmp", "a.claim", ".claim"))

    @pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
    def test_content_and_name_reach_the_disk(self, backend, monkeypatch):
        """A7: the file before it has its name, the folder after."""
        synced = []
        fsync = os.fsync

        def note(descriptor):
            synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), backend.exists("x/a")))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", note)
        put_new(backend, "x/a", b"a")
        file = next(index for index, (path, _) in enumerate(synced) if path.endswith(".tmp"))
        assert synced[file][1] is False
        assert synced[file + 1 :] == [(str(backend.root / "x"), True)]


def test_a_disk_that_refuses_links_and_all_else_says_so(backend, monkeypatch):
    def refuse(*arguments, **words):
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="read-only"):
        put_new(backend, "a", b"a")


def test_a_claim_that_cannot_be_removed_is_an_error(backend, monkeypatch):
    """D5: another user's claim, on a drive with rights, ends in an error and not in waiting for ever."""

    def refuse(src, dst):
        raise OSError(errno.EPERM, "operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(durable, "_CLAIM_ATTEMPTS", 3)
    monkeypatch.setattr(durable, "_discard_claim", lambda *arguments: None)
    backend.make_folder(".a.claim")
    (backend.root / ".a.claim" / ".a.9-9.tmp").touch()
    with pytest.raises(OSError, match="cannot be served"):
        put_new(backend, "a", b"a")
    assert not backend.exists("a")


@pytest.mark.parametrize("stalled", ["_move_folder", "_serve_claim", "_discard_claim"])
def test_a_claim_bars_nobody_while_its_owner_sleeps(stalled, backend, monkeypatch):
    """D5: without hard links, a writer that sleeps at any point neither holds up others nor overwrites them on waking."""
    asleep, wake = threading.Event(), threading.Event()
    step = getattr(durable, stalled)

    def sleep_first(*arguments):
        if not asleep.is_set():
            asleep.set()
            assert wake.wait(30)
        return step(*arguments)

    def refuse(src, dst):
        raise OSError(errno.EPERM, "operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(durable, stalled, sleep_first)
    with ThreadPoolExecutor(1) as pool:
        sleeper = pool.submit(put_new, backend, "a", b"sleeper")
        assert asleep.wait(30)
        is_new = put_new(backend, "a", b"other")
        now = content(backend, "a")
        wake.set()
        assert sleeper.result(30) is not is_new
    assert content(backend, "a") == now == (b"other" if is_new else b"sleeper")
    assert names(backend) == ["a"]


def test_windows_renames_to_new_names_only(tmp_path, monkeypatch):
    """A17: its rename refuses a name that is taken, and is tried again while a scanner has the file open."""
    rename, refusals = os.rename, [PermissionError("in use")] * 2

    def as_windows(src, dst):
        if refusals:
            raise refusals.pop()
        if Path(dst).exists():
            raise FileExistsError(dst)
        rename(src, dst)

    monkeypatch.setattr(os, "rename", as_windows)
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    assert durable._rename_new(tmp_path / "one", tmp_path / "new", attempts=3)
    assert not durable._rename_new(tmp_path / "two", tmp_path / "new", attempts=3)
    assert (tmp_path / "new").read_text() == "one"
    refusals.append(PermissionError("not writable"))
    with pytest.raises(PermissionError):
        durable._rename_new(tmp_path / "two", tmp_path / "another", attempts=1)
