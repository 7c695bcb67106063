"""How kernels are compiled: cached on disk, without fastmath (it changes results), with NumPy's division (it vectorises)."""

import contextlib
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_jit: Any = numba.njit
_EVERYWHERE = {"error_model": "numpy", "nogil": True}


def _compiled(function: Callable[..., Any], **options: bool) -> Any:
    try:
        return _of_all_kernels(_jit(cache=True, **_EVERYWHERE, **options)(function))
    except RuntimeError:  # numba finds no folder for its cache that can be written
        _warn_of_no_cache()
        return _jit(**_EVERYWHERE, **options)(function)


@functools.cache
def _warn_of_no_cache() -> None:
    warnings.warn(
        "kernels are compiled anew in every process: numba finds no folder for its cache; set NUMBA_CACHE_DIR to one",
        stacklevel=2,
    )


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
    return _compiled(function)


def inlined(function: Callable[..., Any]) -> Any:
    """As `kernel`, always inlined: a call would copy a description of every array of the network."""
    return _compiled(function, forceinline=True)


def parallel_kernel(function: Callable[..., Any]) -> Any:
    """As `kernel`, with `numba.prange` over independent rows."""
    return _compiled(function, parallel=True)
