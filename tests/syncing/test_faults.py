"""Remotes that fail, and what they hold damaged or by half (D5, A10): said, and the newest complete state is used."""

import json
import shutil

import pytest

from unbroken.errors import DamagedFile, RemoteError, RemoteRefused, RemoteUnreachable
from unbroken.syncing.records import RecordName, read_name, read_record
from unbroken.testing.remotes import Faults, FaultyRemote, flipped, truncated


@pytest.fixture
def faulty(place):
    return FaultyRemote(place)


def test_a_push_that_fails_at_any_operation(machine, faulty, place_files):
    """D5: whichever operation fails, the run is as it was, and the same command completes the push."""
    laptop, rented = machine("laptop", "dqn", 128), machine("rented")
    before = laptop.files()
    for number in (1, 2):
        faulty.calls.clear()
        faulty.faults = Faults(errors={number: RemoteUnreachable("nobody there")})
        with pytest.raises(RemoteUnreachable):
            laptop.sync(faulty)
        assert laptop.files() == before
        assert not any("/records/" in name for name in place_files())
    faulty.faults = Faults(put_dies_after=3)
    with pytest.raises(RemoteUnreachable):
        laptop.sync(faulty)
    with pytest.raises(FileNotFoundError, match="3 objects of it are there, of a push that did not come to its end"):
        rented.sync()
    faulty.faults = Faults()
    assert laptop.sync(faulty).present == 3
    assert rented.sync().action == "pulled"


def test_a_remote_that_says_yes_to_everything_is_not_believed(machine, faulty):
    """D5: `pushed` is said only of what is there; the next sync brings it."""
    laptop, rented = machine("laptop", "dqn", 128), machine("rented")
    faulty.faults = Faults(affirmative=True)
    with pytest.raises(RemoteError, match="does not list it"):
        laptop.sync(faulty)
    faulty.faults = Faults()
    laptop.sync(faulty)
    assert rented.sync().action == "pulled"


def test_a_pull_that_fails_at_any_operation(machine, faulty):
    """D5: an interrupted pull leaves the run as it was, and the next one goes on with what has arrived."""
    late, undisturbed = machine("late", "dqn", 256), machine("undisturbed", "dqn", 128)
    late.sync()
    undisturbed.sync(faulty)
    operations = len(faulty.calls)
    assert operations > 8
    rented = machine("rented", "dqn", 128)
    before = rented.files()
    for number in range(1, operations + 1):
        faulty.calls.clear()
        faulty.faults = Faults(errors={number: RemoteUnreachable("nobody there")})
        if number <= 3:
            with pytest.raises(RemoteUnreachable):
                rented.sync(faulty)
            assert rented.files() == before
        else:
            # one more object has arrived each time
            break
    faulty.calls.clear()
    faulty.faults = Faults(errors={6: RemoteUnreachable("nobody there")})
    with pytest.raises(RemoteUnreachable):
        rented.sync(faulty)
    assert rented.files() == before
    fetched = {name for kind, names in faulty.calls[:5] if kind == "fetch" for name in names if "/objects/" in name}
    assert fetched
    faulty.calls.clear()
    faulty.faults = Faults()
    assert rented.sync(faulty).action == "pulled"
    assert not fetched & {name for kind, names in faulty.calls if kind == "fetch" for name in names}
    assert rented.files() == undisturbed.files()


def test_a_new_machine_has_nothing_until_all_of_it_came(machine, faulty):
    """D5: a first pull that fails at any operation leaves no run, the last one a whole one."""
    machine("late", "ppo", 256).sync()
    rented = machine("rented")
    for number in range(1, 30):
        faulty.calls.clear()
        faulty.faults = Faults(errors={number: RemoteUnreachable("nobody there")})
        try:
            rented.sync(faulty)
        except RemoteUnreachable:
            assert rented.path.exists() == bool(rented.path.exists() and list((rented.path / ".sync").rglob("*")))
            assert rented.newest() is None
        else:
            break
    assert rented.step == 256


def test_bytes_that_change_on_the_way(machine, faulty, lines):
    """D5: what arrives altered or short is named and not used, and another try takes the right ones."""
    machine("late", "ppo", 256).sync()
    laptop, rented = machine("laptop", "ppo", 128), machine("rented")
    before = laptop.files()
    for spoil in (flipped, truncated):
        faulty.faults = Faults(spoil=spoil)
        with pytest.raises(DamagedFile, match="no state of run run at folder:place can be used"):
            rented.sync(faulty)
        assert not rented.path.exists()
        assert laptop.sync(faulty).action == "pushed"
        assert laptop.files() == before
    assert "record 000000000256-000004-000-" in lines.warnings[0]
    assert laptop.sync().action == rented.sync().action == "pulled"


