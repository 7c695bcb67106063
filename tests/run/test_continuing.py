"""Starting, continuing, adding, forking, refusing: what the same command does the next time (A2 to A5, A8, A9, A12, A13, A16)."""

import ast
import builtins
import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest

import unbroken
from unbroken.errors import ConfigurationError, IncompatibleRun, NotFound, UsageError
from unbroken.inspection import compare
from unbroken.store.checkpoint_file import CheckpointFile, write_checkpoint
from unbroken.store.durable import LocalBackend

_conftest = sys.modules[next(name for name in sys.modules if name.endswith("run.conftest"))]
Killed, StopsHere = _conftest.Killed, _conftest.StopsHere
RUN = "CartPole-v1-ppo-seed0"
SOURCE = Path(unbroken.__file__).parent


def assert_clean_lineage(training):
    """The sequence of targets is recorded too; it does not make a lineage mixed."""
    assert [entry for entry in training.metadata()["lineage"] if entry["field"] != "total_timesteps"] == []


# A4, A5: targets


def test_the_target_is_the_total_and_never_more(training):
    """A4, user pain 8: 320 then 640 ends at 640, not at 960; asking again does nothing and says so."""
    assert training(steps=320).step == 320
    assert training(steps=640).step == 640
    before = {
        name: content for name, content in training.files().items() if not name.startswith(("logs/run.log", ".lock"))
    }
    again = training(steps=640)
    assert (again.step, again.exit_code, again.reason) == (640, 0, "target reached before")
    assert "Target reached: 640 of 640 steps are done; nothing to do" in training.out
    assert {n: c for n, c in training.files().items() if n in before} == before
    assert training(steps=100).step == 640


def test_the_end_is_the_first_cut_at_or_after_the_target(training):
    """A4: a target between cuts."""
    assert training(steps=300).step == 320
    assert training(steps=320).reason == "target reached before"


def test_more_adds_each_time(training):
    """A4: `--more` twice adds twice, from where the run is."""
    assert training(steps=128).step == 128
    assert training(more=128).step == 256
    assert training(more=128).step == 384
    assert training.metadata()["target_timesteps"] == 384


def test_more_after_an_interruption_continues_instead_of_adding_again(training):
    """A4, architecture "Continuing": the target of `--more` is recorded before training."""
    training(steps=128)
    training(more=384, dies_at=400)
    assert training.checkpoints()[-1] == 384
    assert training(more=384).step == 512
    assert training(more=64).step == 576


@pytest.mark.parametrize(
    "place",
    ["unbroken.exports.Exports.say_reached", "unbroken.resolving.Resolved.fulfil_promise"],
)
def test_more_killed_after_its_last_checkpoint_does_not_add_again(training, monkeypatch, place):
    """A4, A5: what was promised is on disk, and its command has not said so yet."""

    def dies(*_):
        raise Killed

    training(steps=128)
    with monkeypatch.context() as patch:
        patch.setattr(place, dies)
        with pytest.raises(Killed):
            training(more=128)
    assert training.checkpoints()[-1] == 256
    again = training(more=128)
    assert (again.step, again.exit_code) == (256, 0)
    assert "Target reached: 256 of 256 steps are done; nothing to do" in training.out
    assert training(more=128).step == 384
    assert training(more=128).step == 512


def test_a_changed_more_after_an_interruption_is_a_new_wish(training):
    """A4: another number adds to what is there."""
    training(steps=128)
    training(more=384, dies_at=400)
    assert training(more=64).step == 448


def test_more_on_a_new_run_counts_from_zero(training):
    """A4."""
    assert training(more=128).step == 128


def test_quick_then_full_continues_from_the_quick_run(training, monkeypatch):
    """A5: a quick run changes the target and nothing else."""
    monkeypatch.setattr("unbroken.request.QUICK_TARGET", 128)
    assert training(quick=True).step == 128
    full = training(steps=256)
    assert full.step == 256
    assert "Resume: timestep=128" in training.out
    assert [leg["from_step"] for leg in training.metadata()["legs"]] == [0, 128]
    assert_clean_lineage(training)


