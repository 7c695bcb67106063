"""State that an environment keeps where no capture looks: on its classes, in module globals, in closures, in iterators.

Nothing here is captured; it is named, so that a resume that loses it is never called exact.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import io
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sized
from typing import Any

from unbroken.capture.objects import LIBRARIES, Describer, attributes_of, class_name, is_space

_NOT_USERS = (*LIBRARIES, "builtins.", "abc.", "typing.", "collections.")
_NO_STATE = (type(None), type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
_LARGE_BYTES = 100_000
_LARGE_ITEMS = 1_000
_FIRST_LOOKS, _LOOK_EVERY = 4, 16
_METHODS = (types.FunctionType, staticmethod, classmethod, property)


def assigned_globals(code: types.CodeType) -> frozenset[str]:
    """Names of the module globals that a function's code, or a function inside it, assigns."""
    return _operands(code, "STORE_GLOBAL")


class HiddenState:
    """Class attributes, globals and closure variables that the code of some objects uses, watched from construction on.

    Seen are the attributes of the user's own classes, the globals that their methods or the functions called there
    name, and the variables of functions kept in instance attributes, as far as they can be described. What is `known` has a
    capture of its own and is not entered.
    """

    def __init__(self, owners: Iterable[Any], known: Mapping[str, Any] | None = None) -> None:
        self._owners = list(owners)
        self._known = known or {}
        self._looks = 0
        self._seen: list[str] = []
        iterators = {p for owner in self._owners for p, value in _shared_places(owner) if _holds_iterator(value)}
        self._certain = _assigned_by(self._owners) | iterators
        self._before = self._digests()

    def settle(self) -> None:
        """Accept what was None or missing until now: a table that the first reset loads is no state."""
        for place, found in self._digests().items():
            if self._before.get(place) is None:
                self._before[place] = found

    def names(self, taken_care_of: frozenset[str] = frozenset()) -> list[str]:
        """Iterators, what code assigns and what has changed, without the last names in `taken_care_of`.

        A look costs more than a capture: it is taken at the first calls and then at every sixteenth.
        """
        self._looks += 1
        if self._looks <= _FIRST_LOOKS or self._looks % _LOOK_EVERY == 0:
            changed = {place for place, found in self._digests().items() if found != self._before.get(place)}
            self._seen = sorted(changed | self._certain)
        return [place for place in self._seen if place.rpartition(".")[2] not in taken_care_of]

    def _digests(self) -> dict[str, str | None]:
        return {place: _digest(value, self._known) for owner in self._owners for place, value in _places(owner)}


def iterators_in(owner: Any, skip: Collection[str] = ()) -> dict[str, Any]:
    """The iterators and generators in an object's attributes, in containers, objects and closures there too, by place.

    What they will give next is state that nothing can describe or set. Handles of a simulator in C are left out: a reset
    brings those to a defined state, which no reset does to an iterator.
    """
    finder = _IteratorFinder(known={"itself": owner})
    for name, value in attributes_of(owner).items():
        if name not in skip:
            finder.search(value, name)
    return finder.found


def code_of_users(owner: Any) -> Iterator[types.FunctionType]:
    """The methods of an object's classes outside of libraries, and the functions of users' modules that these name."""
    for cls in _users_classes(type(owner)):
        yield from _functions_of(cls)


def assigned_names(function: Any) -> frozenset[str]:
    """Names of the globals and attributes that a function assigns."""
    code = getattr(function, "__code__", None)
    return _operands(code, "STORE_GLOBAL", "STORE_ATTR") if code is not None else frozenset()


class _IteratorFinder(Describer):
    def __init__(self, known: dict[str, Any]) -> None:
        super().__init__(known=known)
        self.found: dict[str, Any] = {}

    def search(self, value: Any, path: str) -> None:
        self.describe(value, path)
        while self._carrying:
            place, function = self._carrying.pop()
            self._remember(function)
            for name, content in _held_by(function):
                if id(content) not in self._memo:
                    self.describe(content, f"{place}.{name}")

    def _give_up(self, value: Any, path: str) -> Any:
        # a file can be iterated over, and is nearly always a log
        if hasattr(type(value), "__next__") and not isinstance(value, io.IOBase):
            self.found[f"{path.lstrip('.')}: {class_name(value).replace(':', '.')}"] = value
        return super()._give_up(value, path)


