"""From assignments to lanes and back."""

from __future__ import annotations

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.lanes import NONE, Lanes, Slots, Spreads, Units
from shardwright_server.search.lots import LotBook, Spread
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.sums import device_sums, sum_up
from shardwright_server.search.transfer_curves import POINTS, TransferCurves

SPARE_SLOTS = 32
"""Of a lane, for units that lots are cut into on the way."""


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
        self._ways: dict[tuple[int, int, int], int] = {}
        self._curves = TransferCurves(book.evaluator)
        self._no_prices = np.zeros((len(self.units.encodings), book.num_devices), dtype=np.float32)

    def slots(self, assignment: Assignment) -> Slots:
        """What lies where in an assignment."""
        count = len(assignment.lots)
        found = Slots.empty(1, count + SPARE_SLOTS, len(self.book.lots))
        found.lots[0, :count], found.kinds[0, :count] = assignment.lots, assignment.kinds
        found.devices[0, :count] = assignment.devices
        for lot, spread in assignment.spreads.items():
            found.spreads[0, lot] = self.way(lot, spread)
        return found

    def way(self, lot: int, spread: Spread) -> int:
        """The number of a way to spread a lot; looked up once."""
        key = lot, spread.kind, spread.first
        if key not in self._ways:
            self._ways[key] = self.spreads.way(lot, spread)
        return self._ways[key]

    def lanes(self, slots: Slots) -> Lanes:
        """Lanes that begin there; every one must fit into memory."""
        book = self.book
        k, w, e = len(slots.lots), book.num_devices, book.catalog.encodings.shape[1]
        dims, compute_ms = np.zeros((k, w), dtype=np.int64), np.empty((k, w))
        sums = np.empty((k, w, e), dtype=np.float32)
        transfers_ms, mean_dims = np.empty((k, POINTS), dtype=np.float32), np.empty(k)
        all_reduce_ms, all_reduce_bytes = np.zeros(k), np.zeros(k, dtype=np.int64)
        lanes = Lanes(
            *slots.chosen(np.arange(k)),
            base=np.zeros((k, w, e), dtype=np.float32),
            compute_ms=compute_ms,
            used_bytes=np.zeros((k, w), dtype=np.int64),
            dims=dims,
            closed=np.empty((k, len(book.lots), w), dtype=np.bool_),
            prices=self._no_prices,
            transfers_ms=transfers_ms,
            mean_dims=mean_dims,
            all_reduce_ms=all_reduce_ms,
        )
        sum_up(self.units, self.spreads, lanes, sums, all_reduce_bytes)
        compute_ms[:] = self.compute_ms(sums)
        transfers_ms[:], mean_dims[:] = self._curves.of(dims)
        if all_reduce_bytes.any():
            all_reduce_ms[:] = book.evaluator.all_reduce_ms(all_reduce_bytes)
        return lanes

    def some(self, lanes: Lanes, rows: IntArray) -> Lanes:
        """Some of the lanes, copied."""
        fields = lanes._asdict()
        del fields["prices"]  # of all lanes
        return Lanes(
            **{name: field.take(rows, axis=0) for name, field in fields.items()},
            prices=lanes.prices,
        )

    def sums(self, lanes: Lanes) -> FloatArray:
        """What the devices of lanes hold, `[k, w, e]`."""
        sums = np.empty(lanes.base.shape, dtype=np.float32)
        device_sums(self.units, lanes, sums)
        return sums

    def compute_ms(self, sums: FloatArray) -> Float64Array:
        """Predicts computation, `[..., e] -> [...]`."""
        flat = self.book.evaluator.compute_ms(sums.reshape(-1, sums.shape[-1]))
        return flat.reshape(sums.shape[:-1])

    def exact_ms(self, slots: Slots) -> Float64Array:
        """What assignments cost, with the transfers of all devices, `[k]`."""
        lanes = self.lanes(slots)
        ways = np.append(self.spreads.all_reduce_bytes, 0)  # NONE is the last
        all_reduce_bytes = ways[slots.spreads].sum(axis=1)
        return self.book.evaluator.costs(lanes.compute_ms, lanes.dims, all_reduce_bytes).cost_ms

    def assignment(self, slots: Slots | Lanes, row: int) -> Assignment:
        """One of the assignments."""
        held = slots.devices[row] != NONE
        spreads = enumerate(slots.spreads[row].tolist())
        return Assignment(
            self.book,
            slots.lots[row][held],
            slots.kinds[row][held],
            slots.devices[row][held],
            {lot: self.spreads.spread(way) for lot, way in spreads if way != NONE},
        )
