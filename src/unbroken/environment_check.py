"""What `unbroken envs check` finds: can an environment be resumed exactly in mid-episode, at what cost, and if not, what to do.

Makes and steps the environment in this process, and in others for the proof.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from unbroken.capture.codec import digest, encode
from unbroken.capture.environments import CaptureWrapper, Strategy, has_protocol
from unbroken.capture.objects import Describer, class_name, is_inert
from unbroken.capture.selftest import SelfTest, why_not_deterministic
from unbroken.config import RunConfig
from unbroken.logs import human_size
from unbroken.targets import check_target, check_wrappers, make_environment, wrapped

_STEPS = 40
_REPETITIONS = 9
_MEANT_BY = {
    "protocol": "its own get_state/set_state",
    "native": "adapter for its simulator",
    "attributes": "all of its attributes",
    "replay": "actions since the last reset, repeated",
    "auto": "none that could be proved",
}
_OUTSIDE = ("global ", "class attribute ", "variable ")


@dataclass(frozen=True)
class EnvironmentReport:
    """The verdict, and after `_STEPS` steps of an episode: bytes of the state, median seconds of a snapshot and a restore."""

    target: str
    exact: bool
    strategy: Strategy
    reason: str
    state_bytes: int | None = None
    snapshot_seconds: float | None = None
    restore_seconds: float | None = None
    advice: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def text(self) -> str:
        """For a person."""
        lines = [f"environment:  {self.target}", f"strategy:     {self.strategy} ({_MEANT_BY[self.strategy]})"]
        if self.state_bytes is not None and self.snapshot_seconds is not None:
            lines.append(f"state:        {human_size(self.state_bytes)} ({self.state_bytes:,} bytes)")
            lines.append(f"snapshot:     {1e3 * self.snapshot_seconds:.2f} ms")
        if self.restore_seconds is not None:
            growing = f" after {_STEPS} steps; it grows with the episode" if self.strategy == "replay" else ""
            lines.append(f"restore:      {1e3 * self.restore_seconds:.2f} ms{growing}")
        lines.append(f"verdict:      {'yes, exact in mid-episode' if self.exact else 'no: ' + self.reason}")
        return "\n".join([*lines, *([""] if self.advice else []), *self.advice])


def check_environment(config: RunConfig) -> EnvironmentReport:
    """Prove, measure and advise. Raises what making the environment raises: UnknownTarget, MissingExtra, ConfigurationError.

    What simulators write to the standard output of this process goes to its error output meanwhile.
    """
    with _output_to_errors():
        return _checked(config)


def _checked(config: RunConfig) -> EnvironmentReport:
    section = config.environment
    check_target(config.target)
    check_wrappers(section.wrappers)
    request = {"target": config.target, **section.model_dump(include={"kwargs", "wrappers", "replay_limit"})}
    with contextlib.closing(_made(request, "auto")) as env:
        advice = _advice(env)
    verdict = SelfTest(request).result()
    # a generator that nobody seeded is resumed exactly where it can be captured, and yet no training can be repeated
    reason = why_not_deterministic(request) if verdict.proved else verdict.reason
    measured = _measured(request, verdict.strategy)
    return EnvironmentReport(
        config.target,
        verdict.proved and not reason,
        verdict.strategy,
        reason,
        **measured,
        advice=advice if reason and not reason.startswith("not deterministic") else [],
    )


@contextlib.contextmanager
def _output_to_errors() -> Iterator[None]:
    """By descriptor: simulators in C and their processes know no `sys.stdout`."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(own, 1)
        os.close(own)


def _made(request: dict[str, Any], strategy: Strategy) -> CaptureWrapper:
    env = wrapped(make_environment(request["target"], request["kwargs"]), request["wrappers"])
    return CaptureWrapper(env, strategy, request["replay_limit"])


