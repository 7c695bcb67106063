"""A journal's file on its own: whatever is cut off or altered, what comes before it can be read (A7)."""

import numpy as np
import pytest

from unbroken.errors import DamagedFile
from unbroken.journal.file import Head, JournalWriter, frames, scan
from unbroken.journal.segments import find_chain, records_of

HEAD = Head("a1", None, 64, "world")


def record(number):
    return {"result": {"t": "array", "i": 0, "v": np.full(3, number)}, "number": number}


def written(folder, head=HEAD, points=(True, False, True), *, sealed=False):
    """A file with a frame of two records for each of `points`; where each frame ends."""
    writer = JournalWriter.create(folder, head)
    ends = [writer.path.stat().st_size]
    for number, has_point in enumerate(points):
        records = [record(2 * number), record(2 * number + 1)]
        writer.append({"records": records, "point": {"step": number} if has_point else None, "sealed": False})
        ends.append(writer.path.stat().st_size)
    if sealed:
        writer.append({"records": [record(99)], "point": None, "sealed": True})
    writer.close()
    return writer.path, ends


def test_frames_come_back_as_they_were(tmp_path):
    path, ends = written(tmp_path / "journal")
    found = list(frames(path))
    assert [frame.end for frame in found] == ends
    assert [frame.content["point"] for frame in found[1:]] == [{"step": 0}, None, {"step": 2}]
    assert [entry["number"] for entry in found[2].content["records"]] == [2, 3]
    scanned = scan(path)
    assert (scanned.head, scanned.records, scanned.all_records) == (HEAD, 6, 6)
    assert scanned.damage is None


def test_cut_anywhere_the_frames_before_are_whole(tmp_path):
    """A7: at every single byte."""
    path, ends = written(tmp_path / "journal")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size < ends[0]:
            with pytest.raises(DamagedFile):
                scan(path)
            continue
        scanned = scan(path)
        assert scanned.all_records == 2 * sum(end <= size for end in ends[1:])
        assert (scanned.damage is None) == (size in ends)
        assert (scanned.last is not None) == (size >= ends[1])


def test_a_byte_altered_anywhere_ends_the_file_there(tmp_path):
    """A7: and never raises anything but DamagedFile."""
    path, ends = written(tmp_path / "journal")
    whole = path.read_bytes()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 0x41
        path.write_bytes(altered)
        if place < ends[0]:
            with pytest.raises(DamagedFile):
                scan(path)
            continue
        scanned = scan(path)
        assert scanned.damage is not None
        assert scanned.all_records == 2 * sum(end <= place for end in ends[1:])


def test_a_frame_of_another_file_does_not_continue_this_one(tmp_path):
    """A7: a block of a removed file that a power loss leaves behind the end."""
    path, ends = written(tmp_path / "journal")
    other, _ = written(tmp_path / "other", Head("b2", None, 64, "world"))
    path.write_bytes(path.read_bytes()[: ends[1]] + other.read_bytes()[ends[1] :])
    assert scan(path).all_records == 2


def test_reopened_it_goes_on_behind_the_last_point(tmp_path):
    path, ends = written(tmp_path / "journal", points=(True, False))
    last = scan(path).last
    assert last.end == ends[1]
    writer = JournalWriter.reopen(path, last)
    writer.append({"records": [record(7)], "point": {"step": 7}, "sealed": False})
    writer.close()
    chain = find_chain(path.parent, "a1")
    assert [entry["number"] for entry in records_of(chain)] == [0, 1, 7]


def test_a_chain_leads_over_sealed_files_to_the_last_point(tmp_path):
    """A5: an unsealed file, or one that follows nothing, leads nowhere."""
    folder = tmp_path / "journal"
    written(folder, sealed=True)
    written(folder, Head("b2", "a1", 96, "world"), (True, False))
    written(folder, Head("c3", "b2", 128, "world"))
    chain = find_chain(folder, "a1")
    assert [one.head.id for one in chain] == ["a1", "b2"]
    assert [entry["number"] for entry in records_of(chain)] == [0, 1, 2, 3, 4, 5, 99, 0, 1]
    assert [one.head.id for one in find_chain(folder, "b2")] == ["b2"]
    assert find_chain(folder, "unknown") == []


def test_files_without_a_point_are_no_chain(tmp_path):
    folder = tmp_path / "journal"
    written(folder, points=(True,), sealed=True)
    written(folder, Head("b2", "a1", 96, "world"), points=())
    assert [one.head.id for one in find_chain(folder, "a1")] == ["a1"]
    written(folder, points=())
    assert find_chain(folder, "a1") == []
