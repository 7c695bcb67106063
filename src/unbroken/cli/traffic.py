"""`unbroken traffic`: simulate a scenario under a controller."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="The traffic simulator, without any learning.", no_args_is_help=True)


@app.callback()
def traffic() -> None:
    """The traffic simulator, without any learning."""


@app.command()
def simulate(
    scenario: Annotated[str, typer.Argument(help="A scenario of the package, or a .yaml file.")],
    controller: Annotated[
        str | None, typer.Option(help="A baseline, such as webster; the scenario's first one if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the arrivals.")] = 0,
    duration: Annotated[float | None, typer.Option(help="Seconds to measure after the warm-up.")] = None,
    plot: Annotated[str | None, typer.Option(help="Write a space-time diagram to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Simulate SCENARIO (traffic_light_control, ramp_metering, adaptive_speed_control) and print what was measured."""
    from unbroken.traffic.reporting import simulate_scenario

    report = simulate_scenario(scenario, controller, seed, duration, plot)
    print(json.dumps(report.plain(), indent=2) if as_json else report.text())  # noqa: T201 - the console is the interface
