"""Policies of trained agents, loaded once in each process; the learners' libraries are imported when the first is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unbroken.validation.agents import Agent

if TYPE_CHECKING:
    from unbroken.learners.policies import TrainedPolicy

_LOADED: dict[str, TrainedPolicy] = {}


def loaded_policy(agent: Agent) -> TrainedPolicy:
    """The agent's policy at the beginning of an episode; the same object again for the next episode in this process."""
    from unbroken.learners.policies import TrainedPolicy

    key = agent.spec.inputs.fingerprint + agent.weights
    if key not in _LOADED:
        _LOADED[key] = TrainedPolicy(agent.spec.config, agent.zip_bytes)
    _LOADED[key].forget()
    return _LOADED[key]
