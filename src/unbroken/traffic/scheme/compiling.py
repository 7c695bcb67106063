"""How kernels are compiled: cached on disk, without fastmath (it changes results), with NumPy's division (it vectorises)."""

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` on its first call; later processes load it from numba's cache."""
    compiled: Callable[..., Any] = numba.njit(cache=True, error_model="numpy", nogil=True)(function)
    return compiled


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `kernel`, always inlined: a call would copy a description of every array of the network."""
    compiled: Callable[..., Any] = numba.njit(cache=True, error_model="numpy", nogil=True, forceinline=True)(function)
    return compiled


def parallel_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `kernel`, with `numba.prange` over independent rows."""
    compiled: Callable[..., Any] = numba.njit(cache=True, error_model="numpy", nogil=True, parallel=True)(function)
    return compiled
