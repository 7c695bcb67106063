"""Turn the results of the exactness matrix into a page: `exactness_table.py RESULTS.jsonl docs/exactness.md`.

RESULTS is what the tests wrote to UNBROKEN_MATRIX_RESULTS; the cells are those of tests/resume/cells.yaml. Exits 1 when a
cell was not run or is not exact, and when a feature was shown with fewer than two algorithms.
"""

import argparse
import json
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

Rows = list[dict[str, Any]]
Results = dict[str, dict[str, Any]]
CELLS = Path(__file__).parents[1] / "tests" / "resume" / "cells.yaml"
COLUMNS = {"1": "1 environment", "4 dummy": "4 in-process", "4 subproc": "4 subprocess"}
PACKAGES = ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy")
ABOUT = """\
Every cell below is a test that has been run. A cell trains three or more times, each time in a fresh interpreter:
`unbroken train` is killed with SIGKILL inside an environment's step, in mid-rollout and mid-episode, after at least one
checkpoint; the same command is run again until its target is reached; and a plain Stable-Baselines3 script that never
imports this package trains undisturbed. "exact" means that these are the same, bit for bit:

- at the end of every `learn()`: weights, target networks, optimizers, entropy coefficient, gSDE matrices, action noise, every
  row of replay and rollout buffers, counters, exploration rate, last observations and LSTM states, episode statistics,
  normalisation, frame stacks, attributes and generators of every copy of the environment and of its wrappers (in worker
  processes too), Python's, numpy's and torch's generators, values waiting in the logger, the user's callback, and the
  evaluation environment;
- every observation, reward and end of an episode, before the kill and from the resumed step on;
- every logged value and evaluation, with the step under which it stands; TensorBoard and `metrics.jsonl` agree and
  contain nothing twice, although steps had been logged between the last checkpoint and the kill.

Plain `Algorithm.load()` reads the checkpoints and finds the reference's weights in the last one.

Left out, by name, are wall-clock values only: `time/fps`, `time/time_elapsed`, Monitor's `t`, `t_start` and
`episode_times`, SB3's `start_time`; and `_num_timesteps_at_start`, which SB3 uses for `time/fps` alone.
"""


def read_cells(path: Path) -> Rows:
    """Name, algorithm, copies and features of every cell."""
    cells = yaml.safe_load(path.read_text(encoding="utf-8"))["cells"]
    rows = []
    for cell in cells:
        features = cell.get("features", [])
        name = "-".join(
            [cell["algo"], *str(cell["envs"]).split(), *(feature.replace(" ", "_") for feature in features)]
        )
        rows.append({"name": name, "algorithm": cell["algo"], "envs": str(cell["envs"]), "features": features})
    return rows


def read_results(path: Path) -> Results:
    """The last result of every cell by its name."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["name"]: line for line in map(json.loads, lines)}


def word(result: dict[str, Any] | None) -> str:
    """What a table says about a cell."""
    return "not run" if result is None else str(result["result"])


def algorithm_table(cells: Rows, results: Results) -> list[str]:
    """Algorithm by copies, without features."""
    lines = ["| algorithm | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    for algorithm in dict.fromkeys(cell["algorithm"] for cell in cells):
        alone = {
            cell["envs"]: word(results.get(cell["name"]))
            for cell in cells
            if cell["algorithm"] == algorithm and not cell["features"]
        }
        lines.append(f"| {algorithm} | " + " | ".join(alone.get(column, "not run") for column in COLUMNS) + " |")
    return lines


def feature_table(cells: Rows, results: Results) -> list[str]:
    """What each feature was shown with."""
    shown: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        for feature in cell["features"]:
            others = [other for other in cell["features"] if other != feature]
            text = f"{cell['algorithm']} ({COLUMNS[cell['envs']]}{', with ' + ' and '.join(others) if others else ''})"
            shown[feature].append(f"{text}: {word(results.get(cell['name']))}")
    return [
        "| feature | cells |",
        "|---|---|",
        *(f"| {feature} | {'; '.join(found)} |" for feature, found in shown.items()),
    ]


def cell_table(cells: Rows, results: Results) -> list[str]:
    """Where every cell was killed and where it went on."""
    lines = ["| cell | killed at | resumed from | logged rows repeated | result |", "|---|---|---|---|---|"]
    for cell in cells:
        found = results.get(cell["name"]) or {}
        facts = (", ".join(map(str, found.get(key, []))) for key in ("killed_at", "resumed_from", "rows_repeated"))
        lines.append(f"| {cell['name']} | {' | '.join(facts)} | {word(found or None)} |")
    return lines


def problems(cells: Rows, results: Results) -> list[str]:
    """Why the page is not the proof that it should be."""
    found = [
        f"{cell['name']}: {word(results.get(cell['name']))}"
        for cell in cells
        if word(results.get(cell["name"])) != "exact"
    ]
    found += [f"{name} is not a cell of {CELLS.name}" for name in results.keys() - {cell["name"] for cell in cells}]
    for algorithm in {cell["algorithm"] for cell in cells}:
        alone = {cell["envs"] for cell in cells if cell["algorithm"] == algorithm and not cell["features"]}
        found += [f"{algorithm} has no cell for {COLUMNS[column]}" for column in COLUMNS.keys() - alone]
    algorithms: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        for feature in cell["features"]:
            algorithms[feature].add(cell["algorithm"])
    return found + [f"{feature} has one algorithm only" for feature, with_it in algorithms.items() if len(with_it) < 2]


def page(cells: Rows, results: Results) -> str:
    """The whole document."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    exact = sum(word(results.get(cell["name"])) == "exact" for cell in cells)
    return "\n".join(
        [
            "# Exactness",
            "",
            "Generated by `make test-full`; do not edit.",
            "",
            ABOUT,
            f"{exact} of {len(cells)} cells are exact, with {versions}, on the CPU with one thread.",
            "",
            "## Every algorithm",
            "",
            *algorithm_table(cells, results),
            "",
            "## Every feature",
            "",
            *feature_table(cells, results),
            "",
            "## Every cell",
            "",
            "Steps are environment steps over all copies.",
            "",
            *cell_table(cells, results),
            "",
        ]
    )


def main() -> int:
    """Write the page and say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="file that UNBROKEN_MATRIX_RESULTS named")
    parser.add_argument("page", type=Path, help="file to write")
    given = parser.parse_args()
    cells, results = read_cells(CELLS), read_results(given.results)
    given.page.write_text(page(cells, results), encoding="utf-8")
    found = problems(cells, results)
    sys.stderr.writelines(f"{problem}\n" for problem in found)
    sys.stdout.write(f"{given.page}: {len(cells)} cells, {len(found)} problems\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
