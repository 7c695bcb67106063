"""Traffic scenarios in a comparison: the same demand for all, quick and full over one cache, and arms that cannot be compared."""

import dataclasses

import numpy as np
import pytest

from unbroken.cache import ResultCache
from unbroken.errors import UntrustworthyComparison
from unbroken.traffic.controllers.choosing import controller_names, make_controller
from unbroken.traffic.playing import play
from unbroken.traffic.scenario import load_scenario
from unbroken.validation.guards import check
from unbroken.validation.results import Arm, Comparison, Rule
from unbroken.validation.traffic_arms import baseline_player, queues, space_time, traffic_metric
from unbroken.validation.traffic_inputs import Described, episode_inputs

SEEDS = (2000, 2001)


def players(name, measured, drain=300.0):
    described = Described.read(name)
    horizon = dataclasses.replace(described.scenario.horizon, measured=measured, drain=drain)
    return [baseline_player(described, one, horizon, "total_delay") for one in controller_names(described.scenario)]


def comparison(arms):
    return Comparison("ramp", traffic_metric("total_delay"), Rule("none", 10.0), tuple(arms))


def arm(player, cache, training_seed=None):
    return Arm(player.name, tuple(player.play(cache, seed)[0] for seed in SEEDS), training_seed)


@pytest.mark.parametrize("name", ["ramp_metering", "traffic_light_control", "adaptive_speed_control"])
def test_arms_meet_the_same_demand_and_are_measured_as_simulations_are(tmp_path, name):
    """C3: what arrives does not depend on who controls; an arm's number is that of `unbroken traffic simulate`."""
    scenario = load_scenario(name)
    arms = [arm(player, ResultCache(tmp_path)) for player in players(name, 600.0, scenario.horizon.drain)]
    for first, other in zip(arms[0].plays, arms[1].plays, strict=True):
        assert first.demand == other.demand
        assert first.n_decisions == other.n_decisions == 100
        assert first.seconds == other.seconds == 1500.0
        assert abs(first.imbalance) < 1e-6
    for found in arms:
        expected = play(scenario, make_controller(found.name, scenario), SEEDS[0], 600.0)
        assert found.plays[0].value == expected.total_delay / 3600


def test_an_agent_that_is_a_baseline_or_has_another_horizon_is_refused(tmp_path):
    """The histories of the issue: an hour of one arm against ten minutes of the other, and an arm played twice."""
    cache = ResultCache(tmp_path)
    none, alinea = (arm(player, cache) for player in players("ramp_metering", 600.0))
    twin = Arm("agent", alinea.plays, 0)
    with pytest.raises(UntrustworthyComparison, match="bit for bit"):
        check(comparison([none, alinea, twin]))
    short = arm(players("ramp_metering", 300.0)[1], cache)
    with pytest.raises(UntrustworthyComparison, match="decides 60 times"):
        check(comparison([none, Arm("agent", short.plays, 0)]))
    other = arm(players("adaptive_speed_control", 600.0)[1], cache)
    with pytest.raises(UntrustworthyComparison, match="demand"):
        check(comparison([none, Arm("agent", other.plays, 0)]))


def test_pictures_are_of_what_was_played(tmp_path):
    player = players("ramp_metering", 600.0)[0]
    _, rows = player.play(ResultCache(tmp_path), 2000)
    drawn = space_time("none", 2000, player.described, rows)
    assert drawn.field.shape == (60, len(drawn.distances_m) - 1)
    assert len(drawn.times_s) == 61
    assert (drawn.times_s[0], drawn.times_s[-1]) == (0.0, 900.0)
    assert drawn.distances_m[-1] == pytest.approx(4000.0)
    assert 0 <= drawn.field.min() < drawn.field.max() <= 1
    line = queues("none", player.described, [rows, rows])
    assert np.array_equal(line.longest_m, rows["longest_queue"].mean(axis=1))


def test_what_another_machine_began_is_not_ended_here(tmp_path):
    """D2: the drain goes on from a saved state only where that was computed in the same context."""
    player, foreign, own = (
        players("ramp_metering", 300.0)[1],
        ResultCache(tmp_path / "foreign"),
        ResultCache(tmp_path / "own"),
    )
    main = episode_inputs(player.described, player.controlled, 2000)
    there = dataclasses.replace(main, context={**main.context, "numpy": "1.0"})
    alone = player._played(2000, 20)
    broken = dataclasses.replace(alone, end={**alone.end, "controller": {"_rates": np.array([[240.0]])}})
    foreign.get_or_compute(there, lambda: broken, steps=20)
    found = player.play(foreign, 2000)[0]
    assert dataclasses.replace(found, elsewhere="") == player.play(own, 2000)[0]
    assert found.elsewhere == f"numpy 1.0 and {np.__version__}"
