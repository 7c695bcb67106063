"""What an import does with files that are damaged, hostile, or nothing for it (B5; architecture, promises 3 and 6)."""

import base64
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from unbroken.errors import DamagedFile, UsageError
from unbroken.importing.importer import import_run
from unbroken.importing.pickled import class_named, schedule, train_frequency
from unbroken.importing.sb3_zip import algorithm_of, policy_of, read_sb3_zip
from unbroken.importing.settings import settings_of
from unbroken.inspection import show_checkpoint
from unbroken.request import make_request


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def bomb(tmp_path):
    """A pickle that leaves a trace, which no test may find; first it is shown that it would."""
    trace = tmp_path / "PWNED"
    raw = pickle.dumps(Bomb(trace))
    pickle.loads(raw)
    assert trace.exists()
    trace.unlink()
    yield raw
    assert not trace.exists()


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the PPO's folder to do harm to."""
    return shutil.copytree(trained / "ppo à côté", tmp_path / "ppo")


def rewritten(path, **members):
    """Write a zip again with other content of some members."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in {**content, **members}.items():
            archive.writestr(name, raw)


def described(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("data"))


def _array_of_objects(raw):
    """A file of numpy's whose content is a pickle."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return file.getvalue() + raw


def problems(report):
    return {found.path: found.problem for found in report.files if found.problem}


def test_no_pickle_of_a_description_is_loaded(folder, imports, bomb):
    """B5: every entry of `data` is a bomb; what can be read is read, and what is only in them has to be said."""
    path = folder / "feux tricolores_384_steps.zip"
    armed = {"serialized": base64.b64encode(bomb).decode()}
    data = described(path)
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = armed["serialized"]
    data["learning_rate"] = {":type:": "<class 'function'>", ":serialized:": armed["serialized"]}
    rewritten(path, data=json.dumps(data).encode())
    with pytest.raises(UsageError, match=r"hyperparameters\.learning_rate.*hyperparameters\.clip_range"):
        imports(folder, "CartPole-v1", run="run")
    given = {
        "policy": "MlpPolicy",
        "hyperparameters": {"learning_rate": 3e-4, "clip_range": 0.2, "rollout_buffer_class": None},
    }
    assert imports(folder, "CartPole-v1", run="run", settings=given).start.step == 384


def test_no_pickle_beside_the_checkpoints_is_loaded(folder, imports, bomb, runs):
    """B5: pickles, `.pt` files that need code, arrays of objects: all are kept, none is opened as such."""
    (folder / "feux tricolores_replay_buffer_384_steps.pkl").write_bytes(bomb)
    (folder / "whole_model.pt").write_bytes(bomb)
    with zipfile.ZipFile(folder / "best_model" / "evaluations.npz", "w") as archive:
        for name in ("timesteps.npy", "results.npy"):
            archive.writestr(name, _array_of_objects(bomb))
    report = imports(folder, "CartPole-v1", run="run")
    assert "loading it would run" in problems(report)["feux tricolores_replay_buffer_384_steps.pkl"]
    assert "not run" in problems(report)["whole_model.pt"]
    assert (runs / "run" / "imported" / "whole_model.pt").read_bytes() == bomb
    assert "best" not in report.models


def test_weights_that_are_a_pickle_are_refused(folder, imports, bomb, runs):
    """B5: also within the zip."""
    rewritten(folder / "feux tricolores_384_steps.zip", **{"policy.pth": bomb})
    with pytest.raises(DamagedFile, match=r"policy\.pth does not open as tensors alone"):
        imports(folder, "CartPole-v1", run="run")
    assert not runs.exists()
    assert imports(folder, "CartPole-v1", run="run", start="feux tricolores_320_steps.zip").start.step == 320


@pytest.mark.parametrize("place", ["learning_rate", "policy_kwargs"])
def test_code_that_only_the_file_names_is_refused(folder, imports, place):
    """B5: plain text in the description is no word of the user's either (decision 0007)."""
    path = folder / "feux tricolores_384_steps.zip"
    value = "antigravity:geohash" if place == "learning_rate" else {"features_extractor_class": "antigravity:geohash"}
    rewritten(path, data=json.dumps({**described(path), place: value}).encode())
    with pytest.raises(UsageError, match="names code to run"):
        imports(folder, "CartPole-v1", run="run")
    assert "antigravity" not in sys.modules


