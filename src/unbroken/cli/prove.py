"""`unbroken prove`: kill and resume one's own training, and compare it with an undisturbed twin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def prove(
    name: Annotated[
        str, typer.Argument(metavar="SCRIPT|TARGET", help="A script of yours (.py), or what 'unbroken train' takes.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After '--': the script's own arguments, or options of 'unbroken train'.")
    ] = None,
    kills: Annotated[int, typer.Option(help="How often the training is killed with SIGKILL.")] = 10,
    steps: Annotated[
        int | None,
        typer.Option(help="Follow a script for so many steps, from cut to cut; a target's length (default 20,000)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the moments of the kills.")] = 0,
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    as_html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one HTML page.")
    ] = None,
    copied: Annotated[
        list[str] | None,
        typer.Option(
            "--copy", metavar="NAME", help="What to copy beside Python files (default: the whole working folder)."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Leave both trainings in this empty folder (default: nothing is left).")
    ] = None,
) -> None:
    """Run your training undisturbed, and again with random kills and resumes, and name the first thing that differs.

    It runs in copies of the working folder; yours is not touched. Exit codes: 0 identical, 1 the resumed training diverged, 3 the
    training is not deterministic even without kills, 5 nothing was resumed and so nothing proved, 2 usage or a training that fails
    by itself.
    """
    from unbroken.proving.asking import Reports, prove_named, say_line
    from unbroken.proving.proof import Wish

    wish, reports = Wish(kills, seed, steps), Reports(as_json, as_html)
    proof = prove_named(name, arguments or [], wish, reports, copied=copied or [], folder=folder, say=say_line)
    sys.exit(proof.exit_code)
