"""`unbroken sync`: carries a run between machines."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

Option = typer.Option


def sync(
    run: Annotated[str, typer.Argument(help="Name of the run here.")],
    remote: Annotated[
        str, typer.Argument(help="folder:PATH, git:…, git+lfs:…, s3://BUCKET/PATH, kaggle-dataset:OWNER/SLUG.")
    ],
    follow: Annotated[
        bool, Option("--follow", help="Go on pushing while another process trains, until the target is reached.")
    ] = False,
    as_name: Annotated[str | None, Option("--as", help="Name of the run at the remote (default: the same).")] = None,
    every: Annotated[
        str | None, Option(help="With --follow: how often to look for a new checkpoint (default: 30s).")
    ] = None,
    runs_dir: Annotated[str | None, Option(help="Folder of the runs (default: $UNBROKEN_RUNS_DIR or ./runs).")] = None,
) -> None:
    """Bring RUN here and at REMOTE to the same state, whichever is further; only what is missing travels.

    `unbroken train` with the same command then continues it on this machine bit for bit. Where both sides have trained on from
    the same point, the state here is kept as a run in its archive/ before it is replaced. --follow only pushes. Exit codes: 0
    both are the same, 75 --follow was stopped before everything was there (run it again), 2 usage, 65 another training there
    under this name, REMOTE is ahead of what --follow was to push, or nothing there can be used, 66 nothing to sync, 68 REMOTE
    does not answer, 69 the run is being trained here, 74 REMOTE or storage fails, 77 REMOTE wants other credentials, 78 a package
    is missing.
    """
    from unbroken.request import runs_folder
    from unbroken.syncing.command import Words, run_sync

    sys.exit(run_sync(runs_folder(runs_dir), Words(run, remote, as_name, follow, every)))
