"""Two machines train the same run on from the same point (D5, A2, A7, A9): one branch wins, the other is kept as a run."""

import json
import shutil

import pytest

from unbroken.locate import repository_of
from unbroken.store.checkpoint_file import CheckpointFile, read_manifest, write_checkpoint
from unbroken.syncing.branches import History
from unbroken.testing.remotes import flipped


@pytest.fixture
def other(machine, carry):
    """`other("apart", "ppo", 192)` has trained from step 128 to that step with another learning rate."""

    def make(name, kind, step, **words):
        made = machine(name, kind, 128)
        assert carry(made, kind, step, settings={"learning_rate": 1e-2}, **words).exit_code == 0
        return made

    return make


@pytest.fixture
def as_run(tmp_path):
    """The only archive of a machine as a run of its own."""

    def make(machine):
        (kept,) = (machine.path / "archive").iterdir()
        shutil.copytree(kept, tmp_path / "kept" / "run")
        return type(machine)(tmp_path / "kept", machine.pair.remote)

    return make


def checkpoints(machine):
    return {record.step for record in repository_of(machine.folder).records()}


def model(machine, name):
    return (machine.path / name).read_bytes()


@pytest.mark.parametrize("kind", ["ppo", "dqn"])
def test_what_is_replaced_is_a_run_in_the_archive(kind, machine, other, carry, as_run, command, lines):
    """D5, A9: whatever its counter of commits says, a branch goes to archive/ as a whole, from where it can be trained on."""
    ahead, apart = machine("ahead", kind, 384), other("apart", kind, 256)
    ahead.sync()
    before, reached = apart.files(), apart.verify()
    assert apart.sync().action == "pulled"
    assert checkpoints(apart) == {384}
    names = (ahead.newest().path, "best_model/best_model.zip", "CartPole-v1_final.zip")
    assert [model(apart, name) for name in names] == [model(ahead, name) for name in names]
    (line,) = lines.warnings
    kept = as_run(apart)
    assert "went apart at step 128: what was trained here up to step 256 is kept as" in line
    assert next((apart.path / "archive").iterdir()).name in line
    assert "--as NAME" in line
    assert kept.verify() == reached
    assert {name: content for name, content in kept.files().items() if name in before} == kept.files()
    assert kept.files().keys() >= {name for name in before if not name.startswith("replay/")} - {"tracking/state.json"}
    assert carry(kept, kind, 320, settings={"learning_rate": 1e-2}).exit_code == 0
    assert kept.verify()["legs"][:-1] == reached["legs"]
    assert apart.sync().action == ahead.sync().action == "equal"


def test_a_branch_without_its_own_best_model_leaves_none(machine, other, place, place_files, lines):
    """D5, A2: models of the replaced branch do not stay as those of the branch that comes."""
    ahead, apart = machine("ahead", "ppo", 384), other("apart", "ppo", 256)
    shutil.rmtree(ahead.path / "best_model")
    (ahead.path / "CartPole-v1_final.zip").unlink()
    ahead.sync()
    old = model(apart, "best_model/best_model.zip")
    apart.sync()
    assert not list(apart.path.glob("best_model/*"))
    assert not (apart.path / "CartPole-v1_final.zip").exists()
    (kept,) = (apart.path / "archive").iterdir()
    assert (kept / "best_model/best_model.zip").read_bytes() == old


