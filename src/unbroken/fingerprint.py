"""What the code of an environment was: a changed environment must prove its capture anew."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from unbroken.traffic.registration import ENVIRONMENTS

_TRAFFIC = "unbroken.traffic.environments"


def source_digest(target: str) -> str | None:
    """SHA-256 of the source file in which a target's class is, newlines normalised; None if there is none to be found.

    The target has passed `check_target`, so that its module is imported. Only the class's own file counts; of our traffic
    environments every file of the simulator and the scenarios of the package do, as all of them make the environment.
    """
    module = _module_of(target) or (_TRAFFIC if target in ENVIRONMENTS else None)
    path = None if module is None else _file_of(module)
    if module is None or path is None:
        return None
    sources = sorted(path.parent.rglob("*.py")) + sorted(path.parent.rglob("*.yaml")) if module == _TRAFFIC else [path]
    digest = hashlib.sha256()
    try:
        for source in sources:
            digest.update(source.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    except OSError:
        return None
    return digest.hexdigest()


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
