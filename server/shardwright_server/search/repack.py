"""Repacking: a few devices are emptied and filled again, in many ways.

Each way takes the units off the slowest or widest device and some others, cuts a few of the lots
that were there in another way, and places all of it greedily again, where computation is cheapest
by prices around the assignment it began with. The first ways spread one of the dearest lots, or
some of them together, or one that is spread no more; the next copy some of the smallest, or copy
them no more. Changes of several lots at once lead out of
the optima that single moves end in, above all where memory is tight.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from shardwright.domain import COLUMN_MULTIPLE
from shardwright_server.search.lane_book import SPARE_SLOTS, LaneBook
from shardwright_server.search.lanes import NONE, Lanes, Slots, Spreads, Units
from shardwright_server.search.lots import BoolArray
from shardwright_server.search.objective import cost_ms
from shardwright_server.search.pieces import Float64Array, IntArray

_CAPS = np.array([1.05, 1.15, 1.3, 1.6])
"""On the sum of dims of a device, in multiples of the mean."""
_NOISES = np.array([0.0, 0.15, 0.5])
"""Of the costs by which units are ordered."""
_MOST_EMPTIED = 5
_MOST_RECUT = 3
"""Devices emptied and lots cut in another way, at most."""
_MOST_SWITCHED = 8
_MOST_TOGETHER = 4
"""Lots that are spread, or no more, one in each of the first ways, at most of each kind; and how
many are switched together at most, in the next ways."""
_MOST_COPIED = 4
"""Lots that are copied, or no more, in the ways after those: 1, 2, ... together."""
_STEP = COLUMN_MULTIPLE
"""Columns."""
_STAYS, _MOVES, _REPLACED = range(3)
"""What becomes of a unit: it lies where it lay, is placed again, or another cut replaces it."""


class Repacker:
    """Draws ways to repack assignments.

    Args:
        lane_book: Of the problem.
        seed: Where chance comes from.
    """

    def __init__(self, lane_book: LaneBook, seed: int) -> None:
        self._lane_book = lane_book
        self._random = np.random.default_rng(seed)

    def ways(self, now: Lanes, count: int) -> Slots:
        """So many ways to repack a lane, those that fit into memory; some may be alike.

        Args:
            now: One lane, with its prices.
            count: Ways to draw.
        """
        book = self._lane_book
        slots = int((now.devices[0] != NONE).sum()) + SPARE_SLOTS
        found = Slots.empty(count, slots, len(book.units.allowed))
        fits = np.zeros(count, dtype=np.bool_)
        _repack(book.units, book.spreads, now, self._random, found, fits)
        return found.chosen(np.flatnonzero(fits))


class _Draft(NamedTuple):
    """One way to repack on its way; `u` units of the lane it began with.

    Attributes:
        fate: `[u] int64`, `_STAYS`, `_MOVES` or `_REPLACED`.
        spreads: `[lots] int64`, as `Lanes.spreads`.
        lots: `[slots] int64`, of new units.
        kinds: `[slots] int64`.
    """

    fate: IntArray
    spreads: IntArray
    lots: IntArray
    kinds: IntArray


@njit(cache=True)
def _repack(
    units: Units,
    spreads: Spreads,
    now: Lanes,
    rng: np.random.Generator,
    found: Slots,
    fits: BoolArray,
) -> None:
    """Draws ways; `found` and `fits` are filled, one row each."""
    num_slots = found.lots.shape[1]
    to_switch = _lots_to_switch(units, spreads, now, _MOST_SWITCHED)
    to_copy, copied = _lots_to_copy(units, spreads, now, _MOST_COPIED)
    together = len(to_switch) + _MOST_TOGETHER - 1
    for way in range(len(fits)):
        # the widest device as often as transfers make up the cost
        widest, slowest = now.dims[0].argmax(), now.compute_ms[0].argmax()
        in_transfers = rng.random() * cost_ms(now, 0) > now.compute_ms[0, slowest]
        emptied = _draw_devices(widest if in_transfers else slowest, now.dims.shape[1], rng)
        fate = np.full(now.devices.shape[1], _STAYS)
        for u in range(len(fate)):
            if now.devices[0, u] == NONE:
                fate[u] = _REPLACED
            elif emptied[now.devices[0, u]]:
                fate[u] = _MOVES
        draft = _Draft(
            fate,
            now.spreads[0].copy(),
            np.empty(num_slots, dtype=np.int64),
            np.empty(num_slots, dtype=np.int64),
        )
        count = 0
        if way < len(to_switch):
            count = _switch(units, spreads, now, draft, rng, to_switch[way], count)
        elif way < together:
            for lot in to_switch[: way - len(to_switch) + 2]:
                count = _switch(units, spreads, now, draft, rng, lot, count)
        elif way < together + len(to_copy):
            for lot in to_copy[: way - together + 1]:
                _spread(now, draft, lot, _way_to_copy(spreads, lot))
        elif way < together + len(to_copy) + len(copied):
            for lot in copied[: way - together - len(to_copy) + 1]:
                count = _switch(units, spreads, now, draft, rng, lot, count)
        else:
            for lot in _draw_lots(units, now, draft, rng):
                count = _recut(units, spreads, now, draft, rng, lot, count)
        fits[way] = _place(units, spreads, now, draft, rng, count, found, way)


@njit(cache=True)
def _draw(rng: np.random.Generator, count: int) -> int:
    """A number below `count`."""
    return int(rng.random() * count)


@njit(cache=True)
def _draw_devices(first: int, w: int, rng: np.random.Generator) -> BoolArray:
    """`[w]`: a device and some others."""
    drawn = np.zeros(w, dtype=np.bool_)
    drawn[first] = True
    count = min(w, 2 + _draw(rng, min(w, _MOST_EMPTIED) - 1))
    while drawn.sum() < count:
        drawn[_draw(rng, w)] = True
    return drawn


@njit(cache=True)
def _draw_lots(units: Units, now: Lanes, draft: _Draft, rng: np.random.Generator) -> IntArray:
    """Some lots of the emptied devices, dear or large ones rather, and perhaps a spread one."""
    here = np.flatnonzero(draft.fate == _MOVES)
    lots, kinds = now.lots[0][here], now.kinds[0][here]
    by_cost = _draw(rng, 3) > 0
    order = np.argsort(-_sizes(units, kinds, by_cost), kind="mergesort")
    drawn = np.full(_MOST_RECUT + 1, NONE)
    count = _draw(rng, _MOST_RECUT + 1) if len(here) else 0
    for i in range(count):  # the largest are the likeliest
        drawn[i] = lots[order[int(len(order) * rng.random() ** 2)]]
        if (drawn[:i] == drawn[i]).any():
            drawn[i] = NONE
    spread = np.flatnonzero(draft.spreads != NONE)
    if len(spread) and _draw(rng, 4) == 0:
        drawn[count] = spread[_draw(rng, len(spread))]
    found: IntArray = drawn[drawn != NONE]
    return found


@njit(cache=True)
def _sizes(units: Units, kinds: IntArray, by_cost: bool) -> Float64Array:
    """Computation alone, or memory."""
    sizes = np.empty(len(kinds))
    for i in range(len(kinds)):
        sizes[i] = units.compute_ms[kinds[i]] if by_cost else units.memory_bytes[kinds[i]]
    return sizes


@njit(cache=True)
def _recut(
    units: Units,
    spreads: Spreads,
    now: Lanes,
    draft: _Draft,
    rng: np.random.Generator,
    lot: int,
    count: int,
) -> int:
    """Cuts what a lot has on the emptied devices in another way; how many new units there are."""
    if draft.spreads[lot] != NONE:
        return _switch(units, spreads, now, draft, rng, lot, count)
    if _draw(rng, 2):
        _set_fate(now, draft, lot, _STAYS, _MOVES)
    if spreads.start[lot + 1] > spreads.start[lot] and _draw(rng, 3) == 0:
        return _switch(units, spreads, now, draft, rng, lot, count)
    here, columns, kept = 0, 0, 0
    for u in range(len(draft.fate)):
        if now.lots[0, u] == lot and draft.fate[u] == _MOVES:
            here += 1
            columns += units.columns[now.kinds[0, u]]
        elif now.lots[0, u] == lot and draft.fate[u] == _STAYS:
            kept += 1
    choice = _draw(rng, 5)
    parts = here + 1
    if choice == 2:
        parts = 2 * here
    elif choice == 3:
        parts = max(1, here - 1)
    elif choice == 4:
        parts = 1
    parts = min(parts, units.allowed[lot].sum() - kept)
    more = _cut(units, draft, lot, columns, parts, count) if units.cut[lot] else count
    if more > count:
        _set_fate(now, draft, lot, _MOVES, _REPLACED)
    return more


@njit(cache=True)
def _lots_to_switch(units: Units, spreads: Spreads, now: Lanes, most: int) -> IntArray:
    """Lots with the dearest units of those that may be spread, and lots that are spread."""
    dearest = np.zeros(len(units.cut))
    for u in range(now.devices.shape[1]):
        lot = now.lots[0, u]
        if now.devices[0, u] != NONE and spreads.start[lot + 1] > spreads.start[lot]:
            dearest[lot] = max(dearest[lot], units.compute_ms[now.kinds[0, u]])
    first = np.argsort(-dearest, kind="mergesort")[: (dearest > 0.0).sum()][:most]
    found: IntArray = np.concatenate((first, np.flatnonzero(now.spreads[0] != NONE)[:most]))
    return found


@njit(cache=True)
def _way_to_copy(spreads: Spreads, lot: int) -> int:
    """The way to spread a lot in copies, or NONE."""
    for way in range(spreads.start[lot], spreads.start[lot + 1]):
        if spreads.all_reduce_bytes[way] > 0:
            return way
    return NONE


@njit(cache=True)
def _lots_to_copy(
    units: Units, spreads: Spreads, now: Lanes, most: int
) -> tuple[IntArray, IntArray]:
    """Lots to be copied next, and those to be copied no more: by bytes to reduce for a column."""
    lots = len(units.cut)
    price, copied = np.full(lots, np.inf), np.zeros(lots, np.bool_)
    for lot in range(lots):
        way, now_way = _way_to_copy(spreads, lot), now.spreads[0, lot]
        if way != NONE and now_way in (NONE, way):
            price[lot] = spreads.all_reduce_bytes[way] / units.lot_columns[lot]
            copied[lot] = now_way == way
    order = np.argsort(price, kind="mergesort")[: np.isfinite(price).sum()]
    return order[~copied[order]][:most], order[copied[order]][::-1][:most]


@njit(cache=True)
def _spread(now: Lanes, draft: _Draft, lot: int, way: int) -> None:
    """Spreads a lot that has units."""
    draft.spreads[lot] = way
    _set_fate(now, draft, lot, _STAYS, _REPLACED)
    _set_fate(now, draft, lot, _MOVES, _REPLACED)


@njit(cache=True)
def _switch(
    units: Units,
    spreads: Spreads,
    now: Lanes,
    draft: _Draft,
    rng: np.random.Generator,
    lot: int,
    count: int,
) -> int:
    """Spreads a lot in any way, or gives one that is spread units; how many new ones there are."""
    if draft.spreads[lot] == NONE:
        first, end = spreads.start[lot], spreads.start[lot + 1]
        _spread(now, draft, lot, first + _draw(rng, end - first))
        return count
    for parts in range(1, 3):  # as few as it may have
        more = _cut(units, draft, lot, units.lot_columns[lot], parts, count)
        if more > count:
            draft.spreads[lot] = NONE
            return more
    return count


@njit(cache=True)
def _set_fate(now: Lanes, draft: _Draft, lot: int, old: int, new: int) -> None:
    """Of the lot's units whose fate was `old`."""
    for u in range(len(draft.fate)):
        if now.lots[0, u] == lot and draft.fate[u] == old:
            draft.fate[u] = new


