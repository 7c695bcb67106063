"""What an import found, took over and could not use: the document `import.json`, and the same as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unbroken import logs
from unbroken.importing.carrying import ORIGINALS
from unbroken.importing.found import Found
from unbroken.importing.starting import Start
from unbroken.importing.walk_forward import Iteration

REPORT = "import.json"


@dataclass
class ImportReport:
    """`source` is the path as given; `start` is None where the run has nothing to go on from, for the `reason`."""

    source: str
    run: str
    folder: str
    files: Sequence[Found]
    iterations: Sequence[Iteration]
    left_out: dict[str, str]
    start: Start | None = None
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    begins_anew: list[str] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    at: str = ""

    def plain(self) -> dict[str, Any]:
        """JSON-ready form."""
        files = [{**found.plain(), "blake2b": self.digests.get(found.path)} for found in self.files]
        return {
            "version": 1,
            "complete": self.complete,
            "source": self.source,
            "at": self.at,
            "run": self.run,
            "start": None if self.start is None else self._start(self.start),
            "no_start_because": self.reason or None,
            "models": self.models,
            "notes": self.notes,
            "files": files,
            "left_out": self.left_out,
            "iterations": [row.plain() for row in self.iterations],
        }

    def text(self) -> str:
        """For people: every file, the iterations, and what the run goes on from."""
        lines = [f"{len(self.files)} file(s) of {self.source} -> {self.folder}/{ORIGINALS}", *_table(self.files)]
        lines += [f"  left out: {path} ({why})" for path, why in self.left_out.items()]
        lines += _iteration_table(self.iterations)
        lines += [f"{kind} model: {path}" for kind, path in self.models.items()]
        lines += self._start_lines() + [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _start(self, start: Start) -> dict[str, Any]:
        return {
            "file": start.found.path,
            "step": start.step,
            "exact": start.exact,
            "concluded": list(start.concluded),
            "begins_anew": self.begins_anew,
            "config": start.config.plain(),
        }

    def _start_lines(self) -> list[str]:
        if self.start is None:
            return [f"nothing to go on from: {self.reason}"]
        start, lines = self.start, []
        if start.exact:
            lines.append(f"goes on exactly from {start.found.path}, step {start.step:,}")
        else:
            lines.append(f"goes on from {start.found.path}, step {start.step:,}, not exactly; its lineage is mixed")
            lines.append(f"  begins anew: {', '.join(self.begins_anew)}")
        lines += [f"  concluded: {what}" for what in start.concluded]
        # the target is the default or the file's own: what is asked for beyond it is asked for with --steps
        goal = "" if start.target > start.step else f" --more N   (its target of {start.target:,} steps is reached)"
        return [*lines, f"continue with: unbroken train {quoted(start.config.target)} --run {quoted(self.run)}{goal}"]


def quoted(word: str) -> str:
    """A word as every shell takes it, in double quotes where it needs some."""
    return word if re.fullmatch(r"[\w./:\\-]+", word) else f'"{word}"'


def _table(files: Sequence[Found]) -> list[str]:
    lines: list[str] = []
    lacking: dict[tuple[str, ...], list[str]] = {}
    for found in files:
        spaces = found.observation and f"{found.observation} -> {found.action}"
        facts = ", ".join(filter(None, (found.says, found.algorithm, found.policy, spaces)))
        steps = "" if found.steps is None else f"{found.steps:,} steps"
        lines.append(f"  {found.path}  {logs.human_size(found.size)}  {steps}  {facts}")
        lines += [f"      NOT USED: {found.problem}"] if found.problem else []
        if found.missing:
            lacking.setdefault(found.missing, []).append(found.path)
    return lines + [f"  missing in {_some(paths)}: {', '.join(missing)}" for missing, paths in lacking.items()]


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:2]) + (f" and {len(paths) - 2} more" if len(paths) > 2 else "")


def _iteration_table(rows: Sequence[Iteration]) -> list[str]:
    if not rows:
        return []
    lines = [f"{'iteration':>9}  {'steps':>12}  {'metric':<32}  model or reason"]
    for row in rows:
        shown = row.metric()
        metric = "-" if shown is None else f"{shown[0]} = {shown[1]:.6g}"
        steps = "-" if row.steps is None else f"{row.steps:,}"
        lines.append(f"{row.iteration:>9}  {steps:>12}  {metric:<32}  {row.model or row.reason}")
    return lines
