"""The one schema: names, YAML, words laid over one another, durations, environment variables."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbroken
from unbroken.compatibility import Verdict, changes
from unbroken.config import (
    ENVIRONMENT_VARIABLES,
    NAME_LIMIT_BYTES,
    RunConfig,
    assignments,
    build_config,
    check_name,
    merged,
    read_yaml,
    seconds,
)
from unbroken.errors import ConfigurationError, NotFound, UsageError
from unbroken.request import make_request


def test_defaults_make_a_target_enough():
    """Issue 2: `unbroken train CartPole-v1` does something good."""
    config = build_config({"target": "CartPole-v1"})
    assert (config.scenario, config.algo, config.seed) == ("CartPole-v1", "ppo", 0)
    assert (config.saving.every, config.saving.keep_last) == (10_000, 2)
    assert config.default_run_name() == "CartPole-v1-ppo-seed0"
    assert (
        build_config({"target": "pkg.mod:Env", "algo": "dqn", "seed": 3}).default_run_name() == "pkg.mod-Env-dqn-seed3"
    )
    assert build_config({"target": "ALE/Pong-v5"}).scenario == "ALE-Pong-v5"


def test_plain_form_is_read_back():
    """A7: what run.yaml and the checkpoint hold is the configuration."""
    config = build_config(
        {"target": "X-v0", "environment": {"normalize": {"gamma": 0.9}}, "hyperparameters": {"a": [1, {"b": None}]}}
    )
    assert build_config(config.plain()) == config


@pytest.mark.parametrize("name", ["PPO", "recurrent-ppo", "RecurrentPPO", "QR-DQN", "qrdqn", "MaskablePPO"])
def test_usual_spellings_of_algorithms(name):
    """A13."""
    assert build_config({"target": "X-v0", "algo": name}).algo in {"ppo", "recurrent_ppo", "qrdqn", "maskable_ppo"}


@pytest.mark.parametrize(("name", "size"), [("交" * 75, 225), ("a" * 121, 121), ("é" * 91, 182)])
def test_a_name_that_files_cannot_be_made_of_is_too_long(name, size):
    """A2: said at the start, and not at the first save; file systems count bytes."""
    with pytest.raises(ConfigurationError, match=f"is too long: {len(name)} characters, {size} bytes in UTF-8"):
        check_name(name)
    with pytest.raises(ConfigurationError, match=r"^scenario '[^']+' is too long: [^{]+ bytes$"):
        build_config({"target": "CartPole-v1", "scenario": name})


def test_the_longest_name_leaves_room_for_every_file_made_of_it():
    longest = f".{'é' * (NAME_LIMIT_BYTES // 2)}_checkpoint_{10**15}_steps.zip.{2**32}-{10**9}.tmp"
    assert len(longest.encode()) <= 255


@pytest.mark.parametrize(
    "name", ["a", "CartPole-v1-ppo-seed0", "Läufe à moi", "x.y", "console", "com", "компас", "a" * 120]
)
def test_good_names(name):
    """A17: spaces and accents are names."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "../a",
        "/a",
        "a\\b",
        "C:",
        "C:\\a",
        "a:b",
        "a\0b",
        "a\nb",
        "a*",
        "a?",
        'a"b',
        "a<b",
        "a|b",
        " a",
        "a ",
        "a.",
        "CON",
        "nul",
        "aux.txt",
        "COM1",
        "lpt9.zip",
        "prn.a.b",
    ],
)
def test_names_that_leave_the_folder_or_windows_reserves(name):
    """Issue 2, "Errors"; A17."""
    with pytest.raises(ConfigurationError, match="is not a plain folder name"):
        check_name(name)


@given(st.text(max_size=12))
def test_a_name_that_passes_is_one_folder_below_the_root(name):
    """Issue 2, "Errors": whatever is typed."""
    try:
        check_name(name)
    except ConfigurationError:
        return
    root = Path("/runs")
    assert (root / name).parent == root
    assert (root / name).name == name
    assert not re.search(r'[\\:*?"<>|\x00-\x1f]', name)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a.b=x", {"a": {"b": "x"}}),
        ("a.b=[1, 2]", {"a": {"b": [1, 2]}}),
        ("a=3e-4", {"a": 3e-4}),
        ("a=1E5", {"a": 1e5}),
        ("a=", {"a": None}),
        ("a=null", {"a": None}),
        ("a={x: 1}", {"a": {"x": 1}}),
        ("a=lin_3e-4", {"a": "lin_3e-4"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=true", {"a": True}),
    ],
)
def test_assignments_are_read_as_yaml(pair, expected):
    """Issue 2: `--set key.sub=value`; 3e-4 is a number, as people mean it."""
    assert assignments([pair]) == expected


@pytest.mark.parametrize("pairs", [["a"], ["=1"], ["a=1", "a.b=2"], ["a=[1"]])
def test_bad_assignments(pairs):
    """Issue 2, "Errors"."""
    with pytest.raises(ConfigurationError, match="--set"):
        assignments(pairs)


