"""sumo-rl's bundled single intersection."""

import importlib.util
from pathlib import Path

FOLDER = Path(importlib.util.find_spec("sumo_rl").origin).parent / "nets" / "single-intersection"
NETWORK = str(FOLDER / "single-intersection.net.xml")
ROUTES = str(FOLDER / "single-intersection.rou.xml")


def make(num_seconds=500, **words):
    from sumo_rl import SumoEnvironment

    return SumoEnvironment(
        net_file=NETWORK, route_file=ROUTES, single_agent=True, num_seconds=num_seconds, sumo_warnings=False, **words
    )
