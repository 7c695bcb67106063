"""How the storage sends a file: whole or a part of it, with the headers that the client needs to go on later."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping

from unbroken.testing.kaggle.messages import Answer, Call

_MODIFIED = "Thu, 01 Jan 2026 00:00:00 GMT"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def sent(call: Call, content: bytes, ranges: bool) -> Answer:
    """The file, or the part of it that is asked for if `ranges` are served."""
    tag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
    headers = {"Content-Type": "application/octet-stream", "Last-Modified": _MODIFIED, "ETag": tag}
    match = _RANGE.fullmatch(call.headers.get("range", ""))
    if not ranges:
        return Answer(200, content, headers)
    headers["Accept-Ranges"] = "bytes"
    if match is None or call.headers.get("if-range", tag) not in (tag, _MODIFIED):
        return Answer(200, content, headers)
    first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
    if first >= len(content):
        return Answer(416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return Answer(206, content[first : last + 1], headers)


def zipped(files: Mapping[str, bytes]) -> bytes:
    """The files in a zip, the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()