def test_a_hundred_steps_leave_something_to_resume_from(training):
    """A5: far below the save interval."""
    training(steps=100, save_every=10_000)
    assert training.checkpoints() == [128]
    training(steps=200, save_every=10_000)
    assert "Resume: timestep=128" in training.out


def test_an_interrupted_run_ends_with_the_bits_of_an_undisturbed_one(training):
    """A6, user pains 1 and 2: killed beyond its last checkpoint, killed again, then continued."""
    words = {"eval_every": 192, "eval_episodes": 2}
    training(steps=640, run="twin", **words)
    training(steps=640, run="hurt", dies_at=300, **words)
    training(steps=640, run="hurt", dies_at=555, **words)
    training(steps=640, run="hurt", **words)
    compared = compare(training.runs, "twin", "hurt")
    assert compared.identical, compared.text()
    assert compared.leaves > 100
    assert len(training.metadata("hurt")["legs"]) == 3


def test_what_a_callback_changes_in_the_model_is_state(training):
    """A6: an annealed entropy coefficient is carried over a kill, though the constructor is given another."""
    words = {"settings": {"callbacks": [f"{StopsHere.__module__}:{name}" for name in ("Anneals", "StopsHere")]}}
    training(steps=640, run="twin", **words)
    training(steps=640, run="hurt", dies_at=555, **words)
    training(steps=640, run="hurt", **words)
    assert "WARNING" not in training.out
    compared = compare(training.runs, "twin", "hurt")
    assert compared.identical, compared.text()


def test_a_deadline_stops_with_a_checkpoint_and_says_run_me_again(training):
    """A11: exit code 75 and a rolling checkpoint; the same command then goes on."""
    stopped = training(steps=100_000, deadline="2s")
    assert stopped.exit_code == 75
    assert "Stopping at step" in training.out
    assert "the deadline is near" in training.out
    assert "run the same command again to continue" in training.out
    assert training.checkpoints()[-1] == stopped.step < 100_000
    assert training(steps=stopped.step + 64).step == stopped.step + 64


# A2, A3: what lies in the folder


def test_three_tiers_under_their_names(training):
    """A2: rolling (newest 2), best, final; nothing else in checkpoints/."""
    training(steps=512, eval_every=256, eval_episodes=1)
    names = sorted(name for name in training.files() if name.endswith(".zip"))
    assert names == [
        "CartPole-v1_final.zip",
        "best_model/best_model.zip",
        "checkpoints/CartPole-v1_checkpoint_384_steps.zip",
        "checkpoints/CartPole-v1_checkpoint_512_steps.zip",
    ]
    score = json.loads(training.files()["best_model/best_model.json"])
    assert set(score) == {"score", "step"}
    assert score["step"] in (256, 512)


def test_the_metadata_has_the_keys_that_scripts_read(training):
    """A3: names, shapes, and the legs growing."""
    training(steps=128)
    found = training.metadata()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["timestamp"])
    assert found["total_timesteps_completed"] == 128
    assert isinstance(found["mean_reward"], float)
    assert found["observation_space_shape"] == [4]
    assert found["action_space_shape"] == []
    assert found["policy_architecture"]["mlp_extractor.policy_net.0.weight"] == [64, 4]
    assert (found["run"], found["scenario"], found["algorithm"]) == (RUN, "CartPole-v1", "PPO")
    assert found["hyperparameters"]["n_steps"] == 64
    assert (found["seed"], found["target_timesteps"], found["target_reached"]) == (0, 128, True)
    assert {"python", "torch", "stable_baselines3"} <= set(found["versions"])
    assert (found["parent_checkpoint"], found["lineage"]) == (None, [])
    assert [(leg["leg"], leg["from_step"], leg["to_step"]) for leg in found["legs"]] == [(1, 0, 128)]
    training(steps=256)
    legs = training.metadata()["legs"]
    assert [(leg["leg"], leg["from_step"], leg["to_step"]) for leg in legs] == [(1, 0, 128), (2, 128, 256)]
    assert all({"machine", "pid", "started", "system"} <= set(leg) for leg in legs)


