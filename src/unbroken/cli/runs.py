"""`unbroken runs import`: look after whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look after runs.", no_args_is_help=True)


@app.callback()
def runs() -> None:
    """Look after runs."""


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="Folder of an earlier trainer, or one file of it.")],
    run: Annotated[str | None, typer.Option(help="Name of the new run (default: the folder's name).")] = None,
    target: Annotated[
        str | None, typer.Option(help="The environment that it was trained on, as for `unbroken train`.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="The file to go on from, by its path in PATH (default: the newest numbered one).")
    ] = None,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Take the files in without a point to go on from.")
    ] = False,
    algo: Annotated[str | None, typer.Option(help="The algorithm, where the file does not show it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of what begins anew (default: the file's, plus one).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto.")] = None,
    n_envs: Annotated[int | None, typer.Option(help="Copies of the environment (default: as in the file).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other key of `unbroken train`, such as environment.normalize={}."),
    ] = None,
    runs_dir: Annotated[
        str | None, typer.Option(help="Folder of the runs (default: $UNBROKEN_RUNS_DIR or ./runs).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take PATH into a new run, and say what is in it and what is missing. PATH itself is only read, and no pickle is loaded.

    Zips of plain Stable-Baselines3 as CheckpointCallback writes them, `.pt` files of hand-written trainers, results of
    walk-forward experiments, and our own checkpoints are recognised; every file is kept.
    """
    from unbroken.importing.importer import import_run
    from unbroken.request import make_request

    words = {"algo": algo, "seed": seed, "device": device, "n_envs": n_envs, "settings": settings}
    request = make_request(target, {**words, "run": run, "runs_dir": runs_dir})  # type: ignore[typeddict-item]
    report = import_run(path, request, start=start, files_only=files_only, console=not as_json)
    print(json.dumps(report.plain(), indent=2) if as_json else report.text())  # noqa: T201 - the console is the interface
