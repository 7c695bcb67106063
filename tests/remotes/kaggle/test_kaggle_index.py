"""The index of a dataset: what it survives, how versions are put together, and how contents are packed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbroken.remotes.kaggle import index as packing
from unbroken.remotes.kaggle.index import Blob, Index, Pack, merged, planned


def blob(n, size=10):
    return Blob(f"{n:064x}", size)


def an_index(base, old=(), new=()):
    objects = {**dict(old), **dict(new)}
    packs = planned((), {content.sha256: content for content in objects.values()})
    return Index("ada/rl-cache", base, f"push {base}", objects, frozenset(name for name, _ in new), packs)


def test_an_index_comes_back():
    written = an_index(3, old=[("a b/é", blob(1)), ("empty", Blob("e" * 64, 0))], new=[("c", blob(2))])
    assert Index.from_bytes(written.to_bytes()) == written


def changed(**entries):
    return json.dumps({**json.loads(an_index(0, new=[("a", blob(1))]).to_bytes()), **entries}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html>",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        changed(format="unbroken-kaggle-dataset-2"),
        changed(objects={"../a": [10, f"{1:064x}"]}),
        changed(objects={"a": [-1, f"{1:064x}"]}),
        changed(objects={"a": [10, "abc"]}),
        changed(objects={"a": [10, f"{2:064x}"]}),
        changed(objects={"a": [10]}),
        changed(objects=[]),
        changed(packs={}),
        changed(packs={"unbroken-0.bin": [f"{1:064x}"]}),
        changed(base="x"),
        an_index(0, new=[("a", blob(1))]).to_bytes()[:-5],
    ],
)
def test_anything_else_is_refused(content):
    with pytest.raises(ValueError):
        Index.from_bytes(content)


def test_a_name_belongs_to_the_earliest_version():
    second = an_index(1, old=[("a", blob(1))], new=[("x", blob(2)), ("y", blob(3))])
    third = an_index(1, old=[("a", blob(1))], new=[("x", blob(4)), ("z", blob(5))])
    view = merged(3, third, {2: second})
    assert {name: (place.blob, place.version) for name, place in view.places.items()} == {
        "a": (blob(1), 3),
        "x": (blob(2), 2),
        "y": (blob(3), 2),
        "z": (blob(5), 3),
    }
    assert view.torn
    assert not merged(2, second, {}).torn


def test_what_a_version_continues_goes_before_what_it_passed_over():
    second = an_index(0, new=[("x", blob(2))])
    assert merged(3, an_index(1, old=[("x", blob(1))]), {2: second}).places["x"].blob == blob(1)


@given(st.lists(st.integers(0, 12), max_size=12), st.lists(st.integers(0, 12), max_size=12))
def test_packs_hold_each_content_once_and_old_ones_stay(old, new):
    wanted = {blob(n).sha256: blob(n, n) for n in {*old, *new}}
    before = planned((), {blob(n).sha256: blob(n, n) for n in set(old)})
    packs = planned(before, wanted)
    held = [content.sha256 for pack in packs for content in pack.blobs]
    assert sorted(held) == sorted(hash_ for hash_, content in wanted.items() if content.size)
    assert set(before) <= set(packs)


def test_contents_no_longer_wanted_are_left_out():
    packs = planned([Pack((blob(1), blob(2))), Pack((blob(3),))], {blob(2).sha256: blob(2)})
    assert packs == (Pack((blob(2),)),)


def test_packs_are_bounded_in_size_and_number(monkeypatch):
    monkeypatch.setattr(packing, "PACK_SIZE", 25)
    monkeypatch.setattr(packing, "MOST_PACKS", 3)
    wanted = {blob(n).sha256: blob(n) for n in range(1, 6)} | {blob(9).sha256: blob(9, 99)}
    assert [pack.size for pack in planned((), wanted)] == [20, 20, 10, 99]
    singles = [Pack((content,)) for content in wanted.values() if content.size == 10]
    assert [pack.size for pack in planned(singles[:3], dict(list(wanted.items())[:3]))] == [10, 10, 10]
    assert [pack.size for pack in planned(singles, wanted)] == [20, 20, 10, 99]
