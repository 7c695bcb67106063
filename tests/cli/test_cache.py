"""`unbroken cache …`: what people see, JSON, exit codes, and one clear line for bad input (D4, D5)."""

import json

import numpy as np
import pytest

from unbroken.cache import Result, ResultCache, inputs
from unbroken.cache.upkeep import held_entries
from unbroken.testing.walks import Walk


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def filled(folder):
    """Walks 0 (20 steps), 1 (30 steps) and an agent's, in ./cache."""
    cache = ResultCache(folder)
    Walk(0).ask(cache, 20)
    Walk(1).ask(cache, 30)
    Walk(0, kind="rl").ask(cache, 5)
    return {name: cache.entries(walk.inputs())[0] for name, walk in WALKS.items()}


WALKS = {"zero": Walk(0), "one": Walk(1), "agent": Walk(0, kind="rl")}


@pytest.fixture
def command(unbroken_here, monkeypatch):
    for name in ("UNBROKEN_CACHE_DIR", "UNBROKEN_CACHE_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: unbroken_here("cache", *words)


def short(name):
    return WALKS[name].inputs().short


def test_list(command, filled, folder):
    ended = command("list")
    assert ended.code == 0
    header, *lines, total = ended.out.splitlines()
    assert header.split() == ["config", "kind", "steps", "size", "used", "pinned", "scenario"]
    assert [line.split()[:3] for line in lines] == [
        [short("zero"), "baseline", "20"],
        [short("one"), "baseline", "30"],
        [short("agent"), "rl", "5"],
    ]
    assert total.startswith("3 entries, ")
    assert total.endswith("in cache")
    rows = json.loads(command("list", "--json").out)
    assert [row["steps"] for row in rows] == [20, 30, 5]
    assert {row["file"] for row in rows} == {entry.text() for entry in filled.values()}


def test_list_of_nothing(command):
    assert command("list").out.splitlines()[-1] == "0 entries, 0 B in cache"


def test_show(command, filled):
    shown = json.loads(command("show", short("one"), "--json").out)
    assert shown["file"] == filled["one"].text()
    assert shown["inputs"]["values"] == {"seed": 1, "width": 3}
    assert (shown["steps"], shown["can_be_extended"]) == (30, True)
    assert "width: 3" in command("show", filled["one"].text()).out


def test_explain(command, filled):
    """D3: `unbroken cache explain A B` says which inputs differ."""
    ended = command("explain", short("zero"), short("one"))
    assert (ended.code, ended.out.splitlines()) == (
        1,
        ["seed: 0 -> 1", "Another configuration: neither entry serves or extends the other."],
    )
    ended = command("explain", short("zero"), short("zero"))
    assert (ended.code, ended.out) == (0, "same inputs\n")
    plain = json.loads(command("explain", short("zero"), short("agent"), "--json").out)
    assert plain["differences"] == [{"place": "kind", "first": "baseline", "second": "rl"}]


def test_verify(command, filled, folder):
    assert command("verify").code == 0
    path = folder / filled["one"].text()
    path.write_bytes(path.read_bytes()[:-3])
    ended = command("verify")
    assert ended.code == 65
    assert [line.split()[0] for line in ended.out.splitlines()].count("DAMAGED") == 1
    assert command("verify", short("zero")).code == 0
    rows = json.loads(command("verify", "--json").out)
    assert [row["file"] for row in rows if not row["valid"]] == [path.name]
    assert len(rows) == 3


def test_pin_unpin_and_prune(command, filled, folder):
    assert command("pin", short("zero")).out == f"Pinned {filled['zero'].text()}\n"
    assert [row["pinned"] for row in json.loads(command("list", "--json").out)] == [True, False, False]
    dry = command("prune", "--limit", "1KB", "--dry-run")
    assert f"Would evict {filled['one'].text()}" in dry.out
    assert len(held_entries(folder)) == 3
    report = json.loads(command("prune", "--limit", "1KB", "--json").out)
    assert set(report["gone"]) == {filled["one"].text(), filled["agent"].text()}
    assert [entry.file for entry in held_entries(folder)] == [filled["zero"].text()]
    assert command("unpin", short("zero")).out == f"Unpinned config {short('zero')}\n"
    assert command("prune", "--limit", "0").code == 0
    assert held_entries(folder) == []


def test_push_and_pull_between_two_processes(unbroken, filled, tmp_path):
    """D5: the real command on two machines."""
    place = f"folder:{tmp_path / 'a remote é'}"
    ended = unbroken("cache", "push", place)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1].startswith("[CACHE] Pushed 3 entries (")
    variables = {"UNBROKEN_CACHE_DIR": str(tmp_path / "rented")}
    ended = unbroken("cache", "pull", place, variables=variables, encoding="ascii")
    assert ended.out.splitlines()[-1].endswith(", 0 were here already")
    ended = unbroken("cache", "pull", place, "--json", "--cache-dir", tmp_path / "rented")
    assert json.loads(ended.out) == {"files": [], "size": 0, "present": 3, "problems": []}
    for walk in (Walk(0), Walk(1)):
        assert walk.ask(ResultCache(tmp_path / "rented"), 20).how == "hit"
        assert walk.computed == []


