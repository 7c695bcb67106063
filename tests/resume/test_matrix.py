"""A6: every cell of cells.yaml, killed with SIGKILL and resumed by the same command, ends with the bits of plain SB3.

Each leg and the reference run in fresh interpreters. The reference (reference.py) never imports unbroken, but
for the traffic environments where it trains in them. Compared are the
whole state at the end of every `learn()`, every observation and reward, every logged value, and the evaluations.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
SEED = 11
EVALUATION_COPY = SEED + 1_000_000
WALL_CLOCK_LOGS = {"time/fps", "time/time_elapsed"}
TABLE = yaml.safe_load((HERE / "cells.yaml").read_text(encoding="utf-8"))


def merged(base, over):
    """Nested dicts laid over one another."""
    both = dict(base)
    for key, value in over.items():
        inner = both.get(key)
        both[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


def settings_of(cell):
    """A cell with everything that its algorithm and features say."""
    found = merged(TABLE["defaults"], TABLE["algorithms"][cell["algo"]])
    for feature in cell.get("features", []):
        found = merged(found, TABLE["features"][feature])
    if "family" in cell:
        found = merged(found, {"world": cell["family"], **TABLE["families"][cell["family"]]})
    return merged(found, cell)


def name_of(cell):
    """`algorithm, copies, family, features`."""
    words = [*cell.get("features", [])] if "family" not in cell else [cell["family"], *cell.get("features", [])]
    return "-".join([cell["algo"], *str(cell.get("envs", 1)).split(), *(word.replace(" ", "_") for word in words)])


@dataclass
class Leg:
    """One process of `unbroken train`: to which target, where it is killed (None: not), and what came of it."""

    target: int
    kill: int | None
    folder: Path
    code: int = 0
    output: str = ""
    start: int = 0
    died: dict = field(default_factory=dict)
    rows_after_checkpoint: int = 0


class Cell:
    """Runs one cell in a folder. Read its parts after `run`."""

    def __init__(self, cell, folder):
        self.cell = settings_of(cell)
        self.name = name_of(cell)
        self.folder = folder
        envs = str(self.cell["envs"]).split()
        self.n_envs, self.workers = int(envs[0]), envs[1] if len(envs) > 1 else "dummy"
        self.kwargs = {"world": self.cell["world"], "continuous": bool(self.cell.get("continuous"))}
        self.rollout = self.cell.get("rollout")
        self.hyperparameters = dict(self.cell["hyperparameters"])
        if self.rollout is not None:
            self.hyperparameters["n_steps"] = self.rollout // self.n_envs
        self.run_folder = folder / "runs" / "cell"
        self.legs = [Leg(target, kill, folder / f"leg{k}") for k, (target, kill) in enumerate(self._plan())]
        self.reference = folder / "reference"

    def run(self):
        """All legs, then the reference, which also loads the checkpoints that are left."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "cell.yaml").write_text(yaml.safe_dump(self._config()))
        for leg in self.legs:
            self._run_leg(leg)
        self._run_reference()

    def checkpoints(self):
        """Steps of the rolling checkpoints on disk, in order."""
        return sorted(int(path.name.split("_")[-2]) for path in (self.run_folder / "checkpoints").glob("*_steps.zip"))

    def metrics(self):
        """The rows of metrics.jsonl."""
        return read_lines(self.run_folder / "logs" / "metrics.jsonl")

    def _plan(self):
        below = 0
        for target in self.cell["targets"]:
            for kill in self.cell["kills"]:
                if below < kill < target:
                    yield target, kill
            yield target, None
            below = target

    def _config(self):
        section = self.cell.get("environment", {})
        config = {
            "target": "matrix_worlds:make",
            "scenario": "world",
            "algo": self.cell["algo"],
            "seed": SEED,
            "device": "cpu",
            "environment": {"kwargs": self.kwargs, "n_envs": self.n_envs, "vec_env": self.workers, **section},
            "hyperparameters": self.hyperparameters,
            "saving": {"every": self.cell["every"], "seconds": None, "keep_last": 2},
            "evaluation": self.cell.get("evaluation", {"every": 0}),
            "callbacks": self._callbacks(),
            "log_interval": self.cell.get("log_interval"),
        }
        return {**config, **({"policy": self.cell["policy"]} if "policy" in self.cell else {})}

    def _callbacks(self):
        return [*self.cell.get("callbacks", []), "matrix_callbacks:FinalState"]

    def _run_leg(self, leg):
        leg.folder.mkdir()
        extra = {"MATRIX_TRACE": str(leg.folder), "MATRIX_STATE": str(leg.folder)}
        if leg.kill is not None:
            death = {
                "copy": SEED,
                "count": leg.kill // self.n_envs,
                "after": leg.kill // self.cell["every"] * self.cell["every"],
                "checkpoints": str(self.run_folder / "checkpoints"),
                "place": str(leg.folder / "died.json"),
            }
            extra["MATRIX_DEATH"] = json.dumps(death)
        command = ["-m", "unbroken", "train", "--config", "cell.yaml", "--run", "cell", "--steps", str(leg.target)]
        leg.start = max(self.checkpoints(), default=0)
        leg.code, leg.output = self._python(command, extra)
        (leg.folder / "output.txt").write_text(leg.output)
        if (leg.folder / "died.json").exists():
            leg.died = json.loads((leg.folder / "died.json").read_text())
            newest = max(self.checkpoints(), default=0)
            leg.rows_after_checkpoint = sum(row["step"] > newest for row in self.metrics())

    def _run_reference(self):
        self.reference.mkdir()
        section = self.cell.get("environment", {})
        spec = {
            "class": self.cell["class"],
            "policy": self.cell.get("policy", "MlpPolicy"),
            "kwargs": self.kwargs,
            "n_envs": self.n_envs,
            "workers": self.workers,
            "seed": SEED,
            "targets": self.cell["targets"],
            "hyperparameters": self.hyperparameters,
            "normalize": section.get("normalize"),
            "frame_stack": section.get("frame_stack"),
            "evaluation": self.cell.get("evaluation"),
            "callbacks": self._callbacks(),
            "log_interval": self.cell.get("log_interval"),
            "out": str(self.reference),
            "load": [
                str(self.run_folder / "checkpoints" / f"world_checkpoint_{step}_steps.zip")
                for step in self.checkpoints()
            ],
        }
        (self.folder / "spec.json").write_text(json.dumps(spec))
        extra = {"MATRIX_TRACE": str(self.reference), "MATRIX_STATE": str(self.reference)}
        code, output = self._python([str(HERE / "reference.py"), "spec.json"], extra)
        assert code == 0, output

    def _python(self, arguments, extra):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MATRIX_", "UNBROKEN_"))}
        path = os.pathsep.join(filter(None, [str(HERE / "support"), os.environ.get("PYTHONPATH")]))
        inherited["LIBSUMO_AS_TRACI"] = "1"
        environment = {**inherited, **dict.fromkeys(names, "1"), "PYTHONPATH": path, **extra}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")


