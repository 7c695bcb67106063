"""A run goes from the laptop to a rented machine and back, and ends as if it had never moved (D5, A6)."""

import shutil

import pytest

from unbroken.syncing import local
from unbroken.testing.twin import differences

OFTEN = pytest.param("sac", marks=pytest.mark.full)


@pytest.mark.parametrize("kind", ["ppo", "dqn", "torch", OFTEN])
def test_there_and_back_is_as_if_it_had_never_moved(kind, machine, carry, history):
    """D5, A6: state, models and curves of a run that two machines trained are those of its undisturbed twin."""
    laptop, rented = machine("laptop", kind, 128), machine("rented")
    assert laptop.sync().action == "pushed"
    assert rented.sync().action == "pulled"
    assert carry(rented, kind, 256).exit_code == 0
    assert rented.sync().action == "pushed"
    assert laptop.sync().action == "pulled"
    assert laptop.sync().action == rented.sync().action == "equal"
    assert carry(laptop, kind, 384).exit_code == 0
    assert differences(laptop.runs, history(kind, 384), "run") == []
    assert laptop.archived() == []


def test_killed_here_goes_on_there(machine, trainer, command, carry, history):
    """D5, A5: training and follower are killed with SIGKILL at once; the newest checkpoint travels, and nothing else is lost."""
    laptop, rented, twin = machine("laptop"), machine("rented"), machine("twin")
    follower = command(laptop, "--follow", "--every", "0.05s", background=True)
    training = trainer(laptop, "dqn", 1024)
    assert training.wait_for("checkpoint_384_steps.zip"), training.last_lines()
    assert follower.wait_for("Pushed run"), follower.last_lines()
    training.kill()
    follower.kill()
    killed_at = laptop.step
    assert 384 <= killed_at < 1024
    done = command(laptop)
    assert done.returncode == 0, done.stderr
    done = command(rented)
    assert done.returncode == 0, done.stderr
    assert f"[SYNC] Pulled run run at step {killed_at:,} from folder:" in done.stdout
    assert rented.step == killed_at
    assert carry(rented, "dqn", 1024).exit_code == 0
    rented.sync()
    laptop.sync()
    assert carry(laptop, "dqn", 1024).reason == "target reached before"
    assert carry(twin, "dqn", 1024).exit_code == 0
    assert differences(laptop.runs, twin.runs, "run") == []


def test_only_what_is_new_travels(machine, place_files, lines):
    """D5: the second push carries one checkpoint and what else has changed; nothing at the remote is touched."""
    laptop, later = machine("laptop", "dqn", 128), machine("later", "dqn", 256)
    first = laptop.sync()
    before = place_files()
    second = later.sync()
    after = place_files()
    assert {name: after[name] for name in before} == before
    assert second.present >= len([s for s in later.verify()["segments"] if s["end"] <= 128]) > 0
    assert (first.objects, second.objects) == (len(before) - 1, len(after) - len(before) - 1)
    assert second.size == sum(len(after[name]) for name in after if name not in before and "/objects/" in name)
    assert lines.holding(f"[SYNC] Pushed run run at step 256 to folder:place: {second.objects} objects (")


def test_a_long_log_travels_in_parts(machine, place_files):
    """D5: of a file that grows only the last part travels again, and what was here is not fetched."""
    laptop, rented = machine("laptop", "ppo", 128), machine("rented")
    log = laptop.path / "logs" / "run.log"
    with log.open("ab") as file:
        file.write(b"".join(b"line %d\n" % number for number in range(60_000)))
    laptop.sync()
    assert rented.sync().action == "pulled"
    (laptop.path / "run.yaml").write_bytes((laptop.path / "run.yaml").read_bytes() + b"# looked at\n")
    with log.open("ab") as file:
        file.write(b"whole\nhalf a li")
    assert laptop.sync().objects == 2
    assert rented.sync().objects == 2
    assert (rented.path / "logs" / "run.log").read_bytes() == log.read_bytes().removesuffix(b"half a li")
    assert rented.archived() == []


def test_hashes_are_remembered(machine, place, monkeypatch):
    """D5: files that have not changed are not read again, also by the next process."""
    read = []
    whole = local.hashed
    monkeypatch.setattr(local, "hashed", lambda path: read.append(path.name) or whole(path))
    laptop = machine("laptop", "dqn", 256)
    laptop.sync()
    assert len(read) == len(laptop.verify()["segments"]) + 3
    read.clear()
    assert laptop.sync().action == "equal"
    assert read == []
    newest = laptop.newest()
    local_path = laptop.path / newest.path
    local_path.write_bytes(local_path.read_bytes())
    assert laptop.sync().action == "equal"
    assert read == [newest.name]


@pytest.mark.parametrize("gone", ["checkpoints/", "replay/", "best_model/"])
def test_rotated_out_while_it_is_pushed(gone, machine, monkeypatch, lines):
    """D5: a checkpoint that vanishes in the middle of a push, or one of its segments, gives way to the newer one, silently."""
    laptop, later = machine("laptop", "dqn", 256), machine("later", "dqn", 384)

    def rotated(source, target):
        if source.relative_to(laptop.path).as_posix().startswith(gone) and laptop.step != 384:
            shutil.rmtree(laptop.path / gone)
            for name in ("checkpoints", "replay", "best_model"):
                shutil.rmtree(laptop.path / name, ignore_errors=True)
            shutil.copytree(later.path, laptop.path, dirs_exist_ok=True)
        return link_or_copy(source, target)

    link_or_copy = local.link_or_copy
    monkeypatch.setattr(local, "link_or_copy", rotated)
    assert laptop.sync().action == "pushed"
    assert lines.warnings == []
    rented = machine("rented")
    assert rented.sync().step in ((384,) if gone != "best_model/" else (256, 384))
    assert rented.verify()["step"] == rented.step


def test_what_stays_at_home(machine, place_files):
    """D5: journal, archive, quarantine and lock files do not travel."""
    laptop, rented = machine("laptop", "ppo", 128), machine("rented")
    for name in ("journal/100-abc.journal", "archive/old.zip", "quarantine/bad.zip"):
        (laptop.path / name).parent.mkdir(exist_ok=True)
        (laptop.path / name).write_bytes(b"private")
    laptop.sync()
    rented.sync()
    assert not any(b"private" in content for content in place_files().values())
    kept = {name: content for name, content in laptop.files().items() if content != b"private"}
    (newest,) = (name for name in kept if name.endswith("_128_steps.zip"))
    older = {name for name in kept if name.startswith("checkpoints/") and name != newest}
    assert rented.files() == {name: content for name, content in kept.items() if name not in older}
    assert not list((laptop.path / ".sync").rglob("*.zip"))
    assert sorted(path.name for path in (rented.path / ".sync").iterdir()) == ["known.json", "lock"]


def test_another_name_there(machine, place_files):
    """D5: `--as` names the run at the remote, also to bring it here under a new name."""
    laptop, rented = machine("laptop", "ppo", 128), machine("rented")
    laptop.sync(name="shared é")
    assert all(name.startswith("runs/shared é/") for name in place_files())
    assert rented.sync(name="shared é").action == "pulled"
    assert rented.step == 128
