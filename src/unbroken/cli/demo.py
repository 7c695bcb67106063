"""`unbroken demo`: train, kill, resume, and compare with a training that nobody disturbed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def demo(
    kills: Annotated[int, typer.Option(help="How often the training is killed with SIGKILL.")] = 5,
    steps: Annotated[int, typer.Option(help="Environment steps to train.")] = 40_000,
    folder: Annotated[
        str | None, typer.Option(help="Where to leave the two runs (default: a temporary folder).")
    ] = None,
) -> None:
    """Train CartPole, kill it in mid-training, resume it with the same command, and compare with an undisturbed twin."""
    from unbroken.testing.demonstration import run_demonstration

    sys.exit(0 if run_demonstration(kills, steps, folder) else 1)
