"""Turn the results of the exactness matrix into a page: `exactness_table.py RESULTS.jsonl docs/exactness.md`.

RESULTS is what the tests wrote to UNBROKEN_MATRIX_RESULTS; the cells are those of tests/resume/cells.yaml. Exits 1 when a
cell was not run or is not exact, when a feature was shown with fewer than two algorithms, and when an algorithm is neither
exact nor refused with a reason in a family of environments.
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
SIMULATORS = ("mujoco", "ale-py", "Box2D", "libsumo", "sumo-rl")
FAMILIES = {
    "classic control": "CartPole, Pendulum",
    "Box2D": "LunarLander with wind",
    "BipedalWalker": "with a new world for every episode",
    "MuJoCo": "Hopper",
    "Humanoid": "MuJoCo",
    "Atari": "Breakout, sticky actions, AtariWrapper, four frames",
    "SUMO": "sumo-rl's single intersection, libsumo",
    "traffic": "signals and speed limits of unbroken.traffic, whole episodes of 600 s",
}
# these stand in for a family that has a row of its own
SHOWN_IN_PART = ("BipedalWalker", "Humanoid")
ABOUT = """\
Every cell below is a test that has been run. A cell trains three or more times, each time in a fresh interpreter:
`unbroken train` is killed with SIGKILL inside an environment's step, in mid-rollout and mid-episode, after at least one
checkpoint; the same command is run again until its target is reached; and a plain Stable-Baselines3 script that never
imports this package (but for the traffic environments, where it trains in them) trains undisturbed. "exact" means that these
are the same, bit for bit:

- at the end of every `learn()`: weights, target networks, optimizers, entropy coefficient, gSDE matrices, action noise, every
  row of replay and rollout buffers, counters, exploration rate, last observations and LSTM states, episode statistics,
  normalisation, frame stacks, attributes and generators of every copy of the environment and of its wrappers (in worker
  processes too), Python's, numpy's and torch's generators, values waiting in the logger, the user's callback, and the
  evaluation environment;
- every observation, reward and end of an episode, before the kill and from the resumed step on;
- every logged value and evaluation, with the step under which it stands; TensorBoard and `metrics.jsonl` agree and
  contain nothing twice, although steps had been logged between the last checkpoint and the kill.

Plain `Algorithm.load()` reads the checkpoints and finds the reference's weights in the last one.

Left out, by name, are wall-clock values: `time/fps`, `time/time_elapsed`, Monitor's `t`, `t_start` and `episode_times`, SB3's
`start_time`; `_num_timesteps_at_start`, which SB3 uses for `time/fps` alone; and with image policies the generator of the
observation space, from which SB3 draws once, unseeded, to learn a size, so that plain SB3 differs there from itself.
"""


def read_cells(path: Path) -> Rows:
    """Name, algorithm, copies, family and features of every cell and every refusal."""
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = []
    for cell in [*table["cells"], *table["refusals"]]:
        features, family = cell.get("features", []), cell.get("family")
        envs = str(cell.get("envs", 1))
        words = [word.replace(" ", "_") for word in ([family] if family else []) + features]
        facts = {"algorithm": cell["algo"], "envs": envs, "features": features, "family": family}
        rows.append({"name": "-".join([cell["algo"], *envs.split(), *words]), "refusal": cell.get("why"), **facts})
    return rows


def read_results(path: Path) -> Results:
    """The last result of every cell by its name."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["name"]: line for line in map(json.loads, lines)}


def word(result: dict[str, Any] | None) -> str:
    """What a table says about a cell."""
    if result is None:
        return "not run"
    by_replay = result["result"] == "exact" and result.get("family") and result.get("strategy") == "replay"
    return "exact by replay" if by_replay else str(result["result"])


def is_shown(cell: dict[str, Any], results: Results) -> bool:
    """Whether a cell came out as it should."""
    expected = ("refused",) if cell["refusal"] else ("exact", "exact by replay")
    return word(results.get(cell["name"])) in expected


