"""Numbers and names as people read them, the same in tables, pictures, pages and verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unbroken.validation.statistics import Estimate

QUICK = "Quick comparison: it proves nothing, whatever it shows."


def number(value: float, like: float | None = None) -> str:
    """About four significant digits, or as many decimals as `like` gets: `1,234`, `165.9`, `0.01235`."""
    size = abs(value if like is None else like)
    if size == 0.0 or not math.isfinite(size):
        return f"{value:.4g}"
    decimals = 3 - math.floor(math.log10(size))
    return f"{value:.3e}" if decimals > 7 else f"{value + 0.0:,.{max(decimals, 0)}f}"


def percent(value: float) -> str:
    """With its sign and one digit, without the unit: `+34.3`; 0 has no sign."""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0.0 else text


def apart(value: float, bound: float) -> str:
    """`value` with one digit, or with as many as it takes not to look like a `bound` that it differs from."""
    texts = (f"{value:.{digits}f}" for digits in range(1, 16))
    return next((text for text in texts if value == bound or float(text) != bound), repr(value))


def percent_interval(estimate: Estimate) -> str:
    """`+34.3 [+31.0, +37.6]`."""
    return _with_interval(*map(percent, (estimate.value, estimate.low, estimate.high)))


def number_interval(estimate: Estimate) -> str:
    """`165.9 [158.5, 173.3]`."""
    return _with_interval(*(number(x, estimate.value) for x in (estimate.value, estimate.low, estimate.high)))


def share(estimate: Estimate) -> str:
    """A share of 1 in %, with its interval: `85 % [71, 96]`."""
    value, low, high = (f"{100.0 * x:.0f}" for x in (estimate.value, estimate.low, estimate.high))
    return _with_interval(f"{value} %", low, high)


def _with_interval(value: str, low: str, high: str) -> str:
    # an interval without width is that of a single sample, and would look certain
    return value if low == high else f"{value} [{low}, {high}]"


def counted(n: int, noun: str) -> str:
    """`1 seed`, `20 seeds`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listed(seeds: Sequence[int]) -> str:
    """`0 to 4` for a stretch without gaps, else one by one."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
