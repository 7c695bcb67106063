"""An import shows as the run's own only what is of the training that it goes on from, and never enters another's run (B5)."""

import shutil
import sys

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from unbroken.errors import UsageError
from unbroken.importing.recognising import Source


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A small PPO of each environment as one zip, by the environment's first word; read only."""
    root = tmp_path_factory.mktemp("models")
    for name, target in (("cartpole", "CartPole-v1"), ("acrobot", "Acrobot-v1")):
        PPO("MlpPolicy", target, n_steps=32, batch_size=32, n_epochs=1, policy_kwargs={"net_arch": [8]}, seed=1,
            device="cpu").learn(32).save(root / f"{name}.zip")  # fmt: skip
    return root


@pytest.fixture
def laid(models, tmp_path):
    """A folder with copies of these models: `laid({"path in it": "cartpole", ...})`; scores beside every best_model.zip."""

    def lay(places):
        root = tmp_path / "source"
        for place, name in places.items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(models / f"{name}.zip", root / place)
            if place.endswith("best_model.zip"):
                np.savez((root / place).with_name("evaluations.npz"), timesteps=[32], results=[[900.0, 900.0]])
        return root

    return lay


def same_but_lock(contents, folder):
    return {name: facts for name, facts in contents(folder).items() if name != ".lock"}


@pytest.mark.parametrize("other", ["a training", "another import"])
def test_a_run_that_appears_while_the_source_is_looked_at_is_not_touched(
    other, laid, imports, goes_on, runs, contents, monkeypatch
):
    """B5, promise 3: what was not there at the first look is looked for again under the lock, before anything is written."""
    folder = laid({"source/rl_512_steps.zip": "cartpole"})
    before, look = {}, Source.look

    def meanwhile(source):
        monkeypatch.setattr(Source, "look", look)
        if other == "a training":
            assert goes_on("CartPole-v1", "run", 64).exit_code == 0
        else:
            imports(laid({"rl_512_steps.zip": "cartpole"}), run="run")
        before.update(same_but_lock(contents, runs / "run"))
        return look(source)

    monkeypatch.setattr(Source, "look", meanwhile)
    with pytest.raises(UsageError, match=r"run 'run' exists .* another name with --run NAME"):
        imports(folder / "source", "CartPole-v1", run="run")
    assert before
    assert same_but_lock(contents, runs / "run") == before


STRANGERS = {
    "of another environment": {"acrobot/best_model.zip": "acrobot", "acrobot/my_final.zip": "acrobot"},
    "of another row, around it": {"x_32_steps.zip": "cartpole", "best_model.zip": "cartpole", "final.zip": "cartpole"},
    "of another row, beside it": {
        "b/x_32_steps.zip": "cartpole",
        "b/best_model.zip": "cartpole",
        "b/final.zip": "cartpole",
    },
    "too far away": {"b/c/best_model.zip": "cartpole", "b/c/final.zip": "cartpole"},
    "of either of two": {"b/x_32_steps.zip": "cartpole", "best_model.zip": "cartpole", "final.zip": "cartpole"},
}


@pytest.mark.parametrize("strangers", STRANGERS.values(), ids=STRANGERS)
def test_a_model_of_another_training_is_not_shown_as_the_runs_own(strangers, laid, imports, runs, capsys):
    """B5: best and final of the run are of its own training, by folder, algorithm and spaces; others stay, and that is said."""
    folder = laid({"cartpole/rl_512_steps.zip": "cartpole", **strangers})
    report = imports(folder, "CartPole-v1", run="run", start="cartpole/rl_512_steps.zip")
    assert report.models == {}
    assert not (runs / "run" / "best_model").exists()
    assert not (runs / "run" / "CartPole-v1_final.zip").exists()
    out = capsys.readouterr().out
    for what, path in zip(("best", "final"), [p for p in strangers if "_steps" not in p], strict=True):
        assert f"{path}: nothing shows that this is the {what} model" in out


@pytest.mark.parametrize("place", ["cartpole/", "cartpole/best/", "", "eval/"])
def test_models_of_the_start_s_own_training_are_the_runs(place, laid, imports):
    """B5: in its folder, below it, around it, or beside it, where no other training is as near."""
    own = {f"{place}best_model.zip": "cartpole", f"{place}my_final.zip": "cartpole"}
    folder = laid({"cartpole/rl_512_steps.zip": "cartpole", "b/x_32_steps.zip": "acrobot", **own})
    report = imports(folder, "CartPole-v1", run="run", start="cartpole/rl_512_steps.zip")
    assert report.models == {"best": f"{place}best_model.zip", "final": f"{place}my_final.zip"}


