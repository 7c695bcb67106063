"""Folders that cannot be written, locked or made, and full disks: the result is returned all the same, with one warning (A10)."""

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from unbroken.cache import ResultCache, alone
from unbroken.cache.travelling import pull, push
from unbroken.cache.upkeep import PINNED, find_entry, held_entries, pin, prune, verify
from unbroken.errors import StorageError
from unbroken.remotes.folder import FolderRemote
from unbroken.store.durable import LocalBackend
from unbroken.store.lock import ExclusiveLock
from unbroken.testing.backends import OPERATIONS, FaultyBackend
from unbroken.testing.walks import Walk, same_rows, uninterrupted


def full(operation, path):
    return OSError(errno.ENOSPC, "No space left on device") if operation == "write" else None


@contextlib.contextmanager
def as_somebody_else():
    """Without root's power to write everywhere, where the tests run as root."""
    if os.name != "posix" or os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only(tmp_path):
    """Makes a folder in which nobody may write anything; everybody may read."""
    made = []
    # whoever is not root may be kept from importing, too
    warm = ResultCache(tmp_path / "warm")
    for _ in range(2):
        Walk().ask(warm, 20)

    def make(folder):
        for path in (folder, *folder.rglob("*")):
            path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH | (0o111 if path.is_dir() else 0))
            made.append(path)
        for above in folder.parents:
            if str(above).startswith("/tmp/pytest"):
                above.chmod(0o755)
        return folder

    yield make
    for path in made:
        path.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such folders")
def test_a_read_only_folder(cache, lines, read_only):
    """A10: hits are hits, what is missing is computed, one warning each time that something is not kept."""
    Walk().ask(cache, 20)
    shutil.rmtree(cache.folder / alone.LOCKS)
    read_only(cache.folder)
    lines.clear()
    with as_somebody_else():
        assert Walk().ask(cache, 10).how == "hit"
        assert not lines.warnings()
        answer = Walk().ask(cache, 30)
        assert answer.how == "extended"
        assert same_rows(answer.result, uninterrupted(30))
        (warning,) = lines.warnings()
        assert "not saved" in warning
        assert "Permission denied" in warning
        assert Walk().ask(cache, 20).how == "hit"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such folders")
def test_a_damaged_entry_in_a_read_only_folder(cache, lines, read_only):
    """D5: it cannot be moved away: said, and computed each time."""
    Walk().ask(cache, 20)
    (path,) = [path for path in cache.folder.iterdir() if path.is_file()]
    path.write_bytes(path.read_bytes()[:-1])
    read_only(cache.folder)
    with as_somebody_else():
        for _ in range(2):
            lines.clear()
            assert same_rows(Walk().ask(cache, 20).result, uninterrupted(20))
            assert "It cannot be moved away" in lines.warnings()[0]
            assert "not saved" in lines.warnings()[1]


def test_a_folder_that_cannot_be_made(tmp_path, lines):
    """A10: a file has its name, or that of one above."""
    (tmp_path / "file").write_bytes(b"mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        lines.clear()
        cache = ResultCache(folder, limit_bytes=10)
        assert same_rows(Walk().ask(cache, 20).result, uninterrupted(20))
        (warning,) = lines.warnings()
        assert "not saved" in warning
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name not in ("entries", "exists", "remove")])
def test_a_failing_disk(cache, lines, operation):
    """A10: whatever fails, the result comes; one warning; nothing half stays; later all is well."""
    cache.backend = FaultyBackend(
        LocalBackend(cache.folder),
        lambda now, path: OSError(errno.EIO, "Input/output error") if now == operation else None,
    )
    answer = Walk().ask(cache, 20)
    assert same_rows(answer.result, uninterrupted(20))
    (warning,) = lines.warnings()
    assert ("cannot be read" if operation == "open" else "not saved") in warning
    assert not [path for path in cache.folder.iterdir() if path.name.endswith(".tmp")]
    cache.backend = LocalBackend(cache.folder)
    assert same_rows(Walk().ask(cache, 20).result, uninterrupted(20))
    assert Walk().ask(cache, 20).how == "hit"


def test_a_full_disk(cache, lines):
    """A10: said once, with the reason; nothing is left of it, and an extension that cannot be kept leaves the shorter entry."""
    Walk().ask(cache, 20)
    before = sorted(path.name for path in cache.folder.iterdir())
    cache.backend = FaultyBackend(LocalBackend(cache.folder), full)
    lines.clear()
    assert same_rows(Walk().ask(cache, 30).result, uninterrupted(30))
    (warning,) = lines.warnings()
    assert "not saved: [Errno 28] No space left on device; the result is used all the same" in warning
    assert sorted(path.name for path in cache.folder.iterdir()) == before
    assert Walk().ask(cache, 20).how == "hit"


