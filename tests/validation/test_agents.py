"""Agents of comparisons: what is loaded, what is the same agent, and what they do in the simulator."""

import dataclasses
import io
import json
import zipfile

import gymnasium
import numpy as np
import pytest

import unbroken
import unbroken.envs
from unbroken.cache import ResultCache
from unbroken.config import build_config
from unbroken.errors import ConfigurationError, DamagedFile
from unbroken.validation.agents import Agent, AgentSpec, NotThatAgent, collect, obtain, require_judgeable, run_names
from unbroken.validation.results import Curve
from unbroken.validation.traffic_arms import agent_player
from unbroken.validation.traffic_inputs import Described

TARGETS = ("traffic_light_control", "ramp_metering", "adaptive_speed_control")


def untrained(target, algo="ppo", seed=3):
    """An agent with the weights that a plain SB3 model begins with."""
    spec = AgentSpec(target, {"target": target, "algo": algo, "seed": seed})
    return Agent(spec, plain_zip(target, algo, seed), 0, Curve(seed, (), (), ()), False)


def plain_zip(target, algo="ppo", seed=3):
    from unbroken.learners.building import algorithm_class

    env = gymnasium.make(f"unbroken/{target}-v0" if target in TARGETS else target)
    policy = "MlpLstmPolicy" if algo == "recurrent_ppo" else "MlpPolicy"
    model = algorithm_class(algo)(policy, env, seed=seed, device="cpu")
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def play(agent, tmp_path, measured, name):
    described = Described.read(agent.spec.config.target)
    horizon = dataclasses.replace(described.scenario.horizon, measured=measured)
    return agent_player(described, agent, horizon, "total_delay").play(ResultCache(tmp_path / name), 7)


@pytest.mark.parametrize(
    ("target", "algo"), [*((target, "ppo") for target in TARGETS), ("ramp_metering", "recurrent_ppo")]
)
def test_an_agents_episode_goes_on_from_a_shorter_one_bit_for_bit(tmp_path, target, algo):
    """D2: extended and whole are the same bits, what the task and the policy remember included; a shorter one is a prefix."""
    agent = untrained(target, algo)
    short, short_rows = play(agent, tmp_path, 300.0, "one")
    extended, rows = play(agent, tmp_path, 600.0, "one")
    whole, whole_rows = play(agent, tmp_path, 600.0, "two")
    again, _ = play(agent, tmp_path, 300.0, "two")
    assert extended == whole
    assert again == short
    for name, values in rows.items():
        assert np.array_equal(values, whole_rows[name]), name
        assert np.array_equal(values[:20], short_rows[name][:20]), name


def test_an_agent_does_in_the_simulator_what_it_does_in_its_environment(tmp_path):
    """C3: the player and the Gymnasium environment agree on the same demand, decision by decision."""
    from unbroken.validation.policies import loaded_policy

    agent = untrained("adaptive_speed_control")
    _, rows = play(agent, tmp_path, 600.0, "cache")
    env = gymnasium.make("unbroken/adaptive_speed_control-v0", measured=600.0)
    policy = loaded_policy(agent)
    observation, _ = env.reset()
    env.unwrapped.task.begin([np.random.default_rng(7)])
    start = env.unwrapped.task.simulation.time_spent()[0]
    observation = env.unwrapped.task.observe()[0]
    for k in range(40):
        observation, *_ = env.step(policy.act(observation[None])[0])
        spent = env.unwrapped.task.simulation.time_spent()[0] - start
        assert np.allclose(rows["spent"][k], spent, rtol=1e-12)


