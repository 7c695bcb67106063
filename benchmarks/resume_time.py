"""From the start of a process to the first new environment step after a resume, beside plain Stable-Baselines3.

    python benchmarks/resume_time.py [--quick] [--json FILE]

Whole processes in turn: `unbroken train` continuing a PPO run, and a script that does `PPO.load` and `learn`. SB3's
restores less (no generators, no environment) and verifies nothing. The environment's self-test belongs to the first leg
and is reported apart. `unbroken --help` is measured too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from first_step import MARK, PARENT
from machine import Target, arguments, describe_machine, finish, machine_line, median, p90, paired_ratio, table

HERE = Path(__file__).resolve().parent
STEPS = 2_048
MORE = 1_000_000
UNBROKEN = [sys.executable, "-m", "unbroken"]
TRAIN = [*UNBROKEN, "train", "first_step:cart_pole", "--device", "cpu", "--seed", "0"]

# what people write who continue from SB3's own zip
PLAIN = """
import sys
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from first_step import cart_pole

env = make_vec_env(cart_pole, n_envs=1, seed=0)
model = PPO.load(sys.argv[1], env=env, device="cpu")
model.learn(int(sys.argv[2]), reset_num_timesteps=False)
"""

FIRST = """
import sys
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from first_step import cart_pole

model = PPO("MlpPolicy", make_vec_env(cart_pole, n_envs=1, seed=0), seed=0, device="cpu")
model.learn(int(sys.argv[2]))
model.save(sys.argv[1])
"""


def environment(**more: str) -> dict[str, str]:
    """Environment variables of a measured process: modules beside this file are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]), **more}


def run(command: list[str]) -> str:
    """A process run to its end; its output."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def first_step(command: list[str], folder: Path) -> tuple[float, str]:
    """Seconds from the start of a process to the first step of its environment, and what it had printed by then."""
    mark = folder / "mark"
    mark.unlink(missing_ok=True)
    started = time.time()
    done = subprocess.run(
        command,
        env=environment(**{MARK: str(mark), PARENT: str(os.getpid())}),
        capture_output=True,
        text=True,
        check=False,
    )
    if not mark.exists():
        raise RuntimeError(f"{command} took no step:\n{done.stdout}{done.stderr}")
    return float(mark.read_text(encoding="ascii")) - started, done.stdout


def resumed(folder: Path, repetitions: int) -> tuple[list[float], list[float]]:
    """Times of ours and SB3's resumes, taken in turn; both have files of the same training."""
    runs = ["--runs-dir", str(folder / "runs"), "--run", "resumed"]
    run([*TRAIN, *runs, "--steps", str(STEPS)])
    zip_file = str(folder / "sb3.zip")
    run([sys.executable, "-c", FIRST, zip_file, str(STEPS)])
    ours, theirs = [], []
    for k in range(repetitions + 1):
        seconds, said = first_step([*TRAIN, *runs, "--steps", str(MORE)], folder)
        if "Resuming from checkpoint" not in said or "Self-test" in said:
            raise RuntimeError(f"this was not a resume without self-test:\n{said}")
        plain, _ = first_step([sys.executable, "-c", PLAIN, zip_file, str(MORE)], folder)
        # the first pair warms the disk cache
        if k:
            ours.append(seconds)
            theirs.append(plain)
    return ours, theirs


def first_legs(folder: Path, repetitions: int) -> tuple[list[float], list[float], list[float]]:
    """First legs with and without self-test, and the seconds that the first of them waited for its verdict."""
    tested, untested, waited = [], [], []
    for k in range(repetitions):
        runs = ["--runs-dir", str(folder / "runs"), "--steps", str(MORE), "--run"]
        seconds, said = first_step([*TRAIN, *runs, f"tested-{k}"], folder)
        tested.append(seconds)
        found = re.search(r"Self-test: .*, waited ([0-9.]+) s", said)
        if found is None:
            raise RuntimeError(f"no self-test in the first leg:\n{said}")
        waited.append(float(found[1]))
        untested.append(first_step([*TRAIN, *runs, f"untested-{k}", "--set", "self_test=false"], folder)[0])
    return tested, untested, waited


def help_times(repetitions: int) -> list[float]:
    """Seconds that the installed command takes for `--help`."""
    command = [str(Path(sys.executable).with_name("unbroken")), "--help"]
    times = []
    for _ in range(repetitions + 1):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    return times[1:]


def main() -> int:
    """Measure and print the table."""
    options = arguments(__doc__.partition("\n")[0])
    machine = describe_machine()
    pairs, firsts, helps = (2, 1, 3) if options.quick else (7, 3, 15)
    folder = Path(tempfile.mkdtemp(prefix=".resume-time-", dir=Path.cwd()))
    try:
        ours, theirs = resumed(folder, pairs)
        tested, untested, waited = first_legs(folder, firsts)
    finally:
        shutil.rmtree(folder)
    shown = help_times(helps)
    ratio = paired_ratio(ours, theirs)
    measured: dict[str, Any] = {
        "machine": machine,
        "resume": {"ours": ours, "sb3": theirs, "ratio": ratio},
        "first_leg": {"with_self_test": tested, "without": untested, "waited": waited},
        "help": shown,
    }
    rows = [
        _row("PPO.load, learn (plain SB3)", theirs),
        _row("unbroken train, resuming", ours, f"{ratio:.2f}"),
        _row("unbroken train, first leg without self-test", untested),
        _row(f"unbroken train, first leg with self-test (waits {median(waited):.1f} s)", tested),
        _row("unbroken --help", shown),
    ]
    text = "\n".join(
        [
            machine_line(machine),
            "Process start to first new environment step, whole processes in turn; the ratio is the median of neighbours.",
            "",
            table(("process", "runs", "median s", "p90 s", "ratio"), rows),
            "",
        ]
    )
    targets = [
        Target("resume / SB3's load", ratio, 1.1),
        Target("unbroken --help, seconds", median(shown), 0.3),
    ]
    return finish(text, measured, targets, options)


def _row(name: str, values: list[float], ratio: str = "") -> list[str]:
    return [name, str(len(values)), f"{median(values):.3f}", f"{p90(values):.3f}", ratio]


if __name__ == "__main__":
    sys.exit(main())
