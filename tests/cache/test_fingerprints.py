"""Whatever a result depends on is in its key, and nothing else: values, sources, data files (D1, D3).

Every mutation is made on the real objects and asked of a real cache. A miss means that the computation is called; for the
thousands of leaves of a scenario, that the same look into the folder finds nothing.
"""

import copy
import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest

from unbroken.cache import Result
from unbroken.cache.inputs import Inputs
from unbroken.cache.sources import module_sources, text_digest
from unbroken.config import build_config
from unbroken.traffic.controllers.choosing import BASELINES, controller_names
from unbroken.traffic.scenario import scenario_names
from unbroken.validation import traffic_inputs
from unbroken.validation.agents import agent_inputs
from unbroken.validation.traffic_inputs import Controlled, Described, baseline_control, drain_inputs, episode_inputs

SCENARIOS = scenario_names()
# of a scenario's values these shape no baseline: what people read, and settings of the controllers that are not in play
FREE = {"description", "baselines"}


class Called(Exception):
    """The computation was called."""


def four():
    return Result({"x": np.zeros(4)}, 4)


def is_miss(cache, inputs):
    def compute():
        raise Called

    try:
        cache.get_or_compute(inputs, compute, steps=4)
    except Called:
        return True
    return False


def changed(value):
    """Other values of a leaf: the nearest one first."""
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return [0.5]
    if isinstance(value, int | float):
        return [value + 1, float(value)] if isinstance(value, int) else [math.nextafter(value, 0.0)]
    return [f"{value}x"]


def replaced(instance, name, value):
    """A dataclass with another value of one field, without asking whether that can be."""
    twin = copy.copy(instance)
    object.__setattr__(twin, name, value)
    return twin


