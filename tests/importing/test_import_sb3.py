"""Folders of plain Stable-Baselines3 become runs that an ordinary leg goes on from (B5)."""

import io
import json
import shutil
import signal
import sys
import zipfile

import pytest
import torch
import yaml
from stable_baselines3 import PPO

from unbroken.errors import IncompatibleRun, UsageError
from unbroken.inspection import compare, list_run, show_checkpoint

SMALL = ("--set", "self_test=false", "--eval-every", "0", "--save-every", "64")


def tensors(path, member):
    with zipfile.ZipFile(path) as archive:
        return torch.load(io.BytesIO(archive.read(member)), weights_only=True)


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def checkpoint(runs, run):
    (path,) = (runs / run / "checkpoints").iterdir()
    return path


@pytest.fixture
def ppo(trained):
    return trained / "ppo à côté"


def test_weights_optimizer_and_counters_are_taken_over(ppo, imports, runs):
    """B5: what a zip holds is in the run's first checkpoint, bit for bit."""
    report = imports(ppo, "CartPole-v1", run="élève")
    source, made = ppo / "feux tricolores_384_steps.zip", checkpoint(runs, "élève")
    assert report.start.step == 384
    assert made.name == "CartPole-v1_checkpoint_384_steps.zip"
    for member in ("policy.pth", "policy.optimizer.pth"):
        assert same(tensors(source, member), tensors(made, member)), member
    stored, taken = (PPO.load(path, device="cpu") for path in (source, made))
    assert (stored.num_timesteps, stored._n_updates) == (taken.num_timesteps, taken._n_updates)
    assert taken._n_updates > 0
    manifest = show_checkpoint(runs, "élève")
    assert manifest["lineage"] == [
        {"step": 384, "field": "imported", "before": "feux tricolores_384_steps.zip", "now": "élève"}
    ]


def test_plain_hyperparameters_go_into_the_configuration(ppo, imports, runs):
    """B5: also those of which only the pickle's instructions tell."""
    imports(ppo, "CartPole-v1", run="run")
    config = yaml.safe_load((runs / "run" / "run.yaml").read_text(encoding="utf-8"))["config"]
    given = {key: config["hyperparameters"][key] for key in ("n_steps", "batch_size", "n_epochs", "clip_range")}
    assert given == {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "clip_range": 0.2}
    assert config["hyperparameters"]["policy_kwargs"] == {"net_arch": [16, 16]}
    assert (config["environment"]["n_envs"], config["policy"], config["seed"]) == (2, "MlpPolicy", 8)


def test_the_source_stays_and_every_file_of_it_is_kept(ppo, imports, runs, contents):
    """B5: nothing of the source is changed, nothing of it is lost, and the report names every file."""
    before = contents(ppo)
    report = imports(ppo, "CartPole-v1", run="run")
    assert contents(ppo) == before
    kept = contents(runs / "run" / "imported")
    assert {name: digest for name, (digest, _) in kept.items()} == {
        name: digest for name, (digest, _) in before.items()
    }
    written = json.loads((runs / "run" / "import.json").read_text(encoding="utf-8"))
    assert {file["path"] for file in written["files"]} == set(before)
    assert written["complete"]
    assert all(name in report.text() for name in before)


def test_what_begins_anew_is_said_once_and_kept(ppo, imports, runs, capsys):
    """B5, A8: what is missing, and that nothing shows that the environment is the right one."""
    report = imports(ppo, "CartPole-v1", run="run")
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "begin anew" in line]
    for part in ("random number generators", "environment state", "episode statistics", "callbacks' state"):
        assert part in line
        assert part in report.text()
    assert "optimizer" not in line
    assert "nothing shows that CartPole-v1 as configured is the one" in out


def test_a_zip_without_its_optimizer_says_so(ppo, imports, runs, tmp_path):
    """B5: the optimizer begins anew, the weights do not."""
    folder = tmp_path / "weights only"
    folder.mkdir()
    source = ppo / "feux tricolores_384_steps.zip"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(folder / source.name, "w") as new:
        for name in old.namelist():
            if name != "policy.optimizer.pth":
                new.writestr(name, old.read(name))
    report = imports(folder, "CartPole-v1", run="run")
    assert "policy.optimizer" in report.begins_anew
    made = checkpoint(runs, "run")
    assert same(tensors(source, "policy.pth"), tensors(made, "policy.pth"))
    assert not tensors(made, "policy.optimizer.pth")["state"]


