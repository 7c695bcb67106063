"""A restored array lies in memory as the captured one did: kernels, and with them the last bits, depend on it (A6)."""

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO

from unbroken.capture.callbacks import Callbacks
from unbroken.capture.codec import decode, encode
from unbroken.capture.filling import Filler
from unbroken.capture.layout import in_order, is_dense, laid_out
from unbroken.capture.objects import Describer
from unbroken.capture.sb3 import capture_model, restore_model
from unbroken.capture.vector_environments import make_capturable


def stored(description):
    encoded = encode(description)
    return decode(encoded.document, b"".join(bytes(piece) for piece in encoded.block()))


def restored(value, *live):
    return Filler().build(stored(Describer().describe(value)), *live)


@st.composite
def arrangements(draw):
    """A shape with axes of length one, and the order in which its axes lie in memory."""
    shape = draw(st.lists(st.sampled_from([1, 1, 2, 3, 5]), min_size=1, max_size=4))
    return shape, draw(st.permutations(range(len(shape))))


@settings(max_examples=200, deadline=None)
@given(arrangements(), st.booleans())
def test_arrays_of_any_order_come_back_with_their_strides(arrangement, over_another):
    shape, order = arrangement
    block = np.arange(np.prod(shape), dtype=np.float32).reshape([shape[axis] for axis in order])
    value = block.transpose(np.argsort(order))
    live = (np.zeros(value.shape, value.dtype),) if over_another else ()
    found = restored(value, *live)
    assert found.tolist() == value.tolist()
    assert found.strides == value.strides
    tensor = torch.from_numpy(value)
    found = restored(tensor, *(torch.from_numpy(one) for one in live))
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=4), st.lists(st.integers(-3, 70), min_size=4, max_size=4))
def test_strides_that_reach_beyond_the_array_are_refused(shape, strides):
    """A stored file decides nothing about memory that is not its own."""
    strides = strides[: len(shape)]
    places = [0]
    for size, stride in zip(shape, strides, strict=True):
        places = [place + k * stride for place in places for k in range(size)]
    whole = sorted(places) == list(range(len(places))) and len(places) > 0
    assert is_dense(shape, strides) == whole
    if not whole:
        with pytest.raises(ValueError, match="cannot have the strides"):
            laid_out(np.zeros(shape), strides)


def test_the_usual_order_needs_no_word():
    for shape in ([], [1], [3, 1, 2], [2, 3]):
        described = Describer().describe(np.zeros(shape))
        assert "strides" not in described
        assert in_order(shape) == tuple(torch.zeros(shape).stride())


def test_an_array_in_anothers_memory_keeps_its_place():
    block = np.zeros((3, 4))
    view = block[:, 1]
    found = restored(np.arange(3.0), view)
    assert found is view
    assert block[:, 1].tolist() == [0, 1, 2]


class Grey(gymnasium.Env):
    """Pictures of one channel, which SB3 transposes: their only channel has the stride of a last one."""

    observation_space = gymnasium.spaces.Box(0, 255, (40, 40, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def test_the_last_picture_of_one_channel_lies_as_it_did():
    """A6: found on a GPU, where the first action after a resume came from another kernel."""
    models = [PPO("CnnPolicy", Grey(), n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu") for _ in range(2)]
    for model in models:
        make_capturable(model.env)
    models[0].learn(8)
    taken = capture_model(models[0], "end", Callbacks())
    restore_model(models[1], stored(taken.state), taken.tensors, taken.variables, Callbacks())
    one, other = (model._last_obs for model in models)
    assert other.strides == one.strides
    assert torch.as_tensor(other).stride() == torch.as_tensor(one).stride()


@pytest.mark.parametrize("shape", [(0,), (1, 2, 0), (3, 0, 2)])
@pytest.mark.parametrize("through_a_file", [False, True])
def test_an_array_without_items_comes_back(shape, through_a_file):
    """numpy gives it strides of zero when it allocates it."""
    value = np.zeros(shape)
    described = Describer().describe(value)
    made = Filler().build(stored(described) if through_a_file else described, np.zeros(3))
    assert made.shape == shape
    assert made.dtype == value.dtype
