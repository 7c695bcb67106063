"""Pressure, demand and supply of one class.

`x` is occupancy over the class's greatest occupancy, r / R (dimensionless, 1 = the class stands); `w`, `c` and speeds are in m/s.
Demand and supply are flows of `x`, in m/s. `gamma` None means 1 and compiles to closed forms; a number costs three powers a face.
Equations: Aw and Rascle, SIAM J. Appl. Math. 60:916 (2000); Zhang, Transp. Res. B 36:275 (2002); two classes as in Fan, Sun,
Piccoli, Seibold and Work, arXiv:1702.03624.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.scheme.compiling import kernel

Floats = NDArray[np.float64]


class Law(NamedTuple):
    """Both classes, motorcycles first; arrays of shape (2,) except for `w_law`. Made by `make_law`."""

    c: Floats  # m/s
    per_c: Floats
    greatest: Floats  # R
    per_greatest: Floats
    lengths: Floats  # m of a lane
    w_free: Floats  # m/s, of empty cells
    w_law: Floats  # (2, 5): c, rise, fall, critical, free speed of `equilibrium_w`
    share: Floats  # of the way to equilibrium in one step, 1 - exp(-dt / tau)
    gamma: Any  # None for 1


def make_law(
    c: Floats, greatest: Floats, lengths: Floats, w_free: Floats, w_law: Floats, share: Floats, gamma: float | None
) -> Law:
    """`Law` with its reciprocals."""
    return Law(c, 1.0 / c, greatest, 1.0 / greatest, lengths, w_free, w_law, share, gamma)


@kernel
def pressure(x, c, gamma):
    """p(x) = c x^gamma, the speed that occupancy takes away."""
    if gamma is None:
        return c * x
    else:  # numba compiles one branch: a bare return after the first would be compiled too
        return c * x**gamma


@kernel
def inverse_pressure(p, per_c, gamma):
    """x with p(x) = p; `per_c` is 1 / c (a product is several times faster than a division)."""
    if gamma is None:
        return p * per_c
    else:
        return (p * per_c) ** (1.0 / gamma)


@kernel
def critical(w, per_c, gamma):
    """x at which the flow x (w - p(x)) is greatest."""
    if gamma is None:
        return 0.5 * (w * per_c)
    else:
        return (w * per_c / (1.0 + gamma)) ** (1.0 / gamma)


@kernel
def speed(w, x, c, gamma):
    """v = max(0, w - p(x))."""
    return max(0.0, w - pressure(x, c, gamma))


@kernel
def demand(x, w, c, per_c, gamma):
    """The flow that wants to leave a state: rises to capacity at the critical occupancy and stays there."""
    limited = min(x, critical(w, per_c, gamma))
    return limited * (w - pressure(limited, c, gamma))


@kernel
def supply(w, v_ahead, c, per_c, gamma):
    """The flow of traffic with `w` that fits behind traffic moving at `v_ahead`; capacity where the road ahead is free.

    Behind it the arriving traffic takes on its speed, at the occupancy with w - p(x) = v_ahead.
    """
    x = max(inverse_pressure(max(0.0, w - v_ahead), per_c, gamma), critical(w, per_c, gamma))
    return x * (w - pressure(x, c, gamma))


@kernel
def equilibrium_w(x, limit, law, gamma):
    """w to which drivers relax: V_eq(x) + p(x), with V_eq capped by the speed limit.

    Rises from the free speed at x = 0 to `c` at the critical occupancy, falls to p at the standing occupancy, and equals p beyond
    it (V_eq = 0) up to `c` at x = 1; V_eq is never above the free speed. `law` is (c, rise, fall, critical, free speed): slopes of
    both sides in m/s.
    """
    c, rise, fall, turn, free = law
    own = min(c + rise * (x - turn), c - fall * (x - turn))
    p = pressure(x, c, gamma)
    return min(c, min(max(p, own), p + min(limit, free)))