def test_best_model_keeps_its_score_and_final_model_its_place(ppo, imports, runs):
    """B5: models for use that plain SB3 loads, the best one with the score that EvalCallback left beside it."""
    imports(ppo, "CartPole-v1", run="run")
    rows = {row["tier"]: row for row in list_run(runs, "run")}
    assert all(row["valid"] for row in rows.values())
    assert rows["final"]["step"] == 384
    assert rows["best"]["score"] > 0
    metadata = json.loads((runs / "run" / "training_metadata.json").read_text(encoding="utf-8"))
    assert metadata["best_score"] == rows["best"]["score"]
    source = tensors(ppo / "best_model" / "best_model.zip", "policy.pth")
    assert same(source, tensors(runs / "run" / "best_model" / "best_model.zip", "policy.pth"))
    assert PPO.load(runs / "run" / "best_model" / "best_model.zip", device="cpu").num_timesteps == rows["best"]["step"]


def test_a_best_model_without_a_score_is_no_best(ppo, imports, runs, tmp_path, capsys):
    """B5: a model of which nothing shows how good it is must not keep better ones away."""
    shutil.copytree(ppo, tmp_path / "ppo")
    (tmp_path / "ppo" / "best_model" / "evaluations.npz").unlink()
    imports(tmp_path / "ppo", "CartPole-v1", run="run")
    assert not (runs / "run" / "best_model").exists()
    assert "has no score of its step" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_training_goes_on_killed_and_resumed_as_if_undisturbed(ppo, imports, runs, train, goes_on):
    """B5, A5, A6: after the import all is ordinary, and exact."""
    imports(ppo, "CartPole-v1", run="run")
    shutil.copytree(runs / "run", runs / "twin")
    words = ("--steps", "800", *SMALL)
    killed = train("--run", "run", *words, kill="env-step:300")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = train("--run", "run", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert goes_on("CartPole-v1", "twin", 800).exit_code == 0
    compared = compare(runs, "run", "twin")
    assert compared.identical, compared.text()
    assert show_checkpoint(runs, "run")["step"] >= 800
    assert show_checkpoint(runs, "run")["lineage"][0]["field"] == "imported"


def test_off_policy_goes_on_with_an_empty_replay_buffer(trained, imports, runs, goes_on):
    """B5: weights, target network and counters come along; the buffer is a pickle, is not loaded, and that is said."""
    report = imports(trained / "dqn", "CartPole-v1", run="run")
    assert any("dqn_replay_buffer_300_steps.pkl is a pickle" in what for what in report.begins_anew)
    assert any("learning_starts=340" in note for note in report.notes)
    made, source = checkpoint(runs, "run"), trained / "dqn" / "dqn_300_steps.zip"
    assert same(tensors(source, "policy.pth"), tensors(made, "policy.pth"))
    assert same(tensors(source, "policy.optimizer.pth"), tensors(made, "policy.optimizer.pth"))
    config = yaml.safe_load((runs / "run" / "run.yaml").read_text(encoding="utf-8"))["config"]
    assert config["hyperparameters"]["train_freq"] == [4, "step"]
    assert goes_on("CartPole-v1", "run", 400).step == 400
    (newest,) = (runs / "run" / "checkpoints").glob("*_400_steps.zip")
    assert not same(tensors(source, "policy.pth"), tensors(newest, "policy.pth"))


def test_normalisation_in_a_pickle_is_for_the_user_to_decide(trained, imports, runs):
    """B5: without its statistics the policy sees other numbers; nothing is made before that is decided."""
    with pytest.raises(UsageError, match=r"sac_vecnormalize_200_steps\.pkl: not loaded.*environment\.normalize=\{\}"):
        imports(trained / "sac", "Pendulum-v1", run="run")
    assert not runs.exists()
    report = imports(trained / "sac", "Pendulum-v1", run="run", settings={"environment": {"normalize": {}}})
    assert any("normalisation statistics (sac_vecnormalize_200_steps.pkl" in what for what in report.begins_anew)
    source, made = trained / "sac" / "sac_200_steps.zip", checkpoint(runs, "run")
    for member in ("policy.pth", "actor.optimizer.pth", "critic.optimizer.pth", "ent_coef_optimizer.pth"):
        assert same(tensors(source, member), tensors(made, member)), member
    assert same(tensors(source, "pytorch_variables.pth"), tensors(made, "pytorch_variables.pth"))
    config = yaml.safe_load((runs / "run" / "run.yaml").read_text(encoding="utf-8"))["config"]
    assert config["environment"]["normalize"] == {}


def test_without_a_target_the_files_come_in_and_the_same_command_adds_it(ppo, imports, runs):
    """B5: a zip does not say on which environment it was trained."""
    report = imports(ppo, run="run")
    assert report.start is None
    assert "--target ENV" in report.text()
    assert (runs / "run" / "imported" / "final_model.zip").is_file()
    assert not (runs / "run" / "run.yaml").exists()
    assert imports(ppo, "CartPole-v1", run="run").start.step == 384
    assert checkpoint(runs, "run").name == "CartPole-v1_checkpoint_384_steps.zip"


def test_another_environment_is_refused_and_leaves_nothing(ppo, imports, runs):
    """B5, A8: the spaces of the file are read from the text beside the pickle."""
    with pytest.raises(IncompatibleRun, match=r"observation space Box\[4\], and this environment has"):
        imports(ppo, "Acrobot-v1", run="run")
    assert not runs.exists()
    with pytest.raises(UsageError, match="was not trained by sac: it is of ppo"):
        imports(ppo, "CartPole-v1", run="run", algo="sac")
    with pytest.raises(IncompatibleRun, match=r"do not fit the network.*net_arch"):
        imports(ppo, "CartPole-v1", run="run", settings={"hyperparameters": {"policy_kwargs": {"net_arch": [8]}}})
    assert not runs.exists()


def test_an_existing_run_is_refused_with_the_way_out(ppo, imports, runs, contents):
    """B5: an import makes a new run or none."""
    imports(ppo, "CartPole-v1", run="run")
    before = contents(runs)
    for words in ({"target": "CartPole-v1"}, {"files_only": True}):
        with pytest.raises(UsageError, match=r"run 'run' exists .* another name with --run NAME"):
            imports(ppo, run="run", **words)
    assert contents(runs) == before


def test_the_folder_names_the_run(trained, imports, runs, tmp_path):
    """B5: by default; folders that are called as all are do not count."""
    shutil.copytree(trained / "dqn", tmp_path / "projet d'été" / "models" / "checkpoints")
    imports(tmp_path / "projet d'été" / "models" / "checkpoints")
    assert [path.name for path in runs.iterdir()] == ["projet d'été"]


def test_several_trainings_in_one_folder_are_told_apart(trained, ppo, imports, runs, tmp_path):
    """B5: which one the run goes on from is the user's choice, made by name."""
    folder = tmp_path / "all of them"
    shutil.copytree(trained / "dqn", folder)
    shutil.copytree(ppo, folder, dirs_exist_ok=True)
    with pytest.raises(UsageError, match=r"2 trainings .*dqn_300_steps\.zip or feux tricolores_384_steps\.zip"):
        imports(folder, "CartPole-v1", run="run")
    assert not runs.exists()
    assert imports(folder, "CartPole-v1", run="first", start="dqn_200_steps.zip").start.step == 200
    second = imports(folder, "CartPole-v1", run="second", start="feux tricolores_384_steps.zip")
    assert (second.start.config.algo, second.start.step) == ("ppo", 384)
    only = imports(folder, run="third")
    assert only.start is None
    assert "2 trainings" in only.reason
    assert only.folder == str(runs / "third")


def test_a_schedule_of_the_users_own_is_missing_and_has_to_be_said(imports, runs, tmp_path):
    """B5: a function is a pickle; the report names it, and a start needs it from the user."""
    model = PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda progress: 1e-3 * progress, device="cpu")
    model.save(tmp_path / "mine.zip")
    assert "learning_rate (a pickle)" in imports(tmp_path / "mine.zip", run="files").files[0].missing
    with pytest.raises(UsageError, match=r"hyperparameters\.learning_rate"):
        imports(tmp_path / "mine.zip", "CartPole-v1", run="run")
    report = imports(
        tmp_path / "mine.zip", "CartPole-v1", run="run", settings={"hyperparameters.learning_rate": "lin_1e-3"}
    )
    assert report.start.config.hyperparameters["learning_rate"] == "lin_1e-3"
    assert "learning_rate (a pickle)" not in report.begins_anew


def test_one_file_comes_with_the_pickles_beside_it(trained, imports, runs):
    """B5: of a large folder one checkpoint can be taken."""
    imports(trained / "dqn" / "dqn_200_steps.zip", "CartPole-v1")
    kept = sorted(path.name for path in (runs / "dqn_200_steps" / "imported").iterdir())
    assert kept == ["dqn_200_steps.zip", "dqn_replay_buffer_200_steps.pkl"]
    assert show_checkpoint(runs, "dqn_200_steps")["step"] == 200
