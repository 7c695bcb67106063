"""D5: the cache travels both ways between two machines, over every kind of remote, with real results of both kinds."""

import dataclasses
import os
import shutil
import subprocess

import pytest

import unbroken
from unbroken.cache import ResultCache
from unbroken.cache.travelling import pull, push
from unbroken.remotes.opening import open_remote
from unbroken.testing.kaggle import KaggleService
from unbroken.validation.agents import AgentSpec, obtain
from unbroken.validation.traffic_arms import baseline_player
from unbroken.validation.traffic_inputs import Described

KINDS = ("folder", "git", "git+lfs", "s3", "kaggle-dataset")
LEARNER = {"n_steps": 64, "n_epochs": 1}


def player(name):
    described = Described.read("ramp_metering")
    horizon = dataclasses.replace(described.scenario.horizon, measured=60.0, drain=15.0)
    return baseline_player(described, name, horizon, "total_delay")


def spec(**changed):
    values = {"target": "CartPole-v1", "total_timesteps": 64, "self_test": False, "evaluation": {"episodes": 1}}
    return AgentSpec("poles", {**values, "hyperparameters": {**LEARNER, **changed}})


def train_in(runs):
    def train(wanted, run):
        unbroken.train(run=run, runs_dir=str(runs), settings=wanted.config.plain(), steps=wanted.config.total_timesteps)

    return train


def never(*_):
    raise AssertionError("computed, though it was to be a hit")


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A cache with one baseline and one trained agent."""
    folder = tmp_path_factory.mktemp("computed")
    cache = ResultCache(folder / "cache")
    player("none").play(cache, 1)
    obtain(cache, spec(), folder / "runs", "poles", train_in(folder / "runs"))
    return cache.folder


@pytest.fixture
def address(request, tmp_path, monkeypatch):
    """Where the remote of this kind is, with whatever serves it."""
    kind = request.param
    if kind == "s3":
        yield request.getfixturevalue("s3").url
    elif kind == "kaggle-dataset":
        with KaggleService() as service:
            for name, value in service.environment().items():
                monkeypatch.setenv(name, value)
            yield f"kaggle-dataset:{service.user}/rl-cache"
    elif kind == "folder":
        yield f"folder:{tmp_path / 'share'}"
    else:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "shared.git")], check=True, env=os.environ)
        yield f"{kind}:{tmp_path / 'shared.git'}"


@pytest.mark.parametrize("address", KINDS, indirect=True)
def test_both_ways_a_hit(address, computed, tmp_path):
    """Laptop to machine a hit, machine to laptop a hit; another learner a miss for the agent and a hit for the baseline."""
    laptop, machine = (ResultCache(tmp_path / name / "cache") for name in ("laptop", "machine"))
    shutil.copytree(computed, laptop.folder)

    def remote(name):
        return open_remote(address, workspace=tmp_path / name / "workspace")

    push(laptop.folder, remote("laptop"))
    pulled = pull(machine.folder, remote("machine"))
    assert len(pulled.files) == 3
    assert not pulled.problems
    expected, _ = player("none").play(laptop, 1)
    baseline = dataclasses.replace(player("none"), make=never)
    assert baseline.play(machine, 1)[0] == expected
    assert obtain(machine, spec(), tmp_path / "runs", "poles", never).from_cache

    changed = spec(n_epochs=2)
    assert machine.find(changed.inputs) is None
    assert baseline.play(machine, 1)[0] == expected

    there, _ = player("alinea").play(machine, 1)
    pushed = push(machine.folder, remote("machine"))
    assert len(pushed.files) == 2
    assert pushed.present == 3
    assert len(pull(laptop.folder, remote("laptop")).files) == 2
    assert dataclasses.replace(player("alinea"), make=never).play(laptop, 1)[0] == there
    assert push(laptop.folder, remote("laptop")).files == ()
