"""C1: SUMO networks become road networks that conserve vehicles; what differs is noted, what is damaged is refused in one line."""

import gzip
import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from unbroken.errors import ConfigurationError
from unbroken.traffic import Simulation
from unbroken.traffic.importing import read_sumo_network

CROSSING = Path(__file__).with_name("crossing.net.xml")
RESCO = ("arterial4x4", "cologne1", "cologne3", "cologne8", "grid4x4", "ingolstadt1", "ingolstadt7", "ingolstadt21")
SHORTEST = 2 * 0.6 * 18.5


@pytest.fixture(scope="module")
def crossing():
    return read_sumo_network(CROSSING)


def shares(network, node, origin):
    return {m.destination: m.share[1] for m in network.nodes[node].movements if m.origin == origin}


def test_edges_become_links_with_their_length_lanes_and_speed_limit(crossing):
    links = crossing.network.links
    assert (links["south"].length, links["south"].lanes, links["south"].speed_limit) == (120.0, 1, 8.5)
    assert (links["east"].length, links["east"].lanes) == (200.0, 2)
    assert set(links) == {"short", "west", "west_1+2", "west_3", "south", "east", "back", "north"}


def test_dead_ends_are_origins_and_sinks(crossing):
    assert crossing.network.origins == ("short", "south", "back")
    assert tuple(crossing.network.sinks) == ("east", "north")


def test_a_short_edge_takes_metres_of_the_edge_in_series(crossing):
    links = crossing.network.links
    assert links["short"].length == pytest.approx(SHORTEST)
    assert links["short"].length + links["west"].length + links["west_3"].length == pytest.approx(310.0)


def test_lanes_with_different_greens_are_links_of_their_own(crossing):
    links, network = crossing.network.links, crossing.network
    assert (links["west"].lanes, links["west_1+2"].lanes, links["west_3"].lanes) == (3, 2, 1)
    assert links["west_1+2"].length == links["west_3"].length == 100.0
    assert shares(network, "west:lanes", "west") == pytest.approx({"west_1+2": 2 / 3, "west_3": 1 / 3})
    assert shares(network, "J", "west_1+2") == pytest.approx({"east": 1.0})
    assert crossing.links_of_edge["west"] == ("west", "west_1+2", "west_3")


def test_the_program_becomes_phases_and_a_fixed_program(crossing):
    signal = crossing.network.nodes["J"].signal
    assert signal.phases == (("west_1+2", "back"), ("west_3",), ("south",))
    assert (signal.yellow, signal.all_red, signal.min_green, signal.max_green) == (4.0, 1.0, 8.0, 50.0)
    assert crossing.programs["J"].offset == 5
    assert crossing.programs["J"].steps == ((0, 30.0), (1, 12.0), (2, 20.0))


def test_lanes_share_a_flow_evenly_unless_turning_is_given(crossing):
    assert shares(crossing.network, "J", "south") == pytest.approx({"east": 0.5, "north": 0.5})
    turning = {"south": {"east": 0.2, "north": 0.8}, "west": {"east": 0.9, "north": 0.1}}
    network = read_sumo_network(CROSSING, turning=turning).network
    assert shares(network, "J", "south") == pytest.approx({"east": 0.2, "north": 0.8})
    assert shares(network, "west:lanes", "west") == pytest.approx({"west_1+2": 0.9, "west_3": 0.1})
    with pytest.raises(ConfigurationError, match="sum to 1"):
        read_sumo_network(CROSSING, turning={"south": {"east": 0.2}})
    with pytest.raises(ConfigurationError, match="no connection leads from there to west"):
        read_sumo_network(CROSSING, turning={"south": {"west": 1.0}})


def test_turns_discharge_slower_and_nothing_is_approximated_unseen(crossing):
    saturation = {(m.origin, m.destination): m.saturation for m in crossing.network.nodes["J"].movements}
    assert saturation["south", "east"] == 0.85
    assert saturation["west_3", "north"] == 0.95
    kinds = Counter(note.kind for note in crossing.notes)
    assert kinds == {
        "edge without cars": 1,
        "U-turns": 1,
        "short edge, stop line moved": 1,
        "lanes with different greens": 1,
    }


