"""The PPO in plain PyTorch (A14): its arithmetic against numbers worked out by hand, and that it learns."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from unbroken.errors import UsageError
from unbroken.learners.ppo import (
    PPO,
    Actor,
    Copies,
    FlatAdam,
    NumpyPolicy,
    PPOSettings,
    generalized_advantages,
    network,
)


def column(*values):
    return np.array(values, np.float64)[:, None]


def test_advantages_by_hand():
    """A14: gamma 0.5, lambda 0.5; three steps, none ends. delta = r + 0.5 V' - V, A_t = delta_t + 0.25 A_(t+1)."""
    found = generalized_advantages(
        column(1, 2, 3), column(2, 4, 6), column(4, 6, 8), np.zeros((3, 1), bool), gamma=0.5, gae_lambda=0.5
    )
    # deltas 1, 1, 1: A_2 = 1, A_1 = 1.25, A_0 = 1.3125
    np.testing.assert_array_equal(found, column(1.3125, 1.25, 1))


def test_nothing_flows_back_over_the_end_of_an_episode():
    """A14: a terminal state has no value; after a truncation the last observation's value counts, and stops there as well."""
    ended = np.array([[True, False], [False, True]])
    rewards, values = np.array([[1.0, 1.0], [4.0, 2.0]]), np.array([[3.0, 1.0], [2.0, 2.0]])
    next_values = np.array([[0.0, 2.0], [10.0, 6.0]])
    found = generalized_advantages(rewards, values, next_values, ended, gamma=0.5, gae_lambda=1.0)
    # copy 0: 1 - 3 = -2 (terminal), then 4 + 5 - 2 = 7; copy 1: 2 + 3 - 2 = 3 (truncated), then 1 + 1 - 1 + 0.5 * 3 = 2.5
    np.testing.assert_array_equal(found, [[-2.0, 2.5], [7.0, 3.0]])


def test_lambda_one_gives_discounted_returns():
    """A14: A + V is then the discounted sum of rewards."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(5, 2)), rng.normal(size=(6, 2))
    found = generalized_advantages(rewards, values[:-1], values[1:], np.zeros((5, 2), bool), 0.9, 1.0)
    discounts = 0.9 ** np.arange(5)[:, None]
    np.testing.assert_allclose(found[0] + values[0], (discounts * rewards).sum(0) + 0.9**5 * values[5])


class Corridor(gymnasium.Env):
    """Three cells, one goal; an episode is cut off after `limit` steps. Small enough to be followed by hand."""

    def __init__(self, limit=3):
        self.observation_space = spaces.Discrete(4)
        self.action_space = spaces.Discrete(2, start=5)
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.age = 0, 0
        return self.cell, {}

    def step(self, action):
        assert action in (5, 6)
        assert isinstance(action, int)
        self.age += 1
        self.cell += action == 6
        return self.cell, -1.0, self.cell == 3, self.age >= self.limit, {}


def test_copies_reset_within_the_step_and_give_the_last_observation():
    """A14: what follows a truncated episode is worth V(last observation), which the reset must not have replaced."""
    copies = Copies([Corridor(limit=2), Corridor(limit=9)])
    np.testing.assert_array_equal(copies.observations, [[1, 0, 0, 0], [1, 0, 0, 0]])
    rewards, ended = np.zeros(2, np.float32), np.zeros(2, bool)
    assert copies.step([6, 6], rewards, ended) == []
    np.testing.assert_array_equal(copies.observations, [[0, 1, 0, 0], [0, 1, 0, 0]])
    ((copy, last),) = copies.step([6, 6], rewards, ended)
    assert copy == 0
    np.testing.assert_array_equal(last, [0, 0, 1, 0])
    assert ended.tolist() == [True, False]
    np.testing.assert_array_equal(copies.observations, [[1, 0, 0, 0], [0, 0, 1, 0]])
    # the other copy reaches its goal: no last observation, a terminal state has no value
    assert copies.step([5, 6], rewards, ended) == []
    assert ended.tolist() == [False, True]
    assert copies.finished == [(-2.0, 2), (-3.0, 3)]


def test_a_truncated_step_is_worth_what_follows_it():
    """A14: returns of a rollout, with a critic that is set by hand to V(cell) = 10 * cell."""
    ppo = PPO(Copies([Corridor(limit=2)]), PPOSettings(n_steps=3, gamma=0.5, gae_lambda=0.0, net_arch=()))
    with torch.no_grad():
        ppo.critic[0].weight.copy_(torch.tensor([[0.0, 10.0, 20.0, 30.0]]))
        ppo.actor.net[0].weight.copy_(torch.tensor([[-99.0] * 4, [99.0] * 4]))
    ppo.collect()
    _, returns, values = ppo._advantages()
    assert values.tolist() == [0.0, 10.0, 0.0]
    # -1 + 0.5 * 10; truncated in cell 2: -1 + 0.5 * 20; the next episode's first step again
    assert returns.tolist() == [4.0, 9.0, 4.0]


def test_numpy_and_torch_compute_the_same_policy():
    """A14: acting in numpy, learning in torch."""
    actor = Actor(3, spaces.Discrete(4), (16, 8), torch.Generator().manual_seed(0))
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with torch.no_grad():
        expected = actor.net(torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(NumpyPolicy(actor)(observations), expected, atol=1e-6)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)])
def test_densities_are_those_of_torch(space):
    """A14: log-probability and entropy against torch's own distributions."""
    actor = Actor(3, space, (8,), torch.Generator().manual_seed(1))
    outputs = actor.net(torch.randn(6, 3))
    if actor.discrete:
        theirs = torch.distributions.Categorical(logits=outputs)
        actions = theirs.sample()[:, None]
        expected = theirs.log_prob(actions[:, 0]), theirs.entropy()
    else:
        with torch.no_grad():
            actor.log_std.copy_(torch.tensor([0.3, -0.7]))
        theirs = torch.distributions.Normal(outputs, actor.log_std.exp())
        actions = theirs.sample()
        expected = theirs.log_prob(actions).sum(-1), theirs.entropy().sum(-1)
    torch.testing.assert_close(actor.log_probabilities(outputs, actions), expected[0])
    torch.testing.assert_close(actor.entropy(outputs), expected[1].mean())


