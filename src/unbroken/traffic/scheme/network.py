"""A whole network in time, and a batch of them: the step that every simulation, environment and benchmark runs."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from unbroken.traffic.scheme.compiling import inlined, kernel, parallel_kernel
from unbroken.traffic.scheme.law import equilibrium_w, speed, supply
from unbroken.traffic.scheme.link import EMPTY, TRICKLE, complete, complete_counted, difference, fill_faces, relax_cells
from unbroken.traffic.scheme.node import send, solve_node

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


BLINK = 1e-9  # parts of a step: less than this is the rounding of two times that are equal, not a green


class Network(NamedTuple):
    """Static arrays. Slots: one row for all links, each link between two pads. `in_`/`out_` entries are grouped by node."""

    first: Integers  # (links,) slot of the first cell
    last: Integers  # (links,)
    lanes: Floats  # (links,)
    ahead: Integers  # (links,) the link that most vehicles go on to, or -1
    behind: Integers  # (links,) the link that most vehicles come from, or -1
    approach: Integers  # (links,) index among approaches, or -1
    dt_dx: Floats  # (slots,) zero at pads
    in_start: Integers  # (nodes + 1,)
    in_link: Integers  # (approaches,)
    out_start: Integers  # (nodes + 1,)
    out_link: Integers  # (exits,)
    turn_start: Integers  # (nodes,) into share: approach by exit
    share: Floats  # (2, turns)
    priority: Floats  # (approaches,)
    factor: Floats  # (2, approaches) of capacity, for movements that turn
    meter: Integers  # (approaches,) index into rates, or -1
    signal: Integers  # (nodes,) index, or -1
    phase_start: Integers  # (signals,) first row of `green`
    green: Floats  # (phases of all signals, approaches) 1 or 0
    origin_link: Integers  # (origins,)
    sink_link: Integers  # (sinks,)
    sink_capacity: Floats  # (sinks,) veh/s
    dt: float
    period: float  # s, of demand


class State(NamedTuple):
    """What changes, for a batch of B environments. Vehicles count per lane in cells and at faces, whole in `waiting`, `arrived`."""

    step: Integers  # (B,)
    cells: Floats  # (B, 4, slots) densities of both classes in veh/m, then y = rho w in veh/s
    waiting: Floats  # (B, 2, origins) vehicles in the vertical queues
    arrived: Floats  # (B, 2, origins) vehicles since the start
    arrived_rest: Floats  # (B, 2, origins) what rounding left of it
    left: Floats  # (B, 2, sinks) vehicles since the start
    left_rest: Floats  # (B, 2, sinks)
    waited: Floats  # (B, 2, origins) time integral of waiting, veh s
    passed: Floats  # (B, 2, slots + 1) vehicles per lane over each face since the start
    present: Floats  # (B, 2, slots) time integral of density, veh s/m
    phases: Integers  # (B, 2, signals) the phase that closes and the one that opens
    switch: Floats  # (B, 2, signals) s, when the one closes and the other opens
    rates: Floats  # (B, meters) veh/s
    limit: Floats  # (B, slots) m/s
    demand: Floats  # (B, 2, origins, periods) veh/s


@inlined
def _add(total, rest, k, i, amount):
    """Compensated sum (Kahan, Commun. ACM 8:40, 1965): the balance of vehicles stays exact over days."""
    corrected = amount - rest[k, i]
    new = total[k, i] + corrected
    rest[k, i] = (new - total[k, i]) - corrected
    total[k, i] = new


@inlined
def _open_gates(network, phases, switch, start, gate):
    """Part of the step from `start` in which each approach has green; 1 where no signal stands."""
    end = start + network.dt
    for node in range(network.signal.shape[0]):
        s = network.signal[node]
        for e in range(network.in_start[node], network.in_start[node + 1]):
            if s < 0:
                gate[e] = 1.0
            else:
                row = network.phase_start[s]
                old, new = network.green[row + phases[0, s], e], network.green[row + phases[1, s], e]
                before = min(1.0, (switch[0, s] - start) / network.dt)
                after = min(1.0, (end - switch[1, s]) / network.dt)
                before = before if before > BLINK else 0.0
                after = after if after > BLINK else 0.0
                gate[e] = max(old * new, old * before + new * after)


@inlined
def _fill_pads(network, cells, gate):
    """What slopes at link ends look at: the neighbour across an open node, at red and at the network's ends the cell itself."""
    for link in range(network.first.shape[0]):
        first, last = network.first[link], network.last[link]
        before, after = first, last
        if network.ahead[link] >= 0 and gate[network.approach[link]] == 1.0:
            after = network.first[network.ahead[link]]
        if network.behind[link] >= 0 and gate[network.approach[network.behind[link]]] == 1.0:
            before = network.last[network.behind[link]]
        for row in range(4):
            cells[row, first - 1] = cells[row, before]
            cells[row, last + 1] = cells[row, after]


@inlined
def _classes_there(cells, waiting, demand):
    """First and last + 1 of the classes that have vehicles or will get any: the other one would only add zeros everywhere."""
    begin, end = 0, 2
    if not (cells[0].any() or cells[2].any() or waiting[0].any() or demand[0].any()):
        begin = 1
    elif not (cells[1].any() or cells[3].any() or waiting[1].any() or demand[1].any()):
        end = 1
    return begin, end


@inlined
def _available(network, arriving, waiting, k, o):
    """The flow (veh/s) that would empty the vertical queue in this step; what enters is never more, so no queue turns negative."""
    return arriving[k, o] + waiting[k, o] / network.dt


