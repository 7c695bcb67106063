"""What is cached: arrays, mostly one row for each step, and the state from which the next steps can be computed."""

from __future__ import annotations

import json
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
    `context` is where it was: see `Inputs.context`. Arrays of a result that a cache gave are read-only, and its facts are what JSON
    makes of them: keys are text, tuples are lists. Raises ValueError for steps without arrays, or with another number of rows.
    """

    arrays: Mapping[str, NDArray[Any]]
    steps: int | None = None
    end: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps is not None:
            if self.steps and not self.arrays:
                raise ValueError(f"a result of {self.steps} steps needs at least one array")
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
        """The same as an entry gives it back: with that context, read-only views of its arrays, and facts as JSON has them.

        What no entry can hold, which is facts that are no JSON and masks, stays as it is.
        """
        views = {name: as_kept(array).view() for name, array in self.arrays.items()}
        for view in views.values():
            view.flags.writeable = False
        return replace(self, arrays=views, facts=_as_json(self.facts), context=context)

    def digest(self) -> str:
        """Hash of the arrays: equal texts mean equal bits, whatever computed them."""
        return digest({name: as_kept(array) for name, array in self.arrays.items()})


def as_kept(array: Any) -> NDArray[Any]:
    """A plain array of what was given, but for a mask, which nothing here may drop."""
    return array if isinstance(array, np.ma.MaskedArray) else np.asarray(array)


def _as_json(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(facts)))
    except (TypeError, ValueError, RecursionError):
        return facts
    return found
