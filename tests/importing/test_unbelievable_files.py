"""Damaged side files stop no import, and what a stranger's file claims is believed within bounds, which is said (B5)."""

import json
import os
import shutil
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from unbroken.errors import IncompatibleRun, UsageError
from unbroken.inspection import show_checkpoint


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A plain PPO of CartPole that has trained 32 steps; read only."""
    path = tmp_path_factory.mktemp("model") / "rl_32_steps.zip"
    PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, policy_kwargs={"net_arch": [8]}, seed=1,
        device="cpu").learn(32).save(path)  # fmt: skip
    return path


@pytest.fixture
def folder(model, tmp_path):
    """A folder of it with a best model and its score."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("rl_32_steps.zip", "best_model.zip"):
        shutil.copy(model, folder / name)
    np.savez_compressed(folder / "evaluations.npz", timesteps=[32], results=[[900.0] * 200])
    return folder


def restated(path, **values):
    """Write a zip again with other plain values in its description."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["data"] = json.dumps({**json.loads(content["data"]), **values})
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)


def _altered_bytes(path):
    raw = bytearray(path.read_bytes())
    place = raw.find(b"PK\x03\x04")
    while place >= 0:
        name, extra = struct.unpack_from("<HH", raw, place + 26)
        content = place + 30 + name + extra
        raw[content : content + 20] = b"\xff" * 20
        place = raw.find(b"PK\x03\x04", content)
    path.write_bytes(raw)


def _in_every_header(path, local, central, value):
    """Set two bytes of each member's headers."""
    raw = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        place = raw.find(mark)
        while place >= 0:
            struct.pack_into("<H", raw, place + offset, value)
            place = raw.find(mark, place + 4)
    path.write_bytes(raw)


def _huge_claim(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("timesteps", "results"):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
                )


def _bomb(path):
    np.savez_compressed(path, timesteps=[32], results=np.zeros((1, 5_000_000)))


