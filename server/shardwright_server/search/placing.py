"""First lanes: cut lots placed greedily, many ways at once.

Units go by falling cost alone, each to the device with the least computation so far, by prices
around the average device. As in NeuroShard's greedy search a cap limits the sum of dims of a
device; unlike there it is a wish: where it leaves no device, memory alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numba import njit

from shardwright.domain import ShardingType
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.cuts import Cuts
from shardwright_server.search.lane_book import SPARE_SLOTS, LaneBook
from shardwright_server.search.lanes import NONE, Slots, Spreads, Units
from shardwright_server.search.lots import BoolArray, LotBook, Spread
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.slopes import prices_around


def place(lane_book: LaneBook, ways: Sequence[Cuts], caps: Sequence[float]) -> Slots:
    """Lanes for each way to cut under each cap, those that fit into memory.

    Args:
        lane_book: Of the problem.
        ways: Ways to cut.
        caps: Wished limits on a device's sum of dims, as multiples of the mean.
    """
    book, catalog = lane_book.book, lane_book.book.catalog
    rows, lots, kinds = _units_by_cost(book, ways)
    counts = np.bincount(rows, minlength=len(ways))
    columns = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    slots = Slots.empty(len(ways), int(counts.max()) + SPARE_SLOTS, len(book.lots))
    slots.lots[rows, columns], slots.kinds[rows, columns] = lots, kinds
    for row, cuts in enumerate(ways):
        for lot, spread in spread_lots(book, cuts).items():
            slots.spreads[row, lot] = lane_book.way(lot, spread)
    of_way = np.repeat(np.arange(len(ways)), len(caps))
    slots = slots.chosen(of_way)
    average = catalog.encodings[book.wholes].sum(axis=0) / book.num_devices
    prices = prices_around(lane_book, average[None])
    fits = np.zeros(len(of_way), dtype=np.bool_)
    _place(
        lane_book.units,
        lane_book.spreads,
        prices[:, 0].copy(),
        counts[of_way],
        np.tile(caps, len(ways)),
        slots,
        fits,
    )
    return slots.chosen(np.flatnonzero(fits))


def _units_by_cost(book: LotBook, ways: Sequence[Cuts]) -> tuple[IntArray, IntArray, IntArray]:
    """What is not spread: number of the way, lot and kind of each unit, `[u]` each."""
    units = [() if cut.spread else cut.kinds for cuts in ways for cut in cuts]
    counts = np.fromiter(map(len, units), dtype=np.int64, count=len(units))
    of_kind = np.fromiter(chain.from_iterable(units), dtype=np.int64, count=int(counts.sum()))
    of_way, of_lot = np.divmod(np.repeat(np.arange(len(units)), counts), len(book.lots))
    order = np.lexsort((-book.catalog.compute_ms[of_kind], of_way))
    return of_way[order], of_lot[order], of_kind[order]


def spread_lots(book: LotBook, cuts: Cuts) -> dict[int, Spread]:
    """The spread lots of cuts; those on one host go to the host with the least so far."""
    spreads: dict[int, Spread] = {}
    host_ms = np.zeros(book.num_devices // book.devices_per_host)
    for lot, cut in enumerate(cuts):
        if cut.spread is None:
            continue
        host = 0
        if cut.spread is ShardingType.TABLE_ROW_WISE:
            hosts = np.array(book.lots[lot].hosts)
            host = int(hosts[host_ms[hosts].argmin()])
            host_ms[host] += book.catalog.compute_ms[cut.kinds[0]]
        spreads[lot] = book.spread(lot, cut.spread, host)
    return spreads


@njit(cache=True)
def _place(
    units: Units,
    spreads: Spreads,
    prices: FloatArray,
    counts: IntArray,
    caps: Float64Array,
    slots: Slots,
    fits: BoolArray,
) -> None:
    """Sets the devices of each lane's units; the lowest device on ties.

    Args:
        units: Of the problem.
        spreads: Of the problem.
        prices: `[ids + 1] float32`, on any device.
        counts: `[l] int64`, units of each lane: its first slots, in the order to place them.
        caps: `[l] float64`, multiples of the mean of dims.
        slots: `l` assignments; devices are filled.
        fits: `[l] bool`, filled: whether everything found room.
    """
    w = len(units.room_bytes)
    for lane in range(len(counts)):
        load, used_bytes, dims = np.zeros(w), np.zeros(w, np.int64), np.zeros(w, np.int64)
        held = ~units.allowed
        for way in slots.spreads[lane]:
            if way == NONE:
                continue
            kind = spreads.kinds[way]
            for d in range(spreads.first[way], spreads.first[way] + spreads.devices[way]):
                load[d] += prices[kind]
                used_bytes[d] += units.memory_bytes[kind]
                dims[d] += units.columns[kind]
        total = dims.sum()
        for slot in range(counts[lane]):
            total += units.columns[slots.kinds[lane, slot]]
        cap = caps[lane] * total / w
        fits[lane] = (used_bytes <= units.room_bytes).all()
        for slot in range(counts[lane]):
            lot, kind = slots.lots[lane, slot], slots.kinds[lane, slot]
            best = NONE
            for capped in (True, False):
                for d in range(w):
                    if held[lot, d]:
                        continue
                    if used_bytes[d] + units.memory_bytes[kind] > units.room_bytes[d]:
                        continue
                    if capped and dims[d] + units.columns[kind] > cap:
                        continue
                    if best == NONE or load[d] < load[best]:
                        best = d
                if best != NONE:
                    break
            if best == NONE:
                fits[lane] = False
                break
            slots.devices[lane, slot] = best
            held[lot, best] = True
            load[best] += prices[kind]
            used_bytes[best] += units.memory_bytes[kind]
            dims[best] += units.columns[kind]
