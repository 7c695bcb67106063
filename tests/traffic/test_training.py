"""C2, A5, A6: `unbroken train` on our scenarios starts with their defaults, and a killed training ends with the same bits."""

import json

import pytest
import yaml

from unbroken.inspection import compare
from unbroken.testing.child import TrainingProcess
from unbroken.traffic.registration import ENVIRONMENTS

SMALL = ["--set", "environment.kwargs.measured=300", "--n-envs", "2", "--set", "hyperparameters.n_steps=20"]
SMALL += ["--set", "hyperparameters.batch_size=40", "--eval-every", "160", "--eval-episodes", "1", "--save-every", "80"]


def arguments(name, *more):
    return ["-m", "unbroken", "train", name, *SMALL, "--steps", "480", *more]


def trained(name, folder):
    with TrainingProcess(arguments(name), folder=folder) as training:
        assert training.wait(300) == 0, "\n".join(training.lines[-20:])


QUICK = "ramp_metering"
CELLS = [name if name == QUICK else pytest.param(name, marks=pytest.mark.full) for name in ENVIRONMENTS]


@pytest.mark.parametrize("name", CELLS)
def test_a_killed_training_ends_with_the_bits_of_an_undisturbed_one(name, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    trained(name, whole)
    with TrainingProcess(arguments(name), folder=broken) as training:
        assert training.wait_for("checkpoint_160_steps.zip", 300)
        training.kill()
    trained(name, broken)
    run = f"runs/{name}-ppo-seed0/checkpoints/{name}_checkpoint_480_steps.zip"
    assert compare(tmp_path, str(whole / run), str(broken / run)).identical
    metrics = [
        (folder / f"runs/{name}-ppo-seed0/logs/metrics.jsonl").read_text().splitlines() for folder in (whole, broken)
    ]
    times = ("time/", "elapsed", "fps")
    rows = [
        [{k: v for k, v in json.loads(line).items() if not k.startswith(times)} for line in lines] for lines in metrics
    ]
    assert rows[0] == rows[1]


def test_defaults_of_a_scenario_give_way_to_what_is_said(tmp_path):
    with TrainingProcess(arguments("ramp_metering"), folder=tmp_path) as training:
        assert training.wait(300) == 0
    config = yaml.safe_load((tmp_path / "runs/ramp_metering-ppo-seed0/run.yaml").read_text())["config"]
    assert config["environment"]["n_envs"] == 2
    assert config["hyperparameters"]["n_steps"] == 20
    assert config["hyperparameters"]["gae_lambda"] == 1.0
    assert config["total_timesteps"] == 480
    assert config["environment"]["normalize"]["norm_obs"] is False


def test_without_steps_a_scenario_trains_to_the_target_it_began_with(tmp_path):
    name = "ramp_metering"
    stored = tmp_path / f"runs/{name}-ppo-seed0/run.yaml"

    def begin_and_kill(step):
        with TrainingProcess(["-m", "unbroken", "train", name, *SMALL], folder=tmp_path) as training:
            assert training.wait_for(f"checkpoint_{step}_steps.zip", 300)
            training.kill()
        return yaml.safe_load(stored.read_text())

    begin_and_kill(160)
    found = begin_and_kill(320)
    assert found["config"]["total_timesteps"] == 614_400
    del found["default_target"]  # as of a run begun when scenarios had none of their own
    stored.write_text(yaml.safe_dump(found))
    assert begin_and_kill(480)["config"]["total_timesteps"] == 100_000


def test_a_fork_without_steps_has_the_default_target_that_its_parent_began_with(tmp_path):
    name = "ramp_metering"
    with TrainingProcess(["-m", "unbroken", "train", name, *SMALL, "--steps", "160"], folder=tmp_path) as training:
        assert training.wait(300) == 0
    parents = tmp_path / f"runs/{name}-ppo-seed0/run.yaml"
    begun = yaml.safe_load(parents.read_text())
    assert begun["default_target"] == 614_400
    parents.write_text(yaml.safe_dump({**begun, "default_target": 480_000}))  # as if another version had begun it
    fork = ["-m", "unbroken", "train", "--checkpoint", f"{name}-ppo-seed0@160"]
    with TrainingProcess(fork, folder=tmp_path) as training:
        assert training.wait_for("checkpoint_320_steps.zip", 300)
        training.kill()
    stored = yaml.safe_load((tmp_path / f"runs/{name}-ppo-seed0-fork-160/run.yaml").read_text())
    assert stored["default_target"] == stored["config"]["total_timesteps"] == 480_000


def test_other_algorithms_and_other_targets_keep_their_own():
    from unbroken.defaults import scenario_defaults

    assert scenario_defaults({"target": "CartPole-v1"}) == {}
    assert scenario_defaults({"target": "ramp_metering", "algo": "a2c"}) == {}
    assert (
        scenario_defaults({"target": "unbroken/ramp_metering-v0"})
        == scenario_defaults({"target": "ramp_metering"})
        == scenario_defaults({"target": "ramp_metering", "algo": "PPO"})
        != {}
    )


def test_a_training_of_a_scenario_has_its_own_target():
    from unbroken.config import DEFAULT_TARGET
    from unbroken.defaults import scenario_defaults

    for name in ENVIRONMENTS:
        own = scenario_defaults({"target": name})
        assert own["total_timesteps"] > DEFAULT_TARGET
        assert own["total_timesteps"] % (own["environment"]["n_envs"] * own["hyperparameters"]["n_steps"]) == 0
