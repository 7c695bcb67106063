"""What a route gets and gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult

PAGE = b"<!DOCTYPE html><html><head><title>Kaggle</title></head><body><h1>We'll be back soon</h1></body></html>"


@dataclass(frozen=True)
class Call:
    """One request; `body` is shorter than `length` when the connection broke. Names of headers are in lower case."""

    method: str
    url: SplitResult
    headers: Mapping[str, str]
    body: bytes
    length: int

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON object in the body."""
        content = json.loads(self.body or b"{}")
        return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class Answer:
    """One response; Content-Length is added when it is sent."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Call], Answer]


class Refusal(Exception):
    """Ends a route with an error answer as the service words it."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.message = message or HTTPStatus(status).phrase

    @property
    def answer(self) -> Answer:
        """`{"code": ..., "message": ...}` with the status."""
        return as_json({"code": self.status, "message": self.message}, self.status)


def as_json(content: Mapping[str, Any], status: int = 200) -> Answer:
    """An answer of the API."""
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json; charset=utf-8"})


def as_page(status: int) -> Answer:
    """An HTML page, as proxies and a service under maintenance send it, also with status 200."""
    return Answer(status, PAGE, {"Content-Type": "text/html; charset=utf-8"})
