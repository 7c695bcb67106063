"""Where the cache is and how large it may grow."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from unbroken.cache.result_cache import ResultCache
from unbroken.errors import ConfigurationError, UsageError

DEFAULT_FOLDER, DEFAULT_LIMIT = "cache", "5GB"
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]?i?)b?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def default_cache(given: str | None = None) -> ResultCache:
    """The cache in `given`, else in $UNBROKEN_CACHE_DIR, else in ./cache, limited to $UNBROKEN_CACHE_LIMIT or 5 GB.

    The folder need not exist. Raises ConfigurationError for a limit that is no size, and UsageError for a file, and for `~NAME`
    of a user whom this machine does not know.
    """
    return ResultCache(cache_folder(given), limit_bytes=size_limit())


def cache_folder(given: str | None = None) -> Path:
    """See `default_cache`; raises as it does."""
    text = given or os.environ.get("UNBROKEN_CACHE_DIR") or DEFAULT_FOLDER
    try:
        folder = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"the cache {text}: no home folder of that user is known; name the folder in full") from error
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the cache {folder} is a file: name a folder")
    return folder


def size_limit(given: str | None = None) -> int:
    """Bytes: of the text, else of $UNBROKEN_CACHE_LIMIT, else 5 GB. Raises ConfigurationError."""
    if given is not None:
        return size_bytes(given)
    try:
        return size_bytes(os.environ.get("UNBROKEN_CACHE_LIMIT") or DEFAULT_LIMIT)
    except ConfigurationError as error:
        raise ConfigurationError(f"UNBROKEN_CACHE_LIMIT: {error}") from None


def size_bytes(text: str) -> int:
    """Bytes of a size such as `500MB`, `2 GB`, `1.5GiB` or plain bytes. Raises ConfigurationError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match["unit"].lower() == "i":
        raise ConfigurationError(f"{text!r} is not a size; write 500MB, 2GB or 1.5GiB")
    unit = match["unit"].lower()
    size = float(match["number"]) * (1024 if unit.endswith("i") else 1000) ** _POWERS[unit.removesuffix("i")]
    if math.isinf(size):
        raise ConfigurationError("a size of that many digits is more than there is; write 500MB, 2GB or 1.5GiB")
    return int(size)
