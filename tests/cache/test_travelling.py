"""The cache on its way between two machines, which are two folders, over a remote that fails by plan (D5)."""

import os
import shutil
import signal
import threading
from unittest import mock

import numpy as np
import pytest

from unbroken.cache import Result, ResultCache, travelling
from unbroken.cache.alone import alone
from unbroken.cache.entry import EntryName
from unbroken.cache.travelling import ARRIVING, PREFIX, pull, push
from unbroken.cache.upkeep import held_entries, pin, prune, verify
from unbroken.errors import NotFound, RemoteError, RemoteRefused, RemoteUnreachable
from unbroken.remotes.folder import FolderRemote
from unbroken.remotes.lfs_pointer import LfsPointer
from unbroken.store.checkpoint_writer import write_checkpoint
from unbroken.store.durable import LocalBackend
from unbroken.testing.remotes import Faults, FaultyRemote, flipped, truncated
from unbroken.testing.walks import Walk, same_rows, uninterrupted

STEPS = 20


class Machine:
    """A folder with a cache, and its own object for the common remote."""

    def __init__(self, folder, place):
        self.cache = ResultCache(folder)
        self.folder = folder
        self.remote = FaultyRemote(FolderRemote(f"folder:{place}", place))
        self.said = []

    def push(self):
        return push(self.folder, self.remote, self.said.append)

    def pull(self):
        return pull(self.folder, self.remote, self.said.append)

    def compute(self, *seeds, steps=STEPS):
        for seed in seeds:
            Walk(seed).ask(self.cache, steps)

    def hits(self, *seeds, steps=STEPS):
        """Asks for walks that must not be computed."""
        for seed in seeds:
            walk = Walk(seed)
            answer = walk.ask(self.cache, steps)
            assert answer.how == "hit", seed
            assert walk.computed == walk.extended == []
            assert same_rows(answer.result, uninterrupted(steps, seed))

    def files(self):
        return {entry.file: (self.folder / entry.file).read_bytes() for entry in held_entries(self.folder)}

    def file(self, seed):
        return self.folder / self.cache.entries(Walk(seed).inputs())[-1].text()

    def moved(self):
        """Names of the objects that travelled, in or out, until now."""
        return [name for call, names in self.remote.calls if call != "items" for name in names]


@pytest.fixture
def place(tmp_path):
    return tmp_path / "the remote é"


@pytest.fixture
def machine(tmp_path, place):
    return lambda name: Machine(tmp_path / name / "cache", place)


@pytest.fixture
def laptop(machine):
    return machine("laptop é")


@pytest.fixture
def rented(machine):
    return machine("rented")


def objects(place):
    return {path.name: path.read_bytes() for path in (place / "cache").iterdir() if not path.name.startswith(".")}


def only(items):
    (item,) = items
    return item


def test_laptop_to_rented_machine_and_back_are_hits(laptop, rented):
    """D5: both ways, byte for byte, nothing computed twice."""
    laptop.compute(0, 1, 2)
    laptop.push()
    rented.pull()
    rented.hits(0, 1, 2)
    rented.compute(3)
    rented.push()
    laptop.pull()
    laptop.hits(0, 1, 2, 3)
    assert laptop.files() == rented.files()


def test_only_what_is_missing_travels(laptop, rented):
    """D5: each entry is sent once and fetched once; the line says how many of how many."""
    laptop.compute(0, 1)
    laptop.push()
    laptop.compute(2)
    done = laptop.push()
    size = laptop.file(2).stat().st_size
    assert (done.files, done.size, done.present, done.problems) == ((laptop.file(2).name,), size, 2, ())
    assert laptop.said[-1] == f"Pushed 1 entry ({size / 1000:.1f} KB), 2 were there already"
    assert laptop.push().files == ()
    assert sorted(laptop.moved()) == sorted(PREFIX + name for name in laptop.files())
    rented.pull()
    assert rented.said[-1].startswith("Pulled 3 entries (8.")
    assert rented.pull().present == 3
    assert rented.said[-1] == "Pulled 0 entries (0 B), 3 were here already"
    assert len(rented.moved()) == 3


def test_log_lines_have_the_caches_prefix(laptop, lines):
    """D4: greppable."""
    laptop.compute(0)
    lines.clear()
    push(laptop.folder, laptop.remote)
    assert (
        lines.all()[-1]
        == f"[CACHE] Pushed 1 entry ({laptop.file(0).stat().st_size / 1000:.1f} KB), 0 were there already"
    )


