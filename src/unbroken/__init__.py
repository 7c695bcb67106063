"""Reinforcement-learning training that survives its machine.

`unbroken.train(...)` does what the command `unbroken train` does; `unbroken.sb3` has the drop-ins for one's own script with
Stable-Baselines3, `unbroken.Checkpointer` is for a training loop written by hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbroken.checkpointer import Checkpointer as Checkpointer
    from unbroken.run import Outcome as Outcome
    from unbroken.run import train as train

__all__ = ["Checkpointer", "Outcome", "__version__", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # loaded on first use: `import unbroken` and `unbroken --help` stay instant
    if name in ("train", "Outcome"):
        from unbroken import run

        return getattr(run, name)
    if name == "Checkpointer":
        from unbroken import checkpointer

        return checkpointer.Checkpointer
    raise AttributeError(f"module 'unbroken' has no attribute {name!r}")
