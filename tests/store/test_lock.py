"""Two processes never carry one run; the lock dies with its owner (A5)."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from unbroken.errors import RunLocked, StorageError
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
        process.send_signal(signal.SIGKILL)
        process.wait()
        with ExclusiveLock(path):
            pass


def test_sigkill_frees_it_while_a_forked_worker_lives(path):
    """A5: subprocess environments outlive a killed trainer for a moment and must not keep the run locked."""
    with hold(path, HOLD_WITH_WORKER) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with ExclusiveLock(path):
            pass
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


def test_a_lock_file_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the lock file"):
        ExclusiveLock(tmp_path / "file" / "lock").acquire()


def test_garbage_in_the_lock_file_does_no_harm(path):
    path.parent.mkdir()
    path.write_bytes(b"\xff" * 9999)
    with ExclusiveLock(path):
        pass
