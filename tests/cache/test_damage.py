"""Damaged, foreign, old and hostile files in the cache's folder: each is named in one line, none is used (D5; A7 for results)."""

import io
import json
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unbroken.cache import Result, ResultCache, inputs
from unbroken.cache.entry import (
    EntryName,
    OtherFormat,
    read_entry,
    read_record,
    scenario_in_names,
    verify_entry,
    write_entry,
)
from unbroken.cache.upkeep import held_entries, verify
from unbroken.errors import DamagedFile
from unbroken.remotes.lfs_pointer import LfsPointer
from unbroken.store.checkpoint_file import write_checkpoint
from unbroken.store.memory import MemoryBackend
from unbroken.testing.samples import small_checkpoint
from unbroken.testing.walks import Walk, same_rows, uninterrupted

STEPS = 6


def walk():
    return Walk()


NAME = EntryName.of(walk().inputs(), STEPS).text()


def sound():
    backend = MemoryBackend()
    write_entry(backend, walk().inputs(), walk().compute(STEPS))
    with backend.open(NAME) as file:
        return file.read()


SOUND = sound()


def holding(content):
    backend = MemoryBackend()
    with backend.create(NAME) as file:
        file.write(content)
    return backend


def with_entry(folder, content, name=NAME):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def test_every_truncation_is_found():
    """D5: cut at any byte, also to nothing."""
    for length in range(len(SOUND)):
        with pytest.raises(DamagedFile):
            read_entry(holding(SOUND[:length]), NAME)


def test_a_flipped_bit_in_any_byte_is_found():
    """D5: every byte of the file, those of the zip's own headers and of the comment too."""
    for index in range(len(SOUND)):
        flipped = bytearray(SOUND)
        flipped[index] ^= 1 << (index % 8)
        with pytest.raises(DamagedFile):
            read_entry(holding(bytes(flipped)), NAME)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_change_of_a_stretch_is_found(data):
    """D5: overwritten, removed and inserted stretches; zeros as after a power loss."""
    begin = data.draw(st.integers(0, len(SOUND)))
    end = data.draw(st.integers(begin, len(SOUND)))
    changed = SOUND[:begin] + data.draw(st.binary(max_size=40) | st.just(bytes(end - begin))) + SOUND[end:]
    if changed != SOUND:
        with pytest.raises(DamagedFile):
            read_entry(holding(changed), NAME)


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def entry_of(inputs_, result):
    backend = MemoryBackend()
    name = write_entry(backend, inputs_, result)
    with backend.open(name) as file:
        return file.read()


def checkpoint():
    backend = MemoryBackend()
    write_checkpoint(backend, "a.zip", small_checkpoint("sound"))
    with backend.open("a.zip") as file:
        return file.read()


