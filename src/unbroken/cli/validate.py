"""`unbroken validate`: agents against baselines, by a rule written before."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def validate(
    section: Annotated[
        str | None,
        typer.Option(help="A section of the package or of --sections (default: the only one there, else 7.6)."),
    ] = None,
    mode: Annotated[Literal["quick", "full"], typer.Option(help="quick proves nothing and takes minutes.")] = "quick",
    scenario: Annotated[list[str] | None, typer.Option(help="Only this scenario; may be given several times.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds of demand instead of the section's.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the results (default: validation/SECTION-MODE).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Trainings and episodes at a time.")] = 1,
    sections: Annotated[Path | None, typer.Option(help="A YAML file with sections of your own.")] = None,
    runs_dir: Annotated[str | None, typer.Option("--runs-dir", help="Folder of the runs.")] = None,
    cache_dir: Annotated[str | None, typer.Option("--cache-dir", help="Folder of the result cache.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 unless every verdict is 'met'.")] = False,
) -> None:
    """Compare agents with baselines: the same demand, horizon and decisions, many seeds, intervals, a report.

    Killed anywhere, the same command continues. Exits 0 when the report is written, whatever it says (see --strict).
    """
    from unbroken.cache.settings import default_cache
    from unbroken.request import runs_folder
    from unbroken.validation.running import ValidationRequest, validate
    from unbroken.validation.sections import default_section

    section = section or default_section(sections)
    report = validate(
        ValidationRequest(
            section=section,
            mode=mode,
            cache=default_cache(cache_dir),
            runs_dir=runs_folder(runs_dir),
            out=out or Path("validation") / f"{section}-{mode}",
            scenarios=tuple(scenario or ()),
            seeds=seeds,
            sections=sections,
            jobs=jobs,
            command="unbroken " + shlex.join(sys.argv[1:]),
        )
    )
    if strict and any(finding.verdict != "met" for finding in report.findings):
        sys.exit(1)
