"""Pictures: the network with densities and queues, and space-time diagrams. matplotlib without a display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.layout import Layout
from unbroken.traffic.metrics import Rows
from unbroken.traffic.simulation import Simulation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT, WIDTH = 4.8, 8.0  # inches of 100 pixels


def _figure(width: float = WIDTH, height: float = HEIGHT) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_network(simulation: Simulation, b: int = 0) -> NDArray[np.uint8]:
    """Links as rows, downstream to the right, coloured by occupancy; origin queues as bars at their left. Shape (480, 800, 3)."""
    figure = _figure()
    layout = simulation.layout
    axes, bars = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
    for row, link in enumerate(layout.links):
        _draw_link(axes, simulation, layout, link, row, b)
    axes.set_yticks(range(len(layout.links)), layout.links, fontsize=6)
    axes.set_ylim(len(layout.links) - 0.5, -0.5)
    axes.set_xlabel("m from the beginning of the link")
    axes.set_title(f"occupancy at {simulation.time(b):.0f} s", fontsize=9)
    waiting = {o: float(simulation.state.waiting[b, :, i].sum()) for i, o in enumerate(layout.network.origins)}
    bars.barh(range(len(layout.links)), [waiting.get(link, 0.0) for link in layout.links], color="tab:red")
    bars.set_xlabel("waiting to enter, veh")
    figure.canvas.draw()
    buffer: Any = figure.canvas
    return np.ascontiguousarray(np.asarray(buffer.buffer_rgba())[:, :, :3])


def _draw_link(axes: Any, simulation: Simulation, layout: Layout, link: str, row: int, b: int) -> None:
    length = layout.network.links[link].length
    axes.imshow(
        simulation.occupancy(link, b)[None, :],
        extent=(0, length, row + 0.4, row - 0.4),
        aspect="auto",
        vmin=0,
        vmax=1,
        cmap="inferno_r",
        interpolation="nearest",
    )
    signals = [name for name in layout.signals if link in layout.network.nodes[name].arriving]
    if signals:
        index = layout.signals.index(signals[0])
        green = (
            link in layout.phases[index][int(simulation.phases()[b, index])] and simulation.green_times()[b, index] >= 0
        )
        axes.plot(length, row, "o", color="tab:green" if green else "tab:red", markersize=4, clip_on=False)
    axes.set_xlim(0, max(x.length for x in layout.network.links.values()))


def main_path(layout: Layout) -> list[str]:
    """Links from the first origin on, at each node along the movement that most vehicles take."""
    path = [layout.network.origins[0]]
    while True:
        node = next((n for n in layout.network.nodes.values() if path[-1] in n.arriving), None)
        if node is None:
            return path
        onward = max((m for m in node.movements if m.origin == path[-1]), key=lambda m: sum(m.share)).destination
        if onward in path:
            return path
        path.append(onward)


def draw_space_time(layout: Layout, rows: Rows, path: list[str] | None = None) -> Figure:
    """Occupancy over time (s) and distance along `path` (m; default: the first origin's main way), of a recorder's rows."""
    links = path or main_path(layout)
    figure = _figure()
    axes = figure.subplots()
    field, times = rows["occupancy"] / 255.0, rows["time"]
    distance = 0.0
    picture: Any = None
    for link in links:
        length = layout.network.links[link].length
        extent = (float(times[0]), float(times[-1]), distance, distance + length)
        values = field[:, layout.slots(link)].T
        picture = axes.imshow(
            values,
            origin="lower",
            extent=extent,
            aspect="auto",
            vmin=0,
            vmax=1,
            cmap="inferno_r",
            interpolation="nearest",
        )
        distance += length
        axes.axhline(distance, color="0.7", linewidth=0.5)
    axes.set_ylim(0, distance)
    axes.set_xlabel("s")
    axes.set_ylabel(f"m along {' - '.join((links[0], links[-1]))}")
    figure.colorbar(picture, ax=axes, label="occupancy (1: cars stand)")
    return figure


def save_space_time(layout: Layout, rows: Rows, path: str | Path) -> None:
    """Write the space-time diagram as a PNG (or what the name's ending says)."""
    draw_space_time(layout, rows).savefig(path)
