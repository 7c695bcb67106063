"""SUMO and UXsim on the scenes of the traffic benchmarks, each in a process of its own: `ask` starts one and returns its answer.

libsumo keeps its simulation in the process, and both load libraries that a timing of ours should not share caches with.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unbroken.traffic import CAR

VEHICLE = (
    '<vType id="car" length="{length:.4f}" minGap="2.5" maxSpeed="{speed:.6f}" speedFactor="1" speedDev="0" '
    'accel="2.6" decel="4.5" sigma="{sigma}" tau="{tau}"/>'
)
FLOW = (
    '<flow id="f" type="car" route="road" begin="0" end="{end:g}" vehsPerHour="{flow:.6f}" departSpeed="max" '
    'departPos="base"/>'
)


@dataclass(frozen=True)
class Scene:
    """A one-lane road with signals between its links: lengths in m, times in s, flow in veh/s; offsets of each signal's cycle.

    A signal is open from `opens` to `closes` of its cycle. SUMO's yellow begins 2 s before it closes and lasts 3 s.
    """

    lengths: tuple[float, ...]
    offsets: tuple[float, ...]
    cycle: float
    opens: float
    closes: float
    flow: float
    warm: float
    span: float
    lights: bool = True
    decision: float = 15.0
    until_empty: bool = False  # for travel times; otherwise only time passes
    saturation: bool = False  # note when vehicles pass the first signal


@dataclass(frozen=True)
class Engine:
    """How a peer is set: SUMO's step and driver, UXsim's platoon, reaction time and engine."""

    step: float = 1.0
    sigma: float = 0.5
    tau: float = 1.0
    platoon: int = 5
    compiled: bool = False
    seed: int = 1


def missing() -> list[str]:
    """Packages of the peers that are not installed."""
    return [name for name in ("libsumo", "sumo", "uxsim") if importlib.util.find_spec(name) is None]


def ask(peer: str, scene: Scene, engine: Engine) -> dict[str, Any]:
    """Run `sumo` or `uxsim` on a scene in a new process."""
    question = json.dumps({"peer": peer, "scene": asdict(scene), "engine": asdict(engine)})
    done = subprocess.run([sys.executable, __file__, question], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{peer} failed:\n{done.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _write(folder: Path, name: str, root: str, lines: Sequence[str]) -> Path:
    path = folder / name
    path.write_text("\n".join([f"<{root}>", *lines, f"</{root}>"]), encoding="utf-8")
    return path


def _sumo_network(folder: Path, scene: Scene) -> Path:
    import sumo

    ends = [sum(scene.lengths[:i]) for i in range(len(scene.lengths) + 1)]
    lit = range(1, len(scene.lengths)) if scene.lights else range(0)
    nodes = [
        f'<node id="n{i}" x="{x}" y="0" type="{"traffic_light" if i in lit else "priority"}"/>'
        for i, x in enumerate(ends)
    ]
    edges = [
        f'<edge id="e{i}" from="n{i}" to="n{i + 1}" numLanes="1" speed="{CAR.free_speed:.6f}"/>'
        for i in range(len(scene.lengths))
    ]
    target = folder / "road.net.xml"
    command = [
        Path(sumo.SUMO_HOME) / "bin" / "netconvert",
        *("--node-files", _write(folder, "road.nod.xml", "nodes", nodes)),
        *("--edge-files", _write(folder, "road.edg.xml", "edges", edges)),
        *("--no-turnarounds", "true", "--no-internal-links", "true", "--output-file", target),
    ]
    subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return target


def _sumo_programs(scene: Scene) -> list[str]:
    """Each light's program from the moment at which it opens: green, yellow, red."""
    green, yellow = scene.closes - scene.opens - 2.0, 3.0
    red = scene.cycle - green - yellow
    return [
        f'<tlLogic id="n{i + 1}" type="static" programID="fixed" offset="{start + scene.opens:g}">'
        f'<phase duration="{green:g}" state="G"/><phase duration="{yellow:g}" state="y"/>'
        f'<phase duration="{red:g}" state="r"/></tlLogic>'
        for i, start in enumerate(scene.offsets)
    ]


def _sumo_command(folder: Path, scene: Scene, engine: Engine) -> list[str]:
    end = scene.warm + scene.span
    length = 1 / CAR.jam_density() - 2.5
    route = " ".join(f"e{i}" for i in range(len(scene.lengths)))
    demand = [
        VEHICLE.format(length=length, speed=CAR.free_speed, sigma=engine.sigma, tau=engine.tau),
        f'<route id="road" edges="{route}"/>',
        FLOW.format(end=end, flow=scene.flow * 3600),
    ]
    network = _sumo_network(folder, scene)
    command = ["sumo", "-n", str(network), "-r", str(_write(folder, "road.rou.xml", "routes", demand))]
    if scene.lights:
        command += ["-a", str(_write(folder, "road.add.xml", "additional", _sumo_programs(scene)))]
    if scene.until_empty:
        command += ["--tripinfo-output", str(folder / "trips.xml")]
    return [
        *command,
        *("--step-length", f"{engine.step:g}", "--no-step-log", "--no-warnings", "--time-to-teleport", "-1"),
        *("--max-depart-delay", "-1", "--seed", f"{engine.seed}"),
    ]


