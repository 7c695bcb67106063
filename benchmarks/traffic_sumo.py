"""Ours beside SUMO on one signalised approach, cars only: saturation flow, start-up lost time, mean delay, longest queue.

    python benchmarks/traffic_sumo.py [--quick] [--json FILE] [--markdown FILE]

One lane of 1 km, a cycle of 90 s that is open for 48 s, the same in both: SUMO shows green for 46 s and yellow for 3 s. Delay is
the mean travel time with the signal less that without it. SUMO runs with its default driver (Krauss, sigma 0.5, tau 1 s, steps of
1 s) and vehicles of our length and speed, by libsumo in processes of its own.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import arguments, describe_machine, finish, machine_line, table
from numpy.typing import NDArray
from traffic_peers import Engine, Scene, ask, missing

from unbroken.traffic import Link, Movement, Node, RoadNetwork, Signal, Simulation
from unbroken.traffic.detectors import SLOW as STANDING

CYCLE, OPENS, CLOSES = 90.0, 5.0, 53.0
LENGTHS = (1000.0, 500.0)
SATURATED = 1500 / 3600  # veh/s, far more than the signal lets through
DEMANDS = (
    210,
    410,
    610,
    710,
    810,
)  # veh/h; no whole number of cars a cycle, which would fix where in the cycle each arrives
# Saturation flow: the slope of vehicles passed between these times after opening; lost time: where the line meets zero
FIT = (10.0, 40.0)
WHY = """\
- x is demand over capacity by our saturation flow; uniform is Webster's uniform term (vertical queue) by our saturation flow and
  lost time and by SUMO's.
- Saturation flow and lost time: ours follow from the calibrated equilibrium (capacity c / 4 per car length), SUMO's from tau = 1 s
  and the gap of 2.5 m of its default driver (2,340 veh/h without noise), lowered by sigma = 0.5, which weighs more the longer the
  step: 2,300 veh/h and 1.5 s in steps of 0.2 s, 1,990 and 2.4 s in the default steps of 1 s.
- Delay: up to the stop line ours is Webster's uniform term within a second. The rest (the column behind) arises on the 500 m
  behind the line: platoons leave at saturation flow and equilibrium lets dense traffic drive slower than 50 km/h until they have
  spread, with 8 s to relax; SUMO's cars reach 50 km/h after 5 s at 2.6 m/s2 and follow each other at that speed. It is the model,
  not the grid: on 2.5 m it stays. Ours is deterministic: it has no overflow from chance, which SUMO's drivers have.
- Longest queue: ours counts whole cells of 25 m whose mean speed is under 5 km/h, so one or two standing cars are not seen; SUMO
  counts from the stop line to the last single car under 5 km/h, also where cars before it move again."""


@dataclass(frozen=True)
class Result:
    """Of one demand: delay in s per car, the part of it behind the stop line, the longest queue in m."""

    delay: float
    queue: float
    behind: float = math.nan


def approach(*, lights: bool, refine: int = 1) -> RoadNetwork:
    """The road, `refine` times finer than by default; its signal's second phase opens nothing."""
    signal = Signal((("in",), ()), max_green=1e6) if lights else None
    node = Node((Movement("in", "out"),), signal=signal)
    roads = {"in": Link(LENGTHS[0]), "out": Link(LENGTHS[1])}
    return RoadNetwork(roads, {"node": node}, ("in",), {"out": math.inf}, cell=25.0 / refine, step=0.6 / refine)


