"""`unbroken checkpoints list|show|verify|diff`: look after what runs have left."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from unbroken.cli.output import print_json, print_text

app = typer.Typer(help="List, show, verify and compare checkpoints.", no_args_is_help=True)
Runs = Annotated[
    str | None, typer.Option("--runs-dir", help="Folder of the runs (default: $UNBROKEN_RUNS_DIR or ./runs).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _runs(given: str | None) -> Path:
    from unbroken.request import runs_folder

    return runs_folder(given)


@app.command("list")
def list_checkpoints(
    run: Annotated[str, typer.Argument(help="Name of a run.")], runs_dir: Runs = None, as_json: Json = False
) -> None:
    """The checkpoints of RUN: step, tier, score, size, age, and whether every byte is right."""
    from unbroken.inspection import list_run
    from unbroken.logs import human_seconds, human_size

    rows = list_run(_runs(runs_dir), run)
    if as_json:
        print_json(rows)
        return
    print_text(f"{'step':>12}  {'tier':<8}  {'score':>10}  {'size':>10}  {'age':>14}  {'valid':<6}  file")
    for row in rows:
        score = "-" if row["score"] is None else f"{row['score']:.2f}"
        age = human_seconds(max(0.0, time.time() - row["created"]))
        valid = "yes" if row["valid"] else "NO"
        size = human_size(row["size"])
        problem = f"  ({row['problem']})" if row["problem"] else ""
        print_text(
            f"{row['step']:>12,}  {row['tier']:<8}  {score:>10}  {size:>10}  {age:>14}  {valid:<6}  {row['path']}{problem}"
        )


@app.command()
def show(
    checkpoint: Annotated[str, typer.Argument(help="RUN, RUN@STEP, RUN@best or a file.")],
    runs_dir: Runs = None,
    as_json: Json = False,
) -> None:
    """What a checkpoint says of itself: run, step, configuration, environment, machines, versions."""
    from unbroken.inspection import show_checkpoint

    content = show_checkpoint(_runs(runs_dir), checkpoint)
    if as_json:
        print_json(content)
        return
    import yaml

    print_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip())


@app.command()
def verify(
    checkpoint: Annotated[str, typer.Argument(help="RUN (all of it), RUN@STEP or a file.")],
    runs_dir: Runs = None,
    as_json: Json = False,
) -> None:
    """Read every byte of RUN's checkpoints, or of one, and say which are right. Exits 65 if any is not."""
    from unbroken.inspection import verify_checkpoints

    results = verify_checkpoints(_runs(runs_dir), checkpoint)
    if as_json:
        print_json(results)
    else:
        for result in results:
            print_text(
                f"{'ok' if result['valid'] else 'DAMAGED':<8} {result['path']}"
                + (f": {result['problem']}" if result["problem"] else "")
            )
    if not all(result["valid"] for result in results):
        sys.exit(65)


@app.command()
def pack(
    checkpoint: Annotated[str, typer.Argument(help="RUN, RUN@STEP or a file.")],
    file: Annotated[Path, typer.Argument(help="The new file, ending in .zip.")],
    runs_dir: Runs = None,
) -> None:
    """Write a checkpoint and the replay segments that it needs as one file, to be carried elsewhere."""
    from unbroken.inspection import pack_checkpoint
    from unbroken.logs import human_size

    size, advice = pack_checkpoint(_runs(runs_dir), checkpoint, file)
    print_text(f"Packed into {file} ({human_size(size)}); {advice}")


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="RUN, RUN@STEP or a file.")],
    second: Annotated[str, typer.Argument(help="RUN, RUN@STEP or a file.")],
    runs_dir: Runs = None,
    as_json: Json = False,
) -> None:
    """Compare the whole state of two checkpoints bit for bit; exits 0 if identical, 1 if not.

    Wall-clock fields are left out by name.
    """
    from unbroken.inspection import compare

    comparison = compare(_runs(runs_dir), first, second)
    if as_json:
        print_json(comparison.plain())
    else:
        print_text(comparison.text())
    sys.exit(0 if comparison.identical else 1)