def _sumo(scene: Scene, engine: Engine) -> dict[str, Any]:
    import libsumo

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        libsumo.start(_sumo_command(folder, scene, engine))
        libsumo.simulationStep(scene.warm)
        present = libsumo.vehicle.getIDCount()
        edges = [f"e{i}" for i in range(len(scene.lengths))]
        queue, passed, seen = 0.0, list[float](), set[str]()
        began = time.process_time()
        now = scene.warm
        while now < scene.warm + scene.span - 1e-6:
            now += engine.step if scene.saturation else scene.decision
            libsumo.simulationStep(now)
            if scene.saturation:
                queue = max(queue, _standing_metres(libsumo, scene))
                passed += _newly_passed(libsumo, now, seen)
            else:
                for edge in edges:
                    libsumo.edge.getLastStepOccupancy(edge)
                    libsumo.edge.getLastStepMeanSpeed(edge)
                    libsumo.edge.getLastStepHaltingNumber(edge)
        seconds = time.process_time() - began
        answer = {"seconds": seconds, "present": present, "queue": queue, "passed": passed}
        if scene.until_empty:
            while libsumo.simulation.getMinExpectedNumber() > 0 and now < 10 * (scene.warm + scene.span):
                now += 60.0
                libsumo.simulationStep(now)
            libsumo.close()
            answer["travel_time"] = _mean_trip(folder / "trips.xml", scene)
        return answer


def _standing_metres(libsumo: Any, scene: Scene) -> float:
    """From the stop line to the last car of the first link under 5 km/h."""
    slow = [
        libsumo.vehicle.getLanePosition(car)
        for car in libsumo.edge.getLastStepVehicleIDs("e0")
        if libsumo.vehicle.getSpeed(car) < 5 / 3.6
    ]
    return scene.lengths[0] - (min(slow) - 1 / CAR.jam_density()) if slow else 0.0


def _newly_passed(libsumo: Any, now: float, seen: set[str]) -> list[float]:
    new = set(libsumo.edge.getLastStepVehicleIDs("e1")) - seen
    seen |= new
    return [now] * len(new)


def _mean_trip(path: Path, scene: Scene) -> float:
    """Mean travel time of those who wanted to depart in the span, waiting to enter included."""
    times = []
    for trip in ElementTree.parse(path).getroot().iter("tripinfo"):
        waited = float(trip.get("departDelay", "0"))
        if scene.warm <= float(trip.get("depart", "0")) - waited < scene.warm + scene.span:
            times.append(float(trip.get("duration", "nan")) + waited)
    return sum(times) / len(times)


def _uxsim_world(scene: Scene, engine: Engine) -> Any:
    import uxsim

    end = scene.warm + scene.span
    world = uxsim.World(
        deltan=engine.platoon,
        reaction_time=engine.tau,
        tmax=end * 3 if scene.until_empty else end,
        print_mode=0,
        save_mode=0,
        show_progress=0,
        random_seed=engine.seed,
        cpp=engine.compiled,
    )
    ends = [sum(scene.lengths[:i]) for i in range(len(scene.lengths) + 1)]
    shown = [scene.closes - scene.opens, scene.cycle - scene.closes + scene.opens]
    for i, x in enumerate(ends):
        if scene.lights and 0 < i < len(scene.lengths):
            world.addNode(
                f"n{i}", x, 0, signal=shown, signal_offset=(-scene.offsets[i - 1] - scene.opens) % scene.cycle
            )
        else:
            world.addNode(f"n{i}", x, 0)
    for i, length in enumerate(scene.lengths):
        world.addLink(
            f"e{i}", f"n{i}", f"n{i + 1}", length, free_flow_speed=CAR.free_speed, jam_density=CAR.jam_density()
        )
    world.adddemand("n0", f"n{len(scene.lengths)}", 0, end, scene.flow)
    return world


def _uxsim(scene: Scene, engine: Engine) -> dict[str, Any]:
    world = _uxsim_world(scene, engine)
    world.exec_simulation(until_t=scene.warm)
    links = list(world.LINKS)
    began = time.process_time()
    for k in range(round(scene.span / scene.decision)):
        world.exec_simulation(until_t=scene.warm + (k + 1) * scene.decision)
        for link in links:
            _ = link.density, link.speed, link.num_vehicles_queue
    answer: dict[str, Any] = {"seconds": time.process_time() - began}
    if scene.until_empty:
        world.exec_simulation()
        times = [
            vehicle.travel_time
            for vehicle in world.VEHICLES.values()
            if scene.warm <= vehicle.departure_time_in_second < scene.warm + scene.span and vehicle.travel_time > 0
        ]
        answer["travel_time"] = sum(times) / len(times)
    return answer


def main() -> None:
    """Answer the question of a parent process."""
    question = json.loads(sys.argv[1])
    words = {key: tuple(value) if isinstance(value, list) else value for key, value in question["scene"].items()}
    answer = (_sumo if question["peer"] == "sumo" else _uxsim)(Scene(**words), Engine(**question["engine"]))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
