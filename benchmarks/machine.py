"""What the benchmarks share: a line about the machine, medians, tables, and the exit code of missed targets."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unbroken.context import current_context


@dataclass(frozen=True)
class Target:
    """A promise: `value` is measured and must not be above `limit`."""

    name: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.value <= self.limit

    def __str__(self) -> str:
        return f"{'ok    ' if self.met else 'MISSED'} {self.name}: {self.value:.2f} (target <= {self.limit:g})"


def describe_machine() -> dict[str, Any]:
    """Processor, cores, load, memory and the versions that matter."""
    packages = {name: version(name) for name in ("torch", "stable-baselines3", "gymnasium", "numpy", "unbroken")}
    return {
        "cpu": current_context()["cpu"],
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": packages,
    }


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    load = "" if machine["load"] is None else f", load {machine['load']} at the start"
    return (
        f"{machine['cpu']}, {machine['cores']} cores{load}; {machine['system']}; Python {machine['python']}, {packages}"
    )


def arguments(description: str, **files: str) -> argparse.Namespace:
    """The options that every benchmark takes, and further ones that name a file, with their help."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="fewer repetitions: a check that it works, not a measurement"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write everything measured here as well ('-': only this, to stdout)"
    )
    for name, words in files.items():
        parser.add_argument(f"--{name}", metavar="FILE", help=words)
    return parser.parse_args()


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def p90(values: Sequence[float]) -> float:
    """The value that nine of ten do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, -(-9 * len(ordered) // 10) - 1)]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of neighbours in time: drift of a noisy machine falls out."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))
        )

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def finish(text: str, measured: dict[str, Any], targets: Sequence[Target], options: argparse.Namespace) -> int:
    """Print the report, write the JSON, and return the exit code: 1 when a target is missed."""
    content = {
        "machine": measured.pop("machine"),
        **measured,
        "targets": [{"name": t.name, "value": t.value, "limit": t.limit, "met": t.met} for t in targets],
    }
    document = json.dumps(content, indent=2) + "\n"
    if options.json == "-":
        sys.stdout.write(document)
    else:
        print(text, *map(str, targets), sep="\n")
        if options.json:
            Path(options.json).write_text(document, encoding="utf-8")
    return 0 if all(target.met for target in targets) else 1