def test_a_final_model_that_could_not_be_written_is_made_by_the_same_command(training):
    """A2, A10: the final model is missing, or of an earlier target."""
    training(steps=128)
    final = training.folder() / "CartPole-v1_final.zip"
    final.unlink()
    assert training(steps=128).reason == "target reached before"
    assert final.is_file()
    training(steps=640, dies_at=320)
    training(steps=200)
    with CheckpointFile(LocalBackend(training.folder()), "CartPole-v1_final.zip") as file:
        file.verify()
        assert file.manifest["step"] == 256


def test_plain_stable_baselines3_reads_every_tier(training):
    """A13: a normal SB3 zip, without unbroken."""
    from stable_baselines3 import PPO

    training(steps=256, eval_every=128, eval_episodes=1)
    zips = [name for name in training.files() if name.endswith(".zip")]
    assert len(zips) == 4
    for name in zips:
        model = PPO.load(training.folder() / name, device="cpu")
        assert model.num_timesteps in (128, 256)
        assert model.predict(model.observation_space.sample())[0] in (0, 1)


# A8: changed configuration

PPO_BEFORE = {"hyperparameters": {"n_steps": 64, "batch_size": 64, "n_epochs": 2}}


@pytest.mark.parametrize(
    ("words", "settings", "field"),
    [
        ({"target": "Acrobot-v1"}, {}, "target: 'CartPole-v1' -> 'Acrobot-v1'"),
        ({}, {"scenario": "other"}, "scenario: 'CartPole-v1' -> 'other'"),
        ({"algo": "a2c"}, {"hyperparameters": {"n_steps": 64}}, "algo: 'ppo' -> 'a2c'"),
        ({}, {"policy": "MultiInputPolicy"}, "policy: None -> 'MultiInputPolicy'"),
        ({"n_envs": 2}, {}, "environment.n_envs: 1 -> 2"),
        ({}, {"environment": {"vec_env": "subproc"}}, "environment.vec_env: 'dummy' -> 'subproc'"),
        ({}, {"environment": {"frame_stack": 2}}, "environment.frame_stack: None -> 2"),
        (
            {},
            {"environment": {"normalize": {"norm_reward": False}}},
            "environment.normalize.norm_reward: None -> False",
        ),
        ({}, {"hyperparameters": {"n_steps": 32}}, "hyperparameters.n_steps: 64 -> 32"),
        (
            {},
            {"hyperparameters": {"policy_kwargs": {"net_arch": [8]}}},
            "hyperparameters.policy_kwargs.net_arch: None -> [8]",
        ),
        ({}, {"hyperparameters": {"use_sde": True}}, "hyperparameters.use_sde: False -> True"),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_an_incompatible_change_stops_with_the_difference(shared, words, settings, field):
    """A8, user pain 11: the field, both values, the ways out, exit code 65; the run stays as it is."""
    training = shared
    before = training.checkpoints("base")
    given = {"target": "CartPole-v1", "steps": 400, "run": "base", **words}
    with pytest.raises(IncompatibleRun) as caught:
        training(**given, settings=settings if "hyperparameters" not in settings else _merged(settings))
    text = str(caught.value)
    assert f"\n  {field}\n" in text
    assert all(way in text for way in ("--fresh", "--run NAME", "stored values"))
    assert caught.value.exit_code == 65
    assert training.checkpoints("base") == before


def _merged(settings):
    return {"hyperparameters": {**PPO_BEFORE["hyperparameters"], **settings["hyperparameters"]}}


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared") / "runs"


@pytest.fixture
def shared(training, shared_folder):
    """A run `base` of 128 steps that tests only look at."""
    training.runs = shared_folder
    if not training.folder("base").exists():
        training(steps=128, run="base")
    return training


def test_another_network_in_the_environment_is_told_field_by_field(training, tmp_path, monkeypatch):
    """A8: spaces are compared before anything is loaded, whatever the configuration says."""
    (tmp_path / "growing_world.py").write_text(
        "import os, gymnasium, numpy as np\n"
        "class World(gymnasium.Env):\n"
        "    def __init__(self):\n"
        "        self.observation_space = gymnasium.spaces.Box(-1, 1, (int(os.environ['WORLD_SIZE']),), np.float32)\n"
        "        self.action_space = gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed); self.age = 0\n"
        "        return self.observation_space.sample() * 0, {}\n"
        "    def step(self, action):\n"
        "        self.age += 1\n"
        "        return self.observation_space.sample() * 0, 1.0, self.age > 9, False, {}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "3")
    training("growing_world:World", steps=64)
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(IncompatibleRun, match=r"observation_shape: \[3\] -> \[5\]"):
        training("growing_world:World", steps=128)


def test_compatible_changes_pass_silently(training):
    """A8: target, intervals, evaluation, log settings; the lineage stays clean."""
    training(steps=128)
    training(steps=256, save_every=64, keep_last=3, save_seconds=50.0, eval_every=64, eval_episodes=1, grace="5s",
             settings={"log_interval": 2})  # fmt: skip
    assert "WARNING" not in training.out
    assert "lineage" not in training.out
    assert_clean_lineage(training)
    assert training.checkpoints() == [128, 192, 256]


@pytest.mark.parametrize(
    ("before", "after", "steps"), [(64, 256, [64, 128, 256, 512]), (0, 128, [129, 256, 384, 512]), (64, 0, [64, 128])]
)
def test_a_changed_evaluation_interval_holds_from_the_resume_on(training, before, after, steps):
    """A8: evaluation settings are compatible, switched off and on too; the new ones count, not the checkpoint's."""
    training(steps=128, eval_every=before, eval_episodes=1)
    training(steps=512, eval_every=after, eval_episodes=2)
    assert "WARNING" not in training.out
    assert [row["step"] for row in training.rows() if "eval/mean_reward" in row] == steps
    assert training.metadata()["best_score"] is not None


@pytest.mark.parametrize(
    ("field", "usual", "value"),
    [("learning_rate", 3e-4, 1e-3), ("gamma", 0.99, 0.9), ("clip_range", 0.2, 0.1), ("ent_coef", 0.0, 0.01)],
)
def test_risky_changes_warn_and_mix_the_lineage(training, field, usual, value):
    """A8: learning rate, gamma, clip, entropy."""
    training(steps=64)
    training(steps=128, settings=_merged({"hyperparameters": {field: value}}))
    assert f"WARNING: hyperparameters.{field}: {usual} -> {value} changes the training from step 64 on" in training.out
    mixed = {"step": 64, "field": f"hyperparameters.{field}", "before": usual, "now": value}
    assert mixed in training.metadata()["lineage"]
    training(steps=192, settings=_merged({"hyperparameters": {field: value}}))
    assert "WARNING" not in training.out
    assert mixed in training.metadata()["lineage"]


def test_minor_environment_parameters_are_noted(training):
    """A8: accepted with a note; the lineage is mixed."""
    training(steps=64)
    training(steps=128, settings={"environment": {"kwargs": {"sutton_barto_reward": True}}})
    assert "Note: environment.kwargs.sutton_barto_reward: None -> True" in training.out
    assert training.metadata()["lineage"][-1]["field"] == "environment.kwargs.sutton_barto_reward"


def test_values_not_given_again_stay_the_runs_own(training):
    """Architecture "Continuing": options not given keep the stored values."""
    training(steps=64, keep_last=1, settings=_merged({"hyperparameters": {"gamma": 0.9}}))
    unbroken.train("CartPole-v1", runs_dir=training.runs, steps=128)
    assert training.metadata()["hyperparameters"]["gamma"] == 0.9
    assert training.checkpoints() == [128]
    assert_clean_lineage(training)


# A9: forks and fresh starts


def test_a_chosen_checkpoint_forks_and_the_old_run_keeps_every_byte(training):
    """A9, user pain 6: parent recorded, curves copied up to the fork; repeating the command continues the fork."""
    training(steps=320, eval_every=64, eval_episodes=1)
    before = training.files()
    words = {"checkpoint": f"{RUN}@256", "steps": 640}
    training(**words, dies_at=500)
    fork = f"{RUN}-fork-256"
    assert training.metadata(fork)["parent_checkpoint"]["step"] == 256
    assert training.metadata(fork)["parent_checkpoint"]["run"] == RUN
    assert training(**words).step == 640
    assert "Resume: timestep=384" in training.out
    assert "Forked" not in training.out
    assert training.files() == before
    steps = [row["step"] for row in training.rows(fork) if "rollout/ep_rew_mean" in row]
    assert steps == list(range(64, 641, 64))
    assert training(**words).reason == "target reached before"


def test_a_fork_by_path_with_a_name_and_more(training):
    """A9, A4: `--checkpoint PATH --run NAME --more N`; a fork without changes is the same training."""
    training(steps=256)
    path = training.folder() / "checkpoints" / "CartPole-v1_checkpoint_128_steps.zip"
    assert training(checkpoint=path, run="mine", more=192).step == 320
    training(steps=320)
    compared = compare(training.runs, "mine", RUN)
    # the first leg's target shapes nothing here: PPO's default schedules are constant
    assert {name for name, _, _ in compared.differences} <= {"state.model._current_progress_remaining"}, compared.text()


def test_a_fork_continues_when_its_parents_checkpoint_is_gone(training):
    """A9, architecture "Continuing": repeating the command continues the fork, also after the parent has rotated."""
    training(steps=256)
    words = {"checkpoint": f"{RUN}@128", "steps": 512}
    training(**words, dies_at=300)
    training(steps=512)
    assert 128 not in training.checkpoints()
    assert training(**words).step == 512
    assert "Resume: timestep=256" in training.out
    with pytest.raises(NotFound, match="no checkpoint of step 64"):
        training(checkpoint=f"{RUN}@64", steps=512)


def test_a_fork_that_cannot_be_is_refused_before_anything_is_made(training):
    """A8, A9: an incompatible fork, a model for use, a name that is taken."""
    training(steps=128)
    fork = training.folder(f"{RUN}-fork-128")
    with pytest.raises(IncompatibleRun, match=r"hyperparameters.n_steps: 64 -> 32"):
        training(checkpoint=f"{RUN}@128", steps=256, settings=_merged({"hyperparameters": {"n_steps": 32}}))
    with pytest.raises(UsageError, match="is a model for use"):
        training(checkpoint=f"{RUN}@final", steps=256)
    assert not fork.exists()
    training(steps=64, run="taken")
    with pytest.raises(UsageError, match="is not a fork of this checkpoint"):
        training(checkpoint=f"{RUN}@128", run="taken", steps=256)


def test_fresh_starts_again_and_archives_everything(training):
    """A9: nothing is ever silently deleted."""
    training(steps=256, eval_every=128, eval_episodes=1)
    before = training.files()
    assert training(steps=64, fresh=True).step == 64
    assert "Starting fresh: everything of the earlier training was moved to" in training.out
    assert "starting at step 0" in training.out
    after = training.files()
    (place,) = (training.folder() / "archive").iterdir()
    for name, content in before.items():
        if name not in (".lock", "logs/run.log"):
            assert after[f"archive/{place.name}/{Path(name).name}" if name == "logs/metrics.jsonl"
                         else f"archive/{place.name}/{name}"] == content  # fmt: skip
    assert after["logs/run.log"].startswith(before["logs/run.log"])
    assert training.checkpoints() == [64]
    assert training.rows()[0]["step"] == 64


# user pains


def test_the_best_score_never_regresses_over_resumes(training):
    """User pain 7: a better best model on disk stays, whatever a resumed leg believes."""
    training(steps=128, eval_every=64, eval_episodes=1)
    backend = LocalBackend(training.folder())
    with CheckpointFile(backend, "best_model/best_model.zip") as file:
        members = {name: file.read(name) for name in file.names()}
        facts = {key: file.manifest[key] for key in ("run", "scenario", "config", "kind", "created")}

    def planted(writer):
        for name, content in members.items():
            writer.write_member(name, content)
        return {**facts, "score": 9_999.0, "step": 100}

    write_checkpoint(backend, "best_model/best_model.zip", planted)
    best = training.files()["best_model/best_model.zip"]
    training(steps=512, eval_every=64, eval_episodes=1)
    assert training.files()["best_model/best_model.zip"] == best
    assert "New best" not in training.out
    # a kill between the model and the score beside it leaves the score of the model before
    assert json.loads(training.files()["best_model/best_model.json"]) == {"score": 9_999.0, "step": 100}


def test_the_best_score_is_carried_in_the_checkpoint_too(training):
    """User pain 7: the best model is gone, its score is not forgotten."""
    training(steps=128, eval_every=64, eval_episodes=1)
    best = training.metadata()["best_score"]
    training(steps=256, eval_every=64, eval_episodes=1)
    assert training.metadata()["best_score"] >= best
    for row in training.rows():
        assert row.get("eval/mean_reward", 0) <= training.metadata()["best_score"]


def test_another_scenarios_checkpoints_in_the_folder_do_not_count(training):
    """User pain 10: "6 found" counted all scenarios."""
    training(steps=256)
    training("Acrobot-v1", steps=512)
    for path in (training.folder("Acrobot-v1-ppo-seed0") / "checkpoints").iterdir():
        shutil.copy(path, training.folder() / "checkpoints" / path.name)
        # under our own name it is recognised by what it says of itself
        shutil.copy(
            path,
            training.folder() / "checkpoints" / path.name.replace("Acrobot-v1", "CartPole-v1").replace("512", "900"),
        )
    files = {path.name for path in (training.folder() / "checkpoints").iterdir()}
    training(steps=320)
    assert "Resume: timestep=256" in training.out
    assert "Skipped CartPole-v1_checkpoint_900_steps.zip: " in training.out
    assert "belongs to scenario Acrobot-v1, not CartPole-v1; left where it is" in training.out
    assert "Acrobot-v1_checkpoint" not in training.out
    assert {n for n in files if "Acrobot" in n or "900" in n} <= {
        p.name for p in (training.folder() / "checkpoints").iterdir()
    }


def test_rotation_keeps_the_newest_of_this_scenario_only(training):
    """User pain 6: `keep_every` milestones stay, the rest goes, newest two last."""
    training(steps=640, settings={"saving": {"keep_every": 256}})
    assert training.checkpoints() == [256, 512, 640]
    assert "Rotated out CartPole-v1_checkpoint_128_steps.zip (rule: newest 2, every 256 steps)" in training.out


@pytest.mark.parametrize("shift", [-(10**8), 10**8])
def test_the_newest_is_found_whatever_file_times_and_other_names_say(training, shift):
    """User pain 13: neither file times nor names that sort first decide."""
    import os

    training(steps=256)
    oldest = training.folder() / "checkpoints" / "CartPole-v1_checkpoint_128_steps.zip"
    now = oldest.stat().st_mtime
    os.utime(oldest, (now + shift, now + shift))
    shutil.copy(training.folder() / "CartPole-v1_final.zip", oldest.with_name("CartPole-v1_checkpoint_final_steps.zip"))
    shutil.copy(oldest, oldest.with_name("CartPole-v1_checkpoint_99999999_steps.zip.bak"))
    training(steps=320)
    assert "Found 2 checkpoint(s) to restore:" in training.out
    assert "Resume: timestep=256" in training.out


# A12: log lines


def test_the_log_lines_are_those_of_the_requirement(training):
    """A12: on the console and in the run's log file."""
    training(steps=256)
    training(steps=384)
    names = [f"CartPole-v1_checkpoint_{step}_steps.zip" for step in (128, 256)]
    lines = training.out.splitlines()
    assert all(line.startswith("[CHECKPOINT] ") for line in lines)
    assert lines[0] == "[CHECKPOINT] Found 2 checkpoint(s) to restore:"
    for line, name in zip(lines[1:3], names, strict=True):
        assert re.fullmatch(rf"\[CHECKPOINT\]   {re.escape(name)} \(\d+\.\d [KM]B\)", line)
    place = training.folder() / "checkpoints" / names[1]
    assert f"[CHECKPOINT] Loading checkpoint {names[1]} ..." in lines
    assert f"[CHECKPOINT] Resuming from checkpoint: {place}" in lines
    assert re.search(r"^\[CHECKPOINT\] Resume: timestep=256, episode=\d+, rewards=\d+\.\d\d ", training.out, re.M)
    assert re.search(
        r"^\[CHECKPOINT\] Saved checkpoints/CartPole-v1_checkpoint_384_steps.zip \(\d+\.\d KB\)$", training.out, re.M
    )
    assert f"[CHECKPOINT] Rotated out {names[0]} (rule: newest 2)" in lines
    final = training.folder() / "CartPole-v1_final.zip"
    assert final.exists()
    ready = f"[CHECKPOINT] Ready for the next run: {training.folder()} is at step 384, its final model is {final}; "
    assert lines[-1].startswith(ready)
    log = training.log()
    assert all(line in log for line in lines)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[CHECKPOINT\] No checkpoint ", log)


def test_the_last_lines_tell_the_best_score(training):
    """A12: that of the file, whichever leg found it."""
    training(steps=256, eval_every=128, eval_episodes=1)
    training(steps=320, eval_every=0)
    best = json.loads((training.folder() / "best_model" / "best_model.json").read_text())
    line = f"320 of 320 steps are done; best score {best['score']:.2f} at step {best['step']:,} (best_model/best_model.zip)"
    assert f"[CHECKPOINT] Target reached: {line}" in training.out.splitlines()


def test_the_last_lines_say_when_there_is_no_score(training):
    """A12: no episode has ended in four steps."""
    training(steps=4, settings={"hyperparameters": {"n_steps": 4, "batch_size": 4}, "self_test": False})
    assert "[CHECKPOINT] Target reached: 4 of 4 steps are done; no score yet" in training.out


def test_the_episode_count_is_the_trainings_own(training):
    """A12: Monitor's episodes, over all legs."""
    training(steps=320)
    training(steps=384)
    first = int(re.search(r"episode=(\d+)", training.out)[1])
    training(steps=448)
    assert int(re.search(r"episode=(\d+)", training.out)[1]) > first > 5


# A16: curves


def test_curves_have_no_duplicate_and_no_missing_step_after_a_kill(training):
    """A16, user pain 9: values were logged beyond the last checkpoint before the kill; the tails are kept."""
    words = {"eval_every": 64, "eval_episodes": 1}
    training(steps=640, run="twin", **words)
    training(steps=640, dies_at=250, **words)
    assert [row["step"] for row in training.rows()][-1] > training.checkpoints()[-1] == 128
    training(steps=640, dies_at=500, **words)
    training(steps=640, **words)
    clock = ("time/fps", "time/time_elapsed")
    rows, twin = (
        [{k: v for k, v in row.items() if k not in clock} for row in training.rows(run)] for run in (RUN, "twin")
    )
    assert rows == twin
    events, untouched = ([e for e in training.events(run) if e[1] not in clock] for run in (RUN, "twin"))
    assert events == untouched
    assert len({event[:2] for event in events}) == len(events) > 50
    tails = [name for name in training.files() if name.startswith("archive/")]
    assert len(tails) == 4
    assert any(b'"step": 192' in training.files()[name] for name in tails)
    assert "Cut logs/metrics.jsonl back to the checkpoint" in training.out


def test_curves_of_a_leg_without_a_checkpoint_are_not_said_to_go_back_to_one(training):
    """A12, A16: killed before its first save; the rows are kept, and the line is true."""
    training(steps=640, save_every=10_000, dies_at=250)
    assert training.rows()
    assert training.checkpoints() == []
    training(steps=256, save_every=10_000)
    assert "Began logs/metrics.jsonl anew (" in training.out
    assert "back to the checkpoint" not in training.out
    assert [row["step"] for row in training.rows()] == [64, 128, 192, 256]


# no pickle


def test_resume_runs_no_unpickler(training, monkeypatch):
    """User pain 14, architecture "No pickle": only torch's own restricted unpickler runs."""
    import cloudpickle

    training(steps=128, eval_every=64, eval_episodes=1)

    def forbidden(*_, **__):
        raise AssertionError("a pickle was loaded")

    class Forbidden:
        def __init__(self, *_, **__):
            forbidden()

    for module in (pickle, cloudpickle):
        for name in ("load", "loads"):
            monkeypatch.setattr(module, name, forbidden)
    monkeypatch.setattr(pickle, "Unpickler", Forbidden)
    import torch

    real, seen = torch.load, []

    def watched(*arguments, **words):
        seen.append(words.get("weights_only"))
        return real(*arguments, **words)

    monkeypatch.setattr(torch, "load", watched)
    assert training(steps=256, eval_every=64, eval_episodes=1).step == 256
    assert "Resume: timestep=128" in training.out
    assert seen
    assert set(seen) == {True}


def test_a_poisoned_pickle_in_a_checkpoint_runs_no_code(training, monkeypatch):
    """User pain 14: SB3's `data` member holds pickles; we write them for SB3 and never read them."""
    training(steps=128)
    backend, path = LocalBackend(training.folder()), "checkpoints/CartPole-v1_checkpoint_128_steps.zip"
    with CheckpointFile(backend, path) as file:
        members = {name: file.read(name) for name in file.names()}
        facts = {key: value for key, value in file.manifest.items() if key not in ("format", "version", "members")}

    class Bomb:
        def __reduce__(self):
            return builtins.exec, ("raise SystemExit('code ran')",)

    data = json.loads(members["data"])
    import base64

    data["policy_class"] = {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Bomb())).decode()}
    members["data"] = json.dumps(data).encode()

    def poisoned(writer):
        for name, content in members.items():
            writer.write_member(name, content)
        return facts

    write_checkpoint(backend, path, poisoned)
    assert training(steps=192).step == 192


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_module_imports_a_pickler(path):
    """Architecture "No pickle": nor SB3's loader, nor torch's unrestricted one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
        else:
            names = []
        assert not {"pickle", "cloudpickle", "dill", "joblib", "_pickle", "load_from_zip_file", "json_to_data"} & set(
            names
        )
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert {word.arg: ast.unparse(word.value) for word in node.keywords}["weights_only"] == "True"


def test_a_mistake_in_the_words_raises_before_a_run_is_made(training):
    """Issue 2, "Errors": from a notebook cell too."""
    for settings, error in (
        ({"saving": {"evry": 1}}, ConfigurationError),
        ({"saving": {"every": 0}}, ConfigurationError),
    ):
        with pytest.raises(error):
            training(steps=64, save_every=None, settings=settings)
    with pytest.raises(UsageError):
        training(steps=0)
    assert not training.runs.exists()


def test_a_deadline_too_short_for_anything_still_gets_somewhere(training):
    """A11: at least one rollout in every leg; the deadline of one command is not that of the next."""
    reached = [training(steps=256, deadline="0.001s").step for _ in range(3)]
    assert reached == [64, 128, 192]
    assert "the deadline is near" in training.out
    assert training(steps=256).step == 256
    assert "deadline" not in (training.folder() / "run.yaml").read_text()


def test_a_default_that_is_written_out_changes_nothing(training):
    """A8: gamma=0.99 is what PPO does anyway; the lineage stays clean. `normalize={}` is a change of the environment."""
    training(steps=64)
    given = {"hyperparameters": {**training_words(), "gamma": 0.99}}
    assert training(steps=128, settings=given).step == 128
    assert_clean_lineage(training)
    assert "WARNING" not in training.out
    with pytest.raises(IncompatibleRun, match=r"environment.normalize: None -> \{\}"):
        training(steps=192, settings={"environment": {"normalize": {}}})


def training_words():
    return {"n_steps": 64, "batch_size": 64, "n_epochs": 2}
