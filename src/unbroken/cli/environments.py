"""`unbroken envs check`: can this environment be resumed exactly in the middle of an episode?"""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(help="What can be known of an environment before training in it.", no_args_is_help=True)


@app.callback()
def environments() -> None:
    """What can be known of an environment before training in it."""


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="Gymnasium id, module:EnvId or package.module:EnvClass.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the environment, such as environment.kwargs.gravity=9.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Capture TARGET in mid-episode, restore it in another process, and compare what follows.

    Prints the strategy, the size of the state, the time per snapshot and per restore, and the verdict; for a "no" the reason
    and what would make it a "yes". Exit codes: 0 exact, 1 not exact, 2 usage, 78 a package is missing.
    """
    from unbroken.config import assignments, build_config, merged
    from unbroken.environment_check import check_environment

    report = check_environment(build_config(merged({"target": target}, assignments(settings or []))))
    print(json.dumps(report.plain(), indent=2) if as_json else report.text())  # noqa: T201 - the console is the interface
    sys.exit(0 if report.exact else 1)