def test_damaged_files_are_named_kept_and_passed_over(folder, imports, runs):
    """B5, promise 3: truncated, altered, empty, no zip at all; the newest that is whole is the start."""
    names = [f"feux tricolores_{steps}_steps.zip" for steps in (192, 256, 320, 384)]
    truncated, altered, empty, text = (folder / name for name in names)
    truncated.write_bytes(truncated.read_bytes()[:-400])
    raw = bytearray(altered.read_bytes())
    raw[len(raw) // 2] ^= 1
    altered.write_bytes(raw)
    empty.write_bytes(b"")
    text.write_text("no zip")
    with zipfile.ZipFile(folder / "sources.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with zipfile.ZipFile(folder / "old_baselines.zip", "w") as archive:
        archive.writestr("parameter_list", "[]")
    report = imports(folder, "CartPole-v1", run="run")
    assert report.start.found.path == "feux tricolores_128_steps.zip"
    told = problems(report)
    assert set(told) == {*names, "sources.zip", "old_baselines.zip"}
    assert "altered" in told[names[1]]
    assert "not of Stable-Baselines3" in told["sources.zip"]
    assert "Stable-Baselines 2" in told["old_baselines.zip"]
    assert all(text in report.text() for text in told.values())
    assert (runs / "run" / "imported" / names[0]).read_bytes() == truncated.read_bytes()
    with pytest.raises(UsageError, match="damaged"):
        imports(folder, "CartPole-v1", run="other", start=names[0])


def test_a_member_that_would_fill_the_memory_is_not_read(folder, imports):
    """B5: a description of a few kilobytes that claims to be large."""
    path = folder / "feux tricolores_384_steps.zip"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("filler.pth", b"\0" * 40_000_000)
    assert "claims 40,000,000 bytes" in problems(imports(folder, run="run"))[path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights")
def test_links_are_not_followed(folder, imports, runs, tmp_path):
    """B5: a folder from elsewhere brings no file of this machine with it."""
    (tmp_path / "secret").write_text("secret")
    (folder / "link.zip").symlink_to(tmp_path / "secret")
    (folder / "more").symlink_to(tmp_path, target_is_directory=True)
    report = imports(folder, run="run")
    assert report.left_out == {"link.zip": "a link, not followed", "more": "a link, not followed"}
    assert "left out: link.zip" in report.text()
    assert not (runs / "run" / "imported" / "link.zip").exists()


def test_runs_inside_the_source_are_left_out(folder):
    """B5: the folder of the runs may lie in the folder that is imported, and never holds a copy of itself."""
    runs = folder / "runs"
    (runs / "other").mkdir(parents=True)
    (runs / "other" / "x.zip").write_text("x")
    report = import_run(folder, make_request(None, {"runs_dir": runs, "run": "run"}))
    assert report.left_out == {"runs": "the folder of the runs itself"}
    with pytest.raises(UsageError, match="is in the run 'run' itself"):
        import_run(runs / "run" / "imported", make_request(None, {"runs_dir": runs, "run": "run"}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"start": "nothing.zip"}, "0 files of that name"),
        ({"start": "final_model.zip", "files_only": True}, "give one of them"),
        ({"settings": {"hyperparameters": {"gamma": 0.9}}}, "nothing to go on from"),
        ({"start": "best_model/evaluations.npz"}, "holds nothing to go on from"),
        ({"start": "final_model.zip"}, "give --target ENV"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_makes_nothing(folder, imports, runs, words, message):
    """B5: with the way out, before anything is made."""
    with pytest.raises(UsageError, match=message) as refused:
        imports(folder, run="run", **words)
    assert "\n" not in str(refused.value)
    assert not runs.exists()


def test_nothing_there_is_said(imports, tmp_path):
    """B5: no folder, and one without files."""
    with pytest.raises(UsageError, match="there is nothing at"):
        imports(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file to import"):
        imports(tmp_path / "empty")


KILLED = """
import os, signal, sys
from pathlib import Path
from unbroken.store import durable
from unbroken.importing.importer import import_run
from unbroken.request import make_request
left, replace = int(sys.argv[1]), durable.LocalBackend.replace
def dying(self, src, dst):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(self, src, dst)
durable.LocalBackend.replace = dying
words = {"runs_dir": sys.argv[3], "run": "run", "device": "cpu"}
import_run(Path(sys.argv[2]), make_request("CartPole-v1", words))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("nth", [3, 6, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 2, 4, 5, 7, 8, 9))])
def test_killed_anywhere_the_same_command_completes_it(trained, imports, runs, tmp_path, contents, nth):
    """B5: before each file gets its name; nothing that is half made passes for a run."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("feux tricolores_320_steps.zip", "feux tricolores_384_steps.zip", "final_model.zip"):
        shutil.copy(trained / "ppo à côté" / name, source)
    child = [sys.executable, "-c", KILLED, str(nth), str(source), str(runs)]
    died = subprocess.run(
        child, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=120
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert not (runs / "run" / "run.yaml").exists()
    report = imports(source, "CartPole-v1", run="run")
    assert report.start.step == show_checkpoint(runs, "run")["step"] == 384
    kept = contents(runs / "run" / "imported")
    assert {name: digest for name, (digest, _) in kept.items()} == {
        n: digest for n, (digest, _) in contents(source).items()
    }


def test_another_content_under_the_same_name_is_never_written_over(folder, imports, runs):
    """B5: an import without a start is completed later only from the same files."""
    imports(folder, run="run")
    (folder / "final_model.zip").write_bytes(b"other")
    with pytest.raises(UsageError, match="is not what an earlier start of this import copied"):
        imports(folder, "CartPole-v1", run="run")
    assert (runs / "run" / "imported" / "final_model.zip").read_bytes() != b"other"


def _entry(value):
    from stable_baselines3.common.save_util import data_to_json

    return json.loads(data_to_json({"entry": value}))["entry"]


def test_values_are_told_from_the_instructions_of_a_pickle():
    """B5: constants and linear schedules, train frequencies and classes; anything else is unknown, not guessed."""
    from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
    from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

    assert schedule(_entry(FloatSchedule(0.25))) == 0.25
    assert schedule(_entry(ConstantSchedule(3))) == 3.0
    assert schedule(_entry(LinearSchedule(3e-4, 0.0, 1.0))) == "lin_0.0003"
    assert schedule(_entry(FloatSchedule(LinearSchedule(0.5, 0.0, 1.0)))) == "lin_0.5"
    assert schedule(_entry(LinearSchedule(3e-4, 1e-5, 1.0))) is None
    assert schedule(_entry(LinearSchedule(3e-4, 0.0, 0.5))) is None
    assert schedule(_entry(lambda progress: 3e-4 * progress)) is None
    assert train_frequency(_entry(TrainFreq(8, TrainFrequencyUnit.STEP))) == [8, "step"]
    assert train_frequency(_entry(TrainFreq(1, TrainFrequencyUnit.EPISODE))) == [1, "episode"]
    assert train_frequency(_entry(FloatSchedule(4))) is None
    assert class_named(_entry(torch.nn.ReLU)) == "torch.nn.modules.activation:ReLU"
    assert class_named({":serialized:": "not base64 at all"}) is None
    assert class_named({":serialized:": base64.b64encode(b"\x80\x05\xff").decode()}) is None


ALGORITHMS = {
    "ppo": {"policy_kwargs": {"activation_fn": torch.nn.ReLU}, "clip_range": 0.3},
    "a2c": {},
    "dqn": {"buffer_size": 50},
    "sac": {"buffer_size": 50},
    "td3": {"buffer_size": 50, "action_noise": 0.2},
    "ddpg": {"buffer_size": 50},
    "recurrent_ppo": {},
    "tqc": {"buffer_size": 50},
    "qrdqn": {"buffer_size": 50},
    "crossq": {"buffer_size": 50},
    "trpo": {},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_recognised_and_built_as_it_was(algorithm, imports, runs, tmp_path):
    """B5, A13: from the file alone; whatever its optimizers and networks hold fits into what is built."""
    from stable_baselines3.common.noise import NormalActionNoise

    from unbroken.learners.building import algorithm_class

    words = dict(ALGORITHMS[algorithm])
    continuous = algorithm in ("sac", "td3", "ddpg", "tqc", "crossq")
    target = "Pendulum-v1" if continuous else "CartPole-v1"
    if "action_noise" in words:
        words["action_noise"] = NormalActionNoise(np.zeros(1), np.full(1, words["action_noise"]))
    words["policy_kwargs"] = {"net_arch": [8, 8], **words.get("policy_kwargs", {})}
    policy = "MlpLstmPolicy" if algorithm == "recurrent_ppo" else "MlpPolicy"
    model = algorithm_class(algorithm)(policy, target, seed=3, device="cpu", **words)
    model.num_timesteps = 77
    model.save(tmp_path / "model.zip")
    report = imports(tmp_path / "model.zip", target, run="run")
    config = report.start.config
    assert (config.algo, config.policy, config.seed, report.start.step) == (algorithm, policy, 4, 77)
    assert not any("optimizer" in what for what in report.begins_anew)
    if algorithm == "td3":
        assert config.hyperparameters["action_noise"] == {"type": "normal", "mean": 0.0, "sigma": 0.2}
    if algorithm == "ppo":
        assert config.hyperparameters["policy_kwargs"] == {"net_arch": [8, 8], "activation_fn": "ReLU"}
        assert config.hyperparameters["clip_range"] == 0.3
    (made,) = (runs / "run" / "checkpoints").iterdir()
    with zipfile.ZipFile(made) as archive:
        held = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    assert all(torch.equal(held[name], value) for name, value in model.policy.state_dict().items())


def test_a_maskable_ppo_is_told_from_a_ppo(tmp_path):
    """B5: they have the same hyper-parameters."""
    from sb3_contrib import MaskablePPO

    MaskablePPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "model.zip")
    file = read_sb3_zip(tmp_path / "model.zip")
    assert algorithm_of(file) == "maskable_ppo"
    assert policy_of(file) == "sb3_contrib.common.maskable.policies:MaskableActorCriticPolicy"
    assert not settings_of(file, "maskable_ppo").pickled
