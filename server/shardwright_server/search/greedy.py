"""Greedy placement of units, many lanes in lockstep.

Units go in the order given, each to the device whose computation is cheapest with it, as in
NeuroShard's greedy search. Unlike there a cap is a wish: where it leaves no device, memory alone
decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.assignment import Assignment, Unit
from shardwright_server.search.lots import BoolArray, LotBook, Spread
from shardwright_server.search.pieces import Float64Array, IntArray

NOTHING = -1
_MOST_DEVICES_TRIED = 4
"""Of the devices with the least computation so far; another is hardly ever the cheapest."""


@dataclass(frozen=True)
class Start:
    """Where a lane begins, and what it has to place.

    Attributes:
        spreads: Spread lots.
        kept: `[3, k] int64`: lots, kinds and devices of units that lie already.
        units: `[2, u] int64`: lots and kinds of those to place, in order.
        cap: Wished limit on a device's sum of dims, as a multiple of the mean.
    """

    spreads: dict[int, Spread]
    kept: IntArray
    units: IntArray
    cap: float

    @classmethod
    def of(cls, a: Assignment) -> Start:
        """All of an assignment, where it lies; nothing is left to place, so that no cap counts."""
        nothing = np.empty((2, 0), dtype=np.int64)
        return cls(a.spreads, np.stack([a.lots, a.kinds, a.devices]), nothing, cap=1.0)


class Greedy:
    """All lanes on their way; `l` lanes, `w` devices.

    Args:
        book: The lots.
        starts: One of each lane.
        on_step: Called before each step; may raise to stop.
    """

    def __init__(self, book: LotBook, starts: Sequence[Start], on_step: Callable[[], None]) -> None:
        self._book = book
        self.starts = starts
        self._sum_starts()
        self._num_steps = max(start.units.shape[1] for start in starts)
        shape = len(starts), self._num_steps
        self._lots: IntArray = np.full(shape, NOTHING, dtype=np.int64)
        self._kinds = np.full(shape, NOTHING, dtype=np.int64)
        for lane, start in enumerate(starts):
            self._lots[lane, : start.units.shape[1]] = start.units[0]
            self._kinds[lane, : start.units.shape[1]] = start.units[1]
        self._devices = np.full(shape, NOTHING, dtype=np.int64)
        columns = np.where(self._kinds == NOTHING, 0, book.catalog.num_columns[self._kinds])
        total_dims = self.dims.sum(axis=1) + columns.sum(axis=1)
        self._caps: Float64Array = np.array([start.cap for start in starts])
        self._caps *= total_dims / book.num_devices
        fits = self.used_bytes <= book.evaluator.memory_bytes
        self._alive: BoolArray = np.asarray(fits.all(axis=1))
        for step in range(self._num_steps):
            on_step()
            self._step(step)
        self.cost_ms = self._costs()

    def _sum_starts(self) -> None:
        """Sums of what lies already."""
        catalog, num_devices = self._book.catalog, self._book.num_devices
        shape = len(self.starts), num_devices
        self.encodings: FloatArray = np.zeros((*shape, catalog.encodings.shape[1]), np.float32)
        self.used_bytes: IntArray = np.zeros(shape, dtype=np.int64)
        self.dims: IntArray = np.zeros(shape, dtype=np.int64)
        for lane, start in enumerate(self.starts):
            for spread in start.spreads.values():
                reach = slice(spread.first, spread.first + spread.count)
                self.encodings[lane, reach] += catalog.encodings[spread.kind]
                self.used_bytes[lane, reach] += catalog.memory_bytes[spread.kind]
                self.dims[lane, reach] += catalog.num_columns[spread.kind]
        lots, kinds, devices = np.concatenate([start.kept for start in self.starts], axis=1)
        lanes = np.repeat(
            np.arange(len(self.starts)), [start.kept.shape[1] for start in self.starts]
        )
        np.add.at(self.encodings, (lanes, devices), catalog.encodings[kinds])
        np.add.at(self.used_bytes, (lanes, devices), catalog.memory_bytes[kinds])
        np.add.at(self.dims, (lanes, devices), catalog.num_columns[kinds])
        # one unit of a lot to a device
        self._present: BoolArray = np.zeros(
            (len(self.starts), len(self._book.lots), num_devices), dtype=bool
        )
        self._present[lanes, lots, devices] = True
        flat = self.encodings.reshape(-1, self.encodings.shape[2])
        self.compute_ms = self._book.evaluator.compute_ms(flat).reshape(shape)

    def _step(self, step: int) -> None:
        """Places the next unit of every lane that has one: where computation is cheapest with it.

        The lowest device on ties.
        """
        book, catalog = self._book, self._book.catalog
        shape = len(self.starts), min(_MOST_DEVICES_TRIED, book.num_devices)
        devices = np.full(shape, NOTHING, dtype=np.int64)
        _find_devices(
            step,
            (self._lots, self._kinds, self._caps, self._alive, self._present),
            (self.compute_ms, self.used_bytes, self.dims),
            (book.allowed, book.evaluator.memory_bytes, catalog.memory_bytes, catalog.num_columns),
            devices,
        )
        lanes, tried = np.nonzero(devices != NOTHING)
        if not len(lanes):
            return
        kinds = self._kinds[lanes, step]
        sums = self.encodings[lanes, devices[lanes, tried]] + catalog.encodings[kinds]
        with_unit_ms = np.full(shape, np.inf)
        with_unit_ms[lanes, tried] = book.evaluator.compute_ms(sums)
        best = with_unit_ms.argmin(axis=1)
        lanes = lanes[tried == 0]
        chosen, kinds = devices[lanes, best[lanes]], self._kinds[lanes, step]
        self._devices[lanes, step] = chosen
        self._present[lanes, self._lots[lanes, step], chosen] = True
        self.encodings[lanes, chosen] += catalog.encodings[kinds]
        self.compute_ms[lanes, chosen] = with_unit_ms[lanes, best[lanes]]
        self.used_bytes[lanes, chosen] += catalog.memory_bytes[kinds]
        self.dims[lanes, chosen] += catalog.num_columns[kinds]

    def _costs(self) -> Float64Array:
        """`[l]`, of each lane; infinite where a unit found no room."""
        cost_ms = np.full(len(self.starts), np.inf)
        lanes = np.flatnonzero(self._alive)
        if len(lanes):
            all_reduce_bytes = np.array(
                [
                    sum(s.all_reduce_bytes for s in self.starts[lane].spreads.values())
                    for lane in lanes.tolist()
                ]
            )
            costs = self._book.evaluator.costs(
                self.compute_ms[lanes], self.dims[lanes], all_reduce_bytes
            )
            cost_ms[lanes] = costs.cost_ms
        return cost_ms

    def by_cost(self) -> list[int]:
        """The lanes that placed everything, the cheapest first."""
        order = np.argsort(self.cost_ms, kind="stable")
        return [int(lane) for lane in order if np.isfinite(self.cost_ms[lane])]

    def assignment(self, lane: int) -> Assignment:
        """What a lane has placed."""
        triples = self.placed(lane).T.tolist()
        units = [Unit(*triple) for triple in triples]
        return Assignment(self._book, units, self.starts[lane].spreads)

    def placed(self, lane: int) -> IntArray:
        """`[3, u] int64`: lots, kinds and devices of all units of a lane that placed them all."""
        start = self.starts[lane]
        units = np.concatenate([start.units, self._devices[lane, None, : start.units.shape[1]]])
        return np.concatenate([start.kept, units], axis=1)


@njit(cache=True)
def _find_devices(
    step: int,
    placing: tuple[IntArray, IntArray, Float64Array, BoolArray, BoolArray],
    sums: tuple[Float64Array, IntArray, IntArray],
    limits: tuple[BoolArray, IntArray, IntArray, IntArray],
    found: IntArray,
) -> None:
    """Devices to try for the next unit of each lane, by number; a lane without any has failed.

    They are those with the least computation, of those where the cap is kept, or, if there are
    none, memory alone.

    Args:
        step: Position in each lane's units.
        placing: `_lots`, `_kinds`, `_caps`, `_alive` and `_present` of `Greedy`.
        sums: Its `compute_ms`, `used_bytes` and `dims`.
        limits: `LotBook.allowed`, the devices' memory, and the catalog's memory and columns.
        found: `[l, tried] int64`, filled with NOTHING: takes the devices.
    """
    lots, kinds, caps, alive, present = placing
    compute_ms, used_bytes, dims = sums
    allowed, room_bytes, memory_bytes, columns = limits
    for lane in range(len(lots)):
        kind = kinds[lane, step]
        if not alive[lane] or kind == NOTHING:
            continue
        lot, count = lots[lane, step], 0
        for capped in (True, False):
            for d in range(len(room_bytes)):
                if not allowed[lot, d] or present[lane, lot, d]:
                    continue
                if used_bytes[lane, d] + memory_bytes[kind] > room_bytes[d]:
                    continue
                if capped and dims[lane, d] + columns[kind] > caps[lane]:
                    continue
                # by falling computation the last is given up for a cheaper one
                at = min(count, found.shape[1] - 1)
                if count > at and compute_ms[lane, d] >= compute_ms[lane, found[lane, at]]:
                    continue
                while at > 0 and compute_ms[lane, found[lane, at - 1]] > compute_ms[lane, d]:
                    found[lane, at] = found[lane, at - 1]
                    at -= 1
                found[lane, at] = d
                count = min(count + 1, found.shape[1])
            if count:
                break
        alive[lane] = count > 0
        for at in range(1, count):  # by number
            device = found[lane, at]
            while at > 0 and found[lane, at - 1] > device:
                found[lane, at] = found[lane, at - 1]
                at -= 1
            found[lane, at] = device