def test_an_entry_that_cannot_be_read(cache, lines):
    """D5: a failing disk is not damage: the file stays where it is until a new one takes its name."""
    Walk().ask(cache, 20)
    failing = [True]
    cache.backend = FaultyBackend(
        LocalBackend(cache.folder),
        lambda now, path: OSError(errno.EIO, "Input/output error") if now == "open" and failing[0] else None,
    )
    lines.clear()
    assert Walk().ask(cache, 20).how == "computed"
    assert any("cannot be read" in line for line in lines.warnings())
    assert not (cache.folder / "quarantine").exists()
    failing[0] = False
    assert Walk().ask(cache, 20).how == "hit"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such files")
def test_an_entry_without_permission_stays(cache, lines, read_only):
    """D5: it may belong to another version of the package, so that it is not overwritten, and the result is not kept."""
    Walk().ask(cache, 20)
    (path,) = [path for path in cache.folder.iterdir() if path.is_file()]
    content = path.read_bytes()
    read_only(cache.folder)
    for folder in (cache.folder, cache.folder / alone.LOCKS):
        folder.chmod(0o777)
    path.chmod(0)
    with as_somebody_else():
        assert same_rows(Walk().ask(cache, 20).result, uninterrupted(20))
    assert "cannot be read" in lines.warnings()[0]
    assert "not saved: what has the name" in lines.warnings()[1]
    assert path.read_bytes() == content


def readers(folder, place):
    """What looks after a folder, and travels."""
    remote = FolderRemote(f"folder:{place}", place)
    return {
        "list": lambda: held_entries(folder),
        "verify": lambda: verify(folder),
        "find": lambda: find_entry(folder, "abcd"),
        "prune": lambda: prune(folder, 0),
        "push": lambda: push(folder, remote),
        "pull": lambda: pull(folder, remote),
    }


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such folders")
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o333])
@pytest.mark.parametrize("act", readers(Path(), Path()))
def test_a_folder_that_cannot_be_read_does_not_look_empty(cache, read_only, tmp_path, act, mode):
    """Nothing silent: neither listed as empty nor found well; a result is computed all the same."""
    place = tmp_path / "place"
    Walk().ask(cache, 20)
    push(cache.folder, FolderRemote(f"folder:{place}", place))
    read_only(cache.folder)
    read_only(place)
    cache.folder.chmod(mode)
    with as_somebody_else():
        with pytest.raises(StorageError, match="of the cache cannot be read: Permission denied"):
            readers(cache.folder, place)[act]()
        assert same_rows(Walk(7).ask(cache, 20).result, uninterrupted(20, 7))


@pytest.mark.skipif(os.name != "posix", reason="Windows says that there is no such folder")
@pytest.mark.parametrize("act", readers(Path(), Path()))
def test_a_folder_below_a_file_does_not_look_empty(tmp_path, act):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for folder in (tmp_path / "file" / "cache", tmp_path / "loop"):
        with pytest.raises(StorageError, match="of the cache cannot be read"):
            readers(folder, tmp_path)[act]()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such folders")
def test_pins_that_cannot_be_read_are_no_missing_pins(cache, lines, read_only):
    """D4: what is pinned is not evicted because its pin cannot be seen."""
    Walk().ask(cache, 20)
    (entry,) = held_entries(cache.folder)
    pin(cache.folder, entry.file)
    read_only(cache.folder)
    cache.folder.chmod(0o777)
    (cache.folder / alone.LOCKS).chmod(0o777)
    (cache.folder / PINNED).chmod(0)
    cache.limit_bytes = 1
    with as_somebody_else():
        assert Walk(1).ask(cache, 20).how == "computed"
    assert (cache.folder / entry.file).exists()
    assert any("nothing is evicted" in line for line in lines.warnings())


def test_a_folder_that_cannot_be_locked(cache, lines, monkeypatch):
    """Some network drives have no locks: everything works, and it is said once what that may cost."""

    def refuses(lock):
        raise StorageError("the file system of x cannot lock files: No locks available")

    monkeypatch.setattr(ExclusiveLock, "acquire", refuses)
    for seed in range(3):
        assert Walk(seed).ask(cache, 20).how == "computed"
        assert Walk(seed).ask(cache, 20).how == "hit"
    (warning,) = lines.warnings()
    assert warning.partition("WARNING: ")[2] == (
        "the file system of x cannot lock files: No locks available; another process may compute the same at the same time"
    )


def test_eviction_that_fails_does_not_lose_the_result(cache, lines, monkeypatch):
    """A10: on Windows a file that somebody reads cannot be removed."""
    Walk(1).ask(cache, 20)
    cache.limit_bytes = 1

    def refuses(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.unlink", refuses)
    assert same_rows(Walk(2).ask(cache, 20).result, uninterrupted(20, 2))
    monkeypatch.undo()
    assert Walk(1).ask(cache, 20).how == "hit"
    assert not [line for line in lines.all() if "Evicted" in line]
