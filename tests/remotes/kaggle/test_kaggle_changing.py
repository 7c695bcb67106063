"""Files that change while they are sent: no version gets a content that is not the one in its index (D5)."""

import hashlib
import os
import random

import pytest

from unbroken.errors import RemoteError
from unbroken.remotes.contract import Put
from unbroken.remotes.kaggle import uploads
from unbroken.remotes.kaggle.index import Blob
from unbroken.remotes.kaggle.uploads import _Changed, _read


def test_what_changes_in_the_workspace_while_it_is_sent_becomes_no_version(
    remote, files, service, tmp_path, versions, fetched, monkeypatch
):
    remote.put(files(a=300_000))
    (kept,) = tmp_path.glob("workspace */objects/*")
    right = kept.read_bytes()
    for wrong in (b"?" + right[1:], right[:-1] + b"?", right[:-1], right + b"?", None):
        sent_after(monkeypatch, lambda wrong=wrong: kept.unlink() if wrong is None else kept.write_bytes(wrong))
        if wrong == right + b"?":
            assert remote.put(files(b=b"b")) == Put(written=("b",))
            assert fetched(remote, "a") == right
        else:
            with pytest.raises(RemoteError) as refusal:
                remote.put(files(c=b"c"))
            assert "changed while it was sent to Kaggle: run the same command again" in str(refusal.value)
        kept.write_bytes(right)
    assert remote.put(files(c=b"c")) == Put(written=("c",))
    assert fetched(remote, "a") == right
    assert sorted(versions()) == [1, 2, 3]


def test_a_fetched_file_may_be_written_to_while_it_is_sent_on(
    remote, second, machine, files, service, tmp_path, fetched, monkeypatch
):
    """As a run does that was fetched and goes on."""
    remote.put(files(a=1000, b=5000))
    log = tmp_path / "log"
    second.fetch("a", log)
    second.fetch("b", tmp_path / "checkpoint")

    def write():
        with log.open("r+b") as file:
            file.write(b"changed")
            file.seek(0, os.SEEK_END)
            file.write(b"one line more")

    sent_after(monkeypatch, write)
    assert second.put(files(c=b"c")) == Put(written=("c",))
    assert log.stat().st_size == 1013
    for name, source in files(a=1000, b=5000, c=b"c").items():
        assert fetched(machine(), name) == source.read_bytes()


@pytest.mark.parametrize("position", [0, 1, 299_999, 300_000, 300_001, 399_999])
def test_parts_are_read_from_anywhere_and_checked(tmp_path, position):
    first, second = random.Random(0).randbytes(300_000), random.Random(1).randbytes(100_000)
    (tmp_path / "first").write_bytes(first)
    parts = [(tmp_path / "first", blob_of(first)), (second, blob_of(second))]
    assert b"".join(_read(parts, position)) == (first + second)[position:]
    (tmp_path / "first").write_bytes(first + b"grown")
    assert b"".join(_read(parts, position)) == (first + second)[position:]
    (tmp_path / "first").write_bytes(b"?" + first[1:])
    if position < 300_000:
        with pytest.raises(_Changed):
            list(_read(parts, position))


def sent_after(monkeypatch, action):
    """Let something happen right before the next upload."""
    send = uploads.uploaded
    due = [action]

    def send_after(*arguments):
        if due:
            due.pop()()
        return send(*arguments)

    monkeypatch.setattr("unbroken.remotes.kaggle.pushing.uploaded", send_after)


def blob_of(content):
    return Blob(hashlib.sha256(content).hexdigest(), len(content))
