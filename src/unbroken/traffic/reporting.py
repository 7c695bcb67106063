"""A simulation as text or plain data, for the command line."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unbroken.errors import UsageError
from unbroken.traffic.controllers.choosing import controller_names, make_controller
from unbroken.traffic.layout import Layout
from unbroken.traffic.metrics import Metrics, measured
from unbroken.traffic.playing import Episode, play_rows
from unbroken.traffic.scenario import load_scenario


@dataclass(frozen=True)
class SimulationReport:
    """What was simulated, what was measured, how long it took (s), and where the picture is."""

    scenario: str
    controller: str
    seed: int
    metrics: Metrics
    seconds: float
    plot: str | None

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "scenario": self.scenario,
            "controller": self.controller,
            "seed": self.seed,
            "seconds": self.seconds,
            "plot": self.plot,
            **self.metrics.plain(),
        }

    def text(self) -> str:
        """A table for people."""
        m = self.metrics
        rows = [
            ("", "motorcycles", "cars"),
            ("arrived, veh", *_numbers(m.arrived)),
            ("left, veh", *_numbers(m.left)),
            ("still inside, veh", *_numbers(m.remaining)),
            ("time spent, veh h", *_numbers(tuple(v / 3600 for v in m.time_spent), 1)),
            ("delay, veh h", *_numbers(tuple(v / 3600 for v in m.delay), 1)),
            ("delay per vehicle, s", *_numbers(m.delay_per_vehicle, 1)),
            ("travel time, s", *_numbers(m.travel_time, 1)),
        ]
        table = "\n".join(f"{name:<22}{first:>14}{second:>10}" for name, first, second in rows)
        head = f"{self.scenario} under {self.controller}, seed {self.seed}: {m.start:g} to {m.end:g} s"
        lines = (
            f"{head}, {self.seconds:.2f} s to compute",
            table,
            f"longest queue: mean {m.queue_mean:.0f} m, 95 % {m.queue_95:.0f} m, at most {m.queue_max:.0f} m",
            f"stops per vehicle {m.stops:.2f}; links full back to their beginning {m.spillback:.1%} of the time",
            f"worst approach: {m.worst_approach_delay:.0f} s of delay per vehicle",
            f"arrived - left - stored = {m.imbalance:.1e} veh at most",
        )
        return "\n".join(lines) + (f"\nspace-time diagram: {self.plot}" if self.plot else "")


def simulate_scenario(
    name: str, controller: str | None, seed: int, duration: float | None, plot: str | None
) -> SimulationReport:
    """Simulate a scenario by name or file; writes `plot` if given.

    Raises:
        NotFound: no such scenario. ConfigurationError: no such controller or duration. UsageError: a kind of picture that is not
            known.
    """
    if plot is not None:
        _check_plot(Path(plot))
    scenario = load_scenario(name)
    chosen = controller or controller_names(scenario)[0]
    episode = Episode(scenario, make_controller(chosen, scenario), seed)
    started = time.perf_counter()
    rows = play_rows(episode, duration)
    seconds = time.perf_counter() - started
    metrics = measured(rows, episode.start)
    if plot:
        from unbroken.traffic.rendering import save_space_time

        save_space_time(Layout(scenario.network), rows, plot)
    return SimulationReport(scenario.name, chosen, seed, metrics, seconds, plot)


def _check_plot(path: Path) -> None:
    """Before minutes are spent on a simulation of which the picture cannot be written."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise UsageError(f"--plot {path}: name a file that ends in .png, .pdf, .svg or .jpg")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}")


def _numbers(pair: tuple[float, ...], digits: int = 0) -> tuple[str, str]:
    first, second = (f"{value + 0.0:,.{digits}f}" for value in pair)
    return first, second
