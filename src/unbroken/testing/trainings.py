"""Trainings that a kill campaign kills, and the names that files have in their run folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unbroken.folder import BEST_SCORE, METADATA, RUN_FILE, FileNames, file_names
from unbroken.recording import EVENTS, METRICS
from unbroken.testing.twin import TEMPORARY, differences


@dataclass(frozen=True)
class Training:
    """One kind of training that is killed: `unbroken train TARGET`, or a `script` of its own that is told where its run lies.

    `scenario` is what its files are named after, `variables` the environment of its process. Killed at a random moment, it has
    trained for up to `span` seconds after its first save; killed at a place, it has passed it up to `passes` times. `unseeded`
    names parts of the state that a script leaves to the operating system and never uses, `results` files that it writes.
    """

    name: str
    target: str = "CartPole-v1"
    words: tuple[str, ...] = ()
    scenario: str = "CartPole-v1"
    script: bool = False
    off_policy: bool = False
    span: float = 0.4
    passes: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)
    unseeded: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    @property
    def algo(self) -> str | None:
        """The algorithm as configurations spell it, None for a script's."""
        return self.words[self.words.index("--algo") + 1].replace("-", "_") if "--algo" in self.words else None

    @property
    def files(self) -> FileNames:
        """How its checkpoints and models are named."""
        return file_names(self.scenario, self.algo)

    def known_files(self) -> re.Pattern[str]:
        """Matches the name of every file that may be in its run folder."""
        files, scenario = self.files, re.escape(self.scenario)
        exact = (
            RUN_FILE,
            METADATA,
            files.best,
            files.final,
            BEST_SCORE,
            EVENTS,
            METRICS,
            "logs/run.log",
            *self.results,
        )
        patterns = (
            r"\.lock|\.writable",
            rf"checkpoints/{re.escape(files.prefix)}_[0-9]+{re.escape(files.ending)}",
            rf"replay/{scenario}_checkpoint_[0-9]+-[0-9]+(_[0-9]+)?\.zip",
            r"archive/(metrics\.jsonl|events\.out\.tfevents\.[0-9]+\.unbroken)\.after-[0-9]+\.[0-9]+",
            TEMPORARY.pattern,
        )
        return re.compile("|".join((*map(re.escape, exact), *patterns)))

    def arguments(self, seed: int, runs: str, *more: str) -> list[str]:
        """What follows `python` or `kill_at` for a run named "run" below `runs`; `more` are further options of the command."""
        if self.script:
            return [self.target, "--run", f"{runs}/run", "--seed", str(seed), *self.words]
        return [
            "train", self.target, "--seed", str(seed), "--run", "run", "--device", "cpu", "--save-every", "100",
            "--eval-every", "200", "--eval-episodes", "1", *self.words, "--runs-dir", runs, *more,
        ]  # fmt: skip

    def differences(self, first: Path, second: Path) -> list[str]:
        """In what its completed run differs between two runs folders."""
        models = ("final",) if self.script else ("best", "final")
        return differences(first, second, "run", models=models, results=self.results, unseeded=self.unseeded)


def settings(**values: str) -> tuple[str, ...]:
    """Hyperparameters as options of the command."""
    return tuple(word for name, value in values.items() for word in ("--set", f"hyperparameters.{name}={value}"))


KINDS = (
    Training("ppo", words=("--algo", "ppo", "--steps", "2000", *settings(n_steps="64"))),
    Training(
        "dqn",
        words=("--algo", "dqn", "--steps", "1200", *settings(learning_starts="100", buffer_size="400")),
        off_policy=True,
    ),
    Training(
        "ppo in workers",
        words=(
            "--algo", "ppo", "--steps", "2000", *settings(n_steps="32"), "--n-envs", "2",
            "--set", "environment.vec_env=subproc", "--set", "environment.normalize={}",
        ),
    ),
)  # fmt: skip
"""What the ordinary campaign kills: two learners in one process, and normalised environments in worker processes."""
