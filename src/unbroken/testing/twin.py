"""In what a completed run differs from its undisturbed twin, and nothing else about either."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unbroken.folder import BEST_SCORE, RunFolder
from unbroken.inspection import compare
from unbroken.locate import existing_run, find_checkpoint
from unbroken.recording import EVENTS, METRICS

_WALL_CLOCK = ("time/fps", "time/time_elapsed")
TEMPORARY = re.compile(r"(.*/)?\.[^/]+\.[0-9]+-[0-9]+\.tmp")


def files_below(folder: Path) -> list[str]:
    """Relative paths of all files in a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def differences(
    first: Path,
    second: Path,
    run: str,
    *,
    models: Sequence[str] = ("best", "final"),
    results: Sequence[str] = (),
    unseeded: Sequence[str] = (),
) -> list[str]:
    """In what a completed run differs between two runs folders; wall-clock values are left out.

    Compared: the state at the end, bit for bit, but for values whose names contain one of `unseeded`; members of the models;
    the bytes of the files `results`; every row of metrics and TensorBoard, which may not hold a tag twice at a step. Leftover
    temporary files count as a difference.
    """
    folders = [existing_run(runs, run) for runs in (first, second)]
    found = _state_differences(first, second, run, unseeded)
    found += [f"{name} was left behind" for name in files_below(folders[0].path) if TEMPORARY.fullmatch(name)]
    for which in models:
        one, two = (_model_members(runs, f"{run}@{which}") for runs in (first, second))
        if one != two:
            found.append(f"the {which} model differs: {one} | {two}")
    found += _score_differences(folders) if "best" in models else []
    found += [f"{name} differs" for name in results if len({(f.path / name).read_bytes() for f in folders}) > 1]
    for name, rows in (("metrics", _metric_rows), ("TensorBoard", _event_rows)):
        found += _row_differences(name, rows(folders[0].path), rows(folders[1].path))
    return found


def _score_differences(folders: list[RunFolder]) -> list[str]:
    scores = [
        json.loads((folder.path / BEST_SCORE).read_text("utf-8"))
        for folder in folders
        if (folder.path / BEST_SCORE).exists()
    ]
    return [] if len(scores) == 2 and scores[0] == scores[1] else [f"{BEST_SCORE} differs: {scores}"]


def _state_differences(first: Path, second: Path, run: str, unseeded: Sequence[str]) -> list[str]:
    ends = [find_checkpoint(run, runs).file for runs in (first, second)]
    compared = compare(first, *map(str, ends)).differences
    differing = [entry for entry in compared if not any(part in entry[0] for part in unseeded)]
    named = ", ".join(f"{name}: {one} | {two}" for name, one, two in differing[:5])
    return [f"{len(differing)} values differ at the end, such as {named}"] if differing else []


def _model_members(runs: Path, text: str) -> dict[str, Any]:
    """What makes a model: step, score and the hashes of its tensors."""
    with find_checkpoint(text, runs).open() as file:
        file.verify()
        hashes = {name: facts["blake2b"] for name, facts in file.manifest["members"].items()}
        members = {name: found for name, found in hashes.items() if name.endswith(".pth") or name.startswith("data/")}
        return {"step": file.manifest["step"], "score": file.manifest.get("score"), **members}


def _metric_rows(run: Path) -> list[tuple[int, str, Any]]:
    rows = [json.loads(line) for line in (run / METRICS).read_text("utf-8").splitlines()]
    return [
        (row["step"], tag, value)
        for row in rows
        for tag, value in row.items()
        if tag != "step" and tag not in _WALL_CLOCK
    ]


def _event_rows(run: Path) -> list[tuple[int, str, Any]]:
    """Every scalar of the event file; raises ValueError if a record is torn."""
    from tensorboard.compat.proto.event_pb2 import Event

    raw = (run / EVENTS).read_bytes()
    rows: list[tuple[int, str, Any]] = []
    place = 0
    while place < len(raw):
        (size,) = struct.unpack_from("<Q", raw, place)
        record = raw[place + 12 : place + 12 + size]
        place += 12 + size + 4
        if place > len(raw):
            raise ValueError(f"{EVENTS} ends in a torn record")
        event = Event.FromString(record)
        rows += [
            (event.step, value.tag, value.simple_value) for value in event.summary.value if value.tag not in _WALL_CLOCK
        ]
    return rows


def _row_differences(name: str, first: list[tuple[int, str, Any]], second: list[tuple[int, str, Any]]) -> list[str]:
    doubles = [place for place, count in Counter((step, tag) for step, tag, _ in first).items() if count > 1]
    found = [f"{name} has {tag} at step {step} more than once" for step, tag in doubles[:3]]
    if first != second:
        odd = [row for row in first if row not in second][:2], [row for row in second if row not in first][:2]
        found.append(f"{name} differs: {len(first)} and {len(second)} values, such as {odd[0]} | {odd[1]}")
    return found
