"""`unbroken validate` as a user runs it: real trainings, real kills, the user's own section."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

SECTIONS = """
mine:
  title: Balancing poles
  seeds: {first: 100, quick: 3, full: 10}
  trainings: {quick: 1, full: 2}
  scenarios:
    poles:
      environment: CartPole-v1
      baseline: my_policies:Leaning
      others: [random, "constant:0"]
      metric: return
      target_percent: 5
      least_trainings: 2
      horizon: {quick: 100, full: 200}
      quick_timesteps: 512
      agent: {hyperparameters: {n_steps: 128, n_epochs: 2}, total_timesteps: 1024}
"""
POLICIES = '''
class Leaning:
    """Pushes to the side to which the pole leans."""

    def __init__(self, env):
        self.pushes = 0

    def __call__(self, observation):
        self.pushes += 1
        return int(observation[2] > 0)
'''


@pytest.fixture
def place(tmp_path):
    (tmp_path / "sections.yaml").write_text(SECTIONS)
    (tmp_path / "my_policies.py").write_text(POLICIES)
    return tmp_path


def command(*words):
    return [sys.executable, "-m", "unbroken", "validate", "--sections", "sections.yaml", "--section", "mine", *words]


def run(place, *words, code=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(*words), cwd=place, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_section_of_the_users_own_is_compared_and_found_in_the_cache_again(place):
    """C4, D1, D3: quick says that it proves nothing; a warm cache trains and plays nothing; a changed learner is a miss for the
    agent and a hit for the baselines."""
    said = run(place, "--out", "first")
    folder = place / "first"
    assert "proves nothing" in said
    assert (
        said.index("written before anything runs") < said.index("Training CartPole") < said.index("episodes on seeds")
    )
    assert {row["arm"] for row in rows(folder)} == {"my_policies:Leaning", "random", "constant:0", "agent"}
    found = json.loads((folder / "metrics.json").read_text())
    assert json.loads((folder / "validation.json").read_text())["complete"]
    assert "not judged" in json.dumps(found)
    for name in ("table.tex", "report.html", "improvement.png", "learning-poles.png", "validation.log"):
        assert (folder / name).stat().st_size > 100

    again = run(place, "--out", "second")
    assert "Training" not in again
    assert "is from the cache" in again
    assert rows(place / "second") == rows(folder)
    log = (place / "second" / "validation.log").read_text()
    assert "[CACHE BASELINE] Using universal cache" in log
    assert "No cache found" not in log

    (place / "sections.yaml").write_text(SECTIONS.replace("n_epochs: 2", "n_epochs: 3"))
    changed = run(place, "--out", "third")
    log = (place / "third" / "validation.log").read_text()
    assert "Training CartPole" in changed
    assert "[CACHE RL] No cache found for poles" in log
    assert "[CACHE BASELINE] No cache found" not in log
    kept = [row for row in rows(place / "third") if row["arm"] != "agent"]
    assert kept == [row for row in rows(folder) if row["arm"] != "agent"]

    (place / "my_policies.py").write_text(POLICIES.replace("> 0", "> 0.01"))
    run(place, "--out", "fourth")
    log = (place / "fourth" / "validation.log").read_text()
    assert log.count("[CACHE BASELINE] No cache found") == 3


def test_killed_anywhere_the_same_command_ends_with_the_same_results(place):
    """C4, A5: SIGKILL for all processes in the middle of a training and again later; SIGTERM leaves with 75."""
    words = ("--mode", "full", "--out", "results")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for moment, number in (("Training", signal.SIGKILL), ("is trained", signal.SIGTERM)):
        with (place / "console.txt").open("w") as console:
            process = subprocess.Popen(
                command(*words),
                cwd=place,
                env=environment,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        waited = time.monotonic()
        while moment not in (place / "console.txt").read_text() and process.poll() is None:
            assert time.monotonic() - waited < 120
            time.sleep(0.05)
        time.sleep(2.0 if number == signal.SIGKILL else 0.0)
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
            assert process.wait(60) == -number
        else:
            process.send_signal(number)
            assert process.wait(120) == 75, (place / "console.txt").read_text()
    said = run(place, *words)
    assert "Report: " in said
    refused = run(place, *words, code=2)
    assert "complete" in refused
    assert "--out" in refused

    undisturbed = place / "elsewhere"
    undisturbed.mkdir()
    for name in ("sections.yaml", "my_policies.py"):
        (undisturbed / name).write_text((place / name).read_text())
    run(undisturbed, *words, "--jobs", "2")
    assert rows(undisturbed / "results") == rows(place / "results")


def test_the_training_that_a_killed_comparison_left_is_waited_for(place):
    """C4: SIGKILL for the comparison alone; its training goes on, the same command waits for its end and uses it."""
    (place / "sections.yaml").write_text(SECTIONS.replace("quick_timesteps: 512", "quick_timesteps: 6000"))
    with (place / "console.txt").open("w") as console:
        process = subprocess.Popen(command("--out", "results"), cwd=place, stdout=console, stderr=subprocess.STDOUT)
    locks = "runs/*/.lock"
    while not list(place.glob(locks)) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    said = run(place, "--out", "results")
    assert "Waiting: run CartPole-v1-ppo-seed0" in said
    assert "Report: " in said
    metadata = json.loads(next(place.glob("runs/*/training_metadata.json")).read_text())
    assert len(metadata["legs"]) == 1


def test_a_module_that_the_environment_imports_makes_another_agent(place):
    """D3, D1: nothing of before is used, whatever the number of jobs: not the agent, not the episodes."""
    (place / "my_poles.py").write_text(
        "from gymnasium.envs.classic_control import CartPoleEnv\nfrom my_physics import FORCE\n"
        "class Poles(CartPoleEnv):\n    def __init__(self):\n        super().__init__()\n        self.force_mag = FORCE\n"
    )
    (place / "my_physics.py").write_text("FORCE = 10.0\n")
    (place / "sections.yaml").write_text(SECTIONS.replace("CartPole-v1", "my_poles:Poles"))
    run(place, "--out", "first", "--jobs", "2")
    (place / "my_physics.py").write_text("FORCE = 1.0\n")
    said = run(place, "--out", "second", "--jobs", "2")
    assert "agent of training 0 is trained" in said
    assert "nothing to do" not in said
    log = (place / "second" / "validation.log").read_text()
    # what was played before the training is found when all is played
    used = re.findall(r"Using universal cache: (\S+)", log)
    assert set(used) <= set(re.findall(r"Saved the result to cache/(\S+)", log))
    constant = [
        [row["value"] for row in rows(place / out) if row["arm"] == "constant:0"] for out in ("first", "second")
    ]
    assert constant[0] != constant[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--section", "min"), "did you mean 'mine'?"),
        (("--scenario", "pole"), "did you mean 'poles'?"),
        (("--out", "my_policies.py"), "is a file"),
        (("--out", "."), "holds other files"),
        (("--sections", "none.yaml"), "there is no file of sections none.yaml"),
    ],
)
def test_bad_input_is_one_clear_line(place, words, expected):
    said = run(place, *words, code=66 if "none.yaml" in words else 2)
    assert expected in said
    assert len(said.strip().splitlines()) == 1
    assert sorted(path.name for path in place.iterdir() if path.name != "__pycache__") == [
        "my_policies.py",
        "sections.yaml",
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("metric: return", "metrics: return", "unknown key"),
        ("target_percent: 5", "target_percent: much", "target_percent"),
        ("my_policies:Leaning", "my_policies:Leanin", "cannot be imported"),
        ("my_policies:Leaning", "leaning", "write random, constant:VALUE or module:policy"),
        ("constant:0", "constant:7", "not in the action space"),
        ("CartPole-v1", "CartPol-v1", "did you mean 'CartPole-v1'?"),
        ("full: 200}", "full: 200.5}", "whole number"),
        ("metric: return", "metric: retrun", "write return, length"),
        ("metric: return", "metric: nowhere:f", "cannot be imported"),
        ("my_policies:Leaning", "nowhere:f", "no module 'nowhere'"),
        ("first: 100", "first: 0", "is one of training 0 too"),
        ("total_timesteps: 1024", "seed: 5", "agent.seed is set by the section"),
        ("total_timesteps: 1024", "algo: ppo-torch", "not yet ppo-torch"),
    ],
)
def test_a_wrong_section_is_refused_before_anything_is_trained(place, before, after, expected):
    (place / "sections.yaml").write_text(SECTIONS.replace(before, after))
    said = run(place, "--mode", "full", "--out", "results", code=2)
    assert expected in said


def test_a_training_that_fails_is_said_with_its_own_last_line(place):
    (place / "sections.yaml").write_text(SECTIONS.replace("n_epochs: 2", "n_epoch: 2"))
    said = run(place, "--out", "results", code=1)
    assert "did you mean 'n_epochs'?" in said


def test_data_that_the_environment_reads_is_part_of_every_arms_key(place):
    """D1: other prices under the same name: no arm is found, none is left with the old ones."""
    (place / "market.py").write_text(
        "import gymnasium, numpy as np\nfrom gymnasium import spaces\n"
        "class Market(gymnasium.Env):\n"
        "    observation_space, action_space = spaces.Box(-9, 9, (3,)), spaces.Discrete(2)\n"
        "    def __init__(self, data):\n        self.data = np.loadtxt(data)\n"
        "    def reset(self, *, seed=None, options=None):\n        super().reset(seed=seed)\n        self.t = 0\n"
        "        return self.np_random.normal(size=3).astype('f4'), {}\n"
        "    def step(self, action):\n        self.t += 1\n"
        "        paid = self.data[self.t] * (0.5 + action) + self.np_random.random()\n"
        "        return self.np_random.normal(size=3).astype('f4'), float(paid), self.t == 9, False, {}\n"
    )
    section = SECTIONS.replace("CartPole-v1", "market:Market\n      kwargs: {data: prices.csv}")
    (place / "sections.yaml").write_text(section.replace('[random, "constant:0"]', "[random]"))
    results = []
    for out, price in (("first", "1"), ("second", "1000")):
        (place / "prices.csv").write_text(f"{price}\n" * 10)
        run(place, "--out", out)
        results.append({row["arm"]: float(row["value"]) for row in rows(place / out)})
    assert all(results[1][arm] > 100 * results[0][arm] for arm in results[0])


def waited_for(place, said, process):
    started = time.monotonic()
    while said not in (place / "console.txt").read_text() and process.poll() is None:
        assert time.monotonic() - started < 120
        time.sleep(0.02)


@pytest.mark.parametrize(("file", "moment"), [("my_poles.py", "Training my_poles"), ("my_policies.py", "is trained")])
def test_code_that_changes_meanwhile_is_kept_under_no_key(place, file, moment):
    """D1, D3: the environment before its training has imported it, the policy before a worker has: what ran is not the key's."""
    (place / "my_poles.py").write_text(
        "from gymnasium.envs.classic_control import CartPoleEnv\nFORCE = 10.0\n"
        "class Poles(CartPoleEnv):\n    def __init__(self):\n        super().__init__()\n        self.force_mag = FORCE\n"
    )
    (place / "sections.yaml").write_text(SECTIONS.replace("CartPole-v1", "my_poles:Poles"))
    with (place / "console.txt").open("w") as console:
        process = subprocess.Popen(
            command("--out", "results", "--jobs", "2"), cwd=place, stdout=console, stderr=subprocess.STDOUT
        )
    waited_for(place, moment, process)
    before = (place / file).read_text()
    (place / file).write_text(before.replace("10.0", "1.0").replace("> 0", "> 0.01"))
    assert process.wait(120) == 65, (place / "console.txt").read_text()
    assert f"{file} was changed while the comparison ran" in (place / "console.txt").read_text()

    (place / file).write_text(before)
    assert "Report: " in run(place, "--out", "results", "--jobs", "2")
    undisturbed = place / "elsewhere"
    undisturbed.mkdir()
    for path in place.glob("*.*"):
        (undisturbed / path.name).write_text(path.read_text())
    run(undisturbed, "--out", "results")
    assert rows(undisturbed / "results") == rows(place / "results")


