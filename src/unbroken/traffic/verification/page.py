"""Runs every experiment, draws it, and writes `docs/verification/README.md`: figures for readers, the limits are in the tests.

About a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unbroken.traffic.verification import convergence, experiments, two_phases
from unbroken.traffic.verification.experiments import HOUR

KINDS = ("shock and contact", "rarefaction", "discharge into vacuum", "vacuum between")
GRIDS = (100, 200, 400, 800)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(rows: int, columns: int, **arguments: Any) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(4.0 * columns, 2.8 * rows), layout="constrained", **arguments)


def save(drawn: Any, folder: Path, name: str) -> str:
    """Write `name`.png and return its Markdown."""
    from matplotlib import pyplot

    drawn.savefig(folder / f"{name}.png", dpi=80, metadata={"Software": None})
    pyplot.close(drawn)
    return f"![{name.replace('_', ' ')}]({name}.png)"


def riemann(folder: Path) -> str:
    """Four Riemann problems on 200 cells."""
    drawn, axes = figure(2, 2)
    for kind, ax in zip(KINDS, axes.flat, strict=True):
        problem = convergence.problems()[kind]
        faces, rho, _ = convergence.simulated(problem, 200, 30.0)
        x = np.linspace(-600, 600, 1201)
        ax.plot(x, problem.at(x / 30.0)[0], "k", lw=1, label="exact")
        ax.plot((faces[:-1] + faces[1:]) / 2, rho, ".", ms=3, label="10 m cells")
        ax.set(title=kind, xlim=(-600, 600), xlabel="x, m", ylabel="veh/m")
    axes[0, 0].legend()
    return f"""## Exact Riemann solutions

Two constant states after 30 s, one class, gamma = 1, no relaxation. Solid: exact.

{save(drawn, folder, "riemann")}"""


def orders(folder: Path) -> str:
    """Errors over cell length, with the orders of gamma = 1 and 2."""
    drawn, ax = figure(1, 1)
    rows = []
    kinds = ["smooth", *convergence.problems()]
    for kind in kinds:
        fitted = []
        for gamma in (1.0, 2.0):
            problem = convergence.problems(gamma).get(kind)
            errors = [
                convergence.smooth_error(n, gamma) if problem is None else convergence.riemann_error(problem, n)
                for n in GRIDS
            ]
            fitted.append(f"{convergence.orders(errors).mean():.2f}")
            if gamma == 1.0:
                length = 1000.0 if problem is None else convergence.LENGTH
                ax.loglog(length / np.array(GRIDS), errors, "o-", ms=3, label=kind)
                shown = errors
        rows.append([kind, f"{shown[0]:.1e}", f"{shown[-1]:.1e}", *fitted])
    ax.set(xlabel="cell, m", ylabel="mean error, veh/m", xticks=[2, 5, 10, 20], xticklabels=["2", "5", "10", "20"])
    ax.minorticks_off()
    drawn.legend(fontsize=6, loc="outside right upper")
    head = ["solution", "error on 100 cells, veh/m", "on 800", "order, gamma 1", "order, gamma 2"]
    return f"""## Orders of convergence

Mean of |density - exact cell average|, over seven times for the Riemann problems. A contact widens with time under any scheme of
second order: two thirds is the most there.

{table(head, rows)}

