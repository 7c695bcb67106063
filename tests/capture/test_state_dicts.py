"""Copies of state dicts are exact whatever has happened to networks and optimizers since the copy before (A6)."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO

from unbroken.capture import state_dicts
from unbroken.capture.codec import digest, encode
from unbroken.capture.modules import SteadyModules, capture_modules
from unbroken.capture.objects import Describer, tensor_data, tensor_from
from unbroken.capture.state_dicts import StateDictCopies
from unbroken.capture.unchanged import Digests, content_of


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.head = torch.nn.Linear(4, 2)

    def forward(self, values):
        return self.head(self.body(values))


class Holders:
    """A network under training, and what training, callbacks and users do to it."""

    def __init__(self):
        self.network = Network()
        self.make_optimizer()

    def make_optimizer(self):
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-2)

    def train(self):
        self.optimizer.zero_grad()
        self.network(torch.randn(5, 3)).square().mean().backward()
        self.optimizer.step()

    def change_rate(self):
        self.optimizer.param_groups[0]["lr"] *= 0.5

    def replace_parameter(self):
        self.network.head.bias = torch.nn.Parameter(torch.randn(2))
        self.make_optimizer()

    def assign_data(self):
        self.network.head.weight.data = torch.randn(2, 4)

    def transpose_data(self):
        self.network.head.weight.data = torch.randn(4, 2).T

    def change_type(self):
        self.network.double()
        self.network.float()

    def replace_layer(self):
        self.network.head = torch.nn.Linear(4, 2, bias=self.network.head.bias is None)
        self.make_optimizer()

    def add_buffer(self):
        self.network.body[0].register_buffer("extra", torch.randn(2))

    def drop_buffer(self):
        self.network.body[0]._buffers.pop("extra", None)

    def add_hook(self):
        self.network.head._register_state_dict_hook(
            lambda module, state, prefix, meta: state.update(hooked=torch.ones(1))
        )

    def add_group(self):
        self.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.randn(2))], "lr": 0.1})

    def reload(self):
        self.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))

    def half(self):
        self.network.head.half()
        self.network.head.float()

    def named(self):
        return {"network": self.network, "optimizer": self.optimizer, "single": self.network.head.weight, "none": None}

    def expected(self):
        return copy.deepcopy(
            {
                "network": dict(self.network.state_dict()),
                "optimizer": self.optimizer.state_dict(),
                "single": self.network.head.weight.detach(),
                "none": None,
            }
        )


def assert_same(found, expected):
    if isinstance(expected, torch.Tensor):
        assert type(found) is torch.Tensor
        assert (found.dtype, found.stride(), found.requires_grad) == (expected.dtype, expected.stride(), False)
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


DEEDS = sorted(name for name in vars(Holders) if not name.startswith("_") and name not in ("named", "expected"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(DEEDS), max_size=3), min_size=2, max_size=6))
def test_copies_are_those_of_a_state_dict_made_now(rounds):
    holders, copies = Holders(), StateDictCopies()
    for deeds in rounds:
        for deed in deeds:
            getattr(holders, deed)()
        expected = holders.expected()
        taken = copies.take(holders.named())
        holders.train()
        assert_same(taken, expected)


def test_a_network_said_to_be_unchanged_is_not_looked_through():
    holders, copies = Holders(), StateDictCopies()
    first = copies.take({"network": holders.network})["network"]
    holders.train()
    second = copies.take({"network": holders.network}, unchanged=holders.network)["network"]
    assert second["head.weight"] is first["head.weight"]
    assert torch.equal(second["head.weight"], holders.network.head.weight)


def freeze(policy):
    policy.action_net.weight.requires_grad_(False)


def put_number(policy):
    policy.mlp_extractor.latent_dim_pi = 7


def put_array_and_change_it(policy):
    policy.factor = torch.ones(1).numpy()
    policy.factor[0] += policy.factor[0]


def put_module(policy):
    policy.value_net = torch.nn.Linear(64, 1)


def put_fleeting_buffer(policy):
    policy.register_buffer("fleeting", torch.ones(1), persistent=False)


@pytest.mark.parametrize("change", [freeze, put_number, put_array_and_change_it, put_module, put_fleeting_buffer])
def test_what_was_found_in_a_policy_is_forgotten_when_it_changes(change):
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    steady = SteadyModules()
    for step in range(4):
        if step == 2:
            change(model.policy)
        if step == 3 and hasattr(model.policy, "factor"):
            model.policy.factor[0] = 5.0
        steady.look(model)
        found, expected = steady.captured(model, {}, []), capture_modules(model, {}, [])
        assert encode(found).document == encode(expected).document
        assert [a.tolist() for a in encode(found).arrays] == [a.tolist() for a in encode(expected).arrays]


def test_parameters_frozen_and_thawed_are_described_as_they_are():
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    steady = SteadyModules()
    weight = model.policy.action_net.weight
    for thawed in (True, False, True, False):
        weight.requires_grad_(thawed)
        steady.look(model)
        assert steady.captured(model, {}, []) == capture_modules(model, {}, [])


def test_a_policy_that_stays_is_not_described_again():
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    steady = SteadyModules()
    steady.look(model)
    first = steady.captured(model, {}, [])
    assert steady.look(model)
    assert steady.captured(model, {}, []) is first


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ([1, [2]], [1, [3]]),
        ({"a": 0.0}, {"a": -0.0}),
        ({"a": {}}, {"a": {1: 2}}),
    ],
)
def test_a_container_changed_in_place_is_noticed(before, after):
    held = copy.deepcopy(before)
    digests = Digests(repr)
    assert digests.of("place", held) == digests.of("place", held)
    held.clear()
    held.update(after) if isinstance(held, dict) else held.extend(after)
    assert digests.of("place", held) == repr(after)


def test_what_may_hold_anything_is_looked_at_each_time():
    held = {"a": Network()}
    assert content_of(held) is None
    seen = []
    digests = Digests(lambda value: str(seen.append(value)))
    digests.of("place", held)
    digests.of("place", held)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("held", "place", "other"),
    [
        (np.array([[1], [2]], dtype=object)[:, 0], 0, 3),
        ([np.zeros(4, np.float32)], 0, np.zeros(2, np.float64)),
        ({"x": np.float32(0)}, "x", np.int32(0)),
        ([bytearray(b"a")], 0, b"a"),
    ],
)
def test_what_only_looks_the_same_as_bytes_is_noticed(held, place, other):
    digests = Digests(lambda value: digest(Describer().describe(value)))
    before = digests.of("place", held)
    held[place] = other
    assert digests.of("place", held) != before


def test_an_array_of_objects_is_looked_into():
    held = np.empty(1, object)
    held[0] = [1]
    digests = Digests(lambda value: digest(Describer().describe(value)))
    before = digests.of("place", held)
    held[0].append(2)
    assert digests.of("place", held) != before


class Sparse(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("near", torch.eye(2).to_sparse())


class Averaging(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.linear(x - self.mean)


def test_sparse_tensors_are_copied_every_time():
    module, table = Sparse(), torch.nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1, momentum=0.9)
    copies = StateDictCopies()
    for factor in (1.0, 0.5, 0.5):
        module.near.mul_(factor)
        optimizer.zero_grad()
        table(torch.tensor([1, 2])).pow(2).sum().backward()
        optimizer.step()
        found = copies.take({"module": module, "optimizer": optimizer})
        assert torch.equal(found["module"]["near"].to_dense(), module.near.to_dense())
        expected = optimizer.state_dict()["state"][0]["momentum_buffer"].to_dense()
        assert torch.equal(found["optimizer"]["state"][0]["momentum_buffer"].to_dense(), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_buffers_of_torchscript_are_those_of_now():
    module, copies = torch.jit.script(Averaging()), StateDictCopies()
    for _ in range(3):
        module(torch.ones(3, 2))
        assert torch.equal(copies.take({"module": module})["module"]["mean"], module.mean)


def test_a_copy_that_could_not_be_had_is_not_taken_for_the_next(monkeypatch):
    """A10: a failed save is never remembered as done."""
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    steady, copies = SteadyModules(), StateDictCopies()

    def taken():
        unchanged = model.policy if steady.look(model) else None
        return copies.take({"policy": model.policy}, unchanged)["policy"]

    def fails(tensor):
        raise MemoryError

    taken()
    model.policy.action_net = torch.nn.Linear(64, 2)
    with monkeypatch.context() as broken:
        broken.setattr(state_dicts, "_memory_for", fails)
        with pytest.raises(MemoryError):
            taken()
    assert torch.equal(taken()["action_net.weight"], model.policy.action_net.weight)


@pytest.mark.parametrize("shape", [(), (3, 1), (2, 0)])
def test_bfloat16_of_any_shape_has_a_description(shape):
    value = torch.ones(shape, dtype=torch.bfloat16)
    assert torch.equal(tensor_from(tensor_data(value)), value)
