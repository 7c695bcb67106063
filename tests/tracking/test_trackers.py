"""A run that was killed is one run with one curve in the user's tracker (A16), and a tracker that fails costs no training (A10)."""

import importlib.util
import json
import signal
import sys
import time
from collections import Counter

import pytest
from wandb_files import history, records

from unbroken.config import TrackingConfig
from unbroken.errors import UsageError
from unbroken.recording import METRICS
from unbroken.stopping import StopNow
from unbroken.testing.child import TrainingProcess
from unbroken.tracking.forwarder import Forwarder, TrackedRun, trackers_of
from unbroken.tracking.mlflow_runs import MLflow
from unbroken.tracking.wandb_files import last_step_on_disk
from unbroken.tracking.wandb_runs import WeightsAndBiases

SMALL = (
    "--set", "hyperparameters.n_steps=64", "--set", "hyperparameters.batch_size=64", "--set", "self_test=false",
    "--eval-every", "256", "--eval-episodes", "1", "--save-every", "128", "--run", "it",
)  # fmt: skip
BOTH = ("--set", "tracking.wandb=true", "--set", "tracking.mlflow=true")


@pytest.fixture
def variables(tmp_path):
    return {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        # of the kinds of store that a client alone can have, the one without a server
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "NO_PROXY": "*",
    }


def training(folder, variables, *more):
    words = ["-m", "unbroken", "train", "CartPole-v1", *SMALL, "--runs-dir", str(folder / "runs"), *more]
    return TrainingProcess(words, variables, folder=folder)


def completed(process):
    with process:
        assert process.wait(120) == 0, process.last_lines()
    return process.lines


def expected(run):
    """(step, key, value) of every number in the metrics file."""
    rows = [json.loads(line) for line in (run / METRICS).read_text("utf-8").splitlines()]
    return sorted(
        (row["step"], key, float(value))
        for row in rows
        for key, value in row.items()
        if key != "step" and not isinstance(value, str)
    )


def in_wandb(run):
    files = sorted((run / "tracking").rglob("*.wandb"))
    found = [row for path in files for row in history(path)]
    ids = {record.run.run_id for path in files for record in records(path) if record.WhichOneof("record_type") == "run"}
    return sorted(found), ids


def in_mlflow(variables, monkeypatch, experiment="unbroken"):
    from mlflow.tracking import MlflowClient

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return client, runs


def curve(client, run):
    found = [client.get_metric_history(run.info.run_id, key) for key in run.data.metrics]
    return sorted((metric.step, metric.key, metric.value) for one in found for metric in one)


def noted(run, tracker):
    """The last step that the run says it has sent."""
    path = run / "tracking" / "state.json"
    return json.loads(path.read_text("utf-8"))["steps"].get(tracker, -1) if path.exists() else -1


def killed_after_sending(process, run, step, seconds):
    with process:
        until = time.monotonic() + 60
        while noted(run, "wandb") < step:
            assert process.running, process.last_lines()
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(seconds)
    # W&B's service ends with the training, and could still write what it has
    time.sleep(1.0)


