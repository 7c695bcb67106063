"""Why a resumed training probably left the twin's way: a judgement of what was seen, each with its evidence in one line.

Pure functions. What is named was seen to differ, or is code that was found; none of it is a proof of the cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from unbroken.proving.comparing import Difference, Divergence

RNG = "random number generator not captured"
OPTIMIZER = "optimizer not tracked"
NETWORK = "network not tracked"
ENVIRONMENT = "environment state not captured"
CALLBACK = "callback state not captured"
SCHEDULE = "schedule state not captured"
SCRIPT = "state of the script not captured"
CLOCK = "depends on the wall clock"
THREADS = "thread count"
SEED = "not seeded"
RESTORED = "captured state came back different"
FAILED = "the resumed training fails"
UNKNOWN = "unknown"

_KINDS = {"optimizer": OPTIMIZER, "network": NETWORK, "generator": RNG}
_ROLES = {"environment": ENVIRONMENT, "callback": CALLBACK, "schedule": SCHEDULE, "script": SCRIPT}
_OF_THE_ENVIRONMENT = ("observation", "reward", "done", "environment", "last observation", "environment's generators")
_RANK = (OPTIMIZER, RNG, NETWORK, CALLBACK, ENVIRONMENT, SCHEDULE, SCRIPT)
_REMEDIES = {
    RNG: "make it an attribute of the environment or callback that draws from it; attributes are captured",
    OPTIMIZER: "make it an attribute of the callback or the model that uses it; attributes are captured",
    NETWORK: "make it an attribute of the callback or the model that uses it; attributes are captured",
    ENVIRONMENT: "keep it in attributes of the environment, or give the environment get_state() and set_state(state)",
    CALLBACK: "keep it in attributes of the callback; attributes are captured",
    SCHEDULE: "keep it in an object with attributes, or compute it from the progress that SB3 passes in",
    SCRIPT: "keep it in attributes of a callback or the environment; attributes are captured",
    CLOCK: "compute it from steps: wall-clock time is never the same again",
    THREADS: "set the same number of threads in every process, as with torch.set_num_threads or OMP_NUM_THREADS",
    SEED: "give the algorithm seed=..., and every generator of your own a seed",
    RESTORED: "this is captured and should come back; please report it with the JSON report",
}


@dataclass(frozen=True)
class Hidden:
    """State outside of every capture that was not the twin's right after a resume."""

    place: str
    kind: str
    roles: tuple[str, ...]
    difference: Difference
    step: int

    @property
    def cause(self) -> str:
        """The name of its loss."""
        used_by = next((role for role in ("environment", "callback", "schedule") if role in self.roles), "script")
        return _KINDS.get(self.kind) or _ROLES[used_by]

    @property
    def is_used(self) -> bool:
        """Whether it probably matters: a plain value of the script that no part's code names may be a mark or a count."""
        return self.cause != SCRIPT

    def __str__(self) -> str:
        used = " and ".join(f"the {role}" for role in self.roles if role != "script")
        values = f"undisturbed {self.difference.undisturbed}, here {self.difference.resumed}"
        return f"{self.place} ({self.kind}{', used by ' + used if used else ''}) at step {self.step:,}: {values}"


@dataclass(frozen=True)
class Evidence:
    """What was seen beside the divergence itself. `resumed` is False where two undisturbed trainings differ."""

    divergence: Divergence
    resumed: bool = True
    hidden: tuple[Hidden, ...] = ()
    clocks: tuple[dict[str, str], ...] = ()
    threads: tuple[int, int] = (1, 1)
    missing: tuple[str, ...] = ()
    failure: str | None = None
    unseeded_workers: bool = False


