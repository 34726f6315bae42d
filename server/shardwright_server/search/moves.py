"""Moves: small changes of an assignment that relieve one device.

Every move takes unit `u` from the relieved device, the source, and changes one other, the target:

    move    u, or a part of it, goes to the target
    swap    u and a unit v of the target change places
    shift   columns of u, or all, go to a unit v of the same lot on the target

All moves from a device are judged at once by a linear model of computation around the present sums
(`Slopes`) and by the largest sum of dims (`TransferCurve`); the best are then predicted exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.pieces import Float64Array, IntArray, PieceCatalog

Decoder = Callable[[IntArray], tuple[IntArray, ...]]
"""From positions in a list of costs to target, unit, other, stays and goes of `Moves`."""

NONE = -1
LEVELLING = 0.05
"""Weight of the two changed devices' own cost beside the plan's: levels devices that do not decide
yet, and chooses among moves after which another device decides."""
_STEP = 0.1
_MOST_UNITS = 64
_MOST_OTHERS = 4096
"""Units of the source, and of other devices, that are looked at: bound the work of a step."""
_CURVE_POINTS = 48
_CURVE_END = 3.0


@dataclass(frozen=True)
class Moves:
    """Moves from one device, `m` of them.

    Attributes:
        source: The device.
        target: `[m] int64`, the other device.
        unit: `[m] int64`, position of u in the assignment.
        other: `[m] int64`, position of v, or NONE.
        stays: `[m] int64`, catalog id of what the source gets in place of u, or NONE.
        goes: `[m] int64`, catalog id of what the target gets (in place of v, where there is one).
    """

    source: int
    target: IntArray
    unit: IntArray
    other: IntArray
    stays: IntArray
    goes: IntArray

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, chosen: IntArray) -> Moves:
        return Moves(
            self.source,
            self.target[chosen],
            self.unit[chosen],
            self.other[chosen],
            self.stays[chosen],
            self.goes[chosen],
        )


class Slopes:
    """How computation of each device changes with its encoding, `[w, e]`, by differences."""

    def __init__(self, assignment: Assignment) -> None:
        self._evaluator = assignment.book.evaluator
        self._scale = assignment.encodings.mean(axis=0)
        self.per_channel: Float64Array = np.zeros(assignment.encodings.shape, dtype=np.float64)
        self.update(assignment, np.arange(len(assignment.encodings)))

    def of(self, assignment: Assignment, earlier: Assignment) -> Slopes:
        """The slopes of another assignment, taken anew where it differs from `earlier`."""
        other = object.__new__(Slopes)
        other.__dict__.update(self.__dict__)
        other.per_channel = self.per_channel.copy()
        changed = (assignment.encodings != earlier.encodings).any(axis=1)
        other.update(assignment, np.flatnonzero(changed))
        return other

    def update(self, assignment: Assignment, devices: IntArray) -> None:
        """Takes the slopes of some devices anew."""
        encodings = assignment.encodings[devices]
        channels = encodings.shape[1]
        steps = _STEP * np.maximum(encodings, self._scale) + np.float32(1e-6)
        rows = np.repeat(encodings[:, None, :], channels, axis=1)
        diagonal = np.arange(channels)
        rows[:, diagonal, diagonal] += steps
        there_ms = self._evaluator.compute_ms(rows.reshape(-1, channels)).reshape(-1, channels)
        self.per_channel[devices] = (there_ms - assignment.compute_ms[devices, None]) / steps


class TransferCurve:
    """Transfers by the largest sum of dims, while the mean and the hosts' means stay."""

    def __init__(self, assignment: Assignment) -> None:
        dims = assignment.dims
        hosts = dims.reshape(-1, assignment.book.devices_per_host).mean(axis=1)
        mean = float(dims.mean())
        self._dims = np.linspace(mean, _CURVE_END * max(1.0, mean), _CURVE_POINTS)
        ms = assignment.book.evaluator.transfer_ms(
            self._dims, np.full(_CURVE_POINTS, mean), np.full(_CURVE_POINTS, float(hosts.max()))
        ).sum(axis=1)
        # more to transfer never takes less time, whatever the model makes of it
        self._ms: Float64Array = np.maximum.accumulate(ms)

    def ms(self, largest_dims: Float64Array) -> Float64Array:
        """Forward plus backward transfer, of any shape."""
        return np.asarray(np.interp(largest_dims, self._dims, self._ms))