POINTER = LfsPointer("a" * 64, len(SOUND)).text()
PROBLEMS = {
    "truncated": (SOUND[: len(SOUND) // 2], "it is truncated or was never finished"),
    "zero bytes": (b"", "the file is empty (zero bytes)"),
    "only zeros": (bytes(len(SOUND)), "it is not a zip file"),
    "Git LFS pointer": (POINTER, "it is a Git LFS pointer, its content was never fetched ('git lfs pull' fetches it)"),
    "pointer with CRLF": (POINTER.replace(b"\n", b"\r\n"), "it is a Git LFS pointer"),
    "foreign zip": (zipped(a="b"), "it is no entry but a file of something else"),
    "a checkpoint": (checkpoint(), "it is a checkpoint, not an entry of the cache"),
    "other steps": (entry_of(walk().inputs(), walk().compute(STEPS + 1)), "its name is not that of what it holds"),
    "other inputs": (entry_of(Walk(1).inputs(), Walk(1).compute(STEPS)), "its name is not that of what it holds"),
    "other scenario": (entry_of(walk().inputs("run"), walk().compute(STEPS)), "its name is not that of what it holds"),
    "a page of HTML": (b"<html>404</html>", "it is not a zip file"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_cannot_be_used_is_named_put_aside_and_computed_again(cache, lines, problem):
    """D5: one line with the reason and where the file went; then the entry is good again."""
    content, reason = PROBLEMS[problem]
    with_entry(cache.folder, content)
    answer = walk().ask(cache, STEPS)
    assert answer.how == "computed"
    assert same_rows(answer.result, uninterrupted(STEPS))
    (warning,) = lines.warnings()
    assert warning.startswith(f"[CACHE BASELINE] WARNING: {NAME} cannot be used: {reason}")
    assert warning.endswith(f"Moved to quarantine/{NAME}; computing it again")
    assert warning.count(NAME) == 2
    assert (cache.folder / "quarantine" / NAME).read_bytes() == content
    assert (cache.folder / NAME).read_bytes() == SOUND
    assert walk().ask(cache, STEPS).how == "hit"


def test_nothing_in_quarantine_is_overwritten(cache):
    """Nothing is deleted silently: the second damaged file lies beside the first."""
    for content in (b"one", b"two"):
        with_entry(cache.folder, content)
        walk().ask(cache, STEPS)
    assert sorted(path.read_bytes() for path in (cache.folder / "quarantine").iterdir()) == [b"one", b"two"]


def test_a_damaged_short_entry_is_not_extended(cache, lines):
    """D2, D5: a damaged beginning is put aside, and the whole computed."""
    with_entry(cache.folder, SOUND[:-1])
    answer = walk().ask(cache, STEPS + 3)
    assert answer.how == "computed"
    assert same_rows(answer.result, uninterrupted(STEPS + 3))
    assert "cannot be used" in lines.warnings()[0]


def test_a_damaged_entry_among_sound_ones(cache, lines):
    """D5: the longer sound entry serves, and the damaged one is named all the same."""
    longer = entry_of(walk().inputs(), walk().compute(STEPS + 4))
    with_entry(cache.folder, longer, EntryName.of(walk().inputs(), STEPS + 4).text())
    with_entry(cache.folder, SOUND[:-1])
    answer = walk().ask(cache, STEPS)
    assert answer.how == "hit"
    assert same_rows(answer.result, uninterrupted(STEPS))
    assert NAME in lines.warnings()[0]


def test_find_puts_aside_too(cache, lines):
    with_entry(cache.folder, SOUND[:-1])
    assert cache.find(walk().inputs(), STEPS) is None
    assert len(lines.warnings()) == 1
    assert not (cache.folder / NAME).exists()


def test_foreign_files_and_folders_are_left_alone(cache, lines):
    """Whatever else lies in the folder is neither used nor touched nor counted."""
    others = {"readme.txt": b"mine", "a.zip": zipped(a="b"), NAME.replace(".zip", ".npz"): b"x"}
    others |= {f"{NAME}.part": b"", f"x{NAME[:-5]}": b""}
    for name, content in others.items():
        with_entry(cache.folder, content, name)
    (cache.folder / "walk_00000000_baseline_cache_3_steps_000000000000000000000000.zip").mkdir()
    cache.limit_bytes = 10**6
    assert walk().ask(cache, STEPS).how == "computed"
    assert walk().ask(cache, STEPS).how == "hit"
    assert not lines.warnings()
    assert {name: (cache.folder / name).read_bytes() for name in others} == others


def test_a_folder_of_an_entrys_name_does_no_harm(cache, lines):
    """The result is there all the same; what is wrong is said."""
    (cache.folder / NAME).mkdir(parents=True)
    assert same_rows(walk().ask(cache, STEPS).result, uninterrupted(STEPS))
    assert any("cannot be read" in line for line in lines.warnings())
    assert any("not saved" in line for line in lines.warnings())


def test_entries_of_an_older_format_stay_and_are_named(cache, lines, monkeypatch):
    """D5: a cache that an older version filled: nothing of it is used, moved or deleted."""
    monkeypatch.setattr(inputs, "FORMAT", 0)
    old_name = EntryName.of(walk().inputs(), STEPS).text()
    old = entry_of(walk().inputs(), walk().compute(STEPS))
    monkeypatch.undo()
    assert old_name != NAME
    with_entry(cache.folder, old, old_name)
    assert walk().ask(cache, STEPS).how == "computed"
    assert any("1 of another version of the cache are not used" in line for line in lines.all())
    assert (cache.folder / old_name).read_bytes() == old
    (checked,) = verify(cache.folder, old_name)
    assert (checked.word, checked.is_damaged) == ("other", False)
    assert "has cache format 0, this version reads 1" in checked.problem


def changed_record(content, change):
    """The same entry whose commit record went through `change`, with right hashes: what another version could write."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != "exact/manifest.json"}
        facts = json.loads(archive.read("exact/manifest.json"))
    facts = change({key: value for key, value in facts.items() if key not in ("format", "version", "members")})
    backend = MemoryBackend()

    def fill(writer):
        for name, data in {**members, **facts.pop("+", {})}.items():
            writer.write_member(name, data)
        return facts

    write_checkpoint(backend, "a.zip", fill)
    with backend.open("a.zip") as file:
        return file.read()


def test_an_entry_of_another_format_under_our_name_stays(cache, lines):
    """D5: not used, not overwritten; the result is computed and not kept."""
    other = changed_record(SOUND, lambda facts: facts | {"inputs": facts["inputs"] | {"format": 9}})
    with_entry(cache.folder, other)
    assert walk().ask(cache, STEPS).how == "computed"
    assert (cache.folder / NAME).read_bytes() == other
    assert "has cache format 9, this version reads 1: upgrade unbroken to use it. It stays" in lines.warnings()[0]
    assert "not saved" in lines.warnings()[-1]


def test_a_newer_file_format_stays(cache, lines):
    """D5: the container of a later version, which cannot be checked here."""
    newer = SOUND.replace(b'"version": 1,', b'"version": 2,')
    with_entry(cache.folder, rehashed(newer))
    assert walk().ask(cache, STEPS).how == "computed"
    assert (cache.folder / NAME).read_bytes() == rehashed(newer)
    assert "newer than 1" in lines.warnings()[0]


def rehashed(content, original=SOUND):
    """The file with right checksums of the zip's commit record and of everything; `original` is that before the change."""
    import struct
    import zlib

    from unbroken.store.checkpoint_writer import COMMENT_LENGTH, new_digest

    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        old = zlib.crc32(archive.read("exact/manifest.json"))
    start = content.index(b'{\n "format"')
    new = zlib.crc32(content[start : start + archive.getinfo("exact/manifest.json").file_size])
    content = content.replace(struct.pack("<L", old), struct.pack("<L", new))
    digest = new_digest()
    digest.update(content[:-COMMENT_LENGTH])
    return content[:-64] + digest.hexdigest().encode()


HOSTILE = {
    "arrays without names": lambda facts: facts | {"+": arrays_of([1, 2])},
    "rows of another number": lambda facts: facts | {"+": arrays_of({"x": np.zeros(STEPS + 1)})},
    "steps without arrays": lambda facts: facts | {"+": arrays_of({})},
    "a number instead of an array": lambda facts: facts | {"+": arrays_of({"x": 3})},
    "an array of objects": lambda facts: facts | {"+": {"exact/arrays.json": OBJECTS, "exact/arrays.bin": bytes(64)}},
    "an array beyond its block": lambda facts: facts | {"+": {"exact/arrays.bin": b""}},
    "no JSON": lambda facts: facts | {"+": {"exact/arrays.json": b"cos\nsystem\n(S'touch hacked'\ntR."}},
    "deep JSON": lambda facts: facts | {"+": {"exact/arrays.json": b"[" * 100_000}},
    "facts of another kind": lambda facts: facts | {"facts": []},
    "no context": lambda facts: {key: value for key, value in facts.items() if key != "context"},
    "steps of another kind": lambda facts: facts | {"steps": [STEPS]},
    "an infinite input": lambda facts: facts | {"inputs": facts["inputs"] | {"values": float("inf")}},
    "inputs of another kind": lambda facts: facts | {"inputs": [1]},
}
OBJECTS = json.dumps({"version": 1, "tree": {"x": {"$array": [0, "|O", [STEPS]]}}}).encode()


def arrays_of(description):
    from unbroken.capture.codec import encode

    encoded = encode(description)
    return {"exact/arrays.json": encoded.document, "exact/arrays.bin": b"".join(map(bytes, encoded.block()))}


@pytest.mark.parametrize("change", HOSTILE)
def test_an_entry_that_is_no_result_is_damaged(cache, lines, change):
    """D5: right hashes around something that this version would never write."""
    with_entry(cache.folder, changed_record(SOUND, HOSTILE[change]))
    answer = walk().ask(cache, STEPS)
    assert answer.how == "computed"
    assert same_rows(answer.result, uninterrupted(STEPS))
    (warning,) = lines.warnings()
    assert "cannot be used" in warning


def deflated(document):
    """The same entry with its members compressed and that document of its arrays, with right hashes."""
    with zipfile.ZipFile(io.BytesIO(SOUND)) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != "exact/manifest.json"}
        facts = json.loads(archive.read("exact/manifest.json"))
    backend = MemoryBackend()

    def fill(writer):
        for name, data in (members | {"exact/arrays.json": document}).items():
            writer.write_member(name, data, deflate=True)
        return {key: value for key, value in facts.items() if key not in ("format", "version", "members")}

    write_checkpoint(backend, "a.zip", fill)
    with backend.open("a.zip") as file:
        return file.read()


@pytest.mark.parametrize("spoilt", [b"", b"0"])
def test_what_is_compressed_is_damage_and_not_inflated(spoilt):
    """D5: a small object that becomes large in memory, also where a wrong hash makes the reader look for the culprit."""
    document = json.dumps({"version": 1, "tree": {"x": [0] * 4}}).encode()
    bomb = deflated(document[:-1] + b" " * 64_000_000 + b"}")
    bomb = bomb[: len(bomb) - len(spoilt)] + spoilt
    for read in (read_entry, verify_entry):
        backend = holding(bomb)
        tracemalloc.start()
        try:
            with pytest.raises(DamagedFile, match="compressed"):
                read(backend, NAME)
            assert tracemalloc.get_traced_memory()[1] < 16_000_000
        finally:
            tracemalloc.stop()
    if not spoilt:
        with pytest.raises(DamagedFile, match="compressed"):
            read_record(holding(bomb), NAME)


def test_a_newer_file_format_may_compress():
    """D5: what a later version writes is not called damaged by this one."""
    newer = deflated(b"{}").replace(b'"version": 1,', b'"version": 2,')
    with pytest.raises(OtherFormat, match="newer than 1"):
        read_entry(holding(rehashed(newer, deflated(b"{}"))), NAME)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_ever_unpickled(cache, tmp_path):
    """Promise 6: pickles in members that torch, numpy or SB3 would load do nothing, used or refused."""
    mark = tmp_path / "hacked"
    bomb = pickle.dumps(Touch(mark))
    npy = io.BytesIO()
    np.save(npy, np.array([Touch(mark)], dtype=object), allow_pickle=True)
    extra = {"data.pkl": bomb, "data": bomb, "policy.pth": bomb, "x.npy": npy.getvalue(), "exact/end.json.pkl": bomb}
    with_entry(cache.folder, changed_record(SOUND, lambda facts: facts | {"+": extra}))
    assert walk().ask(cache, STEPS).how == "hit", "members that nobody asks for are nobody's"
    for member in ("exact/arrays.json", "exact/arrays.bin", "exact/end.json"):
        content = changed_record(SOUND, lambda facts, own=member: facts | {"+": {own: bomb}})
        with_entry(cache.folder, content)
        assert walk().ask(cache, STEPS).how == "computed", member
    with_entry(cache.folder, bomb)
    assert walk().ask(cache, STEPS).how == "computed"
    assert not mark.exists()
    pickle.loads(bomb).close()
    assert mark.exists(), "the pickle would have done something"


def test_wrong_names_are_found_by_verify(cache):
    """D5: an entry that somebody renamed, to another scenario, kind, number of steps or fingerprint."""
    walk().ask(cache, STEPS)
    content = (cache.folder / NAME).read_bytes()
    for old, new in (("walk", "run"), ("baseline", "rl"), (f"_{STEPS}_", "_7_"), (NAME[-10:-4], "000000")):
        with_entry(cache.folder, content, NAME.replace(old, new))
    problems = {checked.file: checked.problem for checked in verify(cache.folder)}
    assert problems.pop(NAME) is None
    assert len(problems) == 4
    assert set(problems.values()) == {"its name is not that of what it holds"}
    assert len(held_entries(cache.folder)) == 5


def test_names_that_are_no_entries():
    for name in (
        *(
            "a.zip",
            f".{NAME}",
            f"a/{NAME}",
            f"a\\{NAME}",
            f"{NAME}\n",
            NAME.replace("_6_", "_06_"),
            NAME.replace("_6_", "_٦_"),
        ),
        *(
            NAME.replace("baseline", "base"),
            NAME.upper(),
            NAME.replace("walk", "")[1:],
            f"C:{NAME}",
            NAME.replace("walk", "\x00"),
        ),
    ):
        assert EntryName.parsed(name) is None, name
    for steps in (None, 0, 1, 10**12):
        name = EntryName.of(walk().inputs(), steps)
        assert EntryName.parsed(name.text()) == name


@pytest.mark.parametrize("letter", ["\x1b", "\x7f", "\x85", "\x9b", "\u200f", "\u2028", "\u202e", "\u2066", "\ud800"])
def test_names_hold_nothing_that_a_terminal_obeys(letter):
    """G3: control characters and those that turn the direction of writing: refused from elsewhere, replaced in our own."""
    assert EntryName.parsed(NAME.replace("walk", f"wa{letter}lk")) is None
    assert scenario_in_names(f"wa{letter}lk") == "wa-lk"
    assert scenario_in_names("é ع\u200c 漢") == "é ع\u200c 漢"


def test_what_an_entry_says_of_itself_is_escaped_in_messages(cache, lines):
    """G3: a format, or the name of a member, that somebody else chose."""
    with_entry(
        cache.folder, changed_record(SOUND, lambda facts: facts | {"inputs": facts["inputs"] | {"format": "\x9b2J"}})
    )
    walk().ask(cache, STEPS)
    version = {"exact/arrays.json": b'{"version": "\\u001b[2J"}'}
    with_entry(cache.folder, changed_record(SOUND, lambda facts: facts | {"+": version}))
    walk().ask(cache, STEPS)
    spoilt = changed_record(SOUND, lambda facts: facts | {"+": {"\x9bm": b"abc"}})
    place = spoilt.index(b"abc")
    with_entry(cache.folder, spoilt[:place] + b"x" + spoilt[place + 1 :])
    walk().ask(cache, STEPS)
    said = "".join(lines.warnings())
    assert '"\\x9b2J"' in said
    assert "state format '\\x1b[2J'" in said
    assert "member \\x9bm cannot be read" in said
    assert all(line.isprintable() for line in lines.all())


def test_other_format_is_a_kind_of_damage():
    """Who does not know the difference does not use the entry."""
    assert issubclass(OtherFormat, DamagedFile)


def test_results_are_read_where_they_were_written_by_others(tmp_path):
    """D5: what `Result` gives back is what was given: types, shapes, empty and zero-dimensional arrays, text."""
    arrays = {
        "f4": np.arange(6, dtype="f4").reshape(2, 3)[:, ::-1],
        "empty": np.zeros((0, 5)),
        "scalar": np.array(3.5),
        "text": np.array(["a", "bé"]),
        "bool": np.array([True, False]),
        "big": np.arange(3, dtype=">i8"),
    }
    cache = ResultCache(tmp_path)
    given_ = cache.get_or_compute(walk().inputs(), lambda: Result(arrays, None, facts={"a": [1, {"b": None}]}))
    found = cache.get_or_compute(walk().inputs(), lambda: pytest.fail("computed"))
    assert found.facts == {"a": [1, {"b": None}]}
    for name, array in arrays.items():
        for result in (given_, found):
            assert result.arrays[name].dtype == array.dtype
            assert result.arrays[name].shape == array.shape
            assert result.arrays[name].tobytes() == array.tobytes()
