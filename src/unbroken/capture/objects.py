"""Describe a graph of Python objects as plain data, and fill a like-built graph with it.

Restoring builds no object of a class that a file names: objects exist already, built from the configuration, and are
filled in place; numbers, strings, containers, arrays, tensors and generators are the only things made anew.
Describing copies, so a description is a snapshot that later training cannot change. Shared references and cycles are kept.
What has no plain form is listed in `Describer.opaque` or `Filler.problems`, never passed over.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import enum
import functools
import logging
import pathlib
import random
import re
import sys
import threading
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from unbroken.capture import layout
from unbroken.capture.codec import Later
from unbroken.capture.flat import AS_THEY_ARE, ATOMS, are_flat, describe_all_flat, describe_atom, describe_flat, is_flat

Description = Any
Special = Callable[[Any], "Description | None"]

_CODE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    type,
    types.GenericAlias,
    np.ufunc,
    np.dtype,
    functools.partial,
)
_CARRYING = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
_INERT_MODULES = ("pygame", "torch.utils.tensorboard", "tqdm", "rich", "matplotlib")
_INERT_TYPES = (logging.Logger, type(threading.Lock()), type(threading.RLock()), threading.Event, re.Pattern)
_SIMPLE = (bytes, bytearray, complex, float, enum.Enum, int, str, pathlib.PurePath, range, slice)
_PLAIN = (type(None), int, float, complex, str, bytes, enum.Enum, np.generic, pathlib.PurePath, range, slice)
# their own closures and methods hold what they were made with and never change it; numpy's generators do
_UNCHANGING = ("gymnasium.", "stable_baselines3.", "sb3_contrib.", "torch.", "unbroken.")
LIBRARIES = (*_UNCHANGING, "numpy.")
# what the codec can write, and object arrays, which are described item by item
_ARRAY_KINDS = frozenset("biufcSUmMO")
# deeper nests than this would end in a RecursionError: the part is named and left out
_DEEPEST = 100
_LONGEST_PATH = 120
_PLAIN_FACTORIES = (int, float, bool, str, list, dict, set, tuple)
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


def code_name(value: Any) -> str:
    """`module:qualified.name` of a function, class, method or module, as far as it has one."""
    module = getattr(value, "__module__", None) or ""
    return f"{module}:{getattr(value, '__qualname__', getattr(value, '__name__', type(value).__name__))}"


def class_name(value: Any) -> str:
    """`module:qualified.name` of the value's class."""
    return code_name(type(value))


def is_pure_python(cls: type) -> bool:
    """Whether instances keep all their state in `__dict__` and `__slots__`, none of it inside a C extension."""
    new: Any = cls.__new__
    return new is object.__new__ or isinstance(new, types.FunctionType)


def attributes_of(value: Any) -> dict[str, Any]:
    """All instance attributes, those in `__slots__` included."""
    found = dict(getattr(value, "__dict__", {}))
    for name in _slots(type(value)):  # type: ignore[arg-type]
        if hasattr(value, name):
            found[name] = getattr(value, name)
    return found


@functools.lru_cache(maxsize=4096)
def _slots(cls: type) -> tuple[str, ...]:
    """Names of the attributes that the classes keep outside of `__dict__`."""
    found = []
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{base.__name__.lstrip('_')}{slot}" if private else slot
            if name not in ("__dict__", "__weakref__"):
                found.append(name)
    return tuple(found)


def is_inert(value: Any) -> bool:
    """Whether a value is a display, a lock or the like: without state that training could depend on."""
    return _is_inert(type(value))


def _is_inert(cls: type) -> bool:
    # some types of C extensions have no module
    module = getattr(cls, "__module__", None) or ""
    return issubclass(cls, _INERT_TYPES) or any(
        module == name or module.startswith(f"{name}.") for name in _INERT_MODULES
    )


