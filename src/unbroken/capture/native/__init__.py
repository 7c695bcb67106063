"""Adapters for environments whose state lies in a simulator written in C, out of reach of their attributes.

An adapter belongs to one environment and is made before its first reset. What it captures is plain data, and restoring runs
no code that a checkpoint names. Packages of users register a class with the members of `Adapter` under the entry point
group `unbroken.environments`; those are asked before the ones here. Whether an adapter does its work, the self-test says.
"""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from unbroken import logs
from unbroken.capture.filling import Filler
from unbroken.capture.objects import Describer, Description

GROUP = "unbroken.environments"


class Adapter(Protocol):
    """Reads and writes the state of one base environment. `Adapter(env)` is called before the environment's first reset."""

    name: str
    # another environment of the kind in the same process would disturb this one
    one_per_process: bool

    @classmethod
    def handles(cls, env: Any) -> bool:
        """Whether the environment is of this kind: by the names of its classes, importing nothing."""

    def __init__(self, env: Any) -> None: ...

    def is_handle(self, value: Any) -> bool:
        """Whether a value in an attribute belongs to the simulator: it is neither described nor replaced."""

    def capture(self, describer: Describer) -> Description:
        """The state as a description, in mid-episode. Raises CaptureError where it has no plain form."""

    def restore(self, filler: Filler, state: Description) -> None:
        """Bring the environment, which has been reset, into the state. Raises CaptureError when it does not fit."""


def find_adapter(env: Any) -> Adapter | None:
    """A new adapter for a base environment, or None where no kind of adapter handles it."""
    for kind in _kinds():
        if kind.handles(env):
            return kind(env)
    return None


@functools.cache
def _kinds() -> tuple[type[Adapter], ...]:
    from unbroken.capture.native.ale import AleAdapter
    from unbroken.capture.native.mujoco import MujocoAdapter
    from unbroken.capture.native.sumo import SumoAdapter

    users = [kind for place in sorted(entry_points(group=GROUP)) if (kind := _loaded(place)) is not None]
    return (*users, MujocoAdapter, AleAdapter, SumoAdapter)


def _loaded(place: EntryPoint) -> type[Adapter] | None:
    """A package that cannot be imported must not stop the training of environments that are not its own."""
    try:
        kind: type[Adapter] = place.load()
    except Exception as error:  # noqa: BLE001 - importing runs whatever the package contains
        logs.warn_checkpoint(f"the adapter {place.value} of entry point group {GROUP} cannot be loaded: {error}")
        return None
    return kind


def class_names(env: Any) -> frozenset[str]:
    """`module:Class` of an environment's class and of all that it inherits from."""
    return frozenset(f"{cls.__module__}:{cls.__qualname__}" for cls in type(env).__mro__)


def from_module(value: Any, *packages: str) -> bool:
    """Whether the class of a value, or a value that is a module, comes from one of the packages."""
    module = getattr(value, "__name__", "") if type(value).__name__ == "module" else type(value).__module__ or ""
    return str(module).partition(".")[0] in packages
