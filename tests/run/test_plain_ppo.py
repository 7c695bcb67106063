"""`--algo ppo-torch` through the same run as every other algorithm (A14): exact after SIGKILL, and everything a run leaves."""

import json
import signal
import subprocess
import sys

import gymnasium
import pytest
import torch

import unbroken
from unbroken.capture.tracked import Tracked
from unbroken.errors import ConfigurationError, IncompatibleRun
from unbroken.inspection import compare, list_run
from unbroken.learners.ppo import PPO, Copies
from unbroken.testing.child import TrainingProcess
from unbroken.testing.twin import differences

RUN = "CartPole-v1-ppo_torch-seed0"
TINY = {"hyperparameters": {"n_steps": 64, "batch_size": 64, "n_epochs": 2}, "self_test": False}

# SIGKILL in the middle of a rollout, at a step that the test chooses: the command itself is unchanged
CHILD = """
import os, signal, sys
from unbroken.learners import ppo
left, real = int(sys.argv[1]), ppo.Copies.step
def step(self, *arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments)
ppo.Copies.step = step
from unbroken.cli import main
sys.argv = ["unbroken", *sys.argv[2:]]
main()
"""


def command(runs, kill_at=0, **settings):
    chosen = {"hyperparameters.n_steps": 64, "hyperparameters.n_epochs": 2, "self_test": "false", **settings}
    words = [f"--set={key}={value}" for key, value in chosen.items()]
    options = [
        "--n-envs",
        "2",
        "--steps",
        "1536",
        "--save-every",
        "256",
        "--eval-every",
        "512",
        "--runs-dir",
        str(runs),
    ]
    target = settings.pop("target", "CartPole-v1")
    return ["-c", CHILD, str(kill_at), "train", target, "--algo", "ppo-torch", *options, *words]


def run(runs, kill_at=0, **settings):
    with TrainingProcess(command(runs, kill_at, **settings)) as process:
        return process.wait(120), process


@pytest.mark.parametrize(
    "settings", [{}, {"hyperparameters.learning_rate": "lin_1e-3", "hyperparameters.ent_coef": 0.01}]
)
def test_killed_in_mid_rollout_it_ends_with_the_same_bits(tmp_path, settings):
    """A14, A6: state, best and final model, metrics and TensorBoard of a run killed three times equal those of its twin."""
    assert run(tmp_path / "twin", **settings)[0] == 0
    steps = []
    for kill_at in (64 * 4 + 17, 64 * 4 + 40, 64 * 4 + 1):
        code, process = run(tmp_path / "hurt", kill_at, **settings)
        assert code == -signal.SIGKILL, process.last_lines()
        steps.append(process.resumed_at)
    code, process = run(tmp_path / "hurt", **settings)
    assert code == 0, process.last_lines()
    assert steps[0] is None
    # a save may still be on its way to the disk when its process is killed
    assert 0 < steps[1] <= steps[2] <= process.resumed_at < 1536
    found = differences(tmp_path / "hurt", tmp_path / "twin", RUN)
    assert not found, found
    first, second = (json.loads((tmp_path / w / RUN / "training_metadata.json").read_text()) for w in ("twin", "hurt"))
    assert (len(first["legs"]), len(second["legs"])) == (1, 4)
    assert first["mean_reward"] == second["mean_reward"]


def test_sigterm_saves_at_the_next_cut_and_exits_75(tmp_path):
    """A11."""
    arguments = command(tmp_path)
    arguments[arguments.index("1536")] = "10000000"
    with TrainingProcess(arguments) as process:
        assert process.wait_for("checkpoint_512.pt"), process.last_lines()
        process.signal(signal.SIGTERM)
        assert process.wait(60) == 75, process.last_lines()
    done = subprocess.run(
        [sys.executable, "-m", "unbroken", "checkpoints", "verify", RUN, "--runs-dir", str(tmp_path)], check=False
    )
    assert done.returncode == 0