@inlined
def _enter(network, law, classes, face, limit, waiting, arriving, flux, entering):
    """Inflow from origins: what has arrived or waits, as far as the first cell takes it, in equilibrium with that cell."""
    for o in range(network.origin_link.shape[0]):
        link = network.origin_link[o]
        slot = network.first[link]
        total = 0.0
        for k in range(2):
            total += law.lengths[k] * _available(network, arriving, waiting, k, o)
        for k in range(classes[0], classes[1]):
            x = face[10, slot] * law.per_greatest[k]
            w = equilibrium_w(x, limit[slot], law.w_law[k], law.gamma)
            ahead = speed(face[5 * k + 2, slot], x, law.c[k], law.gamma)
            available = _available(network, arriving, waiting, k, o)
            mixture = available * law.greatest[k] / max(total, EMPTY)
            room = network.lanes[link] * mixture * supply(w, ahead, law.c[k], law.per_c[k], law.gamma)
            entering[k, o] = max(0.0, min(available, room) - TRICKLE)
            flux[k, slot] = entering[k, o] / network.lanes[link]
            flux[2 + k, slot] = flux[k, slot] * w


@inlined
def _leave(network, law, classes, face, flux):
    """Outflow into sinks, in the mixture of demand where the sink's capacity is short."""
    for d in range(network.sink_link.shape[0]):
        link = network.sink_link[d]
        slot = network.last[link]
        total = 0.0
        for k in range(classes[0], classes[1]):
            flux[k, slot + 1] = max(0.0, send(face, slot, 1.0, law, k) - TRICKLE)
            total += network.lanes[link] * flux[k, slot + 1]
        allowed = min(1.0, network.sink_capacity[d] / max(total, EMPTY))
        for k in range(classes[0], classes[1]):
            flux[k, slot + 1] *= allowed
            flux[2 + k, slot + 1] = flux[k, slot + 1] * face[5 * k + 3, slot]


@inlined
def _fluxes(network, law, classes, cells, waiting, arriving, gate, rates, limit, face, flux, entering, scratch, active):
    _fill_pads(network, cells, gate)
    fill_faces(cells, law, classes, face, flux)
    for node in range(network.signal.shape[0]):
        solve_node(network, law, classes, node, face, gate, rates, flux, scratch, active)
    _enter(network, law, classes, face, limit, waiting, arriving, flux, entering)
    _leave(network, law, classes, face, flux)


@kernel
def advance_one(network, law, state, b, n_steps):
    """Advance environment b of `state` in place by `n_steps` steps (Heun's SSP-RK2, then exact relaxation)."""
    cells, waiting, passed, present = state.cells[b], state.waiting[b], state.passed[b], state.present[b]
    rates, limit, demand, waited = (
        state.rates[b],
        state.limit[b],
        state.demand[b],
        state.waited[b],
    )
    slots, origins, periods = cells.shape[1], waiting.shape[1], demand.shape[2]
    face, flux, flux_between = np.zeros((12, slots)), np.zeros((4, slots + 1)), np.zeros((4, slots + 1))
    between, waiting_between = np.zeros((4, slots)), np.zeros((2, origins))
    entering, entering_between = np.zeros((2, origins)), np.zeros((2, origins))
    arriving, gate = np.zeros((2, origins)), np.zeros(network.in_link.shape[0])
    scratch = np.zeros((9, max(1, network.in_link.shape[0], network.out_link.shape[0])))
    active = np.zeros(max(1, network.in_link.shape[0]), dtype=np.int64)
    classes = _classes_there(cells, waiting, demand)
    for _ in range(n_steps):
        start = state.step[b] * network.dt
        _open_gates(network, state.phases[b], state.switch[b], start, gate)
        period = min(periods - 1, int((start + 0.5 * network.dt) / network.period))
        arriving[:] = demand[:, :, period]
        _fluxes(
            network, law, classes, cells, waiting, arriving, gate, rates, limit, face, flux, entering, scratch, active
        )
        for k in range(classes[0], classes[1]):
            difference(cells[k], flux[k], network.dt_dx, between[k])
            difference(cells[2 + k], flux[2 + k], network.dt_dx, between[2 + k])
            for o in range(origins):
                waiting_between[k, o] = network.dt * (_available(network, arriving, waiting, k, o) - entering[k, o])
        _fluxes(
            network,
            law,
            classes,
            between,
            waiting_between,
            arriving,
            gate,
            rates,
            limit,
            face,
            flux_between,
            entering_between,
            scratch,
            active,
        )
        for k in range(classes[0], classes[1]):
            complete_counted(cells[k], flux[k], flux_between[k], network.dt_dx, network.dt, passed[k], present[k])
            complete(cells[2 + k], flux[2 + k], flux_between[2 + k], network.dt_dx)
            for o in range(origins):
                _add(state.arrived[b], state.arrived_rest[b], k, o, network.dt * arriving[k, o])
                remaining = _available(network, arriving, waiting_between, k, o) - entering_between[k, o]
                waiting[k, o] = 0.5 * (waiting[k, o] + network.dt * remaining)
                waited[k, o] += network.dt * waiting[k, o]
            for d in range(network.sink_link.shape[0]):
                link = network.sink_link[d]
                f = network.last[link] + 1
                leaving = 0.5 * (flux[k, f] + flux_between[k, f]) * network.lanes[link]
                _add(state.left[b], state.left_rest[b], k, d, network.dt * leaving)
        relax_cells(cells, limit, law, classes, face[10])
        state.step[b] += 1


@kernel
def advance(network, law, state, n_steps):
    """Advance every environment of the batch; each row is what `advance_one` makes of it alone."""
    for b in range(state.step.shape[0]):
        advance_one(network, law, state, b, n_steps)


@parallel_kernel
def advance_parallel(network, law, state, n_steps):
    """As `advance`, over numba's threads. Bit-identical: environments do not touch each other."""
    for b in numba.prange(state.step.shape[0]):
        advance_one(network, law, state, b, n_steps)
