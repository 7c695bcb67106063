"""Walk-forward results, weights of hand-written trainers, checkpoints of ours carried as files, and the command (B5)."""

import json
import shutil

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import unbroken
from unbroken.cli.runs import app
from unbroken.errors import IncompatibleRun, UsageError
from unbroken.inspection import compare, show_checkpoint


@pytest.fixture
def experiment(trained, tmp_path):
    """What a walk-forward trainer leaves: models, metrics, and the reason where there is no model."""
    folder = tmp_path / "results" / "exp 7" / "checkpoints"
    folder.mkdir(parents=True)
    for iteration, steps in ((0, 64), (1, 128), (10, 192)):
        shutil.copy(
            trained / "ppo à côté" / f"feux tricolores_{steps}_steps.zip", folder / f"model_iter_{iteration}.zip"
        )
        metrics = {"train": {"steps": steps}, "validation": {"sharpe": iteration + 0.5}, "ok": True}
        (folder / f"metrics_iter_{iteration}.json").write_text(json.dumps(metrics))
    (folder / "no_model_iter_2.json").write_text(json.dumps({"reason": "validation loss diverged"}))
    (folder / "model_iter_3.zip").write_bytes(b"PK")
    (folder.parent / "checkpoint_summary.json").write_text("{}")
    return folder.parent


def test_every_iteration_of_a_walk_forward_experiment_is_in_the_table(experiment, imports, runs):
    """B5: steps, metric, and the model or the reason for none, in the order of the iterations."""
    report = imports(experiment)
    rows = {row.iteration: row for row in report.iterations}
    assert list(rows) == [0, 1, 2, 3, 10]
    assert (rows[1].steps, rows[1].metric(), rows[1].model) == (
        128,
        ("validation.sharpe", 1.5),
        "checkpoints/model_iter_1.zip",
    )
    assert (rows[2].model, rows[2].reason) == (None, "validation loss diverged")
    assert (rows[3].model, "damaged" in rows[3].reason) == (None, True)
    written = json.loads((runs / "exp 7" / "import.json").read_text(encoding="utf-8"))
    assert [row["iteration"] for row in written["iterations"]] == [0, 1, 2, 3, 10]
    text = report.text()
    assert "validation.sharpe = 10.5" in text
    assert "validation loss diverged" in text
    assert "nothing to go on from: results of a walk-forward experiment" in text
    assert len(list((runs / "exp 7" / "imported" / "checkpoints").iterdir())) == 8


def test_one_model_of_an_experiment_can_be_gone_on_from(experiment, imports, runs):
    """B5: by its name."""
    with pytest.raises(UsageError, match="nothing to go on from: results of a walk-forward experiment"):
        imports(experiment, "CartPole-v1", run="run")
    assert imports(experiment, "CartPole-v1", run="run", start="model_iter_10.zip").start.step == 192
    assert show_checkpoint(runs, "run")["step"] == 192


@pytest.fixture
def actor_critic(tmp_path):
    """Weights as hand-written actor-critic trainers leave them: two state dicts and a count, layers named their own way."""
    folder = tmp_path / "poids"
    folder.mkdir()
    torch.manual_seed(1)
    actor = nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 2))
    critic = nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 1))
    content = {"actor_state_dict": actor.state_dict(), "critic_state_dict": critic.state_dict()}
    torch.save({**content, "timestep": 900}, folder / "checkpoint_900.pt")
    torch.save(content, folder / "checkpoint_1800.pt")
    torch.save(content, folder / "best_model.pt")
    torch.save(nn.Linear(2, 2), folder / "whole_module.pt")
    torch.save({"something": torch.zeros(3)}, folder / "final_model.pt")
    return folder, actor


