"""Hits, prefixes, extensions and misses of one cache, and what it says (D1, D2, D3, D4)."""

import logging

import numpy as np
import pytest

from unbroken.cache import Inputs, Result, ResultCache
from unbroken.testing.walks import Walk, same_rows, uninterrupted


def test_a_hit_is_what_was_computed(cache, lines):
    """D4: computed once, said, and the same bits from a cache that another object opens."""
    walk = Walk()
    assert (walk.ask(cache, 40).how, walk.ask(ResultCache(cache.folder), 40).how) == ("computed", "hit")
    assert walk.computed == [40]
    assert same_rows(walk.ask(cache, 40).result, uninterrupted(40))
    (name,) = [path.name for path in cache.folder.iterdir() if path.is_file()]
    short = walk.inputs().short
    assert name.startswith(f"walk_{short}_baseline_cache_40_steps_")
    assert lines.all()[:3] == [
        f"[CACHE BASELINE] No cache found for walk with config {short}",
        f"[CACHE BASELINE] Saved 40 states to {cache.folder / name}",
        f"[CACHE BASELINE] Using universal cache (40 steps ≥ 40 required): {name}",
    ]
    assert not lines.warnings()


def test_fewer_steps_are_a_prefix(cache):
    """D2: 40 of 60 steps, without computing anything; the prefix has no end to go on from."""
    walk = Walk()
    walk.ask(cache, 60)
    answer = walk.ask(cache, 40)
    assert answer.how == "hit"
    assert answer.result.end is None
    assert same_rows(answer.result, uninterrupted(40))


def test_more_steps_extend_what_is_there(cache, lines):
    """D2: the longer entry takes the place of the shorter one and equals the uninterrupted walk bit for bit."""
    walk = Walk()
    walk.ask(cache, 40)
    answer = walk.ask(cache, 60)
    assert (answer.how, walk.computed, walk.extended) == ("extended", [40], [60])
    assert same_rows(answer.result, uninterrupted(60))
    assert [entry.steps for entry in cache.entries(walk.inputs())] == [60]
    assert same_rows(walk.ask(cache, 60).result, uninterrupted(60))
    assert "[CACHE BASELINE] Partial: 40 steps of 60 are there; extending from their end state" in lines.all()


def test_random_sequences_of_requests(cache):
    """D2: whatever was asked before, each answer is the uninterrupted walk's."""
    rng = np.random.default_rng(7)
    walk, longest = Walk(seed=3), 0
    for steps in rng.integers(1, 90, size=30):
        answer = walk.ask(cache, int(steps))
        assert answer.how == ("hit" if steps <= longest else "extended" if longest else "computed")
        assert same_rows(answer.result, uninterrupted(int(steps), seed=3))
        longest = max(longest, int(steps))


def test_what_was_computed_elsewhere_is_used_and_not_extended(cache, lines):
    """D2, D5: another version or machine may differ in the last bit, so nobody goes on from its end."""
    walk = Walk()
    here, elsewhere = walk.inputs(numpy="2.4.6"), walk.inputs(numpy="2.3.0")
    walk.ask(cache, 40, elsewhere)
    assert walk.ask(cache, 40, here).how == "hit"
    assert walk.ask(cache, 60, here).how == "computed"
    assert any("is not extended: computed elsewhere (numpy 2.3.0 and 2.4.6)" in line for line in lines.all())
    assert walk.ask(cache, 70, here).how == "extended"


def test_without_an_end_or_a_way_to_extend_it_is_computed(cache):
    """D2: a result that nobody can go on from."""
    walk = Walk()
    inputs = walk.inputs()
    cache.get_or_compute(inputs, lambda: Result({"x": np.arange(4.0)}, 4), steps=4)
    assert cache.answer(inputs, lambda: walk.compute(9), lambda found: walk.extend(found, 9), steps=9).how == "computed"
    assert cache.answer(inputs, lambda: walk.compute(12), steps=12).how == "computed"


