"""C1: counts from CSV become demand without losing a vehicle, or an error that names the line."""

import numpy as np
import pytest

from unbroken.errors import ConfigurationError
from unbroken.traffic.importing import read_counts

HEADER = "link,time_s,motorcycles,cars\n"


def written(tmp_path, text):
    path = tmp_path / "counts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_minutes_become_flows_in_order_of_the_origins(tmp_path):
    counts = read_counts(written(tmp_path, HEADER + "b,60,6,12\nb,0,30,60\na,0,3,0\na,60,0,9\n"))
    assert counts.links == ("a", "b")
    demand = counts.demand(("b", "c", "a"))
    assert demand.shape == (2, 3, 3)  # nobody comes after the counts
    np.testing.assert_allclose(demand[0], [[0.5, 0.1, 0], [0, 0, 0], [0.05, 0, 0]])
    np.testing.assert_allclose(demand[1], [[1.0, 0.2, 0], [0, 0, 0], [0, 0.15, 0]])


def test_longer_and_shorter_periods_keep_every_vehicle(tmp_path):
    text = "time_s,link,cars,motorcycles,period_s\n600,a,90,0,90\n690,a,20,10,30\n720,a,7,5,100\n"
    counts = read_counts(written(tmp_path, text))
    assert counts.begin == 600
    assert counts.flows.shape == (2, 1, 4)
    np.testing.assert_allclose(counts.flows.sum(axis=2)[:, 0] * 60, [15, 117])
    np.testing.assert_allclose(counts.flows[1, 0, :2] * 60, [60, 30 + 20])


def test_quarters_of_an_hour_are_spread_evenly(tmp_path):
    counts = read_counts(written(tmp_path, HEADER + "a,0,90,180\na,900,0,0\n"))
    np.testing.assert_allclose(counts.flows[1, 0, :15], 0.2)
    assert counts.flows.shape[2] == 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "a,0,1,1\na,60,-1,0\n", "line 3: a count is negative"),
        (HEADER + "a,0,x,1\n", "line 2: motorcycles is 'x', not a number"),
        (HEADER + "a,0,1\n", "line 2: has more or fewer values"),
        (HEADER + "a,0,1,1,1\n", "line 2: has more or fewer values"),
        ("link,time_s,motorcycles,cars,buses\n", "line 1: unknown column buses"),
        ("link,time_s,cars\n", "line 1: no column motorcycles"),
        (HEADER + "a,0,1,1\na,60,1,1\na,180,1,1\n", "line 4: counts of a from 120 to 180 s are missing"),
        (HEADER + "a,0,1,1\na,60,1,1\na,60,1,1\n", "line 4: the period of a at 60 s overlaps"),
        (HEADER + "a,0,1,1\na,60,1,1\nb,60,1,1\n", "line 4: counts of b begin at 60 s"),
        (HEADER + "a,0,1,1\na,60,1,1\nb,0,1,1\n", "line 4: counts of b end at 60 s"),
        (HEADER + "a,0,1,1\n", "line 2: one count of a: its period is unknown"),
        (HEADER, "has no counts"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_counts(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_counts_of_a_link_that_is_no_origin_are_refused(tmp_path):
    counts = read_counts(written(tmp_path, HEADER + "a,0,1,1\na,60,1,1\n"))
    with pytest.raises(ConfigurationError, match="counts of a: not an origin"):
        counts.demand(("b",))


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot be read"):
        read_counts(tmp_path / "none.csv")
