"""Pictures of a comparison, drawn without a display and to be read at the width of a phone.

Colours are Okabe and Ito's, which the colour-blind can tell apart; lines also differ in their dashes. Agents are blue, the rule's
baseline vermilion, in every picture.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unbroken.validation.results import Comparison, Curve, SpaceTime
from unbroken.validation.verdict import Against, Finding
from unbroken.validation.wording import percent_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.1  # inches: about what a phone is wide, so that letters keep their size there
DPI = 220
AGENT, RULED = "#0072B2", "#D55E00"
OTHERS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
_LEG: dict[str, Any] = {"markersize": 7, "markeredgecolor": "black", "markeredgewidth": 0.8, "zorder": 5}
_LONGEST = 28  # letters of a name
_QUICK = "quick comparison: it proves nothing"


@dataclass(frozen=True)
class Picture:
    """A PNG with the name of its file; `alt` says in a sentence what it shows, `scenario` is None where it shows all."""

    name: str
    alt: str
    png: bytes
    scenario: str | None = None


def pictures(comparisons: Sequence[Comparison], findings: Sequence[Finding]) -> list[Picture]:
    """All pictures that there is something to draw for, the improvement first."""
    found = [Picture("improvement.png", _IMPROVEMENT, _png(draw_improvement(findings)))]
    for number, (comparison, finding) in enumerate(zip(comparisons, findings, strict=True), start=1):
        for kind, alt, figure in _drawn(comparison, finding):
            taken = {picture.name for picture in found}
            name = f"{kind}-{_file_name(comparison.scenario)}.png"
            name = f"{kind}-{number}-{_file_name(comparison.scenario)}.png" if name in taken else name
            found.append(Picture(name, alt, _png(figure), comparison.scenario))
    return found


_IMPROVEMENT = (
    "By how many percent the agents are better than each baseline, with 95 % intervals: right of 0 the agents are better. "
    "Light dots are single trainings; the mark is the rule's target."
)

_LEARNING = "Learning curves: mean reward of the trainings' own evaluations. A triangle is where a further leg began."


def _drawn(comparison: Comparison, finding: Finding) -> Iterator[tuple[str, str, Figure]]:
    if comparison.curves:
        yield (
            "learning",
            _LEARNING,
            draw_curves(comparison),
        )
    side_by_side = _chosen(comparison, finding)
    if side_by_side:
        names = ", ".join(one.arm for one in side_by_side)
        yield (
            "space-time",
            f"Occupancy over time and distance on seed {side_by_side[0].seed}: {names}. Dark is where vehicles stand.",
            draw_space_time(side_by_side, finding),
        )
    if comparison.queues:
        yield (
            "queues",
            "The longest queue over time, mean over seeds (and trainings).",
            draw_queues(comparison, finding),
        )


def draw_improvement(findings: Sequence[Finding]) -> Figure:
    """% better than each baseline that % say something of, a group of rows for each scenario."""
    rows = [(finding, one) for finding in findings for one in finding.against if one.improvement is not None]
    heads = [k for k, (finding, _) in enumerate(rows) if k == 0 or rows[k - 1][0] is not finding]
    with _style():
        figure = _figure(1.0 + 0.27 * (len(rows) + len(heads)))
        axes = figure.subplots()
        at = _row_positions(len(rows), heads)
        for y, (finding, one) in zip(at, rows, strict=True):
            _draw_row(axes, y, finding, one)
        for k in heads:
            axes.text(
                0.0,
                at[k] - 0.95,
                f"{_shown(rows[k][0].scenario)}: {rows[k][0].verdict}",
                transform=axes.get_yaxis_transform(),
                weight="bold",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
        axes.axvline(0.0, color="0.3", linewidth=0.8, zorder=0)
        axes.set_yticks(at, [_shown(one.baseline) for _, one in rows])
        axes.set_ylim((at[-1] if rows else 0.0) + 0.7, -0.5)
        axes.set_xlabel("the agents are better by, %")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.plot([], [], color=RULED, linewidth=1.8, label="target of the rule")
        axes.plot([], [], "o", color="0.35", alpha=0.4, markersize=3, label="single trainings")
        figure.legend(loc="outside lower center", ncols=2)
        _warn(figure, findings[0])
    return figure


def _row_positions(n: int, heads: list[int]) -> list[float]:
    """From the top down, with room for a line above each scenario's rows."""
    return [k + sum(head <= k for head in heads) - 0.1 for k in range(n)]


def _draw_row(axes: Any, y: float, finding: Finding, one: Against) -> None:
    found = one.improvement
    assert found is not None
    ruled = one.baseline == finding.rule.baseline
    colour = AGENT if ruled else "0.35"
    axes.plot(one.trainings, [y] * len(one.trainings), "o", color=colour, alpha=0.3, markersize=3, markeredgewidth=0)
    axes.plot([found.low, found.high], [y, y], color=colour, linewidth=2.4 if ruled else 1.4, solid_capstyle="butt")
    axes.plot([found.value], [y], "o", color=colour, markersize=5.5 if ruled else 4.5)
    if ruled:
        target = finding.rule.target_percent
        axes.plot([target, target], [y - 0.36, y + 0.36], color=RULED, linewidth=1.8)
    axes.text(
        1.02,
        y,
        percent_interval(found),
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=7,
        weight="bold" if ruled else "normal",
    )


