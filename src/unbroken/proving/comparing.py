"""The first place at which a leg differs from the undisturbed twin, and how much was compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unbroken.proving.reading import Event, Index, Leg, Way

WORKERS = "worker processes' generators"
_COMPONENTS = (
    (r"tensors\.[^ ]*optimizer", "optimizer"),
    (r"tensors\.|variables\.", "weights"),
    (r"state\.replay_buffer", "replay buffer"),
    (r"state\.rollout_buffer", "rollout buffer"),
    (r"state\.generators", "random number generators"),
    (r"state\.environment\S*(obs_rms|ret_rms|\.returns)", "normalisation"),
    (r"state\.environment\S*\.process\.", WORKERS),
    (r"state\.environment\S*(np_random|bit_generator|generator)", "environment's generators"),
    (r"state\.environment", "environment"),
    (r"state\.callbacks", "callbacks"),
    (r"state\.logger", "logger"),
    (r"state\.model\.(ep_info_buffer|ep_success_buffer)", "episode statistics"),
    (r"state\.model\.(_last_obs|_last_original_obs|_last_episode_starts)", "last observation"),
    (r"state\.(callables|changed)|state\.model\.(lr_schedule|clip_range)", "schedules and changed arguments"),
    (r"state\.modules", "further networks and optimizers"),
    (r"state\.model|state\.iteration|state\.calls|state\.cut", "counters"),
    (r"state\.exploration", "exploration noise"),
)
_ORDER = ("action", "observation", "reward", "done")


@dataclass(frozen=True)
class Difference:
    """One value that is not the same: its part, its name there, and the beginning of both as text."""

    component: str
    name: str
    undisturbed: str
    resumed: str


@dataclass(frozen=True)
class Divergence:
    """The first place at which a leg is not the twin's: step, where in the loop, and all that differs there.

    `passed` counts steps over all loops of the script, of which `call` is one.
    """

    leg: int
    step: int
    when: str
    began_at: int
    differences: tuple[Difference, ...]
    right_after_resume: bool = False
    call: str = ""
    passed: int = 0

    def plain(self) -> dict[str, Any]:
        """JSON-ready form with the first hundred differences."""
        return {
            **asdict(self),
            "differences": [asdict(one) for one in self.differences[:100]],
            "in_all": len(self.differences),
        }


@dataclass
class Compared:
    """How much was compared over all legs."""

    steps: int = 0
    cuts: int = 0
    values: int = 0
    logged: int = 0
    components: Counter[str] = field(default_factory=Counter)

    def plain(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "components": dict(self.components)}


def component_of(name: str) -> str:
    """The part of a training that a leaf's name belongs to."""
    return next((part for pattern, part in _COMPONENTS if re.match(pattern, name)), "other state")


def first_divergence(
    twin: Index, leg: Leg, number: int, compared: Compared, way: Way | None = None, ignored: Collection[str] = ()
) -> Divergence | None:
    """The first event of `leg` that is not the same in `twin`, None if all that both have agree, leaves `ignored` excepted."""
    cuts = 0
    for key, _, event in leg.events():
        cuts += event["event"] == "cut"
        other = twin.find(key)
        differences = _differences(other, event, compared) if other is not None else ()
        found = tuple(one for one in differences if one.name not in ignored)
        if found:
            at_once = event["event"] == "cut" and cuts == 1 and number > 1
            step, call = event["step"], event["call"]
            passed = way.at(call, step) if way is not None else step
            return Divergence(number, step, _when(event), leg.first_step or 0, found, at_once, call, passed)
    return None


def hidden_differences(twin: Event, resumed: Event) -> list[tuple[str, dict[str, Any], Difference]]:
    """Places outside of every capture that are not the same at a cut: (place, what is known of it, first difference)."""
    found = []
    for place, entry in resumed["hidden"].items():
        other = twin["hidden"].get(place)
        if other is not None and entry["leaves"] != other["leaves"]:
            difference = next(_leaf_differences(other["leaves"], entry["leaves"], entry["kind"]))
            found.append((place, entry, difference))
    return found


def matching_cuts(twin: Leg, leg: Leg) -> Iterator[tuple[Event, Event]]:
    """Whole states that both have; the first is right after the resume, if the twin has traced its state there."""
    cuts = {_place(event): event for event in twin.cuts}
    yield from ((cuts[_place(event)], event) for event in leg.cuts if _place(event) in cuts)


def unseeded_workers(twin: Leg, leg: Leg) -> set[str]:
    """Global generators of worker processes that no two processes share from the start, as long as nobody seeds them.

    Whether anything draws from them shows in the steps.
    """
    pair = next(matching_cuts(twin, leg), None)
    differences = _leaf_differences(pair[0]["leaves"], pair[1]["leaves"]) if pair else ()
    return {one.name for one in differences if one.component == WORKERS}


def _place(cut: Event) -> tuple[Any, ...]:
    return cut["call"], cut["step"], cut["cut"]


def _when(event: Event) -> str:
    if event["event"] == "cut":
        return (
            "in the state at the end of the training"
            if event["cut"] == "end"
            else "in the state at the start of a rollout"
        )
    return "in the step of the environment" if event["event"] == "step" else "in what is logged"


def _differences(twin: Event, event: Event, compared: Compared) -> Iterator[Difference]:
    if event["event"] == "cut":
        compared.cuts += 1
        compared.values += len(event["leaves"])
        compared.components.update({component_of(n) for n, leaf in event["leaves"].items() if _holds_state(n, leaf)})
        yield from sorted(_leaf_differences(twin["leaves"], event["leaves"]), key=_rank)
        return
    name = "step" if event["event"] == "step" else "logged value"
    if name == "step":
        compared.steps += 1
    else:
        compared.logged += len(event["values"])
    yield from _value_differences(twin["values"], event["values"], name)


def _holds_state(name: str, leaf: Sequence[str]) -> bool:
    """Whether a leaf says more than that there is nothing, or of which type something is."""
    return not name.endswith(":type") and leaf[1] != "None"


def _leaf_differences(
    first: dict[str, Sequence[str]], second: dict[str, Sequence[str]], component: str = ""
) -> Iterator[Difference]:
    for name in dict.fromkeys([*first, *second]):
        one, two = first.get(name, ("", "absent")), second.get(name, ("", "absent"))
        if one[0] != two[0]:
            yield Difference(component or component_of(name), name, one[1], _second(one[1], two[1]))


def _value_differences(first: dict[str, Any], second: dict[str, Any], kind: str) -> Iterator[Difference]:
    names = sorted(dict.fromkeys([*first, *second]), key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))
    for name in names:
        one, two = first.get(name, ("", "absent")), second.get(name, ("", "absent"))
        if one[0] != two[0]:
            yield Difference(name if kind == "step" else kind, name, one[1], _second(one[1], two[1]))


def _second(first: str, second: str) -> str:
    return f"{second} (what differs lies further on)" if first == second else second


def _rank(difference: Difference) -> int:
    """What decides comes first: a learning rate before the weights that it makes, counters of callbacks last."""
    order = ("schedules", "learning rate", "random", "environment", "normalisation", "optimizer", "weights")
    name = (
        "learning rate"
        if difference.name.endswith(".lr") or "learning_rate" in difference.name
        else difference.component
    )
    return next((k for k, word in enumerate(order) if name.startswith(word)), len(order))
