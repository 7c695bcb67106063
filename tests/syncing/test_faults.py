"""Remotes that fail, and what they hold damaged or by half (D5, A10): said, and the newest complete state is used."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from unbroken.errors import DamagedFile, RemoteError, RemoteRefused, RemoteUnreachable
from unbroken.remotes.folder import FolderRemote
from unbroken.syncing.local import hashed
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


def _links(place, name):
    path = place._path / name
    path.symlink_to("nowhere")


def _folders(place, name):
    (place._path / name).mkdir()


def _shorter(place, name):
    (place._path / name).symlink_to(__file__)


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
@pytest.mark.parametrize("occupy", [_links, _folders, _shorter])
def test_something_else_where_objects_would_go(occupy, machine, place, place_files):
    """D5: what is there under an object's name and is not the object is passed by, and what is pushed is there."""
    laptop, rented = machine("laptop", "dqn", 128), machine("rented")
    probe = FolderRemote("folder:probe", place._path.parent / "probe")
    laptop.sync(probe)
    names = [item.name for item in probe.items("runs/run/objects/")]
    (place._path / "runs/run/objects").mkdir(parents=True)
    for name in names:
        occupy(place, name)
    done = laptop.sync()
    assert (done.action, done.objects) == ("pushed", len(names))
    assert {item.name for item in place.items("runs/run/objects/")} >= {f"{name}-2" for name in names}
    assert rented.sync().action == "pulled"
    assert rented.verify() == laptop.verify()
    assert laptop.sync().action == "equal"


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_a_record_comes_after_all_that_it_names(machine, place, faulty):
    """D5: where every name for an object is taken, there is an error and no record."""
    laptop = machine("laptop", "ppo", 128)
    digest = hashed(laptop.path / "CartPole-v1_final.zip").digest
    (place._path / "runs/run/objects").mkdir(parents=True)
    for name in (digest, *(f"{digest}-{number}" for number in range(2, 9))):
        _links(place, f"runs/run/objects/{name}")
    before = laptop.files()
    with pytest.raises(RemoteError, match=f"something else where object {digest[:12]} would go"):
        laptop.sync(faulty)
    assert not any("/records/" in name for kind, names in faulty.calls if kind == "put" for name in names)
    assert laptop.files() == before


def test_a_decayed_checkpoint_is_not_pushed_under_its_old_hash(machine, place, lines):
    """D5, A7: a disk that changes bytes without a trace: what is put is read, and the checkpoint before it travels."""
    laptop, rented = machine("laptop", "ppo", 256), machine("rented")
    laptop.sync(FolderRemote("folder:other", place._path.parent / "other"))
    newest = laptop.path / laptop.newest().path
    facts = newest.stat()
    with newest.open("r+b") as file:
        file.seek(facts.st_size // 2)
        file.write(bytes(1) if file.read(1) != bytes(1) else b"x")
    os.utime(newest, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert laptop.sync().step == 192
    assert "256_steps.zip cannot be pushed" in lines.warnings[0]
    assert rented.sync().step == 192
    assert rented.verify()["step"] == 192


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A folder that counts as another disk: nothing is renamed or linked from it or to it."""
    root = (tmp_path / "disk").resolve()
    root.mkdir()

    def on_one_disk(operation):
        def checked(source, target, **words):
            if (root in Path(source).resolve().parents) != (root in Path(target).resolve().parents):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
            return operation(source, target, **words)

        return checked

    monkeypatch.setattr(os, "replace", on_one_disk(os.replace))
    monkeypatch.setattr(os, "link", on_one_disk(os.link))
    return root


@pytest.mark.parametrize("folder", ["checkpoints", "best_model", "archive", "journal"])
def test_a_folder_on_another_disk(folder, machine, carry, disk):
    """D5: a pull comes to its end where a folder of the run is a link to another disk."""
    machine("late", "ppo", 384).sync()
    laptop = machine("laptop", "ppo", 128)
    carry(laptop, "ppo", 256, settings={"learning_rate": 1e-2})
    (laptop.path / "journal").mkdir(exist_ok=True)
    (laptop.path / "journal" / "256-0123456789abcdef.journal").write_bytes(b"steps beyond the checkpoint")
    before = laptop.files()
    (laptop.path / folder).mkdir(exist_ok=True)
    shutil.move(laptop.path / folder, disk / folder)
    (laptop.path / folder).symlink_to(disk / folder)
    assert laptop.sync().action == "pulled"
    assert laptop.verify()["step"] == 384
    assert laptop.sync().action == "equal"
    kept = {
        path.read_bytes()
        for place in (laptop.path / "archive").iterdir()
        for path in place.rglob("*")
        if path.is_file()
    }
    assert {content for name, content in before.items() if not name.startswith("archive")} <= kept


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
