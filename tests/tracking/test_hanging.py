"""A tracker that hangs does not keep a leg from ending, with its code (A10, A11)."""

import signal
import sys
import time
from pathlib import Path

import pytest

from unbroken.testing.child import TrainingProcess

SMALL = (
    "train", "CartPole-v1", "--set", "hyperparameters.n_steps=64", "--set", "hyperparameters.batch_size=64", "--set",
    "self_test=false", "--eval-every", "0", "--save-every", "128", "--run", "it",
)  # fmt: skip
HANGING = str(Path(__file__).parent / "hanging.py")


def training(folder, *words):
    return TrainingProcess([HANGING, *words, "--runs-dir", str(folder)], {})


def test_the_process_ends_when_its_patience_does(tmp_path):
    """A10: the client's own handlers at the end of the process are not waited for; everything of the run is there."""
    with training(tmp_path, "--impatient", *SMALL, "--steps", "256") as process:
        assert process.wait(60) == 0, process.last_lines()
    assert any("a tracker does not answer" in line for line in process.lines)
    assert any("Target reached" in line for line in process.lines)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_second_interrupt_ends_the_wait(tmp_path):
    """A11: 75, for there is a checkpoint, and no traceback."""
    with training(tmp_path, *SMALL, "--steps", "1000000") as process:
        assert process.wait_for("Saved ", 60), process.last_lines()
        process.signal(signal.SIGINT)
        assert process.wait_for("Stopping at step", 30), process.last_lines()
        assert process.wait_for("Saved ", 30), process.last_lines()
        time.sleep(1.0)
        process.signal(signal.SIGINT)
        assert process.wait(40) == 75, process.last_lines()
    assert any("Not waiting any longer: SIGINT again" in line for line in process.lines)
    assert not any("Traceback" in line for line in process.lines)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_after_a_signal_trackers_get_what_is_left_of_the_grace_time(tmp_path):
    """A11"""
    with training(tmp_path, *SMALL, "--steps", "1000000", "--grace", "4s") as process:
        assert process.wait_for("Saved ", 60), process.last_lines()
        process.signal(signal.SIGTERM)
        assert process.wait(40) == 75, process.last_lines()
