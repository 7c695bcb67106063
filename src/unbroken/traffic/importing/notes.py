"""What an import had to approximate, as values that can be counted and printed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """One approximation: its kind (a few words, the same for all of a kind), the edge or junction, and what was done."""

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.place}: {self.text}"
