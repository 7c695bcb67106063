"""`unbroken checkpoints list|show|verify|diff`: what people see, JSON, and exit codes (B1)."""

import io
import json
import shutil

import pytest

import unbroken as package
from unbroken.errors import NotFound
from unbroken.store.checkpoint_file import CheckpointFile, write_checkpoint
from unbroken.store.durable import LocalBackend

TINY = {
    "hyperparameters": {"n_steps": 64, "batch_size": 64, "n_epochs": 1},
    "self_test": False,
    "evaluation": {"every": 128, "episodes": 1},
    "saving": {"every": 128},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs of 256 steps that did the same."""
    runs = tmp_path_factory.mktemp("trained")
    for name in ("one", "two"):
        package.train("CartPole-v1", run=name, runs_dir=runs, steps=256, settings=TINY)
    return runs


@pytest.fixture
def checkpoints(trained, tmp_path, unbroken_here):
    """Runs `unbroken checkpoints *words` over a copy of the two runs in `runs/`."""
    shutil.copytree(trained, tmp_path / "runs")
    return lambda *words: unbroken_here("checkpoints", *words)


def place(tmp_path, step=256, run="one"):
    return tmp_path / "runs" / run / "checkpoints" / f"CartPole-v1_checkpoint_{step}_steps.zip"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_list_shows_step_tier_score_size_age_and_validity(checkpoints, tmp_path):
    """B1: rolling, best and final; a damaged one is said to be so."""
    flip(place(tmp_path, 128))
    ended = checkpoints("list", "one")
    assert ended.code == 0
    header, *lines = ended.out.splitlines()
    assert header.split() == ["step", "tier", "score", "size", "age", "valid", "file"]
    assert [line.split()[:2] for line in lines] == [
        ["128", "rolling"],
        ["256", "rolling"],
        [lines[2].split()[0], "best"],
        ["256", "final"],
    ]
    assert " NO " in lines[0]
    assert "is damaged" in lines[0]
    assert all(" yes " in line for line in lines[1:])


def test_list_as_json(checkpoints):
    """B1: the same facts for programs."""
    rows = json.loads(checkpoints("list", "one", "--json").out)
    assert [row["tier"] for row in rows] == ["rolling", "rolling", "best", "final"]
    assert set(rows[0]) == {"path", "step", "tier", "score", "size", "created", "valid", "problem"}
    assert all(row["valid"] and row["problem"] is None and row["size"] > 1000 for row in rows)
    assert rows[2]["score"] == json.loads(checkpoints("show", "one@best", "--json").out)["score"]


@pytest.mark.parametrize(
    ("text", "step", "kind"),
    [
        ("one", 256, "end"),
        ("one@128", 128, "rollout"),
        ("one@latest", 256, "end"),
        ("one@final", 256, "final"),
        ("one@best", None, "best"),
        ("runs/one/checkpoints/CartPole-v1_checkpoint_128_steps.zip", 128, "rollout"),
        ("runs/one/CartPole-v1_final.zip", 256, "final"),
    ],
)
def test_show_by_every_name(checkpoints, text, step, kind):
    """B1: RUN, RUN@STEP, @latest, @best, @final, path; as YAML and JSON."""
    shown = json.loads(checkpoints("show", text, "--json").out)
    assert (shown["run"], shown["scenario"], shown["kind"]) == ("one", "CartPole-v1", kind)
    assert step in (None, shown["step"])
    assert shown["config"]["target"] == "CartPole-v1"
    assert shown["member_bytes"]["policy.pth"] > 1000
    readable = checkpoints("show", text)
    assert readable.code == 0
    assert f"step: {shown['step']}" in readable.out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on", "there is no run 'on' in runs; did you mean 'one'?"),
        ("one@5", "no checkpoint of step 5 (steps: 128, 256)"),
        ("one@first", "'first' is not a step"),
        ("gone.zip", "there is no checkpoint file gone.zip"),
    ],
)
def test_what_is_not_there_is_66_with_what_is(checkpoints, text, expected):
    """Issue 2, "Errors": no such checkpoint."""
    for command in ("show", "verify"):
        ended = checkpoints(command, text)
        assert ended.code == NotFound.exit_code == 66
        assert expected in ended.err
        assert len(ended.error_lines) == 1


def test_verify_reads_every_byte(checkpoints, tmp_path):
    """Issue 2: `verify` re-reads every byte and exits with 65 on damage."""
    assert [line.split()[0] for line in checkpoints("verify", "one").out.splitlines()] == ["ok"] * 4
    assert checkpoints("verify", "one@128").code == 0
    flip(place(tmp_path))
    whole = checkpoints("verify", "one")
    assert whole.code == 65
    assert [line.split()[0] for line in whole.out.splitlines()] == ["ok", "DAMAGED", "ok", "ok"]
    for text in ("one@256", str(place(tmp_path))):
        ended = checkpoints("verify", text, "--json")
        (row,) = json.loads(ended.out)
        assert (ended.code, row["valid"]) == (65, False)
        assert "damaged" in row["problem"]
    assert checkpoints("verify", "one@128").code == 0


def test_verify_and_show_of_what_is_no_checkpoint(checkpoints, tmp_path):
    """B1: a truncated, an empty and a foreign file."""
    for content in (b"", b"hello", place(tmp_path).read_bytes()[:-1]):
        path = tmp_path / "odd.zip"
        path.write_bytes(content)
        assert checkpoints("verify", str(path)).code == 65
        shown = checkpoints("show", str(path))
        assert (shown.code, len(shown.error_lines)) in ((65, 1), (0, 0))


def test_equal_states_are_identical(checkpoints):
    """Issue 2: `diff` exits 0 when the whole state is bit-identical, over machines and times."""
    ended = checkpoints("diff", "one", "two")
    assert ended.code == 0, ended.out
    assert ended.out.startswith("identical: yes")
    report = json.loads(checkpoints("diff", "one@256", "two@256", "--json").out)
    assert report["identical"]
    assert report["first_digest"] == report["second_digest"]
    assert report["differences"] == []
    assert report["compared"] > 100
    assert "time/fps" in report["left_out"]


def altered(path, member, change):
    """The checkpoint with one member changed, committed anew."""
    backend = LocalBackend(path.parent)
    with CheckpointFile(backend, path.name) as file:
        members = {name: file.read(name) for name in file.names()}
        facts = {key: value for key, value in file.manifest.items() if key not in ("format", "version", "members")}
    members[member] = change(members[member])

    def fill(writer):
        for name, content in members.items():
            writer.write_member(name, content)
        return facts

    write_checkpoint(backend, path.name, fill)


def one_weight(raw):
    import torch

    state = torch.load(io.BytesIO(raw), weights_only=True)
    weight = state["action_net.weight"].reshape(-1)
    weight[3] = torch.nextafter(weight[3], torch.tensor(2.0))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def one_count(raw):
    document = json.loads(raw)
    document["tree"]["iteration"] += 1
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("member", "change", "named"),
    [
        ("policy.pth", one_weight, "tensors.policy.action_net.weight"),
        ("exact/state.json", one_count, "state.iteration"),
    ],
)
def test_one_changed_bit_is_named(checkpoints, tmp_path, member, change, named):
    """Issue 2: otherwise `diff` lists what differs and exits 1."""
    altered(place(tmp_path, run="two"), member, change)
    ended = checkpoints("diff", "one", "two")
    assert ended.code == 1
    assert ended.out.startswith("identical: no")
    (line,) = [line for line in ended.out.splitlines() if line.startswith("  ") and named in line]
    assert "|" in line
    report = json.loads(checkpoints("diff", "one", "two", "--json").out)
    assert [row["name"] for row in report["differences"]] == [named]
    assert report["first_digest"] != report["second_digest"]


def test_other_steps_differ_and_damage_is_refused(checkpoints, tmp_path):
    """Issue 2: two steps of one run are not the same state; what is damaged is not compared."""
    assert checkpoints("diff", "one@128", "one@256").code == 1
    flip(place(tmp_path, run="two"))
    ended = checkpoints("diff", "one", "two")
    assert (ended.code, len(ended.error_lines)) == (65, 1)
    assert checkpoints("diff", "one", "one@final").code == 65


def test_in_a_real_process(trained, unbroken):
    """Issue 2: standard output is JSON and nothing else; the exit code is the verdict."""
    ended = unbroken("checkpoints", "list", "one", "--runs-dir", trained, "--json")
    assert (ended.code, ended.err, len(json.loads(ended.out))) == (0, "", 4)


def test_packed_is_only_what_can_be_continued(checkpoints, tmp_path):
    """Issue 3: a model for use is one file as it is, and nothing is overwritten."""
    refused = checkpoints("pack", "one@best", str(tmp_path / "best.zip"))
    assert refused.code == 2
    assert "one@best is a model for use" in refused.err
    assert not (tmp_path / "best.zip").exists()
    packed = checkpoints("pack", "one", str(tmp_path / "one.zip"))
    assert f"go on from it with --checkpoint {tmp_path / 'one.zip'}" in packed.out
    again = checkpoints("pack", "one", str(tmp_path / "one.zip"))
    assert again.code == 2
    assert "is there already" in again.err


def test_a_fork_of_a_lone_file_says_that_its_curves_begin_there(checkpoints, tmp_path, capsys):
    """A16, "Lone zip": the parent's rows are not in the file, which is said once and is no warning."""
    checkpoints("pack", "one@256", str(tmp_path / "one.zip"))
    words = {"checkpoint": str(tmp_path / "one.zip"), "runs_dir": tmp_path / "elsewhere", "run": "fork", "steps": 384}
    assert package.train(**words).exit_code == 0
    out = capsys.readouterr().out
    assert out.count("The curves before step 256 stayed with the parent run: these begin here") == 1
    assert "rows are missing" not in out
    rows = (tmp_path / "elsewhere" / "fork" / "logs" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert next(json.loads(row)["step"] for row in rows) > 256
