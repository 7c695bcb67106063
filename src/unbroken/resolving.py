"""A request meets the stored run: which folder, which configuration, which checkpoint, which target, and what changed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

from unbroken import logs
from unbroken.compatibility import Verdict, effective_changes, require_compatible
from unbroken.config import RunConfig, build_config, merged
from unbroken.defaults import default_target, scenario_defaults
from unbroken.errors import DamagedFile, NotFound, UsageError
from unbroken.fingerprint import source_digest
from unbroken.folder import METADATA, RunFolder
from unbroken.forking import prepare_fork
from unbroken.locate import repository_of, scenario_of
from unbroken.request import TrainRequest
from unbroken.restoring import find_newest, require_never_saved
from unbroken.store.checkpoint_file import read_manifest
from unbroken.store.repository import CheckpointRecord
from unbroken.trust import require_said

_WAY_OUT = "put a good copy back into checkpoints/, or start again with --fresh, which moves everything of the run to its archive/"


@dataclass
class Resolved:
    """A request that has met the stored run: what this leg trains, from where, and what changed."""

    folder: RunFolder
    config: RunConfig
    record: CheckpointRecord | None
    manifest: dict[str, Any]
    stored: dict[str, Any]
    lineage: list[dict[str, Any]] = field(default_factory=list)
    fresh: bool = False

    @property
    def step(self) -> int:
        """The step to start from."""
        return self.record.step if self.record else 0

    @property
    def ended_by_callback(self) -> bool:
        """Whether a callback ended this same training here: the next step would only let it do so again."""
        ended = self.manifest.get("ended_by_callback") and self.manifest.get("run") == self.folder.name
        return bool(ended) and self.manifest.get("config") == self.config.plain()

    def remember(self) -> None:
        """Record in `run.yaml` what the run continues with."""
        self.folder.store({"version": 1, **self.stored, "config": self.config.plain()})

    def fulfil_promise(self) -> None:
        """Record that the target of a `--more` was reached and said: only from now on does the same command add again."""
        stored = self.folder.stored() or {}
        promised = stored.get("more") or {}
        if promised.get("target") != self.config.total_timesteps or promised.get("done"):
            return
        # a full disk at this point costs the next --more one repetition, which says so; the training is complete
        with contextlib.suppress(OSError):
            self.folder.store({**stored, "more": {**promised, "done": True}})


def named_run(request: TrainRequest) -> tuple[TrainRequest, RunFolder]:
    """The run's folder, and for a fork the request that trains it. Checks the configuration before anything is made."""
    if request.checkpoint is not None:
        return prepare_fork(request)
    if request.run is not None:
        folder = RunFolder(request.runs_dir, request.run)
        values = begun_with(request, folder)
        if "target" not in values:
            raise UsageError(
                f"run {folder.name!r} does not exist yet; name what to train, such as 'unbroken train CartPole-v1'"
            )
        build_config(values)
        return request, folder
    if "target" not in request.values:
        raise UsageError("name what to train, such as 'unbroken train CartPole-v1', or an existing run with --run NAME")
    return request, RunFolder(request.runs_dir, build_config(request.values).default_run_name())


def known_config(folder: RunFolder) -> dict[str, Any]:
    """The configuration that the run continues with: `run.yaml`'s, or the newest checkpoint's where that is lost."""
    stored = folder.stored()
    if stored is not None:
        return dict(stored["config"])
    try:
        records = repository_of(folder).records()
    except NotFound:
        return {}
    readable = [record for record in records if record.valid is not False and not record.unreadable]
    return dict(read_manifest(folder.backend, readable[-1].path).get("config") or {}) if readable else {}


def begun_with(request: TrainRequest, folder: RunFolder) -> dict[str, Any]:
    """The configuration that the request means: over what the run has stored, or from nothing with `--fresh TARGET`.

    `--run NAME --fresh` without a target starts the stored training again.
    """
    if request.fresh and "target" in request.values:
        return merged(scenario_defaults(request.values), request.values)
    known = known_config(folder)
    if folder.stored() is None:
        require_said(known, f"a checkpoint in {folder.path}, whose run.yaml is gone,", request.values)
    return merged(known or scenario_defaults(request.values), request.values)


