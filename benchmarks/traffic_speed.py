"""Decisions per second of the traffic simulator, beside SUMO and UXsim on the same corridor, cars only.

    python benchmarks/traffic_speed.py [--quick] [--json FILE]

10 km, 20 links of 500 m, default grid (25 m, 0.6 s), fixed-time signals at the 19 inner nodes, 800 cars per hour, warm. A decision
requests phases, advances 15 s and observes occupancy, speed and queue of every link; the peers make the same decisions. Times are
CPU seconds of one core, medians; peers run in processes of their own, in turns with ours. Delays are measured in the same run:
each simulator's error is against itself on a finer grid, step or platoon.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import Target, arguments, describe_machine, finish, machine_line, median, paired_ratio, table
from traffic_corridor import CLOSES, CYCLE, DECISION, FLOW, LENGTH, LINKS, OPENS, offset, run, simulation, travel_time
from traffic_peers import Engine, Scene, ask, missing

SPAN = 600.0
WARM = 900.0
SCENE = Scene((LENGTH,) * LINKS, tuple(offset(i) for i in range(LINKS - 1)), CYCLE, OPENS, CLOSES, FLOW, WARM, SPAN)


@dataclass(frozen=True)
class Peer:
    """A simulator beside ours: how it is set for speed, and the finer setting that its delay is judged against."""

    name: str
    package: str
    engine: Engine
    fine: Engine
    times: float | None  # how many times slower than ours it must be
    aim: str = ""


# UXsim's capacity follows from its reaction time: 1.5 s gives 1,787 cars per hour, and steps of 7.5 s, which divide the cycle
PEERS = (
    Peer("SUMO, steps of 1 s", "sumo", Engine(), Engine(step=0.1), 10.0, "aim 20"),
    Peer("UXsim, platoons of 5", "uxsim", Engine(tau=1.5), Engine(tau=1.5, platoon=1), 3.0, "aim 6"),
    Peer("UXsim in C++, platoons of 5", "uxsim", Engine(tau=1.5, compiled=True), Engine(tau=1.5, platoon=1), None),
)
OURS = {
    "one": "ours, one copy",
    "mixed": "ours, one copy, half of the vehicles motorcycles",
    "of 64": "ours, a copy of 64",
}
DEMANDS = (400, 600, 800, 1000)
START = """
import sys
import time
sys.path.insert(0, sys.argv[1])
began = time.perf_counter()
from traffic_corridor import run, simulation
run(simulation(), 15.0)
print(time.perf_counter() - began)
"""


def cpu_seconds(made: Any, seconds: float = SPAN) -> float:
    """CPU time of so many simulated seconds of decisions."""
    began = time.process_time()
    run(made, seconds)
    return time.process_time() - began


def start_seconds() -> float:
    """From the first import to the end of the first decision in a new process, kernels from numba's cache."""
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", START, folder], capture_output=True, text=True, check=True)
    return float(done.stdout)


def in_turns(rounds: int) -> dict[str, list[float]]:
    """CPU seconds of 600 simulated seconds: one copy, one with motorcycles too, one of 64 copies, and each peer, in turns."""
    single, mixed, batch = simulation(), simulation(motorcycles=0.5), simulation(64)
    run(single, WARM)
    run(mixed, WARM)
    run(batch, 300.0)
    seconds: dict[str, list[float]] = {"one": [], "mixed": [], "of 64": [], **{peer.name: [] for peer in PEERS}}
    for _ in range(rounds):
        seconds["one"].append(median([cpu_seconds(single) for _ in range(5)]))
        seconds["mixed"].append(median([cpu_seconds(mixed) for _ in range(5)]))
        seconds["of 64"].append(cpu_seconds(batch, 300.0) / 64 * SPAN / 300.0)
        for peer in PEERS:
            seconds[peer.name].append(float(ask(peer.package, SCENE, peer.engine)["seconds"]))
    return seconds


def delay(package: str, engine: Engine, span: float) -> float:
    """A peer's mean delay, s: travel time with signals less that without."""
    scene = replace(SCENE, warm=1800.0, span=span, until_empty=True)
    return float(
        ask(package, scene, engine)["travel_time"] - ask(package, replace(scene, lights=False), engine)["travel_time"]
    )


def our_delay(refine: int, span: float, flow: float = FLOW) -> float:
    """Ours, on a grid `refine` times finer."""
    times = [travel_time(lights=lights, warm=1800.0, span=span, refine=refine, flow=flow) for lights in (True, False)]
    return times[0] - times[1]


def our_errors(refine: int, span: float) -> str:
    """Error of our delay in % at several demands (cars per hour): platoons meet the offsets differently at each."""
    errors = {
        flow: 100 * (our_delay(refine, span, flow / 3600) / our_delay(10, span, flow / 3600) - 1) for flow in DEMANDS
    }
    return ", ".join(f"{flow}: {error:+.1f}" for flow, error in errors.items())


