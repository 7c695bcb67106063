"""What a sync decides, and what becomes of what is here (D5, A9): further state, other legs, other trainings, locks."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from unbroken import Checkpointer
from unbroken.errors import IncompatibleRun, NotFound, RunLocked, StorageError
from unbroken.importing.importer import import_run
from unbroken.locate import repository_of
from unbroken.request import make_request
from unbroken.store.checkpoint_file import CheckpointFile, read_manifest, write_checkpoint
from unbroken.store.durable import LocalBackend
from unbroken.store.lock import ExclusiveLock
from unbroken.store.segments import verify_segments
from unbroken.syncing.records import training_of


def test_the_further_side_wins(machine):
    """D5: by step, whoever asks; a state that is behind is never pushed over one that is further."""
    early, late, new = machine("early", "ppo", 128), machine("late", "ppo", 256), machine("new")
    assert late.sync().action == "pushed"
    assert early.sync().action == "pulled"
    assert early.verify() == late.verify()
    assert early.files().keys() - late.files().keys() == {
        f"checkpoints/CartPole-v1_checkpoint_{step}_steps.zip" for step in (64, 128)
    }
    assert new.sync().action == "pulled"
    latest = machine("latest", "ppo", 384)
    assert latest.sync().action == "pushed"
    assert [one.sync().step for one in (early, late, new)] == [384, 384, 384]


def test_a_run_that_is_trained_here_is_not_replaced(machine):
    """D5: pulling needs the run's lock; pushing needs nothing of the training."""
    laptop, late = machine("laptop", "ppo", 128), machine("late", "ppo", 256)
    with ExclusiveLock(laptop.folder.lock_path, "run"):
        assert laptop.sync().action == "pushed"
    late.sync()
    before = laptop.files()
    with ExclusiveLock(laptop.folder.lock_path, "run"), pytest.raises(RunLocked, match="run run is being trained by"):
        laptop.sync()
    assert laptop.files() == before
    with ExclusiveLock(laptop.path / ".sync" / "lock"), pytest.raises(RunLocked, match="another sync of run run"):
        laptop.sync()
    assert laptop.sync().step == 256


def test_another_training_under_the_name_is_refused(machine, carry, place_files, lines):
    """D5: a fresh start is another training; --as NAME is the way out, and neither side has changed."""
    laptop, other = machine("laptop", "ppo", 128), machine("other")
    laptop.sync()
    carry(other, "ppo", 256)
    before, there = other.files(), place_files()
    with pytest.raises(IncompatibleRun, match=r"folder:place holds another training .* at step 128.*--as NAME"):
        other.sync()
    assert (other.files(), place_files()) == (before, there)
    assert other.sync(name="other").action == "pushed"
    # as when two push for the first time at once
    shutil.copytree(laptop.pair.remote._path / "runs/other", laptop.pair.remote._path / "runs/run", dirs_exist_ok=True)
    assert laptop.sync().action == "equal"
    assert "also holds another training" in lines.warnings[-1]


def test_a_fresh_start_without_a_checkpoint_is_not_overwritten(machine):
    """D5, A9: --fresh has put the old training aside here, so that it must not come back from the remote."""
    laptop = machine("laptop", "ppo", 128)
    laptop.sync()
    laptop.folder.archive("CartPole-v1")
    laptop.folder.store({"version": 1, "fresh": {"target": 128}, "config": {"scenario": "CartPole-v1"}})
    before = laptop.files()
    with pytest.raises(IncompatibleRun, match=r"begun anew here \(--fresh\)"):
        laptop.sync()
    assert laptop.files() == before


def test_an_import_of_files_is_not_filled_with_a_training(machine, tmp_path):
    """D5: a run that holds only files of others has its name for itself; the training comes under another one."""
    machine("late", "ppo", 256).sync()
    source = tmp_path / "theirs"
    source.mkdir()
    (source / "notes.txt").write_text("theirs")
    imported = machine("imported")
    import_run(source, make_request(None, {"run": "run", "runs_dir": imported.runs}), files_only=True, console=False)
    before = imported.files()
    with pytest.raises(IncompatibleRun, match=r"import of files without a training.*--as run"):
        imported.sync()
    assert imported.files() == before


def test_a_fork_is_a_training_of_its_own(machine):
    """D5, A9: a fork begins with its parent's checkpoint, and is not taken for it."""
    laptop = machine("laptop", "ppo", 256)
    laptop.sync()
    manifest = read_manifest(laptop.folder.backend, laptop.newest().path)
    stored = laptop.folder.stored()
    laptop.folder.store({**stored, "parent": {"run": "elsewhere", "step": 64, "file": "x"}})
    assert training_of(manifest, laptop.folder.stored()) != training_of(manifest, {})
    with pytest.raises(IncompatibleRun, match=r"a fork of elsewhere@64"):
        laptop.sync()