def _measured(request: dict[str, Any], strategy: Strategy) -> dict[str, Any]:
    """Size and times with the strategy that was proved, in one copy; nothing where none was."""
    if strategy == "auto":
        return {}
    with contextlib.closing(_made(request, strategy)) as env:
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(_STEPS):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        state = env.capture_state()
        encoded = encode(state)
        size = len(encoded.document) + sum(array.nbytes for array in encoded.arrays)
        snapshot = _median_seconds(env.capture_state)
        return {
            "state_bytes": size,
            "snapshot_seconds": snapshot,
            "restore_seconds": _median_seconds(lambda: env.restore_state(state)),
        }


def _median_seconds(action: Callable[[], Any]) -> float:
    times = []
    for _ in range(_REPETITIONS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _advice(env: CaptureWrapper) -> list[str]:
    """The lines that would make it a "yes": get_state and set_state over the attributes that there are."""
    base: Any = env.unwrapped
    built, _ = _sorted_attributes(base)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    if _keeps_its_world(base):
        return [
            "BipedalWalker keeps one Box2D world for all its episodes. A new world for each makes it exact by replay:",
            "  --set environment.wrappers=[unbroken.wrappers:FreshWorld]",
        ]
    outside = [what for what in env.coverage()["not_captured"] if what.startswith(_OUTSIDE)]
    if outside:
        return [
            "Only the environment itself is captured. What lies outside of it makes it exact as one of its attributes:",
            "",
            *(_inside(what) for what in outside),
        ]
    if has_protocol(base):
        return [f"Its get_state/set_state leave something out: see to it in {class_name(base).replace(':', '.')}."]
    plain, opaque = _sorted_attributes(base)
    changing = [name for name, found in plain.items() if built.get(name) != found]
    return [
        f"These methods in {class_name(base).replace(':', '.')} would make it exact; what changed in a step is in them:",
        "",
        *_sketch(changing or list(plain), opaque),
    ]


def _inside(place: str) -> str:
    """How to bring what `coverage` names as "global module.name" or the like into the environment."""
    owner, _, name = place.rpartition(" ")[2].rpartition(".")
    value = getattr(sys.modules.get(owner), name, None)
    if isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
        return f"    self.np_random in the place of {name}  # seeded by super().reset(seed=seed), and captured"
    return f"    self.{name} = ...  # in __init__ or reset, in the place of: {place}"


def _keeps_its_world(base: Any) -> bool:
    return type(getattr(base, "world", None)).__name__ == "b2World" and type(base).__name__ == "BipedalWalker"


def _sorted_attributes(base: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of the attributes that are plain data, and classes of the others, by name."""
    plain, opaque = {}, {}
    for name, value in vars(base).items():
        if name in ("spec", "_np_random", "_np_random_seed") or name.endswith("_space") or is_inert(value):
            continue
        describer = Describer(known={"itself": base})
        described = describer.describe(value, name)
        if describer.opaque or describer.needing:
            opaque[name] = class_name(value).replace(":", ".").removeprefix("builtins.")
        elif not isinstance(described, dict) or described["t"] not in ("code", "inert", "known"):
            plain[name] = digest(described)
    return plain, opaque


def _sketch(plain: list[str], opaque: dict[str, str]) -> list[str]:
    stored = [f"    state[{name!r}] = ...  # {kind}: as numbers, text, lists, arrays" for name, kind in opaque.items()]
    remade = [f"    self.{name} = ...  # made anew from state[{name!r}]" for name in opaque]
    names = "(" + "".join(f"{name!r}, " for name in plain).rstrip() + ")"
    return [
        "def get_state(self):",
        f"    state = {{name: copy.deepcopy(getattr(self, name)) for name in {names}}}",
        *(stored or ["    # and what it keeps outside of its attributes: on classes, in modules, in files"]),
        "    return state",
        "",
        "def set_state(self, state):",
        f"    for name in {names}:",
        "        setattr(self, name, state[name])",
        *remade,
    ]