def _held_by(function: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(function, functools.partial):
        yield "func", function.func
        yield from ((str(k), argument) for k, argument in enumerate(function.args))
        yield from function.keywords.items()
    elif isinstance(function, types.FunctionType):
        yield from _variables(function)
    elif (owner := getattr(function, "__self__", None)) is not None:
        yield "self", owner


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable that has not been assigned yet
            yield name, None


def _places(owner: Any) -> Iterator[tuple[str, Any]]:
    yield from _shared_places(owner)
    for name, value in attributes_of(owner).items():
        if isinstance(value, types.FunctionType) and _is_users(value):
            for variable, content in _variables(value):
                yield f"variable {name}.{variable}", content


def _shared_places(owner: Any) -> Iterator[tuple[str, Any]]:
    for cls in _users_classes(type(owner)):
        for name, value in vars(cls).items():
            if not name.startswith("__") and not isinstance(value, _METHODS):
                yield f"class attribute {cls.__name__}.{name}", value
        for function in _functions_of(cls):
            names = _operands(function.__code__, "LOAD_GLOBAL", "STORE_GLOBAL")
            for name in names & function.__globals__.keys():
                yield f"global {function.__module__}.{name}", function.__globals__[name]


def _assigned_by(owners: list[Any]) -> frozenset[str]:
    functions = [f for owner in owners for cls in _users_classes(type(owner)) for f in _functions_of(cls)]
    return frozenset(f"global {f.__module__}.{name}" for f in functions for name in assigned_globals(f.__code__))


def _is_users(value: Any) -> bool:
    # some types of C extensions have no module
    return not f"{getattr(value, '__module__', 'builtins')}.".startswith(_NOT_USERS)


def _users_classes(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if _is_users(base)]


@functools.cache
def _functions_of(cls: type) -> tuple[types.FunctionType, ...]:
    """The methods of a class and the functions of users' modules that they name, directly or over others."""
    waiting = [function for value in vars(cls).values() for function in plain_functions(value)]
    found: dict[types.FunctionType, None] = {}
    while waiting:
        function = waiting.pop()
        if function not in found:
            found[function] = None
            named = (function.__globals__.get(name) for name in _operands(function.__code__, "LOAD_GLOBAL"))
            waiting += [other for other in named if isinstance(other, types.FunctionType) and _is_users(other)]
    return tuple(found)


def plain_functions(value: Any) -> list[types.FunctionType]:
    """The functions behind an attribute of a class."""
    if isinstance(value, property):
        inner = [value.fget, value.fset]
    else:
        inner = [value.__func__ if isinstance(value, staticmethod | classmethod) else value]
    return [function for function in inner if isinstance(function, types.FunctionType)]


@functools.cache
def _operands(code: types.CodeType, *operations: str) -> frozenset[str]:
    """What the given operations of a function's code, or of a function inside it, name."""
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname in operations}
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return frozenset(names.union(*(_operands(constant, *operations) for constant in inner)))


def _holds_iterator(value: Any) -> bool:
    finder = _IteratorFinder(known={})
    with contextlib.suppress(Exception):  # a look at the user's objects must never end a training
        if not isinstance(value, _NO_STATE):
            finder.search(value, "")
    return bool(finder.found)


def _digest(value: Any, known: Mapping[str, Any]) -> str | None:
    """None for None, for code, for spaces, from which learners sample, and for what cannot be described."""
    if isinstance(value, _NO_STATE) or is_space(value):
        return None
    if getattr(value, "nbytes", 0) > _LARGE_BYTES or (isinstance(value, Sized) and len(value) > _LARGE_ITEMS):
        # a data set; reading all of it at every checkpoint would cost more than it finds
        return f"{class_name(value)} at {id(value)}"
    from unbroken.capture.codec import digest

    describer = Describer(known)
    try:
        found = digest(describer.describe(value))
    except Exception:  # noqa: BLE001 - as above
        return None
    return None if describer.opaque else found
