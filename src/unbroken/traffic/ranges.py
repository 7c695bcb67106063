"""What meters and variable speed limits can be set to, for agents and baselines alike."""

from __future__ import annotations

import numpy as np

LOWEST_RATE, HIGHEST_RATE, RATE_STEP = 240.0, 1800.0, 120.0  # veh/h
RATES = np.arange(LOWEST_RATE, HIGHEST_RATE + 1, RATE_STEP) / 3600  # veh/s
LOWEST_LIMIT, HIGHEST_LIMIT, LIMIT_CHANGE = 30.0, 60.0, 10.0  # km/h; the change is the most in one decision
