"""Trainings on slow environments that are killed in the middle of a rollout, and their undisturbed twins, which are not slow."""

import os
import re
import time
from pathlib import Path

from unbroken.testing.child import TrainingProcess
from unbroken.testing.twin import differences

SUPPORT = Path(__file__).parent

BASIC = [
    "--save-every",
    "1000000",
    "--eval-every",
    "0",
    "--device",
    "cpu",
    "--set",
    "self_test=false",
    "--set",
    "log_interval=1",
]
PPO = ["--set", "hyperparameters.batch_size=16", "--set", "hyperparameters.n_epochs=2"]


class Runs:
    """Starts the run `run` in folders below `place`; counts the steps that environments really make."""

    def __init__(self, place):
        self.place = place
        self._started = []

    def start(self, *words, seconds=0.0, runs="runs", command=("-m", "unbroken"), before=()):
        places = [str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {"PYTHONPATH": os.pathsep.join(places), "WORLD_SECONDS": str(seconds)}
        variables["WORLD_COUNT"] = str(self.place / f"steps-{runs}")
        arguments = [*command, *before, "train", *map(str, words), "--run", "run", "--runs-dir", str(self.place / runs)]
        self._started.append(TrainingProcess(arguments, variables))
        return self._started[-1]

    def twin(self, *words):
        """The training that is never disturbed, without a journal."""
        process = self.start(*words, "--set", "saving.seconds=null", runs="twin")
        assert process.wait(120) == 0, process.last_lines()

    @property
    def steps_made(self):
        """Over all legs, evaluation included."""
        return self._counted("runs")

    @property
    def steps_of_twin(self):
        return self._counted("twin")

    def _counted(self, runs):
        file = self.place / f"steps-{runs}"
        return file.stat().st_size if file.exists() else 0

    def after_steps(self, process, number, within=60.0):
        """Wait until the environments have made so many steps, over all legs."""
        self._wait(process, lambda: self.steps_made >= number, within)

    def after_point(self, process, step, within=60.0):
        """Wait until the journal of this leg is safe up to `step` or beyond; returns up to where."""
        self._wait(process, lambda: reach(process) >= step, within)
        return reach(process)

    def _wait(self, process, reached, within):
        until = time.monotonic() + within
        while not reached():
            assert process.running, process.last_lines()
            assert time.monotonic() < until, process.last_lines()
            time.sleep(0.002)

    def finish(self, *words, **more):
        process = self.start(*words, **more)
        assert process.wait(120) == 0, process.last_lines()
        assert "Traceback" not in "\n".join(process.lines)
        assert not says(process, "the journal cannot be used")
        return process

    def differences(self):
        return differences(self.place / "runs", self.place / "twin", "run")

    @property
    def files(self):
        return sorted((self.place / "runs" / "run" / "journal").glob("*.journal"))

    def end(self):
        for process in self._started:
            process.kill()


def reach(process):
    """The step up to which the journal of a leg has said to be safe."""
    found = [match for line in process.lines if (match := re.search(r"Journal: safe up to step ([\d,]+)", line))]
    return int(found[-1][1].replace(",", "")) if found else -1


def taken_over(process):
    """How many steps a leg took out of the journal."""
    found = [
        match for line in process.lines if (match := re.search(r"Journal: ([\d,]+) steps since the checkpoint", line))
    ]
    return int(found[-1][1].replace(",", "")) if found else 0


def says(process, text):
    return any(text in line for line in process.lines)
