"""No code runs because a checkpoint names it (architecture, promise 6)."""

import pytest

from unbroken.errors import UsageError
from unbroken.trust import code_named, require_said

EVIL = {"target": "subprocess:check_call", "environment": {"kwargs": {"args": ["touch", "PWNED"]}}}


def test_every_place_that_names_code_is_found():
    config = {
        "target": "package.module:Env",
        "callbacks": ["os:abort"],
        "hyperparameters": {"learning_rate": "schedules:cosine", "policy_kwargs": {"activation_fn": "torch.nn:Mish"}},
    }
    assert code_named(config) == {
        "target": "package.module:Env",
        "callbacks.0": "os:abort",
        "hyperparameters.learning_rate": "schedules:cosine",
        "hyperparameters.policy_kwargs.activation_fn": "torch.nn:Mish",
    }


@pytest.mark.parametrize("target", ["CartPole-v1", "ALE/Pong-v5"])
def test_registered_environments_need_nobodys_word(target):
    require_said({"target": target, "callbacks": [], "hyperparameters": {"learning_rate": "lin_3e-4"}}, "x.zip")


def test_code_that_the_user_did_not_name_is_refused():
    with pytest.raises(UsageError, match=r"names code to run \(target: subprocess:check_call\)"):
        require_said(EVIL, "x.zip", {}, {"target": "CartPole-v1"})
    require_said(EVIL, "x.zip", {}, {"target": "subprocess:check_call"})
