"""C1: signals pass exactly nothing at red, and keep their times whatever is asked of them."""

import numpy as np
import pytest
from junctions import crossing, simulation_of

from unbroken.errors import ConfigurationError

CARS = {"west": (0.0, 0.2), "north": (0.0, 0.2)}


def passed(simulation, link):
    return simulation.state.passed[0, :, simulation.layout.slots(link).stop].sum()


def test_red_passes_exactly_nothing():
    simulation = simulation_of(crossing(), CARS)
    simulation.advance(300.0)
    assert passed(simulation, "north") == 0.0
    assert passed(simulation, "west") > 50


def test_a_change_lets_the_yellow_pass_then_nothing_then_the_other():
    simulation = simulation_of(crossing(), CARS)
    simulation.advance(120.0)
    assert simulation.request([[1]]).all()
    simulation.advance(1.8)  # 2 s of the yellow are used
    before = passed(simulation, "west")
    simulation.advance(0.6)
    assert passed(simulation, "west") > before
    west, north = passed(simulation, "west"), passed(simulation, "north")
    simulation.advance(2.4)  # until 4.8 s after the request: all red until 5 s
    assert passed(simulation, "west") == west
    assert passed(simulation, "north") == north == 0.0
    simulation.advance(0.6)
    assert passed(simulation, "north") > 0
    assert passed(simulation, "west") == west


def test_the_gate_is_open_for_the_part_of_a_step_that_is_green():
    """A green that begins 0.4 s before a step's end lets two thirds of a full step's flow pass in that step."""
    flows = []
    for begin in (0.0, 0.2, 0.6):
        simulation = simulation_of(crossing(), {"west": (0.0, 0.0), "north": (0.0, 0.5)})
        simulation.advance(240.0)
        simulation.request([[1]], 240.0)
        simulation.state.switch[:, 1] = 240.0 + begin
        simulation.advance(0.6)
        flows.append(passed(simulation, "north"))
    assert flows[1] / flows[0] == pytest.approx(2 / 3, rel=0.02)
    assert flows[2] == 0.0


def test_minimal_green_is_kept_and_maximal_green_is_told():
    simulation = simulation_of(crossing(), CARS)
    simulation.advance(60.0)
    assert simulation.request([[1]]).all()
    simulation.advance(5.4 + 6.0)  # 6.4 s of green
    assert not simulation.may_switch().any()
    assert not simulation.request([[0]]).any()
    assert simulation.phases().tolist() == [[1]]
    simulation.advance(0.6)
    assert simulation.request([[0]]).all()
    simulation.advance(60.0)
    assert simulation.must_switch(15.0).all()


def test_links_with_green_in_both_phases_stay_open():
    from unbroken.traffic import Signal

    signal = Signal(phases=(("west", "north"), ("north",)), min_green=0.0)
    simulation = simulation_of(crossing(signal), CARS)
    simulation.advance(120.0)
    before = passed(simulation, "north")
    simulation.request([[1]])
    for _ in range(10):
        simulation.advance(0.6)
        now = passed(simulation, "north")
        assert now > before
        before = now


def test_an_unknown_phase_is_refused():
    simulation = simulation_of(crossing(), CARS)
    with pytest.raises(ConfigurationError, match="phases must be from 0 to"):
        simulation.request([[2]])


def test_copies_get_their_own_signals():
    simulation = simulation_of(crossing(), CARS, batch=2)
    simulation.advance(60.0)
    simulation.request(np.array([[0], [1]]))
    simulation.advance(60.0)
    east = simulation.state.passed[:, 1, simulation.layout.slots("west").stop]
    assert east[0] > east[1] + 5


def test_copies_may_have_demand_of_different_length():
    simulation = simulation_of(crossing(), CARS, batch=2)
    flows = np.full((2, 2, 3), 0.1)
    flows[:, :, 2] = 0.0
    simulation.set_demand(1, flows)
    simulation.advance(240.0)
    assert simulation.arrived()[0].sum() == pytest.approx(0.4 * 240)
    assert simulation.arrived()[1].sum() == pytest.approx(0.4 * 120)
