"""Flows through one node: what approaches want to send, what exits can take, and who goes first.

Per class: an approach sends first in, first out (a blocked movement holds those behind it); an exit's supply is shared by
priority, and what one approach cannot use goes to the others (Tampere, Corthout, Cattrysse, Immers, Transp. Res. B 45:289, 2011).
Vehicles keep their w: an exit takes in the flow-weighted mean (Herty, Moutari, Rascle, Netw. Heterog. Media 1:275, 2006). With
one approach and one exit of equal lanes this is the flux inside a link.
"""

from __future__ import annotations

from unbroken.traffic.scheme.compiling import inlined
from unbroken.traffic.scheme.law import critical, pressure, speed, supply
from unbroken.traffic.scheme.link import EMPTY, TRICKLE

WANTED, WEIGHT, SENT, DONE = 0, 2, 4, 6  # rows of `scratch` over approaches; WANTED and WEIGHT have one for each class
ROOM, LEFT = 7, 8  # rows over exits


@inlined
def send(face, slot, factor, law, k):
    """Flow (veh/s per lane) of class k that wants to pass the end of its link's last cell; `factor` times capacity is the most."""
    x, w = face[11, slot] * law.per_greatest[k], face[5 * k + 3, slot]
    turn = critical(w, law.per_c[k], law.gamma)
    limited = min(x, turn)
    most = factor * turn * (w - pressure(turn, law.c[k], law.gamma))
    return face[5 * k + 1, slot] / max(x, EMPTY) * min(limited * (w - pressure(limited, law.c[k], law.gamma)), most)


@inlined
def _approaches_want(network, law, classes, node, face, gate, rate, scratch, active):
    """Fill WANTED (veh/s) and WEIGHT (veh/m, for the mixture of classes on an exit) of open approaches; list them in `active`.

    Closed ones would only add zeros everywhere: a signal's node costs what its open approaches cost. Returns their number.
    """
    first, n_open = network.in_start[node], 0
    for e in range(first, network.in_start[node + 1]):
        link = network.in_link[e]
        slot, width = network.last[link], gate[e] * network.lanes[link]
        if not width > 0.0:
            continue
        i = e - first
        active[n_open] = i
        n_open += 1
        total = 0.0
        for k in range(classes[0], classes[1]):
            wanted = max(0.0, width * send(face, slot, network.factor[k, e], law, k) - TRICKLE)
            scratch[WANTED + k, i] = wanted
            scratch[WEIGHT + k, i] = width * face[5 * k + 1, slot]
            total += wanted
        if network.meter[e] >= 0 and total > rate[network.meter[e]]:
            allowed = rate[network.meter[e]] / total
            for row in range(WANTED, WEIGHT + 2):
                scratch[row, i] *= allowed
    return n_open


@inlined
def _exits_take(network, law, node, k, face, scratch, active, n_open):
    """Fill ROOM (veh/s of class k) of every exit, for the mixture of w and classes that wants to enter it."""
    first, n_out = network.in_start[node], network.out_start[node + 1] - network.out_start[node]
    for j in range(n_out):
        wanted, w_wanted, own, others = 0.0, 0.0, 0.0, 0.0
        for a in range(n_open):
            i = active[a]
            turn = network.turn_start[node] + i * n_out + j
            flow = scratch[WANTED + k, i] * network.share[k, turn]
            if flow > 0.0:
                wanted += flow
                w_wanted += flow * face[5 * k + 3, network.last[network.in_link[first + i]]]
            own += scratch[WEIGHT + k, i] * network.share[k, turn]
            others += scratch[WEIGHT + 1 - k, i] * network.share[1 - k, turn]
        scratch[ROOM, j] = 0.0
        if wanted > 0.0:
            link = network.out_link[network.out_start[node] + j]
            slot, w = network.first[link], w_wanted / wanted
            ahead = speed(face[5 * k + 2, slot], face[10, slot] * law.per_greatest[k], law.c[k], law.gamma)
            flow = supply(w, ahead, law.c[k], law.per_c[k], law.gamma)
            per_flow = own * law.greatest[k] / (law.lengths[k] * own + law.lengths[1 - k] * others)
            scratch[ROOM, j] = max(0.0, network.lanes[link] * per_flow * flow - TRICKLE)


@inlined
def _all_fit(network, node, k, scratch, active, n_open):
    n_out = network.out_start[node + 1] - network.out_start[node]
    for j in range(n_out):
        arriving = 0.0
        for a in range(n_open):
            i = active[a]
            arriving += scratch[WANTED + k, i] * network.share[k, network.turn_start[node] + i * n_out + j]
        if arriving > scratch[ROOM, j]:
            return False
    return True


