"""What a leg makes of the journal that it finds: in this process, from one killed run that is copied (A5, A7)."""

import shutil

import pytest
from journal_runs import BASIC, PPO, Runs

import unbroken
from unbroken.journal import replaying
from unbroken.journal.file import scan
from unbroken.testing.twin import differences

TARGET = "journal_worlds:Drawing"
WORDS = [TARGET, "--steps", 64, "--set", "hyperparameters.n_steps=32", *BASIC, *PPO]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with `twin`, and with `runs` of a training that was killed in its second rollout, a journal behind it."""
    place = Runs(tmp_path_factory.mktemp("killed"))
    place.twin(*WORDS)
    process = place.start(*WORDS, "--save-seconds", 0.3, seconds=0.03)
    place.after_point(process, 50)
    process.kill()
    place.end()
    assert len(place.files) == 1
    return place.place


@pytest.fixture
def resume(killed, tmp_path, capsys):
    """Continues a copy of the killed run; `.alter` is called with the journal's file first."""

    class Resume:
        runs = tmp_path / "runs"

        def __init__(self):
            shutil.copytree(killed / "runs", self.runs)
            (self.file,) = (self.runs / "run" / "journal").glob("*.journal")
            self.out = ""

        def __call__(self, **words):
            capsys.readouterr()
            outcome = unbroken.train(run="run", runs_dir=self.runs, **{"steps": 64, **words})
            self.out = capsys.readouterr().out
            return outcome

        def ends_like_the_twin(self):
            assert self().exit_code == 0
            assert differences(self.runs, killed / "twin", "run") == []

    return Resume()


def test_whole_it_is_taken_over(resume):
    """A5: and is gone when the checkpoint that follows is there."""
    resume.ends_like_the_twin()
    assert "steps since the checkpoint come out of it" in resume.out
    assert ", journal to timestep=" in resume.out
    assert "WARNING" not in resume.out
    assert not list(resume.file.parent.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_torn_it_counts_up_to_its_last_whole_point(resume, share):
    """A7: a power loss leaves any part of the file; the end is the twin's, and the damage is said."""
    raw = resume.file.read_bytes()
    resume.file.write_bytes(raw[: int(share * len(raw))])
    resume.ends_like_the_twin()
    assert "WARNING: the journal" in resume.out


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.5, 0.75, 0.99])
def test_altered_it_counts_up_to_there(resume, share):
    """A7: a flipped bit is found by its hash."""
    raw = bytearray(resume.file.read_bytes())
    raw[int(share * len(raw))] ^= 1
    resume.file.write_bytes(raw)
    resume.ends_like_the_twin()
    assert "WARNING: the journal" in resume.out


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\xff" * 24, b"x"])
def test_garbage_behind_the_last_point_changes_nothing(resume, tail):
    """A7: blocks that were reserved and never written, or another file's."""
    steps = scan(resume.file).last.content["point"]["step"]
    resume.file.write_bytes(resume.file.read_bytes() + tail)
    resume.ends_like_the_twin()
    assert f"come out of it, up to step {steps}" in resume.out


def test_a_training_that_goes_another_way_begins_again_at_the_checkpoint(resume, monkeypatch):
    """A6: after another answer than the recorded one nothing is trained on: the leg is made anew without the journal."""
    answered = replaying.Replay.answer

    def other(replay, channel, name, question):
        return answered(replay, channel, name, "0" if replay.left == 5 else question)

    monkeypatch.setattr(replaying.Replay, "answer", other)
    resume.ends_like_the_twin()
    assert "WARNING: the journal cannot be used: step is called with other values" in resume.out
    assert resume.out.count("Resume: timestep=32") == 2
    assert [path.name for path in (resume.runs / "run" / "archive").glob("*.journal")] == [resume.file.name]


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_other_random_numbers_at_the_end_are_not_trained_on(resume, monkeypatch, name):
    """A6: every generator has to be where it was."""
    arrive = replaying.Replay.arrive

    def elsewhere(replay, venvs):
        import numpy as np
        import torch

        (np.random.rand if name == "numpy" else torch.rand)(1)
        arrive(replay, venvs)

    monkeypatch.setattr(replaying.Replay, "arrive", elsewhere)
    resume.ends_like_the_twin()
    assert "WARNING: the journal cannot be used: the random numbers at its end are others" in resume.out


def test_an_environment_that_cannot_take_its_state_begins_again_at_the_checkpoint(resume, monkeypatch):
    """A6: half a state is not trained on."""
    import journal_worlds

    put, calls = journal_worlds.Drifting.set_state, []

    def failing(world, state):
        calls.append(1)
        # the checkpoint is restored twice before the journal's state, and twice after it
        if len(calls) == 3:
            raise RuntimeError("the simulator is busy")
        put(world, state)

    monkeypatch.setattr(journal_worlds.Drifting, "set_state", failing)
    resume.ends_like_the_twin()
    assert "WARNING: the journal cannot be used: environment 0: RuntimeError: the simulator is busy" in resume.out


def test_another_environment_does_not_take_it(resume):
    """A6: answers of another environment are no answers."""
    assert resume(settings={"environment": {"replay_limit": 99}}).exit_code == 0
    assert "the environments are not those of the journal, which is put aside" in resume.out
    assert list((resume.runs / "run" / "archive").glob("*.journal"))


def test_an_evaluation_that_is_switched_on_does_not_take_it(resume):
    """A6: its answers are in no journal."""
    assert resume(eval_every=16).exit_code == 0
    assert "the environments are not those of the journal, which is put aside" in resume.out


def test_fresh_puts_it_into_the_archive(resume):
    """B: `--fresh` loses nothing, and takes nothing over."""
    resume(target=TARGET, fresh=True, settings={"self_test": False})
    assert "come out of it" not in resume.out
    assert [path.name for path in (resume.runs / "run" / "archive").glob("*/journal/*.journal")] == [resume.file.name]


def test_a_fork_begins_at_its_checkpoint(resume):
    """C: the journal belongs to the run that wrote it."""
    capture = "run@32"
    # so long that the fork needs no journal of its own, however slow the machine
    assert unbroken.train(checkpoint=capture, runs_dir=resume.runs, steps=64, save_seconds=3600.0).exit_code == 0
    assert not (resume.runs / "run-fork-32" / "journal").exists()
    assert resume.file.exists()
