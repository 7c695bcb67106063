"""A cut and an extension of an episode are the uninterrupted episode, bit for bit, for everything that we control with (D2)."""

import json
import random
from dataclasses import replace

import pytest

from unbroken.cache import Result
from unbroken.capture.codec import digest
from unbroken.traffic.controllers.choosing import controller_names, make_controller
from unbroken.traffic.playing import Episode, joined, play_rows
from unbroken.traffic.scenario import load_scenario, scenario_names
from unbroken.validation.traffic_arms import baseline_player
from unbroken.validation.traffic_inputs import Described, baseline_control, drain_inputs, episode_inputs

PLAYED = [(name, controller) for name in scenario_names() for controller in controller_names(load_scenario(name))]
SEED = 11


class Asked:
    """Episodes of one controller, from a cache; `how` lists how each came."""

    def __init__(self, cache, name, controller):
        self.cache, self.described, self.controller = cache, Described.read(name), controller
        self.inputs = episode_inputs(self.described, baseline_control(self.described.scenario, controller), SEED)
        self.how = []

    def episode(self):
        scenario = self.described.scenario
        return Episode(scenario, make_controller(self.controller, scenario), SEED)

    def rows(self, steps):
        def compute():
            episode = self.episode()
            episode.begin()
            return Result(dict(episode.advance(steps)), steps, episode.get_state())

        def extend(shorter):
            episode = self.episode()
            episode.set_state(shorter.end)
            return Result(dict(episode.advance(steps - shorter.steps)), steps - shorter.steps, episode.get_state())

        answer = self.cache.answer(self.inputs, compute, extend, steps=steps)
        self.how.append(answer.how)
        return answer.result

    def uninterrupted(self, steps):
        """Digests of the first 1, 2, … `steps` rows of one go."""
        episode = self.episode()
        episode.begin()
        rows = episode.advance(steps)
        return {n: digest({key: values[:n] for key, values in rows.items()}) for n in range(1, steps + 1)}


@pytest.mark.parametrize(("name", "controller"), PLAYED)
def test_random_cuts_change_no_bit(cache, name, controller):
    """D2: computed, extended twice at random steps, cut at random steps; each time the bits of one go."""
    rng = random.Random(f"{name} {controller}")
    first, second, whole = sorted(rng.sample(range(1, 60), 3))
    if name == "adaptive_speed_control":
        # limits are on their way here, and at rest for most of the time before
        first, second, whole = 76, 84, rng.randint(90, 130)
    asked = Asked(cache, name, controller)
    expected = asked.uninterrupted(whole)
    for steps in (first, second, whole, rng.randint(1, whole), whole):
        assert asked.rows(steps).digest() == expected[steps], steps
    assert asked.how == ["computed", "extended", "extended", "hit", "hit"]


@pytest.mark.parametrize(("name", "controller"), PLAYED)
def test_with_a_drain_too(cache, name, controller):
    """D2: rows of a comparison, its drain included, asked for 300, 600 and again 300 s: those of whole plays."""
    described = Described.read(name)
    expected = {}
    for seconds in (300.0, 600.0):
        episode = Episode(described.scenario, make_controller(controller, described.scenario), SEED)
        episode.begin()
        with_demand = episode.advance(round(seconds / 15))
        episode.end_demand()
        expected[seconds] = digest(dict(joined(with_demand, episode.advance(8))))
    for seconds in (300.0, 600.0, 300.0, 600.0):
        horizon = replace(described.scenario.horizon, measured=seconds, drain=120.0)
        rows = baseline_player(described, controller, horizon, "total_delay").rows(cache, SEED)
        assert digest(dict(rows)) == expected[seconds]
        assert len(rows["time"]) == seconds / 15 + 8


def test_counts_are_right(cache, lines):
    """D2, D4: 600 s at 15 s are 40 steps, the warm-up not counted, and 40 ≥ 40 is a hit."""
    described = Described.read("traffic_light_control")
    horizon = replace(described.scenario.horizon, measured=600.0)
    player = baseline_player(described, "webster", horizon, "total_delay")
    play, rows = player.play(cache, SEED)
    assert rows["time"][0] == horizon.warm_up + 15.0
    assert rows["time"][39] == horizon.warm_up + 600.0
    assert play.n_decisions == 40 + horizon.drain / 15
    inputs = episode_inputs(described, player.controlled, SEED)
    assert [entry.steps for entry in cache.entries(inputs)] == [40]
    lines.clear()
    again, _ = player.play(cache, SEED)
    assert again == play
    assert [line.partition(":")[0] for line in lines.all()] == [
        "[CACHE BASELINE] Using universal cache (40 steps ≥ 40 required)",
        "[CACHE BASELINE] Using universal cache (60 steps ≥ 60 required)",
    ]
    lines.clear()
    cache.get_or_compute(inputs, lambda: Result({}, 41), None, steps=39)
    assert "(40 steps ≥ 39 required)" in lines.all()[0]


def test_a_play_is_the_one_of_the_command(cache):
    """D2: what `unbroken traffic simulate` measures is what the cache holds."""
    described = Described.read("ramp_metering")
    scenario = described.scenario
    horizon = replace(scenario.horizon, measured=600.0)
    rows = baseline_player(described, "alinea", horizon, "total_delay").rows(cache, SEED)
    alone = play_rows(Episode(scenario, make_controller("alinea", scenario), SEED), 600.0)
    assert digest(dict(rows)) == digest(dict(alone))


COMPUTE = """
from dataclasses import replace
from unbroken.validation.traffic_arms import baseline_player
from unbroken.validation.traffic_inputs import Described
import json
for name, controller in json.loads(sys.argv[2]):
    described = Described.read(name)
    horizon = replace(described.scenario.horizon, measured=float(sys.argv[3]), drain=60.0)
    baseline_player(described, controller, horizon, "total_delay").rows(cache, 11)
"""


def test_what_another_process_saved_is_extended_here(cache, finished):
    """D2, D5: end states travel: every controller goes on from what a process that is gone has computed."""
    finished(COMPUTE, json.dumps(PLAYED), 300.0)
    for name, controller in PLAYED:
        asked = Asked(cache, name, controller)
        expected = asked.uninterrupted(31)
        assert asked.rows(20).digest() == expected[20]
        assert asked.rows(31).digest() == expected[31]
        assert asked.how == ["hit", "extended"]
        assert cache.find(drain_inputs(asked.inputs, 20), 4) is not None
