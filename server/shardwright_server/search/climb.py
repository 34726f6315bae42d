"""Hill climbing: from an assignment to one that no single move betters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.cost import PlanCosts
from shardwright_server.search.moves import (
    LEVELLING,
    NONE,
    Moves,
    Neighbourhood,
    Slopes,
    TransferCurve,
    encodings_of,
)
from shardwright_server.search.pieces import Float64Array, IntArray

MIN_GAIN = 1e-4
"""Relative; gains below are the cost model's noise."""
_MIN_LEVELLING = 1e-3
"""Relative gain of the two changed devices that is worth a move of its own."""
_SHORTLIST = 16
"""Moves whose computation is predicted exactly in each step."""
_COMM_ROWS = 64
"""Devices whose transfers are predicted in each step, for the best of the shortlist."""
_VANISHED = 1e-5
"""Channels that fall below this share when a unit leaves are rounding errors."""


class Climber:
    """Climbs from one assignment.

    Args:
        assignment: Where to begin; changed in place.
        on_step: Called before each step; may raise to stop.
    """

    def __init__(self, assignment: Assignment, on_step: Callable[[], None]) -> None:
        self.assignment = assignment
        self._on_step = on_step
        self._slopes = Slopes(assignment)
        self._curve = TransferCurve(assignment)

    def restarted(self, assignment: Assignment) -> Climber:
        """A climber that begins elsewhere; what is known of devices that are the same is kept."""
        other = object.__new__(Climber)
        other.__dict__.update(self.__dict__)
        other.assignment = assignment
        other._slopes = self._slopes.of(assignment, self.assignment)
        if assignment.spreads != self.assignment.spreads:
            other._curve = TransferCurve(assignment)
        return other

    def climb(self, most_steps: int) -> int:
        """Takes the best move until none helps; returns the steps used."""
        for step in range(most_steps):
            if not any(self._step(source) for source in self._sources()):
                return step + 1
        return most_steps

    def _sources(self) -> list[int]:
        """The device that arrives last at the forward all-to-all, and the widest."""
        a = self.assignment
        arrival_ms = a.compute_ms + a.costs.backward_comm_ms[0]
        last, widest = int(arrival_ms.argmax()), int(a.dims.argmax())
        return [last] if last == widest else [last, widest]

    def _step(self, source: int) -> bool:
        """Takes the best move that relieves a device; False where none helps."""
        self._on_step()
        a = self.assignment
        if len(a.dims) == 1:
            return False
        near = Neighbourhood(a, source, self._slopes, self._curve)
        moves = near.promising(_SHORTLIST)
        if not len(moves):
            return False
        compute_ms, encodings = self._computed(moves)
        columns = self._columns(moves)
        expected_ms = near.expected_ms(compute_ms[:, 0], compute_ms[:, 1], columns, moves.target)
        order = np.argsort(expected_ms, kind="stable")[: max(2, _COMM_ROWS // len(a.dims))]
        costs = self._costs(moves[order], compute_ms[order], columns[order])
        best = self._best(moves.target[order], compute_ms[order], source, costs.cost_ms)
        if best == NONE:
            return False
        move = int(order[best])
        changed = np.array([source, moves.target[move]])
        a.take(
            unit=int(moves.unit[move]),
            other=int(moves.other[move]),
            stays=int(moves.stays[move]),
            goes=int(moves.goes[move]),
            target=int(moves.target[move]),
        )
        a.encodings[changed] = encodings[move]
        a.compute_ms[changed] = compute_ms[move]
        a.costs = costs.only(best)
        a.cost_ms = float(costs.cost_ms[best])
        self._slopes.update(a, changed)
        return True

    def _computed(self, moves: Moves) -> tuple[Float64Array, FloatArray]:
        """Computation after moves, `[m, 2]`, and encodings, `[m, 2, e]`: of source and target."""
        a = self.assignment
        catalog = a.book.catalog
        other_kinds = np.where(moves.other != NONE, a.kinds[moves.other], NONE)
        after = np.empty((len(moves), 2, a.encodings.shape[1]), dtype=np.float32)
        after[:, 0] = encodings_of(catalog, moves.stays) - catalog.encodings[a.kinds[moves.unit]]
        after[:, 1] = catalog.encodings[moves.goes] - encodings_of(catalog, other_kinds)
        before = np.empty_like(after)
        before[:, 0] = a.encodings[moves.source]
        before[:, 1] = a.encodings[moves.target]
        after += before
        after[after < np.float32(_VANISHED) * before] = 0.0
        compute_ms = a.book.evaluator.compute_ms(after.reshape(-1, after.shape[2]))
        return compute_ms.reshape(-1, 2), after

    def _columns(self, moves: Moves) -> IntArray:
        """Columns that leave the source, `[m]`; negative where it gets more than it gives."""
        a = self.assignment
        columns = a.book.catalog.num_columns
        stays = np.where(moves.stays != NONE, columns[moves.stays], 0)
        return np.asarray(columns[a.kinds[moves.unit]] - stays)

    def _costs(self, moves: Moves, compute_ms: Float64Array, columns: IntArray) -> PlanCosts:
        a = self.assignment
        rows = np.arange(len(moves))
        compute = np.repeat(a.compute_ms[None], len(moves), axis=0)
        dims = np.repeat(a.dims[None], len(moves), axis=0)
        compute[:, moves.source] = compute_ms[:, 0]
        compute[rows, moves.target] = compute_ms[:, 1]
        dims[:, moves.source] -= columns
        dims[rows, moves.target] += columns
        return a.costs_with(compute, dims)

    def _best(
        self, targets: IntArray, compute_ms: Float64Array, source: int, cost_ms: Float64Array
    ) -> int:
        """The move that gains most, or NONE where no gain is above the noise."""
        a = self.assignment
        levelled_ms = np.maximum(a.compute_ms[source], a.compute_ms[targets]) - compute_ms.max(
            axis=1
        )
        gain_ms = a.cost_ms - cost_ms
        worth = (gain_ms > MIN_GAIN * a.cost_ms) | (
            (gain_ms >= 0.0) & (levelled_ms > _MIN_LEVELLING * a.cost_ms)
        )
        if not worth.any():
            return NONE
        score_ms = np.where(worth, gain_ms + LEVELLING * levelled_ms, -np.inf)
        return int(score_ms.argmax())
