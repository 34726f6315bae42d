"""A lower bound is raised by what a plan below it could not do.

Let a plan cost less than L. Then no device of it holds a piece whose floor alone, with the least
transfers, costs L: such ways to cut are out. What is left brings, by the tangent of `bound`, a cost
phi(L) for the average device, and row-wise tables more transfers. If phi(L) >= L, no such plan
exists, and L is a lower bound. phi falls as L grows, so the largest such L is found by bisection;
every L that passes is valid, wherever the search for it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.least_work import LeastWork
from shardwright_server.search.pieces import Float64Array
from shardwright_server.search.ways import BoolArray, Spread, Way

_STEPS = 6


@dataclass(frozen=True)
class Tangent:
    """A linear floor of the average device's computation.

    Attributes:
        constant_ms: Its value at 0.
        slopes: `[e] float64`, ms by channel of the sum over all devices.
        transfer_ms: Both transfers, given the least dims `[t]` of all tables.
    """

    constant_ms: float
    slopes: Float64Array
    transfer_ms: Callable[[Float64Array], float]


def tightened_ms(
    bound_ms: float,
    work: LeastWork,
    ways: list[Way],
    tangent: Tangent,
    floor_ms: Callable[[FloatArray], Float64Array],
) -> float:
    """A lower bound that is at least the given one.

    Args:
        bound_ms: A valid bound.
        work: Of the tables.
        ways: All ways to cut them.
        tangent: Of the average device.
        floor_ms: Of single devices, `[m, e] -> [m]`.
    """
    least = work.weighted(ways, tangent.slopes)
    one_way_ms = tangent.constant_ms + float(least.sum())
    bound_ms = max(bound_ms, one_way_ms + tangent.transfer_ms(work.dims))
    tightening = _Tightening(bound_ms, work, ways, least, tangent, floor_ms)
    if not tightening.hot.any():
        return bound_ms
    low_ms, high_ms = bound_ms, tightening.reachable_ms(bound_ms)
    nearest_ms = low_ms + (high_ms - low_ms) / 2**_STEPS
    if high_ms <= low_ms or tightening.reachable_ms(nearest_ms) < nearest_ms:
        return low_ms  # no step of the bisection would pass
    for _ in range(_STEPS):
        middle_ms = (low_ms + high_ms) / 2
        if tightening.reachable_ms(middle_ms) >= middle_ms:
            low_ms = middle_ms
        else:
            high_ms = middle_ms
    return low_ms


class _Tightening:
    """The tables of which some way is out already at a first bound, the hot ones, and the rest."""

    def __init__(
        self,
        bound_ms: float,
        work: LeastWork,
        ways: list[Way],
        least: Float64Array,
        tangent: Tangent,
        floor_ms: Callable[[FloatArray], Float64Array],
    ) -> None:
        self._tangent = tangent
        self._dims = work.dims
        self._copied = work.copied
        self._columns = work.columns
        self._least_transfer_ms = tangent.transfer_ms(work.dims)
        floors_ms = _floors_of_pieces(ways, floor_ms)
        self.hot: BoolArray = np.zeros(len(work.total), dtype=bool)
        most_ms = bound_ms - self._least_transfer_ms
        for way, floors in zip(ways, floors_ms, strict=True):
            self.hot[way.tables[((floors >= most_ms) & way.allowed).any(axis=1)]] = True
        self._largest_ms = max(
            (float(floors.max()) for floors in floors_ms if floors.size), default=0.0
        )
        self._rest_ms = float(least[~self.hot].sum())
        self._ways: list[tuple[Way, Float64Array, Float64Array]] = []
        for way, floors in zip(ways, floors_ms, strict=True):
            rows = self.hot[way.tables]
            if rows.any():
                hot = way.of(rows)
                self._ways.append((hot, floors[rows], hot.encodings @ tangent.slopes))

    def reachable_ms(self, limit_ms: float) -> float:
        """What any plan costs at least, if it costs less than the limit."""
        most_ms = limit_ms - self._least_transfer_ms
        least = np.full(len(self.hot), np.inf)
        dims = np.where(self.hot & ~self._copied, np.inf, self._dims)
        for way, floors, sums in self._ways:
            way_least = way.least(sums, way.allowed & (floors < most_ms))
            least[way.tables] = np.minimum(least[way.tables], way_least)
            copies_of = way.devices if isinstance(way, Spread) else 1
            way_dims = np.where(
                np.isfinite(way_least), copies_of * self._columns[way.tables], np.inf
            )
            dims[way.tables] = np.minimum(dims[way.tables], way_dims)
        if np.isinf(least[self.hot]).any():
            # no plan at all: every limit up to the dearest piece is to be looked at
            return max(limit_ms, self._largest_ms + self._least_transfer_ms)
        slowest_ms = self._tangent.constant_ms + self._rest_ms + float(least[self.hot].sum())
        return slowest_ms + self._tangent.transfer_ms(dims)


def _floors_of_pieces(
    ways: list[Way], floor_ms: Callable[[FloatArray], Float64Array]
) -> list[Float64Array]:
    """Floors of devices with one piece alone, `[n, pieces]` of each way."""
    shapes = [way.encodings.shape for way in ways]
    rows = np.concatenate([way.encodings.reshape(-1, way.encodings.shape[2]) for way in ways])
    ends = np.cumsum([n * pieces for n, pieces, _ in shapes])
    floors_ms = np.split(floor_ms(rows), ends[:-1])
    return [f.reshape(shape[:2]) for f, shape in zip(floors_ms, shapes, strict=True)]
