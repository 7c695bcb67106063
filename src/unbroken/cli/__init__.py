"""The command `unbroken`: one file per command, no logic here. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

app = typer.Typer(
    name="unbroken",
    help="Reinforcement-learning training that survives its machine: kill it anywhere, run the same command again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"unbroken {version('unbroken')}")  # noqa: T201 - the console is the interface
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: bool = typer.Option(False, "--debug", help="Show a traceback where an error would be one line."),
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Options that go before the command."""
    context.obj = {"debug": debug}


def _commands() -> None:
    from unbroken.cli import cache, checkpoints, demo, environments, prove, runs, sync, traffic, train, validate

    app.command("train")(train.train)
    app.command("demo")(demo.demo)
    app.command("prove")(prove.prove)
    app.command("validate")(validate.validate)
    app.command("sync")(sync.sync)
    app.add_typer(checkpoints.app, name="checkpoints")
    app.add_typer(runs.app, name="runs")
    app.add_typer(cache.app, name="cache")
    app.add_typer(environments.app, name="envs")
    app.add_typer(traffic.app, name="traffic")


def _explain(error: BaseException) -> int:
    """Print an error as its message; the exit code is the error's own, 1 for one nobody expected."""
    from unbroken.errors import UnbrokenError

    if isinstance(error, UnbrokenError):
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the console is the interface
        return error.exit_code
    if isinstance(error, OSError):
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - as above
        return 74
    summary = " ".join(str(error).split())
    notes = [*getattr(error, "__notes__", []), "'unbroken --debug ...' shows where it happened."]
    print(  # noqa: T201 - as above
        f"error: {type(error).__name__}: {summary}\nIt came from outside unbroken, or is a mistake of ours. "
        + " ".join(notes),
        file=sys.stderr,
    )
    return 1


def main() -> None:
    """Run the command line; exit codes are those of `unbroken.errors`."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    _commands()
    if "--debug" in sys.argv[1:] or os.environ.get("UNBROKEN_DEBUG"):
        arguments = [word for word in sys.argv[1:] if word != "--debug"]
        app(args=arguments)
        return
    try:
        app()
    except Exception as error:  # noqa: BLE001 - the last place where an error can be made readable
        sys.exit(_explain(error))