def put_aside(resolved: Resolved) -> None:
    """Archive what an earlier training left in the folder, now that the fresh one is known to be possible."""
    folder = resolved.folder
    try:
        scenario = scenario_of(folder)
    except NotFound:
        scenario = resolved.config.scenario
    stored = folder.stored()
    if stored is not None and stored.get("fresh"):
        # a folder that is half moved must not read as a fresh start that has just begun
        folder.store({**stored, "fresh": None})
    place = folder.archive(scenario)
    if place is not None:
        logs.checkpoint(f"Starting fresh: everything of the earlier training was moved to {folder.path / place}")
    # at once: the folder has no configuration to repeat the command with until then
    resolved.remember()
    _say_from_zero(folder)


def resolve(request: TrainRequest, folder: RunFolder) -> Resolved:
    """Hold the request against what the run has stored; the caller holds the run's lock.

    Raises ConfigurationError or IncompatibleRun, with the differences, and DamagedFile or StorageError if checkpoints are
    there, or were, and none can be used. With `--fresh` the old training counts for nothing, and stays until `put_aside`,
    unless it is this very fresh start, interrupted.
    """
    return _afresh(request, folder) if request.fresh else _onward(request, folder)


def _afresh(request: TrainRequest, folder: RunFolder) -> Resolved:
    """A new training, or the rest of the one that an earlier start of this same command began."""
    values = begun_with(request, folder)
    values["total_timesteps"] = _target(request, values, {}, 0)
    config = build_config(values)
    if _is_under_way(folder, config):
        logs.checkpoint(
            f"--fresh: continuing the fresh start that is under way, until its target of {config.total_timesteps:,} steps; "
            f"to start over now, move {folder.path} away or give another name with --run NAME"
        )
        with contextlib.suppress(DamagedFile):
            return _onward(replace(request, fresh=False), folder)
    promise = {**_promise(request, {}, config, None), "fresh": {"target": config.total_timesteps}}
    return Resolved(folder, config, None, {}, promise, fresh=True)


def _is_under_way(folder: RunFolder, config: RunConfig) -> bool:
    """Whether the folder holds this training, begun by `--fresh`, that neither reached its target nor was ended by a callback.

    With another source of the environment it is another training.
    """
    stored = folder.stored() or {}
    target = (stored.get("fresh") or {}).get("target")
    if target is None or {**stored["config"], "total_timesteps": target} != config.plain():
        return False
    records = [record for record in repository_of(folder).records() if not record.foreign]
    if any(record.step >= target for record in records):
        return False
    readable = [record for record in records if record.valid is not False and not record.unreadable]
    if not readable:
        return all(record.unreadable for record in records)
    manifest = read_manifest(folder.backend, readable[-1].path)
    return not manifest.get("ended_by_callback") and _stored_source(manifest) in (
        None,
        source_digest(config.target, config.environment.kwargs),
    )


def _onward(request: TrainRequest, folder: RunFolder) -> Resolved:
    stored = folder.stored() or {}
    record = _newest(folder, stored, request)
    manifest = read_manifest(folder.backend, record.path) if record else {}
    # the checkpoint carries the configuration too: a lost run.yaml loses nothing
    before = stored.get("config") or manifest.get("config") or scenario_defaults(request.values)
    values = merged(before, request.values)
    values["total_timesteps"] = _target(request, values, stored, record.step if record else 0)
    config = build_config(values)
    lineage = list(manifest.get("lineage") or [])
    if record is not None:
        _say_missing_metadata(folder, stored, manifest)
        lineage += _judge(folder, manifest.get("config") or before, config, record.step)
        lineage += _judge_source(manifest, config, record.step)
    kept = {"parent": manifest["parent"]} if manifest.get("parent") else {}
    return Resolved(
        folder, config, record, manifest, {**kept, **stored, **_promise(request, stored, config, record)}, lineage
    )


def _stored_source(manifest: dict[str, Any]) -> str | None:
    key = (manifest.get("environment_capture") or {}).get("key") or {}
    source: str | None = key.get("source")
    return source


