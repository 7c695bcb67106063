"""Proof at the start of a run that an environment's state can be captured: in other processes, across a reset.

One process brings an environment to the middle of an episode, captures it and goes on, over the end of the episode; a
second process, with a fresh environment, restores and goes on with the same actions. Every observation, reward and flag
must be the same bits. It is done in two episodes that follow each other, so that what goes on over resets cannot agree by
chance. The strategies are tried in order; the first that passes is used. Run as a module, it is either of
the two processes; nothing of the training process is touched.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from unbroken.capture.determinism import shift_clocks, suspects
from unbroken.capture.environments import CaptureWrapper, Strategy, has_protocol, layers
from unbroken.capture.native import find_adapter
from unbroken.capture.rng import capture_generators, restore_generators, seed_generators
from unbroken.errors import UnbrokenError

STEPS_BEFORE = 40
STEPS_AFTER = 60
_STEPS_AFTER_FIRST = 10
_STEPS_INTO_EPISODE = 5
_MOST_STEPS_AFTER = 400
_SEED = 90_001


@dataclass(frozen=True)
class Verdict:
    """What the self-test found. `strategy` is "auto" where nothing was proved; `reason` says why."""

    strategy: Strategy
    proved: bool
    reason: str = ""

    def describe(self) -> str:
        """One line for the log."""
        if self.proved:
            ways = {
                "protocol": "its own get_state/set_state",
                "native": "an adapter for its simulator",
                "attributes": "its attributes",
                "replay": "replay since the last reset",
            }
            return f"environment state: exact by {ways[self.strategy]} (self-test passed)"
        return f"environment state: not proved ({self.reason})"


class Arguments(Protocol):
    """The part of a run's configuration that makes the environment."""

    kwargs: dict[str, Any]
    wrappers: list[str | dict[str, Any]] | None


def proof_key(target: str, arguments: Arguments) -> dict[str, Any]:
    """What a verdict holds for: another environment, other code, other arguments or other versions need a new test."""
    from unbroken.context import package_versions
    from unbroken.fingerprint import source_digest

    wrappers = {"wrappers": arguments.wrappers} if arguments.wrappers else {}
    found = {"target": target, "kwargs": arguments.kwargs, "source": source_digest(target, arguments.kwargs)}
    return {**found, **wrappers, "versions": package_versions()}


