"""What besides the configuration decides the bits: threads, CPU features, versions.

Recorded in every checkpoint; a difference on resume is said in one line. The thread count is enforced, the rest is not.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("unbroken", "torch", "stable_baselines3", "sb3_contrib", "gymnasium", "numpy")
_SIMULATORS = ("mujoco", "ale-py", "Box2D", "eclipse-sumo", "libsumo", "sumo-rl")


def current_context(*, may_use_gpu: bool = True) -> dict[str, Any]:
    """Versions, CPU, threads and hash seed of this process, and its GPU where the training may use one. Imports torch."""
    import torch

    return {
        "versions": {"python": platform.python_version(), **package_versions()},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        # two processes that drew theirs at random differ, but nobody asked for the same: this is no difference to name
        "hash_seed": os.environ.get("PYTHONHASHSEED") or "random",
        "cuda": torch.cuda.get_device_name(0) if may_use_gpu and torch.cuda.is_available() else None,
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the bits."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    for name in _SIMULATORS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cpu_model() -> str:
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
                names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
                return next(names, platform.processor())
        except OSError:
            return platform.processor()
    return platform.processor() or os.environ.get("PROCESSOR_IDENTIFIER", "unknown")


def enforce_threads(stored: dict[str, Any] | None) -> None:
    """Use as many torch threads as the first leg did: large reductions depend on it."""
    import torch

    if stored and isinstance(stored.get("threads"), int) and stored["threads"] > 0:
        torch.set_num_threads(stored["threads"])


def differences(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`what: before -> now` for all that may change bits."""
    flat_before, flat_now = _flat(stored), _flat(now)
    return [
        f"{key}: {flat_before[key]} -> {flat_now.get(key)}"
        for key in flat_before
        if flat_before[key] != flat_now.get(key) and key != "versions.unbroken"
    ]


def _flat(context: dict[str, Any]) -> dict[str, Any]:
    inner = {f"versions.{name}": value for name, value in context.get("versions", {}).items()}
    return {**{key: value for key, value in context.items() if key != "versions"}, **inner}
