"""C1: exact solutions of the Riemann problem, checked by themselves, and how `simulate_link` converges to them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unbroken.errors import ConfigurationError
from unbroken.traffic.verification.convergence import orders, problems, riemann_error, simulated, smooth_error
from unbroken.traffic.verification.riemann import RiemannProblem

states = st.tuples(st.floats(0.001, 0.14), st.floats(0, 20))


def jump_balance(problem, speed, before, after):
    """Rankine-Hugoniot for mass and y across a discontinuity of `speed`."""
    fluxes, amounts = [], []
    for rho, v in (before, after):
        w = v + problem.pressure(rho)
        fluxes.append(np.array([rho * v, rho * w * v]))
        amounts.append(np.array([rho, rho * w]))
    return fluxes[1] - fluxes[0] - speed * (amounts[1] - amounts[0])


@given(left=states, right=states, gamma=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]))
@settings(deadline=None, max_examples=200)
def test_every_solution_obeys_the_jump_conditions_and_the_fan_is_continuous(left, right, gamma):
    problem = RiemannProblem(left, right, gamma=gamma)
    for before, after in zip(problem.pieces, problem.pieces[1:], strict=False):
        assert before.end == pytest.approx(after.begin)
        assert before.begin <= before.end + 1e-9
        place = before.end
        sides = [tuple(float(a[0]) for a in problem.at([place + e])) for e in (-1e-9, 1e-9)]
        if None in (before.rho, after.rho):
            assume(abs(problem.w - right[1]) > 1e-6)
            np.testing.assert_allclose(sides[0][0], sides[1][0], atol=1e-4)
        elif 0.0 not in (before.rho, after.rho):
            np.testing.assert_allclose(jump_balance(problem, place, *sides), 0.0, atol=1e-9)


@given(left=states, right=states, gamma=st.sampled_from([0.5, 1.0, 1.5, 2.0]))
@settings(deadline=None, max_examples=100)
def test_averages_hold_the_vehicles_of_the_initial_states_and_their_fluxes(left, right, gamma):
    problem = RiemannProblem(left, right, gamma=gamma)
    reach = 150.0 * (1 + gamma)
    faces, t = np.linspace(-reach * 10, reach * 10, 401), 10.0
    after = (problem.averages(faces, t) * np.diff(faces)).sum()
    before = (problem.averages(faces, 0.0) * np.diff(faces)).sum()
    assert after - before == pytest.approx(t * (left[0] * left[1] - right[0] * right[1]), abs=1e-8)


def test_a_queue_that_discharges_by_hand():
    """gamma = 1, jam 0.14 veh/m, c = 16 m/s: half the jam density at the stop line, c / 4 of it flows, the head runs at c."""
    rho, v = RiemannProblem((0.14, 0.0), (0.0, 0.0)).at([-17.0, -16.0, 0.0, 8.0, 16.5])
    assert rho == pytest.approx([0.14, 0.14, 0.07, 0.035, 0.0])
    assert v[:4] == pytest.approx([0.0, 0.0, 8.0, 12.0])
    assert np.isnan(v[4])


def test_a_shock_and_a_contact_by_hand():
    """w = 10 + 16 * 0.03 / 0.14; behind the contact the density has v = 3: 0.14 (w - 3) / 16."""
    problem = RiemannProblem((0.03, 10.0), (0.10, 3.0))
    middle = 0.14 * (10.0 + 16.0 * 3 / 14 - 3.0) / 16.0
    shock = (middle * 3.0 - 0.3) / (middle - 0.03)
    assert [piece.end for piece in problem.pieces[:2]] == pytest.approx([shock, 3.0])
    assert problem.pieces[1].rho == pytest.approx(middle)


def test_vacuum_between_by_hand():
    """The left state's head runs at its w = 1 + 16 * 0.03 / 0.14 m/s, the right state goes away at 12 m/s."""
    problem = RiemannProblem((0.03, 1.0), (0.02, 12.0))
    assert problem.at([1.0 + 16 * 3 / 14 + 0.01, 11.99])[0] == pytest.approx([0.0, 0.0])
    assert problem.at([12.01])[0] == pytest.approx([0.02])


def test_two_empty_roads_stay_empty():
    assert RiemannProblem((0.0, 5.0), (0.0, 5.0)).averages([-1.0, 0.0, 1.0], 3.0).max() == 0.0


def test_negative_states_are_refused():
    with pytest.raises(ConfigurationError):
        RiemannProblem((-0.1, 1.0), (0.1, 1.0))


def fitted_order(errors):
    return float(np.mean(orders(errors)))


@pytest.mark.parametrize("gamma", [1.0, 2.0, 1.5])
def test_smooth_solutions_converge_at_second_order(gamma):
    errors = [smooth_error(n, gamma) for n in (50, 100, 200, 400)]
    assert fitted_order(errors) > 1.9
    assert errors[-1] < 1e-6


@pytest.mark.parametrize("gamma", [1.0, 2.0, 1.5])
@pytest.mark.parametrize(
    ("kind", "least", "error"),
    [
        ("rarefaction", 0.9, 1.3e-5),
        ("contact", 0.5, 3.5e-4),
        ("shock and contact", 0.5, 4e-5),
        ("discharge into vacuum", 0.9, 1e-4),
        ("vacuum between", 0.6, 2e-4),
        ("vacuum behind", 0.9, 4e-5),
    ],
)
def test_waves_converge(kind, least, error, gamma):
    """Fans and shocks at first order, contacts at two thirds at best for any scheme of second order (their width grows)."""
    errors = [riemann_error(problems(gamma)[kind], n) for n in (100, 200, 400)]
    assert fitted_order(errors) > least
    assert errors[-1] < error


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_shocks_converge_at_first_order(gamma):
    """Where in its cell a shock stands makes the error vary; the trend over a factor of eight is what is asked."""
    problem = problems(gamma)["shock"]
    errors = [riemann_error(problem, n) for n in (100, 200, 400, 800)]
    assert fitted_order(errors) > 0.8
    assert errors[-1] < 2e-6


def test_a_shock_is_one_cell_wide_or_two():
    faces, rho, _ = simulated(problems()["shock"], 400, 30.0)
    between = (rho > 0.04 * 1.02) & (rho < 0.08 * 0.98) & (np.abs(faces[:-1]) < 200)
    assert between.sum() <= 3
