"""C1: one link against exact solutions."""

import numpy as np
import pytest

from unbroken.errors import ConfigurationError
from unbroken.traffic import simulate_link

LENGTH = 2000.0


def fan_error(cells):
    """Mean |rho - exact| of a queue that discharges into an empty road for 30 s, c = 15 m/s, jam 0.14 veh/m."""
    dx = LENGTH / cells
    x = (np.arange(cells) + 0.5) * dx - LENGTH / 2
    queue = x < 0
    rho, _ = simulate_link(np.where(queue, 0.14, 0.0), 0.0 * x, dx=dx, duration=30.0, rho_max=0.14, c=15.0, gamma=1)
    return np.abs(rho - np.clip(0.07 * (1 - x / 30 / 15), 0, 0.14)).mean()


def test_a_queue_discharges_as_the_exact_fan():
    coarse, fine = fan_error(100), fan_error(400)
    assert fine < 3e-5
    assert np.log2(coarse / fine) / 2 > 0.9


def between_walls(*signals):
    """60 s of 40 cells of flowing traffic between walls with a signal in the middle: densities before and after, speeds after."""
    rho = np.full(40, 0.03)
    after, v = simulate_link(
        rho,
        np.full(40, 12.0),
        dx=25.0,
        duration=60.0,
        rho_max=0.14,
        c=16.0,
        gamma=1,
        boundary=("wall", "wall"),
        signals=signals,
    )
    return rho, after, v


def test_a_red_light_passes_exactly_nothing_and_the_queue_is_not_denser_than_jam():
    rho, after, v = between_walls((20, 0.0, 60.0))
    assert after[:20].sum() == pytest.approx(rho[:20].sum(), abs=1e-12)
    assert after[20:].sum() == pytest.approx(rho[20:].sum(), abs=1e-12)
    assert after.max() <= 0.14
    assert v.min() >= 0


@pytest.mark.parametrize("cut", [30.1, 30.3, 30.0])
def test_a_red_in_two_parts_without_a_gap_passes_nothing(cut):
    rho, after, _ = between_walls((20, 0, cut), (20, cut, 60))
    assert after[:20].sum() == pytest.approx(rho[:20].sum(), abs=1e-12)


@pytest.mark.parametrize(
    "arguments", [{"boundary": ("free", "open")}, {"gamma": 0.0}, {"c": -1.0}, {"signals": [(41, 0, 1)]}]
)
def test_what_makes_no_sense_is_refused(arguments):
    with pytest.raises(ConfigurationError):
        simulate_link(
            [0.1] * 40, [1.0] * 40, **{"dx": 25.0, "duration": 1.0, "rho_max": 0.14, "c": 15.0, "gamma": 1, **arguments}
        )


@pytest.mark.parametrize("red", [(5, 30.0, 0.0), (5, float("nan"), 30.0)])
def test_a_red_that_ends_before_it_begins_is_refused(red):
    with pytest.raises(ConfigurationError):
        simulate_link([0.05] * 20, [8.0] * 20, dx=25.0, duration=1.0, rho_max=0.14, c=16.0, gamma=1, signals=[red])
