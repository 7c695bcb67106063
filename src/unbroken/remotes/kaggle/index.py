"""What a dataset holds: objects in packs, and beside them one index that says where each object is and what the version continues.

A pack is the plain concatenation of objects, named after what is in it. Nothing here talks to anybody.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from unbroken.store.backend import checked_path

INDEX_NAME = "unbroken-index.json"
FORMAT = "unbroken-kaggle-dataset-1"
# bytes of new objects that go into one pack; a larger object has one of its own
PACK_SIZE = 1 << 30
# more packs than this are put together anew: the service lists and handles few files best
MOST_PACKS = 16

_PACK_NAME = re.compile(r"unbroken-[0-9a-f]{32}\.bin")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Blob:
    """A content; `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Pack:
    """A file of the dataset: these contents, one after the other."""

    blobs: tuple[Blob, ...]

    @property
    def name(self) -> str:
        """The same contents have the same name; the ending is one that the service leaves as it is."""
        return f"unbroken-{hashlib.sha256(' '.join(blob.sha256 for blob in self.blobs).encode()).hexdigest()[:32]}.bin"

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(blob.size for blob in self.blobs)

    def offsets(self) -> Iterator[tuple[Blob, int]]:
        """Each content with where it begins, in bytes."""
        return zip(self.blobs, itertools.accumulate((blob.size for blob in self.blobs), initial=0), strict=False)


@dataclass(frozen=True)
class Index:
    """One version: the objects by name, of which `new` ones came with it, in packs.

    `base` is the version that it continues, 0 for none, `gaps` are versions that could not be read when it was made, so that it
    may lack what they hold, and `push` is a random word for who made it.
    """

    dataset: str
    base: int
    push: str
    objects: Mapping[str, Blob]
    new: frozenset[str]
    packs: tuple[Pack, ...]
    gaps: frozenset[int] = frozenset()

    def to_bytes(self) -> bytes:
        """As JSON; `from_bytes` reads it back."""
        content = {
            "format": FORMAT,
            "dataset": self.dataset,
            "base": self.base,
            "gaps": sorted(self.gaps),
            "push": self.push,
            "objects": {name: [blob.size, blob.sha256] for name, blob in sorted(self.objects.items())},
            "new": sorted(self.new),
            "packs": {pack.name: [blob.sha256 for blob in pack.blobs] for pack in self.packs},
        }
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8")

    @classmethod
    def from_bytes(cls, content: bytes) -> Index:
        """ValueError for anything but a whole and consistent index."""
        try:
            return _read(json.loads(content.decode("utf-8")))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no index of the format {FORMAT}") from error


@dataclass(frozen=True)
class Place:
    """Where an object lies; an empty one lies nowhere and needs no pack."""

    blob: Blob
    version: int
    pack: Pack | None


@dataclass(frozen=True)
class View:
    """What there is: the newest version's objects, and those of versions that it does not continue.

    `version` is the newest, 0 where there is none, and `base` the newest with an index; those between were made by hand or are
    among the `gaps`, which cannot be read. `torn` says that `base` alone does not hold everything.
    """

    version: int = 0
    places: Mapping[str, Place] = field(default_factory=dict)
    push: str = ""
    torn: bool = False
    base: int = 0
    gaps: frozenset[int] = frozenset()

    @property
    def readable(self) -> int:
        """The newest version whose files can be seen; 0 for none."""
        return max({*range(self.base, self.version + 1)} - self.gaps, default=0)


def merged(version: int, index: Index, skipped: Mapping[int, Index]) -> View:
    """The view at a version that lacks what the `skipped` ones hold: made at once with it, or not to be read by who made it.

    A name belongs to the earliest version that has it, so every machine sees the same content under it.
    """
    settled = {name for name in index.objects if name not in index.new}
    places = _places(version, index, settled)
    for number in sorted(skipped):
        places = {**_places(number, skipped[number], skipped[number].objects), **places}
    everything = {**_places(version, index, index.objects), **places}
    torn = any(place.version != version for place in everything.values())
    return View(version, everything, index.push, torn, base=version)


def planned(old: Iterable[Pack], wanted: Mapping[str, Blob]) -> tuple[Pack, ...]:
    """Packs that hold exactly the wanted contents; old ones stay as they are where nothing is gained otherwise.

    A pack that stays has the same name, so that an upload of it that broke off can go on.
    """
    left = {blob.sha256: blob for blob in wanted.values() if blob.size}
    packs = []
    for pack in old:
        kept = tuple(left.pop(blob.sha256) for blob in pack.blobs if blob.sha256 in left)
        packs += [Pack(kept)] if kept else []
    packs += _filled(left.values())
    if len(packs) > MOST_PACKS:
        return tuple(_filled(blob for pack in packs for blob in pack.blobs))
    return tuple(packs)


def is_ours(name: str) -> bool:
    """Whether a file of a dataset has a name that only this module gives."""
    return name == INDEX_NAME or _PACK_NAME.fullmatch(name) is not None


def _filled(blobs: Iterable[Blob]) -> Iterator[Pack]:
    room: list[Blob] = []
    size = 0
    for blob in blobs:
        if room and size + blob.size > PACK_SIZE:
            yield Pack(tuple(room))
            room, size = [], 0
        room.append(blob)
        size += blob.size
    if room:
        yield Pack(tuple(room))


def _places(version: int, index: Index, names: Iterable[str]) -> dict[str, Place]:
    holder = {blob.sha256: pack for pack in index.packs for blob in pack.blobs}
    return {name: Place(index.objects[name], version, holder.get(index.objects[name].sha256)) for name in names}


def _read(content: Any) -> Index:
    if content["format"] != FORMAT:
        raise ValueError(f"the format is {content['format']!r}, not {FORMAT}")
    objects = {checked_path(name): _blob(*entry) for name, entry in content["objects"].items()}
    by_hash = {blob.sha256: blob for blob in objects.values()}
    packs = {name: Pack(tuple(by_hash[sha256] for sha256 in hashes)) for name, hashes in content["packs"].items()}
    packed = {blob.sha256 for pack in packs.values() for blob in pack.blobs}
    if any(pack.name != name for name, pack in packs.items()) or packed != {h for h in by_hash if by_hash[h].size}:
        raise ValueError("the packs do not hold the objects")
    base, new, gaps = int(content["base"]), frozenset(content["new"]), frozenset(map(int, content.get("gaps", ())))
    return Index(str(content["dataset"]), base, str(content["push"]), objects, new, tuple(packs.values()), gaps)


def _blob(size: int, sha256: str) -> Blob:
    if type(size) is not int or size < 0 or not _SHA256.fullmatch(sha256):
        raise ValueError("an object without size and hash")
    return Blob(sha256, size)
