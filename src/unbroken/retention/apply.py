"""Carries out a retention plan; deciding is in `policy`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from unbroken.errors import UnbrokenError
from unbroken.retention.policy import R, RetentionPlan


@dataclass(frozen=True)
class Removal(Generic[R]):
    """What happened to one record that no rule keeps; `error` is None when it is gone."""

    record: R
    error: Exception | None = None


def apply(
    plan: RetentionPlan[R], remove: Callable[[R], None], on_event: Callable[[Removal[R]], None]
) -> list[Removal[R]]:
    """Remove what the plan does not keep, oldest first, and return what happened.

    Each removal is passed to `on_event`. One that the storage refuses is passed with its error and the others go on:
    looking after old files never stops training.
    """
    removals = []
    for record in plan.removable:
        removal = _removed(record, remove)
        on_event(removal)
        removals.append(removal)
    return removals


def _removed(record: R, remove: Callable[[R], None]) -> Removal[R]:
    try:
        remove(record)
    except (OSError, UnbrokenError) as error:
        return Removal(record, error)
    return Removal(record)
