"""What stands above a report: which section, how it was run, with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from unbroken.validation.results import Mode


@dataclass(frozen=True)
class Heading:
    """Of one validation. `command` repeats it; `made` is when it was made (ISO 8601); `versions` are of packages by name.

    `question` says in a sentence or two what the section asks, `notes` what a reader must know to judge the answer. All are plain
    text: what writes them escapes them.
    """

    section: str
    title: str
    question: str
    mode: Mode
    command: str
    made: str
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
