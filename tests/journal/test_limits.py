"""When there is no journal: because it is not worth it, or cannot be had, which is said once and costs no training (A5, A10)."""

import errno

import pytest

import unbroken
from unbroken.journal import file as journal_file
from unbroken.testing.twin import differences

SETTINGS = {"hyperparameters": {"n_steps": 32, "batch_size": 16, "n_epochs": 1}, "self_test": False}


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    """Trains 64 steps of a slow world in this process; returns its lines and the names of its journal's files, at any time."""

    def train(world, *, seconds=0.02, save_seconds=0.2, callbacks=(), runs="runs"):
        monkeypatch.setenv("WORLD_SECONDS", str(seconds))
        settings = {**SETTINGS, "callbacks": list(callbacks)}
        words = {"steps": 64, "save_every": 1000, "save_seconds": save_seconds, "eval_every": 0, "settings": settings}
        outcome = unbroken.train(f"journal_worlds:{world}", run="run", runs_dir=tmp_path / runs, **words)
        assert outcome.exit_code == 0
        return capsys.readouterr().out

    return train


def test_fast_rollouts_need_none(trained, tmp_path):
    """A8: nothing is written where cuts come more often than a tenth of the interval."""
    out = trained("Drifting", seconds=0.0, save_seconds=300.0)
    assert "Journal" not in out
    assert not (tmp_path / "runs" / "run" / "journal").exists()
    assert not list((tmp_path / "runs" / "run" / "checkpoints").glob("*_0_steps.zip"))


def test_answers_without_a_plain_form_are_named_once(trained):
    """A5: it cannot be kept, and that is said with what a kill would cost."""
    out = trained("Odd")
    assert out.count("WARNING: the journal stops until the next checkpoint: step gives what has no plain form") == 1
    assert "Journal: safe" not in out


def test_a_callback_that_takes_the_environments_themselves_is_named_once(trained):
    """A6: what it sees there could not be repeated."""
    out = trained("Drifting", callbacks=["journal_worlds:Reaches"])
    assert out.count("takes the environments themselves (venv.envs); use env_method, get_attr and set_attr") == 1
    assert "Journal: safe" not in out


def test_a_full_disk_costs_the_journal_and_not_the_training(trained, tmp_path, monkeypatch):
    """A10: it warns, and the end is the same."""

    def full(writer, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    trained("Drifting", runs="twin")
    monkeypatch.setattr(journal_file.JournalWriter, "append", full)
    out = trained("Drifting")
    assert out.count("WARNING: the journal stops until the next checkpoint: [Errno 28]") == 1
    assert differences(tmp_path / "runs", tmp_path / "twin", "run") == []


def test_a_journal_changes_nothing_in_a_training(trained, tmp_path):
    """A6: with points in every rollout, the same bits as without."""
    out = trained("Drawing")
    assert "Journal: safe up to step" in out
    trained("Drawing", save_seconds=None, runs="twin", seconds=0.0)
    assert differences(tmp_path / "runs", tmp_path / "twin", "run") == []
