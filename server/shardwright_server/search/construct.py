"""First plans: cut lots placed greedily, several ways in lockstep.

Units go by falling cost alone, each to the device whose computation is cheapest with it, as in
NeuroShard's greedy search; a lane is one set of cuts under one cap on the sum of dims. Unlike
there a cap is a wish: where it leaves no device, memory alone decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.domain import ShardingType
from shardwright_server.search.assignment import Assignment, Unit
from shardwright_server.search.cuts import Cuts
from shardwright_server.search.lots import BoolArray, LotBook, Spread
from shardwright_server.search.pieces import IntArray

NOTHING = -1
_MOST_DEVICES_TRIED = 4
"""Of the devices with the least computation so far; another is hardly ever the cheapest."""


@dataclass(frozen=True)
class Lane:
    """One way to place.

    Attributes:
        cuts: How each lot is cut.
        cap: Wished limit on a device's sum of dims, as a multiple of the mean.
    """

    cuts: Cuts
    cap: float


def construct(
    book: LotBook, lanes: Sequence[Lane], count: int, on_step: Callable[[], None]
) -> list[Assignment]:
    """Places every lane; returns the cheapest that fit into memory, all cut in different ways.

    Args:
        book: The lots.
        lanes: What to place.
        count: Assignments to return, at most.
        on_step: Called before each step; may raise to stop.
    """
    greedy = _Greedy(book, lanes)
    for step in range(greedy.num_steps):
        on_step()
        greedy.step(step)
    found: list[int] = []
    for lane in greedy.by_cost():
        if len(found) < count and all(lanes[lane].cuts is not lanes[i].cuts for i in found):
            found.append(lane)
    return [greedy.assignment(lane) for lane in found]


class _Greedy:
    """All lanes on their way; `l` lanes, `w` devices."""

    def __init__(self, book: LotBook, lanes: Sequence[Lane]) -> None:
        self._book = book
        catalog, num_devices = book.catalog, book.num_devices
        shape = len(lanes), num_devices
        self._encodings = np.zeros((*shape, catalog.encodings.shape[1]), np.float32)
        self._used_bytes = np.zeros(shape, dtype=np.int64)
        self._dims = np.zeros(shape, dtype=np.int64)
        self._spreads = [spread_lots(book, lane.cuts) for lane in lanes]
        for lane, spreads in enumerate(self._spreads):
            for spread in spreads.values():
                reach = slice(spread.first, spread.first + spread.count)
                self._encodings[lane, reach] += catalog.encodings[spread.kind]
                self._used_bytes[lane, reach] += catalog.memory_bytes[spread.kind]
                self._dims[lane, reach] += catalog.num_columns[spread.kind]
        flat = self._encodings.reshape(-1, self._encodings.shape[2])
        self._compute_ms = book.evaluator.compute_ms(flat).reshape(shape)
        orders = [_order(book, lane.cuts) for lane in lanes]
        self.num_steps = max(len(order[0]) for order in orders)
        self._lots = _padded([lots for lots, _ in orders], self.num_steps)
        self._kinds = _padded([kinds for _, kinds in orders], self.num_steps)
        self._caps = np.array(
            [
                lane.cap
                * (self._dims[i].sum() + catalog.num_columns[orders[i][1]].sum())
                / num_devices
                for i, lane in enumerate(lanes)
            ]
        )
        self._devices = np.full_like(self._lots, NOTHING)
        # one unit of a lot to a device
        self._present = np.zeros((len(lanes), len(book.lots), num_devices), dtype=bool)
        fits = self._used_bytes <= book.evaluator.memory_bytes
        self._alive: BoolArray = np.asarray(fits.all(axis=1))

    def step(self, step: int) -> None:
        """Places the next unit of every lane that has one."""
        lanes = np.flatnonzero(self._alive & (self._kinds[:, step] != NOTHING))
        if not len(lanes):
            return
        catalog = self._book.catalog
        lots, kinds = self._lots[lanes, step], self._kinds[lanes, step]
        bytes_after = self._used_bytes[lanes] + catalog.memory_bytes[kinds, None]
        possible: BoolArray = self._book.allowed[lots] & ~self._present[lanes, lots]
        possible &= bytes_after <= self._book.evaluator.memory_bytes
        dims_after = self._dims[lanes] + catalog.num_columns[kinds, None]
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
        compute_ms = np.where(wished, self._compute_ms[lanes], np.inf)
        tried = min(_MOST_DEVICES_TRIED, compute_ms.shape[1])
        devices = np.sort(np.argsort(compute_ms, axis=1, kind="stable")[:, :tried], axis=1)
        rows = np.arange(len(lanes))[:, None]
        encodings = self._encodings[lanes[:, None], devices] + catalog.encodings[kinds, None]
        flat = encodings.reshape(-1, encodings.shape[2])
        with_unit_ms = self._book.evaluator.compute_ms(flat).reshape(devices.shape)
        with_unit_ms[~np.isfinite(compute_ms[rows, devices])] = np.inf
        best = with_unit_ms.argmin(axis=1)
        chosen = devices[rows[:, 0], best]
        self._devices[lanes, step] = chosen
        self._encodings[lanes, chosen] += catalog.encodings[kinds]
        self._compute_ms[lanes, chosen] = with_unit_ms[rows[:, 0], best]
        self._used_bytes[lanes, chosen] += catalog.memory_bytes[kinds]
        self._dims[lanes, chosen] += catalog.num_columns[kinds]

    def by_cost(self) -> list[int]:
        """The lanes that placed everything, the cheapest first."""
        lanes = np.flatnonzero(self._alive)
        if not len(lanes):
            return []
        all_reduce_bytes = np.array(
            [sum(s.all_reduce_bytes for s in self._spreads[lane].values()) for lane in lanes]
        )
        costs = self._book.evaluator.costs(
            self._compute_ms[lanes], self._dims[lanes], all_reduce_bytes
        )
        return [int(lane) for lane in lanes[np.argsort(costs.cost_ms, kind="stable")]]

    def assignment(self, lane: int) -> Assignment:
        """What a lane has placed."""
        placed = self._kinds[lane] != NOTHING
        triples = zip(
            self._lots[lane, placed].tolist(),
            self._kinds[lane, placed].tolist(),
            self._devices[lane, placed].tolist(),
            strict=True,
        )
        units = [Unit(*triple) for triple in triples]
        return Assignment(self._book, units, self._spreads[lane])


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


def _order(book: LotBook, cuts: Cuts) -> tuple[IntArray, IntArray]:
    """Lots and kinds of all units, by falling cost alone."""
    pairs = [(lot, kind) for lot, cut in enumerate(cuts) if not cut.spread for kind in cut.kinds]
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    order = np.argsort(-book.catalog.compute_ms[array[:, 1]], kind="stable")
    return array[order, 0], array[order, 1]


def _padded(rows: list[IntArray], length: int) -> IntArray:
    padded = np.full((len(rows), length), NOTHING, dtype=np.int64)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return padded
