"""A start is quick without leaving the process changed."""

import gc
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
