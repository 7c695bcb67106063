"""`unbroken runs import`: a source is looked at, copied into a new run, and, where it can be, given a point to go on from.

What the user has to decide is asked before anything is made. `import.json` is written before the first copy and again at the
end; the run's own configuration comes last, so that the same command goes on with an import that was killed.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbroken import logs
from unbroken.errors import UsageError
from unbroken.folder import RunFolder
from unbroken.importing.carrying import ORIGINALS, carry, require_space
from unbroken.importing.models import place_models
from unbroken.importing.recognising import Source
from unbroken.importing.report import REPORT, ImportReport, quoted
from unbroken.importing.starting import FILES_ONLY, Choice, Start, choose, plan
from unbroken.importing.walk_forward import iterations
from unbroken.request import TrainRequest
from unbroken.store.durable import is_leftover, write_json_durably
from unbroken.store.lock import ExclusiveLock
from unbroken.targets import check_target, check_wrappers

if TYPE_CHECKING:
    from unbroken.importing.legs import ImportLeg

# what trainers call the folder that a training's own folder holds
_NAMELESS = frozenset({"checkpoints", "models", "best_model", "logs"})


def import_run(
    path: Path, request: TrainRequest, *, start: str | None = None, files_only: bool = False, console: bool = True
) -> ImportReport:
    """Import the folder or file `path` into the new run of the request; `start` names the file to go on from.

    The source is only read. Raises the errors of `unbroken.errors`; before anything is made wherever that is possible.
    """
    if start is not None and files_only:
        raise UsageError("--start names what to go on from and --files-only that there is nothing; give one of them")
    source = Source(path, request.runs_dir)
    folder = RunFolder(request.runs_dir, request.run or _default_name(path))
    _require_new(folder, source)
    files = source.look()
    report = ImportReport(
        source.place, folder.name, str(folder.path), files, iterations(source.root, files), source.left_out
    )
    _find_start(report, source, request, start, files_only)
    _require_decided(report, request)
    require_space(source.root, source.names, folder)
    if report.start is not None and report.start.exact:
        _import_ours(report, source, folder, request, console)
    else:
        _import_foreign(report, source, folder, console)
    return report


def _find_start(
    report: ImportReport, source: Source, request: TrainRequest, wanted: str | None, files_only: bool
) -> None:
    if files_only:
        report.reason = "--files-only"
        return
    if report.iterations and wanted is None:
        report.reason = "results of a walk-forward experiment, whose iterations are trainings of their own"
        return
    choice = _chosen(report, request, wanted)
    report.notes += choice.notes
    if choice.found is None:
        report.reason = choice.reason
        return
    is_ours = choice.found.kind == "unbroken checkpoint"
    if "target" not in request.values and not is_ours and wanted is None:
        report.reason = (
            f"{choice.found.path} does not say on which environment it was trained; "
            f"'unbroken runs import {quoted(report.source)} --run {quoted(report.run)} --target ENV' adds that"
        )
        return
    report.start = plan(source.root, report.files, choice.found, request)
    report.begins_anew = list(report.start.begins_anew)
    report.notes += report.start.advice


def _chosen(report: ImportReport, request: TrainRequest, wanted: str | None) -> Choice:
    try:
        return choose(report.files, wanted)
    except UsageError as error:
        if wanted is None and "target" not in request.values:
            # nobody asked for a start: the files are taken in, and this says what to ask with
            return Choice(reason=str(error).removesuffix(f"; {FILES_ONLY}"))
        raise


def _require_decided(report: ImportReport, request: TrainRequest) -> None:
    """Raise UsageError where something was said that only a point to go on from could use, and there is none."""
    if report.start is None and request.values:
        raise UsageError(
            f"{', '.join(request.values)} given, but there is nothing to go on from: {report.reason}; without them, "
            "the files alone are imported"
        )
    if report.start is not None:
        check_target(report.start.config.target)
        check_wrappers(report.start.config.environment.wrappers)


def _default_name(path: Path) -> str:
    """The name of the folder, or of one that holds it where it is called as all are; a file's without its ending."""
    whole = path.resolve()
    if whole.is_file():
        return whole.stem
    telling = (folder.name for folder in (whole, *whole.parents) if folder.name not in _NAMELESS)
    return next(telling, "") or whole.name


