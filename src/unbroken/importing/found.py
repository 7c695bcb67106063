"""What one file of an earlier trainer was recognised as."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal[
    "sb3 zip", "unbroken checkpoint", "weights", "pickle", "evaluations", "iteration", "damaged", "unusable", "other"
]

REPLAY_BUFFER, NORMALISATION = "replay buffer", "normalisation (VecNormalize)"
"""What `says` is of these pickles."""
STEPS_LIMIT = 2**53
"""No training has so many environment steps: from here on programs that read JSON lose single ones."""

_STEPPED = re.compile(r"(?P<prefix>.+)_(?P<steps>\d+)_steps\.zip")
_COMPANION = re.compile(r"(?P<prefix>.+)_(?P<what>replay_buffer|vecnormalize)_(?P<steps>\d+)_steps\.pkl")
_PYTORCH = re.compile(r"(?P<prefix>.+)_(?P<steps>\d+)\.(pt|pth)")


@dataclass(frozen=True)
class Found:
    """One file: `path` relative to the source with `/` between its parts, `size` in bytes, `steps` environment steps.

    `missing` is what a training would need and the file has not; `problem` says why the file cannot be used.
    """

    path: str
    size: int
    kind: Kind
    says: str
    steps: int | None = None
    algorithm: str | None = None
    policy: str | None = None
    observation: str | None = None
    action: str | None = None
    missing: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """Where it lies, `""` for the source itself."""
        return self.path.rpartition("/")[0]

    @property
    def prefix(self) -> str | None:
        """What stands before the steps in the name of a numbered checkpoint, None for other names."""
        match = _STEPPED.fullmatch(self.name) or _PYTORCH.fullmatch(self.name)
        return match["prefix"] if match else None

    def plain(self) -> dict[str, Any]:
        """JSON-ready form without what is not known."""
        return {key: value for key, value in asdict(self).items() if value not in (None, ())}


def steps_in_name(name: str) -> int | None:
    """The steps that a checkpoint's name tells of, `{prefix}_{steps}_steps.zip`, `checkpoint_{steps}.pt`, below `STEPS_LIMIT`."""
    match = _STEPPED.fullmatch(name) or _PYTORCH.fullmatch(name) or _COMPANION.fullmatch(name)
    steps = int(match["steps"]) if match else None
    return None if steps is None or steps >= STEPS_LIMIT else steps


def has_steps_in_name(name: str) -> bool:
    """Whether a name has the form of a numbered checkpoint's, whatever the number."""
    return _STEPPED.fullmatch(name) is not None or _PYTORCH.fullmatch(name) is not None


def companions(name: str) -> dict[str, str]:
    """Names under which CheckpointCallback puts `replay_buffer` and `vecnormalize` beside a checkpoint of this name."""
    match = _STEPPED.fullmatch(name)
    if match is None:
        return {}
    return {what: f"{match['prefix']}_{what}_{match['steps']}_steps.pkl" for what in ("replay_buffer", "vecnormalize")}
