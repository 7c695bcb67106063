"""The configuration that a zip of Stable-Baselines3 tells of: what is plain in it, what only a pickle holds, what was concluded.

Names of code that a file brings count only if the user says them too (decision 0007).
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unbroken.importing.pickled import class_named, is_pickled, schedule, train_frequency
from unbroken.importing.sb3_zip import SB3Zip, whole

_NOT_OURS = frozenset(
    {"policy", "env", "seed", "device", "tensorboard_log", "verbose", "_init_setup_model", "monitor_wrapper"}
)
_STORED_AS = {"stats_window_size": "_stats_window_size"}
# what algorithms choose by themselves
_USUAL_BUFFERS = frozenset(
    f"{kind}{name}Buffer"
    for name in ("Rollout", "Replay")
    for kind in ("", "Dict", "Maskable", "MaskableDict", "Recurrent", "RecurrentDict", "NStep")
)
_ACTIVATION = re.compile(r"<class 'torch\.nn\.modules\.activation\.(Tanh|ReLU|ELU|GELU|LeakyReLU|SiLU)'>")
_NOISE = {"NormalActionNoise": "normal", "OrnsteinUhlenbeckActionNoise": "ornstein-uhlenbeck"}
# beyond these a number counts only if the user says it too: copies of an environment, rows of a rollout, whatever else
_MOST_COPIES, _MOST, _MOST_OF_ANYTHING = 4096, {"n_steps": 1_000_000}, 100_000_000
_SHOWN = 60
_ADAM, _RMSPROP = "<class 'torch.optim.adam.Adam'>", "<class 'torch.optim.rmsprop.RMSprop'>"


@dataclass
class Settings:
    """`values` are configuration keys; `pickled` and `doubted` are keys that the user has to give, with what the file says of them.

    Doubted are numbers that no training has: believed, they would fill the memory.
    """

    values: dict[str, Any] = field(default_factory=dict)
    pickled: dict[str, str] = field(default_factory=dict)
    doubted: dict[str, str] = field(default_factory=dict)
    concluded: list[str] = field(default_factory=list)


def settings_of(file: SB3Zip, algorithm: str) -> Settings:
    """The settings of a file. Imports the libraries of the algorithm."""
    from unbroken.learners.building import algorithm_class

    cls = algorithm_class(algorithm)
    found = Settings({"algo": algorithm, "seed": _next_seed(file), "hyperparameters": {}})
    if whole(file.data.get("n_envs")):
        found.values["environment"] = {"n_envs": file.data["n_envs"]}
        _doubt(found, "environment.n_envs", file.data["n_envs"], _MOST_COPIES)
    for name, parameter in inspect.signature(cls).parameters.items():
        stored = _STORED_AS.get(name, name)
        if name not in _NOT_OURS and stored in file.data:
            _take(found, name, file.data[stored], parameter.default)
    _take_policy(found, file, cls)
    _take_policy_arguments(found, file, algorithm)
    _doubt_sizes(found, file)
    return found


def _doubt_sizes(found: Settings, file: SB3Zip) -> None:
    hyperparameters = found.values["hyperparameters"]
    for name, value in hyperparameters.items():
        if name != "policy_kwargs":
            _doubt(found, f"hyperparameters.{name}", value, _MOST.get(name, _MOST_OF_ANYTHING))
    for name, value in hyperparameters.get("policy_kwargs", {}).items():
        place = f"hyperparameters.policy_kwargs.{name}"
        _doubt(found, place, value, _MOST_OF_ANYTHING)
        layers = [value, value] if name == "lstm_hidden_size" else value
        # a byte for each weight is less than any network takes
        if name in ("net_arch", "lstm_hidden_size") and _weights(layers) > file.tensor_bytes:
            found.doubted[place] = f"{_shown(value)} with {file.tensor_bytes:,} bytes of weights"


def _doubt(found: Settings, place: str, value: Any, most: int) -> None:
    if _largest(value) > most:
        found.doubted[place] = _shown(value)


def _largest(value: Any) -> int:
    """The largest magnitude of a whole number in a value, 0 where there is none."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    own = abs(value) if isinstance(value, int) else 0
    return max(own, *map(_largest, inner)) if inner else own


def _weights(layers: Any) -> int:
    """The least number of weights between layers of these sizes; anything but sizes counts nothing."""
    if isinstance(layers, Mapping):
        return sum(map(_weights, layers.values()))
    if not isinstance(layers, list):
        return 0
    sizes = [size for size in layers if isinstance(size, int)]
    between = sum(one * other for one, other in itertools.pairwise(sizes))
    return max([between, *sizes]) + sum(_weights(inner) for inner in layers if not isinstance(inner, int))