{save(drawn, folder, "convergence")}"""


def red_light(folder: Path) -> str:
    """A red and its discharge in x and t."""
    results = {cell: experiments.red_light(cell) for cell in (25.0, 5.0)}
    drawn, axes = figure(1, 2)
    coarse = results[25.0]
    image = axes[0].pcolormesh(coarse.time, coarse.x, coarse.history.T, shading="nearest", rasterized=True)
    axes[0].set(ylim=(-300, 500), xlabel="s", ylabel="x, m", title="density, veh/m")
    drawn.colorbar(image, ax=axes[0])
    axes[1].plot(coarse.time, coarse.deficit)
    axes[1].axvline(coarse.clear_time[1], color="k", lw=1)
    axes[1].set(xlabel="s", ylabel="vehicles held back", title="line: exact time to clear")
    rows = [
        [
            f"{cell:g} m",
            f"{r.tail_speed[0]:.3f} / {r.tail_speed[1]:.3f}",
            f"{r.clear_time[0]:.2f} / {r.clear_time[1]:.2f}",
            f"{r.fan_error:.2%}",
            f"{r.leaked:.1e}",
        ]
        for cell, r in results.items()
    ]
    head = ["cell", "tail speed, m/s, simulated / exact", "time to clear, s", "fan error, of jam", "passed at red, veh"]
    return f"""## Red light

0.02 veh/m at 12 m/s meet 40 s of red; one class, no relaxation.

{table(head, rows)}

{save(drawn, folder, "red_light")}"""


def diagram(folder: Path) -> str:
    """Equilibrium flow of both classes, formula and ring."""
    drawn, axes = figure(1, 2)
    names = ("motorcycles alone", "cars alone")
    worst = 0.0
    for index, (ax, name) in enumerate(zip(axes, names, strict=True)):
        result = experiments.fundamental_diagram(index)
        ax.plot(result.occupancy, result.formula, "k", lw=1)
        ax.plot(result.occupancy, result.measured, ".")
        ax.set(title=name, xlabel="occupancy", ylabel="veh/h per lane")
        worst = max(worst, float(np.abs(result.measured - result.formula).max()))
    return f"""## Fundamental diagram

Line: density times equilibrium speed. Points: uniform traffic on a ring, counted. They differ by at most {worst:.1e} veh/h. The
top of the curve is unstable equilibrium, which discharge from a queue does not reach.

{save(drawn, folder, "fundamental_diagram")}"""


def saturation(folder: Path) -> str:
    """Cumulative discharge since green."""
    drawn, ax = figure(1, 1)
    rows = []
    for factor in (1.0, 2.0, 5.0):
        grid = experiments.Grid().finer(factor)
        result = experiments.saturation(grid)
        rows.append([f"{grid.cell:g} m", f"{result.flow:.0f}", f"{result.lost_time:.2f}"])
        ax.plot(result.time[result.time <= 30], result.vehicles[result.time <= 30], label=f"{grid.cell:g} m")
        if factor == 1.0:
            line = np.array([result.lost_time, 30.0])
            ax.plot(line, (line - result.lost_time) * result.flow / HOUR, "k--", lw=1, label="fit, 10 to 30 s")
    ax.set(xlabel="s since green", ylabel="cars over the stop line")
    ax.legend()
    return f"""## Saturation flow and start-up lost time

Asked for: 1,800 to 1,950 cars/h and lane, 1 to 3 s. Lost time is at the lower end.

{table(["cell", "saturation flow, cars/h", "lost time, s"], rows)}

{save(drawn, folder, "saturation")}"""


def capacity_drop(folder: Path) -> str:
    """Outflow of a merge through breakdown."""
    result = experiments.capacity_drop()
    drawn, ax = figure(1, 1)
    ax.plot(result.flow)
    ax.axhline(result.before, color="k", lw=1)
    ax.axhline(result.discharge, color="k", ls="--", lw=1)
    ax.set(xlabel="min", ylabel="cars/h beyond the merge")
    return f"""## Capacity drop at a merge

{result.before:.0f} cars/h before a queue forms, {result.discharge:.0f} out of the queue: {result.drop:.1%} less (asked for: 5 to
15 %).

