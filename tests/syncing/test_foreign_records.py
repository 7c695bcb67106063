"""What others put at a remote (D5, A10, A13): one bad record is named, and the state before it is used."""

import hashlib
import json
import sys

import pytest
import yaml

from unbroken.config import build_config
from unbroken.errors import DamagedFile
from unbroken.store.checkpoint_writer import NewerFormat
from unbroken.syncing.documents import read_document
from unbroken.syncing.records import read_name

CHECKPOINT = "checkpoints/CartPole-v1_checkpoint_384_steps.zip"


@pytest.fixture
def forge(place, place_files):
    """`forge(content)` and `forge(change=…)` put a record in the place of the newest one, with a name that fits its content."""

    def put(content=None, change=None):
        name = max(name for name in place_files() if "/records/" in name)
        facts = json.loads(place_files()[name])
        (place._path / name).unlink()
        if content is None:
            change(facts)
            facts["files"] = (
                dict(sorted(facts["files"].items())) if isinstance(facts["files"], dict) else facts["files"]
            )
            text = json.dumps(facts, ensure_ascii=False, separators=(",", ":")) + "\n"
            content = text.encode("utf-8", "surrogatepass")
        counters = f"{facts['step']:012d}-{facts['sequence']:06d}-{facts['revision']:03d}"
        text = f"{counters}-{read_name(name.rpartition('/')[2]).training}-{_digest(content, 6)}.json"
        (place._path / name).with_name(text).write_bytes(content)
        return read_name(text)

    return put


@pytest.fixture
def put_object(place):
    """Puts an object and returns it as records name it."""

    def put(content):
        digest = _digest(content, 32)
        (place._path / "runs/run/objects" / digest).write_bytes(content)
        return [[digest, len(content)]]

    return put


def _digest(content, size):
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def _file(path, parts):
    def change(facts):
        facts["files"][path] = parts

    return change


@pytest.fixture
def rented(machine):
    """A machine without the run; the remote has the states of step 128 and 384."""
    for step in (128, 384):
        machine(str(step), "ppo", step).sync()
    return machine("rented")


def _requires_the_one_before(rented, lines, *, why=""):
    assert rented.sync().step == 128
    assert rented.verify()["step"] == 128
    (line,) = lines.warnings
    assert "is used instead" in line
    assert why in line
    assert "\n" not in line
    assert len(line) < 1000


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"format":' * 100_000,
        b"{}",
        b"7",
        b'{"format":"unbroken-run-record","version":1}',
        b'{"format":"unbroken-run-record","version":1e999}',
        b'{"format":"unbroken-run-record","version":"\xff"}',
    ],
    ids=["lists", "objects", "empty", "number", "nothing", "infinite", "bytes"],
)
def test_no_record_at_all(content, rented, forge, lines):
    """D5: JSON of whatever form."""
    forge(content)
    _requires_the_one_before(rented, lines, why="wrong form")


