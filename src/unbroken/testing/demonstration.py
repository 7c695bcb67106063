"""`unbroken demo`: a training that is killed again and again, its undisturbed twin, and the comparison of both (A5, A6).

Both are child processes that run the ordinary command. They have the same run name in different folders, so that nothing
about them differs but the kills.
"""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbroken.errors import UnbrokenError, UsageError
from unbroken.inspection import compare
from unbroken.locate import find_checkpoint
from unbroken.logs import human_seconds
from unbroken.testing.child import TrainingProcess, logged_step

if TYPE_CHECKING:
    from rich.console import Console

    from unbroken.capture.comparison import Comparison

RUN = "CartPole-v1-ppo-seed0"
_FEWEST_STEPS = 5_000
_POLL_SECONDS = 0.02
_HYPERPARAMETERS = {
    "n_steps": "32",
    "batch_size": "256",
    "n_epochs": "20",
    "gae_lambda": "0.8",
    "gamma": "0.98",
    "learning_rate": "lin_0.001",
}


@dataclass
class _Tally:
    """What happened to the training that is killed."""

    kills: int = 0
    legs: int = 0
    checkpoints: int = 0
    seconds_repeated: float = 0.0
    steps_repeated: int = 0
    killed_at: list[int] = field(default_factory=list)


class _Display:
    """Two bars on a terminal; anywhere else only the lines of `say`."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def at(self, name: str, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._tasks[name], completed=min(step, self._steps))

    @contextlib.contextmanager
    def shown(self, *names: str) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as self._bar:
            self._tasks = {name: self._bar.add_task(name, total=self._steps) for name in names}
            yield
        self._bar = None


def run_demonstration(kills: int, steps: int, folder: str | None) -> bool:
    """Train, kill with SIGKILL `kills` times and resume, train the twin meanwhile; returns whether both ended identical.

    Everything is written into `folder`, which has to be empty, or into a new temporary one; it is kept and named at the
    end. The children are killed when this is interrupted. Raises UsageError, and UnbrokenError when a child fails.
    """
    from rich.console import Console

    place = _place(kills, steps, folder)
    started = time.monotonic()
    display = _Display(Console(), steps)
    display.say(
        f"Training CartPole-v1 for {steps:,} steps with PPO, killed with SIGKILL {kills} times and resumed by the same "
        f"command; beside it the undisturbed twin:\n  unbroken {' '.join(_command(steps, Path('RUNS')))}"
    )
    with display.shown("killed and resumed", "undisturbed twin"), _child(steps, place / "undisturbed") as twin:
        tally = _train_with_kills(kills, steps, place / "killed", display, twin)
        _finish_twin(twin, place / "undisturbed", display)
    comparison = _compare(place)
    _report(display, place, steps, tally, comparison, time.monotonic() - started)
    return comparison.identical


def _place(kills: int, steps: int, folder: str | None) -> Path:
    if kills < 0 or steps < _FEWEST_STEPS:
        raise UsageError(f"the demo needs at least {_FEWEST_STEPS:,} steps and no negative number of kills")
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="unbroken-demo-"))
    place = Path(folder).absolute()
    place.mkdir(parents=True, exist_ok=True)
    if any(place.iterdir()):
        raise UsageError(f"{place} is not empty; give the demo a folder of its own")
    return place


def _command(steps: int, runs: Path) -> list[str]:
    words = ["train", "CartPole-v1", "--steps", str(steps), "--runs-dir", str(runs), "--run", RUN, "--n-envs", "8"]
    words += [
        "--device",
        "cpu",
        "--save-every",
        str(steps // 25),
        "--eval-every",
        str(steps // 8),
        "--eval-episodes",
        "5",
    ]
    return words + [
        word for key, value in _HYPERPARAMETERS.items() for word in ("--set", f"hyperparameters.{key}={value}")
    ]


def _child(steps: int, runs: Path) -> TrainingProcess:
    return TrainingProcess(["-m", "unbroken", *_command(steps, runs)])


def _train_with_kills(kills: int, steps: int, runs: Path, display: _Display, twin: TrainingProcess) -> _Tally:
    """One leg after the other until the target is reached; each but the last is killed after its own share of the way."""
    tally = _Tally()
    chance = random.Random(0)
    while True:
        tally.legs += 1
        share = (tally.kills + chance.uniform(0.6, 1.2)) / (kills + 1)
        moment = int(share * steps) if tally.kills < kills else None
        with _child(steps, runs) as leg:
            while leg.running and not _is_moment(leg, runs / RUN, moment):
                display.at("killed and resumed", logged_step(runs / RUN))
                display.at("undisturbed twin", logged_step(runs.parent / "undisturbed" / RUN))
                _require_alive(twin, "the undisturbed twin")
                time.sleep(_POLL_SECONDS)
            if leg.running:
                # a few milliseconds more, so that no two kills meet the same part of a rollout
                time.sleep(chance.uniform(0.0, 0.1))
            code = leg.kill()
        tally.checkpoints += len(leg.acknowledged)
        if code == 0:
            return tally
        if moment is None or code > 0:
            raise UnbrokenError(f"a leg ended by itself with exit code {code}:\n{leg.last_lines()}")
        _count_kill(tally, leg, logged_step(runs / RUN), display)


def _is_moment(leg: TrainingProcess, run: Path, moment: int | None) -> bool:
    """Whether the leg has committed a checkpoint, has gone on since, and is where it is to be killed."""
    if moment is None or not leg.acknowledged:
        return False
    step = logged_step(run)
    return step >= moment and step > leg.acknowledged[-1].step


def _count_kill(tally: _Tally, leg: TrainingProcess, step: int, display: _Display) -> None:
    saved = leg.acknowledged[-1]
    tally.kills += 1
    tally.seconds_repeated += time.monotonic() - saved.seen
    tally.steps_repeated += max(0, step - saved.step)
    tally.killed_at.append(step)
    display.say(
        f"kill -9 at about step {step:,}, leg {tally.legs}; the newest checkpoint is of step {saved.step:,}: resuming"
    )


def _finish_twin(twin: TrainingProcess, runs: Path, display: _Display) -> None:
    while twin.running:
        display.at("undisturbed twin", logged_step(runs / RUN))
        time.sleep(_POLL_SECONDS)
    _require_alive(twin, "the undisturbed twin")
    for name, run in (("undisturbed twin", runs / RUN), ("killed and resumed", runs.parent / "killed" / RUN)):
        display.at(name, logged_step(run))


def _require_alive(child: TrainingProcess, name: str) -> None:
    if not child.running and (code := child.wait()) != 0:
        raise UnbrokenError(f"{name} ended with exit code {code}:\n{child.last_lines()}")


def _compare(place: Path) -> Comparison:
    ends = [find_checkpoint(RUN, place / runs).file for runs in ("killed", "undisturbed")]
    return compare(place, *map(str, ends))


def _report(display: _Display, place: Path, steps: int, tally: _Tally, comparison: Comparison, seconds: float) -> None:
    best = json.loads((place / "killed" / RUN / "best_model" / "best_model.json").read_text(encoding="utf-8"))
    rows = [
        ("steps", f"{steps:,}"),
        (
            "kills (SIGKILL)",
            f"{tally.kills}, at about steps {', '.join(f'{step:,}' for step in tally.killed_at) or '-'}",
        ),
        ("legs", f"{tally.legs}"),
        ("checkpoints written", f"{tally.checkpoints}"),
        ("seconds lost", f"{tally.seconds_repeated:.1f} of training done twice (about {tally.steps_repeated:,} steps)"),
        ("best model", f"mean reward {best['score']:.1f} of 500 at step {best['step']:,}"),
        ("identical", f"{'yes' if comparison.identical else 'NO'} ({comparison.leaves:,} values and arrays compared)"),
        ("  killed and resumed", comparison.first_digest),
        ("  undisturbed twin", comparison.second_digest),
        ("whole demo", human_seconds(seconds)),
    ]
    display.say("")
    for name, value in rows:
        display.say(f"{name + ':':<22}{value}")
    display.say(f"\nBoth runs are in {place}; look at the killed one with:")
    display.say(f"  unbroken checkpoints list {RUN} --runs-dir '{place / 'killed'}'")
