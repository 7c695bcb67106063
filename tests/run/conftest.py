"""Small trainings within this process: torch is imported once."""

import json
from pathlib import Path

import pytest
from stable_baselines3.common.callbacks import BaseCallback

import unbroken

TARGET = "CartPole-v1"
RUN = "CartPole-v1-ppo-seed0"
TINY = {"hyperparameters": {"n_steps": 64, "batch_size": 64, "n_epochs": 2}, "self_test": False}


class Killed(Exception):
    """Stands for the kill: leaves training between two cuts, where no code of ours saves."""


class StopsHere(BaseCallback):
    """Leaves the training when it comes to `at` steps; the class attribute is set by the test."""

    at = None

    def _on_step(self):
        if type(self).at is not None and self.num_timesteps >= type(self).at:
            raise Killed
        return True


class Anneals(BaseCallback):
    """Lowers the entropy coefficient a little in every rollout, as people do where no schedule exists."""

    def _on_rollout_end(self):
        self.model.ent_coef = 0.9 * self.model.ent_coef + 0.01

    def _on_step(self):
        return True


class Training:
    """Trains runs in one folder and remembers the log lines of the last call."""

    def __init__(self, runs, capsys):
        self.runs = Path(runs)
        self._capsys = capsys
        self.out = ""

    def __call__(self, target=TARGET, *, settings=None, dies_at=None, **words):
        given = {"runs_dir": self.runs, "save_every": 128, "eval_every": 0, **words}
        # the callback is always there: it carries no state, and the configuration must not change with the kill
        given["settings"] = {**TINY, "callbacks": [f"{StopsHere.__module__}:StopsHere"], **(settings or {})}
        StopsHere.at = dies_at
        self._capsys.readouterr()
        try:
            if dies_at is None:
                return unbroken.train(target, **given)
            with pytest.raises(Killed):
                unbroken.train(target, **given)
            return None
        finally:
            StopsHere.at = None
            self.out = self._capsys.readouterr().out

    def folder(self, run=RUN):
        return self.runs / run

    def files(self, run=RUN):
        """Content of every file of a run, by relative path."""
        root = self.folder(run)
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def checkpoints(self, run=RUN):
        found = (self.folder(run) / "checkpoints").glob("*_steps.zip")
        return sorted(int(path.name.split("_")[-2]) for path in found)

    def metadata(self, run=RUN):
        return json.loads((self.folder(run) / "training_metadata.json").read_text())

    def rows(self, run=RUN):
        lines = (self.folder(run) / "logs" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def log(self, run=RUN):
        return (self.folder(run) / "logs" / "run.log").read_text(encoding="utf-8")

    def events(self, run=RUN):
        """(step, tag, value) of every scalar, as TensorBoard's own reader finds them."""
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

        (path,) = (self.folder(run) / "tensorboard").iterdir()
        return [(e.step, v.tag, _number(v)) for e in EventFileLoader(str(path)).Load() for v in e.summary.value]


def _number(value):
    from tensorboard.util import tensor_util

    return float(tensor_util.make_ndarray(value.tensor)) if value.HasField("tensor") else value.simple_value


@pytest.fixture
def training(tmp_path, capsys):
    return Training(tmp_path / "runs", capsys)