def _judge_source(manifest: dict[str, Any], config: RunConfig, step: int) -> list[dict[str, Any]]:
    """Whether the environment's own source file is the one that the checkpoint was trained with."""
    before, now = _stored_source(manifest), source_digest(config.target, config.environment.kwargs)
    if before is None or before == now:
        return []
    logs.checkpoint(
        f"Note: the source of {config.target} has changed since the checkpoint; the run's lineage is now mixed"
    )
    return [{"step": step, "field": "source", "before": before, "now": now}]


def _newest(folder: RunFolder, stored: dict[str, Any], request: TrainRequest) -> CheckpointRecord | None:
    """The newest valid checkpoint, with the log lines of A12."""
    scenario = stored.get("config", {}).get("scenario")
    if scenario is None:
        try:
            scenario = scenario_of(folder)
        except NotFound:
            scenario = build_config(request.values).scenario
    repository = repository_of(folder, scenario)
    for name in folder.remove_leftovers():
        logs.checkpoint(f"Removed {name}, an unfinished write of a process that was killed")
    newest = find_newest(repository, _WAY_OUT)
    if newest is None:
        require_never_saved(folder.metadata(), folder.name, folder.path / "checkpoints", _WAY_OUT)
        _say_from_zero(folder)
    return newest


def _say_from_zero(folder: RunFolder) -> None:
    logs.checkpoint(f"No checkpoint to restore in {folder.path / 'checkpoints'}: starting at step 0")


def _say_missing_metadata(folder: RunFolder, stored: dict[str, Any], manifest: dict[str, Any]) -> None:
    parent = stored.get("parent") or {}
    if "config" not in manifest or "schema" not in manifest:
        logs.warn_checkpoint("the checkpoint has no metadata: it is taken to fit the configuration, unchecked")
    elif (parent.get("run"), parent.get("step")) == (manifest.get("run"), manifest.get("step")):
        # a fork just made has its parent's checkpoint and no metadata of its own yet
        return
    elif not folder.metadata():
        logs.warn_checkpoint(f"{METADATA} is missing or cannot be read; the checkpoint's own copy is used")


def _target(request: TrainRequest, values: dict[str, Any], stored: dict[str, Any], step: int) -> int:
    if request.more is None:
        return request.target_timesteps() or default_target(values, stored)
    promised = stored.get("more")
    if promised and promised["add"] == request.more and (step < promised["target"] or not promised.get("done")):
        return int(promised["target"])
    return step + request.more


def _promise(
    request: TrainRequest, stored: dict[str, Any], config: RunConfig, record: CheckpointRecord | None
) -> dict[str, Any]:
    """What `run.yaml` records before training, so that repeating the command continues instead of adding again."""
    default = {"default_target": default_target(config.plain(), stored)}
    return {**_promise_of_more(request, stored, config, record), **default}


def _promise_of_more(
    request: TrainRequest, stored: dict[str, Any], config: RunConfig, record: CheckpointRecord | None
) -> dict[str, Any]:
    if request.more is None:
        return {"more": None}
    if stored.get("more") and stored["more"]["target"] == config.total_timesteps:
        return {"more": {key: value for key, value in stored["more"].items() if key != "done"}}
    start = record.step if record else 0
    return {"more": {"from": start, "add": request.more, "target": config.total_timesteps}}


def _judge(folder: RunFolder, before: dict[str, Any], config: RunConfig, step: int) -> list[dict[str, Any]]:
    """Hold the new configuration against the checkpoint's; what changes the training goes into the lineage.

    So does the sequence of targets, on which schedules depend; it alone does not make a lineage mixed.
    """
    found = effective_changes(before, config.plain())
    require_compatible(found, folder.name)
    mixed = []
    for change in found:
        if change.verdict is Verdict.RISKY:
            logs.warn_checkpoint(f"{change} changes the training from step {step:,} on; the run's lineage is now mixed")
        elif change.verdict is Verdict.NOTED:
            logs.checkpoint(f"Note: {change}; the run's lineage is now mixed")
        if change.verdict in (Verdict.RISKY, Verdict.NOTED) or change.field == "total_timesteps":
            mixed.append({"step": step, "field": change.field, "before": change.stored, "now": change.present})
        if change.field == "total_timesteps" and step < change.present:
            logs.checkpoint(
                f"Target {change.stored:,} -> {change.present:,} steps: schedules that depend on it follow the new one"
            )
    return mixed
