"""A trained model as a policy for judging: built from its configuration and filled with its weights, nothing unpickled."""

from __future__ import annotations

import warnings
import zipfile
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from unbroken.capture.codec import digest
from unbroken.capture.normalization import fill_normalization
from unbroken.config import EnvironmentConfig, RunConfig
from unbroken.errors import DamagedFile
from unbroken.learners.building import algorithm_class, build_environment, build_model
from unbroken.learners.sb3 import NORMALIZATION
from unbroken.learners.stored import read_tensors

_WEIGHTS = "policy.pth"
_NO_STATISTICS = (
    "the model lacks the statistics of its normalised observations (made before they were kept, or elsewhere)"
)


class TrainedPolicy:
    """What an agent does without exploring. It may remember (recurrent policies): one object plays one episode at a time.

    Observations and actions have the batch axis first. Not thread-safe.
    """

    def __init__(self, config: RunConfig, model: bytes) -> None:
        """Build the model of a configuration and take the weights out of its SB3 zip.

        Raises ConfigurationError for what cannot be judged this way, DamagedFile for weights that do not fit.
        """
        venv = build_environment(_alone(config))
        self._layer = unwrap_vec_normalize(venv)
        if self._layer is not None:
            fill_normalization(self._layer, _member(model, NORMALIZATION, _NO_STATISTICS))
        with warnings.catch_warnings():
            # of sizes of a training that does not take place
            warnings.simplefilter("ignore", UserWarning)
            self._model: Any = build_model(_alone(config), venv)
        try:
            self._model.policy.load_state_dict(read_weights(model))
        except RuntimeError as error:
            raise DamagedFile(
                f"the weights do not fit the configuration: {' '.join(str(error).split())[:300]}"
            ) from error
        self.masked = config.algo == "maskable_ppo"
        self._memory: Any = None

    def forget(self) -> None:
        """Begin an episode."""
        self._memory = None

    def act(self, observations: Any, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions for a batch of observations; `masks` are legal choices, used by algorithms that know them."""
        words = {"action_masks": masks} if self.masked else {}
        if hasattr(self._model.policy, "lstm_actor"):
            words = {"state": self._memory, "episode_start": np.array([self._memory is None])}
        seen = observations if self._layer is None else self._layer.normalize_obs(observations)
        actions, self._memory = self._model.predict(seen, deterministic=True, **words)
        return np.asarray(actions)

    def get_state(self) -> dict[str, Any]:
        """What it remembers, as plain data."""
        return {"memory": None if self._memory is None else [np.array(part) for part in self._memory]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_state` gave."""
        memory = state["memory"]
        self._memory = None if memory is None else tuple(np.array(part) for part in memory)


def read_weights(model: bytes) -> dict[str, Any]:
    """The policy's state dict in an SB3 zip, read as tensors only. Raises DamagedFile."""
    weights: dict[str, Any] = read_tensors(_member(model, _WEIGHTS, "the model has no weights that can be read"))
    return weights


def weights_digest(model: bytes) -> str:
    """Hash of what a model does: its weights and its statistics; the same whenever its file was written."""
    weights = {name: value.detach().cpu().numpy() for name, value in read_weights(model).items()}
    with zipfile.ZipFile(BytesIO(model)) as archive:
        statistics = archive.read(NORMALIZATION).decode() if NORMALIZATION in archive.namelist() else None
    return digest({"weights": weights, "normalization": statistics})


def _member(model: bytes, name: str, problem: str) -> bytes:
    try:
        with zipfile.ZipFile(BytesIO(model)) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DamagedFile(f"{problem}: {error}") from error


def _alone(config: RunConfig) -> RunConfig:
    """The configuration with one environment, and without a replay buffer of any size."""
    section = config.environment
    normalize = section.normalize if _normalizes(config) else None
    environment = EnvironmentConfig(kwargs=section.kwargs, wrappers=section.wrappers, normalize=normalize)
    buffer = {"buffer_size": 1} if issubclass(algorithm_class(config.algo), OffPolicyAlgorithm) else {}
    words = {"environment": environment, "hyperparameters": {**config.hyperparameters, **buffer}, "device": "cpu"}
    return config.model_copy(update=words)


def _normalizes(config: RunConfig) -> bool:
    """Whether the policy sees normalised observations; normalised rewards are the training's business."""
    normalize = config.environment.normalize
    return normalize is not None and bool(normalize.get("norm_obs", True))