@dataclass(frozen=True)
class Cause:
    """A likely cause, what was seen of it, and what to do."""

    name: str
    seen: str
    remedy: str = ""

    def plain(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def likely_causes(evidence: Evidence) -> list[Cause]:
    """Likely causes, the likeliest first; never empty."""
    if evidence.failure is not None:
        return [_cause(FAILED, evidence.failure)]
    found = _lost(evidence) if evidence.resumed else _undetermined(evidence)
    return found or [_cause(UNKNOWN, _what_is_known(evidence))]


def _lost(evidence: Evidence) -> list[Cause]:
    used = [one for one in evidence.hidden if one.is_used]
    found = _from_hidden(evidence, used) + thread_causes(evidence.threads)
    found += _from_clocks(evidence) if not found else []
    found += _from_hidden(evidence, evidence.hidden) if not found else []
    found += _from_missing(evidence) if not found else []
    first = evidence.divergence.differences[0]
    if not found and evidence.divergence.right_after_resume:
        found = [_cause(RESTORED, f"{first.name} ({first.component}) differs at the resume itself")]
    if not found and first.component in _OF_THE_ENVIRONMENT:
        seen = "the environment was given the same action in what is captured as the same state and answered otherwise"
        found = [_cause(ENVIRONMENT, f"{seen} ({first.component})")]
    return found


def _undetermined(evidence: Evidence) -> list[Cause]:
    """Two trainings that nobody disturbed differ: the clock, threads, or a seed that nobody gave."""
    generators = [one for one in evidence.hidden if one.kind == "generator"]
    clocks = _from_clocks(evidence)
    found = [_cause(SEED, str(one)) for one in generators]
    if evidence.unseeded_workers:
        found.append(_cause(SEED, "the global generators of the worker processes begin differently each time"))
    drawn = [one for one in evidence.divergence.differences if "generators" in one.component]
    if drawn and evidence.divergence.step == 0:
        found.append(_cause(SEED, f"before the first step {drawn[0].name} differs already"))
    return [*found, *clocks, *thread_causes(evidence.threads)]


def _from_hidden(evidence: Evidence, hidden: Sequence[Hidden]) -> list[Cause]:
    of_environment = evidence.divergence.differences[0].component in _OF_THE_ENVIRONMENT

    def rank(one: Hidden) -> tuple[bool, int]:
        return of_environment and "environment" not in one.roles, _RANK.index(one.cause)

    return [_cause(one.cause, str(one)) for one in sorted(hidden, key=rank)]


def thread_causes(threads: tuple[int, int]) -> list[Cause]:
    """A cause if two trainings computed with different numbers of threads."""
    twin, other = threads
    return [_cause(THREADS, f"{twin} in the undisturbed training, {other} in the other")] if twin != other else []


def _from_clocks(evidence: Evidence) -> list[Cause]:
    """Code that reads a clock, that of the part which differs first."""
    suspects = _roles_of(evidence.divergence.differences)
    ordered = sorted(evidence.clocks, key=lambda one: one["role"] not in suspects)
    return [_cause(CLOCK, f"{one['function']} reads {one['clock']} (used by the {one['role']})") for one in ordered]


def _roles_of(differences: Sequence[Difference]) -> tuple[str, ...]:
    first = differences[0]
    if any(one.name.endswith(".lr") or "learning_rate" in one.name for one in differences):
        return ("schedule", "callback")
    return ("environment",) if first.component in _OF_THE_ENVIRONMENT else ("callback", "schedule")


def _from_missing(evidence: Evidence) -> list[Cause]:
    """What the capture itself has named as not in any checkpoint."""
    names = {"environment": ENVIRONMENT, "callback": CALLBACK}
    return [
        _cause(next((cause for word, cause in names.items() if what.startswith(word)), SCRIPT), f"not captured: {what}")
        for what in evidence.missing
    ]


def _cause(name: str, seen: str) -> Cause:
    return Cause(name, seen, _REMEDIES.get(name, ""))


def _what_is_known(evidence: Evidence) -> str:
    first = evidence.divergence.differences[0]
    return f"{first.component} differs first, and nothing that was looked at explains it"
