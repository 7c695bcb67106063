"""What the code of an environment was: a changed environment must prove its capture anew, and makes another agent."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from unbroken.cache.sources import data_digest, file_source, module_sources, text_digest, with_plain_newlines
from unbroken.errors import ConfigurationError
from unbroken.targets import find_modules_here
from unbroken.traffic.scenario import read_scenario

_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_MOST_FILES = 10_000
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
    """Hash of the source files of the module that a target names and of its class, newlines normalised; None if there are none.

    The target has passed `check_target`, so that its module is imported. Only these files count; of our traffic environments the
    simulator's files and the scenario that `kwargs` name do, as all of them make the environment.
    """
    try:
        if traffic_scenario(target) is not None:
            sources = environment_sources(target, kwargs or {})
            return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
        paths = {path for module in _modules_of(target) if (path := _file_of(module)) is not None}
        digests = sorted(hashlib.sha256(with_plain_newlines(path.read_bytes())).hexdigest() for path in paths)
    except OSError:
        return None
    return hashlib.sha256("".join(digests).encode()).hexdigest() if len(digests) > 1 else next(iter(digests), None)


def environment_sources(
    target: str, kwargs: Mapping[str, Any], wrappers: Sequence[str | Mapping[str, Any]] | None = None
) -> dict[str, str]:
    """Digests of what makes an environment: its modules and all that these import of their packages, and what its arguments name.

    Arguments name code (`module:name`), files, and folders, whose files all count; a scenario of our traffic is one of them. Of
    installed packages their version stands for the code. Raises NotFound for a scenario that is not there, and
    ConfigurationError for a folder with more than 10,000 files.
    """
    scenario = traffic_scenario(target)
    if scenario is not None:
        label, content = read_scenario(str(kwargs.get("scenario") or scenario))
        own = {f"scenario file {Path(label).name}": text_digest(content), **file_source(_SHELL)}
        found = {**module_sources(_TASKS[scenario]), **own}
        named: Mapping[str, Any] = {name: value for name, value in kwargs.items() if name != "scenario"}
    else:
        found = {name: one for module in _modules_of(target) for name, one in code_sources(module).items()}
        named = kwargs
    return found | named_code([named, *(wrappers or ())]) | argument_files(named, wrappers)


def argument_files(
    kwargs: Mapping[str, Any], wrappers: Sequence[str | Mapping[str, Any]] | None = None
) -> dict[str, str]:
    """Digests of the files, and of all files in the folders, that the arguments of an environment and its wrappers name."""
    return _files_of({**kwargs, "wrappers": [one for one in wrappers or () if not isinstance(one, str)]})


def named_code(value: Any) -> dict[str, str]:
    """Digests of the code (`module:name`) that plain values name, however deep it lies in them."""
    if isinstance(value, str):
        return _code(value)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return {name: found for item in items for name, found in named_code(item).items()}


def _files_of(value: Any, place: str = "") -> dict[str, str]:
    if isinstance(value, str):
        return _files(value, place)
    if isinstance(value, Mapping):
        items = [(f"{place}.{key}" if place else str(key), item) for key, item in value.items()]
    else:
        items = [(f"{place}[{index}]", item) for index, item in enumerate(value)] if isinstance(value, list) else []
    return {name: found for inner, item in items for name, found in _files_of(item, inner).items()}


def _code(text: str) -> dict[str, str]:
    if _CODE.fullmatch(text):
        # what leads to no module is something else, or refused by who imports it
        with contextlib.suppress(ConfigurationError, ImportError, ValueError):
            return code_sources(text.partition(":")[0])
    return {}


def _files(text: str, place: str) -> dict[str, str]:
    path = _existing(text)
    if path is None:
        return {}
    return _folder(path, place) if path.is_dir() else {f"file of {place}": data_digest(path)}


def _existing(text: str) -> Path | None:
    """The file or folder of that name; None where it names none, whatever else it is."""
    try:
        path = Path(text).expanduser()
        return path if text and (path.is_file() or path.is_dir()) else None
    except (OSError, ValueError, RuntimeError):
        return None


def _folder(path: Path, place: str) -> dict[str, str]:
    here = Path.cwd()
    if path.resolve() in (here, *here.parents):
        # no folder of data: it holds what runs here write, and a text such as "/" may mean something else
        return {}
    try:
        files = list(itertools.islice((file for file in path.rglob("*") if file.is_file()), _MOST_FILES + 1))
        found = {f"file of {place}: {file.relative_to(path).as_posix()}": data_digest(file) for file in sorted(files)}
    except OSError as error:
        raise ConfigurationError(f"{place} names the folder {path}, which cannot be read: {error}") from error
    if len(files) > _MOST_FILES:
        raise ConfigurationError(
            f"{place} names the folder {path} of more than {_MOST_FILES:,} files, and all of them would be part of a result's key: "
            "name a folder of fewer, or a file"
        )
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


def _modules_of(target: str) -> list[str]:
    """The module that a target names, and that of its class or factory, or of what a registered name leads to.

    All of them make it: a name may be bound, its class's attributes be set, or arguments be registered elsewhere than where the
    class stands.
    """
    from gymnasium.envs.registration import registry

    module_name, _, name = target.partition(":")
    found: Any = sys.modules.get(module_name) if name else None
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        spec = registry.get(name or target)
        entry = None if spec is None else spec.entry_point
        home = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", None)
    else:
        while isinstance(found, functools.partial):
            found = found.func
        home = getattr(found, "__module__", None)
    modules = [module_name] if name else []
    return list(dict.fromkeys([*modules, *([str(home)] if home else [])])) or [target.partition(":")[0]]


def _file_of(module_name: str) -> Path | None:
    module = sys.modules.get(module_name)
    place = getattr(module, "__file__", None)
    if module is None:
        # finding a module imports its package, which may raise whatever it likes; making the environment says it better
        with contextlib.suppress(Exception):
            spec = importlib.util.find_spec(module_name)
            place = spec.origin if spec is not None and spec.has_location else None
    return Path(place) if place else None
