"""C1: what holds on one link whatever the data: conservation per class, positivity, w within its data, no queue denser than jam."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unbroken.traffic import CAR, MOTORCYCLE, simulate_link

CLASSES = (MOTORCYCLE, CAR)
C = np.array([k.pressure for k in CLASSES])[:, None]
R = np.array([k.max_occupancy for k in CLASSES])[:, None]
LENGTHS = np.array([k.length for k in CLASSES])
JAM = R[:, 0] / LENGTHS
ROUNDING = 1e-11
GAMMAS = st.sampled_from([1.0, 2.0, 1.5])
unit = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
share = st.one_of(
    st.sampled_from([0.0, 1e-30, 1e-250, 1.0]), st.floats(0, 1)
)  # of jam occupancy, or of motorcycles in it
cells = st.lists(st.tuples(share, share, unit, unit), min_size=1, max_size=16)
walls = st.sampled_from([("wall", "wall"), ("periodic", "periodic")])
durations = st.sampled_from([0.6, 3.0, 30.0, 120.0])


@st.composite
def reds(draw, n):
    one = st.tuples(st.integers(0, n), st.floats(0, 60), st.floats(0, 60))
    return [(face, begin, begin + length) for face, begin, length in draw(st.lists(one, max_size=3))]


def two_classes(drawn, gamma):
    """rho, v and w of drawn cells: occupancy up to 1.3, w up to the pressure where all stand."""
    r, moto, *fractions = np.array(drawn).T
    r = 1.3 * r
    rho = np.stack([r * moto, r * (1 - moto)]) / LENGTHS[:, None]
    pressure = C * (LENGTHS @ rho / R) ** gamma
    v = np.maximum(0.0, np.stack(fractions) * C - pressure)
    return rho, v, v + pressure


def one_class(drawn, gamma):
    x, _, fraction, _ = np.array(drawn).T
    pressure = 16.0 * x**gamma
    v = np.maximum(0.0, 16.0 * fraction - pressure)
    return 0.14 * x, v, v + pressure


def run(rho, v, gamma, duration, **arguments):
    return simulate_link(
        rho, v, dx=25.0, duration=duration, rho_max=JAM, c=C[:, 0], gamma=gamma, max_occupancy=R[:, 0], **arguments
    )


def speeds_of_origin(rho, v, gamma):
    return v + C * (LENGTHS @ rho / R) ** gamma


@given(drawn=cells, gamma=GAMMAS, boundary=walls, duration=durations, data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_closed_link_keeps_every_vehicle_and_w_of_each_class(drawn, gamma, boundary, duration, data):
    rho, v, w = two_classes(drawn, gamma)
    after, speed = run(rho, v, gamma, duration, boundary=boundary, signals=data.draw(reds(len(drawn))))
    assert np.abs(after.sum(axis=1) - rho.sum(axis=1)).max() * 25.0 < 1e-9
    moving = speed > 0  # where vehicles stand v + p is more than w
    if moving[after > 0].all():
        momentum = (after * speeds_of_origin(after, speed, gamma)).sum(axis=1)
        assert np.abs(momentum - (rho * w).sum(axis=1)).max() * 25.0 < 1e-9


@given(
    drawn=cells,
    gamma=GAMMAS,
    left=st.sampled_from(["free", "wall", "held"]),
    right=st.sampled_from(["free", "wall"]),
    duration=durations,
    tau=st.sampled_from([math.inf, 8.0, 0.1]),
    data=st.data(),
)
@settings(deadline=None, max_examples=250)
def test_two_classes_stay_positive_within_their_w_and_below_jam(drawn, gamma, left, right, duration, tau, data):
    rho, v, w = two_classes(drawn, gamma)
    arguments = {"boundary": ("free" if left == "held" else left, right), "tau": tau}
    if left == "held":
        rho_in, v_in, w_in = two_classes([data.draw(st.tuples(share, share, unit, unit))], gamma)
        arguments["inflow"] = (rho_in[:, 0], v_in[:, 0])
        rho_all, w_all = np.hstack([rho, rho_in]), np.hstack([w, w_in])
    else:
        rho_all, w_all = rho, w
    after, speed = run(rho, v, gamma, duration, signals=data.draw(reds(len(drawn))), **arguments)
    assert np.isfinite(after).all()
    assert (after >= 0).all()
    assert (speed >= 0).all()
    assert (LENGTHS @ after).max() <= 1.3 + ROUNDING
    for k in range(2):
        moving = (after[k] > 0) & (speed[k] > 0)
        own = speeds_of_origin(after, speed, gamma)[k][moving]
        present = w_all[k][rho_all[k] > 0]
        # an empty road has the free speed: max(c, all w); relaxation is toward c
        highest = max(C[k, 0], present.max(initial=0.0))
        lowest = present.min(initial=highest if math.isinf(tau) else C[k, 0])
        assert own.max(initial=0.0) <= highest + 1e-9
        if moving.any():
            assert own.min() >= lowest - 1e-9


@given(drawn=cells, gamma=GAMMAS, boundary=walls, duration=durations, data=st.data())
@settings(deadline=None, max_examples=100)
def test_one_class_never_queues_denser_than_jam(drawn, gamma, boundary, duration, data):
    rho, v, _ = one_class(drawn, gamma)
    signals = data.draw(reds(len(drawn)))
    after, speed = simulate_link(
        rho, v, dx=25.0, duration=duration, rho_max=0.14, c=16.0, gamma=gamma, boundary=boundary, signals=signals
    )
    assert (after >= 0).all()
    assert after.max() <= 0.14 * (1 + ROUNDING)
    assert (speed >= 0).all()


@given(drawn=cells, gamma=GAMMAS, face=st.integers(0, 16), data=st.data())
@settings(deadline=None, max_examples=60)
def test_red_passes_exactly_nothing_whatever_the_states(drawn, gamma, face, data):
    rho, v, _ = two_classes(drawn, gamma)
    face = min(face, len(drawn))
    after, _ = run(rho, v, gamma, 30.0, boundary=("wall", "wall"), signals=[(face, 0.0, 30.0)])
    for part in (slice(None, face), slice(face, None)):
        assert after[:, part].sum(axis=1) == pytest.approx(rho[:, part].sum(axis=1), rel=1e-13, abs=1e-15)
        empty = (rho[:, part] == 0).all(axis=1)
        assert (after[:, part][empty] == 0).all()


@given(drawn=cells, gamma=GAMMAS, boundary=walls, duration=durations)
@settings(deadline=None, max_examples=60)
def test_two_classes_of_which_one_is_absent_are_one_class(drawn, gamma, boundary, duration):
    """The absent class's parameters must not matter, apart from the step: it has the same c here."""
    rho, v, _ = one_class(drawn, gamma)
    alone, alone_v = simulate_link(
        rho, v, dx=25.0, duration=duration, rho_max=0.14, c=16.0, gamma=gamma, boundary=boundary
    )
    both, both_v = simulate_link(
        np.stack([np.zeros_like(rho), rho]),
        np.stack([np.zeros_like(v), v]),
        dx=25.0,
        duration=duration,
        rho_max=[0.6, 0.14],
        c=16.0,
        gamma=gamma,
        boundary=boundary,
        max_occupancy=[1.3, 1.0],
    )
    assert both[0].max() == 0.0
    np.testing.assert_allclose(both[1], alone, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(both_v[1], alone_v, rtol=1e-6, atol=1e-9)


def test_a_mixed_queue_before_which_cars_rise_stays_below_jam():
    """Face values of both classes are each between their cells; at the second cell they would add up to 1.6."""
    r = np.array([[1.0, 1.0, 0.7, 0.7], [0.0, 0.3, 0.6, 0.6]])
    rho = r / LENGTHS[:, None]
    v = np.maximum(0.0, C - C * r.sum(axis=0) / R)
    after, _ = run(rho, v, 1.0, 0.6, boundary=("wall", "wall"))
    assert (LENGTHS @ after).max() <= 1.3 + ROUNDING


@pytest.mark.parametrize("face", [0, 10])
def test_red_at_the_seam_of_a_ring_holds_both_of_its_ends(face):
    after, _ = simulate_link(
        np.full(10, 0.05),
        np.full(10, 8.0),
        dx=25.0,
        duration=30.0,
        rho_max=0.14,
        c=16.0,
        gamma=1,
        boundary=("periodic", "periodic"),
        signals=[(face, 0.0, 20.0)],
    )
    assert after.sum() == pytest.approx(0.5, abs=1e-12)


def test_speed_in_an_empty_cell_has_no_meaning():
    runs = [
        simulate_link([0.05, 0.0], [8.0, v], dx=25.0, duration=3.0, rho_max=0.14, c=16.0, gamma=1) for v in (0.0, 1e3)
    ]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
