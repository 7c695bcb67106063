"""C1: a network that cannot be is refused with one line that says what to do."""

import math

import pytest

from unbroken.errors import ConfigurationError
from unbroken.traffic import CAR, Link, Movement, Node, Profile, RoadNetwork, Signal, VehicleClass

LINKS = {"a": Link(500), "b": Link(500)}
JOINED = {"n": Node((Movement("a", "b"),))}


def network(links=LINKS, nodes=JOINED, origins=("a",), sinks=None, **options):
    return RoadNetwork(links, nodes, origins, {"b": math.inf} if sinks is None else sinks, **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: network(sinks={}), "link b ends nowhere"),
        (lambda: network(origins=()), "link a begins nowhere"),
        (lambda: network(origins=("a", "b")), "link b begins at 2"),
        (lambda: network(origins=("a", "c")), "unknown link c"),
        (
            lambda: network(nodes={"n": Node((Movement("a", "b", (0.5, 1.0)),))}),
            "shares of motorcycles from a sum to 0.5",
        ),
        (lambda: network(nodes={"n": Node((Movement("a", "b"), Movement("a", "b")))}), "is given 2 times"),
        (lambda: network(nodes={"n": Node(())}), "has no movements"),
        (lambda: network(nodes={"n": Node((Movement("a", "b"),), {"z": 1.0})}), "priority for z"),
        (lambda: network(nodes={"n": Node((Movement("a", "b"),), signal=Signal((("a",),)))}), "two phases or more"),
        (lambda: network(nodes={"n": Node((Movement("a", "b"),), signal=Signal((("b",), ("a",))))}), "does not arrive"),
        (lambda: network(nodes={"n": Node((Movement("a", "b"),), signal=Signal(((), ())))}), "a never gets green"),
        (lambda: network(step=2.0), "too long for cells"),
        (lambda: network(links={"a": Link(10), "b": Link(500)}), "link a: a step of 0.6 s is too long"),
        (lambda: network(meters=("b",)), "meter at link b"),
        (lambda: Link(0), "length must be above 0"),
        (lambda: Link(100, lanes=-1), "lanes must be above 0"),
        (lambda: Profile(((0.0, -1.0),)), "demand must be finite and at least 0"),
        (lambda: Profile(((10.0, 1.0), (5.0, 1.0))), "in order of time"),
        (lambda: VehicleClass("x", 20.0, 7.0, 1.0, 15.0, 8.0), "below the free speed"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ConfigurationError, match=words) as refused:
        make()
    assert len(str(refused.value).splitlines()) == 1


def test_a_jam_holds_140_cars_a_kilometre_and_equilibrium_stands_before():
    assert CAR.jam_density() == pytest.approx(0.140)
    assert CAR.equilibrium_speed(0.0) == pytest.approx(50 / 3.6)
    assert CAR.equilibrium_speed([CAR.standing, 1.0]) == pytest.approx([0.0, 0.0], abs=1e-12)
    assert CAR.equilibrium_speed(0.1, limit=5.0) == pytest.approx(5.0)
