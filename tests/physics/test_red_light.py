"""C1: a red light on a road without relaxation, against the exact shock, fan and time to clear."""

import numpy as np
import pytest

from unbroken.traffic import simulate_link
from unbroken.traffic.verification.experiments import red_light


def test_tail_discharge_and_clearing_are_exact():
    """By hand: w = 12 + 16 * 0.02 / 0.14; queue 0.125 veh/m; tail -0.24 / 0.105 m/s; capacity w^2 0.14 / (4 * 16)."""
    result = red_light(cell=5.0)
    w = 12.0 + 16.0 / 7
    assert result.tail_speed[1] == pytest.approx(-0.24 / (w * 0.14 / 16 - 0.02))
    assert result.tail_speed[0] == pytest.approx(result.tail_speed[1], rel=0.02)
    capacity = w**2 * 0.14 / 64
    assert result.clear_time[0] == pytest.approx(40.0 * capacity / (capacity - 0.24), rel=1e-3)
    assert result.fan_error < 0.002


def test_the_default_grid_is_near():
    result = red_light(cell=25.0)
    assert result.tail_speed[0] == pytest.approx(result.tail_speed[1], rel=0.03)
    assert result.clear_time[0] == pytest.approx(result.clear_time[1], rel=1e-3)
    assert result.fan_error < 0.01


@pytest.mark.parametrize("cell", [5.0, 25.0])
def test_red_lets_nothing_through(cell):
    assert red_light(cell=cell).leaked < 1e-12


def test_density_never_exceeds_that_of_the_queue():
    result = red_light()
    w = 12.0 + 16.0 / 7
    assert result.history.max() <= 0.14 * w / 16 * (1 + 1e-12)


def test_relaxation_reaches_greenshields_flow():
    """V = c (1 - rho / rho_max), whatever the first speed; exponentially, with tau."""
    rho, v = np.full(20, 0.05), np.full(20, 2.0)
    arguments = {"dx": 25.0, "rho_max": 0.14, "c": 16.0, "gamma": 1, "tau": 8.0, "boundary": ("periodic", "periodic")}
    equilibrium = 16.0 * (1 - 0.05 / 0.14)
    for t in (4.0, 8.0, 80.0):
        after, speed = simulate_link(rho, v, duration=t, **arguments)
        assert after == pytest.approx(rho, rel=1e-12)
        assert speed == pytest.approx(equilibrium + (2.0 - equilibrium) * np.exp(-t / 8.0), rel=1e-12)