def mutations(value, place=""):
    """`(place, mutated copy)` for every leaf of a value, and for its containers: one item less, and two in another order."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            for where, other in mutations(getattr(value, field.name), f"{place}.{field.name}"):
                yield where, replaced(value, field.name, other)
    elif isinstance(value, Mapping):
        for key in value:
            yield f"{place}[{key}] gone", {name: item for name, item in value.items() if name != key}
            yield f"{place}[{key}] renamed", {f"{name}x" if name == key else name: item for name, item in value.items()}
            for where, other in mutations(value[key], f"{place}[{key}]"):
                yield where, {name: other if name == key else item for name, item in value.items()}
        if len(value) > 1:
            yield f"{place} reordered", dict(reversed(value.items()))
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield f"{place}[{index}] gone", (*value[:index], *value[index + 1 :])
            for where, other in mutations(item, f"{place}[{index}]"):
                yield where, (*value[:index], other, *value[index + 1 :])
        if value and tuple(reversed(value)) != tuple(value):
            yield f"{place} reordered", tuple(reversed(value))
    else:
        for other in changed(value):
            yield f"{place} = {other!r}", other


def first_baseline(described):
    return baseline_control(described.scenario, controller_names(described.scenario)[0])


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_leaf_of_a_scenario_is_in_the_key(cache, name):
    """D1: network, physics, scheme, demand, horizon, zones, control: each leaf changed by its last bit, each container by one."""
    described = Described.read(name)
    inputs = episode_inputs(described, first_baseline(described), 7)
    assert is_miss(cache, inputs)
    cache.get_or_compute(inputs, four, steps=4)
    assert not is_miss(cache, episode_inputs(Described.read(name), first_baseline(described), 7))
    tried, free = set(), set()
    others = [control for control in BASELINES if control != described.scenario.control]
    controls = [(f".control = {other}", replaced(described.scenario, "control", other)) for other in others]
    mutated = [pair for pair in mutations(described.scenario) if not pair[0].startswith(".control")]
    for place, scenario in [*controls, *mutated]:
        part = place.split(".")[1].partition("[")[0].partition(" ")[0]
        inputs = episode_inputs(Described(scenario, described.files), first_baseline(described), 7)
        missed = cache.find(inputs, 4) is None
        (tried if missed else free).add(part)
        assert missed or part in FREE, f"{place} changed, and it was a hit"
        if place.endswith("gone"):
            assert is_miss(cache, inputs) == missed
    everything = {field.name for field in dataclasses.fields(described.scenario)}
    assert tried >= everything - FREE - ({"zones"} if not described.scenario.zones else set())


@pytest.mark.parametrize("name", SCENARIOS)
def test_seed_controller_and_its_settings_are_in_the_key(cache, name):
    """D1: also the settings of the controller that warms up, which is not always the one that is compared."""
    described = Described.read(name)
    scenario = described.scenario
    known = controller_names(scenario)
    for controller in known:
        cache.get_or_compute(episode_inputs(described, baseline_control(scenario, controller), 7), four, steps=4)
    for controller in known:
        assert is_miss(cache, episode_inputs(described, baseline_control(scenario, controller), 8))
        for place, settings in mutations(dict(scenario.baselines.get(controller, {}))):
            mutated = dataclasses.replace(scenario, baselines={**scenario.baselines, controller: settings})
            for played in known:
                missed = is_miss(
                    cache, episode_inputs(Described(mutated, described.files), baseline_control(mutated, played), 7)
                )
                assert missed == (played == controller or controller == known[0]), (place, played)
    played = baseline_control(scenario, known[0])
    other_code = Controlled("baseline", played.described, module_sources("unbroken.traffic.tasks.base"))
    assert is_miss(cache, episode_inputs(described, other_code, 7))
    as_agent = Controlled("rl", played.described, played.sources)
    assert is_miss(cache, episode_inputs(described, as_agent, 7))


@pytest.mark.parametrize("constant", ["DECISION", "INTERVAL"])
def test_the_intervals_are_in_the_key(cache, monkeypatch, constant):
    """D1: decision interval, and that of controllers, which are constants of the code."""
    described = Described.read("ramp_metering")
    control = first_baseline(described)
    cache.get_or_compute(episode_inputs(described, control, 7), four, steps=4)
    monkeypatch.setattr(traffic_inputs, constant, math.nextafter(getattr(traffic_inputs, constant), 0.0))
    assert is_miss(cache, episode_inputs(described, control, 7))


def test_the_drain_depends_on_when_demand_ended(cache):
    """D2: rows after the demand are another result for each length."""
    described = Described.read("ramp_metering")
    main = episode_inputs(described, first_baseline(described), 7)
    cache.get_or_compute(drain_inputs(main, 40), four, steps=4)
    assert is_miss(cache, main)
    assert is_miss(cache, drain_inputs(main, 240))
    assert not is_miss(cache, drain_inputs(main, 40))


def test_a_learners_configuration_leaves_baselines_alone(cache):
    """D1, D3: a hyper-parameter is another agent, and the same baseline."""
    described = Described.read("ramp_metering")
    values = {"target": "unbroken.traffic:ramp_metering", "scenario": "ramp_metering", "hyperparameters": {}}
    sources = {}

    def keys(**more):
        config = build_config({**values, **more})
        agent = agent_inputs("ramp_metering", config, [], "best")
        sources.update(agent.sources)
        return agent, episode_inputs(described, first_baseline(described), 7)

    agent, baseline = keys()
    for inputs in (agent, baseline):
        cache.get_or_compute(inputs, four, steps=4)
    for more in ({"hyperparameters": {"learning_rate": 1e-4}}, {"seed": 1}, {"algo": "a2c"}, {"total_timesteps": 7}):
        other, same = keys(**more)
        assert is_miss(cache, other), more
        assert not is_miss(cache, same), more
    assert is_miss(cache, agent_inputs("ramp_metering", build_config(values), [{"changed": "gamma"}], "best"))
    assert is_miss(cache, agent_inputs("ramp_metering", build_config(values), [], "final"))


def test_the_context_is_no_part_of_the_key(cache):
    """D5: another NumPy, another machine: a hit all the same."""
    described = Described.read("ramp_metering")
    inputs = episode_inputs(described, first_baseline(described), 7)
    cache.get_or_compute(inputs, four, steps=4)
    elsewhere = Inputs(inputs.scenario, inputs.kind, inputs.values, inputs.sources, {"numpy": "1.0", "machine": "z80"})
    assert not is_miss(cache, elsewhere)


def test_newlines_of_a_scenario_file_do_not_matter(cache, tmp_path):
    """D5: a checkout with Windows line ends is a hit; any other change of the file is a miss, a comment's too."""
    unix = traffic_inputs.read_scenario("ramp_metering")[1]
    assert b"\r" not in unix
    for name, content in (("unix", unix), ("dos", unix.replace(b"\n", b"\r\n")), ("other", unix + b"# note\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.yaml").write_bytes(content)
    described = {name: Described.read(tmp_path / name / "mine.yaml") for name in ("unix", "dos", "other")}
    keys = {name: episode_inputs(one, first_baseline(one), 7) for name, one in described.items()}
    cache.get_or_compute(keys["unix"], four, steps=4)
    assert not is_miss(cache, keys["dos"])
    assert is_miss(cache, keys["other"])


def test_newlines_are_normalised_and_nothing_else():
    assert len({text_digest(content) for content in (b"a\nb\n", b"a\r\nb\r\n", b"a\rb\r")}) == 1
    assert len({text_digest(content) for content in (b"a\nb\n", b"a\n\nb\n", b"a\nb", b"a \nb\n")}) == 4
