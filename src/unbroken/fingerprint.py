"""What the code of an environment was: a changed environment must prove its capture anew, and makes another agent."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from unbroken.cache.sources import file_source, module_sources, text_digest, with_plain_newlines
from unbroken.errors import ConfigurationError
from unbroken.targets import find_modules_here
from unbroken.traffic.scenario import read_scenario

# of our environments the part that makes episodes; their shell is `environments`, whose pictures no agent sees
_SHELL = "unbroken.traffic.environments"
_TASKS = {
    "traffic_light_control": "unbroken.traffic.tasks.signals",
    "ramp_metering": "unbroken.traffic.tasks.ramp",
    "adaptive_speed_control": "unbroken.traffic.tasks.speed",
}


def traffic_scenario(target: str) -> str | None:
    """The scenario of ours that a target trains on; None for any other environment."""
    module, _, environment = target.rpartition(":")
    name = environment.removeprefix("unbroken/").removesuffix("-v0")
    return name if name in _TASKS and module in ("", "unbroken.envs") else None


def traffic_task_module(scenario: str) -> str:
    """The module of the task of one of our scenarios."""
    return _TASKS[scenario]


def source_digest(target: str, kwargs: Mapping[str, Any] | None = None) -> str | None:
    """Hash of the source file in which a target's class is, newlines normalised; None if there is none to be found.

    The target has passed `check_target`, so that its module is imported. Only the class's own file counts; of our traffic
    environments the simulator's files and the scenario that `kwargs` name do, as all of them make the environment.
    """
    try:
        if traffic_scenario(target) is not None:
            sources = environment_sources(target, kwargs or {})
            return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
        module = _module_of(target)
        path = None if module is None else _file_of(module)
        return None if path is None else hashlib.sha256(with_plain_newlines(path.read_bytes())).hexdigest()
    except OSError:
        return None


def environment_sources(
    target: str, kwargs: Mapping[str, Any], wrappers: Sequence[str | Mapping[str, Any]] | None = None
) -> dict[str, str]:
    """Digests by file of what makes an environment: its module and all that this imports of its package, and a scenario's file.

    Of installed packages their version stands for the code. Raises NotFound for a scenario that is not there.
    """
    scenario = traffic_scenario(target)
    if scenario is not None:
        label, content = read_scenario(str(kwargs.get("scenario") or scenario))
        own = {f"scenario file {Path(label).name}": text_digest(content), **file_source(_SHELL)}
        found = {**module_sources(_TASKS[scenario]), **own}
    else:
        found = code_sources(_module_of(target) or target.partition(":")[0])
    for wrapper in wrappers or ():
        place = wrapper if isinstance(wrapper, str) else str(wrapper["class"])
        found |= code_sources(place.partition(":")[0])
    return found


def code_sources(module: str) -> dict[str, str]:
    """Digests of a module and what it imports of its package; the version, where it belongs to an installed package."""
    find_modules_here()
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    origin = Path(spec.origin).parts if spec is not None and spec.origin else ()
    if "site-packages" in origin or "dist-packages" in origin or top in sys.stdlib_module_names:
        return {f"package {top}": _version(top)}
    try:
        return dict(module_sources(module))
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"there is no module {module!r} here: {error}") from error


def _version(top: str) -> str:
    for distribution in packages_distributions().get(top, []):
        with contextlib.suppress(PackageNotFoundError):
            return version(distribution)
    return "unknown"


def _module_of(target: str) -> str | None:
    """The module of the class or factory that a target names."""
    module_name, _, name = target.partition(":")
    found: Any = sys.modules.get(module_name) if name else None
    for part in name.split("."):
        found = getattr(found, part, None)
    if callable(found):
        return str(getattr(found, "__module__", None) or module_name)
    from gymnasium.envs.registration import registry

    spec = registry.get(name or target)
    entry = None if spec is None else spec.entry_point
    return entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", None)


def _file_of(module_name: str) -> Path | None:
    module = sys.modules.get(module_name)
    place = getattr(module, "__file__", None)
    if module is None:
        # finding a module imports its package, which may raise whatever it likes; making the environment says it better
        with contextlib.suppress(Exception):
            spec = importlib.util.find_spec(module_name)
            place = spec.origin if spec is not None and spec.has_location else None
    return Path(place) if place else None