class SelfTest:
    """A self-test running in the background, begun by `start` before heavy imports and collected by `result`."""

    def __init__(self, request: dict[str, Any], timeout_seconds: float = 300.0) -> None:
        self._timeout = timeout_seconds
        self._verdict: Verdict | None = None
        command = [sys.executable, "-m", "unbroken.capture.selftest", "prove"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_import_path()
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode())
        self._process.stdin.close()
        self._process.stdin = None

    @classmethod
    def start(
        cls, target: str, kwargs: dict[str, Any], replay_limit: int, wrappers: list[str | dict[str, Any]] | None = None
    ) -> SelfTest:
        """Begin to test the environment of a target."""
        return cls({"target": target, "kwargs": kwargs, "replay_limit": replay_limit, "wrappers": wrappers})

    def result(self) -> Verdict:
        """Wait for the verdict. A test that crashes or takes too long proves nothing; it raises nothing."""
        if self._verdict is None:
            self._verdict = self._collected()
        return self._verdict

    def _collected(self) -> Verdict:
        try:
            out, err = self._process.communicate(timeout=self._timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return Verdict("auto", False, f"the self-test took longer than {self._timeout:g} s")
        try:
            return Verdict(**json.loads(out))
        except (ValueError, TypeError):
            lines = err.decode(errors="replace").strip().splitlines()
            return Verdict("auto", False, f"the self-test crashed: {lines[-1] if lines else self._process.returncode}")

    def cancel(self) -> None:
        """Stop the test if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def _import_path() -> dict[str, str]:
    """The environment of this process with its import path, so that the user's modules are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in [os.getcwd(), *sys.path] if path)}  # noqa: PTH109


def prove_instances(first: Any, second: Any, strategy: Strategy = "auto") -> Verdict:
    """The same test within this process, over two instances of one environment that nothing else uses."""
    generators = capture_generators()
    try:
        env, other = CaptureWrapper(first, strategy), CaptureWrapper(second, strategy)
        stretches = _record(env)
        missing = env.coverage()["not_captured"]
        if missing:
            return Verdict("auto", False, f"{env.strategy}: {missing[0]} is not captured")
        return _compared(env.strategy, stretches, _continue_in_turn(other, stretches))
    finally:
        restore_generators(generators)


def _record(env: CaptureWrapper) -> list[dict[str, Any]]:
    """Two stretches, one reset apart: an alternation over resets that fits one of them by chance does not fit the other."""
    rng = np.random.default_rng(_SEED)
    env.action_space.seed(_SEED)
    env.reset(seed=_SEED)
    for _ in range(STEPS_BEFORE):
        _step(env, _legal_action(env), [], rng)
    env.reset()
    _reach_mid_episode(env, rng)
    first = _record_stretch(env, 0, _STEPS_AFTER_FIRST)
    _reach_mid_episode(env, rng)
    return [first, _record_stretch(env, STEPS_AFTER, _MOST_STEPS_AFTER)]


def _record_stretch(env: CaptureWrapper, least: int, most: int) -> dict[str, Any]:
    """Capture in mid-episode, then go on for so many steps and over a reset; the actions and what came of them."""
    state = _packed([env.capture_state(), capture_generators()])
    rng = _other_draws(env.strategy, _SEED + 1)
    actions: list[Any] = []
    outcomes: list[str] = []
    resets = 0
    while len(actions) < most and (len(actions) < least or not resets):
        action = _legal_action(env)
        actions.append(_packed(_described(action)))
        ended = _step(env, action, outcomes, rng)
        resets += ended
    if not resets:
        outcomes.append(_digest(env.reset()[0]))
    return {"state": state, "actions": actions, "outcomes": outcomes, "reset_at_end": not resets}


def _reach_mid_episode(env: CaptureWrapper, rng: np.random.Generator) -> None:
    """Come into the middle of an episode that a reset without a seed began, as nearly all episodes of a training."""
    since_reset = 0
    for count in range(10 * STEPS_BEFORE):
        if count >= _STEPS_INTO_EPISODE and since_reset >= 2:
            return
        ended = _step(env, _legal_action(env), [], rng)
        since_reset = 0 if ended else since_reset + 1


def _continue_in_turn(env: CaptureWrapper, stretches: list[dict[str, Any]]) -> list[list[str]]:
    """With one instance for both, a reset more in between, or it would be two resets behind: an alternation would fit."""
    found = [_continue(env, stretches[0])]
    env.reset()
    return [*found, _continue(env, stretches[1])]


def _continue(env: CaptureWrapper, recorded: dict[str, Any]) -> list[str]:
    outcomes: list[str] = []
    state, generators = _unpacked(recorded["state"])
    problems = env.restore_state(state)
    if problems:
        return [f"not restored: {problems[0]}"]
    rng = _other_draws(env.strategy, _SEED + 2)
    restore_generators(generators)
    for packed in recorded["actions"]:
        _step(env, _undescribed(_unpacked(packed)), outcomes, rng)
    if recorded["reset_at_end"]:
        outcomes.append(_digest(env.reset()[0]))
    return outcomes


def _other_draws(strategy: str, seed: int) -> np.random.Generator:
    """How much a learner draws from the global generators between steps.

    Training captures these generators, so an environment may use them; but a replay does not repeat the learner's draws,
    so there the two processes draw differently, and an environment that depends on them fails.
    """
    return np.random.default_rng(seed if strategy == "replay" else _SEED)


def _step(env: CaptureWrapper, action: Any, outcomes: list[str], rng: np.random.Generator) -> bool:
    """One step, with a reset when the episode ends, as a vector environment does it."""
    draws = int(rng.integers(1, 4))
    np.random.random(draws)
    for _ in range(draws):
        random.random()
    observation, reward, terminated, truncated, info = env.step(action)
    outcomes.append(_digest([observation, float(reward), bool(terminated), bool(truncated), _plain_info(info)]))
    if terminated or truncated:
        outcomes.append(_digest(env.reset()[0]))
    return bool(terminated or truncated)


def _plain_info(info: dict[str, Any]) -> list[Any]:
    return [
        [key, value]
        for key, value in sorted(info.items())
        if isinstance(value, bool | int | float | str | np.ndarray | np.generic)
    ]


def _legal_action(env: CaptureWrapper) -> Any:
    try:
        masks = env.get_wrapper_attr("action_masks")()
    except AttributeError:
        return env.action_space.sample()
    legal = np.flatnonzero(masks)
    if not hasattr(env.action_space, "n"):
        return env.action_space.sample()
    return legal[int(env.action_space.np_random.integers(len(legal)))]


def _digest(value: Any) -> str:
    from unbroken.capture.codec import digest

    return digest(_described(value))


def _described(value: Any) -> Any:
    from unbroken.capture.objects import Describer

    return Describer().describe(value)


def _undescribed(description: Any) -> Any:
    from unbroken.capture.filling import Filler

    return Filler().build(description)


def _packed(description: Any) -> list[str]:
    from unbroken.capture.codec import encode

    encoded = encode(description)
    return [encoded.document.decode(), base64.b64encode(b"".join(encoded.block())).decode()]


def _unpacked(packed: list[str]) -> Any:
    from unbroken.capture.codec import decode

    return decode(packed[0].encode(), base64.b64decode(packed[1]))


def _compared(strategy: Strategy, stretches: list[dict[str, Any]], continued: list[list[str]]) -> Verdict:
    for recorded, found in zip(stretches, continued, strict=True):
        if reason := _difference(strategy, recorded["outcomes"], found):
            return Verdict("auto", False, reason)
    return Verdict(strategy, True)


def _difference(strategy: Strategy, expected: list[str], found: list[str]) -> str:
    if expected == found:
        return ""
    if found and found[0].startswith("not restored"):
        return f"{strategy}: {found[0]}"
    same = next(
        (k for k, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]),
        min(len(expected), len(found)),
    )
    return f"by {strategy}, the restored copy differs from outcome {same + 1} on"


