"""Traces made by hand."""

import json

import pytest

from unbroken.proving.reading import Leg
from unbroken.tracing import SUFFIX


@pytest.fixture
def leg(tmp_path):
    """Writes events, as (event, step, content), to a trace of their own; `at` is the number of the event. Returns it read."""

    def make(name, *events, tail=""):
        path = tmp_path / f"{name}{SUFFIX}"
        rows = [
            json.dumps({"event": event, "call": "a#0", "step": step, "at": float(at), **content})
            for at, (event, step, content) in enumerate(events)
        ]
        path.write_text("".join(f"{row}\n" for row in rows) + tail)
        read = Leg(path)
        read.read_on()
        return read

    return make


@pytest.fixture
def cut():
    """A whole state of some leaves and some hidden places."""

    def make(step, leaves, hidden=None, kind="rollout", threads=1):
        places = {
            place: {"kind": "value", "roles": ["script"], "leaves": {"value": [shown, shown]}}
            for place, shown in (hidden or {}).items()
        }
        digests = {name: [shown, shown] for name, shown in leaves.items()}
        return ("cut", step, {"cut": kind, "leaves": digests, "missing": [], "hidden": places, "threads": threads})

    return make


@pytest.fixture
def step():
    """A step of the environment or a logged row with plain values."""

    def make(step, event="step", **values):
        return (event, step, {"values": {name: [str(value), str(value)] for name, value in values.items()}})

    return make
