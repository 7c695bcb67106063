"""Switching of signals, for every environment of a batch."""

from __future__ import annotations

from unbroken.traffic.scheme.compiling import kernel


@kernel
def switch(phases, times, wanted, begin, shortest, end_gain, clearance, done):
    """Switch signals to `wanted` (B, signals) at `begin` (B, signals; s), where they have been open for `shortest` (signals,).

    `phases` and `times` are those of `State`. Fills `done` (B, signals): whether a signal shows, or will, what was asked for.
    """
    for b in range(wanted.shape[0]):
        for s in range(wanted.shape[1]):
            done[b, s] = wanted[b, s] == phases[b, 1, s]
            if not done[b, s] and begin[b, s] - times[b, 1, s] >= shortest[s]:
                phases[b, 0, s] = phases[b, 1, s]
                phases[b, 1, s] = wanted[b, s]
                times[b, 0, s] = begin[b, s] + end_gain[s]
                times[b, 1, s] = begin[b, s] + clearance[s]
                done[b, s] = True