def test_an_empty_place_and_an_empty_folder(laptop, rented):
    assert rented.pull().files == ()
    assert rented.push().files == ()
    assert rented.said == [
        f"{laptop.remote.url} holds no entries",
        "Pulled 0 entries (0 B), 0 were here already",
        "Pushed 0 entries (0 B), 0 were there already",
    ]


def test_a_longer_entry_makes_the_shorter_one_unnecessary(laptop, rented, place):
    """D2, D5: the longest of each key travels; one that is here in greater length is not fetched."""
    laptop.compute(0)
    laptop.push()
    rented.compute(0, steps=60)
    assert rented.pull().files == ()
    rented.push()
    assert len(objects(place)) == 2
    laptop.pull()
    laptop.hits(0, steps=60)
    laptop.said.clear()
    assert laptop.push().files == (), "the shorter one is not needed there any more"
    assert "20_steps" not in "".join(laptop.files()) or len(laptop.files()) == 2


@pytest.mark.parametrize(
    "spoil", [truncated, flipped, lambda content: b"", lambda content: LfsPointer("0" * 64, 7).text()]
)
def test_what_arrives_damaged_is_named_and_not_taken(laptop, rented, spoil):
    """D5: nothing gets a name unchecked; the next pull fetches it again, and then it is good."""
    laptop.compute(0, 1)
    laptop.push()
    rented.remote.faults = Faults(spoil=spoil)
    done = rented.pull()
    assert done.files == ()
    assert len(done.problems) == 2
    assert all("is not taken from folder:" in problem for problem in done.problems)
    assert rented.said[-1] == "Pulled 0 entries (0 B), 0 were here already, 2 could not be pulled"
    assert rented.files() == {}
    rented.compute(0)
    rented.remote.faults = Faults()
    assert len(rented.pull().files) == 1
    rented.hits(0, 1)


def test_a_damaged_entry_is_not_pushed(laptop, place):
    """D5: it is named, and the sound ones travel."""
    laptop.compute(0, 1)
    laptop.file(0).write_bytes(flipped(laptop.file(0).read_bytes()))
    done = laptop.push()
    assert done.files == (laptop.file(1).name,)
    assert only(done.problems).startswith(f"{laptop.file(0).name} is damaged here: ")
    assert list(objects(place)) == [laptop.file(1).name]
    assert laptop.file(0).exists(), "the next use puts it aside"


@pytest.mark.parametrize("spoil", [truncated, lambda content: b"", lambda content: LfsPointer("0" * 64, 7).text()])
def test_a_half_synced_object_gets_a_twin(laptop, rented, machine, place, spoil):
    """D5: of another size at the remote: looked at, named, pushed again under another name, which every machine understands."""
    laptop.compute(0, 1)
    laptop.push()
    name = laptop.file(0).name
    whole = (place / "cache" / name).read_bytes()
    (place / "cache" / name).write_bytes(spoil(whole))
    done = laptop.push()
    assert done.files == (name,)
    assert any(f"{name} is damaged at folder:" in line for line in laptop.said)
    twin = only(set(objects(place)) - set(laptop.files()))
    assert twin.startswith(f"{name.removesuffix('.zip')}.again-")
    assert objects(place)[twin] == whole
    assert laptop.push().files == (), "once"
    rented.pull()
    rented.hits(0, 1)
    assert rented.files() == laptop.files()
    assert rented.push().files == ()
    # even a damaged twin is healed, by yet another
    (place / "cache" / twin).write_bytes(whole[:-1])
    laptop.push()
    third = machine("third")
    third.pull()
    third.hits(0, 1)


def test_a_damaged_object_of_the_right_size_is_healed_by_who_met_it(laptop, rented, machine, place):
    """D5: the listing cannot show it; a machine that fetched it in vain, and has the entry later, pushes a twin."""
    laptop.compute(0)
    laptop.push()
    path = place / "cache" / laptop.file(0).name
    path.write_bytes(flipped(path.read_bytes()))
    assert len(rented.pull().problems) == 1
    rented.compute(0)
    assert rented.push().files == (rented.file(0).name,)
    third = machine("third")
    assert third.pull().problems == ()
    third.hits(0)


