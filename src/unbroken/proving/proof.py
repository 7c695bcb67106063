"""The proof of a training: run undisturbed, again (is it deterministic?), killed and resumed, compared (A18)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unbroken.proving.causes import Cause, Evidence, Hidden, likely_causes, thread_causes
from unbroken.proving.comparing import (
    Compared,
    Difference,
    Divergence,
    first_divergence,
    hidden_differences,
    matching_cuts,
    unseeded_workers,
)
from unbroken.proving.reading import Index, Leg, Way
from unbroken.proving.running import Kill, Killed, Runner
from unbroken.proving.stage import Command

IDENTICAL, DIVERGED, NOT_DETERMINISTIC, NOTHING_PROVED = "identical", "diverged", "not deterministic", "nothing proved"
EXIT_CODES = {IDENTICAL: 0, DIVERGED: 1, NOT_DETERMINISTIC: 3, NOTHING_PROVED: 5}
_EARLY_PART = 0.25
_EARLY_CUTS = 3
# what is trained: lost, it is a divergence even before anything else shows it
_TRAINED = ("optimizer", "network")


@dataclass(frozen=True)
class Wish:
    """What the user asked for: kills, seed of their moments, a limit of steps."""

    kills: int = 10
    seed: int = 0
    steps: int | None = None


@dataclass
class Proof:
    """The outcome, for the report. `seconds` is all of it."""

    command: str
    verdict: str
    wish: Wish
    steps: int
    kills: tuple[Kill, ...] = ()
    compared: Compared = field(default_factory=Compared)
    divergence: Divergence | None = None
    causes: list[Cause] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_covered: list[str] = field(default_factory=list)
    repeated_until: int = 0
    training_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """What the command exits with."""
        return EXIT_CODES[self.verdict]

    def plain(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "command": self.command,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "asked": asdict(self.wish),
            "steps": self.steps,
            "kills": [kill.plain() for kill in self.kills],
            "compared": self.compared.plain(),
            "first_divergence": self.divergence.plain() if self.divergence else None,
            "likely_causes": [cause.plain() for cause in self.causes],
            "notes": self.notes,
            "not_covered": self.not_covered,
            "deterministic_until": self.repeated_until,
            "undisturbed_seconds": self.training_seconds,
            "seconds": self.seconds,
        }


def prove(command: Command, wish: Wish, folder: Path, say: Callable[[str], None] = lambda line: None) -> Proof:
    """Carry out a proof in an empty folder, which keeps both trainings and their traces. Raises UsageError."""
    started = time.monotonic()
    limit = wish.steps if command.script else None
    proof = _Prover(command, wish, Runner(command, folder, limit, say), say).carry_out()
    proof.seconds = time.monotonic() - started
    return proof


class _Prover:
    def __init__(self, command: Command, wish: Wish, runner: Runner, say: Callable[[str], None]) -> None:
        self._command = command
        self._wish = wish
        self._runner = runner
        self._say = say
        self._repeated_until = 0
        self._repeats: list[Leg] = []
        self._ignored: set[str] = set()

    def carry_out(self) -> Proof:
        """The whole proof."""
        self._say("1 of 3: the undisturbed twin")
        self._twin = self._runner.undisturbed()
        self._index = Index(self._twin)
        self._way = Way(self._twin)
        self._proof = Proof(self._command.text, NOTHING_PROVED, self._wish, self._way.steps)
        self._proof.training_seconds = _seconds(self._twin)
        self._say("2 of 3: the beginning once more, to see that undisturbed steps are always the same")
        if self._wanders(self._early_part()):
            return self._proof
        self._say(f"3 of 3: the training with {self._wish.kills} kills")
        self._judge(self._runner.killed(self._twin, self._wish.kills, self._wish.seed))
        return self._proof

    def _early_part(self) -> int:
        """A quarter of the way, and far enough to see some learning."""
        some = self._twin.cuts[:_EARLY_CUTS][-1]
        return min(self._way.steps, max(int(_EARLY_PART * self._way.steps), self._way.at(some["call"], some["step"])))

    def _wanders(self, until: int) -> bool:
        """Whether a second undisturbed training differs from the first so far on the way; the proof then says so."""
        leg = self._runner.repeated(until)
        self._repeats.append(leg)
        self._proof.repeated_until = max(self._proof.repeated_until, self._way.passed(leg))
        self._ignored |= unseeded_workers(self._twin, leg)
        found = first_divergence(self._index, leg, 1, self._proof.compared, self._way, self._ignored)
        if found is not None and found.passed <= until:
            self._conclude_undetermined(found, leg)
            return True
        return False

    def _conclude_undetermined(self, found: Divergence, leg: Leg) -> None:
        hidden = tuple(self._differing_in(leg, ()))
        workers = bool(self._ignored)
        evidence = Evidence(found, False, hidden, self._clocks(), self._threads(leg), unseeded_workers=workers)
        self._proof.verdict, self._proof.divergence = NOT_DETERMINISTIC, found
        self._proof.causes = likely_causes(evidence)

    def _judge(self, killed: Killed) -> None:
        proof = self._proof
        proof.kills = killed.kills
        found = self._first(killed)
        hidden = self._hidden(killed)
        if found is None and killed.failure is not None:
            found = _failed(killed)
        if found is None:
            found = _of_the_trained(hidden)
        self._say_gaps(killed, hidden if found is None else ())
        if found is None:
            proof.notes += [f"{cause.name} without consequence: {cause.seen}" for cause in self._other_threads(killed)]
            resumed = any(kill.resumed_at > 0 for kill in killed.kills)
            proof.verdict = IDENTICAL if resumed and killed.kills else NOTHING_PROVED
            return
        leg = killed.legs[found.leg - 1]
        # the first leg has not been resumed: where it differs, so do undisturbed trainings
        if found.leg == 1:
            self._conclude_undetermined(found, leg)
        elif found.passed <= proof.repeated_until or not self._wanders(found.passed):
            proof.verdict, proof.divergence = DIVERGED, found
            lost = tuple(one for k, one in hidden if k <= found.leg)
            evidence = Evidence(
                found, True, lost, self._clocks(), self._threads(leg), _missing([leg]), self._failure(killed, found)
            )
            proof.causes = likely_causes(evidence)

    def _first(self, killed: Killed) -> Divergence | None:
        for number, leg in enumerate(killed.legs, start=1):
            found = first_divergence(self._index, leg, number, self._proof.compared, self._way, self._ignored)
            if found is not None:
                return found
        return None

    def _failure(self, killed: Killed, found: Divergence) -> str | None:
        return killed.failure if found.differences[0].component == "process" else None

    def _hidden(self, killed: Killed) -> tuple[tuple[int, Hidden], ...]:
        """With the number of the leg in which it was first seen."""
        restless = {place for leg in self._repeats for place in self._restless(leg)}
        found: dict[str, tuple[int, Hidden]] = {}
        for number, leg in enumerate(killed.legs[1:], start=2):
            for one in self._differing_in(leg, restless):
                found.setdefault(one.place, (number, one))
        return tuple(found.values())

    def _differing_in(self, leg: Leg, restless: Collection[str]) -> Iterator[Hidden]:
        """Places that differ at the first state that a leg shares with the twin, without those that no two trainings share."""
        pair = next(matching_cuts(self._twin, leg), None)
        for place, entry, difference in hidden_differences(*pair) if pair else ():
            if place not in restless:
                yield Hidden(place, entry["kind"], tuple(entry["roles"]), difference, pair[1]["step"] if pair else 0)

    def _restless(self, leg: Leg) -> set[str]:
        return {place for pair in matching_cuts(self._twin, leg) for place, _, _ in hidden_differences(*pair)}

    def _clocks(self) -> tuple[dict[str, str], ...]:
        return tuple(one for cut in self._twin.cuts for one in cut.get("clocks", ()))

    def _threads(self, leg: Leg) -> tuple[int, int]:
        """In the twin and in a leg, at the first states where they differ."""
        pairs = [(twin["threads"], event["threads"]) for twin, event in matching_cuts(self._twin, leg)]
        return next((pair for pair in pairs if pair[0] != pair[1]), (1, 1))

    def _other_threads(self, killed: Killed) -> list[Cause]:
        pairs = dict.fromkeys(self._threads(leg) for leg in killed.legs)
        return [cause for pair in pairs for cause in thread_causes(pair)]

    def _say_gaps(self, killed: Killed, hidden: Iterable[tuple[int, Hidden]]) -> None:
        proof = self._proof
        proof.not_covered += [f"named by the capture itself: {what}" for what in _missing(killed.legs)]
        if self._ignored:
            proof.not_covered.append(
                "global generators of worker processes: nobody seeds them, and no step depends on them"
            )
        if self._wish.steps and self._command.script:
            proof.not_covered.append(f"everything after step {self._twin.step:,} (--steps {self._wish.steps})")
        left = self._wish.kills - len(killed.legs) + 1
        if left:
            proof.not_covered.append(f"kills: the training ended before {left} of {self._wish.kills}")
        fresh = [kill for kill in killed.kills if kill.resumed_at == 0]
        if fresh:
            proof.notes.append(f"{len(fresh)} of the kills came before the first checkpoint: the training began anew")
        proof.notes += [f"differs after a resume, without consequence in what was compared: {one}" for _, one in hidden]


def _seconds(leg: Leg) -> float:
    return (leg.ended_at or 0.0) - (leg.began_at or 0.0)


def _missing(legs: Iterable[Leg]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(what for leg in legs for cut in leg.cuts for what in cut["missing"]))


def _failed(killed: Killed) -> Divergence:
    last = killed.legs[-1]
    lines = (killed.failure or "").splitlines()
    difference = Difference("process", "exit", "goes on", f"{lines[0]} {lines[-1]}")
    return Divergence(len(killed.legs), last.step, "in the process itself", last.first_step or 0, (difference,))


def _of_the_trained(hidden: Iterable[tuple[int, Hidden]]) -> Divergence | None:
    """An optimizer or network outside of the capture that did not come back."""
    for number, one in hidden:
        if one.kind in _TRAINED:
            difference = Difference(one.kind, one.place, one.difference.undisturbed, one.difference.resumed)
            return Divergence(number, one.step, "outside of what is captured", one.step, (difference,), True)
    return None
