"""A lower bound is raised by what a plan below it could not do.

Let a plan cost less than L.

*Out.* No device of it holds a piece whose floor alone, with the least transfers, costs L: such ways
to cut are out.

*Everywhere.* A table for which only ways are left that reach all devices, in rows or copied, has a
piece on every device. Whatever else lies on one costs at least its floor beside those pieces: more
ways are out. More transfers follow from the ways that are left, and so on until nothing changes.

*Left.* What is left brings, by the tangent of `bound`, a cost phi(L). There the average device has
the peaks of the pieces that lie on every device: tables so hot that they must be cut in rows are as
hot everywhere.

If phi(L) >= L, or if some table has no way left, no such plan exists, and L is a lower bound. If
phi(L) < L, then phi(L) is one: a plan that costs less would cost less than L, too. So every value
that is found is valid, wherever the search for the largest ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.least_work import LeastWork
from shardwright_server.search.pieces import Float64Array
from shardwright_server.search.ways import BoolArray, Spread, Way

_STEPS, _CLOSE = 6, 4e-3
"""Limits looked at, at most, and how near to the largest the search for it ends, relative."""
_FAR = 1.25
"""The first limit, in multiples of the given bound."""
_ROUNDS = 6
"""Of leaving ways out beside what lies everywhere, at most."""
_HOT = 0.4
"""Pieces whose floor alone takes less of what the limit leaves are not looked at beside others."""


@dataclass(frozen=True)
class Tangent:
    """A linear floor of the average device's computation.

    Attributes:
        constant_ms: Its value at 0.
        slopes: `[e] float64`, ms by channel of the sum over all devices.
    """

    constant_ms: float
    slopes: Float64Array


@dataclass(frozen=True)
class Average:
    """The average device of a plan.

    Attributes:
        num_devices: Of the job.
        tangent: Given the peaks, `[c]`, that every device has at least.
        transfer_ms: Both transfers, given the least dims `[t]` of all tables.
        floor_ms: Of the computation of single devices, `[m, e] -> [m]`.
    """

    num_devices: int
    tangent: Callable[[Float64Array], Tangent]
    transfer_ms: Callable[[Float64Array], float]
    floor_ms: Callable[[Float64Array | FloatArray], Float64Array]


def tightened_ms(
    bound_ms: float,
    work: LeastWork,
    ways: list[Way],
    peaks: Float64Array,
    average: Average,
    on_step: Callable[[], None],
) -> float:
    """A lower bound that is at least the given one.

    Args:
        bound_ms: A valid bound.
        work: Of the tables.
        ways: All ways to cut them.
        peaks: `[c] float64`, that every device has which holds anything.
        average: Of any plan.
        on_step: Called often; may raise to stop.
    """
    left = _Left(work, ways, peaks, average)
    low_ms, high_ms, limit_ms = bound_ms, math.inf, _FAR * bound_ms
    for _ in range(_STEPS):
        reached_ms = left.reached_ms(limit_ms, on_step)
        if reached_ms >= limit_ms:
            low_ms, high_ms = limit_ms, min(high_ms, reached_ms)
        else:
            low_ms, high_ms = max(low_ms, reached_ms), min(high_ms, limit_ms)
        if high_ms <= (1.0 + _CLOSE) * low_ms:
            break
        limit_ms = min((low_ms + high_ms) / 2.0, _FAR * low_ms)
    return low_ms


class _Left:
    """What a limit leaves of the ways to cut tables; pieces of all ways in one array."""

    def __init__(
        self, work: LeastWork, ways: list[Way], peaks: Float64Array, average: Average
    ) -> None:
        self._work, self._ways, self._peaks, self._average = work, ways, peaks, average
        e = work.total.shape[1]
        sizes = [way.encodings.shape[1] for way in ways]
        tables = [np.repeat(way.tables, size) for way, size in zip(ways, sizes, strict=True)]
        dims = [self._dims_of(way).repeat(size) for way, size in zip(ways, sizes, strict=True)]
        everywhere = [
            np.full(len(of_way), self._is_everywhere(way))
            for way, of_way in zip(ways, tables, strict=True)
        ]
        self._encodings = np.concatenate([way.encodings.reshape(-1, e) for way in ways])
        self._allowed = np.concatenate([way.allowed.ravel() for way in ways])
        self._tables, self._dims = np.concatenate(tables), np.concatenate(dims)
        self._everywhere = np.concatenate(everywhere)
        self._has_way = self._any(self._allowed)
        self._tangents: dict[bytes, Tangent] = {}
        # what holds below the lowest limit that was not reached: floors of pieces, tables that lie
        # everywhere, what every device has of them, and least transfers
        floors_ms, transfer_ms = average.floor_ms(self._encodings), average.transfer_ms(work.dims)
        self._above = floors_ms, np.zeros(len(work.total), dtype=bool), np.zeros(e), transfer_ms

    def reached_ms(self, limit_ms: float, on_step: Callable[[], None]) -> float:
        """What any plan costs at least that costs less than the limit; infinite: there is none.

        Args:
            limit_ms: Not above one that was not reached.
            on_step: Called in every round.
        """
        floors_ms, everywhere, base, transfer_ms = self._above
        for _ in range(_ROUNDS):
            on_step()
            most_ms = limit_ms - transfer_ms
            left = self._allowed & (floors_ms < most_ms)
            if (self._has_way & ~self._any(left)).any():
                return math.inf
            found = self._has_way & ~self._any(left & ~self._everywhere)
            if (found == everywhere).all():
                more_ms = self._transfer_ms(left)
                if more_ms <= transfer_ms:
                    break
                transfer_ms = more_ms
                continue
            everywhere = found
            base = self._base(left & everywhere[self._tables])
            beside = left & (floors_ms > _HOT * most_ms) & ~everywhere[self._tables]
            floors_ms = floors_ms.copy()
            floors_ms[beside] = self._average.floor_ms(self._encodings[beside] + base)
        tangent = self._tangent(base)
        reached_ms = tangent.constant_ms + self._least_ms(left, tangent) + transfer_ms
        if reached_ms < limit_ms:
            self._above = floors_ms, everywhere, base, transfer_ms
        return reached_ms

    def _is_everywhere(self, way: Way) -> bool:
        return isinstance(way, Spread) and way.devices == self._average.num_devices

    def _dims_of(self, way: Way) -> Float64Array:
        """Sums of dims that tables add to all devices; infinite for copies, which have none."""
        columns = self._work.columns[way.tables].astype(np.float64)
        if not isinstance(way, Spread):
            return columns
        return np.full(len(columns), np.inf) if way.copies else way.devices * columns

    def _any(self, pieces: BoolArray) -> BoolArray:
        """Tables that some of the pieces are of, `[t]`."""
        found: BoolArray = np.zeros(len(self._work.total), dtype=bool)
        found[self._tables[pieces]] = True
        return found

    def _transfer_ms(self, left: BoolArray) -> float:
        dims = np.full(len(self._work.total), np.inf)
        np.minimum.at(dims, self._tables[left], self._dims[left])
        dims = np.where(self._has_way, dims, self._work.dims)
        return self._average.transfer_ms(np.where(np.isinf(dims), 0.0, dims))  # else only copied

    def _base(self, pieces: BoolArray) -> Float64Array:
        """The least that every device has of tables which lie everywhere in some such piece."""
        tables = np.unique(self._tables[pieces])
        place = np.searchsorted(tables, self._tables[pieces])
        least = np.full((len(tables), self._encodings.shape[1]), np.inf)
        np.minimum.at(least, place, self._encodings[pieces])
        return np.asarray(least.sum(axis=0))

    def _tangent(self, base: Float64Array) -> Tangent:
        peaks = np.maximum(self._peaks, base[len(base) - len(self._peaks) :])
        key = peaks.tobytes()
        if key not in self._tangents:
            self._tangents[key] = self._average.tangent(peaks)
        return self._tangents[key]

    def _least_ms(self, left: BoolArray, tangent: Tangent) -> float:
        """The least that all tables bring, each in one of the ways left."""
        sums = self._encodings @ tangent.slopes
        least = np.full(len(self._work.total), np.inf)
        begin = 0
        for way in self._ways:
            shape = way.encodings.shape[:2]
            pieces = slice(begin, begin + shape[0] * shape[1])
            of_way = way.least(sums[pieces].reshape(shape), left[pieces].reshape(shape))
            least[way.tables] = np.minimum(least[way.tables], of_way)
            begin = pieces.stop
        return float(least[self._has_way].sum())
