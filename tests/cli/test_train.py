"""`unbroken train` in real processes: readable errors with the right exit codes, odd folders and consoles, files as targets."""

import subprocess
import sys

import pytest
import typer

from unbroken.cli.train import integer

HEAVY = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "numba", "matplotlib", "tensorboard")
TRACEBACK = "Traceback (most recent call last)"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["CartPole-v2"], 2, "there is no environment 'CartPole-v2'; did you mean 'CartPole-v1'?"),
        (["CartPol-v1"], 2, "did you mean 'CartPole-v1'?"),
        (["no_such_module_here:Env"], 2, "there is no module 'no_such_module_here'"),
        (["collections:NoSuchEnv"], 2, "module 'collections' has no 'NoSuchEnv'"),
        (["CartPole-v1", "--algo", "pppo"], 2, "unknown algorithm 'pppo'; did you mean 'ppo'?"),
        (["CartPole-v1", "--steps", "-5"], 2, "--steps -5: give a number of steps of at least 1"),
        (["CartPole-v1", "--more", "0"], 2, "--more 0: give a number of steps of at least 1"),
        (["CartPole-v1", "--steps", "5", "--more", "5"], 2, "--more adds to what is there"),
        (["CartPole-v1", "--fresh", "--more", "5"], 2, "--fresh starts again"),
        (["CartPole-v1", "--allow-partial"], 2, "--allow-partial is for a fork of a checkpoint"),
        (["CartPole-v1", "--save-every", "-1"], 2, "saving.every: input should be greater than or equal to 1, not -1"),
        (["CartPole-v1", "--seed", "-1"], 2, "seed: input should be greater than or equal to 0"),
        (["CartPole-v1", "--device", "gpu"], 2, "device: "),
        (["CartPole-v1", "--deadline", "soon"], 2, "'soon' is not a duration; write 30s, 45m or 11h"),
        (["CartPole-v1", "--set", "saving.evry=5"], 2, "unknown key 'saving.evry'; did you mean 'saving.every'?"),
        (["CartPole-v1", "--set", "keep_last=5"], 2, "unknown key 'keep_last'; did you mean 'saving.keep_last'?"),
        (["CartPole-v1", "--set", "saving.every"], 2, "--set 'saving.every' is not of the form key.sub=value"),
        (["CartPole-v1", "--set", "environment.n_envs=many"], 2, "environment.n_envs: input should be a valid integer"),
        (["CartPole-v1", "--run", "../x"], 2, "run name '../x' is not a plain folder name"),
        (["CartPole-v1", "--run", "/tmp/x"], 2, "run name '/tmp/x' is not a plain folder name"),
        (["CartPole-v1", "--run", "C:\\x"], 2, "is not a plain folder name"),
        (["CartPole-v1", "--run", "con"], 2, "run name 'con' is not a plain folder name"),
        (["CartPole-v1", "--run", "LPT1.txt"], 2, "is not a plain folder name"),
        (["CartPole-v1", "--run", ".."], 2, "is not a plain folder name"),
        (["--run", "never_made"], 2, "name what to train"),
        ([], 2, "name what to train"),
        (["CartPole-v1", "--checkpoint", "nowhere.zip"], 66, "there is no checkpoint file nowhere.zip"),
        (["CartPole-v1", "--checkpoint", "norun@100"], 66, "there is no run 'norun' in runs"),
        (["nowhere.yaml"], 66, "there is no configuration file nowhere.yaml"),
        (["--config", "nowhere.yaml"], 66, "there is no configuration file nowhere.yaml"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_mistakes_are_one_or_two_lines_with_the_way_out(unbroken_here, tmp_path, arguments, code, expected):
    """Issue 2, "Errors": no traceback, the near word, the exit code of the error tree; nothing is made (A9)."""
    ended = unbroken_here("train", *arguments)
    assert (ended.code, TRACEBACK in ended.err) == (code, False), ended.err
    assert expected in ended.err
    assert 1 <= len(ended.error_lines) <= 2
    assert ended.error_lines[0].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target: [unclosed", "is not valid YAML"),
        ("just words", "holds no keys"),
        ("target: CartPole-v1\nsteps: 5", "unknown key 'steps'; did you mean 'total_timesteps'?"),
        ("target: CartPole-v1\nlearning_rate: 1", "a hyper-parameter is given as 'hyperparameters.learning_rate'"),
        ("target: CartPole-v1\nseed: one", "seed: input should be a valid integer"),
        ("algo: ppo", "name what to train"),
        ("target: 5", "target: input should be a valid string"),
        ("target: CartPole-v1\nscenario: a/b", "scenario 'a/b' is not a plain folder name"),
    ],
)
def test_a_bad_file_is_named(unbroken_here, tmp_path, text, expected):
    """Issue 2, "Errors": YAML that is none, unknown keys, wrong types."""
    (tmp_path / "bad.yaml").write_text(text)
    ended = unbroken_here("train", "bad.yaml")
    assert ended.code == 2
    assert expected in ended.err
    assert len(ended.error_lines) <= 2
    assert TRACEBACK not in ended.err