def delays(span: float) -> dict[str, tuple[float, float]]:
    """Delay and its reference of every simulator, s."""
    found = {"ours": (our_delay(1, span), our_delay(10, span))}
    for peer in PEERS:
        found[peer.name] = (delay(peer.package, peer.engine, span), delay(peer.package, peer.fine, span))
    return found


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log time over log size: 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def growth(quick: bool) -> dict[str, dict[str, float]]:
    """CPU milliseconds of 600 simulated seconds by cells, copies and demand; each of a kind in turns with the others."""
    demands = {f"{flow}": simulation(flow=flow / 3600) for flow in (100, 400, 800, 1100)}
    for made in demands.values():
        run(made, 600.0)
    kinds = {
        "cells": {f"{20 * links}": simulation(links=links) for links in (20, 40, 80, 160)},
        "copies": {f"{copies}": simulation(copies) for copies in (4, 16, 64)},
        "cars per hour": demands,
    }
    return {name: _milliseconds(sizes, 3 if quick else 7) for name, sizes in kinds.items()}


def _milliseconds(sizes: dict[str, Any], repeats: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {size: [] for size in sizes}
    for made in sizes.values():
        run(made, 300.0)
    for _ in range(repeats):
        for size, made in sizes.items():
            seconds[size].append(cpu_seconds(made))
    return {size: 1e3 * median(values) for size, values in seconds.items()}


def targets(
    seconds: dict[str, list[float]], grown: dict[str, Any], late: float, errors: dict[str, float]
) -> list[Target]:
    """What is promised."""
    decisions = SPAN / DECISION
    one = median(seconds["one"])
    kept = [
        Target("one copy: microseconds per decision (aim 200)", 1e6 * one / decisions, 500.0),
        Target(
            "a copy of 64 over one copy, time per decision (aim 0.5)", paired_ratio(seconds["of 64"], seconds["one"]), 1
        ),
        Target("ten simulated minutes, ms", 1e3 * one, 50.0),
        Target("new process to the first decision, s", late, 1.0),
    ]
    for peer in PEERS:
        if peer.times is not None:
            ratio = paired_ratio(seconds["one"], seconds[peer.name])
            kept.append(Target(f"ours over {peer.name}, CPU time ({peer.aim})", ratio, round(1 / peer.times, 4)))
    kept += [
        Target(
            f"exponent of time over {name}", exponent([float(n) for n in grown[name]], list(grown[name].values())), 1.1
        )
        for name in ("cells", "copies")
    ]
    by_demand = list(grown["cars per hour"].values())
    kept.append(Target("slowest over fastest demand", max(by_demand) / min(by_demand), 1.25))
    kept.append(Target("delay error, ours less UXsim's, %", errors["ours"] - errors[PEERS[1].name], 0.0))
    return kept


def speed_table(seconds: dict[str, list[float]]) -> str:
    """Decisions and simulated seconds per CPU second."""
    rows = []
    for name, values in seconds.items():
        own = OURS.get(name)
        slower = "" if own else f"{1 / paired_ratio(seconds['one'], values):.1f}"
        rows.append([own or name, f"{SPAN / DECISION / median(values):,.0f}", f"{SPAN / median(values):,.0f}", slower])
    return table(("10 km, 20 links", "decisions/s", "simulated s/s", "times ours is faster"), rows)


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__.partition("\n")[0])
    if missing():
        print(f"not installed: {', '.join(missing())}; pip install 'unbroken[sumo]' uxsim", file=sys.stderr)
        return 78
    machine = describe_machine()
    start_seconds()  # fills numba's cache if it is empty
    late = median([start_seconds() for _ in range(3 if options.quick else 7)])
    seconds = in_turns(2 if options.quick else 7)
    grown = growth(options.quick)
    span = 900.0 if options.quick else 1800.0
    measured = delays(span)
    errors = {name: 100 * abs(value / reference - 1) for name, (value, reference) in measured.items()}
    rows = [
        [name, f"{value:.1f}", f"{reference:.1f}", f"{100 * (value / reference - 1):+.1f} %"]
        for name, (value, reference) in measured.items()
    ]
    growths = [
        f"CPU ms of 600 s by {name}: " + ", ".join(f"{size}: {ms:.1f}" for size, ms in sizes.items())
        for name, sizes in grown.items()
    ]
    text = "\n".join(
        [
            machine_line(machine),
            f"load at the end {os.getloadavg()[0]:.2f}; all times are CPU times of one core, but the start of a new process.",
            *("", speed_table(seconds), "", *growths, ""),
            table(("mean delay of 19 signals, s", "as timed", "reference", "error"), rows),
            "reference: ours on 2.5 m and 0.06 s, SUMO in steps of 0.1 s, UXsim with single vehicles.",
            f"our error in % by cars per hour, cells of 25 m: {our_errors(1, span)}; of 12.5 m: {our_errors(2, span)}",
            "",
        ]
    )
    raw = {"machine": machine, "seconds": seconds, "growth": grown, "delays": measured, "start": late}
    return finish(text, raw, targets(seconds, grown, late, errors), options)


if __name__ == "__main__":
    sys.exit(main())