def test_nothing_of_a_models_zip_is_unpickled(tmp_path):
    """Promise 6: only the weights are read, and as tensors."""
    from unbroken.learners.policies import TrainedPolicy, weights_digest

    content = plain_zip("CartPole-v1")
    hostile = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(hostile, "w") as new:
        for name in old.namelist():
            payload = b"cos\nsystem\n(S'touch " + str(tmp_path / "hacked").encode() + b"'\ntR."
            new.writestr(name, old.read(name) if name == "policy.pth" else payload)
    config = build_config({"target": "CartPole-v1"})
    policy = TrainedPolicy(config, hostile.getvalue())
    assert weights_digest(hostile.getvalue()) == weights_digest(content)
    assert policy.act(np.zeros((1, 4), dtype=np.float32)).shape == (1,)
    assert not (tmp_path / "hacked").exists()
    with pytest.raises(DamagedFile, match="do not fit"):
        TrainedPolicy(build_config({"target": "Acrobot-v1"}), content)
    with pytest.raises(DamagedFile, match="no weights"):
        TrainedPolicy(config, content[: len(content) // 2])
    with pytest.raises(DamagedFile, match="lacks the statistics"):
        TrainedPolicy(build_config({"target": "CartPole-v1", "environment": {"normalize": {}}}), content)
    for words in ({"algo": "ppo-torch"}, {"environment": {"frame_stack": 2}}):
        with pytest.raises(ConfigurationError, match=r"not yet ppo-torch|frame_stack cannot"):
            require_judgeable(build_config({"target": "CartPole-v1", **words}))


def test_a_model_for_use_brings_the_statistics_of_its_observations(tmp_path):
    """C3, A2: the best model of a training with normalised observations acts as it did there, and SB3 still reads it."""
    from stable_baselines3 import PPO

    from unbroken.learners.policies import TrainedPolicy, weights_digest

    settings = {"environment.normalize": {}, "hyperparameters.n_steps": 64, "self_test": False}
    unbroken.train("CartPole-v1", runs_dir=str(tmp_path), run="normal", steps=128, settings=settings)
    path = tmp_path / "normal" / "best_model" / "best_model.zip"
    with zipfile.ZipFile(path) as archive:
        statistics = json.loads(archive.read("exact/normalization.json"))["observations"]
    model = PPO.load(path, device="cpu")
    policy = TrainedPolicy(build_config({"target": "CartPole-v1", "environment": {"normalize": {}}}), path.read_bytes())
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    normal = (observations - np.array(statistics["mean"])) / np.sqrt(np.array(statistics["var"]) + 1e-8)
    expected = model.predict(np.clip(normal, -10, 10).astype(np.float32), deterministic=True)[0]
    assert np.array_equal(policy.act(observations), expected)
    assert not np.array_equal(model.predict(observations, deterministic=True)[0], expected)
    final = (tmp_path / "normal" / "CartPole-v1_final.zip").read_bytes()
    assert path.read_bytes() != final
    assert weights_digest(path.read_bytes()) == weights_digest(final)


def spec_of(**more):
    hyperparameters = {"n_steps": 64, "n_epochs": 1}
    return AgentSpec(
        "poles", {"target": "CartPole-v1", "total_timesteps": 128, "hyperparameters": hyperparameters, **more}
    )


def train_here(runs):
    def train(spec, run):
        unbroken.train(
            config=None, run=run, runs_dir=str(runs), steps=spec.config.total_timesteps, settings=spec.config.plain()
        )

    return train


def test_an_agent_is_its_configuration_and_its_lineage(tmp_path):
    """D3: another configuration is another key and another run; a run that changed on the way is never taken for a clean one."""
    from unbroken.folder import RunFolder

    runs, cache, trained = tmp_path / "runs", ResultCache(tmp_path / "cache"), []

    def train(spec, run):
        trained.append(run)
        train_here(runs)(spec, run)

    def wanted(spec):
        return obtain(cache, spec, runs, run_names([spec], runs)[spec.inputs.fingerprint], train)

    spec, other = spec_of(), spec_of(evaluation={"episodes": 2})
    assert not wanted(spec).from_cache
    assert wanted(spec).from_cache
    wanted(other)
    first, second = (f"CartPole-v1-ppo-seed0-{one.inputs.short}" for one in (spec, other))
    assert trained == [first, second]

    changed = {"hyperparameters.learning_rate": 1e-4}
    unbroken.train(run=first, runs_dir=str(runs), steps=256, settings=changed)
    mixed = spec_of(total_timesteps=256, hyperparameters={"n_steps": 64, "n_epochs": 1, "learning_rate": 1e-4})
    with pytest.raises(NotThatAgent, match="changed on the way"):
        collect(mixed, RunFolder(runs, first))
    wanted(mixed)
    assert trained[2] == f"CartPole-v1-ppo-seed0-{mixed.inputs.short}" != first


def test_only_a_run_that_knows_all_its_code_is_taken_over(tmp_path, monkeypatch):
    """D3: of our environments the user's own run is used, if it is that training; two specs never share a run."""
    ours = [
        AgentSpec(name, {"target": "ramp_metering", "total_timesteps": steps}) for name, steps in (("a", 1), ("b", 2))
    ]
    names = run_names(ours, tmp_path)
    assert names[ours[0].inputs.fingerprint] == "ramp_metering-ppo-seed0"
    assert names[ours[1].inputs.fingerprint] == f"ramp_metering-ppo-seed0-{ours[1].inputs.short}"
    (tmp_path / "my_extractor.py").write_text("class Extractor:\n    pass\n")
    (tmp_path / "data.txt").write_text("1")
    monkeypatch.syspath_prepend(tmp_path)
    spec = spec_of(
        hyperparameters={"policy_kwargs": {"features_extractor_class": "my_extractor:Extractor"}},
        environment={"kwargs": {"path": str(tmp_path / "data.txt")}},
    )
    assert {"my_extractor.py", "file of path"} <= {*spec.inputs.sources}


def test_only_our_own_environments_are_ours():
    from unbroken.fingerprint import traffic_scenario

    ours = ("ramp_metering", "unbroken/ramp_metering-v0", "unbroken.envs:unbroken/ramp_metering-v0")
    assert {traffic_scenario(target) for target in ours} == {"ramp_metering"}
    assert traffic_scenario("my_module:ramp_metering") is traffic_scenario("CartPole-v1") is None