def draw_curves(comparison: Comparison) -> Figure:
    """A line for each training; triangles where its legs after the first began."""
    with _style():
        figure = _figure(3.0)
        axes = figure.subplots()
        colours = (AGENT, *OTHERS[:4], RULED)
        for k, curve in enumerate(comparison.curves):
            colour, line = colours[k % len(colours)], DASHES[k // len(colours) % len(DASHES)]
            steps, values = _leg_marks(curve)
            axes.plot(
                np.array(curve.steps) / 1e3,
                curve.values,
                linestyle=line,
                marker=".",
                markersize=3,
                color=colour,
                linewidth=1.2,
                label=str(curve.training_seed),
            )
            axes.plot(np.array(steps) / 1e3, values, "v", color=colour, **_LEG)
        axes.plot([], [], "v", color="white", label="a leg begins", **_LEG)
        axes.set_xlabel("steps, in thousands")
        axes.set_ylabel("mean reward of an evaluation")
        _grid(axes)
        figure.legend(loc="outside lower center", ncols=min(6, len(comparison.curves) + 1), title="training seed")
    return figure


def _leg_marks(curve: Curve) -> tuple[list[float], list[float]]:
    """On the curve, where it is interrupted."""
    legs = [float(step) for step in curve.legs if curve.steps and step > 0]
    return legs, [float(np.interp(step, curve.steps, curve.values)) for step in legs]


def _chosen(comparison: Comparison, finding: Finding) -> list[SpaceTime]:
    """The best baseline, the rule's and the agent, of the first seed that all of them have."""
    names = dict.fromkeys((finding.strongest.baseline, finding.rule.baseline, "agent"))
    there = [name for name in names if any(one.arm == name for one in comparison.space_time)]
    for seed in dict.fromkeys(one.seed for one in comparison.space_time):
        found = {one.arm: one for one in reversed(comparison.space_time) if one.seed == seed}
        if all(name in found for name in there):
            return [found[name] for name in there]
    return []


def draw_space_time(side_by_side: Sequence[SpaceTime], finding: Finding) -> Figure:
    """Fields beside each other with the same axes and colours."""
    with _style():
        figure = _figure(3.3)
        row = figure.subplots(1, len(side_by_side), sharex=True, sharey=True, squeeze=False)[0]
        for axes, one in zip(row, side_by_side, strict=True):
            picture = axes.pcolormesh(
                one.times_s / 60.0,
                one.distances_m / 1e3,
                one.field.T,
                vmin=0.0,
                vmax=1.0,
                cmap="inferno_r",
                rasterized=True,
            )
            axes.set_title(_shown(one.arm) + _roles(one.arm, finding))
            axes.locator_params(axis="x", nbins=4)
        row[0].set_xlim(
            min(one.times_s[0] for one in side_by_side) / 60.0, max(one.times_s[-1] for one in side_by_side) / 60.0
        )
        row[0].set_ylabel("km along the road")
        row[len(row) // 2].set_xlabel("minutes")
        figure.colorbar(picture, ax=row, label="occupancy (1: vehicles stand)", location="bottom", aspect=40)
    return figure


def _roles(arm: str, finding: Finding) -> str:
    roles = {"best baseline": finding.strongest.baseline, "the rule's": finding.rule.baseline}
    found = [role for role, name in roles.items() if name == arm]
    return f"\n({', '.join(found)})" if found else "\n"


def draw_queues(comparison: Comparison, finding: Finding) -> Figure:
    """A line for each arm."""
    with _style():
        figure = _figure(2.9)
        axes = figure.subplots()
        others = [queues.arm for queues in comparison.queues if queues.arm not in ("agent", finding.rule.baseline)]
        for queues in comparison.queues:
            axes.plot(
                queues.times_s / 60.0, queues.longest_m, label=_shown(queues.arm), **_look(queues.arm, finding, others)
            )
        axes.set_xlabel("minutes")
        axes.set_ylabel("longest queue, m")
        axes.set_ylim(bottom=0.0)
        _grid(axes)
        figure.legend(loc="outside lower center", ncols=min(3, len(comparison.queues)))
    return figure


def _look(arm: str, finding: Finding, others: list[str]) -> dict[str, Any]:
    if arm == "agent":
        return {"color": AGENT, "linewidth": 2.0, "zorder": 3}
    if arm == finding.rule.baseline:
        return {"color": RULED, "linewidth": 1.6, "linestyle": DASHES[1]}
    k = others.index(arm)
    return {"color": OTHERS[k % len(OTHERS)], "linewidth": 1.3, "linestyle": DASHES[(k + 2) % len(DASHES)]}


def _grid(axes: Any) -> None:
    axes.grid(color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _warn(figure: Figure, finding: Finding) -> None:
    if finding.mode == "quick":
        figure.suptitle(_QUICK, fontsize=9, color=RULED, weight="bold")


@contextmanager
def _style() -> Iterator[None]:
    """The same whatever the user's own settings are."""
    from matplotlib import style

    own = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 8, "ytick.labelsize": 8}
    legend = {"legend.fontsize": 8, "legend.title_fontsize": 8, "legend.frameon": False, "axes.linewidth": 0.7}
    with style.context(["default", {**own, **legend}]):
        yield


def _figure(height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    with _style():
        figure.savefig(content, format="png")
    return content.getvalue()


def _shown(text: str) -> str:
    """So that matplotlib shows it as it is: no formulas, and no name that a legend leaves out for its first letter."""
    plain = (text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...").replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def _file_name(scenario: str) -> str:
    """Letters, digits, `.`, `_` and `-` of a scenario's name; no name that a file system minds."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", scenario).strip("-.")[:80] or "scenario"
