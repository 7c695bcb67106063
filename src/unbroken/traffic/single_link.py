"""One homogeneous link as a function, so that anyone can test the scheme against theory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unbroken.traffic.checking import require

Floats = NDArray[np.float64]
COURANT = 0.45  # of dx / fastest speed; positivity and the maximum principle on w are proved up to 0.5


def simulate_link(
    rho: ArrayLike,
    v: ArrayLike,
    *,
    dx: float,
    duration: float,
    rho_max: ArrayLike,
    c: ArrayLike,
    gamma: float,
    tau: ArrayLike = math.inf,
    boundary: tuple[str, str] = ("free", "free"),
    inflow: tuple[ArrayLike, ArrayLike] | None = None,
    signals: Sequence[tuple[int, float, float]] = (),
    max_occupancy: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """Advance one link by `duration` seconds with the kernel that networks run.

    The model is Aw-Rascle-Zhang with p(x) = c x^gamma and w = v + p(x); for one class x = rho / rho_max.

    Args:
        rho: Cell averages of density, veh/m, shape (n,); for two classes (2, n).
        v: Speeds, m/s, of the same shape, at least 0. In an empty cell v has no meaning and is ignored.
        dx: Cell length, m.
        duration: Time to simulate, s.
        rho_max: Density at which a class stands when it is alone, veh/m; for two classes a pair.
        c: Pressure at rho_max, m/s, of each class. It is not checked against v: v + p > c makes queues denser than rho_max.
        gamma: Exponent of the pressure, above 0; 1 is fastest.
        tau: Relaxation time, s, toward w = c, the equilibrium V = c (1 - x^gamma). Infinite: no relaxation.
        boundary: For each end "free" (nothing hinders), "wall" (nothing passes) or "periodic" (both).
        inflow: Density and speed held upstream of the left end instead of `boundary[0]`.
        signals: (face, red from, red until): nothing passes the face between cells face - 1 and face in that time, s.
        max_occupancy: For two classes R, at which each stands, in the units of r = sum of R_k rho_k / rho_max_k; x_k = r / R_k.

    Returns:
        Densities (veh/m) and speeds (m/s) after `duration`, of the shape of `rho`. In empty cells v is the free speed, the
        greatest w.

    Raises:
        ConfigurationError: shapes that do not fit, negative or infinite values, unknown boundaries, faces outside the link.

    The step is fixed in advance: the longest that divides `duration` within 0.45 dx over the fastest speed. Thread-safe.
    """
    link = _Link(rho, v, rho_max, c, gamma, max_occupancy)
    sides = _boundaries(boundary, inflow is not None)
    require(dx > 0 and math.isfinite(dx), f"dx must be above 0 m, not {dx}")
    require(duration >= 0 and math.isfinite(duration), f"duration must be at least 0 s, not {duration}")
    held, held_w = link.held(inflow)
    w_free = np.maximum(link.c, np.maximum(link.w.max(axis=1, initial=0.0), held_w))
    link.advance(held, w_free, _both(tau, "tau"), sides, link.reds(signals, boundary[0] == "periodic"), dx, duration)
    return link.result(w_free)


class _Link:
    """Arguments of `simulate_link` as the arrays of the kernel: one class is two, of which the second has no vehicles."""

    def __init__(self, rho: Any, v: Any, rho_max: Any, c: Any, gamma: float, max_occupancy: Any) -> None:
        density, speed = np.array(rho, dtype=np.float64), np.array(v, dtype=np.float64)
        require(density.shape == speed.shape, f"rho has shape {density.shape}, v {speed.shape}: they must be equal")
        self.single = density.ndim == 1
        require(
            self.single or (density.ndim == 2 and len(density) == 2), f"rho must be (n,) or (2, n), not {density.shape}"
        )
        require(density.shape[-1] > 0, "rho has no cells")
        self.greatest = _both(1.0 if max_occupancy is None else max_occupancy, "max_occupancy")
        self.c, self.rho_max = _both(c, "c"), _both(rho_max, "rho_max")
        finite = [self.greatest, self.c, self.rho_max, np.array([gamma])]
        require(all(np.isfinite(a).all() for a in finite), "rho_max, c, gamma and max_occupancy must be finite")
        self.lengths = self.greatest / self.rho_max
        self.gamma = None if gamma == 1 else _above_zero(gamma, "gamma")
        self.rho, self.w = self._two(density), self._two(speed)
        for name, values in (("rho", self.rho), ("v", self.w)):
            require(bool(np.isfinite(values).all() and (values >= 0).all()), f"{name} must be finite and at least 0")
        self.w = np.where(self.rho > 0, self.w + self._pressure(self.lengths @ self.rho), 0.0)

    def _two(self, values: Floats) -> Floats:
        return np.stack([values, np.zeros_like(values)]) if self.single else values

    def _pressure(self, r: Floats) -> Floats:
        exponent = 1.0 if self.gamma is None else self.gamma
        return np.stack([self.c[k] * (r / self.greatest[k]) ** exponent for k in range(2)])

    def held(self, inflow: tuple[Any, Any] | None) -> tuple[Floats, Floats]:
        """rho and y of both classes held upstream, and their w."""
        if inflow is None:
            return np.zeros(4), np.zeros(2)
        values = [np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in inflow]
        expected = 1 if self.single else 2
        for value in values:
            require(value.shape == (expected,), f"inflow must be (rho, v) with {expected} value(s) each")
            require(bool(np.isfinite(value).all() and (value >= 0).all()), "inflow must be finite and at least 0")
        rho, v = (self._two(value)[:, 0] if self.single else value for value in values)
        w = v + self._pressure(np.atleast_1d(self.lengths @ rho))[:, 0]
        return np.concatenate([rho, rho * w]), np.where(rho > 0, w, 0.0)

    def reds(self, signals: Sequence[tuple[int, float, float]], periodic: bool) -> Floats:
        table = np.array(list(signals), dtype=np.float64).reshape(-1, 3)
        n = self.rho.shape[1]
        require(bool(((table[:, 0] >= 0) & (table[:, 0] <= n)).all()), f"a signal's face must be from 0 to {n}")
        require(bool((table[:, 0] == np.floor(table[:, 0])).all()), "a signal's face must be a whole number")
        require(bool((table[:, 1] <= table[:, 2]).all()), "a signal is red from a time until a later one")
        if periodic:
            ends = table[(table[:, 0] == 0) | (table[:, 0] == n)]  # one place, at which flows are computed twice
            table = np.concatenate([table, np.column_stack([n - ends[:, 0], ends[:, 1:]])])
        return _united(table)

    def advance(
        self,
        held: Floats,
        w_free: Floats,
        tau: Floats,
        sides: tuple[int, int],
        reds: Floats,
        dx: float,
        duration: float,
    ) -> None:
        from unbroken.traffic.scheme.law import make_law
        from unbroken.traffic.scheme.one_link import PADS, advance_link

        exponent = 1.0 if self.gamma is None else self.gamma
        fastest = max(1.0, exponent) * float(w_free.max())  # of v - x p'(x) and v, with w never above w_free
        n_steps = max(1, math.ceil(duration * fastest / (COURANT * dx))) if duration else 0
        if n_steps == 0:
            return
        dt = duration / n_steps
        cells = np.zeros((4, self.rho.shape[1] + 2 * PADS))
        cells[:2, PADS:-PADS], cells[2:, PADS:-PADS] = self.rho, self.rho * self.w
        w_law = np.array([[c, 0.0, 0.0, 1.0, np.inf] for c in self.c])
        law = make_law(self.c, self.greatest, self.lengths, w_free, w_law, -np.expm1(-dt / tau), self.gamma)
        advance_link(cells, held, law, np.full(cells.shape[1], np.inf), sides, reds, dt, dx, n_steps)
        self.rho = cells[:2, PADS:-PADS].copy()
        filled = self.rho > 0
        self.w = np.where(filled, cells[2:, PADS:-PADS] / np.where(filled, self.rho, 1.0), self.w)

    def result(self, w_free: Floats) -> tuple[Floats, Floats]:
        w = np.where(self.rho > 0, self.w, w_free[:, None])
        v = np.maximum(0.0, w - self._pressure(self.lengths @ self.rho))
        return (self.rho[0], v[0]) if self.single else (self.rho, v)


def _united(reds: Floats) -> Floats:
    """Rows (face, from, until) by face and time, those that touch or overlap as one."""
    rows: list[list[float]] = []
    for face, begin, end in sorted(map(tuple, reds.tolist())):
        if rows and rows[-1][0] == face and begin <= rows[-1][2]:
            rows[-1][2] = max(rows[-1][2], end)
        else:
            rows.append([face, begin, end])
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _boundaries(boundary: tuple[str, str], held: bool) -> tuple[int, int]:
    codes = {"free": 0, "wall": 1, "periodic": 2}
    require(
        len(boundary) == 2 and all(side in codes for side in boundary),
        f'boundary takes "free", "wall", "periodic", not {boundary}',
    )
    periodic = [side == "periodic" for side in boundary]
    require(all(periodic) or not any(periodic), "a periodic link is periodic at both ends")
    require(not (held and periodic[0]), "a periodic link has no inflow")
    return (3 if held else codes[boundary[0]]), codes[boundary[1]]


def _both(value: Any, name: str) -> Floats:
    values = np.broadcast_to(np.asarray(value, dtype=np.float64), (2,)).copy()
    require(bool((values > 0).all()), f"{name} must be above 0")
    return values


def _above_zero(value: float, name: str) -> float:
    require(value > 0 and math.isfinite(value), f"{name} must be above 0, not {value}")
    return float(value)