def is_space(value: Any) -> bool:
    """Whether the value is a Gymnasium space, without importing Gymnasium."""
    gymnasium = sys.modules.get("gymnasium")
    return gymnasium is not None and isinstance(value, gymnasium.Space)


def subspaces(space: Any) -> list[Any]:
    """The spaces inside a composite space, in a fixed order."""
    inner = getattr(space, "spaces", None)
    if isinstance(inner, Mapping):
        return list(inner.values())
    if inner is not None:
        return list(inner)
    return [
        getattr(space, n) for n in ("feature_space", "node_space", "edge_space") if getattr(space, n, None) is not None
    ]


def _place(path: str) -> str:
    return path.lstrip(".") or "(itself)"


def _inside(code: Any) -> list[Any]:
    """What a function, a bound method or a partial carries besides its code."""
    if isinstance(code, functools.partial):
        return [code.func, *code.args, *code.keywords.values()]
    if not isinstance(code, types.FunctionType):
        owner = getattr(code, "__self__", None)
        # the methods of random and numpy.random that are called like functions belong to generators captured elsewhere
        return [] if owner in (random.seed.__self__, np.random.mtrand._rand) else [owner]  # type: ignore[attr-defined]
    found = []
    for cell in code.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell may be empty
            found.append(cell.cell_contents)
    return found


@functools.lru_cache(maxsize=4096)
def _route(cls: type) -> str:
    """The method of Describer for values of a class, by the first of these that it is. Cached: a capture asks hundreds of times."""
    torch, gymnasium = sys.modules.get("torch"), sys.modules.get("gymnasium")
    spaces = (gymnasium.Space,) if gymnasium is not None else ()
    tensors = (torch.Tensor, torch.Generator, torch.nn.Module, torch.optim.Optimizer) if torch is not None else ()
    inert = (torch.device, torch.dtype) if torch is not None else ()
    routes: tuple[tuple[str, Any], ...] = (
        ("_describe_array", np.ndarray),
        ("_describe_mapping", dict),
        ("_describe_sequence", (list, tuple, collections.deque, set, frozenset)),
        ("_describe_scalar", np.generic),
        ("_describe_carrying", _CARRYING),
        ("_describe_simple", (*_SIMPLE, *_CODE, *inert)),
        ("_describe_generator", (np.random.Generator, np.random.RandomState, random.Random, *spaces)),
        ("_describe_torch", tensors),
    )
    found = next((name for name, classes in routes if issubclass(cls, classes)), None)
    if found in (None, "_describe_generator", "_describe_torch") and _is_inert(cls):
        return "_describe_simple"
    return found or "_describe_object"


def _shortened(path: str) -> str:
    return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."


def _kind(code: Any) -> str:
    if isinstance(code, types.FunctionType):
        return "closure"
    return "partial" if isinstance(code, functools.partial) else "method of an object"


