"""A computation for tests of the result cache: a random walk that can be gone on from, and that counts how often it is asked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from unbroken.cache.inputs import Inputs, Kind
from unbroken.cache.result import Result
from unbroken.cache.result_cache import Answer, ResultCache


class Walk:
    """Positions and a table of `width` numbers for each step; the end holds the generator's state.

    `computed` and `extended` hold how many steps each call was for. `seconds` are spent in each call; with `diary`, each call adds
    a line to that file, so that calls in other processes can be counted too.
    """

    def __init__(
        self, seed: int = 0, *, width: int = 3, seconds: float = 0.0, diary: Path | None = None, kind: Kind = "baseline"
    ) -> None:
        self.seed, self.width, self.seconds, self.diary, self.kind = seed, width, seconds, diary, kind
        self.computed: list[int] = []
        self.extended: list[int] = []

    def inputs(self, scenario: str = "walk", **context: str) -> Inputs:
        """What the walk depends on; the number of steps is none of it."""
        values = {"seed": self.seed, "width": self.width}
        return Inputs(scenario, self.kind, values, {"walks.py": "0" * 32}, context)

    def compute(self, steps: int) -> Result:
        """The walk from its beginning."""
        self.computed.append(steps)
        return self._go(np.random.default_rng(self.seed), 0.0, steps)

    def extend(self, shorter: Result, steps: int) -> Result:
        """The steps that are missing up to `steps`."""
        self.extended.append(steps)
        rng = np.random.default_rng()
        rng.bit_generator.state = shorter.end["rng"]
        return self._go(rng, float(shorter.end["position"]), steps - (shorter.steps or 0))

    def ask(self, cache: ResultCache, steps: int, inputs: Inputs | None = None) -> Answer:
        """So many steps of the walk from a cache."""
        return cache.answer(
            inputs or self.inputs(), lambda: self.compute(steps), lambda found: self.extend(found, steps), steps=steps
        )

    def _go(self, rng: np.random.Generator, position: float, steps: int) -> Result:
        if self.diary is not None:
            with self.diary.open("a", encoding="utf-8") as file:
                file.write(f"{steps}\n")
        time.sleep(self.seconds)
        moves = rng.standard_normal((steps, self.width))
        positions = np.zeros(steps)
        # one addition after the other, so that where it was interrupted does not show in the last bit
        for step in range(steps):
            position = positions[step] = position + moves[step, 0]
        end: dict[str, Any] = {"rng": rng.bit_generator.state, "position": np.array(position)}
        return Result({"positions": positions, "moves": moves}, steps, end)


def uninterrupted(steps: int, seed: int = 0, width: int = 3) -> Result:
    """The walk without any cache."""
    return Walk(seed, width=width).compute(steps)


def same_rows(first: Result, second: Result) -> bool:
    """Whether two results have the same arrays, bit for bit."""
    return first.steps == second.steps and first.digest() == second.digest()
