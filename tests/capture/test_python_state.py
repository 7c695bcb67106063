"""What networks, optimizers, models and callbacks keep in plain Python is carried over a kill, or named (A6)."""

import collections
import dataclasses
import threading

import numpy as np
import pytest
import torch
from dying import Dies, dying, trained, weights
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from unbroken.capture import sb3 as capture
from unbroken.capture.codec import decode, encode
from unbroken.capture.filling import Filler
from unbroken.capture.objects import Describer


class CountingExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self._calls = 0

    def forward(self, observations):
        self._calls += 1
        return observations * (1.0 + 0.01 * self._calls)


class AveragingExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.mean = torch.zeros(4)
        self.register_buffer("fleeting", torch.zeros(4), persistent=False)

    def forward(self, observations):
        self.mean = 0.9 * self.mean + 0.1 * observations.mean(0).detach()
        self.fleeting.mul_(0.9).add_(0.1 * observations.mean(0).detach())
        return observations - self.mean - self.fleeting


class SkippingOptimizer(torch.optim.SGD):
    def __init__(self, parameters, lr, eps=None):
        super().__init__(parameters, lr)
        self.calls = 0

    def step(self, closure=None):
        self.calls += 1
        return None if self.calls % 3 == 0 else super().step(closure)


class ScalingBuffer(RolloutBuffer):
    def __init__(self, *arguments, **words):
        self.count = 0
        super().__init__(*arguments, **words)

    def add(self, obs, action, reward, *rest):
        self.count += 1
        super().add(obs, action, reward / np.sqrt(self.count), *rest)


class Curious(PPO):
    """Trains a network of its own beside the policy, and keeps an array under the name of an argument."""

    def __init__(self, *arguments, weights=None, **words):
        super().__init__(*arguments, **words)
        self.weights = np.ones(2)
        self.curiosity = torch.nn.Linear(4, 1)
        self.curiosity_optimizer = torch.optim.Adam(self.curiosity.parameters(), 1e-2)

    def train(self):
        observations = torch.as_tensor(self.rollout_buffer.observations.reshape(-1, 4))
        loss = (self.curiosity(observations) - 1).pow(2).mean()
        self.curiosity_optimizer.zero_grad()
        loss.backward()
        self.curiosity_optimizer.step()
        self.weights = self.weights * 0.5
        self.ent_coef = float(loss.detach()) * float(self.weights[0])
        super().train()


class Acts(Dies):
    """Does something to the model once, after the first rollout."""

    def _on_rollout_end(self):
        if self.num_timesteps == 64:
            self.act(self.model)


class Freezes(Acts):
    def act(self, model):
        for parameter in model.policy.mlp_extractor.parameters():
            parameter.requires_grad_(False)


class SetsWhatWasNone(Acts):
    def act(self, model):
        model.target_kl = 1e-4


class SetsNumpyNumbers(Acts):
    def act(self, model):
        model.ent_coef, model.max_grad_norm = np.float32(0.1), np.inf


class LowersTheRate(Acts):
    def act(self, model):
        model.learning_rate = 1e-4
        model._setup_lr_schedule()


class HoldsALock(Acts):
    def act(self, model):
        model.guard = threading.Lock()


