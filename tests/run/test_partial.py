"""`--allow-partial`: a fork of an off-policy checkpoint that has come without its replay segments (architecture, "Lone zip")."""

import shutil
from types import SimpleNamespace

import pytest

from unbroken.errors import DamagedFile, UsageError
from unbroken.forking import _kept_segments
from unbroken.inspection import compare, verify_checkpoints
from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.durable import LocalBackend
from unbroken.store.memory import MemoryBackend
from unbroken.store.segments import Segment, segments_of

RUN = "CartPole-v1-dqn-seed0"
DQN = {
    "self_test": False,
    "hyperparameters": {
        "buffer_size": 1000,
        "learning_starts": 20,
        "batch_size": 16,
        "policy_kwargs": {"net_arch": [8]},
    },
}


@pytest.fixture
def elsewhere(training, tmp_path):
    """The newest of three checkpoints of 96 steps, copied to another place, and which of its three segments go along."""
    training(steps=96, save_every=32, algo="dqn", settings=DQN)
    run = training.folder(RUN)
    newest = run / "checkpoints" / "CartPole-v1_checkpoint_96_steps.zip"

    def copied(*kept):
        place = tmp_path / "elsewhere"
        (place / "replay").mkdir(parents=True)
        shutil.copy(newest, place)
        with CheckpointFile(LocalBackend(run), f"checkpoints/{newest.name}") as file:
            segments = segments_of(file.manifest)
        assert [(segment.first, segment.end) for segment in segments] == [(0, 32), (32, 64), (64, 96)]
        for number in kept:
            shutil.copy(run / "replay" / segments[number].file, place / "replay")
        return place / newest.name

    return copied


def go_on(training, checkpoint, run="fork", **words):
    given = {"steps": 160, "save_every": 32, "algo": "dqn", "settings": DQN, "run": run, "allow_partial": True, **words}
    return training(checkpoint=checkpoint, **given)


def replay_lineage(training, run="fork"):
    return [entry for entry in training.metadata(run)["lineage"] if entry["field"] == "replay_buffer"]


def rows_named(training, run="fork"):
    """The counts of the rows that the newest checkpoint names."""
    path = f"checkpoints/CartPole-v1_checkpoint_{training.checkpoints(run)[-1]}_steps.zip"
    with CheckpointFile(LocalBackend(training.folder(run)), path) as file:
        return [segment.end - segment.first for segment in segments_of(file.manifest)]


def test_without_the_words_it_is_refused_with_the_ways_out(training, elsewhere):
    """Architecture, "Lone zip": nothing is made, and the words that would help are said."""
    alone = elsewhere()
    with pytest.raises(DamagedFile, match=r"'unbroken checkpoints pack'.* --allow-partial goes on without it"):
        go_on(training, alone, allow_partial=False)
    assert not training.folder("fork").exists()


@pytest.mark.parametrize(("kept", "rows"), [((), 0), ((2,), 32), ((0, 2), 64)])
def test_it_goes_on_with_the_rows_that_are_there(training, elsewhere, kept, rows):
    """Architecture, "Lone zip", promise 3: said in one line, the lineage is mixed, and later checkpoints are whole again."""
    assert go_on(training, elsewhere(*kept)).exit_code == 0
    said = [line for line in training.out.splitlines() if "rows of the replay buffer" in line]
    line = f"{rows} of 96 rows of the replay buffer are there (--allow-partial): the fork goes on with these; "
    assert said == [f"[CHECKPOINT] WARNING: {line}the run's lineage is now mixed"]
    assert replay_lineage(training) == [{"step": 96, "field": "replay_buffer", "before": 96, "now": rows}]
    assert sum(rows_named(training)) == rows + 160 - 96
    assert all(row["valid"] for row in verify_checkpoints(training.runs, "fork"))


def test_a_damaged_segment_counts_as_missing(training, elsewhere):
    """A7: its bytes are not used."""
    checkpoint = elsewhere(0, 1, 2)
    segment = next((checkpoint.parent / "replay").glob("*_32-64.zip"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    go_on(training, checkpoint)
    assert "64 of 96 rows of the replay buffer are there" in training.out


def test_a_partial_fork_is_as_exact_as_any_other(training, elsewhere):
    """A6: killed before and after its first own checkpoint, it ends with the bits of one that was not."""
    checkpoint = elsewhere(2)
    go_on(training, checkpoint, "twin")
    go_on(training, checkpoint, dies_at=110)
    go_on(training, checkpoint, dies_at=145)
    assert training.checkpoints("fork")[-1] == 128
    go_on(training, checkpoint)
    compared = compare(training.runs, "fork", "twin")
    assert compared.identical, compared.text()


def test_where_all_is_there_the_words_change_nothing(training, elsewhere):
    """A9: an ordinary fork, with a clean lineage."""
    go_on(training, elsewhere(0, 1, 2))
    assert "rows of the replay buffer" not in training.out
    assert replay_lineage(training) == []
    training(steps=160, save_every=32, algo="dqn", settings=DQN)
    compared = compare(training.runs, "fork", RUN)
    assert compared.identical, compared.text()


def test_hindsight_replay_is_refused():
    """HER relabels whole episodes, which rows that are missing cut open."""
    segment = Segment("x_0-5.zip", 0, 5, 10, "sha256:0").plain()
    options = {"replay_buffer_class": "stable_baselines3:HerReplayBuffer"}
    manifest = {"segments": [segment], "config": {"hyperparameters": options}}
    file = SimpleNamespace(manifest=manifest, backend=MemoryBackend(), path="checkpoints/x_5_steps.zip")
    with pytest.raises(UsageError, match="needs whole episodes, so --allow-partial cannot help"):
        _kept_segments(SimpleNamespace(allow_partial=True), file)
    manifest["config"] = {}
    assert _kept_segments(SimpleNamespace(allow_partial=True), file) == []
