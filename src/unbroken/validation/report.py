"""From comparisons to a folder of results: guards, findings, tables, pictures, page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unbroken.errors import UntrustworthyComparison
from unbroken.store.durable import LocalBackend, write_bytes_durably, write_json_durably
from unbroken.validation.figures import pictures
from unbroken.validation.guards import check
from unbroken.validation.heading import Heading
from unbroken.validation.page import html_page
from unbroken.validation.results import Comparison
from unbroken.validation.tables import latex_table, metrics_csv, metrics_json
from unbroken.validation.verdict import Finding, judge

__all__ = ["Heading", "Report", "write_report"]
PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """What was found and written: `files` by name in `folder`, the page last; `refused` says why by scenario."""

    folder: Path
    findings: tuple[Finding, ...]
    files: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def page(self) -> Path:
        """The page to open."""
        return self.folder / PAGE

    def lines(self) -> tuple[str, ...]:
        """Verdicts for the console and the log, one line each."""
        return tuple(f"{one.scenario}: {one.verdict.upper()}. {one.reason}" for one in self.findings)


def write_report(comparisons: Sequence[Comparison], heading: Heading, folder: Path) -> Report:
    """Check, judge and write `metrics.json`, `metrics.csv`, `table.tex`, the pictures and `report.html` into `folder`.

    A comparison that cannot be trusted has no number in any of them; where it stands is why. Each file is there completely or not
    at all, the page last: where it is, all others are. Files of these names are replaced, others left alone; the same input writes
    the same bytes.

    Raises:
        UntrustworthyComparison: none can be trusted (see `guards.check`), and nothing is written. ValueError: no comparison, or a
            scenario twice. OSError: storage.
    """
    _check_scenarios(comparisons)
    sound, refused = _sorted_out(comparisons)
    findings = tuple(judge(comparison, heading.mode) for comparison in sound)
    metrics = metrics_json(sound, findings, heading) | {"refused": refused}
    drawn = pictures(sound, findings)
    contents = {
        "metrics.csv": metrics_csv(sound).encode("utf-8"),
        "table.tex": latex_table(findings, heading, refused).encode("utf-8"),
        **{picture.name: picture.png for picture in drawn},
        PAGE: html_page(sound, findings, heading, drawn, refused).encode("utf-8"),
    }
    backend = LocalBackend(folder)
    write_json_durably(backend, "metrics.json", metrics)
    for name, content in contents.items():
        write_bytes_durably(backend, name, content)
    return Report(folder, findings, ("metrics.json", *contents), refused)


def _sorted_out(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], dict[str, str]]:
    """Those that can be trusted, and of the others by scenario why not. Raises UntrustworthyComparison if there is none."""
    sound: list[Comparison] = []
    refused: dict[str, UntrustworthyComparison] = {}
    for comparison in comparisons:
        try:
            check(comparison)
        except UntrustworthyComparison as error:
            refused[comparison.scenario] = error
        else:
            sound.append(comparison)
    if not sound:
        raise UntrustworthyComparison("\n".join(map(str, refused.values())))
    return sound, {name: str(error).removeprefix(f"{name}: ") for name, error in refused.items()}


def _check_scenarios(comparisons: Sequence[Comparison]) -> None:
    names = [one.scenario for one in comparisons]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a report needs each of its scenarios once, got: {', '.join(names) or 'none'}")