def _require_new(folder: RunFolder, source: Source) -> None:
    """Raise UsageError for a run that exists, unless it is this very import, not finished or without a start."""
    root, place = source.root.resolve(), folder.path.resolve()
    if root == place or place in root.parents:
        raise UsageError(f"{source.path} is in the run {folder.name!r} itself; name the folder of the earlier trainer")
    known = _known(folder)
    same = known is not None and known.get("source") == source.place
    if folder.stored() is not None or (_holds_files(folder.path) and not same):
        raise UsageError(
            f"run {folder.name!r} exists in {folder.runs_dir} and is not changed by an import; give another name with --run NAME"
        )


def _known(folder: RunFolder) -> dict[str, Any] | None:
    try:
        loaded = json.loads((folder.path / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None


def _holds_files(folder: Path) -> bool:
    """Whether there is more than every start makes, and a start that was killed leaves."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "run.log"))
    return any(path.stat().st_size for path in files if not is_leftover(path.name))


@contextlib.contextmanager
def _held(folder: RunFolder, source: Source, console: bool) -> Iterator[None]:
    """The run's lock and log; a refusal before anything is stored leaves no folder."""
    made = folder.prepare()
    with ExclusiveLock(folder.lock_path, folder.name), folder.removed_if_refused(made):
        # again: looking at the source takes long, and meanwhile another command may have made this run
        _require_new(folder, source)
        with logs.logging_to(folder.log_path, console=console):
            yield


def _import_foreign(report: ImportReport, source: Source, folder: RunFolder, console: bool) -> None:
    with _held(folder, source, console), contextlib.ExitStack() as closing:
        leg = _prepared_leg(report, source, folder) if report.start is not None else None
        if leg is not None:
            closing.callback(leg.close)
        _take_in(report, source, folder)
        if leg is not None and report.start is not None:
            report.models = place_models(source.root, report.files, folder, report.start)
            leg.save()
        _finish(report, folder)
        if leg is not None:
            leg.resolved.remember()


def _prepared_leg(report: ImportReport, source: Source, folder: RunFolder) -> ImportLeg:
    # torch and SB3 take seconds to import
    from unbroken.importing.legs import ImportLeg
    from unbroken.resolving import Resolved

    start = report.start
    assert start is not None
    imported = {"file": start.found.path, "step": start.step, "source": report.source}
    lineage = [{"step": start.step, "field": "imported", "before": start.found.path, "now": folder.name}]
    stored = {"default_target": start.target, "imported": imported}
    leg = ImportLeg(Resolved(folder, start.config, None, {}, stored, lineage), start, source.root / start.found.path)
    try:
        leg.prepare()
    except BaseException:
        leg.close()
        raise
    report.begins_anew = [*leg.lacking, *report.begins_anew]
    _say_start(report, start)
    return leg


def _say_start(report: ImportReport, start: Start) -> None:
    logs.warn_checkpoint(
        f"imported from {start.found.path}, step {start.step:,}, not exactly: these begin anew: {', '.join(report.begins_anew)}; "
        "the run's lineage is mixed"
    )
    logs.checkpoint(
        f"{start.found.path} does not say on which environment it was trained, nor whether observations were normalised: beyond "
        f"the spaces and the network, nothing shows that {start.config.target} as configured is the one"
    )


def _import_ours(report: ImportReport, source: Source, folder: RunFolder, request: TrainRequest, console: bool) -> None:
    """A checkpoint of ours: the files are carried, and the run is a fork of it, which loses nothing."""
    from unbroken.forking import prepare_fork

    assert report.start is not None
    with _held(folder, source, console):
        _take_in(report, source, folder)
        _finish(report, folder)
    copied = folder.path / ORIGINALS / report.start.found.path
    # its lines go to the console by themselves, which with --json has room for the document only
    with contextlib.nullcontext() if console else contextlib.redirect_stdout(sys.stderr):
        prepare_fork(replace(request, checkpoint=str(copied), run=folder.name))


def _take_in(report: ImportReport, source: Source, folder: RunFolder) -> None:
    folder.remove_leftovers()
    # before the first copy: a repeated command knows by it that the folder is its own
    write_json_durably(folder.backend, REPORT, {"version": 1, "complete": False, "source": report.source})
    report.digests = carry(source.root, source.names, folder)
    logs.checkpoint(f"Copied {len(source.names)} file(s) of {source.place} to {folder.path / ORIGINALS}")


def _finish(report: ImportReport, folder: RunFolder) -> None:
    report.complete = True
    report.at = datetime.now(UTC).isoformat(timespec="seconds")
    write_json_durably(folder.backend, REPORT, report.plain())