@njit(cache=True)
def _cut(units: Units, draft: _Draft, lot: int, columns: int, parts: int, count: int) -> int:
    """Adds new units of even widths, if all are allowed; how many there are then."""
    steps = columns // _STEP
    if parts < 1 or steps < parts or count + parts > SPARE_SLOTS // 2:
        return count
    if parts > 1 and not units.cut[lot]:
        return count
    for part in range(parts):
        kind = units.of_width[units.first_width[lot] + steps // parts + (part < steps % parts)]
        if kind == NONE:
            return count
        draft.lots[count + part], draft.kinds[count + part] = lot, kind
    return count + parts


@njit(cache=True)
def _place(
    units: Units,
    spreads: Spreads,
    now: Lanes,
    draft: _Draft,
    rng: np.random.Generator,
    count: int,
    found: Slots,
    way: int,
) -> bool:
    """Writes a way: what stays where it lay, and all else placed greedily; False if it has no room.

    A cap is a wish: where it leaves no device, memory alone decides.
    """
    w = now.dims.shape[1]
    compute_ms, used_bytes, dims = np.zeros(w), np.zeros(w, np.int64), np.zeros(w, np.int64)
    held = ~units.allowed
    found.spreads[way] = draft.spreads
    _add_spreads(units, spreads, now, draft, compute_ms, used_bytes, dims)
    slot, moving = 0, 0
    for u in range(len(draft.fate)):
        lot, kind, device = now.lots[0, u], now.kinds[0, u], now.devices[0, u]
        if draft.fate[u] == _STAYS:
            found.lots[way, slot], found.kinds[way, slot] = lot, kind
            found.devices[way, slot] = device
            slot += 1
            held[lot, device] = True
            used_bytes[device] += units.memory_bytes[kind]
            dims[device] += units.columns[kind]
        elif device != NONE:
            compute_ms[device] -= now.prices[kind, device]
            if draft.fate[u] == _MOVES:
                draft.lots[count + moving], draft.kinds[count + moving] = lot, kind
                moving += 1
    count += moving
    cap = _CAPS[_draw(rng, len(_CAPS))]
    by_cost = _draw(rng, 4) > 0
    noise = _NOISES[_draw(rng, len(_NOISES))]
    sizes = _sizes(units, draft.kinds[:count], by_cost)
    total_dims = dims.sum()
    for i in range(count):
        total_dims += units.columns[draft.kinds[i]]
        sizes[i] *= 1.0 + noise * (rng.random() - 0.5)
    for d in range(w):
        if used_bytes[d] > units.room_bytes[d]:
            return False
    for i in np.argsort(-sizes, kind="mergesort"):
        lot, kind = draft.lots[i], draft.kinds[i]
        best, best_ms = NONE, np.inf
        for capped in (True, False):
            for d in range(w):
                if held[lot, d] or used_bytes[d] + units.memory_bytes[kind] > units.room_bytes[d]:
                    continue
                if capped and dims[d] + units.columns[kind] > cap * total_dims / w:
                    continue
                with_it_ms = compute_ms[d] + now.prices[kind, d]
                if with_it_ms < best_ms:
                    best, best_ms = d, with_it_ms
            if best != NONE:
                break
        if best == NONE:
            return False
        found.lots[way, slot], found.kinds[way, slot] = lot, kind
        found.devices[way, slot] = best
        slot += 1
        held[lot, best] = True
        used_bytes[best] += units.memory_bytes[kind]
        dims[best] += units.columns[kind]
        compute_ms[best] = best_ms
    return True


@njit(cache=True)
def _add_spreads(
    units: Units,
    spreads: Spreads,
    now: Lanes,
    draft: _Draft,
    compute_ms: Float64Array,
    used_bytes: IntArray,
    dims: IntArray,
) -> None:
    """Begins sums: with what is spread, and computation as in the lane but for spreads changed."""
    compute_ms += now.compute_ms[0]
    for lot in range(len(draft.spreads)):
        old, new = now.spreads[0, lot], draft.spreads[lot]
        if old != NONE and old != new:
            for d in range(spreads.first[old], spreads.first[old] + spreads.devices[old]):
                compute_ms[d] -= now.prices[spreads.kinds[old], d]
        if new == NONE:
            continue
        kind = spreads.kinds[new]
        for d in range(spreads.first[new], spreads.first[new] + spreads.devices[new]):
            used_bytes[d] += units.memory_bytes[kind]
            dims[d] += units.columns[kind]
            if old != new:
                compute_ms[d] += now.prices[kind, d]