def test_gumbel_noise_draws_from_the_softmax():
    """A14: frequencies of 40,000 draws, within four standard deviations."""
    ppo = PPO(Copies([Corridor()] * 1), PPOSettings(n_steps=40_000, net_arch=()))
    logits = np.log(np.array([[0.2, 0.8]], np.float32))
    drawn = (logits + ppo._noise()[:, 0]).argmax(-1)
    assert abs(drawn.mean() - 0.8) < 4 * np.sqrt(0.16 / 40_000)


def test_adam_over_one_vector_is_adam_with_clipping():
    """A14: ten steps beside torch's own, one network with large gradients."""
    ours, theirs = (network([3, 5, 1], 1.0, torch.Generator().manual_seed(0)) for _ in range(2))
    flat = FlatAdam(ours, 0.01, max_grad_norm=0.5)
    adam = torch.optim.Adam(theirs.parameters(), 0.01, eps=1e-5)
    for k in range(10):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(k))
        (ours(x).sum() * 10 ** (k % 3)).backward()
        flat.step(0.01)
        adam.zero_grad()
        (theirs(x).sum() * 10 ** (k % 3)).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        adam.step()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_clipping_stops_the_gradient():
    """A14: beyond 1 + clip_range a good action is not made likelier; a bad one is made unlikelier from anywhere."""
    ppo = PPO(Copies([Corridor()]), PPOSettings(net_arch=(), normalize_advantage=False, clip_range=0.2))
    observations, actions = torch.eye(4)[:1], torch.tensor([[1]])
    now = ppo.actor.log_probabilities(ppo.actor.net(observations), actions).detach()
    for advantage, moves in ((1.0, False), (-1.0, True)):
        policy_loss, _ = ppo._losses(
            observations, actions, now - np.log(1.5), torch.tensor([advantage]), torch.zeros(1)
        )
        ppo.actor.zero_grad(set_to_none=False)
        policy_loss.backward()
        assert bool(ppo.actor.net[0].weight.grad.abs().sum() > 0) is moves


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(3), spaces.Box(0, 5, (2,), np.int64)]
)
def test_other_action_spaces_are_refused(space):
    """A14: with the way out."""
    env = Corridor()
    env.action_space = space
    with pytest.raises(UsageError, match="--algo ppo"):
        PPO(Copies([env]))


@pytest.mark.parametrize("words", [{"n_steps": 0}, {"batch_size": 0}, {"n_epochs": 1.5}])
def test_settings_are_checked(words):
    """A2."""
    with pytest.raises(UsageError, match="at least 1"):
        PPOSettings(**words)


def trained(target, total, copies=8, **words):
    environments = [target() if callable(target) else gymnasium.make(target) for _ in range(copies)]
    ppo = PPO(Copies(environments, seed=1), PPOSettings(**words), seed=1).learn(total)
    ppo.copies.close()
    return float(np.mean(ppo.episode_rewards[:20])), float(np.mean(ppo.episode_rewards[-20:]))


def test_it_learns_cart_pole():
    """A14: from about 20 to at least 300 of 500."""
    first, last = trained("CartPole-v1", 40_960, n_steps=128, batch_size=256, learning_rate=1e-3)
    assert first < 40
    assert last > 300


def test_it_learns_acrobot():
    """A14: from the worst possible, -500, to better than -150."""
    first, last = trained(
        "Acrobot-v1", 81_920, n_steps=256, batch_size=256, learning_rate=1e-3, gamma=0.995, ent_coef=0.01
    )
    assert first < -300
    assert last > -150


class Target(gymnasium.Env):
    """Continuous: move a point to a place that is seen, within twenty steps; the reward is minus the distance."""

    def __init__(self):
        self.observation_space = spaces.Box(-4, 4, (2,), np.float32)
        self.action_space = spaces.Box(-0.5, 0.5, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.places = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        self.age = 0
        return self.places.copy(), {}

    def step(self, action):
        self.age += 1
        self.places[0] = np.clip(self.places[0] + action[0], -4, 4)
        return self.places.copy(), -abs(float(self.places[0] - self.places[1])), False, self.age >= 20, {}


def test_it_learns_continuous_actions():
    """A14: a random walk loses about 20 an episode; straight to the place costs under 3."""
    first, last = trained(Target, 61_440, n_steps=128, batch_size=256, learning_rate=1e-3, gamma=0.9)
    assert first < -12
    assert last > -4
