"""Compiled loops that find, for each device of each lane, the moves that promise most.

All moves are judged by prices (`slopes`), which takes most of a search's time. So the units of a
lane are laid out by device in plain arrays, and all that one unit may change places with is judged
in one loop without branches, which the compiler turns into vector instructions. Memory and what
else forbids a move is looked at only where it is better than what was found before. The inner
loops are given plain arrays: taking one out of a named tuple costs as much as judging ten moves.

Devices are ranked by what they add to the objective: of two that swap, the first is the source,
and in large problems only the first are looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
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
    Units,
)
from shardwright_server.search.objective import (
    SHARP,
    SHARPEST,
    largest,
    objective_ms,
    power,
    power_mean,
    powers,
    transfer,
)
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.sums import add

_STEP = COLUMN_MULTIPLE
"""Columns."""
_PARTS = 5
"""All of a unit, a quarter, a half and three quarters of it, and the least, which only goes to
where the lot has a unit."""


@njit(cache=True)
def propose(
    units: Units,
    lanes: Lanes,
    active: IntArray,
    squarings: IntArray,
    sources: int,
    count: int,
    least_gain: float,
    moves: Moves,
    sums: FloatArray,
) -> int:
    """Finds moves, and what source and target hold after each.

    Moves that promise less than `least_gain` are left out, and those after which one of the two
    devices would be slower than the slowest is now. (On 14 tasks for 8 and 32 devices, two in three
    of the best moves of devices promised less than 2e-5; one in fifty of those gained as much.)

    Args:
        units: Of the problem.
        lanes: The lanes.
        active: `[a] int64`, those looked at.
        squarings: `[k] int64`, SOFT, SHARP or SHARPEST.
        sources: Devices of each lane that are looked at, those that add most to the objective.
        count: Moves of a source.
        least_gain: Of the objective, relative.
        moves: `[a, sources * count]` or more lanes, the first `a` are filled.
        sums: `[a * sources * count, 2, e]`, filled for the moves there are, in their order.

    Returns:
        How many moves there are.
    """
    n = 0
    for row in range(len(active)):
        lane = active[row]
        moves.merit_ms[row] = np.inf
        around = _around(lanes, lane, squarings[lane], least_gain)
        if around.slowest_ms > 0.0:
            laid = _laid_out(units, lanes, lane, around)
            _note_moves(units, lanes, lane, around, laid, sources, count, moves, row)
            _note_swaps(units, lanes, lane, around, laid, sources, count, moves, row)
            n = _sum_up_after(units, lanes, lane, laid, moves, row, sums, n)
    return n


class _Around(NamedTuple):
    """The objective around what a lane has now: linear in its two sums of powers.

    Attributes:
        squarings: SOFT, SHARP or SHARPEST.
        slowest_ms: Most computation of a device.
        rate: Objective over sum of powers of computation.
        powers: `[w] float64`, of computation over the slowest.
        widest: Largest sum of dims, at least 1.
        dims_rate: Objective over sum of powers of dims.
        dims_powers: `[w] float64`, of dims over the widest.
        least_ms: What a move must promise: the objective has to change by less, which is below 0.
    """

    squarings: int
    slowest_ms: float
    rate: float
    powers: Float64Array
    widest: int
    dims_rate: float
    dims_powers: Float64Array
    least_ms: float


@njit(cache=True)
def _around(lanes: Lanes, lane: int, squarings: int, least_gain: float) -> _Around:
    w, dims, root = lanes.dims.shape[1], lanes.dims[lane], 0.5**squarings
    slowest_ms, of_compute = largest(lanes.compute_ms[lane]), np.empty(w)
    total = powers(lanes.compute_ms[lane], squarings, of_compute)
    widest, of_dims = max(largest(dims), 1), np.empty(w)
    dims_total = powers(dims, squarings, of_dims)
    rate = root / total * power_mean(slowest_ms, total, w, squarings)
    soft = power_mean(widest, dims_total, w, squarings)
    dims_rate = root / dims_total * soft
    curve, mean_dims = lanes.transfers_ms[lane], lanes.mean_dims[lane]
    rise_ms = transfer(curve, mean_dims, soft + 1.0) - transfer(curve, mean_dims, soft - 1.0)
    dims_rate *= rise_ms / 2.0
    least_ms = -least_gain * objective_ms(lanes, lane, squarings)
    return _Around(squarings, slowest_ms, rate, of_compute, widest, dims_rate, of_dims, least_ms)


_OWN, _COLUMNS, _DIMS, _TERM, _PRICE, _LOAD, _MERIT = range(7)
"""Of units: what each adds to its device; its columns; of its device the sum of dims and what it
adds to the objective now, ms; what the unit adds to a source; computation of its device with
another unit, too; what is promised. Computation is over the slowest, dims over the widest."""


_BLOCK = 8
"""Of units that vectors hold: whole blocks leave no rest to be judged one by one."""

Int32Array = npt.NDArray[np.int32]
_Rows = tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]


@njit(cache=True)
def _rows(of_units: FloatArray) -> _Rows:
    """The rows of an array as arrays: of these the compiler knows that they do not overlap."""
    return (
        of_units[0],
        of_units[1],
        of_units[2],
        of_units[3],
        of_units[4],
        of_units[5],
        of_units[6],
    )


class _LaidOut(NamedTuple):
    """A lane, as vector loops want it.

    Attributes:
        devices: `[w] int64`, by what they add to the objective, most first: their ranks.
        start: `[w + 1] int64`, by rank: a device's units are from its entry to before the next.
        slots: `[n] int64`, of the units.
        kinds: `[n] int64`.
        on: `[n + _BLOCK] int32`, their devices.
        in_lot: `[lots] int64`, units of each lot.
        of_units: `[7, n + _BLOCK] float32`, in the order of the constants above; what is behind the
            units promises nothing.
        of_devices: `[7, w] float32`, the same of devices by number, where it makes sense.
    """

    devices: IntArray
    start: IntArray
    slots: IntArray
    kinds: IntArray
    on: Int32Array
    in_lot: IntArray
    of_units: FloatArray
    of_devices: FloatArray


@njit(cache=True)
def _laid_out(units: Units, lanes: Lanes, lane: int, around: _Around) -> _LaidOut:
    lots, kinds, devices = lanes.lots[lane], lanes.kinds[lane], lanes.devices[lane]
    compute_ms, dims, prices = lanes.compute_ms[lane], lanes.dims[lane], lanes.prices
    columns, slowest_ms, widest = units.columns, around.slowest_ms, around.widest
    w, n = len(dims), 0
    terms = around.rate * around.powers + around.dims_rate * around.dims_powers
    ranked = np.argsort(-terms, kind="mergesort")
    rank_of, start = np.empty(w, np.int64), np.zeros(w + 1, np.int64)
    for rank in range(w):
        rank_of[ranked[rank]] = rank
    for d in devices:
        if d != NONE:
            start[rank_of[d] + 1] += 1
            n += 1
    for rank in range(w):
        start[rank + 1] += start[rank]
    of_devices, of_units = np.empty((7, w), np.float32), np.zeros((7, n + _BLOCK), np.float32)
    of_units[_LOAD, n:] = np.inf
    for d in range(w):
        of_devices[_LOAD, d] = compute_ms[d] / slowest_ms
        of_devices[_DIMS, d] = dims[d] / widest
        of_devices[_TERM, d] = terms[d]
    free, in_lot = start.copy(), np.zeros(len(units.cut), np.int64)
    unit_slots, unit_kinds = np.empty(n, np.int64), np.empty(n, np.int64)
    on = np.zeros(n + _BLOCK, np.int32)
    for slot in range(len(devices)):
        d, kind = devices[slot], kinds[slot]
        if d == NONE:
            continue
        j = free[rank_of[d]]
        free[rank_of[d]] += 1
        unit_slots[j], unit_kinds[j], on[j] = slot, kind, d
        in_lot[lots[slot]] += 1
        of_units[_OWN, j] = prices[kind, d] / slowest_ms
        of_units[_COLUMNS, j] = columns[kind] / widest
        of_units[_DIMS, j] = of_devices[_DIMS, d]
        of_units[_TERM, j] = of_devices[_TERM, d]
    return _LaidOut(ranked, start, unit_slots, unit_kinds, on, in_lot, of_units, of_devices)


@njit(cache=True)
def _soft(x: np.float32) -> np.float32:
    """`x ** 16`."""
    x *= x
    x *= x
    x *= x
    return x * x


@njit(cache=True)
def _sharp(x: np.float32) -> np.float32:
    """`x ** 256`."""
    return _soft(_soft(x))


@njit(cache=True)
def _sharpest(x: np.float32) -> np.float32:
    """`x ** 4096`."""
    return _soft(_sharp(x))


@njit(cache=True)
def _unless_slower(merit_ms: np.float32, slowest: np.float32) -> np.float32:
    """Infinite where a device would be slower than the slowest is now, or much wider: NaN, too."""
    here = slowest <= np.float32(1.0) and merit_ms < np.float32(np.inf)
    return merit_ms if here else np.float32(np.inf)


@njit(cache=True)
def _note(
    merits: Float64Array, fields: IntArray, first: int, count: int, merit_ms: float, move: IntArray
) -> None:
    """Keeps a move if it is among the best so many, which lie from `first` on, best first."""
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


@njit(cache=True)
def _parting(width: int, part: int) -> int:
    """Steps of columns that one of `_PARTS` of a unit has; 0: none, all, or as an earlier part."""
    if part == _PARTS - 1:
        return 1 if width > 1 and width // 4 != 1 and width // 2 != 1 else 0
    parting = width * part // 4
    return parting if width * (part - 1) // 4 < parting < width else 0


@njit(cache=True)
def _note_moves(
    units: Units,
    lanes: Lanes,
    lane: int,
    around: _Around,
    laid: _LaidOut,
    sources: int,
    count: int,
    moves: Moves,
    row: int,
) -> None:
    """Units to any device, and parts of those on the slowest and the widest.

    Where the lot has a unit at the target the two grow together.
    """
    lots, devices, prices = lanes.lots[lane], lanes.devices[lane], lanes.prices
    closed, used_bytes = lanes.closed[lane], lanes.used_bytes[lane]
    memory_bytes, room_bytes = units.memory_bytes, units.room_bytes
    first_width, of_width = units.first_width, units.of_width
    columns_of, cut, alone_ms = units.columns, units.cut, units.compute_ms
    slots, kinds, in_lot, start = laid.slots, laid.kinds, laid.in_lot, laid.start
    of_units, of_devices, ranked = laid.of_units, laid.of_devices, laid.devices
    squarings, slowest_ms, rate, _, widest, dims_rate, _, least_ms = around
    merits, fields = moves.merit_ms[row], moves.fields[row]
    move = np.full(7, NONE)
    for rank in range(sources):
        s = ranked[rank]
        term_ms, load, dims = of_devices[_TERM, s], of_devices[_LOAD, s], of_devices[_DIMS, s]
        first, last = rank * count, rank * count + count - 1
        if -term_ms >= least_ms:  # all that leaving may gain
            break
        for j in range(start[rank], start[rank + 1]):
            u, kind = slots[j], kinds[j]
            lot = lots[u]
            width = columns_of[kind] // _STEP if cut[lot] else 0
            of_lot = first_width[lot]
            for part in range(_PARTS if load >= 1.0 or dims >= 1.0 else 1):
                parting = _parting(width, part) if part > 0 else width
                goes, stays = kind, NONE
                if part > 0:
                    if parting == 0:
                        continue
                    goes, stays = of_width[of_lot + parting], of_width[of_lot + width - parting]
                    if stays == NONE:
                        continue
                left = load - of_units[_OWN, j] + prices[stays, s] / slowest_ms
                columns = of_units[_COLUMNS, j] - columns_of[stays] / widest
                here_ms = rate * power(left, squarings) - term_ms
                here_ms += dims_rate * power(dims - columns, squarings)
                worst = min(least_ms, merits[last])
                if here_ms >= worst:  # the target can gain nothing
                    if part == 0:
                        break  # a part gains less than all of it
                    continue
                move[SOURCE], move[UNIT], move[STAYS] = s, u, stays
                if in_lot[lot] > 1 and parting > 0:  # it may grow
                    for other in range(len(slots)):
                        v, met = slots[other], kinds[other]
                        if lots[v] != lot or v == u:
                            continue
                        t, got = devices[v], of_width[of_lot + columns_of[met] // _STEP + parting]
                        if got == NONE:
                            continue
                        with_it = of_devices[_LOAD, t]
                        with_it += (prices[got, t] - prices[met, t]) / slowest_ms
                        more = memory_bytes[got] - memory_bytes[met]
                        if with_it > 1.0 or used_bytes[t] + more > room_bytes[t]:
                            continue
                        merit_ms = here_ms + rate * power(with_it, squarings)
                        wider = of_devices[_DIMS, t] + columns
                        merit_ms += dims_rate * power(wider, squarings) - of_devices[_TERM, t]
                        if merit_ms < least_ms:
                            move[TARGET], move[OTHER], move[GOES] = t, v, got
                            _note(merits, fields, first, count, merit_ms, move)
                if goes == NONE or part == _PARTS - 1:
                    continue
                alone = alone_ms[goes] / slowest_ms
                _judge_moves(
                    of_devices,
                    prices[goes],
                    np.float32(1.0 / slowest_ms),
                    np.float32(alone),
                    np.float32(here_ms),
                    np.float32(columns),
                    np.float32(rate),
                    np.float32(dims_rate),
                    squarings,
                )
                move[OTHER], move[GOES] = NONE, goes
                worst = min(least_ms, merits[last])
                for t in range(len(ranked)):
                    if of_devices[_MERIT, t] >= worst or t == s or closed[lot, t]:
                        continue
                    if used_bytes[t] + memory_bytes[goes] > room_bytes[t]:
                        continue
                    move[TARGET] = t
                    _note(merits, fields, first, count, of_devices[_MERIT, t], move)
                    worst = min(least_ms, merits[last])


@njit(cache=True)
def _judge_moves(
    of_devices: FloatArray,
    prices: FloatArray,
    per_ms: np.float32,
    alone: np.float32,
    here_ms: np.float32,
    columns: np.float32,
    rate: np.float32,
    dims_rate: np.float32,
    squarings: int,
) -> None:
    """Fills merits of devices: what it promises that a unit goes there; infinite: too slow.

    All in float32, which vectors hold most of.

    Args:
        of_devices: As in `_LaidOut`.
        prices: `[w]`, of what goes.
        per_ms: One over the slowest.
        alone: Computation of what goes on a device that has nothing else.
        here_ms: What the source promises.
        columns: That leave it.
        rate: Of the objective.
        dims_rate: Of the objective.
        squarings: SOFT, SHARP or SHARPEST.
    """
    zero = np.float32(0.0)
    for t in range(of_devices.shape[1]):
        load = of_devices[_LOAD, t] + prices[t] * per_ms
        load = max(alone if of_devices[_LOAD, t] == zero else load, zero)
        a, b = _soft(load), _soft(of_devices[_DIMS, t] + columns)
        if squarings >= SHARP:
            a, b = _soft(a), _soft(b)
        if squarings == SHARPEST:
            a, b = _soft(a), _soft(b)
        merit = here_ms + (rate * a + dims_rate * b - of_devices[_TERM, t])
        of_devices[_MERIT, t] = _unless_slower(merit, load)


@njit(cache=True)
def _note_swaps(
    units: Units,
    lanes: Lanes,
    lane: int,
    around: _Around,
    laid: _LaidOut,
    sources: int,
    count: int,
    moves: Moves,
    row: int,
) -> None:
    """Units against units of devices of later rank; parts of the slowest against any device's."""
    lots, devices, prices = lanes.lots[lane], lanes.devices[lane], lanes.prices
    closed, used_bytes = lanes.closed[lane], lanes.used_bytes[lane]
    memory_bytes, room_bytes = units.memory_bytes, units.room_bytes
    first_width, of_width = units.first_width, units.of_width
    columns_of, cut = units.columns, units.cut
    slots, kinds, start = laid.slots, laid.kinds, laid.start
    of_units, of_devices, ranked = laid.of_units, laid.of_devices, laid.devices
    squarings, slowest_ms, rate, _, widest, dims_rate, _, least_ms = around
    merits, fields = moves.merit_ms[row], moves.fields[row]
    w, n = len(ranked), len(slots)
    rows_of_units, loads = _rows(of_units), of_devices[_LOAD]
    with_it = np.empty(w, np.float32)
    move = np.full(7, NONE)
    for rank in range(sources):
        s = ranked[rank]
        term_ms, load, dims = of_devices[_TERM, s], of_devices[_LOAD, s], of_devices[_DIMS, s]
        if -2.0 * term_ms >= least_ms:  # two devices gain no more than they add
            break
        for j in range(n):
            of_units[_PRICE, j] = prices[kinds[j], s] / slowest_ms
        for j in range(start[rank], start[rank + 1]):
            u, kind = slots[j], kinds[j]
            lot = lots[u]
            width = columns_of[kind] // _STEP if cut[lot] else 0
            of_lot = first_width[lot]
            for part in range(_PARTS - 1 if load >= 1.0 else 1):
                goes, stays = kind, NONE
                if part > 0:
                    parting = _parting(width, part)
                    if parting == 0:
                        continue
                    goes, stays = of_width[of_lot + parting], of_width[of_lot + width - parting]
                    if goes == NONE or stays == NONE:
                        continue
                later = rank + 1 if part == 0 else 0
                for t in range(w):
                    with_it[t] = loads[t] + prices[goes, t] / slowest_ms
                    if closed[lot, t]:
                        with_it[t] = np.inf
                with_it[s] = np.inf
                _spread_out(with_it, laid.on, start[later], n, rows_of_units[_LOAD])
                left = load - of_units[_OWN, j] + prices[stays, s] / slowest_ms
                columns = of_units[_COLUMNS, j] - columns_of[stays] / widest
                worst = min(least_ms, merits[rank * count + count - 1])
                found = _judge_swaps(
                    rows_of_units,
                    start[later],
                    n,
                    np.float32(left),
                    np.float32(dims),
                    np.float32(term_ms),
                    np.float32(columns),
                    np.float32(rate),
                    np.float32(dims_rate),
                    squarings,
                    np.float32(worst),
                )
                if not found:
                    continue
                left_bytes = used_bytes[s] - memory_bytes[kind] + memory_bytes[stays]
                for v in range(start[later], n):
                    if of_units[_MERIT, v] >= worst:
                        continue
                    slot, comes = slots[v], kinds[v]
                    t = devices[slot]
                    if closed[lots[slot], s] or left_bytes + memory_bytes[comes] > room_bytes[s]:
                        continue
                    if used_bytes[t] + memory_bytes[goes] - memory_bytes[comes] > room_bytes[t]:
                        continue
                    move[SOURCE], move[TARGET], move[UNIT], move[OTHER] = s, t, u, slot
                    move[STAYS], move[GOES], move[COMES] = stays, goes, comes
                    _note(merits, fields, rank * count, count, of_units[_MERIT, v], move)
                    worst = min(least_ms, merits[rank * count + count - 1])


