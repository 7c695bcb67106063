"""Vehicle classes: parameters of the two-class ARZ model, each with its source or marked as an assumption. SI units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unbroken.errors import ConfigurationError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class VehicleClass:
    """One class of vehicles.

    Occupancy r is the sum over classes of `length` x density per lane; the class stands at r = `max_occupancy`. With
    x = r / `max_occupancy` the pressure is p(x) = `pressure` x^gamma and speed is v = w - p(x).

    Drivers relax within `relaxation_time` to w_eq(x) = V_eq(x) + p(x). w_eq is `free_speed` on the empty road, rises to `pressure`
    at x = `critical`, falls to p(`standing`) at x = `standing`, and equals p(x) beyond. So (all checked by tests):

    - a queue never gets denser than x = 1, because w never exceeds `pressure`;
    - a standing queue keeps the w of x = `standing` or more and gains w only while it discharges: start-up lost time;
    - traffic that leaves a moving queue has less w than traffic that never queued: capacity drop.

    Where w_eq falls, equilibrium is unstable against long waves (w_eq' < 0), as dense traffic is.
    """

    name: str
    free_speed: float  # m/s
    length: float  # m of a lane, the unit of occupancy
    max_occupancy: float  # R
    pressure: float  # c, m/s
    relaxation_time: float  # tau, s
    critical: float = 0.44
    standing: float = 0.80

    def __post_init__(self) -> None:
        for name in ("free_speed", "length", "max_occupancy", "pressure", "relaxation_time"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigurationError(f"class {self.name}: {name} must be above 0, not {value}")
        if self.pressure < self.free_speed:
            raise ConfigurationError(
                f"class {self.name}: pressure {self.pressure:.2f} m/s is below the free speed {self.free_speed:.2f} m/s: "
                "standing queues would be denser than jam density; raise it to the free speed or more"
            )
        if not 0 < self.critical < self.standing <= 1:
            raise ConfigurationError(
                f"class {self.name}: 0 < critical < standing <= 1 is needed, not {self.critical}, {self.standing}"
            )

    def jam_density(self) -> float:
        """veh/m per lane when the class is alone and stands."""
        return self.max_occupancy / self.length

    def w_law(self, gamma: float | None) -> tuple[float, float, float, float, float]:
        """(c, rise, fall, critical, free speed) of `scheme.law.equilibrium_w`."""
        at_standing = self.pressure * self.standing ** (1.0 if gamma is None else gamma)
        rise = (self.pressure - self.free_speed) / self.critical
        return (
            self.pressure,
            rise,
            (self.pressure - at_standing) / (self.standing - self.critical),
            self.critical,
            self.free_speed,
        )

    def equilibrium_speed(self, x: ArrayLike, gamma: float | None = None, limit: float = math.inf) -> Floats:
        """V_eq(x) in m/s for x = r / `max_occupancy` of any shape, under a speed limit in m/s."""
        from unbroken.traffic.scheme.law import equilibrium_w, pressure

        law = self.w_law(gamma)
        values = np.asarray(x, dtype=np.float64)
        speeds = [
            max(0.0, equilibrium_w(v, limit, law, gamma) - pressure(v, self.pressure, gamma)) for v in values.ravel()
        ]
        return np.array(speeds).reshape(values.shape)


# Free speeds and relaxation times are assumptions for urban avenues (by road class, West-African figures go from 85 to 30 and
# from 75 to 10 km/h). A car takes 1/140 km of a lane in a jam; a motorcycle 0.29 of that (Hanoi: one car = 3.4 motorcycles, ASCE
# 2012). R = 1.3: motorcycles still creep between standing cars (assumption). `pressure`, `critical` and `standing` are
# calibrated: 1,800 to 1,950 cars per hour, lane and green, 1 to 3 s of start-up lost time, 5 to 15 % of capacity drop (Highway
# Capacity Manual 2010, ch. 18, 31).
CAR = VehicleClass("car", free_speed=50 / 3.6, length=1000 / 140, max_occupancy=1.0, pressure=16.6, relaxation_time=8.0)
MOTORCYCLE = VehicleClass(
    "motorcycle", free_speed=60 / 3.6, length=0.29 * 1000 / 140, max_occupancy=1.3, pressure=18.5, relaxation_time=5.0
)
CLASSES = (MOTORCYCLE, CAR)  # the order of every class axis