def test_results_without_steps(cache, lines):
    """A result that has no steps is neither cut nor extended, nor confused with one that has."""
    inputs = Walk(kind="rl").inputs()
    cache.get_or_compute(inputs, lambda: Result({"x": np.arange(3)}, facts={"legs": [0, 5]}))
    found = cache.answer(inputs, lambda: pytest.fail("computed"))
    assert (found.how, found.result.steps, found.result.facts) == ("hit", None, {"legs": [0, 5]})
    assert cache.answer(inputs, lambda: Result({"x": np.arange(2)}, 2), steps=2).how == "computed"
    assert lines.all()[2].startswith(f"[CACHE RL] Using the result with config {inputs.short}: walk_")


def test_no_steps_at_all(cache):
    """A horizon without a drain asks for none."""
    inputs = Walk().inputs()
    assert cache.answer(inputs, lambda: Result({}, 0), steps=0).how == "computed"
    assert cache.answer(inputs, lambda: pytest.fail("computed"), steps=0).how == "hit"


def test_a_miss_names_the_nearest_entry_and_what_changed(cache, lines):
    """D3: `what changed` without anybody asking for it."""
    old = Walk(seed=1, kind="rl")
    old.ask(cache, 5)
    Walk(seed=1, width=9, kind="rl").ask(cache, 5)
    Walk(seed=2, width=9, kind="rl").ask(cache, 5)
    Walk(seed=5).ask(cache, 5)
    misses = [line for line in lines.all() if "No cache found" in line]
    assert misses[1].endswith(f"(nearest is {old.inputs().short}, changed: width: 3 -> 9)")
    assert "changed: seed: 1 -> 2)" in misses[2]
    assert "nearest" not in misses[3], "a baseline is not compared with agents"


def test_errors_of_the_computation_pass_and_leave_nothing(cache):
    """Nothing half is saved, and the lock is free again."""
    walk = Walk()

    def fails():
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        cache.get_or_compute(walk.inputs(), fails, steps=3)
    assert cache.entries(walk.inputs()) == []
    assert walk.ask(cache, 3).how == "computed"
    with pytest.raises(ValueError, match="5 steps were asked for and 4 computed"):
        cache.get_or_compute(walk.inputs(), lambda: walk.compute(4), lambda found: walk.extend(found, 4), steps=5)


def test_an_extension_that_does_not_fit_is_refused(cache):
    """D2: other arrays, or other types, do not follow a result."""
    walk = Walk()
    walk.ask(cache, 3)
    for arrays in ({"positions": np.zeros(2)}, {"positions": np.zeros(2), "moves": np.zeros((2, 3), "f4")}):
        with pytest.raises(ValueError, match="has the same arrays"):
            cache.get_or_compute(
                walk.inputs(), lambda: pytest.fail("computed"), lambda _, own=arrays: Result(own, 2), steps=5
            )


def test_what_a_cache_gives_cannot_be_changed(cache):
    """Computed or found, arrays are read-only: code that writes to them fails at once and not at the second run."""
    walk = Walk()
    for _ in range(2):
        result = walk.ask(cache, 4).result
        with pytest.raises(ValueError, match="read-only"):
            result.arrays["positions"][0] = 1.0


def test_a_result_that_is_no_plain_data_is_returned_and_not_saved(cache, lines):
    """A10's rule for results: hours of computing are not lost over a fact that cannot be written."""
    inputs = Walk().inputs()
    result = cache.get_or_compute(inputs, lambda: Result({"x": np.zeros(1)}, 1, facts={"what": object()}), steps=1)
    assert result.steps == 1
    assert cache.entries(inputs) == []
    (warning,) = lines.warnings()
    assert "not saved" in warning
    assert "the result is used all the same" in warning


UNSAVED = {
    "structured": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "record": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "void": np.zeros(2, "V3"),
    "objects": np.array([{}], dtype=object),
    "masked": np.ma.array([1, 2], mask=[False, True]),
    "of no size": np.zeros(2, np.dtype([("a", "S0"), ("b", "i4")]))["a"],
}


