"""JSON that a stranger wrote: an object of plain values whose texts can be written again, or DamagedFile."""

from __future__ import annotations

import json
from typing import Any

from unbroken.errors import DamagedFile


def json_object(raw: bytes, what: str) -> dict[str, Any]:
    """The object in `raw`, its texts `escaped`. Raises DamagedFile, which begins with `what`."""
    try:
        content = _escaped(json.loads(raw))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{what} is no JSON") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{what} is no JSON object")
    return content


def escaped(text: str) -> str:
    r"""The text with halves of characters, which JSON and names of files can bring and UTF-8 cannot hold, as `\udXXX`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return {escaped(key): _escaped(item) for key, item in value.items()} if isinstance(value, dict) else value
