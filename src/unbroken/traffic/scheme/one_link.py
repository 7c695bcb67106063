"""A single homogeneous link in time, between boundaries of theory instead of nodes."""

from __future__ import annotations

import numpy as np

from unbroken.traffic.scheme.compiling import kernel
from unbroken.traffic.scheme.link import BOTH, complete, difference, fill_faces, relax_cells

PADS = 2  # at each end, so that a pad's neighbour to the inside and the outside are known and its face value is second order
ROUNDING = 1e-9  # of a step: what is open for less is red, as sums of times are not exact
FREE, WALL, PERIODIC, HELD = 0, 1, 2, 3


@kernel
def _fill_pads(cells, left, right, held):
    n = cells.shape[1]
    for row in range(4):
        for pad in range(PADS):
            if left == PERIODIC:
                cells[row, pad] = cells[row, n - 2 * PADS + pad]
                cells[row, n - PADS + pad] = cells[row, PADS + pad]
            else:
                cells[row, pad] = held[row] if left == HELD else cells[row, PADS]
                cells[row, n - PADS + pad] = cells[row, n - PADS - 1]


@kernel
def _close_faces(flux, left, right, signals, start, dt):
    """Scale fluxes by the part of the step in which each face is open: exactly zero at red and at walls."""
    n = flux.shape[1] - 1
    red = 0.0
    for s in range(signals.shape[0]):
        red += max(0.0, min(start + dt, signals[s, 2]) - max(start, signals[s, 1]))
        if s + 1 < signals.shape[0] and signals[s + 1, 0] == signals[s, 0]:
            continue  # rows of a face lie together and do not overlap: its reds add up
        opened = 1.0 - min(1.0, red / dt)
        red = 0.0
        if opened < ROUNDING:
            opened = 0.0
        for row in range(4):
            flux[row, PADS + int(signals[s, 0])] *= opened
    for row in range(4):
        if left == WALL:
            flux[row, PADS] = 0.0
        if right == WALL:
            flux[row, n - PADS] = 0.0


@kernel
def advance_link(cells, held, law, limit, boundary, signals, dt, dx, n_steps):
    """Advance `cells` (4, PADS + n + PADS) in place by `n_steps` steps of `dt`; `held` is the state upstream (HELD)."""
    n = cells.shape[1]
    left, right = boundary
    face = np.zeros((12, n))
    flux, flux_between = np.zeros((4, n + 1)), np.zeros((4, n + 1))
    between = np.zeros((4, n))
    dt_dx = np.zeros(n)
    dt_dx[PADS : n - PADS] = dt / dx
    for step in range(n_steps):
        start = step * dt
        _fill_pads(cells, left, right, held)
        fill_faces(cells, law, BOTH, face, flux)
        _close_faces(flux, left, right, signals, start, dt)
        for row in range(4):
            difference(cells[row], flux[row], dt_dx, between[row])
        _fill_pads(between, left, right, held)
        fill_faces(between, law, BOTH, face, flux_between)
        _close_faces(flux_between, left, right, signals, start, dt)
        for row in range(4):
            complete(cells[row], flux[row], flux_between[row], dt_dx)
        relax_cells(cells, limit, law, BOTH, face[10])