def read_lines(path):
    """The JSON lines of a file, none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def plain_value(value):
    """A logged value as both writers' readers see it: numbers as floats, what JSON cannot say as text."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return repr(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def comparable(row):
    return {key: plain_value(value) for key, value in row.items() if key not in WALL_CLOCK_LOGS and key != "step"}


def check_legs(cell):
    """Every kill was a SIGKILL after a checkpoint, in mid-rollout and mid-episode; every later leg resumed."""
    for k, leg in enumerate(cell.legs):
        if leg.kill is None:
            assert leg.code == 0, leg.output
        else:
            assert leg.code == -signal.SIGKILL, leg.output
            step = leg.died["count"] * cell.n_envs
            newest = cell.legs[k + 1].start
            assert 0 < newest < step < leg.target
            assert cell.rollout is None or (step % cell.rollout != 0 and leg.rows_after_checkpoint > 0), (
                "not in mid-rollout"
            )
            assert leg.died["in_episode"] >= 2, "not in mid-episode"
        resumed = "Resuming from checkpoint" in leg.output
        assert resumed == (k > 0), leg.output
        assert not resumed or leg.start > 0
        assert "not restored" not in leg.output
        assert "not captured" not in leg.output


def check_metadata(cell):
    metadata = json.loads((cell.run_folder / "training_metadata.json").read_text())
    assert metadata["not_captured"] == []
    assert metadata["environment_capture"]["proved"], metadata["environment_capture"]
    assert metadata["environment_capture"]["strategy"] == cell.cell["strategy"]
    assert len(metadata["legs"]) == len(cell.legs)
    # a raised target is noted, because schedules follow it; nothing else changed
    assert {entry["field"] for entry in metadata["lineage"]} <= {"total_timesteps"}
    assert len(metadata["lineage"]) < len(cell.cell["targets"])
    assert metadata["total_timesteps_completed"] == cell.checkpoints()[-1]


