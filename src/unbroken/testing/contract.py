"""The tests that every file backend has to pass.

Inherit from `BackendContract` in a pytest module and give it a fixture `backend` that returns an empty one.
"""

import errno
from collections.abc import Callable

from unbroken.errors import UsageError
from unbroken.store.backend import FileBackend


def _put(backend: FileBackend, path: str, content: bytes) -> None:
    with backend.create(path) as file:
        file.write(content)


def _get(backend: FileBackend, path: str) -> bytes:
    with backend.open(path) as file:
        return file.read()


def _refusal(action: Callable[[], object], kind: type[Exception]) -> Exception:
    try:
        action()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")


class BackendContract:
    """Inherit as `class TestMine(BackendContract)` with a fixture `backend`."""

    def test_written_bytes_come_back(self, backend: FileBackend) -> None:
        with backend.create("a b é.bin") as file:
            assert file.write(b"one ") == 4
            assert file.write(memoryview(bytearray(b"two"))) == 3
            file.sync()
        assert _get(backend, "a b é.bin") == b"one two"

    def test_create_empties_what_was_there(self, backend: FileBackend) -> None:
        _put(backend, "a", b"a long content")
        _put(backend, "a", b"short")
        assert _get(backend, "a") == b"short"

    def test_replace_takes_the_place(self, backend: FileBackend) -> None:
        _put(backend, "old", b"old")
        _put(backend, "new", b"new")
        backend.replace("new", "old")
        assert _get(backend, "old") == b"new"
        assert not backend.exists("new")

    def test_replace_moves_between_folders(self, backend: FileBackend) -> None:
        backend.make_folder("x/y")
        _put(backend, "a", b"a")
        backend.replace("a", "x/y/a")
        backend.sync_folder("x/y")
        backend.sync_folder("")
        assert _get(backend, "x/y/a") == b"a"

    def test_replace_moves_a_folder(self, backend: FileBackend) -> None:
        backend.make_folder("x/y")
        _put(backend, "x/y/a", b"a")
        backend.replace("x", "z")
        assert _get(backend, "z/y/a") == b"a"
        assert not backend.exists("x")

    def test_missing_files_are_file_not_found(self, backend: FileBackend) -> None:
        _refusal(lambda: backend.open("none"), FileNotFoundError)
        _refusal(lambda: backend.remove("none"), FileNotFoundError)
        _refusal(lambda: backend.replace("none", "other"), FileNotFoundError)
        _refusal(lambda: backend.create("none/a"), FileNotFoundError)

    def test_remove(self, backend: FileBackend) -> None:
        _put(backend, "a", b"a")
        backend.remove("a")
        assert not backend.exists("a")

    def test_make_folder_twice_is_harmless(self, backend: FileBackend) -> None:
        backend.make_folder("x/y")
        backend.make_folder("x/y")
        backend.make_folder("")
        assert backend.exists("x/y")

    def test_entries_are_sorted_and_complete(self, backend: FileBackend) -> None:
        backend.make_folder("x/folder")
        _put(backend, "x/b", b"123")
        _put(backend, "x/a", b"")
        listed = [(entry.name, entry.size, entry.is_folder) for entry in backend.entries("x") if not entry.is_folder]
        assert listed == [("a", 0, False), ("b", 3, False)]
        assert [entry.name for entry in backend.entries("x")] == ["a", "b", "folder"]
        assert backend.entries("x")[0].modified > 0

    def test_a_missing_folder_has_no_entries(self, backend: FileBackend) -> None:
        assert backend.entries("none") == []

    def test_reading_can_seek(self, backend: FileBackend) -> None:
        _put(backend, "a", b"0123456789")
        with backend.open("a") as file:
            assert file.seek(-3, 2) == 7
            assert file.read(2) == b"78"
            assert file.seek(1) == 1
            assert file.read(1) == b"1"

    def test_paths_stay_inside(self, backend: FileBackend) -> None:
        for path in ("../a", "/a", "x/../../a", "x//a", ".", "a\\b", "C:/a", "a/", "a\0"):
            _refusal(lambda path=path: backend.create(path), UsageError)  # type: ignore[misc]
            _refusal(lambda path=path: backend.open(path), UsageError)  # type: ignore[misc]
            _refusal(lambda path=path: backend.replace("a", path), UsageError)  # type: ignore[misc]

    def test_a_folder_is_no_file(self, backend: FileBackend) -> None:
        backend.make_folder("x")
        error = _refusal(lambda: backend.create("x"), OSError)
        assert isinstance(error, OSError)
        assert error.errno in (errno.EISDIR, errno.EACCES, errno.EPERM)

    def test_closing_twice_is_harmless(self, backend: FileBackend) -> None:
        file = backend.create("a")
        file.close()
        file.close()

    def test_free_space_is_known(self, backend: FileBackend) -> None:
        assert backend.free_bytes() > 0
