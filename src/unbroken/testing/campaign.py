"""The kill campaign: runs that are killed at every place, looked at from outside after each kill, compared at the end.

    python -m unbroken.testing.campaign --kills 200 --table docs/soak.md

After every kill: each checkpoint on disk verifies, none that was acknowledged is lost, the best model never gets worse, no
file has a name that nobody knows. At the end the run equals an undisturbed twin bit for bit: state, exports, metrics,
TensorBoard (A5, A6, A7). Whatever breaks a promise is a violation, and the command then exits with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from unbroken.errors import DamagedFile, NotFound, UnbrokenError
from unbroken.folder import BEST_SCORE, METADATA, RUN_FILE, RunFolder
from unbroken.locate import repository_of
from unbroken.logs import human_seconds
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.testing.child import TrainingProcess
from unbroken.testing.kill_at import PLACES as INSIDE
from unbroken.testing.trainings import KINDS, Training
from unbroken.testing.twin import files_below

TIMER = "timer"
PLACES: dict[str, str] = {**INSIDE, TIMER: "from outside, at a random moment between start and end"}
"""Every place a campaign kills at; all but the last are those of `kill_at`."""

_KILLS_PER_RUN = 20
_LEG_SECONDS = 240.0
_ATTEMPTS_PER_PLACE = 16
OFF_POLICY = frozenset(place for place in PLACES if place.startswith(("segment.", "collect.")))
"""Places that only trainings with a replay buffer come by."""

# times that a place is passed before the kill, at most; where there is no entry, the first time kills
_REPEATS = {
    "env-step": 150, "optimise": 25, "evaluation": 9, "capture": 2, "encode": 4, "restore": 4, "checkpoint.write": 4,
    "checkpoint.create": 2, "checkpoint.sync": 2, "checkpoint.replace": 2, "checkpoint.sync_folder": 2, "metadata.write": 2,
    "retention.before": 2, "retention.after": 2, "metrics.half": 4, "events.before": 4, "events.half": 4,
    "logs.archive": 2, "logs.archived": 2, "logs.cut": 2,
}  # fmt: skip
# a leg that does not come by its place within so many steps is killed all the same, as an env-step
_FALLBACK_STEPS = 420
_FIRST, _LAST = ("best", "best-score"), ("final", "close")


@dataclass
class Report:
    """What a campaign, or one run of it, has come to."""

    kills: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    runs: int = 0
    legs: int = 0
    seconds: float = 0.0

    def add(self, other: Report) -> None:
        """Count another report in; its seconds are not added, as runs may go on at the same time."""
        self.kills.update(other.kills)
        self.violations += other.violations
        self.runs += other.runs
        self.legs += other.legs

    def table(self) -> str:
        """Markdown: kills counted by place, then the total and what was violated."""
        lines = ["| place | killed | when |", "|---|---:|---|"]
        lines += [f"| `{place}` | {self.kills[place]} | {what} |" for place, what in PLACES.items()]
        total = f"{self.kills.total()} kills in {self.runs} runs and {self.legs} legs, {human_seconds(self.seconds)}"
        lines += ["", f"{total}; violations: {len(self.violations)}.", *(f"- {text}" for text in self.violations)]
        return "\n".join(lines)


def run_campaign(
    kills: int,
    folder: Path,
    seed: int = 0,
    kinds: Sequence[Training] = KINDS,
    minimum_per_place: int = 1,
    *,
    places: Iterable[str] = tuple(PLACES),
    jobs: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Kill at least `kills` times, and at least `minimum_per_place` times at each of `places`; every run is completed.

    Places come in turn, then by chance. `jobs` runs go on at once. All runs stay in `folder`; `say` receives a line per
    kill. An interruption waits for the legs that are under way.
    """
    started = time.monotonic()
    places = tuple(places)
    campaign = _Campaign(kills, Path(folder), seed, tuple(kinds), minimum_per_place, places, say)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for worker in [pool.submit(campaign.work) for _ in range(jobs)]:
                worker.result()
        finally:
            campaign.stop()
    report = campaign.report
    report.seconds = time.monotonic() - started
    rare = [place for place in places if report.kills[place] < minimum_per_place]
    report.violations += [f"{place} was reached {report.kills[place]} of {minimum_per_place} times" for place in rare]
    return report


