"""Two processes never carry one run; the lock dies with its owner (A5)."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from unbroken.errors import RunLocked, StorageError
from unbroken.store import lock
from unbroken.store.lock import ExclusiveLock

HOLD = """
import sys
from pathlib import Path
from unbroken.store.lock import ExclusiveLock
with ExclusiveLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_WITH_WORKER = HOLD.replace("    print", "    import os\n    worker = os.fork()\n    worker and print")


def hold(path, script=HOLD):
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=-1, stdout=-1, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def owner_of(path):
    """The process that the lock file names, which is how others say who holds it."""
    return json.loads(path.read_bytes())["pid"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "my run é" / "lock"


def test_a_second_process_is_told_who_holds_it(path):
    """The message names run, process, host and start, and the way out."""
    with hold(path) as process:
        with pytest.raises(RunLocked) as caught, ExclusiveLock(path):
            pass
        message = str(caught.value)
        process.stdin.close()
    assert f"run my run é is being trained by process {process.pid} on {socket.gethostname()} since 20" in message
    assert message.endswith("; wait for it or stop it")


def test_sigkill_frees_it(path):
    """A5: kill -9 of the owner."""
    with hold(path) as process:
        assert owner_of(path) == process.pid
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with ExclusiveLock(path):
            assert owner_of(path) == os.getpid()


def test_sigkill_frees_it_while_a_forked_worker_lives(path):
    """A5: subprocess environments outlive a killed trainer for a moment and must not keep the run locked."""
    with hold(path, HOLD_WITH_WORKER) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with ExclusiveLock(path):
            assert owner_of(path) == os.getpid()
        process.stdin.close()


def test_it_conflicts_within_one_process_and_is_free_afterwards(path):
    with ExclusiveLock(path, run="mine"):
        with pytest.raises(RunLocked, match=f"run mine is being trained by process {os.getpid()} "):
            ExclusiveLock(path, run="mine").acquire()
        with pytest.raises(RunLocked):
            hold_in_this_process(path)
    with ExclusiveLock(path):
        pass
    assert path.exists()


def hold_in_this_process(path):
    with ExclusiveLock(path.parent / ".." / path.parent.name / "lock"):
        pass


def test_a_refused_attempt_does_not_free_the_owners_lock(path):
    with ExclusiveLock(path):
        with pytest.raises(RunLocked):
            ExclusiveLock(path).acquire()
        result = subprocess.run([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.DEVNULL, capture_output=True)
        assert b"RunLocked" in result.stderr


def test_release_without_acquire_is_harmless(path):
    ExclusiveLock(path).release()
    assert not path.exists()
    with ExclusiveLock(path):
        ExclusiveLock(path).release()
        with pytest.raises(RunLocked):
            ExclusiveLock(path).acquire()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed")
def test_a_file_that_is_removed_before_it_is_locked_is_no_lock(path, monkeypatch):
    """A11: a refused start takes its new folder away; who has opened the file just before must not hold what nobody sees."""
    real, removed = lock._lock, []

    def removed_first(descriptor):
        if not removed:
            removed.append(path.unlink())
        real(descriptor)

    monkeypatch.setattr(lock, "_lock", removed_first)
    with ExclusiveLock(path):
        assert removed
        result = subprocess.run([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.DEVNULL, capture_output=True)
        assert b"RunLocked" in result.stderr


def test_a_lock_file_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the lock file"):
        ExclusiveLock(tmp_path / "file" / "lock").acquire()


def test_garbage_in_the_lock_file_does_no_harm(path):
    path.parent.mkdir()
    path.write_bytes(b"\xff" * 9999)
    with ExclusiveLock(path):
        assert owner_of(path) == os.getpid()
