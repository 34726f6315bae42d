"""A swarm: many hill climbs of one small problem in lockstep.

There a step of a climb costs little but the overhead of its calls, so that many climbs at once take
hardly longer than one. In every step each lane relieves its slowest device by one move
(`swarm_moves`): the best by slopes of computation are predicted exactly, and the best of those is
taken if it gains more than the models' noise. Slopes are those of the beginning: they only choose
what is predicted. Lanes that have ended are put aside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.assignment import Assignment, Unit
from shardwright_server.search.climb import MIN_GAIN, MIN_LEVELLING, VANISHED
from shardwright_server.search.greedy import Greedy
from shardwright_server.search.lots import BoolArray, LotBook
from shardwright_server.search.moves import LEVELLING
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.swarm_moves import NONE, Lanes, Moves, Relief, UnitTable
from shardwright_server.search.transfer_curves import TransferCurves

_STEP = 0.1
_PREDICTED = 12
"""Moves of a lane that are predicted exactly in each step."""
_SPARE_SLOTS = 16


class Swarm:
    """Climbs from placed lanes.

    Args:
        book: The lots.
        table: Of the book's units.
        greedy: Placed lanes.
        chosen: Those of them to begin with.

    Attributes:
        cost_ms: `[k] float64`, what the plans cost, nearly: transfers are taken to follow the
            largest sum of dims alone.
    """

    def __init__(
        self, book: LotBook, table: UnitTable, greedy: Greedy, chosen: Sequence[int]
    ) -> None:
        self._book, self._table = book, table
        self._spreads = [greedy.starts[lane].spreads for lane in chosen]
        units = _padded([greedy.placed(lane) for lane in chosen])
        closed = np.repeat(~book.allowed[None], len(chosen), axis=0)
        k, slot = np.nonzero(units[2] != NONE)
        closed[k, units[0, k, slot], units[2, k, slot]] = True
        encodings, compute_ms = greedy.encodings[chosen], greedy.compute_ms[chosen]
        dims = greedy.dims[chosen]
        self._lanes = Lanes(
            units,
            encodings,
            compute_ms,
            greedy.used_bytes[chosen],
            dims,
            closed,
            _slopes(book, encodings, compute_ms),
            TransferCurves.of(book.evaluator, dims),
        )
        self._ids = np.arange(len(chosen))
        self._ended: list[IntArray] = [units] * len(chosen)
        self.cost_ms: Float64Array = compute_ms.max(axis=1) + self._lanes.curves.ms(
            dims.max(axis=1)
        )

    def climb(self, most_steps: int, on_step: Callable[[], None]) -> None:
        """Takes steps until no lane finds a better one; `on_step` may raise to stop."""
        try:
            for _ in range(most_steps):
                on_step()
                moved = self._step()
                self._put_aside(~moved)
                if not moved.any():
                    break
        finally:
            self._put_aside(np.ones(len(self._ids), dtype=bool))

    def assignment(self, lane: int) -> Assignment:
        """What a lane has become, after the climb."""
        units = [Unit(*triple) for triple in self._ended[lane].T.tolist()]
        return Assignment(self._book, units, self._spreads[lane])

    def _put_aside(self, ended: BoolArray) -> None:
        for lane in np.flatnonzero(ended).tolist():
            units = self._lanes.units[:, lane]
            self._ended[int(self._ids[lane])] = units[:, units[2] != NONE]
        if ended.any():
            self._lanes, self._ids = self._lanes[~ended], self._ids[~ended]

    def _step(self) -> BoolArray:
        """One move of every lane; which lanes found one."""
        a = self._lanes
        k, source = np.arange(len(a)), a.compute_ms.argmax(axis=1)
        moves = Relief(self._table, a, source, self._book.evaluator.memory_bytes).best(_PREDICTED)
        compute_ms, encodings, largest = self._predicted(source, moves)
        pair_ms = compute_ms.max(axis=2)
        slowest_ms = np.maximum(pair_ms, a.rest_ms(source)[k[:, None], moves.target])
        cost_ms = slowest_ms + a.curves.ms(largest)
        now_ms = self.cost_ms[self._ids][:, None]
        gain_ms = now_ms - cost_ms
        levelled_ms = a.compute_ms[k, source][:, None] - pair_ms
        worth = (gain_ms > MIN_GAIN * now_ms) | (
            (gain_ms >= 0.0) & (levelled_ms > MIN_LEVELLING * now_ms)
        )
        worth &= np.isfinite(moves.cost_ms)
        score_ms = np.where(worth, cost_ms + LEVELLING * pair_ms, np.inf)
        best = score_ms.argmin(axis=1)
        moved = np.isfinite(score_ms[k, best])
        lanes = np.flatnonzero(moved)
        for lane in lanes.tolist():
            self._take(lane, int(source[lane]), moves, int(best[lane]))
        chosen = best[lanes]
        ends = np.stack([source[lanes], moves.target[lanes, chosen]], axis=1)
        a.encodings[lanes[:, None], ends] = encodings[lanes, chosen]
        a.compute_ms[lanes[:, None], ends] = compute_ms[lanes, chosen]
        self.cost_ms[self._ids[lanes]] = cost_ms[lanes, chosen]
        return np.asarray(moved)

    def _predicted(
        self, source: IntArray, moves: Moves
    ) -> tuple[Float64Array, FloatArray, IntArray]:
        """What follows from moves.

        Returns:
            Computation `[k, m, 2]` and encodings `[k, m, 2, e]` of source and target, and the
            largest sum of dims `[k, m]`.
        """
        t, a = self._table, self._lanes
        k, m = np.indices(moves.unit.shape)
        kinds = a.units[1]
        left = kinds[k, moves.unit]
        met = np.where(moves.other == NONE, NONE, kinds[k, moves.other])
        before = np.stack([a.encodings[k, source[:, None]], a.encodings[k, moves.target]], axis=2)
        after = before.copy()
        after[:, :, 0] += t.encodings[moves.stays] + t.encodings[moves.comes] - t.encodings[left]
        after[:, :, 1] += t.encodings[moves.goes] - t.encodings[met]
        after[after < np.float32(VANISHED) * before] = 0.0
        compute_ms = self._book.evaluator.compute_ms(after.reshape(-1, after.shape[3]))
        columns = t.columns[left] - t.columns[moves.stays] - t.columns[moves.comes]
        dims = np.repeat(a.dims[:, None], moves.unit.shape[1], axis=1)
        dims[k, m, source[:, None]] -= columns
        dims[k, m, moves.target] += columns
        return compute_ms.reshape(after.shape[:3]), after, dims.max(axis=2)

    def _take(self, lane: int, source: int, moves: Moves, at: int) -> None:
        """Carries a move out on units, memory and dims."""
        t, a = self._table, self._lanes
        target, unit, other, stays, goes, comes = moves.of(lane, at)
        gone = [unit] if other == NONE else [unit, other]
        lots, kinds = a.units[0, lane, gone].tolist(), a.units[1, lane, gone].tolist()
        placed = [(lots[0], goes, target), (lots[0], stays, source), (lots[-1], comes, source)]
        self._replace(lane, gone, [found for found in placed if found[1] != NONE])
        met = NONE if other == NONE else kinds[1]
        for sums, weights in ((a.used_bytes, t.memory_bytes), (a.dims, t.columns)):
            sums[lane, source] += weights[stays] + weights[comes] - weights[kinds[0]]
            sums[lane, target] += weights[goes] - weights[met]
        units = self._lanes.units[:, lane]
        for lot in set(lots):
            a.closed[lane, lot] = ~self._book.allowed[lot]
            a.closed[lane, lot, units[2, (units[0] == lot) & (units[2] != NONE)]] = True

    def _replace(self, lane: int, gone: list[int], placed: list[tuple[int, int, int]]) -> None:
        units = self._lanes.units
        units[2, lane, gone] = NONE
        free = np.flatnonzero(units[2, lane] == NONE)
        if len(free) < len(placed):
            more = np.pad(units, ((0, 0), (0, 0), (0, _SPARE_SLOTS)), constant_values=0)
            more[2, :, units.shape[2] :] = NONE
            self._lanes = replace(self._lanes, units=more)
            return self._replace(lane, gone, placed)
        units[:, lane, free[: len(placed)]] = np.array(placed).T
        return None


def _padded(units: Sequence[IntArray]) -> IntArray:
    """Units `[3, u]` of each lane, with free slots behind."""
    slots = max(some.shape[1] for some in units) + _SPARE_SLOTS
    padded = np.zeros((3, len(units), slots), dtype=np.int64)
    padded[2] = NONE
    for lane, some in enumerate(units):
        padded[:, lane, : some.shape[1]] = some
    return padded


def _slopes(book: LotBook, encodings: FloatArray, compute_ms: Float64Array) -> FloatArray:
    """How computation changes with each channel, `[k, w, e]`, by differences."""
    channels = encodings.shape[2]
    steps = _STEP * np.maximum(encodings, encodings.mean(axis=1, keepdims=True)) + np.float32(1e-6)
    rows = np.repeat(encodings[:, :, None], channels, axis=2)
    diagonal = np.arange(channels)
    rows[:, :, diagonal, diagonal] += steps
    there_ms = book.evaluator.compute_ms(rows.reshape(-1, channels)).reshape(steps.shape)
    return np.asarray(((there_ms - compute_ms[:, :, None]) / steps).astype(np.float32))
