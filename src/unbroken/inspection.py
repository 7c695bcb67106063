"""What a run has left: lists, details, verification and comparison of checkpoints. Reads only."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbroken.errors import DamagedFile, UsageError
from unbroken.folder import RunFolder
from unbroken.locate import SUFFIXES, Place, existing_run, find_checkpoint, names_of, repository_of, scenario_of
from unbroken.store.checkpoint_file import CheckpointFile, write_checkpoint
from unbroken.store.durable import LocalBackend
from unbroken.store.segments import pack, verify_segments

if TYPE_CHECKING:
    from unbroken.capture.comparison import Comparison


def list_run(runs_dir: Path, name: str) -> list[dict[str, Any]]:
    """Rolling checkpoints, oldest first, then best and final; every byte is read to fill in `valid`."""
    folder = existing_run(runs_dir, name)
    repository = repository_of(folder)
    rows = []
    for record in map(repository.verified, repository.records()):
        tiers = ", ".join(["rolling", *sorted(record.tiers)])
        rows.append(
            _row(
                record.path,
                record.step,
                tiers,
                record.score,
                record.size,
                record.created,
                bool(record.valid),
                record.problem,
            )
        )
    return rows + [_export_row(folder, tier, path) for tier, path in _exports(folder)]


def show_checkpoint(runs_dir: Path, text: str) -> dict[str, Any]:
    """The manifest of a checkpoint without the hashes of its members. Raises NotFound or DamagedFile."""
    place = find_checkpoint(text, runs_dir)
    with place.open() as file:
        manifest = dict(file.manifest)
    members = manifest.pop("members")
    sizes = {name: member["size"] for name, member in members.items()}
    return {"file": str(place.file), **manifest, "member_bytes": sizes}


def verify_checkpoints(runs_dir: Path, text: str) -> list[dict[str, Any]]:
    """Read every byte of one checkpoint, or of all of a run when only its name is given."""
    if not text.endswith(SUFFIXES) and "@" not in text:
        keys = ("path", "valid", "problem")
        return [{key: row[key] for key in keys} for row in list_run(runs_dir, text)]
    place = find_checkpoint(text, runs_dir)
    problem = _problem(place)
    return [{"path": place.path, "valid": problem is None, "problem": problem}]


def pack_checkpoint(runs_dir: Path, text: str, target: Path) -> tuple[int, str]:
    """Write a checkpoint with the segments that it needs as one file; returns its size in bytes, and how to go on from it.

    Raises NotFound, DamagedFile, and UsageError if there is something at `target` or nothing to go on from.
    """
    place = find_checkpoint(text, runs_dir)
    if target.exists():
        raise UsageError(f"{target} is there already; give the name of a new file")
    if target.suffix != ".zip":
        raise UsageError(f"{target}: give a name that ends in .zip")
    with place.open() as file:
        if file.manifest.get("kind") not in ("rollout", "end"):
            raise UsageError(f"{text} is a model for use: it is one file already, and holds no state to go on from")
        file.verify()
        verify_segments(file, set())
        written = write_checkpoint(LocalBackend(target.absolute().parent), target.name, partial(pack, file))
        config = file.manifest.get("config") or {}
    if config.get("target") == "script" or config.get("algo") == "own loop":
        return written.size, f"your script goes on from it where it lies as {place.path} in the script's folder"
    return written.size, f"go on from it with --checkpoint {target}"


def compare(runs_dir: Path, first: str, second: str) -> Comparison:
    """Compare the whole state of two checkpoints. Raises NotFound or DamagedFile."""
    from unbroken.capture.comparison import compare_states

    return compare_states(*(_state(find_checkpoint(text, runs_dir)) for text in (first, second)))


def _state(place: Place) -> dict[str, Any]:
    from unbroken.learners.stored import read_stored

    with place.open() as file:
        file.verify()
        stored = read_stored(file)
        best = file.manifest.get("best")
    return {"tensors": stored.tensors, "variables": stored.variables, "state": stored.whole_state(), "best": best}


def _exports(folder: RunFolder) -> list[tuple[str, str]]:
    names = names_of(folder, scenario_of(folder))
    candidates = [("best", names.best), ("final", names.final)]
    return [(tier, path) for tier, path in candidates if folder.backend.exists(path)]


def _export_row(folder: RunFolder, tier: str, path: str) -> dict[str, Any]:
    local = folder.backend.local_path(path)
    problem = _problem(Place(folder.backend, path, folder))
    facts: dict[str, Any] = {}
    if problem is None:
        with CheckpointFile(folder.backend, path) as file:
            facts = file.manifest
    size, modified = local.stat().st_size, local.stat().st_mtime
    return _row(
        path,
        facts.get("step", 0),
        tier,
        facts.get("score"),
        size,
        facts.get("created", modified),
        problem is None,
        problem,
    )


def _problem(place: Place) -> str | None:
    try:
        with place.open() as file:
            file.verify()
            verify_segments(file, set())
    except DamagedFile as error:
        return str(error)
    return None


def _row(
    path: str, step: int, tier: str, score: float | None, size: int, created: float, valid: bool, problem: str | None
) -> dict[str, Any]:
    names = ("path", "step", "tier", "score", "size", "created", "valid", "problem")
    return dict(zip(names, (path, step, tier, score, size, created, valid, problem), strict=True))
