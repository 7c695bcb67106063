"""Looking after the folder: the size limit, pins, finding, comparing and verifying entries (D4)."""

import os
import time

import numpy as np
import pytest

from unbroken.cache import Inputs, Result, ResultCache, upkeep
from unbroken.cache.settings import cache_folder, default_cache, size_bytes, size_limit
from unbroken.cache.upkeep import explain, find_entry, held_entries, nearest, pin, pins, prune, pruned, unpin, verify
from unbroken.errors import ConfigurationError, NotFound, UsageError
from unbroken.testing.walks import Walk


def ages(cache, *seeds):
    """Make the entries of these seeds look used one after the other, a long time ago."""
    for number, seed in enumerate(seeds):
        for entry in cache.entries(Walk(seed).inputs()):
            os.utime(cache.folder / entry.text(), (1000 + number, 1000 + number))


def seeds(cache):
    return [seed for seed in range(10) if cache.entries(Walk(seed).inputs())]


def file_of(cache, seed):
    return cache.entries(Walk(seed).inputs())[-1].text()


@pytest.fixture
def size(tmp_path):
    """Bytes of an entry of 20 steps."""
    cache = ResultCache(tmp_path / "one")
    Walk().ask(cache, 20)
    return held_entries(cache.folder)[0].size


def test_the_least_recently_used_goes_first(cache, lines, size):
    """D4: a hit counts as use; what is evicted is said, with the limit."""
    for seed in range(4):
        Walk(seed).ask(cache, 20)
    ages(cache, 2, 0, 3, 1)
    Walk(2).ask(cache, 20)
    cache.limit_bytes = limit = 3 * size + 50
    Walk(4).ask(cache, 20)
    assert seeds(cache) == [1, 2, 4]
    evicted = [line for line in lines.all() if "Evicted" in line]
    assert len(evicted) == 2
    assert all(line.endswith(f": the cache is limited to {limit / 1000:.1f} KB") for line in evicted)


def test_pinned_and_newest_stay(cache, size):
    """D4: a limit that nothing fits leaves the pinned entries and what was just saved."""
    for seed in range(3):
        Walk(seed).ask(cache, 20)
    ages(cache, 0, 1, 2)
    pin(cache.folder, file_of(cache, 0))
    cache.limit_bytes = 1
    Walk(3).ask(cache, 20)
    assert seeds(cache) == [0, 3]
    unpin(cache.folder, Walk(0).inputs().short)
    Walk(4).ask(cache, 20)
    assert seeds(cache) == [4]


def test_a_pin_survives_an_extension(cache):
    """D4: the pin is of the inputs, not of a file."""
    walk = Walk(0)
    walk.ask(cache, 20)
    pin(cache.folder, walk.inputs().short)
    walk.ask(cache, 30)
    ages(cache, 0)
    cache.limit_bytes = 1
    Walk(1).ask(cache, 20)
    (entry,) = [entry for entry in held_entries(cache.folder) if entry.pinned]
    assert entry.name.steps == 30


def test_a_pin_of_what_is_gone_can_be_let_go(cache):
    Walk(0).ask(cache, 20)
    pin(cache.folder, file_of(cache, 0))
    (cache.folder / file_of(cache, 0)).unlink()
    assert unpin(cache.folder, Walk(0).inputs().short) == Walk(0).inputs().fingerprint
    assert pins(cache.folder) == frozenset()
    with pytest.raises(NotFound):
        unpin(cache.folder, Walk(0).inputs().short)


def test_a_dry_run_removes_nothing(cache, size):
    for seed in range(3):
        Walk(seed).ask(cache, 20)
    ages(cache, 1, 0, 2)
    pin(cache.folder, file_of(cache, 0))
    report = pruned(cache.folder, size + 50, dry_run=True)
    assert [entry.file for entry in report.gone] == [file_of(cache, 1), file_of(cache, 2)]
    assert [entry.file for entry in report.stays] == [file_of(cache, 0)]
    assert seeds(cache) == [0, 1, 2]
    assert "1 entries would stay (1 pinned)" in report.text()
    assert [entry.file for entry in pruned(cache.folder, size + 50).gone] == [entry.file for entry in report.gone]
    assert seeds(cache) == [0]
    assert "are more than that" in pruned(cache.folder, 1).text()


