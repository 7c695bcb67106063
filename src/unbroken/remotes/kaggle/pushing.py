"""New versions: everything there is and what is new, pushed until it is there whoever else pushes in the same moment."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unbroken.errors import RemoteError, RemoteUnreachable
from unbroken.remotes.kaggle.dataset import Unreadable
from unbroken.remotes.kaggle.index import INDEX_NAME, Blob, Index, Pack, Place, View, is_ours, planned
from unbroken.remotes.kaggle.kept import Kept
from unbroken.remotes.kaggle.reading import Reading
from unbroken.remotes.kaggle.session import Answered, Forbidden, NotUnderstood
from unbroken.remotes.kaggle.uploads import Content, OpenUploads, uploaded


@dataclass(frozen=True)
class Workspace:
    """This machine's folder for a dataset, and the contents that it keeps there."""

    folder: Path
    kept: Kept

    @property
    def opened(self) -> OpenUploads:
        """The uploads that have begun and not become a version."""
        return OpenUploads(self.folder / "uploads")


class Pushing:
    """One put; `wanted` are the new objects, whose contents are kept in the workspace. Errors as `Session.call`."""

    def __init__(self, reading: Reading, workspace: Workspace, wanted: Mapping[str, Blob]) -> None:
        self._reading = reading
        self._calls = reading.calls
        self._place = reading.calls.session.place
        self._workspace = workspace
        self._wanted = wanted
        self._mine: set[str] = set()

    def carried_out(self, view: View) -> View:
        """Push until all wanted names are there, and nothing that this machine passed over is missing from the version."""
        session = self._calls.session
        failure: RemoteError | None = None
        for tries in range(session.pace.attempts):
            if not self._is_unfinished(view):
                return view
            if tries:
                session.pause(tries)
            last, failure = failure, self._pushed(view)
            if failure and last and _is_doubtful(failure) and _is_doubtful(last):
                raise failure
            view = self._looked(view, failure)
        if all(name in view.places for name in self._wanted):
            # a version that passed over another one: readers put them together
            return view
        raise failure or RemoteError(f"{self._place}: other machines keep replacing the version: try again later")

    def _is_unfinished(self, view: View) -> bool:
        return any(name not in view.places for name in self._wanted) or (view.torn and view.push in self._mine)

    def _looked(self, base: View, failure: RemoteError | None) -> View:
        """What there is after a push; a push in doubt is given some time to show."""
        if failure is None or self._moves(base):
            view = self._reading.view(self._calls.settled(base.version))
            self._check(base, view)
            return view
        return self._reading.view(self._calls.settled())

    def _moves(self, base: View) -> bool:
        """Whether, within a few looks, there is a later version."""
        session = self._calls.session
        for failures in range(1, session.pace.attempts + 1):
            if self._calls.moves(base.version):
                return True
            session.pause(failures)
        return False

    def _pushed(self, view: View) -> RemoteError | None:
        """Upload and create one version; the error if another try may do better, or nobody knows whether it worked."""
        self._refuse_foreign_files(view)
        opened = self._workspace.opened
        reuses_uploads = bool(opened.entries())
        index = self._index(view)
        self._gather(view, index)
        content = index.to_bytes()
        tokens = [self._uploaded(self._content(pack)) for pack in index.packs]
        blob = Blob(hashlib.sha256(content).hexdigest(), len(content))
        tokens.append(self._uploaded(Content(INDEX_NAME, index.push, [(content, blob)])))
        entries = opened.entries()
        opened.keep({})
        self._mine.add(index.push)
        try:
            objection = self._create(view, index, tokens)
        except RemoteError as error:
            opened.keep(entries)
            if _is_doubtful(error):
                return error
            raise
        if not objection:
            return None
        failure = RemoteError(f"{self._place}: Kaggle does not take the new version: {objection}")
        if reuses_uploads or self._others_push(view, objection):
            return failure
        raise failure

    def _others_push(self, view: View, objection: str) -> bool:
        if view.version == 0 and "already in use" in objection:
            return self._calls.appears()
        return self._calls.moves(view.version)

    def _create(self, view: View, index: Index, tokens: list[str]) -> str:
        """What the service has against it, if anything."""
        try:
            if view.version == 0 and not self._calls.has_failed():
                return self._calls.create(self._calls.slug, tokens)
            return self._calls.create_version(f"{len(index.new)} new of {len(index.objects)} objects", tokens)
        except Forbidden:
            if view.readable == 0 and self._calls.has_failed():
                raise self._barred() from None
            raise
        except Answered as error:
            if not 400 <= error.status < 500 or error.status == 429:
                raise
            return f"status {error.status}" + (f", {error.said}" if error.said else "")

    def _barred(self) -> RemoteError:
        what = f"{self._place}: Kaggle could not process the first version, and takes no other one"
        return RemoteError(f"{what}: delete the dataset on its page at kaggle.com, then run the same command again")

    def _index(self, view: View) -> Index:
        new = {name: blob for name, blob in self._wanted.items() if name not in view.places}
        objects = {**{name: place.blob for name, place in view.places.items()}, **new}
        old = dict.fromkeys(place.pack for place in view.places.values() if place.pack)
        packs = planned(old, {blob.sha256: blob for blob in objects.values()})
        dataset = f"{self._calls.owner}/{self._calls.slug}"
        return Index(dataset, view.base, secrets.token_hex(8), objects, frozenset(new), packs, view.gaps)

    def _gather(self, view: View, index: Index) -> None:
        """Download what the version needs and this machine has not kept."""
        kept = self._workspace.kept
        places: dict[Blob, Place] = {place.blob: place for place in view.places.values()}
        for blob in (blob for pack in index.packs for blob in pack.blobs):
            if not kept.has(blob):
                place = places.get(blob)
                if place is None or place.pack is None:
                    what = f"{self._place}: {self._workspace.folder} was cleared while a put was using it"
                    raise RemoteError(f"{what}: run the same command again")
                self._workspace.folder.mkdir(parents=True, exist_ok=True)
                self._reading.receive_pack(place.version, place.pack, kept, self._workspace.folder)

    def _uploaded(self, content: Content) -> str:
        return uploaded(self._calls.session, self._workspace.opened, content)

    def _content(self, pack: Pack) -> Content:
        files = [(self._workspace.kept.path(blob), blob) for blob in pack.blobs]
        return Content(pack.name, pack.name, files)

    def _refuse_foreign_files(self, view: View) -> None:
        files = self._calls.files(view.readable) if view.readable else {}
        foreign = sorted(name for name in files if not is_ours(name))
        if foreign:
            what = f"{self._place} holds files of others, such as {foreign[0]!r}, which a new version would remove"
            raise RemoteError(f"{what}: name a dataset that is used for nothing else")

    def _check(self, base: View, view: View) -> None:
        """That the files of what this machine has pushed are there."""
        for number in range(base.version + 1, view.version + 1):
            with contextlib.suppress(Unreadable):
                index = self._reading.index(number)
                if index and index.push in self._mine:
                    self._check_files(number, index)

    def _check_files(self, number: int, index: Index) -> None:
        listed: dict[str, int] = {}
        session = self._calls.session
        for failures in range(1, session.pace.attempts + 1):
            listed = self._calls.listed(number)
            if all(pack.name in listed for pack in index.packs):
                break
            session.pause(failures)
        for pack in index.packs:
            if pack.name not in listed:
                raise RemoteError(f"{self._place}: Kaggle has not kept {pack.name} of version {number} as it was sent")
            if listed[pack.name] != pack.size:
                self._prove(number, pack)

    def _prove(self, number: int, pack: Pack) -> None:
        """Fetch the end of a pack whose listed size is another one: it may be that of a packed form."""
        proof = self._workspace.folder / f"{pack.name}.proof"
        try:
            self._reading.receive(Place(pack.blobs[-1], number, pack), proof)
        finally:
            proof.unlink(missing_ok=True)


def _is_doubtful(error: RemoteError) -> bool:
    """Whether the service may have carried out the call that failed."""
    unknown = isinstance(error, RemoteUnreachable | NotUnderstood)
    return unknown or (isinstance(error, Answered) and (error.status == 0 or error.status >= 500))
