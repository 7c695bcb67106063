"""Which attributes of an object its constructor was given: configuration, which a changed configuration must win over."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable


@functools.lru_cache(maxsize=256)
def configured_names(cls: type) -> frozenset[str]:
    """Names of all constructor parameters of a class and its bases, without `action_noise`, which has state."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in base.__dict__ and base is not object:
            names |= _parameter_names(base.__init__)  # type: ignore[misc]
    return frozenset(names - {"action_noise", "self"})


@functools.cache
def _parameter_names(init: Callable[..., None]) -> frozenset[str]:
    """Names of a constructor's parameters; cached, as reading signatures takes an eighth of a small model's capture."""
    return frozenset(inspect.signature(init).parameters)