def train(runs, **words):
    given = {"algo": "PPO-Torch", "runs_dir": runs, "save_every": 128, "eval_every": 0, "steps": 384, "settings": TINY}
    return unbroken.train("CartPole-v1", **{**given, **words})


def names(runs, run=RUN):
    return sorted(path.name for path in (runs / run).rglob("*.pt"))


def test_what_a_run_leaves(tmp_path):
    """A14, A8, A9: the names of the requirement, readable by torch alone; list, verify, diff, metadata."""
    outcome = train(tmp_path)
    assert (outcome.step, outcome.exit_code) == (384, 0)
    assert names(tmp_path) == ["best_model.pt", "checkpoint_256.pt", "checkpoint_384.pt", "final_model.pt"]
    assert all(row["valid"] for row in list_run(tmp_path, RUN))
    assert [row["tier"] for row in list_run(tmp_path, RUN)] == ["rolling", "rolling", "best", "final"]
    whole = torch.load(tmp_path / RUN / "checkpoints" / "checkpoint_384.pt", weights_only=True)
    assert {"actor", "critic", "actor_optimizer", "critic_optimizer", "timestep", "episode"} < set(whole)
    assert whole["timestep"] == 384
    assert whole["episode"] == len(whole["episode_rewards"]) == len(whole["episode_lengths"]) > 5
    final = torch.load(tmp_path / RUN / "final_model.pt", weights_only=True)
    assert all(torch.equal(final["actor"][key], whole["actor"][key]) for key in final["actor"])
    metadata = json.loads((tmp_path / RUN / "training_metadata.json").read_text())
    assert metadata["algorithm"] == "PPOTorch"
    assert metadata["observation_space_shape"] == [4]
    assert metadata["policy_architecture"]["actor.net.0.weight"] == [64, 4]
    assert metadata["not_captured"] == []
    rows = [json.loads(line) for line in (tmp_path / RUN / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [64, 128, 192, 256, 320, 384]
    assert {"train/approx_kl", "train/explained_variance", "rollout/ep_rew_mean"} <= set(rows[-1])


def test_the_target_and_what_follows_it(tmp_path, capsys):
    """A4: nothing to do, more, and two legs equal one."""
    train(tmp_path / "a")
    assert train(tmp_path / "a").reason == "target reached before"
    assert train(tmp_path / "a", steps=None, more=256).step == 640
    train(tmp_path / "b", steps=640)
    compared = compare(tmp_path, *(str(tmp_path / w / RUN / "checkpoints" / "checkpoint_640.pt") for w in "ab"))
    assert compared.identical, compared.text()
    assert compared.leaves > 60
    (tmp_path / "a" / RUN / "final_model.pt").unlink()
    train(tmp_path / "a", steps=640)
    assert "Wrote final_model.pt from the checkpoint of step 640" in capsys.readouterr().out
    assert torch.load(tmp_path / "a" / RUN / "final_model.pt", weights_only=True)["timestep"] == 640


def test_fork_and_fresh(tmp_path, capsys):
    """A3, A5: a fork begins from a chosen `.pt`; a fresh start puts all of them aside."""
    train(tmp_path)
    before = (tmp_path / RUN / "checkpoints" / "checkpoint_256.pt").read_bytes()
    assert unbroken.train(checkpoint=f"{RUN}@256", runs_dir=tmp_path, steps=512, settings=TINY).step == 512
    assert "checkpoint_512.pt" in names(tmp_path, f"{RUN}-fork-256")
    assert (tmp_path / RUN / "checkpoints" / "checkpoint_256.pt").read_bytes() == before
    train(tmp_path, fresh=True, steps=128)
    assert names(tmp_path).count("final_model.pt") == 2
    assert sorted(path.name for path in (tmp_path / RUN / "checkpoints").iterdir()) == ["checkpoint_128.pt"]


def test_a_damaged_newest_is_skipped(tmp_path, capsys):
    """A7: a torn `.pt` goes to the quarantine, the one before it is used."""
    train(tmp_path)
    newest = tmp_path / RUN / "checkpoints" / "checkpoint_384.pt"
    newest.write_bytes(newest.read_bytes()[:-200])
    train(tmp_path, steps=512)
    out = capsys.readouterr().out
    assert "Skipped checkpoint_384.pt" in out
    assert "Resume: timestep=256" in out


def test_a_lost_run_yaml_and_metadata_lose_nothing(tmp_path, capsys):
    """A7: the checkpoint carries the configuration, its names say which learner made it."""
    train(tmp_path)
    for name in ("run.yaml", "training_metadata.json"):
        (tmp_path / RUN / name).unlink()
    assert unbroken.train(run=RUN, runs_dir=tmp_path, steps=512).step == 512
    assert "Resume: timestep=384" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"hyperparameters": {"net_arch": [32]}}, "net_arch"),
        ({"hyperparameters": {"n_steps": 32}}, "n_steps"),
        ({"environment": {"n_envs": 3}}, "n_envs"),
    ],
)
def test_a_change_that_the_run_cannot_take(tmp_path, changed, words):
    """A5: with the difference."""
    train(tmp_path, steps=128)
    settings = {**TINY, **changed}
    if "hyperparameters" in changed:
        settings["hyperparameters"] = {**TINY["hyperparameters"], **changed["hyperparameters"]}
    with pytest.raises(IncompatibleRun, match=words):
        train(tmp_path, settings=settings)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"environment": {"vec_env": "subproc"}}, "environment.vec_env"),
        ({"environment": {"normalize": {}}}, "environment.normalize"),
        ({"callbacks": ["a:B"]}, "callbacks"),
        ({"hyperparameters": {"n_step": 3}}, "did you mean 'n_steps'"),
    ],
)
def test_what_it_lacks_is_refused(tmp_path, section, words):
    """A2: and not ignored."""
    with pytest.raises(ConfigurationError, match=words):
        train(tmp_path, settings={**TINY, **section})