class Nests(Dies):
    """Counts in a dictionary of dictionaries, each made when it is first asked for."""

    def __init__(self):
        super().__init__()
        self.counts = collections.defaultdict(lambda: collections.defaultdict(int))

    def _on_rollout_end(self):
        self.counts[self.num_timesteps // 128]["rollouts"] += 1
        self.model.ent_coef = 0.01 * sum(inner["rollouts"] ** 2 for inner in self.counts.values())


@dataclasses.dataclass
class Record:
    step: int


class Records(Dies):
    def __init__(self):
        super().__init__()
        self.records = []

    def _on_rollout_end(self):
        self.records.append(Record(self.num_timesteps))


class LinkedList(Dies):
    def __init__(self):
        super().__init__()
        self.head = None
        for _ in range(500):
            self.head = [self.head]


def extractor(cls):
    return {"policy_kwargs": {"features_extractor_class": cls}}


@pytest.mark.parametrize(
    "words",
    [
        extractor(CountingExtractor),
        extractor(AveragingExtractor),
        {"policy_kwargs": {"optimizer_class": SkippingOptimizer}},
        {"rollout_buffer_class": ScalingBuffer},
        {"algorithm": Curious},
        {"callback": Freezes},
        {"callback": SetsWhatWasNone},
        {"callback": SetsNumpyNumbers},
        {"callback": LowersTheRate},
        {"callback": HoldsALock},
        {"callback": Nests},
    ],
    ids=lambda words: str(next(iter(words.values()))).rpartition(".")[2].strip("'>}"),
)
def test_state_in_plain_python_is_carried_over_a_kill(tmp_path, capsys, words):
    with dying():
        trained(tmp_path / "killed", **words)
    resumed = trained(tmp_path / "killed", **words)
    said = capsys.readouterr().out
    assert torch.equal(weights(resumed), weights(trained(tmp_path / "twin", **words)))
    assert "timestep=192" in said
    assert "not captured" not in said
    assert "not restored" not in said


def test_what_plain_sb3_will_lack_is_said_once(tmp_path, capsys):
    capture._say_left_out.cache_clear()
    trained(tmp_path, callback=HoldsALock)
    said = [line for line in capsys.readouterr().out.splitlines() if "cannot be pickled" in line]
    assert len(said) == 1
    assert said[0].endswith("will lack it: guard")


@pytest.mark.parametrize(
    ("callback", "gap"),
    [
        (Records, "callback Records.records: test_python_state:Record made during training"),
        (LinkedList, "callback LinkedList.head[0][0]"),
    ],
)
def test_what_cannot_be_carried_is_named_once_a_leg_and_stays_named(tmp_path, capsys, callback, gap):
    """A6: in the first leg, in the one that resumes, and in the metadata; the training goes on with the rest."""
    gap = gap.replace("test_python_state", __name__)
    with dying():
        trained(tmp_path, callback=callback)
    assert capsys.readouterr().out.count(f"not captured: {gap}") == 1
    trained(tmp_path, callback=callback)
    said = capsys.readouterr().out
    assert said.count(f"the checkpoint does not hold {gap}") == 1
    assert f"not restored: {callback.__name__}." in said
    assert gap in (tmp_path / "state_training_metadata.json").read_text()


def test_gaps_are_said_at_the_start_and_not_with_the_first_checkpoint(tmp_path, capsys):
    class Draws(Dies):
        def __init__(self):
            super().__init__()
            self.numbers = iter(range(10))
            self.stream = (n for n in range(10))

    trained(tmp_path, callback=Draws)
    lines = capsys.readouterr().out.splitlines()
    said = next(k for k, line in enumerate(lines) if "not captured: callback Draws.stream" in line)
    assert said < next(k for k, line in enumerate(lines) if "Saved" in line)


def carried(value, live):
    describer, filler = Describer(), Filler()
    encoded = encode(describer.describe(value, "x"))
    description = decode(encoded.document, b"".join(bytes(piece) for piece in encoded.block()))
    return filler.build(description, live, "x"), describer.opaque + filler.problems


class Holder:
    START = np.zeros(3)
    LIMITS: dict = {"low": 0}  # noqa: RUF012 - a constant as people write them

    def __init__(self):
        self.state = self.START
        self.limits = self.LIMITS


def test_a_constant_that_an_attribute_refers_to_stays_as_it_is():
    """`self.state = self.START` is ordinary; filled in place, the constant would change for every later episode."""
    changed = Holder()
    changed.state, changed.limits = np.ones(3), {"low": 5}
    result, problems = carried(changed, Holder())
    assert problems == []
    assert result.state.tolist() == [1, 1, 1]
    assert result.limits == {"low": 5}
    assert Holder.START.tolist() == [0, 0, 0]
    assert Holder.LIMITS == {"low": 0}


@dataclasses.dataclass(frozen=True)
class Setting:
    value: int


DEFAULT = Setting(1)


def test_a_frozen_object_is_not_changed_in_place():
    box, live = Holder(), Holder()
    box.setting, live.setting = Setting(7), DEFAULT
    result, problems = carried(box, live)
    assert (result.setting, DEFAULT, problems) == (Setting(7), Setting(1), [])


@pytest.mark.parametrize("factory", [int, list, dict, None])
def test_a_default_dictionary_made_anew_has_its_factory(factory):
    value = collections.defaultdict(factory, {1: 2})
    result, problems = carried([value], [])
    assert problems == []
    assert (result[0], result[0].default_factory) == (value, factory)


def test_one_odd_value_does_not_cost_the_rest():
    deep = None
    for _ in range(2_000):
        deep = {"next": deep}
    thing, live = Holder(), Holder()
    thing.deep, thing.sparse, thing.plain = deep, torch.eye(3).to_sparse(), 5
    live.deep = live.sparse = live.plain = None
    result, problems = carried(thing, live)
    assert result.plain == 5
    assert {text.partition(":")[0].partition("[")[0] for text in problems} == {"x.deep", "x.sparse"}