{save(drawn, folder, "capacity_drop")}"""


def delays(folder: Path) -> str:
    """Uniform delay against Webster, and grid errors."""
    cases = experiments.uniform_delays()
    errors = experiments.grid_errors()
    drawn, axes = figure(1, 2)
    axes[0].plot([c.webster for c in cases], [c.simulated for c in cases], "o", ms=4)
    axes[0].axline((10, 10), slope=1, color="k", lw=1)
    axes[0].set(xlabel="Webster's uniform term, s", ylabel="simulated, s")
    for case in errors:
        axes[1].plot(case.cells[:-1], 100 * case.errors, "o-", label=f"{case.flow:.0f} cars/h")
    axes[1].set(xlabel="cell, m", ylabel="error of control delay, %")
    axes[1].legend()
    rows = [
        [
            f"{c.cycle:g} s, {c.green:g} s",
            f"{c.degree:g}",
            f"{c.simulated:.2f}",
            f"{c.webster:.2f}",
            f"{c.simulated / c.webster - 1:+.1%}",
        ]
        for c in cases
    ]
    grid_rows = [[f"{e.flow:.0f}", *(f"{d:.2f}" for d in e.delays), *(f"{x:+.1%}" for x in e.errors)] for e in errors]
    cells = [f"{cell:g} m" for cell in errors[0].cells]
    head = ["cars/h", *(f"delay, s, {cell}" for cell in cells), *(f"error, {cell}" for cell in cells[:-1])]
    return f"""## Delay at a signal

Even arrivals; only time upstream of the stop line, as in Webster's formula, with saturation flow and lost time as measured.

{table(["cycle, green", "degree of saturation", "simulated, s", "uniform term, s", "difference"], rows)}

The whole control delay (acceleration beyond the stop line too), 45 s green of 90 s, against a ten times finer grid:

{table(head, grid_rows)}

{save(drawn, folder, "delay")}"""


def webster(folder: Path) -> str:
    """Webster's plan and its neighbours."""
    loads = ((0.35, 0.25), (0.5, 0.3))
    drawn, ax = figure(1, 1)
    rows = []
    for ratios in loads:
        spent = two_phases.perturbed(ratios)
        base = spent.pop("Webster")
        for name, values in spent.items():
            extra = (values - base) / base.mean()
            mean, half = extra.mean(), 2.07 * extra.std(ddof=1) / np.sqrt(len(extra))  # Student's t of 23 degrees
            ax.errorbar(f"{name}\nY = {sum(ratios):.1f}".replace("first ", ""), 100 * mean, 100 * half, fmt="ko", ms=3)
            worse = f"{(extra > 0).sum()} of {len(extra)}"
            rows.append([f"{ratios[0]:g}, {ratios[1]:g}", name, f"{mean:+.1%} ± {half:.1%}", worse])
    ax.set(ylabel="more time spent, %")
    ax.tick_params(axis="x", labelrotation=90, labelsize=6)
    return f"""## Webster's plan

A junction of two one-lane streets, Poisson counts by minute, 24 seeds, an hour each: time spent in the network against Webster's
plan, mean and 95 % interval.

{table(["y of both phases", "perturbation", "more time spent", "worse under"], rows)}

Wrong splits and a longer cycle cost; a cycle 20 % shorter does not, within what 24 seeds can tell at Y = 0.8, and gains 0.3 % at
Y = 0.6: arrivals are even within a minute, so that the random part of delay is smaller than the formula assumes.

{save(drawn, folder, "webster")}"""


SECTIONS: tuple[Callable[[Path], str], ...] = (
    riemann,
    orders,
    red_light,
    diagram,
    saturation,
    capacity_drop,
    delays,
    webster,
)


def write(folder: Path) -> None:
    """Write README.md and the figures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    opening = """# Verification of the traffic model

`python -m unbroken.traffic.verification` measures all of this anew and writes this page; `tests/physics` holds the limits, and
shows that broken copies of the scheme fail."""
    text = "\n\n".join([opening, *(section(folder) for section in SECTIONS)])
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page into the folder that is named, `docs/verification` otherwise."""
    named = list(sys.argv[1:] if arguments is None else arguments)
    write(Path(named[0]) if named else Path("docs/verification"))
