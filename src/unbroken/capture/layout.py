"""How the items of an array lie in memory: kernels are chosen by it, and with them the last bits of what they compute.

torch takes an image for one with its channels last by its strides, also by those of axes of length one, over which numpy passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def in_order(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in items of an array in C order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether strides in items reach every place of a block as large as the array once; along axes of length one, any do."""
    step = 1
    for stride, size in sorted((t, n) for t, n in zip(strides, shape, strict=True) if n != 1):
        if stride != step or size == 0:
            return False
        step *= size
    return True


def in_items(array: np.ndarray) -> tuple[int, ...] | None:
    """The strides of an array in items, None where they are not whole numbers of items."""
    if not array.itemsize or any(stride % array.itemsize for stride in array.strides):
        return None
    return tuple(stride // array.itemsize for stride in array.strides)


def laid_out(value: np.ndarray, strides: Sequence[int]) -> np.ndarray:
    """A new array with the items of `value` and these strides, in items. Raises ValueError for strides beyond its own memory."""
    if tuple(strides) == in_order(value.shape):
        return value.copy(order="C")
    if not is_dense(value.shape, strides):
        raise ValueError(f"an array of shape {value.shape} cannot have the strides {tuple(strides)}")
    memory = np.empty(value.size, value.dtype)
    made = np.lib.stride_tricks.as_strided(memory, value.shape, [stride * value.itemsize for stride in strides])
    made[...] = value
    return made
