"""A swarm: many hill climbs of one problem in lockstep.

In every step compiled loops look at all moves of all lanes by prices (`proposals`), the cost models
predict the most promising ones exactly, all lanes in one call, and each lane takes the best that
touch different devices (`taking`). A lane that finds none looks again with a sharper objective, and
ends when that finds none, too; of each lane the cheapest plan that it passed is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shardwright_server.search.lane_book import LaneBook
from shardwright_server.search.lanes import Lanes, Moves, Slots
from shardwright_server.search.lots import BoolArray
from shardwright_server.search.objective import SHARP, SOFT, costs_ms
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.proposals import propose
from shardwright_server.search.taking import take_best

_MOST_ROWS = 24
"""Moves of a lane that are predicted in each step, at least one for each device looked at."""
_MOST_PAIRS = 4_000_000
"""Pairs of units of a lane, up to which all devices are looked at; else as many as that leaves."""
_HOPELESS, _HOPELESS_STEPS = 1.03, 4
"""After every so many steps lanes end that cost so many times what the best does."""
_LEAST_GAIN = 2e-5
"""Of the objective, relative: gains below are the cost models' noise."""


class Swarm:
    """Climbs from placed lanes.

    Args:
        lane_book: Of the problem.
        lanes: Where to begin, with prices; changed.

    Attributes:
        best: `k` assignments, the cheapest that each lane has passed.
        cost_ms: `[k] float64`, what they cost, nearly: transfers are taken to follow the largest
            sum of dims alone.
    """

    def __init__(self, lane_book: LaneBook, lanes: Lanes) -> None:
        self._lane_book, self._units, self._lanes = lane_book, lane_book.units, lanes
        k, w, e = lanes.base.shape
        pairs = lanes.lots.shape[1] ** 2
        self._sources = w if pairs <= _MOST_PAIRS else max(1, w * _MOST_PAIRS // pairs)
        self._per_source = max(1, _MOST_ROWS // self._sources)
        self._sums = np.empty((k * self._sources * self._per_source, 2, e), dtype=np.float32)
        self._squarings: IntArray = np.full(k, SOFT, dtype=np.int64)
        self._active: IntArray = np.arange(k)
        self.cost_ms: Float64Array = costs_ms(lanes)
        self.best = Slots(lanes.lots, lanes.kinds, lanes.devices, lanes.spreads).chosen(
            self._active
        )

    def climb(self, most_steps: int, on_step: Callable[[], None]) -> None:
        """Takes steps until no lane finds a better one; `on_step` may raise to stop."""
        for step in range(most_steps):
            on_step()
            if step % _HOPELESS_STEPS == _HOPELESS_STEPS - 1:
                self._give_up()
            self._sharpen(~self._step())
            if not len(self._active):
                break

    def _give_up(self) -> None:
        """Ends lanes that are far from the best."""
        least_ms = self.cost_ms.min()
        self._active = self._active[self.cost_ms[self._active] <= _HOPELESS * least_ms]

    def _sharpen(self, stuck: BoolArray) -> None:
        """Gives lanes that found nothing the sharper objective, or ends them."""
        ended = stuck & (self._squarings[self._active] == SHARP)
        self._squarings[self._active[stuck]] = SHARP
        self._active = self._active[~ended]

    def _step(self) -> BoolArray:
        """Moves of every active lane; which lanes found any, `[a] bool`."""
        lanes, active, squarings = self._lanes, self._active, self._squarings
        moves = Moves.empty(len(active), self._sources * self._per_source)
        count = propose(
            self._units,
            lanes,
            active,
            squarings,
            self._sources,
            self._per_source,
            _LEAST_GAIN,
            moves,
            self._sums,
        )
        if not count:
            return np.zeros(len(active), dtype=np.bool_)
        after_ms = self._lane_book.compute_ms(self._sums[:count])
        return take_best(
            self._units,
            lanes,
            active,
            squarings,
            moves,
            after_ms,
            _LEAST_GAIN,
            self.best,
            self.cost_ms,
        )
