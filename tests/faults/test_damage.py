"""Damaged, foreign and missing things in the folder: each is named, none is used, nothing is lost (A7, A10)."""

import contextlib
import errno
import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unbroken.errors import DamagedFile
from unbroken.store.checkpoint_file import CheckpointFile, ForeignFile, write_checkpoint
from unbroken.store.durable import LocalBackend, write_bytes_durably
from unbroken.store.memory import MemoryBackend
from unbroken.store.repository import CheckpointRepository
from unbroken.testing.backends import FaultyBackend
from unbroken.testing.samples import small_checkpoint

NEWEST = "sample_checkpoint_200_steps.zip"


def sample_bytes():
    backend = MemoryBackend()
    write_checkpoint(backend, "a.zip", small_checkpoint("sound"))
    with backend.open("a.zip") as file:
        return file.read()


SAMPLE = sample_bytes()


def holding(content):
    backend = MemoryBackend()
    with backend.create("a.zip") as file:
        file.write(content)
    return backend


def assert_damaged(content):
    """`verify` raises, and `read` raises or returns what was written."""
    sound = {
        "data": b'{"mark": "sound"}',
        "exact/log.txt": b"log " * 20,
        "exact/numbers.bin": bytes(range(40)) + b"end",
    }
    with CheckpointFile(holding(content), "a.zip") as file:
        with pytest.raises(DamagedFile) as caught:
            file.verify()
        for name, expected in sound.items():
            with contextlib.suppress(DamagedFile):
                assert file.read(name) == expected
    return caught.value


def test_every_truncation_is_found():
    """A7: cut at any byte, also to nothing."""
    for length in range(len(SAMPLE)):
        assert not isinstance(assert_damaged(SAMPLE[:length]), ForeignFile)


def test_a_flipped_bit_in_any_byte_is_found():
    """A7: every byte of the file, one bit each; it is called damage, not somebody else's file."""
    for index in range(len(SAMPLE)):
        flipped = bytearray(SAMPLE)
        flipped[index] ^= 1 << (index % 8)
        assert not isinstance(assert_damaged(bytes(flipped)), ForeignFile)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_of_a_stretch_is_found(data):
    """A7: overwritten, removed and inserted stretches; zeros as after a power loss."""
    begin = data.draw(st.integers(0, len(SAMPLE)))
    end = data.draw(st.integers(begin, len(SAMPLE)))
    new = data.draw(st.binary(max_size=40) | st.just(bytes(end - begin)))
    changed = SAMPLE[:begin] + new + SAMPLE[end:]
    if changed != SAMPLE:
        assert_damaged(changed)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty (zero bytes)"),
        (bytes(len(SAMPLE)), "not a zip file"),
        (b"hello", "not a zip file"),
        (SAMPLE[:-1], "truncated"),
        (SAMPLE[: len(SAMPLE) // 2], "truncated"),
        (SAMPLE + b"\0", "something after it"),
        (SAMPLE.replace(b'{"mark": "sound"}', b'{"mark": "Sound"}'), "member data"),
        (SAMPLE.replace(bytes(range(40)), bytes(40)), "member exact/numbers.bin"),
    ],
)
def test_what_is_wrong_is_named(content, reason):
    """A7: the line says which kind of damage, and where."""
    assert reason in str(assert_damaged(content))


def damage(repository, step, content):
    repository.backend.make_folder(repository.folder)
    with repository.backend.create(repository.path_for(step)) as file:
        file.write(content)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", bytes(500), SAMPLE[:-10]])
def test_a_damaged_newest_is_reported_kept_aside_and_skipped(repository, skipped, content):
    """A7: for the one before it."""
    repository.save(100, small_checkpoint())
    damage(repository, 200, content)
    assert repository.latest_valid(skipped).step == 100
    assert f"moved to quarantine/{NEWEST}" in skipped.all[NEWEST]
    assert "is damaged" in skipped.all[NEWEST]
    with repository.backend.open(f"quarantine/{NEWEST}") as file:
        assert file.read() == content
    assert [record.step for record in repository.records()] == [100]


def test_a_flipped_bit_deep_in_the_newest_is_found(repository, skipped):
    """A7: the commit record alone looks right."""
    repository.save(100, small_checkpoint())
    record = repository.save(200, small_checkpoint())
    path = repository.backend.local_path(record.path)
    path.write_bytes(path.read_bytes().replace(bytes(range(40)), bytes(40)))
    assert repository.records()[-1].valid is None
    assert repository.latest_valid(skipped).step == 100
    assert "member exact/numbers.bin" in skipped.all[NEWEST]


def test_all_damaged_means_none_and_all_are_kept(repository, skipped):
    """A9: nothing is silently deleted."""
    for step in (100, 200):
        damage(repository, step, b"")
    assert repository.latest_valid(skipped) is None
    assert len(skipped.all) == len(repository.backend.entries("quarantine")) == 2


