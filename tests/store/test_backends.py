"""Every backend of the package keeps the contract (A7, A10)."""

import errno

import pytest

from unbroken.store.durable import LocalBackend
from unbroken.store.memory import MemoryBackend
from unbroken.testing.backends import FaultyBackend, RecordingBackend
from unbroken.testing.contract import BackendContract


class TestLocal(BackendContract):
    @pytest.fixture
    def backend(self, tmp_path):
        backend = LocalBackend(tmp_path / "with space é")
        backend.make_folder("")
        return backend

    def test_local_path(self, backend, tmp_path):
        assert backend.local_path("x/a") == tmp_path / "with space é" / "x" / "a"


class TestMemory(BackendContract):
    @pytest.fixture
    def backend(self):
        return MemoryBackend()

    def test_a_full_backend_says_so(self):
        backend = MemoryBackend(capacity=10)
        with backend.create("a") as file, pytest.raises(OSError) as caught:
            file.write(b"x" * 11)
        assert caught.value.errno == errno.ENOSPC


class TestFaultyThatNeverFails(BackendContract):
    @pytest.fixture
    def backend(self):
        return FaultyBackend(MemoryBackend(), lambda operation, path: None)


class TestRecording(BackendContract):
    @pytest.fixture
    def backend(self):
        return RecordingBackend(MemoryBackend())