def test_the_same_entry_of_another_machine_is_no_damage(laptop, rented, place):
    """D5: versions are written into an entry, so that two machines' entries of one key may differ in size."""
    walk = Walk(0)
    walk.ask(laptop.cache, STEPS, walk.inputs(numpy="2.4.6"))
    walk.ask(rented.cache, STEPS, walk.inputs(numpy="2.4.6, and a longer word"))
    assert laptop.file(0).name == rented.file(0).name
    laptop.push()
    assert (rented.push().files, rented.push().present) == ((), 1)
    assert rented.pull().files == ()
    assert len(objects(place)) == 1
    assert not any("WARNING" in line for line in rented.said)


def test_what_is_damaged_here_is_replaced(laptop, rented):
    """D5: a pointer whose content was never fetched, or a truncated file, is put aside for the one that arrives."""
    laptop.compute(0, 1)
    laptop.push()
    shutil.copytree(laptop.folder, rented.folder)
    broken = {
        rented.file(0).name: LfsPointer("0" * 64, 9).text(),
        rented.file(1).name: truncated(rented.file(1).read_bytes()),
    }
    for name, content in broken.items():
        (rented.folder / name).write_bytes(content)
    assert set(rented.pull().files) == set(broken)
    assert rented.files() == laptop.files()
    assert {path.name: path.read_bytes() for path in (rented.folder / "quarantine").iterdir()} == broken
    rented.hits(0, 1)


def test_what_is_damaged_here_in_its_right_size_is_replaced(laptop, rented):
    """D5: a flipped bit does not show in the listing: what is here is read."""
    laptop.compute(0, 1)
    laptop.push()
    rented.pull()
    path = rented.file(0)
    path.write_bytes(flipped(path.read_bytes()))
    done = rented.pull()
    assert (done.files, done.present) == ((path.name,), 1)
    assert rented.files() == laptop.files()
    assert only((rented.folder / "quarantine").iterdir()).name == path.name


def test_a_damaged_longer_entry_is_not_what_the_remote_has(laptop, rented):
    """D5: the shorter sound one is fetched; the longer one is put aside by its next use."""
    laptop.compute(0)
    laptop.push()
    rented.compute(0, steps=60)
    path = rented.file(0)
    path.write_bytes(flipped(path.read_bytes()))
    assert rented.pull().files == (laptop.file(0).name,)
    assert path.exists()
    rented.hits(0)


def in_a_later_container(folder, name):
    """Puts an entry in the place that says to be of a later version of the file's format, which this version cannot check."""
    (folder / name).unlink(missing_ok=True)
    with mock.patch("unbroken.store.checkpoint_writer.VERSION", 2):
        write_checkpoint(LocalBackend(folder), name, lambda writer: {"kind": "cache"})
    return (folder / name).read_bytes()


def test_an_entry_of_a_later_version_here_stays(laptop, rented):
    """D5: what this version cannot check is not called damaged, not moved and not pushed; it counts as there, and is named."""
    laptop.compute(0, 1)
    laptop.push()
    name = laptop.file(0).name
    content = in_a_later_container(rented.folder, name)
    done = rented.pull()
    assert (done.files, done.present, done.problems) == ((laptop.file(1).name,), 1, ())
    assert (rented.folder / name).read_bytes() == content
    assert not (rented.folder / "quarantine").exists()
    (line,) = [line for line in rented.said if "WARNING" in line]
    assert line.startswith(f"WARNING: {name} stays here and is not taken from folder:")
    assert "newer than 1" in line
    rented.push()
    assert not any("damaged" in line for line in rented.said)


def test_a_longer_entry_is_taken_beside_one_of_a_later_version(laptop, rented):
    """D5: only the very name is taken."""
    laptop.compute(0)
    name = laptop.file(0).name
    laptop.compute(0, steps=60)
    laptop.push()
    content = in_a_later_container(rented.folder, name)
    assert rented.pull().files == (laptop.file(0).name,)
    assert (rented.folder / name).read_bytes() == content
    rented.hits(0, steps=60)


def test_an_object_of_a_later_version_is_not_called_damaged(laptop, rented, place):
    """D5: neither taken nor given a twin."""
    laptop.compute(0)
    name = laptop.file(0).name
    in_a_later_container(place / "cache", name)
    assert (laptop.push().files, laptop.push().problems) == ((), ())
    assert list(objects(place)) == [name]
    assert "gets no twin: " in "".join(laptop.said)
    assert "newer than 1" in only(rented.pull().problems)
    rented.compute(0)
    assert rented.push().files == (), "it was not noted as damaged"
    assert not any("damaged" in line for line in [*laptop.said, *rented.said])


