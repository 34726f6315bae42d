"""Hill climbing: from an assignment to one that no single move betters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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
MIN_LEVELLING = 1e-3
"""Relative gain of the two changed devices that is worth a move of its own."""
_SHORTLIST = 16
"""Moves whose computation is predicted exactly in each step."""
_COMM_ROWS = 32
"""Devices whose transfers are predicted in each step, for the best of the shortlist."""
VANISHED = 1e-5
"""Channels that fall below this share when a unit leaves are rounding errors."""


@dataclass(frozen=True)
class _Look:
    """The promising moves from a device, `m` of them, `k` of them costed.

    Attributes:
        moves: The moves.
        encodings: `[m, 2, e]` of source and target after the move.
        compute_ms: `[m, 2]`.
        order: `[k]`, positions of those costed.
        costs: Of those.
        levelled_ms: `[k]`, what the slower of source and target gains.
    """

    moves: Moves
    encodings: FloatArray
    compute_ms: Float64Array
    order: IntArray
    costs: PlanCosts
    levelled_ms: Float64Array

    @cached_property
    def score_ms(self) -> Float64Array:
        """`[k]`, the lower the better."""
        return np.asarray(self.costs.cost_ms - LEVELLING * self.levelled_ms)


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
            if not any(self._climb_from(source) for source in self._sources()):
                return step + 1
        return most_steps

    def _sources(self) -> list[int]:
        """The device that arrives last at the forward all-to-all, and the widest."""
        a = self.assignment
        arrival_ms = a.compute_ms + a.costs.backward_comm_ms[0]
        last, widest = int(arrival_ms.argmax()), int(a.dims.argmax())
        return [last] if last == widest else [last, widest]

    def _climb_from(self, source: int) -> bool:
        """Takes the best move that relieves a device; False where none helps."""
        look = self._look(source)
        if look is None:
            return False
        a = self.assignment
        gain_ms = a.cost_ms - look.costs.cost_ms
        worth = (gain_ms > MIN_GAIN * a.cost_ms) | (
            (gain_ms >= 0.0) & (look.levelled_ms > MIN_LEVELLING * a.cost_ms)
        )
        if not worth.any():
            return False
        self._take(look, int(np.where(worth, look.score_ms, np.inf).argmin()))
        return True

    def _look(self, source: int) -> _Look | None:
        """The promising moves from a device; None where there is none."""
        self._on_step()
        a = self.assignment
        if len(a.dims) == 1:
            return None
        near = Neighbourhood(a, source, self._slopes, self._curve)
        moves = near.promising(_SHORTLIST)
        if not len(moves):
            return None
        compute_ms, encodings = self._computed(moves)
        columns = self._columns(moves)
        expected_ms = near.expected_ms(compute_ms[:, 0], compute_ms[:, 1], columns, moves.target)
        order = np.argsort(expected_ms, kind="stable")[: max(2, _COMM_ROWS // len(a.dims))]
        costs = self._costs(moves[order], compute_ms[order], columns[order])
        before_ms = np.maximum(a.compute_ms[source], a.compute_ms[moves.target[order]])
        levelled_ms = before_ms - compute_ms[order].max(axis=1)
        return _Look(moves, encodings, compute_ms, order, costs, levelled_ms)

    def _take(self, look: _Look, chosen: int) -> None:
        a = self.assignment
        moves, move = look.moves, int(look.order[chosen])
        changed = np.array([moves.source, moves.target[move]])
        a.take(
            unit=int(moves.unit[move]),
            other=int(moves.other[move]),
            stays=int(moves.stays[move]),
            goes=int(moves.goes[move]),
            target=int(moves.target[move]),
        )
        a.encodings[changed] = look.encodings[move]
        a.compute_ms[changed] = look.compute_ms[move]
        a.costs = look.costs.only(chosen)
        a.cost_ms = float(look.costs.cost_ms[chosen])
        self._slopes.update(a, changed)

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
        after[after < np.float32(VANISHED) * before] = 0.0
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
