"""The `.pt` files of the PPO in plain PyTorch: what `torch.load(weights_only=True)` reads, with the whole state behind it.

`torch.load` gives a dict: state dicts of `actor`, `critic`, `actor_optimizer`, `critic_optimizer`; `timestep`, `episode`;
`episode_rewards` and `episode_lengths` as tensors. Generators, environments and what they hold in mid-episode are under `exact/`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unbroken import logs
from unbroken.capture.state_dicts import StateDictCopies
from unbroken.capture.tracked import Tracked, copied
from unbroken.errors import DamagedFile, IncompatibleRun
from unbroken.learners.ppo import PPO
from unbroken.learners.stored import STATE, Stored, read_pytorch, read_stored, write_pytorch, write_state
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter, ForeignFile, write_checkpoint
from unbroken.store.durable import LocalBackend

# names under which earlier trainers are known to keep what we keep under the first
FIELD_NAMES = {
    "actor": ("actor", "actor_state_dict", "policy", "policy_state_dict"),
    "critic": ("critic", "critic_state_dict", "value", "value_state_dict"),
    "actor_optimizer": ("actor_optimizer", "actor_optimizer_state_dict", "optimizer_actor"),
    "critic_optimizer": ("critic_optimizer", "critic_optimizer_state_dict", "optimizer_critic"),
    "timestep": ("timestep", "timesteps", "total_timesteps", "global_step"),
    "episode": ("episode", "episodes"),
    "episode_rewards": ("episode_rewards", "rewards"),
    "episode_lengths": ("episode_lengths", "lengths"),
}


@dataclass(frozen=True)
class PPOSnapshot:
    """A consistent copy of a training: `content` is what `torch.load` gives, `state` the description of the rest."""

    content: dict[str, Any]
    state: dict[str, Any]
    missing: tuple[str, ...]

    def write(self, writer: CheckpointWriter) -> None:
        """Write the members of a checkpoint."""
        write_pytorch(writer, self.content)
        write_state(writer, self.state)


def capture(ppo: PPO, cut: str, copies: StateDictCopies | None = None, **more: Any) -> PPOSnapshot:
    """Snapshot of a training between two iterations; `more` is plain data that goes into the state.

    With `copies`, the snapshot is good until the next one with them.
    """
    taken = _parts(ppo).capture(copies)
    content = {
        **taken.tensors,
        "timestep": ppo.timestep,
        "episode": ppo.episode,
        "episode_rewards": torch.tensor(ppo.episode_rewards, dtype=torch.float64),
        "episode_lengths": torch.tensor(ppo.episode_lengths, dtype=torch.int64),
    }
    return PPOSnapshot(content, {"cut": cut, **more, **taken.state}, taken.missing)


def restore(ppo: PPO, stored: Stored) -> list[str]:
    """Bring a like-built training into a stored state; returns what did not fit."""
    problems = _parts(ppo).restore(stored.state, stored.tensors)
    _set_histories(ppo, stored.tensors)
    return problems


def write_model(writer: CheckpointWriter, ppo: PPO) -> None:
    """Write the networks alone: a model for use."""
    write_pytorch(
        writer,
        {
            "actor": copied(ppo.actor.state_dict()),
            "critic": copied(ppo.critic.state_dict()),
            "timestep": ppo.timestep,
            "episode": ppo.episode,
        },
    )


def save(
    ppo: PPO,
    path: Path,
    timestep: int,
    episode: int,
    episode_rewards: Sequence[float],
    episode_lengths: Sequence[int],
) -> None:
    """`PPO.save_with_training_state`."""
    taken = capture(ppo, "rollout")
    taken.content.update(
        timestep=timestep,
        episode=episode,
        episode_rewards=torch.tensor(episode_rewards, dtype=torch.float64),
        episode_lengths=torch.tensor(episode_lengths, dtype=torch.int64),
    )

    def fill(writer: CheckpointWriter) -> dict[str, Any]:
        taken.write(writer)
        return {"kind": "rollout", "step": timestep, "created": time.time(), "missing": list(taken.missing)}

    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(LocalBackend(path.parent), path.name, fill)


def load(ppo: PPO, path: Path) -> tuple[int, int, list[float], list[int]]:
    """`PPO.load_with_training_state`."""
    found = _read(path)
    if isinstance(found, Stored):
        for problem in restore(ppo, found):
            logs.warn_checkpoint(f"not restored: {problem}")
        content: Mapping[str, Any] = found.tensors
    else:
        content = _load_what_is_there(ppo, found, path)
    rewards, lengths = (_listed(content.get(name, [])) for name in ("episode_rewards", "episode_lengths"))
    return int(content.get("timestep", 0)), int(content.get("episode", len(rewards))), rewards, lengths


def _parts(ppo: PPO) -> Tracked:
    tracked = Tracked()
    tracked.add("actor", ppo.actor)
    tracked.add("critic", ppo.critic)
    tracked.add("actor_optimizer", ppo.actor_optimizer.adam)
    tracked.add("critic_optimizer", ppo.critic_optimizer.adam)
    tracked.add("generator", ppo.rng)
    tracked.add("copies", ppo.copies)
    for k, env in enumerate(ppo.copies.environments):
        tracked.add(f"environment {k}", env)
    return tracked


def _read(path: Path) -> Stored | Mapping[str, Any]:
    """The whole state of a checkpoint of ours, or what `torch.load` gives of any other `.pt`."""
    with CheckpointFile(LocalBackend(path.parent), path.name) as file:
        try:
            names = file.names()
        except ForeignFile:
            names = []
        except DamagedFile:
            if _begins_as_zip(path):
                raise
            names = []
        if names:
            file.verify()
            return read_stored(file) if STATE in names else read_pytorch(file)
    return _torch_loaded(path)


def _begins_as_zip(path: Path) -> bool:
    """Whether a file begins like a zip: older `.pt` files do not."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _torch_loaded(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise DamagedFile(f"{path} does not hold tensors and plain values alone, or is damaged: {reason}") from error
    if not isinstance(content, Mapping):
        raise DamagedFile(f"{path} holds a {type(content).__name__}, not a dict of state dicts")
    return content