def test_an_approach_is_open_where_half_of_its_flow_is(tmp_path):
    text = CROSSING.read_text().replace(
        'to="north" fromLane="0" toLane="0" tl="J" linkIndex="3"',
        'to="north" fromLane="0" toLane="0" tl="J" linkIndex="2"',
    )
    path = tmp_path / "partly.net.xml"
    path.write_text(text)
    imported = read_sumo_network(path)
    assert imported.network.nodes["J"].signal.phases == (("west_1+2", "back"), ("west_3", "south"), ("south",))
    assert [note.place for note in imported.notes if note.kind == "partly green"] == ["J"]


def test_gzip_is_read_as_well(tmp_path, crossing):
    path = tmp_path / "crossing.net.xml.gz"
    path.write_bytes(gzip.compress(CROSSING.read_bytes()))
    assert read_sumo_network(path).network == crossing.network


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</net>", "", "not a whole XML file"),
        ("<net version", "<routes version", "not a whole XML file"),
        ('length="120.0"', "", r"<lane> south_0 has no length"),
        ('length="120.0"', 'length="far"', "<lane> south_0 has length 'far', not a number above 0"),
        ('length="120.0"', 'length="-5"', "<lane> south_0 has length '-5', not a number above 0"),
        ('id="south" from="S"', 'id="south"', "<edge> south has no from"),
        ('linkIndex="4"', "", "<connection> back has no linkIndex"),
        ('linkIndex="4"', 'linkIndex="5"', "has linkIndex 5, but states of traffic light J have 5 letters"),
        ('<tlLogic id="J"', '<tlLogic id="K"', "names traffic light J, which has no <tlLogic>"),
        ('state="yyrrG"', 'state="yy"', "<tlLogic> J has states of different lengths"),
        ('fromLane="3"', 'fromLane="x"', "has fromLane 'x', not a whole number"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path, old, new, message):
    path = tmp_path / "damaged.net.xml"
    path.write_text(CROSSING.read_text().replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_sumo_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<routes/>", "the root element is <routes>"),
        (b"<net/>", "has no edge that cars may use"),
        (gzip.compress(CROSSING.read_bytes())[:200], "a damaged gzip file"),
        (b"", "not a whole XML file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "other.net.xml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        read_sumo_network(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_sumo_network(tmp_path / "none.net.xml")


def resco(name):
    found = importlib.util.find_spec("sumo_rl")
    if found is None:
        pytest.skip("sumo-rl is not installed: pip install 'unbroken[sumo]'")
    return Path(found.origin).parent / "nets" / "RESCO" / name / f"{name}.net.xml"


def follow(simulation, programs, duration):
    """Advance with every signal on its fixed program."""
    steps = [programs[name].steps for name in simulation.layout.signals]
    position, change = [0] * len(steps), [step[0][1] for step in steps]
    while simulation.time() < duration - 1e-6:
        for s, program in enumerate(steps):
            following = (position[s] + 1) % len(program)
            wanted = simulation.phases()
            wanted[0, s] = program[following][0]
            if simulation.time() >= change[s] and simulation.request(wanted)[0, s]:
                position[s] = following
                change[s] = simulation.time() + simulation.signal(s).clearance + program[following][1]
        simulation.advance(3.0)


@pytest.mark.parametrize("name", RESCO)
def test_the_networks_of_resco_run_and_conserve_vehicles(name):
    imported = read_sumo_network(resco(name))
    network = imported.network
    simulation = Simulation(network)
    flows = np.random.default_rng(7).uniform(0.0, 0.3, (2, len(network.origins), 10))
    simulation.set_demand(0, flows)
    follow(simulation, imported.programs, 600.0)
    assert simulation.imbalance() < 1e-9
    assert simulation.left().min() > 0
    assert simulation.state.cells.min() >= 0
    fullest = max(c.max_occupancy for c in network.classes)
    jam = np.array([[c.jam_density()] for c in network.classes])
    for link in network.links:
        assert (simulation.density(link) <= jam).all()
        assert simulation.occupancy(link).max() <= fullest