CHANGES = {
    "surrogate": _file("logs/\ud800.log", []),
    "long": _file(f"logs/{'x' * 300}.log", []),
    "control": _file("logs/a\nb.log", []),
    "stream": _file("logs/run.log:stream", []),
    "model": lambda facts: facts.update(checkpoint="best_model/best_model.zip"),
    "elsewhere": lambda facts: facts.update(checkpoint="checkpoints/other.zip"),
    "huge": lambda facts: facts["files"].update({CHECKPOINT: [[facts["files"][CHECKPOINT][0][0], 10**13]]}),
    "negative": lambda facts: facts["files"].update({CHECKPOINT: [[facts["files"][CHECKPOINT][0][0], -1]]}),
    "parts": lambda facts: facts["files"].update({"logs/run.log": [[facts["files"]["logs/run.log"][0][0], 10**9]]}),
    "lists": lambda facts: facts.update(files=[1]),
    "training": lambda facts: facts.update(training=7),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_record_of_what_no_run_has(change, rented, forge, lines):
    """D5, promise 6: names and sizes that no file system takes or no run has, and a checkpoint that is none."""
    forge(change=change)
    _requires_the_one_before(rented, lines, why="wrong form")


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files")
def test_a_sparse_object_of_ten_terabytes(rented, forge, place, lines):
    """D5, A10: an object that is listed with such a size is not waited for room for."""

    def enlarge(facts):
        (entry,) = facts["files"][CHECKPOINT]
        entry[1] = 10**13
        with (place._path / "runs/run/objects" / entry[0]).open("r+b") as file:
            file.truncate(10**13)

    forge(change=enlarge)
    _requires_the_one_before(rented, lines, why="larger than any run")


def test_a_record_of_many_megabytes(rented, forge, lines):
    """A10: it is not even fetched."""
    forge(b" " * 17_000_000)
    _requires_the_one_before(rented, lines, why="larger than any record")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
RUN_FILES = {
    "bomb": f"{BOMB}version: 1\nconfig: {{target: CartPole-v1, callbacks: *a8}}\n",
    "itself": "version: 1\nconfig: &a\n  target: CartPole-v1\n  hyperparameters: *a\n",
    "deep": f"config: {'[' * 5_000}",
    "binary": "config: {target: CartPole-v1}\nother: !!binary '///'\n",
    "types": "config: {target: [1], callbacks: 7}\n",
    "unknown": "config: {target: CartPole-v1, teleport: true}\n",
    "promise": "config: {target: CartPole-v1}\nmore: 7\n",
    "object": "config: !!python/object/apply:os.system ['true']\n",
    "list": "- 1\n",
    "large": f"config: {{target: CartPole-v1}}\nx: {'y' * 5_000_000}\n",
    "bytes": b"config: {target: \xff}\n",
}


@pytest.mark.parametrize("text", RUN_FILES.values(), ids=RUN_FILES)
def test_a_run_file_that_cannot_be_used(text, rented, forge, put_object, lines):
    """D5, A13: whatever YAML can do, and what training would refuse; the newer state is not pulled with it."""
    content = text if isinstance(text, bytes) else text.encode()
    forge(change=_file("run.yaml", put_object(content)))
    _requires_the_one_before(rented, lines)


@pytest.mark.parametrize("path", ["training_metadata.json", "best_model/best_model.json", "tracking/state.json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"\xff", b""], ids=["deep", "list", "bytes", "empty"])
def test_a_document_that_cannot_be_used(path, content, rented, forge, put_object, lines):
    """D5: a damaged document would stop the next training."""
    forge(change=_file(path, put_object(content)))
    _requires_the_one_before(rented, lines)


def test_a_checkpoint_that_is_here_is_held_against_its_record(machine, forge, lines):
    """D5, A7: a record that names the checkpoint here as another one brings nobody there."""
    laptop = machine("laptop", "ppo", 128)
    laptop.sync()
    forge(change=lambda facts: facts.update(sequence=facts["sequence"] + 5))
    assert laptop.sync().action == "pushed"
    assert lines.holding("Pulled run") == []
    assert "is not the checkpoint that its record says it is" in lines.warnings[0]


def test_a_step_that_nobody_reached(machine, forge, lines):
    """D5: a record of step 999,999 with the checkpoint of step 128."""
    laptop = machine("laptop", "ppo", 128)
    laptop.sync()
    forge(change=lambda facts: facts.update(step=999_999))
    assert laptop.sync().action == "pushed"
    assert "is no checkpoint of step 999999" in lines.warnings[0]


def test_a_changed_record_of_the_same_checkpoint(machine, place, forge, put_object, lines):
    """D5: a revision that cannot be used does not stop the machine that has pushed the one before."""
    laptop = machine("laptop", "ppo", 128)
    laptop.sync()
    (record,) = (place._path / "runs/run/records").iterdir()
    content = record.read_bytes()

    def change(facts):
        facts["revision"] = 1
        facts["files"]["run.yaml"] = put_object(b"config: 7\n")

    forge(change=change)
    record.write_bytes(content)
    assert laptop.sync().action == "pushed"
    assert machine("rented").sync().action == "pulled"
    assert laptop.sync().action == "equal"


def test_a_newer_version_is_refused_and_nothing_older_is_used(rented, machine, forge, lines):
    """D5: what this version cannot know may be far ahead: the run is not replaced by what is before it."""
    name = forge(change=lambda facts: facts.update(version=2))
    with pytest.raises(NewerFormat, match="newer version: upgrade unbroken"):
        rented.sync()
    assert not rented.path.exists()
    assert name.step == 384
    for step in (256, 384):
        laptop = machine(f"at {step}", "ppo", step)
        before = laptop.files()
        with pytest.raises(DamagedFile, match="newer version: upgrade unbroken"):
            laptop.sync()
        assert laptop.files() == before


def test_records_without_metadata(machine, forge):
    """D5: a record that does not tell how its state came about is pulled as ever, and pushed over without a word."""
    machine("laptop", "ppo", 128).sync()
    forge(change=lambda facts: facts["files"].pop("training_metadata.json"))
    assert machine("rented").sync().action == "pulled"
    assert machine("late", "ppo", 256).sync().action == "pushed"


def test_what_a_run_stores_can_be_read():
    """D5: run.yaml without aliases is no matter, for none of ours has any, also where a user named a value twice."""
    same = [64, 64]
    config = build_config({"target": "CartPole-v1", "hyperparameters": {"one": same, "two": {"pi": same, "vf": same}}})
    content = yaml.safe_dump({"version": 1, "config": config.plain()}).encode()
    assert read_document("run.yaml", content)["config"] == config.plain()
