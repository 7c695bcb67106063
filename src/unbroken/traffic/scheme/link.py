"""Cells and faces of links: reconstruction, fluxes, update, relaxation.

All links of a network lie in one row of slots, each between two pads. Pads take part in every loop, so that loops stay free of
branches, but never change: their `dt_dx` is zero. Face f lies between slot f - 1 and slot f. Densities and fluxes are per lane.
"""

from __future__ import annotations

from unbroken.traffic.scheme.compiling import kernel
from unbroken.traffic.scheme.law import demand, equilibrium_w, speed, supply

# Below this density (veh/m) a cell has no memory of its w: y / rho would be a quotient of numbers without digits.
EMPTY = 1e-200
# Flows below this (veh/s) do not cross a face. Cells that drain would otherwise decay into denormal numbers, which cost a
# hundredfold of time; what does not leave stays where it is, so nothing is lost.
TRICKLE = 1e-40
BOTH = (0, 2)  # `classes` where both are there


@kernel
def _minmod(a, b):
    return max(0.0, min(a, b)) + min(0.0, max(a, b))


@kernel
def _monotonised_central(a, b):
    """van Leer's limiter (J. Comput. Phys. 23:276, 1977): at most twice the smaller slope: face values stay between cells."""
    mean = 0.5 * (a + b)
    return max(0.0, min(2.0 * a, 2.0 * b, mean)) + min(0.0, max(2.0 * a, 2.0 * b, mean))


@kernel
def slopes(first, second, lengths, most, slope_first, slope_second):
    """Half the slopes of both densities in each slot, made less steep where a face would be denser than `most`, at which all stand.

    Each class's face values are between its cells, but their sum need not be: motorcycles may be flat where cars rise. Occupancy
    of a cell stays below `most` only if that of both of its faces does (scaling as Zhang and Shu, J. Comput. Phys. 229:3091, 2010).
    """
    length_first, length_second = lengths[0], lengths[1]
    for i in range(1, first.shape[0] - 1):
        here, there = first[i], second[i]
        a = 0.5 * _monotonised_central(here - first[i - 1], first[i + 1] - here)
        b = 0.5 * _monotonised_central(there - second[i - 1], second[i + 1] - there)
        room = max(0.0, most - (length_first * here + length_second * there))
        kept = min(1.0, room / max(abs(length_first * a + length_second * b), EMPTY))
        slope_first[i] = a * kept
        slope_second[i] = b * kept


@kernel
def reconstruct(rho, y, w_free, w, rho_left, rho_right, w_left, w_right):
    """Values at the left and right face of each slot, so that their means return rho and y; `rho_right` comes as half the slope.

    The mean of w is shifted by a b / rho for that: then a step keeps w between its neighbours' values and densities positive while
    dt w <= dx / 2. `w` is scratch.
    """
    n = rho.shape[0]
    for i in range(n):
        quotient = y[i] / max(rho[i], EMPTY)
        w[i] = quotient if rho[i] > EMPTY else w_free
    for i in range(1, n - 1):
        here, a = rho[i], rho_right[i]
        b = 0.5 * _minmod(w[i] - w[i - 1], w[i + 1] - w[i])
        middle = w[i] - a * b / max(here, EMPTY)
        rho_left[i] = here - a
        rho_right[i] = here + a
        w_left[i] = middle - b
        w_right[i] = middle + b


@kernel
def occupancy(first, second, lengths, total):
    """r = sum over classes of length x density."""
    length_first, length_second = lengths[0], lengths[1]
    for i in range(total.shape[0]):
        total[i] = length_first * first[i] + length_second * second[i]


@kernel
def face_flux(rho_right, w_left, w_right, r_left, r_right, law, k, flux, w_flux):
    """Fluxes of one class over every inner face: its share of the upstream occupancy times the smaller of demand and supply."""
    c, per_c, per_greatest, gamma = law.c[k], law.per_c[k], law.per_greatest[k], law.gamma
    for f in range(1, rho_right.shape[0]):
        w = w_right[f - 1]
        x = r_right[f - 1] * per_greatest
        ahead = speed(w_left[f], r_left[f] * per_greatest, c, gamma)
        flow = min(demand(x, w, c, per_c, gamma), supply(w, ahead, c, per_c, gamma))
        passing = max(0.0, rho_right[f - 1] / max(x, EMPTY) * flow - TRICKLE)
        flux[f] = passing
        w_flux[f] = w * passing


@kernel
def difference(old, flux, dt_dx, new):
    """new = old + dt/dx (inflow - outflow)."""
    for i in range(old.shape[0]):
        new[i] = old[i] + dt_dx[i] * (flux[i] - flux[i + 1])


@kernel
def complete(values, first, second, dt_dx):
    """Advance `values` in place by the mean of both stages' fluxes."""
    for i in range(values.shape[0]):
        inflow, outflow = 0.5 * (first[i] + second[i]), 0.5 * (first[i + 1] + second[i + 1])
        values[i] += dt_dx[i] * (inflow - outflow)


@kernel
def complete_counted(rho, first, second, dt_dx, dt, passed, present):
    """As `complete` for a density; adds to what has passed each face and to the time integral of density in the same pass."""
    n = rho.shape[0]
    for i in range(n):
        inflow, outflow = 0.5 * (first[i] + second[i]), 0.5 * (first[i + 1] + second[i + 1])
        after = rho[i] + dt_dx[i] * (inflow - outflow)
        rho[i] = after
        passed[i] += dt * inflow
        present[i] += dt * after
    passed[n] += dt * (0.5 * (first[n] + second[n]))


@kernel
def relax(rho, y, r, limit, law, k):
    """Exact exponential relaxation of w at fixed density."""
    per_greatest, w_law, share, gamma = law.per_greatest[k], law.w_law[k], law.share[k], law.gamma
    for i in range(rho.shape[0]):
        w = equilibrium_w(r[i] * per_greatest, limit[i], w_law, gamma)
        y[i] += share * (rho[i] * w - y[i])


@kernel
def fill_faces(cells, law, classes, face, flux):
    """Everything of one stage inside links: `face` (12, slots) gets face values, `flux` (4, slots + 1) the fluxes.

    `cells` is (4, slots): densities of both classes, then their y = rho w. `classes` is (first, last + 1) of those that are there:
    rows and fluxes of the other stay as they are, zero. Rows of `face`: per class rho left, rho right, w left,
    w right, w; then occupancy left and right.
    """
    most = max(law.greatest[0], law.greatest[1])
    slopes(cells[0], cells[1], law.lengths, most, face[1], face[6])
    for k in range(classes[0], classes[1]):
        o = 5 * k
        reconstruct(cells[k], cells[2 + k], law.w_free[k], face[o + 4], face[o], face[o + 1], face[o + 2], face[o + 3])
    occupancy(face[0], face[5], law.lengths, face[10])
    occupancy(face[1], face[6], law.lengths, face[11])
    for k in range(classes[0], classes[1]):
        o = 5 * k
        face_flux(face[o + 1], face[o + 2], face[o + 3], face[10], face[11], law, k, flux[k], flux[2 + k])


@kernel
def relax_cells(cells, limit, law, classes, r):
    """Relax the classes that are there; `r` is scratch."""
    occupancy(cells[0], cells[1], law.lengths, r)
    for k in range(classes[0], classes[1]):
        if law.share[k] > 0.0:
            relax(cells[k], cells[2 + k], r, limit, law, k)