class Neighbourhood:
    """The moves that relieve one device of an assignment; `n` units on it, `u` in all.

    Args:
        assignment: The assignment; what is asked of this object holds until it changes.
        source: The device.
        slopes: The assignment's.
        curve: The assignment's.
    """

    def __init__(
        self, assignment: Assignment, source: int, slopes: Slopes, curve: TransferCurve
    ) -> None:
        self._a = assignment
        self._source = source
        self._catalog = assignment.book.catalog
        self._slopes = slopes.per_channel
        self._curve = curve
        memory_bytes = assignment.book.evaluator.memory_bytes
        self._free_bytes: IntArray = memory_bytes - assignment.used_bytes
        self._rest_ms = _largest_other(assignment.compute_ms, source)
        self._rest_dims = _largest_other(assignment.dims.astype(np.float64), source)
        self._units = _some(np.flatnonzero(assignment.devices == source), _MOST_UNITS)
        self._others = _some(np.arange(len(assignment.devices)), _MOST_OTHERS)

    def promising(self, count: int) -> Moves:
        """The moves that promise the lowest cost, best first."""
        found = [self._parts(), self._swaps(), *self._shifts()]
        cost_ms = np.concatenate([cost for _, cost in found])
        count = min(count, len(cost_ms))
        if count < len(cost_ms):
            chosen = np.argpartition(cost_ms, count - 1)[:count]
        else:
            chosen = np.arange(count)
        chosen = chosen[np.isfinite(cost_ms[chosen])]
        chosen = chosen[np.lexsort((chosen, cost_ms[chosen]))]
        fields = np.empty((5, len(chosen)), dtype=np.int64)
        start = 0
        for decode, cost in found:
            here = (chosen >= start) & (chosen < start + len(cost))
            if here.any():
                fields[:, here] = decode(chosen[here] - start)
            start += len(cost)
        return Moves(self._source, *fields)

    def expected_ms(
        self,
        source_ms: Float64Array,
        target_ms: Float64Array,
        columns: IntArray,
        target: IntArray | slice,
    ) -> Float64Array:
        """Costs of the plan after moves, from what source and target then compute.

        Args:
            source_ms: Of any shape that fits the others.
            target_ms: As it.
            columns: Columns that leave the source.
            target: Target devices, or a slice for all.
        """
        dims = self._a.dims
        pair_ms = np.maximum(source_ms, target_ms)
        slowest_ms = np.maximum(pair_ms, self._rest_ms[target])
        largest = np.maximum(dims[self._source] - columns, dims[target] + columns)
        largest = np.maximum(largest, self._rest_dims[target])
        return np.asarray(slowest_ms + LEVELLING * pair_ms + self._curve.ms(largest))

    def _parts(self) -> tuple[Decoder, Float64Array]:
        """Units and parts of them, to any other device: a grid `[parts, w]`."""
        a, catalog, source = self._a, self._catalog, self._source
        kinds = a.kinds[self._units]
        rows, goes, stays = a.book.parts(a.lots[self._units].tolist(), kinds.tolist())
        units = self._units[rows]
        leaves = catalog.encodings[a.kinds[units]] - encodings_of(catalog, stays)
        source_ms = a.compute_ms[source] - leaves @ self._slopes[source]
        added_ms = catalog.encodings[goes] @ self._slopes.T
        empty = a.compute_ms == 0.0
        if empty.any():
            added_ms = np.where(empty, catalog.compute_ms[goes, None], added_ms)
        columns = catalog.num_columns[goes]
        cost_ms = self.expected_ms(
            source_ms[:, None], a.compute_ms + added_ms, columns[:, None], slice(None)
        )
        cost_ms[a.closed[a.lots[units]]] = np.inf
        cost_ms[catalog.memory_bytes[goes, None] > self._free_bytes] = np.inf

        def decode(chosen: IntArray) -> tuple[IntArray, ...]:
            part, target = np.divmod(chosen, len(a.dims))
            return target, units[part], np.full(len(part), NONE), stays[part], goes[part]

        return decode, cost_ms.ravel()

    def _swaps(self) -> tuple[Decoder, Float64Array]:
        """Units against those of other devices: a grid `[n, u]`."""
        a, catalog, source = self._a, self._catalog, self._source
        units, others = self._units, self._others
        targets, theirs = a.devices[others], a.kinds[others]
        kinds = a.kinds[units]
        encodings = catalog.encodings[theirs]
        mine = catalog.encodings[kinds]
        at_source_ms = encodings @ self._slopes[source]
        at_home_ms = np.einsum("ue,ue->u", encodings, self._slopes[targets])
        source_ms = a.compute_ms[source] + at_source_ms - (mine @ self._slopes[source])[:, None]
        target_ms = (mine @ self._slopes.T)[:, targets] - at_home_ms + a.compute_ms[targets]
        columns = catalog.num_columns[kinds, None] - catalog.num_columns[theirs]
        cost_ms = self.expected_ms(source_ms, target_ms, columns, targets)
        more_bytes = catalog.memory_bytes[kinds, None] - catalog.memory_bytes[theirs]
        impossible = more_bytes > self._free_bytes[targets]
        impossible |= -more_bytes > self._free_bytes[source]
        impossible |= a.closed[a.lots[units]][:, targets]
        impossible |= a.closed[a.lots[others], source]
        cost_ms[impossible] = np.inf

        def decode(chosen: IntArray) -> tuple[IntArray, ...]:
            row, column = np.divmod(chosen, len(others))
            other = others[column]
            return a.devices[other], units[row], other, a.kinds[other], kinds[row]

        return decode, cost_ms.ravel()

    def _shifts(self) -> list[tuple[Decoder, Float64Array]]:
        """Columns to another unit of the same lot, or all of them."""
        a, catalog = self._a, self._catalog
        same = (a.lots[self._units, None] == a.lots) & (a.devices != self._source)
        rows, others = np.nonzero(same)
        if not len(rows):
            return []
        units = self._units[rows]
        row, goes, stays = a.book.shifts(
            a.lots[units].tolist(), a.kinds[units].tolist(), a.kinds[others].tolist()
        )
        unit, other = units[row], others[row]
        targets = a.devices[other]
        leaves = catalog.encodings[a.kinds[unit]] - encodings_of(catalog, stays)
        comes = catalog.encodings[goes] - catalog.encodings[a.kinds[other]]
        source_ms = a.compute_ms[self._source] - leaves @ self._slopes[self._source]
        added_ms = np.einsum("me,me->m", comes, self._slopes[targets])
        columns = catalog.num_columns[goes] - catalog.num_columns[a.kinds[other]]
        cost_ms = self.expected_ms(source_ms, a.compute_ms[targets] + added_ms, columns, targets)
        more_bytes = catalog.memory_bytes[goes] - catalog.memory_bytes[a.kinds[other]]
        cost_ms[more_bytes > self._free_bytes[targets]] = np.inf

        def decode(chosen: IntArray) -> tuple[IntArray, ...]:
            return targets[chosen], unit[chosen], other[chosen], stays[chosen], goes[chosen]

        return [(decode, cost_ms)]


def _some(positions: IntArray, most: int) -> IntArray:
    """All positions, or so many of them, evenly spaced."""
    if len(positions) <= most:
        return positions
    return positions[np.arange(most) * len(positions) // most]


def _largest_other(values: Float64Array, source: int) -> Float64Array:
    """For each device the largest value of all but it and the source, `[w]`."""
    rest = values.copy()
    rest[source] = -np.inf
    first = int(rest.argmax())
    largest = np.full(len(rest), rest[first])
    rest[first] = -np.inf
    largest[first] = rest.max()
    return largest


def encodings_of(catalog: PieceCatalog, ids: IntArray) -> FloatArray:
    """Encodings of ids, `[m, e]`; zeros for NONE."""
    encodings = catalog.encodings[ids]
    encodings[ids == NONE] = 0.0
    return encodings
