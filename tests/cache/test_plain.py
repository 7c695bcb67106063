"""Values become plain data that is equal exactly where they are: anything else would be a false hit or a false miss (D1)."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.cache.context import context_differences, numeric_context
from unbroken.cache.inputs import Absent, Inputs, differences, fingerprint_of
from unbroken.cache.plain import plain


@dataclass(frozen=True)
class Gain:
    value: float = 1.0
    hidden: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True)
class Limit:
    value: float = 1.0
    hidden: int = 0


RECORD = np.zeros(1, [("a", "f8"), ("b", "f8")])
DISTINCT = [
    *(None, True, False, 0, 1, 0.0, -0.0, 1.0, math.nextafter(1.0, 2.0), 2**70, "1", "true", "null", "", "a", "A", "a "),
    *(math.inf, -math.inf, math.nan, "inf", "Infinity", "nan", {"$float": "inf"}, {"$$float": "inf"}),
    *(np.uint8(1), np.int32(1), 0.5, np.float32(0.5), np.float16(0.5), {"$number": ["<f4", "0000003f"]}),
    *([], {}, set(), [1], [1, 2], [2, 1], [[1], 2], [[1, 2]], {1}, {1, 2}, {"$set": [1]}),
    *({"a": 1}, {"a": 1.0}, {"a": None}, {"b": 1}, {"a": 1, "b": 2}, {"b": 2, "a": 1}, {1: "x"}, {"1": "x"}),
    *({1.0: "x"}, {True: "x"}, {"True": "x"}, {"$int 1": "x"}),
    *(Gain(), Gain(2.0), Gain(hidden=1), Limit(), {"value": 1.0, "hidden": 0}, {"$class": "Gain", "value": 1.0, "hidden": 0}),
    *(np.zeros(3), np.zeros(3, "f4"), np.zeros((3, 1)), np.zeros(4), np.array([0.0, 0.0, -0.0]), np.zeros(3, ">f8")),
    *(np.zeros(3, bool), RECORD, RECORD.astype([("a", "f8"), ("c", "f8")]), [0.0, 0.0, 0.0]),
    *(b"", b"a", "é", "e\u0301", np.array("a"), np.array(["a"]), np.datetime64("2020", "Y").astype("M8[s]").reshape(1)),
]  # fmt: skip


def text(value):
    return json.dumps(plain(value), ensure_ascii=True, allow_nan=False)


def test_different_values_have_different_plain_forms():
    found = {}
    for value in DISTINCT:
        assert text(value) not in found, f"{value!r} and {found[text(value)]!r} are the same"
        found[text(value)] = value


def test_equal_values_have_the_same_plain_form():
    pairs = [
        *((1, np.int64(1)), (0.5, np.float64(0.5)), (True, np.bool_(True)), ("a", np.str_("a"))),
        *(((1, 2), [1, 2]), (frozenset({1, 2}), {2, 1}), ({3, "a"}, {"a", 3}), (Path("a/b"), "a/b")),
        *((np.zeros((2, 3)), np.zeros((3, 2)).T), (np.arange(4)[::2], np.array([0, 2])), (Gain(1.0), Gain())),
    ]
    for first, second in pairs:
        assert text(first) == text(second), (first, second)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        1j,
        np.longdouble(1),
        np.timedelta64(5, "ns"),
        np.array([None]),
        Gain,
        {None: 1},
        {(1,): 1},
        np.ma.masked_array([1.0], [True]),
    ],
)
def test_what_cannot_be_compared_is_refused(value):
    """A value that would be part of the key by its address or not at all is an error at once."""
    with pytest.raises(TypeError, match=r"fingerprint"):
        plain({"a": [value]})


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)


@given(trees, trees)
def test_differences_are_empty_exactly_for_equal_fingerprints(first, second):
    """D3: `explain` never says `same inputs` of two keys, nor names a place of one."""
    one, other = ({"values": plain(tree)} for tree in (first, second))
    assert (fingerprint_of(one) == fingerprint_of(other)) == (not differences(one, other))
    assert not differences(one, json.loads(json.dumps(one)))


def test_differences_by_place():
    one = Inputs("s", "rl", {"a": {"x": 1, "y": [1, 2]}, "gone": None}, {"f.py": "1", "g.py": "1"})
    two = Inputs("s", "rl", {"a": {"y": [1, 3, 4], "x": 1.0}}, {"f.py": "2", "h.py": "1"})
    found = differences(one.record, two.record)
    assert [(one.place, one.first, one.second) for one in found] == [
        ("values.a.x", 1, 1.0),
        ("values.a.y[1]", 2, 3),
        ("values.a.y[2]", Absent.ABSENT, 4),
        ("values.a (order)", ["x", "y"], ["y", "x"]),
        ("values.gone", None, Absent.ABSENT),
        ("sources.f.py", "1", "2"),
        ("sources.g.py", "1", Absent.ABSENT),
        ("sources.h.py", Absent.ABSENT, "1"),
    ]
    assert [one.text() for one in found] == [
        "a.x: 1 -> 1.0",
        "a.y[1]: 2 -> 3",
        "a.y[2]: absent -> 4",
        'a (order): ["x", "y"] -> ["y", "x"]',
        "gone: null -> absent",
        "f.py: other content",
        "g.py: only in the first",
        "h.py: only in the second",
    ]
    json.dumps([one.plain() for one in found])


def test_the_order_of_values_and_sources_does_not_matter():
    """The names of parts are ours; what a user's mapping holds keeps its order."""
    one = Inputs("s", "rl", {"a": 1, "b": 2}, {"f": "1", "g": "2"})
    assert one.fingerprint == Inputs("s", "rl", {"b": 2, "a": 1}, {"g": "2", "f": "1"}).fingerprint
    assert one.fingerprint != Inputs("s", "baseline", {"a": 1, "b": 2}, {"f": "1", "g": "2"}).fingerprint
    assert one.fingerprint != Inputs("t", "rl", {"a": 1, "b": 2}, {"f": "1", "g": "2"}).fingerprint


def test_the_context_names_what_decides_the_last_bit(monkeypatch):
    """D5: versions, C library, processor, and variables that choose kernels."""
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    here = numeric_context("torch", "no-such-package")
    assert {"python", "numpy", "numba", "system", "machine", "vectors", "torch", "no-such-package"} <= set(here)
    assert here["no-such-package"] == "not installed"
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    there = numeric_context("torch", "no-such-package")
    assert context_differences(here, there) == "NUMBA_DISABLE_JIT unset and 1"
    assert context_differences(here, dict(here)) == ""
