"""Whether a stored run can continue under a changed configuration: one table of verdicts, and the difference field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from unbroken.errors import IncompatibleRun


class Verdict(Enum):
    """What a changed field means for the training."""

    COMPATIBLE = "compatible"
    NOTED = "noted"
    RISKY = "risky"
    INCOMPATIBLE = "incompatible"


# the longest matching prefix decides
_TABLE = {
    "target": Verdict.INCOMPATIBLE,
    "scenario": Verdict.INCOMPATIBLE,
    "algo": Verdict.INCOMPATIBLE,
    "policy": Verdict.INCOMPATIBLE,
    "seed": Verdict.RISKY,
    "device": Verdict.NOTED,
    "total_timesteps": Verdict.COMPATIBLE,
    "environment.kwargs": Verdict.NOTED,
    "environment.wrappers": Verdict.INCOMPATIBLE,
    "environment.n_envs": Verdict.INCOMPATIBLE,
    "environment.vec_env": Verdict.INCOMPATIBLE,
    "environment.frame_stack": Verdict.INCOMPATIBLE,
    "environment.normalize": Verdict.INCOMPATIBLE,
    "environment.replay_limit": Verdict.COMPATIBLE,
    "hyperparameters": Verdict.RISKY,
    "hyperparameters.n_steps": Verdict.INCOMPATIBLE,
    "hyperparameters.policy_kwargs": Verdict.INCOMPATIBLE,
    "hyperparameters.net_arch": Verdict.INCOMPATIBLE,
    "hyperparameters.buffer_size": Verdict.INCOMPATIBLE,
    "hyperparameters.optimize_memory_usage": Verdict.INCOMPATIBLE,
    "hyperparameters.use_sde": Verdict.INCOMPATIBLE,
    "saving": Verdict.COMPATIBLE,
    "evaluation": Verdict.COMPATIBLE,
    "tracking": Verdict.COMPATIBLE,
    "callbacks": Verdict.RISKY,
    "log_interval": Verdict.COMPATIBLE,
    "self_test": Verdict.COMPATIBLE,
    "grace_seconds": Verdict.COMPATIBLE,
    "deadline_seconds": Verdict.COMPATIBLE,
}
WAYS_OUT = (
    "--fresh starts again (the old checkpoints are archived), --run NAME begins another run, or give the stored values"
)


@dataclass(frozen=True)
class Change:
    """One field that differs between the stored and the present configuration."""

    field: str
    stored: Any
    present: Any

    @property
    def verdict(self) -> Verdict:
        """What the table says of this field."""
        parts = self.field.split(".")
        for length in range(len(parts), 0, -1):
            verdict = _TABLE.get(".".join(parts[:length]))
            if verdict is not None:
                return verdict
        return Verdict.RISKY

    def __str__(self) -> str:
        return f"{self.field}: {self.stored!r} -> {self.present!r}"


def changes(
    stored: Mapping[str, Any], present: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> list[Change]:
    """All fields that differ, with dotted names.

    A hyper-parameter that one side lacks has the algorithm's own value there, if `defaults` names it; any other field
    that is lacking counts as None. An empty section is no None, where that is written out: `normalize: {}` normalises.
    """
    before, now = dict(_leaves(stored)), dict(_leaves(present))
    usual = dict(_leaves({"hyperparameters": defaults or {}}))
    found = []
    for name in dict.fromkeys([*before, *now]):
        # a section that is empty on one side and missing or filled on the other differs by its fields, if at all
        lacking = {} if {} in (before.get(name), now.get(name)) else usual.get(name)
        change = Change(name, before.get(name, lacking), now.get(name, lacking))
        if _plain(change.stored) != _plain(change.present):
            found.append(change)
    return found


def _plain(value: Any) -> Any:
    """A tuple of a constructor is the list of a file."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def effective_changes(stored: Mapping[str, Any], present: Mapping[str, Any]) -> list[Change]:
    """The changes between two run configurations; a hyper-parameter given as the constructor's own default is none."""
    found = changes(stored, present)
    if not any(change.field.startswith("hyperparameters.") for change in found):
        return found
    # torch and SB3 take seconds to import: only now does what a constructor does by itself matter
    from unbroken.learners.building import constructor_defaults

    return changes(stored, present, constructor_defaults(str(present["algo"])))


def require_compatible(found: list[Change], run: str, ways_out: str = WAYS_OUT) -> None:
    """Raise IncompatibleRun with all incompatible fields and the ways out, if there are any."""
    fatal = [change for change in found if change.verdict is Verdict.INCOMPATIBLE]
    if fatal:
        lines = "".join(f"\n  {change}" for change in fatal)
        raise IncompatibleRun(f"run {run!r} cannot continue with these changes (stored -> now):{lines}\n{ways_out}")


def require_same_schema(
    stored: Mapping[str, Any], present: Mapping[str, Any], run: str, ways_out: str = WAYS_OUT
) -> None:
    """Raise IncompatibleRun where spaces or policy architecture of the checkpoint differ from the built model's."""
    found = changes(stored, present)
    if found:
        lines = "".join(f"\n  {change}" for change in found[:8]) + (
            f"\n  and {len(found) - 8} more" if len(found) > 8 else ""
        )
        raise IncompatibleRun(
            f"the checkpoint of run {run!r} was made with another environment or network:{lines}\n{ways_out}"
        )
