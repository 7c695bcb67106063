"""How values inside a training are described and brought back: model, environment and policy by name, never by content.

Each of the three has a capture of its own, so that what only refers to them holds none of their state.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from unbroken.capture.codec import digest
from unbroken.capture.filling import Filler
from unbroken.capture.objects import Describer


def describer_for(model: BaseAlgorithm) -> Describer:
    """A describer for values that belong to the model's training."""
    return Describer(known=_parts(model))


def filler_for(model: BaseAlgorithm) -> Filler:
    """A filler for what `describer_for` has described."""
    return Filler(known=_parts(model))


def digest_of(model: BaseAlgorithm, value: Any) -> str:
    """Short text that changes with the value's content."""
    return digest(describer_for(model).describe(value))


def _parts(model: BaseAlgorithm) -> dict[str, Any]:
    return {"model": model, "environment": model.env, "policy": model.policy}