def test_no_checkpoint_of_another_branch_is_fallen_back_to(machine, other, carry):
    """D5, A7: when the pulled checkpoint is damaged later, training goes on from one that it came from, with its curves."""
    ahead, apart = machine("ahead", "ppo", 384), other("apart", "ppo", 192)
    assert checkpoints(apart) == {128, 192}
    ahead.sync()
    apart.sync()
    assert checkpoints(apart) == {128, 384}
    newest = apart.path / apart.newest().path
    newest.write_bytes(flipped(newest.read_bytes()))
    assert carry(apart, "ppo", 448).exit_code == 0
    rows = [json.loads(line) for line in (apart.path / "logs/metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    assert len(apart.verify()["legs"]) == 2


def test_the_only_good_copy_is_kept(machine, other, place, lines):
    """D5, A9: what lies at the remote may have decayed with its name and size: the model here is not given up for it."""
    ahead, apart = machine("ahead", "ppo", 384), other("apart", "ppo", 256)
    apart.sync()
    final = model(apart, "CartPole-v1_final.zip")
    (there,) = (path for path in (place._path / "runs/run/objects").iterdir() if path.read_bytes() == final)
    there.write_bytes(bytes(len(final)))
    ahead.sync()
    apart.sync()
    assert any(content == final for content in apart.files(archive=True).values())


def test_branches_of_the_same_length(machine, other, lines):
    """D5, A9: neither is further: who pushes later wins and says so, and the other one loses nothing."""
    one, two = machine("one", "ppo", 256), other("two", "ppo", 256)
    assert one.newest().sequence == two.newest().sequence
    best = model(two, "best_model/best_model.zip")
    two.sync()
    assert lines.warnings == []
    assert one.sync().action == "pushed"
    (line,) = lines.warnings
    assert "went apart at step 128" in line
    assert "--as NAME" in line
    final, checkpoint = model(two, "CartPole-v1_final.zip"), model(two, two.newest().path)
    assert two.sync().action == "pulled"
    kept = list(two.files(archive=True).values())
    assert [content in kept for content in (final, checkpoint, best)] == [True] * 3
    for name in ("best_model/best_model.zip", "CartPole-v1_final.zip", one.newest().path):
        assert model(two, name) == model(one, name)
    assert one.sync().action == two.sync().action == "equal"
    assert len(lines.warnings) == 2


def test_the_longer_branch_is_pushed_with_a_word(machine, other, carry, lines):
    """D5: whoever replaces another branch at the remote hears of it once, and not where there is none."""
    longer, shorter = machine("longer", "ppo", 384), other("shorter", "ppo", 256)
    shorter.sync()
    longer.sync()
    (line,) = lines.warnings
    assert "went apart at step 128: what was there, at step 256 from" in line
    carry(longer, "ppo", 448)
    longer.sync()
    assert len(lines.warnings) == 1


def test_a_checkpoint_that_differs_is_not_the_same_state(machine, lines):
    """D5: equal configuration and models do not make two states equal."""
    one, two = machine("one", "ppo", 256), machine("two", "ppo", 256)
    one.sync()
    _rewrite(two, lambda facts: {**facts, "note": 1})
    assert two.sync().action == "pushed"
    assert one.sync().action == "pulled"
    assert model(one, one.newest().path) == model(two, two.newest().path)
    assert one.sync().action == two.sync().action == "equal"


def test_of_unknown_origin(machine, lines):
    """D5, A9: where the legs do not tell whether the state here led to the one that comes, it is kept."""
    late, unknown = machine("late", "ppo", 256), machine("unknown", "ppo", 128)
    late.sync()
    for record in repository_of(unknown.folder).records():
        legs = read_manifest(unknown.folder.backend, record.path)["legs"]
        legs = [{key: value for key, value in leg.items() if key != "from_step"} for leg in legs]
        _rewrite(unknown, lambda facts, legs=legs: {**facts, "legs": legs}, record.path)
    checkpoint = model(unknown, unknown.newest().path)
    unknown.sync()
    assert checkpoints(unknown) == {256}
    assert any(content == checkpoint for content in unknown.files(archive=True).values())
    assert "nothing in common that could be found" in lines.warnings[0]


def _rewrite(machine, change, path=None):
    path = path or machine.newest().path

    def fill(writer):
        with CheckpointFile(machine.folder.backend, path) as file:
            for name in file.names():
                writer.write_member(name, file.read(name))
            facts = change(file.manifest)
        return {key: value for key, value in facts.items() if key not in ("format", "version", "members")}

    write_checkpoint(machine.folder.backend, path, fill)


def _history(step, *begins, lineage=(), config=None):
    legs = tuple({"pid": number, "from_step": begin} for number, begin in enumerate(begins))
    return History(step, legs, lineage, config)


def test_which_state_leads_to_which():
    """D5: by the legs and where they began."""
    state = _history(200, 0, 100)
    assert state.leads_to(_history(200, 0, 100))
    assert state.leads_to(_history(300, 0, 100))
    assert state.leads_to(_history(300, 0, 100, 200))
    assert state.leads_to(_history(300, 0, 100, 250))
    assert not state.leads_to(_history(300, 0, 100, 150))
    assert not state.leads_to(_history(300, 0, 120))
    assert not state.leads_to(_history(300, 0))
    assert not state.leads_to(_history(199, 0, 100))
    assert not _history(1, 0, config={"a": 1}).leads_to(_history(2, 0, config={"a": 2}))
    assert _history(1, 0, lineage=("a",)).leads_to(_history(2, 0, 1, lineage=("a", "b")))
    assert not _history(1, 0, lineage=("a",)).leads_to(_history(2, 0, 1, lineage=("b",)))
    assert state.parting(_history(300, 0, 100, 150)) == 150
    assert state.parting(_history(300, 0, 120)) == 100
    assert state.parting(_history(300, 0)) == 100


def test_a_run_killed_before_its_first_checkpoint_is_no_branch(machine, lines):
    """D5: there is nothing to go on with, and nobody is told to make a run of it; its log is kept all the same."""
    machine("ahead", "ppo", 256).sync()
    killed = machine("killed", "ppo", 128)
    for path in killed.path.rglob("*"):
        if path.is_file() and path.relative_to(killed.path).parts[0] not in ("run.yaml", "logs"):
            path.unlink()
    (killed.path / "logs" / "run.log").write_text("what was tried\n", encoding="utf-8")
    assert killed.sync().action == "pulled"
    assert killed.step == 256
    assert not any("in common" in line or "went apart" in line for line in lines.warnings)
    assert "logs/run.log" in killed.archived()
