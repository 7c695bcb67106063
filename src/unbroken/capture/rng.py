"""The process-wide random number generators: python, numpy, torch and CUDA.

Captured before anything else and restored after everything else, because capturing or restoring a component may draw numbers.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from unbroken.capture.codec import Later
from unbroken.capture.filling import Filler
from unbroken.capture.objects import Describer


def capture_generators() -> dict[str, Any]:
    """States of the global generators of this process. Torch is included only where it is already imported."""
    return _described(*_states())


def capture_generators_later() -> Later:
    """The states of `capture_generators` now, to be described when they are encoded."""
    return Later(_described, _states())


def _states() -> tuple[Any, ...]:
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return (
        random.getstate(),
        np.random.get_state(legacy=False),
        None if torch is None else torch.get_rng_state().numpy(),
        [device.numpy() for device in torch.cuda.get_rng_state_all()] if torch is not None and cuda else None,
    )


def _described(python: Any, numpy: Any, torch: Any, cuda: Any) -> dict[str, Any]:
    version, internal, gauss = python
    words = np.fromiter(internal, dtype=np.uint64, count=len(internal))
    # as the one hidden Random instance behind random's functions is described
    state = {"python": {"t": "python_random", "i": 0, "v": [version, words, Describer().describe(gauss)]}}
    state["numpy"] = Describer().describe(numpy)
    if torch is not None:
        state["torch"] = torch
    if cuda is not None:
        state["cuda"] = cuda
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
            # another machine may have fewer
            for number, words in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
                torch.cuda.set_rng_state(torch.from_numpy(np.array(words)), number)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the global generators as they are, whatever is done inside: importing rich draws a number, and with tqdm installed
    Stable-Baselines3 imports rich. Only for what runs in the training's own thread.
    """
    state = capture_generators()
    try:
        yield
    finally:
        restore_generators(state)


def seed_generators(seed: int) -> None:
    """Seed the global generators of this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
