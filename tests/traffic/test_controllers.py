"""C3: baselines do what their equations say, and metrics what their formulas say."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from junctions import crossing, simulation_of

from unbroken.errors import ConfigurationError
from unbroken.traffic.classes import CLASSES
from unbroken.traffic.controllers.base import NoControl
from unbroken.traffic.controllers.choosing import controller_names, make_controller
from unbroken.traffic.controllers.fixed_time import FixedTime, Plan, critical_ratios, flows, webster
from unbroken.traffic.controllers.saturation import saturation_flow
from unbroken.traffic.demand import Demand, Profile, arrived_by
from unbroken.traffic.metrics import Recorder
from unbroken.traffic.playing import play
from unbroken.traffic.scenario import Horizon, Scenario, load_scenario

SHORT = Horizon(warm_up=120.0, measured=600.0, drain=300.0)


def crossing_scenario(west=0.2, north=0.1):
    demand = Demand({"west": Profile(((0.0, west),), 0.0), "north": Profile(((0.0, north),), 0.0)}, counts=False)
    return Scenario("crossing", "signals", crossing(), demand, SHORT)


def test_websters_plan_is_his_formula():
    scenario = crossing_scenario(0.24, 0.12)
    saturated = saturation_flow(CLASSES, 0.0)
    assert 1800 / 3600 < saturated < 1950 / 3600
    assert critical_ratios(scenario) == [[pytest.approx(0.24 / saturated), pytest.approx(0.12 / saturated)]]
    total, lost = 0.36 / saturated, 2 * (5 - 2 + 1)
    plan = webster(scenario)
    assert plan.cycle == pytest.approx((1.5 * lost + 5) / (1 - total))
    effective = [display - 4 for display in plan.display[0]]
    assert sum(plan.display[0]) == pytest.approx(plan.cycle)
    assert effective[0] / effective[1] == pytest.approx(2.0)


def test_flows_follow_turning_shares():
    scenario = load_scenario("traffic_light_control")
    carried = flows(scenario)
    links = list(scenario.network.links)
    entering = sum(carried[:, links.index(origin)].sum() for origin in scenario.network.origins)
    leaving = sum(carried[:, links.index(sink)].sum() for sink in scenario.network.sinks)
    assert entering == pytest.approx(leaving)


def test_a_plan_is_kept_to_the_fraction_of_a_step():
    """Cycle 47.3 s, no multiple of the step of 0.6 s or of 3 s: after 20 cycles greens still begin on time."""
    plan = Plan(47.3, ((27.3, 20.0),), (11.1,))
    simulation = simulation_of(crossing(), {"west": (0.0, 0.1), "north": (0.0, 0.1)})
    controller = FixedTime(plan)
    changes = set()
    for _ in range(400):
        controller.act(simulation)
        simulation.advance(3.0)
        changes.add((int(simulation.phases()[0, 0]), round(float(simulation.state.switch[0, 1, 0]) - 5.0, 6)))
    seen = sorted(at for phase, at in changes if phase == 0 and at > 100)
    assert len(seen) > 20
    assert np.mod(np.array(seen) - 11.1 + 1e-4, 47.3) == pytest.approx(1e-4, abs=1e-3)


@pytest.mark.parametrize("name", ["webster", "actuated", "max_pressure"])
def test_signal_controllers_keep_the_balance_and_serve_all(name):
    scenario = crossing_scenario()
    metrics = play(scenario, make_controller(name, scenario), 0)
    assert metrics.imbalance < 1e-9
    assert sum(metrics.remaining) < 1e-6
    assert metrics.queue_max < 300
    assert 0 < sum(metrics.delay_per_vehicle) < 60


def test_actuated_signals_serve_an_empty_approach_no_longer_than_they_must():
    scenario = crossing_scenario(west=0.3, north=0.0)
    busy = play(scenario, make_controller("actuated", scenario), 0)
    half = FixedTime(Plan(60.0, ((30.0, 30.0),), (0.0,)))
    assert busy.total_delay < play(scenario, half, 0).total_delay


def test_alinea_beats_no_control_where_the_merge_breaks_down():
    scenario = load_scenario("ramp_metering")
    free = play(scenario, make_controller("none", scenario), 1)
    metered = play(scenario, make_controller("alinea", scenario), 1)
    assert metered.total_delay < 0.95 * free.total_delay
    assert metered.arrived == free.arrived


def test_names_and_settings_of_controllers_are_checked():
    scenario = load_scenario("ramp_metering")
    assert controller_names(scenario)[0] == "none"
    with pytest.raises(ConfigurationError, match="there are none, alinea"):
        make_controller("webster", scenario)
    with pytest.raises(ConfigurationError, match=r"baselines\.alinea"):
        make_controller("alinea", scenario, {"gian": 1.0})


def test_delay_is_zero_on_an_empty_road_and_time_adds_up():
    scenario = crossing_scenario()
    simulation = simulation_of(crossing(), {"west": (0.0, 0.001), "north": (0.0, 0.0)})
    simulation.advance(300.0)
    recorder = Recorder(simulation)
    for _ in range(100):
        simulation.advance(3.0)
        recorder.sample()
    metrics = recorder.result()
    assert metrics.arrived[1] == pytest.approx(0.3)
    assert metrics.travel_time[1] == pytest.approx(1000 / (50 / 3.6), rel=0.01)
    assert metrics.delay_per_vehicle[1] == pytest.approx(0.0, abs=0.5)
    assert metrics.queue_max == 0.0
    assert dataclasses.asdict(scenario.horizon)["measured"] == 600.0


def test_a_red_light_makes_a_queue_of_the_length_that_its_vehicles_need():
    simulation = simulation_of(crossing(), {"west": (0.0, 0.0), "north": (0.0, 0.2)})
    recorder = Recorder(simulation)
    for _ in range(60):
        simulation.advance(3.0)
        recorder.sample()
    metrics = recorder.result()
    queued = 0.2 * 180 - 0.2 * 500 / 13.9  # arrived less those that are still driving
    assert metrics.queue_max == pytest.approx(queued / 0.126, abs=40)  # stands at 0.9 of 140 veh/km
    assert metrics.stops == pytest.approx(1 - 500 / 13.9 / 180, abs=0.12)


def test_a_short_measurement_is_the_beginning_of_a_long_one():
    """C2: 600 s and 3,600 s see the same vehicles until 600 s are over."""
    scenario = load_scenario("adaptive_speed_control")
    seen = {}
    for duration in (600.0, 1200.0):
        counts = []
        play(
            scenario,
            make_controller("none", scenario),
            5,
            duration,
            look=lambda s, c=counts: c.append(s.state.cells.copy()),
        )
        seen[duration] = counts
    assert len(seen[600.0]) > 40
    for k in range(41):
        assert np.array_equal(seen[600.0][k], seen[1200.0][k])


@pytest.mark.parametrize("flows", [(0.03, 0.03), (0.45, 0.02), (0.001, 0.001), (0.5, 0.5)])
@pytest.mark.parametrize("greens", [(7.0, 75.0), (20.0, 40.0), (30.0, 45.0)])
def test_webster_never_gives_less_than_the_minimal_nor_more_than_the_maximal_green(flows, greens):
    from unbroken.traffic import Signal

    signal = Signal((("west",), ("north",), ("west", "north")), min_green=greens[0], max_green=greens[1])
    demand = Demand({"west": Profile(((0.0, flows[0]),), 0.0), "north": Profile(((0.0, flows[1]),), 0.0)}, counts=False)
    plan = webster(Scenario("three", "signals", crossing(signal), demand, SHORT))
    assert sum(plan.display[0]) == pytest.approx(plan.cycle)
    for display in plan.display[0]:
        assert greens[0] - 1e-9 <= display - signal.clearance <= greens[1] + 1e-9


def test_a_plan_of_four_phases_shows_them_in_turn():
    """Four minimal greens do not fit into the shortest cycle: the cycle gives way, not a phase."""

    from unbroken.traffic import Link, Movement, Node, RoadNetwork, Signal

    arms = ("a", "b", "c", "d")
    network = RoadNetwork(
        links={name: Link(200) for arm in arms for name in (arm, f"{arm}_out")},
        nodes={
            "x": Node(tuple(Movement(arm, f"{arm}_out") for arm in arms), signal=Signal(tuple((arm,) for arm in arms)))
        },
        origins=arms,
        sinks={f"{arm}_out": math.inf for arm in arms},
    )
    demand = Demand({arm: Profile(((0.0, 0.03),), 0.0) for arm in arms}, counts=False)
    scenario = Scenario("four", "signals", network, demand, SHORT)
    shown = []
    play(scenario, make_controller("webster", scenario), 0, look=lambda s: shown.append(int(s.phases()[0, 0])))
    seen = [phase for k, phase in enumerate(shown) if k == 0 or phase != shown[k - 1]]
    assert set(seen) == {0, 1, 2, 3}
    simulation = simulation_of(network, dict.fromkeys(arms, (0.0, 0.03)))
    controller = make_controller("webster", scenario)
    phases = []
    for _ in range(200):
        controller.act(simulation)
        simulation.advance(3.0)
        if not phases or phases[-1] != int(simulation.phases()[0, 0]):
            phases.append(int(simulation.phases()[0, 0]))
    assert all((b - a) % 4 == 1 for a, b in itertools.pairwise(phases))


def stops_on_a_road_of(links):
    """Stops per vehicle on 2 km before a sink of 100 veh/h."""
    from unbroken.traffic import Link, Movement, Node, RoadNetwork

    names = [f"l{k}" for k in range(links)]
    network = RoadNetwork(
        links={name: Link(2000 / links) for name in names},
        nodes={f"n{k}": Node((Movement(names[k], names[k + 1]),)) for k in range(links - 1)},
        origins=("l0",),
        sinks={names[-1]: 100 / 3600},
    )
    simulation = simulation_of(network, {"l0": (0.0, 0.2)})
    recorder = Recorder(simulation)
    for _ in range(200):
        simulation.advance(3.0)
        recorder.sample()
    return recorder.result().stops


def test_stops_do_not_depend_on_how_a_road_is_cut_into_links():
    whole = stops_on_a_road_of(1)
    assert 0.5 < whole < 1.0
    assert stops_on_a_road_of(4) == pytest.approx(whole, abs=0.02)
    assert stops_on_a_road_of(20) == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize(
    ("gamma", "speeds"), [(None, (25 / 3.6, 20 / 3.6)), (2.0, (60 / 3.6, 50 / 3.6)), (1.5, (30 / 3.6, 10 / 3.6))]
)
def test_nobody_drives_faster_than_the_free_speed_in_equilibrium(gamma, speeds):
    for vehicle, free in zip(CLASSES, speeds, strict=True):
        changed = dataclasses.replace(vehicle, free_speed=free)
        assert changed.equilibrium_speed(np.linspace(0, 1, 201), gamma).max() <= free + 1e-9


def test_a_longer_step_that_is_rounded_keeps_the_clock_of_decisions():
    from unbroken.traffic.controllers.base import is_due

    network = crossing(step=0.3333333333)
    simulation = simulation_of(network, {"west": (0.0, 0.1), "north": (0.0, 0.1)})
    due = 0
    for _ in range(300):
        due += is_due(simulation, 15.0)
        simulation.advance(3.0)
    assert due == 60


def test_an_origin_without_a_profile_has_no_demand():
    scenario = dataclasses.replace(
        crossing_scenario(), demand=Demand({"west": Profile(((0.0, 0.2),), 0.0)}, counts=False)
    )
    metrics = play(scenario, make_controller("webster", scenario), 0)
    assert metrics.arrived[1] == pytest.approx(0.2 * 600)


def test_holding_back_below_capacity_saves_delay():
    """C3: speed limits gain by preventing the capacity drop; the same arrivals under no control and under `holding`."""
    scenario = load_scenario("adaptive_speed_control")
    saved = [
        1
        - play(scenario, make_controller("holding", scenario), seed).total_delay
        / play(scenario, NoControl(), seed).total_delay
        for seed in range(4)
    ]
    assert np.mean(saved) > 0.15


def test_the_end_of_a_zone_is_where_traffic_leaves_it_however_its_links_are_named():
    scenario = load_scenario("adaptive_speed_control")
    links = ("zone_1", "zone_2", "zone_3", "zone_4")
    delays = [
        play(one, make_controller("holding", one), 0, 900.0).total_delay
        for one in (dataclasses.replace(scenario, zones={"all": order}) for order in (links, links[::-1]))
    ]
    assert delays[0] == delays[1] != play(scenario, NoControl(), 0, 900.0).total_delay


def test_arrivals_are_the_integral_of_flows_and_the_last_period_goes_on():
    flows = np.array([[0.5, 0.0, 0.25]])
    times = np.array([0.0, 30.0, 60.0, 120.0, 140.0, 180.0, 300.0])
    assert arrived_by(flows, 60.0, times).tolist() == [[0.0, 15.0, 30.0, 30.0, 35.0, 45.0, 75.0]]