def test_a_model_that_is_the_start_keeps_the_best_of_its_row(laid, imports):
    """B5: a start without a number is of the row that it lies with, and an iteration is of none."""
    folder = laid({"rl_512_steps.zip": "cartpole", "my_final.zip": "cartpole", "best_model.zip": "cartpole"})
    report = imports(folder, "CartPole-v1", run="first", start="my_final.zip")
    assert report.models == {"best": "best_model.zip", "final": "my_final.zip"}
    (folder / "rl_512_steps.zip").rename(folder / "model_iter_1.zip")
    shutil.copy(folder / "model_iter_1.zip", folder / "model_iter_2.zip")
    assert imports(folder, "CartPole-v1", run="second", start="model_iter_2.zip").models == {}


def test_checkpoints_of_one_name_and_two_kinds_are_two_trainings(laid, imports, runs):
    """B5: where files of one prefix show that they are not of one training, the user chooses."""
    folder = laid({"rl_32_steps.zip": "cartpole", "rl_64_steps.zip": "acrobot"})
    with pytest.raises(UsageError, match="2 trainings in it"):
        imports(folder, "CartPole-v1", run="run")
    assert not runs.exists()


@pytest.fixture(scope="session")
def statistics(tmp_path_factory):
    """The pickle that VecNormalize.save makes."""
    path = tmp_path_factory.mktemp("statistics") / "vecnormalize.pkl"
    VecNormalize(make_vec_env("CartPole-v1")).save(str(path))
    return path


@pytest.mark.parametrize("name", ["vecnormalize.pkl", "vec_normalize_best.pkl", "statistics.pkl"])
@pytest.mark.parametrize("model", ["rl_512_steps.zip", "model.zip"])
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_normalisation_is_asked_for_whatever_its_pickle_is_called(whole, model, name, laid, statistics, imports, runs):
    """B5: one pickle for all checkpoints, beside one that is imported alone too; without it the policy sees other numbers."""
    folder = laid({model: "cartpole"})
    shutil.copy(statistics, folder / name)
    source = folder if whole else folder / model
    with pytest.raises(UsageError, match=rf"{name}: not loaded.*environment\.normalize="):
        imports(source, "CartPole-v1", run="run")
    assert not runs.exists()
    if name == "vecnormalize.pkl":
        report = imports(source, "CartPole-v1", run="run", settings={"environment": {"normalize": None}})
        assert any("normalisation statistics (vecnormalize.pkl" in what for what in report.begins_anew)
        assert (runs / "run" / "imported" / name).read_bytes() == statistics.read_bytes()


def test_normalisation_around_and_below_a_checkpoint_counts_and_anothers_does_not(laid, statistics, imports):
    """B5: as rl-zoo and others lay it; a pickle that lies with another training is that one's."""
    folder = laid({"a/rl_512_steps.zip": "cartpole", "b/x_512_steps.zip": "acrobot"})
    shutil.copy(statistics, folder / "b" / "vecnormalize.pkl")
    assert (
        imports(folder, "CartPole-v1", run="run", start="rl_512_steps.zip").start.config.environment.normalize is None
    )
    for number, place in enumerate(("vecnormalize.pkl", "a/CartPole-v1/vecnormalize.pkl")):
        (folder / place).parent.mkdir(exist_ok=True)
        shutil.copy(statistics, folder / place)
        with pytest.raises(UsageError, match=rf"{place}: not loaded"):
            imports(folder, "CartPole-v1", run=f"run{number}", start="rl_512_steps.zip")
        (folder / place).unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_links_beside_a_single_file_are_not_followed(laid, imports, runs, tmp_path):
    """B5: as in a folder: what is imported brings no file of this machine with it."""
    (tmp_path / "secret").write_text("secret")
    folder = laid({"rl_512_steps.zip": "cartpole"})
    names = ("rl_replay_buffer_512_steps.pkl", "rl_vecnormalize_512_steps.pkl")
    for name in names:
        (folder / name).symlink_to(tmp_path / "secret")
    report = imports(folder / "rl_512_steps.zip", run="run")
    assert report.left_out == dict.fromkeys(names, "a link, not followed")
    assert [path.name for path in (runs / "run" / "imported").iterdir()] == ["rl_512_steps.zip"]
