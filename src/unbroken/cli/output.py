"""What commands print to the standard output: the console is their interface."""

from __future__ import annotations

import json
from typing import Any


def print_text(text: str) -> None:
    """Print text and a newline."""
    print(text)  # noqa: T201 - see the module


def print_json(content: Any) -> None:
    """Print plain data as indented JSON."""
    print_text(json.dumps(content, indent=2))