def test_what_cannot_travel_shows_in_the_exit_code(command, filled, folder, tmp_path):
    """D5: a script must notice; the sound ones travel."""
    path = folder / filled["one"].text()
    path.write_bytes(b"")
    ended = command("push", f"folder:{tmp_path / 'there'}")
    assert ended.code == 65
    assert f"[CACHE] WARNING: {path.name} is damaged here: the file is empty (zero bytes)" in ended.out
    assert ended.out.splitlines()[-1].endswith(", 0 were there already, 1 could not be pushed")


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("show", "ffffffff"), 66, "there is no entry 'ffffffff' in cache"),
        (("pin", "walk"), 66, "near are walk_"),
        (("explain", "ffff", "eeee"), 66, "there is no entry 'ffff'"),
        (("verify", "walk_x.zip"), 66, "there is no entry 'walk_x.zip'"),
        (("unpin", "ffffffff"), 66, "there is no entry"),
        (("prune", "--limit", ""), 2, "'' is not a size"),
        (("prune", "--limit", "9" * 400), 2, "more than there is"),
        (("list", "--cache-dir", "~nobody-of-that-name/x"), 2, "no home folder of that user"),
        (("prune", "--limit", "lots"), 2, "'lots' is not a size; write 500MB, 2GB or 1.5GiB"),
        (("push", "folderr:x"), 2, "Did you mean folder:PATH?"),
        (("pull", "nowhere"), 2, "'nowhere' is no remote"),
        (("pull", "folder:/no/such/drive/here"), 68, "Is the drive mounted?"),
        (("list", "--cache-dir", "cache/FILE"), 2, "is a file: name a folder"),
    ],
)
def test_bad_input_is_one_line(command, filled, words, code, line):
    words = [word.replace("FILE", filled["zero"].text()) for word in words]
    ended = command(*words)
    assert ended.code == code, ended.err
    (error,) = ended.error_lines
    assert error.startswith("error: ")
    assert line in error
    assert ended.out == ""


def test_a_cache_of_an_older_version(command, filled, folder, monkeypatch):
    """Bad input: one line for each entry, none of them called damaged, none touched."""
    monkeypatch.setattr(inputs, "FORMAT", 0)
    Walk(5).ask(ResultCache(folder), 4)
    monkeypatch.undo()
    old = next(entry.file for entry in held_entries(folder) if entry.file not in {e.text() for e in filled.values()})
    ended = command("verify")
    assert ended.code == 0
    (line,) = [line for line in ended.out.splitlines() if line.startswith("other")]
    assert line == f"other    {old}: {old} has cache format 0, this version reads 1: it is of no use any more"
    ended = command("show", old)
    assert ended.code == 65
    assert ended.error_lines == [f"error: {old} has cache format 0, this version reads 1: it is of no use any more"]
    assert (folder / old).exists()


@pytest.mark.parametrize("words", [("list",), ("verify",), ("prune",), ("push", "folder:."), ("pull", "folder:.")])
def test_a_folder_that_cannot_be_read_is_an_error(command, tmp_path, words):
    """Nothing silent: not `0 entries` and exit code 0."""
    (tmp_path / "file").touch()
    ended = command(*words, "--cache-dir", "file/cache")
    assert ended.code == 74
    assert ended.error_lines[0].startswith("error: ")
    assert "of the cache cannot be read" in ended.error_lines[0]


def test_verify_counts(command, filled, folder):
    assert command("verify").out.splitlines()[-1] == "3 entries read, 0 damaged, in cache"
    (folder / filled["one"].text()).write_bytes(b"")
    assert command("verify").out.splitlines()[-2:] == [
        "3 entries read, 1 damaged, in cache",
        "What is damaged is set aside and computed again when it is asked for; 'unbroken cache pull' brings it sound",
    ]
    assert command("verify", short("zero")).out.splitlines()[-1] == "1 entry read, 0 damaged, in cache"
    assert command("verify", "--cache-dir", "none").out == "0 entries read, 0 damaged, in none\n"


def test_show_escapes_what_others_wrote(command, folder):
    """G3: an entry from elsewhere does not command the terminal."""
    cache = ResultCache(folder)
    made = inputs.Inputs("walk", "rl", {"a\x1b[2J": "\x9b31m\u202e\x85"})
    cache.get_or_compute(made, lambda: Result({"x": np.zeros(2)}))
    shown = command("show", made.short).out
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "file: walk_" in shown


def test_a_wrong_limit_in_the_environment(unbroken, filled):
    ended = unbroken("cache", "prune", variables={"UNBROKEN_CACHE_LIMIT": "much"})
    assert ended.code == 2
    assert ended.error_lines == ["error: UNBROKEN_CACHE_LIMIT: 'much' is not a size; write 500MB, 2GB or 1.5GiB"]
