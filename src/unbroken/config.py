"""The one schema of a training run: command line, YAML, notebook, manifests and later the API share it.

Also the one table of environment variables. Keys are checked strictly; an error names the nearest key that exists.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unbroken.errors import ConfigurationError, NotFound
from unbroken.targets import scenario_name

ENVIRONMENT_VARIABLES = {
    "UNBROKEN_RUNS_DIR": "folder of the runs where --runs-dir is not given (default: runs)",
    "UNBROKEN_CACHE_DIR": "folder of the result cache where --cache-dir is not given (default: cache)",
    "UNBROKEN_CACHE_LIMIT": "how large the result cache may grow, such as 500MB or 2GB (default: 5GB)",
    "UNBROKEN_TRACE": "folder in which a training leaves a trace of its steps, as `unbroken prove` asks for",
    "UNBROKEN_TRACE_STEPS": "with UNBROKEN_TRACE: the training stops at the first cut at or after this step",
    "UNBROKEN_DEBUG": "any value: errors show a traceback, as with --debug",
    "NO_COLOR": "any value: no colours on the console",
}

Algorithm = Literal[
    "ppo",
    "a2c",
    "dqn",
    "sac",
    "td3",
    "ddpg",
    "recurrent_ppo",
    "maskable_ppo",
    "tqc",
    "qrdqn",
    "crossq",
    "trpo",
    "ppo_torch",
]
DEFAULT_TARGET = 100_000
QUICK_TARGET = 5_000
# those that are near a key, or often given: what is neither gets the same advice
TYPICAL_HYPERPARAMETERS = frozenset({"n_steps", "learning_rate", "batch_size", "n_epochs", "gamma", "train_freq"})
_RUN_NAME = re.compile(r"[^\x00-\x1f/\\:*?\"<>|]+")
# the longest name made of one is that of an unfinished checkpoint,
# .NAME_checkpoint_STEPS_steps.zip.PID-COUNT.tmp, and file systems take 255 bytes: 75 for all but NAME
NAME_LIMIT_BYTES = 180
_NAME_LIMIT = 120
_WINDOWS_RESERVED = frozenset({"con", "prn", "aux", "nul"})


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())


class EnvironmentConfig(_Section):
    """Training environment: constructor arguments, wrappers, number of copies, vector wrappers in SB3's terms.

    `wrappers` are classes as `module:Class` or `{class: module:Class, kwargs: {...}}`, from the inside out.
    """

    kwargs: dict[str, Any] = Field(default_factory=dict)
    wrappers: list[str | dict[str, Any]] | None = None
    n_envs: int = Field(default=1, ge=1)
    vec_env: Literal["dummy", "subproc"] = "dummy"
    frame_stack: int | None = Field(default=None, ge=2)
    normalize: dict[str, Any] | None = None
    replay_limit: int = Field(default=100_000, ge=1)

    @field_validator("wrappers")
    @classmethod
    def _named_wrappers(cls, value: list[str | dict[str, Any]] | None) -> list[str | dict[str, Any]] | None:
        for item in value or []:
            fields = {"class": item} if isinstance(item, str) else item
            place: Any = fields.get("class")
            arguments: Any = fields.get("kwargs", {})
            known = isinstance(place, str) and re.fullmatch(r"[\w.]+:[\w.]+", place) and isinstance(arguments, dict)
            if not known or fields.keys() - {"class", "kwargs"}:
                raise ConfigurationError(
                    f"environment.wrappers: {item!r} is not module:Class or {{class: module:Class, kwargs: {{...}}}}"
                )
        # none is as good as no list, also for a checkpoint that knows no such key
        return value or None


class SavingConfig(_Section):
    """When checkpoints are made (environment steps, seconds) and how many rolling ones stay.

    `seconds` also bounds what a kill within a long rollout costs, by a journal; null switches both off.
    """

    every: int | None = Field(default=10_000, ge=1)
    seconds: float | None = Field(default=300.0, gt=0)
    keep_last: int = Field(default=2, ge=1)
    keep_every: int | None = Field(default=None, ge=1)


class EvaluationConfig(_Section):
    """Deterministic evaluation: every so many environment steps (0 = off), over so many episodes."""

    every: int = Field(default=10_000, ge=0)
    episodes: int = Field(default=5, ge=1)


class TrackingConfig(_Section):
    """Which trackers get the curves: Weights & Biases, MLflow, and the project or experiment there."""

    wandb: bool = False
    mlflow: bool = False
    project: str = Field(default="unbroken", min_length=1)


class RunConfig(_Section):
    """Everything that shapes a run. Units: steps are environment steps over all copies, times are seconds."""

    target: str = Field(min_length=1)
    scenario: str = ""
    algo: Algorithm = "ppo"
    policy: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    total_timesteps: int = Field(default=DEFAULT_TARGET, ge=1)
    environment: EnvironmentConfig = Field(default_factory=EnvironmentConfig)
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    saving: SavingConfig = Field(default_factory=SavingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    callbacks: list[str] = Field(default_factory=list)
    log_interval: int | None = Field(default=None, ge=1)
    self_test: bool = True
    grace_seconds: float = Field(default=30.0, ge=0)
    deadline_seconds: float | None = Field(default=None, gt=0)

    @field_validator("algo", mode="before")
    @classmethod
    def _usual_spellings(cls, value: Any) -> Any:
        return usual_algorithm(value)

    def model_post_init(self, context: Any, /) -> None:
        """The scenario defaults to the target as typed."""
        if not self.scenario:
            self.scenario = scenario_name(self.target)
        check_name(self.scenario, "scenario")

    def default_run_name(self) -> str:
        """`{scenario}-{algo}-seed{n}`: another algorithm or seed is another run."""
        return f"{self.scenario}-{self.algo}-seed{self.seed}"

    def plain(self) -> dict[str, Any]:
        """JSON-ready form; `build_config` reads it back. What is said for one leg only is not in it."""
        return self.model_dump(mode="json", exclude={"grace_seconds", "deadline_seconds"})


def check_name(name: str, what: str = "run name") -> str:
    """The name itself, if it is one folder name on every operating system. Raises ConfigurationError."""
    size = len(name.encode("utf-8", "surrogateescape"))
    if len(name) > _NAME_LIMIT or size > NAME_LIMIT_BYTES:
        raise ConfigurationError(
            f"{what} {name!r} is too long: {len(name)} characters, {size} bytes in UTF-8; names of files are made of it, "
            f"so give one of at most {_NAME_LIMIT} characters and {NAME_LIMIT_BYTES} bytes"
        )
    stem = name.partition(".")[0].lower()
    reserved = stem in _WINDOWS_RESERVED or re.fullmatch(r"(com|lpt)\d", stem) is not None
    if not _RUN_NAME.fullmatch(name) or name in (".", "..") or name.strip() != name or name.endswith(".") or reserved:
        raise ConfigurationError(f"{what} {name!r} is not a plain folder name; use letters, digits, '-', '_' and '.'")
    return name


def build_config(values: Mapping[str, Any]) -> RunConfig:
    """Check values and fill in defaults. Raises ConfigurationError in one line per mistake."""
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_explain(item) for item in error.errors())) from None


def _explain(item: Any) -> str:
    own = (item.get("ctx") or {}).get("error")
    if isinstance(own, ConfigurationError):
        return str(own)
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = configuration_keys()
        near = difflib.get_close_matches(place, known, n=1, cutoff=0.5)
        leaf = difflib.get_close_matches(
            place.rpartition(".")[2], [k.rpartition(".")[2] for k in known], n=1, cutoff=0.6
        )
        guess = near or [k for k in known if leaf and k.rpartition(".")[2] == leaf[0]]
        return f"unknown key {place!r}" + _hint(place, guess)
    if item["type"] == "missing":
        return f"{place!r} is missing: name an environment, such as CartPole-v1"
    if place == "algo":
        near = difflib.get_close_matches(str(item["input"]), get_args(Algorithm), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown algorithm {item['input']!r}{hint} (known: {', '.join(get_args(Algorithm))})"
    if place == "device":
        return f"device: choose cpu, cuda (or cuda:0, cuda:1, ...), mps or auto, not {item['input']!r}"
    return f"{place}: {item['msg'][:1].lower()}{item['msg'][1:]}, not {item['input']!r}"


def _hint(place: str, guess: list[str]) -> str:
    if place in ("steps", "timesteps"):
        return "; did you mean 'total_timesteps'?"
    if place in TYPICAL_HYPERPARAMETERS or (not guess and "." not in place):
        return f"; a hyper-parameter is given as 'hyperparameters.{place}'"
    return f"; did you mean {guess[0]!r}?" if guess else ""


def usual_algorithm(value: Any) -> Any:
    """An algorithm's name as the schema has it, for the spellings that users bring; what is no text stays as it is."""
    if not isinstance(value, str):
        return value
    name = value.lower().replace("-", "_")
    return {
        "recurrentppo": "recurrent_ppo",
        "maskableppo": "maskable_ppo",
        "qr_dqn": "qrdqn",
        "ppotorch": "ppo_torch",
    }.get(name, name)


