"""The shipped single-file PPO as a real process: SIGKILL in mid-training, run again, the same bits (A14, A6)."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from unbroken.inspection import compare, list_run
from unbroken.testing.child import TrainingProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "cleanrl_style_ppo.py"
STEPS = 6_000
SAVED = "cleanrl_checkpoint_{}_steps.zip"


def words(folder):
    return [str(EXAMPLE), "--run", str(folder / "cleanrl"), "--total-timesteps", str(STEPS), "--save-every", "500"]


def finish(folder):
    with TrainingProcess(words(folder)) as process:
        assert process.wait(180) == 0, process.last_lines()
        return process.lines


def kill_after(folder, step, episodes=3):
    """SIGKILL some episodes after a checkpoint, in the middle of a rollout; returns what was printed."""
    with TrainingProcess(words(folder)) as process:
        assert process.wait_for(f"Saved checkpoints/{SAVED.format(step)}"), process.last_lines()
        seen = len(process.lines)
        while process.running and len([line for line in process.lines[seen:] if "episodic_return" in line]) < episodes:
            time.sleep(0.005)
        assert process.kill() == -signal.SIGKILL
        return process.lines


def episodes(lines):
    # the writing thread's lines may come between the parts of one
    return re.findall(r"global_step=(\d+), episodic_return=(\d+)", "\n".join(lines))


def test_killed_three_times_it_ends_with_the_same_bits(tmp_path):
    """A14, A6: final weights, and every bit of the last checkpoint, against a run that nobody disturbed."""
    twin = finish(tmp_path / "twin")
    hurt = tmp_path / "hurt"
    for step in (1024, 2560, 4608):
        kill_after(hurt, step)
    rest = finish(hurt)
    assert any(re.search("Resume: timestep=(4608|5120)", line) for line in rest), rest[:10]
    agents = [torch.load(tmp_path / which / "cleanrl" / "agent.pt", weights_only=True) for which in ("twin", "hurt")]
    assert all(torch.equal(agents[0][name], agents[1][name]) for name in agents[0])
    ends = [tmp_path / which / "cleanrl" / "checkpoints" / SAVED.format(6144) for which in ("twin", "hurt")]
    compared = compare(tmp_path, *map(str, ends))
    # the script never seeds its action spaces, nor samples them: Gymnasium seeds them from the operating system
    odd = [difference for difference in compared.differences if "action_space[" not in difference[0]]
    assert not odd, compared.text()
    assert compared.leaves > 150
    # the episodes of the last leg are those of the twin, to the step
    assert episodes(rest) == episodes(twin)[-len(episodes(rest)) :]


def test_the_store_of_the_command_reads_it(tmp_path):
    """A14: list and verify find the run, a third start does nothing."""
    finish(tmp_path)
    rows = list_run(tmp_path, "cleanrl")
    assert [(row["step"], row["valid"]) for row in rows] == [(5632, True), (6144, True), (6144, True)]
    command = [sys.executable, "-m", "unbroken", "checkpoints", "verify", "cleanrl", "--runs-dir", str(tmp_path)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert any("Target reached" in line for line in finish(tmp_path))


def test_under_ten_lines_are_ours():
    """A14: without the marked lines, and with the loop's header as before, nothing of the script names us."""
    marked = [line for line in EXAMPLE.read_text().splitlines() if line.endswith("# unbroken")]
    assert 0 < len(marked) < 10
    rest = [line for line in EXAMPLE.read_text().split('"""')[2].splitlines() if line not in marked]
    assert not any("ckpt" in line or "own." in line or "unbroken" in line.replace("runs/", "") for line in rest)