class Ours:
    """A run of the approach, step by step from the end of the warm-up."""

    def __init__(self, flow: float, *, lights: bool, warm: float, refine: int = 1) -> None:
        self.simulation = Simulation(approach(lights=lights, refine=refine))
        self.simulation.set_demand(0, np.array([[[0.0]], [[flow]]]))
        self.lights, self.flow = lights, flow
        self.advance(warm)

    def advance(self, span: float) -> None:
        """Go on for `span` s, whole cycles."""
        self._cycles(span, None)

    def _cycles(self, seconds: float, each: list[tuple[float, float]] | None) -> None:
        """Cycles of red, green; after every step appends (cars passed, metres of queue) to `each`."""
        made = self.simulation
        green_until = CLOSES - 2.0  # cars pass for 2 s of the yellow
        for _ in range(round(seconds / CYCLE)):
            if self.lights:
                made.request([[0]])
            for span, phase in ((green_until, 1), (CYCLE - green_until, None)):
                self._steps(made.n_steps(span), each)
                if self.lights and phase is not None:
                    made.request([[phase]])

    def _steps(self, n: int, each: list[tuple[float, float]] | None) -> None:
        made = self.simulation
        if each is None:
            made.advance(n * made.network.step)
            return
        face = made.layout.slots("in").stop
        for _ in range(n):
            made.advance(made.network.step)
            each.append((float(made.state.passed[0, 1, face]), self._queue()))

    def _queue(self) -> float:
        """Metres of contiguous cells under 5 km/h up to the stop line."""
        slow = (self.simulation.speed("in")[1] < STANDING) & (self.simulation.density("in")[1] > 0)
        return float(np.argmin(np.append(slow[::-1], False)) * 25.0)

    def watch(self, span: float) -> NDArray[np.float64]:
        """(cars passed, metres of queue) after each step of `span` s, shape (steps, 2)."""
        each: list[tuple[float, float]] = []
        self._cycles(span, each)
        return np.array(each)

    def time_spent(self) -> NDArray[np.float64]:
        """Vehicle seconds before and behind the stop line since the start."""
        layout = self.simulation.layout
        spent = self.simulation.state.present[0, 1] * layout.lane_length
        return np.array([spent[layout.slots(link)].sum() for link in ("in", "out")])


def ours_result(flow: float, warm: float, span: float) -> Result:
    """Delay by Little's law: the mean number of cars on the road over the flow."""
    times, queue = [], 0.0
    for lights in (True, False):
        run = Ours(flow, lights=lights, warm=warm)
        before = run.time_spent()
        watched = run.watch(span)
        times.append((run.time_spent() - before) / (flow * span))
        queue = max(queue, float(watched[:, 1].max()))
    before_line, behind = times[0] - times[1]
    return Result(float(before_line + behind), queue, float(behind))


def fine_delay(flow: float, warm: float, span: float) -> float:
    """The delay on a ten times finer grid: what of a difference is the grid, and what the model."""
    times = []
    for lights in (True, False):
        run = Ours(flow, lights=lights, warm=warm, refine=10)
        before = run.time_spent()
        run.advance(span)
        times.append((run.time_spent() - before) / (flow * span))
    return float((times[0] - times[1]).sum())


def sumo_result(scene: Scene, engine: Engine) -> Result:
    """Mean of the cars that depart in the span."""
    lit = ask("sumo", scene, engine)
    free = ask("sumo", replace(scene, lights=False), engine)
    return Result(lit["travel_time"] - free["travel_time"], lit["queue"])