def _shown(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _next_seed(file: SB3Zip) -> int:
    """Not the seed of the file: generators that begin anew from it would repeat its opening."""
    seed = whole(file.data.get("seed"))
    return 0 if seed is None else (seed + 1) % 2**32


def _take(found: Settings, name: str, value: Any, usual: Any) -> None:
    hyperparameters = found.values["hyperparameters"]
    if name == "policy_kwargs":
        return
    if not is_pickled(value):
        if value not in (None, {}) or usual not in (None, {}):
            hyperparameters[name] = value
        return
    known = _readable(name, value)
    if known is not None:
        hyperparameters[name] = known
        found.concluded.append(f"{name} = {known}")
    elif name == "target_entropy":
        found.concluded.append("target_entropy = auto")
    elif not (name.endswith("buffer_class") and _class(value) in _USUAL_BUFFERS):
        found.pickled[f"hyperparameters.{name}"] = class_named(value) or str(value.get(":type:"))


def _readable(name: str, value: Mapping[str, Any]) -> Any:
    if name == "train_freq":
        return train_frequency(value)
    return _noise(value) if name == "action_noise" else schedule(value)


def _class(value: Any) -> str:
    return (class_named(value) or "").rpartition(":")[2]


def _noise(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Noise with one mean and one deviation for all actions, from the text that SB3 puts beside the pickle."""
    kind = re.fullmatch(r"<class 'stable_baselines3\.common\.noise\.(\w+)'>", str(value.get(":type:")))
    mean, sigma = (_one_number(value.get(key)) for key in ("_mu", "_sigma"))
    usual = kind is not None and (kind[1] != "OrnsteinUhlenbeckActionNoise" or _usual_process(value))
    if kind is None or kind[1] not in _NOISE or mean is None or sigma is None or not usual:
        return None
    return {"type": _NOISE[kind[1]], "mean": mean, "sigma": sigma}


def _usual_process(value: Mapping[str, Any]) -> bool:
    return (value.get("_theta"), value.get("_dt"), value.get("initial_noise")) == (0.15, 1e-2, None)


def _one_number(text: Any) -> float | None:
    if not isinstance(text, str) or not re.fullmatch(r"\[[-+.\deE\s]+\]", text):
        return None
    try:
        numbers = {float(word) for word in text.strip("[]").split()}
    except ValueError:
        return None
    return numbers.pop() if len(numbers) == 1 else None


def _take_policy(found: Settings, file: SB3Zip, cls: type) -> None:
    """The alias of a policy of the libraries; of any other there is none to give."""
    named = class_named(file.data.get("policy_class"))
    aliases: Mapping[str, type] = getattr(cls, "policy_aliases", {})
    found.values["policy"] = next(
        (alias for alias, policy in aliases.items() if f"{policy.__module__}:{policy.__qualname__}" == named), None
    )
    if found.values["policy"] is None:
        found.pickled["policy"] = named or "a class of the trainer's own"


def _take_policy_arguments(found: Settings, file: SB3Zip, algorithm: str) -> None:
    value = file.data.get("policy_kwargs")
    if not isinstance(value, dict):
        return
    kept = {key: item for key, item in value.items() if key not in (":type:", ":serialized:", "use_sde")}
    _drop_what_the_algorithm_adds(found, kept, algorithm)
    for key, item in list(kept.items()):
        activation = _ACTIVATION.fullmatch(item) if isinstance(item, str) else None
        if key == "activation_fn" and activation is not None:
            kept[key] = activation[1]
            found.concluded.append(f"policy_kwargs.activation_fn = {activation[1]}")
        elif isinstance(item, str) and item.startswith("<"):
            found.pickled[f"hyperparameters.policy_kwargs.{key}"] = item
            del kept[key]
    if kept:
        found.values["hyperparameters"]["policy_kwargs"] = kept


def _drop_what_the_algorithm_adds(found: Settings, kept: dict[str, Any], algorithm: str) -> None:
    """Take the arguments away that a constructor puts in by itself, and set its own where these differ."""
    optimizer, options = kept.get("optimizer_class"), kept.get("optimizer_kwargs")
    options = options if isinstance(options, dict) else {}
    if algorithm == "a2c":
        usual = options.keys() == {"alpha", "eps", "weight_decay"} and options["alpha"] == 0.99
        if optimizer == _RMSPROP and usual and options["weight_decay"] == 0:
            found.values["hyperparameters"]["rms_prop_eps"] = options["eps"]
            del kept["optimizer_class"], kept["optimizer_kwargs"]
        elif optimizer is None:
            found.values["hyperparameters"]["use_rms_prop"] = False
    batch = whole(found.values["hyperparameters"].get("batch_size", 32))
    if algorithm == "qrdqn" and optimizer == _ADAM and batch and options == {"eps": 0.01 / batch}:
        del kept["optimizer_class"], kept["optimizer_kwargs"]
    if algorithm == "ddpg":
        kept.pop("n_critics", None)
