"""C1: what holds in any network under any commands: vehicles in - out = stored, nothing negative, no queue denser than jam, red is
zero, w within its bounds; a row of a batch, threads and a restored state give the same bits.
"""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unbroken.traffic import Link, Movement, Node, RoadNetwork, Signal, Simulation

DECISION = 6.0  # s
ROUNDING = 1e-11
links = st.builds(
    Link,
    st.sampled_from([25.0, 40.0, 100.0, 310.0]),
    st.sampled_from([1.0, 2.0, 3.0, 1.5]),
    st.sampled_from([np.inf, 8.0, 1.0]),
)


@st.composite
def movements(draw, arriving, leaving):
    """Random shares of both classes, some of them zero, that sum to 1."""
    result = []
    for origin in arriving:
        parts = np.array([[draw(st.integers(0, 4)) for _ in leaving] for _ in range(2)], dtype=float)
        parts[parts.sum(axis=1) == 0] = 1.0
        parts /= parts.sum(axis=1, keepdims=True)
        for j, destination in enumerate(leaving):
            saturation = draw(st.sampled_from([1.0, 0.8, 0.3]))
            result.append(Movement(origin, destination, tuple(float(s) for s in parts[:, j]), saturation))
    return tuple(result)


@st.composite
def nodes(draw, arriving, leaving):
    signal = None
    if draw(st.booleans()):
        phases = [tuple(link for link in arriving if draw(st.booleans())) for _ in range(2)]
        phases.append(tuple(link for link in arriving if not any(link in phase for phase in phases)))
        signal = Signal(
            tuple(phases),
            yellow=draw(st.sampled_from([3.0, 0.0, 2.5])),
            end_gain=0.0,
            min_green=draw(st.sampled_from([0.0, 7.0])),
        )
    priority = {link: draw(st.sampled_from([1.0, 0.1, 5.0])) for link in arriving}
    return Node(draw(movements(arriving, leaving)), priority, signal)


@st.composite
def networks(draw, gammas=(None,)):
    """One to three approaches, a node, as many links between, a second node, exits; sometimes with a way back to the first node."""
    approaches, middle, exits = (
        [f"{kind}{i}" for i in range(draw(st.integers(1, 3)))] for kind in ("approach", "middle", "exit")
    )
    back = ["back"] if draw(st.booleans()) else []
    names = [*approaches, *middle, *exits, *back]
    capacity = st.sampled_from([np.inf, 0.4, 0.05, 0.0])
    gamma = draw(st.sampled_from(gammas))
    return RoadNetwork(
        {name: draw(links) for name in names},
        {
            "first": draw(nodes((*approaches, *back), tuple(middle))),
            "second": draw(nodes(tuple(middle), (*exits, *back))),
        },
        tuple(approaches),
        {name: draw(capacity) for name in exits},
        meters=tuple(name for name in (*approaches, *middle) if draw(st.booleans())),
        step=0.6 if gamma is None else 0.3,
        gamma=gamma,
    )


def fill(simulation, rng, motorcycles):
    """Random occupancies, many of them empty or jammed, and any w that goes with them."""
    law, state = simulation.layout.law, simulation.state
    shape = (simulation.batch, simulation.layout.n_slots)
    greatest = law.greatest.max() if motorcycles else law.greatest[1]
    r = greatest * np.clip(rng.uniform(-0.5, 1.5, shape), 0.0, 1.0)
    share = np.clip(rng.uniform(-0.5, 1.5, shape), 0.0, 1.0) if motorcycles else np.zeros(shape)
    r[:, simulation.layout.link_of_slot < 0] = 0.0
    gamma = 1.0 if law.gamma is None else law.gamma
    for k, part in enumerate((share, 1.0 - share)):
        pressure = np.minimum(law.c[k], law.c[k] * (r / law.greatest[k]) ** gamma)
        w = pressure + rng.uniform(0, 1, shape) * (law.c[k] - pressure)
        state.cells[:, k] = r * part / law.lengths[k]
        state.cells[:, 2 + k] = state.cells[:, k] * w


def demand(simulation, rng, motorcycles):
    flows = rng.choice([0.0, 0.1, 0.5, 2.0], size=(2, len(simulation.network.origins), 2))
    flows[0] *= motorcycles
    return flows


