"""How kernels are compiled: cached on disk, without fastmath (it changes results), with NumPy's division (it vectorises)."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def _of_all_kernels(compiled: Any) -> Any:
    """Let the cache of a kernel be stale when any module of kernels has changed: numba itself watches the kernel's own file only.

    Calls are compiled in, so a kernel would go on with the old code of the one it calls. Where numba has changed inside, its own
    rule stays.
    """
    with contextlib.suppress(AttributeError, OSError):
        stamps = [
            (path.name, path.stat().st_mtime_ns, path.stat().st_size)
            for path in sorted(Path(__file__).parent.glob("*.py"))
        ]
        compiled._cache._cache_file._source_stamp = tuple(stamps)
    return compiled


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` on its first call; later processes load it from numba's cache."""
    return _of_all_kernels(numba.njit(cache=True, error_model="numpy", nogil=True)(function))


def inlined(function: Callable[..., Any]) -> Any:
    """As `kernel`, always inlined: a call would copy a description of every array of the network."""
    return _of_all_kernels(numba.njit(cache=True, error_model="numpy", nogil=True, forceinline=True)(function))


def parallel_kernel(function: Callable[..., Any]) -> Any:
    """As `kernel`, with `numba.prange` over independent rows."""
    return _of_all_kernels(numba.njit(cache=True, error_model="numpy", nogil=True, parallel=True)(function))
