"""Compiled loops that take moves, and keep the best that lanes pass."""

from __future__ import annotations

import numpy as np
from numba import njit

from shardwright_server.search.lanes import (
    COMES,
    GOES,
    NONE,
    OTHER,
    SOURCE,
    STAYS,
    TARGET,
    UNIT,
    Lanes,
    Moves,
    Units,
)
from shardwright_server.search.lots import BoolArray
from shardwright_server.search.objective import (
    SHARP,
    SHARPEST,
    cost_ms,
    largest,
    power,
    power_mean,
    powers,
    transfer,
)
from shardwright_server.search.pieces import Float64Array, IntArray


@njit(cache=True)
def take_best(
    units: Units,
    lanes: Lanes,
    active: IntArray,
    squarings: IntArray,
    moves: Moves,
    compute_ms: Float64Array,
    least_gain: float,
    best: Lanes,
    best_ms: Float64Array,
) -> BoolArray:
    """Takes the best moves of each lane that touch different devices, by exact computation.

    Args:
        units: Of the problem.
        lanes: The lanes; changed.
        active: `[a] int64`.
        squarings: `[k] int64`.
        moves: `[a, m]`.
        compute_ms: `[n, 2] float64`, of source and target after each of the moves there are.
        least_gain: Of the objective, relative, below which a move is not taken.
        best: `k` lanes, the cheapest plan that each has passed; changed.
        best_ms: `[k] float64`, what they cost; changed.

    Returns:
        `[a]`, which lanes have taken any.
    """
    moved = np.zeros(len(active), dtype=np.bool_)
    there, n = np.empty(moves.merit_ms.shape[1], dtype=np.int64), 0
    for row in range(len(active)):
        lane = active[row]
        count = 0
        for m in range(len(there)):
            if moves.merit_ms[row, m] < np.inf:
                there[count] = m
                count += 1
        moved[row] = _take_of_lane(
            units,
            lanes,
            lane,
            squarings[lane],
            moves.fields[row],
            there[:count],
            compute_ms[n : n + count],
            least_gain,
        )
        n += count
        if moved[row]:
            now_ms = cost_ms(lanes, lane)
            if now_ms < best_ms[lane]:
                best_ms[lane] = now_ms
                _copy(lanes, best, lane)
    return moved


@njit(cache=True)
def _copy(lanes: Lanes, best: Lanes, lane: int) -> None:
    """Copies what moves change."""
    best.lots[lane] = lanes.lots[lane]
    best.kinds[lane] = lanes.kinds[lane]
    best.devices[lane] = lanes.devices[lane]
    best.compute_ms[lane] = lanes.compute_ms[lane]
    best.used_bytes[lane] = lanes.used_bytes[lane]
    best.dims[lane] = lanes.dims[lane]
    best.closed[lane] = lanes.closed[lane]


@njit(cache=True)
def _take_of_lane(
    units: Units,
    lanes: Lanes,
    lane: int,
    squarings: int,
    fields: IntArray,
    there: IntArray,
    after_ms: Float64Array,
    least_gain: float,
) -> bool:
    compute_ms, dims = lanes.compute_ms[lane], lanes.dims[lane]
    curve, mean_dims = lanes.transfers_ms[lane], lanes.mean_dims[lane]
    all_reduce_ms, columns_of, kinds = lanes.all_reduce_ms[lane], units.columns, lanes.kinds[lane]
    w = len(dims)
    of_compute, of_dims = np.empty(w), np.empty(w)
    touched, moved = np.zeros(w, dtype=np.bool_), False
    while True:
        slowest_ms, widest = largest(compute_ms), float(max(largest(dims), 1))
        total = powers(compute_ms, squarings, of_compute)
        dims_total = powers(dims, squarings, of_dims)
        now_ms = power_mean(slowest_ms, total, w, squarings) + all_reduce_ms
        now_ms += transfer(curve, mean_dims, power_mean(widest, dims_total, w, squarings))
        best, best_ms = NONE, now_ms * (1.0 - least_gain)
        for i in range(len(there)):
            m = there[i]
            s, t = fields[m, SOURCE], fields[m, TARGET]
            if touched[s] or touched[t]:
                continue
            columns = columns_of[kinds[fields[m, UNIT]]] - columns_of[fields[m, STAYS]]
            columns -= columns_of[fields[m, COMES]]
            total = power(after_ms[i, 0] / slowest_ms, squarings)
            total += power(after_ms[i, 1] / slowest_ms, squarings)
            dims_total = power((dims[s] - columns) / widest, squarings)
            dims_total += power((dims[t] + columns) / widest, squarings)
            for d in range(w):
                if d not in (s, t):
                    total += of_compute[d]
                    dims_total += of_dims[d]
            found_ms = power_mean(slowest_ms, total, w, squarings) + all_reduce_ms
            found_ms += transfer(curve, mean_dims, power_mean(widest, dims_total, w, squarings))
            if found_ms < best_ms:
                best, best_ms = i, found_ms
        if best == NONE or not _take(units, lanes, lane, fields[there[best]]):
            return moved
        s, t = fields[there[best], SOURCE], fields[there[best], TARGET]
        compute_ms[s], compute_ms[t] = after_ms[best]
        touched[s] = touched[t] = moved = True