@pytest.mark.parametrize("array", UNSAVED)
def test_arrays_that_cannot_be_read_back_are_not_saved(cache, lines, array):
    """Never `Saved` and damaged at the next use, with one more file in quarantine each time."""
    inputs = Walk().inputs()
    for _ in range(2):
        answer = cache.answer(inputs, lambda: Result({"x": UNSAVED[array]}))
        assert answer.how == "computed"
        assert answer.result.arrays["x"].tolist() == UNSAVED[array].tolist(), "a mask is not dropped"
    assert cache.entries(inputs) == []
    assert not (cache.folder / "quarantine").exists()
    assert [line for line in lines.warnings() if "not saved: an array" not in line] == []
    assert len(lines.warnings()) == 2


def test_masked_arrays_in_an_end_are_not_saved_either(cache, lines):
    cache.get_or_compute(Walk().inputs(), lambda: Result({"x": np.zeros(1)}, 1, np.ma.array([1], mask=[True])), steps=1)
    assert "give its data and its mask as two arrays" in lines.warnings()[0]


def test_computed_and_found_facts_are_equal(cache):
    """D4: nobody's code works at the first run and fails at the second."""
    facts = {1: (1, 2), "half": np.float64(0.5), "none": None, "nested": {"a": (True,)}}
    computed, found = (
        cache.get_or_compute(Walk().inputs(), lambda: Result({"x": np.zeros(1)}, facts=facts)).facts for _ in range(2)
    )
    assert computed == found == {"1": [1, 2], "half": 0.5, "none": None, "nested": {"a": [True]}}
    assert type(computed["half"]) is float


def test_steps_without_arrays_are_no_result():
    with pytest.raises(ValueError, match="needs at least one array"):
        Result({}, 3)


def test_find_computes_nothing(cache):
    walk = Walk()
    assert cache.find(walk.inputs(), 5) is None
    walk.ask(cache, 5)
    assert same_rows(cache.find(walk.inputs(), 3), uninterrupted(3))
    assert cache.find(walk.inputs(), 6) is None


def test_warnings_are_seen_without_any_logging_set_up(cache, caplog):
    """Nothing silent: in a notebook only warnings show."""
    with caplog.at_level(logging.WARNING, logger="unbroken"):
        walk = Walk()
        walk.ask(cache, 5)
        assert caplog.records == []
        (cache.folder / cache.entries(walk.inputs())[0].text()).write_bytes(b"")
        walk.ask(cache, 5)
    (record,) = caplog.records
    assert "the file is empty" in record.getMessage()


def test_any_scenario_makes_a_name(cache):
    """Names of users' scenarios: slashes, colons, control characters, length, none at all; each is its own entry."""
    names = [
        "a/b",
        "a:b",
        "a-b",
        "..",
        "",
        "x" * 300,
        "x" * 301,
        "é" * 200,
        "ALE/Pong-v5",
        "mod:Cls",
        "tab\t\n",
    ]
    for number, name in enumerate(names):
        inputs = Inputs(name, "baseline", {"number": number})
        cache.get_or_compute(inputs, lambda own=number: Result({"x": np.array([own])}))
    for number, name in enumerate(names):
        inputs = Inputs(name, "baseline", {"number": number})
        assert cache.get_or_compute(inputs, lambda: pytest.fail("computed")).arrays["x"].tolist() == [number]
    files = [path.name for path in cache.folder.iterdir() if path.is_file()]
    assert len(files) == len(names)
    assert all(len(name.encode()) <= 200 and not name.startswith(".") for name in files)


def test_equal_inputs_give_equal_bytes(tmp_path):
    """D5: what two machines compute is one object at a remote."""
    contents = []
    for name in ("a", "b"):
        cache = ResultCache(tmp_path / name)
        Walk().ask(cache, 7)
        (path,) = [path for path in cache.folder.iterdir() if path.is_file()]
        contents.append((path.name, path.read_bytes()))
    assert contents[0] == contents[1]
