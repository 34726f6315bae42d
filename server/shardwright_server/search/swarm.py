"""A swarm: many hill climbs of one problem in lockstep.

In every step compiled loops (`kernels`) look at all moves of all lanes by slopes of computation,
the cost models predict the most promising ones exactly, all lanes in one call, and each lane takes
the best that touch different devices. A lane that finds none looks again with a sharper objective,
and ends when the sharpest finds none; of each lane the cheapest plan that it passed is kept. Slopes
are taken anew every few steps: they only choose what is predicted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shardwright_server.search.assignment import Assignment
from shardwright_server.search.kernels import cost_ms, promising, sums_after, take_best
from shardwright_server.search.lane_book import LaneBook, Slots
from shardwright_server.search.lanes import Lanes, Moves
from shardwright_server.search.lots import BoolArray
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.slopes import take_slopes

_SQUARINGS = (4, 8)
"""Objectives from soft to sharp: powers of 16 and 256 (`kernels`). Softer ones and
more of them took longer, and plans were dearer by 0.2 % on 120 tasks."""
_MOST_ROWS = 24
"""Moves of a lane that are predicted in each step, at least one for each device."""
_LEAST_GAIN = 2e-5
"""Of the objective, relative: gains below are the cost models' noise."""
_STEPS_PER_SLOPES = 8


class Swarm:
    """Climbs from placed lanes.

    Args:
        lane_book: Of the problem.
        lanes: Where to begin; changed.

    Attributes:
        best: `k` assignments, the cheapest that each lane has passed.
        cost_ms: `[k] float64`, what they cost, nearly: transfers are taken to follow the largest
            sum of dims alone.
    """

    def __init__(self, lane_book: LaneBook, lanes: Lanes) -> None:
        self._lane_book, self._units, self._lanes = lane_book, lane_book.units, lanes
        self._per_device = max(1, _MOST_ROWS // lanes.dims.shape[1])
        k = len(lanes.lots)
        self._squarings = np.full(k, _SQUARINGS[0], dtype=np.int64)
        self._active: IntArray = np.arange(k)
        self.cost_ms: Float64Array = np.array([cost_ms(lanes, lane) for lane in range(k)])
        self.best = Slots(lanes.lots, lanes.kinds, lanes.devices, lanes.spreads).chosen(
            self._active
        )

    def climb(self, most_steps: int, on_step: Callable[[], None]) -> None:
        """Takes steps until no lane finds a better one; `on_step` may raise to stop."""
        for step in range(most_steps):
            on_step()
            if step % _STEPS_PER_SLOPES == 0:
                take_slopes(self._lane_book, self._lanes, self._active)
            self._sharpen(~self._step())
            if not len(self._active):
                break

    def assignment(self, lane: int) -> Assignment:
        """The cheapest plan that a lane has passed."""
        return self._lane_book.assignment(self.best, lane)

    def _sharpen(self, stuck: BoolArray) -> None:
        """Gives lanes that found nothing the next objective, or ends them."""
        if not stuck.any():
            return
        ended = stuck & (self._squarings[self._active] == _SQUARINGS[-1])
        for lane in self._active[stuck & ~ended].tolist():
            self._squarings[lane] = _SQUARINGS[_SQUARINGS.index(self._squarings[lane]) + 1]
        self._active = self._active[~ended]

    def _step(self) -> BoolArray:
        """Moves of every active lane; which lanes found any, `[a] bool`."""
        lanes, active = self._lanes, self._active
        w, e = lanes.base.shape[1:]
        moves = Moves.empty(len(active), w * self._per_device)
        promising(self._units, lanes, active, self._squarings, self._per_device, moves)
        there = np.isfinite(moves.merit_ms)
        sums = np.zeros((np.count_nonzero(there), 2, e), dtype=np.float32)
        sums_after(self._units, lanes, active, moves, sums)
        compute_ms = np.empty((*there.shape, 2))
        compute_ms[there] = self._lane_book.compute_ms(sums)
        moved = take_best(
            self._units, lanes, active, self._squarings, moves, compute_ms, _LEAST_GAIN
        )
        for lane in active[moved].tolist():
            now_ms = cost_ms(lanes, lane)
            if now_ms < self.cost_ms[lane]:
                self.cost_ms[lane] = now_ms
                self.best.lots[lane] = lanes.lots[lane]
                self.best.kinds[lane] = lanes.kinds[lane]
                self.best.devices[lane] = lanes.devices[lane]
        return moved
