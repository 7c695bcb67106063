"""Segments that checkpoints share: complete or absent, never taken for others, collected only when nobody needs them (A7, A10)."""

import pytest

from unbroken.errors import DamagedFile
from unbroken.store.checkpoint_file import CheckpointFile, write_checkpoint
from unbroken.store.durable import write_bytes_durably
from unbroken.store.repository import CheckpointRepository
from unbroken.store.segments import pack, reader_of, segments_of, verify_segments


def segment(repository, first, end, content=b"rows"):
    return repository.segments.write(first, end, lambda writer: writer.write_member("rows", content))


def save(repository, step, segments, **facts):
    def fill(writer):
        writer.write_member("data", b"state")
        return {"segments": [part.plain() for part in segments], **facts}

    return repository.save(step, fill)


def files(repository):
    return [entry.name for entry in repository.backend.entries(repository.segments.folder)]


def content(repository, record):
    with CheckpointFile(repository.backend, record.path) as file:
        found = []
        for part in segments_of(file.manifest):
            with reader_of(file, part) as reader:
                found.append(reader.read("rows"))
        return found


@pytest.mark.parametrize(("folder", "expected"), [("checkpoints", "replay"), ("", "replay"), ("a/b", "a/b/replay")])
def test_segments_lie_beside_the_checkpoints(backend, folder, expected):
    repository = CheckpointRepository(backend, "x", folder)
    record = save(repository, 5, [segment(repository, 0, 5, b"first"), segment(repository, 5, 9, b"second")])
    assert repository.segments.folder == expected
    assert content(repository, record) == [b"first", b"second"]
    assert repository.verified(record).valid is True


def test_only_what_no_checkpoint_names_is_collected(repository):
    old, shared, new, unnamed = (segment(repository, k, k + 1) for k in range(4))
    first = save(repository, 1, [old, shared])
    save(repository, 2, [shared, new])
    assert repository.collect_segments() == [unnamed.file]
    repository.remove(first)
    assert repository.collect_segments() == [old.file]
    assert files(repository) == [shared.file, new.file]


def test_nothing_is_collected_while_it_is_not_known_what_a_checkpoint_needs(repository, monkeypatch):
    """A damaged commit record, one that cannot be read, and one of a newer format may name any of them."""
    lost = segment(repository, 0, 1)
    record = save(repository, 1, [lost])
    path = repository.backend.local_path(record.path)
    path.write_bytes(path.read_bytes()[:-200])
    assert repository.collect_segments() == []
    monkeypatch.setattr("unbroken.store.checkpoint_writer.VERSION", 2)
    save(repository, 1, [lost])
    assert repository.records()[0].foreign
    assert repository.collect_segments() == []
    path.unlink()
    assert repository.collect_segments() == [lost.file]


def test_other_prefixes_and_other_files_are_left(backend):
    one, other = (CheckpointRepository(backend, prefix, "") for prefix in ("ppo", "ppo_2"))
    segment(one, 0, 1)
    segment(other, 0, 1)
    write_bytes_durably(backend, "replay/notes.zip", b"mine")
    assert one.collect_segments() == ["ppo_0-1.zip"]
    assert files(other) == ["notes.zip", "ppo_2_0-1.zip"]


def test_a_segment_never_replaces_one_of_its_name(repository):
    """Counts may come again, after a failed save or in a training begun anew."""
    first, second = segment(repository, 0, 1, b"first"), segment(repository, 0, 1, b"second")
    assert content(repository, save(repository, 1, [first])) == [b"first"]
    assert content(repository, save(repository, 2, [second])) == [b"second"]


@pytest.mark.parametrize("how", ["missing", "cut", "flipped", "another"])
def test_a_checkpoint_without_its_segment_is_not_valid_and_the_one_before_is_used(repository, how):
    """A7: what a checkpoint needs is part of what is verified; the reason names the file."""
    good, bad = segment(repository, 0, 1, b"good" * 100), segment(repository, 1, 2, b"bad!" * 100)
    save(repository, 1, [good])
    newest = save(repository, 2, [good, bad])
    path = repository.backend.local_path(f"replay/{bad.file}")
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "another":
        path.write_bytes(repository.backend.local_path(f"replay/{good.file}").read_bytes())
    else:
        path.write_bytes(content[:-300] if how == "cut" else content.replace(b"bad!", b"bad?", 1))
    skipped = {}
    found = CheckpointRepository(repository.backend, "sample_checkpoint", scenario="sample", run="sample").latest_valid(
        skipped.__setitem__
    )
    assert found.step == 1
    assert bad.file in skipped[newest.name]


def test_a_packed_checkpoint_needs_no_other_file(repository, tmp_path):
    record = save(repository, 7, [segment(repository, 0, 5, b"first"), segment(repository, 5, 9, b"second")], score=1.0)
    with CheckpointFile(repository.backend, record.path) as file:
        write_checkpoint(repository.backend, "elsewhere/packed.zip", lambda writer: pack(file, writer))
        facts = dict(file.manifest)
    with CheckpointFile(repository.backend, "elsewhere/packed.zip") as file:
        file.verify()
        verify_segments(file, set())
        own = ("members", "segments")
        assert {k: v for k, v in file.manifest.items() if k not in own} == {
            k: v for k, v in facts.items() if k not in own
        }
        write_checkpoint(repository.backend, "elsewhere/again.zip", lambda writer: pack(file, writer))
        parts = []
        for part in segments_of(file.manifest):
            with reader_of(file, part) as reader:
                parts.append((reader.names(), reader.read("rows")))
    assert parts == [(["rows"], b"first"), (["rows"], b"second")]
    with CheckpointFile(repository.backend, "elsewhere/again.zip") as file:
        file.verify()
        assert len(segments_of(file.manifest)) == 2


def test_an_entry_of_an_unknown_form_is_damage(repository):
    write_checkpoint(repository.backend, repository.path_for(1), lambda writer: {"segments": [{"file": "x"}]})
    with (
        CheckpointFile(repository.backend, repository.path_for(1)) as file,
        pytest.raises(DamagedFile, match="unknown form"),
    ):
        segments_of(file.manifest)
    assert repository.records()[0].valid is False
