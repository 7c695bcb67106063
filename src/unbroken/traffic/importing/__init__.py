"""Networks and counts of other programs: SUMO's `.net.xml` and counts from CSV. Nothing but the standard library and NumPy."""

from unbroken.traffic.importing.counts import Counts, read_counts
from unbroken.traffic.importing.lights import FixedProgram
from unbroken.traffic.importing.notes import Note
from unbroken.traffic.importing.sumo import ImportedNetwork, read_sumo_network

__all__ = ["Counts", "FixedProgram", "ImportedNetwork", "Note", "read_counts", "read_sumo_network"]
