"""A run: lock, configuration, compatibility, restore, drive to the target, export.

`train` is what the command, the notebook call and later the service use. It carries a run one leg, in this process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from unbroken import logs
from unbroken.capture.selftest import SelfTest, Verdict
from unbroken.compatibility import Verdict as Change
from unbroken.compatibility import changes, require_compatible
from unbroken.config import DEFAULT_TARGET, RunConfig, build_config, merged
from unbroken.errors import NotFound, UsageError
from unbroken.folder import RunFolder
from unbroken.forking import prepare_fork
from unbroken.locate import repository_of, scenario_of
from unbroken.request import TrainRequest, TrainWords, make_request
from unbroken.stopping import EXIT_STOPPED, StopRequest
from unbroken.store.checkpoint_file import read_manifest
from unbroken.store.lock import ExclusiveLock
from unbroken.store.repository import CheckpointRecord
from unbroken.targets import check_target

if TYPE_CHECKING:
    from unbroken.leg import Leg


@dataclass(frozen=True)
class Outcome:
    """How a leg ended. `exit_code` is 0 at the target and 75 before it, with a valid checkpoint: run it again."""

    run: str
    folder: Path
    step: int
    target: int
    exit_code: int
    reason: str


@dataclass
class Resolved:
    """A request that has met the stored run: what this leg trains, from where, and what changed."""

    folder: RunFolder
    config: RunConfig
    record: CheckpointRecord | None
    manifest: dict[str, Any]
    stored: dict[str, Any]
    lineage: list[dict[str, Any]] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The step to start from."""
        return self.record.step if self.record else 0


def train(target: str | None = None, **words: Unpack[TrainWords]) -> Outcome:
    """Start or continue a run and carry it to its target; the words are those of `unbroken train`.

    Returns when the target is reached or the leg has been stopped early. Raises the errors of `unbroken.errors`.
    Signals are handled only when called in the main thread. One process carries a run at a time.
    """
    return carry(make_request(target, words), hard_exit=False)


def carry(request: TrainRequest, *, hard_exit: bool) -> Outcome:
    """Carry a run as requested. With `hard_exit` a step that never returns ends the process after the grace time."""
    request, folder = _named(request)
    check_target(_target_name(request, folder))
    folder.prepare()
    with ExclusiveLock(folder.lock_path, folder.name), logs.logging_to(folder.log_path):
        if request.fresh:
            _start_fresh(folder, request)
        resolved = _resolve(request, folder)
        if resolved.record is not None and resolved.step >= resolved.config.total_timesteps:
            _remember(resolved)
            return _already_there(resolved)
        return _carry_leg(resolved, hard_exit)


def _named(request: TrainRequest) -> tuple[TrainRequest, RunFolder]:
    """The run's folder, and for a fork the request that trains it. Checks the configuration before anything is made."""
    if request.checkpoint is not None:
        return prepare_fork(request)
    if request.run is not None:
        folder = RunFolder(request.runs_dir, request.run)
        stored = folder.stored()
        build_config(merged(stored["config"] if stored else {}, request.values))
        return request, folder
    if "target" not in request.values:
        raise UsageError("name what to train, such as 'unbroken train CartPole-v1', or an existing run with --run NAME")
    return request, RunFolder(request.runs_dir, build_config(request.values).default_run_name())


def _target_name(request: TrainRequest, folder: RunFolder) -> str:
    stored = folder.stored() or {}
    name = request.values.get("target") or stored.get("config", {}).get("target")
    if not isinstance(name, str):
        raise UsageError(
            f"run {folder.name!r} does not exist yet; name what to train, such as 'unbroken train CartPole-v1'"
        )
    return name


def _start_fresh(folder: RunFolder, request: TrainRequest) -> None:
    try:
        scenario = scenario_of(folder)
    except NotFound:
        scenario = build_config(request.values).scenario
    place = folder.archive(scenario)
    if place is not None:
        logs.checkpoint(f"Starting fresh: everything of the earlier training was moved to {folder.path / place}")


def _resolve(request: TrainRequest, folder: RunFolder) -> Resolved:
    stored = folder.stored() or {}
    record = _newest(folder, stored, request)
    manifest = read_manifest(folder.backend, record.path) if record else {}
    # the checkpoint carries the configuration too: a lost run.yaml loses nothing
    before = stored.get("config") or manifest.get("config") or {}
    values = merged(before, request.values)
    values["total_timesteps"] = _target(request, stored, record.step if record else 0)
    config = build_config(values)
    lineage = list(manifest.get("lineage") or [])
    if record is not None:
        lineage += _judge(folder, manifest["config"], config, record.step)
    return Resolved(folder, config, record, manifest, {**stored, **_promise(request, stored, config, record)}, lineage)


def _newest(folder: RunFolder, stored: dict[str, Any], request: TrainRequest) -> CheckpointRecord | None:
    """The newest valid checkpoint, with the log lines of A12."""
    scenario = stored.get("config", {}).get("scenario")
    if scenario is None:
        try:
            scenario = scenario_of(folder)
        except NotFound:
            scenario = build_config(request.values).scenario
    repository = repository_of(folder, scenario)
    for name in repository.remove_leftovers():
        logs.checkpoint(f"Removed {name}, an unfinished save of a process that was killed")
    found = repository.records()
    if not found:
        logs.checkpoint(f"No checkpoint in {folder.path / 'checkpoints'}: starting at step 0")
        return None
    logs.checkpoint(f"Found {len(found)} checkpoint(s) to restore:")
    for record in found:
        logs.checkpoint(f"  {record.name} ({logs.human_size(record.size)})")
    newest = repository.latest_valid(lambda name, reason: logs.warn_checkpoint(f"Skipped {name}: {reason}"))
    if newest is None:
        logs.warn_checkpoint("none of them can be used: starting at step 0")
    return newest


