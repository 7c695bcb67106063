"""C1, C3: scenario files and demand."""

import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from unbroken.errors import ConfigurationError, NotFound
from unbroken.traffic.demand import Demand, Profile
from unbroken.traffic.scenario import load_scenario, scenario_names
from unbroken.traffic.scenario_file import _KEYS, parse_scenario

PAGE = Path(__file__).parents[2] / "docs/formats/scenario.md"

SMALL = """
name: small
control: ramp
meters: [a]
links: {a: {length_m: 500, speed_limit_kmh: 50}, b: {length_m: 500, lanes: 2}}
nodes: {n: {movements: [{from: a, to: b}]}}
origins: {a: {veh_per_h: [[0, 720]], motorcycle_share: 0.25}}
sinks: {b: {}}
"""


def test_units_in_keys_are_converted():
    scenario = parse_scenario(SMALL, "small.yaml")
    assert scenario.network.links["a"].speed_limit == pytest.approx(50 / 3.6)
    flows = scenario.draw_demand(np.random.default_rng(0))
    assert flows.shape == (2, 1, 76)
    assert flows.sum() * 60 == pytest.approx(0.2 * 4500, rel=0.15)
    assert (flows[:, :, 75] == 0).all()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("length_m: 500, speed", "lenght_m: 500, speed", "did you mean length_m"),
        ("[[0, 720]]", "[[0, -720]]", "greater than or equal to 0"),
        ("control: ramp", "control: lights", "'signals', 'ramp' or 'speed'"),
        ("{from: a, to: b}", "{from: a, to: b, share: 0.7}", "sum to 0.7"),
        ("sinks: {b: {}}", "sinks: {}", "link b ends nowhere"),
        ("name: small", "name: [", "not YAML"),
        ("name: small", "name: small\n? [a, b]\n: c", "not YAML"),
        ("length_m: 500, speed", "length_m: fast, speed", "links.a.length_m"),
        ("name: small", "name: small\nzones: {z: [q]}", "zone z: unknown link q"),
        ("control: ramp", "control: signals", "needs a node with a signal"),
        ("meters: [a]", "meters: []", "control ramp needs meters"),
        ("meters: [a]", "meters: [a, a]", "meters: a is named twice"),
        ("length_m: 500, speed", "length_m: '500', speed", "valid number"),
        ("length_m: 500, speed", "length_m: yes, speed", "no text or number"),
        ("length_m: 500, speed", "length_m: .nan, speed", "finite number"),
        ("length_m: 500, speed", "speed", "links.a.length_m: is missing"),
        ("lanes: 2}", "lanes: 2, lanes: 3}", "line 5: lanes stands twice"),
        ("lanes: 2}", "lanes: 1:30}", "line 5: write 1:30 as a plain number"),
        ("lanes: 2}", "lanes: 010}", "line 5: write 010 as a plain number"),
        ("lanes: 2}", 'lanes: !!int ""}', "line 5: '' is no number"),
        ("lanes: 2}", "lanes: !!int 1.5}", "line 5: '1.5' is no number"),
        ("lanes: 2}", "lanes: 0x2}", "line 5: write 0x2 as a plain number"),
        ("{from: a, to: b}", "{from: a, to: b, share: 2}", "less than or equal to 1"),
        ("[[0, 720]]", "[]", "at least 1 item"),
        ("[[0, 720]]", "[[0, 1.0e+30]]", "less than or equal to 1000000"),
        ("name: small", "name: small\nhorizon: {measured_s: 50}", "multiple of 60 s"),
        ("name: small", "name: small\nhorizon: {measured_s: 1.0e+15}", "up to"),
        ("name: small", "name: small\ngrid: {step_s: 0.8, cell_m: 50}", "must divide 3 s"),
        ("name: small", "name: small\nbaselines: {webstr: {}}", "unknown webstr"),
        ("name: small", "name: small\nzones: {z: []}", "zone z has no links"),
        ("name: small", "name: small\nclasses: {car: {pressure_kmh: 40}}", "below the free speed"),
    ],
)
def test_mistakes_are_named(old, new, words):
    assert old in SMALL
    with pytest.raises(ConfigurationError, match=words) as refused:
        parse_scenario(SMALL.replace(old, new), "small.yaml")
    assert str(refused.value).startswith("small.yaml: ")


def test_the_packages_scenarios_load_and_others_are_not_found(tmp_path):
    assert {"traffic_light_control", "ramp_metering", "adaptive_speed_control"} <= set(scenario_names())
    for name in scenario_names():
        assert load_scenario(name).name == name
    with pytest.raises(NotFound, match="there are"):
        load_scenario("nowhere")
    with pytest.raises(NotFound, match="no scenario file"):
        load_scenario(tmp_path / "nowhere.yaml")


def test_a_profile_gives_exact_means():
    profile = Profile(((0.0, 0.0), (100.0, 1.0)), motorcycle_share=0.25)
    means = profile.means(3, 60.0)
    assert means.sum(axis=0) == pytest.approx([0.3, (0.8 * 40 + 20) / 60, 1.0])
    assert means[0] == pytest.approx(0.25 * means.sum(axis=0))


def test_a_short_horizon_sees_the_beginning_of_a_long_one():
    demand = Demand({"a": Profile(((0.0, 0.2),)), "b": Profile(((0.0, 0.1),))})
    short = demand.draw(("a", "b"), 600.0, 60.0, np.random.default_rng(3))
    long = demand.draw(("a", "b"), 3600.0, 60.0, np.random.default_rng(3))
    assert np.array_equal(short, long[:, :, :10])
    assert np.array_equal(long * 60, np.rint(long * 60))


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ("[[east_0, west_1], []]", "nodes.a.signal.phases.1: list should have at least 1 item"),
        ("[[east_0, west_1], [west_1, east_0]]", "stands twice"),
        ("[[east_0, east_0, west_1], [north_a_in, south_a_in]]", "stands twice"),
    ],
)
def test_phases_that_open_nothing_or_the_same_again_are_refused(phases, words):
    text = (resources.files("unbroken.traffic") / "scenarios/traffic_light_control.yaml").read_text(encoding="utf-8")
    with pytest.raises(ConfigurationError, match=words):
        parse_scenario(text.replace("[[east_0, west_1], [north_a_in, south_a_in]]", phases), "x.yaml")


def test_the_page_about_scenario_files_has_every_key_and_a_whole_example():
    page = PAGE.read_text(encoding="utf-8")
    said = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", page.split("| key |")[1]))))
    assert not set(_KEYS) - said - {"car", "motorcycle"}
    example = parse_scenario(page.split("```yaml\n")[1].split("```")[0], "page")
    assert example.network.nodes["middle"].signal.phases == (("west",), ("south",))


@pytest.mark.parametrize("flows", ["[2600, 1500]", "[0, 2600]", "[1500]", "[1500, many]", "1500"])
def test_flows_of_zones_are_a_range(flows):
    text = (resources.files("unbroken.traffic") / "scenarios/adaptive_speed_control.yaml").read_text(encoding="utf-8")
    with pytest.raises(ConfigurationError, match="zone_flow"):
        parse_scenario(text.replace("[1500, 2600]", flows), "x.yaml")
