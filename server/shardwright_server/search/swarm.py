"""A swarm: many hill climbs of one problem in lockstep.

In every step compiled loops look at all moves of all lanes by prices (`proposals`), the cost models
predict the most promising ones exactly, all lanes in one call, and each lane takes the best that
touch different devices (`taking`). A lane that finds none looks again with a sharper objective, and
ends when the sharpest finds none, too; of each lane the cheapest plan that it passed is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numba import njit

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.lane_book import LaneBook
from shardwright_server.search.lanes import Lanes, Moves, Units
from shardwright_server.search.objective import SOFT, costs_ms
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.proposals import propose
from shardwright_server.search.taking import still_active, take_best

_MOST_ROWS = 24
"""Moves of a lane that are predicted in each step, at least one for each device looked at."""
_MOST_PAIRS = 4_000_000
"""Pairs of units of a lane, up to which all devices are looked at; else as many as that leaves."""
_LEAST_GAIN = 2e-5
"""Of the objective, relative: gains below are the cost models' noise."""


class Swarm:
    """Climbs from placed lanes.

    Args:
        lane_book: Of the problem.
        lanes: Where to begin, with prices; changed.
        hope: What climbs are taken to gain yet, relative, at the beginning; half of it after as
            many steps as devices can be halved. A lane ends where more would be needed to match the
            best plan. (So it goes on average on tasks for 4 to 32 devices.)
        whole: Whether units are left as they are cut.

    Attributes:
        best: `k` lanes, the cheapest plan that each has passed.
        cost_ms: `[k] float64`, what they cost, nearly: transfers are taken to follow the largest
            sum of dims alone.
    """

    def __init__(
        self, lane_book: LaneBook, lanes: Lanes, hope: float = math.inf, *, whole: bool = False
    ) -> None:
        self._lane_book, self._lanes, self._hope = lane_book, lanes, hope
        units = lane_book.units
        self._units = units._replace(cut=np.zeros_like(units.cut)) if whole else units
        k, w, e = lanes.base.shape
        pairs = lanes.lots.shape[1] ** 2
        self._sources = w if pairs <= _MOST_PAIRS else max(1, w * _MOST_PAIRS // pairs)
        self._per_source = max(1, _MOST_ROWS // self._sources)
        self._moves = Moves.empty(k, self._sources * self._per_source)
        self._sums = np.empty((k * self._sources * self._per_source, 2, e), dtype=np.float32)
        self._squarings: IntArray = np.full(k, SOFT, dtype=np.int64)
        self._active: IntArray = np.arange(k)
        self.cost_ms: Float64Array = costs_ms(lanes)
        self.best = lane_book.some(lanes, self._active)

    def climb(self, most_steps: int, best_ms: float, on_step: Callable[[], None]) -> None:
        """Takes steps until no lane finds a better one.

        Args:
            most_steps: At most.
            best_ms: What the best plan costs that was found before, as `cost_ms`.
            on_step: Called before each; may raise to stop.
        """
        hope, half_life = self._hope, math.log2(max(2, self._lanes.dims.shape[1]))
        count = self._propose()
        for step in range(most_steps):
            on_step()
            hope *= 0.5 ** (1.0 / half_life)
            self._active, count = _advance(
                self._units,
                self._lanes,
                self._active,
                self._squarings,
                self._moves,
                self._sums,
                self._lane_book.compute_ms(self._sums[:count]),
                self.best,
                self.cost_ms,
                best_ms,
                1.0 + hope,
                self._sources,
                self._per_source,
                step == most_steps - 1,
            )
            if not len(self._active):
                break

    def _propose(self) -> int:
        """The first moves of every lane; how many."""
        return propose(
            self._units,
            self._lanes,
            self._active,
            self._squarings,
            self._sources,
            self._per_source,
            _LEAST_GAIN,
            self._moves,
            self._sums,
        )


@njit(cache=True)
def _advance(
    units: Units,
    lanes: Lanes,
    active: IntArray,
    squarings: IntArray,
    moves: Moves,
    sums: FloatArray,
    compute_ms: Float64Array,
    best: Lanes,
    cost_ms: Float64Array,
    best_ms: float,
    hopeless: float,
    sources: int,
    per_source: int,
    last: bool,
) -> tuple[IntArray, int]:
    """Takes moves, ends lanes, and proposes the next moves unless it is the last step.

    In one call, as calls with so many arrays take their time. Arguments are those of `take_best`,
    `still_active` and `propose`.

    Returns:
        Active lanes, `[a] int64`, and how many moves were proposed.
    """
    moved = take_best(
        units, lanes, active, squarings, moves, compute_ms, _LEAST_GAIN, best, cost_ms
    )
    active = still_active(active, moved, squarings, cost_ms, best_ms, hopeless)
    if last:
        return active, 0
    count = propose(units, lanes, active, squarings, sources, per_source, _LEAST_GAIN, moves, sums)
    return active, count