def check_states(cell):
    """The whole state at the end of every `learn()` that the reference completed."""
    ended = [leg for leg in cell.legs if leg.kill is None]
    expected = sorted(cell.reference.glob("[0-9]*.json"), key=lambda path: int(path.stem))
    assert len(expected) == len(ended)
    for leg, path in zip(ended, expected, strict=True):
        assert (leg.folder / path.name).exists(), f"ended elsewhere: {sorted(leg.folder.iterdir())}"
        reference, resumed = json.loads(path.read_text()), json.loads((leg.folder / path.name).read_text())
        assert len(reference) > 100
        different = {
            name: (reference.get(name, "absent"), resumed.get(name, "absent"))
            for name in [*reference, *(resumed.keys() - reference.keys())]
            if reference.get(name) != resumed.get(name)
        }
        shown = dict(list(different.items())[:20])
        assert not different, f"state at {path.stem}: {len(different)} of {len(reference)} differ: {shown}"


def check_traces(cell):
    """Every leg's observations, rewards and ends of episodes are those of the reference, from the resumed step on."""
    references = {int(path.stem): read_lines(path) for path in cell.reference.glob("[0-9]*.jsonl")}
    assert {SEED + k for k in range(cell.n_envs)} <= references.keys()
    assert (EVALUATION_COPY in references) == bool(cell.cell.get("evaluation"))
    for leg in cell.legs:
        for copy, reference in references.items():
            trace = read_lines(leg.folder / f"{copy}.jsonl")
            if copy == EVALUATION_COPY:
                assert contains(reference, trace), "the evaluation episodes are not those of the reference"
                continue
            start = position_after(reference, leg.start // cell.n_envs)
            assert len(trace) > 2
            assert trace == reference[start : start + len(trace)], f"copy {copy} after step {leg.start}"


def position_after(trace, count):
    """Index behind the step number `count` and the reset that follows it if it ended an episode."""
    if count == 0:
        return 0
    steps = 0
    for k, record in enumerate(trace):
        steps += len(record) > 1
        if steps == count:
            return k + 2 if record[2] or record[3] else k + 1
    raise AssertionError(f"the trace has only {steps} steps")


def contains(whole, part):
    """Whether `part` is a piece of `whole` without gaps."""
    return not part or any(whole[k : k + len(part)] == part for k in range(len(whole) - len(part) + 1))


def check_logs(cell):
    """Rows of metrics.jsonl are the reference's rows; evaluations likewise; no step twice per tag, here and in TensorBoard."""
    rows = cell.metrics()
    training = [row for row in rows if "eval/mean_reward" not in row]
    expected = read_lines(cell.reference / "progress.json")
    assert len(expected) >= 3
    assert [comparable(row) for row in training] == [comparable(row) for row in expected]
    assert [row["step"] for row in training] == [row["time/total_timesteps"] for row in expected]
    check_evaluations(cell, [row for row in rows if "eval/mean_reward" in row])
    by_tag = {}
    for row in rows:
        for tag in row.keys() - {"step"}:
            by_tag.setdefault(tag, []).append(row["step"])
    for tag, steps in by_tag.items():
        # off-policy SB3 itself logs twice at a step at which two copies' episodes end
        if tag.startswith("eval/") or cell.rollout is not None:
            assert len(set(steps)) == len(steps), f"{tag} twice at a step: {steps}"
        assert steps == sorted(steps)
    events = tensorboard_scalars(cell.run_folder / "tensorboard")
    assert events
    for tag, found in events.items():
        assert [step for step, _ in found] == by_tag[tag], f"TensorBoard and metrics.jsonl differ in {tag}"


def check_evaluations(cell, rows):
    if not cell.cell.get("evaluation"):
        assert not rows
        return
    expected = read_lines(cell.reference / "evaluation" / "progress.json")
    assert len(expected) >= 3
    assert [row["step"] for row in rows] == [row["time/total_timesteps"] for row in expected]
    for tag in ("eval/mean_reward", "eval/mean_ep_length"):
        assert [row[tag] for row in rows] == [row[tag] for row in expected]
    best = json.loads((cell.run_folder / "best_model" / "best_model.json").read_text())
    assert best["score"] == max(row["eval/mean_reward"] for row in expected)


def tensorboard_scalars(folder):
    """(step, value) by tag, in the order of the file, as TensorBoard's own reader sees them."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def report(cell, result, seconds):
    """One line for tools/exactness_table.py."""
    place = os.environ.get("UNBROKEN_MATRIX_RESULTS")
    if not place:
        return
    killed = [leg for leg in cell.legs if leg.kill is not None]
    line = {
        "name": cell.name,
        "algorithm": cell.cell["algo"],
        "envs": str(cell.cell["envs"]),
        "features": cell.cell.get("features", []),
        "family": cell.cell.get("family"),
        "strategy": cell.cell["strategy"],
        "result": result,
        "killed_at": [leg.died.get("count", 0) * cell.n_envs for leg in killed],
        "resumed_from": [leg.start for leg in cell.legs[1:]],
        "rows_repeated": [leg.rows_after_checkpoint for leg in killed],
        "seconds": round(seconds, 1),
    }
    with open(place, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def parameters():
    marks = {True: (), False: (pytest.mark.full,)}
    return [pytest.param(cell, id=name_of(cell), marks=marks[bool(cell.get("quick"))]) for cell in TABLE["cells"]]


@pytest.mark.parametrize("entry", parameters())
def test_killed_and_resumed_is_plain_sb3(entry, tmp_path):
    """A6: killed and resumed, a run has the state, the trajectory and the logs of an undisturbed plain SB3 script."""
    started = time.monotonic()
    cell = Cell(entry, tmp_path)
    result = "differs"
    try:
        cell.run()
        check_legs(cell)
        check_metadata(cell)
        check_traces(cell)
        check_states(cell)
        check_logs(cell)
        assert json.loads((cell.reference / "problems.json").read_text()) == []
        result = "exact"
    finally:
        report(cell, result, time.monotonic() - started)


@pytest.mark.full
@pytest.mark.parametrize("entry", TABLE["refusals"], ids=name_of)
def test_what_does_not_go_together_is_refused_with_a_reason(entry, tmp_path):
    """Issue 3, "Shown by": an algorithm that cannot act in a family says so in one line, and trains nothing."""
    started = time.monotonic()
    cell = Cell({**entry, "envs": 1}, tmp_path)
    result = "not refused"
    try:
        (tmp_path / "cell.yaml").write_text(yaml.safe_dump(cell._config()))
        code, output = cell._python(["-m", "unbroken", "train", "--config", "cell.yaml", "--run", "cell"], {})
        assert code == 2, output
        assert [entry["reason"] in line for line in output.splitlines() if line.startswith("error: ")] == [True], output
        assert cell.checkpoints() == []
        result = "refused"
    finally:
        report(cell, result, time.monotonic() - started)