def test_a_lost_folder_comes_back(machine):
    """D5, A7: checkpoints that are all damaged or gone are replaced by those of the same training there."""
    laptop = machine("laptop", "ppo", 256)
    laptop.sync()
    for path in (laptop.path / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    assert laptop.sync().action == "pulled"
    assert repository_of(laptop.folder).search(lambda name, why: None)[0].step == 256
    assert laptop.archived() == ["checkpoints/CartPole-v1_checkpoint_256_steps.zip"]


def test_a_damaged_newest_checkpoint_is_replaced(machine):
    """D5, A7: its commit record can be read and its bytes are wrong: nothing of it is pushed, and the one there comes."""
    laptop = machine("laptop", "ppo", 256)
    laptop.sync()
    path = laptop.path / laptop.newest().path
    content = path.read_bytes()
    path.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    assert laptop.sync().action == "pulled"
    assert path.read_bytes() == content
    assert laptop.archived() == ["checkpoints/CartPole-v1_checkpoint_256_steps.zip"]
    assert laptop.sync().action == "equal"


def test_a_loop_of_ones_own_travels(machine):
    """D5, A14: a run of `unbroken.Checkpointer`, which has no run.yaml, goes on on the other machine."""

    def loop(machine, total):
        numbers = []
        ckpt = Checkpointer(machine.path, save_every=10)
        own = ckpt.state(value=1)
        for _ in ckpt.steps(total):
            own.value = own.value * 3 % 1001
            numbers.append(own.value)
            ckpt.log(value=own.value)
            ckpt.save_if_due()
        return numbers

    laptop, rented = machine("laptop"), machine("rented")
    numbers = loop(laptop, 20)
    laptop.sync()
    assert rented.sync().step == 20
    numbers += loop(rented, 40)
    rented.sync()
    assert laptop.sync().step == 40
    assert numbers == [pow(3, exponent, 1001) for exponent in range(1, 41)]
    assert (laptop.path / "logs/metrics.jsonl").read_text().count("\n") == 40


def test_legs_that_went_apart_lose_nothing(machine, carry):
    """D5, A9: the side that is behind is replaced and kept whole in archive/, with segments of the same names and other rows."""
    ahead, apart = machine("ahead", "dqn", 384), machine("apart", "dqn", 128)
    carry(apart, "dqn", 256, settings={"learning_rate": 1e-2}, save_every=16)
    record, manifest = apart.newest(), apart.verify()
    assert record.sequence > ahead.newest().sequence
    before = apart.files()
    ahead.sync()
    assert apart.sync().action == "pulled"
    assert apart.step == 384
    assert apart.verify()["sequence"] == ahead.verify()["sequence"]
    kept = next((apart.path / "archive").iterdir())
    with CheckpointFile(LocalBackend(kept), record.path) as file:
        file.verify()
        verify_segments(file, set())
        assert file.manifest == manifest
    after = apart.files(archive=True).values()
    assert [name for name, old in before.items() if not any(new.startswith(old) for new in after)] == []
    assert apart.sync().action == "equal"
    repository = repository_of(apart.folder)
    assert all(repository.verified(record).valid for record in repository.records())
    assert carry(apart, "dqn", 448).exit_code == 0
    assert apart.sync().step == ahead.sync().step == 448
    assert ahead.verify()["step"] == 448


def test_what_is_new_here_is_kept_when_it_is_replaced(machine):
    """D5, A9: files that are neither at the remote nor the beginning of the new ones go to archive/."""
    laptop, late = machine("laptop", "ppo", 128), machine("late", "ppo", 256)
    late.sync()
    with (laptop.path / "logs" / "run.log").open("a") as log:
        log.write("a line of this machine\n")
    (laptop.path / "run.yaml").write_text((laptop.path / "run.yaml").read_text() + "# mine\n")
    (laptop.path / "journal").mkdir()
    (laptop.path / "journal" / "128-0123456789abcdef.journal").write_bytes(b"steps beyond the checkpoint")
    before = laptop.files()
    laptop.sync()
    assert {"logs/run.log", "run.yaml", "journal/128-0123456789abcdef.journal"} <= set(laptop.archived())
    after = laptop.files(archive=True).values()
    assert [name for name, old in before.items() if not any(new.startswith(old) for new in after)] == []


def test_the_better_model_stays(machine, carry):
    """D5, A2: a best model here that beats the one there is not replaced, and is pushed next."""
    laptop, late = machine("laptop", "ppo", 128), machine("late", "ppo", 256)
    manifest = read_manifest(late.folder.backend, "best_model/best_model.zip")
    late.sync()
    better = {**manifest, "score": manifest["score"] + 1000.0}
    _rewrite(laptop, "best_model/best_model.zip", better)
    assert laptop.sync().action == "pulled"
    assert read_manifest(laptop.folder.backend, "best_model/best_model.zip")["score"] == better["score"]
    assert laptop.sync().action == "pushed"
    assert late.sync().action == "pulled"
    assert late.folder.best_score()["score"] == better["score"]
    assert late.sync().action == laptop.sync().action == "equal"


def _rewrite(machine, path, facts):
    def fill(writer):
        with CheckpointFile(machine.folder.backend, path) as file:
            for name in file.names():
                writer.write_member(name, file.read(name))
        return {key: value for key, value in facts.items() if key not in ("format", "version", "members")}

    write_checkpoint(machine.folder.backend, path, fill)


def test_a_change_without_a_checkpoint_travels_too(machine):
    """D5, A4: what run.yaml promises, such as a target of --more, is known on the other machine."""
    laptop, rented = machine("laptop", "ppo", 128), machine("rented")
    laptop.sync()
    rented.sync()
    promise = {"from": 128, "add": 128, "target": 256}
    laptop.folder.store({**laptop.folder.stored(), "more": promise})
    assert laptop.sync().action == "pushed"
    assert rented.sync().action == "pulled"
    assert rented.folder.stored()["more"] == promise
    assert rented.sync().action == laptop.sync().action == "equal"


def test_no_code_comes_from_a_file(machine, lines):
    """A13, promise 6: a run.yaml from elsewhere that names code is left there; on the machine that named it, it is the same."""
    laptop, late, rented = machine("laptop", "ppo", 128), machine("late", "ppo", 256), machine("rented")
    for one in (laptop, late):
        stored = one.folder.stored()
        stored["config"]["callbacks"] = ["somewhere:Anything"]
        one.folder.store({**stored, "default_target": one.step})
    late.sync()
    assert rented.sync().action == "pulled"
    assert not (rented.path / "run.yaml").exists()
    assert rented.step == 256
    assert "names code to run (callbacks.0: somewhere:Anything)" in lines.warnings[0]
    assert rented.sync().action == "equal"
    assert laptop.sync().action == "pulled"
    assert laptop.folder.stored()["default_target"] == 256


def test_two_machines_push_at_once(machine, place_files, command):
    """D5: objects never change and both records stay; both machines then have the further state."""
    early, late = machine("early", "ppo", 128), machine("late", "ppo", 256)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(command, (early, late)))
    assert [one.returncode for one in done] == [0, 0], done
    assert late.sync().step == early.sync().step == 256
    records = [name for name in place_files() if "/records/" in name]
    assert len(records) == (2 if "Pushed run" in done[0].stdout else 1)


