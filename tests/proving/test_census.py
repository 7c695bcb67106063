"""State outside of every capture, found where users keep it; and what they read the clock with (A18)."""

import datetime
import random
import time
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import torch

from unbroken.proving.census import clock_readers, hidden_state
from unbroken.tracing import Owners, Trace, collapsed

SHARED = {"random": np.random.default_rng(1)}
COUNT = 0


class Owner:
    """Stands for an environment, a callback or a schedule."""

    table = [0]  # noqa: RUF012 - the defect itself

    def __init__(self, function=None):
        self.function = function

    def step(self, drawn=random.Random(2)):  # noqa: B008 - the defect itself
        return drawn.random() + SHARED["random"].random() + COUNT


def optimizing():
    weights = torch.nn.Linear(2, 1)
    adam = torch.optim.Adam(weights.parameters())

    def train():
        weights(torch.ones(2)).sum().backward()
        adam.step()

    return train


def found(owner, role="callbacks"):
    return hidden_state(Owners(**{role: (owner,)}))


def changed(before, after):
    return {place for place in after if before.get(place, {}).get("leaves") != after[place]["leaves"]}


def test_state_is_found_in_globals_defaults_classes_and_closures():
    """A18: with its kind and the part whose code uses it."""
    owner = Owner(optimizing())
    before = found(owner)
    module = __name__
    assert before[f"global {module}.SHARED['random']"]["kind"] == "generator"
    assert before["default drawn of Owner.step"]["kind"] == "generator"
    assert before["class attribute Owner.table"]["kind"] == "value"
    assert before["variable adam in optimizing"]["kind"] == "optimizer"
    assert before["variable weights in optimizing"]["kind"] == "network"
    assert "callback" in before["variable adam in optimizing"]["roles"]
    assert changed(before, found(owner)) == set()


def test_what_changes_is_seen_to_change_and_nothing_else(monkeypatch):
    """A18: every kind."""
    owner = Owner(optimizing())
    before = found(owner)
    owner.step()
    assert changed(before, found(owner)) == {f"global {__name__}.SHARED['random']", "default drawn of Owner.step"}
    before = found(owner)
    owner.function()
    assert changed(before, found(owner)) == {"variable adam in optimizing", "variable weights in optimizing"}
    before = found(owner)
    monkeypatch.setattr(Owner, "table", [1])
    monkeypatch.setitem(globals(), "COUNT", 5)
    assert changed(before, found(owner)) == {"class attribute Owner.table", f"global {__name__}.COUNT"}


def test_looking_draws_no_number():
    """A18: a training that is looked at must stay what it is."""
    states = [SHARED["random"].bit_generator.state, random.getstate(), torch.get_rng_state().tolist()]
    found(Owner(optimizing()))
    # optimizing() itself makes weights, which draws from torch
    assert states[:2] == [SHARED["random"].bit_generator.state, random.getstate()]


def by_module():
    return time.perf_counter()


def by_name():
    return monotonic()


def by_date():
    return datetime.datetime.now(tz=datetime.UTC)


def imported_inside():
    import time as clock

    return clock.time()


def by_another():
    return by_module()


def sleeping():
    time.sleep(0)


@pytest.mark.parametrize(
    ("function", "clock"),
    [
        (by_module, "time.perf_counter"),
        (by_name, "time.monotonic"),
        (by_date, "datetime.now"),
        (imported_inside, "time.time"),
        (by_another, "time.perf_counter"),
        (sleeping, None),
    ],
)
def test_code_that_reads_a_clock_is_found(function, clock):
    """A18: wall-clock schedule; sleeping is no reading."""
    readers = clock_readers(Owners(schedules=(function,)))
    assert [reader["clock"] for reader in readers] == ([clock] if clock else [])
    assert all(reader["role"] == "schedule" and Path(__file__).name in reader["function"] for reader in readers)


def test_two_processes_trace_the_same_cuts_even_where_one_holds_back(tmp_path):
    """A18: which cuts are traced follows from steps; a process that finds them dear leaves out some, and adds none."""
    every, rarely = Trace(tmp_path), Trace(tmp_path)
    for trace in (every, rarely):
        trace.begin("a#0", 100_000)
    rarely._hold_back(5.0)
    cuts = range(0, 100_000, 64)
    chosen = [[step for step in cuts if trace.is_due(step)] for trace in (every, rarely)]
    assert set(chosen[1]) < set(chosen[0])
    assert 90 < len(chosen[1]) < len(chosen[0]) <= 201


def test_long_containers_have_one_digest_and_short_ones_keep_their_names():
    """A18: a history of a callback must not make a trace long, and normalisation in a list of layers must keep its name."""
    state = {"history": list(range(1000)), "layers": [{"mean": 1.0, "rows": list(range(100))}, {"mean": 2.0}]}
    short = collapsed(state)
    assert list(short) == ["history[...]", "layers[0].mean", "layers[0].rows[...]", "layers[1].mean"]
    assert short["history[...]"][1] == "1000 values, the last 999"
    changed_early = collapsed({**state, "history": [5, *range(1, 1000)]})
    assert [name for name in short if short[name] != changed_early[name]] == ["history[...]"]
