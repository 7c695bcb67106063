"""Trainings on one GPU: killed and resumed in new processes with the same bits, and carried to machines without one (A6, A8)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unbroken.capture.codec import encode
from unbroken.capture.rng import capture_generators, restore_generators
from unbroken.capture.state_dicts import StateDictCopies
from unbroken.inspection import compare
from unbroken.locate import find_checkpoint
from unbroken.testing.child import TrainingProcess
from unbroken.testing.twin import differences

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

HERE = Path(__file__).parent
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": ""}
_OFF_POLICY = ["--set", "hyperparameters.learning_starts=200", "--save-every", "500", "--steps", "2500"]
CASES = {
    "ppo": ["CartPole-v1", "--set", "hyperparameters.n_steps=128", "--save-every", "512", "--steps", "3072"],
    "ppo-torch": ["CartPole-v1", "--set", "hyperparameters.n_steps=128", "--save-every", "512", "--steps", "3072"],
    "dqn": ["CartPole-v1", "--set", "hyperparameters.train_freq=1", *_OFF_POLICY],
    "sac": ["Pendulum-v1", *_OFF_POLICY],
    "dqn of pictures": ["gpu_worlds:Pictures", "--set", "hyperparameters.buffer_size=2000", *_OFF_POLICY],
    "ppo of pictures": [
        "gpu_worlds:Pictures",
        "--set",
        "hyperparameters.n_steps=128",
        "--save-every",
        "512",
        "--steps",
        "1536",
    ],
}


def training(case: str, runs: Path, *more: str, device: str = "cuda", **variables: str) -> TrainingProcess:
    target, *rest = CASES[case]
    fixed = ["--algo", case.split()[0], "--device", device, "--run", "it", "--runs-dir", str(runs), "--eval-every", "0"]
    words = ["-m", "unbroken", "train", target, *fixed, "--set", "self_test=false", *rest, *more]
    return TrainingProcess(words, {"PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}", **variables})


def completed(process: TrainingProcess) -> list[str]:
    with process:
        assert process.wait(300) == 0, process.last_lines()
    return process.lines


@pytest.mark.parametrize("case", CASES)
def test_a_training_on_the_gpu_that_was_killed_ends_with_the_same_bits(tmp_path, case):
    """A6: twice killed in the middle, after a checkpoint, and continued in new processes on the same GPU."""
    twin = training(case, tmp_path / "twin")
    for _ in range(2):
        with training(case, tmp_path / "hurt") as process:
            assert process.wait_for("Saved ", 120), process.last_lines()
    last = completed(training(case, tmp_path / "hurt"))
    completed(twin)
    assert any("Resume: timestep=" in line for line in last)
    assert not any("exactness is not guaranteed" in line for line in last)
    assert differences(tmp_path / "hurt", tmp_path / "twin", "it") == []


@pytest.mark.parametrize("case", ["ppo", "ppo-torch", "sac"])
def test_a_checkpoint_of_the_gpu_goes_on_without_one_and_back(tmp_path, case):
    """A8: it works, and one line says that the bits may differ; the device that the run was given stays the run's."""
    completed(training(case, tmp_path, "--steps", "1024"))
    lines = completed(training(case, tmp_path, "--steps", "2048", **WITHOUT_GPU))
    notes = [line for line in lines if "exactness is not guaranteed on this leg" in line]
    assert len(notes) == 1
    assert f"cuda: {torch.cuda.get_device_name(0)} -> None" in notes[0]
    assert any("there is no usable GPU here; the training runs on the CPU" in line for line in lines)
    lines = completed(training(case, tmp_path, "--steps", "3072"))
    assert any(f"cuda: None -> {torch.cuda.get_device_name(0)}" in line for line in lines)


def test_plain_sb3_reads_a_checkpoint_of_the_gpu_on_a_machine_without_one(tmp_path):
    """A13: tensors are stored as the CPU's."""
    completed(training("ppo", tmp_path, "--steps", "512"))
    path = find_checkpoint("it", tmp_path).file
    code = f"from stable_baselines3 import PPO; model = PPO.load(r'{path}'); print(model.device, model.num_timesteps)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env={**os.environ, **WITHOUT_GPU}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["cpu", "512"], done.stderr


def test_a_loop_of_ones_own_with_dropout_on_the_gpu(tmp_path):
    """A14, A6: dropout draws from the GPU's generator."""
    script = str(HERE / "own_loop.py")
    twin = TrainingProcess([script, str(tmp_path / "twin")])
    for dies_at in (53, 131):
        with TrainingProcess([script, str(tmp_path / "hurt"), str(dies_at)]) as process:
            assert process.wait(120) == -9, process.last_lines()
    completed(TrainingProcess([script, str(tmp_path / "hurt")]))
    completed(twin)
    ends = [
        str(max((tmp_path / run / "checkpoints").glob("*.zip"), key=lambda p: int(p.stem.split("_")[-2])))
        for run in ("twin", "hurt")
    ]
    compared = compare(tmp_path, *ends)
    assert compared.identical, compared.text()


def test_the_generators_of_the_gpu_come_back():
    """A6"""
    torch.cuda.manual_seed(3)
    torch.rand(7, device="cuda")
    state = capture_generators()
    before = torch.rand(100, device="cuda")
    torch.rand(50, device="cuda")
    restore_generators(state)
    assert torch.equal(torch.rand(100, device="cuda"), before)
    restore_generators(state)
    assert encode(capture_generators()).document == encode(state).document


def test_a_snapshot_of_the_gpu_does_not_see_what_follows():
    """A10: copies into pinned memory are complete before training goes on."""
    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(12))).cuda()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    copies = StateDictCopies()
    for _ in range(5):
        taken = copies.take({"model": model, "optimizer": optimizer})
        expected = {name: value.cpu() for name, value in model.state_dict().items()}
        moments = [value.cpu() for state in optimizer.state.values() for value in state.values()]
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(256, 512, device="cuda")).square().mean().backward()
            optimizer.step()
        torch.cuda.synchronize()
        found = taken["model"]
        assert all(value.device.type == "cpu" for value in found.values())
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        held = [value for state in taken["optimizer"]["state"].values() for value in state.values()]
        assert len(held) == len(moments)
        assert all(torch.equal(one, other) for one, other in zip(held, moments, strict=True))
    assert all(value.is_pinned() for value in taken["model"].values())
