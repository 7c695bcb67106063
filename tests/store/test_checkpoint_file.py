"""The container: an ordinary zip that says when it is complete, and returns nothing that is altered (A7, A13)."""

import hashlib
import io
import json
import zipfile

import pytest

from unbroken.errors import DamagedFile, NotFound
from unbroken.store.checkpoint_file import (
    MANIFEST,
    CheckpointFile,
    CheckpointWriter,
    ForeignFile,
    NewerFormat,
    read_manifest,
    write_checkpoint,
)
from unbroken.store.durable import write_bytes_durably
from unbroken.store.memory import MemoryBackend
from unbroken.testing.samples import small_checkpoint


@pytest.fixture
def memory():
    return MemoryBackend()


def raw(backend, path="a.zip"):
    with backend.open(path) as file:
        return file.read()


def plain_zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_what_is_written_comes_back(backend):
    info = write_checkpoint(backend, "x/a.zip", small_checkpoint("é", score=1.5))
    with CheckpointFile(backend, "x/a.zip") as file:
        file.verify()
        assert file.names() == ["data", "exact/log.txt", "exact/numbers.bin"]
        assert file.read("exact/numbers.bin") == bytes(range(40)) + b"end"
        assert file.read("exact/log.txt") == b"log " * 20
        assert file.manifest == info.manifest
    assert info.manifest["score"] == 1.5
    assert info.size == backend.entries("x")[0].size


def test_it_is_an_ordinary_zip_with_the_commit_record_last(memory):
    """A13: any zip tool reads it."""
    write_checkpoint(memory, "a.zip", small_checkpoint())
    with zipfile.ZipFile(io.BytesIO(raw(memory))) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[-1] == MANIFEST
        manifest = json.loads(archive.read(MANIFEST))
    assert (manifest["format"], manifest["version"]) == ("unbroken-checkpoint", 1)
    assert manifest["members"]["data"]["blake2b"] == hashlib.blake2b(b'{"mark": ""}', digest_size=32).hexdigest()


def test_the_comment_is_the_hash_of_everything_before_it(memory):
    info = write_checkpoint(memory, "a.zip", small_checkpoint())
    content = raw(memory)
    prefix = b"unbroken-checkpoint 1 blake2b:"
    begin = content.rindex(prefix)
    digest = hashlib.blake2b(content[:begin], digest_size=32).hexdigest()
    assert content[begin:] == prefix + digest.encode()
    assert info.digest == digest


def test_equal_content_gives_equal_bytes(memory):
    """A6: a checkpoint does not depend on when it is written."""
    write_checkpoint(memory, "a.zip", small_checkpoint())
    write_checkpoint(memory, "b.zip", small_checkpoint())
    assert raw(memory, "a.zip") == raw(memory, "b.zip")


def test_chunks_larger_than_the_buffer(memory):
    large = bytes(range(256)) * 4096 * 3

    def fill(writer):
        with writer.member("large") as file:
            for size in (1, 100, 1 << 20, 3):
                file.write(memoryview(large)[:size])
            file.write(large)
        return {}

    write_checkpoint(memory, "a.zip", fill)
    with CheckpointFile(memory, "a.zip") as file:
        file.verify()
        assert file.read("large") == large[:1] + large[:100] + large[: 1 << 20] + large[:3] + large


def test_arrays_of_other_items_are_counted_in_bytes(memory):
    def fill(writer):
        with writer.member("numbers") as file:
            assert file.write(memoryview(bytearray(16)).cast("d")) == 16
        return {}

    info = write_checkpoint(memory, "a.zip", fill)
    assert info.manifest["members"]["numbers"]["size"] == 16


def test_numpy_and_torch_write_into_a_member(memory):
    """A14: `torch.save` and `numpy.save` need only write and flush."""
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")

    def fill(writer):
        with writer.member("a.npy") as file:
            numpy.save(file, numpy.arange(6.0).reshape(2, 3), allow_pickle=False)
        with writer.member("policy.pth") as file:
            torch.save({"w": torch.ones(3)}, file)
        return {}

    write_checkpoint(memory, "a.zip", fill)
    with CheckpointFile(memory, "a.zip") as file:
        file.verify()
        assert numpy.load(io.BytesIO(file.read("a.npy")), allow_pickle=False).sum() == 15
        assert torch.load(io.BytesIO(file.read("policy.pth")), weights_only=True)["w"].sum() == 3


@pytest.mark.parametrize("name", ["data", MANIFEST, ""])
def test_a_taken_or_reserved_name_is_refused(memory, name):
    def fill(writer):
        writer.write_member("data", b"")
        writer.write_member(name, b"")

    with pytest.raises(ValueError, match="cannot take another member"):
        write_checkpoint(memory, "a.zip", fill)
    assert memory.entries("") == []


