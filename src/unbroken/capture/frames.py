"""Images as a table of different planes and indices into it.

Stacked frames repeat: most planes of an observation are in the observation before, and `next_observations` are the next row's
`observations`. A plane is the last two dimensions of an array of uint8 with at least two before them (rows, ..., channels).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

_PLANE_BYTES = 256


def is_image(rows: np.ndarray) -> bool:
    """Whether the rows hold planes worth a table: shape (rows, n_envs, ..., height, width), uint8."""
    return rows.dtype == np.uint8 and rows.ndim >= 5 and rows.shape[-1] * rows.shape[-2] >= _PLANE_BYTES


@dataclass
class PlaneTable:
    """The different planes of one shape, in order of their first occurrence. Used by one thread."""

    shape: tuple[int, int]
    _places: dict[bytes, int] = field(default_factory=dict)

    def indices(self, rows: np.ndarray) -> np.ndarray:
        """Indices (int32) of the planes of `rows`, with its shape less the last two dimensions; new planes are added."""
        places = self._places
        flat = np.ascontiguousarray(rows).reshape(-1, self.shape[0] * self.shape[1])
        found = [places.setdefault(plane.tobytes(), len(places)) for plane in flat]
        return np.array(found, dtype=np.int32).reshape(rows.shape[:-2])

    def planes(self) -> np.ndarray:
        """The table, (planes, height, width), uint8."""
        joined = b"".join(self._places)
        return np.frombuffer(joined, dtype=np.uint8).reshape(len(self._places), *self.shape)


def split(arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Arrays as a description in which images are {"table", "indices"}, and the tables by name."""
    tables: dict[str, PlaneTable] = {}
    described: dict[str, Any] = {}
    for name, array in arrays.items():
        if not is_image(array):
            described[name] = array
            continue
        key = f"{array.shape[-2]}x{array.shape[-1]}"
        table = tables.setdefault(key, PlaneTable((array.shape[-2], array.shape[-1])))
        described[name] = {"table": key, "indices": table.indices(array)}
    return described, {key: table.planes() for key, table in tables.items()}


def join(described: dict[str, Any], tables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that `split` was given. Raises KeyError, IndexError or TypeError where they do not fit together."""
    return {
        name: tables[part["table"]][part["indices"]] if isinstance(part, dict) else part
        for name, part in described.items()
    }