@njit(cache=True)
def _take(units: Units, lanes: Lanes, lane: int, move: IntArray) -> bool:
    """Carries a move out on units, memory and dims; False where no slot is free for it."""
    s, t, u, v = move[SOURCE], move[TARGET], move[UNIT], move[OTHER]
    stays, goes, comes = move[STAYS], move[GOES], move[COMES]
    lots, kinds, devices = lanes.lots[lane], lanes.kinds[lane], lanes.devices[lane]
    lot, kind = lots[u], kinds[u]
    met = kinds[v] if v != NONE else NONE
    grows = v != NONE and lots[v] == lot
    if stays != NONE and not grows:  # one unit more
        free = NONE
        for slot in range(len(devices)):
            if devices[slot] == NONE:
                free = slot
                break
        if free == NONE:
            return False
        lots[free], kinds[free], devices[free] = lot, stays, s
    columns = units.columns[kind] - units.columns[stays] - units.columns[comes]
    lanes.dims[lane, s] -= columns
    lanes.dims[lane, t] += columns
    weights = units.memory_bytes
    lanes.used_bytes[lane, s] += weights[stays] + weights[comes] - weights[kind]
    lanes.used_bytes[lane, t] += weights[goes] - weights[met]
    if grows:
        kinds[v] = goes
        kinds[u] = stays
        if stays == NONE:
            devices[u] = NONE
    else:
        kinds[u], devices[u] = goes, t
        if v != NONE:
            devices[v] = s
            lanes.closed[lane, lots[v], s] = True
            lanes.closed[lane, lots[v], t] = not units.allowed[lots[v], t]
    lanes.closed[lane, lot, t] = True
    if stays == NONE:
        lanes.closed[lane, lot, s] = not units.allowed[lot, s]
    return True


@njit(cache=True)
def still_active(
    active: IntArray,
    moved: BoolArray,
    squarings: IntArray,
    cost_ms: Float64Array,
    best_ms: float,
    hopeless: float,
) -> IntArray:
    """Of the active lanes, `[a] int64`, those that go on.

    A lane that has not moved gets a sharper objective, or ends if it had the sharpest already.

    Args:
        active: `[a] int64`.
        moved: `[a]`.
        squarings: `[k] int64`; changed.
        cost_ms: `[k] float64`, what the best plans of lanes cost.
        best_ms: What the best plan costs beside those.
        hopeless: A lane ends that costs more than so many times what the best plan does.
    """
    found, count = np.empty_like(active), 0
    for lane_ms in cost_ms:
        best_ms = min(best_ms, lane_ms)
    for row in range(len(active)):
        lane = active[row]
        ended = not moved[row] and squarings[lane] == SHARPEST
        if not moved[row]:
            squarings[lane] = SHARP if squarings[lane] < SHARP else SHARPEST
        if not ended and cost_ms[lane] <= hopeless * best_ms:
            found[count] = lane
            count += 1
    return found[:count]