def algorithm_table(cells: Rows, results: Results) -> list[str]:
    """Algorithm by copies, without features."""
    lines = ["| algorithm | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    for algorithm in dict.fromkeys(cell["algorithm"] for cell in cells):
        alone = {
            cell["envs"]: word(results.get(cell["name"]))
            for cell in cells
            if cell["algorithm"] == algorithm and not cell["features"] and not cell["family"]
        }
        lines.append(f"| {algorithm} | " + " | ".join(alone.get(column, "not run") for column in COLUMNS) + " |")
    return lines


def family_table(cells: Rows, results: Results) -> list[str]:
    """Algorithm by family of environments, in one environment."""
    whole = [family for family in FAMILIES if family not in SHOWN_IN_PART]
    lines = [f"| algorithm | {' | '.join(f'{family} ({FAMILIES[family]})' for family in whole)} |"]
    lines.append("|---|" + "---|" * len(whole))
    for algorithm in dict.fromkeys(cell["algorithm"] for cell in cells):
        found = {
            cell["family"]: _in_family(cell, results)
            for cell in cells
            if cell["algorithm"] == algorithm and cell["family"] and cell["envs"] == "1" and not cell["features"]
        }
        lines.append(f"| {algorithm} | " + " | ".join(found.get(family, "not run") for family in whole) + " |")
    others = [c for c in cells if c["family"] and (c["family"] in SHOWN_IN_PART or c["envs"] != "1")]
    beside = [
        f"{c['algorithm']} in {c['family']} ({FAMILIES[c['family']]}; {COLUMNS[c['envs']]}): {_in_family(c, results)}"
        for c in others
    ]
    return [*lines, "", f"Beside these: {'; '.join(beside)}."]


def _in_family(cell: dict[str, Any], results: Results) -> str:
    found = word(results.get(cell["name"]))
    return f"{found}: {cell['refusal']}" if found == "refused" else found


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
    for cell in (cell for cell in cells if not cell["refusal"]):
        found = results.get(cell["name"]) or {}
        facts = (", ".join(map(str, found.get(key, []))) for key in ("killed_at", "resumed_from", "rows_repeated"))
        lines.append(f"| {cell['name']} | {' | '.join(facts)} | {word(found or None)} |")
    return lines


def problems(cells: Rows, results: Results) -> list[str]:
    """Why the page is not the proof that it should be."""
    found = [f"{cell['name']}: {word(results.get(cell['name']))}" for cell in cells if not is_shown(cell, results)]
    found += [f"{name} is not a cell of {CELLS.name}" for name in results.keys() - {cell["name"] for cell in cells}]
    for algorithm in {cell["algorithm"] for cell in cells}:
        own = [cell for cell in cells if cell["algorithm"] == algorithm and not cell["features"]]
        alone = {cell["envs"] for cell in own if not cell["family"]}
        found += [f"{algorithm} has no cell for {COLUMNS[column]}" for column in COLUMNS.keys() - alone]
        families = FAMILIES.keys() - {cell["family"] for cell in own} - set(SHOWN_IN_PART)
        found += [f"{algorithm} has no cell and no reason for {family}" for family in sorted(families)]
    algorithms: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        for feature in cell["features"]:
            algorithms[feature].add(cell["algorithm"])
    return found + [f"{feature} has one algorithm only" for feature, with_it in algorithms.items() if len(with_it) < 2]


def page(cells: Rows, results: Results) -> str:
    """The whole document."""
    versions = ", ".join(f"{name} {version(name)}" for name in (*PACKAGES, *SIMULATORS))
    trained = [cell for cell in cells if not cell["refusal"]]
    exact = sum(is_shown(cell, results) for cell in trained)
    return "\n".join(
        [
            "# Exactness",
            "",
            "Generated by `make test-full`; do not edit.",
            "",
            ABOUT,
            f"{exact} of {len(trained)} cells are exact, with {versions}, on the CPU with one thread.",
            "",
            "## Every algorithm",
            "",
            *algorithm_table(cells, results),
            "",
            "## Every family of environments",
            "",
            '"exact by replay": the actions since the last reset are repeated on resume. "refused": `unbroken train` says so in',
            "one line and trains nothing.",
            "",
            *family_table(cells, results),
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
