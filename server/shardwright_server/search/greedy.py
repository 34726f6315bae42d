"""Greedy placement of units, many lanes in lockstep.

Units go in the order given, each to the device whose computation is cheapest with it, as in
NeuroShard's greedy search. Unlike there a cap is a wish: where it leaves no device, memory alone
decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

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
        """Places the next unit of every lane that has one."""
        lanes = np.flatnonzero(self._alive & (self._kinds[:, step] != NOTHING))
        if not len(lanes):
            return
        catalog = self._book.catalog
        lots, kinds = self._lots[lanes, step], self._kinds[lanes, step]
        bytes_after = self.used_bytes[lanes] + catalog.memory_bytes[kinds, None]
        possible: BoolArray = self._book.allowed[lots] & ~self._present[lanes, lots]
        possible &= bytes_after <= self._book.evaluator.memory_bytes
        dims_after = self.dims[lanes] + catalog.num_columns[kinds, None]
        wished: BoolArray = possible & (dims_after <= self._caps[lanes, None])
        some = np.asarray(wished.any(axis=1))
        wished = np.where(some[:, None], wished, possible)
        alive = np.asarray(wished.any(axis=1))
        self._alive[lanes] = alive
        self._put(lanes[alive], kinds[alive], wished[alive], step)
        self._present[lanes[alive], lots[alive], self._devices[lanes[alive], step]] = True

    def _put(self, lanes: IntArray, kinds: IntArray, wished: BoolArray, step: int) -> None:
        """Puts each unit where computation is cheapest with it, the lowest device on ties."""
        if not len(lanes):
            return
        catalog = self._book.catalog
        compute_ms = np.where(wished, self.compute_ms[lanes], np.inf)
        tried = min(_MOST_DEVICES_TRIED, compute_ms.shape[1])
        devices = np.sort(np.argsort(compute_ms, axis=1, kind="stable")[:, :tried], axis=1)
        rows = np.arange(len(lanes))[:, None]
        encodings = self.encodings[lanes[:, None], devices] + catalog.encodings[kinds, None]
        flat = encodings.reshape(-1, encodings.shape[2])
        with_unit_ms = self._book.evaluator.compute_ms(flat).reshape(devices.shape)
        with_unit_ms[~np.isfinite(compute_ms[rows, devices])] = np.inf
        best = with_unit_ms.argmin(axis=1)
        chosen = devices[rows[:, 0], best]
        self._devices[lanes, step] = chosen
        self.encodings[lanes, chosen] += catalog.encodings[kinds]
        self.compute_ms[lanes, chosen] = with_unit_ms[rows[:, 0], best]
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