@njit(cache=True)
def _spread_out(
    of_devices: FloatArray, on: Int32Array, first: int, end: int, of_units: FloatArray
) -> None:
    """Gives units from `first` on the value of their device."""
    begin = np.uint64(first)
    for at in range(end - first):
        j = begin + np.uint64(at)
        of_units[j] = of_devices[np.uint32(on[j])]


@njit(cache=True)
def _judge_swaps(
    of_units: _Rows,
    first: int,
    end: int,
    left: np.float32,
    dims: np.float32,
    term_ms: np.float32,
    columns: np.float32,
    rate: np.float32,
    dims_rate: np.float32,
    squarings: int,
    worst: np.float32,
) -> int:
    """Fills merits of units: what it promises to swap places with them; infinite: too slow.

    All in float32, as in `_judge_moves`.

    Args:
        of_units: As in `_LaidOut`, with prices and loads.
        first: Of the units looked at.
        end: Behind the last.
        left: Computation of the source without its unit.
        dims: Of the source.
        term_ms: What the source adds to the objective.
        columns: That leave the source.
        rate: Of the objective.
        dims_rate: Of the objective.
        squarings: SOFT, SHARP or SHARPEST.
        worst: What is asked for.

    Returns:
        How many promise more than `worst`.
    """
    own, widths, their_dims, terms, prices, loads, merits = of_units
    zero, found = np.float32(0.0), 0
    begin = np.uint64(first)  # a signed index might count from the end, which no vector can
    count = (end - first + _BLOCK - 1) // _BLOCK * _BLOCK
    # several loops, so that the compiler need not do the work of all for each
    if squarings == SHARPEST:
        for at in range(count):
            j = begin + np.uint64(at)
            a, b = max(left + prices[j], zero), max(loads[j] - own[j], zero)
            moved = columns - widths[j]
            c, d = _sharpest(dims - moved), _sharpest(their_dims[j] + moved)
            merit = rate * (_sharpest(a) + _sharpest(b)) + dims_rate * (c + d)
            merits[j] = _unless_slower(merit - (term_ms + terms[j]), max(a, b))
    elif squarings == SHARP:
        for at in range(count):
            j = begin + np.uint64(at)
            a, b = max(left + prices[j], zero), max(loads[j] - own[j], zero)
            moved = columns - widths[j]
            c, d = _sharp(dims - moved), _sharp(their_dims[j] + moved)
            merit = rate * (_sharp(a) + _sharp(b)) + dims_rate * (c + d) - (term_ms + terms[j])
            merits[j] = _unless_slower(merit, max(a, b))
    else:
        for at in range(count):
            j = begin + np.uint64(at)
            a, b = max(left + prices[j], zero), max(loads[j] - own[j], zero)
            moved = columns - widths[j]
            c, d = _soft(dims - moved), _soft(their_dims[j] + moved)
            merit = rate * (_soft(a) + _soft(b)) + dims_rate * (c + d) - (term_ms + terms[j])
            merits[j] = _unless_slower(merit, max(a, b))
    for at in range(count):
        j = begin + np.uint64(at)
        found += merits[j] < worst
    return found


