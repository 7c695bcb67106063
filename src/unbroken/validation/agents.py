"""Agents of a comparison: found in the cache, or trained as runs that survive their machine, then kept there.

An agent's key is its whole configuration, its lineage and the code of its environment (D3): a run whose configuration changed
on the way, or that was forked, is another key and is never taken for a clean one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unbroken.cache.context import numeric_context
from unbroken.cache.inputs import Inputs
from unbroken.cache.result import Result
from unbroken.cache.result_cache import ResultCache
from unbroken.config import RunConfig, build_config, merged
from unbroken.defaults import default_target, scenario_defaults
from unbroken.errors import ConfigurationError, UnbrokenError
from unbroken.fingerprint import environment_sources, named_code, source_digest, traffic_scenario
from unbroken.folder import RunFolder, file_names
from unbroken.locate import repository_of
from unbroken.recording import METRICS
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.validation.code import require_unchanged
from unbroken.validation.results import Curve

Model = Literal["best", "final"]
# of one leg, or of how results are kept and shown: these shape no weights
_NOT_SHAPING = ("saving", "tracking", "log_interval", "self_test", "scenario", "device")


class NotThatAgent(UnbrokenError, ValueError):
    """A run holds another training than the one that was asked for."""

    exit_code = 65


@dataclass(frozen=True)
class AgentSpec:
    """Which training makes an agent, and which of its models is judged. `values` are keys of a run's configuration.

    `apart` gives the run a name with the key in it: a quick training must not become what the user's own goes on from.
    """

    scenario: str
    values: Mapping[str, Any]
    model: Model = "best"
    apart: bool = False

    @cached_property
    def config(self) -> RunConfig:
        """The configuration as a run of these values has it. Raises ConfigurationError."""
        values = merged(scenario_defaults(self.values), self.values)
        return build_config({**values, "total_timesteps": values.get("total_timesteps") or default_target(values, {})})

    @cached_property
    def inputs(self) -> Inputs:
        """The key of the trained agent."""
        return agent_inputs(self.scenario, self.config, [], self.model)

    @property
    def run(self) -> str:
        """The name of the run that `unbroken train` would give it."""
        return self.config.default_run_name()


@dataclass(frozen=True)
class Agent:
    """A trained agent: its SB3 zip, and how it came about. Everything a worker process needs to play."""

    spec: AgentSpec
    zip_bytes: bytes
    step: int
    curve: Curve
    from_cache: bool

    @cached_property
    def weights(self) -> str:
        """Hash of what the agent does; imports the learners' libraries."""
        from unbroken.learners.policies import weights_digest

        return weights_digest(self.zip_bytes)


