"""Which training of a source a file is of, as far as places and plain facts tell: the nearest one, if no other is as near."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from unbroken.importing.found import Found
from unbroken.importing.walk_forward import is_of_iteration
from unbroken.store.backend import parent_of


class Training(NamedTuple):
    """A row of numbered checkpoints, or a model by itself: `form` is its algorithm and its spaces, as far as they are known."""

    folder: str
    name: str
    form: tuple[str | None, ...]


def row_of(found: Found) -> Training | None:
    """The row that a numbered checkpoint is of, None for another file. Checkpoints of another form are another row."""
    return None if found.prefix is None else Training(found.folder, found.prefix, _form(found))


class Kinship:
    """What else of a source is of the training that `start` is of."""

    def __init__(self, files: Sequence[Found], start: Found) -> None:
        self._form = _form(start)
        known = {training for training in map(_training_of, files) if training is not None}
        alike = {training for training in known if training.form == self._form}
        itself = Training(start.folder, start.name, self._form)
        self._own = _training_of(start) or _only(_nearest(start.folder, alike, furthest=_BELOW)) or itself
        self._known, self._alike = known | {self._own}, alike | {self._own}

    def is_model_of_it(self, found: Found) -> bool:
        """Whether a model is of it: of the same form, and not as near to another training of this form."""
        return None not in self._form and _form(found) == self._form and self.has(found.folder)

    def has(self, folder: str) -> bool:
        """Whether what lies in the folder is its own and of no other training of its form."""
        return _nearest(folder, self._alike) == {self._own}

    def may_have(self, folder: str) -> bool:
        """Whether what lies in the folder can be its own."""
        return self._own in _nearest(folder, self._known)


# how far a folder is from that of a training: the same, one in it, the one around it or another in that
_SAME, _BELOW, _BESIDE = 0, 1, 2


def _training_of(found: Found) -> Training | None:
    if found.problem is not None:
        return None
    # each iteration of a walk-forward experiment is a training by itself
    is_model = found.kind == "sb3 zip" and is_of_iteration(found.name)
    return Training(found.folder, found.name, _form(found)) if is_model else row_of(found)


def _form(found: Found) -> tuple[str | None, ...]:
    if found.kind == "unbroken checkpoint":
        # one run's are of one form, and versions of libraries print spaces differently
        return (found.algorithm,)
    return (found.algorithm, found.observation, found.action)


def _nearest(folder: str, trainings: Collection[Training], furthest: int = _BESIDE) -> set[Training]:
    distances = {training: _distance(folder, training.folder) for training in trainings}
    least = min((far for far in distances.values() if far is not None and far <= furthest), default=None)
    return {training for training, far in distances.items() if far == least} if least is not None else set()


def _distance(folder: str, training: str) -> int | None:
    if folder == training:
        return _SAME
    if parent_of(folder) == training:
        return _BELOW
    return _BESIDE if training and parent_of(training) in (folder, parent_of(folder)) else None


def _only(trainings: set[Training]) -> Training | None:
    return next(iter(trainings)) if len(trainings) == 1 else None
