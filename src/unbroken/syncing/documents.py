"""Small documents from elsewhere, read so that nothing in them can harm: whatever is wrong with one is a DamagedFile."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from unbroken.config import build_config
from unbroken.errors import DamagedFile
from unbroken.folder import BEST_SCORE, METADATA, RUN_FILE

DOCUMENT_BYTES = 4_000_000
"""More than any document of a run has."""
TRACKERS = "tracking/state.json"
DOCUMENTS = (RUN_FILE, METADATA, TRACKERS, BEST_SCORE)
_MISREAD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Within this everything that content from elsewhere can cause is raised as DamagedFile about `what`."""
    try:
        yield
    except DamagedFile:
        raise
    except (*_MISREAD, yaml.YAMLError) as error:
        reason = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
        raise DamagedFile(f"{what}: {reason[:300] or type(error).__name__}") from error


def read_document(path: str, content: bytes) -> dict[str, Any]:
    """What a document of a run holds. Raises DamagedFile."""
    with reading(f"{path} there cannot be used"):
        if len(content) > DOCUMENT_BYTES:
            raise ValueError(f"it has {len(content)} bytes")
        loaded = _run_file(content) if path == RUN_FILE else json.loads(content)
        if not isinstance(loaded, dict):
            raise TypeError("it holds no keys")
        return loaded


def _run_file(content: bytes) -> Any:
    loaded = yaml.load(content.decode("utf-8"), Loader=_PlainLoader)
    build_config(loaded["config"])
    for key, numbers in (("more", ("add", "target")), ("fresh", ("target",)), ("parent", ("step",))):
        _require_numbers(key, loaded.get(key), numbers)
    return loaded


def _require_numbers(key: str, value: Any, numbers: tuple[str, ...]) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(value.get(number), int) for number in numbers):
        raise TypeError(f"{key} has a wrong form")


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, which can make a few lines stand for more than any memory holds; `RunFolder.store` writes none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)