def _target(request: TrainRequest, stored: dict[str, Any], step: int) -> int:
    if request.more is None:
        return request.target_timesteps() or DEFAULT_TARGET
    promised = stored.get("more")
    if promised and promised["add"] == request.more and step < promised["target"]:
        return int(promised["target"])
    return step + request.more


def _promise(
    request: TrainRequest, stored: dict[str, Any], config: RunConfig, record: CheckpointRecord | None
) -> dict[str, Any]:
    """What `run.yaml` records before training, so that repeating the command continues instead of adding again."""
    if request.more is None:
        return {"more": None}
    if stored.get("more") and stored["more"]["target"] == config.total_timesteps:
        return {"more": stored["more"]}
    start = record.step if record else 0
    return {"more": {"from": start, "add": request.more, "target": config.total_timesteps}}


def _judge(folder: RunFolder, before: dict[str, Any], config: RunConfig, step: int) -> list[dict[str, Any]]:
    """Hold the new configuration against the checkpoint's; what changes the training goes into the lineage.

    So does the sequence of targets, on which schedules depend; it alone does not make a lineage mixed.
    """
    found = changes(before, config.plain())
    require_compatible(found, folder.name)
    mixed = []
    for change in found:
        if change.verdict is Change.RISKY:
            logs.warn_checkpoint(f"{change} changes the training from step {step:,} on; the run's lineage is now mixed")
        elif change.verdict is Change.NOTED:
            logs.checkpoint(f"Note: {change}; the run's lineage is now mixed")
        if change.verdict in (Change.RISKY, Change.NOTED) or change.field == "total_timesteps":
            mixed.append({"step": step, "field": change.field, "before": change.stored, "now": change.present})
        if change.field == "total_timesteps" and step < change.present:
            logs.checkpoint(
                f"Target {change.stored:,} -> {change.present:,} steps: schedules that depend on it follow the new one"
            )
    return mixed


def _remember(resolved: Resolved) -> None:
    resolved.folder.store({"version": 1, **resolved.stored, "config": resolved.config.plain()})


def _already_there(resolved: Resolved) -> Outcome:
    target = resolved.config.total_timesteps
    logs.checkpoint(
        f"Target reached: {resolved.step:,} of {target:,} steps are done; nothing to do (more with --steps N or --more N)"
    )
    return Outcome(resolved.folder.name, resolved.folder.path, resolved.step, target, 0, "target reached before")


def _carry_leg(resolved: Resolved, hard_exit: bool) -> Outcome:
    test = _begin_self_test(resolved)
    # torch and SB3 take seconds to import: the self-test runs meanwhile
    from unbroken.leg import Leg

    stop = StopRequest(resolved.config.grace_seconds, resolved.config.deadline_seconds)
    leg = Leg(resolved, stop)
    try:
        with stop.listening(leg.give_up if hard_exit else None):
            reason = _drive(leg, resolved, test)
    finally:
        if isinstance(test, SelfTest):
            test.cancel()
        leg.close()
    code = 0 if reason == "target reached" else EXIT_STOPPED
    return Outcome(resolved.folder.name, resolved.folder.path, leg.step, resolved.config.total_timesteps, code, reason)


def _drive(leg: Leg, resolved: Resolved, test: SelfTest | Verdict) -> str:
    started = time.perf_counter()
    verdict = test if isinstance(test, Verdict) else test.result()
    waited = time.perf_counter() - started
    leg.build(verdict)
    if isinstance(test, SelfTest):
        _say_verdict(verdict, waited, resolved.config.environment.replay_limit)
    # only now: a configuration that cannot even be built must not become what the run continues with
    _remember(resolved)
    return leg.drive()


def self_test_key(config: RunConfig) -> dict[str, Any]:
    """What a self-test's verdict holds for."""
    from unbroken.context import package_versions

    return {"target": config.target, "kwargs": config.environment.kwargs, "versions": package_versions()}


def _begin_self_test(resolved: Resolved) -> SelfTest | Verdict:
    """A running self-test, or the verdict of an earlier leg over the same environment and versions."""
    config = resolved.config
    known = resolved.manifest.get("environment_capture") or {}
    if not config.self_test:
        return Verdict("auto", False, "the self-test is switched off")
    if known.get("proved") and known.get("key") == self_test_key(config):
        return Verdict(known["strategy"], True)
    return SelfTest.start(config.target, config.environment.kwargs, config.environment.replay_limit)


def _say_verdict(verdict: Verdict, waited_seconds: float, replay_limit: int) -> None:
    if verdict.proved:
        logs.checkpoint(f"Self-test: {verdict.describe()}, waited {waited_seconds:.1f} s")
    else:
        logs.warn_checkpoint(f"{verdict.describe()}: a resumed run may differ from an uninterrupted one")
    if verdict.strategy == "replay":
        logs.checkpoint(
            f"Resuming repeats the actions of the unfinished episode (refused beyond {replay_limit:,} steps)"
        )
