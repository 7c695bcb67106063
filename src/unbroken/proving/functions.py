"""The user's functions that a part of a training can call: methods, functions in attributes and closures, functions named in them.

Followed by what the code names, not by running it. Code of libraries is not entered.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unbroken.capture.hidden import plain_functions

_MOST_FUNCTIONS = 2_000
_LIBRARIES = tuple(
    str(Path(sysconfig.get_paths()[name]).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_TIME_FUNCTIONS = frozenset(
    {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"}
)
_DATE_FUNCTIONS = frozenset({"now", "utcnow", "today"})


@functools.cache
def is_users_module(name: str) -> bool:
    """Whether a module's file is the user's: not the standard library's, an installed package's or ours."""
    if name.partition(".")[0] == "unbroken":
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and not str(Path(file).resolve()).startswith(_LIBRARIES)


def users_modules() -> list[types.ModuleType]:
    """The user's modules that have been imported."""
    found = [module for name, module in list(sys.modules.items()) if is_users_module(name)]
    return [module for module in found if isinstance(module, types.ModuleType)]


def is_users(value: Any) -> bool:
    """Whether a function, class, or an object's class, is written in a user's module."""
    holder = value if isinstance(value, type | types.FunctionType) else type(value)
    module = getattr(holder, "__module__", None)
    return isinstance(module, str) and is_users_module(module)


def functions_of(owners: Iterable[Any]) -> list[types.FunctionType]:
    """The user's functions that the owners' code reaches, each once, in a fixed order."""
    waiting: list[Any] = list(owners)
    found: dict[int, types.FunctionType] = {}
    seen: set[int] = set()
    while waiting and len(found) < _MOST_FUNCTIONS:
        value = waiting.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            if is_users(value):
                found[id(value)] = value
                waiting += [inner for _, inner in [*closure_of(value), *globals_of(value)] if _may_call(inner)]
        else:
            waiting += _code_in(value)
    return list(found.values())


def _may_call(value: Any) -> bool:
    return isinstance(value, types.FunctionType | types.MethodType | functools.partial) or (
        isinstance(value, type) and is_users(value)
    )


def _code_in(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *(item for item in (*value.args, *value.keywords.values()) if _may_call(item))]
    if isinstance(value, types.MethodType):
        return [value.__func__]
    cls = value if isinstance(value, type) else type(value)
    methods = [
        function for base in users_classes(cls) for item in vars(base).values() for function in plain_functions(item)
    ]
    inside = [] if isinstance(value, type) else getattr(value, "__dict__", {}).values()
    return [*methods, *(item for item in inside if _may_call(item) and not isinstance(item, type))]


def users_classes(cls: type) -> list[type]:
    """The user's own classes among a class and its bases."""
    return [base for base in cls.__mro__ if is_users(base)]


def closure_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Variables of enclosing functions, with their values."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            yield name, cell.cell_contents


def defaults_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Parameters that have a default value, which lives as long as the function."""
    given = function.__defaults__ or ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    yield from zip(names[len(names) - len(given) :], given, strict=True)
    yield from (function.__kwdefaults__ or {}).items()


def globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Globals of the function's module that its code names, with their values."""
    for name in sorted(operands(function.__code__, "LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL")):
        if name in function.__globals__:
            yield name, function.__globals__[name]


@functools.cache
def operands(code: types.CodeType, *operations: str) -> frozenset[str]:
    """What the given operations of some code, or of a function inside it, name."""
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname in operations}
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return frozenset(names.union(*(operations_of for operations_of in (operands(one, *operations) for one in inner))))


def reads_clock(function: types.FunctionType) -> str | None:
    """The name of a clock that the function's own code reads, as `time.monotonic`; None if it reads none."""
    import time

    attributes = operands(function.__code__, "LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")
    imported = operands(function.__code__, "IMPORT_NAME")
    named = dict([*closure_of(function), *globals_of(function)])
    if "time" in imported or any(value is time for value in named.values()):
        for name in sorted(attributes & _TIME_FUNCTIONS, key=len, reverse=True):
            return f"time.{name}"
    for value in named.values():
        if isinstance(value, types.BuiltinFunctionType) and value.__name__ in _TIME_FUNCTIONS and _is_of_time(value):
            return f"time.{value.__name__}"
    if "datetime" in imported or any(getattr(value, "__name__", "") == "datetime" for value in named.values()):
        for name in sorted(attributes & _DATE_FUNCTIONS):
            return f"datetime.{name}"
    return None


def _is_of_time(function: Any) -> bool:
    return getattr(function, "__module__", None) == "time"


def place_of(function: types.FunctionType) -> str:
    """`name (file.py:line)` of a function."""
    name = function.__qualname__.replace(".<locals>", "")
    return f"{name} ({Path(function.__code__.co_filename).name}:{function.__code__.co_firstlineno})"
