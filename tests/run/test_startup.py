"""A start is quick without leaving the process changed."""

import gc
import sys
from typing import ClassVar

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from unbroken.startup import paused_collection


class SeesCollector(BaseCallback):
    """Notes whether the garbage collector is on while training goes on."""

    seen: ClassVar[set] = set()

    def _on_step(self):
        type(self).seen.add(gc.isenabled())
        return True


def fails_while_paused():
    with paused_collection():
        raise ValueError("on" if gc.isenabled() else "off")


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_is_as_before_also_after_an_error(before):
    (gc.enable if before else gc.disable)()
    try:
        with pytest.raises(ValueError, match="off"):
            fails_while_paused()
        assert gc.isenabled() is before
    finally:
        gc.enable()


def test_training_itself_runs_with_the_collector(training):
    SeesCollector.seen.clear()
    training(steps=128, settings={"callbacks": [f"{SeesCollector.__module__}:SeesCollector"]})
    assert SeesCollector.seen == {True}
    assert gc.isenabled()


SHOWN = """
import random, sys
import numpy as np
from unbroken.progress import Progress

random.seed(0)
np.random.seed(0)
before = random.getstate(), np.random.get_state()[1].tobytes()
sys.stdout.isatty = lambda: True
assert "rich.style" not in sys.modules
with Progress(100, 0).shown():
    assert "rich.style" in sys.modules
assert (random.getstate(), np.random.get_state()[1].tobytes()) == before
"""


def test_the_bar_on_a_terminal_draws_no_random_numbers():
    """A6: rich draws one from Python's global generator when it is imported, which is after a state was restored."""
    import subprocess

    done = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
