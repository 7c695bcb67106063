"""Copies of networks' and optimizers' state dicts, taken quickly into memory that is kept between snapshots."""

from __future__ import annotations

import collections
import copy
import io
import operator
from collections.abc import Mapping
from typing import Any

import torch

from unbroken.capture.unchanged import Layers

_OPTIMIZERS = frozenset({torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD})
_OWN = ("state_dict", "_save_to_state_dict", "get_extra_state")


class StateDictCopies:
    """Takes copies, each into the memory of the one before: a copy is good until the next is taken. Not thread safe.

    Memory for tensors on a GPU is pinned, so that one wait suffices for all that is copied from there.
    """

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    def take(self, holders: Mapping[str, Any], unchanged: Any = None) -> dict[str, Any]:
        """Copies of the holders' state dicts, or of the holders themselves where they are tensors or containers, by name.

        `unchanged` is a network known to have its layers, parameters and hooks still as when the copy before was taken.
        """
        found = {}
        for name, holder in holders.items():
            holder = getattr(holder, "_orig_mod", holder)
            held = self._held.get(name)
            if held is None or not held.fits(holder, holder is unchanged):
                # gone first: if the new one cannot be had now, the next capture must not take the old one for it
                self._held.pop(name, None)
                held = self._held[name] = _Held(holder)
            found[name] = held.tree()
        _copy([self._held[name] for name in holders])
        return found


class _Held:
    """The tensors of a state dict and the memory for their copies."""

    def __init__(self, holder: Any) -> None:
        self.sources: list[torch.Tensor] = []
        self.memory: list[torch.Tensor] = []
        self._holder = holder
        self._layers = Layers(holder) if isinstance(holder, torch.nn.Module) else None
        self._has_uncounted = False
        self._tree = self._copied(self._state())
        self._moments: list[Any] = []
        self._is_whole = self._is_steady() and not self._has_uncounted
        self._signature = _signature(self.sources)

    def fits(self, holder: Any, unchanged: bool) -> bool:
        """Whether its tensors are still those that a state dict would hold, with the shapes that they had."""
        if holder is not self._holder or not self._is_whole or _signature(self.sources) != self._signature:
            return False
        if self._layers is not None:
            return unchanged or self._layers.are_same()
        return _same(_moments(holder), self._moments)

    def tree(self) -> Any:
        """The state dict with memory in the place of tensors."""
        if isinstance(self._holder, torch.optim.Optimizer):
            # plain numbers, such as the learning rate, which changes
            return (
                {**self._tree, "param_groups": cloned(_packed_groups(self._holder))} if self._is_whole else self._tree
            )
        return self._tree

    def _state(self) -> Any:
        holder = self._holder
        if isinstance(holder, torch.nn.Module) and self._is_steady():
            return holder.state_dict(keep_vars=True)
        return holder.state_dict() if hasattr(holder, "state_dict") else holder

    def _is_steady(self) -> bool:
        """Whether it can be told without making a state dict that the next has the same tensors."""
        if self._layers is not None:
            return all(map(_saves_as_usual, self._layers.modules)) and not _has_others(self._holder)
        if not _is_plain_optimizer(self._holder):
            return False
        self._moments = _moments(self._holder)
        return _same(self._moments[: len(self.sources)], self.sources)

    def _copied(self, value: Any) -> Any:
        """The value with all tensors replaced by their memory, whose content follows."""
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if value.layout is not torch.strided:
                self._has_uncounted = True
                return value.detach().clone()
            self.sources.append(value)
            self.memory.append(_memory_for(value))
            return self.memory[-1]
        if kind in (dict, collections.OrderedDict):
            return kind((key, self._copied(item)) for key, item in value.items())
        return kind(map(self._copied, value)) if kind in (list, tuple) else cloned(value)


def _copy(held: list[_Held]) -> None:
    memory = [tensor for one in held for tensor in one.memory]
    sources = [tensor for one in held for tensor in one.sources]
    if not sources:
        return
    kinds = {source.device.type for source in sources}
    with torch.no_grad():
        torch._foreach_copy_(memory, sources, non_blocking=kinds <= {"cpu", "cuda"})
    for device in {source.device for source in sources if source.is_cuda}:
        torch.cuda.current_stream(device).synchronize()


def _signature(tensors: list[torch.Tensor]) -> list[Any]:
    """What a copy must agree in with its memory; to assign `.data` may change it."""
    return [(tensor.dtype, tensor.shape, tensor.stride(), tensor.device) for tensor in tensors]


def _same(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _moments(optimizer: torch.optim.Optimizer) -> list[Any]:
    """All that an optimizer keeps by parameter, in the order of its state dict, and the parameters, whose numbers are in there."""
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return kept + [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _packed_groups(optimizer: torch.optim.Optimizer) -> Any:
    """Parameter groups as the state dict has them: with numbers for parameters, counted over all groups."""
    groups, start = [], 0
    for group in optimizer.param_groups:
        end = start + len(group["params"])
        others = {name: value for name, value in group.items() if name != "params"}
        groups.append({**others, "params": list(range(start, end))})
        start = end
    return groups


def _is_plain_optimizer(value: Any) -> bool:
    """Whether its state dict is nothing but tensors by parameter, and its groups."""
    if type(value) not in _OPTIMIZERS:
        return False
    hooks = value._optimizer_state_dict_pre_hooks, value._optimizer_state_dict_post_hooks
    return not any(hooks) and all(type(state) is dict for state in value.state.values())


def _has_others(module: torch.nn.Module) -> bool:
    kinds = (torch.Tensor, torch.nn.Parameter)
    return not all(type(value) in kinds for value in module.state_dict(keep_vars=True).values())


def _saves_as_usual(module: torch.nn.Module) -> bool:
    own = all(getattr(type(module), name) is getattr(torch.nn.Module, name) for name in _OWN)
    return own and not (module._state_dict_hooks or module._state_dict_pre_hooks)


def _memory_for(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type == "cpu":
        return tensor.detach().clone()
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)


def tensor_bytes(value: Any) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def cloned(value: Any) -> Any:
    """The value with copies of all tensors and containers in it; other objects stay what they are."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if type(value) in (dict, collections.OrderedDict):
        return type(value)((key, cloned(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(cloned(item) for item in value)
    try:
        return _cloned_exotic(value)
    except Exception:  # noqa: BLE001 - a container of the user's that cannot be copied must not cost the checkpoint
        return value


def _cloned_exotic(value: Any) -> Any:
    """Subclasses of containers, whose constructors take what they like: defaultdict a factory, others nothing."""
    if isinstance(value, tuple):
        items = [cloned(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict | list):
        made = copy.copy(value)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            made[key] = cloned(item)
        return made
    return value
