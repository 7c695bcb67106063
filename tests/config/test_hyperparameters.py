"""Hyper-parameters as people write them, turned into what constructors take (A6, A13)."""

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import FloatSchedule

from unbroken.errors import ConfigurationError
from unbroken.learners.hyperparameters import constructor_arguments, imported


def test_linear_schedules_fall_to_zero_over_the_target():
    """Issue 2, Exactness: learning-rate and clip schedules."""
    made = constructor_arguments(PPO, {"learning_rate": "lin_3e-4", "clip_range": "lin_0.2"}, None)
    schedule = FloatSchedule(made["learning_rate"])
    assert [schedule(left) for left in (1.0, 0.5, 0.0)] == pytest.approx([3e-4, 1.5e-4, 0.0])
    assert made["clip_range"](1.0) == pytest.approx(0.2)


def test_action_noise_of_both_kinds():
    """Issue 2, Exactness: action noise."""
    for kind, cls in (("normal", NormalActionNoise), ("ornstein-uhlenbeck", OrnsteinUhlenbeckActionNoise)):
        noise = constructor_arguments(SAC, {"action_noise": {"type": kind, "sigma": 0.3, "mean": 0.1}}, 2)[
            "action_noise"
        ]
        assert type(noise) is cls
        assert noise._sigma.tolist() == [0.3, 0.3]
        assert noise._mu.tolist() == [0.1, 0.1]
        assert np.shape(noise()) == (2,)
    assert constructor_arguments(SAC, {"action_noise": None}, 2) == {"action_noise": None}


@pytest.mark.parametrize("value", [5, "normal", {}, {"type": "pink"}, {"type": "normal", "sgma": 1}])
def test_bad_action_noise(value):
    """Issue 2, "Errors"."""
    with pytest.raises(ConfigurationError, match="action_noise is"):
        constructor_arguments(SAC, {"action_noise": value}, 2)


def test_noise_needs_continuous_actions():
    """Issue 2, "Errors"."""
    with pytest.raises(ConfigurationError, match="continuous"):
        constructor_arguments(SAC, {"action_noise": {"type": "normal"}}, None)


def test_policy_arguments():
    """Issue 2: activations by torch's name in any case, classes as module:name."""
    made = constructor_arguments(
        PPO, {"policy_kwargs": {"net_arch": [8], "activation_fn": "relu", "optimizer_class": "torch.optim:SGD"}}, None
    )
    assert made["policy_kwargs"] == {
        "net_arch": [8],
        "activation_fn": torch.nn.ReLU,
        "optimizer_class": torch.optim.SGD,
    }
    for value in (5, {"activation_fn": "relo"}):
        with pytest.raises(ConfigurationError):
            constructor_arguments(PPO, {"policy_kwargs": value}, None)


def test_values_that_need_another_type():
    """Issue 2: `[n, unit]` of YAML becomes the tuple that SB3 wants; plain values stay."""
    assert constructor_arguments(DQN, {"train_freq": [1, "episode"], "gamma": 0.9}, None) == {
        "train_freq": (1, "episode"),
        "gamma": 0.9,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("learning_rat", "did you mean 'learning_rate'"),
        ("seed", "set 'seed' instead"),
        ("env", "set 'target' instead"),
        ("policy", "set 'policy' instead"),
        ("verbose", "unbroken sets this itself"),
        ("zzz", "PPO has no hyper-parameter 'zzz'"),
    ],
)
def test_names_that_constructors_lack_or_that_belong_elsewhere(name, expected):
    """Issue 2, "Errors"."""
    with pytest.raises(ConfigurationError, match=expected):
        constructor_arguments(PPO, {name: 1}, None)


@pytest.mark.parametrize("place", ["nowhere:thing", "math:nothing", "math:pi.real.nothing"])
def test_what_cannot_be_imported(place):
    """Issue 2, "Errors"."""
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        imported(place)
    assert imported("math:pi.real") > 3


def test_normalising_below_a_frame_stack_is_refused_where_a_replay_buffer_would_break():
    """A13: SB3 keeps unstacked observations beside stacked ones; the message says so before anything trains."""
    from unbroken.config import build_config
    from unbroken.learners.building import build_environment

    both = {"target": "CartPole-v1", "environment": {"normalize": {}, "frame_stack": 2}}
    with pytest.raises(ConfigurationError, match="cannot have both"):
        build_environment(build_config({**both, "algo": "dqn"}))
    build_environment(build_config({**both, "algo": "ppo"})).close()
