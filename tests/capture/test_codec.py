"""Descriptions as bytes: exact round trips, and documents that want to do harm (promise 6)."""

import contextlib
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra

from unbroken.capture.codec import decode, encode
from unbroken.errors import DamagedFile

dtypes = st.one_of(
    extra.boolean_dtypes(),
    extra.integer_dtypes(),
    extra.unsigned_integer_dtypes(),
    extra.floating_dtypes(),
    extra.complex_number_dtypes(),
    extra.datetime64_dtypes(max_period="s", min_period="ns"),
    extra.unicode_string_dtypes(min_len=1, max_len=4),
    extra.byte_string_dtypes(min_len=1, max_len=4),
)
arrays = dtypes.flatmap(lambda d: extra.arrays(d, extra.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
names = st.text().filter(lambda name: name != "$array")
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**200), 2**200),
    st.text(),
    st.floats(allow_nan=False, allow_infinity=False),
)
trees = st.recursive(
    st.one_of(plain, arrays),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


def same(one, two):
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, float):
        return type(two) is float and one == two and math.copysign(1, one) == math.copysign(1, two)
    return type(one) is type(two) and one == two


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_what_was_encoded_is_decoded_bit_for_bit(tree):
    """A6: every array type and shape, zero-dimensional and empty ones too."""
    encoded = encode(tree)
    block = b"".join(bytes(piece) for piece in encoded.block())
    assert len(block) % 64 == 0
    assert same(tree, decode(encoded.document, block))


def test_arrays_in_fortran_order_and_views_keep_their_values():
    """A6: memory layout is not state, values are."""
    base = np.arange(24.0).reshape(4, 6)
    for array in (np.asfortranarray(base), base[::2, ::-3], base.T, np.broadcast_to(base[0], (3, 6))):
        encoded = encode({"a": array})
        found = decode(encoded.document, b"".join(bytes(p) for p in encoded.block()))["a"]
        np.testing.assert_array_equal(found, array)


def test_what_is_no_description_is_refused_at_encoding():
    """A10: a save that cannot be read back is not made."""
    for value in ({"a": object()}, [1, {2, 3}], float("nan"), {"a": b"bytes"}, {"$array": 1}, {1: 2}):
        with pytest.raises((TypeError, ValueError)):
            encode(value)


def document(tree, version=1):
    return json.dumps({"version": version, "tree": tree}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"5",
        b"\xff\xfe",
        b'{"version": 1}',
        b'{"tree": 1}',
        document(1, 2),
        document(1, "1"),
        b"[" * 200_000,
        b'{"version":1,"tree":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"version":1,"tree":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        b'{"version":1,"tree":' + b"9" * 5_000 + b"}",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_hostile_document_is_damage(content):
    """Promise 6: deep nesting, numbers without end, other versions, no document at all."""
    with pytest.raises(DamagedFile):
        decode(content, b"")


@pytest.mark.parametrize(
    "entry",
    [
        [0, "<f8", [1 << 40]],
        [0, "<f8", [1 << 62, 4]],
        [0, "<f8", [1 << 200]],
        [-64, "<f8", [1]],
        [64, "<f8", [1]],
        [1 << 80, "<f8", [1]],
        [0, "|O", [1]],
        [0, "O", [1]],
        [0, "<f8,<f8", [1]],
        [0, "V8", [1]],
        [0, "(2,2)<f4", [1]],
        [0, "{'a'", [1]],
        [0, ",)a", [1]],
        [0, "no such type", [1]],
        [0, None, [1]],
        [0, 5, [1]],
        [0, ["f8"], [1]],
        [0, "<f8", [-1]],
        [0, "<f8", [1.5]],
        [0, "<f8", ["1"]],
        [0, "<f8", 1],
        [0, "<f8", None],
        [0.5, "<f8", [1]],
        ["0", "<f8", [1]],
        [None, "<f8", [1]],
        [0, "<f8", [1] * 100],
        [0, "<f8"],
        {},
        5,
        "abc",
        [0, "<U1000000000", [1]],
    ],
    ids=str,
)
def test_a_hostile_array_entry_is_damage(entry):
    """Promise 6: huge shapes, negative offsets, object and structured types; no memory is taken for them."""
    with pytest.raises(DamagedFile):
        decode(document({"a": {"$array": entry}}), bytes(64))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text(alphabet="()[]{},'iufcbSUmMVO0248<>|= ns", max_size=8),
    st.lists(st.integers(-2, 9), max_size=3),
    st.integers(-9, 99),
)
def test_any_array_entry_gives_an_array_or_damage(name, shape, offset):
    """Promise 6: nothing else escapes, whatever the name of the type."""
    try:
        found = decode(document({"$array": [offset, name, shape]}), bytes(64))
    except DamagedFile:
        return
    assert not found.dtype.hasobject
    assert found.nbytes <= 64
    assert not found.flags.writeable


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=60))
def test_any_bytes_give_data_or_damage(content):
    """Promise 6."""
    with contextlib.suppress(DamagedFile):
        decode(content, content)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.data())
def test_a_cut_block_is_damage(tree, data):
    """A7: an array that reaches beyond its block."""
    encoded = encode(tree)
    block = b"".join(bytes(piece) for piece in encoded.block())
    needed = max((len(block) - (-array.nbytes % 64) for array in encoded.arrays[-1:] if array.nbytes), default=0)
    if needed:
        with pytest.raises(DamagedFile):
            decode(encoded.document, block[: data.draw(st.integers(0, needed - 1))])
