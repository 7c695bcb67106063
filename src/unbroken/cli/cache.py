"""`unbroken cache list|show|explain|verify|pin|unpin|prune|push|pull`: look after results and carry them between machines."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unbroken.cli.output import print_json, print_text

if TYPE_CHECKING:
    from unbroken.cache.travelling import Travelled

app = typer.Typer(
    help="Results that were computed once: list, compare, check, keep and carry them.", no_args_is_help=True
)
Folder = Annotated[
    str | None, typer.Option("--cache-dir", help="Folder of the cache (default: $UNBROKEN_CACHE_DIR or ./cache).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Entry = Annotated[str, typer.Argument(help="A file name, or 4 or more digits of a fingerprint.")]
Place = Annotated[str, typer.Argument(help="folder:PATH, git:…, git+lfs:…, s3://…, kaggle-dataset:OWNER/SLUG, …")]


def _folder(given: str | None) -> Path:
    from unbroken.cache.settings import cache_folder

    return cache_folder(given)


@app.command("list")
def list_entries(cache_dir: Folder = None, as_json: Json = False) -> None:
    """The entries, the most recently used last: fingerprint, kind, steps, size, last use, and whether pinned."""
    from unbroken.cache.upkeep import held_entries
    from unbroken.logs import human_seconds, human_size

    folder = _folder(cache_dir)
    held = held_entries(folder)
    if as_json:
        print_json([entry.plain() for entry in held])
        return
    print_text(f"{'config':<8}  {'kind':<8}  {'steps':>7}  {'size':>10}  {'used':>14}  {'pinned':<6}  scenario")
    for entry in held:
        steps = "-" if entry.name.steps is None else str(entry.name.steps)
        age = human_seconds(max(0.0, time.time() - entry.last_used))
        print_text(
            f"{entry.name.fingerprint[:8]:<8}  {entry.name.kind:<8}  {steps:>7}  {human_size(entry.size):>10}  "
            f"{age:>14}  {'yes' if entry.pinned else '':<6}  {entry.name.scenario}"
        )
    print_text(f"{len(held)} entries, {human_size(sum(entry.size for entry in held))} in {folder}")


@app.command()
def show(entry: Entry, cache_dir: Folder = None, as_json: Json = False) -> None:
    """What ENTRY says of itself: inputs, sources, steps, facts, and where it was computed."""
    from unbroken.cache.upkeep import show as show_entry

    content = show_entry(_folder(cache_dir), entry).plain()
    if as_json:
        print_json(content)
        return
    import yaml

    from unbroken.cache.inputs import printable

    shown = yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip()
    print_text("\n".join(printable(line) for line in shown.split("\n")))


@app.command()
def explain(first: Entry, second: Entry, cache_dir: Folder = None, as_json: Json = False) -> None:
    """Which inputs of two entries differ, with both values; exits 0 if none does, 1 if one does."""
    from unbroken.cache.upkeep import explain as explain_entries

    explained = explain_entries(_folder(cache_dir), first, second)
    if as_json:
        print_json(explained.plain())
    else:
        print_text(explained.text())
    sys.exit(1 if explained.differences else 0)


@app.command()
def verify(
    entry: Annotated[str | None, typer.Argument(help="One entry (default: all).")] = None,
    cache_dir: Folder = None,
    as_json: Json = False,
) -> None:
    """Read every byte and say which entries are right. Exits 65 if one is damaged or cannot be read."""
    from unbroken.cache.upkeep import verify as verify_entries

    folder = _folder(cache_dir)
    results = verify_entries(folder, entry)
    n_lost = sum(result.is_lost for result in results)
    if as_json:
        print_json([result.plain() for result in results])
    else:
        for result in results:
            print_text(f"{result.word:<8} {result.file}" + (f": {result.problem}" if result.problem else ""))
        print_text(f"{len(results)} {'entry' if len(results) == 1 else 'entries'} read, {n_lost} damaged, in {folder}")
    if n_lost:
        if not as_json:
            print_text(
                "What is damaged is set aside and computed again when it is asked for; 'unbroken cache pull' brings it sound"
            )
        sys.exit(65)


@app.command()
def pin(entry: Entry, cache_dir: Folder = None) -> None:
    """Keep ENTRY, and what it is extended to, whatever the size limit."""
    from unbroken.cache.upkeep import pin as pin_entry

    print_text(f"Pinned {pin_entry(_folder(cache_dir), entry).file}")


@app.command()
def unpin(entry: Entry, cache_dir: Folder = None) -> None:
    """Let a pinned entry go again when space is needed."""
    from unbroken.cache.upkeep import unpin as unpin_entry

    print_text(f"Unpinned config {unpin_entry(_folder(cache_dir), entry)[:8]}")


@app.command()
def prune(
    limit: Annotated[str | None, typer.Option(help="Such as 500MB (default: $UNBROKEN_CACHE_LIMIT or 5GB).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    cache_dir: Folder = None,
    as_json: Json = False,
) -> None:
    """Remove the least recently used entries until the cache is within the limit; pinned ones stay."""
    from unbroken.cache.settings import size_limit
    from unbroken.cache.upkeep import pruned

    report = pruned(_folder(cache_dir), size_limit(limit), dry_run)
    if as_json:
        print_json(report.plain())
    else:
        print_text(report.text())


@app.command()
def push(remote: Place, cache_dir: Folder = None, as_json: Json = False) -> None:
    """Copy to REMOTE what it lacks. Exits 65 if an entry could not travel."""
    from unbroken.cache.travelling import push as push_entries
    from unbroken.remotes.opening import open_remote

    _end(push_entries(_folder(cache_dir), open_remote(remote), _say(as_json)), as_json)


@app.command()
def pull(remote: Place, cache_dir: Folder = None, as_json: Json = False) -> None:
    """Copy from REMOTE what is missing here, checked byte by byte. Exits 65 if an entry could not travel."""
    from unbroken.cache.travelling import pull as pull_entries
    from unbroken.remotes.opening import open_remote

    _end(pull_entries(_folder(cache_dir), open_remote(remote), _say(as_json)), as_json)


def _say(as_json: bool) -> Any:
    return lambda message: None if as_json else print_text(f"[CACHE] {message}")


def _end(done: Travelled, as_json: bool) -> None:
    if as_json:
        print_json(done.plain())
    if done.problems:
        sys.exit(65)
