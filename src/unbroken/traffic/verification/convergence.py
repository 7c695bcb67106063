"""Errors of `simulate_link` against exact solutions, and the orders at which they fall with the cell length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.single_link import simulate_link
from unbroken.traffic.verification.riemann import RiemannProblem

Floats = NDArray[np.float64]
LENGTH = 2000.0  # m
RHO_MAX, C = 0.14, 16.0  # veh/m, m/s


def same_w(left: tuple[float, float], rho: float, gamma: float) -> RiemannProblem:
    """A 1-wave without a contact: a shock or a fan from `left` to `rho` (veh/m)."""
    right = left[1] + C * ((left[0] / RHO_MAX) ** gamma - (rho / RHO_MAX) ** gamma)
    return RiemannProblem(left, (rho, right), RHO_MAX, C, gamma)


def problems(gamma: float = 1.0) -> dict[str, RiemannProblem]:
    """Each kind of solution, by name."""
    return {
        "shock": same_w((0.04, 10.0), 0.08, gamma),
        "rarefaction": same_w((0.10, 2.0), 0.04, gamma),
        "contact": RiemannProblem((0.06, 6.0), (0.03, 6.0), RHO_MAX, C, gamma),
        "shock and contact": RiemannProblem((0.03, 10.0), (0.10, 3.0), RHO_MAX, C, gamma),
        "discharge into vacuum": RiemannProblem((0.14, 0.0), (0.0, 0.0), RHO_MAX, C, gamma),
        "vacuum between": RiemannProblem((0.03, 1.0), (0.02, 12.0), RHO_MAX, C, gamma),
        "vacuum behind": RiemannProblem((0.0, 0.0), (0.05, 8.0), RHO_MAX, C, gamma),
    }


def orders(errors: Sequence[float]) -> Floats:
    """Order of convergence from each error to the next, of grids that are twice as fine."""
    values = np.asarray(errors)
    return np.asarray(np.log2(values[:-1] / values[1:]))


def simulated(problem: RiemannProblem, n: int, t: float) -> tuple[Floats, Floats, Floats]:
    """Faces (m), density (veh/m) and speed (m/s) of `problem` after `t` s on `n` cells of 2 km, an even number."""
    faces = np.linspace(-LENGTH / 2, LENGTH / 2, n + 1)
    left = faces[:-1] < 0
    rho = np.where(left, problem.left[0], problem.right[0])
    v = np.where(left, problem.left[1], problem.right[1])
    rho, v = simulate_link(rho, v, dx=LENGTH / n, duration=t, rho_max=problem.rho_max, c=problem.c, gamma=problem.gamma)
    return faces, rho, v


def riemann_error(problem: RiemannProblem, n: int) -> float:
    """Mean |rho - exact cell average| in veh/m, over seven times from 24 to 36 s: where in its cell a shock stands matters."""
    errors = []
    for t in np.linspace(24.0, 36.0, 7):
        faces, rho, _ = simulated(problem, n, float(t))
        errors.append(np.abs(rho - problem.averages(faces, float(t))).mean())
    return float(np.mean(errors))


def smooth_error(n: int, gamma: float = 1.0, t: float = 20.0, w: float = 13.0) -> float:
    """Mean |rho - exact| in veh/m of a sine wave with the same w everywhere on a ring of 1 km, before it breaks.

    Then w stays and rho is constant along lines dx/dt = w - (1 + gamma) p(rho). Averages by two-point Gauss quadrature.
    """
    length = 1000.0
    faces = np.linspace(0.0, length, n + 1)
    rho = _cell_means(lambda x: _wave(x, length), faces)
    v = w - C * (rho / RHO_MAX) ** gamma
    after, _ = simulate_link(
        rho,
        v,
        dx=length / n,
        duration=t,
        rho_max=RHO_MAX,
        c=C,
        gamma=gamma,
        boundary=("periodic", "periodic"),
    )
    exact = _cell_means(lambda x: _wave(_foot(x, length, gamma, t, w), length), faces)
    return float(np.abs(after - exact).mean())


def _wave(x: Floats, length: float) -> Floats:
    return np.asarray(0.05 + 0.02 * np.sin(2 * np.pi * x / length))


def _foot(x: Floats, length: float, gamma: float, t: float, w: float) -> Floats:
    """Where the line through (x, t) began: Newton's method."""
    foot = x.copy()
    for _ in range(60):
        rho = _wave(foot, length)
        slope = 0.02 * 2 * np.pi / length * np.cos(2 * np.pi * foot / length)
        speed = w - C * (1 + gamma) * (rho / RHO_MAX) ** gamma
        change = -C * (1 + gamma) * gamma * (rho / RHO_MAX) ** (gamma - 1) / RHO_MAX * slope
        foot -= (foot + speed * t - x) / (1 + change * t)
    return foot


def _cell_means(f: Callable[[Floats], Floats], faces: Floats) -> Floats:
    middle, half = (faces[:-1] + faces[1:]) / 2, np.diff(faces) / 2
    return np.asarray((f(middle - half / np.sqrt(3)) + f(middle + half / np.sqrt(3))) / 2)
