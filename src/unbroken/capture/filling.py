"""Fill live objects with descriptions made by `objects.Describer`.

Containers, arrays, tensors and generators are filled in place where the live value has the same type, so that whatever else
refers to them sees the restored state; a live value is used for one described value only. Not thread safe.
"""

from __future__ import annotations

import base64
import collections
import copy
import dataclasses
import enum
import functools
import operator
import pathlib
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unbroken.capture import layout
from unbroken.capture.codec import Later
from unbroken.capture.objects import (
    Description,
    attributes_of,
    class_name,
    code_name,
    is_space,
    new_generator,
    subspaces,
    tensor_from,
)

_ABSENT = object()
_CONTAINERS: dict[str, type] = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": collections.defaultdict,
    "Counter": collections.Counter,
    "list": list,
    "set": set,
    "deque": collections.deque,
}


# what a constant may be that an attribute refers to, and that can be made anew
_MADE_ANEW = (np.ndarray, list, dict, set, collections.deque)
_FACTORIES = {cls.__name__: cls for cls in (int, float, bool, str, list, dict, set, tuple)}


def _constants_near(live: Any) -> frozenset[int]:
    """Identities of the values that the classes of an object and their modules hold."""
    found: set[int] = set()
    for cls in type(live).__mro__[:-1]:
        found.update(map(id, vars(cls).values()))
        found.update(map(id, vars(sys.modules.get(cls.__module__, object)).values()))
    return frozenset(found)


def _lies_anyhow(live: np.ndarray) -> bool:
    """Whether an array is a block of its own: one in the memory of another keeps its place, which is its layout."""
    strides = layout.in_items(live)
    return live.base is None and strides is not None and layout.is_dense(live.shape, strides)


