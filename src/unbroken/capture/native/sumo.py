"""SUMO, as `sumo_rl` drives it through libsumo or traci: the simulation's saved state beside the environment's attributes.

SUMO writes its state with its generators and with enough digits only when it was started that way, so the adapter adds two
options to the command with which the environment starts it. Generators are written as numbers of draws since their seed:
the simulation that takes the state must have been started with the same one. What is not in a state file: the lights of a
signal that were set one by one, and, in libsumo, that some generators count on over simulations of one process.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unbroken.capture.filling import Filler
from unbroken.capture.native import class_names, from_module
from unbroken.capture.objects import Describer, Description, class_name
from unbroken.errors import CaptureError

# digits behind the point: a vehicle that creeps has a speed of 1e-5 m/s, and a double has 17 significant digits
OPTIONS = "--save-state.rng true --save-state.precision 60"
# a label names a connection of this process; the others are handles
_SKIP = frozenset({"spec", "label", "sumo", "disp", "additional_sumo_cmd", "close"})
_GENERATORS = re.compile(rb"<rngState ([^>]*)>")
_GENERATOR = re.compile(rb'([\w.]+)="([^"]*)"')
# the others are made anew with every simulation
_OWN_TO_A_SIMULATION = frozenset({b"insertionControl"})
# draws of libsumo's generators in this process before the simulation that runs now
_drawn_before: dict[bytes, int] = {}


class SumoAdapter:
    """Adapter of `sumo_rl.SumoEnvironment` and what inherits from it."""

    name = "sumo"

    @classmethod
    def handles(cls, env: Any) -> bool:
        """Whether the environment is `sumo_rl`'s."""
        return "sumo_rl.environment.env:SumoEnvironment" in class_names(env)

    def __init__(self, env: Any) -> None:
        self._env = env
        self._uncountable_episode: int | None = None
        if OPTIONS not in (env.additional_sumo_cmd or ""):
            env.additional_sumo_cmd = " ".join(filter(None, [env.additional_sumo_cmd, OPTIONS]))
        if self.one_per_process:
            env.close = self._counting(env.close)

    @property
    def one_per_process(self) -> bool:
        """Libsumo is one simulation in this process; traci starts a process for each."""
        from sumo_rl.environment.env import LIBSUMO

        return bool(LIBSUMO)

    def is_handle(self, value: Any) -> bool:
        """Connections, modules and phases, which the simulator hands out."""
        return from_module(value, "traci", "libsumo", "sumolib")

    def capture(self, describer: Describer) -> Description:
        """The state file's bytes without its header, what the signals show, and the attributes."""
        if self._env.sumo_seed == "random":
            raise CaptureError("SUMO draws its seed by itself; give the environment a sumo_seed, or seed its reset")
        if self._uncountable_episode == self._env.episode:
            raise CaptureError("SUMO has lost count of its generators' draws; the next episode can be captured")
        document = _GENERATORS.sub(_counted_from_start, self._saved())
        return {
            "simulation": np.frombuffer(document, dtype=np.uint8),
            "signals": self._signals(),
            "attributes": describer.attributes(self._env, class_name(self._env), skip=_SKIP),
        }

    def restore(self, filler: Filler, state: Description) -> None:
        """Start the simulation with the stored seed, and load the state into it."""
        self._restart(filler.build(state["attributes"]["sumo_seed"]))
        document = state["simulation"].tobytes()
        with tempfile.TemporaryDirectory(prefix="unbroken-sumo-") as folder:
            path = Path(folder) / "state.xml"
            path.write_bytes(document)
            self._env.sumo.simulation.loadState(str(path))
        for signal, lights in state["signals"].items():
            self._env.sumo.trafficlight.setRedYellowGreenState(signal, lights)
        filler.fill_attributes(self._env, state["attributes"], class_name(self._env))
        _drawn_before.clear()
        # beyond a million draws SUMO writes the generator itself and, reading it, does not learn how many they were
        if any(not value.isdigit() for _, value in _generators(document)):
            self._uncountable_episode = self._env.episode

    def _restart(self, seed: Any) -> None:
        """A reset equips the simulation with its signal programs, too. Nothing is written of the episode that it ends."""
        csv, self._env.out_csv_name = self._env.out_csv_name, None
        self._env.sumo_seed = seed
        self._env.reset()
        self._env.out_csv_name = csv

    def _saved(self) -> bytes:
        with tempfile.TemporaryDirectory(prefix="unbroken-sumo-") as folder:
            path = Path(folder) / "state.xml"
            self._env.sumo.simulation.saveState(str(path))
            return _without_header(path.read_bytes())

    def _signals(self) -> dict[str, str]:
        """The lights of the signals that are set light by light, by the signal's id."""
        lights = self._env.sumo.trafficlight
        return {
            signal: lights.getRedYellowGreenState(signal)
            for signal in lights.getIDList()
            if lights.getProgram(signal) == "online"
        }

    def _counting(self, close: Callable[[], None]) -> Callable[[], None]:
        def counted() -> None:
            if self._env.sumo is not None:
                _drawn_before.update({n: int(value) for n, value in _generators(self._saved()) if value.isdigit()})
            close()

        return counted


def _generators(document: bytes) -> list[tuple[bytes, bytes]]:
    """Names and states of the generators that are the process's and not the simulation's."""
    found = _GENERATORS.search(document)
    pairs = _GENERATOR.findall(found[1]) if found else []
    return [(name, value) for name, value in pairs if name not in _OWN_TO_A_SIMULATION]


def _counted_from_start(found: re.Match[bytes]) -> bytes:
    def counted(pair: re.Match[bytes]) -> bytes:
        name, value = pair[1], pair[2]
        if not value.isdigit() or name in _OWN_TO_A_SIMULATION:
            return pair[0]
        return b'%s="%d"' % (name, int(value) - _drawn_before.get(name, 0))

    return b"<rngState %s>" % _GENERATOR.sub(counted, found[1])


def _without_header(document: bytes) -> bytes:
    """The document without the comment that says when and by whom it was written: equal states are equal bytes."""
    begin, end = document.find(b"<!--"), document.find(b"-->")
    return document if begin < 0 or end < begin else document[:begin] + document[end + 3 :]
