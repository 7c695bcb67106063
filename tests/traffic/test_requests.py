"""C1: a request to every signal at once is a request to each."""

import numpy as np
import pytest

from unbroken.errors import ConfigurationError
from unbroken.traffic import Link, Movement, Node, RoadNetwork, Signal, Simulation


def road(signals):
    links = {f"a{i}": Link(100.0) for i in range(signals + 1)}
    nodes = {
        f"n{i}": Node(
            (Movement(f"a{i}", f"a{i + 1}"),),
            signal=Signal(((f"a{i}",), (), (f"a{i}",))[: 2 + i % 2], min_green=5.0 + 4 * i),
        )
        for i in range(signals)
    }
    return RoadNetwork(links, nodes, ("a0",), {f"a{signals}": np.inf})


def test_requests_at_once_are_requests_one_by_one():
    network = road(4)
    together, single = Simulation(network, 2), Simulation(network, 2)
    rng = np.random.default_rng(3)
    for _ in range(60):
        phases = rng.integers(0, together.layout.n_phases)
        done = together.request_all(phases, 1)
        assert done.tolist() == [single.request(s, int(phase), 1) for s, phase in enumerate(phases)]
        for simulation in (together, single):
            simulation.advance(3.0)
        np.testing.assert_array_equal(together.state.phases, single.state.phases)
        np.testing.assert_array_equal(together.state.switch, single.state.switch)


@pytest.mark.parametrize("phases", [[0, 1], [0, 1, 3], [0, -1, 0]])
def test_phases_that_are_not_there_are_refused(phases):
    with pytest.raises(ConfigurationError):
        Simulation(road(3)).request_all(phases)
