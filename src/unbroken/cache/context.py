"""Where numbers are computed: what decides the last bit of a result without being one of its inputs."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

# they choose among kernels that round differently
_DECIDING = (
    "NUMBA_CPU_FEATURES",
    "NUMBA_CPU_NAME",
    "NUMBA_DISABLE_JIT",
    "NUMBA_LOOP_VECTORIZE",
    "NUMBA_OPT",
    "NUMBA_SLP_VECTORIZE",
    "OPENBLAS_CORETYPE",
)


def numeric_context(*packages: str) -> dict[str, str]:
    """For `Inputs.context`: versions of Python, NumPy, numba and `packages`, the C library, the processor's kind and vectors.

    The environment's variables that choose kernels are in it where they are set.
    """
    chosen = {name: os.environ[name] for name in _DECIDING if os.environ.get(name)}
    return {**_machine(), **{name: _version(name) for name in packages}, **chosen}


def context_differences(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    """What of two contexts differs, for people: `numpy 2.3.0 and 2.4.6`; empty where nothing does."""
    names = [*first, *(name for name in second if name not in first)]
    return ", ".join(
        f"{name} {first.get(name, 'unset')} and {second.get(name, 'unset')}"
        for name in names
        if first.get(name) != second.get(name)
    )


@functools.cache
def _machine() -> dict[str, str]:
    import numpy as np

    # show_config is typed as giving nothing
    config: dict[str, dict[str, list[str]]] = getattr(np, "show_config")(mode="dicts")  # noqa: B009
    vectors = config.get("SIMD Extensions", {}).get("found") or ["baseline"]
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "numpy": version("numpy"),
        "numba": _version("numba"),
        "system": " ".join(part for part in (platform.system(), *platform.libc_ver()) if part),
        "machine": platform.machine(),
        "vectors": vectors[-1],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