def test_words_that_typer_rejects_exit_with_2(unbroken_here):
    """Issue 2: 2 is usage."""
    many = unbroken_here("train", "CartPole-v1", "--steps", "many")
    assert (many.code, many.err.count("'many' is not a whole number; write 100000, 100_000 or 1e5")) == (2, 1)
    assert unbroken_here("train", "CartPole-v1", "--stepz", "5").code == 2


@pytest.mark.parametrize(
    ("text", "number"),
    [("100000", 100_000), ("100_000", 100_000), ("1e5", 100_000), ("-3", -3), (2**60 + 1, 2**60 + 1)],
)
def test_steps_are_written_as_people_write_numbers(text, number):
    assert integer(text) == number


@pytest.mark.parametrize("text", ["1.5", "1e-3", "nan", "inf", "", "1__0", "_1"])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(typer.BadParameter, match="is not a whole number"):
        integer(text)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("my_worlds", "a class in a module is named my_worlds:ItsClass"),
        ("my_worlds.World", "a class in a module is named my_worlds:World"),
        ("my_worlds.py", "a class in a module is named my_worlds:ItsClass"),
        ("my_worlds:World-v0", "importing 'my_worlds' registers no environment 'World-v0'"),
    ],
)
def test_a_module_of_ones_own_gets_the_form_of_its_name(unbroken, tmp_path, target, expected):
    """Issue 2, "Errors": in a process of its own, because the module is imported."""
    (tmp_path / "my_worlds.py").write_text("class World: pass\n")
    ended = unbroken("train", target)
    assert (ended.code, len(ended.error_lines)) == (2, 1)
    assert expected in ended.err


def test_the_run_file_of_a_run_starts_another_like_it(unbroken, tmp_path):
    (tmp_path / "run.yaml").write_text("version: 1\nconfig: {target: CartPole-v1, total_timesteps: 64, seed: 3}\n")
    ended = unbroken("train", "run.yaml", small=True)
    assert ended.code == 0, ended.err
    assert "CartPole-v1-ppo-seed3 is at step 64" in ended.out


@pytest.mark.parametrize(
    ("arguments", "code"), [(["CartPole-v2"], 2), (["CartPole-v1", "--checkpoint", "no@1"], 66)], ids=["target", "run"]
)
def test_a_real_process_exits_with_the_code_of_the_error(unbroken, arguments, code):
    """Issue 2: one line on the standard error, nothing on the standard output."""
    ended = unbroken("train", *arguments)
    assert (ended.code, ended.out, len(ended.error_lines)) == (code, "", 1)


def test_a_misspelt_hyperparameter_gets_the_near_one(unbroken):
    """Issue 2, "Errors"."""
    ended = unbroken("train", "CartPole-v1", "--set", "hyperparameters.learning_rat=0.1", "--set", "self_test=false")
    assert ended.code == 2
    assert ended.error_lines == ["error: PPO has no hyper-parameter 'learning_rat'; did you mean 'learning_rate'?"]


@pytest.mark.parametrize("arguments", [["--debug", "train", "--steps", "0"], ["train", "--steps", "0", "--debug"]])
def test_debug_shows_the_traceback(unbroken, arguments):
    """Issue 2: `--debug` shows it, before or after the command's name."""
    ended = unbroken(*arguments)
    assert TRACEBACK in ended.err
    assert "UsageError: --steps 0" in ended.err
    assert ended.code != 0


@pytest.mark.parametrize("code", ["import unbroken", "import unbroken.cli; unbroken.cli._commands()"])
def test_importing_is_light(code):
    """Architecture: heavy imports happen inside the functions that need them."""
    program = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_light_and_plain(unbroken, tmp_path):
    """Issue 2: `unbroken --help` imports nothing heavy and prints on any console."""
    tracer = tmp_path / "sitecustomize.py"
    tracer.write_text(
        "import atexit, sys\n"
        f"atexit.register(lambda: print('heavy:', [n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr))\n"
    )
    for arguments in (["--help"], ["train", "--help"]):
        ended = unbroken(*arguments, variables={"PYTHONPATH": str(tmp_path)}, encoding="ascii")
        assert ended.code == 0
        assert "heavy: []" in ended.err
        assert "\x1b" not in ended.out