@inlined
def _settle(network, node, k, i, flow, scratch):
    """Approach i sends `flow`: book it on the exits."""
    n_out = network.out_start[node + 1] - network.out_start[node]
    scratch[SENT, i] = flow
    scratch[DONE, i] = 1.0
    for j in range(n_out):
        used = flow * network.share[k, network.turn_start[node] + i * n_out + j]
        scratch[LEFT, j] = max(0.0, scratch[LEFT, j] - used)


@inlined
def _tightest_exit(network, node, k, scratch, active, n_open):
    """The exit that allows the least per unit of priority to approaches that are not settled yet, and that amount."""
    first, n_out = network.in_start[node], network.out_start[node + 1] - network.out_start[node]
    tightest, least = -1, 0.0
    for j in range(n_out):
        claims = 0.0
        for a in range(n_open):
            i = active[a]
            if scratch[DONE, i] == 0.0:
                claims += network.priority[first + i] * network.share[k, network.turn_start[node] + i * n_out + j]
        if claims > 0.0 and (tightest < 0 or scratch[LEFT, j] / claims < least):
            tightest, least = j, scratch[LEFT, j] / claims
    return tightest, least


@inlined
def _share_out(network, node, k, scratch, active, n_open):
    """Settle approaches, always at the tightest exit: who wants less than its part gets it, otherwise all get their part."""
    first, n_out = network.in_start[node], network.out_start[node + 1] - network.out_start[node]
    for j in range(n_out):
        scratch[LEFT, j] = scratch[ROOM, j]
    for a in range(n_open):
        i = active[a]
        scratch[DONE, i] = 0.0
        if scratch[WANTED + k, i] == 0.0:
            _settle(network, node, k, i, 0.0, scratch)
    for _ in range(n_open):
        exit_, level = _tightest_exit(network, node, k, scratch, active, n_open)
        if exit_ < 0:
            break
        modest = False
        for a in range(n_open):
            i = active[a]
            uses = network.share[k, network.turn_start[node] + i * n_out + exit_] > 0.0
            if uses and scratch[DONE, i] == 0.0 and scratch[WANTED + k, i] <= level * network.priority[first + i]:
                _settle(network, node, k, i, scratch[WANTED + k, i], scratch)
                modest = True
        if not modest:
            for a in range(n_open):
                i = active[a]
                uses = network.share[k, network.turn_start[node] + i * n_out + exit_] > 0.0
                if uses and scratch[DONE, i] == 0.0:
                    _settle(network, node, k, i, level * network.priority[first + i], scratch)


@inlined
def _write_fluxes(network, node, k, face, flux, scratch, active, n_open):
    first, n_out = network.in_start[node], network.out_start[node + 1] - network.out_start[node]
    for e in range(first, network.in_start[node + 1]):
        slot = network.last[network.in_link[e]]
        flux[k, slot + 1] = 0.0
        flux[2 + k, slot + 1] = 0.0
    for a in range(n_open):
        i = active[a]
        link = network.in_link[first + i]
        slot = network.last[link]
        flux[k, slot + 1] = scratch[SENT, i] / network.lanes[link]
        flux[2 + k, slot + 1] = flux[k, slot + 1] * face[5 * k + 3, slot]
    for j in range(n_out):
        flow, w_flow = 0.0, 0.0
        for a in range(n_open):
            i = active[a]
            part = scratch[SENT, i] * network.share[k, network.turn_start[node] + i * n_out + j]
            flow += part
            w_flow += part * face[5 * k + 3, network.last[network.in_link[first + i]]]
        link = network.out_link[network.out_start[node] + j]
        flux[k, network.first[link]] = flow / network.lanes[link]
        flux[2 + k, network.first[link]] = w_flow / network.lanes[link]


@inlined
def solve_node(network, law, classes, node, face, gate, rate, flux, scratch, active):
    """Set the fluxes at all link ends of `node`; `gate` is the open part of the step per approach, `rate` of meters in veh/s."""
    n_open = _approaches_want(network, law, classes, node, face, gate, rate, scratch, active)
    for k in range(classes[0], classes[1]):
        _exits_take(network, law, node, k, face, scratch, active, n_open)
        if _all_fit(network, node, k, scratch, active, n_open):
            for a in range(n_open):
                scratch[SENT, active[a]] = scratch[WANTED + k, active[a]]
        else:
            _share_out(network, node, k, scratch, active, n_open)
        _write_fluxes(network, node, k, face, flux, scratch, active, n_open)