def discharge(times: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """Saturation flow in veh/h and lost time in s of mean counts passed by `times` s after opening."""
    used = (times >= FIT[0]) & (times <= FIT[1])
    slope, start = np.polyfit(times[used], counts[used], 1)
    return float(slope * 3600), float(-start / slope)


def ours_discharge(warm: float, span: float) -> tuple[float, float]:
    """From a queue that never clears."""
    run = Ours(SATURATED, lights=True, warm=warm)
    passed = run.watch(span)[:, 0].reshape(round(span / CYCLE), -1)
    step = run.simulation.network.step
    times = step * np.arange(1, passed.shape[1] + 1) - OPENS
    return discharge(times, (passed - passed[:, :1]).mean(axis=0))


def sumo_discharge(scene: Scene, engine: Engine) -> tuple[float, float]:
    """The same from SUMO's single passages."""
    passed = (np.array(ask("sumo", scene, engine)["passed"]) - OPENS) % CYCLE
    times = np.arange(0.0, CLOSES - OPENS + 1)
    return discharge(times, (passed[None, :] <= times[:, None]).sum(axis=1) / round(scene.span / CYCLE))


def measure(quick: bool) -> dict[str, Any]:
    """Both models at every demand."""
    warm, span, seeds = (900.0, 900.0, 1) if quick else (1800.0, 3600.0, 3)
    engines = [Engine(seed=seed) for seed in range(1, seeds + 1)]
    base = Scene(LENGTHS, (0.0,), CYCLE, OPENS, CLOSES, SATURATED, warm, span, saturation=True)
    found: dict[str, Any] = {
        "ours": ours_discharge(warm, span),
        "sumo": tuple(np.mean([sumo_discharge(base, engine) for engine in engines], axis=0).tolist()),
        "demands": [],
    }
    for demand in DEMANDS[:: 2 if quick else 1]:
        scene = replace(base, flow=demand / 3600, until_empty=True)
        theirs = [sumo_result(scene, engine) for engine in engines]
        mean = Result(float(np.mean([r.delay for r in theirs])), float(np.mean([r.queue for r in theirs])))
        row = {"veh/h": demand, "ours": asdict(ours_result(scene.flow, warm, span)), "sumo": asdict(mean)}
        found["demands"].append({**row, "fine": fine_delay(scene.flow, 900.0, 900.0)})
    return found


def uniform_delay(demand: float, saturation: float, lost: float) -> float:
    """Webster's uniform term, s: C (1 - g/C)^2 / (2 (1 - q/s))."""
    green = CLOSES - OPENS - lost
    return CYCLE * (1 - green / CYCLE) ** 2 / (2 * (1 - demand / saturation))


def report(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of demands."""
    head = ["veh/h", "x", "delay s", "behind", "at 2.5 m", "SUMO", "uniform", "SUMO's", "queue m", "SUMO"]
    rows = []
    for row in found["demands"]:
        demand, (saturation, lost) = row["veh/h"], found["ours"]
        degree = demand * CYCLE / (saturation * (CLOSES - OPENS - lost))
        rows.append(
            [
                f"{demand}",
                f"{degree:.2f}",
                f"{row['ours']['delay']:.1f}",
                f"{row['ours']['behind']:.1f}",
                f"{row['fine']:.1f}",
                f"{row['sumo']['delay']:.1f}",
                f"{uniform_delay(demand, *found['ours']):.1f}",
                f"{uniform_delay(demand, *found['sumo']):.1f}",
                f"{row['ours']['queue']:.0f}",
                f"{row['sumo']['queue']:.0f}",
            ]
        )
    return head, rows


def markdown(found: dict[str, Any], machine: str) -> str:
    """The same as a section of a document."""
    head, rows = report(found)
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(
        [
            *("## Beside SUMO: one signalised approach", "", (__doc__ or "").split("\n\n")[2], ""),
            *(
                "\n".join(f"- {line}" for line in saturation_lines(found)),
                "",
                *lines,
                "",
                WHY,
                "",
                f"Measured on {machine}",
                "",
            ),
        ]
    )


def saturation_lines(found: dict[str, Any]) -> list[str]:
    """Saturation flow and lost time of both."""
    return [
        f"Saturation flow {found[name][0]:,.0f} veh/h of green and lane, start-up lost time {found[name][1]:.1f} s: {title}."
        for name, title in (("ours", "ours"), ("sumo", "SUMO"))
    ]


def main() -> int:
    """Measure, print, and write what was asked for."""
    options = arguments(__doc__.partition("\n")[0], markdown="write the result as a section of a document")
    absent = [name for name in missing() if name != "uxsim"]
    if absent:
        print(f"not installed: {', '.join(absent)}; pip install 'unbroken[sumo]'", file=sys.stderr)
        return 78
    machine = describe_machine()
    found = measure(options.quick)
    head, rows = report(found)
    text = "\n".join([machine_line(machine), *saturation_lines(found), "", table(head, rows), "", WHY])
    if options.markdown:
        Path(options.markdown).write_text(markdown(found, machine_line(machine)), encoding="utf-8")
    return finish(text, {"machine": machine, **found}, [], options)


if __name__ == "__main__":
    sys.exit(main())