def test_what_killed_writers_left_goes_after_a_day(cache):
    """Leftovers are nobody's entries and would grow for ever; a write under way is left alone."""
    Walk(0).ask(cache, 20)
    old, new, others = (cache.folder / name for name in (".a.zip.12-0.tmp", ".b.zip.13-0.tmp", ".mine.tmp"))
    for path in (old, new, others):
        path.write_bytes(b"x")
    for path in (old, others):
        os.utime(path, (time.time() - 90_000,) * 2)
    prune(cache.folder, 10**9)
    assert [path.exists() for path in (old, new, others)] == [False, True, True]


def test_an_empty_or_missing_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        assert held_entries(folder) == []
        assert prune(folder, 0) == []
        assert verify(folder) == []
        with pytest.raises(NotFound, match="it holds none"):
            find_entry(folder, "abcd")


def test_entries_are_found_by_name_path_and_digits(cache):
    for seed in range(3):
        Walk(seed).ask(cache, 20)
    Walk(0).ask(cache, 30)
    inputs = Walk(0).inputs()
    for text in (file_of(cache, 0), str(cache.folder / file_of(cache, 0)), inputs.short, inputs.fingerprint):
        assert find_entry(cache.folder, text).file == file_of(cache, 0)
    for text in ("", "abc", inputs.short[:3], "walk", f"{inputs.short}g"):
        with pytest.raises(NotFound):
            find_entry(cache.folder, text)


def test_unknown_entries_name_near_ones(cache):
    Walk(0).ask(cache, 20)
    name, short = file_of(cache, 0), Walk(0).inputs().short
    for text in (f"{short[:7]}{'0' if short[7] != '0' else '1'}", name[:-9], "walk"):
        with pytest.raises(NotFound, match="near are walk_"):
            find_entry(cache.folder, text)
    with pytest.raises(NotFound, match="'unbroken cache list' shows 1"):
        find_entry(cache.folder, "zzzzqqqq")


def test_digits_that_fit_several_entries_are_refused(cache):
    """The way out is more digits, which are shown."""
    from collections import defaultdict

    by_start = defaultdict(list)
    for number in range(600):
        inputs = Inputs("walk", "baseline", {"number": number})
        by_start[inputs.fingerprint[:4]].append(inputs)
    start, same = next((start, found) for start, found in by_start.items() if len(found) > 1)
    for inputs in same:
        cache.get_or_compute(inputs, lambda: Result({}))
    with pytest.raises(UsageError, match=f"'{start}' fits 2 entries: {start}"):
        find_entry(cache.folder, start)


def test_explain_says_what_differs_and_what_that_means(cache):
    """D3, D4: both values of each place; steps of the same inputs; context."""
    first, second = Walk(1), Walk(2, width=5)
    first.ask(cache, 20)
    second.ask(cache, 20)
    text = explain(cache.folder, first.inputs().short, second.inputs().short).text()
    assert text.splitlines() == [
        "seed: 1 -> 2",
        "width: 3 -> 5",
        "Another configuration: neither entry serves or extends the other.",
    ]
    elsewhere = ResultCache(cache.folder / "elsewhere")
    first.ask(elsewhere, 30, first.inputs(numpy="1"))
    longer = elsewhere.entries(first.inputs())[0].text()
    (elsewhere.folder / longer).rename(cache.folder / longer)
    text = explain(cache.folder, file_of(cache, 1), cache.entries(first.inputs())[0].text()).text()
    assert text.splitlines() == [
        "same inputs",
        "30 steps ≥ 20: the longer entry serves requests of up to 30 steps, the shorter those of up to 20.",
        "Computed in different places (numpy 1 and unset): both are used, each is extended only where it was computed.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("0", 0), ("123", 123), ("123B", 123), ("1k", 1000), ("500MB", 500_000_000), ("2 GB", 2 * 10**9)),
        *(("1.5GiB", 3 * 2**29), ("2gb", 2 * 10**9), (" 1TB ", 10**12), ("1KiB", 1024), ("0.5M", 500_000)),
    ],
)
def test_sizes(text, expected):
    assert size_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 PB", "two GB", "1,5GB", "1e9", "1iB", "nan", "٣GB"])
