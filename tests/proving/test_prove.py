"""`unbroken prove` on sound trainings and on planted defects: real processes, real SIGKILLs, the command as typed (A18)."""

import html.parser
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture
def start(tmp_path):
    """Starts `unbroken prove` in a folder of the user's with a script in it, and temporary folders below the test's own."""
    folder = tmp_path / "user é"
    folder.mkdir()

    def run(script, *words):
        if (SCRIPTS / script).exists():
            shutil.copy(SCRIPTS / script, folder / script)
        variables = {key: value for key, value in os.environ.items() if not key.startswith("UNBROKEN_")}
        return subprocess.Popen(
            [sys.executable, "-m", "unbroken", "prove", script, *map(str, words)],
            cwd=folder,
            env={**variables, "OMP_NUM_THREADS": "1", "TMPDIR": str(run.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    run.folder = folder
    # a short path, as sockets need it
    with tempfile.TemporaryDirectory() as run.temporary:
        yield run


@pytest.fixture
def prove(start, tmp_path):
    """Carries out a proof; returns its exit code, its text and its JSON report. Nothing may be left behind."""

    def run(script, *arguments, kills=2, options=()):
        report = tmp_path / "report.json"
        process = start(script, "--kills", kills, "--json", report, *options, "--", *arguments)
        out, _ = process.communicate(timeout=600)
        assert os.listdir(start.temporary) == []  # noqa: PTH208 - text
        assert [path.name for path in start.folder.iterdir()] in ([script], [])
        return process.returncode, out, json.loads(report.read_text("utf-8")) if report.exists() else None

    return run


def cause_of(report):
    return report["likely_causes"][0]["name"]


class Page(html.parser.HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def test_a_sound_script_is_proved_identical(prove, tmp_path):
    """A18: kills really happen, everything is compared, a global without consequence is a note and no divergence."""
    page = tmp_path / "report.html"
    code, out, report = prove("sound.py", kills=3, options=("--html", page))
    assert code == 0, out
    assert report["verdict"] == "identical"
    assert report["first_divergence"] is None
    assert len(report["kills"]) == 3
    assert all(kill["step"] >= kill["resumed_at"] and kill["seconds_to_resume"] > 0 for kill in report["kills"])
    assert any(kill["resumed_at"] > 0 for kill in report["kills"])
    # every step of every process: all of the way, what was repeated after kills, and the beginning once more
    again = sum(kill["steps_repeated"] for kill in report["kills"])
    assert report["compared"]["steps"] == report["steps"] + again + report["deterministic_until"]
    parts = {"weights", "optimizer", "normalisation", "random number generators", "environment", "callbacks", "logger"}
    assert parts <= set(report["compared"]["components"])
    assert report["compared"]["logged"] > 50
    assert any("LOOKED_AT" in note and "without consequence" in note for note in report["notes"])
    assert "verdict:              IDENTICAL" in out
    content = Page(page.read_text("utf-8"))
    assert "IDENTICAL" in content.words
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in content.tags
    assert not [tag for tag, attributes in content.tags if tag == "script" or {"src", "href"} & attributes.keys()]


@pytest.mark.full
def test_a_target_is_proved_identical(prove):
    """A18: `prove TARGET` with the options of `train`; here off-policy, so the replay buffer is compared too."""
    words = [
        "--algo",
        "dqn",
        "--set",
        "hyperparameters.learning_starts=50",
        "--set",
        "self_test=false",
        "--save-every",
        "50",
    ]
    code, out, report = prove("CartPole-v1", *words, options=("--steps", 400))
    assert code == 0, out
    assert report["command"].startswith("unbroken train CartPole-v1 --algo dqn")
    assert report["steps"] == 400
    assert "replay buffer" in report["compared"]["components"]
    assert [kill["resumed_at"] > 0 for kill in report["kills"]][-1]


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        pytest.param("global __main__.rng", (), id="global"),
        pytest.param("variable hidden in closure_noise", ("closure",), id="closure", marks=pytest.mark.full),
    ],
)
def test_a_hidden_generator_of_the_environment_is_named(prove, place, arguments):
    """A18, planted defect: the first observation after a resume differs, with both values."""
    code, out, report = prove("hidden_rng.py", *arguments)
    assert (code, report["verdict"]) == (1, "diverged"), out
    divergence = report["first_divergence"]
    first = divergence["differences"][0]
    assert first["component"] == "observation"
    assert first["undisturbed"] != first["resumed"]
    assert divergence["step"] == divergence["began_at"] + 1
    assert divergence["leg"] >= 2
    assert cause_of(report) == "random number generator not captured"
    assert report["likely_causes"][0]["seen"].startswith(f"{place} (generator, used by the environment")


@pytest.mark.full
def test_a_callback_that_forgets_is_named(prove):
    """A18, planted defect: the entropy bonus that the callback sets is the first to differ."""
    code, out, report = prove("forgetful_callback.py")
    assert (code, report["verdict"]) == (1, "diverged"), out
    assert any("ent_coef" in one["name"] for one in report["first_divergence"]["differences"])
    assert cause_of(report) == "callback state not captured"
    assert "class attribute Annealing.rollouts" in report["likely_causes"][0]["seen"]


@pytest.mark.full
@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        pytest.param("global __main__.optimizer", (), id="global"),
        pytest.param("variable own in nudger", ("closure",), id="closure"),
    ],
)
def test_a_second_optimizer_is_named(prove, place, arguments):
    """A18, planted defect: its moments are lost; the policy's own optimizer and weights follow."""
    code, out, report = prove("second_optimizer.py", *arguments)
    assert (code, report["verdict"]) == (1, "diverged"), out
    assert {"weights", "optimizer"} & {one["component"] for one in report["first_divergence"]["differences"]}
    assert cause_of(report) == "optimizer not tracked"
    assert report["likely_causes"][0]["seen"].startswith(f"{place} (optimizer")


