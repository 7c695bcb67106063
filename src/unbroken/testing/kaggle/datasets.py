"""Datasets: versions that replace the whole set of files, are processed for a while, and stay downloadable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from unbroken.testing.kaggle.behaviour import Behaviour
from unbroken.testing.kaggle.blobs import HOST, Blobs
from unbroken.testing.kaggle.messages import Answer, Call, Refusal, Route, as_json
from unbroken.testing.kaggle.storage import sent, zipped
from unbroken.testing.kaggle.unpacking import unpacked

_SERVICE = "datasets.DatasetApiService"
_LISTED = 20
_UNRESOLVED = "Failed to resolve the necessary information from the request."


@dataclass
class Version:
    """One version; `shown_at`, `ready_at` and `served_at` in seconds of the monotonic clock."""

    number: int
    files: dict[str, bytes]
    shown_at: float
    ready_at: float
    served_at: float
    notes: str = ""
    failed: bool = False

    @property
    def shown(self) -> bool:
        """Whether the service has noticed that there is one."""
        return time.monotonic() >= self.shown_at

    @property
    def ready(self) -> bool:
        """Whether it has been processed."""
        return not self.failed and time.monotonic() >= self.ready_at

    @property
    def served(self) -> bool:
        """Whether its files can be listed and downloaded."""
        return self.ready and time.monotonic() >= self.served_at


@dataclass
class Dataset:
    """A dataset with its versions by number."""

    owner: str
    slug: str
    title: str
    license: str
    private: bool
    versions: dict[int, Version] = field(default_factory=dict)

    @property
    def newest(self) -> Version | None:
        """The version created last, of those that are shown."""
        shown = [number for number, version in self.versions.items() if version.shown]
        return self.versions[max(shown)] if shown else None

    def current(self) -> Version | None:
        """The newest version that has been processed."""
        ready = [number for number, version in self.versions.items() if version.ready]
        return self.versions[max(ready)] if ready else None


class Datasets:
    """The datasets of all users; the caller is always `user`."""

    def __init__(self, user: str, behaviour: Behaviour, blobs: Blobs) -> None:
        self.all: dict[tuple[str, str], Dataset] = {}
        self.failing = 0
        self._user = user
        self._behaviour = behaviour
        self._blobs = blobs

    def routes(self) -> dict[str, Route]:
        """The routes by name."""
        calls: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "CreateDataset": self._create,
            "CreateDatasetVersion": self._create_version,
            "GetDataset": self._describe,
            "GetDatasetMetadata": self._metadata,
            "GetDatasetStatus": self._status,
            "ListDatasets": self._list,
            "ListDatasetFiles": self._list_files,
            "DownloadDataset": self._download,
        }
        rpcs = {f"{_SERVICE}/{name}": self._locked(call) for name, call in calls.items()}
        return {**rpcs, "storage": self._send}

    def _locked(self, call: Callable[[dict[str, Any]], Answer]) -> Route:
        def route(request: Call) -> Answer:
            with self._blobs.lock:
                return call(request.fields)

        return route

    def _create(self, fields: dict[str, Any]) -> Answer:
        owner, slug, title = (str(fields.get(name, "")) for name in ("ownerSlug", "slug", "title"))
        if owner != self._user:
            raise Refusal(403, "Permission 'datasets.create' was denied")
        if not 6 <= len(slug) <= 50 or not 6 <= len(title) <= 50:
            raise Refusal(400)
        if (owner, slug) in self.all:
            return _outcome(owner, slug, f'The requested title "{title}" is already in use by a dataset.')
        dataset = Dataset(owner, slug, title, str(fields.get("licenseName")), bool(fields.get("isPrivate", False)))
        error = self._add_version(dataset, fields)
        if not error:
            self.all[owner, slug] = dataset
        return _outcome(owner, slug, error)

    def _create_version(self, fields: dict[str, Any]) -> Answer:
        owner, slug = str(fields.get("ownerSlug")), str(fields.get("datasetSlug"))
        dataset = self.all.get((owner, slug))
        if owner != self._user or (dataset is not None and self._is_barred(dataset)):
            # as for somebody else's dataset while the first version is still being processed
            raise Refusal(403, "Permission 'datasets.update' was denied")
        if dataset is None:
            return _outcome(owner, slug, _UNRESOLVED)
        body = fields.get("body") or {}
        error = self._add_version(dataset, body)
        if body.get("deleteOldVersions") and not error:
            newest = max(dataset.versions)
            dataset.versions = {newest: dataset.versions[newest]}
        return _outcome(owner, slug, error)

    def _is_barred(self, dataset: Dataset) -> bool:
        failed = all(version.failed for version in dataset.versions.values())
        return dataset.current() is None and not (failed and self._behaviour.mends_failures)

    def _add_version(self, dataset: Dataset, fields: dict[str, Any]) -> str:
        """What is wrong with the request, if anything."""
        if fields.get("directories"):
            raise Refusal(400, "Folders are not supported")
        blobs = self._blobs.take(fields.get("files") or [])
        if not blobs:
            return _UNRESOLVED
        number, files = max(dataset.versions, default=0) + 1, unpacked(blobs)
        shown_at = time.monotonic() + self._behaviour.hidden_seconds
        ready_at = shown_at + self._behaviour.processing_seconds
        served_at = ready_at + self._behaviour.lag_seconds
        notes = str(fields.get("versionNotes", ""))
        failed, self.failing = self.failing > 0, max(0, self.failing - 1)
        dataset.versions[number] = Version(number, files, shown_at, ready_at, served_at, notes, failed)
        return ""

    def _describe(self, fields: dict[str, Any]) -> Answer:
        return as_json(self._summary(self._wanted(fields)))

    def _summary(self, dataset: Dataset) -> dict[str, Any]:
        current = (self._behaviour.announces_early and dataset.newest) or dataset.current()
        if current is None:
            raise Refusal(404)
        return {
            "ref": f"{dataset.owner}/{dataset.slug}",
            "title": dataset.title,
            "isPrivate": dataset.private,
            "licenseName": dataset.license,
            "currentVersionNumber": current.number,
        }

    def _metadata(self, fields: dict[str, Any]) -> Answer:
        dataset = self._wanted(fields)
        info = {"datasetSlug": dataset.slug, "ownerUser": dataset.owner, "title": dataset.title}
        return as_json({"info": {**info, "isPrivate": dataset.private, "licenses": [{"name": dataset.license}]}})

    def _status(self, fields: dict[str, Any]) -> Answer:
        newest = self._wanted(fields).newest
        assert newest is not None
        return as_json({"status": "FAILED" if newest.failed else "READY" if newest.ready else "BLOBS_RECEIVED"})

    def _list(self, fields: dict[str, Any]) -> Answer:
        search = str(fields.get("search", ""))
        mine = [dataset for dataset in self.all.values() if dataset.owner == self._user and search in dataset.slug]
        return as_json({"datasets": [self._summary(dataset) for dataset in mine if dataset.current()]})

    def _list_files(self, fields: dict[str, Any]) -> Answer:
        version = self._served(self._wanted(fields), fields.get("datasetVersionNumber"))
        first = int(fields.get("pageToken") or 0)
        after = first + min(int(fields.get("pageSize") or _LISTED), self._behaviour.page_limit)
        names = sorted(version.files)
        files = [{"name": name, "totalBytes": self._listed_size(version.files[name])} for name in names[first:after]]
        return as_json({"datasetFiles": files, **({"nextPageToken": str(after)} if after < len(names) else {})})

    def _listed_size(self, content: bytes) -> int:
        return len(content) // 2 if self._behaviour.lists_packed_sizes else len(content)

    def _download(self, fields: dict[str, Any]) -> Answer:
        dataset = self._wanted(fields)
        version = self._served(dataset, fields.get("datasetVersionNumber"))
        name = fields.get("fileName")
        if name is not None and name not in version.files:
            raise Refusal(404)
        zips = {"never": False, "always": True}.get(self._behaviour.zips_files, not fields.get("raw", False))
        ending = f"files/{quote(name, safe='')}{'.zip' if zips else ''}" if name is not None else "archive.zip"
        path = f"/datasets/{dataset.owner}/{dataset.slug}/{version.number}/{ending}"
        return Answer(302, headers={"Location": f"http://{HOST}{path}?X-Signature=only-for-the-caller"})

    def _send(self, call: Call) -> Answer:
        owner, slug, number, *rest = call.url.path.split("/")[2:]
        with self._blobs.lock:
            version = self.all[owner, slug].versions[int(number)]
        ranges = self._behaviour.serves_ranges
        if rest == ["archive.zip"]:
            return sent(call, zipped(version.files), ranges)
        names: Mapping[str, str] = {quote(name, safe=""): name for name in version.files}
        if rest[1] in names:
            return sent(call, version.files[names[rest[1]]], ranges)
        name = names[rest[1].removesuffix(".zip")]
        return sent(call, zipped({name: version.files[name]}), ranges)

    def _wanted(self, fields: dict[str, Any]) -> Dataset:
        owner, slug = str(fields.get("ownerSlug")), str(fields.get("datasetSlug"))
        dataset = self.all.get((owner, slug))
        if dataset is None or dataset.newest is None or (dataset.private and owner != self._user):
            status = self._behaviour.missing_status
            raise Refusal(status, "Permission 'datasets.get' was denied" if status == 403 else "")
        return dataset

    def _served(self, dataset: Dataset, number: int | None) -> Version:
        version = dataset.current() if number is None else dataset.versions.get(int(number))
        if version is None or not version.served:
            raise Refusal(404)
        return version


def _outcome(owner: str, slug: str, error: str = "") -> Answer:
    place = {"ref": f"/{owner}/{slug}", "url": f"https://www.kaggle.com/datasets/{owner}/{slug}"}
    return as_json({**({} if error else place), "status": "error" if error else "Ok", "error": error})
