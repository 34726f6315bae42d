"""Compiled loops over lanes: what moves promise, what devices then hold, which moves are taken.

The objective of a lane is its cost with the slowest device and the largest sum of dims softened:

    (mean_d compute_d ^ p) ^ (1 / p) + transfer of (mean_d dims_d ^ p) ^ (1 / p)

For large p that is the cost; for smaller p a move between two devices that do not decide counts
too, if it leaves them less to do or to send. numba compiles a loop when it is first called with new
types, and keeps the result on disk where it may (`NUMBA_CACHE_DIR`). Loops are sequential and
without fast math: the same lanes give the same moves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from shardwright.domain import COLUMN_MULTIPLE
from shardwright_costmodel.features import FloatArray
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
    Spreads,
    Units,
)
from shardwright_server.search.lots import BoolArray
from shardwright_server.search.pieces import Float64Array, IntArray

_STEP = COLUMN_MULTIPLE
"""Columns."""
_PARTS = 5
"""All of a unit, a quarter, a half and three quarters of it, and the least, which only goes to
where the lot has a unit."""


@njit(cache=True)
def _power(x: float, squarings: int) -> float:
    """`x ** 2 ** squarings`, of x above 0."""
    x = max(x, 0.0)
    for _ in range(squarings):
        x *= x
    return x


@njit(cache=True)
def _transfer(lanes: Lanes, lane: int, largest: float) -> float:
    """Transfers of a lane, ms, by its largest sum of dims; straight between the curve's steps."""
    curve = lanes.transfers_ms[lanes.curve[lane]]
    at = min(max(largest / _STEP, 0.0), len(curve) - 1.0)
    step = min(int(at), len(curve) - 2)
    return float(curve[step] + (at - step) * (curve[step + 1] - curve[step]))


@njit(cache=True)
def _largest(values: Float64Array | IntArray) -> Any:
    """Of at least one value; of their type."""
    found = values[0]
    for value in values:
        found = max(found, value)
    return found


@njit(cache=True)
def _powers(values: Float64Array | IntArray, squarings: int, powers: Float64Array) -> float:
    """Fills `powers` with powers of values over the largest, `[w]`; returns their sum.

    Their mean is 1 where all values are 0.
    """
    largest = float(_largest(values))
    total = 0.0
    for d in range(len(values)):
        powers[d] = _power(values[d] / largest, squarings) if largest > 0.0 else 1.0
        total += powers[d]
    return total


@njit(cache=True)
def _softened(values: Float64Array | IntArray, squarings: int) -> float:
    """The power mean, near the largest."""
    largest, total = float(_largest(values)), 0.0
    for value in values:
        total += _power(value / largest, squarings) if largest > 0.0 else 1.0
    return float(largest * (total / len(values)) ** (0.5**squarings))


@njit(cache=True)
def objective_ms(lanes: Lanes, lane: int, squarings: int) -> float:
    """See the module."""
    transfer = _transfer(lanes, lane, _softened(lanes.dims[lane], squarings))
    return float(
        _softened(lanes.compute_ms[lane], squarings) + transfer + lanes.all_reduce_ms[lane]
    )


@njit(cache=True)
def cost_ms(lanes: Lanes, lane: int) -> float:
    """What the plan costs, nearly: transfers are taken to follow the largest sum of dims alone."""
    slowest = _largest(lanes.compute_ms[lane])
    transfer = _transfer(lanes, lane, _largest(lanes.dims[lane]))
    return float(slowest + transfer + lanes.all_reduce_ms[lane])


@njit(cache=True)
def _note(moves: Moves, row: int, first: int, count: int, merit_ms: float, move: IntArray) -> None:
    """Keeps a move if it is among the best so many, which lie from `first` on, best first."""
    merits, fields = moves.merit_ms[row], moves.fields[row]
    at = first + count - 1
    if merit_ms >= merits[at]:
        return
    while at > first and merits[at - 1] > merit_ms:
        merits[at] = merits[at - 1]
        for i in range(len(move)):
            fields[at, i] = fields[at - 1, i]
        at -= 1
    merits[at] = merit_ms
    for i in range(len(move)):
        fields[at, i] = move[i]