@pytest.mark.parametrize("spoil", [flipped, truncated])
@pytest.mark.parametrize("what", ["objects", "records"])
def test_damage_there_is_reported_and_mended(what, spoil, machine, place, place_files, lines):
    """D5: the newest complete state before the damage is used; who has the content puts it there again under another name."""
    early, late, rented = machine("early", "dqn", 128), machine("late", "dqn", 256), machine("rented")
    early.sync()
    kept = place_files()
    late.sync()
    new = [name for name in place_files() if name not in kept and f"/{what}/" in name]
    name = max(new, key=lambda name: len(place_files()[name]))
    path = place._path / name
    path.write_bytes(spoil(path.read_bytes()))
    assert rented.sync().step == 128
    assert rented.verify()["step"] == 128
    assert lines.warnings
    assert name.rpartition("/")[2][:12] in "".join(lines.warnings) or spoil is truncated
    assert late.sync().action == "pushed"
    assert rented.sync().step == 256
    assert rented.verify() == late.verify()
    assert late.sync().action == rented.sync().action == "equal"
    assert {name: place_files()[name] for name in kept} == kept


def test_damage_of_what_many_records_share_is_mended(machine, place, place_files):
    """D5: a segment that every later checkpoint needs is put there again by whoever has it, after somebody has noticed."""
    early, late, rented = machine("early", "dqn", 128), machine("late", "dqn", 256), machine("rented")
    early.sync()
    segment = early.verify()["segments"][0]
    (name,) = [name for name, content in place_files().items() if len(content) == segment["size"]][:1]
    path = place._path / name
    path.write_bytes(flipped(path.read_bytes()))
    late.sync()
    with pytest.raises(DamagedFile):
        rented.sync()
    assert late.sync().action == "pushed"
    assert rented.sync().action == "pulled"
    assert rented.verify() == late.verify()


def test_a_place_that_forgets_gets_it_again(machine, faulty, place_files):
    """D5: a put that reported success and kept nothing is made good by the next sync; a stale listing harms nothing."""
    laptop = machine("laptop", "ppo", 128)
    faulty.faults = Faults(forgetful=True)
    assert laptop.sync(faulty).action == "pushed"
    faulty.faults = Faults(stale=3)
    assert laptop.sync(faulty).action == "pushed"
    before = place_files()
    assert laptop.sync(faulty).action == "pushed"
    assert place_files() == before
    faulty.faults = Faults()
    assert laptop.sync(faulty).action == "equal"


def test_a_record_names_nothing_outside_a_run(machine, place, place_files, lines):
    """Promise 6: a record that was made up cannot put a file anywhere else, nor over a lock."""
    late, rented = machine("late", "ppo", 256), machine("rented")
    late.sync()
    (name,) = (name for name in place_files() if "/records/" in name)
    facts = json.loads(place_files()[name])
    model = facts["files"]["CartPole-v1_final.zip"]
    (place._path / name).unlink()
    for path in (
        "../evil.zip",
        ".lock",
        "/evil.zip",
        "checkpoints/.hidden",
        "logs/../../evil",
        "sub/final/x.zip",
        "evil",
    ):
        forged = json.dumps(
            {**facts, "files": {**facts["files"], path: model}}, ensure_ascii=False, separators=(",", ":")
        )
        content = (forged + "\n").encode()
        known = read_name(name.rpartition("/")[2])
        text = known.text.replace(known.digest, _digest(content))
        with pytest.raises(DamagedFile, match="wrong form"):
            read_record(read_name(text), content)
        (place._path / name).with_name(text).write_bytes(content)
    with pytest.raises(DamagedFile):
        rented.sync()
    assert not rented.path.exists()
    assert len(lines.holding("has a wrong form")) == 7


def _digest(content):
    import hashlib

    return hashlib.blake2b(content, digest_size=6).hexdigest()


def test_a_record_of_a_newer_version(machine, place, place_files):
    """D5: it is not misread: one line says to upgrade."""
    machine("late", "ppo", 256).sync()
    (name,) = (name for name in place_files() if "/records/" in name)
    content = place_files()[name].replace(b'"version":1', b'"version":2')
    known = read_name(name.rpartition("/")[2])
    newer = read_name(known.text.replace(known.digest, _digest(content)))
    assert isinstance(newer, RecordName)
    with pytest.raises(DamagedFile, match="newer version: upgrade unbroken"):
        read_record(newer, content)


def test_refused_by_the_remote(machine, faulty):
    """D5: a place that may only be read is still pulled from, damage or not; a push there says what is refused."""
    machine("late", "ppo", 256).sync()
    laptop = machine("laptop", "ppo", 128)
    faulty.put = _refuse
    assert laptop.sync(faulty).action == "pulled"
    shutil.rmtree(laptop.path)
    newer = machine("newer", "ppo", 384)
    with pytest.raises(RemoteRefused, match="read only"):
        newer.sync(faulty)


def _refuse(files):
    raise RemoteRefused("read only")