def test_layers_are_laid_over_one_another_section_by_section(tmp_path):
    """Architecture: file, then words, then --set; nothing of a section is lost by giving one key."""
    path = tmp_path / "a.yaml"
    path.write_text("target: X-v0\nsaving: {every: 5, keep_last: 7}\nseed: 1\n")
    request = make_request(
        None, {"config": path, "seed": 2, "save_every": 6, "settings": ["saving.keep_every=8", "seed=3"]}
    )
    assert request.values == {"target": "X-v0", "saving": {"every": 6, "keep_last": 7, "keep_every": 8}, "seed": 3}
    assert merged({"a": {"b": 1}}, {"a": None}) == {"a": None}
    with pytest.raises(UsageError, match="two configuration files"):
        make_request(str(path), {"config": path})


def test_the_files_target_gives_way_to_the_word(tmp_path):
    """Issue 2: TARGET over --config."""
    path = tmp_path / "a.yaml"
    path.write_text("target: X-v0\nseed: 4\n")
    assert make_request("Y-v0", {"config": path}).values == {"target": "Y-v0", "seed": 4}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 30),
        ("45m", 2700),
        ("11h", 39_600),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("90", 90),
        ("10 min", 600),
        ("1H", 3600),
    ],
)
def test_durations(text, expected):
    """A11."""
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "h", "-5s", "11 hours", "1h30m", "soon", "nan"])
def test_no_durations(text):
    """Issue 2, "Errors"."""
    with pytest.raises(ConfigurationError, match="is not a duration"):
        seconds(text)


def test_a_file_that_is_none(tmp_path):
    """Issue 2, "Errors"."""
    with pytest.raises(NotFound):
        read_yaml(tmp_path / "none.yaml")
    for content in (b"\xff\xfe", b"- a", b"", b"a: [", b"!!python/object/apply:os.system ['true']"):
        path = tmp_path / "bad.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigurationError):
            read_yaml(path)
    with pytest.raises(ConfigurationError):
        read_yaml(tmp_path)


