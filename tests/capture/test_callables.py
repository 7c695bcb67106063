"""Schedules with state of their own end where an undisturbed training's do; what is hidden is named (A6)."""

import functools

import numpy as np
import pytest
import torch
from dying import Dies, dying, trained, weights
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

calls_made = 0


class Decaying:
    """Falls with each call by a rate and a noise of its own; `start` is configuration."""

    def __init__(self, start):
        self.start = start
        self.calls = 0
        self.noise = np.random.default_rng(3)

    def __call__(self, progress):
        self.calls += 1
        return self.start / self.calls * self.noise.uniform(0.5, 1.0)

    def method(self, progress):
        return self(progress)


def over_variables(start):
    """A closure that counts in a variable and remembers in a list."""
    count, past = 0, []

    def schedule(progress):
        nonlocal count
        count += 1
        past.append(progress)
        return start / count / len(past)

    return schedule


def counting_globally(progress):
    global calls_made
    calls_made += 1
    return 3e-4


class AssignsGlobally(Dies):
    def _on_rollout_start(self):
        global calls_made
        calls_made += 1


class Replaces(Dies):
    """Puts another schedule where the configured one is, in the second rollout."""

    def __init__(self, new):
        super().__init__()
        self._new = new

    def _on_rollout_end(self):
        if self.num_timesteps == 128:
            self.model.lr_schedule = self._new


def bound():
    return Decaying(1e-2).method


@pytest.mark.parametrize("make", [functools.partial(Decaying, 1e-2), functools.partial(over_variables, 1e-2), bound])
def test_a_schedule_with_state_goes_on_where_it_was(tmp_path, make):
    with dying():
        trained(tmp_path / "killed", learning_rate=make())
    resumed = trained(tmp_path / "killed", learning_rate=make())
    undisturbed = trained(tmp_path / "twin", learning_rate=make())
    assert torch.equal(weights(resumed), weights(undisturbed))


def test_what_the_configuration_gave_a_schedule_wins(tmp_path):
    """A8: a constant inside a closure or an object is configuration; only what training changed is state."""
    with dying():
        trained(tmp_path / "killed", learning_rate=Decaying(1e-2))
    resumed = trained(tmp_path / "killed", learning_rate=Decaying(5e-3)).lr_schedule.value_schedule
    undisturbed = trained(tmp_path / "twin", learning_rate=Decaying(1e-2)).lr_schedule.value_schedule
    assert (resumed.start, resumed.calls) == (5e-3, undisturbed.calls)


@pytest.mark.parametrize("kind", [Dies, lambda: Replaces(FloatSchedule(LinearSchedule(1e-2, 5e-3, 1.0)))])
def test_a_replaced_schedule_of_the_same_kind_is_state(tmp_path, kind):
    make = functools.partial(LinearSchedule, 1e-3, 5e-4, 1.0)
    with dying():
        trained(tmp_path / "killed", learning_rate=make(), callback=kind)
    resumed = trained(tmp_path / "killed", learning_rate=make(), callback=kind)
    undisturbed = trained(tmp_path / "twin", learning_rate=make(), callback=kind)
    assert torch.equal(weights(resumed), weights(undisturbed))


def test_a_schedule_of_another_kind_is_named(tmp_path, capsys):
    """A6: what cannot be brought back is said, once."""
    trained(tmp_path, learning_rate=3e-4, callback=lambda: Replaces(lambda progress: 1e-5))
    out = capsys.readouterr().out
    assert out.count("not captured: model.lr_schedule") == 1
    assert "in the place of stable_baselines3.common.utils:ConstantSchedule" in out


def test_globals_that_code_assigns_are_named(tmp_path, capsys):
    trained(tmp_path, learning_rate=counting_globally, callback=AssignsGlobally)
    out = capsys.readouterr().out
    assert out.count("not captured: model.learning_rate: assigns the global calls_made") == 1
    assert out.count(f"not captured: callbacks: global {__name__}.calls_made") == 1


def test_constant_schedules_are_not_state(tmp_path, capsys):
    """The usual `linear_schedule(initial_value)` of SB3's guide leaves nothing to say and nothing to restore."""

    def linear_schedule(initial):
        def schedule(progress):
            return progress * initial

        return schedule

    with dying():
        trained(tmp_path, learning_rate=linear_schedule(1e-2))
    trained(tmp_path, learning_rate=linear_schedule(1e-3))
    assert "not captured" not in capsys.readouterr().out
