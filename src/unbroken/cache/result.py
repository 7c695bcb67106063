"""What is cached: arrays, mostly one row for each step, and the state from which the next steps can be computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unbroken.capture.codec import digest


@dataclass(frozen=True)
class Result:
    """Arrays by name. With `steps`, the first axis of every array is the step; without, they are what they are.

    `end` is the state after the last step as plain data and arrays (`capture.codec`), None where nobody can go on from it.
    `facts` are plain data about the result that do not depend on where or when it was computed, and with `steps` not on how many.
    `context` is where it was: see `Inputs.context`. Arrays of a result that a cache gave are read-only.
    """

    arrays: Mapping[str, NDArray[Any]]
    steps: int | None = None
    end: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps is not None:
            wrong = {name: len(array) for name, array in self.arrays.items() if len(array) != self.steps}
            if wrong:
                raise ValueError(f"a result of {self.steps} steps needs as many rows in every array, not {wrong}")

    def first(self, steps: int) -> Result:
        """The first steps; the end state only if these are all."""
        if self.steps is None or self.steps == steps:
            return self
        if not 0 <= steps < self.steps:
            raise ValueError(f"a result of {self.steps} steps has no first {steps}")
        arrays = {name: array[:steps] for name, array in self.arrays.items()}
        return Result(arrays, steps, None, self.facts, self.context)

    def then(self, more: Result) -> Result:
        """This result and what follows it, with the end and the facts of the latter. Raises ValueError where they do not fit."""
        if self.steps is None or more.steps is None:
            raise ValueError("only results with steps follow each other")
        if self.steps == 0 or more.steps == 0:
            return more if self.steps == 0 else self
        kinds = [{name: (array.dtype, array.shape[1:]) for name, array in one.arrays.items()} for one in (self, more)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"what follows a result has the same arrays, not {kinds[1]} after {kinds[0]}")
        arrays = {name: np.concatenate([array, more.arrays[name]]) for name, array in self.arrays.items()}
        return Result(arrays, self.steps + more.steps, more.end, more.facts, self.context)

    def sealed(self, context: Mapping[str, str]) -> Result:
        """The same with read-only views of its arrays and that context."""
        views = {name: np.asarray(array).view() for name, array in self.arrays.items()}
        for view in views.values():
            view.flags.writeable = False
        return replace(self, arrays=views, context=context)

    def digest(self) -> str:
        """Hash of the arrays: equal texts mean equal bits, whatever computed them."""
        return digest({name: np.asarray(array) for name, array in self.arrays.items()})
