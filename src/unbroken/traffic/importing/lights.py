"""From a SUMO traffic light to phases that open whole links.

SUMO gives each connection its own light. A link is open here in the stages in which at least half of its flow has green there.
Permissive green (g) counts as green, "stop, then go" (s) as red.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unbroken.traffic.importing.net_xml import Program, ProgramPhase
from unbroken.traffic.importing.notes import Note
from unbroken.traffic.road_network import Signal

GREEN, YELLOW = "GgOo", "yYuU"
LONG_RED = 6.0  # s; an all-red state that lasts longer is a stage of its own (pedestrians, trams), not a clearance
Flows = Sequence[
    tuple[float, int]
]  # of a link: the share of its flow and the place in the light's state, -1 without light


@dataclass(frozen=True)
class FixedProgram:
    """A program in time: (phase, s of green) in order, between them the signal's clearance; `offset` in s."""

    offset: float
    steps: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Stage:
    """A state without yellow, and how long yellow and all-red last after it."""

    state: str
    duration: float
    yellow: float
    all_red: float
    shortest: float | None
    longest: float | None


def stages(program: Program, places: Sequence[int]) -> list[Stage]:
    """The stages of a program as the connections at `places` see it: another junction of the same light may change meanwhile."""
    found: list[Stage] = []
    before = [0.0, 0.0]  # clearance in front of the first stage belongs to the last
    for phase in program.phases:
        kind = _kind(phase, places)
        if kind == "stage":
            found.append(Stage(phase.state, phase.duration, 0.0, 0.0, phase.shortest, phase.longest))
        elif found:
            yellow, red = (phase.duration, 0.0) if kind == "yellow" else (0.0, phase.duration)
            found[-1] = _cleared(found[-1], yellow, red)
        else:
            before[kind == "red"] += phase.duration
    if found:
        found[-1] = _cleared(found[-1], *before)
    return found


def _cleared(stage: Stage, yellow: float, red: float) -> Stage:
    return Stage(stage.state, stage.duration, stage.yellow + yellow, stage.all_red + red, stage.shortest, stage.longest)


def _kind(phase: ProgramPhase, places: Sequence[int]) -> str:
    letters = {phase.state[place] for place in places}
    if letters & set(YELLOW):
        return "yellow"
    return "stage" if letters & set(GREEN) or phase.duration > LONG_RED else "red"


def green_share(flows: Flows, stage: Stage) -> float:
    """The part of a link's flow that has green in a stage."""
    total = sum(weight for weight, _ in flows)
    opened = sum(weight for weight, place in flows if place < 0 or stage.state[place] in GREEN)
    return opened / total


def make_signal(
    junction: str, program: Program, approaches: Mapping[str, Flows]
) -> tuple[Signal | None, FixedProgram | None, list[Note]]:
    """The signal of a junction, its program and what was approximated. No signal where the light never changes for cars."""
    places = sorted({place for flows in approaches.values() for _, place in flows if place >= 0})
    shown = stages(program, places)
    opened, notes = _open_links(junction, shown, approaches)
    phases = tuple(dict.fromkeys(opened))
    if len(phases) < 2:
        return None, None, [*notes, Note("traffic light without a change", junction, "left out")]
    if any(stage.state[place] == "s" for stage in shown for place in places):
        notes.append(Note("turn on red", junction, "not modelled: these movements wait for green"))
    steps: list[tuple[int, float]] = []
    gaps: list[tuple[float, float]] = []
    for stage, links in zip(shown, opened, strict=True):
        phase = phases.index(links)
        if steps and steps[-1][0] == phase:
            # nothing changes for whole links: the stage before goes on, its clearance included
            steps[-1] = (phase, steps[-1][1] + sum(gaps.pop()) + stage.duration)
        else:
            steps.append((phase, stage.duration))
        gaps.append((stage.yellow, stage.all_red))
    return _signal(phases, shown, steps, gaps), FixedProgram(program.offset, tuple(steps)), notes


def _open_links(
    junction: str, shown: Sequence[Stage], approaches: Mapping[str, Flows]
) -> tuple[list[tuple[str, ...]], list[Note]]:
    """The links open in each stage."""
    notes = []
    opened: list[list[str]] = [[] for _ in shown]
    for link, flows in approaches.items():
        shares = [green_share(flows, stage) for stage in shown]
        most = max(shares, default=0.0)
        if most == 0.0:
            notes.append(Note("never green", junction, f"{link} is left always open"))
        enough = min(0.5, most) - 1e-9
        for links, share in zip(opened, shares, strict=True):
            if share >= enough:
                links.append(link)
        partly = sorted({f"{share:.0%}" for share in shares if 1e-9 < share < 1 - 1e-9})
        if partly:
            notes.append(
                Note(
                    "partly green",
                    junction,
                    f"{link}: open where at least half is green (stages with {', '.join(partly)})",
                )
            )
    return [tuple(links) for links in opened], notes


def _signal(
    phases: tuple[tuple[str, ...], ...],
    shown: Sequence[Stage],
    steps: Sequence[tuple[int, float]],
    gaps: Sequence[tuple[float, float]],
) -> Signal:
    yellow = statistics.median_high([yellow for yellow, _ in gaps])
    greens = [green for _, green in steps]
    shortest = [stage.shortest for stage in shown if stage.shortest is not None]
    longest = [stage.longest for stage in shown if stage.longest is not None]
    return Signal(
        phases,
        yellow=yellow,
        all_red=statistics.median_high([red for _, red in gaps]),
        min_green=min(shortest) if shortest else min(7.0, *greens),
        max_green=max([75.0, *greens] if not longest else [*longest, *greens]),
        end_gain=min(2.0, yellow),
    )