def _load_what_is_there(ppo: PPO, content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A file that holds weights, and perhaps more: load what fits, name what is missing."""
    known: dict[str, Any] = {
        name: next((content[key] for key in keys if key in content), None) for name, keys in FIELD_NAMES.items()
    }
    for name in ("actor", "critic"):
        known[name] = known[name] or below(content, f"{name}.")
    if not known["actor"]:
        raise IncompatibleRun(f"{path} has no actor: its keys are {', '.join(map(str, list(content)[:8]))}")
    missing = [name for name, value in known.items() if value is None or (isinstance(value, Mapping) and not value)]
    for name, module in (("actor", ppo.actor), ("critic", ppo.critic)):
        if name not in missing:
            _load_module(module, known[name], f"{path}: {name}")
    for name, optimizer in (("actor_optimizer", ppo.actor_optimizer), ("critic_optimizer", ppo.critic_optimizer)):
        if name not in missing:
            try:
                optimizer.load_per_parameter(known[name])
            except (KeyError, ValueError, TypeError, RuntimeError):
                missing.append(name)
    logs.warn_checkpoint(
        f"{path} is a file of another trainer or a model for use: {', '.join([*missing, 'generators, environments'])} "
        "begin anew, so the training goes on, but not exactly"
    )
    found = {name: value for name, value in known.items() if name not in missing}
    _set_histories(ppo, found)
    return found


def below(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The part of one state dict over both networks that begins with a prefix."""
    nested = [value for value in content.values() if isinstance(value, Mapping)]
    for place in (content, *nested):
        if found := {str(key)[len(prefix) :]: v for key, v in place.items() if str(key).startswith(prefix)}:
            return found
    return {}


def _load_module(module: torch.nn.Module, held: Mapping[str, Any], what: str) -> None:
    """Load a state dict under its own names, or, where layers were named otherwise, in order if all shapes agree."""
    wanted = module.state_dict()
    shapes = [tuple(value.shape) for value in wanted.values()]
    if set(held) != set(wanted) and sorted(shapes) == sorted(tuple(value.shape) for value in held.values()):
        held = _by_order(wanted, held)
        logs.warn_checkpoint(f"{what}: its layers have other names; they were taken in their order")
    try:
        module.load_state_dict(held)
    except RuntimeError as error:
        raise IncompatibleRun(f"{what} does not fit: {' '.join(str(error).split())}") from error


def _by_order(wanted: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
    """Pair each wanted name with the next held tensor of its shape."""
    left = list(held.items())
    paired = {}
    for name, value in wanted.items():
        place = next(k for k, (_, other) in enumerate(left) if tuple(other.shape) == tuple(value.shape))
        paired[name] = left.pop(place)[1]
    return paired


def _set_histories(ppo: PPO, content: Mapping[str, Any]) -> None:
    ppo.timestep = int(content.get("timestep", 0))
    ppo.episode_rewards[:] = _listed(content.get("episode_rewards", []))
    ppo.episode_lengths[:] = _listed(content.get("episode_lengths", []))


def _listed(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)
