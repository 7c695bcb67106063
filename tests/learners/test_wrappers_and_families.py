"""Wrappers by configuration, and environments whose packages need a hand: Atari's ids, SUMO's home and files (issue 3)."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import make_vec_env

from unbroken.capture.environments import layers
from unbroken.compatibility import Verdict, effective_changes
from unbroken.config import build_config
from unbroken.errors import ConfigurationError, UsageError
from unbroken.learners.building import build_environment
from unbroken.targets import check_target, make_environment
from unbroken.trust import code_named, require_said

ATARI = "stable_baselines3.common.atari_wrappers:AtariWrapper"


def names(env):
    found = [type(layer).__name__ for layer in layers(env)]
    return [name for name in found if name not in ("CaptureWrapper", "ActionRecorder")]


def test_wrappers_lie_where_sb3_puts_them():
    """A6: the layers of a plain script with make_vec_env(..., wrapper_class=...), so Monitor counts raw rewards."""
    section = {"wrappers": [{"class": ATARI, "kwargs": {"noop_max": 5}}]}
    ours = build_environment(build_config({"target": "PongNoFrameskip-v4", "environment": section}))
    plain = make_vec_env("PongNoFrameskip-v4", seed=0, wrapper_class=AtariWrapper, wrapper_kwargs={"noop_max": 5})
    assert names(ours.envs[0]) == names(plain.envs[0])
    assert ours.env_method("get_wrapper_attr", "noop_max") == [5]
    assert (ours.reset() == plain.reset()).all()


def test_the_first_wrapper_is_the_innermost():
    """Issue 3: from the inside out, as one would apply them."""
    places = [f"gymnasium.wrappers:{name}" for name in ("FlattenObservation", "RecordEpisodeStatistics")]
    venv = build_environment(build_config({"target": "CartPole-v1", "environment": {"wrappers": places}}))
    assert names(venv.envs[0])[:2] == ["RecordEpisodeStatistics", "FlattenObservation"]


@pytest.mark.parametrize("bad", ["AtariWrapper", ":x", {"kwargs": {}}, {"class": "a:B", "argumnets": {}}, {"class": 1}])
def test_a_wrapper_is_a_class_in_a_module(bad):
    """Issue 2, "Errors"."""
    with pytest.raises(ConfigurationError, match=r"environment.wrappers: .* is not module:Class"):
        build_config({"target": "CartPole-v1", "environment": {"wrappers": [bad]}})


def test_a_wrapper_that_does_not_take_the_environment_is_named():
    """Issue 2, "Errors"."""
    section = {"wrappers": ["unbroken.wrappers:FreshWorld"]}
    with pytest.raises(ConfigurationError, match="FreshWorld: CartPoleEnv has no attribute world"):
        build_environment(build_config({"target": "CartPole-v1", "environment": section}))


def test_a_wrapper_names_code():
    """Decision 0007: a file cannot name a wrapper by itself; its arguments are values."""
    config = {
        "target": "CartPole-v1",
        "environment": {"wrappers": ["a.b:C", {"class": "d:E", "kwargs": {"x": "os:abort"}}]},
    }
    assert code_named(config) == {"environment.wrappers.0": "a.b:C", "environment.wrappers.1": "d:E"}
    with pytest.raises(UsageError, match=r"--set environment.wrappers=\[a.b:C\]"):
        require_said(config, "x.zip", {"target": "CartPole-v1"})
    require_said(config, "x.zip", config)


def test_other_wrappers_are_another_training_and_none_is_no_change():
    """A8; checkpoints from before wrappers could be configured go on."""
    before = build_config({"target": "CartPole-v1"}).plain()
    now = build_config({"target": "CartPole-v1", "environment": {"wrappers": ["a:B"]}}).plain()
    assert [change.verdict for change in effective_changes(before, now)] == [Verdict.INCOMPATIBLE]
    empty = build_config({"target": "CartPole-v1", "environment": {"wrappers": []}}).plain()
    del before["environment"]["wrappers"]
    assert effective_changes(before, empty) == []


def in_a_fresh_process(code, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in ("SUMO_HOME", "LIBSUMO_AS_TRACI")}
    path = os.pathsep.join([str(Path(__file__).parents[1] / "capture"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**environment, "PYTHONPATH": path, **variables},
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.stdout.decode() + done.stderr.decode()


@pytest.mark.parametrize("target", ["ALE/Pong-v5", "BreakoutNoFrameskip-v4", "ale_py:ALE/Pong-v5"])
def test_atari_ids_need_no_import_by_the_user(target):
    """Issue 3: `unbroken train ALE/Pong-v5` just works."""
    code = (
        f"from unbroken.targets import check_target, make_environment\ncheck_target({target!r})\n"
        f"print(make_environment({target!r}))"
    )
    assert "<AtariEnv<" in in_a_fresh_process(code)


def test_a_missing_package_is_named_by_its_extra():
    """Issue 2, "Errors": exit code 78 and how to install it."""
    code = (
        "import sys\nsys.modules['ale_py'] = None\nfrom unbroken.targets import check_target\n"
        "try:\n    check_target('ALE/Pong-v5')\nexcept ImportError as error:\n    print(error.exit_code, error)"
    )
    assert "78 environment 'ALE/Pong-v5' comes with a package: pip install 'unbroken[atari]'" in in_a_fresh_process(
        code
    )


NETWORK = "{'net_file': 'nets/single-intersection/single-intersection.net.xml', 'route_file': "
NETWORK += "'nets/single-intersection/single-intersection.rou.xml', 'single_agent': True, 'sumo_warnings': False}"


def test_sumo_is_found_with_its_networks():
    """Issue 3: no SUMO_HOME, and files of the package by their place in it."""
    code = (
        "from unbroken.targets import check_target, make_environment\ncheck_target('sumo_rl:sumo-rl-v0')\n"
        f"env = make_environment('sumo_rl:sumo-rl-v0', {NETWORK})\nprint(env.action_space)\nenv.close()"
    )
    assert "Discrete(2)" in in_a_fresh_process(code, LIBSUMO_AS_TRACI="1")


def test_copies_that_would_share_one_simulation_are_refused_and_evaluation_has_a_process():
    """A6: libsumo is one simulation per process, and a second one silently takes the first one's place."""
    code = (
        "from unbroken.config import build_config\nfrom unbroken.learners.building import build_environment\n"
        "def config(n): return build_config({'target': 'sumo_rl:sumo-rl-v0', 'environment': {'n_envs': n, "
        f"'kwargs': {NETWORK}}}}})\n"
        "try:\n    build_environment(config(2))\nexcept ValueError as error:\n    print('REFUSED', error)\n"
        "print('TRAINING', type(build_environment(config(1))).__name__)\n"
        "evaluation = build_environment(config(1), evaluation=True)\n"
        "print('EVALUATION', type(evaluation).__name__)\nevaluation.close()"
    )
    found = in_a_fresh_process(f"if __name__ == '__main__':\n    exec({code!r})", LIBSUMO_AS_TRACI="1")
    assert "REFUSED sumo_rl:sumo-rl-v0 uses a simulator that runs once per process" in found
    assert "TRAINING DummyVecEnv" in found
    assert "EVALUATION SubprocVecEnv" in found


def test_an_id_inside_a_module_passes_the_check_before_it_is_made():
    """Issue 2: Gymnasium's own `module:EnvId`."""
    check_target("gymnasium.envs.classic_control:CartPole-v1")
    assert isinstance(make_environment("gymnasium.envs.classic_control:CartPole-v1"), gymnasium.Env)
