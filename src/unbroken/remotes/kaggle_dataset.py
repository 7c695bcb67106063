"""A Kaggle dataset as a remote, over Kaggle's own client library.

How objects lie there. Their contents are concatenated into packs with a plain ending, because the service unpacks archives and
has no folders, and because it handles few files best; `unbroken-index.json` beside them holds names, sizes and hashes. So names
and contents of every kind survive, and equal contents are stored once.

What a `put` costs. A new version replaces the whole set of files, and the service has no way to take files of the last one over.
So every put uploads the dataset again: its cost grows with the dataset, not with what is new. It is bounded where it can be: the
old contents come from the workspace, where they stay after a put or a fetch, and are downloaded only if they are missing there;
all new objects go into one version; an upload that broke off goes on, also in another process; a put of names that are there
already uploads nothing. The workspace holds a copy of the dataset and may be deleted at any time.

Several machines. Each version's index says which version it continues. Where one was passed over, because two machines pushed at
once, every reader reads both, and whoever pushed the later one pushes their union. Old versions stay downloadable, so nothing is
lost if that machine is killed before; deleting old versions on the website may lose it. In conflict the earlier version wins.
An index also says which versions could not be read when it was made, and every reader looks at these again.

What is checked. What the service does not show is not taken for gone: the index and the files of the current version are looked
for several times, and then it is an error. A content is hashed while it is sent. After a push, all its files must be listed with
their sizes; at a fetch, the size and the SHA-256 of the content must be right.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from unbroken.errors import MissingExtra, NotFound, RemoteRefused, RemoteUnreachable, UsageError
from unbroken.remotes.contract import TIMEOUT, Item, Put
from unbroken.remotes.kaggle.dataset import DatasetCalls
from unbroken.remotes.kaggle.index import Blob, Index, View
from unbroken.remotes.kaggle.kept import Kept
from unbroken.remotes.kaggle.mounted import INPUTS, find_mounted
from unbroken.remotes.kaggle.pushing import Pushing, Workspace
from unbroken.remotes.kaggle.reading import Reading
from unbroken.remotes.kaggle.session import Answered, Pace, Session
from unbroken.remotes.transfer import checked_name, listed_folder, open_source, receive

SCHEME = "kaggle-dataset:"
_NAME = re.compile(r"(?P<owner>[A-Za-z0-9][A-Za-z0-9_-]*)/(?P<slug>[A-Za-z0-9][A-Za-z0-9-]{5,49})")


class KaggleDatasetRemote:
    """The dataset of `kaggle-dataset:OWNER/SLUG`, made private at the first put.

    `workspace` is this machine's folder for it. A put waits until Kaggle has processed the version, which takes from seconds to
    many minutes; until then others see what was there before. In a notebook that has the dataset mounted, objects are read from
    there, and it is all that is seen where there is no network, no login or no client.
    """

    sends_all = True

    def __init__(
        self, url: str, workspace: Path, timeout: float = TIMEOUT, *, pace: Pace | None = None, inputs: Path = INPUTS
    ) -> None:
        self.url = url
        self._owner, self._slug = _owner_and_slug(url)
        self._folder = Path(workspace)
        self._timeout = timeout
        self._pace = pace or Pace()
        self._inputs = inputs
        self._indexes: dict[int, Index | None] = {}
        self._seen = View()

    def items(self, prefix: str = "") -> list[Item]:
        listed_folder(prefix)
        try:
            with self._reading() as reading:
                self._seen = reading.view(reading.calls.newest())
            blobs = {name: place.blob for name, place in self._seen.places.items()}
        except (RemoteUnreachable, RemoteRefused, MissingExtra):
            mounted = find_mounted(self._inputs, self._owner, self._slug)
            if mounted is None:
                raise
            blobs = dict(mounted.index.objects)
        return [Item(name, blobs[name].size) for name in sorted(blobs) if name.startswith(prefix)]

    def put(self, files: Mapping[str, Path]) -> Put:
        for name in files:
            checked_name(name)
        if not files:
            return Put()
        workspace = Workspace(self._folder, self._kept())
        with self._reading() as reading:
            view = reading.view(reading.calls.settled())
            missing = {name: source for name, source in files.items() if name not in view.places}
            new = _taken(workspace.kept, missing)
            self._seen = Pushing(reading, workspace, new).carried_out(view)
        written = [name for name, blob in new.items() if self._seen.places[name].blob == blob]
        return Put(tuple(written), tuple(name for name in files if name not in written))

    def fetch(self, name: str, target: Path) -> None:
        checked_name(name)
        part = target.with_name(f".{target.name}.part")
        blob = self._copied_from_mount(name, part) or self._received(name, part)
        receive(target, lambda _: (blob.size, ()))
        self._kept().copy(blob, target)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Reading]:
        with Session(self.url, self._timeout, self._pace) as session:
            known = bool(self._indexes) or self._folder.is_dir()
            yield Reading(DatasetCalls(session, self._owner, self._slug, known=known), self._indexes)

    def _kept(self) -> Kept:
        return Kept(self._folder / "objects")

    def _copied_from_mount(self, name: str, part: Path) -> Blob | None:
        mounted = find_mounted(self._inputs, self._owner, self._slug)
        blob = mounted.index.objects.get(name) if mounted else None
        return blob if mounted and blob and mounted.copy(blob, part) else None

    def _received(self, name: str, part: Path) -> Blob:
        with self._reading() as reading:
            place = self._seen.places.get(name)
            if place:
                try:
                    reading.receive(place, part)
                    return place.blob
                except Answered as error:
                    # the version may have been deleted since it was seen
                    if error.status != 404:
                        raise
            self._seen = reading.view(reading.calls.newest())
            place = self._seen.places.get(name)
            if place is None:
                raise NotFound(f"{self.url} has no {name}")
            reading.receive(place, part)
            return place.blob


def _taken(kept: Kept, files: Mapping[str, Path]) -> dict[str, Blob]:
    """What the files hold now, kept, so that they may change while it travels."""
    kept.sweep()
    blobs = {}
    for name, source in files.items():
        with open_source(name, source) as file:
            blobs[name] = kept.take(file)
    return blobs


def _owner_and_slug(url: str) -> tuple[str, str]:
    match = _NAME.fullmatch(url.removeprefix(SCHEME)) if url.startswith(SCHEME) else None
    if match is None:
        # what stands before it may be a key
        shown = f"{SCHEME}{url.rpartition('@')[2]}" if "@" in url else url
        raise UsageError(
            f"{shown!r} names no Kaggle dataset: write {SCHEME}OWNER/SLUG, the slug of 6 to 50 letters, digits, dashes"
        )
    return match["owner"], match["slug"]