def test_what_cannot_be_read_here_stays(laptop, rented):
    """D5: it may belong to another version; a folder of that name stands for a file without permission."""
    laptop.compute(0, 1)
    laptop.push()
    name = laptop.file(0).name
    (rented.folder / name).mkdir(parents=True)
    done = rented.pull()
    assert (done.files, done.present) == ((laptop.file(1).name,), 0)
    assert only(done.problems).startswith(f"{name} stays here and is not taken from folder:")
    assert (rented.folder / name).is_dir()


def test_what_cannot_be_read_is_not_pushed_nor_called_damaged(laptop, place):
    laptop.compute(0, 1)
    name = laptop.file(0).name
    laptop.file(0).unlink()
    (laptop.folder / name).mkdir()
    assert only(laptop.push().problems).startswith(f"{name} is not pushed: it cannot be read (")
    assert list(objects(place)) == [laptop.file(1).name]


def spoilt_here(laptop, rented):
    """An entry at the remote that is truncated on the other machine; its name and its content there."""
    laptop.compute(0)
    laptop.push()
    rented.pull()
    path = rented.file(0)
    path.write_bytes(truncated(path.read_bytes()))
    return path, path.read_bytes()


def test_what_is_computed_while_it_is_fetched_is_not_called_damaged(laptop, rented):
    """D5: between the look at what is here and the arrival, somebody has put the damaged one aside and computed it again."""
    path, damaged = spoilt_here(laptop, rented)
    inner = rented.remote.remote.fetch

    def fetch(name, target):
        inner(name, target)
        rented.compute(0)

    rented.remote.remote.fetch = fetch
    rented.said.clear()
    done = rented.pull()
    assert (done.files, done.problems) == ((path.name,), ())
    assert not any("WARNING" in line for line in rented.said)
    assert only((rented.folder / "quarantine").iterdir()).read_bytes() == damaged
    assert path.read_bytes() == laptop.file(0).read_bytes()


def test_what_comes_while_it_is_fetched_and_belongs_to_a_later_version_stays(laptop, rented):
    """D5: the same with what this version may not touch."""
    path, _ = spoilt_here(laptop, rented)
    inner = rented.remote.remote.fetch
    content = []

    def fetch(name, target):
        inner(name, target)
        content.append(in_a_later_container(rented.folder, path.name))

    rented.remote.remote.fetch = fetch
    done = rented.pull()
    assert done.files == ()
    assert path.read_bytes() == only(content)
    assert not (rented.folder / "quarantine").exists()
    assert any("stays here and is not taken" in line for line in rented.said)


def test_nobody_computes_an_entry_while_it_is_put_aside(laptop, rented, lines, monkeypatch):
    """D5: whoever wants it at that moment waits, and finds the one that arrived."""
    path, damaged = spoilt_here(laptop, rented)
    answers, inner = [], travelling.move_aside
    other = threading.Thread(target=lambda: answers.append(Walk(0).ask(ResultCache(rented.folder), STEPS)))

    def move_aside(*arguments):
        other.start()
        while not answers and not any("Waiting for" in line for line in lines.all()):
            other.join(0.01)
        return inner(*arguments)

    monkeypatch.setattr(travelling, "move_aside", move_aside)
    assert rented.pull().files == (path.name,)
    other.join()
    assert only(answers).how == "hit"
    assert only((rented.folder / "quarantine").iterdir()).read_bytes() == damaged
    assert path.read_bytes() == laptop.file(0).read_bytes()


def test_an_entry_that_is_evicted_before_it_is_put_aside(laptop, rented, monkeypatch):
    """D4: pruning takes no locks: there is nothing to put aside any more, and the pull goes on."""
    path, _ = spoilt_here(laptop, rented)
    inner = travelling.move_aside

    def move_aside(*arguments):
        prune(rented.folder, 0)
        return inner(*arguments)

    monkeypatch.setattr(travelling, "move_aside", move_aside)
    assert rented.pull().files == (path.name,)
    assert rented.files() == laptop.files()


def test_a_pull_does_not_wait_for_a_computation(laptop, rented):
    """D5: who trains for hours holds the lock, and needs none of what this machine fetches."""
    laptop.compute(0, 1)
    laptop.push()
    with alone(rented.folder, Walk(0).inputs().fingerprint, lambda owner: None):
        assert len(rented.pull().files) == 2
    rented.hits(0, 1)


