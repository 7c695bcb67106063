"""One module owns durability (A7): complete or absent, in the right order of operations."""

import errno
import json
import os
import re
import sys
from pathlib import Path

import pytest

import unbroken
from unbroken.errors import UsageError
from unbroken.store import durable
from unbroken.store.durable import (
    LocalBackend,
    move_aside,
    remove_leftovers,
    write_bytes_durably,
    write_durably,
    write_json_durably,
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
