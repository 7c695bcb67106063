"""Uploads: a token and an address from the API, then the bytes to the storage, from where they broke off if they did."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from unbroken.testing.kaggle.messages import Answer, Call, Refusal, Route, as_json

HOST = "storage.example"
_RANGE = re.compile(r"bytes (?:\*|(\d+)-(\d+))/(\d+)")


@dataclass
class Blob:
    """One upload; `complete` once all `size` bytes are there. A dataset version uses up its token."""

    token: str
    name: str
    size: int
    content: bytearray = field(default_factory=bytearray)
    starts: list[int] = field(default_factory=list)
    used: bool = False
    expired: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self.content) == self.size


class Blobs:
    """All uploads, by token."""

    def __init__(self) -> None:
        self.all: dict[str, Blob] = {}
        self.lock = RLock()

    def routes(self) -> dict[str, Route]:
        """The routes by name."""
        return {"blobs.BlobApiService/StartBlobUpload": self._start, "upload": self._receive}

    def take(self, files: list[dict[str, Any]]) -> dict[str, bytes]:
        """The contents of uploads by name, for a dataset version; none when one is unknown, unfinished or used before."""
        with self.lock:
            blobs = [self.all.get(str(file.get("token", ""))) for file in files]
            taken = [blob for blob in blobs if blob is not None and blob.complete and not blob.used]
            if len(taken) != len(files):
                return {}
            for blob in taken:
                blob.used = True
            return {blob.name: bytes(blob.content) for blob in taken}

    def _start(self, call: Call) -> Answer:
        fields = call.fields
        name = str(fields.get("name", ""))
        if fields.get("type") != "DATASET" or not name or "/" in name:
            raise Refusal(400)
        blob = Blob(secrets.token_hex(8), name, int(fields.get("contentLength", 0)))
        with self.lock:
            self.all[blob.token] = blob
        address = f"http://{HOST}/upload/{blob.token}?X-Signature={secrets.token_hex(16)}"
        return as_json({"token": blob.token, "createUrl": address})

    def _receive(self, call: Call) -> Answer:
        blob = self.all.get(call.url.path.rsplit("/", 1)[-1])
        if blob is None or blob.expired:
            return Answer(404)
        match = _RANGE.fullmatch(call.headers.get("content-range", f"bytes 0-{blob.size - 1}/{blob.size}"))
        if match is None or int(match[3]) != blob.size:
            return Answer(400)
        with self.lock:
            return _grown(blob, int(match[1]), call) if match[1] is not None else _progress(blob)


def _grown(blob: Blob, start: int, call: Call) -> Answer:
    if start > len(blob.content) or start + call.length > blob.size:
        return Answer(400)
    blob.starts.append(start)
    blob.content[start:] = call.body
    return _progress(blob)


def _progress(blob: Blob) -> Answer:
    if blob.complete:
        return Answer(200, b"{}", {"Content-Type": "application/json"})
    return Answer(308, headers={"Range": f"bytes=0-{len(blob.content) - 1}"} if blob.content else {})
