"""Exact solutions of the Riemann problem of one class: two constant states that meet at x = 0, without relaxation.

Aw and Rascle, SIAM J. Appl. Math. 60:916 (2000), with p(rho) = c (rho / rho_max)^gamma. SI units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unbroken.errors import ConfigurationError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """A stretch of x / t in m/s: a constant state (`rho` veh/m, `v` m/s), or a 1-rarefaction where `rho` is None.

    In vacuum `rho` is 0 and `v` not a number.
    """

    begin: float
    end: float
    rho: float | None
    v: float = math.nan


@dataclass(frozen=True)
class RiemannProblem:
    """States (rho in veh/m, v in m/s) left and right of x = 0 at t = 0.

    A 1-wave joins the left state to the middle one, which has the left w and the right v: a shock where v falls, a fan where it
    rises. A contact, moving at the right v, joins that to the right state. Where the right v is above the left w the fan ends in
    vacuum, which the right state leaves behind.

    Raises:
        ConfigurationError: negative states, or c, gamma, rho_max not above 0.
    """

    left: tuple[float, float]
    right: tuple[float, float]
    rho_max: float = 0.14
    c: float = 16.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if min(*self.left, *self.right) < 0 or min(self.rho_max, self.c, self.gamma) <= 0:
            raise ConfigurationError("states must be at least 0, and rho_max, c and gamma above 0")

    def pressure(self, rho: float) -> float:
        """p in m/s."""
        return float(self.c * (rho / self.rho_max) ** self.gamma)

    def density(self, pressure: ArrayLike) -> Floats:
        """rho in veh/m at which p is `pressure`, of any shape."""
        return np.asarray(self.rho_max * (np.asarray(pressure, dtype=np.float64) / self.c) ** (1.0 / self.gamma))

    @property
    def w(self) -> float:
        """w = v + p of the left state, m/s."""
        return self.left[1] + self.pressure(self.left[0])

    def characteristic(self, rho: float, v: float) -> float:
        """Speed of small 1-waves, v - rho p'(rho), m/s."""
        return v - self.gamma * self.pressure(rho)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The solution from x / t of minus to plus infinity."""
        (rho_left, _), (rho_right, v_right) = self.left, self.right
        if rho_left == 0.0 and rho_right == 0.0:
            return (Piece(-math.inf, math.inf, 0.0),)
        if rho_left == 0.0:
            return (Piece(-math.inf, v_right, 0.0), Piece(v_right, math.inf, rho_right, v_right))
        if rho_right == 0.0:
            return (*self._fan(0.0, self.w), Piece(self.w, math.inf, 0.0))
        last = Piece(v_right, math.inf, rho_right, v_right)
        if v_right >= self.w:
            return (*self._fan(0.0, self.w), Piece(self.w, v_right, 0.0), last)
        return (*self._to_middle(float(self.density(self.w - v_right)), v_right), last)

    def _fan(self, rho: float, v: float) -> tuple[Piece, Piece]:
        """The left state and the rarefaction from it down to (rho, v)."""
        begin = self.characteristic(*self.left)
        return Piece(-math.inf, begin, *self.left), Piece(begin, self.characteristic(rho, v), None)

    def _to_middle(self, rho: float, v: float) -> tuple[Piece, ...]:
        rho_left, v_left = self.left
        if v > v_left:
            fan = self._fan(rho, v)
            return (*fan, Piece(fan[1].end, v, rho, v))
        if v == v_left or rho == rho_left:  # one implies the other but for rounding
            return (Piece(-math.inf, v, rho_left, v_left),)
        shock = (rho * v - rho_left * v_left) / (rho - rho_left)
        return Piece(-math.inf, shock, rho_left, v_left), Piece(shock, v, rho, v)

    def at(self, x_over_t: ArrayLike) -> tuple[Floats, Floats]:
        """Density (veh/m) and speed (m/s; not a number in vacuum) at points of x / t in m/s."""
        xi = np.asarray(x_over_t, dtype=np.float64)
        rho, v = np.zeros_like(xi), np.full_like(xi, np.nan)
        for piece in self.pieces:
            inside = (xi >= piece.begin) & (xi < piece.end)
            if piece.rho is None:
                p = (self.w - xi[inside]) / (1.0 + self.gamma)
                rho[inside], v[inside] = self.density(p), self.w - p
            else:
                rho[inside], v[inside] = piece.rho, piece.v
        return rho, v

    def averages(self, faces: ArrayLike, t: float) -> Floats:
        """Exact mean density (veh/m) between faces (m, rising, shape (n + 1,)) at `t` s, shape (n,)."""
        x = np.asarray(faces, dtype=np.float64)
        if t == 0.0:
            left = np.clip(-x[:-1] / np.diff(x), 0.0, 1.0)
            return np.asarray(left * self.left[0] + (1.0 - left) * self.right[0])
        total = np.zeros(len(x) - 1)
        for piece in self.pieces:
            xi = np.clip(x / t, piece.begin, piece.end)
            total += piece.rho * np.diff(xi) if piece.rho is not None else np.diff(self._fan_integral(xi))
        return np.asarray(total * t / np.diff(x))

    def _fan_integral(self, xi: Floats) -> Floats:
        """Antiderivative of the fan's density over x / t."""
        u = np.maximum(0.0, self.w - xi) / ((1.0 + self.gamma) * self.c)
        return np.asarray(-self.gamma * self.c * self.rho_max * u ** (1.0 + 1.0 / self.gamma))