class _Around(NamedTuple):
    """The objective around what a lane has now: linear in its two sums of powers.

    Attributes:
        squarings: p is 2 to so many.
        slowest_ms: Most computation of a device.
        rate: Objective over sum of powers of computation.
        powers: `[w] float64`, of computation over the slowest.
        widest: Largest sum of dims, at least 1.
        dims_rate: Objective over sum of powers of dims.
        dims_powers: `[w] float64`, of dims over the widest.
    """

    squarings: int
    slowest_ms: float
    rate: float
    powers: Float64Array
    widest: int
    dims_rate: float
    dims_powers: Float64Array


@njit(cache=True)
def _around(lanes: Lanes, lane: int, squarings: int) -> _Around:
    w, dims, root = lanes.dims.shape[1], lanes.dims[lane], 0.5**squarings
    slowest_ms, powers = _largest(lanes.compute_ms[lane]), np.empty(w)
    total = _powers(lanes.compute_ms[lane], squarings, powers)
    widest, dims_powers = max(_largest(dims), 1), np.empty(w)
    dims_total = _powers(dims, squarings, dims_powers)
    rate = slowest_ms * root / total * (total / w) ** root
    soft = widest * (dims_total / w) ** root
    dims_rate = widest * root / dims_total * (dims_total / w) ** root
    dims_rate *= (_transfer(lanes, lane, soft + 1.0) - _transfer(lanes, lane, soft - 1.0)) / 2.0
    return _Around(squarings, slowest_ms, rate, powers, widest, dims_rate, dims_powers)


@njit(cache=True)
def promising(
    units: Units,
    lanes: Lanes,
    active: IntArray,
    squarings: IntArray,
    count: int,
    moves: Moves,
) -> None:
    """Finds, for each source device of each active lane, the moves that promise most.

    Moves after which one of the two devices would be slower than the slowest is now are left out.

    Args:
        units: Of the problem.
        lanes: The lanes.
        active: `[a] int64`, those looked at.
        squarings: `[k] int64`, p is 2 to so many.
        count: Moves of a source.
        moves: `[a, w * count]`, filled.
    """
    moves.merit_ms[:] = np.inf
    for row in range(len(active)):
        around = _around(lanes, active[row], squarings[active[row]])
        if around.slowest_ms > 0.0:
            _note_moves(units, lanes, active[row], around, count, moves, row)
            _note_swaps(units, lanes, active[row], around, count, moves, row)


@njit(cache=True)
def _part(units: Units, lot: int, kind: int, part: int) -> tuple[int, int, int]:
    """One of `_PARTS`: steps of columns, ids of what goes and stays (NONE where not allowed)."""
    width = units.columns[kind] // _STEP if units.cut[lot] else 0
    if part == 0:
        return width, kind, NONE
    parting = 1 if part == _PARTS - 1 else width * part // 4
    if parting <= 0 or parting >= width:
        return 0, NONE, NONE
    return parting, units.of_width[lot, parting], units.of_width[lot, width - parting]


