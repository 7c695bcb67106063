"""Retention decided by pure functions of records: no file is touched, equal records give equal plans.

A checkpoint stays if any policy keeps it, and each reason is named. The newest checkpoint that may be valid stays
whatever the policies say; files that are damaged or foreign are not retention's to remove.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from unbroken.errors import ConfigurationError

NEWEST_VALID = "newest valid checkpoint"
LEFT_ALONE = "damaged or foreign file: left for a person to judge"


class Record(Protocol):
    """What a policy may look at; `sequence` orders records by age, `valid=None` (unknown) counts as valid."""

    @property
    def name(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def tiers(self) -> frozenset[str]: ...
    @property
    def score(self) -> float | None: ...
    @property
    def valid(self) -> bool | None: ...


class Policy(Protocol):
    """One rule; gets the usable records, oldest first, and says which it keeps and why."""

    def keeps(self, records: Sequence[Record], /) -> dict[str, str]:
        """Names of the records that this rule keeps, each with the reason a person reads."""
        ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class KeepNewest:
    """The `n` newest."""

    n: int

    def __post_init__(self) -> None:
        _require_positive("keep newest", self.n)

    def __str__(self) -> str:
        return f"newest {self.n}"

    def keeps(self, records: Sequence[Record], /) -> dict[str, str]:
        return {record.name: f"among the newest {self.n}" for record in records[-self.n :]}


@dataclass(frozen=True)
class KeepEvery:
    """The first checkpoint at or after each multiple of `steps`, which stays the same as others go."""

    steps: int

    def __post_init__(self) -> None:
        _require_positive("keep every", self.steps)

    def __str__(self) -> str:
        return f"every {self.steps:,} steps"

    def keeps(self, records: Sequence[Record], /) -> dict[str, str]:
        first: dict[int, Record] = {}
        for record in sorted(records, key=lambda record: record.step):
            first.setdefault(record.step // self.steps, record)
        return {
            record.name: f"first at or after step {multiple * self.steps}"
            for multiple, record in first.items()
            if multiple > 0
        }


@dataclass(frozen=True)
class KeepBest:
    """The `k` with the best score; of equal ones the newer. Those without a score do not take part."""

    k: int
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        _require_positive("keep best", self.k)
        if self.mode not in ("max", "min"):
            raise ConfigurationError(f"keep best: mode is 'max' or 'min', not {self.mode!r}")

    def __str__(self) -> str:
        return f"best {self.k}"

    def keeps(self, records: Sequence[Record], /) -> dict[str, str]:
        sign = 1 if self.mode == "max" else -1
        scored = [(sign * r.score, r.sequence, r) for r in records if r.score is not None and r.score == r.score]
        ranked = sorted(scored, key=lambda item: item[:2], reverse=True)[: self.k]
        return {
            record.name: f"best number {rank} of {self.k}, score {record.score:g}"
            for rank, (_, _, record) in enumerate(ranked, 1)
        }


@dataclass(frozen=True)
class KeepFinal:
    """Those made on completion of a target (tier `final`)."""

    def __str__(self) -> str:
        return "final"

    def keeps(self, records: Sequence[Record], /) -> dict[str, str]:
        return {record.name: "final" for record in records if "final" in record.tiers}


@dataclass(frozen=True)
class KeepPinned:
    """Those that a person pinned: by tier `pinned` when saved, by `names` since then."""

    names: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return "pinned"

    def keeps(self, records: Sequence[Record], /) -> dict[str, str]:
        return {record.name: "pinned" for record in records if self._is_pinned(record)}

    def _is_pinned(self, record: Record) -> bool:
        return "pinned" in record.tiers or record.name in self.names


@dataclass(frozen=True)
class KeepAll:
    """Everything."""

    def __str__(self) -> str:
        return "everything"

    def keeps(self, records: Sequence[Record], /) -> dict[str, str]:
        return {record.name: "everything is kept" for record in records}


@dataclass(frozen=True)
class Decision(Generic[R]):
    """One record and the reasons for which it stays; without a reason it goes."""

    record: R
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        return bool(self.reasons)


@dataclass(frozen=True)
class RetentionPlan(Generic[R]):
    """A decision for every record, oldest first; the plan is also the dry run."""

    decisions: tuple[Decision[R], ...]

    @property
    def kept(self) -> list[R]:
        return [decision.record for decision in self.decisions if decision.kept]

    @property
    def removable(self) -> list[R]:
        return [decision.record for decision in self.decisions if not decision.kept]


def plan(records: Sequence[R], policies: Sequence[Policy]) -> RetentionPlan[R]:
    """Decide about every record; without any policy only the newest valid one stays."""
    ordered = sorted(records, key=lambda record: (record.sequence, record.step))
    usable = [record for record in ordered if record.valid is not False]
    verdicts = [policy.keeps(usable) for policy in policies]
    if usable:
        verdicts.append({usable[-1].name: NEWEST_VALID})
    return RetentionPlan(tuple(Decision(record, _reasons(record, verdicts)) for record in ordered))


def _reasons(record: Record, verdicts: Sequence[dict[str, str]]) -> tuple[str, ...]:
    if record.valid is False:
        return (LEFT_ALONE,)
    return tuple(verdict[record.name] for verdict in verdicts if record.name in verdict)


def _require_positive(rule: str, number: int) -> None:
    if number < 1:
        raise ConfigurationError(f"{rule}: expected a number of at least 1, not {number}")