def test_a_plain_zip_under_our_name_is_reported_and_left(repository, skipped):
    """A7, A8: a foreign file that matches the pattern."""
    repository.save(100, small_checkpoint())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("policy.pth", b"weights")
    damage(repository, 200, buffer.getvalue())
    assert repository.latest_valid(skipped).step == 100
    assert "not a checkpoint of unbroken" in skipped.all[NEWEST]
    assert repository.backend.local_path(repository.path_for(200)).read_bytes() == buffer.getvalue()
    assert repository.backend.entries("quarantine") == []


def test_leftover_temporary_files_are_never_mistaken(repository):
    """A7: what a killed save left is no checkpoint, however complete it looks."""
    repository.save(100, small_checkpoint())
    name = f".{NEWEST}.4711-3.tmp"
    write_bytes_durably(repository.backend, f"checkpoints/{name}", SAMPLE)
    assert [record.step for record in repository.records()] == [100]
    assert repository.latest_valid(pytest.fail).step == 100
    assert repository.remove_leftovers() == [name]


def test_a_read_only_folder_skips_without_moving(skipped):
    """A10: a damaged file that cannot be moved is still skipped."""
    inner = MemoryBackend()
    writable = CheckpointRepository(inner, "sample_checkpoint")
    writable.save(100, small_checkpoint())
    damage(writable, 200, b"")
    changing = ("create", "replace", "remove", "make_folder", "sync_folder")
    error = OSError(errno.EROFS, "Read-only file system")
    read_only = FaultyBackend(inner, lambda operation, path: error if operation in changing else None)
    repository = CheckpointRepository(read_only, "sample_checkpoint")
    assert repository.latest_valid(skipped).step == 100
    assert "cannot be moved" in skipped.all[NEWEST]
    with pytest.raises(OSError, match="Read-only"):
        repository.save(300, small_checkpoint())
    assert repository.latest_valid(skipped).step == 100


def test_a_failing_disk_is_not_damage(skipped):
    """A10: what cannot be read now is skipped, named and left where it is."""
    inner = MemoryBackend()
    writable = CheckpointRepository(inner, "sample_checkpoint")
    for step in (100, 200):
        writable.save(step, small_checkpoint())
    error = OSError(errno.EIO, "Input/output error")
    failing = FaultyBackend(inner, lambda operation, path: error if operation == "open" and "_200_" in path else None)
    repository = CheckpointRepository(failing, "sample_checkpoint")
    assert repository.latest_valid(skipped).step == 100
    assert "cannot be read: [Errno 5] Input/output error" in skipped.all[NEWEST]
    assert inner.exists(f"checkpoints/{NEWEST}")


def test_a_disk_that_recovers_gives_the_checkpoint_with_its_facts():
    """A10: a passing read error does not make a checkpoint invalid."""
    backend = MemoryBackend()
    CheckpointRepository(backend, "sample_checkpoint").save(200, small_checkpoint(score=4.0))
    errors = [OSError(errno.EIO, "Input/output error")]
    failing = FaultyBackend(backend, lambda operation, path: errors.pop() if operation == "open" and errors else None)
    record = CheckpointRepository(failing, "sample_checkpoint").latest_valid(pytest.fail)
    assert (record.valid, record.score, record.sequence) == (True, 4.0, 1)


def test_disk_full_at_any_operation_keeps_the_last_good_one(tmp_path):
    """A10: ENOSPC at each single operation of a save; the next save works again."""
    local = LocalBackend(tmp_path)
    CheckpointRepository(local, "sample_checkpoint").save(100, small_checkpoint())
    error = OSError(errno.ENOSPC, "No space left on device")
    for operation in ("make_folder", "create", "write", "sync", "close", "replace", "sync_folder"):
        full = FaultyBackend(local, lambda name, path, at=operation: error if name == at else None)
        with pytest.raises(OSError, match="No space left"):
            CheckpointRepository(full, "sample_checkpoint").save(200, small_checkpoint())
        assert full.counts[operation] > 0
        repository = CheckpointRepository(local, "sample_checkpoint")
        assert repository.latest_valid(pytest.fail).step == 100
        assert repository.remove_leftovers() == []
    assert repository.save(300, small_checkpoint()).step == 300
    assert repository.latest_valid(pytest.fail).step == 300


@settings(max_examples=40, deadline=None)
@given(room=st.integers(0, len(SAMPLE) - 1))
def test_disk_full_at_any_byte_keeps_the_last_good_one(room):
    """A10: a disk with room for some bytes of the second checkpoint, not for all."""
    backend = MemoryBackend(capacity=len(SAMPLE) + room)
    repository = CheckpointRepository(backend, "sample_checkpoint")
    with backend_file(backend, repository.path_for(100)) as file:
        file.write(SAMPLE)
    with pytest.raises(OSError, match="no space"):
        repository.save(200, small_checkpoint())
    assert repository.latest_valid(pytest.fail).step == 100
    assert [entry.name for entry in backend.entries("checkpoints")] == ["sample_checkpoint_100_steps.zip"]


def backend_file(backend, path):
    backend.make_folder("checkpoints")
    return backend.create(path)