def _make(request: dict[str, Any], strategy: Strategy) -> CaptureWrapper:
    from unbroken.targets import make_environment, wrapped

    env = wrapped(make_environment(request["target"], request["kwargs"]), request.get("wrappers"))
    return CaptureWrapper(env, strategy, request["replay_limit"])


def _strategies(request: dict[str, Any]) -> list[list[Strategy]]:
    """Those made for this environment, then those for any: what the former prove need not be tried."""
    with contextlib.closing(_make(request, "auto")) as env:
        made_for: list[Strategy] = ["protocol"] if has_protocol(env.unwrapped) else []
        if env.strategy == "native" or (made_for and find_adapter(env.unwrapped) is not None):
            made_for.append("native")
    return [made_for, ["attributes", "replay"]] if made_for else [["attributes", "replay"]]


def _attempt(request: dict[str, Any], strategy: Strategy) -> dict[str, Any]:
    try:
        # closed before the next is made: some simulators are one to a process
        with contextlib.closing(_make(request, strategy)) as env:
            stretches = _record(env)
            missing = env.coverage()["not_captured"]
            if missing:
                return {"strategy": strategy, "error": f"{strategy}: {missing[0]} is not captured"}
            return {"strategy": env.strategy, "stretches": stretches}
    except Exception as error:  # noqa: BLE001 - whatever the user's environment raises disproves the strategy
        return {"strategy": strategy, "error": f"{strategy}: {type(error).__name__}: {error}"}