def shaping(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration's plain form shapes the weights."""
    return {key: value for key, value in config.items() if key not in _NOT_SHAPING}


def agent_inputs(scenario: str, config: RunConfig, lineage: list[Any], model: Model) -> Inputs:
    """The key of an agent with that lineage: empty for a training that went straight to its target."""
    return Inputs(
        scenario=scenario,
        kind="rl",
        values={"config": shaping(config.plain()), "lineage": lineage, "model": model},
        sources={
            **environment_sources(config.target, config.environment.kwargs, config.environment.wrappers),
            **named_code(config.plain()),
        },
        context=numeric_context("torch", "stable-baselines3"),
    )


def run_names(specs: Iterable[AgentSpec], runs_dir: Path) -> dict[str, str]:
    """The run of each spec, by fingerprint; no two specs share one."""
    names: dict[str, str] = {}
    for spec in specs:
        if spec.inputs.fingerprint not in names:
            taken = set(names.values())
            names[spec.inputs.fingerprint] = next(
                name for name in _possible_names(spec) if name not in taken and _is_for(spec, RunFolder(runs_dir, name))
            )
    return names


def obtain(
    cache: ResultCache, spec: AgentSpec, runs_dir: Path, run: str, train: Callable[[AgentSpec, str], None]
) -> Agent:
    """The agent of a spec; `train(spec, run)` starts or continues its run and returns at the target.

    Raises what `train` raises, NotThatAgent where the run that it leaves is another training, and UntrustworthyComparison where its
    code changed meanwhile.
    """

    def compute() -> Result:
        train(spec, run)
        found = collect(spec, RunFolder(runs_dir, run))
        require_unchanged(spec.inputs.sources, agent_inputs(spec.scenario, spec.config, [], spec.model).sources)
        return found

    answer = cache.answer(spec.inputs, compute)
    facts, arrays = answer.result.facts, answer.result.arrays
    curve = Curve(
        training_seed=spec.config.seed,
        steps=tuple(int(step) for step in arrays["curve_steps"]),
        values=tuple(float(value) for value in arrays["curve_values"]),
        legs=tuple(int(step) for step in facts["legs"]),
    )
    return Agent(spec, arrays["zip"].tobytes(), int(facts["step"]), curve, answer.how == "hit")


def collect(spec: AgentSpec, folder: RunFolder) -> Result:
    """What a run that has reached its target leaves of its agent. Raises NotThatAgent, DamagedFile or NotFound."""
    names = file_names(spec.config.scenario, spec.config.algo)
    path = names.best if spec.model == "best" else names.final
    with CheckpointFile(folder.backend, path) as file:
        file.verify()
        manifest = file.manifest
    problem = _difference(spec, folder)
    if problem is not None:
        raise NotThatAgent(f"run {folder.name} {problem}; name another --runs-dir, or train it again with --fresh")
    steps, values = _evaluations(folder.path / METRICS)
    arrays: dict[str, NDArray[Any]] = {
        "zip": np.frombuffer((folder.path / path).read_bytes(), dtype=np.uint8),
        "curve_steps": np.array(steps, dtype=np.int64),
        "curve_values": np.array(values, dtype=np.float64),
    }
    legs = [int(leg.get("from_step", 0)) for leg in folder.metadata().get("legs") or []]
    return Result(arrays, facts={"step": int(manifest["step"]), "legs": legs, "model": spec.model})


def _possible_names(spec: AgentSpec) -> Iterator[str]:
    """The usual name, then such with the key, so that nobody's run is touched.

    Only of our own environments does a run record all the code that made its episodes: others' always have the key in their name.
    """
    if traffic_scenario(spec.config.target) is not None and not spec.apart:
        yield spec.run
    yield f"{spec.run}-{spec.inputs.short}"
    yield from (f"{spec.run}-{spec.inputs.short}-{number}" for number in itertools.count(2))


def _is_for(spec: AgentSpec, folder: RunFolder) -> bool:
    """Whether there is no run yet, or this training's."""
    return not folder.path.exists() or _difference(spec, folder) is None


def _difference(spec: AgentSpec, folder: RunFolder) -> str | None:
    """How a run differs from the training that was asked for; None where it is that, or its beginning."""
    stored = (folder.stored() or {}).get("config")
    if stored is None:
        # a run that has just begun has written nothing yet
        return "is not a run of this version" if any(folder.backend.entries("checkpoints")) else None
    wanted, there = shaping(spec.config.plain()), shaping(stored)
    changed = [key for key in sorted(wanted.keys() | there.keys()) if wanted.get(key) != there.get(key)]
    if changed:
        return f"has another {', '.join(changed)}"
    records = [record for record in repository_of(folder).records() if record.valid is not False]
    if not records:
        return None
    with CheckpointFile(folder.backend, records[-1].path) as file:
        manifest = file.manifest
    key = (manifest.get("environment_capture") or {}).get("key") or {}
    if key.get("source") not in (None, source_digest(spec.config.target, spec.config.environment.kwargs)):
        return "was trained with other code of its environment"
    if manifest.get("lineage"):
        fields = ", ".join(sorted({str(entry.get("field")) for entry in manifest["lineage"]}))
        return f"was changed on the way ({fields})"
    return "was forked from another" if manifest.get("parent") else None


def _evaluations(path: Path) -> tuple[list[int], list[float]]:
    """Steps and mean rewards of a training's own evaluations; empty without any."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [], []
    rows = [json.loads(line) for line in lines if line]
    found = [row for row in rows if row.get("eval/mean_reward") is not None]
    return [int(row["step"]) for row in found], [float(row["eval/mean_reward"]) for row in found]


def require_judgeable(config: RunConfig) -> None:
    """Raise ConfigurationError for an agent whose model for use does not hold all that it acts by."""
    if config.algo == "ppo_torch":
        raise ConfigurationError("a comparison judges agents of Stable-Baselines3 and sb3-contrib, not yet ppo-torch")
    if config.environment.frame_stack is not None:
        raise ConfigurationError("environment.frame_stack cannot be compared: stack frames by a wrapper of Gymnasium's")
