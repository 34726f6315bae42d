"""A swarm: many hill climbs of one problem in lockstep.

In every step compiled loops (`kernels`) look at all moves of all lanes by slopes of computation,
the cost models predict the most promising ones exactly, all lanes in one call, and each lane takes
the best that touch different devices. A lane that finds none looks again with a sharper objective,
and ends when the sharpest finds none; of each lane the cheapest plan that it passed is kept. Slopes
are taken anew every few steps: they only choose what is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.assignment import Assignment, Unit
from shardwright_server.search.greedy import Greedy
from shardwright_server.search.kernels import (
    cost_ms,
    device_sums,
    promising,
    sums_after,
    take_best,
)
from shardwright_server.search.lanes import NONE, Lanes, Moves, Units
from shardwright_server.search.lots import BoolArray, LotBook
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.transfer_curves import TransferCurves

_STEP = 0.1
"""Of the differences that slopes are taken by, relative."""
_SQUARINGS = (4, 8)
"""Objectives from soft to sharp: powers of 16 and 256 (`kernels`). Softer ones and
more of them took longer, and plans were dearer by 0.2 % on 120 tasks."""
_MOST_ROWS = 24
"""Moves of a lane that are predicted in each step, at least one for each device."""
_LEAST_GAIN = 2e-5
"""Of the objective, relative: gains below are the cost models' noise."""
_STEPS_PER_SLOPES = 4
_SPARE_SLOTS = 32


class Swarm:
    """Climbs from placed lanes.

    Args:
        book: The lots.
        units: The book's.
        greedy: Placed lanes.
        chosen: Those of them to begin with.

    Attributes:
        cost_ms: `[k] float64`, what the cheapest plan of each lane costs, nearly: transfers are
            taken to follow the largest sum of dims alone.
    """

    def __init__(self, book: LotBook, units: Units, greedy: Greedy, chosen: Sequence[int]) -> None:
        self._book, self._units = book, units
        self._spreads = [greedy.starts[lane].spreads for lane in chosen]
        self._lanes = _lanes(book, units, greedy, list(chosen))
        self._per_device = max(1, _MOST_ROWS // book.num_devices)
        k = len(chosen)
        self._squarings = np.full(k, _SQUARINGS[0], dtype=np.int64)
        self._active: IntArray = np.arange(k)
        self.cost_ms: Float64Array = np.array([cost_ms(self._lanes, lane) for lane in range(k)])
        self._best = self._placed()

    def climb(self, most_steps: int, on_step: Callable[[], None]) -> None:
        """Takes steps until no lane finds a better one; `on_step` may raise to stop."""
        for step in range(most_steps):
            on_step()
            if step % _STEPS_PER_SLOPES == 0:
                self._take_slopes()
            self._sharpen(~self._step())
            if not len(self._active):
                break

    def assignment(self, lane: int) -> Assignment:
        """The cheapest plan that a lane has passed."""
        triples = self._best[:, lane].T
        return Assignment(
            self._book,
            [Unit(*triple) for triple in triples[triples[:, 2] != NONE].tolist()],
            self._spreads[lane],
        )

    def _placed(self) -> IntArray:
        """Where all units lie now, `[3, k, u]`."""
        return np.stack([self._lanes.lots, self._lanes.kinds, self._lanes.devices])

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
        sums = np.zeros((*moves.merit_ms.shape, 2, e), dtype=np.float32)
        sums_after(self._units, lanes, active, moves, sums)
        compute_ms = self._compute_ms(sums)
        moved = take_best(
            self._units, lanes, active, self._squarings, moves, compute_ms, _LEAST_GAIN
        )
        for lane in active[moved].tolist():
            now_ms = cost_ms(lanes, lane)
            if now_ms < self.cost_ms[lane]:
                self.cost_ms[lane] = now_ms
                self._best[0, lane] = lanes.lots[lane]
                self._best[1, lane] = lanes.kinds[lane]
                self._best[2, lane] = lanes.devices[lane]
        return moved

    def _take_slopes(self) -> None:
        """How computation changes with each channel, by differences, and units' prices by it."""
        lanes, active = self._lanes, self._active
        sums = self._sums(active)
        steps = _STEP * np.maximum(sums, sums.mean(axis=1, keepdims=True)) + np.float32(1e-6)
        rows = np.repeat(sums[:, :, None], sums.shape[2], axis=2)
        diagonal = np.arange(sums.shape[2])
        rows[:, :, diagonal, diagonal] += steps
        slopes = (self._compute_ms(rows) - lanes.compute_ms[active][:, :, None]) / steps
        lanes.prices[active] = self._units.encodings @ slopes.astype(np.float32).transpose(0, 2, 1)

    def _sums(self, chosen: IntArray) -> FloatArray:
        """What the devices of some lanes hold, `[a, w, e]`."""
        sums = np.zeros((len(chosen), *self._lanes.base.shape[1:]), dtype=np.float32)
        device_sums(self._units, self._lanes, chosen, sums)
        return sums

    def _compute_ms(self, sums: FloatArray) -> Float64Array:
        """Predicts computation, `[..., e] -> [...]`."""
        flat = self._book.evaluator.compute_ms(sums.reshape(-1, sums.shape[-1]))
        return flat.reshape(sums.shape[:-1])


def _lanes(book: LotBook, units: Units, greedy: Greedy, chosen: list[int]) -> Lanes:
    placed = [greedy.placed(lane) for lane in chosen]
    slots = max(some.shape[1] for some in placed) + _SPARE_SLOTS
    shape = len(chosen), slots
    lots, kinds = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    devices = np.full(shape, NONE, dtype=np.int64)
    closed = np.repeat(~book.allowed[None], len(chosen), axis=0)
    for k, some in enumerate(placed):
        lots[k, : some.shape[1]], kinds[k, : some.shape[1]], devices[k, : some.shape[1]] = some
        closed[k, some[0], some[2]] = True
    dims = greedy.dims[chosen]
    curves = TransferCurves.of(book.evaluator, dims)
    w, e = book.num_devices, book.catalog.encodings.shape[1]
    base: FloatArray = np.zeros((len(chosen), w, e), dtype=np.float32)
    for k, lane in enumerate(chosen):
        for spread in greedy.starts[lane].spreads.values():
            reach = slice(spread.first, spread.first + spread.count)
            base[k, reach] += book.catalog.encodings[spread.kind]
    return Lanes(
        lots=lots,
        kinds=kinds,
        devices=devices,
        base=base,
        compute_ms=greedy.compute_ms[chosen],
        used_bytes=greedy.used_bytes[chosen],
        dims=dims,
        closed=closed,
        prices=np.zeros((len(chosen), len(units.encodings), w), dtype=np.float32),
        transfers_ms=curves.tables,
        curve=curves.curve,
    )
