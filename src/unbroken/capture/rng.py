"""The process-wide random number generators: python, numpy, torch and CUDA.

Captured before anything else and restored after everything else, because capturing or restoring a component may draw numbers.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np

from unbroken.capture.filling import Filler
from unbroken.capture.objects import Describer


def capture_generators() -> dict[str, Any]:
    """States of the global generators of this process. Torch is included only where it is already imported."""
    # random's module functions are methods of one hidden Random instance
    state: dict[str, Any] = {"python": Describer().describe(random.seed.__self__)}  # type: ignore[attr-defined]
    state["numpy"] = Describer().describe(np.random.get_state(legacy=False))
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state().numpy().copy()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = [device.numpy().copy() for device in torch.cuda.get_rng_state_all()]
    return state


def restore_generators(state: dict[str, Any]) -> None:
    """Put the global generators of this process into the captured states."""
    version, words, gauss = state["python"]["v"]
    random.setstate((version, tuple(int(word) for word in words), Filler().build(gauss)))
    np.random.set_state(Filler().build(state["numpy"]))
    if "torch" in state:
        import torch

        torch.set_rng_state(torch.from_numpy(np.array(state["torch"])))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([torch.from_numpy(np.array(device)) for device in state["cuda"]])


def seed_generators(seed: int) -> None:
    """Seed the global generators of this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
