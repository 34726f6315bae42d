"""Moves of many assignments at once: those that relieve the slowest device of each lane.

    move    a unit u of that device, or a part of it, goes to another device, the target
    swap    u, or a part of it, and a unit v of the target change places
    shift   columns of u, or all, go to a unit v of the same lot on the target

Arrays: `k` lanes, `u` slots of units, `w` devices, `p` units of the slowest device and parts of
them. Costs are promised in float32 from slopes of computation; what is chosen is predicted
exactly (`swarm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from shardwright.domain import COLUMN_MULTIPLE
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.lots import BoolArray, LotBook
from shardwright_server.search.moves import LEVELLING
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.transfer_curves import TransferCurves

_T = TypeVar("_T", bound=np.generic)

NONE = -1
_NO_UNIT = np.full((1, 1, 1), NONE)
_QUARTERS = np.array([1, 2, 3])
_MOST_UNITS = 16
"""Units of the slowest device that are looked at; bounds the work of a step."""


class UnitTable:
    """What is known of units by catalog id, with a last entry of zeros for NONE.

    Attributes:
        encodings: `[ids + 1, e] float32`.
        compute_ms: `[ids + 1] float64`.
        memory_bytes: `[ids + 1] int64`.
        columns: `[ids + 1] int64`.
        cut: `[lots] bool`, whether a lot may be cut in columns.
        of_width: `[lots, widths + 1] int64`, the id of a unit by its width in steps of 4 columns;
            NONE where it is not allowed, and for 0.
    """

    def __init__(self, book: LotBook) -> None:
        wanted = [
            (i, width)
            for i, lot in enumerate(book.lots)
            if lot.cut
            for width in range(lot.min_width, lot.columns - lot.min_width + 1, COLUMN_MULTIPLE)
        ]
        ids = book.units(wanted)
        self.cut: BoolArray = np.array([lot.cut for lot in book.lots])
        widest = max(lot.columns for lot in book.lots) // COLUMN_MULTIPLE
        self.of_width: IntArray = np.full((len(book.lots), widest + 1), NONE, dtype=np.int64)
        for (i, width), unit in zip(wanted, ids, strict=True):
            self.of_width[i, width // COLUMN_MULTIPLE] = unit
        for i, lot in enumerate(book.lots):
            if lot.whole and lot.columns:
                self.of_width[i, lot.columns // COLUMN_MULTIPLE] = book.wholes[i]
        catalog = book.catalog
        zeros = np.zeros((1, catalog.encodings.shape[1]), np.float32)
        self.encodings: FloatArray = np.concatenate([catalog.encodings, zeros])
        self.compute_ms: Float64Array = np.append(catalog.compute_ms, 0.0)
        self.memory_bytes: IntArray = np.append(catalog.memory_bytes, 0)
        self.columns: IntArray = np.append(catalog.num_columns, 0)


@dataclass(frozen=True)
class _Grid:
    """Moves of all lanes: costs `[k, a, b]`, and each field of a move over the same axes.

    Attributes:
        cost_ms: What the moves promise; infinite where impossible.
        fields: target, unit, other, stays, goes, comes; each broadcasts to the costs.
    """

    cost_ms: npt.NDArray[np.float32]
    fields: tuple[IntArray, ...]


@dataclass(frozen=True)
class Moves:
    """The best moves of all lanes, `[k, m]` each; ids of `UnitTable`.

    Attributes:
        cost_ms: What they promise; infinite where impossible.
        target: Device.
        unit: Slot of u.
        other: Slot of v, or NONE.
        stays: What the source keeps of u, or NONE.
        goes: What the target gets of u's lot; together with v in a shift.
        comes: What the source gets of v, or NONE.
    """

    cost_ms: npt.NDArray[np.float32]
    target: IntArray
    unit: IntArray
    other: IntArray
    stays: IntArray
    goes: IntArray
    comes: IntArray

    @classmethod
    def best(cls, grids: Sequence[_Grid], count: int) -> Moves:
        """So many of the best of each lane."""
        lanes = len(grids[0].cost_ms)
        costs = [grid.cost_ms.reshape(lanes, -1) for grid in grids]
        cost_ms = np.concatenate(costs, axis=1)
        count = min(count, cost_ms.shape[1])
        at = np.argpartition(cost_ms, count - 1, axis=1)[:, :count]
        fields = np.zeros((6, *at.shape), dtype=np.int64)
        start = 0
        for grid, cost in zip(grids, costs, strict=True):
            lane, place = np.nonzero((at >= start) & (at < start + cost.shape[1]))
            if len(lane):
                row, column = np.divmod(at[lane, place] - start, grid.cost_ms.shape[2])
                for field, values in zip(fields, grid.fields, strict=True):
                    _, rows, columns = values.shape
                    field[lane, place] = values[
                        lane if len(values) > 1 else 0,
                        row if rows > 1 else 0,
                        column if columns > 1 else 0,
                    ]
            start += cost.shape[1]
        return cls(np.take_along_axis(cost_ms, at, axis=1), *fields)

    def of(self, lane: int, at: int) -> tuple[int, int, int, int, int, int]:
        """Target, unit, other, stays, goes and comes of one move."""
        return (
            int(self.target[lane, at]),
            int(self.unit[lane, at]),
            int(self.other[lane, at]),
            int(self.stays[lane, at]),
            int(self.goes[lane, at]),
            int(self.comes[lane, at]),
        )


@dataclass(frozen=True)
class Lanes:
    """Assignments on their way, one a lane.

    Attributes:
        units: `[3, k, u] int64`: lots, ids and devices of units; a free slot has device NONE.
        encodings: `[k, w, e] float32`, sums over devices.
        compute_ms: `[k, w] float64`.
        used_bytes: `[k, w] int64`.
        dims: `[k, w] int64`.
        closed: `[k, lots, w] bool`, where a lot may get no unit: not allowed, or one is there.
        slopes: `[k, w, e] float32`, of computation.
        curves: Transfers.
    """

    units: IntArray
    encodings: FloatArray
    compute_ms: Float64Array
    used_bytes: IntArray
    dims: IntArray
    closed: BoolArray
    slopes: FloatArray
    curves: TransferCurves

    def __len__(self) -> int:
        return len(self.dims)

    def __getitem__(self, chosen: BoolArray) -> Lanes:
        return Lanes(
            self.units[:, chosen],
            self.encodings[chosen],
            self.compute_ms[chosen],
            self.used_bytes[chosen],
            self.dims[chosen],
            self.closed[chosen],
            self.slopes[chosen],
            self.curves[chosen],
        )

    def rest_ms(self, source: IntArray) -> Float64Array:
        """`[k, w]`, the slowest of all devices but the source and this one."""
        k = np.arange(len(self))
        rest = self.compute_ms.copy()
        rest[k, source] = -np.inf
        first = rest.argmax(axis=1)
        found = np.repeat(rest[k, first][:, None], rest.shape[1], axis=1)
        rest[k, first] = -np.inf
        found[k, first] = rest.max(axis=1)
        return np.asarray(found)


class Relief:
    """The moves that relieve one device of each lane.

    Args:
        table: Of the units.
        lanes: The lanes.
        source: `[k] int64`, the device.
        memory_bytes: `[w] int64`, of devices.
    """

    def __init__(
        self, table: UnitTable, lanes: Lanes, source: IntArray, memory_bytes: IntArray
    ) -> None:
        self._t, self._lanes, self._source = table, lanes, source
        self._k = np.arange(len(lanes))
        self._now_ms: FloatArray = lanes.compute_ms.astype(np.float32)
        self._rest_ms: FloatArray = lanes.rest_ms(source).astype(np.float32)
        self._free: IntArray = memory_bytes - lanes.used_bytes
        self._slopes_here = lanes.slopes[self._k, source]
        self._here = lanes.units[2] == source[:, None]
        self._set_parts()

    def best(self, count: int) -> Moves:
        """So many of each lane."""
        return Moves.best([self._moves(), self._swaps(), *self._shifts()], count)

    def _set_parts(self) -> None:
        """Units of the source and parts of them, `[k, p]`."""
        t, k = self._t, self._k[:, None]
        lots, kinds, _ = self._lanes.units
        count = max(1, min(_MOST_UNITS, int(self._here.sum(axis=1).max())))
        self._mine: IntArray = np.argsort(~self._here, axis=1, kind="stable")[:, :count]
        my_lots, my_kinds = lots[k, self._mine], kinds[k, self._mine]
        width = np.where(t.cut[my_lots], t.columns[my_kinds] // COLUMN_MULTIPLE, 0)
        part = width[:, :, None] * _QUARTERS // 4
        whole = np.full((*my_kinds.shape, 1), NONE)
        goes = t.of_width[my_lots[:, :, None], part]
        stays = t.of_width[my_lots[:, :, None], width[:, :, None] - part]
        possible = self._here[k, self._mine][:, :, None] & np.concatenate(
            [whole == NONE, (goes != NONE) & (stays != NONE)], axis=2
        )
        shape = len(k), -1
        self._goes: IntArray = np.concatenate([my_kinds[:, :, None], goes], axis=2).reshape(shape)
        self._stays: IntArray = np.concatenate([whole, stays], axis=2).reshape(shape)
        self._possible: BoolArray = possible.reshape(shape)
        self._unit = np.repeat(self._mine, 1 + len(_QUARTERS), axis=1)
        self._kind = kinds[k, self._unit]
        self._opened: BoolArray = ~self._lanes.closed[k, lots[k, self._unit]]
        leaving = t.encodings[self._kind] - t.encodings[self._stays]
        leaves_ms = np.matmul(leaving, self._slopes_here[:, :, None])[:, :, 0]
        self._source_ms: FloatArray = self._now_ms[self._k, self._source][:, None] - leaves_ms
        added_ms = np.matmul(t.encodings[self._goes], self._lanes.slopes.transpose(0, 2, 1))
        target_ms = self._now_ms[:, None, :] + added_ms
        empty = self._now_ms == 0.0
        if empty.any():
            alone_ms = t.compute_ms[self._goes].astype(np.float32)[:, :, None]
            target_ms = np.where(empty[:, None, :], alone_ms, target_ms)
        self._target_ms: FloatArray = target_ms

    def _moves(self) -> _Grid:
        """To any device, `[k, p, w]`."""
        t, dims = self._t, self._lanes.dims
        goes_bytes, columns = t.memory_bytes[self._goes], t.columns[self._goes]
        possible = self._possible[:, :, None] & self._opened
        possible &= goes_bytes[:, :, None] <= self._free[:, None, :]
        dims_left = dims[self._k, self._source][:, None] - columns
        largest = np.maximum(dims_left[:, :, None], dims[:, None, :] + columns[:, :, None])
        fields = (
            np.arange(dims.shape[1])[None, None],
            self._unit[:, :, None],
            _NO_UNIT,
            self._stays[:, :, None],
            self._goes[:, :, None],
            _NO_UNIT,
        )
        return self._judged(
            possible,
            self._source_ms[:, :, None],
            self._target_ms,
            self._rest_ms[:, None, :],
            largest,
            fields,
        )

    def _swaps(self) -> _Grid:
        """Against units of other devices, `[k, p, u]`."""
        t, k, dims = self._t, self._k[:, None], self._lanes.dims
        lots, kinds, devices = self._lanes.units
        target = np.maximum(devices, 0)
        theirs = t.encodings[kinds]
        comes_ms = np.matmul(theirs, self._slopes_here[:, :, None])[:, :, 0]
        leaves_ms = np.einsum("kue,kue->ku", theirs, self._lanes.slopes[k, target])
        shape = *self._goes.shape, target.shape[1]
        targets = np.broadcast_to(target[:, None, :], shape)
        target_ms = np.take_along_axis(self._target_ms, targets, axis=2) - leaves_ms[:, None, :]
        memory, columns = t.memory_bytes, t.columns
        possible = self._possible[:, :, None] & ((devices >= 0) & ~self._here)[:, None, :]
        room = self._free[k, target] + memory[kinds]
        possible &= memory[self._goes][:, :, None] <= room[:, None, :]
        room = self._free[self._k, self._source][:, None] + memory[self._kind] - memory[self._stays]
        possible &= memory[kinds][:, None, :] <= room[:, :, None]
        possible &= np.take_along_axis(self._opened, targets, axis=2)
        possible &= ~self._lanes.closed[k, lots, self._source[:, None]][:, None, :]
        moved = columns[self._goes][:, :, None] - columns[kinds][:, None, :]
        largest = np.maximum(
            dims[self._k, self._source][:, None, None] - moved,
            dims[k, target][:, None, :] + moved,
        )
        fields = (
            target[:, None, :],
            self._unit[:, :, None],
            np.arange(devices.shape[1])[None, None],
            self._stays[:, :, None],
            self._goes[:, :, None],
            kinds[:, None, :],
        )
        source_ms = self._source_ms[:, :, None] + comes_ms[:, None, :]
        rest_ms = self._rest_ms[k, target][:, None, :]
        return self._judged(possible, source_ms, target_ms, rest_ms, largest, fields)

    def _judged(
        self,
        possible: BoolArray,
        source_ms: FloatArray,
        target_ms: FloatArray,
        rest_ms: FloatArray,
        largest: IntArray,
        fields: tuple[IntArray, ...],
    ) -> _Grid:
        pair_ms = np.maximum(source_ms, target_ms)
        cost_ms = np.maximum(pair_ms, rest_ms)
        cost_ms += np.float32(LEVELLING) * pair_ms
        cost_ms += self._lanes.curves.ms(largest)
        cost_ms[~possible] = np.inf
        return _Grid(cost_ms, fields)

    def _shifts(self) -> list[_Grid]:
        """To a unit of the same lot: 4 columns, half, or all, `[k, most pairs, 3]`."""
        t, lanes, k = self._t, self._lanes, self._k[:, None]
        lots, kinds, devices = lanes.units
        same = lots[k, self._mine][:, :, None] == lots[:, None, :]
        same &= self._here[k, self._mine][:, :, None]
        same &= ((devices >= 0) & ~self._here)[:, None, :]
        lane, row, other = np.nonzero(same)
        if not len(lane):
            return []
        unit = self._mine[lane, row]
        lot, kind, met = lots[lane, unit], kinds[lane, unit], kinds[lane, other]
        width, theirs = t.columns[kind] // COLUMN_MULTIPLE, t.columns[met] // COLUMN_MULTIPLE
        shifted = np.stack([np.ones_like(width), width // 2, width], axis=1)
        goes = t.of_width[lot[:, None], theirs[:, None] + shifted]
        stays = t.of_width[lot[:, None], width[:, None] - shifted]
        target, here = devices[lane, other], self._source[lane]
        more_bytes = t.memory_bytes[goes] - t.memory_bytes[met][:, None]
        possible = (
            (goes != NONE) & (shifted > 0) & (more_bytes <= self._free[lane, target][:, None])
        )
        possible &= (stays != NONE) | (shifted == width[:, None])
        leaves = t.encodings[kind][:, None] - t.encodings[stays]
        comes = t.encodings[goes] - t.encodings[met][:, None]
        leaves_ms = np.einsum("pse,pe->ps", leaves, self._slopes_here[lane])
        comes_ms = np.einsum("pse,pe->ps", comes, lanes.slopes[lane, target])
        # ragged by lane: laid out as many to a lane as the lane with most has
        column = np.arange(len(lane)) - np.searchsorted(lane, self._k)[lane]
        shape = len(lanes), int(column.max()) + 1, shifted.shape[1]

        def laid_out(values: npt.NDArray[_T]) -> npt.NDArray[_T]:
            out = np.zeros(shape, dtype=values.dtype)
            out[lane, column] = values
            return out

        dims, columns = lanes.dims, COLUMN_MULTIPLE * shifted
        largest = np.maximum(
            dims[lane, here][:, None] - columns, dims[lane, target][:, None] + columns
        )
        fields = target[:, None], unit[:, None], other[:, None], stays, goes
        grid = self._judged(
            laid_out(possible),
            laid_out(self._now_ms[lane, here][:, None] - leaves_ms),
            laid_out(self._now_ms[lane, target][:, None] + comes_ms),
            laid_out(self._rest_ms[lane, target][:, None]),
            laid_out(largest),
            (*map(laid_out, fields), _NO_UNIT),
        )
        return [grid]
