"""MuJoCo: the arrays of `MjData`, and those of `MjModel` that are not as they were after construction.

MuJoCo's own state vector is not enough: Gymnasium's environments observe quantities (`cfrc_ext`, `cinert`, `xpos`, …) that
a step leaves behind and that the state alone gives back one substep later. Pointers and indices are never restored from a
file: they follow from the model and from `mj_forward`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from unbroken.capture.filling import Filler
from unbroken.capture.native import class_names, from_module
from unbroken.capture.objects import Describer, Description, class_name
from unbroken.errors import CaptureError

_SKIP = frozenset({"spec", "model", "data"})
# numbers that say what collides and how it is drawn; other integers of a model are addresses and counts
_HARMLESS_INTEGERS = frozenset({"geom_contype", "geom_conaffinity", "geom_group", "site_group", "geom_matid"})
_OPTIONS = "opt."


class MujocoAdapter:
    """Adapter of Gymnasium's `MujocoEnv`, of what inherits from it, and of other environments with `model` and `data`."""

    name = "mujoco"
    one_per_process = False

    @classmethod
    def handles(cls, env: Any) -> bool:
        """Whether the environment has an `MjModel` and its `MjData` where Gymnasium's have them."""
        held = vars(env) if hasattr(env, "__dict__") else {}
        kinds = {name: class_name(held.get(name)) for name in ("model", "data")}
        inherits = "gymnasium.envs.mujoco.mujoco_env:MujocoEnv" in class_names(env)
        return inherits or kinds == {"model": "mujoco._structs:MjModel", "data": "mujoco._structs:MjData"}

    def __init__(self, env: Any) -> None:
        self._env = env
        # a reset may randomise the model, and a fresh environment must be brought back from its own randomisation
        self._model = env.model
        built = _model_numbers(env.model)
        self._shapes = {name: value.shape for name, value in built.items()}
        # most arrays of a model are empty
        self._built = {name: value for name, value in built.items() if value.size}
        self._bytes = {name: value.tobytes() for name, value in self._built.items()}

    def is_handle(self, value: Any) -> bool:
        """Views into the simulation and renderers."""
        drawing = class_name(value).startswith("gymnasium.envs.mujoco.mujoco_rendering:")
        return drawing or from_module(value, "mujoco", "glfw", "OpenGL")

    def capture(self, describer: Describer) -> Description:
        """State vector, floating-point arrays, what differs in the model, and the attributes."""
        import mujoco

        model, data = self._env.model, self._env.data
        if model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP:
            raise CaptureError("MuJoCo's sleeping bodies keep indices that cannot be restored from a file")
        vector = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, data, vector, mujoco.mjtState.mjSTATE_INTEGRATION)
        return {
            "state": vector,
            "arrays": {name: array.copy() for name, array in _arrays(data).items()},
            "model": self._model_changes(model),
            "attributes": describer.attributes(self._env, class_name(self._env), skip=_SKIP),
        }

    def restore(self, filler: Filler, state: Description) -> None:
        """Set model, state vector and arrays, then the attributes, of which some may be views of the arrays."""
        import mujoco

        model, data = self._env.model, self._env.data
        self._set_model(model, state["model"])
        vector = np.asarray(state["state"], dtype=np.float64)
        if vector.size != mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION):
            raise CaptureError("the stored MuJoCo state is that of another model")
        mujoco.mj_setState(model, data, vector, mujoco.mjtState.mjSTATE_INTEGRATION)
        # contacts and constraints have as many rows as the position makes; the values are then those of the capture
        mujoco.mj_forward(model, data)
        for name, array in _arrays(data).items():
            stored = state["arrays"].get(name)
            if stored is not None and stored.shape == array.shape and array.flags.writeable:
                array[...] = stored
        filler.fill_attributes(self._env, state["attributes"], class_name(self._env))

    def _model_changes(self, model: Any) -> dict[str, np.ndarray]:
        """The numbers of the model that are not as built, by name. Raises CaptureError where they have no plain form."""
        changes = {}
        for name, now in self._numbers(model):
            if now.tobytes() != self._bytes[name]:
                if not _is_settable(name, now):
                    raise CaptureError(f"the environment changed {name} of the MuJoCo model, which holds indices")
                changes[name] = now.copy()
        return changes

    def _set_model(self, model: Any, changes: Description) -> None:
        for name, now in self._numbers(model):
            value = changes.get(name, self._built[name])
            if value.shape != now.shape or value.dtype != now.dtype:
                raise CaptureError(f"the stored MuJoCo model has another size: {name}")
            if _is_settable(name, now) and not np.array_equal(value, now):
                _set_number(model, name, value)

    def _numbers(self, model: Any) -> Iterator[tuple[str, np.ndarray]]:
        """What there is to compare with the model as built. Raises CaptureError for a model that is another one."""
        if model is not self._model and {n: v.shape for n, v in _model_numbers(model).items()} != self._shapes:
            raise CaptureError("the environment compiled another MuJoCo model, with other sizes")
        for name in self._built:
            yield name, _number(model, name)


def _arrays(data: Any) -> dict[str, np.ndarray]:
    """What a step computes: floating-point arrays. Integers are sizes, addresses and pointers."""
    found = ((name, getattr(data, name)) for name in _array_names(type(data), data))
    return {name: value for name, value in found if value.dtype.kind == "f" and value.size}


_names: dict[type, tuple[str, ...]] = {}


def _array_names(cls: type, sample: Any) -> tuple[str, ...]:
    """Names of the properties of one of MuJoCo's structures that are arrays; looked up once per class."""
    if cls not in _names:
        names = (name for name in dir(cls) if not name.startswith("_") and not callable(getattr(cls, name)))
        _names[cls] = tuple(name for name in names if isinstance(getattr(sample, name, None), np.ndarray))
    return _names[cls]


def _model_numbers(model: Any) -> dict[str, np.ndarray]:
    """Copies of the arrays of a model and of the fields of its options, the latter with a prefix."""
    options = [name for name in dir(type(model.opt)) if not name.startswith("_")]
    fields = [_OPTIONS + name for name in options if not callable(getattr(model.opt, name))]
    return {name: np.array(_number(model, name)) for name in [*_array_names(type(model), model), *fields]}


def _number(model: Any, name: str) -> np.ndarray:
    if name.startswith(_OPTIONS):
        return np.asarray(getattr(model.opt, name.removeprefix(_OPTIONS)))
    found: np.ndarray = getattr(model, name)
    return found


def _is_settable(name: str, value: np.ndarray) -> bool:
    return value.dtype.kind == "f" or name.startswith(_OPTIONS) or name in _HARMLESS_INTEGERS


def _set_number(model: Any, name: str, value: np.ndarray) -> None:
    if not name.startswith(_OPTIONS):
        getattr(model, name)[...] = value
        return
    field = name.removeprefix(_OPTIONS)
    if value.ndim:
        getattr(model.opt, field)[...] = value
    else:
        setattr(model.opt, field, value.item())