def test_a_schedule_from_the_clock_is_named_and_told_from_a_lost_state(prove):
    """A18, planted defect: two undisturbed trainings differ already, in the learning rate."""
    code, out, report = prove("clock_schedule.py")
    assert (code, report["verdict"], report["kills"]) == (3, "not deterministic", []), out
    assert report["first_divergence"]["differences"][0]["name"].endswith(".lr")
    assert cause_of(report) == "depends on the wall clock"
    assert "falling (clock_schedule.py:" in report["likely_causes"][0]["seen"]
    assert "time.monotonic" in report["likely_causes"][0]["seen"]


def test_a_script_without_a_seed_is_named(prove):
    """A18: not deterministic even without kills, and why."""
    code, out, report = prove("unseeded.py")
    assert (code, report["verdict"]) == (3, "not deterministic"), out
    assert report["first_divergence"]["step"] == 0
    assert cause_of(report) == "not seeded"


@pytest.mark.full
def test_another_number_of_threads_is_named(prove):
    """A18, planted defect: only resumed processes use two threads, and a large sum comes out otherwise."""
    code, out, report = prove("other_threads.py")
    assert (code, report["verdict"]) == (1, "diverged"), out
    assert cause_of(report) == "thread count"
    assert report["likely_causes"][0]["seen"] == "1 in the undisturbed training, 2 in the other"


@pytest.mark.full
def test_steps_limit_a_long_script_and_the_rest_is_said(prove):
    """A18: what was not covered."""
    code, out, report = prove("sound.py", kills=1, options=("--steps", 250))
    assert code == 0, out
    assert report["steps"] == 256
    assert any("everything after step 256 (--steps 250)" in line for line in report["not_covered"])


@pytest.mark.full
def test_a_script_that_trains_two_models_is_proved_over_both(prove):
    """A18: the same step of two models is not the same place; kills meet both."""
    code, out, report = prove("two_models.py", kills=4)
    assert code == 0, out
    assert report["steps"] == 640
    again = sum(kill["steps_repeated"] for kill in report["kills"])
    assert report["compared"]["steps"] == report["steps"] + again + report["deterministic_until"]


@pytest.mark.full
def test_a_script_with_worker_processes_is_proved_identical(prove):
    """A18: the workers die with the training; their unseeded global generators are said and not called a divergence."""
    code, out, report = prove("workers.py")
    assert code == 0, out
    assert any("generators of worker processes" in line for line in report["not_covered"])


def test_a_plain_script_is_told_what_to_add(prove):
    """A18: two lines; it would train for ever, so it is not even started."""
    code, out, report = prove("plain.py")
    assert (code, report) == (2, None)
    assert "plain.py does not use unbroken" in out
    assert "model = resume_or_create(PPO" in out


def test_a_script_that_fails_by_itself_is_no_proof(start):
    """A18: its own last lines are shown."""
    start.folder.joinpath("broken.py").write_text("import unbroken\nraise RuntimeError('of its own')\n")
    process = start("broken.py")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "without any kill the training ends with exit code 1" in out
    assert "RuntimeError: of its own" in out


def test_a_script_cannot_write_into_the_users_folder(start):
    """A18: nothing of the user's is touched; a path that leads out of the copy is refused with the way out."""
    place = start.folder / "checkpoints"
    text = (SCRIPTS / "sound.py").read_text().replace('save_path="checkpoints"', f"save_path={str(place)!r}")
    start.folder.joinpath("absolute.py").write_text(text)
    process = start("absolute.py")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"the training wants to write {place}" in out
    assert "relative to the working folder" in out
    assert [path.name for path in start.folder.iterdir()] == ["absolute.py"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_proof_that_is_ended_leaves_no_training_behind(start, tmp_path, how):
    """A18: SIGTERM removes the copies too; after SIGKILL the training ends by itself."""
    process = start("sound.py", "--folder", tmp_path / "kept")
    trace = tmp_path / "kept" / "twin" / "trace"
    deadline = time.monotonic() + 60
    while not list(trace.glob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    (path,) = trace.glob("*")
    training = int(path.name.split(".")[0].rpartition("-")[2])
    process.send_signal(how)
    process.communicate(timeout=30)
    while is_running(training) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(training)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_loop_of_ones_own_is_proved(prove):
    """A18, A14: nothing but what is tracked and logged is seen of it."""
    code, out, report = prove("own_loop.py")
    assert code == 0, out
    assert report["verdict"] == "identical"


@pytest.mark.parametrize(
    ("forgotten", "cause"),
    [
        pytest.param("optimizer", "optimizer not tracked", id="optimizer", marks=pytest.mark.full),
        pytest.param("generator", "random number generator not captured", id="generator", marks=pytest.mark.full),
        pytest.param("network", "network not tracked", id="network", marks=pytest.mark.full),
    ],
)
def test_what_a_loop_does_not_track_is_named(prove, forgotten, cause):
    """A18, A14"""
    code, out, report = prove("own_loop.py", forgotten)
    assert code == 1, out
    assert cause_of(report) == cause