# files of the library alone, and of earlier trainers


def agent(seed=0):
    return PPO(Copies([gymnasium.make("CartPole-v1") for _ in range(2)], seed=seed), seed=seed)


def test_save_and_load_with_training_state(tmp_path):
    """A14: the pair of the requirement; the loaded one goes on bit for bit."""
    one = agent()
    one.learn(1_024)
    path = tmp_path / "kept" / "checkpoint_1024.pt"
    one.save_with_training_state(path, one.timestep, one.episode, one.episode_rewards, one.episode_lengths)
    two = agent(seed=7)
    timestep, episode, rewards, lengths = two.load_with_training_state(path)
    assert (timestep, episode) == (1_024, len(rewards))
    assert rewards == one.episode_rewards
    assert lengths == one.episode_lengths
    for each in (one, two):
        each.learn(2_048)
    assert two.episode_rewards == one.episode_rewards
    assert all(torch.equal(a, b) for a, b in zip(one.actor.parameters(), two.actor.parameters(), strict=True))


PARTS = ["actor", "critic", "actor_optimizer", "critic_optimizer", "generator", "copies", "environment 1"]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_not_restored_is_seen(tmp_path, monkeypatch, part):
    """A14: the test above can fail."""
    one, two = agent(), agent(seed=7)
    one.learn(1_024)
    path = tmp_path / "checkpoint_1024.pt"
    one.save_with_training_state(path, one.timestep, one.episode, one.episode_rewards, one.episode_lengths)
    real = Tracked._fill
    monkeypatch.setattr(Tracked, "_fill", lambda self, name, *rest: [] if name == part else real(self, name, *rest))
    two.load_with_training_state(path)
    for each in (one, two):
        each.learn(2_048)
    pairs = [*zip(one.actor.parameters(), two.actor.parameters(), strict=True)]
    pairs += zip(one.critic.parameters(), two.critic.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def old_content(kind, source):
    states = {"actor": source.actor.state_dict(), "critic": source.critic.state_dict()}
    renamed = {"actor": {f"layers.{k}": v for k, v in enumerate(states["actor"].values())}, "critic": states["critic"]}
    adam = torch.optim.Adam(source.actor.parameters(), 1e-3)
    return {
        "short names": states,
        "long names": {f"{name}_state_dict": state for name, state in states.items()},
        "one state dict": {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()},
        "inside model_state_dict": {
            "model_state_dict": {f"{name}.{key}": v for name, state in states.items() for key, v in state.items()}
        },
        "other layer names": renamed,
        "with histories": {
            **states,
            "timestep": 77,
            "episode": 2,
            "episode_rewards": [1.0, 2.0],
            "episode_lengths": [5, 6],
        },
        "with optimizers": {**states, "actor_optimizer": filled(adam), "critic_optimizer": {"odd": 1}},
    }[kind]


def filled(adam):
    for parameter in adam.param_groups[0]["params"]:
        adam.state[parameter] = {
            "step": torch.tensor(3.0),
            "exp_avg": torch.full_like(parameter, 0.5),
            "exp_avg_sq": torch.full_like(parameter, 0.25),
        }
    return adam.state_dict()


KINDS = [
    "short names",
    "long names",
    "one state dict",
    "inside model_state_dict",
    "other layer names",
    "with histories",
    "with optimizers",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_earlier_trainers(tmp_path, caplog, kind, zipped):
    """A14: weights load, and one line names what is missing."""
    source, target = agent(seed=3), agent(seed=4)
    path = tmp_path / "old.pt"
    torch.save(old_content(kind, source), path, _use_new_zipfile_serialization=zipped)
    timestep, episode, rewards, lengths = target.load_with_training_state(path)
    for name in ("actor", "critic"):
        pairs = zip(getattr(source, name).parameters(), getattr(target, name).parameters(), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)
    said = [record.message for record in caplog.records if "begin anew" in record.message]
    assert len(said) == 1
    assert "critic_optimizer" in said[0]
    assert "generators, environments" in said[0]
    if kind == "with histories":
        assert (timestep, episode, rewards, lengths) == (77, 2, [1.0, 2.0], [5, 6])
        assert "episode_rewards" not in said[0]
    else:
        assert (timestep, episode, rewards, lengths) == (0, 0, [], [])
        assert "episode_rewards" in said[0]
    if kind == "with optimizers":
        moments = target.actor_optimizer.adam.state[target.actor_optimizer.vector]["exp_avg"]
        assert torch.equal(moments, torch.full_like(moments, 0.5))
        assert "actor_optimizer" not in said[0]
    target.learn(target.timestep + 1)


class Planted:
    """What no file may make."""

    def __reduce__(self):
        return (print, ("code of a file has run",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_does_not_run(tmp_path, capsys, zipped):
    """A14, promise 6: weights_only, and nothing else."""
    path = tmp_path / "evil.pt"
    torch.save({"actor": Planted()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="does not hold tensors and plain values alone"):
        agent().load_with_training_state(path)
    assert "has run" not in capsys.readouterr().out


def test_other_networks_are_refused(tmp_path):
    """A14: with the reason."""
    path = tmp_path / "old.pt"
    torch.save({"actor": {"net.0.weight": torch.zeros(3, 3)}}, path)
    with pytest.raises(IncompatibleRun, match="does not fit"):
        agent().load_with_training_state(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(IncompatibleRun, match="no actor"):
        agent().load_with_training_state(path)


def test_a_model_for_use_loads_as_weights(tmp_path, caplog):
    """A14: best_model.pt and final_model.pt have no training state, and loading says so."""
    train(tmp_path)
    timestep, *_ = PPO(Copies([gymnasium.make("CartPole-v1")])).load_with_training_state(
        tmp_path / RUN / "final_model.pt"
    )
    assert timestep == 384
    assert "actor_optimizer, critic_optimizer" in caplog.text
