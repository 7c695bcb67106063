"""The calls about one dataset, as the remote needs them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from unbroken.errors import RemoteError
from unbroken.logs import LOGGER
from unbroken.remotes.kaggle.credentials import sdk
from unbroken.remotes.kaggle.downloads import Source, read_small
from unbroken.remotes.kaggle.index import INDEX_NAME, Index
from unbroken.remotes.kaggle.session import Answered, Forbidden, Session

_INDEX_LIMIT = 1 << 28
_PAGE = 200
_MISSING = ""
_SETTLED = {_MISSING, "READY", "FAILED", "DELETED"}
_LOOKS_BEFORE_A_WORD = 3
# of the time that processing may take: until it shows that there is a new dataset
_SHOWING = 0.1


class Unreadable(RemoteError):
    """Nothing of a version is shown: it is being processed, has failed, was deleted, or is hidden for a moment."""


class DatasetCalls:
    """One dataset over an open session; every call raises as `Session.call` does.

    The service may say for a moment that something is not there. So nothing is taken for missing because of one answer: what
    another answer says is there is looked for `Pace.attempts` times. So is the dataset itself where this machine has `known` it.
    """

    def __init__(self, session: Session, owner: str, slug: str, *, known: bool = False) -> None:
        self.session = session
        self.owner = owner
        self.slug = slug
        self._known = known
        self._types = sdk("datasets.types.dataset_api_service")

    def newest(self) -> int:
        """The number of the version that the service calls current; 0 if there is no dataset or none of it was processed yet."""
        for looks in self._looks():
            number = self._number()
            status = "" if number else self._status()
            if number or status not in (_MISSING, "READY") or self._is_gone(status, looks):
                return number
        raise RemoteError(
            f"{self.session.place}: Kaggle does not say which version is current: run the same command again"
        )

    def settled(self, beyond: int = -1) -> int:
        """Wait until nothing is being processed and the current version is later than `beyond`; its number, 0 for no dataset.

        RemoteError if that takes longer than the session's pace allows, or if the version after `beyond` cannot be processed.
        """
        pace = self.session.pace
        deadline = time.monotonic() + pace.processing
        looks = 0
        while True:
            looks += 1
            # a version that begins to be processed between two questions shows in the third
            status, newest, still = self._status(), self._number(), self._status()
            if status == still and newest > beyond and self._is_settled(status, newest, looks):
                return newest
            if status == still == "FAILED" and newest <= beyond and looks >= pace.attempts:
                raise RemoteError(f"{self.session.place}: Kaggle could not process the new version: try again")
            if time.monotonic() >= deadline:
                what = f"{self.session.place}: Kaggle has not finished a version after {pace.processing:g} s"
                raise RemoteError(f"{what}: run the same command again later")
            if looks == _LOOKS_BEFORE_A_WORD:
                what = "waiting until Kaggle has processed a version, which takes from seconds to many minutes"
                LOGGER.info("[REMOTE] %s: %s", self.session.place, what)
            time.sleep(pace.pause(looks))

    def moves(self, beyond: int) -> bool:
        """Whether a version later than `beyond` is there or being processed."""
        return self._status() not in _SETTLED or self._number() > beyond

    def appears(self) -> bool:
        """Wait until it shows that the dataset, which another machine has made, is there; whether it does."""
        deadline = time.monotonic() + self.session.pace.processing * _SHOWING
        looks = 0
        while not self.moves(0):
            if time.monotonic() >= deadline:
                return False
            looks += 1
            time.sleep(self.session.pace.pause(looks))
        return True

    def has_failed(self) -> bool:
        """Whether the version that was made last could not be processed."""
        return self._status() == "FAILED"

    def may_be_unreadable(self) -> bool:
        """Whether the service has a reason to show nothing of the version that it calls current."""
        return self._status() not in (_MISSING, "READY")

    def index(self, version: int, looks: int) -> Index | None:
        """The index of a version, None if its files are listed and there is none; Unreadable after so many looks at nothing."""
        source = Source(self.owner, self.slug, version, INDEX_NAME)
        listed: dict[str, int] = {}
        for _ in self._looks(looks):
            try:
                return read_small(self.session, source, _INDEX_LIMIT, Index.from_bytes)
            except Answered as error:
                if error.status != 404:
                    raise
            listed = self.listed(version)
            if listed and INDEX_NAME not in listed:
                return None
        if listed:
            what = f"{self.session.place}: version {version} has the file {INDEX_NAME}, and Kaggle does not send it"
            raise RemoteError(f"{what}: run the same command again later")
        raise self._unreadable(version)

    def files(self, version: int) -> dict[str, int]:
        """The files of a version with their sizes in bytes, as listed; Unreadable after a few looks at nothing."""
        for _ in self._looks():
            listed = self.listed(version)
            if listed:
                return listed
        raise self._unreadable(version)

    def listed(self, version: int) -> dict[str, int]:
        """As `files` in one look; none if the version cannot be read, because no version is without files."""
        found: dict[str, int] = {}
        token = ""
        while True:
            try:
                page = self._page(version, token)
            except Answered as error:
                if error.status != 404:
                    raise
                return {}
            found |= {str(file.name): int(file.total_bytes or 0) for file in page.dataset_files}
            token = page.next_page_token
            if not token:
                return found

    def create(self, title: str, tokens: Iterable[str]) -> str:
        """Make the dataset, private, with these uploads as its first version; what the service has against it, if anything."""
        request = self._types.ApiCreateDatasetRequest()
        request.owner_slug = self.owner
        request.slug = self.slug
        request.title = title
        request.license_name = "unknown"
        request.is_private = True
        request.files = self._files(tokens)
        return _objection(self.session.call(lambda client: _api(client).create_dataset(request), again=False))

    def create_version(self, notes: str, tokens: Iterable[str]) -> str:
        """Make a version of exactly these uploads; what the service has against it, if anything."""
        request = self._about(self._types.ApiCreateDatasetVersionRequest())
        request.body = self._types.ApiCreateDatasetVersionRequestBody()
        request.body.version_notes = notes
        request.body.files = self._files(tokens)
        return _objection(self.session.call(lambda client: _api(client).create_dataset_version(request), again=False))

    def _looks(self, count: int = 0) -> Iterator[int]:
        """So many looks, as many as the session's pace says for 0, with pauses in between."""
        count = count or self.session.pace.attempts
        for look in range(1, count + 1):
            yield look
            if look < count:
                self.session.pause(look)

    def _is_settled(self, status: str, newest: int, looks: int) -> bool:
        """Whether the answers agree with each other, and nothing is being processed."""
        if newest == 0:
            return status == "FAILED" or self._is_gone(status, looks)
        return status in _SETTLED and status != _MISSING

    def _is_gone(self, status: str, looks: int) -> bool:
        return status in (_MISSING, "DELETED") and (not self._known or looks >= self.session.pace.attempts)

    def _unreadable(self, version: int) -> Unreadable:
        what = f"{self.session.place}: nothing is shown of version {version}"
        return Unreadable(f"{what}: run the same command again later")

    def _number(self) -> int:
        request = self._about(self._types.ApiGetDatasetRequest())
        dataset = self._unless_missing(lambda client: _api(client).get_dataset(request))
        return int(dataset.current_version_number or 0) if dataset else 0

    def _status(self) -> str:
        request = self._about(self._types.ApiGetDatasetStatusRequest())
        answer = self._unless_missing(lambda client: _api(client).get_dataset_status(request))
        return str(answer.status.name) if answer else _MISSING

    def _unless_missing(self, action: Any) -> Any:
        """What the call gives, or None if there is no such dataset, which some calls say with status 403."""
        try:
            return self.session.call(action)
        except Answered as error:
            if error.status != 404:
                raise
        except Forbidden:
            user = self.session.credentials.user
            if (user and user.lower() != self.owner.lower()) or self._is_mine():
                raise
        return None

    def _is_mine(self) -> bool:
        """Whether it is among the user's own datasets."""
        request = self._types.ApiListDatasetsRequest()
        request.group = sdk("datasets.types.dataset_enums").DatasetSelectionGroup.DATASET_SELECTION_GROUP_MY
        request.search = self.slug
        listed = self.session.call(lambda client: _api(client).list_datasets(request))
        return any(dataset.ref.lower() == f"{self.owner}/{self.slug}".lower() for dataset in listed.datasets)

    def _page(self, version: int, token: str) -> Any:
        request = self._about(self._types.ApiListDatasetFilesRequest())
        request.dataset_version_number = version
        request.page_size = _PAGE
        request.page_token = token or None
        return self.session.call(lambda client: _api(client).list_dataset_files(request))

    def _about(self, request: Any) -> Any:
        request.owner_slug = self.owner
        request.dataset_slug = self.slug
        return request

    def _files(self, tokens: Iterable[str]) -> list[Any]:
        files = []
        for token in tokens:
            file = self._types.ApiDatasetNewFile()
            file.token = token
            files.append(file)
        return files


def _api(client: Any) -> Any:
    return client.datasets.dataset_api_client


def _objection(answer: Any) -> str:
    words = " ".join((answer.error or "").split())
    return words or ("it says nothing about why" if (answer.status or "").lower() == "error" else "")