def test_a_wrapper_that_learns_statistics_is_refused(place):
    """C4: no model for use has them, so its episodes would be judged with empty ones."""
    wrappers = "agent: {environment: {wrappers: ['gymnasium.wrappers:NormalizeObservation']}, "
    (place / "sections.yaml").write_text(SECTIONS.replace("agent: {", wrappers))
    said = run(place, "--out", "results", code=2)
    assert "NormalizeObservation learns statistics (obs_rms)" in said
    assert "agent.environment.normalize" in said


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("int(observation[2] > 0)", "observation.lean", "policy my_policies:Leaning: AttributeError: "),
        ("int(observation[2] > 0)", "0.5", "CartPole-v1 with the action 0.5 of my_policies:Leaning: AssertionError: "),
        (
            "metric: return",
            "metric: my_policies:late",
            "metric my_policies:late: ZeroDivisionError: division by zero (my_policies.py, ",
        ),
        ("metric: return", "metric: info:late", "metric info:late: the last info has no 'late', it has nothing"),
    ],
)
def test_a_mistake_of_a_policy_or_a_metric_shows_before_anything_is_trained(place, before, after, expected):
    """C4: whose it is, and where; not after hours of training."""
    code = POLICIES + "\ndef late(rewards, infos):\n    return 1 / 0\n"
    (place / "my_policies.py").write_text(code.replace(before, after))
    (place / "sections.yaml").write_text(SECTIONS.replace(before, after))
    said = run(place, "--out", "results", code=2)
    assert expected in said
    assert "Training" not in said


def test_the_only_section_of_a_file_needs_no_name(place):
    words = [sys.executable, "-m", "unbroken", "validate", "--sections", "sections.yaml", "--scenario", "none"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert "section mine has no scenario 'none'" in done.stderr
    (place / "sections.yaml").write_text(SECTIONS + SECTIONS.replace("mine:", "other:"))
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "name a section of sections.yaml with --section: mine, other" in done.stderr


def test_an_environment_that_holds_a_table_is_no_wrapper_with_statistics():
    """C4: tables have means and variances too, and an environment may point back at itself."""
    import gymnasium

    from unbroken.errors import ConfigurationError
    from unbroken.validation.gymnasium_kind import _require_forgetting

    class Table:
        mean = var = count = update = lambda self: None

    class World(gymnasium.Env):
        def __init__(self):
            self.env, self.prices = self, Table()

    env = gymnasium.wrappers.TimeLimit(World(), 5)
    assert _require_forgetting(env) is None
    env.observation_space = gymnasium.spaces.Box(-1.0, 1.0)
    with pytest.raises(ConfigurationError, match="NormalizeObservation learns statistics"):
        _require_forgetting(gymnasium.wrappers.NormalizeObservation(env))