def tear_newest(run):
    """How much of a leg's end W&B's service had in its buffers is a matter of luck: here it is a third of its file."""
    newest = max((run / "tracking").rglob("*.wandb"), key=lambda path: path.stat().st_mtime)
    raw = newest.read_bytes()
    newest.write_bytes(raw[: len(raw) * 2 // 3])


@pytest.mark.full
def test_a_killed_run_is_one_run_with_one_curve(tmp_path, variables, monkeypatch):
    """A16: killed twice while W&B's service had rows that were not in its file: no row twice, none missing, in either tracker."""
    run = tmp_path / "runs" / "it"
    lost = []
    for step, seconds in ((300, 0.0), (1500, 1.5)):
        killed_after_sending(training(tmp_path, variables, *BOTH, "--steps", "200000"), run, step, seconds)
        tear_newest(run)
        lost.append(noted(run, "wandb") - max((step for step, _, _ in in_wandb(run)[0]), default=-1))
    assert min(lost) > 0
    target = noted(run, "wandb") + 1024
    completed(training(tmp_path, variables, *BOTH, "--steps", str(target)))
    wanted = expected(run)
    assert max(step for step, _, _ in wanted) >= target
    found, ids = in_wandb(run)
    assert [place for place, count in Counter((step, key) for step, key, _ in found).items() if count > 1] == []
    assert found == wanted
    token = json.loads((run / "tracking" / "state.json").read_text("utf-8"))["token"]
    assert ids == {token}
    client, runs = in_mlflow(variables, monkeypatch)
    assert [one.info.status for one in runs] == ["FINISHED"]
    assert curve(client, runs[0]) == wanted
    assert runs[0].data.params["hyperparameters.n_steps"] == "64"


@pytest.mark.full
def test_a_fork_and_a_fresh_start_are_runs_of_their_own(tmp_path, variables, monkeypatch):
    """A9, A16: the fork tells its parent; what was before `--fresh` stays as it is."""
    completed(training(tmp_path, variables, *BOTH, "--steps", "256"))
    completed(training(tmp_path, variables, "--checkpoint", "it@128", "--run", "fork", "--steps", "256"))
    completed(training(tmp_path, variables, *BOTH, "--steps", "128", "--fresh"))
    _, runs = in_mlflow(variables, monkeypatch)
    assert sorted(run.info.run_name for run in runs) == ["fork", "it", "it"]
    assert len({run.data.tags["unbroken.token"] for run in runs}) == 3
    assert [run.data.params["parent.run"] for run in runs if run.info.run_name == "fork"] == ["it"]


class Sometimes:
    """A tracker that fails for a while, or hangs."""

    name = "wandb"

    def __init__(self, failures=0, hangs=0.0):
        self.failures, self.hangs = failures, hangs
        self.rows = []
        self.finished = None

    def begin(self, run):
        self.run = run

    def log(self, rows):
        time.sleep(self.hangs)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("no network")
        self.rows += rows

    def finish(self, complete):
        self.finished = complete


def write_rows(folder, *steps):
    path = folder / METRICS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(
            json.dumps({"step": step, "x": step / 2, "y": "nan", "word": "no number"}) + "\n" for step in steps
        )
    return path.stat().st_size


def test_only_what_is_safe_is_sent_and_what_failed_is_sent_later(tmp_path, caplog):
    """A16, A10"""
    tracker = Sometimes(failures=1)
    sender = Forwarder(tmp_path, [tracker], "it", {})
    first = write_rows(tmp_path, 1, 2)
    second = write_rows(tmp_path, 3)
    write_rows(tmp_path, 4)
    sender.forward(first)
    sender.forward(second)
    sender.close(complete=False)
    assert [step for step, _ in tracker.rows] == [1, 2, 3]
    assert tracker.rows[2][1]["x"] == 1.5
    assert str(tracker.rows[0][1]["y"]) == "nan"
    assert tracker.finished is False
    assert "wandb: no network; training goes on" in caplog.text
    again = Sometimes()
    sender = Forwarder(tmp_path, [again], "it", {})
    sender.forward(write_rows(tmp_path, 5))
    sender.close(complete=True)
    assert [step for step, _ in again.rows] == [4, 5]
    assert again.run.token == tracker.run.token


def test_a_tracker_that_hangs_holds_up_nothing(tmp_path, caplog):
    """A10"""
    sender = Forwarder(tmp_path, [Sometimes(hangs=5.0)], "it", {})
    started = time.monotonic()
    sender.forward(write_rows(tmp_path, 1))
    assert time.monotonic() - started < 0.1
    assert not sender.close(complete=True, patience_seconds=0.2)
    assert time.monotonic() - started < 2.0
    assert "a tracker does not answer" in caplog.text


def test_the_wait_for_a_tracker_ends_with_a_second_signal(tmp_path):
    """A8: whoever waits is told so, as anywhere else."""
    sender = Forwarder(tmp_path, [Sometimes(hangs=5.0)], "it", {})
    sender.forward(write_rows(tmp_path, 1))

    def stop(number, frame):
        raise StopNow("SIGALRM")

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    started = time.monotonic()
    try:
        with pytest.raises(StopNow):
            sender.close(complete=False)
    finally:
        signal.signal(signal.SIGALRM, earlier)
    assert time.monotonic() - started < 2.0


class NeverThere(Sometimes):
    """A tracker that cannot be reached, or only until its end."""

    def __init__(self, begins):
        super().__init__()
        self.begins = begins

    def begin(self, run):
        if not self.begins:
            raise OSError("no route")

    def finish(self, complete):
        raise OSError("no route")


@pytest.mark.parametrize("complete", [True, False])
def test_a_caller_is_told_whether_the_trackers_finished(tmp_path, complete):
    """A10"""
    end = write_rows(tmp_path, 1)
    assert Forwarder(tmp_path, [], "it", {}).close(complete)
    assert Forwarder(tmp_path, [Sometimes()], "it", {}).close(complete), "nothing was sent"
    for trackers, finished in (
        ([Sometimes()], True),
        ([NeverThere(True), Sometimes()], False),
        ([NeverThere(False)], False),
    ):
        sender = Forwarder(tmp_path, trackers, "it", {})
        sender.forward(end)
        assert sender.close(complete) is finished
        assert trackers[-1].finished in (None, complete)


def test_mlflow_is_asked_for_what_it_has(tmp_path, variables, monkeypatch):
    """A16: the process died after sending and before it noted so."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    end = write_rows(tmp_path, 1, 2)
    state = tmp_path / "tracking" / "state.json"
    for _ in range(2):
        sender = Forwarder(tmp_path, [MLflow("own")], "it", {"a": {"b": 1}})
        token = json.loads(state.read_text())["token"]
        sender.forward(end)
        sender.close(complete=False)
        state.write_text(json.dumps({"token": token, "steps": {}}))
    client, runs = in_mlflow(variables, monkeypatch, "own")
    assert len(runs) == 1
    assert [(m.step, m.value) for m in client.get_metric_history(runs[0].info.run_id, "x")] == [(1, 0.5), (2, 1.0)]
    assert runs[0].data.params == {"a.b": "1"}


def test_mlflow_leaves_the_description_of_a_running_run_alone_and_names_an_empty_one(
    tmp_path, variables, monkeypatch, caplog
):
    """A16: its file store writes it in place, so that a kill in between makes the whole experiment unreadable."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def leg():
        sender = Forwarder(tmp_path, [MLflow("own")], "it", {})
        sender.forward(write_rows(tmp_path, 1, 2))
        sender.close(complete=False)

    leg()
    (description,) = (tmp_path / "mlruns").glob("[1-9]*/*/meta.yaml")
    written = description.stat()
    leg()
    assert description.stat().st_mtime_ns == written.st_mtime_ns
    description.write_bytes(b"")
    leg()
    assert f"{description} is empty" in caplog.text
    description.parent.rename(tmp_path / "away")
    leg()
    client, runs = in_mlflow(variables, monkeypatch, "own")
    assert sorted({step for step, _, _ in curve(client, runs[0])}) == [1, 2]


def test_mlflow_takes_rows_whose_names_it_would_refuse(tmp_path, variables, monkeypatch):
    """A16: one name costs neither the rows after it nor the end of the run."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sender = Forwarder(tmp_path, [MLflow("own")], "it", {"kwargs": {"maps[0]": 1}})
    names = ["reward[0]", "größe: a b", "/a//b/", "../c", ".", "x" * 300]
    write_rows(tmp_path, 1)
    with (tmp_path / METRICS).open("a") as file:
        file.write(json.dumps({"step": 2, **dict.fromkeys(names, 1.5)}) + "\n")
    sender.forward(write_rows(tmp_path, 3))
    sender.close(complete=True)
    client, runs = in_mlflow(variables, monkeypatch, "own")
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.params == {"kwargs.maps_0_": "1"}
    assert [m.step for m in client.get_metric_history(runs[0].info.run_id, "x")] == [1, 3]
    added = {"reward_0_", "größe: a b", "a/b", "__/c", "_", "x" * 250}
    assert {step for step, key, _ in curve(client, runs[0]) if key in added} == {2}
    assert set(runs[0].data.metrics) == {"x", "y"} | added


def test_mlflow_gets_the_parameters_that_a_death_kept_from_it(tmp_path, variables, monkeypatch):
    """A16: the process died between making the run and sending them; those that are there stay as they are."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for config in ({}, {"a": 1}, {"a": 2, "b": 3}):
        sender = Forwarder(tmp_path, [MLflow("own")], "it", config)
        sender.forward(write_rows(tmp_path, 1))
        sender.close(complete=False)
    _, runs = in_mlflow(variables, monkeypatch, "own")
    assert [run.data.params for run in runs] == [{"a": "1", "b": "3"}]


def test_a_run_that_lacks_rows_is_not_complete(tmp_path, caplog):
    """A16: at the end it is tried once more."""
    tracker = Sometimes(failures=1)
    sender = Forwarder(tmp_path, [tracker], "it", {})
    sender.forward(write_rows(tmp_path, 1))
    sender.close(complete=True)
    assert tracker.finished is True
    assert [step for step, _ in tracker.rows] == [1]
    assert "has not got all rows" not in caplog.text
    tracker = Sometimes(failures=2)
    sender = Forwarder(tmp_path, [tracker], "it", {})
    sender.forward(write_rows(tmp_path, 2))
    sender.close(complete=True)
    assert tracker.finished is False
    assert "wandb has not got all rows" in caplog.text


def test_what_was_sent_is_not_read_again(tmp_path):
    """A16: a long run's file is not gone through at every checkpoint, and what follows is sent as ever."""
    tracker = Sometimes()
    sender = Forwarder(tmp_path, [tracker], "it", {})
    sender.forward(write_rows(tmp_path, 1, 2))
    until = time.monotonic() + 10
    while noted(tmp_path, "wandb") < 2 and time.monotonic() < until:
        time.sleep(0.01)
    # the thread notes the step before the place; it has both when it has been asked for more
    sender.forward(write_rows(tmp_path, 3))
    while noted(tmp_path, "wandb") < 3 and time.monotonic() < until:
        time.sleep(0.01)
    with (tmp_path / METRICS).open("r+b") as file:
        file.write(b"no row")
    sender.forward(write_rows(tmp_path, 3, 4))
    sender.close(complete=True)
    assert [step for step, _ in tracker.rows] == [1, 2, 3, 4]
    assert tracker.finished is True


@pytest.mark.parametrize("content", ["", "{}", '{"token": 1, "steps": {}}', "[1]"])
def test_a_token_that_cannot_be_read_is_kept(tmp_path, caplog, content):
    """Nothing is lost silently: the trackers get a new run, said once, and the old file goes to the quarantine."""
    state = tmp_path / "tracking" / "state.json"
    state.parent.mkdir()
    state.write_text(content)
    Forwarder(tmp_path, [], "it", {}).close(complete=False)
    assert state.read_text() == content
    Forwarder(tmp_path, [Sometimes()], "it", {}).close(complete=False)
    assert (tmp_path / "quarantine" / "state.json").read_text() == content
    assert len(json.loads(state.read_text())["token"]) == 32
    assert caplog.text.count("the trackers get a new run") == 1


def test_a_missing_package_is_said_with_the_way_out(tmp_path, monkeypatch):
    """A16"""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "unbroken\[mlflow\]"'):
        trackers_of(TrackingConfig(mlflow=True), tmp_path)
    assert trackers_of(TrackingConfig(), tmp_path) == []


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The content of a file of W&B with a row for each of 400 steps, in more than one block."""
    import wandb

    folder = tmp_path_factory.mktemp("recorded")
    settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
    run = wandb.init(mode="offline", id="token", dir=str(folder), settings=settings)
    for step in range(400):
        run.log({f"metric_{number}": step / 2 for number in range(5)}, step=step, commit=True)
    run.finish()
    # `finish` comes back before the file is whole
    wandb.teardown()
    (path,) = folder.rglob("*.wandb")
    return path.read_bytes()


def place_leg(folder, name, content):
    path = folder / "wandb" / name / "run-token.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


@pytest.mark.parametrize("missing", [0, 1, 3000, 32768, 60000])
def test_a_torn_file_of_wandb_tells_what_it_has(tmp_path, recorded, missing):
    """A10: the file of a leg that was killed ends anywhere."""
    place_leg(tmp_path, "offline-run-20260102_000000-token", recorded[: len(recorded) - missing])
    (path,) = tmp_path.rglob("*.wandb")
    there = max(step for step, _, _ in history(path))
    assert last_step_on_disk(tmp_path, "token") == there
    assert (there == 399) is (missing < 3000)


def test_a_file_of_wandb_that_is_damaged_counts_up_to_there(tmp_path, recorded):
    """A10: what can no longer be read is sent again."""
    half = len(recorded) // 2
    place_leg(
        tmp_path, "offline-run-20260102_000000-token", recorded[:half] + b"\\xff" * 4096 + recorded[half + 4096 :]
    )
    assert 0 < last_step_on_disk(tmp_path, "token") < 399


def test_the_newest_leg_with_a_row_tells_what_wandb_has(tmp_path, recorded):
    """A16: legs that were killed before their first row was written have a file without one."""
    assert last_step_on_disk(tmp_path, "token") is None
    place_leg(tmp_path, "offline-run-20260103_000000-token", recorded[:7])
    place_leg(tmp_path, "run-20260104_000000-token", b"")
    assert last_step_on_disk(tmp_path, "token") == -1
    place_leg(tmp_path, "offline-run-20260101_000000-token", recorded)
    place_leg(tmp_path, "run-20260102_000000-token", recorded[: len(recorded) // 2])
    assert 0 < last_step_on_disk(tmp_path, "token") < 399
    assert last_step_on_disk(tmp_path, "other") is None
    # W&B's link to the newest leg is no leg of its own
    (tmp_path / "wandb" / "latest-run").symlink_to("run-20260104_000000-token")
    assert 0 < last_step_on_disk(tmp_path, "token") < 399
    (tmp_path / "wandb" / "offline-run-20260105_000000-token" / "run-token.wandb").mkdir(parents=True)
    assert last_step_on_disk(tmp_path, "token") is None


class Online:
    """As much of W&B's run at its service as is used; `step` is the one after the last."""

    offline = False

    def __init__(self, step):
        self.step = step
        self.rows = []

    def log(self, values, step, commit):
        self.rows.append(step)


@pytest.mark.parametrize(("there", "sent"), [(0, [1, 2, 3]), (3, [3])])
def test_the_service_of_wandb_tells_what_it_has(tmp_path, monkeypatch, there, sent):
    """A16: of a run that is resumed online, and what it has is left out."""
    online = Online(there)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("wandb.init", lambda **asked: online)
    tracker = WeightsAndBiases(tmp_path, "own")
    assert tracker.begin(TrackedRun("it", "token", {})) == there - 1
    tracker.log([(step, {"x": 1.0}) for step in (1, 2, 3)])
    assert online.rows == sent


class Told(Sometimes):
    """A tracker that tells what it has."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def begin(self, run):
        return self.last


@pytest.mark.parametrize(("told", "sent"), [(None, [4]), (-1, [1, 2, 3, 4]), (1, [2, 3, 4]), (3, [4]), (9, [4])])
def test_what_a_tracker_lost_is_sent_again(tmp_path, told, sent):
    """A16: noted are three steps."""
    sender = Forwarder(tmp_path, [Sometimes()], "it", {})
    sender.forward(write_rows(tmp_path, 1, 2, 3))
    sender.close(complete=False)
    tracker = Told(told)
    sender = Forwarder(tmp_path, [tracker], "it", {})
    sender.forward(write_rows(tmp_path, 4))
    sender.close(complete=False)
    assert [step for step, _ in tracker.rows] == sent


def test_a_folder_of_the_name_is_no_package(tmp_path, monkeypatch):
    """A16: W&B makes a folder `wandb` where it is used, which Python can import as an empty package."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "mlflow").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    for name in ("wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        assert importlib.util.find_spec(name) is not None
        with pytest.raises(UsageError, match="not installed"):
            trackers_of(TrackingConfig(**{name: True}), tmp_path)
