"""The leg that an imported run begins with: built as every leg, filled from a foreign file, saved at its first cut.

It trains nothing. What comes after it is an ordinary resume of an ordinary checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from unbroken import logs
from unbroken.capture.environments import Strategy
from unbroken.capture.selftest import Verdict
from unbroken.config import RunConfig
from unbroken.errors import DamagedFile, IncompatibleRun, UnbrokenError
from unbroken.importing.sb3_zip import VARIABLES, SB3Zip, Space, read_sb3_zip, space_of, whole
from unbroken.importing.starting import Start
from unbroken.learners import ppo_files
from unbroken.learners.evaluation import Evaluation
from unbroken.learners.plain_ppo import PPOLearner
from unbroken.learners.protocol import Learner
from unbroken.learners.stable_baselines import SB3Learner
from unbroken.learners.stored import read_tensors
from unbroken.leg import Leg
from unbroken.metadata import leg_entry
from unbroken.resolving import Resolved
from unbroken.stopping import StopRequest

# counters that a training continues with, as far as its algorithm has them
_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num")


class _Filled(Learner, Protocol):
    """A learner that can be filled from a foreign file."""

    def fill(self, path: Path) -> list[str]:
        """Take over what the file holds; returns what it has not. Raises IncompatibleRun or DamagedFile."""
        ...


class ImportedSB3(SB3Learner):
    """Takes weights, optimizers and counters from a zip of plain Stable-Baselines3."""

    def __init__(self, config: RunConfig, strategy: Strategy, step: int) -> None:
        super().__init__(config, strategy)
        self._imported_step = step

    def fill(self, path: Path) -> list[str]:
        """As the protocol says."""
        file, model = read_sb3_zip(path), self._model
        _require_same_spaces(file, model)
        lacking = _fill_states(file, model)
        _fill_variables(file, model)
        for name in _COUNTERS:
            count = whole(file.data.get(name))
            if count is not None and hasattr(model, name):
                setattr(model, name, count)
        model.num_timesteps = self._imported_step
        if isinstance(self._judge, Evaluation):
            # else the first step of the run would be evaluated, whatever its interval
            self._judge.last_step = self._imported_step
        return lacking


class ImportedPPO(PPOLearner):
    """Takes what fits from a `.pt` of a hand-written trainer."""

    def __init__(self, config: RunConfig, strategy: Strategy, step: int) -> None:
        super().__init__(config, strategy)
        self._imported_step = step

    def fill(self, path: Path) -> list[str]:
        """As the protocol says; what is missing is in the log."""
        ppo_files.load(self._ppo, path)
        self._ppo.timestep = self._imported_step
        self._last_evaluation = self._imported_step
        return []


class ImportLeg(Leg):
    """Used once, as its base. After `build` nothing is stored yet: a file that does not fit leaves no trace."""

    def __init__(self, resolved: Resolved, start: Start, path: Path) -> None:
        stop = StopRequest()
        stop.ask("the import trains nothing")
        super().__init__(resolved, stop)
        self.lacking: list[str] = []
        self._start = start
        self._source = path
        kind: Callable[..., _Filled] = ImportedPPO if start.found.kind == "weights" else ImportedSB3
        self._learner_class = partial(kind, step=start.step)

    def prepare(self) -> None:
        """Build and fill. Raises what building does, IncompatibleRun and DamagedFile."""
        try:
            # proved by the self-test of the next leg, which trains
            self.build(Verdict("auto", False, "the import trains nothing"))
        except UnbrokenError:
            raise
        except (MemoryError, OverflowError, RuntimeError) as error:
            # sizes are the file's, and what has no room for them says so in these ways
            reason = " ".join(str(error).split())[:400] or type(error).__name__
            raise IncompatibleRun(
                f"what {self._source.name} describes cannot be built here: {reason}; give other sizes, such as "
                "--set hyperparameters.n_steps=2048 or hyperparameters.policy_kwargs.net_arch=[64,64]"
            ) from error

    def save(self) -> None:
        """Save at the first cut. Raises StorageError where that fails."""
        assert self._learner is not None
        # a best model may have been placed since, whose score belongs into the metadata
        self._exports = self._make_exports(self._learner)
        self.drive()

    def _restore(self, learner: Learner) -> None:
        self.lacking = learner.fill(self._source)  # type: ignore[attr-defined]

    def _legs(self, step: int) -> list[dict[str, Any]]:
        entry = leg_entry(self.number, self._started, step, step)
        return [{**entry, "imported": self._start.found.path}]


def _require_same_spaces(file: SB3Zip, model: BaseAlgorithm) -> None:
    for what, live in (("observation", model.observation_space), ("action", model.action_space)):
        stored = space_of(file.data.get(f"{what}_space"))
        if stored is not None and not _is_like(stored, live):
            raise IncompatibleRun(
                f"{file.path.name} was trained with the {what} space {stored}, and this environment has {live}; name the "
                "environment that it was trained on, and its wrappers (--set environment.wrappers=[...], environment.frame_stack=N)"
            )


def _is_like(stored: Space, live: Any) -> bool:
    shape = None if stored.shape is None else tuple(live.shape or ())
    n = None if stored.n is None else int(getattr(live, "n", -1))
    return (stored.kind, stored.shape, stored.n) == (type(live).__name__, shape, n)


def _fill_states(file: SB3Zip, model: BaseAlgorithm) -> list[str]:
    """Load every state dict that the algorithm has; returns the optimizers that are missing or do not fit."""
    lacking = []
    for name in model._get_torch_save_params()[0]:
        holder, is_optimizer = recursive_getattr(model, name), "optimizer" in name
        if name not in file.states:
            if not is_optimizer:
                raise IncompatibleRun(
                    f"{file.path.name} has no {name}.pth: it is of another algorithm; give its own with --algo"
                )
            lacking.append(name)
            continue
        held = _tensors(file, f"{name}.pth")
        try:
            getattr(holder, "_orig_mod", holder).load_state_dict(held)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            if not is_optimizer:
                raise IncompatibleRun(
                    f"the weights in {file.path.name} do not fit the network: {' '.join(str(error).split())[:400]}; give what it "
                    "was made with, such as --set hyperparameters.policy_kwargs.net_arch=[64,64]"
                ) from error
            lacking.append(name)
    return lacking


def _fill_variables(file: SB3Zip, model: BaseAlgorithm) -> None:
    """Single tensors that are trained, such as SAC's entropy coefficient."""
    names = model._get_torch_save_params()[1] or []
    held = _tensors(file, VARIABLES) if VARIABLES in file.members else None
    for name in names:
        value = held.get(name) if isinstance(held, dict) else None
        live = recursive_getattr(model, name)
        if value is None or tuple(value.shape) != tuple(live.shape):
            logs.warn_checkpoint(f"{file.path.name} has no {name}: it begins anew")
        else:
            live.data.copy_(value)


def _tensors(file: SB3Zip, member: str) -> Any:
    try:
        return read_tensors(file.read(member))
    except DamagedFile:
        raise
    except Exception as error:
        raise DamagedFile(
            f"{file.path.name}: {member} does not open as tensors alone: it is damaged, or names code, which is not run"
        ) from error