def command(simulation, rng, b=0):
    """Any request, rate and limit for copy b; the others go on as they are."""
    wanted, times = simulation.phases(), np.full(simulation.phases().shape, simulation.time(b))
    for signal in range(len(simulation.layout.signals)):
        times[b, signal] += rng.choice([0.0, 0.25])
        wanted[b, signal] = rng.integers(len(simulation.signal(signal).phases))
    simulation.request(wanted, times)
    rates = simulation.state.rates.copy()
    rates[b] = rng.choice([0.0, 0.05, 0.3, np.inf], size=rates.shape[1])
    simulation.set_rates(rates)
    link = simulation.layout.links[rng.integers(len(simulation.layout.links))]
    limits = simulation.state.limit[:, simulation.layout.slots(link).start].copy()
    limits[b] = rng.choice([3.0, 12.0])
    simulation.set_limit(link, limits)


def closed(simulation, until):
    """Approaches that have no green from now to `until`."""
    shut = []
    now = simulation.time()
    for s, name in enumerate(simulation.layout.signals):
        old, new = simulation.state.phases[0, :, s]
        phases = simulation.signal(s).phases
        ends, begins = simulation.state.switch[0, :, s]
        for link in simulation.network.nodes[name].arriving:
            before, after = link in phases[old], link in phases[new]
            if not (before and after) and not (before and ends > now) and not (after and begins < until):
                shut.append(link)
    return shut


def stop_lines(simulation, names):
    return simulation.state.passed[0][:, [simulation.layout.slots(name).stop for name in names]].copy()


def vehicles_over(simulation, link, end):
    """Vehicles of both classes over the beginning or end of a link since the start."""
    slots = simulation.layout.slots(link)
    face = slots.stop if end else slots.start
    return simulation.state.passed[0, :, face] * simulation.network.links[link].lanes


def check_turns(simulation):
    """What enters each exit is its share of what left each approach, by class."""
    for node in simulation.network.nodes.values():
        for exit_ in node.leaving:
            expected = np.zeros(2)
            for m in node.movements:
                if m.destination == exit_:
                    expected += np.array(m.share) * vehicles_over(simulation, m.origin, end=True)
            np.testing.assert_allclose(vehicles_over(simulation, exit_, end=False), expected, rtol=1e-10, atol=1e-10)


def check_bounds(simulation, motorcycles):
    law, cells = simulation.layout.law, simulation.state.cells[0]
    assert np.isfinite(cells).all()
    assert cells.min() >= 0
    assert simulation.state.waiting.min() >= 0
    inside = simulation.layout.link_of_slot >= 0
    greatest = law.greatest.max() if motorcycles else law.greatest[1]
    assert (law.lengths @ cells[:2])[inside].max() <= greatest + ROUNDING
    for k in range(2):
        filled = inside & (cells[k] > 1e-200)
        w = cells[2 + k][filled] / cells[k][filled]
        assert w.max(initial=0.0) <= law.c[k] * (1 + 1e-12)


def check_any(network, seed, motorcycles):
    rng = np.random.default_rng(seed)
    simulation = Simulation(network)
    if rng.uniform() < 0.7:
        fill(simulation, rng, motorcycles)
    simulation.set_demand(0, demand(simulation, rng, motorcycles))
    start = simulation.stored()
    for _ in range(15):
        command(simulation, rng)
        red = closed(simulation, simulation.time() + DECISION)
        before = stop_lines(simulation, red)
        limited = [*network.meters, *network.sinks]
        most = [*simulation.state.rates[0], *network.sinks.values()]
        counts = [vehicles_over(simulation, link, end=True).sum() for link in limited]
        simulation.advance(DECISION)
        for link, rate, count in zip(limited, most, counts, strict=True):
            assert vehicles_over(simulation, link, end=True).sum() - count <= rate * DECISION + 1e-10
        assert np.array_equal(stop_lines(simulation, red), before)
        check_bounds(simulation, motorcycles)
    check_turns(simulation)
    assert np.abs(simulation.arrived() + start - simulation.left() - simulation.stored()).max() < 1e-9
    if not motorcycles:
        assert simulation.state.cells[:, 0].max() == 0.0