def test_a_shorter_entry_goes_when_a_longer_one_arrives(laptop, rented):
    """D2, D4: as with an extension, so that both do not count towards the limit; a pinned one stays."""
    rented.compute(0, 1)
    short = rented.file(1).name
    pin(rented.folder, short)
    laptop.compute(0, 1, steps=60)
    laptop.push()
    rented.pull()
    assert set(rented.files()) == {*laptop.files(), short}
    rented.hits(0, 1, steps=60)


def test_a_shorter_entry_that_a_longer_one_does_not_replace_stays(laptop, rented):
    """D2: computed elsewhere, or without an end to go on from, the longer one serves only requests of up to its length."""
    walk = Walk(0)
    walk.ask(rented.cache, STEPS, walk.inputs(numpy="1"))
    rented.compute(1)
    before = rented.files()
    laptop.compute(0, steps=60)
    endless = Result({"positions": np.zeros(60)}, 60)
    laptop.cache.get_or_compute(Walk(1).inputs(), lambda: endless, steps=60)
    laptop.push()
    assert len(rented.pull().files) == 2
    assert before.items() <= rented.files().items()
    answer = walk.ask(rented.cache, 80, walk.inputs(numpy="1"))
    assert answer.how == "extended"


def test_a_shorter_entry_stays_where_the_longer_one_is_damaged(laptop, rented):
    rented.compute(0)
    before = rented.files()
    laptop.compute(0, steps=60)
    laptop.push()
    rented.remote.faults = Faults(spoil=flipped)
    assert len(rented.pull().problems) == 1
    assert rented.files() == before


def test_foreign_objects_are_left_alone(laptop, rented, place):
    """A remote may hold runs and other things: only entries under `cache/` are looked at."""
    laptop.compute(0)
    laptop.push()
    name = laptop.file(0).name
    (place / "cache" / "deeper").mkdir()
    for path in (place / "readme.txt", place / "cache" / "a.zip", place / "cache" / "deeper" / name, place / name):
        path.write_bytes(b"mine")
    assert rented.pull().files == (name,)
    assert rented.pull().present == 1
    assert laptop.push().present == 1


def test_pins_and_times_of_use_stay(laptop, rented):
    """D4: carrying is no use; what arrives counts as used now, and nothing of what is kept here is let go."""
    laptop.compute(0, 1)
    for number, seed in enumerate((1, 0)):
        os.utime(laptop.file(seed), (5000 + number,) * 2)
    pin(laptop.folder, laptop.file(1).name)
    laptop.push()
    rented.compute(2)
    rented.push()
    laptop.pull()
    held = held_entries(laptop.folder)
    assert [(entry.last_used, entry.pinned) for entry in held[:2]] == [(5000.0, True), (5001.0, False)]
    assert held[2].file == laptop.file(2).name


def interrupted_everywhere(machine, act, check):
    """Lets each operation in turn meet nobody, and goes on each time, until one go comes through."""
    for number in range(1, 40):
        machine.remote.calls.clear()
        machine.remote.faults = Faults(unreachable=range(number, 1000))
        try:
            act()
        except RemoteUnreachable:
            check()
            continue
        return number
    raise AssertionError("it never came through")


def test_a_push_interrupted_at_every_operation_goes_on(laptop, rented, place):
    """D5: nothing lost, nothing half; the exception passes to whoever asked."""
    laptop.compute(0, 1, 2)
    before = laptop.files()

    def check():
        assert laptop.files() == before
        assert set(objects(place) if place.exists() else {}) <= set(before)

    assert interrupted_everywhere(laptop, laptop.push, check) > 1
    assert objects(place) == before
    laptop.remote.faults = Faults(put_dies_after=1)
    laptop.compute(3, 4)
    with pytest.raises(RemoteUnreachable):
        laptop.push()
    laptop.remote.faults = Faults()
    assert len(laptop.push().files) == 1
    rented.pull()
    rented.hits(0, 1, 2, 3, 4)


def test_a_pull_interrupted_at_every_operation_goes_on(laptop, rented):
    """D5: what arrived stays, what did not is fetched by the next call."""
    laptop.compute(0, 1, 2)
    laptop.push()

    def check():
        assert set(rented.files().items()) <= set(laptop.files().items())
        assert not [found for found in verify(rented.folder) if found.problem]

    assert interrupted_everywhere(rented, rented.pull, check) > 2
    assert rented.files() == laptop.files()
    assert not (rented.folder / ARRIVING).exists()