class Describer:
    """Turns values into descriptions. One instance per graph: shared references are kept within it.

    `known` maps objects to names: they are referred to and not entered. `special` may describe a value itself.
    """

    def __init__(self, known: Mapping[str, Any] | None = None, special: Special | None = None) -> None:
        self._opaque: list[str] = []
        self._carrying: list[tuple[str, Any]] = []
        # instances inside containers: nothing that a fresh object holds can be counted on to take their state
        self.unfillable: list[str] = []
        # by path, the class of what can only be filled into a like object: where there is none on resume, it is lost
        self.needing: dict[str, str] = {}
        self._known = {id(value): name for name, value in (known or {}).items()}
        self._special = special
        self._memo: dict[int, int] = {}
        self._alive: list[Any] = []
        self._depth = 0

    @property
    def opaque(self) -> list[str]:
        """What could not be described: its path and class. Functions are judged when all that they share is known."""
        hiding = [
            f"{_place(path)}: {_kind(value)} with state" for path, value in self._carrying if self._hides(value, set())
        ]
        return self._opaque + hiding

    def describe(self, value: Any, path: str = "") -> Description:
        """The description of a value; what cannot be described is listed in `opaque` under its path."""
        kind = type(value)
        if kind in ATOMS:
            return describe_atom(value)
        key = id(value)
        if key in self._known:
            return {"t": "known", "v": self._known[key]}
        if key in self._memo:
            return {"t": "ref", "i": self._memo[key]}
        if self._special is not None and (own := self._special(value)) is not None:
            return {"t": "special", "v": own}
        if self._depth >= _DEEPEST:
            return self._give_up(value, path)
        self._depth += 1
        try:
            described: Description = getattr(self, _route(kind))(value, path)  # type: ignore[arg-type]
            return described
        except Exception:  # noqa: BLE001 - properties, hashes and layouts of the user's may raise: one value must not cost the checkpoint
            return self._give_up(value, path)
        finally:
            self._depth -= 1

    def attributes(self, value: Any, path: str = "", skip: frozenset[str] = frozenset()) -> Description:
        """Descriptions of an object's attributes by name, without those in `skip`."""
        self._remember(value)
        return self._fields(value, path, skip)

    def _fields(self, value: Any, path: str, skip: frozenset[str] = frozenset()) -> dict[str, Description]:
        present = attributes_of(value).items()
        # a path is text that is made: most attributes are plain and need none
        return {
            n: v if type(v) in AS_THEY_ARE else self.describe(v, f"{path}.{n}") for n, v in present if n not in skip
        }

    def _remember(self, value: Any) -> int:
        number = len(self._alive)
        self._memo[id(value)] = number
        self._alive.append(value)
        return number

    def _describe_scalar(self, value: np.generic, path: str) -> Description:
        plain = value.dtype.kind in _ARRAY_KINDS
        return {"t": "scalar", "v": np.asarray(value)} if plain else self._give_up(value, path)

    def _describe_carrying(self, value: Any, path: str) -> Description:
        self._carrying.append((path, value))
        return self._describe_simple(value, path)

    def _describe_array(self, value: np.ndarray, path: str) -> Description:
        if type(value) is not np.ndarray or value.dtype.kind not in _ARRAY_KINDS:
            return self._give_up(value, path)
        if value.dtype.hasobject:
            number = self._remember(value)
            items = [self.describe(item, f"{path}[{k}]") for k, item in enumerate(value.reshape(-1).tolist())]
            return {"t": "objects", "i": number, "s": list(value.shape), "v": items}
        described: dict[str, Any] = {"t": "array", "i": self._remember(value)}
        if value.flags.c_contiguous or value.ndim < 2:
            described["v"] = copied = value.copy(order="C")
        else:
            described["axes"] = axes = sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis]))
            described["v"] = np.ascontiguousarray(value.transpose(axes)).copy()
            copied = described["v"].transpose(np.argsort(axes))
        if copied.strides != value.strides:
            strides = layout.in_items(value)
            if strides is not None and layout.is_dense(value.shape, strides):
                described["strides"] = list(strides)
        return described

    def _describe_mapping(self, value: dict[Any, Any], path: str) -> Description:
        if type(value) not in (dict, collections.OrderedDict, collections.defaultdict, collections.Counter):
            return self._give_up(value, path)
        number = self._remember(value)
        if is_flat(value):
            return describe_flat(value, number)
        pairs = [[self.describe(k, path), self.describe(v, f"{path}[{k!r}]")] for k, v in value.items()]
        factory = self._describe_factory(value, path) if isinstance(value, collections.defaultdict) else {}
        return {"t": "dict", "c": type(value).__name__, "i": number, "v": pairs, **factory}

    def _describe_factory(self, value: collections.defaultdict[Any, Any], path: str) -> dict[str, Any]:
        """A default factory by name if it is one of Python's own; another must be there already."""
        if value.default_factory is None or value.default_factory in _PLAIN_FACTORIES:
            return {"factory": getattr(value.default_factory, "__name__", None)}
        # what the factory makes is at hand on resume too
        self.needing = {place: cls for place, cls in self.needing.items() if not place.startswith(f"{path}[")}
        self.needing[path] = class_name(value)
        return {}

    def _describe_sequence(self, value: Any, path: str) -> Description:
        number = self._remember(value)
        name = type(value).__name__
        if type(value) is list and set(map(type, value)) == {float}:
            return {"t": "floats", "i": number, "v": np.asarray(value, dtype=np.float64)}
        extra = {"maxlen": value.maxlen} if isinstance(value, collections.deque) else {}
        head = {"t": "sequence", "c": name, "i": number, **extra}
        if type(value) in (list, collections.deque) and (first := self._remember_flat(value)) is not None:
            return Later(describe_all_flat, (head, list(map(dict.copy, value)), first))
        items = [
            item if type(item) in AS_THEY_ARE else self.describe(item, f"{path}[{k}]") for k, item in enumerate(value)
        ]
        if isinstance(value, tuple):
            if type(value) is not tuple and not hasattr(value, "_fields"):
                return self._give_up(value, path)
            if type(value) is not tuple:
                self.needing[path] = class_name(value)
            return {"t": "tuple", "c": name, "i": number, "v": items}
        if type(value) not in (list, set, frozenset, collections.deque):
            return self._give_up(value, path)
        return {**head, "v": items}

    def _remember_flat(self, values: Collection[Any]) -> int | None:
        """The number of the first of some flat dictionaries; None where they are not all that, or stand elsewhere too."""
        keys = list(map(id, values))
        if len(keys) < 2 or not are_flat(values):
            return None
        if not (self._memo.keys().isdisjoint(keys) and self._known.keys().isdisjoint(keys)):
            return None
        first = len(self._alive)
        self._memo.update(zip(keys, range(first, first + len(keys)), strict=True))
        self._alive.extend(values)
        return first

    def _describe_simple(self, value: Any, path: str) -> Description:
        if isinstance(value, bytes | bytearray):
            return {"t": "bytes", "c": type(value).__name__, "v": base64.b64encode(value).decode()}
        if isinstance(value, complex):
            return {"t": "complex", "v": [repr(value.real), repr(value.imag)]}
        if isinstance(value, float):
            return {"t": "float", "v": repr(float(value))}
        if isinstance(value, enum.Flag):
            return {"t": "enum", "c": class_name(value), "v": value.value}
        if isinstance(value, enum.Enum):
            return {"t": "enum", "c": class_name(value), "v": value.name}
        if isinstance(value, int | str):
            # the plain value, whatever the class inherits besides and whatever it makes of str() and int()
            return self.describe(int.__int__(value) if isinstance(value, int) else str.__str__(value))
        if isinstance(value, pathlib.PurePath):
            return {"t": "path", "v": str(value)}
        if isinstance(value, range | slice):
            return {"t": type(value).__name__, "v": [value.start, value.stop, value.step]}
        if isinstance(value, _CODE):
            return {"t": "code", "v": code_name(value)}
        return {"t": "inert", "v": class_name(value)}

    def _describe_generator(self, value: Any, path: str) -> Description:
        if isinstance(value, np.random.Generator):
            state = self.describe(value.bit_generator.state)
            return {"t": "generator", "i": self._remember(value), "v": state}
        if isinstance(value, np.random.RandomState):
            state = self.describe(value.get_state(legacy=False))
            return {"t": "random_state", "i": self._remember(value), "v": state}
        if isinstance(value, random.Random):
            version, internal, gauss = value.getstate()
            words = np.fromiter(internal, dtype=np.uint64, count=len(internal))
            return {"t": "python_random", "i": self._remember(value), "v": [version, words, self.describe(gauss)]}
        inner = [self.describe(space) for space in subspaces(value)]
        own = None if value._np_random is None else self.describe(value._np_random)
        return {"t": "space", "i": self._remember(value), "v": own, "inner": inner}

    def _describe_torch(self, value: Any, path: str) -> Description:
        torch = sys.modules["torch"]
        if isinstance(value, torch.Tensor):
            return {"t": "tensor", "i": self._remember(value), **tensor_data(value)}
        if isinstance(value, torch.Generator):
            return {"t": "torch_generator", "v": value.get_state().numpy().copy()}
        if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
            self.needing[path] = class_name(value)
        if isinstance(value, torch.nn.Module):
            number = self._remember(value)
            return {
                "t": "module",
                "i": number,
                "training": value.training,
                "v": self.describe(dict(value.state_dict()), path),
            }
        return {"t": "optimizer", "i": self._remember(value), "v": self.describe(value.state_dict(), path)}

    def _describe_object(self, value: Any, path: str) -> Description:
        if class_name(value) == "gymnasium.envs.registration:EnvSpec":
            return {"t": "inert", "v": class_name(value)}
        if not is_pure_python(type(value)) or not (hasattr(value, "__dict__") or attributes_of(value)):
            return self._give_up(value, path)
        number = self._remember(value)
        self.needing[path] = class_name(value)
        if path.endswith("]"):
            self.unfillable.append(path)
        return {"t": "object", "i": number, "c": class_name(value), "v": self._fields(value, path)}

    def _hides(self, value: Any, seen: set[int]) -> bool:
        """Whether a function's closure, a method's object or a partial's arguments hold state that is captured nowhere else."""
        if id(value) in self._known or id(value) in self._memo or id(value) in seen or isinstance(value, _PLAIN):
            return False
        seen.add(id(value))
        if isinstance(value, tuple | frozenset):
            return any(self._hides(item, seen) for item in value)
        if isinstance(value, _CARRYING):
            fixed = not isinstance(value, functools.partial) and (value.__module__ or "").startswith(_UNCHANGING)
            return not fixed and any(self._hides(content, seen) for content in _inside(value))
        # an array in a closure is nearly always a constant; one that changes fails the self-test
        return not (isinstance(value, (*_CODE, np.ndarray)) or is_inert(value))

    def _give_up(self, value: Any, path: str) -> Description:
        self._opaque.append(f"{_place(_shortened(path))}: {class_name(value).replace(':', '.')}")
        return {"t": "opaque", "v": class_name(value)}