@njit(cache=True)
def _note_moves(
    units: Units, lanes: Lanes, lane: int, around: _Around, count: int, moves: Moves, row: int
) -> None:
    """Units, and parts of them, to any device; where the lot has a unit the two grow together."""
    lots, devices, kinds = lanes.lots[lane], lanes.devices[lane], lanes.kinds[lane]
    compute_ms, dims, prices = lanes.compute_ms[lane], lanes.dims[lane], lanes.prices[lane]
    used_bytes, closed = lanes.used_bytes[lane], lanes.closed[lane]
    n, slowest_ms, rate, powers, widest, dims_rate, dims_powers = around
    move = np.full(7, NONE)
    for u in range(len(devices)):
        s, lot, kind = devices[u], lots[u], kinds[u]
        if s == NONE:
            continue
        for part in range(_PARTS):
            parting, goes, stays = _part(units, lot, kind, part)
            if part > 0 and stays == NONE:
                continue
            here_ms = compute_ms[s] - (prices[kind, s] - prices[stays, s])
            columns = units.columns[kind] - units.columns[stays]
            move[SOURCE], move[UNIT], move[STAYS] = s, u, stays
            for t in range(len(compute_ms)):
                if t == s or not units.allowed[lot, t]:
                    continue
                v, got = NONE, goes
                if closed[lot, t]:
                    if parting == 0:  # cannot be cut
                        continue
                    v = _slot(lots, devices, lot, t)
                    got = units.of_width[lot, units.columns[kinds[v]] // _STEP + parting]
                elif part == _PARTS - 1:
                    continue
                if got == NONE:
                    continue
                met = kinds[v] if v != NONE else NONE
                there_ms = compute_ms[t] + prices[got, t] - prices[met, t]
                if compute_ms[t] == 0.0:
                    there_ms = units.compute_ms[got]
                more = units.memory_bytes[got] - units.memory_bytes[met]
                if there_ms > slowest_ms or used_bytes[t] + more > units.room_bytes[t]:
                    continue
                change = _power(here_ms / slowest_ms, n) + _power(there_ms / slowest_ms, n)
                change -= powers[s] + powers[t]
                wider = _power((dims[t] + columns) / widest, n) - dims_powers[t]
                wider += _power((dims[s] - columns) / widest, n) - dims_powers[s]
                move[TARGET], move[OTHER], move[GOES] = t, v, got
                _note(moves, row, s * count, count, rate * change + dims_rate * wider, move)


@njit(cache=True)
def _slot(lots: IntArray, devices: IntArray, lot: int, device: int) -> int:
    """Where a lot's unit on a device stands."""
    for u in range(len(lots)):
        if devices[u] == device and lots[u] == lot:
            return u
    return NONE


@njit(cache=True)
def _note_swaps(
    units: Units, lanes: Lanes, lane: int, around: _Around, count: int, moves: Moves, row: int
) -> None:
    """Units against units of other devices, each pair once; parts of the slowest device's too."""
    lots, devices, kinds = lanes.lots[lane], lanes.devices[lane], lanes.kinds[lane]
    compute_ms, dims, prices = lanes.compute_ms[lane], lanes.dims[lane], lanes.prices[lane]
    used_bytes, closed = lanes.used_bytes[lane], lanes.closed[lane]
    n, slowest_ms, rate, powers, widest, dims_rate, dims_powers = around
    # in the order of the inner loop: what units add elsewhere and where they lie, memory, columns
    price_at, own_price = np.empty((len(compute_ms), len(devices))), np.empty(len(devices))
    unit_bytes, unit_columns = np.empty_like(kinds), np.empty_like(kinds)
    for u in range(len(devices)):
        for d in range(len(compute_ms)):
            price_at[d, u] = prices[kinds[u], d]
        own_price[u] = price_at[max(devices[u], 0), u]
        unit_bytes[u], unit_columns[u] = units.memory_bytes[kinds[u]], units.columns[kinds[u]]
    move = np.full(7, NONE)
    for u in range(len(devices)):
        s, lot = devices[u], lots[u]
        if s == NONE:
            continue
        for part in range(_PARTS - 1):
            _, goes, stays = _part(units, lot, kinds[u], part)
            if goes == NONE or (part > 0 and (stays == NONE or compute_ms[s] < slowest_ms)):
                continue
            left_ms = compute_ms[s] - (own_price[u] - prices[stays, s])
            columns = unit_columns[u] - units.columns[stays]
            goes_bytes = units.memory_bytes[goes]
            left_bytes = used_bytes[s] - unit_bytes[u] + units.memory_bytes[stays]
            move[SOURCE], move[UNIT], move[STAYS], move[GOES] = s, u, stays, goes
            for v in range(u + 1 if part == 0 else 0, len(devices)):
                t = devices[v]
                if t in (NONE, s):
                    continue
                here_ms = left_ms + price_at[s, v]
                if here_ms > slowest_ms:
                    continue
                there_ms = compute_ms[t] + prices[goes, t] - own_price[v]
                if there_ms > slowest_ms or closed[lot, t] or closed[lots[v], s]:
                    continue
                if used_bytes[t] + goes_bytes - unit_bytes[v] > units.room_bytes[t]:
                    continue
                if left_bytes + unit_bytes[v] > units.room_bytes[s]:
                    continue
                moved = columns - unit_columns[v]
                change = _power(here_ms / slowest_ms, n) + _power(there_ms / slowest_ms, n)
                change -= powers[s] + powers[t]
                wider = _power((dims[t] + moved) / widest, n) - dims_powers[t]
                wider += _power((dims[s] - moved) / widest, n) - dims_powers[s]
                move[TARGET], move[OTHER], move[COMES] = t, v, kinds[v]
                _note(moves, row, s * count, count, rate * change + dims_rate * wider, move)


@njit(cache=True)
def _add(sums: FloatArray, addend: FloatArray) -> None:
    """Channel by channel; plain loops compile in a fraction of the time of array expressions."""
    for i in range(len(sums)):
        sums[i] += addend[i]


@njit(cache=True)
def sum_up(units: Units, spreads: Spreads, lanes: Lanes) -> None:
    """Fills `base`, `used_bytes`, `dims`, all zeros, and `closed` by slots and spreads."""
    for lane in range(len(lanes.lots)):
        for way in lanes.spreads[lane]:
            if way == NONE:
                continue
            kind = spreads.kinds[way]
            for d in range(spreads.first[way], spreads.first[way] + spreads.devices[way]):
                _add(lanes.base[lane, d], units.encodings[kind])
                lanes.used_bytes[lane, d] += units.memory_bytes[kind]
                lanes.dims[lane, d] += units.columns[kind]
        for u in range(lanes.devices.shape[1]):
            d, kind = lanes.devices[lane, u], lanes.kinds[lane, u]
            if d != NONE:
                lanes.used_bytes[lane, d] += units.memory_bytes[kind]
                lanes.dims[lane, d] += units.columns[kind]
                lanes.closed[lane, lanes.lots[lane, u], d] = True


@njit(cache=True)
def device_sums(units: Units, lanes: Lanes, active: IntArray, sums: FloatArray) -> None:
    """What devices hold, `[a, w, e]`, filled with zeros; summed in the order of the slots."""
    for row in range(len(active)):
        lane = active[row]
        for d in range(sums.shape[1]):
            _add(sums[row, d], lanes.base[lane, d])
        for u in range(lanes.devices.shape[1]):
            d = lanes.devices[lane, u]
            if d != NONE:
                _add(sums[row, d], units.encodings[lanes.kinds[lane, u]])


@njit(cache=True)
def sums_after(
    units: Units, lanes: Lanes, active: IntArray, moves: Moves, sums: FloatArray
) -> None:
    """What source and target hold after each of the moves there are, `[n, 2, e]`, all zeros."""
    n = 0
    for row in range(len(active)):
        lane = active[row]
        for m in range(moves.merit_ms.shape[1]):
            if moves.merit_ms[row, m] == np.inf:
                continue
            move, here, there = moves.fields[row, m], sums[n, 0], sums[n, 1]
            s, t = move[SOURCE], move[TARGET]
            _add(here, lanes.base[lane, s])
            _add(there, lanes.base[lane, t])
            for u in range(lanes.devices.shape[1]):
                d = lanes.devices[lane, u]
                if d in (s, t) and u != move[UNIT] and u != move[OTHER]:
                    _add(here if d == s else there, units.encodings[lanes.kinds[lane, u]])
            _add(here, units.encodings[move[STAYS]])
            _add(here, units.encodings[move[COMES]])
            _add(there, units.encodings[move[GOES]])
            n += 1


@njit(cache=True)
def take_best(
    units: Units,
    lanes: Lanes,
    active: IntArray,
    squarings: IntArray,
    moves: Moves,
    compute_ms: Float64Array,
    least_gain: float,
) -> BoolArray:
    """Takes the best moves of each lane that touch different devices, by exact computation.

    Args:
        units: Of the problem.
        lanes: The lanes; changed.
        active: `[a] int64`.
        squarings: `[k] int64`.
        moves: `[a, m]`.
        compute_ms: `[a, m, 2] float64`, of source and target after each there is.
        least_gain: Of the objective, relative, below which a move is not taken.

    Returns:
        `[a]`, which lanes have taken any.
    """
    w, m = lanes.compute_ms.shape[1], moves.merit_ms.shape[1]
    moved = np.zeros(len(active), dtype=np.bool_)
    touched = np.empty(w, dtype=np.bool_)
    after = np.empty(m)
    for row in range(len(active)):
        lane = active[row]
        for d in range(w):
            touched[d] = False
        while True:
            now_ms = objective_ms(lanes, lane, squarings[lane])
            best, best_ms = NONE, now_ms * (1.0 - least_gain)
            for i in range(m):
                s, t = moves.fields[row, i, SOURCE], moves.fields[row, i, TARGET]
                if moves.merit_ms[row, i] == np.inf or touched[s] or touched[t]:
                    continue
                after[i] = _objective_after(
                    lanes, lane, squarings[lane], moves, row, i, compute_ms, units
                )
                if after[i] < best_ms:
                    best, best_ms = i, after[i]
            if best == NONE or not take(units, lanes, lane, moves, row, best):
                break
            s, t = moves.fields[row, best, SOURCE], moves.fields[row, best, TARGET]
            lanes.compute_ms[lane, s] = compute_ms[row, best, 0]
            lanes.compute_ms[lane, t] = compute_ms[row, best, 1]
            touched[s] = touched[t] = moved[row] = True
    return moved


@njit(cache=True)
def _objective_after(
    lanes: Lanes,
    lane: int,
    squarings: int,
    moves: Moves,
    row: int,
    i: int,
    compute_ms: Float64Array,
    units: Units,
) -> float:
    s, t = moves.fields[row, i, SOURCE], moves.fields[row, i, TARGET]
    here, there = lanes.compute_ms[lane, s], lanes.compute_ms[lane, t]
    columns = _columns_left(units, lanes, lane, moves, row, i)
    lanes.compute_ms[lane, s] = compute_ms[row, i, 0]
    lanes.compute_ms[lane, t] = compute_ms[row, i, 1]
    lanes.dims[lane, s] -= columns
    lanes.dims[lane, t] += columns
    found = objective_ms(lanes, lane, squarings)
    lanes.compute_ms[lane, s], lanes.compute_ms[lane, t] = here, there
    lanes.dims[lane, s] += columns
    lanes.dims[lane, t] -= columns
    return found


@njit(cache=True)
def _columns_left(units: Units, lanes: Lanes, lane: int, moves: Moves, row: int, i: int) -> int:
    """Columns that leave the source, less those that come."""
    kind = lanes.kinds[lane, moves.fields[row, i, UNIT]]
    stays, comes = moves.fields[row, i, STAYS], moves.fields[row, i, COMES]
    return int(units.columns[kind] - units.columns[stays] - units.columns[comes])


@njit(cache=True)
def take(units: Units, lanes: Lanes, lane: int, moves: Moves, row: int, i: int) -> bool:
    """Carries a move out on units, memory and dims; False where no slot is free for it."""
    s, t, u, v = (
        moves.fields[row, i, SOURCE],
        moves.fields[row, i, TARGET],
        moves.fields[row, i, UNIT],
        moves.fields[row, i, OTHER],
    )
    stays, goes, comes = (
        moves.fields[row, i, STAYS],
        moves.fields[row, i, GOES],
        moves.fields[row, i, COMES],
    )
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
    columns = _columns_left(units, lanes, lane, moves, row, i)
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
