"""A fork: a new run that begins from a chosen checkpoint of another, which keeps everything.

The fork is recorded before it trains, so the same command continues it instead of forking again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from unbroken import logs
from unbroken.compatibility import effective_changes, require_compatible
from unbroken.config import RunConfig, build_config, merged
from unbroken.defaults import default_target
from unbroken.errors import DamagedFile, NotFound, UsageError
from unbroken.folder import BEST_SCORE, RunFolder, file_names
from unbroken.locate import Place, find_checkpoint, repository_of
from unbroken.recording import EVENTS, METRICS
from unbroken.request import TrainRequest
from unbroken.store.backend import joined
from unbroken.store.checkpoint_file import CheckpointFile, CheckpointWriter, ForeignFile, write_checkpoint
from unbroken.store.durable import write_durably, write_json_durably
from unbroken.store.lock import ExclusiveLock
from unbroken.store.segments import PARTIAL, Segment, folder_for, pack, segments_of, usable_segments, verify_segments
from unbroken.trust import require_said

_WAYS_OUT = "a fork continues its parent's training: give the stored values, or begin another run without --checkpoint"
_CHUNK = 4 * 1024 * 1024


def prepare_fork(request: TrainRequest) -> tuple[TrainRequest, RunFolder]:
    """Make the fork's folder, unless an earlier start of the same command did, and return how to train it.

    Raises NotFound, DamagedFile or UsageError before anything is made.
    """
    assert request.checkpoint is not None
    try:
        place = find_checkpoint(request.checkpoint, request.runs_dir)
    except NotFound:
        made = _made_before(request)
        if made is None:
            raise
        return replace(request, checkpoint=None, run=made.name), made
    with place.open() as file:
        try:
            manifest = file.manifest
        except ForeignFile as error:
            raise UsageError(
                f"{error}; only checkpoints of unbroken can be continued exactly. Its weights make a new run: "
                f"unbroken runs import {request.checkpoint} --target ENVIRONMENT"
            ) from error
        file.verify()
        kept = _kept_segments(request, file)
    if "config" not in manifest or manifest.get("kind") not in ("rollout", "end"):
        raise UsageError(
            f"{request.checkpoint} is a model for use, without training state; choose a file in checkpoints/"
        )
    if manifest["config"].get("target") == "script":
        raise UsageError(f"{request.checkpoint} belongs to a script of your own; run that script again to continue it")
    local = (place.run.stored() or {}) if place.run is not None else {}
    require_said(manifest["config"], request.checkpoint, request.values, local.get("config") or {})
    name = request.run or f"{manifest['run']}-fork-{manifest['step']}"
    folder = RunFolder(request.runs_dir, name)
    parent = {"run": manifest["run"], "step": manifest["step"], "file": str(place.file)}
    config = build_config(merged(manifest["config"], request.values))
    require_compatible(effective_changes(manifest["config"], config.plain()), str(manifest["run"]), _WAYS_OUT)
    facts = {"parent": parent, "default_target": default_target(manifest["config"], local)}
    _make(folder, place, manifest, facts, config, kept)
    return replace(request, checkpoint=None, run=name), folder


def _kept_segments(request: TrainRequest, file: CheckpointFile) -> list[Segment] | None:
    """None where every segment can be used. Raises DamagedFile, or with `--allow-partial` returns those that can."""
    if not request.allow_partial:
        verify_segments(file, set())
        return None
    kept = usable_segments(file)
    if len(kept) == len(segments_of(file.manifest)):
        return None
    options = (file.manifest.get("config") or {}).get("hyperparameters") or {}
    if "HerReplayBuffer" in str(options.get("replay_buffer_class")):
        raise UsageError(
            "hindsight replay (HER) needs whole episodes, so --allow-partial cannot help here; bring the folder replay/ along, "
            "or take a file made by 'unbroken checkpoints pack'"
        )
    return kept


def _made_before(request: TrainRequest) -> RunFolder | None:
    """The fork that an earlier start of this command made of a checkpoint that has since been rotated out."""
    assert request.checkpoint is not None
    names = [request.run] if request.run else sorted(path.name for path in request.runs_dir.glob("*") if path.is_dir())
    for name in names:
        folder = RunFolder(request.runs_dir, name)
        parent = (folder.stored() or {}).get("parent") or {}
        known = (f"{parent.get('run')}@{parent.get('step')}", str(parent.get("file")))
        if request.checkpoint in known or str(Path(request.checkpoint).absolute()) in known:
            return folder
    return None


def _make(
    folder: RunFolder,
    place: Place,
    manifest: dict[str, Any],
    facts: dict[str, Any],
    config: RunConfig,
    kept: list[Segment] | None,
) -> None:
    stored, parent = folder.stored(), facts["parent"]
    if stored is not None:
        known = stored.get("parent") or {}
        if (known.get("run"), known.get("step")) != (parent["run"], parent["step"]):
            raise UsageError(
                f"run {folder.name!r} exists and is not a fork of this checkpoint; choose another name with --run NAME"
            )
        return
    folder.prepare()
    with ExclusiveLock(folder.lock_path, folder.name), logs.logging_to(folder.log_path):
        scenario = manifest["config"]["scenario"]
        path = repository_of(folder, scenario, manifest["config"]["algo"]).path_for(manifest["step"])
        if kept is None:
            _copy_whole(place, folder, path, segments_of(manifest))
        else:
            _copy_partly(place, folder, path, kept)
        if place.run is not None:
            _copy_recordings(place.run, folder, manifest.get("logs") or {})
            _copy_best(place.run, folder, manifest["step"], file_names(scenario, manifest["config"]["algo"]).best)
        # written last: a folder without run.yaml is not a fork yet, and the next start makes it again
        folder.store(
            {
                "version": 1,
                **facts,
                "recordings": place.run is not None,
                "config": {**config.plain(), "total_timesteps": manifest["config"]["total_timesteps"]},
            }
        )
        logs.checkpoint(f"Forked run {folder.name} from {place.file}; run {parent['run']} keeps everything")


def _copy_whole(place: Place, folder: RunFolder, path: str, segments: list[Segment]) -> None:
    for name in (segment.file for segment in segments if not segment.inside):
        source = Place(place.backend, joined(folder_for(place.path), name), place.run)
        _copy(source, folder, joined(folder_for(path), name))
    _copy(place, folder, path)


def _copy_partly(place: Place, folder: RunFolder, path: str, kept: list[Segment]) -> None:
    """One file with the segments that there are inside it, which says of itself that it is not the whole."""

    def fill(writer: CheckpointWriter) -> dict[str, Any]:
        facts = pack(file, writer, kept)
        entry = {"step": file.manifest["step"], "field": "replay_buffer", "before": named, "now": here}
        return {**facts, PARTIAL: {"rows": here, "of": named}, "lineage": [*(facts.get("lineage") or []), entry]}

    with place.open() as file:
        here, named = (sum(s.end - s.first for s in some) for some in (kept, segments_of(file.manifest)))
        write_checkpoint(folder.backend, path, fill)
    logs.warn_checkpoint(
        f"{here:,} of {named:,} rows of the replay buffer are there (--allow-partial): the fork goes on with these; "
        "the run's lineage is now mixed"
    )


def _copy(place: Place, folder: RunFolder, path: str) -> None:
    def produce(writer: Any) -> None:
        with place.backend.open(place.path) as source:
            while chunk := source.read(_CHUNK):
                writer.write(chunk)

    write_durably(folder.backend, path, produce)


def _copy_best(source: RunFolder, folder: RunFolder, step: int, path: str) -> None:
    """The parent's best model, unless the parent found it later than the fork begins or it cannot be used."""
    try:
        with CheckpointFile(source.backend, path) as file:
            file.verify()
            score = {key: file.manifest[key] for key in ("score", "step")}
    except (NotFound, DamagedFile, KeyError):
        return
    if score["step"] <= step:
        _copy(Place(source.backend, path, source), folder, path)
        write_json_durably(folder.backend, BEST_SCORE, score)


def _copy_recordings(source: RunFolder, folder: RunFolder, positions: dict[str, int]) -> None:
    """The parent's curves up to the checkpoint, so that the fork's are whole."""
    for name in (METRICS, EVENTS):
        path = source.path / name
        if path.is_file() and positions.get(name):
            with path.open("rb") as file:
                head = file.read(positions[name])
            write_durably(folder.backend, name, lambda writer, head=head: writer.write(head))  # type: ignore[misc]
