"""After a power loss at any moment the newest acknowledged checkpoint loads (A7).

The states come from replaying prefixes of the recorded operations with unsynced data and names dropped; the last tests
show that the model does find writers that skip a step.
"""

import pytest

from unbroken.store.checkpoint_file import CheckpointFile
from unbroken.store.durable import move_aside, write_bytes_durably
from unbroken.store.memory import MemoryBackend
from unbroken.store.repository import CheckpointRepository
from unbroken.testing.backends import RecordingBackend
from unbroken.testing.power_loss import crash_states
from unbroken.testing.samples import small_checkpoint


def record_run(steps, keep):
    """Save with rotation, the way a run does; the recording acknowledges each save as `step:mark`."""
    recording = RecordingBackend(MemoryBackend())
    repository = CheckpointRepository(recording, "sample_checkpoint")
    for mark, step in enumerate(steps):
        repository.save(step, small_checkpoint(str(mark)))
        recording.acknowledge(f"{step}:{mark}")
        for record in repository.records()[:-keep]:
            repository.remove(record)
    return recording


def read_back(backend, record):
    with CheckpointFile(backend, record.path) as file:
        return f"{record.step}:{file.read('data').decode().split(chr(34))[3]}"


@pytest.mark.parametrize("steps", [(100, 200, 300), (100, 200, 100), (100, 100, 100)])
@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_acknowledged_checkpoint_always_loads(steps, keep):
    """A7: also while old ones rotate away and when a step is written again after a resume."""
    history = [f"{step}:{mark}" for mark, step in enumerate(steps)]
    states = list(crash_states(record_run(steps, keep).operations))
    assert len(states) > 30
    for state in states:
        repository = CheckpointRepository(state.backend, "sample_checkpoint")
        latest = repository.latest_valid(lambda name, reason, place=state.place: pytest.fail(f"{place}: {reason}"))
        if state.acknowledged:
            assert latest is not None, state.place
            found = history.index(read_back(state.backend, latest))
            assert found >= history.index(state.acknowledged[-1]), state.place


def test_a_run_goes_on_after_any_power_loss():
    """A5: from every state the next save works and becomes the newest."""
    for state in crash_states(record_run((100, 200), 1).operations):
        repository = CheckpointRepository(state.backend, "sample_checkpoint")
        repository.remove_leftovers()
        repository.save(300, small_checkpoint())
        assert repository.latest_valid(pytest.fail).step == 300
        assert not [entry for entry in state.backend.entries("checkpoints") if entry.name.endswith(".tmp")]


def test_what_is_moved_aside_is_never_lost():
    """A9: at least one of the two names is there, with all of its content."""
    recording = RecordingBackend(MemoryBackend())
    write_bytes_durably(recording, "x/a.zip", b"content")
    recording.acknowledge("a")
    move_aside(recording, "x/a.zip", "archive")
    recording.acknowledge("moved")
    for state in crash_states(recording.operations):
        found = []
        for path in ("x/a.zip", "archive/a.zip"):
            if state.backend.exists(path):
                with state.backend.open(path) as file:
                    found.append((path, file.read()))
        if "moved" in state.acknowledged:
            assert found == [("archive/a.zip", b"content")]
        elif state.acknowledged:
            assert found, state.place
            assert {content for _, content in found} == {b"content"}


def losses(write):
    """Places where a file that a careless `write` acknowledged is gone or wrong."""
    recording = RecordingBackend(MemoryBackend())
    write(recording)
    recording.acknowledge("x/a")
    lost = []
    for state in crash_states(recording.operations):
        if state.acknowledged:
            there = state.backend.exists("x/a")
            with state.backend.open("x/a") if there else state.backend.create("none") as file:
                if not there or file.read() != b"content":
                    lost.append(state.place)
    return lost


def careless(*, sync=True, folder=True, parent=True):
    def write(backend):
        backend.make_folder("x")
        if parent:
            backend.sync_folder("")
        with backend.create("x/t") as file:
            file.write(b"content")
            if sync:
                file.sync()
        backend.replace("x/t", "x/a")
        if folder:
            backend.sync_folder("x")

    return write


def test_the_model_accepts_the_careful_writer():
    assert losses(careless()) == []
    assert losses(lambda backend: write_bytes_durably(backend, "x/a", b"content")) == []


@pytest.mark.parametrize("skipped_step", ["sync", "folder", "parent"])
def test_the_model_finds_a_writer_that_skips_a_step(skipped_step):
    """A7: the test would fail if a sync were removed from the code."""
    assert losses(careless(**{skipped_step: False}))


def test_writing_over_the_old_file_in_place_is_found():
    """A7: the classic mistake; the old content is gone before the new one is safe."""
    recording = RecordingBackend(MemoryBackend())
    write_bytes_durably(recording, "a", b"old content")
    recording.acknowledge("a")
    with recording.create("a") as file:
        file.write(b"new content")
        file.sync()
    contents = set()
    for state in crash_states(recording.operations):
        if state.acknowledged:
            with state.backend.open("a") as file:
                contents.add(file.read())
    assert {b"old content", b"new content"} < contents


def test_a_move_that_syncs_only_the_folder_it_leaves_is_found():
    """A9: the order of syncs in `move_aside` matters."""
    recording = RecordingBackend(MemoryBackend())
    write_bytes_durably(recording, "x/a", b"content")
    recording.acknowledge("a")
    recording.make_folder("archive")
    recording.sync_folder("")
    recording.replace("x/a", "archive/a")
    recording.sync_folder("x")
    recording.sync_folder("archive")
    states = [state.backend for state in crash_states(recording.operations) if state.acknowledged]
    assert any(not backend.exists("x/a") and not backend.exists("archive/a") for backend in states)