def test_what_is_no_size(text):
    with pytest.raises(ConfigurationError, match="is not a size; write 500MB, 2GB"):
        size_bytes(text)


@pytest.mark.parametrize("text", ["9" * 400, f"{'9' * 400}TB", f"{'9' * 300}TiB"])
def test_a_size_beyond_numbers(text):
    with pytest.raises(ConfigurationError, match="more than there is; write 500MB"):
        size_bytes(text)


def test_an_empty_limit_is_no_size(monkeypatch):
    """Of a script whose variable is empty: nothing is evicted by a limit that nobody gave."""
    with pytest.raises(ConfigurationError, match="'' is not a size"):
        size_limit("")
    monkeypatch.setenv("UNBROKEN_CACHE_LIMIT", "")
    assert size_limit() == 5 * 10**9


def test_a_home_that_nobody_has(monkeypatch):
    """Bad input, and no mistake of ours."""
    with pytest.raises(UsageError, match="~nobody-of-that-name/x: no home folder of that user"):
        cache_folder("~nobody-of-that-name/x")
    monkeypatch.setenv("UNBROKEN_CACHE_DIR", "~nobody-of-that-name")
    with pytest.raises(UsageError, match="name the folder in full"):
        default_cache()


def test_an_entry_that_goes_while_all_are_verified_is_not_damaged(cache, monkeypatch):
    """D4: another process prunes at any time."""
    Walk(0).ask(cache, 20)
    Walk(1).ask(cache, 20)
    listed = held_entries(cache.folder)
    monkeypatch.setattr(upkeep, "held_entries", lambda folder: listed)
    (cache.folder / listed[0].file).unlink()
    assert [(one.file, one.word) for one in verify(cache.folder)] == [(listed[1].file, "ok")]


def test_what_others_wrote_is_shown_with_escapes(cache):
    """G3: places, values, names of sources and contexts of an entry that came from elsewhere reach a terminal."""
    evil = "a\x1b[2J\n\x9b31m\u202e"
    for number in (1, 2):
        inputs = Inputs("walk", "rl", {evil: number, "text": evil * number}, {f"{evil}.py": str(number)}, {evil: evil})
        cache.get_or_compute(inputs, lambda own=number: Result({"x": np.zeros(own)}, own), steps=number)
        file = cache.entries(inputs)[0].text()
    first, second = (entry.file for entry in held_entries(cache.folder))
    text = explain(cache.folder, first, second).text()
    assert f"{ascii(evil)[1:-1]}: 1 -> 2" in text.splitlines()
    assert all(line.isprintable() for line in text.splitlines())
    found = nearest(cache.folder, Inputs("walk", "rl", {"other": 1}))
    assert found.isprintable()
    assert "changed: a\\x1b[2J" in found
    other = Inputs("walk", "rl", dict(inputs.values), dict(inputs.sources), {"numpy": "9"})
    elsewhere = ResultCache(cache.folder / "elsewhere")
    elsewhere.get_or_compute(other, lambda: Result({"x": np.zeros(5)}, 5), steps=5)
    longer = elsewhere.entries(other)[0].text()
    (elsewhere.folder / longer).rename(cache.folder / longer)
    text = explain(cache.folder, file, longer).text()
    assert "Computed in different places (a\\x1b" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_the_default_cache(tmp_path, monkeypatch):
    """The option before the variable before ./cache; 5 GB."""
    monkeypatch.chdir(tmp_path)
    for name in ("UNBROKEN_CACHE_DIR", "UNBROKEN_CACHE_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    cache = default_cache()
    assert (cache.folder.absolute(), cache.limit_bytes) == (tmp_path / "cache", 5 * 10**9)
    assert not cache.folder.exists()
    monkeypatch.setenv("UNBROKEN_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("UNBROKEN_CACHE_LIMIT", "2MB")
    assert (default_cache().folder, default_cache().limit_bytes) == (tmp_path / "here", 2_000_000)
    assert default_cache(str(tmp_path / "there")).folder == tmp_path / "there"
    monkeypatch.setenv("UNBROKEN_CACHE_LIMIT", "much")
    with pytest.raises(ConfigurationError, match="UNBROKEN_CACHE_LIMIT: 'much' is not a size"):
        size_limit()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file: name a folder"):
        default_cache(str(tmp_path / "file"))