class _Campaign:
    """Hands places out to runs until there have been enough kills; its methods may be called from several threads."""

    def __init__(
        self,
        kills: int,
        folder: Path,
        seed: int,
        kinds: tuple[Training, ...],
        minimum: int,
        places: tuple[str, ...],
        say: Callable[[str], None],
    ) -> None:
        self.report = Report()
        self.folder = folder
        self.say = say
        self._kinds = kinds
        self._chance = random.Random(seed)
        self._seed = seed
        self._lock = threading.Lock()
        self._stopped = False
        self._runs = 0
        self._attempts: Counter[str] = Counter()
        in_turn = [place for _ in range(minimum) for place in self._chance.sample(places, len(places))]
        by_chance = self._chance.choices(places, k=max(0, kills - len(in_turn)))
        self._queue: deque[str] = deque(in_turn + by_chance)

    def work(self) -> None:
        """Carry runs until the campaign is done."""
        while (run := self._next()) is not None:
            report = run.carry()
            with self._lock:
                self.report.add(report)
                self._queue.extend(place for place in run.unmet if self._may_retry(place))

    def stop(self) -> None:
        """End after the legs that are under way."""
        self._stopped = True

    def _next(self) -> _Run | None:
        with self._lock:
            if self._stopped or not self._queue:
                return None
            for turn in range(self._runs, self._runs + len(self._kinds)):
                kind = self._kinds[turn % len(self._kinds)]
                fitting = [place for place in self._queue if kind.off_policy or place not in OFF_POLICY]
                if fitting:
                    self._runs = turn + 1
                    return self._run(turn, kind, fitting[:_KILLS_PER_RUN])
            return None

    def _run(self, number: int, kind: Training, chosen: list[str]) -> _Run:
        for place in chosen:
            self._queue.remove(place)
        return _Run(
            self.folder / f"run-{number}",
            kind,
            self._seed + number // len(self._kinds),
            _in_order(chosen),
            random.Random(self._chance.random()),
            self,
        )

    def _may_retry(self, place: str) -> bool:
        self._attempts[place] += 1
        return self._attempts[place] < _ATTEMPTS_PER_PLACE

    @property
    def stopped(self) -> bool:
        """Whether no leg is to be started any more."""
        return self._stopped


def _in_order(places: list[str]) -> list[str]:
    """First what needs a better model than before, which grows rare, last what comes by only at the target."""

    def rank(place: str) -> int:
        subject = place.partition(".")[0]
        if subject in _FIRST:
            return list(PLACES).index(place) - len(PLACES)
        return 1 + (place == "close") if subject in _LAST else 0

    return sorted(places, key=rank)