class Filler:
    """Turns descriptions back into values, using the live value at the same place where that is possible.

    `known` maps names back to objects; `special` receives (live value, description) for what a special described.
    What does not fit is listed in `problems`; the live value then stays as it is.
    """

    def __init__(
        self, known: Mapping[str, Any] | None = None, special: Callable[[Any, Description], Any] | None = None
    ) -> None:
        self.problems: list[str] = []
        self._known = dict(known or {})
        self._special = special
        self._memo: dict[int, Any] = {}
        self._claimed: set[int] = set()

    def fill_attributes(
        self, live: Any, fields: Mapping[str, Description], path: str = "", *, drop: bool = False
    ) -> None:
        """Set each described attribute of `live`. With `drop`, attributes that are not described are deleted."""
        present = attributes_of(live)
        constants = _constants_near(live)
        for name, description in fields.items():
            held = present.get(name, _ABSENT)
            if id(held) in constants and isinstance(held, _MADE_ANEW):
                # `self.state = self.START`: filled in place, the constant would change for everybody
                held = copy.copy(held)
            value = self.build(description, held, f"{path}.{name}")
            if value is not _ABSENT and present.get(name, _ABSENT) is not value:
                object.__setattr__(live, name, value)
        if drop:
            for name in present.keys() - fields.keys():
                object.__delattr__(live, name)

    def build(self, description: Description, live: Any = _ABSENT, path: str = "") -> Any:
        """The value of a description, made in `live` if it fits."""
        if type(description) is Later:
            description = description.made()
        if not isinstance(description, dict):
            return description
        handler = getattr(self, f"_build_{description['t']}", None)
        if handler is None:
            return self._keep(live, path, f"unknown kind {description['t']!r}")
        return handler(description, live, path)

    def _keep(self, live: Any, path: str, reason: str) -> Any:
        self.problems.append(f"{path.lstrip('.')}: {reason}")
        return live

    def _claim(self, description: Mapping[str, Any], live: Any, fits: bool, make: Callable[[], Any]) -> Any:
        """The object that carries this description's identity: `live` if it fits and is free, else a new one."""
        target = live if fits and id(live) not in self._claimed else make()
        self._memo[description["i"]] = target
        self._claimed.add(id(target))
        return target

    def _build_ref(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        if description["i"] not in self._memo and live is _ABSENT:
            return self._keep(live, path, "refers to something that is not restored before it")
        return self._memo.get(description["i"], live)

    def _build_known(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return self._known.get(description["v"], live)

    def _build_special(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        if self._special is None or live is _ABSENT:
            return self._keep(live, path, "nothing to restore it into")
        return self._special(live, description["v"])

    def _build_opaque(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return self._keep(live, path, f"{description['v']} was not captured")

    def _build_inert(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return live

    def _build_code(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        if live is _ABSENT or code_name(live) != description["v"]:
            return self._keep(live, path, f"was {description['v']}, which only code can put there")
        return live

    def _build_int(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return int(description["v"], 16)

    def _build_float(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return float(description["v"])

    def _build_complex(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return complex(*(float(part) for part in description["v"]))

    def _build_bytes(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        raw = base64.b64decode(description["v"])
        return bytearray(raw) if description["c"] == "bytearray" else raw

    def _build_path(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return pathlib.Path(description["v"])

    def _build_range(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return range(*description["v"])

    def _build_slice(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return slice(*description["v"])

    def _build_enum(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        cls: Any = type(live)
        if class_name(live) != description["c"]:
            module, _, name = description["c"].partition(":")
            cls = functools.reduce(
                lambda place, part: getattr(place, part, None), name.split("."), sys.modules.get(module)
            )
        if not (isinstance(cls, type) and issubclass(cls, enum.Enum)):
            return self._keep(live, path, f"{description['c']} is not loaded")
        member = description["v"]
        return cls(member) if issubclass(cls, enum.Flag) else cls[member]

    def _build_scalar(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        return description["v"][()]

    def _build_array(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        value = description["v"]
        if "axes" in description:
            value = value.transpose(np.argsort(description["axes"]))
        # what was read is one block, whichever way its axes go
        strides = description.get("strides") or layout.in_items(value) or ()
        if not value.size:  # numpy gives what it allocates without items strides of zero
            strides = layout.in_order(value.shape)
        wanted = tuple(stride * value.itemsize for stride in strides)
        told = "axes" in description or "strides" in description
        fits = (
            type(live) is np.ndarray
            and live.dtype == value.dtype
            and live.shape == value.shape
            and live.flags.writeable
            and (live.strides == wanted or not (told or _lies_anyhow(live)))
            and not np.may_share_memory(live, value)
        )
        target = self._claim(description, live, fits, lambda: layout.laid_out(value, strides))
        if target is live:
            target[...] = value
        return target

    def _build_objects(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        target = self._claim(description, None, False, lambda: np.empty(description["s"], dtype=object))
        flat = target.reshape(-1)
        for k, item in enumerate(description["v"]):
            flat[k] = self.build(item, _ABSENT, f"{path}[{k}]")
        return target

    def _build_floats(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        target = self._claim(description, live, type(live) is list, list)
        target[:] = description["v"].tolist()
        return target

    def _build_dict(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        cls = _CONTAINERS[description["c"]]
        before = dict(live) if isinstance(live, dict) else {}
        fits = type(live) is cls
        if cls is collections.defaultdict and not fits and "factory" not in description:
            return self._keep(live, path, "no defaultdict with its factory to fill")
        target = self._claim(description, live, fits, functools.partial(_new_mapping, cls, description))
        factory = getattr(target, "default_factory", None)
        pairs = []
        for key_description, value_description in description["v"]:
            key = self.build(key_description, _ABSENT, path)
            held = before.get(key, _ABSENT)
            if held is _ABSENT and factory is not None:
                held = factory()
            pairs.append((key, self.build(value_description, held, f"{path}[{key!r}]")))
        target.clear()
        for key, value in pairs:
            # not update(): a Counter counts the pairs
            if key is not _ABSENT and value is not _ABSENT:
                target[key] = value
        return target

    def _build_tuple(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        before = live if isinstance(live, tuple) else ()
        items = self._items(description["v"], before, path)
        if items is None:
            return self._keep(live, path, "holds what cannot be made anew")
        if description["c"] != "tuple" and type(live).__name__ != description["c"]:
            return self._keep(live, path, f"no {description['c']} to fill")
        same_type = type(live).__name__ == description["c"] and isinstance(live, tuple)
        if same_type and len(before) == len(items) and all(map(operator.is_, items, before)):
            # items filled in place: the live tuple may be part of a cycle
            value = live
        else:
            value = tuple(items) if description["c"] == "tuple" else type(live)(*items)
        self._memo[description["i"]] = value
        return value

    def _build_sequence(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        name = description["c"]
        before = list(live) if isinstance(live, list | collections.deque) else []
        if name == "frozenset":
            self._memo[description["i"]] = frozenset(self._items(description["v"], before, path) or ())
            return self._memo[description["i"]]
        cls = _CONTAINERS[name]
        fits = type(live) is cls and getattr(live, "maxlen", None) == description.get("maxlen")
        make: Callable[[], Any] = (lambda: collections.deque(maxlen=description["maxlen"])) if name == "deque" else cls
        target = self._claim(description, live, fits, make)
        items = self._items(description["v"], before, path)
        if items is None:
            return self._keep(target, path, "holds what cannot be made anew")
        target.clear()
        (target.update if name == "set" else target.extend)(items)
        return target

    def _items(self, descriptions: list[Description], before: Any, path: str) -> list[Any] | None:
        """The items of a sequence, or None if one of them cannot be built: half a sequence is worse than the live one."""
        values = [
            self.build(item, before[k] if k < len(before) else _ABSENT, f"{path}[{k}]")
            for k, item in enumerate(descriptions)
        ]
        return None if any(value is _ABSENT for value in values) else values

    def _build_generator(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        state = Filler().build(description["v"])
        name = state["bit_generator"]
        fits = isinstance(live, np.random.Generator) and type(live.bit_generator).__name__ == name
        target = self._claim(description, live, fits, lambda: new_generator(name))
        target.bit_generator.state = state
        return target

    def _build_random_state(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        target = self._claim(description, live, isinstance(live, np.random.RandomState), np.random.RandomState)
        target.set_state(Filler().build(description["v"]))
        return target

    def _build_python_random(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        target = self._claim(description, live, type(live) is random.Random, random.Random)
        version, words, gauss = description["v"]
        target.setstate((version, tuple(int(word) for word in words), self.build(gauss)))
        return target

    def _build_space(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        if not is_space(live):
            return self._keep(live, path, "no space to fill")
        self._memo[description["i"]] = live
        if description["v"] is None:
            live._np_random = None
        else:
            live._np_random = self.build(description["v"], live._np_random if live._np_random is not None else _ABSENT)
        for inner, inner_description in zip(subspaces(live), description["inner"], strict=True):
            self.build(inner_description, inner, path)
        return live

    def _build_tensor(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        import torch

        value = tensor_from(description)
        fits = (
            isinstance(live, torch.Tensor)
            and (live.dtype, live.shape) == (value.dtype, value.shape)
            and (live.stride() == value.stride() or not layout.is_dense(live.shape, live.stride()))
        )
        device = live.device if isinstance(live, torch.Tensor) else torch.device("cpu")
        target = self._claim(description, live, fits, lambda: value.to(device))
        if target is live:
            with torch.no_grad():
                target.copy_(value)
        return target

    def _build_torch_generator(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        import torch

        target = live if isinstance(live, torch.Generator) else torch.Generator()
        target.set_state(torch.from_numpy(np.array(description["v"])))
        return target

    def _build_module(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        import torch

        if not isinstance(live, torch.nn.Module):
            return self._keep(live, path, "no module to fill")
        self._memo[description["i"]] = live
        live.load_state_dict(Filler().build(description["v"]))
        live.train(description["training"])
        return live

    def _build_optimizer(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        import torch

        if not isinstance(live, torch.optim.Optimizer):
            return self._keep(live, path, "no optimizer to fill")
        self._memo[description["i"]] = live
        live.load_state_dict(Filler().build(description["v"]))
        return live

    def _build_object(self, description: Mapping[str, Any], live: Any, path: str) -> Any:
        if live is _ABSENT or class_name(live) != description["c"] or id(live) in self._claimed:
            return self._keep(live, path, f"no {description['c']} to fill")
        if dataclasses.is_dataclass(live) and getattr(type(live), "__dataclass_params__").frozen:  # noqa: B009 - not in the stubs
            # it promises not to change, and may be a constant elsewhere
            live = copy.copy(live)
        self._memo[description["i"]] = live
        self._claimed.add(id(live))
        self.fill_attributes(live, description["v"], path, drop=True)
        return live


def _new_mapping(cls: type, description: Mapping[str, Any]) -> Any:
    return cls(_FACTORIES.get(description["factory"])) if cls is collections.defaultdict else cls()
