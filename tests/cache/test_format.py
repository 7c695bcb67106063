"""The bytes of an entry, read by nothing but docs/formats/cache.md (D5)."""

import hashlib
import json
import zipfile

import numpy as np

from unbroken.testing.walks import Walk, uninterrupted


def test_an_entry_is_what_the_document_says(cache):
    """Fingerprint, name, hashes, rows and end state with zipfile, json, hashlib and numpy alone."""
    walk = Walk(kind="rl")
    walk.ask(cache, 12, walk.inputs(numpy="2"))
    (path,) = [path for path in cache.folder.iterdir() if path.is_file()]
    content = path.read_bytes()
    assert content[-94:-64] == b"unbroken-checkpoint 1 blake2b:"
    assert content[-64:].decode() == hashlib.blake2b(content[:-94], digest_size=32).hexdigest()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert [*members] == [
        *("exact/arrays.json", "exact/arrays.bin", "exact/end.json", "exact/end.bin", "exact/manifest.json")
    ]
    record = json.loads(members["exact/manifest.json"])
    assert (record["kind"], record["steps"], record["context"], record["facts"]) == ("cache", 12, {"numpy": "2"}, {})
    assert list(record["inputs"]) == ["format", "scenario", "kind", "values", "sources"]
    text = json.dumps(record["inputs"], separators=(",", ":"))
    fingerprint = hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()
    assert record["fingerprint"] == fingerprint
    assert path.name == f"walk_{fingerprint[:8]}_rl_cache_12_steps_{fingerprint[8:]}.zip"
    for name, facts in record["members"].items():
        assert facts["blake2b"] == hashlib.blake2b(members[name], digest_size=32).hexdigest()
    assert rows(members, "moves").tobytes() == uninterrupted(12).arrays["moves"].tobytes()
    assert rows(members, "positions").shape == (12,)
    assert json.loads(members["exact/end.json"])["tree"]["rng"]["bit_generator"] == "PCG64"


def rows(members, name):
    offset, dtype, shape = json.loads(members["exact/arrays.json"])["tree"][name]["$array"]
    return np.frombuffer(members["exact/arrays.bin"], dtype, int(np.prod(shape)), offset).reshape(shape)
