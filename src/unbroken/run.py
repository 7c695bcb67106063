"""A run is carried: lock, self-test, one leg to the target, or word that it is there already.

`train` is what the command, the notebook call and later the service use. It carries a run one leg, in this process.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from unbroken import logs
from unbroken.capture.selftest import SelfTest, Verdict, proof_key
from unbroken.errors import DamagedFile, NotFound
from unbroken.folder import file_names
from unbroken.request import TrainRequest, TrainWords, make_request
from unbroken.resolving import Resolved, begun_with, named_run, resolve
from unbroken.restoring import repeated_steps
from unbroken.startup import paused_collection
from unbroken.stopping import (
    BY_CALLBACK,
    EXIT_BY_CALLBACK,
    StopNow,
    StopRequest,
    leave_at_once,
    leave_process,
    stopped_code,
)
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter, read_manifest, write_checkpoint
from unbroken.store.lock import ExclusiveLock
from unbroken.targets import check_target, check_wrappers

if TYPE_CHECKING:
    from unbroken.leg import Leg


@dataclass(frozen=True)
class Outcome:
    """How a leg ended.

    `exit_code` is 0 at the target and 75 before it, with a valid checkpoint: run it again. 1: stopped before the first
    checkpoint. 4: a callback ended the training.
    """

    run: str
    folder: Path
    step: int
    target: int
    exit_code: int
    reason: str


def train(target: str | None = None, **words: Unpack[TrainWords]) -> Outcome:
    """Start or continue a run and carry it to its target; the words are those of `unbroken train`.

    Returns when the target is reached or the leg has been stopped early. Raises the errors of `unbroken.errors`.
    Signals are handled only when called in the main thread. One process carries a run at a time.
    """
    return carry(make_request(target, words), hard_exit=False)


def carry(request: TrainRequest, *, hard_exit: bool) -> Outcome:
    """Carry a run as requested. With `hard_exit` a step that never returns ends the process after the grace time."""
    request, folder = named_run(request)
    named = begun_with(request, folder)
    check_target(named["target"])
    check_wrappers((named.get("environment") or {}).get("wrappers"))
    hangs = False
    made = folder.prepare()
    lock, log = ExclusiveLock(folder.lock_path, folder.name), folder.log_path
    with lock, folder.removed_if_refused(made), logs.logging_to(log), logs.recording_tracebacks(log):
        resolved = resolve(request, folder)
        there = resolved.record is not None and resolved.step >= resolved.config.total_timesteps
        if there or resolved.ended_by_callback:
            if folder.stored() is None:
                resolved.remember()
            # else nothing is stored: what trains nothing must not change what the run continues with
            outcome = _already_there(resolved) if there else _ended_before(resolved)
        else:
            outcome, hangs = _carry_leg(resolved, hard_exit)
        if outcome.exit_code == 0:
            # last of all: a kill before this line leaves the promise of --more open, and its repetition adds nothing
            resolved.fulfil_promise()
    if hangs and hard_exit:
        leave_at_once(outcome.exit_code)
    return outcome


def _already_there(resolved: Resolved) -> Outcome:
    target = resolved.config.total_timesteps
    _complete_final(resolved)
    logs.checkpoint(
        f"Target reached: {resolved.step:,} of {target:,} steps are done; nothing to do (more with --steps N or --more N)"
    )
    return Outcome(resolved.folder.name, resolved.folder.path, resolved.step, target, 0, "target reached before")


def _ended_before(resolved: Resolved) -> Outcome:
    step, target = resolved.step, resolved.config.total_timesteps
    logs.checkpoint(
        f"A callback stopped the training at step {step:,}, before its target of {target:,} steps; nothing to do (another target, "
        "with --steps N or --more N, or another callback goes on)"
    )
    return Outcome(resolved.folder.name, resolved.folder.path, step, target, EXIT_BY_CALLBACK, BY_CALLBACK)


def _complete_final(resolved: Resolved) -> None:
    """Write the final model from the newest checkpoint where it is missing or of another step: a full disk, a lower target."""
    assert resolved.record is not None
    backend, config = resolved.folder.backend, resolved.config
    path = file_names(config.scenario, config.algo).final
    try:
        if read_manifest(backend, path).get("step") == resolved.step:
            return
    except (NotFound, DamagedFile):
        pass

    def fill(writer: CheckpointWriter) -> dict[str, Any]:
        with CheckpointFile(backend, source) as file:
            for name in file.names():
                if not name.startswith("exact/"):
                    writer.write_member(name, file.read(name))
        facts = {key: resolved.manifest.get(key) for key in ("run", "scenario", "config")}
        return {"kind": "final", "step": resolved.step, "created": time.time(), **facts}

    source = resolved.record.path
    try:
        write_checkpoint(backend, path, fill)
    except OSError as error:
        logs.warn_checkpoint(f"{path} was not written: {error}")
        return
    logs.checkpoint(f"Wrote {path} from the checkpoint of step {resolved.step:,}")


def _carry_leg(resolved: Resolved, hard_exit: bool) -> tuple[Outcome, bool]:
    """Carry a leg; how it ended, and whether a tracker was left hanging."""
    # the deadline and the signals count from here, not from the end of the imports
    stop = StopRequest(resolved.config.grace_seconds, resolved.config.deadline_seconds)
    legs: list[Leg] = []
    with stop.listening((lambda: _give_up(resolved, legs)) if hard_exit else None):
        reason = _carry_until(resolved, stop, legs)
    step = legs[0].step if legs else resolved.step
    code = {"target reached": 0, BY_CALLBACK: EXIT_BY_CALLBACK}.get(reason)
    if code is None:
        code = stopped_code(has_checkpoint=_has_checkpoint(resolved, legs))
        logs.checkpoint(
            f"Not finished: step {step:,} of {resolved.config.total_timesteps:,}; run the same command again to continue"
        )
    hangs = any(leg.tracker_hangs for leg in legs)
    return Outcome(
        resolved.folder.name, resolved.folder.path, step, resolved.config.total_timesteps, code, reason
    ), hangs


def _has_checkpoint(resolved: Resolved, legs: list[Leg]) -> bool:
    return legs[0].has_checkpoint if legs else resolved.record is not None


def _carry_until(resolved: Resolved, stop: StopRequest, legs: list[Leg]) -> str:
    """Build a leg, put it into `legs`, and drive it, once more if its journal turns out unusable; returns why it ended."""
    test = _begin_self_test(resolved)
    try:
        while True:
            reason = _driven(resolved, stop, legs, test)
            if reason is not None:
                return reason
            # the journal led elsewhere and is put aside; the checkpoint is as good as ever
            legs.pop().close()
            # a model is a ring of references: its buffer would stay beside that of the next
            gc.collect()
    except StopNow as error:
        if resolved.record is None:
            logs.checkpoint(repeated_steps(0, None, str(error)))
        else:
            logs.checkpoint(f"Stopping before training went on ({error}); the checkpoints stay as they are")
        return f"stopped early: {error}"
    finally:
        if isinstance(test, SelfTest):
            test.cancel()
        _close(legs)


def _close(legs: list[Leg]) -> None:
    for leg in legs:
        try:
            leg.close()
        except StopNow as error:
            # the leg has ended, and with it what could be lost
            logs.checkpoint(f"Not waiting any longer: {error}")


def _driven(resolved: Resolved, stop: StopRequest, legs: list[Leg], test: SelfTest | Verdict) -> str | None:
    with paused_collection():
        # torch and SB3 take seconds to import: the self-test runs meanwhile
        from unbroken.journal.replaying import JournalUnusable
        from unbroken.leg import Leg

        legs.append(Leg(resolved, stop))
        _build(legs[0], resolved, test)
    try:
        return legs[0].drive()
    except JournalUnusable:
        return None


def _give_up(resolved: Resolved, legs: list[Leg]) -> None:
    for leg in legs:
        leg.give_up()
    leave_process(
        lambda: "Stopping before the training was built (the grace time is over)",
        has_checkpoint=resolved.record is not None,
    )


def _build(leg: Leg, resolved: Resolved, test: SelfTest | Verdict) -> None:
    started = time.perf_counter()
    verdict = test if isinstance(test, Verdict) else test.result()
    waited = time.perf_counter() - started
    leg.build(verdict)
    if isinstance(test, SelfTest):
        _say_verdict(verdict, waited, resolved.config.environment.replay_limit)
    # only now: a configuration that cannot even be built must not become what the run continues with
    resolved.remember()


def _begin_self_test(resolved: Resolved) -> SelfTest | Verdict:
    """A running self-test, or the verdict of an earlier leg over the same environment and versions."""
    config = resolved.config
    known = resolved.manifest.get("environment_capture") or {}
    if not config.self_test:
        return Verdict("auto", False, "the self-test is switched off")
    if known.get("proved") and known.get("key") == proof_key(config.target, config.environment):
        return Verdict(known["strategy"], True)
    section = config.environment
    return SelfTest.start(config.target, section.kwargs, section.replay_limit, section.wrappers)


def _say_verdict(verdict: Verdict, waited_seconds: float, replay_limit: int) -> None:
    if verdict.proved:
        logs.checkpoint(f"Self-test: {verdict.describe()}, waited {waited_seconds:.1f} s")
    else:
        logs.warn_checkpoint(f"{verdict.describe()}: a resumed run may differ from an uninterrupted one")
    if verdict.strategy == "replay":
        logs.checkpoint(
            f"Resuming repeats the actions of the unfinished episode (refused beyond {replay_limit:,} steps)"
        )
