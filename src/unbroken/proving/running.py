"""The processes of a proof: the undisturbed twin, its beginning once more, and the training that is killed and started again."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unbroken import tracing
from unbroken.errors import UnbrokenError, UsageError
from unbroken.proving.reading import Follower, Leg, Way
from unbroken.proving.stage import HOW_TO_ADD, Command
from unbroken.testing.child import TrainingProcess

_POLL_SECONDS = 0.01
_ENDS = (0, 4, 75)
# kills are spread over this part of the way: the last of them must not meet a training that has just ended
_LAST_KILL = 0.95
_LONGEST_DELAY = 2.0
_LONGEST_TEMPORARY = 60


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: where it met the training, where the same command went on, and what it cost.

    `seconds_repeated` of training were done again; `seconds_to_resume` passed from the kill to the first step afterwards.
    """

    step: int
    during: str
    resumed_at: int
    steps_repeated: int
    seconds_repeated: float
    seconds_to_resume: float

    def plain(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class Killed:
    """A training that was killed again and again: its legs, the kills between them, and a failure that ended it, if any."""

    legs: tuple[Leg, ...]
    kills: tuple[Kill, ...]
    failure: str | None = None


class Runner:
    """Starts a command in fresh copies of its folder, below `folder`. Used by one thread."""

    def __init__(
        self, command: Command, folder: Path, steps: int | None, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._command = command
        self._folder = folder
        self._steps = steps
        self._say = say
        self._repeats = 0

    def undisturbed(self) -> Leg:
        """Run to the end. Raises UsageError when the training fails by itself or leaves no trace."""
        with self._started("twin") as (process, follower):
            code = self._finish(process, follower, "undisturbed twin")
        leg = follower.poll()
        self._require_sound(code, process, leg)
        self._end = code
        self._way = Way(leg)
        return leg

    def repeated(self, until: int) -> Leg:
        """Run again, undisturbed, until so many steps of the whole way are passed."""
        self._repeats += 1
        with self._started(f"repeat-{self._repeats}") as (process, follower):
            while process.running and self._way.passed(follower.poll()) <= until:
                time.sleep(_POLL_SECONDS)
            end_group(process)
        return follower.poll()

    def killed(self, twin: Leg, kills: int, seed: int) -> Killed:
        """Run with SIGKILLs at random moments, each followed by the same command in the same folder, to the end."""
        chance = random.Random(seed)
        moments = _moments(self._way.steps, kills, chance)
        delay = min(_LONGEST_DELAY, _seconds_per_cut(twin))
        where = self._place("killed")
        legs: list[Leg] = []
        ends: list[float] = []
        for moment in [*moments, None]:
            with self._process("killed", where) as (process, follower):
                self._wait_for(process, follower, moment)
                # one in two at once, which is in mid-rollout, the other after a while, which is anywhere
                if moment is not None and process.running and chance.random() < 0.5:
                    time.sleep(chance.uniform(0.0, delay))
                code = end_group(process) if moment is not None else process.wait()
                ends.append(time.time())
            legs.append(follower.poll())
            if code >= 0:
                failure = None if code == self._end else _failure(code, process)
                return Killed(tuple(legs), _kills(legs, ends, self._way), failure)
            self._say(f"kill {len(legs)} of {kills}: SIGKILL at step {legs[-1].step:,} ({_during(legs[-1])})")
        raise UnbrokenError("a training that nobody killed ended by a signal")

    def _wait_for(self, process: TrainingProcess, follower: Follower, moment: int | None) -> None:
        while process.running:
            leg = follower.poll()
            if moment is not None and leg.cuts and self._way.passed(leg) >= moment:
                return
            time.sleep(_POLL_SECONDS)

    def _finish(self, process: TrainingProcess, follower: Follower, what: str) -> int:
        said = time.monotonic()
        while process.running:
            step = follower.poll().step
            if time.monotonic() - said > 10.0:
                said = time.monotonic()
                self._say(f"{what}: step {step:,}")
            time.sleep(0.1)
        return process.wait()

    def _place(self, name: str) -> Path:
        return self._command.place(self._folder / name)

    @contextlib.contextmanager
    def _started(self, name: str) -> Iterator[tuple[TrainingProcess, Follower]]:
        with self._process(name, self._place(name)) as pair:
            yield pair

    @contextlib.contextmanager
    def _process(self, name: str, where: Path) -> Iterator[tuple[TrainingProcess, Follower]]:
        trace = self._folder / name / "trace"
        follower = Follower(trace)
        variables = {tracing.FOLDER: str(trace), **self._temporary()}
        if self._steps:
            variables[tracing.LIMIT] = str(self._steps)
        with TrainingProcess(self._command.words(where), variables, folder=where, threads=None) as process:
            try:
                yield process, follower
            finally:
                end_group(process)

    def _temporary(self) -> dict[str, str]:
        """Where the trainings leave their temporary files, which a killed one never removes."""
        place = self._folder / "temporary"
        place.mkdir(exist_ok=True)
        # worker processes make sockets there, whose paths may have some 100 bytes
        return {"TMPDIR": str(place)} if len(os.fsencode(place)) <= _LONGEST_TEMPORARY else {}

    def _require_sound(self, code: int, process: TrainingProcess, leg: Leg) -> None:
        if code not in _ENDS:
            raise UsageError(f"without any kill the training ends with exit code {code}:\n{process.last_lines()}")
        if not leg.cuts:
            raise UsageError(HOW_TO_ADD.format(script=self._command.name))


def end_group(process: TrainingProcess) -> int:
    """SIGKILL for a training and its worker processes; returns its exit code."""
    if process.running and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # the training leads a session of its own
            os.killpg(process.pid, signal.SIGKILL)
    return process.kill()


def _moments(steps: int, kills: int, chance: random.Random) -> list[int]:
    """Steps of the way from which on to kill, ascending: one at random in each of as many equal parts of it."""
    last = steps * _LAST_KILL
    return [max(1, int((k + chance.random()) / kills * last)) for k in range(kills)]


def _seconds_per_cut(twin: Leg) -> float:
    """From one traced state to the next: a delay of up to this may end in any part of an iteration."""
    cuts = twin.cuts
    return float(cuts[-1]["at"] - cuts[0]["at"]) / max(1, len(cuts) - 1)


def _during(leg: Leg) -> str:
    return "in mid-rollout" if leg.newest == "step" else "between rollouts"


def _failure(code: int, process: TrainingProcess) -> str:
    return f"the resumed training ended with exit code {code}:\n{process.last_lines()}"


def _kills(legs: list[Leg], ends: list[float], way: Way) -> tuple[Kill, ...]:
    """What each kill cost, from the traces on both sides of it."""
    found = []
    for k, (before, after) in enumerate(itertools.pairwise(legs)):
        if not after.cuts:
            continue
        call, resumed = after.cuts[0]["call"], after.cuts[0]["step"]
        cuts = [cut for leg in legs[: k + 1] for cut in leg.cuts]
        known = [cut["at"] for cut in cuts if (cut["call"], cut["step"]) == (call, resumed)]
        # what an earlier leg did was repeated by this one already
        began = max([ends[k] if before.began_at is None else before.began_at, *known[-1:]])
        start = ends[k] if after.stepped_at is None else after.stepped_at
        repeated = way.passed(before) - way.at(call, resumed)
        found.append(Kill(before.step, _during(before), resumed, repeated, ends[k] - began, start - ends[k]))
    return tuple(found)