def test_nothing_to_sync(machine, tmp_path):
    """D5: one line with the nearest name, and no folder is left behind."""
    laptop, nobody = machine("laptop", "ppo", 128), machine("nobody")
    with pytest.raises(NotFound, match=r"there is no run 'run' in .* and no 'run' at folder:place"):
        nobody.sync()
    assert not nobody.runs.exists()
    laptop.sync(name="runner")
    with pytest.raises(NotFound, match="did you mean 'runner'"):
        nobody.sync()
    begun = machine("begun")
    begun.folder.store({"version": 1, "config": {"scenario": "CartPole-v1"}})
    with pytest.raises(NotFound, match="no checkpoint that can be used yet"):
        begun.sync()


def test_without_room_nothing_begins(machine, monkeypatch):
    """A10: a disk that is too full is said before anything is fetched, and the run stays as it was."""
    laptop, late = machine("laptop", "ppo", 128), machine("late", "ppo", 256)
    late.sync()
    before = laptop.files()
    monkeypatch.setattr(LocalBackend, "free_bytes", lambda backend: 1_000_000)
    with pytest.raises(StorageError, match=r"only 1\.0 MB are free for .*run"):
        laptop.sync()
    assert laptop.files() == before
    rented = machine("rented")
    with pytest.raises(StorageError):
        rented.sync()
    assert not rented.path.exists()


def test_the_command_says_what_is_wrong_in_a_line(machine, command):
    """D5: exit codes and one line each, for a remote that is away, a wrong address, a wrong name and a wrong time."""
    laptop = machine("laptop", "ppo", 128)
    answers = {
        "folder:/no/such/drive/place": 68,
        "ftp://somewhere": 2,
    }
    for url, code in answers.items():
        done = command(laptop, remote=url)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    refused = (
        ("--as", "a/b"),
        ("--as", ""),
        ("--follow", "--every", "soon"),
        ("--follow", "--every", "0"),
        ("--every", "9s"),
    )
    for words in refused:
        done = command(laptop, *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert laptop.sync().action == "pushed"


def test_files_of_another_prefix_are_none_of_the_runs(machine):
    """D5: a checkpoint that somebody laid beside the run's own is not taken for its newest."""
    laptop = machine("laptop", "ppo", 128)
    shutil.copy(laptop.path / laptop.newest().path, laptop.path / "checkpoints" / "other_checkpoint_999_steps.zip")
    assert laptop.sync().step == 128