class _Run:
    """One run under `folder`: killed at `places` one after another, then completed and compared with its twin."""

    def __init__(
        self, folder: Path, kind: Training, seed: int, places: list[str], chance: random.Random, campaign: _Campaign
    ) -> None:
        self.places = places
        self.unmet: list[str] = []
        self._folder = folder
        self._chance = chance
        self._campaign = campaign
        self._kind = kind
        self._seed = seed
        self._label = f"{folder.name} ({kind.name}, seed {seed})"
        self._watch = _Watch(RunFolder(folder / "killed", "run"), kind)
        self._missed = False
        self._report = Report(runs=1)

    def carry(self) -> Report:
        """Kill, check, complete, compare."""
        waiting = deque(self.places)
        again: set[str] = set()
        code = -9
        while code != 0 and not self._report.violations and not self._campaign.stopped:
            place = waiting.popleft() if waiting else None
            code = self._leg(place)
            if place is not None and self._missed and place not in again:
                again.add(place)
                waiting.insert(1, place)
            elif place is not None and self._missed:
                self.unmet.append(place)
        self.unmet += waiting
        if code == 0 and not self._report.violations:
            self._note(self._compared())
        return self._report

    def _leg(self, place: str | None) -> int:
        """One leg, killed at `place` or completed; returns its exit code."""
        before = self._watch.newest
        with self._process(place, self._folder / "killed") as leg:
            code = self._ended(leg, place)
        self._report.legs += 1
        killed_at = _killed_at(leg, place) if code < 0 else None
        if killed_at is not None:
            self._report.kills[killed_at] += 1
        self._missed = killed_at != place
        self._note(self._watch.violations(leg, code, before))
        if code not in (0, -9) or (code < 0 and killed_at is None):
            self._note([f"a leg to be killed at {place} ended with exit code {code}: {leg.last_lines(4)}"])
        ending = f"killed at {killed_at}" if killed_at else f"ended with {code}"
        self._campaign.say(f"{self._label}: {ending}, newest checkpoint {self._watch.newest}")
        return code

    def _ended(self, leg: TrainingProcess, place: str | None) -> int:
        if place == TIMER:
            # half of them while the process starts, half while it trains, however fast the machine is
            starting = self._chance.random() < 0.5
            if not starting:
                leg.wait_for("[CHECKPOINT] Saved ", _LEG_SECONDS)
            time.sleep(self._chance.uniform(0.1, 3.0) if starting else self._chance.uniform(0.0, self._kind.span))
            return leg.kill()
        try:
            return leg.wait(_LEG_SECONDS)
        except subprocess.TimeoutExpired:
            leg.kill()
            self._note([f"a leg to be killed at {place} did not end within {_LEG_SECONDS:.0f} s: {leg.last_lines(4)}"])
            return 1

    def _process(self, place: str | None, runs: Path) -> TrainingProcess:
        return TrainingProcess(self._arguments(place, runs), self._kind.variables)

    def _arguments(self, place: str | None, runs: Path) -> list[str]:
        if self._kind.script:
            return self._kind.arguments(self._seed, str(runs))
        # most legs do without the self-test, which is not what is tested here
        tested = "true" if self._report.legs % 8 == 5 else "false"
        words = self._kind.arguments(self._seed, str(runs), "--set", f"self_test={tested}")
        if place is None or place == TIMER:
            return ["-m", "unbroken", *words]
        spots = [f"{place}:{self._chance.randint(1, _REPEATS.get(place, self._kind.passes))}"]
        if place not in ("env-step", "close") and not place.startswith("final"):
            spots.append(f"env-step:{_FALLBACK_STEPS}")
        return ["-m", "unbroken.testing.kill_at", ",".join(spots), "--", *words]

    def _compared(self) -> list[str]:
        """What differs from a twin that nobody disturbed."""
        with self._process(None, self._folder / "twin") as twin:
            if twin.wait(_LEG_SECONDS) != 0:
                return [f"the undisturbed twin failed: {twin.last_lines()}"]
        try:
            return self._kind.differences(self._folder / "killed", self._folder / "twin")
        except (UnbrokenError, OSError, ValueError) as error:
            return [f"the run cannot be compared with its twin: {error}"]

    def _note(self, violations: list[str]) -> None:
        self._report.violations += [
            f"{self._label} after {self._report.kills.total()} kills: {text}" for text in violations
        ]


def _killed_at(leg: TrainingProcess, place: str | None) -> str | None:
    said = [line.removeprefix("killed at ") for line in leg.lines if line.startswith("killed at ")]
    return said[-1] if said else (TIMER if place == TIMER else None)


