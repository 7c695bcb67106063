"""Traffic counts from CSV as demand: vehicles counted per link and period become flows in periods of 60 s."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from unbroken.errors import ConfigurationError

DEMAND_PERIOD = 60.0  # s, that of `Simulation.set_demand`
REQUIRED = ("link", "time_s", "motorcycles", "cars")
PERIOD = "period_s"
TOLERANCE = 1e-6  # s
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Flows in veh/s, shape (2, links, periods of 60 s): motorcycles, then cars. `begin` is the `time_s` of time 0."""

    links: tuple[str, ...]
    flows: Floats
    begin: float

    def demand(self, origins: Sequence[str]) -> Floats:
        """For `Simulation.set_demand`: in the order of a network's origins, zero where nothing was counted, and after the counts.

        Raises:
            ConfigurationError: a link that was counted is no origin.
        """
        strange = [link for link in self.links if link not in origins]
        if strange:
            raise ConfigurationError(f"counts of {', '.join(strange)}: not an origin; origins are {', '.join(origins)}")
        demand = np.zeros((2, len(origins), self.flows.shape[2] + 1))
        demand[:, [origins.index(link) for link in self.links], :-1] = self.flows
        return demand


@dataclass(frozen=True)
class _Row:
    line: int
    link: str
    begin: float
    period: float | None
    vehicles: tuple[float, float]


def read_counts(path: str | Path) -> Counts:
    """Read a CSV with the header `link,time_s,motorcycles,cars` and perhaps `period_s`, columns and rows in any order.

    A row gives the vehicles that passed into `link` in the period that begins at `time_s`. Without `period_s` a link's rows are
    evenly spaced. All links begin and end together. Counts over longer periods are spread evenly, over shorter ones added up;
    no vehicle is lost or made.

    Raises:
        ConfigurationError: the file cannot be read; with the line: unknown or missing columns, values that are no numbers or
            negative, periods that overlap or are missing.
    """
    rows = _rows(Path(path))
    by_link: dict[str, list[_Row]] = {}
    for row in sorted(rows, key=lambda row: row.begin):
        by_link.setdefault(row.link, []).append(row)
    spacing = _spacing(by_link)
    ends = {link: _end(path, own, spacing) for link, own in by_link.items()}
    begin, end = min(row.begin for row in rows), max(ends.values())
    for link, own in by_link.items():
        if own[0].begin > begin + TOLERANCE:
            _fail(path, own[0].line, f"counts of {link} begin at {own[0].begin:g} s, those of others at {begin:g} s")
        if ends[link] < end - TOLERANCE:
            _fail(path, own[-1].line, f"counts of {link} end at {ends[link]:g} s, those of others at {end:g} s")
    links = tuple(sorted(by_link))
    n_periods = max(1, math.ceil((end - begin) / DEMAND_PERIOD - TOLERANCE))
    flows = np.stack([_flows(by_link[link], begin, end, n_periods) for link in links], axis=1)
    return Counts(links, flows, begin)


def _fail(path: str | Path, line: int, what: str) -> NoReturn:
    raise ConfigurationError(f"{path}, line {line}: {what}")


def _rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", restval=None)
            _check_header(path, reader.fieldnames or ())
            rows = [_row(path, reader.line_num, values) for values in reader]
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not rows:
        raise ConfigurationError(f"{path}: has no counts")
    return rows


def _check_header(path: Path, names: Sequence[str]) -> None:
    wanted = f"the header is {','.join(REQUIRED)} and perhaps {PERIOD}"
    unknown = [name for name in names if name not in (*REQUIRED, PERIOD)]
    if unknown:
        _fail(path, 1, f"unknown column {', '.join(unknown)}; {wanted}")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        _fail(path, 1, f"no column {', '.join(missing)}; {wanted}")
    if len(set(names)) < len(names):
        _fail(path, 1, f"a column is given twice; {wanted}")


def _row(path: Path, line: int, values: Mapping[str, str | None]) -> _Row:
    if "" in values or None in values.values():
        _fail(path, line, "has more or fewer values than the header")

    def number(name: str) -> float:
        try:
            value = float(values[name] or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            _fail(path, line, f"{name} is {values[name]!r}, not a number")
        return value

    vehicles = (number("motorcycles"), number("cars"))
    if min(vehicles) < 0:
        _fail(path, line, "a count is negative")
    period = number(PERIOD) if PERIOD in values else None
    if period is not None and period <= 0:
        _fail(path, line, f"{PERIOD} must be above 0")
    return _Row(line, values["link"] or "", number("time_s"), period, vehicles)


def _spacing(by_link: Mapping[str, Sequence[_Row]]) -> float:
    """The shortest time between two counts of a link; NaN where no link has two."""
    gaps = [b.begin - a.begin for own in by_link.values() for a, b in pairwise(own)]
    return min((gap for gap in gaps if gap > 0), default=math.nan)


def _end(path: str | Path, own: Sequence[_Row], spacing: float) -> float:
    """The end of the last period of a link, after a check that each begins where the one before ends."""
    if own[0].period is None and math.isnan(spacing):
        _fail(path, own[0].line, f"one count of {own[0].link}: its period is unknown, add a column {PERIOD}")
    end = own[0].begin
    for row in own:
        if row.begin < end - TOLERANCE:
            _fail(
                path, row.line, f"the period of {row.link} at {row.begin:g} s overlaps the one before, up to {end:g} s"
            )
        if row.begin > end + TOLERANCE:
            _fail(path, row.line, f"counts of {row.link} from {end:g} to {row.begin:g} s are missing")
        end = row.begin + (row.period or spacing)
    return end


def _flows(own: Sequence[_Row], begin: float, end: float, n_periods: int) -> Floats:
    """veh/s of both classes, shape (2, n_periods), from the cumulative counts."""
    edges = begin + DEMAND_PERIOD * np.arange(n_periods + 1)
    times = [*(row.begin for row in own), end]
    totals = np.concatenate([np.zeros((1, 2)), np.cumsum([row.vehicles for row in own], axis=0)])
    cumulative = np.stack([np.interp(edges, times, totals[:, k]) for k in range(2)])
    return np.diff(cumulative, axis=1) / DEMAND_PERIOD
