"""Lanes: many assignments of one problem side by side, as arrays that compiled loops work on.

Arrays: `k` lanes, `u` slots of units, `w` devices, `e` channels. `NONE` (-1) stands for no unit:
the tables of `Units` end with an entry of zeros, which is what -1 selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shardwright.domain import COLUMN_MULTIPLE, ShardingType
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.lots import BoolArray, LotBook, Spread
from shardwright_server.search.pieces import Float64Array, IntArray

NONE = -1

_MOST_WIDTHS = 16_000_000
"""Of all lots together that are kept by width, 64 MB; the widest lots beyond are not cut on."""


class Units(NamedTuple):
    """What is known of units by catalog id, with a last entry of zeros for NONE.

    Attributes:
        encodings: `[ids + 1, e] float32`.
        compute_ms: `[ids + 1] float64`, alone on a device.
        memory_bytes: `[ids + 1] int64`.
        columns: `[ids + 1] int64`.
        lot_columns: `[lots] int64`, widths of tables; 0 for a group.
        cut: `[lots] bool`, whether a lot may be cut in columns.
        first_width: `[lots] int64`; the id of a lot's unit of so many steps of 4 columns is at
            `of_width[first_width + steps]`, for any number of them where it may be cut, for those
            of the whole lot only where not.
        of_width: `[widths] int32`, ids; NONE where a width is not allowed, and for 0.
        allowed: `[lots, w] bool`, devices that constraints allow.
        room_bytes: `[w] int64`, what shards may fill on each device.
    """

    encodings: FloatArray
    compute_ms: Float64Array
    memory_bytes: IntArray
    columns: IntArray
    lot_columns: IntArray
    cut: BoolArray
    first_width: IntArray
    of_width: npt.NDArray[np.int32]
    allowed: BoolArray
    room_bytes: IntArray

    @classmethod
    def of(cls, book: LotBook) -> Units:
        """The units that a book knows: of all widths that are allowed, unless too many."""
        flat = chain.from_iterable(book.known_units)  # an array of tuples takes far longer
        keys = np.fromiter(flat, dtype=np.int64, count=2 * len(book.known_units)).reshape(-1, 2)
        ids = np.fromiter(book.known_units.values(), dtype=np.int32, count=len(keys))
        lots, widths = keys[:, 0], keys[:, 1]
        lot_columns = np.array([lot.columns for lot in book.lots], dtype=np.int64)
        least = np.array([lot.min_width for lot in book.lots])
        whole = np.array([lot.whole for lot in book.lots])
        cut = np.array([lot.cut for lot in book.lots])
        steps = lot_columns // COLUMN_MULTIPLE
        cut &= _narrowest(np.where(cut, steps + 1, 1), _MOST_WIDTHS)
        counts = np.where(cut, steps + 1, 1)
        first = np.cumsum(counts) - counts
        first_width = np.where(cut, first, first - steps)
        columns = lot_columns[lots]
        piece = cut[lots] & (widths >= least[lots]) & (widths <= columns - least[lots])
        allowed = np.where(widths == columns, whole[lots] & (columns > 0), piece)
        of_width = np.full(int(counts.sum()), NONE, dtype=np.int32)
        of_width[(first_width[lots] + widths // COLUMN_MULTIPLE)[allowed]] = ids[allowed]
        catalog = book.catalog
        zeros = np.zeros((1, catalog.encodings.shape[1]), np.float32)
        return cls(
            encodings=np.concatenate([catalog.encodings, zeros]),
            compute_ms=np.append(catalog.compute_ms, 0.0),
            memory_bytes=np.append(catalog.memory_bytes, 0),
            columns=np.append(catalog.num_columns, 0),
            lot_columns=lot_columns,
            cut=cut,
            first_width=first_width,
            of_width=of_width,
            allowed=book.allowed,
            room_bytes=book.evaluator.memory_bytes,
        )


def _narrowest(counts: IntArray, most: int) -> BoolArray:
    """The smallest counts that together are at most so many, `[n] -> [n]`."""
    order = np.argsort(counts, kind="stable")
    found: BoolArray = np.zeros(len(counts), dtype=bool)
    found[order[np.cumsum(counts[order]) <= most]] = True
    return found


class Spreads(NamedTuple):
    """All ways to spread lots, numbered lot by lot.

    Attributes:
        start: `[lots + 1] int64`, a lot's ways are those from its entry to before the next.
        kinds: `[ways] int64`, catalog ids of what lies on each device.
        first: `[ways] int64`, the first device.
        devices: `[ways] int64`, how many.
        all_reduce_bytes: `[ways] int64`, dense gradient; 0 unless data-parallel.
    """

    start: IntArray
    kinds: IntArray
    first: IntArray
    devices: IntArray
    all_reduce_bytes: IntArray

    @classmethod
    def of(cls, book: LotBook) -> Spreads:
        """Those that a book allows, on each host that may be had."""
        book.meet_spreads(
            (lot, kind) for lot, facts in enumerate(book.lots) for kind in facts.spreads
        )
        fields: list[tuple[int, int, int, int]] = []
        start = [0]
        for lot, facts in enumerate(book.lots):
            for kind in facts.spreads:
                way = book.spread(lot, kind)
                hosts = facts.hosts if kind is ShardingType.TABLE_ROW_WISE else (0,)
                fields += [
                    (way.kind, host * way.devices, way.devices, way.all_reduce_bytes)
                    for host in hosts
                ]
            start.append(len(fields))
        columns = np.array(fields, dtype=np.int64).reshape(-1, 4).T
        return cls(np.array(start, dtype=np.int64), *np.ascontiguousarray(columns))

    def way(self, lot: int, spread: Spread) -> int:
        """The number of a way to spread a lot."""
        ways = slice(self.start[lot], self.start[lot + 1])
        found = (self.kinds[ways] == spread.kind) & (self.first[ways] == spread.first)
        if not found.any():
            raise ValueError(f"lot {lot} cannot be spread as {spread}")
        return int(self.start[lot] + found.argmax())

    def spread(self, way: int) -> Spread:
        """A way by its number."""
        return Spread(*(int(field[way]) for field in self[1:]))


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

    @classmethod
    def of(cls, lanes: Lanes) -> Slots:
        """What lies where in lanes; shares their arrays."""
        return cls(lanes.lots, lanes.kinds, lanes.devices, lanes.spreads)

    def chosen(self, rows: Sequence[int] | IntArray) -> Slots:
        """Some of them, copied."""
        return Slots(*(field.take(rows, axis=0) for field in self))

    @classmethod
    def joined(cls, parts: Sequence[Slots]) -> Slots:
        """All of some, of one problem."""
        first = parts[0]
        widest = max(part.lots.shape[1] for part in parts)
        found = cls.empty(sum(len(part.lots) for part in parts), widest, first.spreads.shape[1])
        start = 0
        for part in parts:
            rows = slice(start, start + len(part.lots))
            for ours, theirs in zip(found, part, strict=True):
                ours[rows, : theirs.shape[1]] = theirs
            start = rows.stop
        return found


class Lanes(NamedTuple):
    """Assignments on their way, one a lane; compiled loops change them in place.

    Attributes:
        lots: `[k, u] int64`.
        kinds: `[k, u] int64`, catalog ids.
        devices: `[k, u] int64`; a free slot has NONE.
        spreads: `[k, lots] int64`, how a lot is spread; NONE where it has units.
        base: `[k, w, e] float32`, sums over what is spread.
        compute_ms: `[k, w] float64`.
        used_bytes: `[k, w] int64`.
        dims: `[k, w] int64`.
        closed: `[k, lots, w] bool`, where a lot may get no unit: not allowed, or one is there.
        prices: `[ids + 1, w] float32`, what a unit adds to the computation of a device, ms, in any
            lane (`slopes`); zeros until they are taken.
        transfers_ms: `[k, POINTS] float32`, see `TransferCurves`.
        mean_dims: `[k] float64`, where those begin.
        all_reduce_ms: `[k] float64`, of data-parallel lots.
    """

    lots: IntArray
    kinds: IntArray
    devices: IntArray
    spreads: IntArray
    base: FloatArray
    compute_ms: Float64Array
    used_bytes: IntArray
    dims: IntArray
    closed: BoolArray
    prices: FloatArray
    transfers_ms: FloatArray
    mean_dims: Float64Array
    all_reduce_ms: Float64Array


SOURCE, TARGET, UNIT, OTHER, STAYS, GOES, COMES = range(7)


class Moves(NamedTuple):
    """Moves of lanes, `m` of each of `a` lanes, and what they promise.

    A unit u leaves its device, the source, as a whole or in part; at the target it may meet a unit
    v: of another lot, which comes back (a swap), or of the same, with which it grows together.

    Attributes:
        merit_ms: `[a, m] float64`, what the objective grows by; infinite: no move.
        fields: `[a, m, 7] int64`: source and target device, slots of u and v (or NONE), and ids of
            what the source keeps of u (or NONE), of what the target gets of u's lot (together with
            v where they grow together) and of what the source gets of v (or NONE).
    """

    merit_ms: Float64Array
    fields: IntArray

    @classmethod
    def empty(cls, lanes: int, count: int) -> Moves:
        """Room for so many moves of each lane."""
        return cls(np.empty((lanes, count)), np.empty((lanes, count, 7), dtype=np.int64))