def test_a_folder_with_spaces_and_accents_and_an_ascii_console(unbroken, tmp_path):
    """A17: paths with spaces and accents; a console that cannot print them gets escapes, not a crash."""
    runs = tmp_path / "Läufe à moi ✓"
    arguments = ("train", "CartPole-v1", "--steps", 100, "--runs-dir", runs)
    ended = unbroken(*arguments, encoding="ascii", small=True)
    assert ended.code == 0, ended.err
    assert "L\\xe4ufe \\xe0 moi \\u2713" in ended.out
    folder = runs / "CartPole-v1-ppo-seed0"
    assert (folder / "checkpoints" / "CartPole-v1_checkpoint_128_steps.zip").is_file()
    assert "Läufe à moi ✓" in (folder / "logs" / "run.log").read_text(encoding="utf-8")
    again = unbroken(*arguments, encoding="cp1252", small=True)
    assert again.code == 0, again.err
    assert "Target reached: 128 of 100 steps are done; nothing to do" in again.out
    listed = unbroken("checkpoints", "list", "CartPole-v1-ppo-seed0", "--runs-dir", runs, encoding="ascii")
    assert listed.code == 0
    missing = unbroken("checkpoints", "list", "nö", "--runs-dir", runs, encoding="ascii")
    assert (missing.code, TRACEBACK in missing.err) == (66, False)


def test_piped_output_has_no_escape_codes_and_the_variable_names_the_runs(unbroken, tmp_path):
    """A17, A12: plain lines in a pipe; UNBROKEN_RUNS_DIR; a YAML file as target; `--set` over it."""
    (tmp_path / "mine.yaml").write_text(
        "target: CartPole-v1\nscenario: my poles\nseed: 3\nself_test: false\nevaluation: {every: 0}\n"
        "total_timesteps: 64\nhyperparameters: {n_steps: 32, batch_size: 32, n_epochs: 1}\n"
    )
    variables = {"UNBROKEN_RUNS_DIR": "elsewhere", "FORCE_COLOR": "1"}
    ended = unbroken("train", "mine.yaml", "--set", "hyperparameters.learning_rate=1e-3", variables=variables)
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out + ended.err
    folder = tmp_path / "elsewhere" / "my poles-ppo-seed3"
    assert (folder / "my poles_final.zip").is_file()
    assert (folder / "checkpoints" / "my poles_checkpoint_64_steps.zip").is_file()
    shown = unbroken("checkpoints", "show", "my poles-ppo-seed3", variables=variables)
    assert "learning_rate: 0.001" in shown.out
    again = unbroken("train", "--config", "mine.yaml", "--seed", "3", variables={**variables, "NO_COLOR": "1"})
    assert (again.code, "nothing to do" in again.out) == (0, True)
    assert not (tmp_path / "runs").exists()


def test_a_device_that_is_none(unbroken_here):
    """Issue 2, "Errors"."""
    ended = unbroken_here("train", "CartPole-v1", "--device", "gpu")
    assert ended.error_lines == ["error: device: choose cpu, cuda (or cuda:0, cuda:1, ...), mps or auto, not 'gpu'"]


def test_masks_that_are_not_there(unbroken):
    """Issue 2, "Errors": MaskablePPO on an environment without masks."""
    ended = unbroken("train", "CartPole-v1", "--algo", "maskable_ppo", "--set", "self_test=false")
    assert ended.code == 2
    (line,) = ended.error_lines
    assert line.startswith("error: maskable_ppo needs the method action_masks(), which CartPole-v1 lacks")


def test_a_gpu_that_is_not_there_is_said(monkeypatch, caplog):
    """A12: SB3 falls back silently."""
    import torch

    from unbroken.config import build_config
    from unbroken.learners.building import build_environment, build_model

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = build_config({"target": "CartPole-v1", "device": "cuda"})
    venv = build_environment(config, "attributes")
    assert build_model(config, venv).device.type == "cpu"
    assert "there is no usable GPU here; the training runs on the CPU" in caplog.text


def test_a_training_does_not_begin_on_another_device_than_asked_for(unbroken):
    """A12: a laptop that is asked for a GPU says so at once, not after a night."""
    ended = unbroken("train", "CartPole-v1", "--device", "cuda", variables={"CUDA_VISIBLE_DEVICES": ""}, small=True)
    assert ended.code == 2
    assert ended.error_lines[-1] == "error: device 'cuda': there is no usable GPU here; choose auto or cpu"


def test_the_traceback_of_the_unexpected_is_in_the_log(tmp_path, capsys):
    """Issue 2, "Errors": one line on the console, which names the file; errors with a message of ours have none."""
    from unbroken.cli import _explain
    from unbroken.errors import UsageError
    from unbroken.logs import recording_tracebacks

    path = tmp_path / "run.log"
    path.write_text("before\n")
    with pytest.raises(ZeroDivisionError) as caught, recording_tracebacks(path):
        1 / 0  # noqa: B018 - raises
    assert path.read_text().startswith(f"before\n{TRACEBACK}")
    assert path.read_text().endswith("ZeroDivisionError: division by zero\n")
    assert _explain(caught.value) == 1
    printed = capsys.readouterr().err
    assert f"The traceback is in {path}" in printed
    assert TRACEBACK not in printed
    size = path.stat().st_size
    with pytest.raises(UsageError), recording_tracebacks(path):
        raise UsageError("said")
    assert path.stat().st_size == size