def configuration_keys() -> list[str]:
    """All keys of the schema with dotted names, sections included."""
    return list(_keys(RunConfig))


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _keys(info.annotation, f"{prefix}{name}.")


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration file, or the `run.yaml` of a run, as nested dicts. Raises NotFound or ConfigurationError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigurationError(f"{path} holds no keys; it needs at least 'target: CartPole-v1'")
    if isinstance(loaded.get("version"), int) and isinstance(loaded.get("config"), dict):
        # the run.yaml of a run, given to start another like it
        loaded = loaded["config"]
    numbers: dict[str, Any] = _numbers(loaded)
    return numbers


def assignments(pairs: list[str]) -> dict[str, Any]:
    """Nested dicts from `key.sub=value` words; values are read as YAML."""
    nested: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f"--set {pair!r} is not of the form key.sub=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"--set {pair!r}: the value is not valid YAML") from error
        place = nested
        *parents, last = key.strip().split(".")
        for part in parents:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigurationError(f"--set {pair!r}: {part!r} already has a plain value")
        place[last] = _numbers(value)
    return nested


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 3e-4 as text; people mean the number, at any depth."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, section by section."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>s|m|min|h|d)?")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, None: 1}


def seconds(text: str) -> float:
    """Seconds of a duration such as `30s`, `45m`, `11h`, `1.5h` or plain seconds. Raises ConfigurationError."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigurationError(f"{text!r} is not a duration; write 30s, 45m or 11h")
    return float(match["number"]) * _SECONDS[match["unit"]]