class _Watch:
    """Looks at a run folder from outside; remembers what must never be lost."""

    def __init__(self, folder: RunFolder, kind: Training) -> None:
        self.newest = 0
        self._folder = folder
        self._kind = kind
        self._known = kind.known_files()
        self._best: float | None = None

    def violations(self, leg: TrainingProcess, code: int, before: int) -> list[str]:
        """What is wrong on disk after `leg`, which ended with `code` and began at the checkpoint of step `before`."""
        found = [
            f"the log says: {line}"
            for line in leg.lines
            # worker processes that find a killed training process gone leave tracebacks
            if "WARNING" in line or "not guaranteed" in line or (line.startswith("Traceback") and code >= 0)
        ]
        if leg.resumed_at is not None and leg.resumed_at != before:
            found.append(f"a leg resumed at step {leg.resumed_at}, the newest checkpoint was of step {before}")
        if not self._folder.path.is_dir():
            return found
        return [*found, *self._checkpoints(leg), *self._exports(), *self._documents(), *self._names()]

    def _checkpoints(self, leg: TrainingProcess) -> list[str]:
        repository = repository_of(self._folder, self._kind.scenario, self._kind.algo)
        records = [repository.verified(record) for record in repository.records()]
        found = [str(record.problem) for record in records if not record.valid]
        newest = max((record.step for record in records if record.valid), default=0)
        promised = max([self.newest, *(saved.step for saved in leg.acknowledged)])
        if newest < promised:
            found.append(f"checkpoint of step {promised} was acknowledged and is lost; the newest is of step {newest}")
        self.newest = max(newest, promised)
        return found

    def _exports(self) -> list[str]:
        found = []
        files = self._kind.files
        for path in (files.best, files.final):
            try:
                with CheckpointFile(self._folder.backend, path) as file:
                    file.verify()
                    score = file.manifest.get("score")
            except NotFound:
                if path == files.best and self._best is not None:
                    found.append("the best model is gone")
            except DamagedFile as error:
                found.append(str(error))
            else:
                found += self._score(float(score)) if path == files.best and score is not None else []
        return found

    def _score(self, score: float) -> list[str]:
        previous, self._best = self._best, score
        return [f"the best model got worse: {previous} -> {score}"] if previous is not None and score < previous else []

    def _documents(self) -> list[str]:
        found = []
        if (self._folder.path / RUN_FILE).exists() and self._folder.stored() is None:
            found.append(f"{RUN_FILE} cannot be read")
        for name in (METADATA, BEST_SCORE):
            path = self._folder.path / name
            if path.exists() and not _is_document(path):
                found.append(f"{name} cannot be read")
        return found

    def _names(self) -> list[str]:
        return [
            f"a file that nobody knows: {name}"
            for name in files_below(self._folder.path)
            if not self._known.fullmatch(name)
        ]


def _is_document(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text("utf-8")), dict)
    except ValueError:
        return False


def _machine() -> str:
    import torch

    parts = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{parts}, torch {torch.__version__}"


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the console is the interface


def main() -> None:
    """`python -m unbroken.testing.campaign`."""
    parser = argparse.ArgumentParser(prog="python -m unbroken.testing.campaign", description="The kill campaign.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minimum", type=int, default=2, help="kills at each place, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--folder", type=Path, help="where the runs are left (default: a temporary folder)")
    parser.add_argument("--table", type=Path, help="write the table to this Markdown file too")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="unbroken-campaign-"))
    report = run_campaign(
        chosen.kills, folder, chosen.seed, minimum_per_place=chosen.minimum, jobs=chosen.jobs, say=_say
    )
    table = f"{report.table()}\n\nMachine: {_machine()}."
    _say(f"\n{table}\n\nThe runs are in {folder}")
    if chosen.table is not None:
        command = f"python -m unbroken.testing.campaign --kills {chosen.kills} --seed {chosen.seed}"
        head = f"# Kill campaign\n\nWritten by `{command}`; what is checked is said in `unbroken.testing.campaign`.\n\n"
        chosen.table.write_text(f"{head}{table}\n", encoding="utf-8")
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
