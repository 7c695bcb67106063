"""No code runs because a checkpoint names it (architecture, promise 6)."""

import sys

import pytest

from unbroken.errors import ConfigurationError, UsageError
from unbroken.learners.hyperparameters import imported
from unbroken.trust import code_named, require_said

EVIL = {"target": "subprocess:check_call", "environment": {"kwargs": {"args": ["touch", "PWNED"]}}}


def test_every_place_that_names_code_is_found():
    config = {
        "target": "package.module:Env",
        "callbacks": ["os:abort", "antigravity"],
        "hyperparameters": {
            "learning_rate": "schedules:cosine",
            "rollout_buffer_class": "antigravity",
            "policy_kwargs": {"activation_fn": "torch.nn:Mish", "optimizer_class": "my-module:X"},
        },
    }
    assert code_named(config) == {
        "target": "package.module:Env",
        "callbacks.0": "os:abort",
        "callbacks.1": "antigravity",
        "hyperparameters.learning_rate": "schedules:cosine",
        "hyperparameters.rollout_buffer_class": "antigravity",
        "hyperparameters.policy_kwargs.activation_fn": "torch.nn:Mish",
        "hyperparameters.policy_kwargs.optimizer_class": "my-module:X",
    }


@pytest.mark.parametrize("target", ["evil_mod:a/b-v0", "evil-mod:Env", "evil_mod:", "ns/evil:Env-v1"])
def test_a_target_that_imports_a_module_names_code_whatever_its_form(target):
    with pytest.raises(UsageError, match="names code to run"):
        require_said({"target": target}, "x.zip", {"target": "CartPole-v1"})


def test_a_name_without_a_module_is_refused_before_it_is_imported():
    for place in ("antigravity", "antigravity:", ":name"):
        with pytest.raises(ConfigurationError, match="write it as module:name"):
            imported(place)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("target", ["CartPole-v1", "ALE/Pong-v5"])
def test_registered_environments_need_nobodys_word(target):
    config = {"target": target, "callbacks": [], "hyperparameters": {"learning_rate": "lin_3e-4"}}
    assert code_named(config) == {}
    require_said(config, "x.zip")
    with pytest.raises(UsageError, match=r"names code to run \(callbacks\.0: os:abort\)"):
        require_said({**config, "callbacks": ["os:abort"]}, "x.zip")


def test_code_that_the_user_did_not_name_is_refused():
    with pytest.raises(UsageError, match=r"names code to run \(target: subprocess:check_call\)"):
        require_said(EVIL, "x.zip", {}, {"target": "CartPole-v1"})
    require_said(EVIL, "x.zip", {}, {"target": "subprocess:check_call"})