def _no_header(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("timesteps.npy", b"\x93NUMPY\x01\x00\x04\x00((((")


HARM = {
    "zlib": _altered_bytes,
    "claims 10^13 elements": _huge_claim,
    "encrypted": lambda path: _in_every_header(path, 6, 8, 1),
    "method 9": lambda path: _in_every_header(path, 8, 10, 9),
    "fills the memory": _bomb,
    "header of no array": _no_header,
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_damaged_scores_are_left_out_and_the_import_is_made(harm, folder, imports, runs, capsys):
    """B5, promise 3: whatever is wrong with them, the same command would meet it again."""
    harm(folder / "evaluations.npz")
    report = imports(folder, "CartPole-v1", run="run")
    assert (report.start.step, report.models) == (32, {})
    assert "evaluations.npz cannot be read as plain arrays: its scores are not used" in capsys.readouterr().out
    assert (runs / "run" / "imported" / "evaluations.npz").read_bytes() == (folder / "evaluations.npz").read_bytes()


def test_sound_scores_are_used(folder, imports):
    """B5: else the tests above could not fail."""
    assert imports(folder, "CartPole-v1", run="run").models == {"best": "best_model.zip"}


DOCUMENTS = {
    "metrics_iter_1.json": (b'{"score": 1' + b"0" * 400 + b', "other": 3}', "without what is not finite: score"),
    "metrics_iter_2.json": (b'{"score": NaN}', "without what is not finite: score"),
    "metrics_iter_3.json": (b"{", "NOT USED: metrics_iter_3.json is damaged: it is no JSON"),
    "metrics_iter_4.json": (b"[]", "NOT USED: metrics_iter_4.json is damaged: it is no JSON object"),
    "metrics_iter_5.json": (b"[" * 100_000, "NOT USED: metrics_iter_5.json is damaged: it is no JSON"),
    "no_model_iter_6.json": (b'{"reason": "a \\ud800 half"}', "a \\ud800 half"),
    "metrics_iter_7.json": (b'{"\\udfff": 1}', "\\udfff = 1"),
    "metrics_iter_8.zip": (b"", "NOT USED: metrics_iter_8.zip is damaged or truncated"),
    "metrics_iter_9.json": (b'{"n": ' + b"9" * 5000 + b"}", "NOT USED: metrics_iter_9.json is damaged: it is no JSON"),
}


def test_damaged_documents_of_iterations_are_left_out_with_a_line(tmp_path, imports, runs):
    """B5, promise 3: the table has what can be read, and each that cannot is named."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name, (raw, _) in DOCUMENTS.items():
        (folder / name).write_bytes(raw)
    report = imports(folder, run="run")
    text = report.text()
    for name, (_, line) in DOCUMENTS.items():
        assert line in text, name
    rows = {row.iteration: row for row in report.iterations}
    assert (rows[1].metrics, rows[2].metrics, rows[6].reason) == ({"other": 3.0}, {}, "a \\ud800 half")
    written = json.loads((runs / "run" / "import.json").read_text(encoding="utf-8"))
    assert written["complete"]


CLAIMS = {
    "n_envs": ({"n_envs": 10**9}, r"environment\.n_envs = 1,000,000,000"),
    "n_steps": ({"n_steps": 10**12}, r"hyperparameters\.n_steps = 1,000,000,000,000"),
    "layers": (
        {"policy_kwargs": {"net_arch": [10**8, 10**8]}},
        r"policy_kwargs\.net_arch = \[100000000, 100000000\] with [\d,]+ bytes of weights",
    ),
    "layers of parts": ({"policy_kwargs": {"net_arch": {"pi": [20_000, 20_000], "vf": []}}}, "bytes of weights"),
    "a buffer": ({"batch_size": -(10**10)}, r"hyperparameters\.batch_size = -10,000,000,000"),
}


@pytest.mark.parametrize(("values", "message"), CLAIMS.values(), ids=CLAIMS)
def test_sizes_that_would_fill_the_memory_count_only_if_the_user_says_them(values, message, folder, imports, runs):
    """B5: one line with the way out, at once; with a value of the user's the import is made."""
    restated(folder / "rl_32_steps.zip", **values)
    with pytest.raises(UsageError, match=message + r".* not believed: give it with --set") as refused:
        imports(folder, "CartPole-v1", run="run")
    assert "\n" not in str(refused.value)
    assert not runs.exists()
    said = {"hyperparameters": {"n_steps": 32, "batch_size": 32, "policy_kwargs": {"net_arch": [8]}}}
    report = imports(folder, "CartPole-v1", run="run", settings={**said, "environment": {"n_envs": 1}})
    assert report.start.step == 32


def test_what_has_no_room_is_one_line(folder, imports, runs):
    """B5: also what the user says after the file."""
    said = {"hyperparameters": {"n_steps": 10**15}}
    with pytest.raises(IncompatibleRun, match=r"rl_32_steps\.zip describes cannot be built here: .*--set") as refused:
        imports(folder, "CartPole-v1", run="run", settings=said)
    assert "\n" not in str(refused.value)
    assert not runs.exists()


@pytest.mark.parametrize("n", ["²", "9" * 20, "-1"])
def test_a_space_of_no_number_is_not_guessed(n, folder, imports):
    """B5: what the text beside a pickle says is a number only where it is one of ours."""
    path = folder / "rl_32_steps.zip"
    with zipfile.ZipFile(path) as archive:
        space = json.loads(archive.read("data"))["action_space"]
    restated(path, action_space={**space, "n": n})
    (found,) = (found for found in imports(folder, run="run").files if found.path == path.name)
    assert (found.problem, found.action) == (None, "Discrete")


def test_steps_that_no_training_has_are_not_believed(folder, imports, runs):
    """B5: neither in a name nor in a file, and that is said."""
    actor = torch.nn.Linear(4, 2).state_dict()
    torch.save({"actor": actor}, folder / "checkpoint_99999999999999999999.pt")
    restated(folder / "best_model.zip", num_timesteps=10**30)
    report = imports(folder, "CartPole-v1", run="run", start="checkpoint_99999999999999999999.pt")
    assert report.start.step == show_checkpoint(runs, "run")["step"] == 0
    steps = {found.path: (found.steps, "not believed" in found.says) for found in report.files if found.algorithm}
    assert steps == {
        "best_model.zip": (None, True),
        "checkpoint_99999999999999999999.pt": (None, True),
        "rl_32_steps.zip": (32, False),
    }


def test_tensors_that_claim_more_than_their_file_holds_are_not_used(tmp_path, imports):
    """B5: one number repeated by its strides is a layer of any size."""
    (tmp_path / "weights").mkdir()
    actor = {"0.weight": torch.zeros(1).expand(20_000, 20_000), "2.weight": torch.zeros(1).expand(2, 20_000)}
    torch.save({"actor": actor}, tmp_path / "weights" / "checkpoint_10.pt")
    (found,) = imports(tmp_path / "weights", run="run").files
    assert "claims tensors larger than itself" in found.problem


def test_values_of_no_form_are_no_end_of_the_import(folder, imports):
    """B5: a description is a stranger's text in all its places."""
    odd = {"policy_kwargs": [1], "policy_class": 3, "n_envs": "many", "batch_size": None, "action_space": []}
    restated(folder / "best_model.zip", **odd, policy_delay=1, target_policy_noise=0.1)
    assert imports(folder, "CartPole-v1", run="run", start="rl_32_steps.zip").start.step == 32


def test_a_name_too_long_for_a_copy_is_left_out(folder, imports, runs):
    """B5: while a copy is written its name is longer; what cannot be taken is named, and the rest is."""
    name = "é" * 120 + ".zip"
    shutil.copy(folder / "rl_32_steps.zip", folder / name)
    shutil.copy(folder / "rl_32_steps.zip", folder / ("x" * 226 + ".zip"))
    report = imports(folder, "CartPole-v1", run="run")
    assert list(report.left_out) == [name]
    assert "too long" in report.text()
    assert (runs / "run" / "imported" / ("x" * 226 + ".zip")).is_file()
    with pytest.raises(UsageError, match=r"no file to import in .*too long"):
        imports(folder / name, run="other")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
def test_what_is_neither_folder_nor_file_is_refused(tmp_path, imports, runs):
    """B5: reading a pipe that nobody writes to would never end."""
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(UsageError, match="neither a folder nor a plain file"):
        imports(tmp_path / "pipe.zip", run="run")
    os.mkfifo(tmp_path / "vecnormalize.pkl")
    os.mkfifo(tmp_path / "other.pkl")
    (tmp_path / "model.zip").write_text("no zip")
    assert imports(tmp_path / "model.zip", run="run").left_out == {"vecnormalize.pkl": "not a plain file"}


@pytest.mark.skipif(sys.platform != "linux", reason="names in bytes")
def test_a_folder_whose_name_is_no_text_is_imported(folder, imports, runs):
    """B5: what the report says of it can be written."""
    odd = folder.rename(os.fsdecode(os.fsencode(folder) + b"\xe9"))
    assert imports(odd, run="run").source.endswith("source\\udce9")
    assert imports(odd, "CartPole-v1", run="run").start.step == 32