def tensor_data(value: Any) -> dict[str, Any]:
    """Bytes and type of a torch tensor as a copied numpy array; types that numpy lacks travel as raw bytes."""
    import torch

    name = str(value.dtype).removeprefix("torch.")
    cpu = value.detach().to("cpu", copy=True).contiguous()
    raw = (
        cpu.reshape(-1).view(torch.uint8).numpy()
        if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
        else cpu.numpy()
    )
    found = {"d": name, "s": list(cpu.shape), "v": raw}
    strides = tuple(value.stride())
    if strides != layout.in_order(cpu.shape) and layout.is_dense(cpu.shape, strides):
        found["strides"] = list(strides)
    return found


def tensor_from(description: Mapping[str, Any]) -> Any:
    """A new CPU tensor from `tensor_data`."""
    import torch

    raw = torch.from_numpy(np.array(description["v"]))
    dtype = getattr(torch, description["d"])
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{description['d']} is not a tensor type")
    # nothing cannot be viewed as another type
    typed = raw if raw.dtype == dtype else raw.view(dtype) if raw.numel() else torch.empty(0, dtype=dtype)
    value = typed.reshape(description["s"])
    if "strides" not in description:
        return value
    if not layout.is_dense(description["s"], description["strides"]):
        raise ValueError(f"a tensor of shape {description['s']} cannot have the strides {description['strides']}")
    return torch.empty_strided(description["s"], description["strides"], dtype=dtype).copy_(value)


def new_generator(name: str) -> np.random.Generator:
    """A numpy generator over one of numpy's own bit generators, by name."""
    if name not in _BIT_GENERATORS:
        raise TypeError(f"bit generator {name} is not one of numpy's")
    return np.random.Generator(getattr(np.random, name)())