def _prove(request: dict[str, Any]) -> Verdict:
    failed: list[Verdict] = []
    for strategies in _strategies(request):
        attempts = [_attempt(request, strategy) for strategy in strategies]
        verdicts = [Verdict(**found) for found in _in_another_process("continue", [request, attempts])]
        passed = next((verdict for verdict in verdicts if verdict.proved), None)
        if passed:
            return passed
        failed += verdicts
    reasons = [why_not_deterministic(request), *(verdict.reason for verdict in failed)]
    return Verdict("auto", False, "; ".join(filter(None, reasons)))


def _in_another_process(task: str, sent: Any) -> Any:
    """What the task answers in a fresh process. Raises UnbrokenError when that crashes."""
    command = [sys.executable, "-m", "unbroken.capture.selftest", task]
    done = subprocess.run(
        command, input=json.dumps(sent).encode(), capture_output=True, check=False, env=_import_path()
    )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise UnbrokenError(f"the restoring process crashed: {lines[-1] if lines else done.returncode}")
    return json.loads(done.stdout)


def why_not_deterministic(request: dict[str, Any]) -> str:
    """Where two processes that begin with the same seed part, with what the code may look at; nothing if they do not.

    `request` has target, kwargs, wrappers and replay_limit. An environment that cannot be stepped gives nothing either.
    """
    try:
        # both fresh: this process has moved what lies in modules and on classes
        first, suspected = _in_another_process("begin", request)
        second, _ = _in_another_process("repeat", request)
    except (UnbrokenError, ValueError):
        return ""
    same = next((k for k, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), len(first))
    if same == len(first) == len(second):
        return ""
    where = f" (its code names {', '.join(suspected[:3])})" if suspected else ""
    return (
        f"not deterministic: with the same seed and actions, outcome {same + 1} differs from process to process{where}"
    )


def _trajectory(request: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Outcomes of an episode from one seed on, and where the environment's code may look at something else."""
    outcomes: list[str] = []
    with contextlib.closing(_make(request, "attributes")) as env:
        seed_generators(_SEED)
        outcomes.append(_digest(env.reset(seed=_SEED)[0]))
        for k in range(STEPS_BEFORE + STEPS_AFTER):
            # a reset may have put another space in its place
            env.action_space.seed(_SEED + k)
            _step(env, _legal_action(env), outcomes, np.random.default_rng(_SEED))
        return outcomes, suspects(layers(env))


def _continue_all(request: dict[str, Any], attempts: list[dict[str, Any]]) -> list[Verdict]:
    verdicts = []
    for attempt in attempts:
        if "error" in attempt:
            verdicts.append(Verdict("auto", False, attempt["error"]))
            continue
        found = [_continue_anew(request, attempt["strategy"], stretch) for stretch in attempt["stretches"]]
        verdicts.append(_compared(attempt["strategy"], attempt["stretches"], found))
        if verdicts[-1].proved:
            break
    return verdicts


def _continue_anew(request: dict[str, Any], strategy: Strategy, stretch: dict[str, Any]) -> list[str]:
    try:
        with contextlib.closing(_make(request, strategy)) as env:
            return _continue(env, stretch)
    except Exception as error:  # noqa: BLE001 - whatever the user's environment raises disproves the strategy
        return [f"not restored: {type(error).__name__}: {error}"]


def main() -> None:
    """Entry of the two processes; the verdict is all that they answer."""
    # simulators write to the standard output, their own processes too: only the answer goes to the parent
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        warnings.simplefilter("ignore")
        answers.write(json.dumps(_answer(sys.argv[1], json.load(sys.stdin))))


def _answer(task: str, sent: Any) -> Any:
    try:
        if task == "prove":
            return vars(_prove(sent))
        if task == "begin":
            return _trajectory(sent)
        # what depends on the clock must not be proved because the processes ran within one second
        shift_clocks()
        return _trajectory(sent) if task == "repeat" else [vars(verdict) for verdict in _continue_all(*sent)]
    except UnbrokenError as error:
        verdict = vars(Verdict("auto", False, str(error)))
        return verdict if task == "prove" else [verdict]


if __name__ == "__main__":
    main()