def test_an_interrupted_transfer_continues(laptop, rented, place):
    """D5: the bytes that arrived are not fetched again; a beginning that is wrong is thrown away and all fetched."""
    laptop.compute(0, 1)
    laptop.push()
    content = {seed: laptop.file(seed).read_bytes() for seed in (0, 1)}
    cut = {}

    class Cut(FolderRemote):
        """Every object breaks off in the middle."""

        def fetch(self, name, target):
            part = target.with_name(f".{target.name}.part")
            part.write_bytes(truncated((place / name).read_bytes()))
            cut[name] = part
            raise RemoteError("broke off; the same command goes on from there")

    rented.remote.remote = Cut("folder:same", place)
    assert len(rented.pull().problems) == 2
    rented.remote.remote = FolderRemote("folder:same", place)
    first, second = sorted(cut.values())
    second.write_bytes(bytes(len(truncated(content[0]))))
    opened = []
    inner = rented.remote.remote._chunks
    rented.remote.remote._chunks = lambda path, offset: opened.append(offset) or inner(path, offset)
    assert len(rented.pull().files) == 2
    rented.hits(0, 1)
    assert len(opened) == 3
    assert sorted(opened)[0] == 0
    assert sorted(opened)[1] > 1000
    assert first.parent.exists() is second.parent.exists() is False


def test_a_part_of_another_remote_is_not_gone_on_from(laptop, rented, tmp_path):
    """D5: the same name may have other bytes elsewhere."""
    laptop.compute(0)
    laptop.push()
    elsewhere = FolderRemote("folder:elsewhere", tmp_path / "elsewhere")
    walk = Walk(0)
    other = Machine(tmp_path / "other", tmp_path / "elsewhere")
    walk.ask(other.cache, STEPS, walk.inputs(numpy="9"))
    other.push()

    def breaks(name, target):
        target.with_name(f".{target.name}.part").write_bytes(b"?" * 100)
        raise RemoteUnreachable("gone")

    rented.remote.remote.fetch = breaks
    with pytest.raises(RemoteUnreachable):
        rented.pull()
    offsets, inner = [], elsewhere._chunks
    elsewhere._chunks = lambda path, offset: offsets.append(offset) or inner(path, offset)
    assert pull(rented.folder, elsewhere, rented.said.append).files != ()
    assert offsets == [0]


def test_a_remote_that_is_down_or_refuses_passes_its_error(laptop):
    """Bad input: one line, its own exit code, nothing lost."""
    laptop.compute(0)
    before = laptop.files()
    for error in (RemoteUnreachable("gone"), RemoteRefused("no"), RemoteError("broken")):
        laptop.remote.calls.clear()
        laptop.remote.faults = Faults(errors={1: error})
        for act in (laptop.push, laptop.pull):
            laptop.remote.calls.clear()
            with pytest.raises(type(error)):
                act()
    assert laptop.files() == before


def test_a_remote_that_says_yes_to_everything_is_not_believed(laptop, rented):
    """D5: `pushed` is said only of what is there; the next push brings it."""
    laptop.compute(0)
    laptop.remote.faults = Faults(affirmative=True)
    with pytest.raises(RemoteError, match="does not list it"):
        laptop.push()
    laptop.remote.faults = Faults()
    laptop.push()
    rented.pull()
    rented.hits(0)


def test_one_object_that_cannot_be_fetched_does_not_keep_the_others(laptop, rented, place):
    """D5: an object that a stale listing shows, or that its service cannot give: named, the rest arrives."""
    laptop.compute(0, 1, 2)
    laptop.push()
    for error in (NotFound("gone meanwhile"), RemoteError("internal error")):
        shutil.rmtree(rented.folder, ignore_errors=True)
        rented.remote.calls.clear()
        rented.remote.faults = Faults(errors={3: error})
        done = rented.pull()
        assert len(done.files) == 2
        assert str(error) in only(done.problems)
        rented.remote.faults = Faults()
        assert len(rented.pull().files) == 1
        rented.hits(0, 1, 2)


