"""From assignments to lanes and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.assignment import Assignment, Unit
from shardwright_server.search.greedy import Greedy
from shardwright_server.search.kernels import device_sums, sum_up
from shardwright_server.search.lanes import NONE, Lanes, Spreads, Units
from shardwright_server.search.lots import LotBook
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.transfer_curves import TransferCurves

SPARE_SLOTS = 32
"""Of a lane, for units that lots are cut into on the way."""


class Slots(NamedTuple):
    """What lies where, in `k` assignments: what lanes are made of.

    Attributes:
        lots: `[k, u] int64`.
        kinds: `[k, u] int64`, catalog ids.
        devices: `[k, u] int64`; a free slot has NONE.
        spreads: `[k, lots] int64`, as in `Lanes`.
    """

    lots: IntArray
    kinds: IntArray
    devices: IntArray
    spreads: IntArray

    @classmethod
    def empty(cls, count: int, slots: int, lots: int) -> Slots:
        """With all slots free and nothing spread."""
        shape = count, slots
        return cls(
            np.zeros(shape, dtype=np.int64),
            np.zeros(shape, dtype=np.int64),
            np.full(shape, NONE, dtype=np.int64),
            np.full((count, lots), NONE, dtype=np.int64),
        )

    def chosen(self, rows: Sequence[int] | IntArray) -> Slots:
        """Some of them, copied."""
        return Slots(*(field[rows] for field in self))


class LaneBook:
    """What all lanes of a problem have in common.

    Args:
        book: The lots.

    Attributes:
        book: The lots.
        units: Their units.
        spreads: Ways to spread them.
    """

    def __init__(self, book: LotBook) -> None:
        self.book = book
        self.spreads = Spreads.of(book)
        self.units = Units.of(book)
        self._curves: dict[bytes, FloatArray] = {}

    def placed(self, greedy: Greedy, chosen: Sequence[int]) -> Slots:
        """What lies where in placed lanes."""
        placed = [greedy.placed(lane) for lane in chosen]
        most = max(some.shape[1] for some in placed)
        found = Slots.empty(len(chosen), most + SPARE_SLOTS, len(self.book.lots))
        for k, (lane, some) in enumerate(zip(chosen, placed, strict=True)):
            for field, values in zip(found, some, strict=False):
                field[k, : some.shape[1]] = values
            for lot, spread in greedy.starts[lane].spreads.items():
                found.spreads[k, lot] = self.spreads.way(lot, spread)
        return found

    def lanes(self, slots: Slots) -> Lanes:
        """Lanes that begin there; every one must fit into memory."""
        book = self.book
        k, w, e = len(slots.lots), book.num_devices, book.catalog.encodings.shape[1]
        dims = np.zeros((k, w), dtype=np.int64)
        lanes = Lanes(
            *slots,
            base=np.zeros((k, w, e), dtype=np.float32),
            compute_ms=np.zeros((k, w)),
            used_bytes=np.zeros((k, w), dtype=np.int64),
            dims=dims,
            closed=np.repeat(~book.allowed[None], k, axis=0),
            prices=np.zeros((k, len(self.units.encodings), w), dtype=np.float32),
            transfers_ms=np.zeros((1, 1), dtype=np.float32),
            curve=np.zeros(k, dtype=np.int64),
            all_reduce_ms=self._all_reduce_ms(slots.spreads),
        )
        sum_up(self.units, self.spreads, lanes)
        lanes.compute_ms[:] = self.compute_ms(self.sums(lanes, np.arange(k)))
        curves = TransferCurves.of(book.evaluator, dims, self._curves)
        return lanes._replace(transfers_ms=curves.tables, curve=curves.curve)

    def some(self, lanes: Lanes, rows: IntArray) -> Lanes:
        """Some of the lanes, copied, without prices."""
        fields = {name: getattr(lanes, name) for name in lanes._fields}
        shared = {name: fields.pop(name) for name in ("transfers_ms", "prices")}
        return Lanes(
            **{name: field[rows] for name, field in fields.items()},
            transfers_ms=shared["transfers_ms"],
            prices=np.zeros((len(rows), *shared["prices"].shape[1:]), dtype=np.float32),
        )

    def sums(self, lanes: Lanes, chosen: IntArray) -> FloatArray:
        """What the devices of some lanes hold, `[a, w, e]`."""
        sums = np.zeros((len(chosen), *lanes.base.shape[1:]), dtype=np.float32)
        device_sums(self.units, lanes, chosen, sums)
        return sums

    def compute_ms(self, sums: FloatArray) -> Float64Array:
        """Predicts computation, `[..., e] -> [...]`."""
        flat = self.book.evaluator.compute_ms(sums.reshape(-1, sums.shape[-1]))
        return flat.reshape(sums.shape[:-1])

    def assignment(self, slots: Slots, lane: int) -> Assignment:
        """One of the assignments."""
        triples = np.stack([slots.lots[lane], slots.kinds[lane], slots.devices[lane]], axis=1)
        ways = slots.spreads[lane]
        return Assignment(
            self.book,
            [Unit(*triple) for triple in triples[triples[:, 2] != NONE].tolist()],
            {lot: self.spreads.spread(way) for lot, way in enumerate(ways.tolist()) if way != NONE},
        )

    def _all_reduce_ms(self, spreads: IntArray) -> Float64Array:
        """`[k, lots] -> [k]`."""
        ways = np.append(self.spreads.all_reduce_bytes, 0)  # NONE is the last
        return self.book.evaluator.all_reduce_ms(ways[spreads].sum(axis=1))