@njit(cache=True)
def _sum_up_after(
    units: Units,
    lanes: Lanes,
    lane: int,
    laid: _LaidOut,
    moves: Moves,
    row: int,
    sums: FloatArray,
    n: int,
) -> int:
    """Fills `sums` from `n` on, in the order of the slots; how many are filled then."""
    merits, fields, base, encodings = moves.merit_ms, moves.fields, lanes.base, units.encodings
    slots, kinds, start = laid.slots, laid.kinds, laid.start
    e, rank_of = base.shape[2], np.empty(len(laid.devices), np.int64)
    for rank in range(len(rank_of)):
        rank_of[laid.devices[rank]] = rank
    for m in range(merits.shape[1]):
        if merits[row, m] == np.inf:
            continue
        unit, other = fields[row, m, UNIT], fields[row, m, OTHER]
        for side, field in enumerate((SOURCE, TARGET)):
            d = fields[row, m, field]
            held = sums[n, side]
            for i in range(e):
                held[i] = base[lane, d, i]
            for j in range(start[rank_of[d]], start[rank_of[d] + 1]):
                if slots[j] not in (unit, other):
                    add(held, encodings[kinds[j]])
        stays, comes, goes = fields[row, m, STAYS], fields[row, m, COMES], fields[row, m, GOES]
        add(sums[n, 0], encodings[stays])
        add(sums[n, 0], encodings[comes])
        add(sums[n, 1], encodings[goes])
        n += 1
    return n
