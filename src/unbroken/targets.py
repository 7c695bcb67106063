"""What `unbroken train TARGET` may name, and how an environment is made from it.

A target is a Gymnasium id (`CartPole-v1`), a scenario of ours without "unbroken/" and version (`ramp_metering`), Gymnasium's own
`module:EnvId`, or `package.module:EnvClass`.
Making an environment imports and runs the user's own code; checking a name's form does not.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unbroken.errors import ConfigurationError, MissingExtra, UnknownTarget


def scenario_name(target: str) -> str:
    """The scenario of a target: the target as typed, with "/" and ":" as "-"."""
    return target.replace("/", "-").replace(":", "-")


def make_environment(target: str, kwargs: Mapping[str, Any] | None = None) -> Any:
    """A new Gymnasium environment with the wrappers its registration asks for.

    Raises UnknownTarget, with the nearest name that exists, and MissingExtra.
    """
    options = dict(kwargs or {})
    module_name, _, name = target.partition(":")
    if name:
        made = _environment_class(module_name, name)
        options = _with_bundled_files(module_name, options)
        if made is not None:
            return made(**options)
    return _registered(target, options)


def wrapped(env: Any, wrappers: Sequence[str | Mapping[str, Any]] | None) -> Any:
    """The environment inside the wrappers of a configuration, from the inside out. Raises ConfigurationError."""
    for item in wrappers or ():
        place = item if isinstance(item, str) else item["class"]
        arguments = {} if isinstance(item, str) else item.get("kwargs", {})
        module_name, _, name = place.partition(":")
        make = _environment_class(module_name, name)
        try:
            env = make(env, **arguments)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigurationError(f"environment.wrappers: {place}: {' '.join(str(error).split())}") from error
    return env


def check_wrappers(wrappers: Sequence[str | Mapping[str, Any]] | None) -> None:
    """See that the wrappers of a configuration exist. Imports their modules. Raises UnknownTarget."""
    for item in wrappers or ():
        module_name, _, name = (item if isinstance(item, str) else str(item["class"])).partition(":")
        if _environment_class(module_name, name) is None:
            raise UnknownTarget(f"module {module_name!r} has no {name!r}")


def check_target(target: str) -> None:
    """See that a target names something, without making it. Imports the module that it names.

    Raises UnknownTarget, with the nearest name that exists, and MissingExtra.
    """
    import gymnasium

    module_name, _, name = target.partition(":")
    if name and _environment_class(module_name, name) is not None:
        return
    _import_provider(target)
    try:
        # the module has been imported: spec() knows no `module:EnvId`
        gymnasium.spec(name or _full_id(target))
    except gymnasium.error.Error as error:
        raise _unknown(target, error) from error


def _environment_class(module_name: str, name: str) -> Any:
    """The class or factory `module:name`, or None when the module does not define it."""
    module = _import(module_name)
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if callable(found):
        return found
    if "-v" not in name and not _is_registered(name):
        raise UnknownTarget(f"module {module_name!r} has no {name!r}{_suggestion(name, dir(module))}")
    return None


def find_modules_here() -> str:
    """Let modules in the current folder be imported, as a script's user expects of those beside his files; returns the folder."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return here


def _import(module_name: str) -> Any:
    here = find_modules_here()
    if module_name.partition(".")[0] == "sumo_rl":
        _find_sumo()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise MissingExtra(f"importing {module_name!r} failed: it needs {error.name!r}; pip install it") from error
        raise UnknownTarget(
            f"there is no module {module_name!r} here (looked in {here} and the installed packages)"
        ) from error


def _find_sumo() -> None:
    """sumo-rl refuses to be imported where SUMO_HOME is not set; the package eclipse-sumo knows where it is."""
    if "SUMO_HOME" not in os.environ:
        with contextlib.suppress(ImportError):
            os.environ["SUMO_HOME"] = importlib.import_module("sumo").SUMO_HOME


def _import_provider(target: str) -> None:
    """Ids of Atari games are registered only once ale-py is imported, which few users say; ours when `register` is called."""
    from unbroken.traffic.registration import register

    register()
    if (target.startswith("ALE/") or "NoFrameskip-v" in target) and not _is_registered(target):
        with contextlib.suppress(ImportError):
            importlib.import_module("ale_py")


def _with_bundled_files(module_name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Files that lie in the target's package and not here, such as sumo-rl's networks, are found there."""
    package = Path(getattr(sys.modules[module_name.partition(".")[0]], "__file__", None) or ".").parent
    return {
        key: str(package / value)
        if key.endswith("_file") and isinstance(value, str) and not Path(value).exists() and (package / value).is_file()
        else value
        for key, value in options.items()
    }


def _is_registered(name: str) -> bool:
    from gymnasium.envs.registration import registry

    return name in registry


def _full_id(target: str) -> str:
    """The id of a scenario of ours that is named without namespace and version; any other name as it is."""
    from unbroken.traffic.registration import ENVIRONMENTS, full_id

    return full_id(target) if target in ENVIRONMENTS and not _is_registered(target) else target


def _registered(target: str, options: dict[str, Any]) -> Any:
    import gymnasium

    _import_provider(target)
    try:
        return gymnasium.make(_full_id(target), **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise MissingExtra(
            f"environment {target!r} needs a package that is not installed; "
            f"{_extra(target)}: {' '.join(str(error).split())}"
        ) from error
    except gymnasium.error.Error as error:
        raise _unknown(target, error) from error
    except ModuleNotFoundError as error:
        raise MissingExtra(f"environment {target!r} needs the package {error.name!r}: pip install it") from error


def _unknown(target: str, error: Exception) -> UnknownTarget | MissingExtra:
    import gymnasium
    from gymnasium.envs.registration import registry

    not_there = (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound, gymnasium.error.VersionNotFound)
    if isinstance(error, not_there) and target.startswith("ALE/") and sys.modules.get("ale_py") is None:
        return MissingExtra(f"environment {target!r} comes with a package: pip install 'unbroken[atari]'")
    if isinstance(error, not_there):
        module_name, _, name = target.rpartition(":")
        if module_name:
            return UnknownTarget(
                f"importing {module_name!r} registers no environment {name!r}{_suggestion(name, registry)}"
            )
        return UnknownTarget(f"there is no environment {target!r}{_class_hint(target) or _suggestion(name, registry)}")
    return UnknownTarget(f"environment {target!r} cannot be made: {' '.join(str(error).split())}")


def _extra(target: str) -> str:
    """How to install what an environment of Gymnasium's own needs."""
    from gymnasium.envs.registration import registry

    entry = str(getattr(registry.get(target), "entry_point", ""))
    extra = next((name for name in ("mujoco", "box2d") if f".{name}" in entry), None)
    return f"pip install 'unbroken[{extra}]'" if extra else "pip install it"


def _class_hint(target: str) -> str:
    """For `my_module`, `my_module.MyEnv` or `my_module.py`, when a file of that name is here."""
    module_name, _, name = target.removesuffix(".py").partition(".")
    if not Path(f"{module_name}.py").is_file() and not Path(module_name, "__init__.py").is_file():
        return ""
    return f"; a class in a module is named {module_name}:{name or 'ItsClass'}"


def _suggestion(name: str, candidates: Any) -> str:
    by_lower = {str(candidate).lower(): str(candidate) for candidate in candidates}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""