@given(network=networks(), seed=st.integers(0, 2**32), motorcycles=st.booleans())
@settings(deadline=None, max_examples=100)
def test_any_network_conserves_vehicles_stays_in_bounds_and_stops_at_red(network, seed, motorcycles):
    check_any(network, seed, motorcycles)


@pytest.mark.full
@given(network=networks((2.0, 1.5)), seed=st.integers(0, 2**32), motorcycles=st.booleans())
@settings(deadline=None, max_examples=200)
def test_any_network_does_so_with_other_pressures(network, seed, motorcycles):
    check_any(network, seed, motorcycles)


def run_rows(network, rows, seeds, *, parallel=False):
    """States after 60 s of a batch whose row b has the demand and the commands of seed b."""
    simulation = Simulation(network, rows, parallel=parallel)
    generators = [np.random.default_rng(seed) for seed in seeds]
    for b, rng in enumerate(generators):
        simulation.set_demand(b, demand(simulation, rng, True))
    for _ in range(10):
        for b, rng in enumerate(generators):
            command(simulation, rng, b)
        simulation.advance(DECISION)
    return simulation.get_state()


@given(network=networks(), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_a_row_of_a_batch_is_the_single_environment_bit_for_bit(network, seed):
    seeds = [seed, seed + 1, seed + 2]
    batch = run_rows(network, 3, seeds)
    for b, own in enumerate(seeds):
        alone = run_rows(network, 1, [own])
        for name, values in alone.items():
            assert values[0].tobytes() == batch[name][b].tobytes(), name


@given(network=networks(), seed=st.integers(0, 2**32), absent=st.sampled_from([0, 1]))
@settings(deadline=None, max_examples=20)
def test_leaving_out_a_class_that_is_absent_changes_no_bit(network, seed, absent):
    """Kernels leave out a class that is not there and never comes; the same class to come later is computed, as zeros."""
    left_out, computed = Simulation(network), Simulation(network)
    for simulation, to_come in ((left_out, 0.0), (computed, 0.1)):
        rng = np.random.default_rng(seed)
        flows = demand(simulation, rng, True)
        flows[absent] = 0.0
        later = np.zeros((2, flows.shape[1], 3))
        later[absent] = to_come
        simulation.set_demand(0, np.concatenate([flows, later], axis=2))
        for _ in range(10):
            command(simulation, rng, 0)
            simulation.advance(DECISION)
    expected = computed.get_state()
    for name, values in left_out.get_state().items():
        assert name == "demand" or values.tobytes() == expected[name].tobytes(), name


@pytest.fixture
def threads():
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


CROSSING = RoadNetwork(
    {name: Link(200.0, 2) for name in ("west", "south", "east", "north")},
    {
        "crossing": Node(
            (
                Movement("west", "east", (0.7, 0.5)),
                Movement("west", "north", (0.3, 0.5), 0.8),
                Movement("south", "north"),
            ),
            signal=Signal((("west",), ("south",))),
        )
    },
    ("west", "south"),
    {"east": 0.3, "north": np.inf},
    meters=("south",),
)


@pytest.mark.parametrize("count", [1, 2])
def test_threads_give_the_bits_of_one_thread(count, threads):
    if count > numba.config.NUMBA_NUM_THREADS:
        pytest.fail("this machine has one core: a second thread cannot be tested")
    numba.set_num_threads(count)
    serial = run_rows(CROSSING, 5, range(5))
    parallel = run_rows(CROSSING, 5, range(5), parallel=True)
    for name, values in serial.items():
        assert values.tobytes() == parallel[name].tobytes(), name


@given(network=networks(), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_a_restored_state_goes_on_bit_for_bit(network, seed):
    rng = np.random.default_rng(seed)
    original = Simulation(network)
    fill(original, rng, True)
    original.set_demand(0, demand(original, rng, True))
    for _ in range(5):
        command(original, rng)
        original.advance(DECISION)
    restored = Simulation(network)
    restored.set_state(original.get_state())
    generator = rng.bit_generator.state
    for simulation in (original, restored):
        rng.bit_generator.state = generator
        for _ in range(5):
            command(simulation, rng)
            simulation.advance(DECISION)
    own, other = original.get_state(), restored.get_state()
    for name, values in own.items():
        assert values.tobytes() == other[name].tobytes(), name