def test_weights_of_a_hand_written_trainer_go_on_with_ppo_torch(actor_critic, imports, runs, goes_on):
    """B5, A14: sizes of layers from the file, steps from it or its name, and a plain word about all that is missing."""
    folder, actor = actor_critic
    report = imports(folder, "CartPole-v1", run="run")
    assert (report.start.found.path, report.start.step) == ("checkpoint_1800.pt", 1800)
    assert report.start.config.hyperparameters["net_arch"] == [24, 12]
    for part in (
        "actor optimizer",
        "critic optimizer",
        "episode rewards",
        "random number generators",
        "environment state",
    ):
        assert part in report.begins_anew
    assert "tanh between the layers" in report.text()
    held = torch.load(runs / "run" / "checkpoints" / "checkpoint_1800.pt", weights_only=True)
    values = [value for name, value in held["actor"].items() if name.startswith("net.")]
    assert all(torch.equal(one, other) for one, other in zip(values, actor.state_dict().values(), strict=True))
    assert goes_on("CartPole-v1", "run", 2000).step >= 2000


def test_what_of_such_a_folder_cannot_be_used_is_named(actor_critic, imports):
    """B5: a pickled module names code, other tensors have no actor."""
    folder, _ = actor_critic
    told = {found.path: found.problem for found in imports(folder, run="run").files if found.problem}
    assert set(told) == {"whole_module.pt", "final_model.pt"}
    assert "code, which is not run" in told["whole_module.pt"]
    assert "has no actor" in told["final_model.pt"]


def test_weights_for_another_environment_are_refused(actor_critic, imports, runs):
    """B5, A8: by their shapes, before anything is made."""
    with pytest.raises(IncompatibleRun, match="does not fit"):
        imports(actor_critic[0], "Acrobot-v1", run="run")
    with pytest.raises(UsageError, match="which only ppo-torch can go on with"):
        imports(actor_critic[0], "CartPole-v1", run="run", algo="sac")
    assert not runs.exists()


@pytest.fixture
def ours(tmp_path):
    """A run of ours, and a folder to which its checkpoints were carried as files."""
    settings = {"self_test": False, "hyperparameters": {"n_steps": 64, "batch_size": 64, "n_epochs": 1}}
    unbroken.train(
        "CartPole-v1",
        runs_dir=tmp_path / "runs",
        run="first",
        steps=256,
        save_every=64,
        eval_every=0,
        settings=settings,
    )
    return shutil.copytree(tmp_path / "runs" / "first" / "checkpoints", tmp_path / "carried")


def test_checkpoints_of_ours_are_gone_on_from_exactly(ours, imports, runs):
    """B5, A9: nothing is lost, so the lineage stays as it is, and the parent is recorded."""
    report = imports(ours, run="second")
    assert report.start.exact
    assert "goes on exactly from" in report.text()
    compared = compare(runs, "first", "second")
    assert compared.identical, compared.text()
    assert unbroken.train(runs_dir=runs, run="second", steps=320).exit_code == 0
    manifest = show_checkpoint(runs, "second")
    assert manifest["parent"]["step"] == 256
    assert "imported" not in {entry["field"] for entry in manifest["lineage"]}


def test_the_command_prints_the_report_or_its_document(trained, ours, tmp_path):
    """B5: for people and for programs; with --json nothing else is on the console."""
    runner = CliRunner()
    folder = str(trained / "dqn")
    words = ["import", folder, "--target", "CartPole-v1", "--device", "cpu", "--runs-dir", str(tmp_path / "new runs")]
    shown = runner.invoke(app, [*words, "--run", "texte", "--set", "hyperparameters.gamma=0.9", "--seed", "5"])
    assert shown.exit_code == 0, shown.output
    assert "continue with: unbroken train CartPole-v1 --run texte" in shown.stdout
    assert "[CHECKPOINT] WARNING: imported from dqn_300_steps.zip" in shown.stdout
    manifest = show_checkpoint(tmp_path / "new runs", "texte")
    assert (manifest["config"]["hyperparameters"]["gamma"], manifest["config"]["seed"]) == (0.9, 5)
    document = json.loads(runner.invoke(app, [*words, "--run", "json", "--json"]).stdout)
    assert (document["start"]["step"], document["start"]["exact"]) == (300, False)
    words[1] = str(ours)
    exact = runner.invoke(
        app, ["import", str(ours), "--run", "ours", "--json", "--runs-dir", str(tmp_path / "new runs")]
    )
    assert json.loads(exact.stdout)["start"]["exact"], exact.output
