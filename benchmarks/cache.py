"""What a hit of the result cache costs, beside computing, joblib.Memory and diskcache.

    python benchmarks/cache.py [--quick] [--json FILE]

The first baseline of each traffic scenario, 3,600 s at 15 s (240 steps), its rows and end state. In one process, which has
imported everything and compiled the kernels: its cold start is not in these figures. A hit is `get_or_compute` from the scenario to
the arrays: the fingerprint is made anew each time, sources are read once in a process. The peers get ready keys and hold the same
arrays; both unpickle what they find, which runs code of the file's choosing, and neither compares a hash of the content. All read
from the page cache.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import Target, arguments, describe_machine, finish, machine_line, median, p90, paired_ratio, table

from unbroken.cache import Result, ResultCache
from unbroken.traffic.controllers.choosing import controller_names, make_controller
from unbroken.traffic.playing import Episode
from unbroken.traffic.scenario import DECISION
from unbroken.validation.traffic_inputs import Described, baseline_control, episode_inputs

SCENARIOS = ("traffic_light_control", "ramp_metering", "adaptive_speed_control")
SEED, SHORT, LONG = 3, round(600 / DECISION), round(3600 / DECISION)
HIT_LIMIT_MS = 10.0
CROWD = 10_000


@dataclass
class Case:
    """One baseline: how it is computed and asked for."""

    name: str

    def __post_init__(self) -> None:
        self.described = Described.read(self.name)
        self.controller = controller_names(self.described.scenario)[0]

    def episode(self) -> Episode:
        scenario = self.described.scenario
        return Episode(scenario, make_controller(self.controller, scenario), SEED)

    def compute(self, steps: int = LONG) -> Result:
        episode = self.episode()
        episode.begin()
        return Result(dict(episode.advance(steps)), steps, episode.get_state())

    def extend(self, shorter: Result) -> Result:
        episode = self.episode()
        episode.set_state(shorter.end)
        steps = LONG - (shorter.steps or 0)
        return Result(dict(episode.advance(steps)), steps, episode.get_state())

    def ask(self, cache: ResultCache, steps: int = LONG) -> Result:
        inputs = episode_inputs(self.described, baseline_control(self.described.scenario, self.controller), SEED)
        return cache.get_or_compute(inputs, lambda: self.compute(steps), self.extend, steps=steps)


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def peers(folder: Path, content: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """How joblib.Memory and diskcache give back what they were given."""
    import diskcache
    import joblib

    memory = joblib.Memory(folder / "joblib", verbose=0)
    remembered = memory.cache(given, ignore=["content"])
    remembered("key", content)
    disk = diskcache.Cache(str(folder / "diskcache"))
    disk["key"] = content
    return {"joblib.Memory": lambda: remembered("key", None), "diskcache": lambda: disk["key"]}


def given(key: str, content: Any) -> Any:
    """What is computed: nothing, the result is there."""
    return content


def hits(case: Case, folder: Path, turns: int) -> dict[str, list[float]]:
    """Seconds of each way to the same arrays, taken in turn."""
    cache = ResultCache(folder / "ours")
    result = case.ask(cache)
    others = peers(folder, {"arrays": dict(result.arrays), "end": result.end})
    for function in others.values():
        same = function()["arrays"]
        if any(not np.array_equal(same[name], array) for name, array in result.arrays.items()):
            raise RuntimeError("a peer gives back something else")
    crowded = shutil.copytree(cache.folder, folder / "crowded")
    for number in range(CROWD):
        (crowded / f"other_00000000_baseline_cache_240_steps_{number:024x}.zip").touch()
    full = ResultCache(crowded)
    ways = {"ours": lambda: case.ask(cache), "crowded": lambda: case.ask(full), "computing": case.compute, **others}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, function in ways.items():
            taken = seconds(function)
            if turn:
                times[name].append(taken)
    return times


def extensions(case: Case, folder: Path, turns: int) -> dict[str, list[float]]:
    """Seconds of 3,600 s from a cached 600 s, saved, and of all 3,600 s, saved."""
    times: dict[str, list[float]] = {"extended": [], "whole": []}
    for turn in range(turns):
        short, none = ResultCache(folder / f"short-{turn}"), ResultCache(folder / f"none-{turn}")
        case.ask(short, SHORT)
        times["extended"].append(seconds(lambda own=short: case.ask(own)))
        times["whole"].append(seconds(lambda own=none: case.ask(own)))
        if case.ask(short).digest() != case.ask(none).digest():
            raise RuntimeError("the extension is not the whole computation")
    return times


def main() -> int:
    """Measure and print the tables."""
    options = arguments(__doc__.partition("\n")[0])
    machine = describe_machine()
    turns, longer = (5, 2) if options.quick else (41, 9)
    folder = Path(tempfile.mkdtemp(prefix=".cache-", dir=Path.cwd()))
    found: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    try:
        for name in SCENARIOS:
            case, own = Case(name), folder / name
            case.compute()  # compiles, or loads what was compiled
            found[name] = {"hits": hits(case, own, turns), "extensions": extensions(case, own, longer)}
            sizes[name] = next((own / "ours").glob("*.zip")).stat().st_size
    finally:
        shutil.rmtree(folder)
    text = "\n".join(
        [
            machine_line(machine),
            f"A baseline of 3,600 s, {LONG} rows with its end state, in a warm process; medians of {turns} turns.",
            "The ratio is the median of neighbours.",
            "joblib.Memory and diskcache unpickle what they find and compare no hashes; ours does neither and checks every byte.",
            "",
            table(("scenario, way", "ms", "p90 ms", "ratio to ours"), _hit_rows(found)),
            "",
            "600 s are there, 3,600 s are asked for; both are saved durably.",
            "",
            table(("scenario, way", "ms", "p90 ms", "ratio"), _extension_rows(found)),
            "",
            "Entries: " + ", ".join(f"{name} {size / 1000:.0f} KB" for name, size in sizes.items()),
            "",
        ]
    )
    targets = [
        Target(f"{name}: hit, ms", 1000 * median(found[name]["hits"]["ours"]), HIT_LIMIT_MS) for name in SCENARIOS
    ]
    return finish(text, {"machine": machine, "scenarios": found, "bytes": sizes}, targets, options)


def _hit_rows(found: dict[str, Any]) -> list[list[str]]:
    labels = {"ours": "hit", "crowded": f"hit among {CROWD:,} entries", "computing": "computing it"}
    return [
        _row(f"{name}, {labels.get(way, way)}", values, paired_ratio(values, of["hits"]["ours"]))
        for name, of in found.items()
        for way, values in of["hits"].items()
    ]


def _extension_rows(found: dict[str, Any]) -> list[list[str]]:
    return [
        _row(f"{name}, {way}", values, paired_ratio(values, of["extensions"]["whole"]))
        for name, of in found.items()
        for way, values in of["extensions"].items()
    ]


def _row(name: str, values: list[float], ratio: float) -> list[str]:
    return [name, f"{1000 * median(values):.2f}", f"{1000 * p90(values):.2f}", f"{ratio:.2f}"]


if __name__ == "__main__":
    sys.exit(main())
