"""Answers calls from a journal for as long as the training asks what it asked before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from unbroken.capture.codec import digest
from unbroken.capture.rng import capture_generators, restore_generators
from unbroken.capture.vector_environments import capture_vector_environment, restore_vector_environment
from unbroken.errors import CaptureError, DamagedFile
from unbroken.journal.file import Scanned
from unbroken.journal.records import answer
from unbroken.journal.segments import records_of


class JournalUnusable(BaseException):
    """The training went another way than the journal: this leg begins again at its checkpoint, without it.

    Not an Exception: no user code may swallow it.
    """


class Replay:
    """The records of a chain of files, up to the point at its end."""

    def __init__(self, chain: list[Scanned]) -> None:
        last = chain[-1]
        assert last.last is not None
        self.chain = chain
        self.point: Mapping[str, Any] = last.last.content["point"]
        self.left = sum(one.all_records for one in chain[:-1]) + last.records
        self._records = records_of(chain)

    def answer(self, channel: int, name: str, question: str) -> Any:
        """What was answered to this call. Raises JournalUnusable if another one was made."""
        try:
            record = next(self._records)
            self.left -= 1
            if (record["channel"], record["name"]) != (channel, name):
                raise JournalUnusable(f"the training calls {name} where it called {record['name']}")
            if record["question"] != question:
                raise JournalUnusable(f"{name} is called with other values: the training does not repeat itself")
            return answer(record)
        except (StopIteration, DamagedFile, OSError, KeyError) as error:
            raise JournalUnusable(f"it cannot be read: {error}") from error

    def close(self) -> None:
        """Let go of the files."""
        self._records.close()

    def arrive(self, venvs: Sequence[VecEnv]) -> None:
        """Bring the environments to the point. Raises JournalUnusable if the training is not where it was, or they cannot."""
        generators = self.point["generators"]
        if digest(capture_generators()) != digest(generators):
            raise JournalUnusable("the random numbers at its end are others: the training does not repeat itself")
        for venv, state in zip(venvs, self.point["environments"], strict=True):
            _restore(venv, dict(state))
        restore_generators(generators)


def _restore(venv: VecEnv, state: dict[str, Any]) -> None:
    try:
        problems = restore_vector_environment(venv, state)
    except CaptureError as error:
        raise JournalUnusable(str(error)) from error
    # objects in the infos of resets are missing from every checkpoint, which says so; the environments are where they were
    serious = [problem for problem in problems if ".reset_infos" not in problem]
    if serious:
        raise JournalUnusable(serious[0])


def captured_environments(venvs: Sequence[VecEnv]) -> list[dict[str, Any]]:
    """What `Replay.arrive` brings back. Draws no random number that the training would notice. Raises CaptureError."""
    generators = capture_generators()
    found = [capture_vector_environment(venv)[0] for venv in venvs]
    if digest(capture_generators()) != digest(generators):
        restore_generators(generators)
    if any(state["environments"] is None for state in found):
        raise CaptureError("the environments' state cannot be captured")
    return found


def steps_to_repeat(point: Mapping[str, Any], venvs: Sequence[VecEnv]) -> tuple[int, float]:
    """How many steps of environments a return to the point makes again where they can only be replayed, and the seconds."""
    steps, seconds = 0, 0.0
    for venv, state, duration in zip(venvs, point["environments"], point["step_seconds"], strict=True):
        # workers are brought back one after the other; copies in this process share the time of a step
        each = duration / venv.num_envs if isinstance(venv, DummyVecEnv) else duration
        for environment in state["environments"]:
            if environment.get("strategy") == "replay":
                actions = environment["base"]["actions"]
                count = len(actions) if not isinstance(actions, dict) else len(actions["v"])
                steps, seconds = steps + count, seconds + count * each
    return steps, seconds