def _fields(model, prefix=""):
    for name, info in model.model_fields.items():
        inner = info.annotation
        if hasattr(inner, "model_fields"):
            yield from _fields(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize("field", sorted(_fields(RunConfig)))
def test_every_field_of_the_schema_has_a_verdict(field):
    """A8: a new field cannot be forgotten in the table."""
    from unbroken.compatibility import _TABLE

    parts = field.split(".")
    assert any(".".join(parts[:length]) in _TABLE for length in range(1, len(parts) + 1)), field


@pytest.mark.parametrize(
    ("field", "verdict"),
    [
        ("target", "INCOMPATIBLE"),
        ("algo", "INCOMPATIBLE"),
        ("environment.n_envs", "INCOMPATIBLE"),
        ("environment.normalize.gamma", "INCOMPATIBLE"),
        ("hyperparameters.n_steps", "INCOMPATIBLE"),
        ("hyperparameters.policy_kwargs.net_arch", "INCOMPATIBLE"),
        ("hyperparameters.learning_rate", "RISKY"),
        ("hyperparameters.batch_size", "RISKY"),
        ("hyperparameters.anything", "RISKY"),
        ("seed", "RISKY"),
        ("environment.kwargs.gravity", "NOTED"),
        ("device", "NOTED"),
        ("total_timesteps", "COMPATIBLE"),
        ("saving.every", "COMPATIBLE"),
        ("evaluation.episodes", "COMPATIBLE"),
        ("log_interval", "COMPATIBLE"),
    ],
)
def test_the_table_of_verdicts(field, verdict):
    """A8, architecture "Changed configuration"."""
    nested = lambda value: assignments([f"{field}={value}"])  # noqa: E731
    (change,) = changes(nested(1), nested(2))
    assert (change.field, change.verdict) == (field, Verdict[verdict])


def test_every_environment_variable_read_is_in_the_one_table():
    """Architecture: config.py holds the one table of environment variables."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in Path(unbroken.__file__).parent.rglob("*.py"))
    assert set(re.findall(r"\bUNBROKEN_[A-Z_]+\b", source)) == {
        name for name in ENVIRONMENT_VARIABLES if name.startswith("UNBROKEN_")
    }


def test_an_empty_section_is_not_none():
    """A8: `normalize: {}` normalises; a section that is merely missing or empty on both sides does not differ."""
    before, now = (
        build_config({"target": "X-v0", "environment": {"normalize": value}}).plain() for value in (None, {})
    )
    (change,) = changes(before, now)
    assert (str(change), change.verdict) == ("environment.normalize: None -> {}", Verdict.INCOMPATIBLE)
    assert [str(change) for change in changes(now, before)] == ["environment.normalize: {} -> None"]
    assert changes(now, now) == changes({"hyperparameters": {}}, {}) == []
    filled = changes({"environment": {"kwargs": {}}}, {"environment": {"kwargs": {"g": 1}}})
    assert [str(change) for change in filled] == ["environment.kwargs.g: None -> 1"]


def test_giving_a_default_is_no_change():
    """A8: effective values are compared; what a constructor does by itself may be written out or left out."""
    from unbroken.learners.building import constructor_defaults

    usual = constructor_defaults("ppo")
    given = {"hyperparameters": {"gamma": 0.99, "batch_size": 64, "n_steps": 2048}}
    assert changes({}, given, usual) == changes(given, {}, usual) == []
    found = changes({"hyperparameters": {"n_steps": 64}}, {"hyperparameters": {"gamma": 0.9}}, usual)
    assert [str(c) for c in found] == ["hyperparameters.n_steps: 64 -> 2048", "hyperparameters.gamma: 0.99 -> 0.9"]
    assert changes({"hyperparameters": {"train_freq": [1, "step"]}}, {}, {"train_freq": (1, "step")}) == []


def test_deadline_and_grace_are_said_for_one_leg():
    """A11: neither run.yaml nor a checkpoint hands them on to a later command."""
    plain = build_config({"target": "X-v0", "deadline_seconds": 5, "grace_seconds": 1}).plain()
    assert not {"deadline_seconds", "grace_seconds"} & set(plain)
    assert build_config(merged(plain, {"seed": 1})).deadline_seconds is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("total_timesteps", "say 'steps'"),
        ("stepps", "did you mean 'steps'?"),
        ("deadline_seconds", "say 'deadline'"),
        ("learning_rate", "settings={'hyperparameters': {'learning_rate': …}}"),
        ("n_steps", "settings={'hyperparameters': {'n_steps': …}}"),
        ("keep_every", "settings={'saving': {'keep_every': …}}"),
    ],
)
def test_an_unknown_word_is_refused_with_the_right_one(word, expected):
    """Issue 2, "Errors": nothing that is typed is passed over."""
    with pytest.raises(UsageError, match=re.escape(f"unknown word {word!r}")) as caught:
        make_request("X-v0", {word: 1})
    assert expected in str(caught.value)


def test_a_target_is_text():
    """Issue 2, "Errors": an environment's class is named, not given."""
    with pytest.raises(UsageError, match="'module:Class'"):
        make_request(Path, {})


def test_numbers_in_files_are_numbers(tmp_path):
    """Issue 2: 3e-4 in a file is what it is after --set, at any depth."""
    path = tmp_path / "a.yaml"
    path.write_text("target: X-v0\nhyperparameters: {learning_rate: 3e-4, clip: [1e-1, x], name: 3e4x}\n")
    assert read_yaml(path)["hyperparameters"] == {"learning_rate": 3e-4, "clip": [0.1, "x"], "name": "3e4x"}


def test_the_hash_seed_is_recorded(monkeypatch):
    """A7: part of what decides the bits; an old checkpoint without it, and two random ones, do not differ."""
    from unbroken.context import current_context, differences

    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    now = current_context()
    assert now["hash_seed"] == "random"
    assert differences(now, current_context()) == differences({}, now) == []
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert differences(now, current_context()) == ["hash_seed: random -> 7"]


def test_the_source_of_an_environment_has_a_digest(tmp_path, monkeypatch):
    """A6: changed code is found; newlines do not matter; a name that leads nowhere has none."""
    from unbroken.fingerprint import source_digest
    from unbroken.targets import check_target

    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "digested_world.py"
    path.write_bytes(b"class World:\n    pass\n")
    check_target("digested_world:World")
    digest = source_digest("digested_world:World")
    path.write_bytes(b"class World:\r\n    pass\r\n")
    assert source_digest("digested_world:World") == digest is not None
    path.write_bytes(b"class World:\n    size = 1\n")
    assert source_digest("digested_world:World") not in (digest, None)
    assert source_digest("CartPole-v1") not in (digest, None)
    assert source_digest("Nothing-v0") is None


def test_the_source_of_our_environments_is_what_makes_their_episodes(tmp_path):
    """A6: by short name and by id; the scheme, the task and the scenario count, pictures do not."""
    import shutil
    import subprocess
    import sys
    from pathlib import Path

    import unbroken

    copy = shutil.copytree(Path(unbroken.__file__).parent, tmp_path / "unbroken")
    own = tmp_path / "own.yaml"
    shutil.copy(copy / "traffic" / "scenarios" / "ramp_metering.yaml", own)
    asked = (("ramp_metering", {}), ("unbroken/ramp_metering-v0", {}), ("ramp_metering", {"scenario": str(own)}))
    code = f"from unbroken.fingerprint import source_digest\nprint(*(source_digest(*one) for one in {asked!r}))"

    def digests():
        found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
        return found.stdout.split()

    def changed(path):
        with path.open("ab") as file:
            file.write(b"# changed\n")

    first, by_id, of_a_file = digests()
    assert first == by_id != of_a_file
    changed(copy / "traffic" / "rendering.py")
    assert digests() == [first, by_id, of_a_file]
    for part in ("tasks/ramp.py", "scheme/link.py", "environments.py"):
        before = digests()
        changed(copy / "traffic" / part)
        assert not set(before) & set(digests())
    before = digests()
    changed(copy / "traffic" / "scenarios" / "ramp_metering.yaml")
    assert [one == other for one, other in zip(before, digests(), strict=True)] == [False, False, True]
    changed(own)
    assert digests()[2] != before[2]
