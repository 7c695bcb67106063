"""Results that are computed once: found again by everything that they depend on, extended, and carried to other machines.

cache = ResultCache(Path("cache"))
result = cache.get_or_compute(inputs, compute, extend, steps=240)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbroken.cache.inputs import Inputs
    from unbroken.cache.result import Result
    from unbroken.cache.result_cache import ResultCache

_HOMES = {"Inputs": "inputs", "Result": "result", "ResultCache": "result_cache"}
__all__ = ["Inputs", "Result", "ResultCache"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