def test_two_machines_push_at_once(laptop, rented, place):
    """D5: the same and other entries; nothing is lost."""
    from concurrent.futures import ThreadPoolExecutor

    laptop.compute(0, 1, 2)
    rented.compute(1, 2, 3)
    with ThreadPoolExecutor(2) as pool:
        done = [*pool.map(Machine.push, (laptop, rented))]
    assert sum(len(one.files) for one in done) == 4
    assert sum(one.present for one in done) == 2
    assert objects(place) == laptop.files() | rented.files()


def test_an_entry_that_is_evicted_while_it_is_pushed(laptop, place):
    """D4: another process prunes or extends: the rest travels."""
    laptop.compute(0, 1, 2)
    gone = laptop.file(1)
    inner = laptop.remote.remote.put

    def put(files):
        gone.unlink(missing_ok=True)
        return inner(files)

    laptop.remote.remote.put = put
    done = laptop.push()
    assert len(done.files) in (1, 2)
    assert len(objects(place)) == 2


def test_an_entry_that_is_evicted_while_it_gets_a_name_for_its_twin(laptop, place):
    """D4: the object at the remote is damaged, and what could heal it goes meanwhile."""
    laptop.compute(0, 1)
    laptop.push()
    path = place / "cache" / laptop.file(0).name
    path.write_bytes(truncated(path.read_bytes()))
    gone, inner = laptop.file(0), laptop.remote.remote.fetch

    def fetch(name, target):
        gone.unlink(missing_ok=True)
        return inner(name, target)

    laptop.remote.remote.fetch = fetch
    done = laptop.push()
    assert (done.files, done.present, done.problems) == ((), 1, ())


PULL = """
from unbroken.cache.travelling import pull
from unbroken.remotes.folder import FolderRemote
place = Path(sys.argv[2])
done = pull(cache.folder, FolderRemote(f"folder:{place}", place))
print(len(done.files), done.present, len(done.problems))
"""


def test_two_processes_pull_into_one_folder(laptop, rented, place, start):
    """D5: one after the other; each entry arrives once."""
    laptop.compute(*range(12))
    laptop.push()
    running = [start(PULL, place, where=rented.folder) for _ in range(2)]
    ended = [process.communicate(timeout=60) for process in running]
    assert sorted(out.split() for out, _ in ended) == [["0", "12", "0"], ["12", "0", "0"]], ended
    rented.hits(*range(12))


KILLED = """
from unbroken.cache import travelling
from unbroken.remotes.folder import FolderRemote
from unbroken.store.durable import LocalBackend
from unbroken.testing.backends import kill_this_process
left = int(sys.argv[3])

def dying(function):
    def act(*arguments):
        global left
        left -= 1
        if left == 0:
            kill_this_process()
        return function(*arguments)
    return act

for owner, name in ((LocalBackend, "replace"), (LocalBackend, "sync_folder"), (FolderRemote, "fetch"), (travelling, "checked")):
    setattr(owner, name, dying(getattr(owner, name)))
place = Path(sys.argv[2])
travelling.pull(cache.folder, FolderRemote(f"folder:{place}", place))
"""


def test_a_pull_that_is_killed_anywhere_goes_on(laptop, rented, place, start):
    """D5: SIGKILL before each step of a pull of two entries, one after the other over the same folder."""
    laptop.compute(0, 1)
    laptop.push()
    for number in range(1, 14, 2):
        process = start(KILLED, place, number, where=rented.folder)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), err
        assert set(rented.files().items()) <= set(laptop.files().items())
        if process.returncode == 0:
            break
    rented.pull()
    assert rented.files() == laptop.files()
    assert not (rented.folder / ARRIVING).exists()


def test_names_at_the_remote_lead_nowhere_else(laptop, rented, place):
    """G3: an object's name is only ever a name in the folder."""
    laptop.compute(0)
    laptop.push()
    good = laptop.file(0).name

    def items(prefix):
        return [type(found)(f"{PREFIX}{name}", found.size) for found in [only(inner(prefix))] for name in evil]

    evil = [
        f"../{good}",
        f"a/../../{good}",
        f"/{good}",
        f"C:{good}",
        f"..\\{good}",
        f".{good}",
        f"\x00{good}",
        f"{good}\n",
        f"\x9b2J{good}",
        f"\u202e{good}",
    ]
    inner = rented.remote.remote.items
    rented.remote.remote.items = items
    assert rented.pull().files == ()
    assert rented.moved() == []
    assert EntryName.parsed(good) is not None