def test_facts_cannot_hide_the_members(memory):
    with pytest.raises(ValueError, match="members"):
        write_checkpoint(memory, "a.zip", lambda writer: {"members": {}})


def test_facts_that_are_not_plain_data_leave_the_old_checkpoint(memory):
    write_checkpoint(memory, "a.zip", small_checkpoint("old"))
    with pytest.raises(TypeError):
        write_checkpoint(memory, "a.zip", small_checkpoint(score=object()))
    with CheckpointFile(memory, "a.zip") as file:
        assert b"old" in file.read("data")


def test_a_half_written_member_is_never_committed(memory):
    """A7: swallowing the exception of a member does not make the checkpoint look complete."""

    def fill(writer):
        try:
            with writer.member("half") as file:
                file.write(b"ha")
                raise RuntimeError
        except RuntimeError:
            pass
        return {}

    with pytest.raises(ValueError, match="another write handle"):
        write_checkpoint(memory, "a.zip", fill)
    assert memory.entries("") == []


def test_a_writer_that_is_left_without_finish_makes_no_checkpoint(memory):
    with memory.create("a.zip") as sink, CheckpointWriter(sink) as writer:
        writer.write_member("data", b"x" * (2 << 20))
    with CheckpointFile(memory, "a.zip") as file, pytest.raises(DamagedFile, match="truncated or was never finished"):
        file.verify()


def test_a_missing_file_and_a_missing_member_are_not_found(memory):
    with pytest.raises(NotFound, match=r"no checkpoint a\.zip"):
        read_manifest(memory, "a.zip")
    write_checkpoint(memory, "a.zip", small_checkpoint())
    with CheckpointFile(memory, "a.zip") as file, pytest.raises(NotFound, match="no member other"):
        file.read("other")


def test_a_plain_zip_is_foreign_not_damaged(memory):
    """A7, A8: a plain SB3 zip has no commit record."""
    write_bytes_durably(memory, "a.zip", plain_zip({"data": "{}", "policy.pth": "x"}))
    with CheckpointFile(memory, "a.zip") as file:
        with pytest.raises(ForeignFile, match="not a checkpoint of unbroken"):
            file.verify()
        with pytest.raises(ForeignFile):
            _ = file.manifest


def test_another_format_is_foreign(memory):
    write_bytes_durably(memory, "a.zip", plain_zip({MANIFEST: '{"format": "other"}'}))
    with CheckpointFile(memory, "a.zip") as file, pytest.raises(ForeignFile, match="another format"):
        file.verify()


def test_a_newer_version_says_upgrade(memory):
    manifest = '{"format": "unbroken-checkpoint", "version": 2}'
    write_bytes_durably(memory, "a.zip", plain_zip({MANIFEST: manifest}))
    with CheckpointFile(memory, "a.zip") as file, pytest.raises(NewerFormat, match=r"format 2, newer than 1.*upgrade"):
        file.verify()


@pytest.mark.parametrize(
    "manifest",
    [
        '{"format": "unbroken-checkpoint", "version": 0, "members": {}}',
        '{"format": "unbroken-checkpoint", "version": 1}',
        '{"format": "unbroken-checkpoint", "version": 1, "members": {"a": 1}}',
        '{"format": "unbroken-checkpoint", "version": 1, "members": {"a": {"size": -1, "blake2b": ""}}}',
        "{",
        "[" * 100_000,
    ],
)
def test_a_malformed_commit_record_is_damage(memory, manifest):
    write_bytes_durably(memory, "a.zip", plain_zip({MANIFEST: manifest}))
    with pytest.raises(DamagedFile):
        read_manifest(memory, "a.zip")


def test_an_enormous_commit_record_is_not_read(memory):
    """G3: a fetched file cannot fill the memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, b" " * (16 * 1024 * 1024 + 1))
    write_bytes_durably(memory, "a.zip", buffer.getvalue())
    with pytest.raises(DamagedFile, match="larger than"):
        read_manifest(memory, "a.zip")


def test_a_member_larger_than_recorded_is_not_read(memory):
    """A7: a rewritten zip whose members are not those of its record."""
    write_checkpoint(memory, "a.zip", small_checkpoint())
    with zipfile.ZipFile(io.BytesIO(raw(memory))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    write_bytes_durably(memory, "b.zip", plain_zip({**members, "data": b"something longer than it was"}))
    with CheckpointFile(memory, "b.zip") as file:
        with pytest.raises(DamagedFile, match="another size"):
            file.read("data")
        with pytest.raises(DamagedFile, match="its end is truncated, altered"):
            file.verify()


def test_a_closed_file_says_how_to_use_it(memory):
    with pytest.raises(ValueError, match="with statement"):
        CheckpointFile(memory, "a.zip").verify()
