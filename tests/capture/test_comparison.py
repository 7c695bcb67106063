"""What a comparison of two states leaves out, and that it leaves out nothing else."""

import gymnasium
import numpy as np
import pytest

from unbroken.capture.comparison import compare_states
from unbroken.capture.objects import Describer


class Holder:
    """An environment's attributes."""


def state(**spaces):
    holder = Holder()
    for name, seed in spaces.items():
        space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        space.seed(seed)
        setattr(holder, name, space)
    return {"class": "Holder", "attributes": Describer().attributes(holder, "Holder", frozenset())}


@pytest.mark.parametrize(
    ("name", "identical"),
    [("observation_space", True), ("_observation_space", True), ("action_space", False), ("my_space", False)],
)
def test_only_the_generators_of_observation_spaces_are_left_out(name, identical):
    """A6: Gymnasium seeds a wrapper's from the operating system, and training draws from action spaces only."""
    assert compare_states(state(**{name: 1}), state(**{name: 1})).identical
    assert compare_states(state(**{name: 1}), state(**{name: 2})).identical is identical
    assert compare_states(state(**{name: 1}), state()).identical is identical


def test_what_is_left_out_is_named():
    assert {"observation_space", "_observation_space"} <= set(compare_states({}, {}).plain()["left_out"])
